//! Recovering a ledger that does not open, with the server stopped: the work behind `chancery ledger recover`.
//!
//! Two steps, so that an operator sees the plan first: [`Recovering::plan`] changes nothing, [`Recovering::carry_out`]
//! puts the recovered ledger in place and writes the first record into it, by the same path as every other.

use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use super::AppError;
use super::directory::DataDirectory;
use super::state::LEDGER_KEY;
use crate::audit::event::{Action, Change, Event, Outcome, Recorder, Snapshot, Source};
use crate::audit::ledger::salvage::{LogFound, Plan, SalvageOptions, carry_out, survey};
use crate::audit::ledger::{CheckpointKey, Ledger, LedgerOptions, Position};
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::keys::sealed::SealedStore;
use crate::tasks::Tasks;

/// How long the ledger's threads have to end.
const LAST: std::time::Duration = std::time::Duration::from_secs(30);

/// A data directory that nobody else uses meanwhile.
#[derive(Debug)]
pub struct Recovering {
    _directory: DataDirectory,
    keys: SealedStore,
    options: SalvageOptions,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Where the ledger of before is.
    pub before: PathBuf,
    /// The record of it.
    pub record: Position,
}

impl Recovering {
    /// Takes the data directory's lock.
    ///
    /// # Errors
    /// When a server runs there, or the keys cannot be opened.
    pub fn open(data_dir: &Path, sealing_key: Option<&Path>, backup: Option<PathBuf>) -> Result<Self, AppError> {
        let (directory, trust_domain) = DataDirectory::existing(data_dir)?;
        let keys = SealedStore::open(&directory.path().join("keys"), sealing_key)?;
        let data_dir = directory.path().to_owned();
        let options = SalvageOptions { data_dir, trust_domain: trust_domain.as_str().to_owned(), backup };
        Ok(Self { _directory: directory, keys, options })
    }

    fn key(&self) -> Result<CheckpointKey, AppError> {
        Ok(CheckpointKey::from_pkcs8(&self.keys.get_secret(LEDGER_KEY)?)?)
    }

    /// Looks at everything.
    ///
    /// # Errors
    /// When files cannot be read.
    pub fn plan(&self, now: OffsetDateTime) -> Result<Plan, AppError> {
        Ok(survey(&self.options, &self.key()?, now)?)
    }

    /// Does what the plan says, and records it.
    ///
    /// # Errors
    /// When the disk refuses: before the ledgers change places everything is as it was.
    pub async fn carry_out(&self, plan: &Plan, clock: Clock) -> Result<Recovered, AppError> {
        let now = clock.now();
        let before = carry_out(plan, &self.options, &self.key()?, &stamp(now))?;
        let tasks = Tasks::new();
        let recorder = Recorder::new(Entropy::system());
        let path = self.options.data_dir.join("ledger");
        let options = LedgerOptions {
            lifecycle_records: false,
            ..LedgerOptions::new(path, &self.options.trust_domain, self.key()?)
        };
        let (ledger, _) = Ledger::open(options, clock, &recorder, &tasks).await?;
        let mut record = None;
        for log in plan.logs.iter().filter(|log| log.lost() > 0) {
            record = Some(ledger.append(event(&recorder, now, plan, Some(log))).await?);
        }
        let record = match record {
            Some(record) => record,
            None => ledger.append(event(&recorder, now, plan, None)).await?,
        };
        ledger.close().await?;
        drop(ledger);
        tasks.drain(LAST).await;
        Ok(Recovered { before, record })
    }
}

/// `20261124T074500Z`.
fn stamp(now: OffsetDateTime) -> String {
    crate::clock::rfc3339_seconds(now).chars().filter(|c| !matches!(c, '-' | ':')).collect()
}

/// The record of what was lost of one log; of nothing lost, when there is none.
fn event(recorder: &Recorder, now: OffsetDateTime, plan: &Plan, log: Option<&LogFound>) -> Event {
    let mut event = recorder.event(Action::LedgerRecover, Outcome::Success, now);
    event.reason = Some("operator".to_owned());
    event.source = Some(Source { uid: Some(nix::unistd::getuid().as_raw()), ..Source::default() });
    let mut change = Change { what: "ledger".to_owned(), count: Some(0), ..Change::default() };
    if let Some(log) = log {
        change.what = format!("{} kept to {} of {}", log.name, log.whole, log.known);
        change.count = Some(log.lost());
        change.after = Some(hex::encode(log.root));
        // What was signed beyond: whoever holds it finds here that its records are known to be lost.
        let predecessor = log.note.clone().filter(|_| log.is_behind());
        event.snapshot = predecessor.map(|note| Snapshot { predecessor: Some(note), ..Snapshot::default() });
    }
    if let Some(successor) = &plan.successor {
        change.what.push_str(&format!(", continued in {successor}"));
    }
    event.change = Some(change);
    event
}
