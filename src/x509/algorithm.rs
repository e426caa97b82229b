//! The algorithms that this CA knows, and how each is spelled in DER.
//!
//! One table for keys and one for signatures; whatever is not in them is refused. Comparing whole AlgorithmIdentifiers
//! byte by byte is meant: RFC 5280 section 4.1.1.2 wants the two in a certificate equal, and each algorithm here has one
//! permitted spelling of its parameters (RFC 3279, 5480, 5758, 8410, 9881).

use std::fmt;

use aws_lc_rs::signature;
use serde::{Deserialize, Serialize};

use super::der;

/// The kind of a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyAlgorithm {
    /// ECDSA on P-256: every proxy takes it.
    P256,
    /// ECDSA on P-384: Envoy to Envoy only with TLS 1.3.
    P384,
    /// Ed25519: Envoy must list it in `signature_algorithms`.
    Ed25519,
    /// RSA with 2048 bits or more, below 3072.
    Rsa2048,
    /// RSA with 3072 bits or more, below 4096.
    Rsa3072,
    /// RSA with 4096 bits.
    Rsa4096,
    /// ML-DSA-44 (FIPS 204); no proxy takes it yet as a leaf.
    MlDsa44,
    /// ML-DSA-65.
    MlDsa65,
    /// ML-DSA-87.
    MlDsa87,
}

/// How an issuer signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SignatureAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ecdsa-p256-sha256")]
    EcdsaP256Sha256,
    /// ECDSA on P-384 with SHA-384.
    #[serde(rename = "ecdsa-p384-sha384")]
    EcdsaP384Sha384,
    /// Ed25519.
    #[serde(rename = "ed25519")]
    Ed25519,
    /// RSA PKCS#1 v1.5 with SHA-256.
    #[serde(rename = "rsa-pkcs1-sha256")]
    RsaPkcs1Sha256,
    /// ML-DSA-44.
    #[serde(rename = "mldsa44")]
    MlDsa44,
    /// ML-DSA-65.
    #[serde(rename = "mldsa65")]
    MlDsa65,
    /// ML-DSA-87.
    #[serde(rename = "mldsa87")]
    MlDsa87,
}

/// A name that is no key algorithm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{found:?} is no key algorithm; there are p256, p384, ed25519, rsa2048, rsa3072, rsa4096, mldsa44, mldsa65 and mldsa87"
)]
pub struct UnknownAlgorithm {
    found: String,
}

/// A signature that does not fit the key and the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not verify under the key")]
pub struct BadSignature;

// AlgorithmIdentifiers of keys.
const P256: &[u8] = &[
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03,
    0x01, 0x07,
];
const P384: &[u8] =
    &[0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
const RSA: &[u8] = &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

// AlgorithmIdentifiers of signatures, or of both.
const ECDSA_SHA256: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const ECDSA_SHA384: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
const ED25519: &[u8] = &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];
const RSA_SHA256: &[u8] = &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b, 0x05, 0x00];
const RSA_SHA384: &[u8] = &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c, 0x05, 0x00];
const RSA_SHA512: &[u8] = &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d, 0x05, 0x00];
const ML_DSA_44: &[u8] = &[0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x11];
const ML_DSA_65: &[u8] = &[0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x12];
const ML_DSA_87: &[u8] = &[0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x13];

impl KeyAlgorithm {
    /// Every one, in the order of documentation.
    pub const ALL: [Self; 9] = [
        Self::P256,
        Self::P384,
        Self::Ed25519,
        Self::Rsa2048,
        Self::Rsa3072,
        Self::Rsa4096,
        Self::MlDsa44,
        Self::MlDsa65,
        Self::MlDsa87,
    ];

    /// The name in policy, configuration and records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::P256 => "p256",
            Self::P384 => "p384",
            Self::Ed25519 => "ed25519",
            Self::Rsa2048 => "rsa2048",
            Self::Rsa3072 => "rsa3072",
            Self::Rsa4096 => "rsa4096",
            Self::MlDsa44 => "mldsa44",
            Self::MlDsa65 => "mldsa65",
            Self::MlDsa87 => "mldsa87",
        }
    }

    /// How a key of this kind signs certificates.
    #[must_use]
    pub fn signature(self) -> SignatureAlgorithm {
        match self {
            Self::P256 => SignatureAlgorithm::EcdsaP256Sha256,
            Self::P384 => SignatureAlgorithm::EcdsaP384Sha384,
            Self::Ed25519 => SignatureAlgorithm::Ed25519,
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => SignatureAlgorithm::RsaPkcs1Sha256,
            Self::MlDsa44 => SignatureAlgorithm::MlDsa44,
            Self::MlDsa65 => SignatureAlgorithm::MlDsa65,
            Self::MlDsa87 => SignatureAlgorithm::MlDsa87,
        }
    }

    /// Whether it is RSA of any size.
    #[must_use]
    pub fn is_rsa(self) -> bool {
        self.signature() == SignatureAlgorithm::RsaPkcs1Sha256
    }

    /// The AlgorithmIdentifier in a SubjectPublicKeyInfo.
    pub(crate) fn spki_identifier(self) -> &'static [u8] {
        match self {
            Self::P256 => P256,
            Self::P384 => P384,
            Self::Ed25519 => ED25519,
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => RSA,
            Self::MlDsa44 => ML_DSA_44,
            Self::MlDsa65 => ML_DSA_65,
            Self::MlDsa87 => ML_DSA_87,
        }
    }

    /// What rcgen calls it.
    pub(crate) fn rcgen(self) -> &'static rcgen::SignatureAlgorithm {
        self.signature().rcgen()
    }

    /// Verifies `signature`, made with the algorithm that `identifier` (a whole AlgorithmIdentifier) spells, over
    /// `message` under the raw public key. `None`: this key does not sign like that, or only with a broken hash.
    pub(crate) fn verify(self, identifier: &[u8], key: &[u8], message: &[u8], signature: &[u8]) -> Option<bool> {
        let algorithm: &dyn signature::VerificationAlgorithm = match (self, identifier) {
            (Self::P256, ECDSA_SHA256) => &signature::ECDSA_P256_SHA256_ASN1,
            (Self::P256, ECDSA_SHA384) => &signature::ECDSA_P256_SHA384_ASN1,
            (Self::P384, ECDSA_SHA256) => &signature::ECDSA_P384_SHA256_ASN1,
            (Self::P384, ECDSA_SHA384) => &signature::ECDSA_P384_SHA384_ASN1,
            (Self::Ed25519, ED25519) => &signature::ED25519,
            (Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096, RSA_SHA256) => &signature::RSA_PKCS1_2048_8192_SHA256,
            (Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096, RSA_SHA384) => &signature::RSA_PKCS1_2048_8192_SHA384,
            (Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096, RSA_SHA512) => &signature::RSA_PKCS1_2048_8192_SHA512,
            (Self::MlDsa44, ML_DSA_44) => &signature::ML_DSA_44,
            (Self::MlDsa65, ML_DSA_65) => &signature::ML_DSA_65,
            (Self::MlDsa87, ML_DSA_87) => &signature::ML_DSA_87,
            (
                Self::P256
                | Self::P384
                | Self::Ed25519
                | Self::Rsa2048
                | Self::Rsa3072
                | Self::Rsa4096
                | Self::MlDsa44
                | Self::MlDsa65
                | Self::MlDsa87,
                _,
            ) => return None,
        };
        Some(signature::UnparsedPublicKey::new(algorithm, key).verify(message, signature).is_ok())
    }
}

impl SignatureAlgorithm {
    /// Every one.
    pub const ALL: [Self; 7] = [
        Self::EcdsaP256Sha256,
        Self::EcdsaP384Sha384,
        Self::Ed25519,
        Self::RsaPkcs1Sha256,
        Self::MlDsa44,
        Self::MlDsa65,
        Self::MlDsa87,
    ];

    /// The name in tables and key files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EcdsaP256Sha256 => "ecdsa-p256-sha256",
            Self::EcdsaP384Sha384 => "ecdsa-p384-sha384",
            Self::Ed25519 => "ed25519",
            Self::RsaPkcs1Sha256 => "rsa-pkcs1-sha256",
            Self::MlDsa44 => "mldsa44",
            Self::MlDsa65 => "mldsa65",
            Self::MlDsa87 => "mldsa87",
        }
    }

    /// The whole AlgorithmIdentifier.
    pub(crate) fn identifier(self) -> &'static [u8] {
        match self {
            Self::EcdsaP256Sha256 => ECDSA_SHA256,
            Self::EcdsaP384Sha384 => ECDSA_SHA384,
            Self::Ed25519 => ED25519,
            Self::RsaPkcs1Sha256 => RSA_SHA256,
            Self::MlDsa44 => ML_DSA_44,
            Self::MlDsa65 => ML_DSA_65,
            Self::MlDsa87 => ML_DSA_87,
        }
    }

    /// What rcgen calls it.
    pub(crate) fn rcgen(self) -> &'static rcgen::SignatureAlgorithm {
        match self {
            Self::EcdsaP256Sha256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::EcdsaP384Sha384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Self::Ed25519 => &rcgen::PKCS_ED25519,
            Self::RsaPkcs1Sha256 => &rcgen::PKCS_RSA_SHA256,
            Self::MlDsa44 => &rcgen::PKCS_ML_DSA_44,
            Self::MlDsa65 => &rcgen::PKCS_ML_DSA_65,
            Self::MlDsa87 => &rcgen::PKCS_ML_DSA_87,
        }
    }

    /// Whether `signature` has the outer form of this algorithm, so that a key service's answer in another encoding
    /// (such as raw `r ‖ s`) is caught before it is wrapped. Not a verification.
    pub(crate) fn has_form(self, signature: &[u8]) -> bool {
        match self {
            // RFC 3279 section 2.2.3: SEQUENCE of the two INTEGERs r and s.
            Self::EcdsaP256Sha256 | Self::EcdsaP384Sha384 => {
                let read = || {
                    let mut pair = der::Reader::new(der::only(signature, der::SEQUENCE)?.content);
                    pair.expect(der::INTEGER)?;
                    pair.expect(der::INTEGER)?;
                    pair.end()
                };
                read().is_ok()
            }
            Self::Ed25519 => signature.len() == 64,
            Self::RsaPkcs1Sha256 => (256..=1024).contains(&signature.len()),
            // FIPS 204 table 2.
            Self::MlDsa44 => signature.len() == 2420,
            Self::MlDsa65 => signature.len() == 3309,
            Self::MlDsa87 => signature.len() == 4627,
        }
    }
}

/// The key that is made for an issuer which signs like this; 3072 bits for RSA.
impl From<SignatureAlgorithm> for KeyAlgorithm {
    fn from(algorithm: SignatureAlgorithm) -> Self {
        match algorithm {
            SignatureAlgorithm::EcdsaP256Sha256 => Self::P256,
            SignatureAlgorithm::EcdsaP384Sha384 => Self::P384,
            SignatureAlgorithm::Ed25519 => Self::Ed25519,
            SignatureAlgorithm::RsaPkcs1Sha256 => Self::Rsa3072,
            SignatureAlgorithm::MlDsa44 => Self::MlDsa44,
            SignatureAlgorithm::MlDsa65 => Self::MlDsa65,
            SignatureAlgorithm::MlDsa87 => Self::MlDsa87,
        }
    }
}

impl std::str::FromStr for KeyAlgorithm {
    type Err = UnknownAlgorithm;

    fn from_str(text: &str) -> Result<Self, UnknownAlgorithm> {
        let found = Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == text);
        found.ok_or_else(|| UnknownAlgorithm { found: text.chars().take(32).collect() })
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for SignatureAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_serde_writes() {
        for algorithm in KeyAlgorithm::ALL {
            assert_eq!(serde_json::to_string(&algorithm).unwrap(), format!("\"{algorithm}\""));
            assert_eq!(algorithm.as_str().parse(), Ok(algorithm));
        }
        for algorithm in SignatureAlgorithm::ALL {
            assert_eq!(serde_json::to_string(&algorithm).unwrap(), format!("\"{algorithm}\""));
            assert_eq!(KeyAlgorithm::from(algorithm).signature(), algorithm);
        }
        assert!("p521".parse::<KeyAlgorithm>().unwrap_err().to_string().contains("p384"));
    }
}
