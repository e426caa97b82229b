//! Whatever happens in whatever order, and however long nothing does: one authority of a level signs, none goes back to a
//! state that it left, and each stays for as long as a certificate by it lives.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::ca::slot::Name;
use crate::policy::schedule::authority::HAND_OVER_AT;

const HOUR: Duration = Duration::from_secs(3_600);

/// How much time goes by.
#[derive(Debug, Clone)]
enum Pass {
    /// Hours.
    Hours(u32),
    /// A part of an issuing CA's life.
    Part(f64),
    /// Until so many hours before the hand-over of the authority that signs.
    NearHandOver(u32),
}

/// What happens after some time.
#[derive(Debug, Clone)]
struct Turn {
    pass: Pass,
    /// Whether what is due is done.
    steps: bool,
    /// A restart with leaves of that life.
    restart: Option<&'static str>,
    /// Whether a policy with longer lives is put in force.
    longer: bool,
    /// Whether a certificate is asked for.
    issues: bool,
}

fn any_turn() -> impl Strategy<Value = Turn> {
    let pass = prop_oneof![
        3 => (1..80_u32).prop_map(Pass::Hours),
        1 => (0.0..1.1_f64).prop_map(Pass::Part),
        2 => (0..80_u32).prop_map(Pass::NearHandOver),
    ];
    let leaf = prop::sample::select(vec!["1h", "24h", "72h"]);
    (pass, any::<bool>(), prop::option::weighted(0.3, leaf), prop::bool::weighted(0.1), any::<bool>())
        .prop_map(|(pass, steps, restart, longer, issues)| Turn { pass, steps, restart, longer, issues })
}

/// What was seen of the authorities and given out by them.
#[derive(Default)]
struct Seen {
    states: BTreeMap<String, State>,
    /// Ends, with the issuers' key identifiers.
    leaves: Vec<(OffsetDateTime, Vec<u8>)>,
}

/// How far along its life a state is.
fn rank(state: State) -> u8 {
    match state {
        State::Prepared => 0,
        State::Active => 1,
        State::Retiring => 2,
        State::Tainted => 3,
        State::Gone => 4,
    }
}

impl Seen {
    async fn issues(&mut self, running: &Running) {
        let Ok(issued) = running.street.issue(&testing::unix(1000, 1000, &[]), ask(None)).await else { return };
        let watch = running.keeper.watch();
        let active = watch.borrow().active().unwrap();
        assert!(issued.not_after <= active.issuer().not_after(), "a leaf that outlives its issuer");
        self.leaves.push((issued.not_after, active.issuer().key_id().to_vec()));
    }

    fn check(&mut self, running: &Running, now: OffsetDateTime) {
        let authorities = Arc::clone(&running.keeper.watch().borrow());
        for level in [Level::Root, Level::Issuing] {
            let active: Vec<Name> = authorities.at(level).filter(|a| a.is_active()).map(|a| a.name()).collect();
            assert_eq!(active.len(), 1, "exactly one signs: {active:?}");
        }
        let mut states: BTreeMap<String, State> =
            authorities.iter().map(|authority| (authority.name().to_string(), authority.state())).collect();
        for (name, before) in &self.states {
            let after = *states.entry(name.clone()).or_insert(State::Gone);
            assert!(rank(after) >= rank(*before), "{name} went from {before:?} to {after:?}");
        }
        for name in states.keys().filter(|name| !self.states.contains_key(*name)) {
            let named = |name: &str| name.parse::<Name>().unwrap();
            let same_level = |other: &&String| named(other).level == named(name).level;
            let last = self.states.keys().filter(same_level).map(|other| named(other).number).max();
            assert!(Some(named(name).number) > last, "the number of {name} was given before");
        }
        self.states = states;
        self.leaves.retain(|(end, _)| *end > now);
        for (end, issuer) in &self.leaves {
            assert!(authorities.may_publish(issuer), "a certificate until {end} has lost its issuer at {now}");
        }
        assert_eq!(authorities.trusted_roots().len(), 1);
    }
}

impl World {
    fn near_hand_over(&self, running: &Running, before: Duration) {
        let active = running.keeper.watch().borrow().active().unwrap();
        let at = active.issuer().not_before() + self.issuing_lifetime.mul_f64(HAND_OVER_AT) - before;
        self.hands.set(at.max(self.clock.now()));
    }
}

async fn live(turns: Vec<Turn>) {
    let mut world = World::new();
    world.issuing_lifetime = DAY * 20;
    let (mut seen, mut running) = (Seen::default(), world.open().await.unwrap());
    for turn in turns {
        match turn.pass {
            Pass::Hours(hours) => world.hands.advance(HOUR * hours),
            Pass::Part(part) => world.hands.advance(world.issuing_lifetime.mul_f64(part)),
            Pass::NearHandOver(hours) => world.near_hand_over(&running, HOUR * hours),
        }
        if turn.steps {
            assert!(running.keeper.step().await.unwrap() > world.clock.now());
        }
        if let Some(leaf) = turn.restart {
            running.close().await;
            world.leaf_lifetime = leaf;
            running = world.open().await.unwrap();
        }
        if turn.longer {
            running.keeper.leaves_live_up_to(DAY * 5).unwrap();
        }
        seen.check(&running, world.clock.now());
        if turn.issues {
            seen.issues(&running).await;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn no_authority_goes_back_or_leaves_its_certificates_alone(turns in prop::collection::vec(any_turn(), 1..24)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(live(turns));
    }
}

#[tokio::test]
async fn an_authority_stays_for_the_last_that_it_signed() {
    let turn = |pass, restart| Turn { pass, steps: true, restart, longer: false, issues: true };
    live(vec![turn(Pass::NearHandOver(1), None), turn(Pass::Hours(2), None), turn(Pass::Hours(20), None)]).await;
    // Under another policy too, which no start sees any more.
    live(vec![
        turn(Pass::Hours(1), Some("72h")),
        turn(Pass::NearHandOver(1), None),
        turn(Pass::Hours(2), Some("1h")),
        turn(Pass::Hours(60), None),
    ])
    .await;
}
