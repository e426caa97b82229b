//! One life of a server after the other: opened as `app` opens it, acts, and an end.

use std::time::Duration;

use super::acts::{act, pass};
use super::breaks::Break;
use super::server::{Server, open};
use super::world::{Counts, Temper, World};
use crate::audit::ledger::Health;
use crate::entropy::Entropy;
use crate::tasks::simulated::Process;

/// How long the manual clock goes on whenever nothing else can.
const TICK: Duration = Duration::from_millis(20);
/// How often that may be before an act hangs: four minutes.
const PATIENCE: Duration = Duration::from_millis(12_000);
/// Time after which whatever failed before was tried again.
const RECOVERY: Duration = Duration::from_secs(130);
/// An upstream that failed for long is asked again after a quarter of an hour at the latest.
const RECOVERY_ABOVE: Duration = Duration::from_secs(920);
const MINUTE: Duration = Duration::from_secs(60);

/// How a life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    Killed,
    Power,
}

/// Several lives and a clean one, then the whole ledger is verified; what was counted.
pub(super) fn whole(seed: u64, temper: Temper) -> Counts {
    let mut world = World::new(seed, temper);
    if world.is_broken(Break::DiskLies) {
        world.disk.lie();
    }
    for life in 0..temper.lives {
        live(&mut world, true);
        meddle(&mut world, life);
    }
    // A clock that is behind is set right between two starts.
    assert!((0..3).any(|_| live(&mut world, false) == End::Closed), "no clean end");
    if world.is_broken(Break::TileChanged) {
        world.disk.flip("tile/entries");
    }
    world.verifies();
    let days = (world.clock.now() - temper.start).whole_days();
    let mut told = world.told();
    let counts = &mut told.counts;
    counts.count("identities", u64::from(temper.proxies));
    counts.count("days", u64::try_from(days).unwrap_or(0));
    counts.count("records", world.witness.records() as u64);
    counts.count("turned years", world.witness.logs() as u64 - 1);
    std::mem::take(counts)
}

/// What a world that is broken so suffers between two lives.
fn meddle(world: &mut World, life: u32) {
    if world.is_broken(Break::OldCopy) {
        match world.old.take() {
            None if life == 0 => world.old = Some(world.disk.copy()),
            None => {}
            Some(old) => (world.disk, world.store) = (old, None),
        }
    }
    if world.is_broken(Break::NumbersForgotten) {
        let _ = std::fs::remove_dir_all(world.lists());
        world.hands.set(world.clock.now() - MINUTE * 20);
    }
}

/// One life; what it leaves is on the disk.
fn live(world: &mut World, faults: bool) -> End {
    world.count("lives");
    let process = Process::new(Entropy::seeded(u64::from_be_bytes(world.chance.bytes())));
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    let before = world.met();
    let end = runtime.block_on(life(world, &process, faults));
    // Whatever waits is dropped where it stands.
    drop(runtime);
    world.count_faults(before);
    world.mend(&process);
    match end {
        End::Closed => world.disk.restart(),
        End::Killed => {
            world.count("kills");
            world.disk.restart();
        }
        End::Power => {
            world.count("power losses");
            world.disk.lose_power(&world.chance);
            world.harm_lists();
        }
    }
    if world.draw(2) == 0 {
        world.store = None;
    }
    end
}

/// What became of something that was done to a process.
enum Driven<T> {
    Done(T),
    /// It never ends.
    Hangs,
    /// The process was killed, or the power is off.
    Dead,
}

/// Runs `work` in the process while time passes.
async fn drive<T>(world: &World, process: &Process, work: impl Future<Output = T>) -> Driven<T> {
    let hands = world.hands.clone();
    let tick = async move {
        loop {
            // Returns only when nothing else can go on.
            tokio::time::sleep(Duration::from_millis(1)).await;
            hands.advance(TICK);
        }
    };
    tokio::select! {
        biased;
        () = process.died() => Driven::Dead,
        () = world.disk.power_off() => Driven::Dead,
        done = process.part(work) => Driven::Done(done),
        () = tokio::time::sleep(PATIENCE) => Driven::Hangs,
        () = tick => Driven::Hangs,
    }
}

/// What is left of a process that ended in the middle of something.
fn died(world: &World) -> End {
    if world.draw(2) == 0 { End::Killed } else { End::Power }
}

async fn life(world: &mut World, process: &Process, faults: bool) -> End {
    if faults && world.draw(3) == 0 {
        world.plan(process);
    }
    let before = world.met();
    let server = match drive(world, process, open(world, process)).await {
        Driven::Done(Ok(server)) => server,
        Driven::Done(Err(why)) => {
            if why.contains("set the clock right") {
                world.count("late clocks");
                world.hands.advance(MINUTE * 120);
            } else {
                assert!(world.met_since(before), "no start without a reason: {why}");
            }
            return died(world);
        }
        Driven::Hangs => panic!("a start hangs"),
        Driven::Dead => return died(world),
    };
    world.store = Some(std::sync::Arc::clone(&server.store));
    world.all_there(&server);
    let mut end = recovers(world, &server).await;
    let acts = 1 + world.draw(world.temper.acts);
    for _ in 0..acts {
        if end.is_some() {
            break;
        }
        end = acted(world, &server, faults).await;
    }
    match end {
        Some(end) => end,
        None => leave(world, server, faults).await,
    }
}

/// Every fault is gone, and some minutes later nothing is left of it but what a restart ends.
async fn recovers(world: &mut World, server: &Server) -> Option<End> {
    world.mend(&server.process);
    let above = if world.above.is_some() { RECOVERY_ABOVE.as_secs() } else { 0 };
    let wait = async {
        for step in std::iter::repeat_n(2, RECOVERY.as_secs() as usize / 2).chain((0..above / 20).map(|_| 20)) {
            world.hands.advance(Duration::from_secs(step));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    match drive(world, &server.process, wait).await {
        Driven::Done(()) => {}
        Driven::Hangs => panic!("time hangs"),
        Driven::Dead => return Some(died(world)),
    }
    let health = server.ledger.health().borrow().clone();
    assert!(!matches!(health, Health::Full { .. }), "there is space again, and the ledger does not see it");
    world.check(server, world.met());
    None
}

/// One act with what follows from it, and perhaps a fault.
async fn acted(world: &mut World, server: &Server, faults: bool) -> Option<End> {
    let before = world.met();
    if faults && world.draw(4) == 0 {
        world.plan(&server.process);
    }
    let settled = async {
        act(world, server).await;
        pass(world, MINUTE / 4).await;
        tokio::time::sleep(Duration::from_millis(40)).await;
    };
    match drive(world, &server.process, settled).await {
        Driven::Done(()) => {}
        Driven::Hangs => panic!("an act hangs"),
        Driven::Dead => return Some(died(world)),
    }
    world.check(server, before);
    let failed = matches!(*server.ledger.health().borrow(), Health::Failed { .. });
    if failed && world.draw(3) == 0 {
        // As an operator does who sees it.
        return Some(died(world));
    }
    if world.draw(3) == 0 { recovers(world, server).await } else { None }
}

async fn leave(world: &mut World, server: Server, faults: bool) -> End {
    if let Some(end) = recovers(world, &server).await {
        return end;
    }
    let well = server.is_well();
    if well {
        world.replays(&server);
        world.all_there(&server);
    }
    world.told().counts.count("kept", server.feed.counts().kept);
    if faults && world.draw(2) == 0 {
        return died(world);
    }
    let process = server.process.clone();
    let closed = match drive(world, &process, server.close()).await {
        Driven::Done(closed) => closed,
        Driven::Hangs => Err("it hangs".to_owned()),
        Driven::Dead => return died(world),
    };
    assert!(closed.is_ok() || !well, "no clean end without a reason: {closed:?}");
    if closed.is_ok() { End::Closed } else { died(world) }
}
