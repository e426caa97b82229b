//! TCP with mutual TLS: from a connection to an attested [`Caller`], or to a recorded refusal.
//!
//! TLS 1.3 only, a post-quantum key exchange first, and no resumption of any kind: a client that was revoked meanwhile
//! must not come back without showing its certificate. Every client presents a certificate of ours; `verify` judges it
//! during the handshake, the index and [`attest::mtls`](crate::attest::mtls) after it. What is always true of a
//! [`Connection`]: its caller is attested, and it ends by itself when that certificate ends or is revoked, its
//! identity denied or its authority withdrawn. The SDS and admin edges take connections from [`incoming()`]; nothing here knows what they serve.

mod connection;
mod identity;
mod incoming;
mod verify;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::{ServerConfig, version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::attest::mtls;
use crate::ca::issue::{Street, Unattested};
use crate::caller::Caller;
use crate::clock::Clock;
use crate::identity::TrustDomain;
use crate::store::{CertificateRow, Found, Store};
use crate::tasks::Tasks;
use crate::x509::svid::Svid;

pub use connection::{Connection, Ended};
pub use identity::{IdentityError, ServerIdentity};
pub use incoming::incoming;

/// How long the index may take to come to a record that the ledger holds already.
const INDEX_PATIENCE: Duration = Duration::from_secs(2);

/// How often the index is asked meanwhile.
const INDEX_PAUSE: Duration = Duration::from_millis(20);

/// How long a refused client may take to read why: closing with its bytes unread would throw the alert away.
const LINGER: Duration = Duration::from_millis(500);

/// What is read of a refused client meanwhile, in bytes.
const LINGER_BYTES: usize = 64 << 10;

/// The bounds of handshakes, each with the configuration key that sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsLimits {
    /// `handshake_timeout`: from the accepted connection to the attested caller.
    pub handshake_timeout: Duration,
    /// `max_handshakes`: under way on one listener; further connections wait in the system's queue.
    pub max_handshakes: usize,
}

impl TlsLimits {
    /// Handshakes under way of one address: nobody takes all of them by being slow. Further ones are closed at once.
    #[must_use]
    pub fn max_handshakes_per_address(&self) -> usize {
        self.max_handshakes.div_ceil(2)
    }
}

impl Default for TlsLimits {
    fn default() -> Self {
        Self { handshake_timeout: Duration::from_secs(10), max_handshakes: 512 }
    }
}

/// What an acceptor is made of.
#[derive(Debug, Clone)]
pub struct TlsParts {
    /// Who stands, by whom certificates are signed, and where refusals are recorded.
    pub street: Street,
    /// What was issued.
    pub store: Arc<dyn Store>,
    /// Whose certificates are accepted.
    pub trust_domain: TrustDomain,
    /// What clients are shown.
    pub identity: ServerIdentity,
    /// Time.
    pub clock: Clock,
    /// Where handshakes run.
    pub tasks: Tasks,
    /// The bounds.
    pub limits: TlsLimits,
}

/// Makes callers of TCP connections; cheap to clone.
#[derive(Debug, Clone)]
pub struct Acceptor {
    parts: Arc<TlsParts>,
    provider: Arc<CryptoProvider>,
}

/// Why a connection did not become a caller's.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not whole within `handshake_timeout`.
    #[error("no whole handshake within handshake_timeout")]
    Slow,
    /// No TLS 1.3, or broken off; nobody in particular was refused.
    #[error("no TLS 1.3 handshake: {0}")]
    Handshake(#[source] std::io::Error),
    /// The client has no certificate, or one that does not do; recorded.
    #[error("refused: {}", .0.why)]
    Refused(Unattested),
    /// The index did not answer.
    #[error("the index did not answer: {0}")]
    Index(#[from] crate::store::StoreError),
    /// The listener cannot serve TLS as it stands.
    #[error("TLS cannot be served: {0}")]
    Config(#[from] rustls::Error),
}

impl Acceptor {
    /// An acceptor for any number of listeners.
    #[must_use]
    pub fn new(parts: TlsParts) -> Self {
        Self { parts: Arc::new(parts), provider: Arc::new(aws_lc_rs::default_provider()) }
    }

    /// The handshake on `stream`, which came from `address` to the listener called `listener`. A refusal is recorded
    /// before this returns.
    ///
    /// # Errors
    /// [`TlsError`].
    pub async fn accept(&self, stream: TcpStream, address: SocketAddr, listener: &str) -> Result<Connection, TlsError> {
        let whole = timeout(self.parts.limits.handshake_timeout, self.handshake(stream, address, listener)).await;
        let accepted = whole.unwrap_or(Err(TlsError::Slow));
        match &accepted {
            Ok(connection) => debug!(listener, caller = connection.caller().label(), "connected"),
            Err(TlsError::Refused(refused)) => {
                warn!(listener, %address, identity = ?refused.identity.as_ref().map(ToString::to_string),
                    serial = refused.serial, why = refused.why, "a client was refused at the handshake");
                self.parts.street.attest_refused(refused).await;
            }
            Err(why @ (TlsError::Config(_) | TlsError::Index(_))) => warn!(listener, %address, %why, "not accepted"),
            Err(why @ (TlsError::Slow | TlsError::Handshake(_))) => debug!(listener, %address, %why, "not accepted"),
        }
        accepted
    }

    async fn handshake(&self, stream: TcpStream, address: SocketAddr, listener: &str) -> Result<Connection, TlsError> {
        let judge = self.judge()?;
        let accepting = TlsAcceptor::from(Arc::new(self.config(&judge)?)).accept(stream).into_fallible();
        let stream = match accepting.await {
            Ok(stream) => stream,
            Err((error, stream)) => {
                linger(stream).await;
                let refusal = judge.refusal().or_else(|| verify::without_certificate(&error));
                return Err(match refusal {
                    Some(refusal) => TlsError::Refused(refusal.on(listener)),
                    None => TlsError::Handshake(error),
                });
            }
        };
        let Some(svid) = judge.accepted() else {
            return Err(TlsError::Handshake(std::io::Error::other("no certificate was judged")));
        };
        match mtls::attest(&svid, self.row(&svid).await?.as_ref(), listener, address) {
            Ok(caller) => Ok(self.connection(stream, caller)),
            Err(why) => Err(TlsError::Refused(verify::Refusal::of(&svid, why.to_string()).on(listener))),
        }
    }

    /// A judge of this one handshake, by the roots and the standing of this moment.
    fn judge(&self) -> Result<Arc<verify::Judge>, TlsError> {
        let authorities = Arc::clone(&self.parts.street.authorities().borrow());
        let standing = self.parts.street.standing().clone();
        let domain = self.parts.trust_domain.clone();
        Ok(Arc::new(verify::Judge::new(authorities, standing, domain, Arc::clone(&self.provider))?))
    }

    fn config(&self, judge: &Arc<verify::Judge>) -> Result<ServerConfig, TlsError> {
        let time = Arc::new(verify::OurTime(self.parts.clock.clone()));
        let client = Arc::clone(judge);
        let mut config = ServerConfig::builder_with_details(Arc::clone(&self.provider), time)
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(client)
            .with_cert_resolver(Arc::new(self.parts.identity.clone()));
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(config)
    }

    /// What the index has under the serial. The ledger holds every certificate before it leaves, but the index follows:
    /// a client that connects at once is waited for.
    async fn row(&self, svid: &Svid) -> Result<Option<CertificateRow>, TlsError> {
        let (serial, clock) = (svid.serial.hex(), &self.parts.clock);
        let until = clock.monotonic() + INDEX_PATIENCE;
        loop {
            match self.parts.store.find(&serial)? {
                Found::One(row) => return Ok(Some(*row)),
                Found::Nothing | Found::Several(_) if clock.monotonic() >= until => return Ok(None),
                Found::Nothing | Found::Several(_) => clock.sleep(INDEX_PAUSE).await,
            }
        }
    }

    fn connection(&self, stream: tokio_rustls::server::TlsStream<TcpStream>, caller: Caller) -> Connection {
        let street = &self.parts.street;
        let standing = street.standing().clone();
        let ended = connection::ended(caller.clone(), standing, street.authorities(), self.parts.clock.clone());
        Connection::new(stream, caller, ended)
    }
}

/// Waits until a refused client has read its alert: until it closes, or for a moment.
async fn linger(mut stream: TcpStream) {
    let reading = async {
        stream.shutdown().await?;
        let (mut unread, mut left) = ([0; 1024], LINGER_BYTES);
        while left > 0 {
            match stream.read(&mut unread).await? {
                0 => break,
                length => left = left.saturating_sub(length),
            }
        }
        Ok::<_, std::io::Error>(())
    };
    // Whatever happens here, the connection is over.
    let _ = timeout(LINGER, reading).await;
}
