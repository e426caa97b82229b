//! Numbers and signs CRLs, and revokes: record first, then the CRL, then one push to everyone.
//!
//! One [`Revoker`] for a server. What is always true: every authority that is not gone has a CRL, from its first minute;
//! the numbers of one authority's CRLs only grow; a root goes into the bundle only together with its CRL, and the bundle
//! has the CRL of every authority or stays as it was; a CRL is signed only when its record is durable, with the one named
//! exception of [`crate::ca::sign::Deferred`]. A revocation that was recorded is carried to its end, whatever becomes of
//! whoever asked for it: what fails after the record is tried again until it is done. Nothing is capped here: a
//! revocation must not wait for another limit.
//!
//! - `act` carries a revocation out, step by step: read it first;
//! - `authority` does the same for the certificate of an authority that is tainted, `elsewhere` for one that an upstream
//!   signed;
//! - `select` finds the certificates that an order means;
//! - `lists` knows what is on each CRL, makes and renews them, and hands the bundle to `feed`;
//! - `cache` keeps them in files, so that a restart changes no bundle.
//!
//! Callers: the admin service through `app`, and `app` itself, which starts [`Revoker::keep`].

mod act;
mod authority;
mod cache;
mod elsewhere;
mod imported;
mod listed;
mod lists;
mod select;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, Notify, mpsc, watch};

use crate::audit::event::{Event, Recorder};
use crate::audit::ledger::{Ledger, LedgerError, Position};
use crate::ca::issue::Street;
use crate::ca::slot::Name;
use crate::clock::Clock;
use crate::feed::Feed;
use crate::identity::{SpiffeId, TrustDomain};
use crate::store::{Store, StoreError};
use crate::tasks::Tasks;
use crate::upstream::{Upstream, UpstreamError};
use crate::x509::crl::{Reason, Scope};

pub use listed::{CrlSet, Listed};
use lists::Book;

/// Steps that one revocation tells; room for all of them.
const STEPS: usize = 4;

/// How long CRLs hold, and of whom there are any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrlTimes {
    /// From making one to its `nextUpdate`, when every handshake fails that has no newer one.
    pub lifetime: Duration,
    /// From making one to making the next, where nothing is revoked meanwhile.
    pub resign_at: Duration,
    /// Of which CAs of a chain one is wanted.
    pub scope: Scope,
}

impl Default for CrlTimes {
    fn default() -> Self {
        let day = Duration::from_secs(86_400);
        Self { lifetime: day * 7, resign_at: day * 7 / 2, scope: Scope::default() }
    }
}

/// Which certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All live ones of a SPIFFE ID, which stays denied.
    Identity(SpiffeId),
    /// All live ones whose SPIFFE ID begins with this (without `*`), and these stay denied.
    Prefix(String),
    /// One, by its whole serial.
    Serial(String),
    /// These, by their whole serials: certificates whose holders were given others already. What is unknown, over or
    /// revoked is passed over; [`RevokeError::Nothing`] when none is left.
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

/// The revocation of a tainted authority's certificate.
#[derive(Debug, Clone)]
pub struct AuthorityOrder {
    /// Which authority.
    pub name: Name,
    /// Why.
    pub reason: Reason,
    /// Actor, source, request id and change of the record.
    pub template: Event,
}

/// How far a revocation is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Durable from here on.
    Recorded {
        /// The first record.
        first: Position,
        /// The last record.
        last: Position,
        /// How many certificates.
        revoked: u64,
        /// What is denied.
        denied: Option<String>,
    },
    /// The CRLs that changed.
    Signed {
        /// As they are now.
        crls: Vec<CrlState>,
    },
    /// The bundle with them is what every stream is sent.
    Published {
        /// The bundle's version.
        bundle_version: String,
    },
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
    AlreadyRevoked {
        /// Whose.
        serial: String,
        /// By which record.
        record: String,
    },
    /// The identity is denied already and has no live certificate.
    #[error("{pattern} is denied already, by {record}, and has no live certificate")]
    AlreadyDenied {
        /// What.
        pattern: String,
        /// By which record.
        record: String,
    },
    /// Nothing of that pattern is denied.
    #[error("{pattern} is not denied: chancery cert list --denied shows what is")]
    NotDenied {
        /// What.
        pattern: String,
    },
    /// An authority is trusted still: only what is tainted is revoked.
    #[error("{name} is not tainted, so it is not revoked: chancery ca taint")]
    NotTainted {
        /// Which.
        name: Name,
    },
    /// The CRL that it would stand on is not ours.
    #[error(
        "{name} is replaced, and its certificate is not by a root of this server: revoke its serial (chancery ca show --output json) where it was issued; that CRL is fetched and pushed"
    )]
    NotOurs {
        /// Which.
        name: Name,
    },
    /// The upstream was not reached or refused; it is asked again.
    #[error("recorded and replaced, but not revoked where it was signed: {0}. It is tried again by itself")]
    Upstream(#[from] UpstreamError),
    /// The upstream revoked it, and its list does not say so.
    #[error(
        "{upstream} has revoked {name}, but its CRL does not say so yet: let its token rotate that CRL (docs/upstream.md). It is looked for again by itself"
    )]
    NotListed {
        /// Which authority.
        name: Name,
        /// Whose list.
        upstream: String,
    },
    /// The ledger took no record, so nothing was revoked.
    #[error("nothing was revoked, because it could not be recorded: {0}")]
    Ledger(#[from] LedgerError),
    /// The ledger took some records and then no more.
    #[error(
        "{revoked} certificates are revoked, {left} are not, because they could not be recorded: {source}; run it again"
    )]
    Partly {
        /// Recorded and in force.
        revoked: u64,
        /// Not revoked.
        left: u64,
        /// Why.
        #[source]
        source: LedgerError,
    },
    /// The index does not follow the ledger.
    #[error("nothing was revoked: the index lags behind the ledger, so not every certificate is known; try again")]
    Behind,
    /// The server stopped meanwhile.
    #[error("the server stopped meanwhile: what was recorded is in force after its next start")]
    Interrupted,
    /// The index does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is recorded and in force here, but a CRL could not be signed; that is tried again.
    #[error(
        "recorded and in force on this server, but no CRL could be signed: {0}; it is tried again every few seconds"
    )]
    Sign(String),
}

/// What a revoker works with.
#[derive(Debug)]
pub struct RevokerParts {
    /// Who is denied, which authorities there are, and who asks again after a release.
    pub street: Street,
    /// Where it is written.
    pub ledger: Ledger,
    /// What was issued.
    pub store: Arc<dyn Store>,
    /// Time.
    pub clock: Clock,
    /// What this run's records share.
    pub recorder: Recorder,
    /// Where a revocation runs, so that nobody's hanging up ends it.
    pub tasks: Tasks,
    /// Whose bundle it is.
    pub trust_domain: TrustDomain,
    /// Where CRLs are kept over a restart.
    pub directory: PathBuf,
    /// How long CRLs hold.
    pub times: CrlTimes,
    /// Who has the CRLs of the authorities whose keys are not here.
    pub upstream: Option<Arc<dyn Upstream>>,
}

/// Carries revocations out; cheap to clone.
#[derive(Debug, Clone)]
pub struct Revoker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    street: Street,
    ledger: Ledger,
    store: Arc<dyn Store>,
    clock: Clock,
    recorder: Recorder,
    tasks: Tasks,
    trust_domain: TrustDomain,
    directory: PathBuf,
    times: ArcSwap<CrlTimes>,
    upstream: Option<Arc<dyn Upstream>>,
    /// Held by whoever revokes, releases or renews: one at a time.
    book: Mutex<Book>,
    published: watch::Sender<Arc<CrlSet>>,
    feed: OnceLock<Feed>,
    /// Something was left undone.
    undone: Notify,
}

impl Revoker {
    /// Takes up what is denied, revoked and listed, from the index, which must have caught up with the ledger. Nothing
    /// may be served before this has returned.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(parts: RevokerParts) -> Result<Self, StoreError> {
        let book = Book::open(&parts)?;
        let RevokerParts { street, ledger, store, clock, recorder, tasks, trust_domain, directory, times, upstream } =
            parts;
        Ok(Self(Arc::new(Inner {
            street,
            ledger,
            store,
            clock,
            recorder,
            tasks,
            trust_domain,
            directory,
            times: ArcSwap::from_pointee(times),
            upstream,
            book: Mutex::new(book),
            published: watch::Sender::default(),
            feed: OnceLock::new(),
            undone: Notify::new(),
        })))
    }

    /// Revokes, and tells each step as it is done. Complete when it returns; what was recorded stays in force. Whoever
    /// drops this ends the telling, not the revocation.
    ///
    /// # Errors
    /// [`RevokeError`].
    pub async fn revoke(&self, order: Order, told: mpsc::Sender<Step>) -> Result<(), RevokeError> {
        let (tell, mut steps) = mpsc::channel(STEPS);
        let this = self.clone();
        let work = self.0.tasks.spawn("revocation", async move { this.carry_out(order, &tell).await });
        while let Some(step) = steps.recv().await {
            // Whoever does not listen any more misses it.
            let _ = told.send(step).await;
        }
        work.await.unwrap_or(Err(RevokeError::Interrupted))
    }

    /// Lifts the deny of exactly `pattern`; its record.
    ///
    /// # Errors
    /// [`RevokeError::NotDenied`], [`RevokeError::Ledger`].
    pub async fn release(&self, pattern: &str, template: Event) -> Result<Position, RevokeError> {
        let (this, pattern) = (self.clone(), pattern.to_owned());
        let work = self.0.tasks.spawn("release", async move { this.lift(&pattern, &template).await });
        work.await.unwrap_or(Err(RevokeError::Interrupted))
    }

    /// The CRL of each authority.
    #[must_use]
    pub fn crls(&self) -> Vec<CrlState> {
        self.published().lists.iter().map(Listed::state).collect()
    }

    /// What is published now.
    #[must_use]
    pub fn published(&self) -> Arc<CrlSet> {
        Arc::clone(&self.0.published.borrow())
    }

    /// How long CRLs hold.
    #[must_use]
    pub fn times(&self) -> CrlTimes {
        **self.0.times.load()
    }

    /// From now on CRLs hold as long as this.
    pub fn set_times(&self, times: CrlTimes) {
        self.0.times.store(Arc::new(times));
        self.0.undone.notify_one();
    }
}
