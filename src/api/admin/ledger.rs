//! The real ledger behind [`LedgerAccess`].

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use tonic::Status;

use super::backend::{Head, LedgerAccess, Receipt};
use crate::audit::event::{Event, Sealed};
use crate::audit::ledger::{Health, Ledger, LedgerError, LedgerReader, MOST_READ, Position};
use crate::audit::personal::ErasurePool;
use crate::clock::Clock;

/// The ledger and the keys of what names persons in it.
#[derive(Debug)]
pub struct LedgerDoor {
    ledger: Ledger,
    reader: LedgerReader,
    personal: Arc<ErasurePool>,
    clock: Clock,
}

impl LedgerDoor {
    /// Opens the door to `ledger`.
    #[must_use]
    pub fn new(ledger: Ledger, personal: Arc<ErasurePool>, clock: Clock) -> Self {
        Self { reader: ledger.reader(), ledger, personal, clock }
    }
}

impl LedgerAccess for LedgerDoor {
    fn append(&self, event: Event) -> BoxFuture<'_, Result<String, Status>> {
        async move { self.ledger.append(event).await.map(|position| position.to_string()).map_err(|error| status(&error)) }
            .boxed()
    }

    fn logs(&self) -> Vec<(String, u64)> {
        self.reader.logs().into_iter().map(|log| (log.origin.to_string(), log.size)).collect()
    }

    fn head(&self) -> Head {
        let heads = self.ledger.heads();
        let published = heads.borrow();
        let health = match &*self.ledger.health().borrow() {
            Health::Ok => "ok",
            Health::Full { .. } => "full",
            Health::Failed { .. } => "failed",
        };
        let size = self.reader.logs().last().map_or(published.size, |log| log.size);
        let checkpoint_at = (!published.checkpoint.is_empty()).then_some(published.time);
        Head { origin: published.origin.to_string(), size, checkpoint_at, health: health.to_owned() }
    }

    fn moved<'a>(&'a self, size: u64, at_most: Duration) -> BoxFuture<'a, ()> {
        async move {
            // Subscribed before looking, so that a commit between the two is not slept through.
            let mut committed = self.reader.committed();
            committed.mark_unchanged();
            if self.reader.logs().last().is_some_and(|log| log.size != size) {
                return;
            }
            tokio::select! {
                _ = committed.changed() => {}
                () = self.clock.sleep(at_most) => {}
            }
        }
        .boxed()
    }

    fn read<'a>(&'a self, origin: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Vec<Vec<u8>>, Status>> {
        async move {
            let range = range.start..range.end.min(range.start.saturating_add(MOST_READ));
            let records = self.reader.read(origin, range).map_err(|error| status(&error))?;
            Ok(records.into_iter().map(|(_, leaf)| leaf.to_vec()).collect())
        }
        .boxed()
    }

    fn prove<'a>(&'a self, origin: &'a str, index: u64) -> BoxFuture<'a, Result<Receipt, Status>> {
        async move {
            let position = Position { log: Arc::from(origin), index };
            let receipt = self.reader.proof(&position).await.map_err(|error| status(&error))?;
            let size = receipt.checkpoint.lines().nth(1).and_then(|line| line.parse().ok());
            Ok(Receipt { text: receipt.to_string(), checkpoint_size: size.unwrap_or_default() })
        }
        .boxed()
    }

    fn seal(&self, name: &str) -> Option<Sealed> {
        // The subject is the operator: erasing one erases the name from every record of theirs.
        let sealed = self.personal.seal(&format!("operator:{name}"), name);
        sealed.inspect_err(|error| tracing::error!(%error, "an operator's name could not be sealed: left out")).ok()
    }

    fn unseal(&self, sealed: &Sealed) -> Option<String> {
        self.personal.open_value(sealed).ok()
    }
}

/// An operator may know what is wrong with the ledger.
fn status(error: &LedgerError) -> Status {
    match error {
        LedgerError::Full { .. } | LedgerError::Failed { .. } | LedgerError::Closed => {
            Status::unavailable(error.to_string())
        }
        LedgerError::NoRecord { .. } | LedgerError::NoLog { .. } => Status::not_found(error.to_string()),
        LedgerError::Io { .. }
        | LedgerError::Locked { .. }
        | LedgerError::Corrupt { .. }
        | LedgerError::Record(_)
        | LedgerError::OtherCertificate
        | LedgerError::Batch { .. }
        | LedgerError::OtherOrigin { .. }
        | LedgerError::OtherKey { .. }
        | LedgerError::KeyForm
        | LedgerError::Option { .. } => Status::internal(error.to_string()),
    }
}
