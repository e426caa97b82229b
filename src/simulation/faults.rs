//! Faults, and what each explains for as long as it stands.

use std::fs;
use std::time::Duration;

use super::above::AboveFault;
use super::server::Server;
use super::world::World;
use crate::audit::ledger::simulated::Fault;
use crate::keys::simulated::{FileFault, SigningFault};
use crate::tasks::simulated::Process;

/// Operations of the disk before a planned fault, at most.
const WITHIN_OPERATIONS: u32 = 60;
/// Polls before a kill, at most: an act with what it sets going takes some hundred.
const WITHIN_POLLS: u32 = 400;
/// How long after a fault of the disk somebody may still be about to try again.
const AFTERMATH: Duration = Duration::from_secs(12);

/// Faults that were met so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Met {
    disk: u64,
    keys: u64,
    above: u64,
}

/// What a refusal may be put down to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Excuses {
    /// The ledger says that it takes no records.
    pub(super) ledger: bool,
    /// An operation of the disk failed meanwhile, or a moment ago.
    pub(super) disk: bool,
    /// The authority's keys fail.
    pub(super) keys: bool,
    /// The upstream fails.
    pub(super) above: bool,
    /// The clock is before the authority's beginning.
    pub(super) clock: bool,
}

impl Excuses {
    /// Whether there is none.
    pub(super) fn none(self) -> bool {
        !(self.ledger || self.disk || self.keys || self.above || self.clock)
    }
}

impl World {
    /// Something will go wrong, soon or with whatever is asked for from now on.
    pub(super) fn plan(&self, process: &Process) {
        let operations = u64::from(self.draw(WITHIN_OPERATIONS));
        if self.above.is_some() && self.draw(3) == 0 {
            return self.fail_above();
        }
        match self.draw(11) {
            0 => self.disk.plan(operations, Fault::Failed),
            1 => self.disk.plan(operations, Fault::Happened),
            2 => self.disk.plan(operations, Fault::Full),
            3..=5 => process.kill_after(u64::from(self.draw(WITHIN_POLLS))),
            6 | 7 => self.disk.plan(operations, Fault::Power),
            8 => self.keys.fail_signing(if self.draw(2) == 0 { SigningFault::Failed } else { SigningFault::Unheard }),
            9 => self.keys.fail_next_file(if self.draw(2) == 0 { FileFault::Failed } else { FileFault::Happened }),
            _ => self.hide_lists(),
        }
    }

    fn fail_above(&self) {
        let fault = [AboveFault::Failed, AboveFault::Happened, AboveFault::Late][self.draw(3) as usize];
        if let Some(above) = &self.above {
            above.fail(fault);
        }
    }

    /// Where CRLs are kept is no directory: none can be written, and a start finds none.
    fn hide_lists(&self) {
        let away = self.lists().with_extension("away");
        if fs::rename(self.lists(), &away).is_ok() {
            fs::write(self.lists(), b"no directory").unwrap();
            self.count("list faults");
        }
    }

    /// No fault stands any more.
    pub(super) fn mend(&self, process: &Process) {
        self.disk.mend();
        self.keys.mend();
        self.above.iter().for_each(|above| above.mend());
        process.spare();
        let away = self.lists().with_extension("away");
        if away.exists() {
            fs::remove_file(self.lists()).unwrap();
            fs::rename(&away, self.lists()).unwrap();
        }
    }

    /// CRLs are kept in files that are not synced: after a loss of power any may be gone, empty or changed.
    pub(super) fn harm_lists(&self) {
        let found = fs::read_dir(self.lists()).into_iter().flatten().map(|file| file.unwrap().path());
        let mut files: Vec<_> = found.collect();
        files.sort();
        for file in files {
            match self.draw(4) {
                0 => fs::remove_file(file).unwrap(),
                1 => fs::write(file, b"").unwrap(),
                2 => {
                    let mut bytes = fs::read(&file).unwrap();
                    if let Some(byte) = bytes.last_mut() {
                        *byte ^= 1;
                    }
                    fs::write(file, bytes).unwrap();
                }
                _ => continue,
            }
            self.count("list faults");
        }
    }

    pub(super) fn met(&self) -> Met {
        let above = self.above.as_ref().map_or(0, |above| above.met());
        Met { disk: self.disk.hits(), keys: self.keys.met(), above }
    }

    /// Whether anything failed since.
    pub(super) fn met_since(&self, before: Met) -> bool {
        let now = self.met();
        (now.disk, now.keys, now.above) != (before.disk, before.keys, before.above)
    }

    /// What may be put down to faults since `before`, and to what still stands.
    pub(super) fn excuses(&self, server: &Server, before: Met) -> Excuses {
        let (now, met) = (self.clock.monotonic(), self.met());
        let (seen, mut at) = self.last_hit.get();
        if met.disk > seen {
            at = Some(now);
            self.last_hit.set((met.disk, at));
        }
        let active = server.street.authorities().borrow().active();
        Excuses {
            ledger: !server.is_well(),
            disk: met.disk > before.disk || self.disk.is_full() || at.is_some_and(|at| now < at + AFTERMATH),
            keys: self.keys.are_failing() || met.keys > before.keys,
            above: self.above.as_ref().is_some_and(|above| above.is_failing()) || met.above > before.above,
            clock: active.is_some_and(|active| self.clock.now() < active.issuer().not_before()),
        }
    }

    /// Adds the faults of this life up.
    pub(super) fn count_faults(&self, since: Met) {
        let met = self.met();
        let mut told = self.told();
        told.counts.count("disk faults", met.disk - since.disk);
        told.counts.count("key faults", met.keys - since.keys);
        told.counts.count("upstream faults", met.above - since.above);
    }
}
