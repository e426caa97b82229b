//! Opening: the lock, recovery, the threads and the first records of a run.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::sync::{Notify, mpsc};

use super::checkpoint::CheckpointKey;
use super::disk::{Disk, RealDisk};
use super::error::LedgerError;
use super::reader::LedgerReader;
use super::recover::{self, Opened, Recovery};
use super::rotate::SnapshotSlot;
use super::shared::{Heads, LogState, Shared};
use super::views::{Behind, Unsynced, Views};
use super::writer::{Command, MOST_BYTES, Writer};
use super::{Inner, Ledger};
use crate::audit::event::{Action, Change, Event, Outcome, Recorder};
use crate::clock::Clock;
use crate::merkle::sha256;
use crate::tasks::Tasks;

/// The most requests that wait for the writer; further callers wait to send.
const QUEUE: usize = 1024;
/// How long a note waits for company.
const NOTE_DELAY: Duration = Duration::from_millis(10);
/// The smallest segment: its half must hold the largest record.
const SMALLEST_SEGMENT: u64 = 256 << 10;

/// Sizes. The defaults are for a server; tests take smaller ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerLimits {
    /// Bytes of a journal segment, allocated whole; at least two exist. Fixed for the life of a ledger.
    pub segment_bytes: u64,
    /// Bytes kept aside for revocations and operators' acts when the disk is full, as files `journal/reserve-N.seg`.
    pub reserve_bytes: u64,
}

impl Default for LedgerLimits {
    fn default() -> Self {
        Self { segment_bytes: 8 << 20, reserve_bytes: 64 << 20 }
    }
}

/// What an opening needs to know.
#[derive(Debug)]
pub struct LedgerOptions {
    /// `DIR/ledger`; made when it is not there.
    pub directory: PathBuf,
    /// The trust domain, first part of every log's origin.
    pub trust_domain: String,
    /// The checkpoint key, from its sealed file.
    pub key: CheckpointKey,
    /// Sizes.
    pub limits: LedgerLimits,
    /// Whether `ledger.key`, `ledger.start` and `ledger.recover` are recorded: always, but for test logs of an exact
    /// size.
    pub lifecycle_records: bool,
}

impl LedgerOptions {
    /// The options of a server.
    #[must_use]
    pub fn new(directory: PathBuf, trust_domain: &str, key: CheckpointKey) -> Self {
        let trust_domain = trust_domain.to_owned();
        Self { directory, trust_domain, key, limits: LedgerLimits::default(), lifecycle_records: true }
    }
}

/// What an opening found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenReport {
    /// There was no ledger before.
    pub created: bool,
    /// The last run did not end cleanly.
    pub recovered: Option<Recovery>,
    /// Records in the current log, with those of this opening.
    pub size: u64,
    /// The current log's name.
    pub log: String,
    /// The current log's origin.
    pub origin: String,
    /// The current log's verifier key.
    pub vkey: String,
}

impl Ledger {
    /// Opens or creates a ledger and records that.
    ///
    /// # Errors
    /// Every way in which a directory can be unusable; see [`LedgerError`].
    pub async fn open(
        options: LedgerOptions,
        clock: Clock,
        recorder: &Recorder,
        tasks: &Tasks,
    ) -> Result<(Self, OpenReport), LedgerError> {
        Self::open_on(Arc::new(RealDisk), options, clock, recorder, tasks).await
    }

    /// The same on another disk.
    pub(crate) async fn open_on(
        disk: Arc<dyn Disk>,
        options: LedgerOptions,
        clock: Clock,
        recorder: &Recorder,
        tasks: &Tasks,
    ) -> Result<(Self, OpenReport), LedgerError> {
        let LedgerOptions { directory, trust_domain, key, limits, lifecycle_records } = options;
        if limits.segment_bytes < SMALLEST_SEGMENT || limits.segment_bytes % 4096 != 0 {
            let why = "must be at least 262144 and a multiple of 4096";
            return Err(LedgerError::Option { option: "segment_bytes", why });
        }
        let lock = Arc::new(take_lock(&directory)?);
        let opened = recover::open(&recover::Place {
            disk: &disk,
            directory: &directory,
            trust_domain: &trust_domain,
            key: &key,
            segment_bytes: limits.segment_bytes,
            reserve_segments: u32::try_from(limits.reserve_bytes.div_ceil(limits.segment_bytes)).unwrap_or(u32::MAX),
            now: clock.now(),
        })?;
        let (created, recovered) = (opened.created, opened.recovery);
        let starting = Starting { disk, directory, trust_domain, key: Arc::new(key), clock, recorder, tasks, lock };
        let (ledger, mut report) = starting.start(opened, created, recovered)?;
        if lifecycle_records {
            report.size = ledger.record_opening(&report).await?;
        }
        Ok((ledger, report))
    }

    /// Records the opening; returns the size of the log after it.
    async fn record_opening(&self, report: &OpenReport) -> Result<u64, LedgerError> {
        let now = self.0.clock.now();
        let event = |action| -> Event { self.0.recorder.event(action, Outcome::Success, now) };
        if report.created {
            let mut key = event(Action::LedgerKey);
            let after = Some(hex::encode(sha256(&[report.vkey.as_bytes()])));
            key.change = Some(Change { after, what: report.vkey.clone(), ..Change::default() });
            self.append(key).await?;
        }
        if let Some(recovery) = report.recovered {
            let mut recover = event(Action::LedgerRecover);
            recover.reason = Some(if recovery.torn { "torn_tail" } else { "unclean_stop" }.to_owned());
            recover.change =
                Some(Change { what: "journal".to_owned(), count: Some(recovery.records), ..Change::default() });
            self.append(recover).await?;
        }
        let mut start = event(Action::LedgerStart);
        start.change =
            Some(Change { what: concat!("chancery ", env!("CARGO_PKG_VERSION")).into(), ..Change::default() });
        Ok(self.append(start).await?.index + 1)
    }
}

/// One writer per directory, this process or another.
pub(super) fn take_lock(directory: &Path) -> Result<Flock<std::fs::File>, LedgerError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(LedgerError::io("making the ledger's directory", directory))?;
    let path = directory.join("lock");
    let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = opened.map_err(LedgerError::io("opening the lock", &path))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, Errno::EWOULDBLOCK)) => Err(LedgerError::Locked { path }),
        Err((_, error)) => Err(LedgerError::io("locking", &path)(error.into())),
    }
}

/// Everything a recovered ledger needs to run.
struct Starting<'a> {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    trust_domain: String,
    key: Arc<CheckpointKey>,
    clock: Clock,
    recorder: &'a Recorder,
    tasks: &'a Tasks,
    lock: Arc<Flock<std::fs::File>>,
}

impl Starting<'_> {
    fn start(
        self,
        opened: Opened,
        created: bool,
        recovered: Option<Recovery>,
    ) -> Result<(Ledger, OpenReport), LedgerError> {
        let Opened { journal, journal_dir, supply, logs, edges, retired, frontier, .. } = opened;
        let number = logs.len().saturating_sub(1);
        let current = logs.last().ok_or(LedgerError::Closed)?;
        let (name, origin, size) = (current.name.clone(), Arc::clone(&current.origin), current.size);
        let vkey = self.key.verifier(&origin).to_string();
        let report = OpenReport { created, recovered, size, log: name.clone(), origin: origin.to_string(), vkey };
        let heads: Vec<_> = logs.iter().map(LogState::head).collect();
        let published = self.published(current);
        let shared = Arc::new(Shared::new(logs, retired, published));
        let largest_frame = journal.largest_frame(&heads);
        let snapshot = SnapshotSlot::new(OnceLock::new());
        let (commands, receiver) = mpsc::channel(QUEUE);
        let identity = self.disk.identity(&self.directory);
        let views = Views {
            disk: Arc::clone(&self.disk),
            directory: self.directory.clone(),
            identity: identity.map_err(LedgerError::io("looking at the ledger's directory", &self.directory))?,
            journal: journal_dir,
            supply,
            shared: Arc::clone(&shared),
            key: Arc::clone(&self.key),
            clock: self.clock.clone(),
            edges,
            behind: Behind::default(),
            unsynced: Unsynced::default(),
            mended: BTreeSet::new(),
            closed_mended: false,
            recycled: Vec::new(),
            stalled: false,
            _lock: Arc::clone(&self.lock),
        };
        let writer = Writer {
            disk: Arc::clone(&self.disk),
            directory: self.directory.clone(),
            journal,
            shared: Arc::clone(&shared),
            key: self.key,
            clock: self.clock.clone(),
            recorder: self.recorder.clone(),
            number,
            name,
            origin,
            frontier,
            identity: None,
            trust_domain: self.trust_domain,
            snapshot: Arc::clone(&snapshot),
            rotate_after: Duration::ZERO,
            largest_frame,
            _lock: self.lock,
        };
        drive(self.tasks, writer, receiver, views).map_err(LedgerError::io("starting a thread", &self.directory))?;
        let noted = Arc::new(Notify::new());
        let flusher = flush_notes(self.clock.clone(), Arc::clone(&noted), commands.downgrade());
        self.tasks.spawn("ledger-notes", flusher);
        let reader = LedgerReader { shared: Arc::clone(&shared), disk: self.disk, directory: self.directory.into() };
        let (clock, recorder) = (self.clock, self.recorder.clone());
        let largest_batch = MOST_BYTES.min(largest_frame / 2);
        let inner = Inner { commands, shared, reader, snapshot, noted, clock, recorder, largest_batch };
        Ok((Ledger(Arc::new(inner)), report))
    }

    /// What the directory publishes already.
    fn published(&self, log: &LogState) -> Heads {
        let path = self.directory.join(&log.name).join(super::views::CHECKPOINT);
        let text = self.disk.read(&path).ok().flatten().and_then(|bytes| String::from_utf8(bytes).ok());
        let found = text.and_then(|text| Some((self.key.verifier(&log.origin).verify(&text).ok()?, text)));
        let (size, root, text) =
            found.map_or((0, crate::merkle::empty_root(), String::new()), |(head, text)| (head.size, head.root, text));
        Heads { origin: Arc::clone(&log.origin), size, root, checkpoint: text.into(), time: self.clock.now() }
    }
}

/// Gives the writer and the views a thread each.
fn drive(tasks: &Tasks, writer: Writer, commands: mpsc::Receiver<Command>, views: Views) -> std::io::Result<()> {
    #[cfg(test)]
    if tasks.are_simulated() {
        super::steps::spawn(tasks, writer, commands, views);
        return Ok(());
    }
    tasks.spawn_thread("ledger-writer", move || writer.run(commands))?;
    tasks.spawn_thread("ledger-views", move || views.run()).map(drop)
}

/// Sends what was noted after a moment, unless a commit took it along.
async fn flush_notes(clock: Clock, noted: Arc<Notify>, commands: mpsc::WeakSender<Command>) {
    loop {
        noted.notified().await;
        if commands.upgrade().is_none() {
            return;
        }
        // Cut short when the ledger is dropped or another round of notes begins.
        tokio::select! {
            biased;
            () = clock.sleep(NOTE_DELAY) => {}
            () = noted.notified() => {}
        }
        // Held only now: a sender kept while sleeping would keep the writer of a dropped ledger alive.
        let Some(sender) = commands.upgrade() else { return };
        // An error means that the ledger was closed; closing takes the notes along.
        if sender.send(Command::Flush).await.is_err() {
            return;
        }
    }
}
