//! Where the feed gets certificates from: a narrow trait that the issuing street fills.
//!
//! The feed asks for one certificate at a time and is told no in words that are safe to pass on: what a caller may not
//! know (which rules came closest, why the ledger is full) is recorded behind the trait and never returned by it. The
//! tests of this layer put a fake behind it; the program puts the street.

use std::time::Duration;

use futures::future::BoxFuture;
use time::OffsetDateTime;
use tokio::sync::watch;

use crate::attest::AttestError;
use crate::ca::standing::Standing;
use crate::caller::Caller;
use crate::identity::SpiffeId;
use crate::secret::SecretBytes;

pub use crate::ca::issue::{Follows, Nacked as Nack, RenewalCause};
pub use crate::policy::Wanted;

/// Who asks for what: one subscription of one stream.
#[derive(Debug, Clone)]
pub struct Asker {
    /// Attested.
    pub caller: Caller,
    /// The proxy's own label, cleaned and bounded; not attested.
    pub node: Option<String>,
    /// The secret's name as it was asked for, bounded.
    pub secret_name: String,
    /// Hex; the records of one request share it.
    pub request_id: String,
}

/// A certificate with its key, on its way to its one owner.
#[derive(Debug)]
pub struct Certificate {
    /// PEM: leaf, issuing CA, without the root.
    pub chain_pem: Vec<u8>,
    /// PEM, PKCS#8.
    pub key_pem: SecretBytes,
    /// What is known of it without its key.
    pub held: Held,
}

/// What the feed remembers of a certificate that a proxy holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its identity.
    pub identity: SpiffeId,
    /// Its serial, as records spell it.
    pub serial: String,
    /// SHA-256(SHA-256(leaf TBS) ‖ SHA-256(chain DER)), hex.
    pub version: String,
    /// From when it is valid.
    pub not_before: OffsetDateTime,
    /// Until when it is valid.
    pub not_after: OffsetDateTime,
    /// When the next one is due: a point of its own life, jittered for it alone.
    pub renew_at: OffsetDateTime,
    /// The rule that granted it.
    pub rule: String,
}

/// How a certificate stands that a proxy says it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holding {
    /// It was recorded by us, lives, and would be granted again.
    Stands(Held),
    /// It alone was revoked, not its identity: whoever holds it is cut off until it would have ended.
    Revoked {
        /// Its serial.
        serial: String,
        /// Its end.
        until: OffsetDateTime,
    },
    /// Not theirs, not ours, ended, or no longer granted: a new one must be issued.
    Unknown,
}

/// What the feed refuses by itself, before policy is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedRefusal {
    /// The caller holds as many certificates as the configuration allows.
    TooManyCertificates {
        /// `max_certificates_per_caller`.
        limit: usize,
    },
    /// The caller was given new certificates faster than the configuration allows.
    TooManyIssues {
        /// `issue_rate_per_caller`.
        rate: u32,
        /// `issue_burst_per_caller`.
        burst: u32,
    },
    /// The caller has as many streams as the configuration allows.
    TooManyStreams {
        /// `max_streams_per_caller`.
        limit: usize,
    },
    /// The name is none that this server knows how to answer: no configured name, no SPIFFE ID, no trust domain.
    UnknownName,
}

/// Why there is no certificate. None of these texts says more than the caller may know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// No rule matches the caller at all: its stream ends.
    #[error("no policy rule grants this caller anything; ask the operator to run: chancery policy explain")]
    NoRule,
    /// Rules match the caller, but none grants this name: its stream stays open until policy does.
    #[error("no policy rule grants this caller that name; ask the operator to run: chancery policy explain")]
    NotGranted,
    /// An operator denied the identity, or revoked the caller's certificate: its stream stays open until that is lifted.
    #[error(
        "this identity is denied, or this caller's certificate is revoked; ask the operator: chancery cert release"
    )]
    Denied,
    /// The caller renewed its own certificate for as long as its rule allows: it has to be attested anew.
    #[error(
        "this client certificate has renewed itself for as long as policy allows; get the next one by fresh \
         attestation, as with chancery cert issue"
    )]
    Reattest,
    /// What was asked for can't be had in this form, whoever asks.
    #[error("{0}")]
    Invalid(String),
    /// Nothing is wrong with the request: the server can't issue at this moment. Try again.
    #[error("the server cannot issue certificates at this moment; what was issued stays valid, and it is tried again")]
    Unavailable {
        /// The earliest that asking again makes sense, where that is known.
        retry_after: Option<Duration>,
    },
}

/// The issuing street, as the feed sees it.
///
/// Contract: when [`issue`](Self::issue) returns a certificate, its record is durable; each refusal is recorded (or
/// counted into a coalesced record) before its error is returned. Every method may be called from any number of tasks
/// at once, and dropping a returned future at any point is safe: at worst a certificate is recorded that nobody holds.
/// Nothing here retries; the feed does.
pub trait SecretSource: Send + Sync + 'static {
    /// Whether any rule matches the caller. A refusal is recorded with the rules that came closest.
    ///
    /// # Errors
    /// [`SourceError::NoRule`], [`SourceError::Unavailable`].
    fn admit<'a>(&'a self, asker: &'a Asker) -> BoxFuture<'a, Result<(), SourceError>>;

    /// Grants, records, signs: a new key and its certificate.
    ///
    /// # Errors
    /// Any [`SourceError`].
    fn issue<'a>(
        &'a self,
        asker: &'a Asker,
        wanted: &'a Wanted,
        follows: Option<Follows>,
    ) -> BoxFuture<'a, Result<Certificate, SourceError>>;

    /// How the certificate of that version stands, as far as it is of this caller's account and this secret name.
    fn held<'a>(&'a self, asker: &'a Asker, wanted: &'a Wanted, version: &'a str) -> BoxFuture<'a, Holding>;

    /// Whether [`issue`](Self::issue) would answer [`SourceError::Denied`]; records nothing.
    fn is_denied(&self, asker: &Asker, wanted: &Wanted) -> bool;

    /// Who is denied and what is revoked.
    fn standing(&self) -> &Standing;

    /// Records that a proxy refused a push.
    fn nack<'a>(&'a self, asker: &'a Asker, nack: Nack) -> BoxFuture<'a, ()>;

    /// Records (or counts) what the feed refused.
    fn refused<'a>(&'a self, asker: &'a Asker, refusal: FeedRefusal) -> BoxFuture<'a, ()>;

    /// Records that the process at the other end of a socket could not be identified.
    fn unattested<'a>(&'a self, socket: &'a str, why: &'a AttestError) -> BoxFuture<'a, ()>;

    /// A number that changes whenever policy may answer differently than before.
    fn policy(&self) -> watch::Receiver<u64>;
}
