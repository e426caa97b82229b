//! What outlives a crash, and what everyone was told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use time::OffsetDateTime;
use time::macros::datetime;

use crate::audit::ledger::Position;
use crate::audit::ledger::simulated::{SimDisk, below};
use crate::clock::{Clock, ManualClock};
use crate::entropy::Entropy;
use crate::identity::TrustDomain;
use crate::policy::{Policy, Surroundings};
use crate::store::Store;
use crate::x509::profile::Profiles;

const START: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);

/// Proxies that ask; proxy `n` has this uid plus `n`.
pub(super) const FIRST_UID: u32 = 1000;
pub(super) const PROXIES: u32 = 6;

/// How often what happened.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) seeds: u64,
    pub(super) lives: u64,
    pub(super) issued: u64,
    pub(super) refused: u64,
    pub(super) revoked: u64,
    pub(super) faults: u64,
    pub(super) power: u64,
    pub(super) late_clocks: u64,
    pub(super) days: i64,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        self.seeds += 1;
        self.lives += other.lives;
        self.issued += other.issued;
        self.refused += other.refused;
        self.revoked += other.revoked;
        self.faults += other.faults;
        self.power += other.power;
        self.late_clocks += other.late_clocks;
        self.days += other.days;
    }
}

/// A certificate that somebody was given.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) proxy: u32,
    pub(super) position: Position,
    pub(super) issuer: String,
    pub(super) not_after: OffsetDateTime,
    pub(super) revoked: bool,
}

/// Whether a proxy is denied, as far as anyone can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    No,
    Yes,
    /// An order or its release ended without an answer.
    Unknown,
}

/// What outlives a crash.
pub(super) struct World {
    pub(super) directory: tempfile::TempDir,
    pub(super) disk: SimDisk,
    pub(super) chance: Entropy,
    pub(super) clock: Clock,
    pub(super) hands: ManualClock,
    /// The index of the last life, when it was not lost.
    pub(super) store: Option<Arc<dyn Store>>,
    /// The proxies with a rule.
    pub(super) granted: BTreeSet<u32>,
    pub(super) given: BTreeMap<String, Given>,
    pub(super) denied: BTreeMap<u32, Denied>,
    /// The highest CRL number that was published, by issuer.
    pub(super) numbers: BTreeMap<String, u64>,
    /// Checkpoints that anyone may have seen.
    pub(super) seen: BTreeMap<String, String>,
    pub(super) counts: Counts,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let (clock, hands) = Clock::manual(START);
        Self {
            directory: tempfile::tempdir().unwrap(),
            disk: SimDisk::new(),
            chance: Entropy::seeded(seed),
            clock,
            hands,
            store: None,
            granted: (0..PROXIES).collect(),
            given: BTreeMap::new(),
            denied: (0..PROXIES).map(|proxy| (proxy, Denied::No)).collect(),
            numbers: BTreeMap::new(),
            seen: BTreeMap::new(),
            counts: Counts::default(),
        }
    }

    /// A number below `end`.
    pub(super) fn draw(&self, end: u32) -> u32 {
        u32::try_from(below(&self.chance, end as usize)).unwrap()
    }

    pub(super) fn proxy(&self) -> u32 {
        self.draw(PROXIES)
    }

    pub(super) fn days(&self) -> i64 {
        (self.clock.now() - START).whole_days()
    }

    pub(super) fn identity(proxy: u32) -> String {
        format!("spiffe://example.org/u/{}", FIRST_UID + proxy)
    }

    /// The policy with a rule for each of `granted`.
    pub(super) fn policy(&self, domain: &TrustDomain) -> Arc<Policy> {
        let sockets = ["sds".to_owned()];
        let around = Surroundings {
            file: "policy.toml",
            trust_domain: domain,
            sockets: Some(&sockets),
            profiles: Profiles::builtin(),
        };
        let rule = |uid: u32| {
            format!(
                "[[rule]]\nname = \"p{uid}\"\nmatch = {{ uid = {uid}, socket = \"sds\" }}\n\
                 identity = \"spiffe://{{trust_domain}}/u/{uid}\"\nlifetime = \"24h\"\n"
            )
        };
        // One rule that nobody matches keeps the file from being empty.
        let rules: String = self.granted.iter().map(|proxy| FIRST_UID + proxy).chain([1]).map(rule).collect();
        Arc::new(Policy::parse(&rules, &around).unwrap())
    }
}
