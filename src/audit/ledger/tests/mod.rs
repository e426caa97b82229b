//! Tests of the whole ledger on real directories; what they share is here.

mod basics;
mod crashes;
mod faults;
mod hostile;
mod judged;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use time::macros::datetime;

use super::disk::{Disk, RealDisk};
use super::*;
use crate::clock::ManualClock;
use crate::entropy::Entropy;
use crate::secret::SecretBytes;
use crate::tasks::Tasks;

/// A place for one ledger that is opened again and again.
pub(super) struct Bench {
    pub(super) dir: TempDir,
    pub(super) clock: Clock,
    pub(super) hands: ManualClock,
    pub(super) recorder: Recorder,
    pub(super) lifecycle: bool,
    key: SecretBytes,
    tasks: Tasks,
}

pub(super) const LIMITS: LedgerLimits = LedgerLimits { segment_bytes: 256 << 10, reserve_bytes: 256 << 10 };

impl Bench {
    pub(super) fn new() -> Self {
        let (clock, hands) = Clock::manual(datetime!(2026-11-23 13:00 UTC));
        Self {
            dir: tempfile::tempdir().unwrap(),
            clock,
            hands,
            recorder: Recorder::new(Entropy::seeded(4)),
            lifecycle: true,
            key: CheckpointKey::generate_pkcs8().unwrap(),
            tasks: Tasks::new(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn options(&self) -> LedgerOptions {
        let key = CheckpointKey::from_pkcs8(&self.key).unwrap();
        let options = LedgerOptions::new(self.path().to_owned(), "example.org", key);
        LedgerOptions { limits: LIMITS, lifecycle_records: self.lifecycle, ..options }
    }

    pub(super) async fn open(&mut self) -> Result<(Ledger, OpenReport), LedgerError> {
        self.open_on(Arc::new(RealDisk)).await
    }

    pub(super) async fn open_on(&mut self, disk: Arc<dyn Disk>) -> Result<(Ledger, OpenReport), LedgerError> {
        self.tasks = Tasks::new();
        Ledger::open_on(disk, self.options(), self.clock.clone(), &self.recorder, &self.tasks).await
    }

    /// Ends the threads as a kill would, and waits for them.
    pub(super) async fn kill(&self, ledger: Ledger) {
        drop(ledger);
        self.gone().await;
    }

    pub(super) async fn gone(&self) {
        assert!(self.tasks.drain(Duration::from_secs(20)).await.is_empty());
    }

    pub(super) fn event(&self, node: &str) -> Event {
        let mut event = self.recorder.event(Action::CertificateIssue, Outcome::Success, self.clock.now());
        event.node = Some(node.to_owned());
        event
    }
}

/// Verifies the whole ledger as an auditor would.
pub(super) fn audit(path: &Path) -> crate::audit::verify::Report {
    crate::audit::verify::verify(path, &crate::audit::verify::VerifyOptions::default(), &mut |_, _| {}).unwrap()
}

/// Waits until the published checkpoint covers `size` records, on disk too.
pub(super) async fn published(ledger: &Ledger, size: u64) {
    let mut heads = ledger.heads();
    heads.wait_for(|heads| heads.size >= size).await.unwrap();
    // The files follow within rounds of the view thread, which tells nobody.
    let name = ledger.reader().logs().pop().unwrap().name;
    let file = ledger.reader().directory.join(name).join(views::CHECKPOINT);
    let said = || Some(std::fs::read_to_string(&file).ok()?.lines().nth(1)?.parse::<u64>().unwrap());
    let written = || said().is_some_and(|said| said >= size);
    while !written() {
        assert!(ledger.0.shared.failure().is_none(), "the views will not follow any more");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Appends `count` records in batches.
pub(super) async fn fill(bench: &Bench, ledger: &Ledger, count: usize) {
    let mut left = count;
    while left > 0 {
        let batch = left.min(250);
        let events: Vec<Event> = (0..batch).map(|n| bench.event(&n.to_string())).collect();
        ledger.append_batch(&events).await.unwrap();
        left -= batch;
    }
}
