//! What operators have done to issuing CAs, step by step, and what is refused.

use tokio::sync::mpsc;

use super::*;
use crate::ca::authority::acts::{Act, ActError, MOST_WORDS, Order, Step, Told};
use crate::ca::authority::root::Force;
use crate::ca::slot::Name;

/// Has the keeper do it; the steps in words, and how it ended.
pub(super) async fn ordered(running: &mut Running, act: Act) -> (Vec<String>, Result<(), ActError>) {
    let (told, mut words) = mpsc::channel(MOST_WORDS);
    let recorder = Recorder::new(Entropy::seeded(3));
    let mut template = recorder.event(Action::OperatorAct, Outcome::Success, START);
    (template.request_id, template.reason) = (Some("order 7".to_owned()), Some("keyCompromise".to_owned()));
    running.keeper.carry_out(Order { act, template, told }).await;
    let mut steps = Vec::new();
    loop {
        match words.recv().await.expect("a last word") {
            Told::Step(Step { name, action, .. }) => steps.push(format!("{} {name}", action.as_str())),
            Told::Done => return (steps, Ok(())),
            Told::Failed(why) => return (steps, Err(why)),
        }
    }
}

fn issuing(number: u32) -> Name {
    Name { level: Level::Issuing, number }
}

fn states(running: &Running) -> Vec<String> {
    let authorities = Arc::clone(&running.keeper.watch().borrow());
    authorities.at(Level::Issuing).map(|a| format!("{} {}", a.name(), a.state().as_str())).collect()
}

/// A running one whose next issuing CA is prepared.
async fn with_a_prepared_one(world: &World) -> Running {
    let mut running = world.open().await.unwrap();
    world.hands.advance(DAY * 46);
    running.keeper.step().await.unwrap();
    assert_eq!(states(&running), ["issuing 1 active", "issuing 2 prepared"]);
    running
}

#[tokio::test]
async fn a_roll_over_takes_the_prepared_one_or_makes_one() {
    let world = World::new();
    let mut running = with_a_prepared_one(&world).await;
    let (steps, done) = ordered(&mut running, Act::RollOver).await;
    done.unwrap();
    assert_eq!(steps, ["ca.activate issuing 2", "ca.retire issuing 1"]);
    let (steps, done) = ordered(&mut running, Act::RollOver).await;
    done.unwrap();
    assert_eq!(steps, ["ca.prepare issuing 3", "ca.activate issuing 3", "ca.retire issuing 2"]);
    let activated = actions(&running.ledger, &[Action::CaActivate]).pop().unwrap();
    assert_eq!((activated.request_id.as_deref(), activated.reason), (Some("order 7"), None));
    running.keeper.step().await.unwrap();
    running.close().await;
    let running = world.open().await.unwrap();
    assert_eq!(states(&running), ["issuing 1 retiring", "issuing 2 retiring", "issuing 3 active"]);
    running.close().await;
}

#[tokio::test]
async fn a_tainted_one_never_signs_again_and_no_key_that_lay_beside_it_takes_its_place() {
    let world = World::new();
    let mut running = with_a_prepared_one(&world).await;
    let before = running.keeper.watch().borrow().active().unwrap();
    let (steps, done) = ordered(&mut running, Act::Taint(issuing(1))).await;
    done.unwrap();
    assert_eq!(steps, ["ca.prepare issuing 3", "ca.activate issuing 3", "ca.taint issuing 1"]);
    let taint = actions(&running.ledger, &[Action::CaTaint]).pop().unwrap();
    assert_eq!((taint.reason.as_deref(), taint.request_id.as_deref()), (Some("keyCompromise"), Some("order 7")));
    assert_eq!(taint.authority.unwrap().state, "tainted");
    assert!(!running.keeper.watch().borrow().may_publish(before.issuer().key_id()));
    let (steps, again) = ordered(&mut running, Act::Taint(issuing(1))).await;
    again.unwrap();
    assert_eq!(steps, [""; 0], "what is done is done");
    // One that signs nothing needs nobody in its place.
    let (steps, done) = ordered(&mut running, Act::Taint(issuing(2))).await;
    done.unwrap();
    assert_eq!(steps, ["ca.taint issuing 2"]);
    issue(&running).await;
    let after = ["issuing 1 tainted", "issuing 2 tainted", "issuing 3 active"];
    running.keeper.step().await.unwrap();
    assert_eq!(states(&running), after);
    running.close().await;
    let mut running = world.open().await.unwrap();
    assert_eq!(states(&running), after, "a restart trusts it no more than before");
    world.hands.advance(DAY * 45);
    running.keeper.step().await.unwrap();
    assert!(!states(&running).iter().any(|state| state.starts_with("issuing 1")), "it goes when its certificate ends");
    running.close().await;
}

#[tokio::test]
async fn a_taint_that_was_cut_off_after_the_hand_over_goes_on_from_there() {
    let world = World::new();
    let mut running = world.open().await.unwrap();
    // As a crash between the two records leaves it.
    ordered(&mut running, Act::RollOver).await.1.unwrap();
    let (steps, done) = ordered(&mut running, Act::Taint(issuing(1))).await;
    done.unwrap();
    assert_eq!(steps, ["ca.taint issuing 1"]);
    running.close().await;
}

#[tokio::test]
async fn only_a_prepared_one_is_given_up_and_a_root_is_no_issuing_ca() {
    let world = World::new();
    let mut running = with_a_prepared_one(&world).await;
    let root = Name { level: Level::Root, number: 1 };
    for (act, expected) in [
        (Act::Taint(root), "ca rotate root"),
        (Act::GiveUp(root), "ca rotate root"),
        (Act::RetireRoot(root), "ca show"),
        (Act::ActivateRoot(root, Force::Yes), "ca show"),
        (Act::Taint(issuing(9)), "ca show"),
        (Act::GiveUp(issuing(9)), "ca show"),
        (Act::GiveUp(issuing(1)), "ca rotate issuing"),
    ] {
        let (steps, refused) = ordered(&mut running, act).await;
        let refused = refused.unwrap_err().to_string();
        assert!(steps.is_empty() && refused.contains(expected), "{act:?}: {steps:?} {refused}");
    }
    let (steps, done) = ordered(&mut running, Act::GiveUp(issuing(2))).await;
    done.unwrap();
    assert_eq!(
        (steps, states(&running)),
        (vec!["ca.retire issuing 2".to_owned()], vec!["issuing 1 active".to_owned()])
    );
    running.keeper.step().await.unwrap();
    assert_eq!(states(&running), ["issuing 1 active", "issuing 3 prepared"], "another one, with another key");
    running.close().await;
}

#[tokio::test]
async fn a_root_without_room_is_left_alone() {
    let mut world = World::new();
    (world.root_lifetime, world.issuing_lifetime, world.leaf_lifetime) = (DAY, DAY / 4, "1h");
    let mut running = world.open().await.unwrap();
    world.hands.advance(Duration::from_secs(22 * 3_600));
    let (steps, refused) = ordered(&mut running, Act::RollOver).await;
    assert!(steps.is_empty() && matches!(refused, Err(ActError::NoRoom { .. })), "{steps:?} {refused:?}");
    running.close().await;
}
