//! The whole street in one process, over a disk that fails, from one seed: only for tests.
//!
//! A [`world::World`] is what outlives a crash (disk, keys, clock) beside what everyone was told: certificates that were
//! given, revocations and denies that were acknowledged, CRL numbers that were seen. It lives several lives; in each a
//! server is opened by the normal path, acts are drawn from the seed, a fault is put at a drawn operation of the disk, and
//! the life ends cleanly, by a kill or by a loss of power in the middle of whatever was going on. [`checks`] compares
//! what the server says with what everyone was told, after each act and after each start.
//!
//! The seed decides acts, faults, time and what a loss of power leaves. Keys are the library's own and the ledger's two
//! threads run beside each other, so a replay repeats the choices, and almost always the failure.
//! `CHANCERY_SIM_SEED=n` runs one seed, `CHANCERY_SIM_SECONDS=n` new seeds for so long.

mod checks;
mod life;
mod world;

use std::time::{Duration, Instant};

/// Seeds of a short run.
const SEEDS: u64 = 100;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// One seed from its first start to a clean end and a verified ledger.
fn run(seed: u64) -> world::Counts {
    std::panic::catch_unwind(|| life::whole(seed)).unwrap_or_else(|panic| {
        eprintln!("the simulation failed; again: CHANCERY_SIM_SEED={seed} cargo test --lib simulation");
        std::panic::resume_unwind(panic)
    })
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how long a run takes is not part of what is simulated")]
fn whatever_fails_nothing_that_was_told_is_lost() {
    let mut counts = world::Counts::default();
    if let Some(seed) = number("CHANCERY_SIM_SEED") {
        counts.add(&run(seed));
    } else if let Some(seconds) = number("CHANCERY_SIM_SECONDS") {
        let (began, first) = (Instant::now(), u64::from(std::process::id()) << 32);
        let seeds = (first..).take_while(|_| began.elapsed() < Duration::from_secs(seconds));
        seeds.for_each(|seed| counts.add(&run(seed)));
    } else {
        (0..SEEDS).for_each(|seed| counts.add(&run(seed)));
        assert!(counts.faults > 20 && counts.power > 20 && counts.revoked > 20, "too tame: {counts:?}");
    }
    eprintln!("{counts:?}");
}
