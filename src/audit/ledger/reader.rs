//! Reading a ledger while it is written: records, checkpoints, tiles and receipts.
//!
//! A record can be read as soon as it is durable: from memory until its tile is written, from the tile after that.
//! Calls block for short file reads (one tile at a time); nothing here writes.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::disk::Disk;
use super::error::LedgerError;
use super::position::Position;
use super::rotate::VKEY;
use super::shared::{LogState, Shared};
use super::tiles::{TileDir, TileName, WIDTH};
use super::views::CHECKPOINT;
use crate::audit::receipt::Receipt;
use crate::merkle::inclusion_proof;

/// The most records that one read returns.
pub const MOST_READ: u64 = 1024;

/// One log of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogInfo {
    /// Its name, which is its directory below `DIR/ledger`.
    pub name: String,
    /// Its origin.
    pub origin: Arc<str>,
    /// Records in it, durable.
    pub size: u64,
    /// Records that its published checkpoint covers.
    pub published: u64,
}

/// A handle for readers; cheap to clone.
#[derive(Clone)]
pub struct LedgerReader {
    pub(crate) shared: Arc<Shared>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) directory: Arc<Path>,
}

impl std::fmt::Debug for LedgerReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LedgerReader").field("directory", &self.directory).finish_non_exhaustive()
    }
}

fn info(log: &LogState) -> LogInfo {
    LogInfo { name: log.name.clone(), origin: Arc::clone(&log.origin), size: log.size, published: log.covered() }
}

impl LedgerReader {
    /// Every log in the order of opening; the last one is written.
    #[must_use]
    pub fn logs(&self) -> Vec<LogInfo> {
        self.shared.lock().logs.iter().map(info).collect()
    }

    /// The log of this name or origin.
    ///
    /// # Errors
    /// [`LedgerError::NoLog`].
    pub fn log(&self, log: &str) -> Result<LogInfo, LedgerError> {
        let state = self.shared.lock();
        let found = state.logs.iter().find(|state| state.name == log || *state.origin == *log).map(info);
        found.ok_or_else(|| LedgerError::NoLog { log: log.chars().take(200).collect() })
    }

    /// Counts commits: changes when there is more to read.
    #[must_use]
    pub fn committed(&self) -> watch::Receiver<u64> {
        self.shared.committed.subscribe()
    }

    /// Records of a log (by name or origin), at most [`MOST_READ`] of them; the range is cut to what is durable.
    ///
    /// # Errors
    /// When there is no such log, or a tile can't be read.
    pub fn read(&self, log: &str, range: Range<u64>) -> Result<Vec<(Position, Bytes)>, LedgerError> {
        let info = self.log(log)?;
        let end = range.end.min(info.size).min(range.start.saturating_add(MOST_READ));
        // What no tile has yet, first: it may move into tiles while we read those, never back.
        let tail = self.tail(&info.name, range.start..end);
        let tiled = tail.first().map_or(end, |(index, _)| *index);
        let mut records = Vec::new();
        let tiles = TileDir::new(Arc::clone(&self.disk), self.directory.join(&info.name));
        let mut at = range.start;
        while at < tiled {
            let tile = at / WIDTH as u64;
            let stop = tiled.min((tile + 1) * WIDTH as u64);
            let width = (stop - tile * WIDTH as u64) as u16;
            let skip = (at % WIDTH as u64) as usize;
            let found = tiles.records(tile, width)?.into_iter().skip(skip);
            records.extend((at..stop).zip(found.map(Bytes::from)));
            at = stop;
        }
        records.extend(tail);
        let place = |index| Position { log: Arc::clone(&info.origin), index };
        Ok(records.into_iter().map(|(index, record)| (place(index), record)).collect())
    }

    fn tail(&self, name: &str, range: Range<u64>) -> Vec<(u64, Bytes)> {
        let state = self.shared.lock();
        let Some(log) = state.logs.iter().find(|log| log.name == name) else { return Vec::new() };
        let frames = log.tail.iter().filter(|frame| frame.size > range.start && frame.first < range.end);
        frames
            .flat_map(|frame| (frame.first..).zip(&frame.leaves))
            .filter(|(index, _)| range.contains(index))
            .map(|(index, leaf)| (index, leaf.bytes.clone()))
            .collect()
    }

    /// One record.
    ///
    /// # Errors
    /// [`LedgerError::NoRecord`], and as [`LedgerReader::read`].
    pub fn record(&self, position: &Position) -> Result<Bytes, LedgerError> {
        let info = self.log(&position.log)?;
        let found = self.read(&position.log, position.index..position.index.saturating_add(1))?;
        let missing = LedgerError::NoRecord { log: info.name, index: position.index, size: info.size };
        found.into_iter().next().map(|(_, record)| record).ok_or(missing)
    }

    /// The published checkpoint of a log, and its size; `None` before the first.
    ///
    /// # Errors
    /// When there is no such log, or the file can't be read.
    pub fn checkpoint(&self, log: &str) -> Result<Option<String>, LedgerError> {
        let name = self.log(log)?.name;
        match self.shared.signed(&name).and_then(|signed| signed.checkpoint) {
            Some(checkpoint) => Ok(Some(checkpoint.to_string())),
            None => self.text(&self.directory.join(name).join(CHECKPOINT)),
        }
    }

    /// The verifier key of a log, as text.
    ///
    /// # Errors
    /// As [`LedgerReader::checkpoint`].
    pub fn verifier_key(&self, log: &str) -> Result<Option<String>, LedgerError> {
        let path = self.path(log, VKEY)?;
        self.text(&path)
    }

    /// The bytes of a tile by its path below the log (`tile/0/067.p/12`); `None` when there is none. A partial one that was
    /// published is there for as long as its full one is. Whether the caller may see entries is for the caller to decide.
    ///
    /// # Errors
    /// As [`LedgerReader::checkpoint`].
    pub fn tile(&self, log: &str, name: TileName) -> Result<Option<Vec<u8>>, LedgerError> {
        let log = self.log(log)?.name;
        if let Some(tile) = self.shared.signed(&log).and_then(|signed| signed.edge.partial(name)) {
            return Ok(Some(tile));
        }
        TileDir::new(Arc::clone(&self.disk), self.directory.join(log)).tile(name)
    }

    fn path(&self, log: &str, below: &str) -> Result<PathBuf, LedgerError> {
        Ok(self.directory.join(self.log(log)?.name).join(below))
    }

    fn text(&self, path: &Path) -> Result<Option<String>, LedgerError> {
        let bytes = self.disk.read(path).map_err(LedgerError::io("reading", path))?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The receipt of a record: a `c2sp.org/tlog-proof@v1` text against the published checkpoint. Waits the few
    /// milliseconds until that covers the record.
    ///
    /// # Errors
    /// [`LedgerError::NoRecord`], or as [`LedgerReader::checkpoint`].
    pub async fn proof(&self, position: &Position) -> Result<Receipt, LedgerError> {
        let (mut heads, mut health) = (self.shared.heads.subscribe(), self.shared.health.subscribe());
        loop {
            heads.mark_unchanged();
            health.mark_unchanged();
            let info = self.log(&position.log)?;
            if position.index >= info.size {
                return Err(LedgerError::NoRecord { log: info.name, index: position.index, size: info.size });
            }
            if let Some(receipt) = self.proof_now(&info, position.index)? {
                return Ok(receipt);
            }
            // A ledger that failed publishes nothing more.
            if let Some(failure) = self.shared.failure() {
                return Err(failure);
            }
            tokio::select! {
                changed = heads.changed() => changed.map_err(|_| LedgerError::Closed)?,
                changed = health.changed() => changed.map_err(|_| LedgerError::Closed)?,
            }
        }
    }

    fn proof_now(&self, info: &LogInfo, index: u64) -> Result<Option<Receipt>, LedgerError> {
        let tiles = TileDir::new(Arc::clone(&self.disk), self.directory.join(&info.name));
        let receipt = |proof, checkpoint| Some(Receipt { extra: None, index, proof, checkpoint });
        let signed = self.shared.signed(&info.name);
        if let Some((signed, note)) = signed.and_then(|signed| Some((signed.clone(), signed.checkpoint?))) {
            if signed.size <= index {
                return Ok(None);
            }
            let proof = inclusion_proof(&mut tiles.nodes_up_to(&signed.edge), index, signed.size)?;
            return Ok(receipt(proof, note.to_string()));
        }
        let Some(note) = self.text(&self.directory.join(&info.name).join(CHECKPOINT))? else { return Ok(None) };
        // Our own file; whoever gets the receipt checks the signature.
        let size = note.lines().nth(1).and_then(super::checkpoint::parse_decimal).unwrap_or(0);
        if size <= index {
            return Ok(None);
        }
        let proof = inclusion_proof(&mut tiles.nodes(size), index, size)?;
        Ok(receipt(proof, note))
    }
}
