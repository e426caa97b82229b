//! Which authorities each proxy can verify a chain through, by what it acknowledged: the evidence for a new root.
//!
//! A bundle covers a root that is in it, and a CA whose CRL is in it. What a proxy holds is the version that it acknowledged
//! or named, and nothing else: a push that was not answered says nothing, and a version that this run never published is
//! unknown. What a process last said is kept after its streams ended, because it goes on serving with that; a restart of
//! this server forgets it, and the process says it again when it is back. Read by [`Feed::sights`] for `rotation`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use time::OffsetDateTime;

use super::{Feed, LiveProxy};
use crate::policy::schedule::evidence::Sight;

/// Bundle versions whose content is remembered: an acknowledgement of an older one counts for nothing.
const MOST_VERSIONS: usize = 256;

/// Processes, and certificates of processes, that are remembered after they went away; the oldest is forgotten first, and
/// then counts as never seen.
const MOST_REMEMBERED: usize = 16_384;

/// A map that forgets the oldest key.
#[derive(Debug)]
struct Recent<T> {
    known: HashMap<String, T>,
    order: VecDeque<String>,
    most: usize,
}

impl<T> Recent<T> {
    fn new(most: usize) -> Self {
        Self { known: HashMap::new(), order: VecDeque::new(), most }
    }

    fn entry(&mut self, key: &str, new: impl FnOnce() -> T) -> Option<&mut T> {
        if !self.known.contains_key(key) {
            if self.order.len() >= self.most
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
            self.known.insert(key.to_owned(), new());
            self.order.push_back(key.to_owned());
        }
        self.known.get_mut(key)
    }
}

/// What is known; behind the registry's lock.
#[derive(Debug)]
pub(crate) struct Coverage {
    versions: Recent<Arc<[String]>>,
    /// By process: what each bundle that it took covers, by the name it asked for.
    processes: Recent<BTreeMap<String, Arc<[String]>>>,
    /// Which process held a certificate when its stream ended, by serial.
    left: Recent<String>,
}

impl Default for Coverage {
    fn default() -> Self {
        Self {
            versions: Recent::new(MOST_VERSIONS),
            processes: Recent::new(MOST_REMEMBERED),
            left: Recent::new(MOST_REMEMBERED),
        }
    }
}

impl Coverage {
    /// A bundle of this version covers these.
    pub(crate) fn knows(&mut self, version: String, covers: &Arc<[String]>) {
        if let Some(known) = self.versions.entry(&version, Arc::default) {
            *known = Arc::clone(covers);
        }
    }

    /// What it covers; nothing where that is not known.
    pub(crate) fn of_version(&self, version: Option<&str>) -> Arc<[String]> {
        version.and_then(|version| self.versions.known.get(version)).cloned().unwrap_or_default()
    }

    /// A process holds a bundle that covers these.
    pub(crate) fn acked(&mut self, holder: &str, secret_name: &str, covers: &Arc<[String]>) {
        if let Some(bundles) = self.processes.entry(holder, BTreeMap::new) {
            bundles.insert(secret_name.to_owned(), Arc::clone(covers));
        }
    }

    /// The stream of a certificate ended.
    pub(crate) fn left(&mut self, serial: &str, holder: &str) {
        if let Some(known) = self.left.entry(serial, String::new) {
            holder.clone_into(known);
        }
    }

    /// Whether every bundle that the process took covers `needs`; `None` for a process that took none.
    fn of_process(&self, holder: &str, needs: &[String]) -> Option<bool> {
        let bundles = self.processes.known.get(holder).filter(|bundles| !bundles.is_empty())?;
        Some(bundles.values().all(|covers| covers_all(covers, needs)))
    }

    /// Of the holder of a certificate that no stream holds now.
    fn of_absent(&self, serial: &str, needs: &[String]) -> Sight {
        let known = self.left.known.get(serial).and_then(|holder| self.of_process(holder, needs));
        match known {
            Some(true) => Sight::AwayWith,
            Some(false) => Sight::AwayWithout,
            None => Sight::Away,
        }
    }
}

fn covers_all(covers: &[String], needs: &[String]) -> bool {
    needs.iter().all(|need| covers.contains(need))
}

/// A live party: what one stream shows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The stream's facts; of a certificate, or of a bundle whose process has no certificate.
    pub proxy: LiveProxy,
    /// What is known of its process.
    pub sight: Sight,
}

/// What is known of everyone at one moment.
#[derive(Debug, Default)]
pub struct Sights {
    /// By serial: whoever holds a certificate on a stream.
    pub certificates: HashMap<String, Seen>,
    /// Processes that take bundles and no certificate.
    pub bundles_only: Vec<Seen>,
}

/// The bundles of one process that live.
struct Process {
    holds: bool,
    nack: Option<String>,
}

impl Feed {
    /// Who holds bundles that cover `needs`, all of them. `quiet_since` is how old a certificate's stream must be, without
    /// one for a bundle beside it, before its process counts as one that takes none.
    #[must_use]
    pub fn sights(&self, needs: &[String], quiet_since: OffsetDateTime) -> Sights {
        self.0.live.look(|entries, coverage| {
            let entries: Vec<&LiveProxy> = entries.collect();
            let mut processes: HashMap<&str, Process> = HashMap::new();
            for proxy in entries.iter().filter(|proxy| !proxy.is_certificate) {
                let process = processes.entry(&proxy.holder).or_insert(Process { holds: true, nack: None });
                process.holds &= covers_all(&proxy.covers, needs);
                process.nack = process.nack.take().or_else(|| proxy.nack.clone());
            }
            let sight =
                |proxy: &LiveProxy| match (processes.get(&*proxy.holder), coverage.of_process(&proxy.holder, needs)) {
                    (Some(Process { holds: true, .. }), _) | (None, Some(true)) => Sight::Holds,
                    (Some(Process { nack: Some(text), .. }), _) => Sight::Refused(text.clone()),
                    (Some(_), _) | (None, Some(false)) => Sight::Silent,
                    (None, None) if proxy.since <= quiet_since => Sight::Elsewhere,
                    (None, None) => Sight::Silent,
                };
            let mut sights = Sights::default();
            let mut with_certificate: Vec<&str> = Vec::new();
            for proxy in entries.iter().filter(|proxy| proxy.is_certificate) {
                let Some(serial) = &proxy.serial else { continue };
                with_certificate.push(&proxy.holder);
                let seen = Seen { proxy: (*proxy).clone(), sight: sight(proxy) };
                sights.certificates.insert(serial.clone(), seen);
            }
            with_certificate.sort_unstable();
            let alone = |proxy: &&&LiveProxy| with_certificate.binary_search(&&*proxy.holder).is_err();
            let bundles = entries.iter().filter(|proxy| !proxy.is_certificate).filter(alone);
            sights.bundles_only = bundles.map(|one| Seen { proxy: (*one).clone(), sight: sight(one) }).collect();
            sights
        })
    }

    /// Of the holder of a certificate that is on no stream.
    #[must_use]
    pub fn sight_of_absent(&self, serial: &str, needs: &[String]) -> Sight {
        self.0.live.look(|_, coverage| coverage.of_absent(serial, needs))
    }
}
