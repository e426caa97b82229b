//! Metrics in the format that a scraper asks for: OpenMetrics 1.0, or Prometheus's older text format for the rest.
//!
//! The program writes OpenMetrics once. The older format wants the `_total` of a counter in its HELP and TYPE lines too,
//! and knows neither UNIT nor EOF. Called by the router only; never makes or counts a metric.

use http::header::{self, HeaderMap};

/// The content type of OpenMetrics 1.0.
pub(super) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The content type of the older format.
pub(super) const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Whether the scraper named OpenMetrics; Prometheus does, `curl` does not.
pub(super) fn wants_open_metrics(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT);
    values.iter().filter_map(|value| value.to_str().ok()).any(|value| value.contains("application/openmetrics-text"))
}

/// Rewrites what the older format spells in another way.
pub(super) fn to_text(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    let mut lines = open.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("# UNIT ") || line == "# EOF" {
            continue;
        }
        // HELP comes before TYPE, so the type of a family is in the next line or in this one.
        let about_counter = |line: &str| line.starts_with("# TYPE ") && line.ends_with(" counter");
        let help = line.strip_prefix("# HELP ").filter(|_| lines.peek().is_some_and(|next| about_counter(next)));
        let kind = line.strip_prefix("# TYPE ").filter(|_| about_counter(line));
        match (help, kind) {
            (Some(rest), _) => text.push_str(&with_total("# HELP ", rest)),
            (None, Some(rest)) => text.push_str(&with_total("# TYPE ", rest)),
            (None, None) => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

fn with_total(begin: &str, rest: &str) -> String {
    let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    format!("{begin}{name}_total {rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_get_their_suffix_and_the_rest_stays() {
        let open = "# HELP a_wait_seconds Waiting.\n# TYPE a_wait_seconds histogram\n# UNIT a_wait_seconds seconds\n\
                    a_wait_seconds_sum 0.0\n# HELP a_done Done.\n# TYPE a_done counter\na_done_total{x=\"# HELP\"} 1\n# EOF\n";
        let text = "# HELP a_wait_seconds Waiting.\n# TYPE a_wait_seconds histogram\n\
                    a_wait_seconds_sum 0.0\n# HELP a_done_total Done.\n# TYPE a_done_total counter\n\
                    a_done_total{x=\"# HELP\"} 1\n";
        assert_eq!(to_text(open), text);
    }
}
