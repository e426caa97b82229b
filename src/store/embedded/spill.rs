//! A file that goes on in memory while its disk is full.
//!
//! The index lies beside the ledger, mostly on the same disk, and whoever revokes needs it most when that disk is full:
//! the database would fail for good at the first write that finds no space. So from such a write on everything goes to
//! pages in memory, and the file stays as it is, which is what a crash at that moment would have left. When there is
//! space again, a sync writes the pages down and the file is the whole truth again. A crash before that costs a replay of
//! the ledger, as every loss of the index does. Only a lack of space is met so; any other failure is one.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use redb::{BackendError, StorageBackend};
use tracing::{info, warn};

/// Bytes of one page in memory.
const PAGE: u64 = 4_096;

/// Pages that are kept in memory: 128 MiB, some hundred thousand records. After that the index stands still until there
/// is space and it is opened again.
const MOST_PAGES: usize = 32_768;

/// Bytes that must be free beyond what is to be written before it is tried.
const ROOM: u64 = 1 << 20;

/// The file, and what did not fit.
#[derive(Debug)]
pub(super) struct Spilling<B> {
    below: B,
    /// On whose file system it is.
    directory: PathBuf,
    over: RwLock<Option<Pages>>,
}

/// What is different from the file.
#[derive(Debug, Default)]
struct Pages {
    length: u64,
    /// How much of the file counts; behind it there are zeros.
    below: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl<B: StorageBackend> Spilling<B> {
    pub(super) fn new(below: B, directory: PathBuf) -> Self {
        Self { below, directory, over: RwLock::new(None) }
    }

    fn shared(&self) -> RwLockReadGuard<'_, Option<Pages>> {
        self.over.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn exclusive(&self) -> RwLockWriteGuard<'_, Option<Pages>> {
        self.over.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pages, from now on if `failure` is a lack of space.
    fn begin<'a>(&self, over: &'a mut Option<Pages>, failure: io::Error) -> io::Result<&'a mut Pages> {
        if !is_full(&failure) {
            return Err(failure);
        }
        let length = self.below.len()?;
        warn!(error = %failure, "the index goes on in memory until there is space");
        Ok(over.insert(Pages { length, below: length, pages: BTreeMap::new() }))
    }

    fn available(&self) -> u64 {
        // What is not known is tried.
        nix::sys::statvfs::statvfs(&self.directory)
            .map_or(u64::MAX, |found| found.blocks_available().saturating_mul(found.fragment_size()))
    }

    /// Writes the pages down, the first one last: it says where the others are.
    fn settle(&self, pages: &Pages) -> io::Result<()> {
        if pages.below < self.below.len()? {
            // What was cut off in between is zero when it comes back.
            self.below.set_len(pages.below)?;
        }
        self.below.set_len(pages.length)?;
        for (page, bytes) in pages.pages.iter().rev() {
            if *page == 0 {
                self.below.sync_data()?;
            }
            let rest = usize::try_from(pages.length.saturating_sub(page * PAGE)).unwrap_or(usize::MAX);
            self.below.write(page * PAGE, bytes.get(..rest).unwrap_or(bytes))?;
        }
        self.below.sync_data()
    }
}

impl Pages {
    fn read<B: StorageBackend>(&self, below: &B, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset.saturating_add(out.len() as u64) > self.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (mut at, mut out) = (offset, out);
        while !out.is_empty() {
            let (page, within) = (at / PAGE, usize::try_from(at % PAGE).unwrap_or(0));
            let (now, rest) = out.split_at_mut(out.len().min(PAGE as usize - within));
            match self.pages.get(&page).and_then(|bytes| bytes.get(within..within + now.len())) {
                Some(bytes) => now.copy_from_slice(bytes),
                None => self.read_below(below, at, now)?,
            }
            at += now.len() as u64;
            out = rest;
        }
        Ok(())
    }

    fn read_below<B: StorageBackend>(&self, below: &B, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let there = usize::try_from(self.below.saturating_sub(offset)).unwrap_or(usize::MAX).min(out.len());
        let (there, behind) = out.split_at_mut(there);
        behind.fill(0);
        if there.is_empty() { Ok(()) } else { below.read(offset, there) }
    }

    fn write<B: StorageBackend>(&mut self, below: &B, offset: u64, data: &[u8]) -> io::Result<()> {
        let (mut at, mut data) = (offset, data);
        while !data.is_empty() {
            let (page, within) = (at / PAGE, usize::try_from(at % PAGE).unwrap_or(0));
            let (now, rest) = data.split_at(data.len().min(PAGE as usize - within));
            if !self.pages.contains_key(&page) {
                if self.pages.len() >= MOST_PAGES {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                let mut bytes = vec![0; PAGE as usize];
                self.read_below(below, page * PAGE, &mut bytes)?;
                self.pages.insert(page, bytes);
            }
            if let Some(to) = self.pages.get_mut(&page).and_then(|bytes| bytes.get_mut(within..within + now.len())) {
                to.copy_from_slice(now);
            }
            at += now.len() as u64;
            data = rest;
        }
        self.length = self.length.max(at);
        Ok(())
    }

    fn set_len(&mut self, length: u64) {
        self.below = self.below.min(length);
        self.length = length;
        self.pages.retain(|page, _| page * PAGE < length);
        // What grows again is zero.
        if let Some(last) = self.pages.get_mut(&(length / PAGE)) {
            let kept = usize::try_from(length % PAGE).unwrap_or(0);
            last.iter_mut().skip(kept).for_each(|byte| *byte = 0);
        }
    }
}

fn is_full(failure: &io::Error) -> bool {
    matches!(failure.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl<B: StorageBackend> StorageBackend for Spilling<B> {
    fn len(&self) -> io::Result<u64> {
        match &*self.shared() {
            Some(pages) => Ok(pages.length),
            None => self.below.len(),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match &*self.shared() {
            Some(pages) => pages.read(&self.below, offset, out),
            None => self.below.read(offset, out),
        }
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut over = self.exclusive();
        if over.is_none() {
            let Err(failure) = self.below.set_len(length) else { return Ok(()) };
            self.begin(&mut over, failure)?;
        }
        if let Some(pages) = &mut *over {
            pages.set_len(length);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut over = self.exclusive();
        let Some(pages) = &*over else { return self.below.sync_data() };
        let wanted = (pages.pages.len() as u64).saturating_mul(PAGE).saturating_add(ROOM);
        if self.available() < wanted {
            return Ok(());
        }
        match self.settle(pages) {
            Ok(()) => {
                info!(pages = pages.pages.len(), "there is space again, the index is in its file");
                *over = None;
                Ok(())
            }
            Err(failure) if is_full(&failure) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.shared().is_none() {
            let Err(failure) = self.below.write(offset, data) else { return Ok(()) };
            self.begin(&mut self.exclusive(), failure)?;
        }
        match &mut *self.exclusive() {
            Some(pages) => pages.write(&self.below, offset, data),
            None => self.below.write(offset, data),
        }
    }

    fn close(&self) -> io::Result<()> {
        self.below.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.below.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.below.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.below.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.below.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.below.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.below.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use proptest::prelude::*;
    use redb::backends::InMemoryBackend;
    use redb::{Database, Durability, ReadableDatabase, TableDefinition};

    use super::*;

    /// A disk that can be full.
    #[derive(Debug, Clone, Default)]
    struct Disk(Arc<(InMemoryBackend, AtomicBool)>);

    impl Disk {
        fn set_full(&self, full: bool) {
            self.0.1.store(full, Ordering::Relaxed);
        }

        fn room(&self) -> io::Result<()> {
            if self.0.1.load(Ordering::Relaxed) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }
    }

    impl StorageBackend for Disk {
        fn len(&self) -> io::Result<u64> {
            self.0.0.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.0.read(offset, out)
        }

        fn set_len(&self, length: u64) -> io::Result<()> {
            self.room().and_then(|()| self.0.0.set_len(length))
        }

        fn sync_data(&self) -> io::Result<()> {
            Ok(())
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.room().and_then(|()| self.0.0.write(offset, data))
        }
    }

    const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("t");

    fn put(database: &Database, key: u64, durability: Durability) -> Result<(), redb::Error> {
        let mut write = database.begin_write()?;
        write.set_durability(durability)?;
        write.open_table(TABLE)?.insert(key, [7; 2_000].as_slice())?;
        Ok(write.commit()?)
    }

    fn keys(database: &Database) -> u64 {
        use redb::ReadableTableMetadata;
        database.begin_read().unwrap().open_table(TABLE).unwrap().len().unwrap()
    }

    #[test]
    fn a_database_goes_on_over_a_full_disk_and_is_whole_afterwards() {
        let disk = Disk::default();
        let open = || {
            Database::builder().set_cache_size(64 << 10).create_with_backend(Spilling::new(disk.clone(), "/".into()))
        };
        let database = open().unwrap();
        (0..500).for_each(|key| put(&database, key, Durability::Immediate).unwrap());
        disk.set_full(true);
        (500..3_000).for_each(|key| put(&database, key, Durability::None).unwrap());
        put(&database, 3_000, Durability::Immediate).unwrap();
        assert_eq!(keys(&database), 3_001);
        disk.set_full(false);
        put(&database, 3_001, Durability::Immediate).unwrap();
        drop(database);
        assert_eq!(keys(&open().unwrap()), 3_002, "all of it is in the file");
    }

    #[test]
    fn a_crash_over_a_full_disk_leaves_what_was_synced() {
        let disk = Disk::default();
        let database = Database::builder().create_with_backend(Spilling::new(disk.clone(), "/".into())).unwrap();
        (0..500).for_each(|key| put(&database, key, Durability::Immediate).unwrap());
        disk.set_full(true);
        (500..2_000).for_each(|key| put(&database, key, Durability::None).unwrap());
        put(&database, 2_000, Durability::Immediate).unwrap();
        // As a kill would: nothing is written any more.
        std::mem::forget(database);
        disk.set_full(false);
        let again = Database::builder().create_with_backend(disk).unwrap();
        assert_eq!(keys(&again), 500);
    }

    proptest! {
        #[test]
        fn it_reads_as_a_plain_file_would(
            steps in proptest::collection::vec((0_u8..5, 0_u64..40_000, 1_usize..9_000), 1..40)
        ) {
            let disk = Disk::default();
            let (spilling, plain) = (Spilling::new(disk.clone(), "/".into()), InMemoryBackend::new());
            for (at, (kind, offset, length)) in steps.into_iter().enumerate() {
                match kind {
                    0 => disk.set_full(at % 2 == 0),
                    1 => spilling.sync_data().unwrap(),
                    2 => {
                        spilling.set_len(offset).unwrap();
                        plain.set_len(offset).unwrap();
                    }
                    _ => {
                        let end = offset + length as u64;
                        if plain.len().unwrap() < end {
                            spilling.set_len(end).unwrap();
                            plain.set_len(end).unwrap();
                        }
                        let data = vec![u8::try_from(at % 251).unwrap() + 1; length];
                        spilling.write(offset, &data).unwrap();
                        plain.write(offset, &data).unwrap();
                    }
                }
                let size = plain.len().unwrap();
                prop_assert_eq!(spilling.len().unwrap(), size);
                let mut both = [vec![0; usize::try_from(size).unwrap()], vec![0; usize::try_from(size).unwrap()]];
                spilling.read(0, &mut both[0]).unwrap();
                plain.read(0, &mut both[1]).unwrap();
                prop_assert!(both[0] == both[1]);
            }
        }
    }
}
