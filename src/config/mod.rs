//! The server's settings: read from `chancery.toml` or built for `up`, checked whole before anything starts.
//!
//! A [`Settings`] is right in itself: names are unique, paths fit a socket address, lifetimes fit each other. `read`
//! turns text into it or into all its mistakes at once; [`files`] does the reading of files and looks at who may write
//! them; [`mod@reference`] writes docs/configuration.md and the default file from the one table of keys in `keys`. Each part
//! of the program is handed its own small struct, never the whole. Called by `cli` and `app`.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub mod files;
mod key;
mod keys;
mod listen;
pub mod live;
mod mistake;
mod operators;
mod read;
pub mod reference;
mod upstream;

use crate::api::admin::Operators;
use crate::api::sds::SdsLimits;
use crate::api::tls::TlsLimits;
use crate::feed::{FeedLimits, SdsNames};
use crate::identity::TrustDomain;
use crate::policy::ADMIN_SOCKET;
use crate::revocation::CrlTimes;
use crate::toml_reader::{Mistake, Mistakes};
use crate::upstream::UpstreamSettings;
use crate::x509::KeyAlgorithm;

pub use key::{Key, Presence};
pub use keys::KEYS;
use listen::{DEFAULT_MODE, is_socket_name, port_problems, socket_problems};
pub use listen::{SdsPort, SdsSettings, SdsSocket};
pub use mistake::SettingError;

/// The longest path of a Unix socket in bytes: `sun_path` has 108 with the closing zero; unix(7).
pub const LONGEST_SOCKET_PATH: usize = 107;

/// The longest name of a socket in bytes.
pub const LONGEST_SOCKET_NAME: usize = 64;

/// The most SDS sockets of a server.
pub const MOST_SOCKETS: usize = 256;

/// The most grants to operators.
pub const MOST_OPERATORS: usize = 1_024;

/// The name of the SDS socket that `up` opens without being asked.
pub const FIRST_SOCKET: &str = "sds";

/// Everything a server is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Whose identities it issues.
    pub trust_domain: TrustDomain,
    /// Where all of its state is.
    pub data_dir: PathBuf,
    /// The policy file.
    pub policy: PathBuf,
    /// The key that authority keys are sealed with; `None` when it lies beside them.
    pub sealing_key: Option<SealingKey>,
    /// SDS.
    pub sds: SdsSettings,
    /// HTTP; `None` when it is off.
    pub http: Option<HttpSettings>,
    /// The admin API.
    pub admin: AdminSettings,
    /// The authorities.
    pub ca: CaSettings,
    /// The CRLs.
    pub crl: CrlTimes,
    /// The ledger.
    pub ledger: LedgerSettings,
    /// The authority above the issuing CA; a root of this server's own where there is none.
    pub upstream: Option<UpstreamSettings>,
    /// Bounds.
    pub limits: Limits,
    /// The log for operators.
    pub log: LogSettings,
}

/// Where the admin API listens, and who may use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminSettings {
    /// Its socket.
    pub path: SocketPath,
    /// The socket's permission bits.
    pub mode: u32,
    /// Its TCP address, with mutual TLS; `None` when there is none.
    pub listen: Option<SocketAddr>,
    /// Who has a role, beside root and the server's own user.
    pub operators: Operators,
}

impl AdminSettings {
    /// A socket for root and the server's own user.
    #[must_use]
    pub fn private(path: SocketPath) -> Self {
        Self { path, mode: ADMIN_MODE, listen: None, operators: Operators::default() }
    }
}

/// Where the sealing key is, when it does not lie beside the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SealingKey {
    /// In this file.
    File(PathBuf),
    /// Among the credentials that systemd hands over, by this name.
    Credential(String),
}

impl SealingKey {
    /// The file to read.
    ///
    /// # Errors
    /// [`SettingError::NoCredentials`] outside of systemd.
    pub fn path(&self) -> Result<PathBuf, SettingError> {
        match self {
            Self::File(path) => Ok(path.clone()),
            Self::Credential(name) => std::env::var_os("CREDENTIALS_DIRECTORY")
                .map(|directory| Path::new(&directory).join(name))
                .ok_or(SettingError::NoCredentials),
        }
    }
}

/// A path that fits a Unix socket's address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SocketPath(PathBuf);

/// HTTP: bundle, checkpoints, hash tiles, health and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpSettings {
    /// Where; port 0 takes a free one.
    pub listen: SocketAddr,
}

/// The authorities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaSettings {
    /// The root.
    pub root: AuthoritySettings,
    /// The issuing CA.
    pub issuing: AuthoritySettings,
    /// How long a new root waits for whoever acknowledges nothing; by the policy where absent.
    pub silent_wait: Option<Duration>,
}

/// How an authority is made; existing ones keep what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthoritySettings {
    /// Its key's algorithm.
    pub key: KeyAlgorithm,
    /// How long it lives.
    pub lifetime: Duration,
}

/// The ledger's sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerSettings {
    /// Bytes that a full disk leaves for revocations and operators' acts.
    pub reserve_bytes: u64,
}

/// Bounds, each with its key in `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Those of the feed.
    pub feed: FeedLimits,
    /// Those of the SDS edge.
    pub sds: SdsLimits,
    /// Those of TLS handshakes.
    pub tls: TlsLimits,
    /// How long a stopping server waits for what is under way.
    pub drain: Duration,
}

/// The log for operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    /// For people or for machines.
    pub format: LogFormat,
    /// What is left out.
    pub level: LogLevel,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The least severity that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Only what needs somebody now.
    Error,
    /// What may need somebody soon.
    Warn,
    /// What an operator wants to know.
    Info,
    /// What a developer wants to know.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The word in configuration and in `tracing`'s filters.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl SocketPath {
    /// A path for the socket called `name`.
    ///
    /// # Errors
    /// When it is empty, looks like a network address, or is longer than [`LONGEST_SOCKET_PATH`].
    pub fn new(path: &Path, name: &str) -> Result<Self, SettingError> {
        // The remedy shows a path of this name, unless the name itself is wrong.
        let name = if is_socket_name(name) { name.to_owned() } else { FIRST_SOCKET.to_owned() };
        let text = path.as_os_str();
        if text.is_empty() || text.as_encoded_bytes().contains(&0) {
            return Err(SettingError::NoPath { name });
        }
        if path.to_str().is_some_and(|text| text.contains("://") || text.parse::<SocketAddr>().is_ok()) {
            return Err(SettingError::SocketAddress { name });
        }
        match text.len() {
            length if length > LONGEST_SOCKET_PATH => Err(SettingError::SocketPathTooLong { length, name }),
            _ => Ok(Self(path.to_owned())),
        }
    }

    /// The path.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

/// What `up` is told on its command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpOptions {
    /// `--data-dir`, made absolute.
    pub data_dir: PathBuf,
    /// `--trust-domain`.
    pub trust_domain: TrustDomain,
    /// `--http`; `None` when it is off.
    pub http: Option<SocketAddr>,
    /// Each `--sds-socket NAME=PATH`, beside the one that is always there.
    pub sockets: Vec<(String, PathBuf)>,
    /// Each `--sds-tcp NAME=ADDRESS`.
    pub ports: Vec<(String, SocketAddr)>,
}

impl Settings {
    /// The settings of `up`: everything in one directory, a socket `sds` in it, defaults for the rest.
    ///
    /// # Errors
    /// With every mistake of the command line.
    pub fn for_up(options: UpOptions) -> Result<Self, Mistakes> {
        let mut mistakes = Vec::new();
        let mut note = |place: String, problem: SettingError| {
            mistakes.push(Mistake { line: 0, place, remedy: problem.to_string() });
        };
        let mut path_of = |option: &str, path: &Path, name: &str| {
            let place = format!("{option} {}", path.display());
            SocketPath::new(path, name).map_err(|problem| note(place, problem)).ok()
        };
        let admin = path_of("--data-dir", &options.data_dir.join("admin.sock"), ADMIN_SOCKET);
        // Shorter than the admin socket's: one mistake about the directory is enough.
        let first = SocketPath::new(&options.data_dir.join("sds.sock"), FIRST_SOCKET).ok();
        let mut listen: Vec<SdsSocket> = Vec::new();
        listen.extend(first.map(|path| SdsSocket { name: FIRST_SOCKET.to_owned(), path, mode: DEFAULT_MODE }));
        for (name, path) in &options.sockets {
            let path = path_of("--sds-socket", path, name);
            listen.extend(path.map(|path| SdsSocket { name: name.clone(), path, mode: DEFAULT_MODE }));
        }
        let tcp: Vec<SdsPort> = options.ports.into_iter().map(|(name, address)| SdsPort { name, address }).collect();
        for (index, problem) in port_problems(&tcp) {
            let port = tcp.get(index).map(|port| format!("{}={}", port.name, port.address));
            note(format!("--sds-tcp {}", port.unwrap_or_default()), problem);
        }
        for (index, problem) in socket_problems(&listen, admin.as_ref()) {
            let socket = listen.get(index).map(|socket| format!("{}={}", socket.name, socket.path.0.display()));
            note(format!("--sds-socket {}", socket.unwrap_or_default()), problem);
        }
        if let Some(address) = options.http.filter(|address| !is_loopback(address.ip())) {
            note(format!("--http {address}"), SettingError::BeyondLoopback);
        }
        match admin {
            Some(admin) if mistakes.is_empty() => Ok(Self {
                policy: options.data_dir.join("policy.toml"),
                sealing_key: None,
                data_dir: options.data_dir,
                trust_domain: options.trust_domain,
                sds: SdsSettings { listen, tcp, names: SdsNames::default() },
                http: options.http.map(|listen| HttpSettings { listen }),
                admin: AdminSettings::private(admin),
                ca: CaSettings::default(),
                crl: CrlTimes::default(),
                ledger: LedgerSettings::default(),
                upstream: None,
                limits: Limits::default(),
                log: LogSettings::default(),
            }),
            Some(_) | None => Err(Mistakes::new("the command line", mistakes)),
        }
    }

    /// The names of all sockets as facts, `admin` among them: what a policy is read with.
    #[must_use]
    pub fn socket_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.sds.listen.iter().map(|socket| socket.name.clone()).collect();
        // A port may share the name of a socket.
        for port in &self.sds.tcp {
            if !names.contains(&port.name) {
                names.push(port.name.clone());
            }
        }
        names.push(ADMIN_SOCKET.to_owned());
        names
    }
}

/// The permission bits of the admin socket where nothing else is said.
const ADMIN_MODE: u32 = 0o600;

/// Whether only this machine reaches an address.
fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

const DAY: Duration = Duration::from_secs(86_400);
const MIB: u64 = 1 << 20;

impl Default for CaSettings {
    fn default() -> Self {
        let authority = |days| AuthoritySettings { key: KeyAlgorithm::P256, lifetime: DAY * days };
        Self { root: authority(3_650), issuing: authority(90), silent_wait: None }
    }
}

impl Default for LedgerSettings {
    fn default() -> Self {
        Self { reserve_bytes: 64 * MIB }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            feed: FeedLimits::default(),
            sds: SdsLimits::default(),
            tls: TlsLimits::default(),
            drain: Duration::from_secs(10),
        }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: LogLevel::Info }
    }
}

#[cfg(test)]
mod tests;
