//! Tiles (c2sp.org/tlog-tiles): where they are, what is in them, and the right edge that an appender extends.
//!
//! A hash tile has up to 256 hashes of one level, an entries tile up to 256 records with 16-bit lengths before them. A
//! partial tile stays until its full one exists, because an older checkpoint may need it. Readers therefore fall back
//! from a partial tile to the full one or to a wider partial, and use its first hashes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::Disk;
use super::error::{Damage, LedgerError};
use super::frame::Head;
use crate::merkle::{Frontier, Hash, Nodes, leaf_hash, perfect_root};

/// Hashes or records in a full tile.
pub(crate) const WIDTH: usize = 256;
/// Levels of a tree that each tile level covers.
const HEIGHT: u32 = 8;
/// The highest tile level that a 64-bit size can need.
const TOP_LEVEL: u8 = 7;

/// Which kind of tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TileKind {
    /// Hashes of a level, 0 being the leaves.
    Hashes(u8),
    /// The records.
    Entries,
}

/// Names one tile; `width` is 256 for a full one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TileName {
    /// Hashes or records.
    pub kind: TileKind,
    /// Which of its kind, from the left.
    pub index: u64,
    /// How many it holds, 1 to 256.
    pub width: u16,
}

impl TileName {
    pub(crate) fn full(kind: TileKind, index: u64) -> Self {
        Self { kind, index, width: WIDTH as u16 }
    }

    /// The path below the log's directory, such as `tile/0/x001/067.p/12`.
    #[must_use]
    pub fn path(&self) -> String {
        let mut digits = format!("{:03}", self.index % 1000);
        let mut rest = self.index / 1000;
        while rest > 0 {
            digits = format!("x{:03}/{digits}", rest % 1000);
            rest /= 1000;
        }
        let level = match self.kind {
            TileKind::Hashes(level) => level.to_string(),
            TileKind::Entries => "entries".to_owned(),
        };
        let partial = if usize::from(self.width) == WIDTH { String::new() } else { format!(".p/{}", self.width) };
        format!("tile/{level}/{digits}{partial}")
    }

    /// The directory that holds the partial tiles of this index.
    pub(crate) fn partials(&self) -> String {
        format!("{}.p", Self::full(self.kind, self.index).path())
    }

    /// Reads a path back; only the one spelling that the specification allows.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let (level, rest) = path.strip_prefix("tile/")?.split_once('/')?;
        let kind = match level {
            "entries" => TileKind::Entries,
            digits => TileKind::Hashes(digits.parse().ok().filter(|level| *level <= TOP_LEVEL)?),
        };
        let (digits, width) = match rest.split_once(".p/") {
            Some((digits, width)) => (digits, width.parse::<u16>().ok().filter(|width| (1..256).contains(width))?),
            None => (rest, WIDTH as u16),
        };
        let mut index = 0_u64;
        for part in digits.split('/') {
            let part: u64 = part.trim_start_matches('x').parse().ok().filter(|part| *part < 1000)?;
            index = index.checked_mul(1000)?.checked_add(part)?;
        }
        let name = Self { kind, index, width };
        (name.path() == path).then_some(name)
    }
}

/// Splits an entries tile; `None` when it is cut short or has more than a tile may.
pub(crate) fn split_entries(mut tile: &[u8]) -> Option<Vec<&[u8]>> {
    let mut records = Vec::new();
    while !tile.is_empty() {
        let (length, rest) = tile.split_first_chunk::<2>()?;
        let (record, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        records.push(record);
        tile = rest;
        if records.len() > WIDTH {
            return None;
        }
    }
    Some(records)
}

/// Splits a hash tile; `None` when it is no whole number of hashes.
fn split_hashes(tile: &[u8]) -> Option<Vec<Hash>> {
    let (hashes, rest) = tile.as_chunks::<32>();
    (rest.is_empty() && hashes.len() <= WIDTH).then(|| hashes.to_vec())
}

/// A tile to be written.
#[derive(Debug)]
pub(crate) struct TileWrite {
    pub(crate) name: TileName,
    pub(crate) bytes: Vec<u8>,
}

impl TileWrite {
    /// What the partial tile of `width` holds, which this one begins with.
    pub(crate) fn narrower(&self, width: u16) -> Option<&[u8]> {
        prefix(self.name.kind, &self.bytes, width)
    }
}

/// The first `width` hashes or records of a tile; `None` when it has fewer.
fn prefix(kind: TileKind, tile: &[u8], width: u16) -> Option<&[u8]> {
    let length = match kind {
        TileKind::Hashes(_) => usize::from(width) * 32,
        TileKind::Entries => {
            let records = split_entries(tile)?;
            let first = records.get(..usize::from(width))?;
            first.iter().map(|record| record.len() + 2).sum()
        }
    };
    tile.get(..length)
}

/// The rightmost, still partial tiles of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Edge {
    size: u64,
    levels: Vec<Vec<Hash>>,
    entries: Vec<u8>,
}

impl Edge {
    /// Appends records and returns every tile that is full now, in order.
    pub(crate) fn extend<'a>(&mut self, leaves: impl Iterator<Item = (&'a [u8], Hash)>) -> Vec<TileWrite> {
        let mut full = Vec::new();
        for (record, hash) in leaves {
            self.entries.extend(u16::try_from(record.len()).unwrap_or(u16::MAX).to_be_bytes());
            self.entries.extend_from_slice(record);
            self.size += 1;
            self.raise(hash, &mut full);
        }
        full
    }

    /// The partial tiles of every level, and of the records.
    pub(crate) fn partials(&self) -> Vec<TileWrite> {
        let mut writes = Vec::new();
        for (level, hashes) in self.levels.iter().enumerate() {
            if let (Some(name), false) = (self.name_at(level), hashes.is_empty()) {
                writes.push(TileWrite { name, bytes: hashes.concat() });
            }
        }
        if let (false, Some(leaves)) = (self.entries.is_empty(), self.name_at(0)) {
            writes
                .push(TileWrite { name: TileName { kind: TileKind::Entries, ..leaves }, bytes: self.entries.clone() });
        }
        writes
    }

    /// What the partial tile of this name holds; nothing when that is full by now, or narrower than asked for.
    pub(crate) fn partial(&self, name: TileName) -> Option<Vec<u8>> {
        let (level, tile) = match name.kind {
            TileKind::Hashes(level) => (usize::from(level), self.levels.get(usize::from(level))?.concat()),
            TileKind::Entries => (0, self.entries.clone()),
        };
        let own = self.name_at(level)?;
        let within = own.index == name.index && name.width <= own.width;
        if within { prefix(name.kind, &tile, name.width).map(<[u8]>::to_vec) } else { None }
    }

    /// Adds one leaf hash, closing every tile that it fills.
    fn raise(&mut self, leaf: Hash, writes: &mut Vec<TileWrite>) {
        let mut hash = leaf;
        for level in 0.. {
            if self.levels.len() <= level {
                self.levels.push(Vec::new());
            }
            let Some(hashes) = self.levels.get_mut(level) else { return };
            hashes.push(hash);
            let Some(root) = (hashes.len() == WIDTH).then(|| perfect_root(hashes)).flatten() else { return };
            let bytes = std::mem::take(hashes).concat();
            let index = (self.size >> (HEIGHT * (level as u32 + 1))) - 1;
            writes.push(TileWrite { name: TileName::full(TileKind::Hashes(level as u8), index), bytes });
            if level == 0 {
                let bytes = std::mem::take(&mut self.entries);
                writes.push(TileWrite { name: TileName::full(TileKind::Entries, index), bytes });
            }
            hash = root;
        }
    }

    /// The name of the partial tile at `level`, when there is one.
    fn name_at(&self, level: usize) -> Option<TileName> {
        let count = self.size.checked_shr(HEIGHT * u32::try_from(level).ok()?)?;
        let width = (count % WIDTH as u64) as u16;
        let kind = TileKind::Hashes(u8::try_from(level).ok()?);
        (width > 0).then_some(TileName { kind, index: count / WIDTH as u64, width })
    }

    /// What the appender needs, from the same hashes.
    pub(crate) fn frontier(&self) -> Option<Frontier> {
        let mut roots = Vec::new();
        for hashes in self.levels.iter().rev() {
            let mut rest = hashes.as_slice();
            while !rest.is_empty() {
                let (perfect, behind) = rest.split_at_checked(1 << (usize::BITS - 1 - rest.len().leading_zeros()))?;
                roots.push(perfect_root(perfect)?);
                rest = behind;
            }
        }
        Frontier::from_parts(self.size, roots)
    }
}

/// The tiles of one log on disk.
#[derive(Clone)]
pub(crate) struct TileDir {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
}

impl TileDir {
    pub(crate) fn new(disk: Arc<dyn Disk>, directory: PathBuf) -> Self {
        Self { disk, directory }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The bytes of `name`, or of a wider tile that begins with the same. One that is cut short, as power loss leaves what
    /// was not synced, is as good as none: a partial tile is not synced once a wider one is.
    fn bytes(&self, name: TileName) -> Result<(PathBuf, Vec<u8>), LedgerError> {
        let full = TileName::full(name.kind, name.index);
        // The full one may appear, and the partials go, between any two looks: so it is asked for last again.
        let mut wider: Vec<TileName> = vec![name, full];
        for round in 0..2 {
            for name in &wider {
                let path = self.directory.join(name.path());
                let found = self.disk.read(&path).map_err(LedgerError::io("reading a tile", &path))?;
                if let Some(bytes) = found.filter(|tile| prefix(name.kind, tile, name.width).is_some()) {
                    return Ok((path, bytes));
                }
            }
            if round == 0 {
                let partials = self.directory.join(name.partials());
                let names = self.disk.list(&partials).map_err(LedgerError::io("listing partial tiles", &partials))?;
                let mut widths: Vec<u16> = names.iter().filter_map(|name| name.parse().ok()).collect();
                widths.sort_unstable();
                wider = widths
                    .into_iter()
                    .filter(|width| *width > name.width && usize::from(*width) < WIDTH)
                    .map(|width| TileName { width, ..name })
                    .chain([full])
                    .collect();
            }
        }
        Err(LedgerError::corrupt(&self.directory.join(name.path()), Damage::TileMissing))
    }

    /// The bytes of exactly this tile, also where a wider one begins with them; `None` when there is none.
    pub(crate) fn tile(&self, name: TileName) -> Result<Option<Vec<u8>>, LedgerError> {
        match self.bytes(name) {
            Ok((_, tile)) => Ok(prefix(name.kind, &tile, name.width).map(<[u8]>::to_vec)),
            Err(LedgerError::Corrupt { damage: Damage::TileMissing, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the tile on disk has (or, being wider, begins with) `expected`, and every narrower partial of it too.
    pub(crate) fn check(&self, expected: &TileWrite) -> Result<(), LedgerError> {
        let (path, found) = self.bytes(expected.name)?;
        let wrong = |path: &Path| LedgerError::corrupt(path, Damage::OtherTile);
        if found.get(..expected.bytes.len()) != Some(&expected.bytes) {
            return Err(wrong(&path));
        }
        let directory = self.directory.join(expected.name.partials());
        let names = self.disk.list(&directory).map_err(LedgerError::io("listing partial tiles", &directory))?;
        for width in names.iter().filter_map(|name| name.parse::<u16>().ok()).filter(|w| *w < expected.name.width) {
            let path = self.directory.join(TileName { width, ..expected.name }.path());
            // It may go while we look, when a server runs.
            let narrow = self.disk.read(&path).map_err(LedgerError::io("reading a tile", &path))?;
            if narrow.is_some_and(|tile| expected.narrower(width) != Some(&tile)) {
                return Err(wrong(&path));
            }
        }
        Ok(())
    }

    /// The first `name.width` hashes of a tile.
    pub(crate) fn hashes(&self, name: TileName) -> Result<Vec<Hash>, LedgerError> {
        let (path, bytes) = self.bytes(name)?;
        let mut hashes = split_hashes(&bytes).unwrap_or_default();
        if hashes.len() < usize::from(name.width) {
            return Err(LedgerError::corrupt(&path, Damage::TileMissing));
        }
        hashes.truncate(usize::from(name.width));
        Ok(hashes)
    }

    /// The first `width` records of entries tile `index`.
    pub(crate) fn records(&self, index: u64, width: u16) -> Result<Vec<Vec<u8>>, LedgerError> {
        let (path, bytes) = self.bytes(TileName { kind: TileKind::Entries, index, width })?;
        let records = split_entries(&bytes).unwrap_or_default();
        if records.len() < usize::from(width) {
            return Err(LedgerError::corrupt(&path, Damage::TileMissing));
        }
        Ok(records.into_iter().take(usize::from(width)).map(<[u8]>::to_vec).collect())
    }

    /// The right edge at `head`, checked against its root.
    pub(crate) fn edge(&self, head: &Head) -> Result<(Edge, Frontier), LedgerError> {
        let mut edge = Edge { size: head.size, ..Edge::default() };
        for level in 0..=usize::from(TOP_LEVEL) {
            if head.size.checked_shr(HEIGHT * level as u32).is_none_or(|count| count == 0) {
                break;
            }
            let hashes = edge.name_at(level).map(|name| self.hashes(name)).transpose()?.unwrap_or_default();
            edge.levels.push(hashes);
        }
        if let Some(name) = edge.name_at(0) {
            let records = self.records(name.index, name.width)?;
            let hashes: Vec<Hash> = records.iter().map(|record| leaf_hash(record)).collect();
            if edge.levels.first() != Some(&hashes) {
                return Err(LedgerError::corrupt(&self.directory, Damage::OtherRoot { size: head.size }));
            }
            for record in records {
                edge.entries.extend(u16::try_from(record.len()).unwrap_or(u16::MAX).to_be_bytes());
                edge.entries.extend(record);
            }
        }
        match edge.frontier() {
            Some(frontier) if frontier.root() == head.root => Ok((edge, frontier)),
            _ => Err(LedgerError::corrupt(&self.directory, Damage::OtherRoot { size: head.size })),
        }
    }

    /// A source of nodes of the tree of `size` records, for proofs.
    pub(crate) fn nodes(&self, size: u64) -> TileNodes<'_> {
        TileNodes { tiles: self, edge: None, size, cache: HashMap::new() }
    }

    /// The same for the tree whose right edge is `edge`, of which the disk may have nothing yet.
    pub(crate) fn nodes_up_to<'a>(&'a self, edge: &'a Edge) -> TileNodes<'a> {
        TileNodes { tiles: self, edge: Some(edge), size: edge.size, cache: HashMap::new() }
    }
}

/// Nodes read from tiles; a proof touches few, so they are kept.
pub(crate) struct TileNodes<'a> {
    tiles: &'a TileDir,
    edge: Option<&'a Edge>,
    size: u64,
    cache: HashMap<(u8, u64), Vec<Hash>>,
}

impl Nodes for TileNodes<'_> {
    type Error = LedgerError;

    fn node(&mut self, level: u32, index: u64) -> Result<Hash, LedgerError> {
        let missing = || LedgerError::corrupt(self.tiles.directory(), Damage::TileMissing);
        let (tile_level, within) = (level / HEIGHT, level % HEIGHT);
        let kind = TileKind::Hashes(u8::try_from(tile_level).map_err(|_| missing())?);
        let first = index << within;
        let (tile, offset) = (first / WIDTH as u64, (first % WIDTH as u64) as usize);
        let key = (tile_level as u8, tile);
        if !self.cache.contains_key(&key) {
            let count = (self.size >> (HEIGHT * tile_level)).saturating_sub(tile * WIDTH as u64).min(WIDTH as u64);
            let name = TileName { kind, index: tile, width: count as u16 };
            let known = self.edge.and_then(|edge| split_hashes(&edge.partial(name)?));
            let hashes = known.map_or_else(|| self.tiles.hashes(name), Ok)?;
            self.cache.insert(key, hashes);
        }
        let hashes = self.cache.get(&key).and_then(|hashes| hashes.get(offset..offset + (1 << within)));
        hashes.and_then(perfect_root).ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_spelled_as_the_specification_has_them() {
        let check = |kind, index, width, path: &str| {
            let name = TileName { kind, index, width };
            assert_eq!(name.path(), path);
            assert_eq!(TileName::parse(path), Some(name));
        };
        check(TileKind::Hashes(0), 67, 256, "tile/0/067");
        check(TileKind::Hashes(1), 1067, 17, "tile/1/x001/067.p/17");
        check(TileKind::Entries, 1_234_067, 256, "tile/entries/x001/x234/067");
        for bad in
            ["tile/0/67", "tile/8/000", "tile/0/x001", "tile/00/000", "tile/0/000.p/256", "tile/0/../../key", "x"]
        {
            assert_eq!(TileName::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_partial_tile_is_known_up_to_its_width() {
        let mut edge = Edge::default();
        edge.extend((0..300).map(|_| (b"record".as_slice(), leaf_hash(b"record"))));
        for kind in [TileKind::Hashes(0), TileKind::Entries] {
            let known = |index, width| edge.partial(TileName { kind, index, width });
            let whole = known(1, 44).unwrap();
            assert!(whole.starts_with(&known(1, 7).unwrap()) && known(1, 7).unwrap().len() < whole.len());
            assert_eq!((known(1, 45), known(0, 44), known(2, 1)), (None, None, None));
        }
        assert_eq!(edge.partial(TileName { kind: TileKind::Hashes(1), index: 0, width: 1 }).unwrap().len(), 32);
        assert_eq!(edge.partial(TileName { kind: TileKind::Hashes(2), index: 0, width: 1 }), None);
    }

    #[test]
    fn tiles_of_a_size_are_the_specified_ones() {
        let widest = |size: u64| {
            let mut edge = Edge::default();
            let record = b"record".as_slice();
            let mut writes = edge.extend((0..size).map(|_| (record, leaf_hash(record))));
            writes.extend(edge.partials());
            let mut expected = Frontier::default();
            (0..size).for_each(|_| expected.push(leaf_hash(record)));
            assert_eq!(edge.frontier().unwrap(), expected);
            writes.iter().map(|write| write.name.path()).filter(|path| !path.contains("entries")).collect::<Vec<_>>()
        };
        assert_eq!(widest(1), ["tile/0/000.p/1"]);
        assert_eq!(widest(256), ["tile/0/000", "tile/1/000.p/1"]);
        let many = widest(70_000);
        for path in ["tile/0/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1"] {
            assert!(many.iter().any(|written| written == path), "{path}");
        }
        assert_eq!(many.len(), 273 + 1 + 3);
    }

    #[test]
    fn a_cut_bundle_is_refused() {
        let bundle = [0, 3, b'a', b'b', b'c', 0, 0];
        assert_eq!(split_entries(&bundle).unwrap(), [b"abc".as_slice(), b""]);
        for cut in [1, 2, 3, 4, 6] {
            assert_eq!(split_entries(&bundle[..cut]), None, "{cut}");
        }
    }
}
