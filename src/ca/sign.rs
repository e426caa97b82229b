//! The one place where our authorities' keys sign.
//!
//! [`SigningKey::sign`] takes a [`Recorded`] by value, so that a certificate which policy did not grant or the ledger
//! does not hold cannot leave this program: the compiler checks it. No other module outside `keys` may name the signer
//! port; `tests/layering.rs` holds that.

use std::sync::Arc;
use std::time::Duration;

use crate::audit::ledger::{Position, Recorded};
use crate::clock::Clock;
use crate::keys::{KeyError, Signer};
use crate::x509::SignatureAlgorithm;
use crate::x509::draft::{DraftError, Signed};

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
}

/// A certificate, and the record that authorised it.
#[derive(Debug)]
pub struct Issuance {
    /// The certificate with its facts.
    pub signed: Signed,
    /// Its record.
    pub position: Position,
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
        let signature = tokio::select! {
            biased;
            signature = self.0.sign(draft.tbs()) => signature.map_err(SignError::from),
            () = clock.sleep(SIGN_DEADLINE) => Err(SignError::Late),
        };
        match signature.and_then(|signature| Ok(draft.finish(&signature)?)) {
            Ok(signed) => Ok(Issuance { signed, position }),
            Err(error) => Err((error, position)),
        }
    }
}
