//! `chancery envoy bootstrap`: a whole Envoy configuration that works as it is.
//!
//! It holds what an Envoy needs to be a good client of ours and to leave useful logs; each setting that is not obvious
//! says why in a comment. It asks no server anything. The sibling `config` writes the tree with `sds`, `tree` prints it.

mod config;
mod sds;
mod tree;

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::config::LONGEST_SOCKET_PATH;
use crate::identity::{IdentityError, SpiffeId, TrustDomain};
use crate::policy::OWN_PATH;
use sds::Source;

/// Which side of a mutual TLS connection this Envoy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Accepts mutual TLS and passes plain requests on to a service beside it.
    Server,
    /// Accepts plain requests from an application beside it and passes them on in mutual TLS.
    Client,
}

/// How Envoy speaks with chancery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Api {
    /// State of the world.
    Sotw,
    /// Incremental.
    Delta,
}

impl Api {
    /// Envoy's own word.
    fn config_word(self) -> &'static str {
        match self {
            Self::Sotw => "GRPC",
            Self::Delta => "DELTA_GRPC",
        }
    }
}

/// What the peer's certificate must name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// This identity.
    Identity(SpiffeId),
    /// Any identity of this trust domain.
    Domain(TrustDomain),
}

impl std::str::FromStr for Peer {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        match SpiffeId::parse(text) {
            Err(IdentityError::NoPath) => TrustDomain::parse(text).map(Self::Domain),
            parsed => parsed.map(Self::Identity),
        }
    }
}

/// `HOST:PORT`, where the host may be a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// An address without brackets, or a name.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not HOST:PORT, such as 127.0.0.1:8080 or service:8080");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().map_err(|_| wrong())?;
        if host.is_empty() { Err(wrong()) } else { Ok(Self { host: host.to_owned(), port }) }
    }
}

/// `chancery envoy bootstrap`
#[derive(Debug, Clone, Args)]
pub struct EnvoyBootstrapArgs {
    /// The side of the mutual TLS connection that this Envoy is on
    #[arg(long, value_enum)]
    pub role: Role,
    /// Chancery's SDS socket [default: sds.sock in the data directory]
    #[arg(long, value_name = "PATH")]
    pub sds_socket: Option<PathBuf>,
    /// Chancery on another machine, reached in mutual TLS
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "sds_socket", requires = "identity_dir")]
    pub sds_server: Option<Target>,
    /// With --sds-server: the directory that `chancery fetch --server` keeps filled, on Envoy's machine
    #[arg(long, value_name = "DIR", requires = "sds_server")]
    pub identity_dir: Option<PathBuf>,
    /// With --sds-server: who it must be [default: /chancery/server in the first peer's trust domain]
    #[arg(long, value_name = "SPIFFE-ID", requires = "sds_server")]
    pub server_id: Option<SpiffeId>,
    /// How Envoy asks for its secrets: state of the world or delta
    #[arg(long, value_enum, default_value_t = Api::Sotw)]
    pub api: Api,
    /// Where Envoy listens; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT")]
    pub listen: SocketAddr,
    /// Where Envoy passes requests on to
    #[arg(long, value_name = "HOST:PORT")]
    pub upstream: Target,
    /// The SPIFFE ID that the peer must have, or spiffe://DOMAIN for any of that domain; may be repeated
    #[arg(long = "peer", alias = "identity", value_name = "SPIFFE-ID", required = true)]
    pub peers: Vec<Peer>,
    /// This proxy's name for itself, a label in records and tables [default: envoy-server or envoy-client]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// The secret with this Envoy's own certificate
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub name: String,
    /// The secret with the roots
    #[arg(long, value_name = "NAME", default_value = "ROOTCA")]
    pub bundle_name: String,
    /// Where access is logged, as JSON
    #[arg(long, value_name = "PATH", default_value = "/dev/stdout")]
    pub access_log: PathBuf,
    /// Where Envoy's own administration listens; keep it on loopback. Port 0 takes a free one, which Envoy writes to its
    /// --admin-address-path
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    pub admin: SocketAddr,
}

/// Why no configuration was written.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// Envoy can't connect to a path this long.
    #[error("{path}: {length} bytes, but a Unix socket's path has at most {LONGEST_SOCKET_PATH}: choose a shorter one", path = path.display())]
    SocketPath {
        /// The path.
        path: PathBuf,
        /// Its bytes.
        length: usize,
    },
    /// Nobody to expect at the other end.
    #[error("--sds-server: say who it must be with --server-id spiffe://TRUST-DOMAIN/chancery/server")]
    NoServerId,
    /// A path that no configuration can hold.
    #[error("{path} is not UTF-8: choose another path", path = path.display())]
    NotText {
        /// The path.
        path: PathBuf,
    },
    /// The administration interface can end Envoy and shows its configuration.
    #[error("--admin {address}: Envoy's administration has no authentication, so it must be on loopback (127.0.0.1:0)")]
    AdminNotLocal {
        /// What was asked for.
        address: SocketAddr,
    },
    /// The system refused.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl BootstrapError {
    /// The process's exit code for this error: 2 for what was asked, 1 for the system.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::SocketPath { .. } | Self::NoServerId | Self::NotText { .. } | Self::AdminNotLocal { .. } => 2,
            Self::Io(_) => 1,
        }
    }
}

/// Writes the configuration to `out`, as YAML with comments or as JSON.
///
/// # Errors
/// Every variant of [`BootstrapError`].
pub fn run(args: &EnvoyBootstrapArgs, data_dir: &Path, json: bool, out: &mut dyn Write) -> Result<(), BootstrapError> {
    let source = match (&args.sds_server, &args.identity_dir) {
        (Some(target), Some(directory)) => remote(args, target, directory)?,
        (Some(_) | None, _) => local(args, data_dir)?,
    };
    if !args.admin.ip().is_loopback() {
        return Err(BootstrapError::AdminNotLocal { address: args.admin });
    }
    let log = text(&std::path::absolute(&args.access_log)?)?;
    let tree = config::tree(args, &source, &log);
    if json {
        writeln!(out, "{:#}", tree.json())?;
    } else {
        write!(out, "{}{}", source.preface(), tree.yaml())?;
    }
    Ok(())
}

fn local(args: &EnvoyBootstrapArgs, data_dir: &Path) -> Result<Source, BootstrapError> {
    let socket = args.sds_socket.clone().unwrap_or_else(|| data_dir.join("sds.sock"));
    // Envoy may be started from another directory.
    let socket = text(&std::path::absolute(socket)?)?;
    if socket.len() > LONGEST_SOCKET_PATH {
        return Err(BootstrapError::SocketPath { path: socket.clone().into(), length: socket.len() });
    }
    Ok(Source::Socket(socket))
}

fn remote(args: &EnvoyBootstrapArgs, target: &Target, directory: &Path) -> Result<Source, BootstrapError> {
    let domain = args.peers.first().map(|peer| match peer {
        Peer::Identity(id) => id.trust_domain(),
        Peer::Domain(domain) => domain.clone(),
    });
    let usual = domain.and_then(|domain| SpiffeId::parse(&format!("{}{OWN_PATH}", domain.id())).ok());
    let id = args.server_id.clone().or(usual).ok_or(BootstrapError::NoServerId)?;
    let directory = text(&std::path::absolute(directory)?)?;
    Ok(Source::Server { target: target.clone(), id, directory })
}

fn text(path: &Path) -> Result<String, BootstrapError> {
    path.to_str().map(str::to_owned).ok_or_else(|| BootstrapError::NotText { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: EnvoyBootstrapArgs,
    }

    fn configuration(role: &str, extra: &[&str], json: bool) -> Result<String, BootstrapError> {
        let usual = ["x", "--role", role, "--listen", "127.0.0.1:8443", "--upstream", "localhost:80"];
        let peer = ["--peer", "spiffe://example.org/web", "--sds-socket", "/run/sds.sock"];
        let args = Command::parse_from(usual.iter().chain(&peer).chain(extra)).args;
        let mut out = Vec::new();
        run(&args, Path::new("/data"), json, &mut out).map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn both_roles_are_as_the_golden_files_have_them() {
        for role in ["server", "client"] {
            let name = format!("src/cli/golden/envoy_bootstrap_{role}.yaml");
            crate::golden::check(&name, &configuration(role, &[], false).unwrap());
        }
    }

    #[test]
    fn a_server_elsewhere_is_reached_in_mutual_tls() {
        let usual = ["x", "--role", "server", "--listen", "127.0.0.1:8443", "--upstream", "localhost:80"];
        let remote = ["--peer", "spiffe://example.org", "--sds-server", "ca.example:8443", "--identity-dir", "/id"];
        let args = |more: &[&str]| Command::try_parse_from(usual.iter().chain(&remote).chain(more)).map(|c| c.args);
        let written = |more: &[&str]| {
            let mut out = Vec::new();
            run(&args(more).unwrap(), Path::new("/data"), false, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        crate::golden::check("src/cli/golden/envoy_bootstrap_remote.yaml", &written(&["--api", "delta"]));
        assert!(written(&["--server-id", "spiffe://ca.example/x"]).contains("exact: \"spiffe://ca.example/x\""));
        assert!(args(&["--sds-socket", "/x"]).is_err());
        assert!(Command::try_parse_from(usual.iter().chain(&["--peer", "spiffe://a", "--sds-server", "a:1"])).is_err());
    }

    #[test]
    fn what_measurements_taught_is_in_every_configuration() {
        for role in ["server", "client"] {
            let all = configuration(role, &[], true).unwrap();
            serde_json::from_str::<serde_json::Value>(&all).unwrap();
            for must in ["\"set_node_on_first_message_only\": true", "\"initial_fetch_timeout\": \"0s\"", "TLSv1_3"] {
                assert!(all.contains(must), "{role}: {must}");
            }
            assert!(!all.contains("PEER_SUBJECT"), "the subject of a SPIFFE certificate is empty");
        }
    }

    #[test]
    fn a_peer_is_an_identity_or_a_whole_domain() {
        let all = configuration("client", &["--peer", "spiffe://other.org"], true).unwrap();
        assert!(all.contains("\"exact\": \"spiffe://example.org/web\""), "{all}");
        assert!(all.contains("\"prefix\": \"spiffe://other.org/\""), "{all}");
        assert!("web".parse::<Peer>().is_err());
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let long = format!("/{}", "s".repeat(120));
        let args = ["--sds-socket", &long];
        let usual = ["x", "--role", "server", "--listen", "127.0.0.1:1", "--upstream", "[::1]:80", "--peer"];
        let args = Command::parse_from(usual.iter().chain(&["spiffe://example.org/web"]).chain(&args)).args;
        assert_eq!(args.upstream, Target { host: "::1".into(), port: 80 });
        let error = run(&args, Path::new("/data"), false, &mut Vec::new()).unwrap_err();
        assert!(matches!(error, BootstrapError::SocketPath { length: 121, .. }) && error.exit_code() == 2, "{error}");
        let error = configuration("server", &["--admin", "0.0.0.0:9901"], false).unwrap_err();
        assert!(matches!(error, BootstrapError::AdminNotLocal { .. }), "{error}");
    }
}
