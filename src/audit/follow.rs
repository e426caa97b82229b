//! Reading along: every record of every log, in order, from a cursor.
//!
//! Followers pull, so a slow one delays nobody. A record is seen as soon as it is durable, exactly once per cursor;
//! whoever keeps a cursor across restarts stores [`Follower::cursor`] after it has handled a batch. Callers are the
//! store's projection, `audit tail`, and later the sinks. Nothing here writes.

use std::sync::Arc;

use tokio::sync::watch;

use super::event::{Event, EventError};
use super::ledger::{LedgerError, LedgerReader, MOST_READ, Position};

/// Why there is no next batch.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The ledger can't be read, or the cursor names a log that it does not have.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A record is not of this schema.
    #[error("record {position}: {source}; was it written by a newer chancery?")]
    Record {
        /// Which.
        position: Position,
        /// Why not.
        #[source]
        source: EventError,
    },
}

/// A place in the ledger that moves forward.
#[derive(Debug)]
pub struct Follower {
    reader: LedgerReader,
    next: Option<Position>,
    committed: watch::Receiver<u64>,
}

impl Follower {
    /// Begins at `cursor`, the first record not seen yet, or at the first record of the oldest log.
    ///
    /// # Errors
    /// [`LedgerError::NoLog`] when the cursor is of another ledger.
    pub fn open(reader: LedgerReader, cursor: Option<Position>) -> Result<Self, LedgerError> {
        if let Some(cursor) = &cursor {
            reader.log(&cursor.log)?;
        }
        let mut committed = reader.committed();
        committed.mark_changed();
        Ok(Self { reader, next: cursor, committed })
    }

    /// Where the next batch begins; `None` before the first record of an empty ledger.
    #[must_use]
    pub fn cursor(&self) -> Option<&Position> {
        self.next.as_ref()
    }

    /// What is there now, at most 1,024 records of one log; empty when all is seen.
    ///
    /// # Errors
    /// Every variant of [`FollowError`]; the cursor then stays.
    pub fn batch_now(&mut self) -> Result<Vec<(Position, Event)>, FollowError> {
        loop {
            let logs = self.reader.logs();
            let Some(first) = logs.first() else { return Ok(Vec::new()) };
            let at = self.next.clone().unwrap_or_else(|| Position { log: Arc::clone(&first.origin), index: 0 });
            let found = self.reader.read(&at.log, at.index..at.index.saturating_add(MOST_READ))?;
            if let Some((last, _)) = found.last() {
                let next = Position { log: Arc::clone(&last.log), index: last.index + 1 };
                let events = found.into_iter().map(|(position, leaf)| match Event::from_leaf(&leaf) {
                    Ok(event) => Ok((position, event)),
                    Err(source) => Err(FollowError::Record { position, source }),
                });
                let events = events.collect::<Result<Vec<_>, _>>()?;
                self.next = Some(next);
                return Ok(events);
            }
            // A log with a successor has ended: the list was taken before the read, and a log ends before its
            // successor is listed.
            let behind = logs.iter().skip_while(|log| log.origin != at.log).nth(1);
            match behind {
                Some(log) => self.next = Some(Position { log: Arc::clone(&log.origin), index: 0 }),
                None => return Ok(Vec::new()),
            }
        }
    }

    /// The next records, waiting until there are some. Cancelling it loses nothing.
    ///
    /// # Errors
    /// As [`Follower::batch_now`].
    pub async fn next_batch(&mut self) -> Result<Vec<(Position, Event)>, FollowError> {
        loop {
            self.committed.mark_unchanged();
            let batch = self.batch_now()?;
            if !batch.is_empty() {
                return Ok(batch);
            }
            self.committed.changed().await.map_err(|_| LedgerError::Closed)?;
        }
    }
}
