//! Reading the journal back: which frames were committed, and what a crash left behind them.
//!
//! Every whole frame counts, whether or not anybody was told. What stands behind the last whole frame is a torn commit
//! that nobody was told of, unless a whole later frame stands behind it: then it was committed and is damaged now.

use bytes::Bytes;

use super::error::{Damage, LedgerError};
use super::frame::{Body, Frame, FrameFault, Head, Section, decode, find_later};
use super::journal::{JournalDir, Resume};
use crate::merkle::empty_root;

/// A committed section, its records being slices of the segment.
pub(crate) type Replay = Section<Bytes>;

/// What the journal holds.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Every log as it was at the start of the oldest segment: the views below are synced.
    pub(crate) base: Vec<Head>,
    /// Every log as the last frame left it, in the order of opening.
    pub(crate) heads: Vec<Head>,
    /// What was committed since `base`.
    pub(crate) sections: Vec<Replay>,
    /// Older segments and the heads at their ends.
    pub(crate) retired: Vec<(u64, Vec<Head>)>,
    /// Where writing goes on; `None` when nothing was ever written.
    pub(crate) resume: Option<Resume>,
    /// The last frame says that everything was closed.
    pub(crate) clean: bool,
    /// A commit was cut short by the crash.
    pub(crate) torn: bool,
    /// The committed bytes of the last segment.
    pub(crate) last: Bytes,
    /// Segments that were never begun.
    pub(crate) unused: Vec<u64>,
    /// Reserve segments.
    pub(crate) reserve: Vec<u32>,
}

/// Reads every segment.
pub(crate) fn scan(dir: &JournalDir) -> Result<Scan, LedgerError> {
    let names = dir.disk.list(&dir.path).map_err(LedgerError::io("listing the journal", &dir.path))?;
    for name in names.iter().filter(|name| name.ends_with(".tmp")) {
        let path = dir.path.join(name);
        dir.disk.remove(&path).map_err(LedgerError::io("removing a leftover", &path))?;
    }
    let epochs: Vec<u64> = names.iter().filter_map(|name| JournalDir::parse_segment(name)).collect();
    let mut scan =
        Scan { reserve: names.iter().filter_map(|name| JournalDir::parse_reserve(name)).collect(), ..Scan::default() };
    for epoch in epochs {
        let path = dir.segment(epoch);
        let bytes = dir.disk.read(&path).map_err(LedgerError::io("reading the journal", &path))?.unwrap_or_default();
        let walked = scan.segment(epoch, Bytes::from(bytes));
        walked.map_err(|damage| LedgerError::corrupt(&path, damage))?;
    }
    Ok(scan)
}

impl Scan {
    fn segment(&mut self, epoch: u64, bytes: Bytes) -> Result<(), Damage> {
        let first = decode(&bytes).ok().filter(|frame| frame.place.epoch == epoch);
        let Some(first) = first else {
            if let Some(later) = find_later(&bytes, 0, epoch, 0) {
                return Err(Damage::BadFrame { offset: 0, later });
            }
            self.unused.push(epoch);
            return Ok(());
        };
        let Body::Base(base) = &first.body else { return Err(Damage::UnknownFrame) };
        if !self.unused.is_empty() {
            return Err(Damage::BrokenChain);
        }
        match self.resume {
            Some(resume) if resume.epoch + 1 == epoch => {
                let follows = first.place.number == resume.number && first.place.previous == resume.previous;
                if !follows || *base != self.heads {
                    return Err(Damage::BrokenChain);
                }
                self.retired.push((resume.epoch, self.heads.clone()));
            }
            // A gap that a crash while recycling left: what lies before it is synced below, and the opening checks
            // this base against the tiles.
            Some(resume) => {
                self.retired.push((resume.epoch, std::mem::take(&mut self.heads)));
                self.begin(base);
            }
            None => self.begin(base),
        }
        self.resume = Some(Resume {
            epoch,
            offset: first.length as u64,
            number: first.place.number + 1,
            previous: first.checksum,
        });
        self.clean = false;
        self.frames(epoch, &bytes)
    }

    /// Takes `base` as the state below which everything is synced.
    fn begin(&mut self, base: &[Head]) {
        self.base = base.to_vec();
        self.heads = base.to_vec();
        self.sections.clear();
    }

    /// Walks the frames behind the base.
    fn frames(&mut self, epoch: u64, bytes: &Bytes) -> Result<(), Damage> {
        while let Some(resume) = self.resume {
            let at = usize::try_from(resume.offset).unwrap_or(usize::MAX);
            let rest = bytes.get(at..).unwrap_or_default();
            let fault = match decode(rest) {
                Ok(frame) if frame.place.epoch == epoch => {
                    if frame.place.number != resume.number || frame.place.previous != resume.previous {
                        return Err(Damage::BadFrame { offset: resume.offset, later: frame.place.number });
                    }
                    self.apply(&frame, bytes)?;
                    self.resume = Some(Resume {
                        epoch,
                        offset: resume.offset + frame.length as u64,
                        number: resume.number + 1,
                        previous: frame.checksum,
                    });
                    continue;
                }
                // A whole frame of an earlier use of this segment: here our frames end.
                Ok(_) => FrameFault::Absent,
                Err(FrameFault::Unknown) => return Err(Damage::UnknownFrame),
                Err(fault) => fault,
            };
            if let Some(later) = find_later(bytes, at + 1, epoch, resume.number) {
                return Err(Damage::BadFrame { offset: resume.offset, later });
            }
            self.torn = fault == FrameFault::Torn && rest.get(9..17) == Some(epoch.to_be_bytes().as_slice());
            self.last = bytes.slice(..at.min(bytes.len()));
            return Ok(());
        }
        Ok(())
    }

    fn apply(&mut self, frame: &Frame<'_>, bytes: &Bytes) -> Result<(), Damage> {
        match &frame.body {
            Body::Base(_) => Err(Damage::UnknownFrame),
            Body::Close(heads) => {
                self.clean = *heads == self.heads;
                if self.clean { Ok(()) } else { Err(Damage::BrokenChain) }
            }
            Body::Records(sections) => {
                self.clean = false;
                for section in sections {
                    let known = self.heads.iter_mut().find(|head| head.log == section.head.log);
                    let expected = known.as_ref().map_or(0, |head| head.size);
                    if section.first != expected {
                        return Err(Damage::Gap { found: section.first, expected });
                    }
                    match known {
                        Some(head) => *head = section.head.clone(),
                        None => self.heads.push(section.head.clone()),
                    }
                    let leaves = section.leaves.iter().map(|leaf| bytes.slice_ref(leaf)).collect();
                    self.sections.push(Section { first: section.first, leaves, head: section.head.clone() });
                }
                Ok(())
            }
        }
    }

    /// The base head of `log`: an empty log when it was opened later.
    pub(crate) fn base_of(&self, log: &str) -> Head {
        let found = self.base.iter().find(|head| head.log == log).cloned();
        found.unwrap_or_else(|| Head { log: log.to_owned(), size: 0, root: empty_root() })
    }
}
