//! `chancery up`: server and everything it needs in one process, with embedded defaults.

use time::OffsetDateTime;

/// What a started server tells its operator: filled by `app`, printed by [`render`](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpSummary {
    /// The trust domain's name.
    pub trust_domain: String,
    /// The data directory as the operator wrote it.
    pub data_dir: String,
    /// The root CA.
    pub root: AuthoritySummary,
    /// The issuing CA that signs now.
    pub issuing: AuthoritySummary,
    /// The ledger.
    pub ledger: LedgerSummary,
    /// SDS sockets, in the order of configuration.
    pub sds: Vec<SdsSummary>,
    /// The HTTP address with its real port; absent when HTTP is off.
    pub http: Option<String>,
    /// Whether `deploy/demo/run` is there, seen from the working directory.
    pub demo: bool,
    /// Sentences that the operator should read: a recovered tail, a key sealed beside itself.
    pub notes: Vec<String>,
}

/// Whether something was made by this start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// This start made it.
    Made,
    /// It was there.
    Kept,
}

/// One authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthoritySummary {
    /// Made or kept.
    pub origin: Origin,
    /// Its key's algorithm for people: `P-256`.
    pub algorithm: String,
    /// When it ends.
    pub not_after: OffsetDateTime,
    /// When its successor takes over, where that is scheduled.
    pub rolls_over: Option<OffsetDateTime>,
    /// Where its key is, when it is one that we sealed.
    pub key_path: Option<String>,
}

/// The ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerSummary {
    /// Made or kept.
    pub origin: Origin,
    /// The log that is written to: `example.org/ledger/ca-2026`.
    pub name: String,
    /// Its records, before this start's own.
    pub records: u64,
    /// Where its verifier key is.
    pub vkey_path: String,
}

/// One SDS socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SdsSummary {
    /// Its name in configuration.
    pub name: String,
    /// Its path as the operator may type it.
    pub path: String,
    /// Our own uid and what policy gives it on this socket by default, if anything.
    pub own: Option<(u32, Option<String>)>,
}
