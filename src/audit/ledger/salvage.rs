//! What can be saved of a ledger that does not open, and the ledger made of it: behind `chancery ledger recover`.
//!
//! Always true: nothing that was there is changed or deleted, the ledger of before stays as `ledger.before-TIME`; what
//! is kept of a log is its longest beginning that a signed checkpoint or a whole journal frame proves, hash by hash; no
//! log ever signs a head that contradicts one it signed before. So a log whose published checkpoint reaches beyond what
//! is whole is closed at its whole beginning, and a new log (`ca-2026-2`) goes on.
//!
//! Sources of a record, best first: a whole frame of the journal, the entries tile here, the entries tile of a backup.
//! A tile never changes once it is full, so any old backup can fill a hole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use time::OffsetDateTime;

use super::checkpoint::{Checkpoint, CheckpointKey};
use super::disk::{Disk, RealDisk};
use super::error::LedgerError;
use super::frame::{BLOCK, Body, Head, Place, Section, decode, encode, is_log_name};
use super::journal::JournalDir;
use super::open::{LedgerLimits, take_lock};
use super::rotate::{log_name, make_log, origin};
use super::tiles::{Edge, TileKind, TileName, WIDTH};
use super::views::CHECKPOINT;
use crate::merkle::{Frontier, Hash, empty_root, leaf_hash};

/// The most logs that one year's name can have.
const MOST_LOGS: u32 = 9;
/// The ledger that is made, below the data directory, until it takes the place of the old one.
const MADE: &str = "ledger.recovered";

/// Where to look and as whom.
#[derive(Debug)]
pub struct SalvageOptions {
    /// The data directory; the ledger is in `ledger` below it.
    pub data_dir: PathBuf,
    /// The trust domain.
    pub trust_domain: String,
    /// A copy of the ledger directory from a backup.
    pub backup: Option<PathBuf>,
}

/// One log, and how much of it is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFound {
    /// Its name.
    pub name: String,
    /// Records that are whole: it is kept up to here.
    pub whole: u64,
    /// The root at that size.
    pub root: Hash,
    /// What was signed: the checkpoint's size, when there is one that this ledger's key signed.
    pub published: Option<u64>,
    /// Records that something here speaks of: a checkpoint, a journal frame, a tile.
    pub known: u64,
    /// The published checkpoint, as it is signed.
    pub note: Option<String>,
}

impl LogFound {
    /// Records that are known and cannot be saved.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.known - self.whole
    }

    /// Whether a signed head reaches beyond what is whole.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.published.is_some_and(|published| published > self.whole)
    }
}

/// What was found, and what would be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Every log, oldest first.
    pub logs: Vec<LogFound>,
    /// The log that begins, when the newest one cannot go on.
    pub successor: Option<String>,
    /// The number of the journal segment that the new journal begins with.
    epoch: u64,
}

/// Looks at everything and changes nothing.
///
/// # Errors
/// [`LedgerError::Locked`], or when a file cannot be read for another reason than that it is not there.
pub fn survey(options: &SalvageOptions, key: &CheckpointKey, now: OffsetDateTime) -> Result<Plan, LedgerError> {
    let directory = options.data_dir.join("ledger");
    let _lock = take_lock(&directory)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let (frames, epoch) = Frames::read(&*disk, &directory)?;
    let mut names: Vec<String> = frames.logs.keys().cloned().collect();
    for place in std::iter::once(&directory).chain(&options.backup) {
        for name in disk.list(place).map_err(LedgerError::io("listing the ledger", place))? {
            let a_log = ["vkey", "tile", CHECKPOINT].iter().any(|file| place.join(&name).join(file).exists());
            if is_log_name(&name) && a_log {
                names.push(name);
            }
        }
    }
    names.sort();
    names.dedup();
    let mut logs = Vec::new();
    for name in names {
        let note = published(&*disk, &directory.join(&name), &origin(&options.trust_domain, &name), key)?;
        let mut anchors = frames.anchors.get(&name).cloned().unwrap_or_default();
        if let Some((_, head)) = &note {
            anchors.insert(head.size, head.root);
        }
        let mut records = Records::new(&disk, &directory, options.backup.as_deref(), &name, frames.logs.get(&name));
        let (whole, seen) = walk(&mut records, &anchors)?;
        let known = seen.max(anchors.keys().next_back().copied().unwrap_or(0));
        let (published, note) = note.map_or((None, None), |(note, head)| (Some(head.size), Some(note)));
        logs.push(LogFound { name, whole: whole.size(), root: whole.root(), published, known, note });
    }
    let successor = match logs.last() {
        Some(last) if last.is_behind() => Some(successor(&last.name, &logs)?),
        Some(_) => None,
        // Nobody knows how far the log of this year went.
        None => Some(successor(&log_name(now), &logs)?),
    };
    Ok(Plan { logs, successor, epoch })
}

/// Makes the ledger of the plan beside the old one and lets them change places. Returns where the old one is.
///
/// # Errors
/// [`LedgerError::Io`]; before the last step everything is as it was.
pub fn carry_out(
    plan: &Plan,
    options: &SalvageOptions,
    key: &CheckpointKey,
    stamp: &str,
) -> Result<PathBuf, LedgerError> {
    let directory = options.data_dir.join("ledger");
    let _lock = take_lock(&directory)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let made = options.data_dir.join(MADE);
    if made.exists() {
        // An attempt that was cut off: what it left may be the ledger of before, so it is not deleted either.
        put_aside(&*disk, &options.data_dir, &made, stamp)?;
    }
    disk.make_dirs(&made).map_err(LedgerError::io("making a directory", &made))?;
    let (frames, _) = Frames::read(&*disk, &directory)?;
    let mut heads = Vec::new();
    for log in &plan.logs {
        let mut records =
            Records::new(&disk, &directory, options.backup.as_deref(), &log.name, frames.logs.get(&log.name));
        let origin = origin(&options.trust_domain, &log.name);
        make_log(&*disk, &made, &log.name, &key.verifier(&origin))?;
        rebuild(&*disk, &made.join(&log.name), log, &mut records)?;
        let head = Checkpoint { origin, size: log.whole, root: log.root };
        put_synced(&*disk, &made.join(&log.name).join(CHECKPOINT), key.sign(&head).as_bytes())?;
        heads.push(Head { log: log.name.clone(), size: log.whole, root: log.root });
    }
    if let Some(name) = &plan.successor {
        make_log(&*disk, &made, name, &key.verifier(&origin(&options.trust_domain, name)))?;
        heads.push(Head { log: name.clone(), size: 0, root: empty_root() });
    }
    begin_journal(&disk, &made, plan.epoch, &heads)?;
    sync_tree(&*disk, &made)?;
    exchange(&made, &directory)?;
    put_aside(&*disk, &options.data_dir, &made, stamp)
}

/// Gives a directory the first free name `ledger.before-TIME`, and returns that.
fn put_aside(disk: &dyn Disk, data_dir: &Path, what: &Path, stamp: &str) -> Result<PathBuf, LedgerError> {
    let mut before = data_dir.join(format!("ledger.before-{stamp}"));
    let mut count = 1;
    while before.exists() {
        count += 1;
        before = data_dir.join(format!("ledger.before-{stamp}-{count}"));
    }
    disk.rename(what, &before).map_err(LedgerError::io("naming the ledger of before", &before))?;
    disk.sync_dir(data_dir).map_err(LedgerError::io("syncing a directory", data_dir))?;
    Ok(before)
}

/// The name of the log that goes on after `name`.
fn successor(name: &str, logs: &[LogFound]) -> Result<String, LedgerError> {
    // `ca-2026-2` goes on as `ca-2026-3`: the third part, when there is one, counts.
    let year: String = name.split('-').take(2).collect::<Vec<_>>().join("-");
    let free = (2..=MOST_LOGS).map(|n| format!("{year}-{n}")).find(|new| logs.iter().all(|log| log.name != *new));
    free.ok_or(LedgerError::Option { option: "log", why: "this year's ledger was recovered too often" })
}

/// The checkpoint of a log, when our key signed it.
fn published(
    disk: &dyn Disk,
    log: &Path,
    origin: &str,
    key: &CheckpointKey,
) -> Result<Option<(String, Checkpoint)>, LedgerError> {
    let path = log.join(CHECKPOINT);
    let bytes = disk.read(&path).map_err(LedgerError::io("reading the checkpoint", &path))?;
    let note = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    Ok(note.and_then(|note| key.verifier(origin).verify(&note).ok().map(|head| (note, head))))
}

/// Every whole frame of the journal, whatever stands between them.
#[derive(Default)]
struct Frames {
    /// Records by log and index.
    logs: BTreeMap<String, BTreeMap<u64, Bytes>>,
    /// Heads by log: size and root.
    anchors: BTreeMap<String, BTreeMap<u64, Hash>>,
}

impl Frames {
    /// Reads all segments; also says which number is free for a new one.
    fn read(disk: &dyn Disk, ledger: &Path) -> Result<(Self, u64), LedgerError> {
        let path = ledger.join("journal");
        let names = disk.list(&path).map_err(LedgerError::io("listing the journal", &path))?;
        let (mut found, mut next) = (BTreeMap::new(), 1);
        for name in names.iter().filter(|name| name.ends_with(".seg")) {
            let file = path.join(name);
            let bytes = disk.read(&file).map_err(LedgerError::io("reading the journal", &file))?.unwrap_or_default();
            next = next.max(JournalDir::parse_segment(name).map_or(0, |epoch| epoch + 1));
            segment(&Bytes::from(bytes), &mut found);
        }
        // In the order of writing: a segment may still hold frames of an earlier use behind its own.
        let mut frames = Self::default();
        found.into_values().for_each(|body| frames.apply(body));
        Ok((frames, next))
    }

    fn apply(&mut self, body: Body<Bytes>) {
        match body {
            Body::Base(heads) | Body::Close(heads) => heads.iter().for_each(|head| self.anchor(head)),
            Body::Records(sections) => {
                for section in sections {
                    self.anchor(&section.head);
                    self.logs.entry(section.head.log).or_default().extend((section.first..).zip(section.leaves));
                }
            }
        }
    }

    fn anchor(&mut self, head: &Head) {
        self.anchors.entry(head.log.clone()).or_default().insert(head.size, head.root);
    }
}

/// Takes every whole frame of a segment, by its epoch and number.
fn segment(bytes: &Bytes, found: &mut BTreeMap<(u64, u64), Body<Bytes>>) {
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let Ok(frame) = decode(rest) else {
            at += BLOCK;
            continue;
        };
        let body = match frame.body {
            Body::Base(heads) => Body::Base(heads),
            Body::Close(heads) => Body::Close(heads),
            Body::Records(sections) => {
                let owned = |section: Section<&[u8]>| Section {
                    first: section.first,
                    leaves: section.leaves.iter().map(|leaf| bytes.slice_ref(leaf)).collect(),
                    head: section.head,
                };
                Body::Records(sections.into_iter().map(owned).collect())
            }
        };
        found.insert((frame.place.epoch, frame.place.number), body);
        at += frame.length;
    }
}

/// The tile that was read last: records and hashes here and in the backup.
#[derive(Default)]
struct Loaded {
    number: u64,
    here: (Vec<Vec<u8>>, Vec<Hash>),
    backup: (Vec<Vec<u8>>, Vec<Hash>),
}

/// The records of one log from everywhere.
struct Records<'a> {
    disk: &'a Arc<dyn Disk>,
    here: PathBuf,
    backup: Option<PathBuf>,
    frames: Option<&'a BTreeMap<u64, Bytes>>,
    loaded: Option<Loaded>,
}

impl<'a> Records<'a> {
    fn new(
        disk: &'a Arc<dyn Disk>,
        ledger: &Path,
        backup: Option<&Path>,
        name: &str,
        frames: Option<&'a BTreeMap<u64, Bytes>>,
    ) -> Self {
        let backup = backup.map(|path| path.join(name));
        Self { disk, here: ledger.join(name), backup, frames, loaded: None }
    }

    /// The record at `index`, and the leaf hash that a hash tile has for it.
    fn at(&mut self, index: u64) -> Result<(Option<Bytes>, Option<Hash>), LedgerError> {
        if let Some(record) = self.frames.and_then(|frames| frames.get(&index)) {
            return Ok((Some(record.clone()), Some(leaf_hash(record))));
        }
        let (number, offset) = (index / WIDTH as u64, (index % WIDTH as u64) as usize);
        if self.loaded.as_ref().is_none_or(|loaded| loaded.number != number) {
            let here = self.load(&self.here, number)?;
            let backup = self.backup.as_ref().map(|path| self.load(path, number)).transpose()?.unwrap_or_default();
            self.loaded = Some(Loaded { number, here, backup });
        }
        let Some(loaded) = &self.loaded else { return Ok((None, None)) };
        let pick = |(records, hashes): &(Vec<Vec<u8>>, Vec<Hash>)| {
            let record = records.get(offset).map(|record| Bytes::from(record.clone()));
            (record, hashes.get(offset).copied())
        };
        let ((record, hash), (older, older_hash)) = (pick(&loaded.here), pick(&loaded.backup));
        let fits = |record: &Option<Bytes>, hash: Option<Hash>| {
            record.as_ref().is_some_and(|record| hash == Some(leaf_hash(record)))
        };
        if !fits(&record, hash) && fits(&older, hash) {
            return Ok((older, hash));
        }
        if !fits(&record, hash) && fits(&older, older_hash) {
            return Ok((older, older_hash));
        }
        Ok((record, hash))
    }

    /// The most of tile `number` that can be read below `log`.
    fn load(&self, log: &Path, number: u64) -> Result<(Vec<Vec<u8>>, Vec<Hash>), LedgerError> {
        let mut found = (Vec::new(), Vec::new());
        for bytes in self.widths(log, TileKind::Entries, number)? {
            let records = whole_entries(&bytes);
            if records.len() > found.0.len() {
                found.0 = records;
            }
        }
        for bytes in self.widths(log, TileKind::Hashes(0), number)? {
            let (hashes, _) = bytes.as_chunks::<32>();
            if hashes.len() > found.1.len() && hashes.len() <= WIDTH {
                found.1 = hashes.to_vec();
            }
        }
        Ok(found)
    }

    /// Every file of one tile: full, and each partial width.
    fn widths(&self, log: &Path, kind: TileKind, number: u64) -> Result<Vec<Vec<u8>>, LedgerError> {
        let full = TileName::full(kind, number);
        let partials = log.join(full.partials());
        let names = self.disk.list(&partials).map_err(LedgerError::io("listing partial tiles", &partials))?;
        let widths = names.iter().filter_map(|name| name.parse::<u16>().ok());
        let partial = widths.map(|width| TileName { width, ..full });
        let mut files = Vec::new();
        for name in std::iter::once(full).chain(partial) {
            let path = log.join(name.path());
            files.extend(self.disk.read(&path).map_err(LedgerError::io("reading a tile", &path))?);
        }
        Ok(files)
    }
}

/// The records at the beginning of an entries tile that are not cut short.
fn whole_entries(mut tile: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while records.len() < WIDTH {
        let Some((length, rest)) = tile.split_first_chunk::<2>() else { break };
        let Some((record, rest)) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length))) else { break };
        records.push(record.to_vec());
        tile = rest;
    }
    records
}

/// The longest beginning that an anchor proves, and how many records anything speaks of.
fn walk(records: &mut Records<'_>, anchors: &BTreeMap<u64, Hash>) -> Result<(Frontier, u64), LedgerError> {
    let mut proved = Frontier::default();
    // What the records say, and what the hash tiles say where a record contradicts them.
    let (mut said, mut hashed) = (Frontier::default(), Frontier::default());
    // The tree before the first record that is missing or contradicts its hash.
    let mut broken: Option<Frontier> = None;
    let mut decided = false;
    let mut index = 0;
    loop {
        let (record, hash) = records.at(index)?;
        let leaf = record.as_ref().map(|record| leaf_hash(record));
        let Some(either) = hash.or(leaf) else { break };
        index += 1;
        if decided {
            continue;
        }
        if broken.is_none() && leaf != Some(either) {
            broken = Some(said.clone());
        }
        said.push(leaf.unwrap_or(either));
        hashed.push(either);
        let Some(root) = anchors.get(&index) else { continue };
        let complete = broken.is_none() || leaf_complete(&broken, records, index)?;
        if complete && said.root() == *root {
            // The records are right, and a hash tile is not.
            (proved, broken) = (said.clone(), None);
            hashed = said.clone();
        } else {
            if let (Some(before), true) = (&broken, hashed.root() == *root) {
                proved = before.clone();
            }
            decided = true;
        }
    }
    Ok((proved, index))
}

/// Whether every record from the broken place to `end` is there at all.
fn leaf_complete(broken: &Option<Frontier>, records: &mut Records<'_>, end: u64) -> Result<bool, LedgerError> {
    let first = broken.as_ref().map_or(end, Frontier::size);
    for index in first..end {
        if records.at(index)?.0.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes every tile of the whole beginning anew.
fn rebuild(disk: &dyn Disk, to: &Path, log: &LogFound, records: &mut Records<'_>) -> Result<(), LedgerError> {
    let mut edge = Edge::default();
    let mut tile = Vec::new();
    for index in 0..log.whole {
        let (record, _) = records.at(index)?;
        let gone = || LedgerError::corrupt(to, super::Damage::TileMissing);
        tile.push(record.ok_or_else(gone)?);
        if tile.len() == WIDTH || index + 1 == log.whole {
            for write in edge.extend(tile.iter().map(|record| (record.as_ref(), leaf_hash(record)))) {
                put_synced(disk, &to.join(write.name.path()), &write.bytes)?;
            }
            tile.clear();
        }
    }
    for write in edge.partials() {
        put_synced(disk, &to.join(write.name.path()), &write.bytes)?;
    }
    if edge.frontier().is_none_or(|frontier| frontier.root() != log.root) {
        // The files changed between the look and now.
        return Err(LedgerError::corrupt(to, super::Damage::OtherRoot { size: log.whole }));
    }
    Ok(())
}

/// A journal that says: closed cleanly at these heads.
fn begin_journal(disk: &Arc<dyn Disk>, made: &Path, epoch: u64, heads: &[Head]) -> Result<(), LedgerError> {
    let path = made.join("journal");
    disk.make_dirs(&path).map_err(LedgerError::io("making the journal's directory", &path))?;
    let segment_bytes = LedgerLimits::default().segment_bytes;
    let dir = JournalDir { disk: Arc::clone(disk), path: path.clone(), segment_bytes };
    let mut content = Vec::new();
    let base = Place { epoch, number: 1, previous: [0; 32] };
    let previous = encode(&base, &Body::<&[u8]>::Base(heads.to_vec()), &mut content);
    encode(&Place { epoch, number: 2, previous }, &Body::<&[u8]>::Close(heads.to_vec()), &mut content);
    dir.allocate(epoch, &content).map_err(LedgerError::io("allocating the journal", &path))
}

fn put_synced(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), LedgerError> {
    disk.put(path, bytes).map_err(LedgerError::io("writing", path))?;
    disk.sync_file(path).map_err(LedgerError::io("syncing", path))
}

/// Makes every name below `path` durable.
fn sync_tree(disk: &dyn Disk, path: &Path) -> Result<(), LedgerError> {
    for name in disk.list(path).map_err(LedgerError::io("listing", path))? {
        let below = path.join(name);
        if below.is_dir() {
            sync_tree(disk, &below)?;
        }
    }
    disk.sync_dir(path).map_err(LedgerError::io("syncing a directory", path))
}

/// Lets two directories change places at once: at no instant is there no ledger, which a start would take for a new
/// installation.
fn exchange(made: &Path, ledger: &Path) -> Result<(), LedgerError> {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    renameat2(AT_FDCWD, made, AT_FDCWD, ledger, RenameFlags::RENAME_EXCHANGE)
        .map_err(|error| LedgerError::io("putting the recovered ledger in place", ledger)(error.into()))
}
