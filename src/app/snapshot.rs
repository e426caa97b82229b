//! What a new year's log opens with: the state that indexes need, so that older logs can be pruned whole.

use std::sync::Arc;

use crate::audit::event::{Action, Event, Outcome, Recorder};
use crate::audit::ledger::SnapshotSource;
use crate::ca::issue::Street;
use crate::ca::slot::Authorities;
use crate::ca::standing::{Denied, Standing};
use crate::clock::Clock;
use tokio::sync::watch;

/// One record for each authority that is not gone, and one for each deny.
pub(crate) fn source(street: Street, clock: Clock, recorder: Recorder) -> SnapshotSource {
    let authorities = street.authorities();
    from(authorities, street.standing().clone(), clock, recorder)
}

fn from(
    authorities: watch::Receiver<Arc<Authorities>>,
    standing: Standing,
    clock: Clock,
    recorder: Recorder,
) -> SnapshotSource {
    Arc::new(move || {
        let now = clock.now();
        let authorities = Arc::clone(&authorities.borrow());
        let blank = || recorder.event(Action::LedgerSnapshot, Outcome::Success, now);
        let authority = |facts| Event { authority: Some(facts), ..blank() };
        let deny = |(pattern, denied): (String, Denied)| Event {
            reason: Some(denied.reason),
            refers_to: Some(denied.record).filter(|record| !record.is_empty()),
            subject: Some(pattern),
            ..blank()
        };
        authorities.facts().map(authority).chain(standing.denies().into_iter().map(deny)).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::Entropy;
    use time::macros::datetime;

    #[test]
    fn an_empty_hierarchy_gives_an_empty_run_and_a_deny_is_carried_over() {
        let (_sender, authorities) = watch::channel(Arc::new(Authorities::default()));
        let (clock, _hands) = Clock::manual(datetime!(2027-01-01 00:00 UTC));
        let standing = Standing::default();
        let source = from(authorities, standing.clone(), clock, Recorder::new(Entropy::seeded(1)));
        assert!(source().is_empty());
        let why = Denied { record: "log#7".into(), since: "2026".into(), reason: "keyCompromise".into() };
        standing.deny("spiffe://example.org/ns/pay/*", why);
        let run = source();
        assert_eq!(run[0].subject.as_deref(), Some("spiffe://example.org/ns/pay/*"));
        assert_eq!((run[0].reason.as_deref(), run[0].refers_to.as_deref()), (Some("keyCompromise"), Some("log#7")));
    }
}
