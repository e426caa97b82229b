//! The one place where our authorities' keys sign.
//!
//! [`SigningKey::sign`] and [`SigningKey::sign_crl`] take a [`Recorded`] by value, so that a certificate which policy did
//! not grant, or a certificate or CRL which the ledger does not hold, cannot leave this program: the compiler checks it.
//! The one exception has a name, [`Deferred`]. No other module outside `keys` may name the signer port;
//! `tests/layering.rs` holds that.

use std::sync::Arc;
use std::time::Duration;

use crate::audit::ledger::{LedgerError, Position, Recorded};
use crate::clock::Clock;
use crate::keys::{KeyError, Signer};
use crate::x509::SignatureAlgorithm;
use crate::x509::crl::{Crl, CrlDraft, CrlError};
use crate::x509::draft::{DraftError, RequestDraft, Signed};

/// The longest a signature may take before the certificate is given up: the record then says so.
pub const SIGN_DEADLINE: Duration = Duration::from_secs(10);

/// An authority's private key, wherever it lives; cheap to clone, never printed.
#[derive(Clone)]
pub struct SigningKey(Arc<dyn Signer>);

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({:?})", self.0.algorithm())
    }
}

/// Why an authorised, recorded certificate was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The key's holder refused or failed.
    #[error("the issuing key did not sign: {0}")]
    Key(#[from] KeyError),
    /// It took longer than [`SIGN_DEADLINE`].
    #[error("the issuing key did not sign within {} s", SIGN_DEADLINE.as_secs())]
    Late,
    /// The authority was withdrawn while the signature was made, so the certificate does not leave.
    #[error("the issuing authority was withdrawn meanwhile: ask again")]
    Withdrawn,
    /// What came back does not make a certificate.
    #[error("the signature does not fit the certificate: {0}")]
    Form(#[from] DraftError),
    /// What came back does not make a CRL.
    #[error(transparent)]
    Crl(#[from] CrlError),
}

/// A certificate, and the record that authorised it.
#[derive(Debug)]
pub struct Issuance {
    /// The certificate with its facts.
    pub signed: Signed,
    /// Its record.
    pub position: Position,
}

/// The draft of a CRL that may be signed before it is recorded.
///
/// At a CRL's `nextUpdate` every handshake fails. So when the ledger takes no record, not even from its reserve, a CRL
/// that lists exactly what the one before it lists may be made all the same: it revokes nobody and releases nobody, it
/// only lives longer. `revocation` records it before any other CRL once the ledger takes records again.
#[derive(Debug)]
pub struct Deferred(CrlDraft);

impl Deferred {
    /// Takes `draft` if it says nothing new against `before` and `why` is the ledger's refusal to take any record;
    /// nothing otherwise.
    #[must_use]
    pub fn unchanged(draft: CrlDraft, before: &Crl, why: &LedgerError) -> Option<Self> {
        let stopped = matches!(why, LedgerError::Full { .. } | LedgerError::Failed { .. });
        let same = draft.facts().issuer_key_id == hex::encode(before.issuer_key_id())
            && draft.facts().number > before.number()
            && draft.entries() == before.entries();
        (stopped && same).then_some(Self(draft))
    }
}

impl SigningKey {
    /// Takes a key over for signing.
    #[must_use]
    pub fn new(signer: Arc<dyn Signer>) -> Self {
        Self(signer)
    }

    /// What its signatures are.
    #[must_use]
    pub fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }

    /// The SubjectPublicKeyInfo, DER.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        self.0.spki_der()
    }

    /// Signs the very bytes that were recorded, and spends the record.
    ///
    /// # Errors
    /// [`SignError`], with the position so that a `certificate.fail` record can name the one it follows.
    pub async fn sign(&self, recorded: Recorded, clock: &Clock) -> Result<Issuance, (SignError, Position)> {
        let (draft, position) = recorded.into_parts();
        match self.signature(draft.tbs(), clock).await.and_then(|signature| Ok(draft.finish(&signature)?)) {
            Ok(signed) => Ok(Issuance { signed, position }),
            Err(error) => Err((error, position)),
        }
    }

    /// Signs the very bytes of a recorded CRL, and spends the record. The result was verified.
    ///
    /// # Errors
    /// As [`Self::sign`].
    pub async fn sign_crl(
        &self,
        recorded: Recorded<CrlDraft>,
        clock: &Clock,
    ) -> Result<(Crl, Position), (SignError, Position)> {
        let (draft, position) = recorded.into_parts();
        match self.signature(draft.tbs(), clock).await.and_then(|signature| Ok(draft.finish(&signature)?)) {
            Ok(crl) => Ok((crl, position)),
            Err(error) => Err((error, position)),
        }
    }

    /// Signs the request for a CA certificate of this very key, and spends the record; the request, DER.
    ///
    /// # Errors
    /// As [`Self::sign`].
    pub async fn sign_request(
        &self,
        recorded: Recorded<RequestDraft>,
        clock: &Clock,
    ) -> Result<(Vec<u8>, Position), (SignError, Position)> {
        let (draft, position) = recorded.into_parts();
        match self.signature(draft.info(), clock).await.and_then(|signature| Ok(draft.finish(&signature)?)) {
            Ok(request) => Ok((request, position)),
            Err(error) => Err((error, position)),
        }
    }

    /// Signs a CRL that says nothing new and could not be recorded.
    ///
    /// # Errors
    /// [`SignError`].
    pub async fn sign_deferred(&self, Deferred(draft): Deferred, clock: &Clock) -> Result<Crl, SignError> {
        let signature = self.signature(draft.tbs(), clock).await?;
        Ok(draft.finish(&signature)?)
    }

    async fn signature(&self, tbs: &[u8], clock: &Clock) -> Result<Vec<u8>, SignError> {
        tokio::select! {
            biased;
            signature = self.0.sign(tbs) => signature.map_err(SignError::from),
            () = clock.sleep(SIGN_DEADLINE) => Err(SignError::Late),
        }
    }
}
