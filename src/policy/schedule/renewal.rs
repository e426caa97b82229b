//! Leaf renewal: at a part of life with jitter, and again after a failure.

use std::time::Duration;

use time::OffsetDateTime;

use crate::policy::Renewal;

/// A renewal is due at least this long before the end, or a quarter of life where that is less: time for a few attempts.
pub const SAFETY: Duration = Duration::from_secs(30);

/// A renewal is due at least this long after the issue, or a quarter of life where that is less, so that no setting makes
/// a certificate that is renewed at once and for ever.
pub const LEAST_USE: Duration = Duration::from_secs(1);

/// The shortest wait between attempts, whatever little life is left.
pub const LEAST_BACKOFF: Duration = Duration::from_millis(250);

/// When a certificate is due for renewal.
///
/// `issued` is the moment of issue, not the backdated `notBefore`: a part of life counted from there would lie before
/// the issue for a short life. `unit` is a random number in `0.0..1.0`, drawn once per certificate.
#[must_use]
pub fn renew_at(issued: OffsetDateTime, not_after: OffsetDateTime, renewal: &Renewal, unit: f64) -> OffsetDateTime {
    let life = span(issued, not_after);
    let part = renewal.fraction + renewal.jitter * (2.0 * unit - 1.0);
    // A life of nothing, or a part that is no number, must give a moment and not a panic.
    let wished = Duration::try_from_secs_f64(life.as_secs_f64() * part).unwrap_or_default();
    let (least, most) = (LEAST_USE.min(life / 4), life - SAFETY.min(life / 4));
    issued + wished.clamp(least, most)
}

/// How long failed attempts wait for the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first failure, at most.
    pub first: Duration,
    /// What the doubling stops at.
    pub longest: Duration,
}

impl Backoff {
    /// How long to wait after the failure number `attempt` (from 0): doubling, half of it random, so that what failed
    /// together is not tried together.
    #[must_use]
    pub fn wait(&self, attempt: u32, unit: f64) -> Duration {
        let doubled = self.first.saturating_mul(2_u32.saturating_pow(attempt.min(16))).min(self.longest);
        let jittered = doubled.as_secs_f64() * (0.5 + 0.5 * unit.clamp(0.0, 1.0));
        Duration::try_from_secs_f64(jittered).unwrap_or(doubled).max(LEAST_BACKOFF)
    }

    /// The wait for a certificate that ends at `not_after`: what is left of its life shortens it to a quarter of that, so
    /// that attempts come closer together as the end does.
    #[must_use]
    pub fn wait_before(&self, now: OffsetDateTime, not_after: OffsetDateTime, attempt: u32, unit: f64) -> Duration {
        let (left, wait) = (span(now, not_after), self.wait(attempt, unit));
        // An expired certificate has no end to hurry for: the plain backoff spares the ledger.
        if left.is_zero() { wait } else { wait.min((left / 4).max(LEAST_BACKOFF)) }
    }
}

fn span(from: OffsetDateTime, to: OffsetDateTime) -> Duration {
    Duration::try_from(to - from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use time::macros::datetime;

    const START: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);
    const BACKOFF: Backoff = Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(60) };
    const HALF: Renewal = Renewal { fraction: 0.5, jitter: 0.05 };

    fn check(life: Duration, unit: f64, expected: Duration) {
        assert_eq!(renew_at(START, START + life, &HALF, unit), START + expected, "{life:?} {unit}");
    }

    #[test]
    fn a_day_is_renewed_at_its_half() {
        check(Duration::from_secs(86_400), 0.5, Duration::from_secs(43_200));
        check(Duration::from_secs(86_400), 0.0, Duration::from_secs(38_880));
        check(Duration::from_secs(86_400), 1.0, Duration::from_secs(47_520));
        check(Duration::from_secs(5), 0.5, Duration::from_millis(2_500));
        check(Duration::ZERO, 0.5, Duration::ZERO);
    }

    #[test]
    fn a_late_wish_leaves_time_for_attempts() {
        let late = Renewal { fraction: 0.9, jitter: 0.05 };
        let (hour, end) = (Duration::from_secs(3_600), START + Duration::from_secs(60));
        assert_eq!(renew_at(START, end, &late, 1.0), START + Duration::from_secs(45));
        assert_eq!(renew_at(START, START + hour, &late, 1.0), START + Duration::from_secs(3_420));
    }

    #[test]
    fn a_short_life_is_used_for_a_quarter_at_least() {
        let at = |life, fraction| renew_at(START, START + life, &Renewal { fraction, jitter: 0.0 }, 0.5);
        assert_eq!(at(Duration::from_secs(2), 0.1), START + Duration::from_millis(500));
        assert_eq!(at(Duration::from_secs(2), 0.9), START + Duration::from_millis(1_500));
        assert_eq!(at(Duration::from_secs(8), 0.1), START + LEAST_USE);
    }

    #[test]
    fn waits_double_to_a_bound() {
        let waits: Vec<u128> = (0..10).map(|attempt| BACKOFF.wait(attempt, 1.0).as_millis()).collect();
        assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]);
        assert_eq!(BACKOFF.wait(u32::MAX, 0.0), Duration::from_secs(30));
        let soon = START + Duration::from_secs(8);
        assert_eq!(BACKOFF.wait_before(START, soon, 9, 1.0), Duration::from_secs(2));
        assert_eq!(BACKOFF.wait_before(soon, START, 9, 1.0), BACKOFF.longest);
    }

    proptest! {
        #[test]
        fn a_renewal_lies_within_life(ms in 0_u64..40_000_000_000, fraction in 0.1..0.9_f64, jitter in 0.0..0.2_f64, unit in 0.0..1.0_f64) {
            let life = Duration::from_millis(ms);
            let renewal = Renewal { fraction, jitter };
            let at = renew_at(START, START + life, &renewal, unit);
            prop_assert!(at >= START + LEAST_USE.min(life / 4));
            prop_assert!(at <= START + life - SAFETY.min(life / 4));
        }

        #[test]
        fn a_retry_comes_before_the_end_and_never_at_once(left_ms in 1_000_u64..100_000_000, attempt in 0_u32..60, unit in 0.0..1.0_f64) {
            let end = START + Duration::from_millis(left_ms);
            let at = START + BACKOFF.wait_before(START, end, attempt, unit);
            prop_assert!(at < end && at >= START + LEAST_BACKOFF && at <= START + BACKOFF.longest);
        }

        #[test]
        fn no_number_panics(fraction in any::<f64>(), jitter in any::<f64>(), unit in any::<f64>()) {
            let at = renew_at(START, START + Duration::from_secs(60), &Renewal { fraction, jitter }, unit);
            prop_assert!(at >= START && at <= START + Duration::from_secs(60));
            let _ = BACKOFF.wait(3, unit);
        }
    }
}
