//! Which refusals are recorded one by one and which are counted.
//!
//! The first [`RECORDED_EACH`] refusals per (account, reason) in a [`WINDOW`] are each recorded before the reply;
//! further ones become one record with a count per [`FLUSH_EVERY`], so that a broken client cannot fill the disk. A
//! crash loses at most one flush's count. Pure bookkeeping: the street asks, the street records.

use std::collections::BTreeMap;
use std::time::Duration;

use time::OffsetDateTime;

use crate::audit::event::{Coalesced, Event};
use crate::clock::rfc3339_micros;

/// How many refusals of one kind in a [`WINDOW`] get a record of their own.
pub const RECORDED_EACH: u32 = 3;

/// How long a kind of refusal is remembered after its first.
pub const WINDOW: Duration = Duration::from_secs(60);

/// How often counted refusals are written.
pub const FLUSH_EVERY: Duration = Duration::from_secs(10);

/// How many kinds are told apart; those beyond share one.
pub const MOST_KINDS: usize = 10_000;

/// Who was refused, by which rule or for which reason.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// The caller's account: the facts that outlast its process.
    pub account: String,
    /// The rule or reason.
    pub reason: String,
}

impl Kind {
    /// What all kinds beyond [`MOST_KINDS`] share.
    fn other() -> Self {
        Self { account: "other".to_owned(), reason: "too-many-kinds".to_owned() }
    }
}

/// What to do with a refusal.
#[derive(Debug)]
pub enum Verdict {
    /// Record this event before the reply.
    Record(Box<Event>),
    /// It was counted; reply at once.
    Counted,
}

/// The refusals of the last minute.
#[derive(Debug, Default)]
pub struct Refusals {
    kinds: BTreeMap<Kind, Tally>,
}

#[derive(Debug)]
struct Tally {
    since: OffsetDateTime,
    recorded: u32,
    counted: Option<Run>,
}

#[derive(Debug)]
struct Run {
    /// The last refusal of the run, which stands for all.
    event: Event,
    count: u64,
    first: OffsetDateTime,
    last: OffsetDateTime,
}

impl Refusals {
    /// Decides about one refusal.
    pub fn admit(&mut self, kind: Kind, event: Event, now: OffsetDateTime) -> Verdict {
        let known = self.kinds.contains_key(&kind);
        let kind = if known || self.kinds.len() < MOST_KINDS { kind } else { Kind::other() };
        let tally = self.kinds.entry(kind).or_insert(Tally { since: now, recorded: 0, counted: None });
        if now - tally.since >= WINDOW && tally.counted.is_none() {
            (tally.since, tally.recorded) = (now, 0);
        }
        if tally.recorded < RECORDED_EACH {
            tally.recorded += 1;
            return Verdict::Record(Box::new(event));
        }
        let run = tally.counted.get_or_insert_with(|| Run { event: event.clone(), count: 0, first: now, last: now });
        run.count += 1;
        (run.event, run.last) = (event, now);
        Verdict::Counted
    }

    /// The counted runs, one record each, and forgets kinds whose window is over.
    pub fn flush(&mut self, now: OffsetDateTime) -> Vec<Event> {
        let runs = self.kinds.values_mut().filter_map(|tally| tally.counted.take()).map(Run::into_event).collect();
        self.kinds.retain(|_, tally| now - tally.since < WINDOW);
        runs
    }
}

impl Run {
    fn into_event(self) -> Event {
        let coalesced =
            Coalesced { count: self.count, first: rfc3339_micros(self.first), last: rfc3339_micros(self.last) };
        Event { coalesced: Some(coalesced), time: rfc3339_micros(self.last), ..self.event }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::event::{Action, Outcome, Recorder};
    use crate::entropy::Entropy;
    use time::macros::datetime;

    const START: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);

    fn refuse(refusals: &mut Refusals, account: &str, at: OffsetDateTime) -> bool {
        let event = Recorder::new(Entropy::seeded(1)).event(Action::CertificateDeny, Outcome::Denied, at);
        let kind = Kind { account: account.to_owned(), reason: "no-rule".to_owned() };
        matches!(refusals.admit(kind, event, at), Verdict::Record(_))
    }

    #[test]
    fn the_first_three_are_recorded_and_the_rest_counted() {
        let mut refusals = Refusals::default();
        let recorded: Vec<bool> = (0..6).map(|s| refuse(&mut refusals, "a", START + Duration::from_secs(s))).collect();
        assert_eq!(recorded, [true, true, true, false, false, false]);
        let flushed = refusals.flush(START + Duration::from_secs(10));
        let [one] = flushed.as_slice() else { panic!("{flushed:?}") };
        let coalesced = one.coalesced.as_ref().unwrap();
        assert_eq!(
            (coalesced.count, coalesced.first.as_str(), coalesced.last.as_str()),
            (3, "2026-11-23T12:00:03.000000Z", "2026-11-23T12:00:05.000000Z")
        );
        assert!(refusals.flush(START + Duration::from_secs(11)).is_empty());
    }

    #[test]
    fn a_new_minute_and_another_caller_are_recorded_again() {
        let mut refusals = Refusals::default();
        (0..4).for_each(|_| {
            refuse(&mut refusals, "a", START);
        });
        assert!(refuse(&mut refusals, "b", START));
        assert_eq!(refusals.flush(START + WINDOW).len(), 1);
        assert!(refuse(&mut refusals, "a", START + WINDOW));
    }

    #[test]
    fn a_flood_of_accounts_is_bounded() {
        let mut refusals = Refusals::default();
        (0..MOST_KINDS + 500).for_each(|n| {
            refuse(&mut refusals, &n.to_string(), START);
        });
        assert_eq!(refusals.kinds.len(), MOST_KINDS + 1);
        let counted: u64 = refusals.flush(START).iter().map(|e| e.coalesced.as_ref().unwrap().count).sum();
        assert_eq!(counted, 500 - u64::from(RECORDED_EACH));
    }
}
