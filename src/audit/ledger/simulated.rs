//! A disk in memory for tests: any operation can fail, happen and fail, or be the last one before the power goes.
//!
//! What is always true: what was synced survives [`SimDisk::lose_power`]; of what was not, any part may. Each unsynced
//! write is kept, torn at a sector or lost by itself; of the renames and removals in one directory a prefix is kept,
//! so a file may have its new name and none of its bytes. Directories themselves are never lost. From the moment the
//! power is off every operation fails and nothing changes. Operations are counted, whoever does them; whoever only looks
//! ([`SimDisk::look_at`]) is not.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::disk::{Disk, DiskFile, Identity};
use crate::entropy::Entropy;

/// What a disk writes whole.
const SECTOR: usize = 512;

/// What happens at the chosen operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An error, and nothing happened.
    Failed,
    /// An error, and it happened all the same.
    Happened,
    /// No space from here on, until [`SimDisk::mend`].
    Full,
    /// The power goes before it.
    Power,
}

#[derive(Debug, Default)]
struct Node {
    now: Vec<u8>,
    synced: Vec<u8>,
    /// Since the last sync.
    writes: Vec<(usize, Vec<u8>)>,
}

/// A change of names that is not synced.
#[derive(Debug)]
enum Change {
    Set(PathBuf, u64),
    Rename(PathBuf, PathBuf, u64),
    Remove(PathBuf),
}

#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<u64, Node>,
    names: BTreeMap<PathBuf, u64>,
    synced_names: BTreeMap<PathBuf, u64>,
    changes: Vec<Change>,
    directories: BTreeMap<PathBuf, u64>,
    last: u64,
    operations: u64,
    plan: Option<(u64, Fault)>,
    full: bool,
    hits: u64,
    /// Syncs say that they were done, and do nothing: a disk that lies.
    lies: bool,
    /// Nothing fails and nothing is counted: somebody looks who is no part of what is simulated.
    looked_at: bool,
}

/// The disk; clones are the same disk.
#[derive(Debug, Clone)]
pub(crate) struct SimDisk {
    state: Arc<Mutex<State>>,
    off: Arc<watch::Sender<bool>>,
}

fn gone() -> io::Error {
    io::Error::other("the power is off")
}

impl State {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn node(&mut self, path: &Path) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn make_dirs(&mut self, path: &Path) {
        for directory in path.ancestors() {
            if !self.directories.contains_key(directory) {
                let number = self.next();
                self.directories.insert(directory.to_owned(), number);
            }
        }
    }

    fn create(&mut self, path: &Path, bytes: &[u8]) -> u64 {
        self.make_dirs(path.parent().unwrap_or(Path::new("/")));
        let number = self.next();
        let writes = vec![(0, bytes.to_vec())];
        self.nodes.insert(number, Node { now: bytes.to_vec(), synced: Vec::new(), writes });
        self.names.insert(path.to_owned(), number);
        self.changes.push(Change::Set(path.to_owned(), number));
        number
    }

    fn sync_node(&mut self, number: u64) {
        if self.lies {
            return;
        }
        if let Some(node) = self.nodes.get_mut(&number) {
            node.synced.clone_from(&node.now);
            node.writes.clear();
        }
    }

    fn sync_dir(&mut self, path: &Path) {
        if self.lies {
            return;
        }
        let (synced, left) = std::mem::take(&mut self.changes).into_iter().partition(|change| change.is_in(path));
        self.changes = left;
        let synced: Vec<Change> = synced;
        synced.into_iter().for_each(|change| change.apply(&mut self.synced_names));
    }
}

impl Change {
    fn path(&self) -> &Path {
        match self {
            Self::Set(path, _) | Self::Rename(_, path, _) | Self::Remove(path) => path,
        }
    }

    fn is_in(&self, directory: &Path) -> bool {
        self.path().parent() == Some(directory)
    }

    fn apply(self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Set(path, number) => {
                names.insert(path, number);
            }
            Self::Rename(from, to, number) => {
                names.remove(&from);
                names.insert(to, number);
            }
            Self::Remove(path) => names.retain(|name, _| !name.starts_with(&path)),
        }
    }
}

impl Node {
    /// Content after power loss: each write that was not synced is there, torn or lost.
    fn settle(&mut self, chance: &Entropy) {
        let mut bytes = std::mem::take(&mut self.synced);
        for (offset, write) in std::mem::take(&mut self.writes) {
            let kept = match below(chance, 4) {
                0 | 1 => write.len(),
                2 => below(chance, write.len() / SECTOR + 1) * SECTOR,
                _ => 0,
            };
            put(&mut bytes, offset, &write[..kept]);
        }
        self.now.clone_from(&bytes);
        self.synced = bytes;
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, write: &[u8]) {
    if write.is_empty() {
        return;
    }
    bytes.resize(bytes.len().max(offset + write.len()), 0);
    bytes[offset..offset + write.len()].copy_from_slice(write);
}

/// A number below `end`; 0 when that is 0.
pub(crate) fn below(chance: &Entropy, end: usize) -> usize {
    usize::try_from(u64::from_be_bytes(chance.bytes()) % end.max(1) as u64).unwrap_or_default()
}

impl SimDisk {
    /// An empty disk.
    pub(crate) fn new() -> Self {
        Self { state: Arc::default(), off: Arc::new(watch::Sender::new(false)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the operation after `after` others meets `fault`.
    pub(crate) fn plan(&self, after: u64, fault: Fault) {
        let mut state = self.lock();
        state.plan = Some((state.operations + after, fault));
    }

    /// No fault is planned any more, and there is space again.
    pub(crate) fn mend(&self) {
        let mut state = self.lock();
        (state.plan, state.full) = (None, false);
    }

    /// Whether somebody looks at it, from now on, whom nothing hinders.
    pub(crate) fn look_at(&self, looked_at: bool) {
        self.lock().looked_at = looked_at;
    }

    /// From now on no sync does anything, and each says that it did.
    pub(crate) fn lie(&self) {
        self.lock().lies = true;
    }

    /// Whether there is no space now.
    pub(crate) fn is_full(&self) -> bool {
        self.lock().full
    }

    /// A disk that holds what this one holds now: an old copy, to be put back later.
    pub(crate) fn copy(&self) -> Self {
        let state = self.lock();
        let nodes = state.nodes.iter().map(|(number, node)| {
            (*number, Node { now: node.now.clone(), synced: node.now.clone(), writes: Vec::new() })
        });
        let copy = State {
            nodes: nodes.collect(),
            names: state.names.clone(),
            synced_names: state.names.clone(),
            directories: state.directories.clone(),
            last: state.last,
            ..State::default()
        };
        Self { state: Arc::new(Mutex::new(copy)), off: Arc::new(watch::Sender::new(false)) }
    }

    /// Changes the last byte of the first file whose path has `part` in it.
    pub(crate) fn flip(&self, part: &str) {
        let mut state = self.lock();
        let number =
            state.names.iter().find(|(name, _)| name.to_string_lossy().contains(part)).map(|(_, number)| *number);
        if let Some(byte) = number.and_then(|number| state.nodes.get_mut(&number)).and_then(|node| node.now.last_mut())
        {
            *byte ^= 1;
        }
    }

    /// Faults that were met, ever.
    pub(crate) fn hits(&self) -> u64 {
        self.lock().hits
    }

    /// Returns when the power goes.
    pub(crate) async fn power_off(&self) {
        let mut off = self.off.subscribe();
        // The sender lives as long as `self`.
        let _ = off.wait_for(|off| *off).await;
    }

    /// The power goes now, if it has not.
    pub(crate) fn cut(&self) {
        self.off.send_replace(true);
    }

    /// What a power loss leaves, and the power is back. Nobody may use the disk meanwhile.
    pub(crate) fn lose_power(&self, chance: &Entropy) {
        let mut state = self.lock();
        let state = &mut *state;
        let parent = |change: &Change| change.path().parent().unwrap_or(Path::new("/")).to_owned();
        let directories: BTreeSet<PathBuf> = state.changes.iter().map(parent).collect();
        for directory in directories {
            let (mine, left): (Vec<Change>, Vec<Change>) =
                std::mem::take(&mut state.changes).into_iter().partition(|change| change.is_in(&directory));
            state.changes = left;
            let kept = below(chance, mine.len() + 1);
            mine.into_iter().take(kept).for_each(|change| change.apply(&mut state.synced_names));
        }
        state.names.clone_from(&state.synced_names);
        let kept: BTreeSet<u64> = state.names.values().copied().collect();
        state.nodes.retain(|number, _| kept.contains(number));
        state.nodes.values_mut().for_each(|node| node.settle(chance));
        (state.plan, state.full) = (None, false);
        self.off.send_replace(false);
    }

    /// The process was killed and the machine was not: everything is there.
    pub(crate) fn restart(&self) {
        self.mend();
        self.off.send_replace(false);
    }

    fn run<T>(&self, takes_space: bool, operation: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.lock();
        if *self.off.borrow() {
            return Err(gone());
        }
        if state.looked_at {
            return operation(&mut state);
        }
        let planned = state.plan.filter(|(at, _)| *at <= state.operations).map(|(_, fault)| fault);
        state.operations += 1;
        if planned.is_some() {
            state.plan = None;
            state.hits += 1;
        }
        match planned {
            Some(Fault::Failed) => return Err(io::Error::other("planned")),
            Some(Fault::Happened) => {
                return operation(&mut state).and(Err(io::Error::other("planned, but it happened")));
            }
            Some(Fault::Full) => state.full = true,
            Some(Fault::Power) => {
                drop(state);
                self.cut();
                return Err(gone());
            }
            None => {}
        }
        if takes_space && state.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        operation(&mut state)
    }
}

impl Disk for SimDisk {
    fn make_dirs(&self, path: &Path) -> io::Result<()> {
        self.run(true, |state| {
            state.make_dirs(path);
            Ok(())
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.run(false, |state| {
            let all = state.names.keys().chain(state.directories.keys());
            let below = all.filter(|name| name.parent() == Some(path));
            let names = below.filter_map(|name| Some(name.file_name()?.to_str()?.to_owned()));
            Ok(names.collect::<BTreeSet<String>>().into_iter().collect())
        })
    }

    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        self.run(false, |state| {
            let number = state.names.get(path);
            Ok(number.and_then(|number| state.nodes.get(number)).map(|node| node.now.clone()))
        })
    }

    fn put(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.run(true, |state| {
            state.create(path, bytes);
            Ok(())
        })
    }

    fn put_unread(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.put(path, bytes)
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.run(false, |state| {
            let number = state.node(path)?;
            state.sync_node(number);
            Ok(())
        })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.run(false, |state| {
            state.sync_dir(path);
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.run(false, |state| {
            let number = state.node(from)?;
            let change = Change::Rename(from.to_owned(), to.to_owned(), number);
            state.names.remove(from);
            state.names.insert(to.to_owned(), number);
            state.changes.push(change);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.run(false, |state| {
            state.names.retain(|name, _| !name.starts_with(path));
            state.directories.retain(|name, _| !name.starts_with(path));
            state.changes.push(Change::Remove(path.to_owned()));
            Ok(())
        })
    }

    fn allocate(&self, path: &Path, length: u64, content: &[u8], _zeroed: bool) -> io::Result<()> {
        self.run(true, |state| {
            let mut bytes = content.to_vec();
            bytes.resize(usize::try_from(length).map_err(io::Error::other)?, 0);
            let number = state.create(path, &bytes);
            state.sync_node(number);
            state.sync_dir(path.parent().unwrap_or(Path::new("/")));
            Ok(())
        })
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let number = self.run(false, |state| state.node(path))?;
        Ok(Box::new(SimFile { disk: self.clone(), number }))
    }

    fn identity(&self, path: &Path) -> io::Result<Identity> {
        self.run(false, |state| {
            let found = state.names.get(path).or_else(|| state.directories.get(path)).copied();
            found.map(|number| (1, number)).ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }
}

struct SimFile {
    disk: SimDisk,
    number: u64,
}

impl DiskFile for SimFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.run(false, |state| {
            let offset = usize::try_from(offset).map_err(io::Error::other)?;
            let node = state.nodes.get_mut(&self.number).ok_or(io::ErrorKind::NotFound)?;
            put(&mut node.now, offset, bytes);
            node.writes.push((offset, bytes.to_vec()));
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.run(false, |state| {
            state.sync_node(self.number);
            Ok(())
        })
    }

    fn identity(&self) -> io::Result<Identity> {
        self.disk.run(false, |_| Ok((1, self.number)))
    }
}
