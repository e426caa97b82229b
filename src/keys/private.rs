//! A private key of any kind that this program knows, in this process.
//!
//! Shared by [`super::memory`], [`super::sealed`], [`super::file`] and [`super::leaf`]; nothing else sees it.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair, ML_DSA_44_SIGNING, ML_DSA_65_SIGNING, ML_DSA_87_SIGNING, PqdsaKeyPair,
    PqdsaSigningAlgorithm, RSA_PKCS1_SHA256, RsaKeyPair,
};

use super::KeyError;
use crate::secret::SecretBytes;
use crate::x509::KeyAlgorithm;
use crate::x509::der::{self, Reader};
use crate::x509::key::{KeyFault, SubjectKey};

/// The key pair; its memory belongs to the library, which clears it when freed.
pub(super) struct PrivateKey {
    pair: Pair,
    algorithm: KeyAlgorithm,
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
    MlDsa(PqdsaKeyPair),
}

/// How the library knows a kind of key.
enum Kind {
    Ecdsa(&'static EcdsaSigningAlgorithm),
    Ed25519,
    Rsa(KeySize),
    MlDsa(&'static PqdsaSigningAlgorithm),
}

fn kind(algorithm: KeyAlgorithm) -> Kind {
    match algorithm {
        KeyAlgorithm::P256 => Kind::Ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING),
        KeyAlgorithm::P384 => Kind::Ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING),
        KeyAlgorithm::Ed25519 => Kind::Ed25519,
        KeyAlgorithm::Rsa2048 => Kind::Rsa(KeySize::Rsa2048),
        KeyAlgorithm::Rsa3072 => Kind::Rsa(KeySize::Rsa3072),
        KeyAlgorithm::Rsa4096 => Kind::Rsa(KeySize::Rsa4096),
        KeyAlgorithm::MlDsa44 => Kind::MlDsa(&ML_DSA_44_SIGNING),
        KeyAlgorithm::MlDsa65 => Kind::MlDsa(&ML_DSA_65_SIGNING),
        KeyAlgorithm::MlDsa87 => Kind::MlDsa(&ML_DSA_87_SIGNING),
    }
}

fn library<E>(what: &'static str) -> impl FnOnce(E) -> KeyError {
    move |_| KeyError::Library { what }
}

impl PrivateKey {
    /// A fresh one from the library's own generator. RSA takes 0.1 to several seconds of CPU.
    pub(super) fn generate(algorithm: KeyAlgorithm) -> Result<Self, KeyError> {
        let failed = library("make a key");
        let pair = match kind(algorithm) {
            Kind::Ecdsa(curve) => Pair::Ecdsa(EcdsaKeyPair::generate(curve).map_err(failed)?),
            Kind::Ed25519 => Pair::Ed25519(Ed25519KeyPair::generate().map_err(failed)?),
            Kind::Rsa(size) => Pair::Rsa(RsaKeyPair::generate(size).map_err(failed)?),
            Kind::MlDsa(set) => Pair::MlDsa(PqdsaKeyPair::generate(set).map_err(failed)?),
        };
        Ok(Self { pair, algorithm })
    }

    /// From PKCS#8 as [`Self::pkcs8`] wrote it.
    pub(super) fn from_pkcs8(algorithm: KeyAlgorithm, pkcs8: &[u8]) -> Result<Self, KeyError> {
        let wrong = |_| KeyError::NotAKey { algorithm };
        let pair = match kind(algorithm) {
            Kind::Ecdsa(curve) => Pair::Ecdsa(EcdsaKeyPair::from_pkcs8(curve, pkcs8).map_err(wrong)?),
            Kind::Ed25519 => Pair::Ed25519(Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).map_err(wrong)?),
            Kind::Rsa(_) => Pair::Rsa(RsaKeyPair::from_pkcs8(pkcs8).map_err(wrong)?),
            Kind::MlDsa(set) => Pair::MlDsa(PqdsaKeyPair::from_pkcs8(set, pkcs8).map_err(wrong)?),
        };
        Ok(Self { pair, algorithm })
    }

    /// From PKCS#8 of any tool and any kind that signs here; nothing when it is none.
    pub(super) fn from_any_pkcs8(pkcs8: &[u8]) -> Option<Result<Self, KeyFault>> {
        let mut fields = Reader::new(der::only(pkcs8, der::SEQUENCE).ok()?.content);
        fields.expect(der::INTEGER).ok()?;
        let identifier = fields.expect(der::SEQUENCE).ok()?.whole;
        let kind = KeyAlgorithm::ALL.into_iter().find(|known| known.spki_identifier() == identifier)?;
        Some(Self::from_pkcs8(kind, pkcs8).ok()?.of_its_size())
    }

    /// From SEC 1's ECPrivateKey (RFC 5915), on a curve that signs here.
    pub(super) fn from_sec1(der: &[u8]) -> Option<Result<Self, KeyFault>> {
        let curves = [KeyAlgorithm::P256, KeyAlgorithm::P384].into_iter();
        let mut read = curves.filter_map(|algorithm| match kind(algorithm) {
            Kind::Ecdsa(curve) => Some((algorithm, EcdsaKeyPair::from_private_key_der(curve, der).ok()?)),
            Kind::Ed25519 | Kind::Rsa(_) | Kind::MlDsa(_) => None,
        });
        read.next().map(|(algorithm, pair)| Ok(Self { pair: Pair::Ecdsa(pair), algorithm }))
    }

    /// From PKCS #1's RSAPrivateKey (RFC 8017).
    pub(super) fn from_pkcs1(der: &[u8]) -> Option<Result<Self, KeyFault>> {
        let pair = Pair::Rsa(RsaKeyPair::from_der(der).ok()?);
        Some(Self { pair, algorithm: KeyAlgorithm::Rsa2048 }.of_its_size())
    }

    /// RSA of any size has one identifier: the modulus says which it is.
    fn of_its_size(self) -> Result<Self, KeyFault> {
        let algorithm = SubjectKey::from_spki(self.spki())?.algorithm();
        Ok(Self { algorithm, ..self })
    }

    /// PKCS#8 version 1 (RFC 5208), which OpenSSL and BoringSSL read for every kind.
    pub(super) fn pkcs8(&self) -> Result<SecretBytes, KeyError> {
        let what = "write a key as PKCS#8";
        // Each of the library's buffers clears itself when dropped.
        Ok(match &self.pair {
            Pair::Ecdsa(pair) => SecretBytes::new(pair.to_pkcs8v1().map_err(library(what))?.as_ref().to_vec()),
            Pair::Ed25519(pair) => SecretBytes::new(pair.to_pkcs8v1().map_err(library(what))?.as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let der: Pkcs8V1Der<'_> = pair.as_der().map_err(library(what))?;
                SecretBytes::new(der.as_ref().to_vec())
            }
            Pair::MlDsa(pair) => SecretBytes::new(pair.to_pkcs8v1().map_err(library(what))?.as_ref().to_vec()),
        })
    }

    /// Which kind it is.
    pub(super) fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// The SubjectPublicKeyInfo.
    pub(super) fn spki(&self) -> Vec<u8> {
        let key = match &self.pair {
            Pair::Ecdsa(pair) => pair.public_key().as_ref(),
            Pair::Ed25519(pair) => pair.public_key().as_ref(),
            Pair::Rsa(pair) => pair.public_key().as_ref(),
            Pair::MlDsa(pair) => pair.public_key().as_ref(),
        };
        let identifier = self.algorithm.spki_identifier();
        let mut bits = Vec::with_capacity(key.len() + 8);
        der::write_header(&mut bits, der::BIT_STRING, key.len() + 1);
        bits.push(0);
        bits.extend_from_slice(key);
        let mut spki = Vec::with_capacity(identifier.len() + bits.len() + 4);
        der::write_header(&mut spki, der::SEQUENCE, identifier.len() + bits.len());
        spki.extend_from_slice(identifier);
        spki.extend_from_slice(&bits);
        spki
    }

    /// The signature in the form that X.509 wants.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let what = "sign";
        let random = SystemRandom::new();
        Ok(match &self.pair {
            Pair::Ecdsa(pair) => pair.sign(&random, message).map_err(library(what))?.as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.try_sign(message).map_err(library(what))?.as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map_err(library(what))?;
                signature
            }
            Pair::MlDsa(pair) => {
                let mut signature = vec![0; pair.algorithm().signature_len()];
                let length = pair.sign(message, &mut signature).map_err(library(what))?;
                signature.truncate(length);
                signature
            }
        })
    }
}
