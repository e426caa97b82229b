//! What can go wrong with a ledger, by whose fault it is and what to do.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::audit::event::EventError;

/// Why the ledger did not do as asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LedgerError {
    /// The system refused an operation while opening.
    #[error("{path}: {doing} failed: {source}", path = path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// Another process writes this ledger.
    #[error("{path} is locked: another chancery uses this data directory; stop it or choose another --data-dir", path = path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The files contradict each other in a way that no crash explains.
    #[error("the ledger is damaged: {path}: {damage}; `chancery ledger recover` says what is whole and changes nothing by itself; see docs/operations.md", path = path.display())]
    Corrupt {
        /// Where it shows.
        path: PathBuf,
        /// What contradicts what.
        damage: Damage,
    },
    /// No space is left for ordinary records; what revokes and what operators do still goes to the reserve.
    #[error("the ledger is full: no space left in {directory}; free some, issuing resumes by itself", directory = directory.display())]
    Full {
        /// The directory on the full file system.
        directory: PathBuf,
    },
    /// The state on disk is unknown since an earlier failure; nothing more is written.
    #[error(
        "the ledger stopped after a failure: {cause}; restart chancery when the disk is sound: opening checks every record of the tail"
    )]
    Failed {
        /// The first failure.
        cause: Arc<str>,
    },
    /// The ledger was closed.
    #[error("the ledger is closed: the server is stopping")]
    Closed,
    /// The record is too large or has no canonical form.
    #[error("the record cannot be written: {0}")]
    Record(#[source] Arc<EventError>),
    /// A record describes another certificate than the draft it should authorise.
    #[error(
        "the record's certificate facts are not those of the draft: this is a defect of chancery, please report it"
    )]
    OtherCertificate,
    /// A batch holds more records than one commit takes.
    #[error(
        "a batch of {count} records and {bytes} bytes is more than one commit takes ({most} records, {most_bytes} bytes): send several"
    )]
    Batch {
        /// Records in it.
        count: usize,
        /// Bytes in it.
        bytes: usize,
        /// The bound on records.
        most: usize,
        /// The bound on bytes.
        most_bytes: usize,
    },
    /// The directory belongs to another trust domain.
    #[error("{path} is the verifier key of {found}, but this server's ledger is {expected}: wrong data directory or trust domain", path = path.display())]
    OtherOrigin {
        /// The verifier key file.
        path: PathBuf,
        /// The origin in it.
        found: String,
        /// Ours.
        expected: String,
    },
    /// The signing key is not the one that the log's verifier key names.
    #[error("{path} names another signing key than the one given: restore the keys directory that belongs to this ledger", path = path.display())]
    OtherKey {
        /// The verifier key file.
        path: PathBuf,
    },
    /// The signing key's bytes are not an Ed25519 key in PKCS#8.
    #[error("the ledger's signing key is not Ed25519 in PKCS#8: restore the keys directory")]
    KeyForm,
    /// A limit in the options cannot work.
    #[error("ledger option {option}: {why}")]
    Option {
        /// Which.
        option: &'static str,
        /// Why not.
        why: &'static str,
    },
    /// There is no such record.
    #[error("no record {index} in {log}: the log has {size}")]
    NoRecord {
        /// The log.
        log: String,
        /// What was asked for.
        index: u64,
        /// Records in it.
        size: u64,
    },
    /// There is no such log.
    #[error("no log {log} in this ledger: `chancery audit tail` names them")]
    NoLog {
        /// What was asked for.
        log: String,
    },
}

/// A contradiction between files of a ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A whole frame stands behind a bad one, so the bad one was committed.
    #[error("the journal frame at byte {offset} is bad although a later frame (number {later}) is whole")]
    BadFrame {
        /// Byte offset in the segment.
        offset: u64,
        /// The number of the whole frame behind it.
        later: u64,
    },
    /// Two segments don't follow each other.
    #[error("this journal segment does not continue the one before it")]
    BrokenChain,
    /// The journal ends before what a signed checkpoint says was committed.
    #[error(
        "a signed checkpoint has {checkpoint} records, but journal and tiles end at {size}: an old copy was put back, or the tail was cut"
    )]
    BehindCheckpoint {
        /// Size in the checkpoint.
        checkpoint: u64,
        /// Size on disk.
        size: u64,
    },
    /// Roots differ at a size that both name.
    #[error("at {size} records the root differs from what was committed: a record or tile was changed")]
    OtherRoot {
        /// The size.
        size: u64,
    },
    /// A frame's records don't continue their log.
    #[error("a journal frame continues the log at {found}, but it has {expected} records")]
    Gap {
        /// Where the frame starts.
        found: u64,
        /// Where it should.
        expected: u64,
    },
    /// A tile is missing or too short.
    #[error("this tile is missing or shorter than the committed size needs")]
    TileMissing,
    /// A tile says something else than the records.
    #[error("this tile is not what the records below it hash to: it or they were changed")]
    OtherTile,
    /// There are logs but no journal.
    #[error("there are logs but no journal: a part of the directory was lost")]
    NoJournal,
    /// The checkpoint is not signed by this ledger's key or has another form.
    #[error("this checkpoint is not one that this ledger's key signed")]
    BadCheckpoint,
    /// A frame has an impossible form although its checksum is right.
    #[error("a journal frame has a form that this version does not know: was it written by a newer chancery?")]
    UnknownFrame,
}

impl LedgerError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source: Arc::new(source) }
    }

    pub(crate) fn corrupt(path: &Path, damage: Damage) -> Self {
        Self::Corrupt { path: path.to_owned(), damage }
    }
}

/// Whether the system said that there is no space (or no quota) left.
pub(crate) fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}
