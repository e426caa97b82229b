//! The ledger: records become durable here, before what they authorise takes effect.
//!
//! Always true: an acknowledged record survives `kill -9` and power loss at any instant; a commit is one append to a
//! journal and one `fdatasync`, shared by everybody who waits; tiles (c2sp.org/tlog-tiles), checkpoints and everything
//! else are views behind it, rebuilt from it. One writer thread owns the journal, one view thread the views. When the
//! state on disk is unknown the ledger fails closed: it takes nothing more until it is opened again.
//!
//! Callers: the street records through [`Ledger::record`], everybody else through [`Ledger::append`] and
//! [`Ledger::note`]; readers and followers use [`LedgerReader`]. Nothing else writes below `DIR/ledger`.

pub(crate) mod checkpoint;
pub(crate) mod disk;
mod error;
pub(crate) mod frame;
mod journal;
mod open;
mod position;
mod reader;
mod recorded;
mod recover;
pub(crate) mod rotate;
pub mod salvage;
mod scan;
mod shared;
#[cfg(test)]
pub(crate) mod simulated;
#[cfg(test)]
mod steps;
pub(crate) mod tiles;
pub(crate) mod views;
mod writer;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{Notify, mpsc, oneshot, watch};

pub use checkpoint::{Checkpoint, CheckpointError, CheckpointKey, VerifierKey};
pub use error::{Damage, LedgerError};
pub use journal::Priority;
pub use open::{LedgerLimits, LedgerOptions, OpenReport};
pub use position::{Position, PositionError};
pub use reader::{LedgerReader, LogInfo, MOST_READ};
pub use recorded::{Describable, Recorded};
pub use recover::Recovery;
pub use rotate::SnapshotSource;
pub use shared::{CommitObserver, Heads, Health};
pub use tiles::{TileKind, TileName};
pub use writer::MOST_RECORDS;

use self::rotate::{SnapshotSlot, leaf};
use self::shared::Shared;
use self::writer::{Command, Request};
use super::event::{Action, Event, Outcome, Recorder};
use crate::clock::Clock;

/// The open ledger; cheap to clone. When the last clone is dropped without [`Ledger::close`], the threads end as if the
/// process had been killed: nothing acknowledged is lost, and the next opening recovers.
#[derive(Clone)]
pub struct Ledger(Arc<Inner>);

struct Inner {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    reader: LedgerReader,
    snapshot: SnapshotSlot,
    noted: Arc<Notify>,
    clock: Clock,
    recorder: Recorder,
    /// What a batch may weigh, in bytes.
    largest_batch: usize,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Lets the task that flushes notes see that nobody is left.
        self.noted.notify_one();
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("reader", &self.0.reader).finish_non_exhaustive()
    }
}

impl Ledger {
    /// Makes one record durable and says where it is.
    ///
    /// # Errors
    /// [`LedgerError::Full`], [`LedgerError::Failed`], [`LedgerError::Closed`] or [`LedgerError::Record`]; after an
    /// error other than the first and the last the record may be found by the next opening all the same.
    pub async fn append(&self, event: Event) -> Result<Position, LedgerError> {
        let mut positions = self.append_batch(std::slice::from_ref(&event)).await?;
        positions.pop().ok_or(LedgerError::Closed)
    }

    /// Makes several records durable in one commit, in this order.
    ///
    /// # Errors
    /// As [`Ledger::append`], and [`LedgerError::Batch`] for more than one commit takes.
    pub async fn append_batch(&self, events: &[Event]) -> Result<Vec<Position>, LedgerError> {
        // Serialised and hashed here, in the caller's task: the one writer has enough to do.
        let leaves = events.iter().map(leaf).collect::<Result<Vec<_>, _>>()?;
        let bytes: usize = leaves.iter().map(|leaf| leaf.bytes.len() + 2).sum();
        if leaves.len() > MOST_RECORDS || (leaves.len() > 1 && bytes > self.0.largest_batch) {
            let (count, most_bytes) = (leaves.len(), self.0.largest_batch);
            return Err(LedgerError::Batch { count, bytes, most: MOST_RECORDS, most_bytes });
        }
        let priority = events.iter().map(|event| Priority::of(event.action)).min().unwrap_or(Priority::Ordinary);
        let (reply, answer) = oneshot::channel();
        self.send(Command::Append(Request { leaves, priority, reply })).await?;
        let (log, first) = answer.await.map_err(|_| self.gone())??;
        Ok((first..).take(events.len()).map(|index| Position { log: Arc::clone(&log), index }).collect())
    }

    /// Hands a record over that nobody waits for: it rides with the next commit, or goes by itself after 10 ms. One
    /// that cannot be written is logged and counted, never waited for.
    pub fn note(&self, event: &Event) {
        match leaf(event) {
            Ok(leaf) => {
                if self.0.shared.note(leaf) {
                    self.0.noted.notify_one();
                }
            }
            Err(error) => {
                self.0.shared.notes_lost.fetch_add(1, Ordering::Relaxed);
                tracing::error!(action = event.action.as_str(), %error, "a note to the ledger was lost");
            }
        }
    }

    /// How many notes were lost in this run: for metrics.
    #[must_use]
    pub fn notes_lost(&self) -> u64 {
        self.0.shared.notes_lost.load(Ordering::Relaxed)
    }

    /// Sets what goes into a new year's log; until it is set no log is closed. Only the first call counts.
    pub fn set_snapshot_source(&self, source: SnapshotSource) {
        if self.0.snapshot.set(source).is_err() {
            tracing::warn!("the ledger already has a snapshot source");
        }
    }

    /// From now on `observer` is told how long each commit took: one append and one `fdatasync`. Only the first counts.
    pub fn observe_commits(&self, observer: CommitObserver) {
        if self.0.shared.commit_observer.set(observer).is_err() {
            tracing::warn!("the ledger's commits are already observed");
        }
    }

    /// The newest published checkpoint.
    #[must_use]
    pub fn heads(&self) -> watch::Receiver<Heads> {
        self.0.shared.heads.subscribe()
    }

    /// Whether the ledger takes records: readiness depends on it.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.0.shared.health.subscribe()
    }

    /// A handle for reading.
    #[must_use]
    pub fn reader(&self) -> LedgerReader {
        self.0.reader.clone()
    }

    /// Ends cleanly: waiting notes, `ledger.stop`, synced tiles and a final checkpoint. Everything sent later gets
    /// [`LedgerError::Closed`].
    ///
    /// # Errors
    /// When that was not possible; the next opening then recovers.
    pub async fn close(&self) -> Result<(), LedgerError> {
        let stop = self.0.recorder.event(Action::LedgerStop, Outcome::Success, self.0.clock.now());
        let (reply, answer) = oneshot::channel();
        self.send(Command::Stop(leaf(&stop)?, reply)).await?;
        let outcome = answer.await.map_err(|_| self.gone())?;
        self.0.noted.notify_one();
        outcome
    }

    async fn send(&self, command: Command) -> Result<(), LedgerError> {
        self.0.commands.send(command).await.map_err(|_| self.gone())
    }

    fn gone(&self) -> LedgerError {
        self.0.shared.failure().unwrap_or(LedgerError::Closed)
    }
}

#[cfg(test)]
mod tests;
