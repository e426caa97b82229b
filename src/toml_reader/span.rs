//! Spans of time as people write them: a number and a unit, as in `90s`, `24h` or `1h30m`.

use std::time::Duration;

/// The units, longest first, with their length in milliseconds.
const UNITS: [(&str, u64); 6] =
    [("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Why a text is no span of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpanError {
    /// A bare number.
    #[error("no unit: write \"{number}s\" for seconds (ms, s, m, h, d and w are known)")]
    NoUnit {
        /// The number as written.
        number: String,
    },
    /// Neither number nor unit.
    #[error("not a span of time: write a number and a unit, such as \"90s\", \"24h\" or \"1h30m\"")]
    Form,
    /// Larger than can be counted.
    #[error("longer than can be counted: write at most \"36500d\"")]
    TooLong,
}

/// The longest span that is read: a hundred years.
const LONGEST: Duration = Duration::from_secs(36_500 * 86_400);

/// Reads a span of time; several parts add up.
///
/// # Errors
/// When a unit is missing or unknown, or the whole is too long.
pub fn parse_span(text: &str) -> Result<Duration, SpanError> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(SpanError::NoUnit { number: text.to_owned() });
    }
    let (mut rest, mut total_ms) = (text, 0_u64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(SpanError::Form)?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, next) = after.split_at(letters);
        if number.is_empty() {
            return Err(SpanError::Form);
        }
        let (_, unit_ms) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(SpanError::Form)?;
        let number: u64 = number.parse().map_err(|_| SpanError::TooLong)?;
        total_ms = number.checked_mul(*unit_ms).and_then(|ms| total_ms.checked_add(ms)).ok_or(SpanError::TooLong)?;
        rest = next;
    }
    if text.is_empty() {
        return Err(SpanError::Form);
    }
    Some(Duration::from_millis(total_ms)).filter(|span| *span <= LONGEST).ok_or(SpanError::TooLong)
}

/// Writes a span as [`parse_span`] reads it, in hours and shorter units up to three days and in days above; what is
/// shorter than a millisecond is left out.
#[must_use]
pub fn render_span(span: Duration) -> String {
    let mut left_ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, unit_ms) in UNITS {
        let whole = left_ms / unit_ms;
        if whole == 0 || unit == "w" || (unit == "d" && left_ms < 4 * unit_ms) {
            continue;
        }
        text.push_str(&format!("{whole}{unit}"));
        left_ms %= unit_ms;
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expected: Result<u64, SpanError>) {
        assert_eq!(parse_span(text), expected.map(Duration::from_millis), "{text}");
    }

    #[test]
    fn a_span_needs_a_unit() {
        check("90s", Ok(90_000));
        check("24h", Ok(86_400_000));
        check("1h30m", Ok(5_400_000));
        check("250ms", Ok(250));
        check("2w", Ok(1_209_600_000));
        check("90", Err(SpanError::NoUnit { number: "90".to_owned() }));
        check("", Err(SpanError::Form));
        check("h", Err(SpanError::Form));
        check("1h30", Err(SpanError::Form));
        check("1 h", Err(SpanError::Form));
        check("-1h", Err(SpanError::Form));
        check("1y", Err(SpanError::Form));
        check("36501d", Err(SpanError::TooLong));
        check("99999999999999999999d", Err(SpanError::TooLong));
        check("18446744073709551615w", Err(SpanError::TooLong));
    }

    #[test]
    fn spans_read_well() {
        let render = |text: &str| render_span(parse_span(text).unwrap());
        assert_eq!(render("24h"), "24h");
        assert_eq!(render("72h"), "72h");
        assert_eq!(render("90d"), "90d");
        assert_eq!(render("5400s"), "1h30m");
        assert_eq!(render("0s"), "0s");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(ms in 0_u64..3_153_600_000_000) {
            let span = Duration::from_millis(ms);
            prop_assert_eq!(parse_span(&render_span(span)), Ok(span));
        }

        #[test]
        fn reading_never_panics(text in ".{0,24}") {
            let _ = parse_span(&text);
        }
    }
}
