//! Roots over their whole life: in time, by evidence, by hand, too late, and cut short after every single record.

use super::acts::ordered;
use super::*;
use crate::ca::authority::acts::{Act, ActError};
use crate::ca::authority::root::Force;
use crate::ca::slot::Name;
use crate::policy::schedule::evidence::{Handed, HeldCertificate, Sight, gather};

const MINUTE: Duration = Duration::from_secs(60);

fn root(number: u32) -> Name {
    Name { level: Level::Root, number }
}

/// A day for roots, six hours for issuing CAs, one for leaves.
fn short() -> World {
    let mut world = World::new();
    (world.root_lifetime, world.issuing_lifetime, world.leaf_lifetime) = (DAY, DAY / 4, "1h");
    world
}

fn states(running: &Running) -> Vec<String> {
    let authorities = Arc::clone(&running.keeper.watch().borrow());
    authorities.iter().map(|a| format!("{} {}", a.name(), a.state().as_str())).collect()
}

/// What is seen when everyone holds what is needed; or nobody.
fn see(running: &mut Running, sight: &Sight) {
    let evidence = running.keeper.candidate().map(|candidate| {
        let held = HeldCertificate {
            serial: "5e".into(),
            identity: None,
            node: None,
            caller: "unix:sds:uid=1000".into(),
            issued: candidate.published,
            until: None,
            handed: Handed::Alone,
            sight: sight.clone(),
        };
        let silent_until = candidate.published + running.keeper.silent_wait();
        gather((candidate.root, candidate.issuing), [held], candidate.published, silent_until)
    });
    running.keeper.learn(evidence);
}

/// What every leaf and every moment must be like.
async fn check(running: &Running, now: OffsetDateTime) -> u32 {
    let issued = issue(running).await;
    assert_eq!(issued.not_after - now, Duration::from_secs(3_600), "no leaf is cut short");
    let authorities = Arc::clone(&running.keeper.watch().borrow());
    let active = authorities.active().unwrap();
    let above = authorities.root_of(&active).unwrap();
    assert_eq!(above.state(), State::Active, "{:?}", states(running));
    assert!(above.published().is_some() || above.name().number == 1, "none signs that is not in every bundle");
    for signing in authorities.at(Level::Issuing).filter(|one| matches!(one.state(), State::Active | State::Retiring)) {
        let root = authorities.root_of(signing).expect("the root above whatever has live leaves is there");
        assert!(matches!(root.state(), State::Active | State::Retiring), "{:?}", states(running));
    }
    above.name().number
}

#[tokio::test]
async fn roots_follow_one_another_in_time_when_everyone_holds_the_next() {
    let world = short();
    let mut running = world.open().await.unwrap();
    let mut roots = std::collections::BTreeSet::new();
    for minute in 0..3 * 24 * 60 {
        see(&mut running, &Sight::Holds);
        running.keeper.step().await.unwrap();
        if minute % 20 == 0 {
            roots.insert(check(&running, world.clock.now()).await);
        }
        world.hands.advance(MINUTE);
    }
    assert!(roots.len() >= 4, "{roots:?}");
    let made = actions(&running.ledger, &[Action::CaPrepare]).len();
    assert!(made <= 60, "{made} authorities in three days: no loop at a root's end");
    let gone = actions(&running.ledger, &[Action::CaRetire]);
    assert!(gone.iter().any(|event| {
        let authority = event.authority.as_ref().unwrap();
        authority.state == "gone" && authority.name == "root 1"
    }));
    running.close().await;
}

#[tokio::test]
async fn a_root_that_somebody_lacks_waits_and_takes_over_at_the_last_moment_only() {
    let world = short();
    let mut running = world.open().await.unwrap();
    let mut taken_over = None;
    for minute in 0..30 * 60 {
        see(&mut running, &Sight::Refused("no".into()));
        running.keeper.step().await.unwrap();
        if minute % 30 == 0 && check(&running, world.clock.now()).await == 2 {
            taken_over.get_or_insert(minute / 60);
        }
        world.hands.advance(MINUTE);
    }
    assert_eq!(taken_over, Some(21), "three leaves before the end of a day");
    let late: Vec<Event> = actions(&running.ledger, &[Action::CaActivate]);
    let late = late.iter().find(|event| event.authority.as_ref().unwrap().name == "root 2").unwrap();
    let why = late.reason.as_deref().unwrap();
    assert!(why.starts_with("late: ") && why.contains("1 of 1 holders lack it"), "{why}");
    running.close().await;
}

#[tokio::test]
async fn by_hand_a_root_is_prepared_at_once_and_takes_over_when_it_may() {
    let world = World::new();
    let mut running = world.open().await.unwrap();
    let (steps, done) = ordered(&mut running, Act::RotateRoot).await;
    done.unwrap();
    assert_eq!(steps, ["ca.prepare root 2", "ca.prepare issuing 2", "ca.publish root 2"]);
    let (steps, again) = ordered(&mut running, Act::RotateRoot).await;
    again.unwrap();
    assert_eq!(steps, [""; 0], "one is on its way already");
    let before = running.keeper.watch().borrow().trusted_roots();
    assert_eq!(before.len(), 2);

    // Neither the schedule of issuing CAs nor an operator of theirs touches the one that waits.
    running.keeper.step().await.unwrap();
    let (steps, done) = ordered(&mut running, Act::RollOver).await;
    done.unwrap();
    assert_eq!(steps, ["ca.prepare issuing 3", "ca.activate issuing 3", "ca.retire issuing 1"]);
    assert_eq!(check_root(&running).await, 1);

    see(&mut running, &Sight::Away);
    let (_, refused) = ordered(&mut running, Act::ActivateRoot(root(2), Force::No)).await;
    let refused = refused.unwrap_err();
    assert!(matches!(refused, ActError::LeftBehind { .. }), "{refused}");
    assert!(refused.to_string().contains("--force"), "{refused}");
    let (steps, done) = ordered(&mut running, Act::ActivateRoot(root(2), Force::Yes)).await;
    done.unwrap();
    let expected = ["ca.activate root 2", "ca.activate issuing 2", "ca.retire issuing 3", "ca.retire root 1"];
    assert_eq!(steps, expected);
    assert_eq!(check_root(&running).await, 2);
    assert_eq!(running.keeper.watch().borrow().trusted_roots(), before, "the old one stays for its leaves");
    let forced = actions(&running.ledger, &[Action::CaActivate]);
    assert!(forced.iter().any(|event| event.reason.as_deref().is_some_and(|why| why.starts_with("forced: 1 of 1"))));
    world.hands.advance(DAY * 2);
    running.keeper.step().await.unwrap();
    assert_eq!(states(&running), ["root 2 active", "issuing 2 active"]);
    running.close().await;
}

async fn check_root(running: &Running) -> u32 {
    let authorities = Arc::clone(&running.keeper.watch().borrow());
    let issued = issue(running).await;
    let active = authorities.active().unwrap();
    assert_eq!(issued.chain.get(1).map(Vec::as_slice), Some(active.issuer().der()));
    authorities.root_of(&active).unwrap().name().number
}

#[tokio::test]
async fn a_prepared_root_is_given_up_with_all_below_it_and_one_that_retires_leaves_by_hand() {
    let world = World::new();
    let mut running = world.open().await.unwrap();
    ordered(&mut running, Act::RotateRoot).await.1.unwrap();
    let (steps, done) = ordered(&mut running, Act::RetireRoot(root(2))).await;
    done.unwrap();
    assert_eq!(steps, ["ca.retire issuing 2", "ca.retire root 2"]);
    assert_eq!(states(&running), ["root 1 active", "issuing 1 active"]);
    ordered(&mut running, Act::RotateRoot).await.1.unwrap();
    ordered(&mut running, Act::ActivateRoot(root(3), Force::Yes)).await.1.unwrap();
    let (steps, done) = ordered(&mut running, Act::RetireRoot(root(1))).await;
    done.unwrap();
    assert_eq!(steps, ["ca.retire issuing 1", "ca.retire root 1"]);
    assert_eq!(states(&running), ["root 3 active", "issuing 3 active"]);
    running.close().await;
    let running = world.open().await.unwrap();
    assert_eq!(states(&running), ["root 3 active", "issuing 3 active"]);
    running.close().await;
}

/// Brings a roll-over of the root to its end, whatever was done before.
async fn finish(world: &World, running: &mut Running) {
    ordered(running, Act::RotateRoot).await.1.unwrap();
    for _ in 0..4 {
        running.keeper.step().await.unwrap();
        world.hands.advance(DAY * 2);
        see(running, &Sight::Holds);
    }
    running.keeper.step().await.unwrap();
}

#[tokio::test]
async fn a_crash_after_any_record_is_gone_on_from() {
    let world = World::new();
    let mut running = world.open().await.unwrap();
    let first = all(&running.ledger).len();
    finish(&world, &mut running).await;
    let last = all(&running.ledger).len();
    assert_eq!(states(&running), ["root 2 active", "issuing 2 active"]);
    running.close().await;
    assert!(last - first >= 10, "{first} {last}");
    for known in first..last {
        world.hands.set(START);
        let mut running = world.open_with(known).await.unwrap_or_else(|why| panic!("{known}: {why}"));
        issue(&running).await;
        // What was cut short does not keep the server from its daily work.
        running.keeper.step().await.unwrap_or_else(|why| panic!("{known}: {why}"));
        let authorities = Arc::clone(&running.keeper.watch().borrow());
        let active = authorities.active().unwrap();
        assert_eq!(authorities.root_of(&active).unwrap().state(), State::Active, "{known}: {:?}", states(&running));
        issue(&running).await;
        let moved = authorities.active_root().unwrap().name().number == 2;
        if !moved {
            finish(&world, &mut running).await;
        } else {
            world.hands.advance(DAY * 3);
            running.keeper.step().await.unwrap();
        }
        let after = states(&running);
        assert_eq!(after.len(), 2, "{known}: {after:?}");
        assert!(after[0].starts_with("root ") && !after[0].starts_with("root 1 "), "{known}: {after:?}");
        assert!(after[0].ends_with(" active") && after[1].ends_with(" active"), "{known}: {after:?}");
        issue(&running).await;
        running.close().await;
    }
}
