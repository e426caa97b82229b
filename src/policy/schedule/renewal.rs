//! Leaf renewal: at a part of life with jitter, and again after a failure.

use std::time::Duration;

use time::OffsetDateTime;

use crate::policy::Renewal;

/// A renewal is due at least this long before the end, or a quarter of life where that is less: time for a few attempts.
pub const SAFETY: Duration = Duration::from_secs(30);

/// A renewal is due at least this long after the issue, or a quarter of life where that is less, so that no setting makes
/// a certificate that is renewed at once and for ever.
pub const LEAST_USE: Duration = Duration::from_secs(1);

/// The wait after the first failure.
pub const FIRST_BACKOFF: Duration = Duration::from_millis(500);

/// The longest wait between attempts.
pub const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

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

/// From when a certificate that has not been renewed is late: half-way between the last planned moment and its end.
#[must_use]
pub fn late_from(issued: OffsetDateTime, not_after: OffsetDateTime, renewal: &Renewal) -> OffsetDateTime {
    let last = renew_at(issued, not_after, renewal, 1.0);
    last + span(last, not_after) / 2
}

/// How long to wait after the failure number `attempt` (from 0): doubling, half of it random.
#[must_use]
pub fn backoff(attempt: u32, unit: f64) -> Duration {
    let doubled = FIRST_BACKOFF.saturating_mul(2_u32.saturating_pow(attempt.min(16))).min(LONGEST_BACKOFF);
    let jittered = doubled.as_secs_f64() * (0.5 + 0.5 * unit.clamp(0.0, 1.0));
    Duration::try_from_secs_f64(jittered).unwrap_or(doubled).max(LEAST_BACKOFF)
}

/// When to try again after the failure number `attempt` (from 0). What is left of the certificate's life shortens the
/// wait to a quarter of it, so that attempts come closer together as the end does.
#[must_use]
pub fn retry_at(now: OffsetDateTime, not_after: OffsetDateTime, attempt: u32, unit: f64) -> OffsetDateTime {
    let left = span(now, not_after);
    let wait = backoff(attempt, unit);
    // An expired certificate has no end to hurry for: the plain backoff spares the ledger.
    if left.is_zero() { now + wait } else { now + wait.min((left / 4).max(LEAST_BACKOFF)) }
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
        assert!(late_from(START, end, &late) > renew_at(START, end, &late, 1.0));
    }

    #[test]
    fn waits_double_to_a_bound() {
        let waits: Vec<u128> = (0..10).map(|attempt| backoff(attempt, 1.0).as_millis()).collect();
        assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]);
        assert_eq!(backoff(u32::MAX, 0.0), Duration::from_secs(30));
        let soon = START + Duration::from_secs(8);
        assert_eq!(retry_at(START, soon, 9, 1.0), START + Duration::from_secs(2));
        assert_eq!(retry_at(soon, START, 9, 1.0), soon + LONGEST_BACKOFF);
    }

    proptest! {
        #[test]
        fn a_renewal_lies_within_life(ms in 0_u64..40_000_000_000, fraction in 0.1..0.9_f64, jitter in 0.0..0.2_f64, unit in 0.0..1.0_f64) {
            let life = Duration::from_millis(ms);
            let renewal = Renewal { fraction, jitter };
            let at = renew_at(START, START + life, &renewal, unit);
            prop_assert!(at >= START + LEAST_USE.min(life / 4));
            prop_assert!(at <= START + life - SAFETY.min(life / 4));
            prop_assert!(late_from(START, START + life, &renewal) <= START + life);
        }

        #[test]
        fn a_retry_comes_before_the_end_and_never_at_once(left_ms in 1_000_u64..100_000_000, attempt in 0_u32..60, unit in 0.0..1.0_f64) {
            let end = START + Duration::from_millis(left_ms);
            let at = retry_at(START, end, attempt, unit);
            prop_assert!(at < end && at >= START + LEAST_BACKOFF && at <= START + LONGEST_BACKOFF);
        }

        #[test]
        fn no_number_panics(fraction in any::<f64>(), jitter in any::<f64>(), unit in any::<f64>()) {
            let at = renew_at(START, START + Duration::from_secs(60), &Renewal { fraction, jitter }, unit);
            prop_assert!(at >= START && at <= START + Duration::from_secs(60));
            let _ = backoff(3, unit);
        }
    }
}
