//! Keys that this server makes for a proxy: made, sent once to their owner, dropped.
//!
//! A [`LeafKey`] is never stored, logged or shared; it zeroises itself. Called by `ca::issue` on the path of every
//! server-made certificate, so making a P-256 key must stay near the machine's own limit (about 15 µs).

use std::fmt;

use super::KeyError;
use super::private::PrivateKey;
use crate::secret::SecretBytes;
use crate::x509::{KeyAlgorithm, SubjectKey, pem};

/// A private key with its public half, on its way to its owner.
pub struct LeafKey {
    pkcs8: SecretBytes,
    public: SubjectKey,
}

/// A fresh key. RSA takes 0.1 to several seconds: call it where blocking is allowed.
///
/// # Errors
/// [`KeyError::Library`].
pub fn generate(algorithm: KeyAlgorithm) -> Result<LeafKey, KeyError> {
    let key = PrivateKey::generate(algorithm)?;
    let public = SubjectKey::from_spki(key.spki()).map_err(|_| KeyError::NotAKey { algorithm })?;
    Ok(LeafKey { pkcs8: key.pkcs8()?, public })
}

impl LeafKey {
    /// The SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        self.public.spki_der()
    }

    /// The public half, for the draft.
    #[must_use]
    pub fn subject_key(&self) -> SubjectKey {
        self.public.clone()
    }

    /// PKCS#8 in DER, as the Workload API sends it.
    #[must_use]
    pub fn pkcs8(&self) -> &SecretBytes {
        &self.pkcs8
    }

    /// PKCS#8 in PEM, as SDS sends it.
    #[must_use]
    pub fn pkcs8_pem(&self) -> SecretBytes {
        let der = self.pkcs8.expose();
        // Reserved whole, so that growing never leaves a copy behind.
        let mut out = Vec::with_capacity(pem::encoded_length(pem::PRIVATE_KEY, der.len()));
        pem::encode(&mut out, pem::PRIVATE_KEY, der);
        SecretBytes::new(out)
    }
}

impl fmt::Debug for LeafKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeafKey({})", self.public.algorithm())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Signer;
    use crate::keys::memory::MemorySigner;

    #[tokio::test]
    async fn each_kind_survives_pkcs8_and_pem() {
        for algorithm in KeyAlgorithm::ALL {
            let leaf = generate(algorithm).unwrap();
            assert_eq!(leaf.subject_key().algorithm(), algorithm);
            let text = leaf.pkcs8_pem();
            let blocks = pem::decode(text.expose()).unwrap();
            assert_eq!(blocks[0].label, "PRIVATE KEY");
            assert_eq!(blocks[0].der, leaf.pkcs8().expose());

            let read = MemorySigner::new(PrivateKey::from_pkcs8(algorithm, leaf.pkcs8().expose()).unwrap());
            assert_eq!(read.spki_der(), leaf.spki_der());
            let signature = read.sign(b"message").await.unwrap();
            leaf.subject_key().verify(read.algorithm(), b"message", &signature).unwrap();
            assert_eq!(format!("{leaf:?}"), format!("LeafKey({algorithm})"));
        }
    }

    #[test]
    fn no_two_keys_are_equal() {
        assert_ne!(generate(KeyAlgorithm::P256).unwrap().spki_der(), generate(KeyAlgorithm::P256).unwrap().spki_der());
    }
}
