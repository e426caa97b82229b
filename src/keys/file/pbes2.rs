//! PKCS #8 that is encrypted with PBES2: RFC 8018 sections 5.2 and 6.2.
//!
//! PBKDF2 with HMAC-SHA-1, -256, -384 or -512, then AES in CBC mode: what OpenSSL has written for twenty years. The older
//! schemes (DES, RC2, RC4, PBES1) and scrypt are named and refused. Cryptography is the library's; this reads the parameters.

use std::num::NonZeroU32;

use aws_lc_rs::cipher::{AES_128, AES_192, AES_256, Algorithm, DecryptionContext};
use aws_lc_rs::cipher::{PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::pbkdf2;
use zeroize::Zeroizing;

use crate::secret::SecretBytes;
use crate::x509::der::{self, NotDer, Reader};

/// The most rounds that are computed: some ten seconds.
const MOST_ROUNDS: u32 = 20_000_000;

// 1.2.840.113549.1.5.13 and .12, pkcs-5; 1.3.6.1.4.1.11591.4.11.
const PBES2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0d];
const PBKDF2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0c];
const SCRYPT: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x04, 0x0b];

/// 1.2.840.113549.2, digestAlgorithm; the hash is the last arc.
const HMAC: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02];

/// 2.16.840.1.101.3.4.1, aes; length and mode are the last arc.
const AES: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01];

/// Why it does not open.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is encrypted in another way.
    Unknown(&'static str),
    /// The passphrase is another one, or the bytes are damaged.
    Closed,
}

impl From<NotDer> for Fault {
    fn from(NotDer: NotDer) -> Self {
        Self::Closed
    }
}

/// The plain PKCS #8 of an EncryptedPrivateKeyInfo (RFC 5958 section 3).
pub(super) fn open(encrypted: &[u8], passphrase: &[u8]) -> Result<SecretBytes, Fault> {
    let mut outer = Reader::new(der::only(encrypted, der::SEQUENCE)?.content);
    let (scheme, data) = (outer.expect(der::SEQUENCE)?.content, outer.expect(der::OCTET_STRING)?.content);
    outer.end()?;
    let mut scheme = Reader::new(scheme);
    if scheme.expect(der::OID)?.content != PBES2 {
        return Err(Fault::Unknown("PBES1 or PKCS #12's scheme"));
    }
    let mut both = Reader::new(scheme.expect(der::SEQUENCE)?.content);
    let (kdf, cipher) = (both.expect(der::SEQUENCE)?.content, both.expect(der::SEQUENCE)?.content);
    let (algorithm, key_length, iv) = read_cipher(cipher)?;
    let mut key = Zeroizing::new(vec![0; key_length]);
    derive(kdf, passphrase, &mut key)?;
    let key = UnboundCipherKey::new(algorithm, &key).map_err(|_| Fault::Closed)?;
    let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).map_err(|_| Fault::Closed)?;
    let mut plain = Zeroizing::new(data.to_vec());
    let opened = key.decrypt(&mut plain, DecryptionContext::Iv128(FixedLength::from(iv))).map_err(|_| Fault::Closed)?;
    // One wrong passphrase in some 256 leaves a padding that looks right.
    der::only(opened, der::SEQUENCE)?;
    Ok(SecretBytes::new(opened.to_vec()))
}

fn read_cipher(cipher: &[u8]) -> Result<(&'static Algorithm, usize, [u8; 16]), Fault> {
    let mut fields = Reader::new(cipher);
    let (algorithm, length) = match fields.expect(der::OID)?.content.strip_prefix(AES) {
        Some([2]) => (&AES_128, 16),
        Some([22]) => (&AES_192, 24),
        Some([42]) => (&AES_256, 32),
        Some(_) | None => return Err(Fault::Unknown("another cipher than AES in CBC mode")),
    };
    let iv = fields.expect(der::OCTET_STRING)?.content;
    Ok((algorithm, length, iv.try_into().map_err(|_| NotDer)?))
}

fn derive(kdf: &[u8], passphrase: &[u8], key: &mut [u8]) -> Result<(), Fault> {
    let mut fields = Reader::new(kdf);
    match fields.expect(der::OID)?.content {
        PBKDF2 => {}
        SCRYPT => return Err(Fault::Unknown("scrypt")),
        _ => return Err(Fault::Unknown("another key derivation than PBKDF2")),
    }
    let mut fields = Reader::new(fields.expect(der::SEQUENCE)?.content);
    let (salt, rounds) = (fields.expect(der::OCTET_STRING)?.content, fields.expect(der::INTEGER)?.content);
    let rounds = rounds.iter().try_fold(0_u32, |sum, &octet| sum.checked_mul(256)?.checked_add(u32::from(octet)));
    let rounds = rounds.filter(|rounds| *rounds <= MOST_ROUNDS).ok_or(Fault::Unknown("more than 20 million rounds"))?;
    // How long the key is, the cipher says.
    fields.optional(der::INTEGER)?;
    let hash = match fields.optional(der::SEQUENCE)? {
        None => pbkdf2::PBKDF2_HMAC_SHA1,
        Some(prf) => match Reader::new(prf.content).expect(der::OID)?.content.strip_prefix(HMAC) {
            Some([7]) => pbkdf2::PBKDF2_HMAC_SHA1,
            Some([9]) => pbkdf2::PBKDF2_HMAC_SHA256,
            Some([10]) => pbkdf2::PBKDF2_HMAC_SHA384,
            Some([11]) => pbkdf2::PBKDF2_HMAC_SHA512,
            Some(_) | None => return Err(Fault::Unknown("another hash than SHA-1, SHA-256, SHA-384 or SHA-512")),
        },
    };
    pbkdf2::derive(hash, NonZeroU32::new(rounds).ok_or(NotDer)?, salt, passphrase, key);
    Ok(())
}
