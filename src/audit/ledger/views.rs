//! The view thread: tiles, checkpoints and the journal's supply of segments, all written behind the commit.
//!
//! A view can be lost and comes back from the journal, so nothing here is on the way of an answer. Each round writes the
//! tiles that are full, signs a checkpoint and publishes it in memory together with the partial tiles that it needs:
//! readers of a running server have it at once ([`super::reader`]). Partial tiles and the checkpoint's file follow in the
//! same round when the server was quiet, and under load every [`ROUNDS_BEHIND`] rounds: they are new files each time, which
//! cost more than all else here. A journal segment is reused only after every tile and checkpoint that it could rebuild is
//! synced. When the disk is full the round is tried again later with what came since; any other error stops the ledger,
//! because a disk that loses tiles loses commits too.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::Flock;

use super::checkpoint::{Checkpoint, CheckpointKey};
use super::disk::{Disk, Identity};
use super::error::is_full;
use super::frame::Head;
use super::journal::{JournalDir, Supply};
use super::shared::{Heads, LogState, Shared, Signed, ViewJob};
use super::tiles::{Edge, TileDir, TileKind, TileName, TileWrite};
use crate::clock::Clock;

/// The shortest time between two rounds: quick commits share one signature.
const PACE: Duration = Duration::from_millis(3);
/// Under load, the rounds that partial tiles and the checkpoint's file are behind at most.
const ROUNDS_BEHIND: u32 = 8;
/// How often a full disk is asked again.
const RETRY: Duration = Duration::from_millis(200);
/// How long it waits for work otherwise.
const IDLE: Duration = Duration::from_secs(60);
/// The most records of one round.
const MOST_RECORDS: usize = 16_384;
/// The file name of the signed tree head in a log's directory.
pub(crate) const CHECKPOINT: &str = "checkpoint";

/// The view thread's state.
pub(crate) struct Views {
    pub(crate) disk: Arc<dyn Disk>,
    /// The ledger's directory.
    pub(crate) directory: PathBuf,
    /// What that was at opening: one that was removed or replaced is never written again, least of all made anew.
    pub(crate) identity: Identity,
    pub(crate) journal: JournalDir,
    pub(crate) supply: Arc<Supply>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) key: Arc<CheckpointKey>,
    pub(crate) clock: Clock,
    /// Right edges of the logs that grew in this run, by their number.
    pub(crate) edges: HashMap<usize, Arc<Edge>>,
    /// What the disk lacks of them.
    pub(crate) behind: Behind,
    pub(crate) unsynced: Unsynced,
    /// Logs whose narrower partial tiles this run looked at. At every start: only the newest of each tile is synced, so
    /// even after a clean end a loss of power tears the others.
    pub(crate) mended: BTreeSet<usize>,
    /// Whether the logs of earlier years were looked at in the same way.
    pub(crate) closed_mended: bool,
    /// Segments to reuse.
    pub(crate) recycled: Vec<u64>,
    /// The last round had no space, or no descriptor.
    pub(crate) stalled: bool,
    /// Held while anything may be written.
    pub(crate) _lock: Arc<Flock<std::fs::File>>,
}

/// What is published in memory, and not on disk yet.
#[derive(Debug)]
pub(crate) struct Behind {
    /// By the number of the log.
    logs: BTreeMap<usize, Unwritten>,
    /// Rounds since the disk had all of it; after a quiet moment as many as there may be.
    rounds: u32,
    /// The partial tiles that were written last, so that none is written twice.
    partials: HashMap<(usize, TileKind), TileName>,
}

impl Default for Behind {
    fn default() -> Self {
        Self { logs: BTreeMap::new(), rounds: ROUNDS_BEHIND, partials: HashMap::new() }
    }
}

#[derive(Debug)]
struct Unwritten {
    directory: PathBuf,
    size: u64,
    checkpoint: Option<Arc<str>>,
}

/// Files and directories that were written and not synced.
#[derive(Debug, Default)]
pub(crate) struct Unsynced {
    /// The newest of each tile: a partial that a wider one replaced needs no sync.
    tiles: BTreeMap<(usize, TileKind, u64), PathBuf>,
    /// Checkpoints, and narrower tiles that were written again.
    others: BTreeSet<PathBuf>,
    directories: BTreeSet<PathBuf>,
    /// Directories of partial tiles whose full tile was written.
    complete: BTreeSet<PathBuf>,
}

/// Whether the process or the system has no file descriptor left.
fn no_descriptors(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE))
}

impl Views {
    /// Works until told to stop.
    pub(crate) fn run(mut self) {
        while let Some(pause) = self.round(IDLE) {
            std::thread::sleep(pause);
        }
    }

    /// One round, after waiting for work at most so long; how long the next one is to wait, `None` at the end.
    pub(crate) fn round(&mut self, at_most: Duration) -> Option<Duration> {
        let hurried = self.stalled || self.supply.is_full();
        let at_most = if self.behind.logs.is_empty() { at_most } else { Duration::ZERO };
        let work = self.shared.next_work(if hurried { at_most.min(RETRY) } else { at_most }, MOST_RECORDS);
        if work.stop {
            return None;
        }
        let quiet = work.logs.is_empty();
        let mut outcome = self.mend_closed();
        for job in work.logs {
            outcome = outcome.and_then(|()| self.view(job));
        }
        if quiet || work.sync || self.behind.rounds >= ROUNDS_BEHIND {
            outcome = outcome.and_then(|()| self.write_behind());
            self.behind.rounds = if quiet { ROUNDS_BEHIND } else { 0 };
        } else {
            self.behind.rounds += 1;
        }
        if work.sync {
            outcome = outcome.and_then(|()| self.sync());
        }
        self.stalled = match outcome.and_then(|()| self.refill()) {
            Ok(()) => false,
            // A file that could not be opened for want of descriptors left nothing behind; a failed sync is never one
            // of these.
            Err(error) if is_full(&error) || no_descriptors(&error) => true,
            Err(error) => {
                self.shared.fail(&format!("writing tiles: {error}"), self.clock.now());
                return None;
            }
        };
        self.shared.set_stalled(self.stalled);
        Some(if self.stalled { RETRY } else { PACE })
    }

    /// Writes the tiles of a log that are full now, signs its head and publishes both. On an error nothing of it counts.
    fn view(&mut self, job: ViewJob) -> io::Result<()> {
        let ViewJob { number: log, origin, head, publish, frames } = job;
        self.check_identity()?;
        let directory = self.directory.join(&head.log);
        let mut edge = self.edges.get(&log).map(|edge| Edge::clone(edge)).unwrap_or_default();
        let leaves = frames.iter().flat_map(|frame| &frame.leaves).map(|leaf| (leaf.as_ref(), leaf.hash));
        for write in edge.extend(leaves) {
            let path = directory.join(write.name.path());
            self.unsynced.add_directories(&path, &self.directory);
            self.disk.put(&path, &write.bytes)?;
            self.unsynced.complete.insert(directory.join(write.name.partials()));
            self.unsynced.tiles.insert((log, write.name.kind, write.name.index), path);
        }
        let (edge, size) = (Arc::new(edge), head.size);
        self.edges.insert(log, Arc::clone(&edge));
        let heads = publish.then(|| self.sign(origin, &head));
        let checkpoint = heads.as_ref().map(|heads| Arc::clone(&heads.checkpoint));
        self.behind.logs.insert(log, Unwritten { directory, size, checkpoint: checkpoint.clone() });
        self.shared.set_signed(log, Signed { size, checkpoint, edge });
        if let Some(heads) = heads {
            self.shared.heads.send_replace(heads);
        }
        Ok(())
    }

    /// Once in a run: the logs of years before get no view any more, and a loss of power tore their narrower partial tiles
    /// as it does those of the log that is written. What was archived is not there to be mended.
    fn mend_closed(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.closed_mended, true) {
            return Ok(());
        }
        let heads: Vec<Head> = {
            let state = self.shared.lock();
            let before = state.logs.split_last().map(|(_, before)| before).unwrap_or_default();
            before.iter().filter(|log| log.viewed == log.size).map(LogState::head).collect()
        };
        for head in heads {
            let directory = self.directory.join(&head.log);
            if let Ok((edge, _)) = TileDir::new(Arc::clone(&self.disk), directory.clone()).edge(&head) {
                self.mend_partials(&directory, &edge)?;
            }
        }
        Ok(())
    }

    fn check_identity(&self) -> io::Result<()> {
        if self.disk.identity(&self.directory)? == self.identity {
            return Ok(());
        }
        Err(io::Error::other("the ledger's directory was replaced by another"))
    }

    fn sign(&self, origin: Arc<str>, head: &Head) -> Heads {
        let checkpoint = Checkpoint { origin: origin.to_string(), size: head.size, root: head.root };
        let note = self.key.sign(&checkpoint);
        Heads { origin, size: head.size, root: head.root, checkpoint: note.into(), time: self.clock.now() }
    }

    /// Writes partial tiles, then the checkpoints that need them. What could not be written is behind still.
    fn write_behind(&mut self) -> io::Result<()> {
        while let Some((&log, unwritten)) = self.behind.logs.first_key_value() {
            self.check_identity()?;
            let edge = self.edges.get(&log).cloned().unwrap_or_default();
            let (directory, size, checkpoint) =
                (unwritten.directory.clone(), unwritten.size, unwritten.checkpoint.clone());
            for write in edge.partials() {
                self.write_partial(log, &directory, &write)?;
            }
            if self.mended.insert(log) {
                self.mend_partials(&directory, &edge)?;
            }
            if let Some(checkpoint) = checkpoint {
                let path = directory.join(CHECKPOINT);
                self.disk.put(&path, checkpoint.as_bytes())?;
                self.unsynced.add_directories(&path, &self.directory);
                self.unsynced.others.insert(path);
            }
            self.behind.logs.remove(&log);
            self.shared.set_viewed(log, size);
        }
        Ok(())
    }

    fn write_partial(&mut self, log: usize, directory: &Path, write: &TileWrite) -> io::Result<()> {
        let key = (log, write.name.kind);
        if self.behind.partials.get(&key) == Some(&write.name) {
            return Ok(());
        }
        let path = directory.join(write.name.path());
        self.unsynced.add_directories(&path, &self.directory);
        // No checkpoint on disk needs it before this round's. One that a kill cut short is mended at the next start.
        self.disk.put_unread(&path, &write.bytes)?;
        self.unsynced.tiles.insert((log, write.name.kind, write.name.index), path);
        self.behind.partials.insert(key, write.name);
        Ok(())
    }

    /// Writes every narrower partial tile of the right edge again that is not what the wider one begins with.
    fn mend_partials(&mut self, directory: &Path, edge: &Edge) -> io::Result<()> {
        for wide in edge.partials() {
            let names = self.disk.list(&directory.join(wide.name.partials()))?;
            for width in names.iter().filter_map(|name| name.parse::<u16>().ok()).filter(|w| *w < wide.name.width) {
                let path = directory.join(TileName { width, ..wide.name }.path());
                let (right, found) = (wide.narrower(width), self.disk.read(&path)?);
                if let (Some(right), Some(found)) = (right, found)
                    && right != found
                {
                    self.disk.put(&path, right)?;
                    self.unsynced.others.insert(path);
                }
            }
        }
        Ok(())
    }

    /// Syncs everything written so far, then frees the segments below.
    fn sync(&mut self) -> io::Result<()> {
        let unsynced = std::mem::take(&mut self.unsynced);
        let mut files = unsynced.tiles.values().chain(&unsynced.others);
        let synced = files.try_for_each(|path| self.disk.sync_file(path));
        let mut directories = unsynced.directories.iter();
        let synced = synced.and_then(|()| directories.try_for_each(|path| self.disk.sync_dir(path)));
        // Never to be tried again, not even when it says that the disk is full: the pages may be gone.
        synced.map_err(|error| io::Error::other(format!("sync: {error}")))?;
        // Partial tiles go once the full one exists (tlog-tiles, "Partial Tiles"), and not before it is durable: records
        // below the journal's oldest segment may stand in them alone. Before the mark is moved, so that a replay does it
        // again; one that stays does no harm.
        for path in &unsynced.complete {
            if let Err(error) = self.disk.remove(path) {
                tracing::warn!(path = %path.display(), %error, "partial tiles stay behind");
            }
        }
        self.recycled.extend(self.shared.set_synced());
        Ok(())
    }

    /// Keeps the next segment and the reserve ready.
    fn refill(&mut self) -> io::Result<()> {
        self.supply.refill(&self.journal, &mut self.recycled)?;
        self.shared.set_ok();
        Ok(())
    }
}

impl Unsynced {
    fn add_directories(&mut self, file: &Path, stop: &Path) {
        let above = file.ancestors().skip(1).take_while(|path| path.starts_with(stop));
        self.directories.extend(above.map(Path::to_owned));
    }
}
