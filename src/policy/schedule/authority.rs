//! The life of authorities at one level: `Prepared → Active → Retiring → Gone`, or `Tainted`.
//!
//! Always true of the plan: no leaf outlives its issuer, because an authority hands over while it has more left than
//! the longest leaf; there is one active authority at a time; and an authority is gone only when the last leaf under it
//! has expired. `rotation` asks, does what is due, and asks again until nothing is.

use std::time::Duration;

use time::OffsetDateTime;

use crate::toml_reader::render_span;

/// At which part of an authority's life its successor is prepared.
pub const PREPARE_AT: f64 = 0.5;

/// At which part of an authority's life its successor takes over, when leaves do not make it earlier.
pub const HAND_OVER_AT: f64 = 0.6;

/// How long before the hand-over the successor is prepared at least, as a part of life (1/20), so that every replica
/// and every backup has it by then.
const LEAD_DIVISOR: u32 = 20;

/// What an authority keeps beyond the longest leaf at the hand-over, as a part of life (1/50): for late wakes and
/// clocks that differ.
const MARGIN_DIVISOR: u32 = 50;

/// Where in its life an authority is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthorityState {
    /// Made, not used yet.
    Prepared,
    /// Signs.
    Active,
    /// Signs no more; leaves under it live on.
    Retiring,
    /// Nothing under it is left.
    Gone,
    /// Its key is not ours alone: trusted no more.
    Tainted,
}

impl AuthorityState {
    /// The name in records and screens.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Active => "active",
            Self::Retiring => "retiring",
            Self::Gone => "gone",
            Self::Tainted => "tainted",
        }
    }

    /// The state with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Prepared, Self::Active, Self::Retiring, Self::Gone, Self::Tainted]
            .into_iter()
            .find(|state| state.as_str() == name)
    }
}

/// One authority, as the plan sees it; `key` is whatever the asker knows it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthoritySlot<K> {
    /// What the asker knows it by.
    pub key: K,
    /// Where in its life it is.
    pub state: AuthorityState,
    /// The certificate's notBefore.
    pub not_before: OffsetDateTime,
    /// The certificate's notAfter.
    pub not_after: OffsetDateTime,
    /// When the last leaf issued under it expires; `None` when it never issued.
    pub last_leaf: Option<OffsetDateTime>,
}

/// An authority's lifetime leaves no room for the leaves under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "an issuing CA of {} is too short for leaves of {}: write ca.issuing.lifetime = \"{}\" or longer, or shorten the longest lifetime in policy.toml",
    render_span(*.lifetime), render_span(*.longest_leaf), render_span(*.least)
)]
pub struct TooShort {
    /// The authority's.
    pub lifetime: Duration,
    /// The longest leaf's.
    pub longest_leaf: Duration,
    /// What would do.
    pub least: Duration,
}

/// The lengths that the plan follows. An authority of this lifetime has room for the leaves under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthorityTimes {
    longest_leaf: Duration,
}

impl AuthorityTimes {
    /// For authorities of `lifetime` over leaves of at most `longest_leaf` ([`super::super::Policy::longest_lifetime`]).
    ///
    /// # Errors
    /// When the lifetime is less than twice the longest leaf: the authority would hand over as soon as it is made.
    pub fn new(lifetime: Duration, longest_leaf: Duration) -> Result<Self, TooShort> {
        let least = longest_leaf * 2;
        if lifetime < least { Err(TooShort { lifetime, longest_leaf, least }) } else { Ok(Self { longest_leaf }) }
    }

    /// The longest leaf that they leave room for.
    #[must_use]
    pub fn longest_leaf(&self) -> Duration {
        self.longest_leaf
    }

    /// When the successor takes over.
    #[must_use]
    pub fn hand_over_at<K>(&self, slot: &AuthoritySlot<K>) -> OffsetDateTime {
        let life = life(slot);
        let wished = slot.not_before + part(life, HAND_OVER_AT);
        wished.min(slot.not_after - self.longest_leaf - life / MARGIN_DIVISOR)
    }

    /// When the successor is prepared: "rolls over from".
    #[must_use]
    pub fn prepare_at<K>(&self, slot: &AuthoritySlot<K>) -> OffsetDateTime {
        let life = life(slot);
        let wished = slot.not_before + part(life, PREPARE_AT);
        wished.min(self.hand_over_at(slot) - life / LEAD_DIVISOR)
    }
}

/// Something to do now. Each is recorded before its effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due<K> {
    /// Make a new authority, as `Prepared`.
    Prepare,
    /// Make this one `Active`, and what was active `Retiring`, in the same record.
    Activate(K),
    /// Make this one `Gone`: nothing under it is left, or it expired.
    Retire(K),
}

/// What is due, and when to ask again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan<K> {
    /// To be done now, in this order; ask again afterwards.
    pub due: Vec<Due<K>>,
    /// The next moment at which something becomes due by time alone; later than `now`.
    pub next: Option<OffsetDateTime>,
}

/// What is due among the authorities of one level.
#[must_use]
pub fn authority_plan<K: Clone>(slots: &[AuthoritySlot<K>], times: AuthorityTimes, now: OffsetDateTime) -> Plan<K> {
    let mut due = Vec::new();
    let newest = |state, usable: &dyn Fn(&&AuthoritySlot<K>) -> bool| {
        slots.iter().filter(|slot| slot.state == state).filter(usable).max_by_key(|slot| slot.not_after)
    };
    let active = newest(AuthorityState::Active, &|slot| slot.not_after > now);
    // A successor that would itself hand over at once is of no use (a server that was off for long has such ones).
    let successor = newest(AuthorityState::Prepared, &|slot| times.hand_over_at(slot) > now);
    let hand_over = active.is_none_or(|slot| times.hand_over_at(slot) <= now);
    let prepare = active.is_none_or(|slot| times.prepare_at(slot) <= now);
    match successor {
        Some(slot) if hand_over && slot.not_before <= now => due.push(Due::Activate(slot.key.clone())),
        Some(_) => {}
        None if prepare => due.push(Due::Prepare),
        None => {}
    }
    due.extend(slots.iter().filter(|slot| is_over(slot, times, now)).map(|slot| Due::Retire(slot.key.clone())));
    let moments = slots.iter().flat_map(|slot| moments(slot, times)).filter(|at| *at > now);
    Plan { due, next: moments.min() }
}

/// Whether an authority is of no more use to anyone.
fn is_over<K>(slot: &AuthoritySlot<K>, times: AuthorityTimes, now: OffsetDateTime) -> bool {
    match slot.state {
        AuthorityState::Prepared => times.hand_over_at(slot) <= now,
        AuthorityState::Retiring => slot.not_after <= now || slot.last_leaf.is_none_or(|end| end <= now),
        // A tainted authority is remembered for as long as somebody might still trust it.
        AuthorityState::Tainted => slot.not_after <= now,
        // An expired active one stays until its successor takes over; then it is retiring.
        AuthorityState::Active | AuthorityState::Gone => false,
    }
}

/// Every moment at which an authority's answer can change.
fn moments<K>(slot: &AuthoritySlot<K>, times: AuthorityTimes) -> Vec<OffsetDateTime> {
    match slot.state {
        AuthorityState::Prepared => vec![slot.not_before, times.hand_over_at(slot)],
        AuthorityState::Active => vec![times.prepare_at(slot), times.hand_over_at(slot), slot.not_after],
        AuthorityState::Retiring => slot.last_leaf.into_iter().chain([slot.not_after]).collect(),
        AuthorityState::Tainted => vec![slot.not_after],
        AuthorityState::Gone => Vec::new(),
    }
}

fn life<K>(slot: &AuthoritySlot<K>) -> Duration {
    Duration::try_from(slot.not_after - slot.not_before).unwrap_or_default()
}

fn part(life: Duration, part: f64) -> Duration {
    life.mul_f64(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use time::macros::datetime;

    const START: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);
    const DAY: Duration = Duration::from_secs(86_400);

    /// Authorities that do what the plan says.
    struct World {
        slots: Vec<AuthoritySlot<usize>>,
        lifetime: Duration,
        leaf: Duration,
        times: AuthorityTimes,
        prepared: u32,
    }

    impl World {
        fn new(lifetime: Duration, leaf: Duration) -> Self {
            let times = AuthorityTimes::new(lifetime, leaf).unwrap();
            Self { slots: Vec::new(), lifetime, leaf, times, prepared: 0 }
        }

        /// Does all that is due and says what it was; every invariant is checked on the way.
        fn settle(&mut self, now: OffsetDateTime) -> Vec<Due<usize>> {
            let mut done = Vec::new();
            loop {
                let plan = authority_plan(&self.slots, self.times, now);
                assert!(plan.next.is_none_or(|next| next > now));
                if plan.due.is_empty() {
                    break;
                }
                assert!(done.len() < 20, "the plan comes to rest: {done:?}");
                for due in plan.due {
                    self.act(&due, now);
                    done.push(due);
                }
            }
            let active: Vec<_> = self.slots.iter().filter(|slot| slot.state == AuthorityState::Active).collect();
            assert_eq!(active.len(), 1, "exactly one active");
            assert!(active[0].not_after - now >= self.leaf, "no leaf outlives its issuer");
            done
        }

        fn act(&mut self, due: &Due<usize>, now: OffsetDateTime) {
            match due {
                Due::Prepare => {
                    self.prepared += 1;
                    let (state, not_after) = (AuthorityState::Prepared, now + self.lifetime);
                    let key = self.slots.len();
                    self.slots.push(AuthoritySlot { key, state, not_before: now, not_after, last_leaf: None });
                }
                Due::Activate(key) => {
                    let active = self.slots.iter_mut().filter(|slot| slot.state == AuthorityState::Active);
                    active.for_each(|slot| slot.state = AuthorityState::Retiring);
                    self.slots[*key].state = AuthorityState::Active;
                }
                Due::Retire(key) => {
                    let slot = &mut self.slots[*key];
                    assert!(slot.state != AuthorityState::Active);
                    assert!(slot.last_leaf.is_none_or(|end| end <= now), "a leaf under it lives");
                    slot.state = AuthorityState::Gone;
                }
            }
        }

        fn issue(&mut self, now: OffsetDateTime) {
            let active = self.slots.iter_mut().find(|slot| slot.state == AuthorityState::Active).unwrap();
            active.last_leaf = Some(now + self.leaf);
        }

        fn next(&self, now: OffsetDateTime) -> OffsetDateTime {
            authority_plan(&self.slots, self.times, now).next.unwrap()
        }
    }

    #[test]
    fn ninety_days_go_as_documented() {
        let mut world = World::new(90 * DAY, DAY);
        assert_eq!(world.settle(START), [Due::Prepare, Due::Activate(0)]);
        world.issue(START);
        assert_eq!(world.settle(START + 44 * DAY), []);
        assert_eq!(world.next(START), START + 45 * DAY);
        assert_eq!(world.settle(START + 45 * DAY), [Due::Prepare]);
        world.issue(START + 54 * DAY - DAY / 2);
        assert_eq!(world.settle(START + 54 * DAY), [Due::Activate(1)]);
        assert_eq!(world.next(START + 54 * DAY), START + 54 * DAY + DAY / 2);
        assert_eq!(world.settle(START + 55 * DAY), [Due::Retire(0)]);
        // The second was prepared at day 45, so its half is day 90.
        assert_eq!(world.next(START + 55 * DAY), START + 90 * DAY);
    }

    #[test]
    fn long_leaves_bring_the_hand_over_forward() {
        let mut world = World::new(90 * DAY, 45 * DAY);
        world.settle(START);
        let slot = world.slots[0].clone();
        assert!(world.times.hand_over_at(&slot) < START + 45 * DAY);
        assert!(world.times.prepare_at(&slot) < world.times.hand_over_at(&slot) - 4 * DAY);
    }

    #[test]
    fn a_server_that_was_off_for_long_starts_anew() {
        let mut world = World::new(90 * DAY, DAY);
        world.settle(START);
        world.settle(START + 45 * DAY);
        let acts = world.settle(START + 400 * DAY);
        assert_eq!(acts, [Due::Prepare, Due::Retire(1), Due::Activate(2), Due::Retire(0)]);
    }

    #[test]
    fn a_tainted_authority_is_replaced_at_once() {
        let mut world = World::new(90 * DAY, DAY);
        world.settle(START);
        world.slots[0].state = AuthorityState::Tainted;
        assert_eq!(world.settle(START + DAY), [Due::Prepare, Due::Activate(1)]);
        assert_eq!(world.settle(START + 90 * DAY).first(), Some(&Due::Prepare));
        assert_eq!(world.slots[0].state, AuthorityState::Gone);
    }

    #[test]
    fn an_authority_too_short_for_its_leaves_is_refused() {
        let error = AuthorityTimes::new(DAY, DAY).unwrap_err();
        assert_eq!(
            error.to_string(),
            "an issuing CA of 24h is too short for leaves of 24h: write ca.issuing.lifetime = \"48h\" or longer, or \
             shorten the longest lifetime in policy.toml"
        );
        assert!(AuthorityTimes::new(2 * DAY, DAY).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn there_is_never_a_gap(
            lifetime_s in 60_u64..10_000_000,
            leaf_part in 0.001..0.5_f64,
            steps in prop::collection::vec((0.0..1.2_f64, any::<bool>(), any::<bool>()), 1..60),
        ) {
            let lifetime = Duration::from_secs(lifetime_s);
            let mut world = World::new(lifetime, lifetime.mul_f64(leaf_part));
            let mut now = START;
            world.settle(now);
            for (step, wait_for_next, issues) in steps {
                // Either a server that wakes when the plan says, or one that sleeps any time.
                now = if wait_for_next { world.next(now) } else { now + lifetime.mul_f64(step) };
                world.settle(now);
                if issues {
                    world.issue(now);
                }
            }
            // Not more authorities than the shortest way through their lives allows.
            let least_life = lifetime.as_secs_f64() * 0.38;
            prop_assert!(f64::from(world.prepared) <= (now - START).as_seconds_f64() / least_life + 3.0);
        }
    }
}
