//! What a new year's log opens with: the state that indexes need, so that older logs can be pruned whole.

use std::sync::Arc;

use crate::audit::event::{Action, Event, Outcome, Recorder};
use crate::audit::ledger::SnapshotSource;
use crate::ca::slot::Authorities;
use crate::clock::Clock;
use tokio::sync::watch;

/// One record for each authority that is not gone.
pub(super) fn source(
    authorities: watch::Receiver<Arc<Authorities>>,
    clock: Clock,
    recorder: Recorder,
) -> SnapshotSource {
    Arc::new(move || {
        let now = clock.now();
        let authorities = Arc::clone(&authorities.borrow());
        let record =
            |facts| Event { authority: Some(facts), ..recorder.event(Action::LedgerSnapshot, Outcome::Success, now) };
        authorities.facts().map(record).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::Entropy;
    use time::macros::datetime;

    #[test]
    fn an_empty_hierarchy_gives_an_empty_run() {
        let (_sender, authorities) = watch::channel(Arc::new(Authorities::default()));
        let (clock, _hands) = Clock::manual(datetime!(2027-01-01 00:00 UTC));
        let source = source(authorities, clock, Recorder::new(Entropy::seeded(1)));
        assert!(source().is_empty());
    }
}
