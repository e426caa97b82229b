//! What is asked of the street and what comes back, in types.
//!
//! Public through [`super::issue`], where the story is. Nothing here does anything.

use time::OffsetDateTime;

use super::sign::SignError;
use super::standing::Barred;
use crate::audit::ledger::{LedgerError, Position};
use crate::identity::SpiffeId;
use crate::keys::KeyError;
use crate::keys::leaf::LeafKey;
use crate::policy::{Refusal, Wanted};
use crate::x509::csr::{Csr, CsrError};
use crate::x509::draft::DraftError;

/// Who the certificate is for, in the words of the request.
#[derive(Debug, Clone, Default)]
pub struct RequestContext {
    /// The name of the secret, where the protocol has one.
    pub secret_name: Option<String>,
    /// The proxy's own label; not attested.
    pub node: Option<String>,
    /// Shared by the records of one request.
    pub request_id: String,
    /// The caller's trace, where it sent one.
    pub trace_id: Option<String>,
}

/// A certificate that the new one follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follows {
    /// Its serial, hex.
    pub serial: String,
    /// Why it is followed.
    pub cause: RenewalCause,
}

/// Why a certificate is renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RenewalCause {
    /// Its time had come.
    Scheduled,
    /// An operator asked for it.
    Forced,
}

impl RenewalCause {
    /// The word in records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Forced => "forced",
        }
    }
}

/// Whose key the certificate binds.
#[derive(Debug)]
pub enum KeyRequest {
    /// One that is made here for the one proxy that asked.
    ServerMade,
    /// The key of this request, which its holder never shows.
    Csr(Box<Csr>),
}

/// A request for one certificate.
#[derive(Debug)]
pub struct IssueRequest {
    /// Which identity.
    pub wanted: Wanted,
    /// Whose key.
    pub key: KeyRequest,
    /// What it follows, if it is a renewal.
    pub follows: Option<Follows>,
    /// For the record.
    pub context: RequestContext,
}

/// A certificate on its way to its one owner.
#[derive(Debug)]
pub struct Issued {
    /// Leaf first, then the issuing CA and what stands between it and the root; DER, no root.
    pub chain: Vec<Vec<u8>>,
    /// The private key, when it was made here; it leaves to its owner and is then forgotten.
    pub key: Option<LeafKey>,
    /// The identity in it.
    pub identity: SpiffeId,
    /// Hex.
    pub serial: String,
    /// First second of validity.
    pub not_before: OffsetDateTime,
    /// Last second of validity.
    pub not_after: OffsetDateTime,
    /// When its successor should be asked for; jittered for this certificate alone.
    pub renew_at: OffsetDateTime,
    /// Names content and chain, stable across restarts.
    pub version: String,
    /// The rule that granted it.
    pub rule: String,
    /// The record that authorised it.
    pub position: Position,
}

/// What a proxy refused, and what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nacked {
    /// The version it refused.
    pub version: String,
    /// The certificate's serial, where it was a certificate.
    pub serial: Option<String>,
    /// The certificate's identity, where it was a certificate.
    pub identity: Option<SpiffeId>,
    /// What the proxy said: foreign text, cleaned and bounded by the edge.
    pub text: String,
}

/// Someone at the other end of a connection who could not be attested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unattested {
    /// The way in: `unix` or `tls`.
    pub transport: &'static str,
    /// The listener's name.
    pub listener: String,
    /// What its certificate says, where an authority of ours signed it; whoever shows it need not be its holder.
    pub identity: Option<SpiffeId>,
    /// The certificate's serial, likewise.
    pub serial: Option<String>,
    /// Why, in words that no stranger chooses: refusals are counted by them.
    pub why: String,
}

impl Unattested {
    /// What its refusals are counted by.
    pub(super) fn account(&self) -> String {
        match &self.identity {
            None => format!("{}:{}", self.transport, self.listener),
            Some(identity) => format!("{}:{}:{identity}", self.transport, self.listener),
        }
    }
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// Policy said no; the reasons are in the ledger and in `policy explain`, not for the caller.
    #[error("refused by policy")]
    Refused(Refusal),
    /// An operator denied the identity, or revoked the caller's own certificate.
    #[error("refused: {0}")]
    Barred(Barred),
    /// The caller's certificate goes back to an attestation that the rule finds too old.
    #[error(
        "refused: the client certificate goes back to an attestation at {attested_at}, and the rule wants one every \
         {limit}: get the next one by fresh attestation, over a Unix socket or with chancery cert issue"
    )]
    Reattest {
        /// RFC 3339.
        attested_at: String,
        /// `reattest_after` of the rule that would have granted.
        limit: String,
    },
    /// The request itself is at fault.
    #[error("the certificate request cannot be used: {0}")]
    Request(#[from] CsrError),
    /// There is no authority that may sign now.
    #[error("no issuing authority is active: chancery ca show, chancery doctor")]
    NoAuthority,
    /// The profile, the grant and the authority's time do not fit together.
    #[error("no certificate can be prepared: {0}")]
    Draft(#[from] DraftError),
    /// A key could not be made.
    #[error("no key could be made: {0}")]
    Key(#[from] KeyError),
    /// The ledger does not take records, so nothing is issued.
    #[error("nothing is issued while the ledger takes no records: {0}")]
    Ledger(#[from] LedgerError),
    /// It was authorised and recorded, but not signed; the ledger says that too.
    #[error("recorded as {position}, but not signed: {source}")]
    Sign {
        /// The record of the authorisation.
        position: Position,
        /// What happened.
        #[source]
        source: SignError,
    },
}
