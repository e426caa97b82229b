//! What the writer, the view thread and the readers share: how far each log goes, and the records that no tile has yet.
//!
//! The writer alone adds records here, after they are durable; the view thread alone takes them away, after their tiles
//! are written. Locks are held for moments only and never across IO. [`Shared::fail`] is the one way into the failed
//! state, and there is no way out of it.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::sync::watch;

use super::error::LedgerError;
use super::frame::Head;
use super::tiles::Edge;
use crate::merkle::{Hash, leaf_hash};

/// The most bytes of records that wait for their tiles before commits wait too.
pub(crate) const MOST_TAIL_BYTES: usize = 64 << 20;
/// The most segments that wait to be synced below before commits wait too.
const MOST_RETIRED: usize = 16;
/// The most notes that wait for a commit; further ones are lost and counted.
pub(crate) const MOST_NOTES: usize = 8192;

/// A record and its leaf hash, computed where the record was made.
#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    pub(crate) bytes: Bytes,
    pub(crate) hash: Hash,
}

impl Leaf {
    pub(crate) fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let hash = leaf_hash(&bytes);
        Self { bytes, hash }
    }
}

impl AsRef<[u8]> for Leaf {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Whether the ledger takes records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Ok,
    /// Only what revokes and what operators do, until there is space.
    Full {
        /// Since when.
        since: OffsetDateTime,
        /// A directory on the full file system.
        directory: PathBuf,
    },
    /// Never again in this run.
    Failed {
        /// Since when.
        since: OffsetDateTime,
        /// The first failure.
        cause: Arc<str>,
    },
}

/// The newest published tree head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heads {
    /// The log's origin.
    pub origin: Arc<str>,
    /// Records that the checkpoint covers.
    pub size: u64,
    /// The root.
    pub root: Hash,
    /// The signed checkpoint; empty before the first one.
    pub checkpoint: Arc<str>,
    /// When it was signed.
    pub time: OffsetDateTime,
}

/// Records of one commit whose tiles are not written yet, and the head after them.
#[derive(Debug, Clone)]
pub(crate) struct TailFrame {
    pub(crate) first: u64,
    pub(crate) leaves: Vec<Leaf>,
    pub(crate) size: u64,
    pub(crate) root: Hash,
}

/// A tree head with all that the disk may not have yet to prove what it covers.
#[derive(Debug, Clone)]
pub(crate) struct Signed {
    pub(crate) size: u64,
    /// The checkpoint; nothing while it would be smaller than one that was published before.
    pub(crate) checkpoint: Option<Arc<str>>,
    /// The partial tiles of exactly this size.
    pub(crate) edge: Arc<Edge>,
}

/// One log.
#[derive(Debug)]
pub(crate) struct LogState {
    pub(crate) name: String,
    pub(crate) origin: Arc<str>,
    /// Committed.
    pub(crate) size: u64,
    pub(crate) root: Hash,
    /// What was signed last in this run, with the right edge that it needs; the disk follows.
    pub(crate) signed: Option<Signed>,
    /// Covered by tiles and checkpoint on disk.
    pub(crate) viewed: u64,
    /// Whether `checkpoint` says `viewed`.
    pub(crate) published: bool,
    /// The size of the checkpoint found at opening: a smaller one is never published.
    pub(crate) floor: u64,
    /// Covered by synced tiles.
    pub(crate) synced: u64,
    pub(crate) tail: VecDeque<TailFrame>,
}

impl LogState {
    /// A log just opened.
    pub(crate) fn empty(name: String, origin: Arc<str>) -> Self {
        let root = crate::merkle::empty_root();
        Self {
            name,
            origin,
            size: 0,
            root,
            signed: None,
            viewed: 0,
            published: false,
            floor: 0,
            synced: 0,
            tail: VecDeque::new(),
        }
    }

    /// Covered by full tiles on disk and the edge in memory.
    pub(crate) fn covered(&self) -> u64 {
        self.signed.as_ref().map_or(self.viewed, |signed| signed.size)
    }

    pub(crate) fn head(&self) -> Head {
        Head { log: self.name.clone(), size: self.size, root: self.root }
    }
}

/// What is behind the lock.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// In the order of opening; the last one is written.
    pub(crate) logs: Vec<LogState>,
    tail_bytes: usize,
    /// Segments behind the current one, and each log's size at their ends.
    pub(crate) retired: VecDeque<(u64, Vec<u64>)>,
    /// The view thread has no space.
    stalled: bool,
    /// A clean close waits until everything is synced.
    sync_wanted: bool,
    stop: bool,
    failed: Option<Arc<str>>,
}

/// What the tiles of one log lack.
pub(crate) struct ViewJob {
    /// The log's position in [`State::logs`].
    pub(crate) number: usize,
    pub(crate) origin: Arc<str>,
    /// The head after `frames`.
    pub(crate) head: Head,
    /// Whether the checkpoint may say `head` already.
    pub(crate) publish: bool,
    pub(crate) frames: Vec<TailFrame>,
}

/// What the view thread should do.
pub(crate) struct Work {
    pub(crate) logs: Vec<ViewJob>,
    pub(crate) sync: bool,
    pub(crate) stop: bool,
}

/// The shared state.
pub(crate) struct Shared {
    state: Mutex<State>,
    work: Condvar,
    progress: Condvar,
    notes: Mutex<Vec<Leaf>>,
    pub(crate) notes_lost: AtomicU64,
    pub(crate) health: watch::Sender<Health>,
    pub(crate) heads: watch::Sender<Heads>,
    /// Counts commits; changes when there is something new to read.
    pub(crate) committed: watch::Sender<u64>,
    /// Told how long each commit took.
    pub(crate) commit_observer: OnceLock<CommitObserver>,
    /// Who does a round of the views where they have no thread.
    #[cfg(test)]
    pub(crate) steps: super::steps::Slot,
}

/// Told how long a commit took; must return at once.
pub type CommitObserver = Box<dyn Fn(Duration) + Send + Sync>;

impl Shared {
    pub(crate) fn new(logs: Vec<LogState>, retired: VecDeque<(u64, Vec<u64>)>, heads: Heads) -> Self {
        let tail_bytes = logs.iter().flat_map(|log| &log.tail).map(weight).sum();
        Self {
            state: Mutex::new(State { logs, tail_bytes, retired, ..State::default() }),
            work: Condvar::new(),
            progress: Condvar::new(),
            notes: Mutex::default(),
            notes_lost: AtomicU64::new(0),
            health: watch::Sender::new(Health::Ok),
            heads: watch::Sender::new(heads),
            committed: watch::Sender::new(0),
            commit_observer: OnceLock::new(),
            #[cfg(test)]
            steps: super::steps::Slot::default(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops the ledger for good.
    pub(crate) fn fail(&self, cause: &str, now: OffsetDateTime) {
        let mut state = self.lock();
        if state.failed.is_some() {
            return;
        }
        tracing::error!(cause, "the ledger stopped: nothing more is recorded, so nothing more is issued");
        let cause: Arc<str> = cause.into();
        state.failed = Some(Arc::clone(&cause));
        drop(state);
        self.health.send_replace(Health::Failed { since: now, cause });
        self.work.notify_all();
        self.progress.notify_all();
    }

    /// The error that everybody gets after [`Shared::fail`].
    pub(crate) fn failure(&self) -> Option<LedgerError> {
        self.lock().failed.clone().map(|cause| LedgerError::Failed { cause })
    }

    /// Reports that ordinary records have no space.
    pub(crate) fn set_full(&self, directory: &Path, now: OffsetDateTime) {
        self.health.send_if_modified(|health| {
            let was_ok = *health == Health::Ok;
            if was_ok {
                tracing::error!(directory = %directory.display(), "the ledger is full: only revocations and operators' acts are recorded");
                *health = Health::Full { since: now, directory: directory.to_owned() };
            }
            was_ok
        });
    }

    /// Reports that there is space again.
    pub(crate) fn set_ok(&self) {
        self.health.send_if_modified(|health| {
            let was_full = matches!(health, Health::Full { .. });
            if was_full {
                tracing::info!("the ledger has space again");
                *health = Health::Ok;
            }
            was_full
        });
    }

    /// Adds a durable frame to log number `log`.
    pub(crate) fn push(&self, log: usize, frame: TailFrame) {
        let mut state = self.lock();
        state.tail_bytes += weight(&frame);
        if let Some(log) = state.logs.get_mut(log) {
            log.size = frame.size;
            log.root = frame.root;
            log.tail.push_back(frame);
        }
        drop(state);
        self.work.notify_one();
    }

    /// Tells readers and followers that there is more.
    pub(crate) fn announce(&self) {
        self.committed.send_modify(|count| *count += 1);
    }

    /// Every log's head, as a segment's base wants them.
    pub(crate) fn heads_now(&self) -> Vec<Head> {
        self.lock().logs.iter().map(LogState::head).collect()
    }

    /// Notes that `epoch` is behind the current segment now; its frames end at the present heads.
    pub(crate) fn retire(&self, epoch: u64) {
        let mut state = self.lock();
        let sizes = state.logs.iter().map(|log| log.size).collect();
        state.retired.push_back((epoch, sizes));
        drop(state);
        self.work.notify_one();
    }

    /// Waits until the view thread is not too far behind. `false` when it has no space to catch up.
    pub(crate) fn wait_for_views(&self) -> bool {
        let behind = |state: &mut State| {
            let far = state.tail_bytes > MOST_TAIL_BYTES || state.retired.len() > MOST_RETIRED;
            far && !state.stalled && state.failed.is_none()
        };
        #[cfg(test)]
        self.steps.work_while(|| behind(&mut self.lock()));
        let guard = self.progress.wait_while(self.lock(), behind).unwrap_or_else(PoisonError::into_inner);
        guard.tail_bytes <= MOST_TAIL_BYTES && guard.retired.len() <= MOST_RETIRED
    }

    /// Asks for synced views of everything and waits for them. `false` when they can't be had.
    pub(crate) fn sync_views(&self) -> bool {
        self.lock().sync_wanted = true;
        self.work.notify_one();
        let waiting = |state: &mut State| state.sync_wanted && !state.stalled && state.failed.is_none();
        #[cfg(test)]
        self.steps.work_while(|| waiting(&mut self.lock()));
        let guard = self.progress.wait_while(self.lock(), waiting).unwrap_or_else(PoisonError::into_inner);
        !guard.sync_wanted && guard.failed.is_none()
    }

    /// Ends the view thread.
    pub(crate) fn stop(&self) {
        self.lock().stop = true;
        self.work.notify_all();
    }

    /// The view thread's next work, or what there is after `at_most`.
    pub(crate) fn next_work(&self, at_most: Duration, most_records: usize) -> Work {
        let idle = |state: &mut State| {
            let pending = state.logs.iter().any(|log| log.covered() < log.size || !log.published);
            !(pending || state.stop || state.sync_wanted || !state.retired.is_empty() || state.failed.is_some())
        };
        let waited = self.work.wait_timeout_while(self.lock(), at_most, idle);
        let state = waited.unwrap_or_else(PoisonError::into_inner).0;
        let mut logs = Vec::new();
        let mut left = most_records;
        for (number, log) in state.logs.iter().enumerate() {
            let mut job = ViewJob {
                number,
                origin: Arc::clone(&log.origin),
                head: log.head(),
                publish: true,
                frames: Vec::new(),
            };
            for frame in log.tail.iter().filter(|frame| frame.size > log.covered()) {
                if left == 0 {
                    break;
                }
                left = left.saturating_sub(frame.leaves.len());
                job.head = Head { size: frame.size, root: frame.root, ..job.head };
                job.frames.push(frame.clone());
            }
            job.publish = job.head.size >= log.floor;
            if !job.frames.is_empty() || (log.covered() == log.size && !log.published) {
                logs.push(job);
            }
        }
        let sync = !state.retired.is_empty() || state.sync_wanted;
        Work { logs, sync, stop: state.stop || state.failed.is_some() }
    }

    /// Log number `log` is signed so far; the tiles that are full are on disk.
    pub(crate) fn set_signed(&self, log: usize, signed: Signed) {
        if let Some(log) = self.lock().logs.get_mut(log) {
            log.published = true;
            log.signed = Some(signed);
        }
    }

    /// What was signed last of the log of this name.
    pub(crate) fn signed(&self, name: &str) -> Option<Signed> {
        self.lock().logs.iter().find(|log| log.name == name)?.signed.clone()
    }

    /// Log number `log` has tiles and a checkpoint of `size` on disk.
    pub(crate) fn set_viewed(&self, log: usize, size: u64) {
        let mut state = self.lock();
        let mut freed = 0;
        if let Some(log) = state.logs.get_mut(log) {
            log.viewed = size;
            while log.tail.front().is_some_and(|frame| frame.size <= size) {
                freed += log.tail.pop_front().as_ref().map_or(0, weight);
            }
        }
        state.tail_bytes -= freed;
        drop(state);
        self.progress.notify_all();
    }

    /// Everything viewed is synced; returns the segments that nobody needs any more, oldest first.
    pub(crate) fn set_synced(&self) -> Vec<u64> {
        let mut state = self.lock();
        for log in &mut state.logs {
            log.synced = log.viewed;
        }
        let mut free = Vec::new();
        while let Some((epoch, sizes)) = state.retired.front() {
            let covered = state.logs.iter().zip(sizes).all(|(log, size)| log.synced >= *size);
            if !covered {
                break;
            }
            free.push(*epoch);
            state.retired.pop_front();
        }
        if state.logs.iter().all(|log| log.synced == log.size) {
            state.sync_wanted = false;
        }
        drop(state);
        self.progress.notify_all();
        free
    }

    /// Whether the view thread lacks space.
    pub(crate) fn set_stalled(&self, stalled: bool) {
        self.lock().stalled = stalled;
        self.progress.notify_all();
    }

    /// Takes a note along for the next commit. Returns whether it is the first one waiting.
    pub(crate) fn note(&self, leaf: Leaf) -> bool {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if notes.len() >= MOST_NOTES {
            self.notes_lost.fetch_add(1, Ordering::Relaxed);
            tracing::error!("a note to the ledger was lost: {MOST_NOTES} are waiting");
            return false;
        }
        notes.push(leaf);
        notes.len() == 1
    }

    /// The oldest notes that fit, and with `at_least_one` the first one whatever it weighs.
    pub(crate) fn take_notes(&self, most_records: usize, most_bytes: usize, at_least_one: bool) -> Vec<Leaf> {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = 0;
        let fits = notes.iter().take(most_records).take_while(|note| {
            bytes += note.bytes.len() + 2;
            bytes <= most_bytes
        });
        let count = fits.count().max(usize::from(at_least_one && !notes.is_empty()));
        notes.drain(..count).collect()
    }

    /// Whether notes wait for a commit.
    pub(crate) fn has_notes(&self) -> bool {
        !self.notes.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// Bytes that a frame holds in memory.
fn weight(frame: &TailFrame) -> usize {
    frame.leaves.iter().map(|leaf| leaf.bytes.len() + size_of::<Leaf>()).sum()
}
