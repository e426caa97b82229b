//! Reads `chancery.toml`: every key once, every mistake noted, defaults filled in.
//!
//! The keys asked for here are the keys of the table in `keys`; a test compares the two.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::{
    AuthoritySettings, CaSettings, DAY, HttpSettings, LedgerSettings, Limits, LogFormat, LogLevel, LogSettings, MIB,
    SealingKey, SettingError, Settings, is_loopback, listen, operators, upstream,
};
use crate::api::sds::SdsLimits;
use crate::api::tls::TlsLimits;
use crate::feed::FeedLimits;
use crate::identity::TrustDomain;
use crate::revocation::CrlTimes;
use crate::toml_reader::{Document, Mistakes, Table, render_span};
use crate::x509::crl::Scope;
use crate::x509::profile::{AuthorityProfile, Profiles};

/// What a sealing key that systemd hands over is written with.
const CREDENTIAL: &str = "credential:";

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

impl Settings {
    /// Reads settings. `file` is its name as the user gave it, for the screen of mistakes; relative paths are meant
    /// from `base`, the directory of the file.
    ///
    /// # Errors
    /// With every mistake in `text`, by line.
    pub fn parse(text: &str, file: &str, base: &Path) -> Result<Self, Mistakes> {
        let document = Document::parse(text);
        let settings = read(&document, base);
        document.finish(file)?;
        // What is missing was noted, so that finish() returned already; this says so without a panic.
        settings.ok_or_else(|| Mistakes::new(file, Vec::new()))
    }
}

/// Reads everything, whatever is wrong; `None` when something that must be there is not.
pub(super) fn read(document: &Document<'_>, base: &Path) -> Option<Settings> {
    let root = document.root();
    let trust_domain = root.required("trust_domain", "trust_domain = \"example.org\"", TrustDomain::parse);
    let data_dir = root.required_text("data_dir", "data_dir = \"/var/lib/chancery\"").map(|path| base.join(path));
    // The rest is read against some directory even when it is missing, so that all mistakes come at once.
    let dir = data_dir.clone().unwrap_or_else(|| base.to_owned());
    let policy = root.text("policy").map_or_else(|| dir.join("policy.toml"), |path| base.join(path));
    let sealing_key = sealing_key(&root.table("keys"), base);
    let admin = operators::admin(&root.table("admin"), base, &dir, trust_domain.as_ref());
    let sds = listen::sds(&root.table("sds"), base, admin.as_ref().map(|admin| &admin.path));
    let http = http(&root.table("http"));
    let ca = ca(&root.table("ca"));
    let crl = crl(&root.table("crl"));
    let ledger = ledger(&root.table("ledger"));
    let upstream = upstream::upstream(&root.table("upstream"), base, &dir);
    let limits = limits(&root.table("limits"));
    let log = log(&root.table("log"));
    root.done();
    Some(Settings {
        trust_domain: trust_domain?,
        data_dir: data_dir?,
        policy,
        sealing_key,
        sds,
        http,
        admin: admin?,
        ca,
        crl,
        ledger,
        upstream,
        limits,
        log,
    })
}

/// A path, or `credential:NAME` for a file that systemd hands over.
fn sealing_key(table: &Table<'_, '_>, base: &Path) -> Option<SealingKey> {
    let found = table.parsed("sealing_key", |text: &str| match text.strip_prefix(CREDENTIAL) {
        None => Ok(SealingKey::File(base.join(text))),
        // What systemd itself takes for a credential's name: a file name.
        Some(name) if name.is_empty() || name.contains('/') => Err(SettingError::CredentialName),
        Some(name) => Ok(SealingKey::Credential(name.to_owned())),
    });
    table.done();
    found
}

fn http(table: &Table<'_, '_>) -> Option<HttpSettings> {
    let beyond = table.flag("beyond_loopback").unwrap_or(false);
    let listen = table.parsed("listen", |text| {
        let address: SocketAddr = text.parse().map_err(|_| SettingError::Address)?;
        if beyond || is_loopback(address.ip()) { Ok(address) } else { Err(SettingError::BeyondLoopback) }
    });
    table.done();
    listen.map(|listen| HttpSettings { listen })
}

fn ca(table: &Table<'_, '_>) -> CaSettings {
    let (defaults, profiles) = (CaSettings::default(), Profiles::builtin());
    let (above, below) = (table.table("root"), table.table("issuing"));
    let silent_wait = above.span("silent_wait", Duration::ZERO..=DAY * 90);
    let (root, root_reads) = authority(&above, profiles.root(), defaults.root);
    let (issuing, issuing_reads) = authority(&below, profiles.issuing(), defaults.issuing);
    // Both levels hand over at 0.6 of their life; a root must then still outlive a whole issuing CA.
    if root_reads && issuing_reads && issuing.lifetime > root.lifetime / 2 {
        below.note("lifetime", &SettingError::IssuingTooLong { root: render_span(root.lifetime) });
    }
    table.done();
    CaSettings { root, issuing, silent_wait }
}

/// An authority's settings, and whether its lifetime is as written or as by default.
fn authority(
    table: &Table<'_, '_>,
    profile: &AuthorityProfile,
    default: AuthoritySettings,
) -> (AuthoritySettings, bool) {
    let choices: Vec<_> = profile.key_algorithms().iter().map(|key| (key.as_str(), *key)).collect();
    let bounds = profile.lifetime();
    let key = table.choice("key", &choices).unwrap_or(default.key);
    let lifetime = table.span("lifetime", bounds.shortest..=bounds.longest);
    let reads = lifetime.is_some() || !table.has("lifetime");
    table.done();
    (AuthoritySettings { key, lifetime: lifetime.unwrap_or(default.lifetime) }, reads)
}

fn crl(table: &Table<'_, '_>) -> CrlTimes {
    let default = CrlTimes::default();
    let lifetime = table.span("lifetime", HOUR..=DAY * 90).unwrap_or(default.lifetime);
    let resign_at = table.span("resign_at", SECOND * 60..=DAY * 90).unwrap_or(lifetime / 2);
    if resign_at > lifetime / 4 * 3 {
        table.note("resign_at", &SettingError::ResignedLate { lifetime: render_span(lifetime) });
    }
    let scopes = [("whole-chain", Scope::WholeChain), ("leaf-only", Scope::LeafOnly)];
    let scope = table.choice("scope", &scopes).unwrap_or_default();
    table.done();
    CrlTimes { lifetime, resign_at, scope }
}

fn ledger(table: &Table<'_, '_>) -> LedgerSettings {
    let default = LedgerSettings::default();
    let reserve = table.integer("reserve_mib", 1..=65_536);
    let settings = LedgerSettings { reserve_bytes: reserve.map_or(default.reserve_bytes, |mib| u64::from(mib) * MIB) };
    table.done();
    settings
}

fn limits(table: &Table<'_, '_>) -> Limits {
    let default = Limits::default();
    let limits = Limits {
        feed: feed_limits(table, default.feed),
        sds: sds_limits(table, default.sds),
        tls: tls_limits(table, default.tls),
        drain: table.span("drain", Duration::ZERO..=HOUR).unwrap_or(default.drain),
    };
    table.done();
    limits
}

fn feed_limits(table: &Table<'_, '_>, default: FeedLimits) -> FeedLimits {
    let span = |key, bounds, default| table.span(key, bounds).unwrap_or(default);
    let number = |key, default| table.integer(key, 1..=1_000_000).unwrap_or(default);
    let limits = FeedLimits {
        max_certificates_per_caller: count(
            table,
            "max_certificates_per_caller",
            1..=1_000_000,
            default.max_certificates_per_caller,
        ),
        max_issues_at_once: count(table, "max_issues_at_once", 1..=100_000, default.max_issues_at_once),
        max_forced_rotations_at_once: count(
            table,
            "max_forced_rotations_at_once",
            1..=100_000,
            default.max_forced_rotations_at_once,
        ),
        forced_rotation_timeout: span("forced_rotation_timeout", SECOND..=HOUR, default.forced_rotation_timeout),
        issue_rate_per_caller: number("issue_rate_per_caller", default.issue_rate_per_caller),
        issue_burst_per_caller: number("issue_burst_per_caller", default.issue_burst_per_caller),
        renewal_retry_first: span("renewal_retry_first", SECOND / 10..=HOUR, default.renewal_retry_first),
        renewal_retry_longest: span("renewal_retry_longest", SECOND..=DAY, default.renewal_retry_longest),
        overdue_spread: span("overdue_spread", Duration::ZERO..=HOUR, default.overdue_spread),
    };
    if limits.renewal_retry_first > limits.renewal_retry_longest {
        table.note("renewal_retry_first", &SettingError::RetriesReversed);
    }
    limits
}

fn sds_limits(table: &Table<'_, '_>, default: SdsLimits) -> SdsLimits {
    let number = |key, bounds, default| table.integer(key, bounds).unwrap_or(default);
    let span = |key, default| table.span(key, SECOND..=HOUR).unwrap_or(default);
    let limits = SdsLimits {
        max_connections: count(table, "max_connections", 1..=1_000_000, default.max_connections),
        max_connections_per_caller: count(
            table,
            "max_connections_per_caller",
            1..=1_000_000,
            default.max_connections_per_caller,
        ),
        max_streams_per_connection: number(
            "max_streams_per_connection",
            1..=1_000_000,
            default.max_streams_per_connection,
        ),
        max_streams_per_caller: count(table, "max_streams_per_caller", 1..=10_000_000, default.max_streams_per_caller),
        // Envoy's node of 61 KB must fit, and a message is held in memory whole.
        max_request_bytes: count(table, "max_request_bytes", 65_536..=67_108_864, default.max_request_bytes),
        max_request_bytes_per_caller: count(
            table,
            "max_request_bytes_per_caller",
            65_536..=4_294_967_295,
            default.max_request_bytes_per_caller,
        ),
        max_header_bytes: number("max_header_bytes", 4_096..=1_048_576, default.max_header_bytes),
        max_names_per_stream: count(table, "max_names_per_stream", 1..=100_000, default.max_names_per_stream),
        request_timeout: span("request_timeout", default.request_timeout),
        keepalive_interval: span("keepalive_interval", default.keepalive_interval),
        keepalive_timeout: span("keepalive_timeout", default.keepalive_timeout),
        idle_timeout: span("idle_timeout", default.idle_timeout),
    };
    if limits.max_request_bytes > limits.max_request_bytes_per_caller {
        table.note("max_request_bytes_per_caller", &SettingError::NoRoomForOneRequest);
    }
    limits
}

fn tls_limits(table: &Table<'_, '_>, default: TlsLimits) -> TlsLimits {
    TlsLimits {
        handshake_timeout: table.span("handshake_timeout", SECOND..=HOUR).unwrap_or(default.handshake_timeout),
        max_handshakes: count(table, "max_handshakes", 2..=100_000, default.max_handshakes),
    }
}

fn count(table: &Table<'_, '_>, key: &'static str, bounds: RangeInclusive<u32>, default: usize) -> usize {
    table.integer(key, bounds).and_then(|count| usize::try_from(count).ok()).unwrap_or(default)
}

fn log(table: &Table<'_, '_>) -> LogSettings {
    let default = LogSettings::default();
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let levels = [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
    let settings = LogSettings {
        format: table.choice("format", &formats).unwrap_or(default.format),
        level: table.choice("level", &levels.map(|level| (level.as_str(), level))).unwrap_or(default.level),
    };
    table.done();
    settings
}
