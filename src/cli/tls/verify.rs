//! Whether a peer's chain leads to our roots, is not revoked, and says the one SPIFFE ID that we look for.
//!
//! SPIFFE certificates carry no host name, so the library's own verifier does not fit. A revocation list that is old or
//! absent does not keep anyone out here: who was away for weeks must still be able to fetch the new ones; one that names
//! the peer does, whatever its age.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};

use super::Facts;
use crate::clock::Clock;
use crate::identity::SpiffeId;

/// Roots and the revocation lists that we know.
#[derive(Clone)]
pub(crate) struct Anchors(Arc<Inner>);

struct Inner {
    roots: Vec<TrustAnchor<'static>>,
    lists: Vec<CertRevocationList<'static>>,
    provider: CryptoProvider,
}

impl fmt::Debug for Anchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Anchors({} roots, {} lists)", self.0.roots.len(), self.0.lists.len())
    }
}

impl Anchors {
    /// From DER.
    ///
    /// # Errors
    /// Whether it was a list, and what is wrong.
    pub(crate) fn new(roots: Vec<Vec<u8>>, lists: &[Vec<u8>]) -> Result<Self, (bool, String)> {
        if roots.is_empty() {
            return Err((false, "no root in it".to_owned()));
        }
        let roots: Result<Vec<TrustAnchor<'static>>, _> = roots
            .into_iter()
            .map(|der| webpki::anchor_from_trusted_cert(&CertificateDer::from(der)).map(|anchor| anchor.to_owned()))
            .collect();
        let roots = roots.map_err(|error| (false, format!("no root certificate: {error}")))?;
        let lists: Result<Vec<CertRevocationList<'static>>, _> =
            lists.iter().map(|der| OwnedCertRevocationList::from_der(der).map(CertRevocationList::from)).collect();
        let lists = lists.map_err(|error| (true, format!("no revocation list: {error}")))?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        Ok(Self(Arc::new(Inner { roots, lists, provider })))
    }

    /// How many revocation lists there are.
    pub(crate) fn lists(&self) -> usize {
        self.0.lists.len()
    }

    /// That `leaf` leads to a root over `intermediates`, at `now`, for `usage`, and that no list names any of the chain.
    pub(crate) fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), CertificateError> {
        let lists: Vec<&CertRevocationList<'_>> = self.0.lists.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Allow)
                .with_expiration_policy(ExpirationPolicy::Ignore)
                .build()
        });
        let leaf = EndEntityCert::try_from(leaf).map_err(of_webpki)?;
        let algorithms = self.0.provider.signature_verification_algorithms.all;
        leaf.verify_for_usage(algorithms, &self.0.roots, intermediates, now, usage, revocation, None)
            .map(|_| ())
            .map_err(of_webpki)
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the rest keeps its own words")]
fn of_webpki(error: webpki::Error) -> CertificateError {
    match error {
        webpki::Error::CertRevoked => CertificateError::Revoked,
        webpki::Error::CertExpired { .. } => CertificateError::Expired,
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::BadDer => CertificateError::BadEncoding,
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    }
}

/// The peer is somebody else.
#[derive(Debug, thiserror::Error)]
#[error("it says {found}, expected {expected}: is this the right address, and of the right trust domain?")]
struct WrongIdentity {
    found: String,
    expected: SpiffeId,
}

/// Verifies a server by its SPIFFE ID.
#[derive(Debug)]
pub(crate) struct SpiffeVerifier {
    anchors: Anchors,
    /// Who it must be; anyone of our roots when `None`.
    expected: Option<SpiffeId>,
}

impl SpiffeVerifier {
    /// Trusts `anchors` for `expected`.
    pub(crate) fn new(anchors: Anchors, expected: Option<SpiffeId>) -> Self {
        Self { anchors, expected }
    }

    /// The verdict about a server's chain.
    pub(crate) fn verdict(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        self.anchors.check(leaf, intermediates, now, KeyUsage::server_auth())?;
        let Some(expected) = &self.expected else { return Ok(()) };
        let uris = Facts::of(leaf).map(|facts| facts.uris).unwrap_or_default();
        // X509-SVID section 2: exactly one URI SAN.
        if uris.as_slice() == [expected.as_str()] {
            return Ok(());
        }
        let found = if uris.is_empty() { "no SPIFFE ID".to_owned() } else { uris.join(" and ") };
        let wrong = WrongIdentity { found, expected: expected.clone() };
        Err(CertificateError::Other(OtherError(Arc::new(wrong))))
    }
}

impl ServerCertVerifier for SpiffeVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verdict(leaf, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signature, &self.anchors.0.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.anchors.0.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.anchors.0.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Why a certificate is not accepted, with a remedy.
#[expect(clippy::wildcard_enum_match_arm, reason = "the rest keeps its own words")]
pub(crate) fn explain(why: &CertificateError) -> String {
    match why {
        CertificateError::Revoked => "it is revoked: do not trust this address until its operator has renewed it".to_owned(),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired: does it renew itself, and is this machine's clock right?".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet: is this machine's clock behind?".to_owned()
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "it does not lead to a root of bundle.pem: is this the right server, and bundle.pem up to date (chancery bundle show)?"
                .to_owned()
        }
        // rustls adds variants; its own words, and those of ours that it carries, are sentences.
        CertificateError::Other(OtherError(inner)) => inner.to_string(),
        other => other.to_string(),
    }
}

/// Our clock, for the library.
#[derive(Debug)]
pub(super) struct Time(pub(super) Clock);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().unix_timestamp()).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
    }
}
