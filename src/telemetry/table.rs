//! Every metric there is: name, kind, unit, labels, help. Registration and `docs/metrics.md` both come from here.
//!
//! Names follow Prometheus's conventions: `chancery_` first, base units, the unit at the end, `_total` on counters alone.
//! A test checks each rule, that the page is not stale, and that the exposition holds exactly these. To rewrite the page
//! after a change: `UPDATE_GOLDEN=1 cargo test --lib telemetry`.

use crate::api::http::Route;
use crate::audit::event::Action;
use crate::identity::Mesh;

/// What kind of number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only grows while the process lives, from zero.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts of observations up to each bound.
    Histogram(&'static [f64]),
}

impl Kind {
    /// The word in the exposition.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// In what it is measured; part of the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things, counted.
    None,
    /// Seconds, or seconds since 1970 where the name says `timestamp`.
    Seconds,
}

/// Which values a label takes.
#[derive(Debug, Clone, Copy)]
pub enum Values {
    /// These; every series exists from the start, at zero, so that `increase()` sees the first event.
    Fixed(fn() -> Vec<&'static str>),
    /// What the server has, in words, with what bounds it.
    Found(&'static str),
}

/// One label.
#[derive(Debug, Clone, Copy)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// Its values.
    pub values: Values,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// The whole name, as a query spells it.
    pub name: &'static str,
    /// What kind.
    pub kind: Kind,
    /// In what it is measured.
    pub unit: Unit,
    /// Its labels.
    pub labels: &'static [Label],
    /// What it says, without a full stop at the end.
    pub help: &'static str,
}

const fn fixed(name: &'static str, values: fn() -> Vec<&'static str>) -> Label {
    Label { name, values: Values::Fixed(values) }
}

const fn spec(name: &'static str, kind: Kind, unit: Unit, labels: &'static [Label], help: &'static str) -> Spec {
    Spec { name, kind, unit, labels, help }
}

/// Seconds: from a commit on a fast disk to a request that nobody waits for any more.
const ISSUE_BOUNDS: &[f64] = &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Seconds: one `fdatasync`, from an NVMe disk to one that fails.
const COMMIT_BOUNDS: &[f64] =
    &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];

/// Why a caller got no certificate: policy's words ([`Refusal::word`](crate::policy::Refusal::word)) and the edges'.
pub const REFUSALS: [&str; 8] =
    ["nobody", "no-rule", "not-granted", "only-by-name", "unknown-name", "too-many", "csr", "unattested"];

/// What everything else is counted under.
pub const OTHER: &str = "other";

/// States of the ledger.
pub const LEDGER_STATES: [&str; 3] = ["ok", "full", "failed"];

/// Classes of HTTP status codes.
pub const CODES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

pub(super) const ISSUED: Spec = spec(
    "chancery_certificates_issued_total",
    Kind::Counter,
    Unit::None,
    &[
        fixed("mesh", || Mesh::ALL.iter().map(|mesh| mesh.as_str()).chain([OTHER]).collect()),
        fixed("cause", || vec!["first", "renewal"]),
    ],
    "Certificates authorised and recorded, by the mesh whose names they carry, first ones and renewals",
);
pub(super) const REFUSED: Spec = spec(
    "chancery_refusals_total",
    Kind::Counter,
    Unit::None,
    &[fixed("reason", || REFUSALS.into_iter().chain([OTHER]).collect())],
    "Requests refused by policy, by a limit, for their form, or because the caller could not be identified; \
     with those that the ledger holds as one record with a count",
);
pub(super) const SIGN_FAILURES: Spec = spec(
    "chancery_sign_failures_total",
    Kind::Counter,
    Unit::None,
    &[],
    "Certificates that were recorded but then not signed, or too late",
);
pub(super) const ISSUE_SECONDS: Spec = spec(
    "chancery_issue_duration_seconds",
    Kind::Histogram(ISSUE_BOUNDS),
    Unit::Seconds,
    &[],
    "How long making a certificate for a proxy took, from the request to the signed certificate",
);
pub(super) const ISSUE_FAILURES: Spec = spec(
    "chancery_issue_failures_total",
    Kind::Counter,
    Unit::None,
    &[],
    "Certificates for proxies that could not be made although nothing is wrong with the request",
);
pub(super) const COMMIT_SECONDS: Spec = spec(
    "chancery_ledger_commit_duration_seconds",
    Kind::Histogram(COMMIT_BOUNDS),
    Unit::Seconds,
    &[],
    "How long one group commit of the ledger took: one append and one fdatasync",
);
pub(super) const RECORDS: Spec = spec(
    "chancery_ledger_records_total",
    Kind::Counter,
    Unit::None,
    &[fixed("action", || Action::ALL.iter().map(|action| action.as_str()).collect())],
    "Records that became durable and reached the index since the server started, by action",
);
pub(super) const HTTP_REQUESTS: Spec = spec(
    "chancery_http_requests_total",
    Kind::Counter,
    Unit::None,
    &[fixed("route", || Route::ALL.iter().map(|route| route.as_str()).collect()), fixed("code", || CODES.to_vec())],
    "HTTP requests answered, by what was asked for and the class of the status code",
);
pub(super) const BUILD: Spec = spec(
    "chancery_build_info",
    Kind::Gauge,
    Unit::None,
    &[Label { name: "version", values: Values::Found("the version of this program") }],
    "Always 1",
);
pub(super) const STARTED: Spec =
    spec("chancery_start_timestamp_seconds", Kind::Gauge, Unit::Seconds, &[], "When this process started");
pub(super) const READY: Spec =
    spec("chancery_ready", Kind::Gauge, Unit::None, &[], "1 when the server is ready, as /readyz says, else 0");
pub(super) const PUSHES: Spec =
    spec("chancery_sds_pushes_total", Kind::Counter, Unit::None, &[], "Secrets sent to proxies");
pub(super) const ACKS: Spec =
    spec("chancery_sds_acks_total", Kind::Counter, Unit::None, &[], "Secrets that proxies acknowledged");
pub(super) const NACKS: Spec =
    spec("chancery_sds_nacks_total", Kind::Counter, Unit::None, &[], "Secrets that proxies refused");
pub(super) const KEPT: Spec = spec(
    "chancery_certificates_kept_total",
    Kind::Counter,
    Unit::None,
    &[],
    "Certificates that proxies kept over a restart of the server or of their connection",
);
pub(super) const RENEWAL_FAILURES: Spec = spec(
    "chancery_renewal_failures_total",
    Kind::Counter,
    Unit::None,
    &[],
    "Renewals that failed and are tried again; the proxy keeps the certificate it has",
);
pub(super) const SUBSCRIPTIONS: Spec = spec(
    "chancery_sds_subscriptions",
    Kind::Gauge,
    Unit::None,
    &[],
    "Secrets that proxies are subscribed to at this moment",
);
pub(super) const LIVE: Spec = spec(
    "chancery_certificates_live",
    Kind::Gauge,
    Unit::None,
    &[],
    "Certificates that connected proxies hold at this moment",
);
pub(super) const LATE: Spec = spec(
    "chancery_renewals_late",
    Kind::Gauge,
    Unit::None,
    &[],
    "Certificates of connected proxies whose renewal is overdue",
);
pub(super) const FIRST_EXPIRY: Spec = spec(
    "chancery_certificates_first_not_after_timestamp_seconds",
    Kind::Gauge,
    Unit::Seconds,
    &[],
    "When the first of the certificates that connected proxies hold expires; absent without any",
);
pub(super) const LEDGER_SIZE: Spec = spec(
    "chancery_ledger_size_records",
    Kind::Gauge,
    Unit::None,
    &[Label { name: "log", values: Values::Found("the logs of the ledger, one a year") }],
    "Durable records in each log",
);
pub(super) const LEDGER_UNPUBLISHED: Spec = spec(
    "chancery_ledger_unpublished_records",
    Kind::Gauge,
    Unit::None,
    &[],
    "Durable records that no published checkpoint covers yet",
);
pub(super) const LEDGER_STATE: Spec = spec(
    "chancery_ledger_state",
    Kind::Gauge,
    Unit::None,
    &[fixed("state", || LEDGER_STATES.to_vec())],
    "1 for the state the ledger is in; unless that is ok, no certificates are issued",
);
pub(super) const CHECKPOINT: Spec = spec(
    "chancery_ledger_checkpoint_timestamp_seconds",
    Kind::Gauge,
    Unit::Seconds,
    &[],
    "When the newest checkpoint was signed; absent before the first",
);
pub(super) const NOTES_LOST: Spec = spec(
    "chancery_ledger_notes_lost_total",
    Kind::Counter,
    Unit::None,
    &[],
    "Records that nobody waits for (certificate.signed, certificate.fail) and that could not be written",
);
pub(super) const INDEX_LAG: Spec = spec(
    "chancery_index_lag_records",
    Kind::Gauge,
    Unit::None,
    &[],
    "Durable records that the index does not know yet",
);
pub(super) const AUTHORITY_EXPIRY: Spec = spec(
    "chancery_authority_not_after_timestamp_seconds",
    Kind::Gauge,
    Unit::Seconds,
    &[fixed("level", || vec!["root", "issuing"])],
    "When the active authority of each level expires",
);
const ISSUER: Label =
    Label { name: "issuer", values: Values::Found("authorities by name, such as `issuing 3`; a handful") };
pub(super) const CRL_NUMBER: Spec = spec(
    "chancery_crl_number",
    Kind::Gauge,
    Unit::None,
    &[ISSUER],
    "The number of each authority's CRL; it only grows",
);
pub(super) const CRL_ENTRIES: Spec =
    spec("chancery_crl_entries", Kind::Gauge, Unit::None, &[ISSUER], "Certificates on each authority's CRL");
pub(super) const CRL_THIS_UPDATE: Spec = spec(
    "chancery_crl_this_update_timestamp_seconds",
    Kind::Gauge,
    Unit::Seconds,
    &[ISSUER],
    "From when on each authority's CRL holds; it was made five minutes later",
);
pub(super) const CRL_NEXT_UPDATE: Spec = spec(
    "chancery_crl_next_update_timestamp_seconds",
    Kind::Gauge,
    Unit::Seconds,
    &[ISSUER],
    "When every handshake fails that depends on this CRL, unless a newer one was pushed",
);
pub(super) const CRL_UNRECORDED: Spec = spec(
    "chancery_crl_unrecorded",
    Kind::Gauge,
    Unit::None,
    &[],
    "CRLs that were renewed while the ledger took no records, and are to be recorded first when it does",
);
pub(super) const REVOKED: Spec =
    spec("chancery_certificates_revoked_total", Kind::Counter, Unit::None, &[], "Certificates revoked and recorded");
pub(super) const POLICY: Spec = spec(
    "chancery_policy_info",
    Kind::Gauge,
    Unit::None,
    &[Label { name: "hash", values: Values::Found("SHA-256 of the policy in force, one at a time") }],
    "Always 1",
);
pub(super) const BREAKGLASS_OPEN: Spec = spec(
    "chancery_breakglass_open",
    Kind::Gauge,
    Unit::None,
    &[],
    "1 while a break-glass is open: somebody acts as admin without a second operator",
);
pub(super) const APPROVALS_OPEN: Spec =
    spec("chancery_approvals_open", Kind::Gauge, Unit::None, &[], "Acts that wait for a second operator");

/// All of them, in the order of the page.
pub const TABLE: [&Spec; 36] = [
    &ISSUED,
    &REFUSED,
    &ISSUE_SECONDS,
    &ISSUE_FAILURES,
    &SIGN_FAILURES,
    &LIVE,
    &FIRST_EXPIRY,
    &LATE,
    &RENEWAL_FAILURES,
    &KEPT,
    &SUBSCRIPTIONS,
    &PUSHES,
    &ACKS,
    &NACKS,
    &AUTHORITY_EXPIRY,
    &REVOKED,
    &CRL_NUMBER,
    &CRL_ENTRIES,
    &CRL_THIS_UPDATE,
    &CRL_NEXT_UPDATE,
    &CRL_UNRECORDED,
    &POLICY,
    &BREAKGLASS_OPEN,
    &APPROVALS_OPEN,
    &RECORDS,
    &LEDGER_SIZE,
    &LEDGER_UNPUBLISHED,
    &LEDGER_STATE,
    &CHECKPOINT,
    &COMMIT_SECONDS,
    &NOTES_LOST,
    &INDEX_LAG,
    &HTTP_REQUESTS,
    &READY,
    &STARTED,
    &BUILD,
];

const PAGE_HEAD: &str = "\
# Metrics

`GET /metrics` on the HTTP port, in the OpenMetrics format for Prometheus and in its older text format for everyone else.
This page is generated from the table in `src/telemetry/table.rs`; a test holds it. Labels take few values and never an
identity or an address: who did what is in the ledger. Every series whose label values are listed here exists from the
start, at zero.

| metric | kind | labels | says |
|---|---|---|---|
";

const PAGE_TAIL: &str = "
## Worth an alert

| when | means |
|---|---|
| `chancery_ledger_state{state=\"ok\"} == 0` | no certificates are issued: the disk is full, or the ledger failed |
| `chancery_crl_next_update_timestamp_seconds - time() < 0.4 * 7 * 86400` | a CRL is not renewed: at its end every handshake fails (take your own `crl.lifetime`) |
| `chancery_certificates_first_not_after_timestamp_seconds - time() < 4 * 3600` | a proxy will lose its certificate: choose a fifth of your shortest lifetime |
| `chancery_breakglass_open == 1` | somebody acts without a second operator; `chancery status` shows who, and why |
| `increase(chancery_ledger_records_total{action=\"breakglass.open\"}[5m]) > 0` | the break-glass was opened, or a wrong credential was tried |
| `chancery_approvals_open > 0` for 10 minutes | an act waits for a second operator: `chancery approval list` |
| `chancery_renewals_late > 0` for 10 minutes | renewals do not happen |
| `increase(chancery_refusals_total{reason=\"no-rule\"}[5m]) > 0` | somebody asks who no rule is for; `chancery audit tail` shows who |
| `increase(chancery_sds_nacks_total[5m]) > 0` | a proxy cannot use what it gets |
| `increase(chancery_sign_failures_total[5m]) > 0` | the issuing key does not sign |
| `chancery_authority_not_after_timestamp_seconds{level=\"issuing\"} - time() < 7 * 86400` | the issuing CA was not rolled over |
| `chancery_index_lag_records > 1000` for 10 minutes | what `cert list` shows is old |
";

/// `docs/metrics.md`.
#[must_use]
pub fn page() -> String {
    let row = |spec: &&Spec| {
        let labels: Vec<String> = spec.labels.iter().map(label).collect();
        format!("| `{}` | {} | {} | {} |\n", spec.name, spec.kind.as_str(), labels.join("; "), spec.help)
    };
    let rows: String = TABLE.iter().map(row).collect();
    format!("{PAGE_HEAD}{rows}{PAGE_TAIL}")
}

fn label(label: &Label) -> String {
    match label.values {
        Values::Fixed(values) => format!("`{}`: {}", label.name, values().join(", ")),
        Values::Found(what) => format!("`{}`: {what}", label.name),
    }
}
