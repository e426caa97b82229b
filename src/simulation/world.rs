//! What outlives a crash.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use time::OffsetDateTime;
use time::macros::datetime;

use super::above::Above;
use super::breaks::Break;
use super::told::{Denied, Told};
use super::witness::Witness;
use crate::audit::ledger::simulated::{SimDisk, below};
use crate::clock::{Clock, ManualClock};
use crate::entropy::Entropy;
use crate::identity::TrustDomain;
use crate::keys::simulated::Keys;
use crate::policy::{Policy, Surroundings};
use crate::store::Store;
use crate::x509::profile::Profiles;

/// Proxies that ask; proxy `n` has this uid plus `n`.
pub(super) const FIRST_UID: u32 = 1000;

/// What must happen in a short run, each at least once.
const KINDS: [&str; 16] = [
    "lives",
    "identities",
    "issued",
    "streamed",
    "kept",
    "refused",
    "revoked",
    "vanished",
    "disk faults",
    "key faults",
    "upstream faults",
    "list faults",
    "kills",
    "power losses",
    "turned years",
    "days",
];

/// How often what happened.
#[derive(Debug, Default)]
pub(super) struct Counts(BTreeMap<&'static str, u64>);

impl Counts {
    pub(super) fn count(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.count("seeds", 1);
        other.0.iter().for_each(|(what, times)| self.count(what, *times));
    }

    /// That each kind of thing happened at all.
    pub(super) fn are_not_tame(&self) {
        let absent = KINDS.iter().find(|kind| self.0.get(*kind).is_none_or(|count| *count == 0));
        assert_eq!(absent, None, "too tame: {self:?}");
    }
}

/// What kind of world a seed makes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Temper {
    pub(super) proxies: u32,
    /// Whether an upstream signs the issuing CAs.
    pub(super) upstream: bool,
    pub(super) start: OffsetDateTime,
    /// Lives before the last, which meets no fault.
    pub(super) lives: u32,
    /// Acts of a life, at most.
    pub(super) acts: u32,
    /// The longest that one act lets pass.
    pub(super) longest: Duration,
    pub(super) broken: Option<Break>,
}

const HOUR: Duration = Duration::from_secs(3_600);

impl Temper {
    /// That of a seed: most are small and wild, some are big, some are long.
    pub(super) fn of(seed: u64) -> Self {
        let usual = Self { upstream: seed % 4 == 3, ..Self::plain() };
        let turning = Self { start: datetime!(2026-12-31 18:00 UTC), ..usual };
        match seed % 25 {
            7 => Self { proxies: 2_000, lives: 1, acts: 4, longest: HOUR * 14, ..usual },
            3 | 11 | 19 => Self { lives: 2, longest: HOUR * 24 * 21, ..usual },
            4 | 15 | 22 => turning,
            _ => usual,
        }
    }

    /// A small world without an upstream.
    pub(super) fn plain() -> Self {
        let start = datetime!(2026-11-23 12:00 UTC);
        Self { proxies: 6, upstream: false, start, lives: 3, acts: 12, longest: HOUR * 80, broken: None }
    }
}

/// What outlives a crash.
pub(super) struct World {
    pub(super) temper: Temper,
    pub(super) directory: tempfile::TempDir,
    pub(super) disk: SimDisk,
    /// What the world chooses from.
    pub(super) chance: Entropy,
    /// What the server takes its random bytes from.
    pub(super) entropy: Entropy,
    pub(super) clock: Clock,
    pub(super) hands: ManualClock,
    pub(super) keys: Keys,
    /// The ledger's own key, PKCS#8.
    pub(super) ledger_key: Vec<u8>,
    pub(super) above: Option<Arc<Above>>,
    /// The index of the last life, when it was not lost.
    pub(super) store: Option<Arc<dyn Store>>,
    pub(super) witness: Witness,
    /// An old copy of the disk, for a world that is broken so.
    pub(super) old: Option<SimDisk>,
    /// Faults of the disk that were seen, and when the last one was, on the monotonic clock.
    pub(super) last_hit: Cell<(u64, Option<Duration>)>,
    told: Arc<Mutex<Told>>,
}

impl World {
    pub(super) fn new(seed: u64, temper: Temper) -> Self {
        let (clock, hands) = Clock::manual(temper.start);
        let of = |what: u64| Entropy::seeded(seed.wrapping_mul(8).wrapping_add(what));
        let keys = Keys::from(of(3));
        let mut told = Told::default();
        told.granted = (0..temper.proxies).collect();
        told.denied = (0..temper.proxies).map(|proxy| (proxy, Denied::No)).collect();
        Self {
            temper,
            directory: tempfile::tempdir().unwrap(),
            disk: SimDisk::new(),
            chance: of(1),
            entropy: of(2),
            above: temper.upstream.then(|| Arc::new(Above::new(clock.clone(), of(4)))),
            clock,
            hands,
            keys,
            ledger_key: Keys::pkcs8(&of(5)),
            store: None,
            witness: Witness::default(),
            old: None,
            last_hit: Cell::default(),
            told: Arc::new(Mutex::new(told)),
        }
    }

    /// A number below `end`.
    pub(super) fn draw(&self, end: u32) -> u32 {
        u32::try_from(below(&self.chance, end as usize)).unwrap()
    }

    pub(super) fn proxy(&self) -> u32 {
        self.draw(self.temper.proxies)
    }

    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap()
    }

    pub(super) fn share_told(&self) -> Arc<Mutex<Told>> {
        Arc::clone(&self.told)
    }

    pub(super) fn is_broken(&self, broken: Break) -> bool {
        self.temper.broken == Some(broken)
    }

    pub(super) fn count(&self, what: &'static str) {
        self.told().counts.count(what, 1);
    }

    pub(super) fn ledger(&self) -> PathBuf {
        self.directory.path().join("ledger")
    }

    pub(super) fn lists(&self) -> PathBuf {
        self.directory.path().join("crl")
    }

    pub(super) fn identity(proxy: u32) -> String {
        format!("spiffe://example.org/u/{}", FIRST_UID + proxy)
    }

    /// The policy with a rule for everyone of `granted`.
    pub(super) fn policy(&self, granted: &BTreeSet<u32>) -> Arc<Policy> {
        let (domain, sockets) = (TrustDomain::parse("example.org").unwrap(), ["sds".to_owned()]);
        let around = Surroundings {
            file: "policy.toml",
            trust_domain: &domain,
            sockets: Some(&sockets),
            profiles: Profiles::builtin(),
        };
        let mut ranges: Vec<(u32, u32)> = vec![(1, 1)];
        for uid in granted.iter().map(|proxy| FIRST_UID + proxy) {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == uid => *last = uid,
                Some(_) | None => ranges.push((uid, uid)),
            }
        }
        let uids: Vec<String> = ranges.iter().map(|(first, last)| format!("\"{first}-{last}\"")).collect();
        let rule = format!(
            "[[rule]]\nname = \"town\"\nmatch = {{ uid = [{}], socket = \"sds\" }}\nkeys = [\"ed25519\"]\n\
             identity = \"spiffe://{{trust_domain}}/u/{{uid}}\"\nlifetime = \"24h\"\n",
            uids.join(", ")
        );
        Arc::new(Policy::parse(&rule, &around).unwrap_or_else(|why| panic!("{why}\n{rule}")))
    }
}
