//! Whether the index follows the ledger.
//!
//! Under load it is always some records behind; what counts is whether it comes to a record in time. So a look that finds
//! it behind remembers where the ledger ended, and a later look asks whether the index has got there. Called by
//! whatever tells of readiness; between two looks nothing runs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::audit::ledger::LedgerReader;
use crate::clock::Clock;
use crate::store::Store;

/// How long the index may take to a record before the server is not ready: handshakes wait for it, and after a restart
/// proxies would be given new certificates for those that it does not know.
const LONGEST_LAG: Duration = Duration::from_secs(10);

/// The index, watched; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct IndexLag {
    reader: LedgerReader,
    store: Arc<dyn Store>,
    clock: Clock,
    seen: Arc<Mutex<Option<Mark>>>,
}

/// Where the ledger ended when the index was seen to be behind.
#[derive(Debug)]
struct Mark {
    sizes: BTreeMap<String, u64>,
    at: Duration,
}

impl IndexLag {
    pub(super) fn new(reader: LedgerReader, store: Arc<dyn Store>, clock: Clock) -> Self {
        Self { reader, store, clock, seen: Arc::default() }
    }

    /// What is wrong, with its remedy; nothing when the index follows.
    pub(super) fn problem(&self) -> Option<String> {
        let sizes = self.reader.logs().into_iter().map(|log| (log.origin.to_string(), log.size)).collect();
        let applied = self.store.cursor().unwrap_or_default();
        let applied = |origin: &str| applied.get(origin).map_or(0, |at| at.next);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let late = look(&mut seen, sizes, applied, self.clock.monotonic());
        late.then(|| {
            format!(
                "the index does not follow the ledger: records of more than {} seconds ago are missing; the log says why",
                LONGEST_LAG.as_secs()
            )
        })
    }
}

fn look(seen: &mut Option<Mark>, sizes: BTreeMap<String, u64>, applied: impl Fn(&str) -> u64, now: Duration) -> bool {
    let behind = |sizes: &BTreeMap<String, u64>| sizes.iter().any(|(origin, size)| applied(origin) < *size);
    if seen.as_ref().is_some_and(|mark| !behind(&mark.sizes)) {
        *seen = None;
    }
    if seen.is_none() && behind(&sizes) {
        *seen = Some(Mark { sizes, at: now });
    }
    seen.as_ref().is_some_and(|mark| now.saturating_sub(mark.at) > LONGEST_LAG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_follows_is_never_late_and_one_that_stopped_is() {
        let mut seen = None;
        let mut at = |seconds: u64, size: u64, applied: u64| {
            look(&mut seen, [("log".to_owned(), size)].into(), |_| applied, Duration::from_secs(seconds))
        };
        assert!(!at(0, 10, 10));
        // Always behind, and always moving.
        for second in 1..60 {
            assert!(!at(second, 10 + 100 * second, 100 * second));
        }
        assert!(!at(60, 6_100, 6_000));
        assert!(!at(70, 7_000, 6_099), "ten seconds are allowed");
        assert!(at(71, 7_000, 6_099));
        assert!(!at(72, 7_000, 6_100), "it has come to where the ledger was; a new look begins");
        assert!(at(83, 7_000, 6_100));
        assert!(!at(84, 7_000, 7_000));
    }
}
