//! Verifying a ledger from its files alone, with or without a server running on them.
//!
//! For each log: the checkpoint's signature; every record against its leaf hash; every tile against what is below it;
//! the root against the checkpoint; and that the log continues a checkpoint that somebody kept elsewhere. Over all
//! logs: each certificate serial is authorised once, each `certificate.signed` follows a record of the same
//! certificate, each snapshot run is whole and names its predecessor's end. The checkpoint is read first and only what
//! it covers is looked at, so a server may go on writing. Nothing here writes or trusts the journal. Whoever can write
//! the directory can replace the verifier key too: pass the key you kept.

mod claims;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use claims::Claim;
use claims::{Claims, Read};

use super::event::EventError;
use super::ledger::checkpoint::{Checkpoint, CheckpointError, VerifierKey};
use super::ledger::disk::{Disk, RealDisk};
use super::ledger::frame::is_log_name;
use super::ledger::rotate::VKEY;
use super::ledger::tiles::{Edge, TileDir, WIDTH};
use super::ledger::views::CHECKPOINT;
use super::ledger::{LedgerError, Position};
use crate::merkle::{Frontier, Hash, consistency_proof, leaf_hash, root, verify_consistency};
use crate::tasks::in_parallel;

/// What to hold the ledger against.
#[derive(Debug, Default)]
pub struct VerifyOptions {
    /// A signed checkpoint from earlier, kept where this ledger's administrator could not change it.
    pub older: Option<String>,
    /// Verifier keys to trust; empty means those in the directory.
    pub keys: Vec<VerifierKey>,
}

/// What was verified.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Each log, oldest first.
    pub logs: Vec<LogReport>,
    /// Records in all of them.
    pub records: u64,
    /// Certificates authorised.
    pub certificates: u64,
    /// Of those, how many have their `certificate.signed`.
    pub signed: u64,
    /// Records of a newer schema: hashed, not read.
    pub unread: u64,
    /// Origins of logs that a later log continues and that are not here: pruned or archived elsewhere.
    pub absent: Vec<String>,
    /// The size of the older checkpoint that was shown to be a prefix.
    pub consistent_with: Option<u64>,
}

/// One verified log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogReport {
    /// Its directory's name.
    pub name: String,
    /// Its verified head.
    pub checkpoint: Checkpoint,
}

/// The first thing that does not hold.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A file can't be read, or contradicts another.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// No log was found.
    #[error("{directory} holds no log with a checkpoint: is it the ledger directory of a data directory?", directory = directory.display())]
    NoLog {
        /// Where.
        directory: PathBuf,
    },
    /// A checkpoint does not hold.
    #[error("{path}: {source}", path = path.display())]
    Checkpoint {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: CheckpointError,
    },
    /// The log does not continue the older checkpoint.
    #[error(
        "{log} has {size} records and does not continue the older checkpoint of {older}: history was rewritten or cut off; keep both as evidence"
    )]
    History {
        /// Which log.
        log: String,
        /// Records in it.
        size: u64,
        /// Records in the older checkpoint.
        older: u64,
    },
    /// A record has no canonical form of its schema.
    #[error("record {position} is not as chancery writes records: {source}")]
    Record {
        /// Which.
        position: Position,
        /// Why.
        #[source]
        source: Box<EventError>,
    },
    /// A record says something that cannot be.
    #[error("record {position}: {claim}")]
    Claim {
        /// Which.
        position: Position,
        /// What.
        claim: Claim,
    },
}

/// Verifies every log below `directory` (`DIR/ledger`); `progress` hears (records done, records in all).
///
/// # Errors
/// The first thing found that does not hold.
pub fn verify(
    directory: &Path,
    options: &VerifyOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report, VerifyError> {
    verify_on(&(Arc::new(RealDisk) as Arc<dyn Disk>), directory, options, progress)
}

/// The same on another disk.
pub(crate) fn verify_on(
    disk: &Arc<dyn Disk>,
    directory: &Path,
    options: &VerifyOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report, VerifyError> {
    let logs = open_logs(disk, directory, options)?;
    if logs.is_empty() {
        return Err(VerifyError::NoLog { directory: directory.to_owned() });
    }
    let total = logs.iter().map(|log| log.head.size).sum();
    let mut claims = Claims::default();
    let mut report = Report { records: total, ..Report::default() };
    let mut done = 0;
    for (number, log) in logs.iter().enumerate() {
        let mut each = |index, read, hash| claims.take(&Place { number, index, logs: &logs }, read, hash);
        walk(log, &mut each, &mut |records| {
            done += records;
            progress(done, total);
        })?;
        report.logs.push(LogReport { name: log.name.clone(), checkpoint: log.head.clone() });
    }
    if let Some(older) = &options.older {
        report.consistent_with = Some(check_history(&logs, older)?);
    }
    claims.sum_up(&mut report);
    Ok(report)
}

/// A log with its head, whose signature holds.
struct OpenLog {
    name: String,
    origin: Arc<str>,
    key: VerifierKey,
    head: Checkpoint,
    tiles: TileDir,
}

fn open_logs(disk: &Arc<dyn Disk>, directory: &Path, options: &VerifyOptions) -> Result<Vec<OpenLog>, VerifyError> {
    let mut logs = Vec::new();
    let names = disk.list(directory).map_err(LedgerError::io("listing the ledger", directory))?;
    for name in names.into_iter().filter(|name| is_log_name(name)) {
        let path = directory.join(&name);
        let text = |file: &str| -> Result<Option<String>, LedgerError> {
            let path = path.join(file);
            let bytes = disk.read(&path).map_err(LedgerError::io("reading", &path))?;
            Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
        };
        let fault = |file: &str| {
            let path = path.join(file);
            move |source| VerifyError::Checkpoint { path, source }
        };
        let Some(note) = text(CHECKPOINT)? else {
            let tiles = disk.list(&path.join("tile")).map_err(LedgerError::io("listing tiles", &path))?;
            if tiles.is_empty() {
                continue;
            }
            // Records without a checkpoint: somebody took it away, so that they would not be looked at.
            return Err(fault(CHECKPOINT)(CheckpointError::Form("the file is missing, but there are tiles")));
        };
        let found = VerifierKey::parse(&text(VKEY)?.unwrap_or_default()).map_err(fault(VKEY))?;
        // A key in the same directory proves nothing against who can write there, so a given one decides.
        let key = match options.keys.iter().find(|key| key.name() == found.name()) {
            Some(trusted) => trusted.clone(),
            None if options.keys.is_empty() => found,
            None => return Err(fault(VKEY)(CheckpointError::NotSigned(found.to_string()))),
        };
        let head = key.verify(&note).map_err(fault(CHECKPOINT))?;
        let tiles = TileDir::new(Arc::clone(disk), path.clone());
        logs.push(OpenLog { name, origin: head.origin.as_str().into(), key, head, tiles });
    }
    Ok(logs)
}

/// Where a record stands.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// Its log, by its place in `logs`.
    number: usize,
    /// Zero-based.
    index: u64,
    logs: &'a [OpenLog],
}

type OnRecord<'a> = dyn FnMut(u64, Read, Hash) -> Result<(), VerifyError> + 'a;

/// Tiles that are read and parsed at the same time, on all cores, before they are looked at in order.
const TILES_AT_ONCE: u64 = 32;

/// An entries tile: its records, their hashes, and what they say.
struct Tile {
    records: Vec<Vec<u8>>,
    hashes: Vec<Hash>,
    read: Vec<Read>,
}

fn read_tile(log: &OpenLog, tile: u64) -> Result<Tile, LedgerError> {
    let width = (log.head.size - tile * WIDTH as u64).min(WIDTH as u64) as u16;
    let records = log.tiles.records(tile, width)?;
    let hashes = records.iter().map(|record| leaf_hash(record)).collect();
    let read = records.iter().map(|record| claims::read(record)).collect();
    Ok(Tile { records, hashes, read })
}

/// Hashes everything that the checkpoint covers, and compares it with every tile.
fn walk(log: &OpenLog, each: &mut OnRecord<'_>, progress: &mut dyn FnMut(u64)) -> Result<(), VerifyError> {
    let size = log.head.size;
    let mut edge = Edge::default();
    let mut frontier = Frontier::default();
    let tiles = size.div_ceil(WIDTH as u64);
    let mut next = 0;
    while next < tiles {
        let numbers: Vec<u64> = (next..tiles.min(next + TILES_AT_ONCE)).collect();
        for (number, tile) in (next..).zip(in_parallel(&numbers, |tile| read_tile(log, *tile))) {
            let Tile { records, hashes, read } = tile?;
            hashes.iter().for_each(|hash| frontier.push(*hash));
            let pairs = records.iter().map(Vec::as_slice).zip(hashes.iter().copied());
            for expected in &edge.extend(pairs) {
                log.tiles.check(expected)?;
            }
            for ((index, read), hash) in (number * WIDTH as u64..).zip(read).zip(&hashes) {
                each(index, read, *hash)?;
            }
            progress(records.len() as u64);
        }
        next += numbers.len() as u64;
    }
    for expected in edge.partials() {
        log.tiles.check(&expected)?;
    }
    if frontier.root() != log.head.root {
        let damage = super::ledger::Damage::OtherRoot { size };
        return Err(LedgerError::corrupt(log.tiles.directory(), damage).into());
    }
    Ok(())
}

/// The older checkpoint must be signed by the log's key and a prefix of it; returns its size.
fn check_history(logs: &[OpenLog], older: &str) -> Result<u64, VerifyError> {
    let path = PathBuf::from("the older checkpoint");
    let origin = older.lines().next().unwrap_or_default();
    let fault = |source| VerifyError::Checkpoint { path: path.clone(), source };
    let Some(log) = logs.iter().find(|log| *log.origin == *origin) else {
        let expected = logs.last().map(|log| log.origin.to_string()).unwrap_or_default();
        return Err(fault(CheckpointError::OtherLog { found: origin.to_owned(), expected }));
    };
    let old = log.key.verify(older).map_err(fault)?;
    let (size, broken) =
        (log.head.size, || VerifyError::History { log: log.name.clone(), size: log.head.size, older: old.size });
    if old.size > size {
        return Err(broken());
    }
    let mut nodes = log.tiles.nodes(size);
    let proof = consistency_proof(&mut nodes, old.size, size)?;
    let holds = verify_consistency(old.size, &old.root, size, &log.head.root, &proof);
    // The same once more from the records themselves, which the walk has tied to the tiles.
    if !holds || root(&mut nodes, old.size)? != old.root {
        return Err(broken());
    }
    Ok(old.size)
}
