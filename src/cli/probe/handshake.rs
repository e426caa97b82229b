//! One handshake with a listener, taken to its end whatever it shows: what the listener is, and what it says to us.
//!
//! Nothing is refused here, so that a listener with a wrong certificate can still be described; what is wrong with it is
//! part of the answer. In TLS 1.3 our side is done before the listener has looked at our certificate, so the verdict is
//! what comes after: an alert, or anything else. What counts as anything else: data, a session ticket (RFC 8446 section
//! 4.6.1: sent after the client's Finished was checked), or staying open for [`SILENCE`]. A listener that chose HTTP/2 is
//! sent that protocol's greeting, because some say nothing first; no request is ever made.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionStore, ResolvesClientCert, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, CertificateError, DigitallySignedStruct, Error, NamedGroup, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::tls::{HANDSHAKE_TIMEOUT, HostPort, Identity, SpiffeVerifier, TlsError, client_config};
use crate::clock::Clock;

/// How long a listener that neither speaks nor hangs up after the handshake is waited for. A refusal comes at once: it is
/// one step of the handshake.
pub(super) const SILENCE: Duration = Duration::from_secs(2);

/// What we offer to speak; a listener that speaks neither says so.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The client's connection preface of HTTP/2 with empty SETTINGS; RFC 9113 section 3.4.
const H2_GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// How the listener took us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It let us in, and said something.
    Accepted,
    /// It let us in: a refusal would have come within [`SILENCE`].
    Silent,
    /// It sent an alert.
    Refused(AlertDescription),
    /// It hung up without an alert.
    Closed,
}

/// What a handshake showed.
#[derive(Debug)]
pub(super) struct Handshake {
    pub(super) cipher: String,
    pub(super) group: String,
    pub(super) alpn: Option<String>,
    /// As sent, leaf first.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// What is wrong with it; `None` when nothing is, or when we trust nobody and so did not look.
    pub(super) fault: Option<CertificateError>,
    /// The listener asked for a certificate.
    pub(super) asked: bool,
    pub(super) verdict: Verdict,
    /// From the first TCP packet until our side was done.
    pub(super) took: Duration,
}

/// Shakes hands with `address` as `identity`, or as nobody.
pub(super) async fn shake(
    address: &HostPort,
    name: Option<&ServerName<'static>>,
    identity: Option<&Identity>,
    verifier: Option<SpiffeVerifier>,
    clock: &Clock,
) -> Result<Handshake, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let recorder = Arc::new(Recorder { verifier, provider: Arc::clone(&provider), seen: Mutex::default() });
    let resolver = Arc::new(Resolver { ours: ours(identity, &provider)?, asked: AtomicBool::new(false) });
    let tickets = Arc::new(Tickets(Notify::new()));
    let mut config = client_config(Arc::clone(&recorder) as Arc<dyn ServerCertVerifier>, clock)
        .with_client_cert_resolver(Arc::clone(&resolver) as Arc<dyn ResolvesClientCert>);
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    config.resumption = Resumption::store(Arc::clone(&tickets) as Arc<dyn ClientSessionStore>);
    let name = name.map_or_else(|| address.server_name(), |name| Ok(name.clone()))?;
    let begin = clock.monotonic();
    let stream = address.dial(clock).await?;
    let mut stream = tokio::select! {
        stream = TlsConnector::from(Arc::new(config)).connect(name, stream) => {
            stream.map_err(|source| TlsError::of_handshake(address, source))?
        }
        () = clock.sleep(HANDSHAKE_TIMEOUT) => {
            return Err(TlsError::Silent { address: address.to_string(), limit: HANDSHAKE_TIMEOUT });
        }
    };
    let took = clock.monotonic() - begin;
    let verdict = verdict(&mut stream, &tickets.0, clock).await;
    let (_, tls) = stream.get_ref();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let seen = std::mem::take(&mut *recorder.seen.lock().unwrap_or_else(PoisonError::into_inner));
    let handshake = Handshake {
        cipher: tls.negotiated_cipher_suite().map_or_else(String::new, |suite| format!("{:?}", suite.suite())),
        group: tls.negotiated_key_exchange_group().map_or_else(String::new, |group| format!("{:?}", group.name())),
        alpn: tls.alpn_protocol().map(text),
        chain: seen.chain,
        fault: seen.fault,
        asked: resolver.asked.load(Ordering::Relaxed),
        verdict,
        took,
    };
    let _ = stream.shutdown().await;
    Ok(handshake)
}

/// Reads until the listener has shown what it thinks of us.
async fn verdict(stream: &mut TlsStream<TcpStream>, ticket: &Notify, clock: &Clock) -> Verdict {
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        // A listener that hung up already is heard below.
        let _ = stream.write_all(H2_GREETING).await;
        let _ = stream.flush().await;
    }
    let mut word = [0_u8; 1];
    let read = tokio::select! {
        biased;
        read = stream.read(&mut word) => read,
        () = ticket.notified() => return Verdict::Accepted,
        () = clock.sleep(SILENCE) => return Verdict::Silent,
    };
    match read {
        Ok(0) => Verdict::Closed,
        Ok(_) => Verdict::Accepted,
        Err(error) => match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(Error::AlertReceived(alert)) => Verdict::Refused(*alert),
            _ if error.kind() == ErrorKind::InvalidData => Verdict::Accepted,
            _ => Verdict::Closed,
        },
    }
}

fn ours(identity: Option<&Identity>, provider: &CryptoProvider) -> Result<Option<Arc<CertifiedKey>>, TlsError> {
    let Some(identity) = identity else { return Ok(None) };
    let ours = CertifiedKey::from_der(identity.chain.clone(), identity.key.clone_key(), provider);
    let wrong = |error: Error| TlsError::Content { path: identity.certificate_path.clone(), why: error.to_string() };
    Ok(Some(Arc::new(ours.map_err(wrong)?)))
}

/// Shows our certificate and remembers that it was asked for.
#[derive(Debug)]
struct Resolver {
    ours: Option<Arc<CertifiedKey>>,
    asked: AtomicBool,
}

impl ResolvesClientCert for Resolver {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.ours.clone()
    }

    fn has_certs(&self) -> bool {
        // Also without one: only so are we told whether one is asked for.
        true
    }
}

#[derive(Debug, Default)]
struct Seen {
    chain: Vec<CertificateDer<'static>>,
    fault: Option<CertificateError>,
}

/// Takes every certificate, and remembers what is to be said about it. The signature of the handshake is checked all the
/// same: what is described is what the listener holds the key of.
#[derive(Debug)]
struct Recorder {
    verifier: Option<SpiffeVerifier>,
    provider: Arc<CryptoProvider>,
    seen: Mutex<Seen>,
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let fault = self.verifier.as_ref().and_then(|verifier| verifier.verdict(leaf, intermediates, now).err());
        let chain = std::iter::once(leaf).chain(intermediates).map(|one| one.clone().into_owned()).collect();
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen { chain, fault };
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Says when a ticket comes, and keeps none.
#[derive(Debug)]
struct Tickets(Notify);

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {
        self.0.notify_one();
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}
