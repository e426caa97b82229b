//! One life of a server after the other: opened as `app` opens it, acts, and an end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::world::{Denied, FIRST_UID, Given, World};
use crate::app::projection::Projection;
use crate::audit::event::{Action, Outcome, Recorder};
use crate::audit::ledger::simulated::Fault;
use crate::audit::ledger::{CheckpointKey, Health, Ledger, LedgerLimits, LedgerOptions};
use crate::ca::authority::{AuthorityError, AuthorityPlan, Keeper, KeeperParts};
use crate::ca::issue::{IssueError, IssueRequest, KeyRequest, Parts, RequestContext, Street};
use crate::ca::standing::Standing;
use crate::caller::testing;
use crate::feed::street::StreetSource;
use crate::feed::{Feed, FeedLimits, SdsNames};
use crate::identity::{SpiffeId, TrustDomain};
use crate::keys::sealed::SealedStore;
use crate::policy::Wanted;
use crate::revocation::{CrlTimes, Order, RevokeError, Revoker, RevokerParts, Selection};
use crate::store::embedded::Embedded;
use crate::store::{Store, StoreError};
use crate::tasks::Tasks;
use crate::x509::KeyAlgorithm;
use crate::x509::chain::Issuer;
use crate::x509::crl::Reason;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// Lives before the last, which meets no fault.
const LIVES: u32 = 3;
/// Acts of a life, at most.
const ACTS: u32 = 10;
/// Operations before a planned fault, at most.
const FAULT_WITHIN: u32 = 60;
/// How long the manual clock goes on for each millisecond that an act waits.
const TICK: Duration = Duration::from_millis(20);
/// Real time after which an act that met a fault is given up, as an operator would restart.
const PATIENCE: Duration = Duration::from_secs(3);

/// An open server.
pub(super) struct Server {
    keeper: Keeper,
    pub(super) street: Street,
    pub(super) revoker: Revoker,
    pub(super) feed: Feed,
    pub(super) ledger: Ledger,
    pub(super) store: Arc<dyn Store>,
    recorder: Recorder,
    tasks: Tasks,
    domain: TrustDomain,
}

/// How a life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    Killed,
    Power,
}

/// Several lives and a clean one, then the whole ledger is verified.
pub(super) fn whole(seed: u64) -> super::world::Counts {
    let mut world = World::new(seed);
    for _ in 0..LIVES {
        live(&mut world, true);
    }
    // A clock that is behind is set right between two starts.
    assert!((0..LIVES).any(|_| live(&mut world, false) == End::Closed), "no clean end");
    world.verifies();
    world.counts.faults = world.disk.hits();
    world.counts.days = world.days();
    std::mem::take(&mut world.counts)
}

/// One life; what it leaves is on the disk.
fn live(world: &mut World, faults: bool) -> End {
    world.counts.lives += 1;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ledger_tasks = Tasks::new();
    let end = runtime.block_on(life(world, faults, &ledger_tasks));
    // Whatever waits is dropped where it stands.
    drop(runtime);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(runtime.block_on(ledger_tasks.drain(Duration::from_secs(30))), [""; 0]);
    match end {
        End::Closed | End::Killed => world.disk.restart(),
        End::Power => {
            world.counts.power += 1;
            world.disk.lose_power(&world.chance);
            forget_lists(world);
        }
    }
    if world.draw(2) == 0 {
        world.store = None;
    }
    end
}

/// CRLs are kept in files that are not synced: any may be gone or empty.
fn forget_lists(world: &World) {
    for file in std::fs::read_dir(world.directory.path().join("crl")).into_iter().flatten() {
        match world.draw(3) {
            0 => std::fs::remove_file(file.unwrap().path()).unwrap(),
            1 => std::fs::write(file.unwrap().path(), b"").unwrap(),
            _ => {}
        }
    }
}

async fn life(world: &mut World, faults: bool, ledger_tasks: &Tasks) -> End {
    let before = world.disk.hits();
    if faults && world.draw(3) == 0 {
        plan(world);
    }
    let disk = world.disk.clone();
    let opened = tokio::select! {
        biased;
        opened = ticking(world, open(world, ledger_tasks)) => opened,
        () = disk.power_off() => return End::Power,
    };
    let mut server = match opened {
        Some(Ok(server)) => server,
        failed => {
            let hit = world.disk.hits() > before;
            let late = matches!(&failed, Some(Err(why)) if why.contains("set the clock right"));
            assert!(hit || late, "{:?}", failed.map(Result::err));
            if late {
                world.counts.late_clocks += 1;
                world.hands.advance(HOUR * 2);
            }
            return died(world);
        }
    };
    world.store = Some(Arc::clone(&server.store));
    world.disk.mend();
    if world.disk.is_off() {
        return End::Power;
    }
    world.all_there(&server);
    for _ in 0..=world.draw(ACTS) {
        if faults && world.draw(5) == 0 {
            plan(world);
        }
        let acted = tokio::select! {
            biased;
            acted = act(world, &mut server) => acted,
            () = disk.power_off() => return End::Power,
        };
        let hindered = world.disk.hits() > before;
        assert!(acted || hindered, "an act hangs");
        world.never_less(&server);
        if hindered && (!acted || *server.ledger.health().borrow() != Health::Ok && world.draw(2) == 0) {
            return died(world);
        }
        if !hindered {
            world.fresh(&server);
        }
        world.look();
    }
    world.disk.mend();
    if world.disk.hits() == before {
        World::replays(&server);
        world.all_there(&server);
    }
    if faults && world.draw(2) == 0 {
        return died(world);
    }
    let closed = ticking(world, close(server)).await.unwrap_or(Err("it hangs".to_owned()));
    assert!(closed.is_ok() || world.disk.hits() > before, "{closed:?}");
    if closed.is_ok() { End::Closed } else { died(world) }
}

fn died(world: &World) -> End {
    if world.draw(2) == 0 { End::Killed } else { End::Power }
}

fn plan(world: &World) {
    let fault = match world.draw(6) {
        0 => Fault::Failed,
        1 => Fault::Happened,
        2 => Fault::Full,
        _ => Fault::Power,
    };
    world.disk.plan(u64::from(world.draw(FAULT_WITHIN)), fault);
}

/// Runs `work` while time passes; `None` when it does not end.
async fn ticking<T>(world: &World, work: impl Future<Output = T>) -> Option<T> {
    let hands = world.hands.clone();
    let tick = async move {
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            hands.advance(TICK);
        }
    };
    tokio::select! {
        biased;
        done = tokio::time::timeout(PATIENCE, work) => done.ok(),
        () = tick => None,
    }
}

async fn close(server: Server) -> Result<(), String> {
    let left = server.tasks.drain(Duration::from_secs(10)).await;
    if !left.is_empty() {
        return Err(left.join(", "));
    }
    server.ledger.close().await.map_err(|failure| failure.to_string())
}

fn ledger_options(world: &World, keys: &SealedStore) -> LedgerOptions {
    let key = CheckpointKey::from_pkcs8(&keys.get_secret("ledger-1").unwrap()).unwrap();
    let options = LedgerOptions::new(world.directory.path().join("ledger"), "example.org", key);
    LedgerOptions { limits: LedgerLimits { segment_bytes: 256 << 10, reserve_bytes: 256 << 10 }, ..options }
}

/// As `app` does it; why not, in words.
async fn open(world: &World, ledger_tasks: &Tasks) -> Result<Server, String> {
    let (clock, entropy) = (world.clock.clone(), world.chance.clone());
    let domain = TrustDomain::parse("example.org").unwrap();
    let recorder = Recorder::new(entropy.clone());
    let keys = SealedStore::open(&world.directory.path().join("keys"), None).unwrap();
    if !keys.list().unwrap().iter().any(|name| name == "ledger-1") {
        keys.put_secret("ledger-1", &CheckpointKey::generate_pkcs8().unwrap()).unwrap();
    }
    let (options, disk) = (ledger_options(world, &keys), Arc::new(world.disk.clone()));
    let opened = Ledger::open_on(disk, options, clock.clone(), &recorder, ledger_tasks).await;
    let ledger = opened.map_err(|failure| failure.to_string())?.0;
    let store = world.store.clone().unwrap_or_else(|| Arc::new(Embedded::in_memory().unwrap()));
    let mut projection = Projection::open(ledger.reader(), Arc::clone(&store)).map_err(|why| why.to_string())?;
    projection.catch_up().map_err(|failure| failure.to_string())?;
    let (policy, tasks) = (world.policy(&domain), Tasks::new());
    let plan = AuthorityPlan {
        trust_domain: domain.clone(),
        root_key: KeyAlgorithm::P256,
        root_lifetime: DAY * 3650,
        issuing_key: KeyAlgorithm::P256,
        issuing_lifetime: DAY * 30,
        longest_leaf: policy.longest_lifetime(),
        crl_scope: crate::x509::crl::Scope::default(),
        silent_wait: None,
    };
    let parts = KeeperParts {
        keys,
        ledger: ledger.clone(),
        clock: clock.clone(),
        entropy: entropy.clone(),
        recorder: recorder.clone(),
        plan,
        upstream: None,
    };
    let (words, text) = (|failure: AuthorityError| failure.to_string(), |failure: StoreError| failure.to_string());
    let (live, rows) = (store.live(clock.now().unix_timestamp()).map_err(text)?, store.authorities().map_err(text)?);
    let mut keeper = Keeper::open(parts, &rows, &live).map_err(words)?;
    let street = Street::new(Parts {
        policy,
        ledger: ledger.clone(),
        authorities: keeper.watch(),
        clock: clock.clone(),
        entropy: entropy.clone(),
        recorder: recorder.clone(),
        standing: Standing::default(),
    });
    let revoker = Revoker::open(RevokerParts {
        street: street.clone(),
        ledger: ledger.clone(),
        store: Arc::clone(&store),
        clock: clock.clone(),
        recorder: recorder.clone(),
        tasks: tasks.clone(),
        trust_domain: domain.clone(),
        directory: world.directory.path().join("crl"),
        times: CrlTimes::default(),
        upstream: None,
    })
    .map_err(|failure| failure.to_string())?;
    keeper.publish_lists_with(Arc::new(revoker.clone()));
    keeper.establish().await.map_err(words)?;
    revoker.bring_up_to_date().await?;
    projection.catch_up().map_err(|failure| failure.to_string())?;
    tasks.spawn("projection", projection.follow(clock.clone(), tasks.stopping()));
    let source = Arc::new(StreetSource::new(street.clone(), Arc::clone(&store), clock.clone(), entropy.clone()));
    let (names, limits) = (SdsNames::default(), FeedLimits::default());
    let feed = Feed::new(source, domain.clone(), names, limits, clock, entropy, tasks.clone());
    revoker.attach(feed.clone()).await;
    Ok(Server { keeper, street, revoker, feed, ledger, store, recorder, tasks, domain })
}

/// One act; whether it came to an end.
async fn act(world: &mut World, server: &mut Server) -> bool {
    match world.draw(12) {
        0..=4 => issue(world, server).await,
        5 | 6 => revoke(world, server).await,
        7 => release(world, server).await,
        8 => change_policy(world, server).await,
        9 => {
            // A clock that was set, forward or back a little.
            let now = world.clock.now();
            let by = HOUR / 60 * world.draw(30);
            world.hands.set(if world.draw(2) == 0 { now + by } else { now - by });
            move_on(world, server).await
        }
        _ => {
            world.hands.advance(HOUR * world.draw(80));
            move_on(world, server).await
        }
    }
}

/// What rotation and the keeper of lists do when they wake.
async fn move_on(world: &World, server: &mut Server) -> bool {
    let before = world.disk.hits();
    let Server { keeper, revoker, .. } = server;
    let work = async {
        let stepped = keeper.step().await.map(|_| ()).map_err(|failure| failure.to_string());
        let listed = revoker.bring_up_to_date().await.map(|_| ());
        stepped.and(listed)
    };
    let done = ticking(world, work).await;
    let healthy = *server.ledger.health().borrow() == Health::Ok && world.disk.hits() == before;
    assert!(!healthy || !matches!(done, Some(Err(_))), "{done:?}");
    done.is_some()
}

async fn issue(world: &mut World, server: &Server) -> bool {
    let proxy = world.proxy();
    let request = IssueRequest {
        wanted: Wanted::Default,
        key: KeyRequest::ServerMade,
        follows: None,
        context: RequestContext::default(),
    };
    let caller = testing::unix(FIRST_UID + proxy, 1000, &[]);
    let issued = match ticking(world, server.street.issue(&caller, request)).await {
        Some(Ok(issued)) => issued,
        Some(Err(failure)) => {
            world.counts.refused += 1;
            let may = matches!(failure, IssueError::Refused(_) | IssueError::Barred(_));
            let is = !world.granted.contains(&proxy) || world.denied[&proxy] != Denied::No;
            let healthy = *server.ledger.health().borrow() == Health::Ok;
            assert!(!may || is, "{proxy} refused: {failure}");
            let early = failure.to_string().contains("correct this machine's clock");
            assert!(may || early || !healthy || world.disk.hits() > 0, "{failure}");
            return true;
        }
        None => return false,
    };
    assert!(world.granted.contains(&proxy), "{proxy} has no rule");
    assert_ne!(world.denied[&proxy], Denied::Yes, "{proxy} is denied");
    let issuer = Issuer::from_der(issued.chain[1].clone(), Vec::new()).unwrap();
    assert!(issued.not_after <= issuer.not_after(), "a leaf outlives its issuer");
    let given = Given {
        proxy,
        position: issued.position,
        issuer: hex::encode(issuer.key_id()),
        not_after: issued.not_after,
        revoked: false,
    };
    world.counts.issued += 1;
    assert!(world.given.insert(issued.serial, given).is_none(), "a serial twice");
    true
}

async fn revoke(world: &mut World, server: &Server) -> bool {
    let proxy = world.proxy();
    let before = world.denied.insert(proxy, Denied::Unknown);
    let selection = Selection::Identity(SpiffeId::parse(&World::identity(proxy)).unwrap());
    let template = server.recorder.event(Action::OperatorAct, Outcome::Success, world.clock.now());
    let order = Order { selection, reason: Reason::KeyCompromise, template };
    let (told, _steps) = mpsc::channel(8);
    let done = ticking(world, server.revoker.revoke(order, told)).await;
    match &done {
        Some(Ok(())) => {}
        Some(Err(RevokeError::AlreadyDenied { .. })) => {
            assert_ne!(before, Some(Denied::No), "{proxy} was not denied");
        }
        Some(Err(_)) | None => return done.is_some(),
    }
    world.denied.insert(proxy, Denied::Yes);
    world.counts.revoked += 1;
    let now = world.clock.now();
    let his = world.given.values_mut().filter(|given| given.proxy == proxy && given.not_after > now);
    his.for_each(|given| given.revoked = true);
    true
}

async fn release(world: &mut World, server: &Server) -> bool {
    let proxy = world.proxy();
    let before = world.denied.insert(proxy, Denied::Unknown);
    let template = server.recorder.event(Action::OperatorAct, Outcome::Success, world.clock.now());
    let done = ticking(world, server.revoker.release(&World::identity(proxy), template)).await;
    match &done {
        Some(Ok(_)) => assert_ne!(before, Some(Denied::No), "{proxy} was released but not denied"),
        Some(Err(RevokeError::NotDenied { .. })) => assert_ne!(before, Some(Denied::Yes), "{proxy} was denied"),
        Some(Err(_)) | None => return done.is_some(),
    }
    world.denied.insert(proxy, Denied::No);
    true
}

async fn change_policy(world: &mut World, server: &Server) -> bool {
    let proxy = world.proxy();
    let event = server.recorder.event(Action::ConfigChange, Outcome::Success, world.clock.now());
    let Some(recorded) = ticking(world, server.ledger.append(event)).await else { return false };
    if recorded.is_ok() {
        if !world.granted.remove(&proxy) {
            world.granted.insert(proxy);
        }
        server.street.set_policy(world.policy(&server.domain));
    }
    true
}
