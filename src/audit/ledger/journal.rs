//! The journal: preallocated segments that commits are appended to, one write and one `fdatasync` each.
//!
//! Always true: a frame is written only into space that was allocated and synced before, so running out of space shows
//! before a frame is begun and never leaves an unknown state. The next segment is prepared ahead by the view thread; a
//! reserve of further segments, named `reserve-N.seg`, is taken only for records of [`Priority::Reserve`]. Any error of
//! a write or sync is for the caller to make final: nothing here retries.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, DiskFile, Identity};
use super::error::{LedgerError, is_full};
use super::frame::{Body, Head, Place, encode, encoded_length};
use crate::audit::event::Action;
use crate::merkle::Hash;

/// Whether a record may use the reserve when the disk is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Needs ordinary space.
    Ordinary,
    /// Cuts somebody off, tells what operators do, or what happens to the ledger itself.
    Reserve,
}

impl Priority {
    /// The priority of a record of `action`.
    #[must_use]
    pub fn of(action: Action) -> Self {
        match action {
            Action::CertificateRevoke
            | Action::IdentityDeny
            | Action::CaTaint
            | Action::CrlPublish
            | Action::OperatorRead
            | Action::OperatorAct
            | Action::LedgerStart
            | Action::LedgerStop
            | Action::LedgerFail
            | Action::LedgerRecover
            | Action::LedgerHold => Self::Reserve,
            Action::CertificateIssue
            | Action::CertificateSigned
            | Action::CertificateRenew
            | Action::CertificateDeny
            | Action::CertificateFail
            | Action::CertificateNack
            | Action::IdentityRelease
            | Action::AttestAccept
            | Action::AttestRefuse
            | Action::CaPrepare
            | Action::CaPublish
            | Action::CaActivate
            | Action::CaRetire
            | Action::ConfigChange
            | Action::LedgerSnapshot
            | Action::LedgerRotate
            | Action::LedgerVerify
            | Action::LedgerKey
            | Action::LedgerPrune
            | Action::LedgerRelease => Self::Ordinary,
        }
    }
}

/// Where the segments are, and how large each is.
#[derive(Clone)]
pub(crate) struct JournalDir {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) path: PathBuf,
    pub(crate) segment_bytes: u64,
}

impl JournalDir {
    /// Gives the first of `recycled` the name `to`, durably: whoever writes into it is told so only with its name. Says
    /// whether there was one.
    fn reuse(&self, recycled: &mut Vec<u64>, to: &Path) -> std::io::Result<bool> {
        let Some(old) = recycled.first().copied() else { return Ok(false) };
        self.disk.rename(&self.segment(old), to)?;
        recycled.remove(0);
        // Not to be tried again, not even when it says that the disk is full.
        self.disk.sync_dir(&self.path).map_err(|error| std::io::Error::other(format!("sync: {error}")))?;
        Ok(true)
    }

    pub(crate) fn segment(&self, epoch: u64) -> PathBuf {
        self.path.join(format!("{epoch:016x}.seg"))
    }

    pub(crate) fn reserve(&self, number: u32) -> PathBuf {
        self.path.join(format!("reserve-{number}.seg"))
    }

    /// The epoch in a segment's file name.
    pub(crate) fn parse_segment(name: &str) -> Option<u64> {
        let digits = name.strip_suffix(".seg").filter(|digits| digits.len() == 16)?;
        u64::from_str_radix(digits, 16).ok()
    }

    /// The number in a reserve segment's file name.
    pub(crate) fn parse_reserve(name: &str) -> Option<u32> {
        name.strip_prefix("reserve-")?.strip_suffix(".seg")?.parse().ok()
    }

    /// A new segment with `content` at its start.
    pub(crate) fn allocate(&self, epoch: u64, content: &[u8]) -> std::io::Result<()> {
        self.disk.allocate(&self.segment(epoch), self.segment_bytes, content, true)
    }
}

/// The supply of segments, shared by the writer and the view thread, which refills it.
#[derive(Debug, Default)]
pub(crate) struct Supply {
    pool: Mutex<Pool>,
    /// Ordinary space ran out, and reserve and next segment are not yet whole again. Beside the lock, because the
    /// view thread holds that while it zeroes a segment.
    full: AtomicBool,
}

/// The segments that are ready to be written.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    /// The segment being written.
    pub(crate) current: u64,
    /// Whether the one after it is ready.
    pub(crate) next_ready: bool,
    /// Numbers of the reserve segments that exist.
    pub(crate) reserve: Vec<u32>,
    /// How many reserve segments there should be.
    pub(crate) reserve_wanted: u32,
}

impl Supply {
    pub(crate) fn new(pool: Pool) -> Self {
        Self { pool: Mutex::new(pool), full: AtomicBool::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether ordinary records are refused for now.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Makes the next segment and the reserve whole again, from `recycled` segments first. Stops at the first error.
    pub(crate) fn refill(&self, dir: &JournalDir, recycled: &mut Vec<u64>) -> std::io::Result<()> {
        self.lock().refill(dir, recycled)?;
        self.full.store(false, Ordering::Release);
        Ok(())
    }
}

impl Pool {
    fn refill(&mut self, dir: &JournalDir, recycled: &mut Vec<u64>) -> std::io::Result<()> {
        let next = self.current + 1;
        if !self.next_ready {
            if !dir.reuse(recycled, &dir.segment(next))? {
                dir.allocate(next, &[])?;
            }
            self.next_ready = true;
        }
        while let Some(number) = (0..self.reserve_wanted).find(|number| !self.reserve.contains(number)) {
            if !dir.reuse(recycled, &dir.reserve(number))? {
                dir.disk.allocate(&dir.reserve(number), dir.segment_bytes, &[], false)?;
            }
            self.reserve.push(number);
        }
        let changed = !recycled.is_empty();
        while let Some(old) = recycled.first().copied() {
            dir.disk.remove(&dir.segment(old))?;
            recycled.drain(..1);
        }
        if changed {
            dir.disk.sync_dir(&dir.path)?;
        }
        Ok(())
    }
}

/// Where writing goes on, as recovery found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Resume {
    pub(crate) epoch: u64,
    pub(crate) offset: u64,
    /// The number that the next frame gets.
    pub(crate) number: u64,
    /// The checksum of the last frame.
    pub(crate) previous: Hash,
}

/// The open journal; owned by the writer thread.
pub(crate) struct Journal {
    dir: JournalDir,
    supply: Arc<Supply>,
    file: Box<dyn DiskFile>,
    path: PathBuf,
    identity: Identity,
    resume: Resume,
    /// The frame that goes out with the next write.
    buffer: Vec<u8>,
}

/// Why there is no room.
pub(crate) enum NoRoom {
    /// No space for ordinary records, or not even the reserve.
    Full,
    /// The state of the directory is unknown.
    Broken(std::io::Error),
}

impl Journal {
    /// Opens the segment at `resume`; a segment without a base gets one from `heads` with the first commit.
    pub(crate) fn open(
        dir: JournalDir,
        supply: Arc<Supply>,
        resume: Resume,
        heads: &[Head],
    ) -> Result<Self, LedgerError> {
        let path = dir.segment(resume.epoch);
        let file = dir.disk.open(&path).map_err(LedgerError::io("opening the journal", &path))?;
        let identity = file.identity().map_err(LedgerError::io("looking at the journal", &path))?;
        let mut journal = Self { dir, supply, file, path, identity, resume, buffer: Vec::new() };
        if journal.resume.offset == 0 {
            journal.begin(heads).map_err(LedgerError::io("beginning a journal segment", &journal.path.clone()))?;
        }
        journal.supply.lock().current = resume.epoch;
        Ok(journal)
    }

    /// The largest frame that fits a segment beside its base.
    pub(crate) fn largest_frame(&self, heads: &[Head]) -> usize {
        let base = encoded_length(&Body::<&[u8]>::Base(heads.to_vec()));
        usize::try_from(self.dir.segment_bytes).unwrap_or(usize::MAX).saturating_sub(base)
    }

    /// Whether ordinary records are refused for now.
    pub(crate) fn is_full(&self) -> bool {
        self.supply.is_full()
    }

    /// Makes sure that a frame of `length` bytes fits, beginning the next segment when it must. Returns whether one
    /// was begun.
    pub(crate) fn make_room(&mut self, length: usize, priority: Priority, heads: &[Head]) -> Result<bool, NoRoom> {
        let end = self.resume.offset + length as u64;
        if end <= self.dir.segment_bytes {
            return Ok(false);
        }
        let epoch = self.resume.epoch + 1;
        let path = self.dir.segment(epoch);
        self.take_segment(epoch, priority)?;
        self.file = self.dir.disk.open(&path).map_err(NoRoom::Broken)?;
        self.identity = self.file.identity().map_err(NoRoom::Broken)?;
        self.path = path;
        self.resume = Resume { epoch, offset: 0, ..self.resume };
        self.begin(heads).map_err(NoRoom::Broken)?;
        Ok(true)
    }

    /// Writes the base of a segment and makes it durable by itself: blocks of one write may reach the disk in any order,
    /// and a record without its base would look like damage instead of a torn end.
    fn begin(&mut self, heads: &[Head]) -> std::io::Result<()> {
        self.stage(&Body::<&[u8]>::Base(heads.to_vec()));
        self.flush()
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.write_at(&self.buffer, self.resume.offset)?;
        self.file.sync()?;
        self.resume.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn take_segment(&self, epoch: u64, priority: Priority) -> Result<(), NoRoom> {
        let mut pool = self.supply.lock();
        if !pool.next_ready {
            // A full disk is asked again by the view thread, not by every request.
            let made = if self.supply.is_full() {
                Err(std::io::ErrorKind::StorageFull.into())
            } else {
                self.dir.allocate(epoch, &[])
            };
            match made {
                Ok(()) => {}
                Err(error) if is_full(&error) => {
                    self.supply.full.store(true, Ordering::Release);
                    if priority == Priority::Ordinary {
                        return Err(NoRoom::Full);
                    }
                    let number = pool.reserve.pop().ok_or(NoRoom::Full)?;
                    let (from, to) = (self.dir.reserve(number), self.dir.segment(epoch));
                    self.dir.disk.rename(&from, &to).map_err(NoRoom::Broken)?;
                    self.dir.disk.sync_dir(&self.dir.path).map_err(NoRoom::Broken)?;
                }
                Err(error) => return Err(NoRoom::Broken(error)),
            }
        }
        pool.next_ready = false;
        pool.current = epoch;
        Ok(())
    }

    /// Encodes a frame behind what the next write already takes.
    fn stage<R: AsRef<[u8]>>(&mut self, body: &Body<R>) {
        let Resume { epoch, number, previous, .. } = self.resume;
        let previous = encode(&Place { epoch, number, previous }, body, &mut self.buffer);
        self.resume.number += 1;
        self.resume.previous = previous;
    }

    /// Writes one frame and makes it durable. The room must have been made. An error leaves the state unknown: the
    /// frame may or may not be found by the next opening, and nothing more may be written by this one.
    ///
    /// A crash before the write leaves nothing; during it, a torn frame that recovery drops; after it and before the
    /// sync returns, a whole frame that counts although nobody was answered; after the sync, a frame that always counts.
    pub(crate) fn commit<R: AsRef<[u8]>>(&mut self, body: &Body<R>) -> std::io::Result<()> {
        // The directory may have been removed or replaced under us: what we sync then would be gone with it.
        if self.dir.disk.identity(&self.path)? != self.identity {
            return Err(std::io::Error::other("the journal segment was replaced by another file"));
        }
        self.stage(body);
        self.flush()
    }

    /// The segment being written.
    pub(crate) fn epoch(&self) -> u64 {
        self.resume.epoch
    }

    pub(crate) fn directory(&self) -> &PathBuf {
        &self.dir.path
    }
}
