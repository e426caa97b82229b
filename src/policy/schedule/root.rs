//! The life of roots: as of every authority, but a root takes over by evidence and not by time.
//!
//! ```text
//!  (nothing) ──► Prepared ──► published ──► Active ──────► Retiring ──► Gone
//!                in no        in every      the CA below   in every     in none
//!                bundle yet   bundle        it signs       bundle
//! ```
//!
//! Always true of the plan: a root takes over only with a CA below it, and only when the [`Evidence`] about these two is
//! complete, or the root before it is about to end; a root retires only when the CA below its successor signs; and it
//! leaves only when no CA below it has a live leaf. So no leaf is ever under a root that somebody lacks who could meet it.
//! `ca::authority` does one act after the other and asks again after each, so that a crash between any two leads on from
//! there. Its tests explore every order of acts, crashes, answers and absences.

use std::time::Duration;

use time::OffsetDateTime;

use super::authority::{AuthoritySlot, AuthorityState, AuthorityTimes};
use super::evidence::Evidence;

/// At which part of its life a root's successor is prepared at the earliest.
const PREPARE_AT: f64 = 0.5;

/// How often the longest leaf must still fit under a root that signs: with less it is of no use any more.
const LEAVES_LEFT: u32 = 3;

/// One root, as the plan sees it; `key` is whatever the asker knows it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootSlot<K> {
    /// What the asker knows it by.
    pub key: K,
    /// Where in its life it is.
    pub state: AuthorityState,
    /// Whether its key is ours, so that its successor is ours to make.
    pub ours: bool,
    /// The certificate's notBefore.
    pub not_before: OffsetDateTime,
    /// The certificate's notAfter.
    pub not_after: OffsetDateTime,
    /// Since when every bundle has it; `None` before.
    pub published: Option<OffsetDateTime>,
    /// The issuing CAs under it, oldest first.
    pub below: Vec<AuthoritySlot<K>>,
}

/// The lengths that the plan follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootTimes {
    /// Those of the issuing CAs below.
    pub issuing: AuthorityTimes,
    /// The life of a new issuing CA, which is not to be cut by the root's end.
    pub issuing_lifetime: Duration,
    /// How long whoever acknowledges nothing is waited for.
    pub silent_wait: Duration,
}

impl RootTimes {
    /// When the successor is prepared: so early that the evidence has time, and a last issuing CA its whole life.
    #[must_use]
    pub fn prepare_at<K>(&self, slot: &RootSlot<K>) -> OffsetDateTime {
        let life = Duration::try_from(slot.not_after - slot.not_before).unwrap_or_default();
        let half = slot.not_before + life.mul_f64(PREPARE_AT);
        half.max(self.late_at(slot) - self.issuing_lifetime / 2)
    }

    /// From when it is late: an issuing CA that is made now is cut by the root's end, and the evidence takes time.
    #[must_use]
    pub fn late_at<K>(&self, slot: &RootSlot<K>) -> OffsetDateTime {
        let evidence = self.silent_wait.max(self.issuing.longest_leaf()) * 2;
        slot.not_after - self.issuing_lifetime - evidence
    }

    /// When the successor takes over whoever lacks it: from here on every leaf is cut by the root's end, and at that end
    /// everyone is cut off.
    #[must_use]
    pub fn last_moment<K>(&self, slot: &RootSlot<K>) -> OffsetDateTime {
        slot.not_after - self.issuing.longest_leaf() * LEAVES_LEFT
    }
}

/// Something to do now. Each is recorded before its effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootDue<K> {
    /// Make a new root, as `Prepared`.
    Prepare,
    /// Make an issuing CA under this prepared root: none is there that could take over with it.
    PrepareBelow(K),
    /// Have the bundle with this prepared root and the CRLs of all below it sent to everyone, and record that.
    Publish(K),
    /// Make this one `Active`: nobody would refuse what it signs.
    Activate(K),
    /// Make this one `Active` although somebody would: the root before it ends.
    ActivateLate(K),
    /// Make this one `Retiring`: a CA below its successor signs.
    Retire(K),
    /// Make this one `Gone`, after all that is below it.
    Remove(K),
}

/// What is due, and when to ask again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootPlan<K> {
    /// To be done now; ask again afterwards.
    pub due: Option<RootDue<K>>,
    /// The next moment at which something becomes due by time alone; later than `now`.
    pub next: Option<OffsetDateTime>,
}

/// What is due among roots, oldest first, where `evidence` is what is known of the newest prepared one.
#[must_use]
pub fn root_plan<K: Clone + PartialEq>(
    slots: &[RootSlot<K>],
    times: RootTimes,
    evidence: Option<&Evidence<K>>,
    now: OffsetDateTime,
) -> RootPlan<K> {
    let due = leave(slots, now).or_else(|| hand_over(slots)).or_else(|| take_over(slots, times, evidence, now));
    let active = newest(slots, AuthorityState::Active).into_iter();
    let waits = evidence.map(|evidence| evidence.silent_until).into_iter();
    let moments = active.flat_map(|slot| [times.prepare_at(slot), times.last_moment(slot)]);
    let ends = slots.iter().map(|slot| slot.not_after);
    RootPlan { due, next: moments.chain(ends).chain(waits).filter(|at| *at > now).min() }
}

/// The issuing CA that would take over with this root: the newest that would not hand over at once.
#[must_use]
pub fn heir<K>(slot: &RootSlot<K>, times: AuthorityTimes, now: OffsetDateTime) -> Option<&AuthoritySlot<K>> {
    let usable = |one: &&AuthoritySlot<K>| {
        one.state == AuthorityState::Prepared && one.not_before <= now && now < times.hand_over_at(one)
    };
    slot.below.iter().rfind(usable)
}

/// The newest root that is prepared and has not ended.
#[must_use]
pub fn candidate<K>(slots: &[RootSlot<K>], now: OffsetDateTime) -> Option<&RootSlot<K>> {
    newest(slots, AuthorityState::Prepared).filter(|slot| now < slot.not_after)
}

fn newest<K>(slots: &[RootSlot<K>], state: AuthorityState) -> Option<&RootSlot<K>> {
    slots.iter().rfind(|slot| slot.state == state)
}

fn has_active<K>(slot: &RootSlot<K>) -> bool {
    slot.below.iter().any(|one| one.state == AuthorityState::Active)
}

/// Roots that nothing hangs on.
fn leave<K: Clone>(slots: &[RootSlot<K>], now: OffsetDateTime) -> Option<RootDue<K>> {
    let living = |one: &AuthoritySlot<K>| matches!(one.state, AuthorityState::Active | AuthorityState::Retiring);
    let is_over = |slot: &&RootSlot<K>| match slot.state {
        AuthorityState::Retiring => slot.not_after <= now || !slot.below.iter().any(living),
        AuthorityState::Prepared | AuthorityState::Tainted => slot.not_after <= now,
        AuthorityState::Active | AuthorityState::Gone => false,
    };
    slots.iter().find(is_over).map(|slot| RootDue::Remove(slot.key.clone()))
}

/// Of several active roots the newest counts; those before it retire once a CA below it signs.
fn hand_over<K: Clone + PartialEq>(slots: &[RootSlot<K>]) -> Option<RootDue<K>> {
    let active = newest(slots, AuthorityState::Active).filter(|slot| has_active(slot))?;
    let before = slots.iter().find(|slot| slot.state == AuthorityState::Active && slot.key != active.key)?;
    Some(RootDue::Retire(before.key.clone()))
}

/// The way of the next root.
fn take_over<K: Clone + PartialEq>(
    slots: &[RootSlot<K>],
    times: RootTimes,
    evidence: Option<&Evidence<K>>,
    now: OffsetDateTime,
) -> Option<RootDue<K>> {
    // One hand-over after the other: an active root without a CA that signs has not finished its own.
    let active = newest(slots, AuthorityState::Active).filter(|slot| has_active(slot))?;
    let Some(next) = candidate(slots, now) else {
        return (active.ours && times.prepare_at(active) <= now).then_some(RootDue::Prepare);
    };
    let key = || next.key.clone();
    let Some(heir) = heir(next, times.issuing, now) else { return Some(RootDue::PrepareBelow(key())) };
    if next.published.is_none() {
        return Some(RootDue::Publish(key()));
    }
    let about = |evidence: &&Evidence<K>| evidence.root == next.key && evidence.issuing == heir.key;
    if evidence.filter(about).is_some_and(|evidence| evidence.is_complete(now)) {
        return Some(RootDue::Activate(key()));
    }
    (times.last_moment(active) <= now).then(|| RootDue::ActivateLate(key()))
}

#[cfg(test)]
mod tests;
