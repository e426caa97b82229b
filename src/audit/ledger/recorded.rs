//! The proof that a draft is durable in the ledger: what a signature costs.

use super::{Ledger, LedgerError, Position};
use crate::audit::event::Event;
use crate::x509::draft::Draft;

/// A draft whose record is durable.
///
/// Only [`Ledger::record`] makes one; its fields are private and it is not `Clone`, so each record buys one signature:
/// ```compile_fail,E0382
/// fn spend(_: chancery::audit::ledger::Recorded) {}
/// fn twice(recorded: chancery::audit::ledger::Recorded) {
///     spend(recorded);
///     spend(recorded);
/// }
/// ```
#[derive(Debug)]
pub struct Recorded {
    draft: Draft,
    position: Position,
}

impl Recorded {
    /// The record.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// For `ca::sign` alone: the bytes to sign, and the record that says so.
    pub(crate) fn into_parts(self) -> (Draft, Position) {
        (self.draft, self.position)
    }
}

impl Ledger {
    /// Makes the authorisation of one certificate durable.
    ///
    /// # Errors
    /// [`LedgerError::OtherCertificate`] when the record describes another certificate, else as [`Ledger::append`].
    pub async fn record(&self, draft: Draft, event: Event) -> Result<Recorded, LedgerError> {
        if event.certificate.as_ref() != Some(draft.facts()) {
            return Err(LedgerError::OtherCertificate);
        }
        let position = self.append(event).await?;
        Ok(Recorded { draft, position })
    }
}
