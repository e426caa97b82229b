//! The whole street in one process, over parts that fail, from one seed: only for tests.
//!
//! A [`world::World`] is what outlives a crash (disk, keys, clock, the authority above) beside what everyone was
//! [`told`]: certificates that were given, revocations and denies that were acknowledged, CRL numbers and records that
//! were seen. It lives several lives. In each a server is opened by the normal path with everything that `app` runs beside
//! it; proxies hold streams, read or do not, and vanish; acts are drawn from the seed, some at the same moment; faults
//! meet the disk, the keys, the CRL files and the upstream; and the life ends cleanly, by a kill between any two awaits of
//! any task, or by a loss of power in any operation of the disk. [`checks`] holds the laws, after each act and each start:
//! a refusal must be explained by a fault that stands. [`breaks`] breaks each law on purpose, and then somebody must notice.
//!
//! Everything runs on one thread, the ledger too, and time moves only when nothing else can. What a seed does not decide is
//! in which order those go on whom one broadcast woke: the runtime throws its own dice. So a replay makes the same choices
//! and nearly always meets the same failure. `CHANCERY_SIM_SEED=n` runs one seed, `CHANCERY_SIM_SECONDS=n` new seeds for
//! so long.

mod above;
mod acts;
mod breaks;
mod checks;
mod faults;
mod life;
mod proxies;
mod server;
mod told;
mod witness;
mod world;

use std::time::{Duration, Instant};

use breaks::Break;
use world::{Counts, Temper};

/// Seeds of a short run: what a test build manages in its time.
const SEEDS: u64 = if cfg!(debug_assertions) { 16 } else { 150 };

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// One seed from its first start to a clean end and a verified ledger.
fn run(seed: u64) -> Counts {
    std::panic::catch_unwind(|| life::whole(seed, Temper::of(seed))).unwrap_or_else(|panic| {
        eprintln!("the simulation failed; again: CHANCERY_SIM_SEED={seed} cargo test --lib simulation");
        std::panic::resume_unwind(panic)
    })
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how long a run takes is not part of what is simulated")]
fn whatever_fails_nothing_that_was_told_is_lost() {
    let mut counts = Counts::default();
    if let Some(seed) = number("CHANCERY_SIM_SEED") {
        counts.add(&run(seed));
    } else if let Some(seconds) = number("CHANCERY_SIM_SECONDS") {
        let (began, first) = (Instant::now(), u64::from(std::process::id()) << 32);
        let seeds = (first..).take_while(|_| began.elapsed() < Duration::from_secs(seconds));
        seeds.for_each(|seed| counts.add(&run(seed)));
    } else {
        (0..SEEDS).for_each(|seed| counts.add(&run(seed)));
        // A test build runs too few for everything to happen.
        if !cfg!(debug_assertions) {
            counts.are_not_tame();
        }
    }
    eprintln!("{counts:?}");
}

/// Runs worlds in which `broken` holds until the simulation says `noticed`.
#[track_caller]
fn notices(broken: Break, noticed: &str) {
    const TRIES: u64 = 12;
    let mut said = Vec::new();
    for seed in 0..TRIES {
        let temper = Temper { broken: Some(broken), ..Temper::plain() };
        let Err(panic) = std::panic::catch_unwind(|| life::whole(seed, temper)) else { continue };
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
        if text.contains(noticed) {
            return;
        }
        said.push(text);
    }
    panic!("{broken:?} is not noticed as {noticed:?} in {TRIES} seeds, but as {said:#?}");
}

#[test]
fn a_certificate_that_outlives_its_issuer_is_noticed() {
    notices(Break::Outlives, "outlives its issuer");
}

#[test]
fn a_certificate_without_a_record_is_noticed() {
    notices(Break::Unrecorded, "without a record");
}

#[test]
fn a_certificate_that_was_not_granted_is_noticed() {
    notices(Break::Ungranted, "of somebody else");
}

#[test]
fn a_lost_record_is_noticed() {
    // By the ledger itself, at the next start.
    notices(Break::DiskLies, "is damaged");
}

#[test]
fn a_ledger_that_went_back_is_noticed() {
    notices(Break::OldCopy, "is lost");
}

#[test]
fn a_stale_crl_is_noticed() {
    notices(Break::ListsNotKept, "a stale CRL");
}

#[test]
fn a_crl_number_that_goes_back_is_noticed() {
    notices(Break::NumbersForgotten, "went back");
}

#[test]
fn a_forgotten_revocation_is_noticed() {
    notices(Break::RevocationsForgotten, "is not revoked any more");
}

#[test]
fn a_forgotten_deny_is_noticed() {
    notices(Break::DeniesForgotten, "deny of");
}

#[test]
fn an_index_that_skips_a_record_is_noticed() {
    notices(Break::IndexSkips, "the index is not what a replay gives");
}

#[test]
fn a_version_of_two_contents_is_noticed() {
    notices(Break::VersionsRepeat, "two contents");
}

#[test]
fn a_renewal_that_does_not_come_is_noticed() {
    notices(Break::RenewalsLate, "holds an expired certificate");
}

#[test]
fn a_changed_tile_is_noticed() {
    notices(Break::TileChanged, "does not verify");
}

#[test]
fn a_refusal_without_a_reason_is_noticed() {
    notices(Break::RefusesAnyway, "without a reason");
}
