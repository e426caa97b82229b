//! What the ledger says, indexed: the port and its contract.
//!
//! A [`Store`] is a projection. Everything in it was read from the ledger, record by record, and its [`Cursor`] says how
//! far; deleted or damaged it is replayed and comes back the same. Nothing is ever decided or written here first, so no
//! write needs to be durable when it returns. The projection task writes; admin, status and the hold after a restart
//! read. A store never reads ledger files, never asks the time (`now` is an argument) and holds no secrets.

pub mod embedded;
pub mod row;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod scale;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::audit::event::Event;
pub use row::{
    ApprovalAnswer, ApprovalRow, AuthorityRow, BreakglassRow, CertificateRow, CrlRow, DenyRow, Revoked, RevokedRow,
};

/// The most certificates that one page holds.
pub const LARGEST_PAGE: usize = 1_000;

/// The most serials that an ambiguous beginning is answered with.
pub const LARGEST_AMBIGUITY: usize = 8;

/// How long counts per minute are kept: what `status` sums up is the last hour.
pub const ACTIVITY_KEPT_MINUTES: i64 = 180;

/// How long after its end a revoked certificate is still named by [`Store::revoked`]: clocks differ, and a CRL keeps an
/// entry for a while longer than its certificate lives.
pub const REVOKED_KEPT_SECONDS: i64 = 24 * 3600;

/// How many requests for a second operator are kept: a new one beyond that takes the place of the oldest.
pub const APPROVALS_KEPT: usize = 1_000;

/// How many break-glasses are kept, as for [`APPROVALS_KEPT`].
pub const BREAKGLASS_KEPT: usize = 100;

/// One record with its place.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The log's origin.
    pub log: &'a str,
    /// The record's index in it.
    pub index: u64,
    /// The record.
    pub event: &'a Event,
}

/// How far one log was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogCursor {
    /// The index of the first record that was not applied.
    pub next: u64,
    /// The salt of the last record that was: a ledger that holds another record there is another ledger.
    pub last_salt: String,
}

/// How far each log was read, by origin.
pub type Cursor = BTreeMap<String, LogCursor>;

/// Why a store could not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("{path} is open in another process: stop that server, or use another data directory", path = path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The database refused or the disk did. The projection can be rebuilt: delete the file and start again.
    #[error("the index failed: {source}. It can be rebuilt: stop the server, delete index.redb, start again")]
    Database {
        /// What the database said.
        #[source]
        source: Box<redb::Error>,
    },
    /// A row is not what we write. As for [`StoreError::Database`].
    #[error(
        "a row of the index cannot be read: {source}. It can be rebuilt: stop the server, delete index.redb, start again"
    )]
    Row {
        /// What is wrong with it.
        #[from]
        source: serde_json::Error,
    },
    /// Records were skipped; the caller must read from the cursor on.
    #[error("the index expects record {expected} of {log}, not {found}: records must come in order")]
    Gap {
        /// The log.
        log: String,
        /// The index that comes next.
        expected: u64,
        /// The index that came.
        found: u64,
    },
    /// A page token that this store did not make.
    #[error("this page token is not one of ours: ask for the first page again")]
    PageToken,
}

/// Which certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateQuery {
    /// SPIFFE IDs that begin with this; empty for all.
    pub identity_prefix: String,
    /// Only those that expire at or after this second.
    pub expires_from: Option<i64>,
    /// Only those that expire before this second.
    pub expires_before: Option<i64>,
    /// Only those of the issuer with this key id, hex.
    pub issuer_key_id: Option<String>,
    /// Only revoked ones, or only those that are not.
    pub revoked: Option<bool>,
    /// At most this many, and never more than [`LARGEST_PAGE`].
    pub limit: usize,
    /// [`Page::next`] of the page before.
    pub after: Option<String>,
}

/// Part of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Without a prefix: those that expire last first. With one: by identity, and then those that expire last first.
    /// May be short, and even empty, before the end: a page looks at a bounded number of certificates.
    pub certificates: Vec<CertificateRow>,
    /// For the page after; absent at the end, and only there.
    pub next: Option<String>,
}

/// What the beginning of a serial names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// None.
    Nothing,
    /// Exactly one.
    One(Box<CertificateRow>),
    /// Several, of which these are the first [`LARGEST_AMBIGUITY`] serials.
    Several(Vec<String>),
}

/// Things that are counted per minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Activity {
    /// A first certificate.
    Issued,
    /// A certificate that follows another.
    Renewed,
    /// A refusal, coalesced ones by their count.
    Refused,
    /// A signature that failed or came late.
    Failed,
    /// An update that a proxy refused.
    Nacked,
    /// A certificate that was revoked.
    Revoked,
}

impl Activity {
    /// The key in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Renewed => "renewed",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Nacked => "nacked",
            Self::Revoked => "revoked",
        }
    }
}

/// Live certificates of one issuer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LiveCount {
    /// Unexpired ones that are not revoked.
    pub live: u64,
    /// Unexpired ones that are revoked.
    pub revoked: u64,
    /// The minute (Unix time / 60) in which the last of both expires: until then the issuer's CRL is needed.
    pub last_minute: Option<i64>,
}

/// The port. All methods block for at most a page's worth of reads or a batch's worth of writes.
///
/// Contract, held by the conformance suite:
/// - `apply` is atomic: rows and cursor change together or not at all, and a reader sees either.
/// - `apply` is idempotent: entries below the cursor are skipped; a gap above it is [`StoreError::Gap`] and changes nothing.
/// - What was applied may be lost by a crash back to the last `sync`, and then the cursor is back as well.
/// - Any number of readers run beside one writer; a second concurrent writer waits.
/// - Errors other than [`StoreError::Gap`] and [`StoreError::PageToken`] mean: rebuild.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// How far the ledger was read.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Row`].
    fn cursor(&self) -> Result<Cursor, StoreError>;

    /// Takes records in, in the order of their log.
    ///
    /// # Errors
    /// [`StoreError::Gap`], [`StoreError::Database`], [`StoreError::Row`].
    fn apply(&self, batch: &[Entry<'_>]) -> Result<(), StoreError>;

    /// Makes what was applied so far survive a crash, so that a restart replays less.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    fn sync(&self) -> Result<(), StoreError>;

    /// Forgets everything: the next replay begins at the first record.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    fn reset(&self) -> Result<(), StoreError>;

    /// The certificate whose serial is, or begins with, `serial` (hex, any case), or has the beginning and the end that
    /// tables show: `5e0c…91f2`.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Row`].
    fn find(&self, serial: &str) -> Result<Found, StoreError>;

    /// A page of certificates.
    ///
    /// # Errors
    /// [`StoreError::PageToken`], [`StoreError::Database`], [`StoreError::Row`].
    fn certificates(&self, query: &CertificateQuery) -> Result<Page, StoreError>;

    /// The certificate that a proxy names by the version it holds; hex.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Row`].
    fn by_version(&self, version: &str) -> Result<Option<CertificateRow>, StoreError>;

    /// Every authority that the ledger names, in the order of its first record.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Row`].
    fn authorities(&self) -> Result<Vec<AuthorityRow>, StoreError>;

    /// Live certificates at the Unix second `now`, by the issuer's key id.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    fn live(&self, now: i64) -> Result<BTreeMap<String, LiveCount>, StoreError>;

    /// Revoked certificates that are unexpired at the Unix second `now` or ended less than [`REVOKED_KEPT_SECONDS`] before,
    /// by expiry.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Row`].
    fn revoked(&self, now: i64) -> Result<Vec<RevokedRow>, StoreError>;

    /// Every denied identity or prefix, sorted.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Row`].
    fn denies(&self) -> Result<Vec<DenyRow>, StoreError>;

    /// The CRL with the highest number that was recorded for the issuer with this key id (hex).
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Row`].
    fn crl(&self, issuer_key_id: &str) -> Result<Option<CrlRow>, StoreError>;

    /// The hash of what was configured last: `policy` or `configuration`, from the last `config.change` about it.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    fn configured(&self, what: &str) -> Result<Option<String>, StoreError>;

    /// Requests for a second operator, oldest first; the last [`APPROVALS_KEPT`].
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Row`].
    fn approvals(&self) -> Result<Vec<ApprovalRow>, StoreError>;

    /// Break-glasses that were opened, oldest first; the last [`BREAKGLASS_KEPT`].
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Row`].
    fn breakglass(&self) -> Result<Vec<BreakglassRow>, StoreError>;

    /// How many certificates were ever recorded.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    fn total(&self) -> Result<u64, StoreError>;

    /// How often something happened in these minutes (Unix time / 60), within [`ACTIVITY_KEPT_MINUTES`] of the newest.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    fn activity(&self, what: Activity, minutes: Range<i64>) -> Result<u64, StoreError>;
}
