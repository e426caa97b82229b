//! Judges the certificate that a client shows, during the handshake, so that a refusal is an alert which says why.
//!
//! Three questions in this order: does a chain lead to a root of the bundle (webpki: signatures, times, usages, path
//! lengths); is it an X.509-SVID of our domain; does it stand (its authority may publish, its serial is not revoked, its
//! identity not denied). One [`Judge`] judges one handshake and remembers what it said. What is noted of a certificate
//! that no authority of ours signed is nothing but that: its names are a stranger's text.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

use crate::ca::issue::Unattested;
use crate::ca::slot::Authorities;
use crate::ca::standing::{Barred, Standing};
use crate::clock::Clock;
use crate::identity::{SpiffeId, TrustDomain};
use crate::x509::svid::{Svid, SvidError};

/// The program's own clock, for the TLS library.
#[derive(Debug)]
pub(super) struct OurTime(pub(super) Clock);

impl TimeProvider for OurTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().unix_timestamp()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

/// Why a client is refused.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    identity: Option<SpiffeId>,
    serial: Option<String>,
    why: String,
}

impl Refusal {
    /// About a certificate that an authority of ours signed.
    pub(super) fn of(svid: &Svid, why: String) -> Self {
        Self { identity: Some(svid.identity.clone()), serial: Some(svid.serial.hex()), why }
    }

    fn of_nobody(why: String) -> Self {
        Self { identity: None, serial: None, why }
    }

    /// For the record.
    pub(super) fn on(self, listener: &str) -> Unattested {
        let Self { identity, serial, why } = self;
        Unattested { transport: "tls", listener: listener.to_owned(), identity, serial, why }
    }
}

/// The refusal of a client that shows nothing; `None` for any other failure of a handshake.
pub(super) fn without_certificate(error: &std::io::Error) -> Option<Refusal> {
    let cause = error.get_ref()?.downcast_ref::<Error>()?;
    matches!(cause, Error::NoCertificatesPresented).then(|| Refusal::of_nobody("no client certificate".to_owned()))
}

/// Judges one client.
#[derive(Debug)]
pub(super) struct Judge {
    chains: Arc<dyn ClientCertVerifier>,
    authorities: Arc<Authorities>,
    standing: Standing,
    trust_domain: TrustDomain,
    verdict: Mutex<Option<Result<Svid, Refusal>>>,
}

impl Judge {
    pub(super) fn new(
        authorities: Arc<Authorities>,
        standing: Standing,
        trust_domain: TrustDomain,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        for root in authorities.trusted_roots() {
            roots.add(CertificateDer::from(root))?;
        }
        // No hints: a client of ours has one certificate, and some clients show none when a hint does not please them.
        let chains = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).clear_root_hint_subjects();
        let chains = chains.build().map_err(|why| Error::General(why.to_string()))?;
        Ok(Self { chains, authorities, standing, trust_domain, verdict: Mutex::default() })
    }

    /// Why it refused, if it did.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.verdict.lock().unwrap_or_else(PoisonError::into_inner).clone()?.err()
    }

    /// What it accepted, if it did.
    pub(super) fn accepted(&self) -> Option<Svid> {
        self.verdict.lock().unwrap_or_else(PoisonError::into_inner).clone()?.ok()
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Svid, Box<(Error, Refusal)>> {
        // A client may show its leaf alone: what stands above it is ours to know.
        let issuing: Vec<CertificateDer<'_>> =
            self.authorities.below_roots().map(|authority| authority.issuer().der().into()).collect();
        let chain: Vec<CertificateDer<'_>> = chain.iter().cloned().chain(issuing).collect();
        if let Err(error) = self.chains.verify_client_cert(leaf, &chain, now) {
            let refusal = Refusal::of_nobody(format!("the client certificate does not verify: {}", word(&error)));
            return Err(Box::new((error, refusal)));
        }
        let svid = Svid::read(leaf, &self.trust_domain).map_err(|fault| {
            let refusal =
                Refusal::of_nobody(format!("the client certificate is no X.509-SVID of this domain: {fault}"));
            Box::new((Error::InvalidCertificate(alert(&fault)), refusal))
        })?;
        let issuer = hex::decode(&svid.issuer_key_id).unwrap_or_default();
        if !self.authorities.may_publish(&issuer) {
            let why = "the authority of the client certificate is not in use any more".to_owned();
            return Err(revoked(Refusal::of(&svid, why)));
        }
        let barred = if self.standing.is_revoked(&svid.serial.hex()) {
            Some(Barred::Revoked)
        } else {
            self.standing.denied(&svid.identity).map(|pattern| Barred::Denied { pattern })
        };
        match barred {
            Some(barred) => Err(revoked(Refusal::of(&svid, barred.to_string()))),
            None => Ok(svid),
        }
    }
}

/// A refusal that the client sees as `certificate_revoked`.
fn revoked(refusal: Refusal) -> Box<(Error, Refusal)> {
    Box::new((Error::InvalidCertificate(CertificateError::Revoked), refusal))
}

/// The fault in words that the client did not choose: refusals are counted by them.
fn word(error: &Error) -> &'static str {
    let Error::InvalidCertificate(fault) = error else { return "malformed" };
    // Foreign and growing: what is not told apart here is not told.
    if matches!(fault, CertificateError::Expired | CertificateError::ExpiredContext { .. }) {
        "it has expired"
    } else if matches!(fault, CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) {
        "it is not valid yet"
    } else if matches!(fault, CertificateError::UnknownIssuer) {
        "no root of the bundle is above it"
    } else if matches!(fault, CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. }) {
        "it is not for clients"
    } else if matches!(fault, CertificateError::BadEncoding) {
        "malformed"
    } else {
        "its chain is not sound"
    }
}

/// What tells the client best what is wrong.
fn alert(fault: &SvidError) -> CertificateError {
    match fault {
        SvidError::Malformed => CertificateError::BadEncoding,
        SvidError::Ca => CertificateError::InvalidPurpose,
        SvidError::UriNames { .. } | SvidError::NoSpiffeId | SvidError::OtherTrustDomain | SvidError::Serial => {
            CertificateError::ApplicationVerificationFailure
        }
    }
}

impl ClientCertVerifier for Judge {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chains.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let (said, verdict) = match self.judge(leaf, chain, now) {
            Ok(svid) => (Ok(ClientCertVerified::assertion()), Ok(svid)),
            Err(refused) => (Err(refused.0), Err(refused.1)),
        };
        *self.verdict.lock().unwrap_or_else(PoisonError::into_inner) = Some(verdict);
        said
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}
