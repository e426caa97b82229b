//! The numbers themselves: counted here when only this module sees them, taken from their owners at each scrape when
//! somebody else has them anyway.
//!
//! Counters of certificates and refusals follow the ledger's records ([`Metrics::recorded`]), so that no edge can forget
//! to count and nothing is counted that was not recorded. [`Metrics::render`] adds a [`Sample`] of the rest. Every method
//! is cheap, never waits and never fails.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry, Unit as RegistryUnit};
use time::OffsetDateTime;

use super::table::{self, Kind, OTHER, REFUSALS, Spec, Unit, Values};
use crate::audit::event::{Action, Event};
use crate::identity::Mesh;

type Labels = Vec<(&'static str, Cow<'static, str>)>;
type Counters = Family<Labels, Counter>;
/// Whole seconds and counts fit: 2^53 of them.
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;

/// The metrics of one server; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    issued: Counters,
    refused: Counters,
    revoked: Counter,
    sign_failures: Counter,
    issue_seconds: Histogram,
    issue_failures: Counter,
    commit_seconds: Histogram,
    records: Counters,
    http_requests: Counters,
}

impl Metrics {
    /// Everything at zero, for a process that started at `started`.
    #[must_use]
    pub fn new(started: OffsetDateTime) -> Self {
        let mut registry = Registry::default();
        let build = gauges(&mut registry, &table::BUILD);
        build.get_or_create(&vec![("version", Cow::Borrowed(env!("CARGO_PKG_VERSION")))]).set(1.0);
        set(&mut registry, &table::STARTED, seconds(started));
        let issued = counters(&mut registry, &table::ISSUED);
        let refused = counters(&mut registry, &table::REFUSED);
        let revoked = counter(&mut registry, &table::REVOKED);
        let sign_failures = counter(&mut registry, &table::SIGN_FAILURES);
        let issue_seconds = histogram(&mut registry, &table::ISSUE_SECONDS);
        let issue_failures = counter(&mut registry, &table::ISSUE_FAILURES);
        let commit_seconds = histogram(&mut registry, &table::COMMIT_SECONDS);
        let records = counters(&mut registry, &table::RECORDS);
        let http_requests = counters(&mut registry, &table::HTTP_REQUESTS);
        Self(Arc::new(Inner {
            registry,
            issued,
            refused,
            revoked,
            sign_failures,
            issue_seconds,
            issue_failures,
            commit_seconds,
            records,
            http_requests,
        }))
    }

    /// Counts a record that became durable in this run, once.
    pub fn recorded(&self, event: &Event) {
        let inner = &*self.0;
        add(&inner.records, &[("action", event.action.as_str())], 1);
        let many = event.coalesced.as_ref().map_or(1, |coalesced| coalesced.count);
        match event.action {
            Action::CertificateIssue => self.issued(event.mesh, "first"),
            Action::CertificateRenew => self.issued(event.mesh, "renewal"),
            Action::CertificateDeny => {
                let word = refusal_word(event.reason.as_deref().unwrap_or_default());
                add(&inner.refused, &[("reason", word)], many);
            }
            Action::AttestRefuse => add(&inner.refused, &[("reason", "unattested")], many),
            Action::CertificateFail => {
                inner.sign_failures.inc();
            }
            Action::CertificateRevoke => {
                inner.revoked.inc();
            }
            Action::CertificateSigned
            | Action::CertificateNack
            | Action::IdentityDeny
            | Action::IdentityRelease
            | Action::AttestAccept
            | Action::CaPrepare
            | Action::CaPublish
            | Action::CaActivate
            | Action::CaTaint
            | Action::CaRetire
            | Action::CrlPublish
            | Action::ConfigChange
            | Action::OperatorRead
            | Action::OperatorAct
            | Action::LedgerSnapshot
            | Action::LedgerStart
            | Action::LedgerStop
            | Action::LedgerRotate
            | Action::LedgerVerify
            | Action::LedgerFail
            | Action::LedgerRecover
            | Action::LedgerKey
            | Action::LedgerPrune
            | Action::LedgerHold
            | Action::LedgerRelease => {}
        }
    }

    fn issued(&self, mesh: Option<Mesh>, cause: &'static str) {
        let mesh = mesh.map_or(OTHER, Mesh::as_str);
        add(&self.0.issued, &[("mesh", mesh), ("cause", cause)], 1);
    }

    /// A certificate for a proxy was made in this time.
    pub fn issue_took(&self, span: Duration) {
        self.0.issue_seconds.observe(span.as_secs_f64());
    }

    /// A certificate for a proxy could not be made, and it is not the caller's fault.
    pub fn issue_failed(&self) {
        self.0.issue_failures.inc();
    }

    /// The ledger made one commit durable in this time.
    pub fn ledger_committed(&self, span: Duration) {
        self.0.commit_seconds.observe(span.as_secs_f64());
    }

    /// The HTTP edge answered.
    pub fn http_answered(&self, route: &'static str, status: u16) {
        let code = match status {
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        add(&self.0.http_requests, &[("route", route), ("code", code)], 1);
    }

    /// The whole exposition, OpenMetrics 1.0.
    #[must_use]
    pub fn render(&self, sample: &Sample) -> String {
        let mut text = String::new();
        let written = encode_registry(&mut text, &self.0.registry)
            .and_then(|()| encode_registry(&mut text, &sample.registry()))
            .and_then(|()| encode_eof(&mut text));
        written.expect("writing to a String does not fail");
        text
    }
}

/// One log of the ledger, as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogSample {
    /// Its name.
    pub log: String,
    /// Durable records.
    pub size: u64,
    /// Records that its published checkpoint covers.
    pub published: u64,
}

/// How the ledger is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LedgerState {
    /// It takes records.
    #[default]
    Ok,
    /// Only what may use the reserve.
    Full,
    /// None, in this run.
    Failed,
}

impl LedgerState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Full => "full",
            Self::Failed => "failed",
        }
    }
}

/// An active authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthoritySample {
    /// `root` or `issuing`.
    pub level: &'static str,
    /// When it expires.
    pub not_after: OffsetDateTime,
}

/// The CRL of an authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrlSample {
    /// The authority's name.
    pub issuer: String,
    /// Its number.
    pub number: u64,
    /// Certificates on it.
    pub entries: usize,
    /// From when on it holds.
    pub this_update: OffsetDateTime,
    /// Until when.
    pub next_update: OffsetDateTime,
    /// Whether the ledger has it.
    pub recorded: bool,
}

/// What others know at the moment of a scrape. Totals count from the start of the process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    /// Whether `/readyz` says so.
    pub ready: bool,
    /// Of the feed.
    pub pushes: u64,
    /// Of the feed.
    pub acks: u64,
    /// Of the feed.
    pub nacks: u64,
    /// Of the feed.
    pub kept: u64,
    /// Of the feed.
    pub renewal_failures: u64,
    /// Live subscriptions.
    pub subscriptions: usize,
    /// Live certificates.
    pub certificates: usize,
    /// Live certificates whose `renew_at` has passed.
    pub renewals_late: usize,
    /// The earliest `not_after` of the live certificates.
    pub first_not_after: Option<OffsetDateTime>,
    /// Every log.
    pub logs: Vec<LogSample>,
    /// The ledger's health.
    pub ledger: LedgerState,
    /// When the newest checkpoint was signed.
    pub checkpoint: Option<OffsetDateTime>,
    /// `Ledger::notes_lost`.
    pub notes_lost: u64,
    /// Durable records that the index does not have.
    pub index_lag: u64,
    /// The active root and issuing CA.
    pub authorities: Vec<AuthoritySample>,
    /// Every authority's CRL.
    pub crls: Vec<CrlSample>,
    /// SHA-256 of the policy in force, hex.
    pub policy_hash: String,
}

impl Sample {
    fn registry(&self) -> Registry {
        let mut registry = Registry::default();
        let all = &mut registry;
        set(all, &table::READY, f64::from(u8::from(self.ready)));
        for (spec, count) in [
            (&table::PUSHES, self.pushes),
            (&table::ACKS, self.acks),
            (&table::NACKS, self.nacks),
            (&table::KEPT, self.kept),
            (&table::RENEWAL_FAILURES, self.renewal_failures),
            (&table::NOTES_LOST, self.notes_lost),
        ] {
            counter(all, spec).inc_by(count);
        }
        set(all, &table::SUBSCRIPTIONS, self.subscriptions as f64);
        set(all, &table::LIVE, self.certificates as f64);
        set(all, &table::LATE, self.renewals_late as f64);
        set(all, &table::INDEX_LAG, self.index_lag as f64);
        for (spec, at) in [(&table::FIRST_EXPIRY, self.first_not_after), (&table::CHECKPOINT, self.checkpoint)] {
            if let Some(at) = at {
                set(all, spec, seconds(at));
            }
        }
        let sizes = gauges(all, &table::LEDGER_SIZE);
        for log in &self.logs {
            sizes.get_or_create(&vec![("log", log.log.clone().into())]).set(log.size as f64);
        }
        let unpublished: u64 = self.logs.iter().map(|log| log.size.saturating_sub(log.published)).sum();
        set(all, &table::LEDGER_UNPUBLISHED, unpublished as f64);
        let states = gauges(all, &table::LEDGER_STATE);
        states.get_or_create(&vec![("state", self.ledger.as_str().into())]).set(1.0);
        let authorities = gauges(all, &table::AUTHORITY_EXPIRY);
        for authority in &self.authorities {
            authorities.get_or_create(&vec![("level", authority.level.into())]).set(seconds(authority.not_after));
        }
        self.crls(all);
        let policy = gauges(all, &table::POLICY);
        policy.get_or_create(&vec![("hash", self.policy_hash.clone().into())]).set(1.0);
        registry
    }
}

impl Sample {
    fn crls(&self, all: &mut Registry) {
        let [number, entries, this_update, next_update] =
            [&table::CRL_NUMBER, &table::CRL_ENTRIES, &table::CRL_THIS_UPDATE, &table::CRL_NEXT_UPDATE]
                .map(|spec| gauges(all, spec));
        for crl in &self.crls {
            let issuer: Labels = vec![("issuer", crl.issuer.clone().into())];
            number.get_or_create(&issuer).set(crl.number as f64);
            entries.get_or_create(&issuer).set(crl.entries as f64);
            this_update.get_or_create(&issuer).set(seconds(crl.this_update));
            next_update.get_or_create(&issuer).set(seconds(crl.next_update));
        }
        set(all, &table::CRL_UNRECORDED, self.crls.iter().filter(|crl| !crl.recorded).count() as f64);
    }
}

/// The label for a reason as records spell it: `csr: …` and `max_certificates_per_caller = …` say more than a label may.
fn refusal_word(reason: &str) -> &'static str {
    if reason.starts_with("csr:") {
        return "csr";
    }
    if reason.starts_with("max_") || reason.starts_with("issue_") {
        return "too-many";
    }
    REFUSALS.into_iter().find(|word| *word == reason).unwrap_or(OTHER)
}

fn seconds(at: OffsetDateTime) -> f64 {
    at.unix_timestamp() as f64
}

fn add(family: &Counters, labels: &[(&'static str, &'static str)], many: u64) {
    let labels: Labels = labels.iter().map(|(name, value)| (*name, Cow::Borrowed(*value))).collect();
    family.get_or_create(&labels).inc_by(many);
}

fn set(registry: &mut Registry, spec: &Spec, value: f64) {
    let gauge = Gauge::<f64, AtomicU64>::default();
    gauge.set(value);
    register(registry, spec, gauge);
}

fn counter(registry: &mut Registry, spec: &Spec) -> Counter {
    let counter = Counter::default();
    register(registry, spec, counter.clone());
    counter
}

fn counters(registry: &mut Registry, spec: &Spec) -> Counters {
    let family = Counters::default();
    combinations(spec).iter().for_each(|labels| drop(family.get_or_create(labels)));
    register(registry, spec, family.clone());
    family
}

fn gauges(registry: &mut Registry, spec: &Spec) -> Gauges {
    let family = Gauges::default();
    combinations(spec).iter().for_each(|labels| drop(family.get_or_create(labels)));
    register(registry, spec, family.clone());
    family
}

fn histogram(registry: &mut Registry, spec: &Spec) -> Histogram {
    let bounds = match spec.kind {
        Kind::Histogram(bounds) => bounds,
        Kind::Counter | Kind::Gauge => &[],
    };
    let histogram = Histogram::new(bounds.iter().copied());
    register(registry, spec, histogram.clone());
    histogram
}

/// The library adds unit and `_total` to a name by itself.
fn register(registry: &mut Registry, spec: &Spec, metric: impl Metric) {
    let stem = spec.name.strip_suffix("_total").unwrap_or(spec.name);
    match spec.unit {
        Unit::None => registry.register(stem, spec.help, metric),
        Unit::Seconds => {
            let stem = stem.strip_suffix("_seconds").unwrap_or(stem);
            registry.register_with_unit(stem, spec.help, RegistryUnit::Seconds, metric);
        }
    }
}

/// Every series of a metric whose label values are known; none when one label's are not.
fn combinations(spec: &Spec) -> Vec<Labels> {
    let mut found: Vec<Labels> = vec![Vec::new()];
    for label in spec.labels {
        let values = match label.values {
            Values::Fixed(values) => values(),
            Values::Found(_) => return Vec::new(),
        };
        let with = |begun: &Labels, value: &'static str| {
            begun.iter().cloned().chain([(label.name, Cow::Borrowed(value))]).collect::<Labels>()
        };
        found = found.iter().flat_map(|begun| values.iter().map(move |value| with(begun, value))).collect();
    }
    found
}

#[cfg(test)]
mod tests;
