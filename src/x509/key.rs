//! The public key that a certificate is for.
//!
//! A [`SubjectKey`] is a SubjectPublicKeyInfo in its one permitted spelling, with an algorithm that this program knows
//! and a strength that it accepts. Made from a verified CSR or from a key that this server made itself.

use aws_lc_rs::digest;

use super::algorithm::{BadSignature, KeyAlgorithm, SignatureAlgorithm};
use super::der::{self, NotDer, Reader};

/// The largest RSA modulus that is accepted, in bits: verifying is linear in it for every peer.
pub const LARGEST_RSA_BITS: usize = 4096;

/// The smallest RSA modulus that is accepted, in bits; Envoy refuses less too.
pub const SMALLEST_RSA_BITS: usize = 2048;

/// Why a public key is not accepted. It is always the fault of whoever made the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// Not a SubjectPublicKeyInfo in DER.
    #[error("the public key is not valid DER: make the CSR again with a current tool")]
    Malformed,
    /// An algorithm or curve that is not known here, or other parameters than its standard permits.
    #[error(
        "the public key is of a kind that is not issued here (P-224, P-521, DSA, RSA-PSS or explicit parameters): use P-256"
    )]
    Unknown,
    /// A point that is not in uncompressed form.
    #[error(
        "the elliptic-curve point is compressed or of the wrong length: write it uncompressed (RFC 5480 section 2.2)"
    )]
    Point,
    /// RSA below [`SMALLEST_RSA_BITS`] or above [`LARGEST_RSA_BITS`].
    #[error(
        "an RSA key of {bits} bits is outside {SMALLEST_RSA_BITS} to {LARGEST_RSA_BITS}: use 2048 or 3072 bits, or P-256"
    )]
    RsaBits {
        /// Bits of the modulus.
        bits: usize,
    },
    /// An RSA public exponent that is even, below 65537 or absurdly large.
    #[error("the RSA public exponent must be odd, at least 65537 and below 2^32: make the key with exponent 65537")]
    RsaExponent,
}

impl From<NotDer> for KeyFault {
    fn from(NotDer: NotDer) -> Self {
        Self::Malformed
    }
}

/// A public key that may be certified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectKey {
    spki: Vec<u8>,
    algorithm: KeyAlgorithm,
    /// How many bytes of `spki` come before the bits of the key.
    key_at: usize,
    sha256: [u8; 32],
    key_id: [u8; 20],
}

impl SubjectKey {
    /// Reads a SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// Every variant of [`KeyFault`].
    pub fn from_spki(spki: Vec<u8>) -> Result<Self, KeyFault> {
        let mut fields = Reader::new(der::only(&spki, der::SEQUENCE)?.content);
        let (identifier, bits) = (fields.expect(der::SEQUENCE)?, fields.expect(der::BIT_STRING)?);
        fields.end()?;
        let key = der::whole_bits(bits.content)?;
        let algorithm = recognise(identifier.whole, key)?;
        let key_at = spki.len() - key.len();
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest::digest(&digest::SHA256, &spki).as_ref());
        // RFC 7093 section 2, method 1: the leftmost 160 bits over the key's bits alone.
        let mut key_id = [0; 20];
        key_id.iter_mut().zip(digest::digest(&digest::SHA256, key).as_ref()).for_each(|(to, from)| *to = *from);
        Ok(Self { algorithm, key_at, sha256, key_id, spki })
    }

    /// The SubjectPublicKeyInfo, exactly as it goes into the certificate.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// Its kind.
    #[must_use]
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// The bits of the key alone, without algorithm.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        self.spki.get(self.key_at..).unwrap_or_default()
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    #[must_use]
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// The subject key identifier, RFC 7093 section 2 method 1: 160 bits of SHA-256 over [`Self::raw`].
    #[must_use]
    pub fn key_id(&self) -> &[u8] {
        &self.key_id
    }

    /// Modulus bits for RSA, bits of the curve or of the key for others: what tables show.
    #[must_use]
    pub fn bits(&self) -> usize {
        match self.algorithm {
            KeyAlgorithm::P256 | KeyAlgorithm::Ed25519 => 256,
            KeyAlgorithm::P384 => 384,
            KeyAlgorithm::Rsa2048 | KeyAlgorithm::Rsa3072 | KeyAlgorithm::Rsa4096 => {
                rsa_numbers(self.raw()).map_or(0, |(modulus, _)| bit_length(modulus))
            }
            KeyAlgorithm::MlDsa44 | KeyAlgorithm::MlDsa65 | KeyAlgorithm::MlDsa87 => self.raw().len() * 8,
        }
    }

    /// Modulus and exponent without leading zeros; nothing when it is not RSA.
    #[must_use]
    pub fn rsa(&self) -> Option<(&[u8], &[u8])> {
        if self.algorithm.is_rsa() { rsa_numbers(self.raw()).ok() } else { None }
    }

    /// Verifies a signature that this key made as an issuer.
    ///
    /// # Errors
    /// [`BadSignature`], also when the key signs in another way than `algorithm`.
    pub fn verify(&self, algorithm: SignatureAlgorithm, message: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
        match self.algorithm.verify(algorithm.identifier(), self.raw(), message, signature) {
            Some(true) => Ok(()),
            Some(false) | None => Err(BadSignature),
        }
    }
}

/// For rcgen: it writes the SubjectPublicKeyInfo from the algorithm and the bits; the lint compares the result with ours.
impl rcgen::PublicKeyData for SubjectKey {
    fn der_bytes(&self) -> &[u8] {
        self.raw()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.algorithm.rcgen()
    }
}

fn recognise(identifier: &[u8], key: &[u8]) -> Result<KeyAlgorithm, KeyFault> {
    let found = KeyAlgorithm::ALL.into_iter().find(|known| known.spki_identifier() == identifier);
    let algorithm = found.ok_or(KeyFault::Unknown)?;
    let right_length = match algorithm {
        // SEC 1 section 2.3.3: 0x04, x, y.
        KeyAlgorithm::P256 => {
            return if key.len() == 65 && key.first() == Some(&4) { Ok(algorithm) } else { Err(KeyFault::Point) };
        }
        KeyAlgorithm::P384 => {
            return if key.len() == 97 && key.first() == Some(&4) { Ok(algorithm) } else { Err(KeyFault::Point) };
        }
        KeyAlgorithm::Rsa2048 | KeyAlgorithm::Rsa3072 | KeyAlgorithm::Rsa4096 => return rsa_size(key),
        KeyAlgorithm::Ed25519 => 32,
        // FIPS 204 table 2.
        KeyAlgorithm::MlDsa44 => 1312,
        KeyAlgorithm::MlDsa65 => 1952,
        KeyAlgorithm::MlDsa87 => 2592,
    };
    if key.len() == right_length { Ok(algorithm) } else { Err(KeyFault::Malformed) }
}

fn rsa_size(key: &[u8]) -> Result<KeyAlgorithm, KeyFault> {
    let (modulus, exponent) = rsa_numbers(key)?;
    // FIPS 186-5 section 5.1 wants an odd exponent above 2^16; more than 32 bits only slows every peer down.
    let value = exponent.iter().try_fold(0_u32, |sum, &octet| sum.checked_mul(256).map(|sum| sum | u32::from(octet)));
    if !value.is_some_and(|value| value >= 65_537 && value % 2 == 1) {
        return Err(KeyFault::RsaExponent);
    }
    match bit_length(modulus) {
        SMALLEST_RSA_BITS..3072 => Ok(KeyAlgorithm::Rsa2048),
        3072..LARGEST_RSA_BITS => Ok(KeyAlgorithm::Rsa3072),
        LARGEST_RSA_BITS => Ok(KeyAlgorithm::Rsa4096),
        bits => Err(KeyFault::RsaBits { bits }),
    }
}

/// RFC 8017 appendix A.1.1: SEQUENCE of modulus and exponent, both positive and minimal.
fn rsa_numbers(key: &[u8]) -> Result<(&[u8], &[u8]), NotDer> {
    let mut fields = Reader::new(der::only(key, der::SEQUENCE)?.content);
    let (modulus, exponent) =
        (positive(fields.expect(der::INTEGER)?.content)?, positive(fields.expect(der::INTEGER)?.content)?);
    fields.end()?;
    Ok((modulus, exponent))
}

fn positive(content: &[u8]) -> Result<&[u8], NotDer> {
    match content {
        [0, rest @ ..] if rest.first().is_some_and(|&octet| octet >= 0x80) => Ok(rest),
        [0x01..=0x7f, ..] => Ok(content),
        _ => Err(NotDer),
    }
}

fn bit_length(number: &[u8]) -> usize {
    number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
}
