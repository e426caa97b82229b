//! The view thread: tiles, checkpoints and the journal's supply of segments, all written behind the commit.
//!
//! A view can be lost and comes back from the journal, so nothing here is on the way of an answer. Order within a
//! round: tiles, then the checkpoint that needs them. A journal segment is reused only after every tile and checkpoint
//! that it could rebuild is synced. When the disk is full the round is tried again later with what came since; any
//! other error stops the ledger, because a disk that loses tiles loses commits too.

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
use super::shared::{Heads, LogState, Shared, ViewJob};
use super::tiles::{Edge, TileDir, TileKind, TileName, WIDTH};
use crate::clock::Clock;

/// The shortest time between two rounds: partial tiles cost writes, so quick commits share one.
const PACE: Duration = Duration::from_millis(3);
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
    pub(crate) edges: HashMap<usize, Edge>,
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
        let work = self.shared.next_work(if hurried { at_most.min(RETRY) } else { at_most }, MOST_RECORDS);
        if work.stop {
            return None;
        }
        let mut outcome = self.mend_closed();
        for job in work.logs {
            outcome = outcome.and_then(|()| self.view(job));
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

    /// Writes what a log's tiles lack, and its checkpoint. On an error nothing of it counts.
    fn view(&mut self, job: ViewJob) -> io::Result<()> {
        let ViewJob { number: log, origin, head, publish, frames } = job;
        if self.disk.identity(&self.directory)? != self.identity {
            return Err(io::Error::other("the ledger's directory was replaced by another"));
        }
        let directory = self.directory.join(&head.log);
        let mut edge = self.edges.get(&log).cloned().unwrap_or_default();
        let leaves = frames.iter().flat_map(|frame| &frame.leaves).map(|leaf| (leaf.as_ref(), leaf.hash));
        for write in edge.extend(leaves) {
            let path = directory.join(write.name.path());
            self.unsynced.add_directories(&path, &self.directory);
            if usize::from(write.name.width) < WIDTH {
                // No checkpoint needs it before this round's. One that a kill cut short is mended at the next start.
                self.disk.put_unread(&path, &write.bytes)?;
            } else {
                self.disk.put(&path, &write.bytes)?;
                self.unsynced.complete.insert(directory.join(write.name.partials()));
            }
            self.unsynced.tiles.insert((log, write.name.kind, write.name.index), path);
        }
        if self.mended.insert(log) {
            self.mend_partials(&directory, &edge)?;
        }
        let heads = if publish { Some(self.publish(&directory, origin, &head)?) } else { None };
        self.edges.insert(log, edge);
        self.shared.set_viewed(log, head.size);
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

    /// Writes every narrower partial tile of the right edge again that is not what the wider one begins with.
    fn mend_partials(&mut self, directory: &Path, edge: &Edge) -> io::Result<()> {
        for wide in edge.partials(usize::MAX) {
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

    /// Signs and writes the checkpoint of a log whose tiles are there.
    fn publish(&mut self, directory: &Path, origin: Arc<str>, head: &Head) -> io::Result<Heads> {
        let checkpoint = Checkpoint { origin: origin.to_string(), size: head.size, root: head.root };
        let note = self.key.sign(&checkpoint);
        let path = directory.join(CHECKPOINT);
        self.disk.put(&path, note.as_bytes())?;
        self.unsynced.add_directories(&path, &self.directory);
        self.unsynced.others.insert(path);
        Ok(Heads { origin, size: head.size, root: head.root, checkpoint: note.into(), time: self.clock.now() })
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
