//! Keeps the index in step with the ledger.
//!
//! At start it catches up before anything is served, because authorities and held certificates are read from it; then it
//! follows. An index that is of another ledger, ahead of it or damaged is emptied and replayed: that costs time, never a
//! record.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::audit::event::Event;
use crate::audit::follow::{FollowError, Follower};
use crate::audit::ledger::{LedgerError, LedgerReader, Position};
use crate::clock::Clock;
use crate::store::{Entry, Store, StoreError};
use crate::telemetry::Metrics;

/// How often what was read is made to survive a crash, so that the next start replays no more than this.
const SYNC_EVERY: Duration = Duration::from_secs(5);

/// How long records gather for the next batch after one of more than a single record: a batch costs more than a record,
/// and a quiet server's index follows at once.
const GATHER: Duration = Duration::from_millis(5);

/// The same while records come in masses: no one certificate is waited for then.
const GATHER_MASSES: Duration = Duration::from_millis(20);

/// Records of one batch that are masses.
const MASSES: usize = 128;

/// How long after a failure the index is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Why the index could not be brought up to the ledger.
#[derive(Debug, thiserror::Error)]
pub enum ProjectionError {
    /// The index failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger could not be followed.
    #[error(transparent)]
    Follow(#[from] FollowError),
}

impl From<LedgerError> for ProjectionError {
    fn from(error: LedgerError) -> Self {
        Self::Follow(error.into())
    }
}

/// The index and its way along the ledger.
#[derive(Debug)]
pub struct Projection {
    reader: LedgerReader,
    store: Arc<dyn Store>,
    follower: Follower,
    applied: Arc<AtomicU64>,
    metrics: Option<Metrics>,
}

impl Projection {
    /// Begins where the index stopped, or anew where it does not fit the ledger.
    ///
    /// # Errors
    /// [`ProjectionError`].
    pub fn open(reader: LedgerReader, store: Arc<dyn Store>) -> Result<Self, ProjectionError> {
        let cursor = match place(&reader, &*store)? {
            Place::Fits(cursor) => cursor,
            Place::Foreign(why) => {
                warn!(why, "the index is of another ledger: replaying");
                store.reset()?;
                None
            }
        };
        let follower = Follower::open(reader.clone(), cursor)?;
        Ok(Self { reader, store, follower, applied: Arc::default(), metrics: None })
    }

    /// How many records this run has applied: for tests and metrics.
    #[must_use]
    pub fn applied(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.applied)
    }

    /// Counts every record from here on into `metrics`; those before are of earlier runs.
    pub fn count_into(&mut self, metrics: Metrics) {
        self.metrics = Some(metrics);
    }

    /// Applies all that is durable now.
    ///
    /// # Errors
    /// [`ProjectionError`].
    pub fn catch_up(&mut self) -> Result<(), ProjectionError> {
        loop {
            let batch = self.follower.batch_now()?;
            if batch.is_empty() {
                self.store.sync()?;
                return Ok(());
            }
            self.apply(&batch)?;
        }
    }

    /// Follows until `stopping`, then catches up once more.
    pub async fn follow(mut self, clock: Clock, stopping: CancellationToken) {
        let mut synced = clock.monotonic();
        loop {
            let batch = tokio::select! {
                biased;
                batch = self.follower.next_batch() => batch.map_err(ProjectionError::from),
                () = stopping.cancelled() => break,
            };
            let pause = batch.as_ref().map_or(Duration::ZERO, |batch| pause_after(batch.len()));
            match batch.and_then(|batch| Ok(self.apply(&batch)?)) {
                Ok(()) if clock.monotonic() - synced < SYNC_EVERY => {}
                Ok(()) => {
                    synced = clock.monotonic();
                    if let Err(failure) = self.store.sync() {
                        error!(error = %failure, "the index could not be synced; a restart replays more");
                    }
                }
                Err(failure) => {
                    error!(error = %failure, "the index does not follow the ledger; trying again");
                    clock.sleep(RETRY).await;
                    self.begin_again();
                }
            }
            if !pause.is_zero() {
                // Of the machine and not of the clock: a simulated hour shall not stand still for it.
                let _ = tokio::time::timeout(pause, stopping.cancelled()).await;
            }
        }
        if let Err(failure) = self.catch_up() {
            warn!(error = %failure, "the index is behind the ledger; the next start catches up");
        }
    }

    fn begin_again(&mut self) {
        match Self::open(self.reader.clone(), Arc::clone(&self.store)) {
            Ok(again) => self.follower = again.follower,
            Err(failure) => error!(error = %failure, "the index cannot be opened again"),
        }
    }

    fn apply(&self, batch: &[(Position, Event)]) -> Result<(), StoreError> {
        let entry = |(position, event)| -> Entry<'_> {
            let position: &Position = position;
            Entry { log: &position.log, index: position.index, event }
        };
        let entries: Vec<Entry<'_>> = batch.iter().map(|(position, event)| entry((position, event))).collect();
        self.store.apply(&entries)?;
        if let Some(metrics) = &self.metrics {
            entries.iter().for_each(|entry| metrics.recorded(entry.event));
        }
        self.applied.fetch_add(u64::try_from(entries.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
        Ok(())
    }
}

/// How long records gather after a batch of so many.
fn pause_after(records: usize) -> Duration {
    match records {
        0 | 1 => Duration::ZERO,
        2..MASSES => GATHER,
        _ => GATHER_MASSES,
    }
}

/// How an index and a ledger fit together.
enum Place {
    /// The first record that is not applied; `None` for an empty index.
    Fits(Option<Position>),
    /// They do not, for this reason.
    Foreign(&'static str),
}

fn place(reader: &LedgerReader, store: &dyn Store) -> Result<Place, ProjectionError> {
    let cursors = store.cursor()?;
    let logs = reader.logs();
    let mut last = None;
    for log in &logs {
        let Some(cursor) = cursors.get(&*log.origin) else { continue };
        if cursor.next > log.size {
            return Ok(Place::Foreign("it is ahead of the ledger"));
        }
        let before = cursor.next.saturating_sub(1);
        let leaf = reader.read(&log.origin, before..cursor.next)?.into_iter().next();
        let same = leaf.and_then(|(_, leaf)| Event::from_leaf(&leaf).ok()).is_some_and(|e| e.salt == cursor.last_salt);
        if !same {
            return Ok(Place::Foreign("its last record is another one"));
        }
        last = Some(Position { log: Arc::clone(&log.origin), index: cursor.next });
    }
    let known = cursors.keys().all(|origin| logs.iter().any(|log| *log.origin == **origin));
    Ok(if known { Place::Fits(last) } else { Place::Foreign("it knows a log that the ledger does not have") })
}
