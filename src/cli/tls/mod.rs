//! The way to a server on another machine: TLS 1.3 with a certificate of ours, and nobody else at the other end.
//!
//! Always true: nothing is sent before the server has shown a chain to a root of `bundle.pem` and the one SPIFFE ID that
//! is expected, and what an identity directory holds is read anew for each connection, so that a renewed certificate is
//! used as soon as it is there. A server that turns our certificate away says so only after the handshake (RFC 8446
//! section 4.4.2.4); [`Remote::connect`] waits for its first words, so that its callers get a sentence and not a broken
//! pipe. `fetch`, `probe` and the admin client call it.

mod identity;
#[cfg(test)]
pub(super) mod tests;
mod verify;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::{AlertDescription, ClientConfig};
use rustls_pki_types::ServerName;
use time::OffsetDateTime;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) use self::identity::{Facts, Identity};
pub(crate) use self::verify::{Anchors, SpiffeVerifier, explain};
use super::exit::{Exit, Failure};
use crate::clock::{Clock, rfc3339_seconds};
use crate::identity::SpiffeId;

/// How long the name may take to resolve and the connection to be there.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the handshake may take, the server's first words after it included.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The protocol that gRPC speaks.
const ALPN: &[u8] = b"h2";

/// The path of the identity of a chancery server, below its trust domain.
pub(crate) const SERVER_PATH: &str = "/chancery/server";

/// What a connection to a server is, once it is there. The buffer holds what the server has said already.
pub(crate) type Connection = BufReader<TlsStream<TcpStream>>;

/// Where a server listens, as the command line has it: `ca.example.org:8443`, `192.0.2.7:8443`, `[2001:db8::7]:8443`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Name or address, without brackets.
    host: String,
    port: u16,
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no HOST:PORT; write ca.example.org:8443, 192.0.2.7:8443 or [2001:db8::7]:8443");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let host = bare.unwrap_or(host);
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        let colons = host.contains(':') == bare.is_some();
        if !colons || ServerName::try_from(host).is_err() {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl HostPort {
    /// What the handshake names, if anything: an address is not sent.
    pub(crate) fn server_name(&self) -> Result<ServerName<'static>, TlsError> {
        ServerName::try_from(self.host.clone()).map_err(|_| TlsError::Name { address: self.to_string() })
    }

    /// A TCP connection.
    pub(crate) async fn dial(&self, clock: &Clock) -> Result<TcpStream, TlsError> {
        let address = self.to_string();
        let stream = tokio::select! {
            stream = TcpStream::connect((self.host.as_str(), self.port)) => stream,
            () = clock.sleep(CONNECT_TIMEOUT) => Err(std::io::ErrorKind::TimedOut.into()),
        }
        .map_err(|source| TlsError::Connect { address, source })?;
        // Small messages that wait for each other; a kernel that can't is no reason to stop.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

/// Why there is no connection. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of the identity directory can't be read.
    #[error("{path}: {source}; chancery cert issue --dir DIR makes the first cert.pem, key.pem and bundle.pem", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file of the identity directory holds something else.
    #[error("{path}: {why}: make it anew with chancery cert issue or fetch", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Our own certificate has ended, so nobody would take it.
    #[error("{path}: the certificate expired at {end}: a new one comes from chancery cert issue on the server, or from another way of attestation", path = path.display(), end = rfc3339_seconds(*at))]
    Expired {
        /// The file.
        path: PathBuf,
        /// When.
        at: OffsetDateTime,
    },
    /// The host is neither a name nor an address.
    #[error("{address}: no name that TLS can ask for: use its address")]
    Name {
        /// What was given.
        address: String,
    },
    /// Nobody answers there.
    #[error(
        "{address}: {source}; does the server listen there (chancery status on its machine), and may this machine reach it?"
    )]
    Connect {
        /// Where.
        address: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Connected, but the handshake does not end.
    #[error("{address}: connected, but no TLS answer within {}: another protocol may listen there", limit.as_secs().to_string() + " s")]
    Silent {
        /// Where.
        address: String,
        /// How long we waited.
        limit: Duration,
    },
    /// The server's certificate is not what it must be.
    #[error("{address}: the server's certificate is not accepted: {why}")]
    Server {
        /// Where.
        address: String,
        /// Why, with a remedy.
        why: String,
    },
    /// The server turned us away with an alert.
    #[error("{address}: refused with the alert {}: {}", alert_name(*alert), alert_remedy(*alert))]
    Refused {
        /// Where.
        address: String,
        /// Which.
        alert: AlertDescription,
    },
    /// Anything else that broke the handshake.
    #[error("{address}: {source}; is it a TLS 1.3 listener?")]
    Handshake {
        /// Where.
        address: String,
        /// What the library said.
        #[source]
        source: std::io::Error,
    },
}

impl TlsError {
    /// The process's exit code for this error, as `--help` has them.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::File { .. } | Self::Content { .. } | Self::Expired { .. } | Self::Name { .. } => Exit::Usage as u8,
            Self::Refused { .. } => Exit::Refused as u8,
            Self::Server { .. } => Exit::Unverified as u8,
            Self::Connect { .. } | Self::Silent { .. } | Self::Handshake { .. } => Exit::Unreachable as u8,
        }
    }

    /// What went wrong in a handshake with `address`, in our words.
    pub(crate) fn of_handshake(address: &HostPort, source: std::io::Error) -> Self {
        let address = address.to_string();
        match source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(alert)) => Self::Refused { address, alert: *alert },
            Some(rustls::Error::InvalidCertificate(why)) => Self::Server { address, why: explain(why) },
            // The rest has its words.
            _ => Self::Handshake { address, source },
        }
    }
}

impl From<TlsError> for Failure {
    fn from(error: TlsError) -> Self {
        Self::new(Exit::of(error.exit_code()), error.to_string())
    }
}

/// An alert as RFC 8446 section 6 spells it.
pub(crate) fn alert_name(alert: AlertDescription) -> String {
    let mut name = String::new();
    for letter in format!("{alert:?}").chars() {
        // `UnknownCA` is `unknown_ca`.
        if letter.is_ascii_uppercase() && !name.is_empty() && !name.ends_with("_c") {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

/// What to do about an alert that a server sent to us.
#[expect(clippy::wildcard_enum_match_arm, reason = "TLS has alerts that no one can do anything about")]
pub(crate) fn alert_remedy(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CertificateRevoked => {
            "our certificate is revoked or its identity denied; the operator sees why: chancery cert show SERIAL"
        }
        AlertDescription::CertificateExpired => "it takes our certificate for expired: compare both clocks",
        AlertDescription::UnknownCA
        | AlertDescription::CertificateUnknown
        | AlertDescription::BadCertificate
        | AlertDescription::DecryptError => {
            "our certificate is not from a root that it trusts, or its identity may not come in: was it issued by this server?"
        }
        AlertDescription::CertificateRequired => "it wants a client certificate: give one with --identity-dir DIR",
        AlertDescription::AccessDenied => "our certificate is known, but may not come in: ask the operator",
        AlertDescription::ProtocolVersion => "it does not speak TLS 1.3",
        AlertDescription::NoApplicationProtocol => "it does not speak HTTP/2: is this the right port?",
        _ => "its log may say why",
    }
}

/// The options of every command that may ask a server on another machine.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RemoteArgs {
    /// A server on another machine, reached over mutual TLS; instead of one found by the data directory
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub server: Option<HostPort>,
    /// The directory with our cert.pem, key.pem and bundle.pem, from cert issue or fetch
    #[arg(long, global = true, value_name = "DIR")]
    pub identity_dir: Option<PathBuf>,
    /// Who the server must be [default: /chancery/server in our own trust domain]
    #[arg(long, global = true, value_name = "SPIFFE-ID", requires = "server", hide_short_help = true)]
    pub server_id: Option<SpiffeId>,
}

impl RemoteArgs {
    /// The server that is named, if one is; our identity is in `dir` unless the options say where.
    ///
    /// # Errors
    /// When no directory is known.
    pub(crate) fn remote(&self, dir: Option<&Path>, clock: &Clock) -> Result<Option<Remote>, Failure> {
        let Some(address) = self.server.clone() else { return Ok(None) };
        let identity_dir = self.identity_dir.as_deref().or(dir).ok_or_else(|| {
            Failure::usage("--server needs --identity-dir DIR: the directory with cert.pem, key.pem and bundle.pem")
        })?;
        let server = self.server_id.clone();
        Ok(Some(Remote { address, identity_dir: identity_dir.to_owned(), server, clock: clock.clone() }))
    }
}

/// A server on another machine, and who we are to it.
#[derive(Debug, Clone)]
pub(crate) struct Remote {
    /// Where it listens.
    pub(crate) address: HostPort,
    /// The directory with `cert.pem`, `key.pem`, `bundle.pem` and perhaps `crl.pem`.
    pub(crate) identity_dir: PathBuf,
    /// Who it must be; `spiffe://OUR-TRUST-DOMAIN/chancery/server` when `None`.
    pub(crate) server: Option<SpiffeId>,
    /// The time that certificates are held against.
    pub(crate) clock: Clock,
}

impl Remote {
    /// Connects, with the identity that the directory holds now; the server has taken it when this returns.
    ///
    /// The connection speaks HTTP/2, whose server must speak first.
    ///
    /// # Errors
    /// [`TlsError`].
    pub(crate) async fn connect(&self) -> Result<Connection, TlsError> {
        let identity = Identity::load(&self.identity_dir)?;
        let now = self.clock.now();
        if identity.facts.not_after <= now {
            return Err(TlsError::Expired { path: identity.certificate_path, at: identity.facts.not_after });
        }
        let expected = match &self.server {
            Some(server) => server.clone(),
            None => identity.server()?,
        };
        let verifier = SpiffeVerifier::new(identity.anchors.clone(), Some(expected));
        let mut config = client_config(Arc::new(verifier), &self.clock)
            .with_client_auth_cert(identity.chain, identity.key)
            .map_err(|error| TlsError::Content { path: identity.certificate_path, why: error.to_string() })?;
        // Each connection shows its certificate: a session taken up again would hide a renewal or a revocation.
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![ALPN.to_vec()];
        let name = self.address.server_name()?;
        let stream = self.address.dial(&self.clock).await?;
        let shaken = async {
            let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
            let mut stream = BufReader::new(stream);
            // A server's verdict about our certificate, or its SETTINGS (RFC 9113 section 3.4).
            if stream.fill_buf().await?.is_empty() {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
            }
            Ok(stream)
        };
        tokio::select! {
            shaken = shaken => shaken.map_err(|source| TlsError::of_handshake(&self.address, source)),
            () = self.clock.sleep(HANDSHAKE_TIMEOUT) => {
                Err(TlsError::Silent { address: self.address.to_string(), limit: HANDSHAKE_TIMEOUT })
            }
        }
    }
}

/// The settings that every handshake of the command line has: TLS 1.3 and nothing below, our one library.
pub(crate) fn client_config(
    verifier: Arc<dyn ServerCertVerifier>,
    clock: &Clock,
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_details(provider, Arc::new(verify::Time(clock.clone())))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the library's own cipher suites have some for TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
}
