//! The table against the exposition, the page and the conventions; and what counts as what.

use std::collections::{BTreeMap, BTreeSet};

use time::macros::datetime;

use super::*;
use crate::audit::event::{Coalesced, Outcome, Recorder};
use crate::entropy::Entropy;
use crate::telemetry::table::{TABLE, page};

const NOW: OffsetDateTime = datetime!(2026-11-23 13:00 UTC);

/// A sample in which nothing is absent.
fn sample() -> Sample {
    Sample {
        logs: vec![LogSample { log: "ca-2026".into(), size: 12, published: 10 }],
        first_not_after: Some(NOW),
        checkpoint: Some(NOW),
        authorities: vec![AuthoritySample { level: "root", not_after: NOW }],
        crls: vec![CrlSample {
            issuer: "issuing 1".into(),
            number: 1_763_902_800_000,
            entries: 3,
            this_update: NOW,
            next_update: NOW,
            recorded: false,
        }],
        policy_hash: "ab".into(),
        vault_signs: Some(true),
        nacks: 2,
        ..Sample::default()
    }
}

fn event(action: Action, reason: &str, count: Option<u64>) -> Event {
    let mut event = Recorder::new(Entropy::seeded(1)).event(action, Outcome::Denied, NOW);
    event.reason = Some(reason.to_owned());
    event.coalesced = count.map(|count| Coalesced { count, ..Coalesced::default() });
    event
}

#[test]
fn the_exposition_holds_what_the_table_says() {
    let text = Metrics::new(NOW).render(&sample());
    let mut found = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert!(found.insert(name, kind).is_none(), "{name} twice");
    }
    let stem = |spec: &&Spec| (spec.name.strip_suffix("_total").unwrap_or(spec.name), spec.kind.as_str());
    assert_eq!(found, TABLE.iter().map(stem).collect());
    for spec in TABLE {
        let series = match spec.kind {
            Kind::Counter | Kind::Gauge => spec.name.to_owned(),
            Kind::Histogram(_) => format!("{}_bucket", spec.name),
        };
        let known = |line: &&str| line.strip_prefix(&series).is_some_and(|rest| rest.starts_with([' ', '{']));
        assert!(!text.contains("{}"), "empty braces");
        let line = text.lines().find(known).unwrap_or_else(|| panic!("no series of {}", spec.name));
        for label in spec.labels {
            assert!(line.contains(&format!("{}=\"", label.name)), "{line}");
        }
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn names_follow_the_conventions() {
    let mut names = BTreeSet::new();
    for spec in TABLE {
        let name = spec.name;
        assert!(names.insert(name), "{name} twice");
        assert!(name.starts_with("chancery_") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        assert_eq!(name.ends_with("_total"), spec.kind == Kind::Counter, "{name}: _total is for counters");
        assert_eq!(name.ends_with("_seconds"), spec.unit == Unit::Seconds, "{name}: the unit ends the name");
        for suffix in ["_bucket", "_count", "_sum", "_created", "_gcount", "_gsum"] {
            assert!(!name.ends_with(suffix), "{name}: reserved by OpenMetrics");
        }
        assert!(spec.help.len() > 5 && !spec.help.ends_with('.') && !spec.help.contains(['|', '\n']), "{name}");
        assert!(spec.labels.iter().all(|label| !["le", "quantile", "job", "instance"].contains(&label.name)), "{name}");
    }
}

#[test]
fn every_series_that_can_be_known_is_there_at_zero() {
    let text = Metrics::new(NOW).render(&Sample::default());
    for series in [
        "chancery_refusals_total{reason=\"no-rule\"} 0",
        "chancery_refusals_total{reason=\"other\"} 0",
        "chancery_certificates_issued_total{mesh=\"istio\",cause=\"renewal\"} 0",
        "chancery_ledger_records_total{action=\"certificate.nack\"} 0",
        "chancery_http_requests_total{route=\"tile\",code=\"5xx\"} 0",
        "chancery_ledger_state{state=\"full\"} 0.0",
        "chancery_sign_failures_total 0",
        "chancery_issue_duration_seconds_count 0",
    ] {
        let found = text.lines().any(|line| line == series);
        assert!(found, "{series}\n{text}");
    }
    assert!(!text.contains("chancery_ledger_checkpoint_timestamp_seconds"), "a time that is not known is not 1970");
}

#[test]
fn records_are_counted_as_what_they_say() {
    let metrics = Metrics::new(NOW);
    let mut issue = event(Action::CertificateIssue, "", None);
    issue.mesh = Some(Mesh::Istio);
    metrics.recorded(&issue);
    metrics.recorded(&event(Action::CertificateDeny, "no-rule", None));
    metrics.recorded(&event(Action::CertificateDeny, "no-rule", Some(40)));
    metrics.recorded(&event(Action::CertificateDeny, "csr: the key is too weak", None));
    metrics.recorded(&event(Action::CertificateDeny, "max_certificates_per_caller = 4096", None));
    metrics.recorded(&event(Action::CertificateDeny, "of a later version", None));
    metrics.recorded(&event(Action::AttestRefuse, "pid 0", Some(2)));
    metrics.recorded(&event(Action::CertificateFail, "late", None));
    metrics.recorded(&event(Action::CertificateRevoke, "keyCompromise", None));
    metrics.http_answered("bundle", 304);
    metrics.ledger_committed(Duration::from_micros(140));
    let text = metrics.render(&sample());
    for series in [
        "chancery_certificates_issued_total{mesh=\"istio\",cause=\"first\"} 1",
        "chancery_refusals_total{reason=\"no-rule\"} 41",
        "chancery_refusals_total{reason=\"csr\"} 1",
        "chancery_refusals_total{reason=\"too-many\"} 1",
        "chancery_refusals_total{reason=\"other\"} 1",
        "chancery_refusals_total{reason=\"unattested\"} 2",
        "chancery_ledger_records_total{action=\"certificate.deny\"} 5",
        "chancery_sign_failures_total 1",
        "chancery_http_requests_total{route=\"bundle\",code=\"3xx\"} 1",
        "chancery_ledger_commit_duration_seconds_bucket{le=\"0.00025\"} 1",
        "chancery_ledger_commit_duration_seconds_bucket{le=\"0.0001\"} 0",
        "chancery_ledger_unpublished_records 2.0",
        "chancery_ledger_size_records{log=\"ca-2026\"} 12.0",
        "chancery_sds_nacks_total 2",
        "chancery_certificates_revoked_total 1",
        "chancery_crl_number{issuer=\"issuing 1\"} 1763902800000.0",
        "chancery_crl_entries{issuer=\"issuing 1\"} 3.0",
        "chancery_crl_unrecorded 1.0",
    ] {
        assert!(text.lines().any(|line| line == series), "{series}\n{text}");
    }
}

#[test]
fn policys_words_are_known() {
    use crate::policy::Refusal;
    let words = [Refusal::NoRule { nearest: Vec::new() }.word(), Refusal::OnlyByName { nearest: Vec::new() }.word()];
    for word in words {
        assert_eq!(refusal_word(word), word);
    }
}

#[test]
fn the_page_is_what_the_table_says() {
    crate::golden::check("docs/metrics.md", &page());
}
