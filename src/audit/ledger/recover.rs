//! Opening a ledger: from what is on disk to a state that records can be added to, clean stop or not.
//!
//! The journal decides. Tiles below its oldest segment are synced; their right edge must have the root that the
//! segment's base names. What the journal holds beyond is hashed again and goes through the normal view path. After an
//! unclean stop the last segment is copied into a new synced file before anything is added: the page cache may show
//! what the disk lacks. A signed checkpoint that the journal does not reach means damage, never a torn tail.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use time::OffsetDateTime;

use super::checkpoint::{Checkpoint, CheckpointKey, VerifierKey};
use super::disk::Disk;
use super::error::{Damage, LedgerError, is_full};
use super::frame::Head;
use super::journal::{Journal, JournalDir, Pool, Resume, Supply};
use super::rotate::{VKEY, log_name, make_log, origin};
use super::scan::{Scan, scan};
use super::shared::{Leaf, LogState, TailFrame};
use super::tiles::{Edge, TileDir};
use super::views::CHECKPOINT;
use crate::merkle::{Frontier, root};

/// What an opening had to repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovery {
    /// Records taken from the journal whose tiles were not known to be on disk.
    pub records: u64,
    /// A commit that nobody was told of was cut short and dropped.
    pub torn: bool,
}

/// Where to open and as whom.
pub(crate) struct Place<'a> {
    pub(crate) disk: &'a Arc<dyn Disk>,
    pub(crate) directory: &'a Path,
    pub(crate) trust_domain: &'a str,
    pub(crate) key: &'a CheckpointKey,
    pub(crate) segment_bytes: u64,
    pub(crate) reserve_segments: u32,
    pub(crate) now: OffsetDateTime,
}

/// A ledger that can go on.
pub(crate) struct Opened {
    pub(crate) journal: Journal,
    pub(crate) journal_dir: JournalDir,
    pub(crate) supply: Arc<Supply>,
    pub(crate) logs: Vec<LogState>,
    pub(crate) edges: HashMap<usize, Arc<Edge>>,
    pub(crate) retired: VecDeque<(u64, Vec<u64>)>,
    pub(crate) frontier: Frontier,
    pub(crate) created: bool,
    pub(crate) recovery: Option<Recovery>,
}

/// Reads the directory and repairs what a crash may leave.
pub(crate) fn open(place: &Place<'_>) -> Result<Opened, LedgerError> {
    let path = place.directory.join("journal");
    place.disk.make_dirs(&path).map_err(LedgerError::io("making the journal's directory", &path))?;
    place.disk.sync_dir(place.directory).map_err(LedgerError::io("syncing a directory", place.directory))?;
    let dir = JournalDir { disk: Arc::clone(place.disk), path, segment_bytes: place.segment_bytes };
    let mut scan = scan(&dir)?;
    match scan.resume {
        Some(resume) => reopen(place, dir, &mut scan, resume),
        None => create(place, dir, &mut scan),
    }
}

/// Nothing was ever committed here.
fn create(place: &Place<'_>, dir: JournalDir, scan: &mut Scan) -> Result<Opened, LedgerError> {
    refuse_orphans(place, &dir)?;
    let epoch = scan.unused.first().copied().unwrap_or(1);
    if scan.unused.is_empty() {
        dir.allocate(epoch, &[]).map_err(|error| full_or_io("allocating the journal", &dir.path, error))?;
    }
    let name = log_name(place.now);
    let origin = origin(place.trust_domain, &name);
    make_log(&**place.disk, place.directory, &name, &place.key.verifier(&origin))?;
    let log = LogState::empty(name, origin.into());
    let heads = [log.head()];
    let resume = Resume { epoch, offset: 0, number: 1, previous: [0; 32] };
    let supply = supply(place, &dir, scan, epoch)?;
    let journal = Journal::open(dir.clone(), Arc::clone(&supply), resume, &heads)?;
    Ok(Opened {
        journal,
        journal_dir: dir,
        supply,
        logs: vec![log],
        edges: HashMap::new(),
        retired: VecDeque::new(),
        frontier: Frontier::default(),
        created: true,
        recovery: None,
    })
}

/// Logs with records and no journal: something was lost, and a new journal would fork them.
fn refuse_orphans(place: &Place<'_>, dir: &JournalDir) -> Result<(), LedgerError> {
    let io = LedgerError::io("listing the ledger", place.directory);
    for name in place.disk.list(place.directory).map_err(io)? {
        let path = place.directory.join(&name).join("tile");
        let tiles = place.disk.list(&path).map_err(LedgerError::io("listing tiles", &path))?;
        if !tiles.is_empty() {
            return Err(LedgerError::corrupt(&dir.path, Damage::NoJournal));
        }
    }
    Ok(())
}

fn reopen(place: &Place<'_>, dir: JournalDir, scan: &mut Scan, resume: Resume) -> Result<Opened, LedgerError> {
    if !scan.clean {
        save_tail(&dir, scan, resume.epoch)?;
    }
    let mut opened = (Vec::new(), HashMap::new(), Frontier::default());
    let last = scan.heads.len().saturating_sub(1);
    for (number, head) in scan.heads.iter().enumerate() {
        let (log, edge, frontier) = open_log(place, &dir, scan, head, number == last)?;
        opened.0.push(log);
        opened.1.extend(edge.map(|edge| (number, Arc::new(edge))));
        opened.2 = frontier;
    }
    let (logs, edges, frontier) = opened;
    let size_in = |heads: &[Head], log: &LogState| heads.iter().find(|head| head.log == log.name).map_or(0, |h| h.size);
    let retired = scan.retired.iter();
    let retired =
        retired.map(|(epoch, heads)| (*epoch, logs.iter().map(|log| size_in(heads, log)).collect())).collect();
    let supply = supply(place, &dir, scan, resume.epoch)?;
    let journal = Journal::open(dir.clone(), Arc::clone(&supply), resume, &scan.heads)?;
    let records = scan.sections.iter().map(|section| section.leaves.len() as u64).sum();
    let recovery = (!scan.clean).then_some(Recovery { records, torn: scan.torn });
    Ok(Opened { journal, journal_dir: dir, supply, logs, edges, retired, frontier, created: false, recovery })
}

/// Copies what was committed of the last segment into a new synced file that takes its place.
fn save_tail(dir: &JournalDir, scan: &mut Scan, epoch: u64) -> Result<(), LedgerError> {
    let path = dir.segment(epoch);
    let error = match dir.allocate(epoch, &scan.last) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    // A full disk must not keep a server from starting and revoking: a reserve segment takes the copy.
    let number = scan.reserve.pop().filter(|_| is_full(&error));
    let Some(number) = number else { return Err(full_or_io("copying the journal's tail", &path, error)) };
    let from = dir.reserve(number);
    let copy = || -> std::io::Result<()> {
        let file = dir.disk.open(&from)?;
        file.write_at(&scan.last, 0)?;
        file.sync()?;
        dir.disk.rename(&from, &path)?;
        dir.disk.sync_dir(&dir.path)
    };
    copy().map_err(LedgerError::io("copying the journal's tail", &path))
}

/// The supply as it is on disk; the view thread completes it.
fn supply(place: &Place<'_>, dir: &JournalDir, scan: &mut Scan, current: u64) -> Result<Arc<Supply>, LedgerError> {
    let mut next_ready = false;
    for epoch in scan.unused.iter().filter(|epoch| **epoch != current) {
        if *epoch == current + 1 {
            next_ready = true;
        } else {
            let path = dir.segment(*epoch);
            dir.disk.remove(&path).map_err(LedgerError::io("removing an unused segment", &path))?;
        }
    }
    let reserve = std::mem::take(&mut scan.reserve);
    Ok(Arc::new(Supply::new(Pool { current, next_ready, reserve, reserve_wanted: place.reserve_segments })))
}

type OpenedLog = (LogState, Option<Edge>, Frontier);

fn open_log(
    place: &Place<'_>,
    dir: &JournalDir,
    scan: &Scan,
    head: &Head,
    last: bool,
) -> Result<OpenedLog, LedgerError> {
    let tiles = TileDir::new(Arc::clone(place.disk), place.directory.join(&head.log));
    let origin = origin(place.trust_domain, &head.log);
    let mut log = LogState::empty(head.log.clone(), origin.into());
    (log.size, log.root) = (head.size, head.root);
    let base = scan.base_of(&head.log);
    let closed = !last && base == *head;
    if !closed {
        check_key(place, &tiles, &log.origin, &head.log)?;
    }
    let known = read_checkpoint(place, &tiles, &log.origin, scan.clean)?;
    log.floor = known.as_ref().map_or(0, |checkpoint| checkpoint.size);
    // A closed log that the journal does not touch: tiles and checkpoint were synced long ago, and may be archived.
    if closed {
        (log.viewed, log.synced) = (head.size, head.size);
        compare(&tiles, &base, &[], known.as_ref(), head)?;
        log.published = true;
        return Ok((log, None, Frontier::default()));
    }
    let intact = if scan.clean { tiles.edge(head).ok() } else { None };
    let (edge, frontier) = match intact {
        Some(found) => {
            (log.viewed, log.synced) = (head.size, head.size);
            found
        }
        None => {
            let (edge, mut frontier) = tiles.edge(&base)?;
            (log.viewed, log.synced) = (base.size, base.size);
            log.tail = replay(dir, scan, &head.log, &mut frontier)?;
            (edge, frontier)
        }
    };
    let frames: Vec<(u64, crate::merkle::Hash)> = log.tail.iter().map(|frame| (frame.size, frame.root)).collect();
    let viewed = if log.tail.is_empty() { head } else { &base };
    compare(&tiles, viewed, &frames, known.as_ref(), head)?;
    log.published = !log.tail.is_empty() || log.floor == head.size;
    Ok((log, Some(edge), frontier))
}

/// The verifier key must be of this ledger and this key.
fn check_key(place: &Place<'_>, tiles: &TileDir, origin: &str, name: &str) -> Result<(), LedgerError> {
    let path = tiles.directory().join(VKEY);
    let expected = place.key.verifier(origin);
    let bytes = place.disk.read(&path).map_err(LedgerError::io("reading the verifier key", &path))?;
    let Some(bytes) = bytes else { return make_log(&**place.disk, place.directory, name, &expected) };
    match VerifierKey::parse(&String::from_utf8_lossy(&bytes)) {
        Ok(found) if found == expected => Ok(()),
        Ok(found) if found.name() != origin => {
            Err(LedgerError::OtherOrigin { path, found: found.name().to_owned(), expected: origin.to_owned() })
        }
        Ok(_) | Err(_) => Err(LedgerError::OtherKey { path }),
    }
}

/// The checkpoint on disk. After an unclean stop it may be cut short, which is as if it were not there.
fn read_checkpoint(
    place: &Place<'_>,
    tiles: &TileDir,
    origin: &str,
    clean: bool,
) -> Result<Option<Checkpoint>, LedgerError> {
    let path = tiles.directory().join(CHECKPOINT);
    let bytes = place.disk.read(&path).map_err(LedgerError::io("reading the checkpoint", &path))?;
    let Some(bytes) = bytes else { return Ok(None) };
    match place.key.verifier(origin).verify(&String::from_utf8_lossy(&bytes)) {
        Ok(checkpoint) => Ok(Some(checkpoint)),
        Err(_) if !clean => Ok(None),
        Err(_) => Err(LedgerError::corrupt(&path, Damage::BadCheckpoint)),
    }
}

/// Hashes the journal's records of one log again, and checks each frame's head.
fn replay(
    dir: &JournalDir,
    scan: &Scan,
    log: &str,
    frontier: &mut Frontier,
) -> Result<VecDeque<TailFrame>, LedgerError> {
    let mut tail = VecDeque::new();
    for section in scan.sections.iter().filter(|section| section.head.log == log) {
        let leaves: Vec<Leaf> = section.leaves.iter().cloned().map(Leaf::new).collect();
        leaves.iter().for_each(|leaf| frontier.push(leaf.hash));
        let (size, root) = (section.head.size, section.head.root);
        if frontier.size() != size || frontier.root() != root {
            return Err(LedgerError::corrupt(&dir.path, Damage::OtherRoot { size }));
        }
        tail.push_back(TailFrame { first: section.first, leaves, size, root });
    }
    Ok(tail)
}

/// Whether what is here is a continuation of the checkpoint on disk. `viewed` is covered by tiles; `frames` are the
/// heads that the journal adds to it.
fn compare(
    tiles: &TileDir,
    viewed: &Head,
    frames: &[(u64, crate::merkle::Hash)],
    known: Option<&Checkpoint>,
    head: &Head,
) -> Result<(), LedgerError> {
    let Some(known) = known else { return Ok(()) };
    let path = tiles.directory().join(CHECKPOINT);
    if known.size > head.size {
        return Err(LedgerError::corrupt(&path, Damage::BehindCheckpoint { checkpoint: known.size, size: head.size }));
    }
    // A checkpoint is only ever made where a frame ends.
    let found = match frames.iter().find(|(size, _)| *size == known.size) {
        Some((_, root)) => Some(*root),
        None if known.size <= viewed.size => Some(root(&mut tiles.nodes(viewed.size), known.size)?),
        None => None,
    };
    if found == Some(known.root) {
        return Ok(());
    }
    Err(LedgerError::corrupt(&path, Damage::OtherRoot { size: known.size }))
}

fn full_or_io(doing: &'static str, path: &Path, error: std::io::Error) -> LedgerError {
    if is_full(&error) {
        return LedgerError::Full { directory: path.to_owned() };
    }
    LedgerError::io(doing, path)(error)
}
