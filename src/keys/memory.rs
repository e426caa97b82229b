//! Authority keys that live in this process only and are gone with it: for tests, simulations and as the inner half of
//! [`super::sealed`].

use std::fmt;

use futures::future::BoxFuture;

use super::private::PrivateKey;
use super::{KeyError, Signer};
use crate::x509::{KeyAlgorithm, SignatureAlgorithm};

/// A key in memory.
pub struct MemorySigner {
    key: PrivateKey,
    spki: Vec<u8>,
}

/// A fresh key, such as `KeyAlgorithm::P256` or `SignatureAlgorithm::EcdsaP256Sha256`. RSA blocks for long.
///
/// # Errors
/// [`KeyError::Library`].
pub fn generate(algorithm: impl Into<KeyAlgorithm>) -> Result<MemorySigner, KeyError> {
    Ok(MemorySigner::new(PrivateKey::generate(algorithm.into())?))
}

impl MemorySigner {
    pub(super) fn new(key: PrivateKey) -> Self {
        Self { spki: key.spki(), key }
    }

    pub(super) fn key(&self) -> &PrivateKey {
        &self.key
    }
}

impl Signer for MemorySigner {
    fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm().signature()
    }

    fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    // Signing is at most a few milliseconds (RSA-4096) and 20 µs by default: not worth another thread.
    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, KeyError>> {
        #[cfg(test)]
        if let Some(answer) = super::simulated::answer() {
            return answer;
        }
        Box::pin(std::future::ready(self.key.sign(message)))
    }
}

impl fmt::Debug for MemorySigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemorySigner({})", self.key.algorithm())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::conformance;

    #[tokio::test]
    async fn conforms_with_every_algorithm() {
        for algorithm in SignatureAlgorithm::ALL {
            conformance::check(&generate(algorithm).unwrap(), algorithm).await;
        }
    }
}
