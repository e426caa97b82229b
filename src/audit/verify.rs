//! Verifying a ledger from its files alone, with or without a server running on them.
//!
//! For each log: the checkpoint's signature; every record against its leaf hash; every tile against what is below it;
//! the root against the checkpoint; and that the log continues a checkpoint that somebody kept elsewhere. Over all
//! logs: each certificate serial is authorised once, each `certificate.signed` follows a record of the same
//! certificate, each snapshot run is whole and names its predecessor's end. The checkpoint is read first and only what
//! it covers is looked at, so a server may go on writing. Nothing here writes or trusts the journal. Whoever can write
//! the directory can replace the verifier key too: pass the key you kept.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::event::{Action, Event, EventError, SCHEMA};
use super::ledger::checkpoint::{Checkpoint, CheckpointError, VerifierKey};
use super::ledger::disk::{Disk, RealDisk};
use super::ledger::frame::is_log_name;
use super::ledger::rotate::VKEY;
use super::ledger::tiles::{Edge, TileDir, WIDTH};
use super::ledger::views::CHECKPOINT;
use super::ledger::{LedgerError, Position};
use crate::merkle::{Frontier, Hash, consistency_proof, leaf_hash, root, sha256, verify_consistency};

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

/// What a record says that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Claim {
    /// A serial was authorised twice.
    #[error("serial {0} was authorised before: each certificate has one record")]
    SerialTwice(String),
    /// A signature without authorisation.
    #[error("it says that a certificate was signed, but {0} is no record of that certificate")]
    NotAuthorised(String),
    /// The bytes are not the canonical ones.
    #[error("its JSON is not canonical (RFC 8785)")]
    NotCanonical,
    /// A snapshot run that is not whole.
    #[error("the snapshot run before it is not what it says")]
    SnapshotRun,
    /// A predecessor that ended otherwise.
    #[error("the log before ended otherwise than it says")]
    Predecessor,
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
    for log in &logs {
        walk(log, &mut |position, leaf, hash| claims.take(position, leaf, hash, &logs), &mut |records| {
            done += records;
            progress(done, total);
        })?;
        report.logs.push(LogReport { name: log.name.clone(), checkpoint: log.head.clone() });
    }
    if let Some(older) = &options.older {
        report.consistent_with = Some(check_history(&logs, older)?);
    }
    report.certificates = claims.serials.len() as u64;
    report.signed = claims.signed.len() as u64;
    report.unread = claims.unread;
    report.absent = claims.absent;
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

type OnRecord<'a> = dyn FnMut(Position, &[u8], Hash) -> Result<(), VerifyError> + 'a;

/// Hashes everything that the checkpoint covers, and compares it with every tile.
fn walk(log: &OpenLog, each: &mut OnRecord<'_>, progress: &mut dyn FnMut(u64)) -> Result<(), VerifyError> {
    let size = log.head.size;
    let mut edge = Edge::default();
    let mut frontier = Frontier::default();
    for tile in 0..size.div_ceil(WIDTH as u64) {
        let first = tile * WIDTH as u64;
        let width = (size - first).min(WIDTH as u64) as u16;
        let records = log.tiles.records(tile, width)?;
        let hashes: Vec<Hash> = records.iter().map(|record| leaf_hash(record)).collect();
        hashes.iter().for_each(|hash| frontier.push(*hash));
        let pairs = records.iter().map(Vec::as_slice).zip(hashes.iter().copied());
        for expected in edge.extend(pairs).iter().filter(|write| usize::from(write.name.width) == WIDTH) {
            log.tiles.check(expected)?;
        }
        for ((index, record), hash) in (first..).zip(&records).zip(&hashes) {
            each(Position { log: Arc::clone(&log.origin), index }, record, *hash)?;
        }
        progress(u64::from(width));
    }
    for expected in edge.partials(usize::MAX) {
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

/// What the records say, over all logs.
#[derive(Default)]
struct Claims {
    serials: HashSet<Box<str>>,
    /// Records about a certificate, by place: serial and TBS hash.
    certificates: HashMap<Position, (Box<str>, Box<str>)>,
    signed: HashSet<Position>,
    unread: u64,
    absent: Vec<String>,
    /// Leaf hashes of the snapshot run at the head of the current log.
    run: Vec<Hash>,
}

impl Claims {
    fn take(&mut self, position: Position, leaf: &[u8], hash: Hash, logs: &[OpenLog]) -> Result<(), VerifyError> {
        let schema = serde_json::from_slice::<Schema>(leaf).map(|found| found.schema);
        if schema.as_ref().is_ok_and(|schema| *schema > SCHEMA) {
            self.unread += 1;
            return Ok(());
        }
        let event = match Event::from_leaf(leaf) {
            Ok(event) => event,
            Err(source) => return Err(VerifyError::Record { position, source: Box::new(source) }),
        };
        if event.to_leaf().ok().as_deref() != Some(leaf) {
            return Err(VerifyError::Claim { position, claim: Claim::NotCanonical });
        }
        if position.index == 0 {
            self.run.clear();
        }
        let verdict = self.certificate(&position, &event).and_then(|()| self.snapshot(&event, hash, logs));
        verdict.map_err(|claim| VerifyError::Claim { position, claim })
    }

    fn certificate(&mut self, position: &Position, event: &Event) -> Result<(), Claim> {
        if event.action == Action::CertificateSigned {
            return self.signature(event);
        }
        let Some(facts) = &event.certificate else { return Ok(()) };
        let authorises = matches!(event.action, Action::CertificateIssue | Action::CertificateRenew);
        if authorises && !self.serials.insert(facts.serial.as_str().into()) {
            return Err(Claim::SerialTwice(facts.serial.clone()));
        }
        let known = (facts.serial.as_str().into(), facts.tbs_sha256.as_str().into());
        self.certificates.insert(position.clone(), known);
        Ok(())
    }

    /// A signature's record names the record that authorised it, and the same certificate.
    fn signature(&mut self, event: &Event) -> Result<(), Claim> {
        let named = event.refers_to.clone().unwrap_or_default();
        let position: Option<Position> = named.parse().ok();
        let Some((position, (serial, tbs))) =
            position.and_then(|position| Some((position.clone(), self.certificates.get(&position)?)))
        else {
            return Err(Claim::NotAuthorised(named));
        };
        let facts = event.certificate.as_ref();
        let same_serial = event.serial.iter().chain(facts.map(|facts| &facts.serial)).all(|named| **named == **serial);
        let same_tbs = facts.is_none_or(|facts| *facts.tbs_sha256 == **tbs);
        if !same_serial || !same_tbs {
            return Err(Claim::NotAuthorised(named));
        }
        self.signed.insert(position);
        Ok(())
    }

    fn snapshot(&mut self, event: &Event, hash: Hash, logs: &[OpenLog]) -> Result<(), Claim> {
        if event.action != Action::LedgerSnapshot {
            return Ok(());
        }
        let closing = event.snapshot.as_ref().and_then(|closing| Some((closing, closing.count?)));
        let Some((closing, count)) = closing else {
            self.run.push(hash);
            return Ok(());
        };
        let hashes: Vec<&[u8]> = self.run.iter().map(Hash::as_slice).collect();
        if count != hashes.len() as u64 || closing.run_sha256 != Some(hex::encode(sha256(&hashes))) {
            return Err(Claim::SnapshotRun);
        }
        let Some(predecessor) = &closing.predecessor else { return Ok(()) };
        let origin = predecessor.lines().next().unwrap_or_default();
        // A predecessor that is not here was pruned or archived; then its last checkpoint stands in this record.
        let Some(log) = logs.iter().find(|log| *log.origin == *origin) else {
            self.absent.push(origin.to_owned());
            return Ok(());
        };
        if log.key.verify(predecessor).as_ref() == Ok(&log.head) { Ok(()) } else { Err(Claim::Predecessor) }
    }
}

/// Just the schema number of a record.
#[derive(serde::Deserialize)]
struct Schema {
    schema: u32,
}
