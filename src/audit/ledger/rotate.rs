//! Names of logs, and how one year's log hands over to the next.
//!
//! The old log ends with `ledger.rotate`; the new one begins with a run of `ledger.snapshot` records, closed by one that
//! holds the old log's final checkpoint, how many records the run has and a hash over them. All of it is one frame: a
//! crash leaves the old year or the new one, never half a hand-over. A clock that runs back never reopens a year.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use time::OffsetDateTime;

use super::checkpoint::{Checkpoint, CheckpointKey, VerifierKey};
use super::disk::Disk;
use super::error::LedgerError;
use super::frame::{Body, Head, Section};
use super::shared::Leaf;
use crate::audit::event::{Action, Change, Event, Outcome, Recorder, Snapshot};
use crate::merkle::{Frontier, sha256};

/// The class of every log that chancery writes for itself.
const CLASS: &str = "ca";
/// The file name of a log's verifier key.
pub(crate) const VKEY: &str = "vkey";

/// Gives the state that indexes need at the opening of a log, as `ledger.snapshot` events: live authorities, denies,
/// entries. Called on the writer's thread at the turn of the year: it must not wait for the ledger. Everything it
/// returns must fit one journal segment.
pub type SnapshotSource = Arc<dyn Fn() -> Vec<Event> + Send + Sync>;

/// Where the source is put once the indexes are there; until then no log is closed.
pub(crate) type SnapshotSlot = Arc<OnceLock<SnapshotSource>>;

/// The log of the year of `now`: `ca-2026`.
pub(crate) fn log_name(now: OffsetDateTime) -> String {
    format!("{CLASS}-{:04}", now.to_offset(time::UtcOffset::UTC).year())
}

/// The name that a log signs its checkpoints with.
pub(crate) fn origin(trust_domain: &str, log: &str) -> String {
    format!("{trust_domain}/ledger/{log}")
}

/// The source, when `name` is the log of an earlier year than `now`. Names of one class sort by year.
pub(crate) fn due(name: &str, now: OffsetDateTime, slot: &SnapshotSlot) -> Option<SnapshotSource> {
    (name < log_name(now).as_str()).then(|| slot.get().cloned()).flatten()
}

/// Makes the directory of a log and its verifier key, synced, before the first commit that names it.
pub(crate) fn make_log(disk: &dyn Disk, ledger: &Path, name: &str, key: &VerifierKey) -> Result<(), LedgerError> {
    let directory = ledger.join(name);
    let path = directory.join(VKEY);
    disk.make_dirs(&directory).map_err(LedgerError::io("making a log's directory", &directory))?;
    disk.put(&path, format!("{key}\n").as_bytes()).map_err(LedgerError::io("writing the verifier key", &path))?;
    disk.sync_file(&path).map_err(LedgerError::io("syncing the verifier key", &path))?;
    for directory in [&directory, ledger] {
        disk.sync_dir(directory).map_err(LedgerError::io("syncing a directory", directory))?;
    }
    Ok(())
}

/// The log that ends.
pub(crate) struct Old<'a> {
    pub(crate) name: &'a str,
    pub(crate) origin: &'a str,
    pub(crate) frontier: &'a Frontier,
}

/// The log that begins, and the frame that commits both.
pub(crate) struct Opening {
    pub(crate) name: String,
    pub(crate) origin: Arc<str>,
    pub(crate) body: Body<Leaf>,
    pub(crate) frontier: Frontier,
}

/// Writes the hand-over down; nothing has happened yet.
pub(crate) fn plan(
    old: &Old<'_>,
    trust_domain: &str,
    snapshot: &[Event],
    recorder: &Recorder,
    key: &CheckpointKey,
    now: OffsetDateTime,
) -> Result<Opening, LedgerError> {
    let name = log_name(now);
    let new_origin = origin(trust_domain, &name);
    let mut rotate = recorder.event(Action::LedgerRotate, Outcome::Success, now);
    rotate.change = Some(Change { what: new_origin.clone(), ..Change::default() });
    let rotate = leaf(&rotate)?;
    let mut ending = old.frontier.clone();
    ending.push(rotate.hash);
    let last = Checkpoint { origin: old.origin.to_owned(), size: ending.size(), root: ending.root() };

    let mut leaves = snapshot.iter().map(leaf).collect::<Result<Vec<_>, _>>()?;
    let hashes: Vec<&[u8]> = leaves.iter().map(|leaf| leaf.hash.as_slice()).collect();
    let mut closing = recorder.event(Action::LedgerSnapshot, Outcome::Success, now);
    closing.snapshot = Some(Snapshot {
        count: Some(leaves.len() as u64),
        predecessor: Some(key.sign(&last)),
        run_sha256: Some(hex::encode(sha256(&hashes))),
    });
    leaves.push(leaf(&closing)?);
    let mut frontier = Frontier::default();
    leaves.iter().for_each(|leaf| frontier.push(leaf.hash));
    let old_head = Head { log: old.name.to_owned(), size: last.size, root: last.root };
    let new_head = Head { log: name.clone(), size: frontier.size(), root: frontier.root() };
    let body = Body::Records(vec![
        Section { first: old.frontier.size(), leaves: vec![rotate], head: old_head },
        Section { first: 0, leaves, head: new_head },
    ]);
    Ok(Opening { name, origin: new_origin.into(), body, frontier })
}

/// The leaf of an event.
pub(crate) fn leaf(event: &Event) -> Result<Leaf, LedgerError> {
    event.to_leaf().map(Leaf::new).map_err(|error| LedgerError::Record(Arc::new(error)))
}
