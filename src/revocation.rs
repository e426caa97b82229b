//! Numbers and signs CRLs, and revokes: record first, then the CRL, then one push to everyone.

use tokio::sync::mpsc;

use crate::audit::event::Event;
use crate::audit::ledger::{LedgerError, Position};
use crate::identity::SpiffeId;
use crate::store::StoreError;
use crate::x509::crl::Reason;

/// Which certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All live ones of a SPIFFE ID, which stays denied.
    Identity(SpiffeId),
    /// All live ones whose SPIFFE ID begins with this (without `*`), and these stay denied.
    Prefix(String),
    /// One, by its whole serial.
    Serial(String),
    /// These, by their whole serials: what is left of certificates whose holders were given others already. Serials that
    /// are revoked already, or are unknown, are passed over; [`RevokeError::Nothing`] when none is left.
    Serials(Vec<String>),
    /// All live ones of the issuer with this key id, hex.
    Issuer(String),
    /// All live ones.
    All,
}

/// A revocation to carry out.
#[derive(Debug, Clone)]
pub struct Order {
    /// Which certificates.
    pub selection: Selection,
    /// Why.
    pub reason: Reason,
    /// Actor, source, request id and change (`what`: `cert.revoke`) of every record; action and subject are set here.
    pub template: Event,
}

/// How far a revocation is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Durable from here on: the first and the last record, how many certificates, and what is denied.
    Recorded { first: Position, last: Position, revoked: u64, denied: Option<String> },
    /// The CRLs that changed.
    Signed { crls: Vec<CrlState> },
    /// The bundle with them is what every stream is sent.
    Published { bundle_version: String },
}

/// The CRL of one authority.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CrlState {
    /// The authority: `issuing 3`.
    pub issuer: String,
    /// Its subject key identifier, hex.
    pub issuer_key_id: String,
    /// Its number.
    pub number: u64,
    /// How many certificates are on it.
    pub entries: u64,
    /// RFC 3339.
    pub this_update: String,
    /// RFC 3339.
    pub next_update: String,
    /// Its record, by id; empty for one that could not be recorded yet.
    pub record: String,
}

/// Why nothing, or not all, was revoked.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// Nothing live is selected and nothing is there to deny.
    #[error("no live certificate is selected: chancery cert list")]
    Nothing,
    /// The serial's certificate is revoked already.
    #[error("{serial} is revoked already, by {record}")]
    AlreadyRevoked { serial: String, record: String },
    /// The identity is denied already and has no live certificate.
    #[error("{pattern} is denied already, by {record}, and has no live certificate")]
    AlreadyDenied { pattern: String, record: String },
    /// Nothing of that pattern is denied.
    #[error("{pattern} is not denied: chancery cert list --denied shows what is")]
    NotDenied { pattern: String },
    /// The ledger took no record, so nothing was revoked.
    #[error("nothing was revoked, because it could not be recorded: {0}")]
    Ledger(#[from] LedgerError),
    /// The index does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is recorded and in force here, but a CRL could not be signed; that is tried again.
    #[error(
        "recorded and in force on this server, but no CRL could be signed: {0}; it is tried again every few seconds"
    )]
    Sign(String),
}

/// Carries revocations out; cheap to clone.
#[derive(Debug, Clone)]
pub struct Revoker;

impl Revoker {
    /// Revokes, and tells each step as it is done. Complete when it returns; what was recorded stays in force.
    ///
    /// # Errors
    /// [`RevokeError`].
    pub async fn revoke(&self, _order: Order, _told: mpsc::Sender<Step>) -> Result<(), RevokeError> {
        Err(RevokeError::Nothing)
    }

    /// Lifts the deny of exactly `pattern`; its record.
    ///
    /// # Errors
    /// [`RevokeError::NotDenied`], [`RevokeError::Ledger`].
    pub async fn release(&self, pattern: &str, _template: Event) -> Result<Position, RevokeError> {
        Err(RevokeError::NotDenied { pattern: pattern.to_owned() })
    }

    /// The CRL of each authority.
    #[must_use]
    pub fn crls(&self) -> Vec<CrlState> {
        Vec::new()
    }
}
