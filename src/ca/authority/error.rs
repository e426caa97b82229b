//! Why an authority could not be made, loaded or moved.

use super::ReceivedError;
use crate::audit::ledger::{LedgerError, Position};
use crate::ca::sign::SignError;
use crate::keys::sealed::SealedError;
use crate::policy::schedule::TooShort;
use crate::upstream::UpstreamError;
use crate::x509::chain::IssuerError;
use crate::x509::draft::DraftError;
use crate::x509::key::KeyFault;

/// Why an authority could not be made, loaded or moved.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The clock is before the authority's certificate.
    #[error("the clock says {now}, but {name} is valid only from {not_before}: set the clock right, then start again")]
    ClockBehind {
        /// Which authority.
        name: String,
        /// What the clock says.
        now: String,
        /// When its certificate begins.
        not_before: String,
    },
    /// The authority's certificate has ended.
    #[error(
        "{name} ended at {not_after}, and the clock says {now}: if the clock is right, move the data directory away and start a new authority"
    )]
    Ended {
        /// Which authority.
        name: String,
        /// What the clock says.
        now: String,
        /// When its certificate ended.
        not_after: String,
    },
    /// The ledger's record of an authority cannot be used.
    #[error("the record of {name} cannot be used: {why}. Run chancery audit verify")]
    Record {
        /// Which authority.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The sealed key is not the one in the certificate.
    #[error("the sealed key of {name} is not the key of its certificate: put back keys/{file} as it was", file = name.replace(' ', "-"))]
    OtherKey {
        /// Which authority.
        name: String,
    },
    /// The issuing CA would end before its leaves.
    #[error(transparent)]
    TooShort(#[from] TooShort),
    /// A certificate in the ledger cannot be read.
    #[error("the certificate of an authority cannot be used: {0}")]
    Issuer(#[from] IssuerError),
    /// Its key could not be made or opened.
    #[error(transparent)]
    Key(#[from] SealedError),
    /// Its public key is not of a kind that is certified.
    #[error("the public key of an authority cannot be certified: {0}")]
    PublicKey(#[from] KeyFault),
    /// Its certificate could not be prepared.
    #[error("the certificate of an authority cannot be prepared: {0}")]
    Draft(#[from] DraftError),
    /// The upstream signed nothing.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// What the upstream signed cannot be used.
    #[error("{upstream} signed a certificate that cannot be used: {source}")]
    Received {
        /// Who.
        upstream: String,
        /// Why not.
        #[source]
        source: ReceivedError,
    },
    /// The upstream's CA cannot have one below it, and is the issuing CA that is in use already.
    #[error(
        "{upstream} holds {name} still, which has no room for a CA below it: put the next CA with its key there before {not_after}"
    )]
    SameCa {
        /// Who.
        upstream: String,
        /// Which.
        name: String,
        /// Its end.
        not_after: String,
    },
    /// An upstream that stands under another root.
    #[error(
        "{upstream} now signs under another root ({found}) than the one that is trusted here ({here}): nothing was changed. If nobody meant that, look for an intruder and put the old issuer back; to move to it: chancery ca rotate root"
    )]
    OtherRoot {
        /// Who.
        upstream: String,
        /// Its root's subject and key identifier.
        found: String,
        /// Ours, by name.
        here: String,
    },
    /// A new root was asked for, and the upstream still signs under the one that is trusted.
    #[error(
        "{upstream} still signs under {root}, so there is nothing to move to: give it another root first, or name another upstream"
    )]
    SameRoot {
        /// Who.
        upstream: String,
        /// The root.
        root: String,
    },
    /// A new root was asked for, and there are as many as a bundle holds.
    #[error(
        "{found} roots are in the bundle, and there is no room for more: chancery ca retire gives up what is not needed"
    )]
    TooManyRoots {
        /// How many.
        found: usize,
    },
    /// The root is an upstream's, and none is configured.
    #[error(
        "{name} is the root of {upstream}, which the next issuing CA needs: write its table under [upstream] again, or move to a root of this server's own: chancery ca rotate root"
    )]
    NoUpstream {
        /// The root.
        name: String,
        /// Whose it is.
        upstream: String,
    },
    /// There is no CRL of an authority that should sign from now on.
    #[error("the CRLs could not be published, so no authority is activated: {0}")]
    Lists(String),
    /// Nothing could be recorded.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// It was recorded but not signed.
    #[error("recorded as {position}, but not signed: {source}")]
    Sign {
        /// The record.
        position: Position,
        /// What happened.
        #[source]
        source: SignError,
    },
}
