//! The proof that a draft is durable in the ledger: what a signature costs.

use super::{Ledger, LedgerError, Position};
use crate::audit::event::{Action, Event};
use crate::x509::crl::CrlDraft;
use crate::x509::draft::{Draft, RequestDraft};

/// What can be recorded and then signed: the draft of a certificate, of a CRL, or of a request for a CA certificate.
pub trait Describable {
    /// Whether `event` says what this is.
    fn is_described_by(&self, event: &Event) -> bool;
}

impl Describable for Draft {
    fn is_described_by(&self, event: &Event) -> bool {
        event.certificate.as_ref() == Some(self.facts())
    }
}

impl Describable for CrlDraft {
    fn is_described_by(&self, event: &Event) -> bool {
        event.crl.as_ref() == Some(self.facts())
    }
}

impl Describable for RequestDraft {
    fn is_described_by(&self, event: &Event) -> bool {
        event.action == Action::CaPrepare && event.authority.as_ref().is_some_and(|facts| facts.key_id == self.key_id())
    }
}

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
pub struct Recorded<D = Draft> {
    draft: D,
    position: Position,
}

impl<D> Recorded<D> {
    /// The record.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// For `ca::sign` alone: the bytes to sign, and the record that says so.
    pub(crate) fn into_parts(self) -> (D, Position) {
        (self.draft, self.position)
    }
}

impl Ledger {
    /// Makes the authorisation of one certificate or CRL durable.
    ///
    /// # Errors
    /// [`LedgerError::OtherCertificate`] when the record describes another one, else as [`Ledger::append`].
    pub async fn record<D: Describable>(&self, draft: D, event: Event) -> Result<Recorded<D>, LedgerError> {
        if !draft.is_described_by(&event) {
            return Err(LedgerError::OtherCertificate);
        }
        let position = self.append(event).await?;
        Ok(Recorded { draft, position })
    }
}
