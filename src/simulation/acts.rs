//! What people, proxies and time do to a server. Each act is a part of the server's process and may be cut off anywhere.

use std::time::Duration;

use tokio::sync::mpsc;

use super::faults::{Excuses, Met};
use super::proxies;
use super::server::Server;
use super::told::Denied;
use super::world::{FIRST_UID, World};
use crate::audit::event::{Action, Event, Outcome};
use crate::ca::authority::acts::{self, Act, Order, Told};
use crate::ca::issue::{IssueError, IssueRequest, KeyRequest, RequestContext};
use crate::ca::sign::SignError;
use crate::caller::testing;
use crate::identity::SpiffeId;
use crate::policy::Wanted;
use crate::revocation::{self, RevokeError, Selection};
use crate::x509::crl::Reason;

const MINUTE: Duration = Duration::from_secs(60);
/// Steps in which time passes, at most: timers between two of them fire late.
const STEPS: u32 = 400;

/// One act.
pub(super) async fn act(world: &World, server: &Server) {
    let proxy = world.proxy();
    // An upstream is asked seldom, so somebody makes sure that it is while it fails.
    let asked = world.above.as_ref().is_some_and(|above| above.is_failing()) && world.draw(2) == 0;
    match if asked { 19 } else { world.draw(22) } {
        0..=3 => issue(world, server, proxy, Alone::Yes).await,
        4 | 5 => revoke(world, server, proxy).await,
        6 => release(world, server, proxy).await,
        7 => change_policy(world, server, proxy).await,
        8 => {
            // A clock that was set, forward or back a little.
            let (now, by) = (world.clock.now(), MINUTE * world.draw(30));
            world.hands.set(if world.draw(2) == 0 { now + by } else { now - by });
        }
        // A machine that slept.
        9 => world.hands.advance(world.temper.longest.min(MINUTE * 60 * 80) / 100 * world.draw(100)),
        10..=13 => pass(world, world.temper.longest / 100 * world.draw(100)).await,
        14..=16 => gather(world, server),
        17 => hang_up(world, server, proxy).await,
        18 => read_or_not(world, server),
        19 => roll_over(world, server).await,
        _ => {
            let other = world.proxy();
            let issues = async {
                issue(world, server, proxy, Alone::No).await;
                issue(world, server, other, Alone::No).await;
            };
            tokio::join!(issues, revoke(world, server, proxy));
        }
    }
}

/// Whether anything else happens to the same proxy meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alone {
    Yes,
    No,
}

/// Time passes as it does: in small steps, each felt by everyone.
pub(super) async fn pass(world: &World, span: Duration) {
    let steps = u32::try_from(span.as_secs() / (30 * 60)).unwrap_or(STEPS).clamp(1, STEPS);
    for _ in 0..steps {
        world.hands.advance(span / steps);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn event(world: &World, server: &Server, action: Action) -> Event {
    server.recorder.event(action, Outcome::Success, world.clock.now())
}

async fn issue(world: &World, server: &Server, proxy: u32, alone: Alone) {
    let before = world.met();
    let request = IssueRequest {
        wanted: Wanted::Default,
        key: KeyRequest::ServerMade,
        follows: None,
        context: RequestContext::default(),
    };
    match server.street.issue(&testing::unix(FIRST_UID + proxy, 1000, &[]), request).await {
        Ok(issued) => {
            let mut told = world.told();
            told.gave(proxy, &issued.chain);
            told.counts.count("issued", 1);
        }
        Err(failure) => {
            world.count("refused");
            let told = world.told();
            let (granted, denied) = (told.granted.contains(&proxy), told.denied[&proxy]);
            drop(told);
            let excuses = world.excuses(server, before);
            let explained =
                explains(excuses, &failure, granted, denied) || alone == Alone::No && is_of_a_deny(&failure);
            assert!(explained, "{proxy} was refused without a reason: {failure}; {excuses:?}");
        }
    }
}

fn is_of_a_deny(failure: &IssueError) -> bool {
    matches!(failure, IssueError::Barred(_) | IssueError::Sign { source: SignError::Withdrawn, .. })
}

fn explains(excuses: Excuses, failure: &IssueError, granted: bool, denied: Denied) -> bool {
    match failure {
        IssueError::Refused(_) => !granted,
        IssueError::Barred(_) => denied != Denied::No,
        IssueError::Ledger(_) => excuses.ledger || excuses.disk,
        IssueError::Draft(_) => excuses.clock,
        IssueError::Sign { source: SignError::Withdrawn, .. } => denied != Denied::No,
        IssueError::Sign { .. } | IssueError::Key(_) => excuses.keys,
        IssueError::NoAuthority => excuses.above || excuses.keys,
        IssueError::Reattest { .. } | IssueError::Request(_) => false,
    }
}

async fn revoke(world: &World, server: &Server, proxy: u32) {
    let met = world.met();
    let before = world.told().denied.insert(proxy, Denied::Unknown);
    let selection = Selection::Identity(SpiffeId::parse(&World::identity(proxy)).unwrap());
    let template = event(world, server, Action::OperatorAct);
    let order = revocation::Order { selection, reason: Reason::KeyCompromise, template };
    let (told, _steps) = mpsc::channel(8);
    let excuses = |met: Met| world.excuses(server, met);
    let recorded = match server.revoker.revoke(order, told).await {
        Ok(()) => true,
        Err(RevokeError::AlreadyDenied { .. }) => {
            assert_ne!(before, Some(Denied::No), "{proxy} was not denied");
            true
        }
        Err(RevokeError::Sign(why)) => {
            let e = excuses(met);
            assert!(e.keys || e.ledger || e.disk || e.clock, "no CRL without a reason: {why}; {e:?}");
            false
        }
        Err(why @ (RevokeError::Ledger(_) | RevokeError::Partly { .. } | RevokeError::Behind)) => {
            let e = excuses(met);
            assert!(e.ledger || e.disk, "no revocation without a reason: {why}; {e:?}");
            false
        }
        Err(why) => panic!("{proxy} was not revoked without a reason: {why}"),
    };
    if recorded {
        world.told().denied(proxy, world.clock.now());
    }
}

async fn release(world: &World, server: &Server, proxy: u32) {
    let met = world.met();
    let before = world.told().denied.insert(proxy, Denied::Unknown);
    let template = event(world, server, Action::OperatorAct);
    match server.revoker.release(&World::identity(proxy), template).await {
        Ok(_) => assert_ne!(before, Some(Denied::No), "{proxy} was released but not denied"),
        Err(RevokeError::NotDenied { .. }) => assert_ne!(before, Some(Denied::Yes), "{proxy} was denied"),
        Err(why) => {
            let e = world.excuses(server, met);
            assert!(e.ledger || e.disk, "no release without a reason: {why}; {e:?}");
            return;
        }
    }
    world.told().denied.insert(proxy, Denied::No);
}

async fn change_policy(world: &World, server: &Server, proxy: u32) {
    let met = world.met();
    let mut granted = world.told().granted.clone();
    if !granted.remove(&proxy) {
        granted.insert(proxy);
    }
    let policy = world.policy(&granted);
    world.told().policies.insert(policy.hash_hex().to_owned(), granted.clone());
    match server.ledger.append(event(world, server, Action::ConfigChange)).await {
        Ok(_) => {
            world.told().granted = granted;
            server.street.set_policy(policy);
        }
        Err(why) => {
            let e = world.excuses(server, met);
            assert!(e.ledger || e.disk, "no record without a reason: {why}; {e:?}");
        }
    }
}

/// Proxies come, those that have a stream come anew; in a big town nearly all at once.
fn gather(world: &World, server: &Server) {
    let all = world.temper.proxies;
    let some: Vec<u32> = if world.draw(2) == 0 { (0..all).collect() } else { vec![world.proxy(), world.proxy()] };
    for proxy in some {
        proxies::connect(world, server, proxy);
        server.arrived.lock().unwrap().insert(proxy);
    }
}

/// A proxy comes and is gone at some await of its stream.
async fn hang_up(world: &World, server: &Server, proxy: u32) {
    proxies::connect(world, server, proxy);
    for _ in 0..world.draw(40) {
        tokio::task::yield_now().await;
    }
    drop(server.streams.lock().unwrap().remove(&proxy));
    world.count("vanished");
}

/// Some stop to read, some go on.
fn read_or_not(world: &World, server: &Server) {
    for stream in server.streams.lock().unwrap().values() {
        if world.draw(3) == 0 {
            stream.reads.send_modify(|reads| *reads = !*reads);
        }
    }
}

async fn roll_over(world: &World, server: &Server) {
    let met = world.met();
    let (told, mut said) = mpsc::channel(acts::MOST_WORDS);
    let order = Order { act: Act::RollOver, template: event(world, server, Action::OperatorAct), told };
    assert!(server.orders.send(order).await.is_ok(), "nobody takes orders");
    loop {
        match said.recv().await {
            Some(Told::Step(_)) => {}
            Some(Told::Done) => return world.count("rolled over"),
            Some(Told::Failed(why)) => {
                let e = world.excuses(server, met);
                return assert!(!e.none() || world.met_since(met), "no roll-over without a reason: {why}");
            }
            None => panic!("a roll-over without an end"),
        }
    }
}
