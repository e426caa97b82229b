//! CA certificates that issue, and the chain that a leaf carries.
//!
//! An [`Issuer`] was read once, is a CA that may sign certificates, and every link from it upwards was verified by name,
//! key identifier and signature: Envoy refuses a chain in the wrong order, Istio's agent serves it to its proxy as it is.
//! Its subject's bytes are kept raw, because a Name that is parsed and written again may change (equal attributes twice,
//! several attributes in one RDN, other string types) and then the chain breaks. Made by `ca::slot`, used by [`super::draft`].

use std::sync::Arc;

use aws_lc_rs::digest;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use super::Serial;
use super::algorithm::SignatureAlgorithm;
use super::der::{self, NotDer, Reader};
use super::key::{KeyFault, SubjectKey};

/// The longest chain that is read: enough for any real hierarchy, short enough for every handshake.
pub const LONGEST_CHAIN: usize = 5;

/// Why a certificate cannot issue. The operator's to mend: these are certificates that were configured or stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// Not a certificate in DER.
    #[error("this is no X.509 certificate in DER, or it has bytes behind its end: write the CA certificate again")]
    Malformed,
    /// Not a CA.
    #[error("{name} is no CA: basicConstraints must say CA:TRUE (RFC 5280 section 4.2.1.9)")]
    NotCa {
        /// Its subject.
        name: String,
    },
    /// Without the right to sign certificates.
    #[error("{name} may not sign certificates: keyUsage must have keyCertSign (RFC 5280 section 4.2.1.3)")]
    NoCertSign {
        /// Its subject.
        name: String,
    },
    /// An empty subject.
    #[error("a CA certificate has an empty subject: an issuer must have a name (RFC 5280 section 4.1.2.4)")]
    NoName,
    /// Without subject key identifier.
    #[error("{name} has no subject key identifier: make it again with one (RFC 5280 section 4.2.1.2)")]
    NoKeyId {
        /// Its subject.
        name: String,
    },
    /// A key that we do not know.
    #[error("{name}: {fault}")]
    Key {
        /// Its subject.
        name: String,
        /// What is wrong with it.
        #[source]
        fault: KeyFault,
    },
    /// `notAfter` before `notBefore`.
    #[error("{name} is never valid: its notAfter is not after its notBefore")]
    NeverValid {
        /// Its subject.
        name: String,
    },
    /// A chain that is not one.
    #[error(
        "{child} was not issued by {parent}: give the chain in order, each certificate before the one that issued it"
    )]
    Link {
        /// The lower one.
        child: String,
        /// The one that stands above it.
        parent: String,
    },
    /// A CA stands below one that does not permit it.
    #[error("{parent} permits {allowed} CAs below it, but there are {found} (RFC 5280 section 4.2.1.9)")]
    PathLength {
        /// The upper one.
        parent: String,
        /// Its limit.
        allowed: u32,
        /// How many there are.
        found: usize,
    },
    /// More than [`LONGEST_CHAIN`] certificates.
    #[error("a chain of {found} certificates is longer than {LONGEST_CHAIN}")]
    TooLong {
        /// How many.
        found: usize,
    },
}

impl From<NotDer> for IssuerError {
    fn from(NotDer: NotDer) -> Self {
        Self::Malformed
    }
}

/// A certificate's three parts, as they stand in its DER.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts<'a> {
    /// The to-be-signed bytes.
    pub(crate) tbs: &'a [u8],
    /// The whole AlgorithmIdentifier outside the TBS.
    pub(crate) algorithm: &'a [u8],
    /// The signature's octets.
    pub(crate) signature: &'a [u8],
}

/// Splits a certificate; nothing may stand behind it.
pub(crate) fn split(der: &[u8]) -> Result<Parts<'_>, NotDer> {
    let mut outer = Reader::new(der::only(der, der::SEQUENCE)?.content);
    let (tbs, algorithm) = (outer.expect(der::SEQUENCE)?, outer.expect(der::SEQUENCE)?);
    let signature = der::whole_bits(outer.expect(der::BIT_STRING)?.content)?;
    outer.end()?;
    Ok(Parts { tbs: tbs.whole, algorithm: algorithm.whole, signature })
}

/// Makes the whole of a certificate or CRL of its three parts: what [`split`] takes apart.
pub(crate) fn wrap(tbs: &[u8], algorithm: &[u8], signature: &[u8]) -> Vec<u8> {
    let mut bits = Vec::with_capacity(6);
    der::write_header(&mut bits, der::BIT_STRING, signature.len() + 1);
    // No unused bits.
    bits.push(0);
    let length = tbs.len() + algorithm.len() + bits.len() + signature.len();
    let mut out = Vec::with_capacity(length + 6);
    der::write_header(&mut out, der::SEQUENCE, length);
    for part in [tbs, algorithm, &bits, signature] {
        out.extend_from_slice(part);
    }
    out
}

/// One CA certificate able to issue, with the way up from it.
#[derive(Debug)]
pub struct Issuer {
    own: Authority,
    chain: Arc<[Vec<u8>]>,
    chain_sha256: [u8; 32],
    /// What rcgen needs to know of an issuer: its key identifier. Made once.
    rcgen: rcgen::CertificateParams,
}

/// What is read of each certificate of the chain.
#[derive(Debug)]
struct Authority {
    der: Vec<u8>,
    name: String,
    subject: Vec<u8>,
    issuer: Vec<u8>,
    key: SubjectKey,
    key_id: Vec<u8>,
    issuer_key_id: Option<Vec<u8>>,
    serial: Option<Serial>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    path_length: Option<u32>,
    signs_crls: bool,
}

/// The certificates of `pool` above `certificate`, nearest first, up to a root or as far as there are any: each issued
/// the one before it, by name, key identifier and signature. Of several that did, a root.
#[must_use]
pub fn above(certificate: &[u8], pool: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let pool: Vec<Authority> = pool.iter().filter_map(|der| Authority::read(der.clone()).ok()).collect();
    let mut found: Vec<Vec<u8>> = Vec::new();
    let Ok(mut below) = Authority::read(certificate.to_vec()) else { return found };
    while !below.self_issued() && found.len() + 1 < LONGEST_CHAIN {
        let parents = || pool.iter().filter(|parent| parent.issued(&below).is_ok());
        let Some(parent) = parents().find(|parent| parent.self_issued()).or_else(|| parents().next()) else { break };
        found.push(parent.der.clone());
        let Ok(next) = Authority::read(parent.der.clone()) else { break };
        below = next;
    }
    found
}

impl Issuer {
    /// Reads a CA certificate and those above it, nearest first; a root at the end may be given or left out.
    ///
    /// # Errors
    /// Every variant of [`IssuerError`].
    pub fn from_der(der: Vec<u8>, parents: Vec<Vec<u8>>) -> Result<Self, IssuerError> {
        if parents.len() >= LONGEST_CHAIN {
            return Err(IssuerError::TooLong { found: parents.len() + 1 });
        }
        let own = Authority::read(der)?;
        let mut above: Vec<Authority> = Vec::with_capacity(parents.len());
        for parent in parents {
            let parent = Authority::read(parent)?;
            // Each CA between this parent and a leaf, the issuing one included, counts against its limit.
            parent.permits(above.len() + 1)?;
            parent.issued(above.last().unwrap_or(&own))?;
            above.push(parent);
        }
        let rcgen = super::draft::blank_params(own.key_id.clone());
        let all = std::iter::once(&own).chain(&above);
        let chain: Vec<Vec<u8>> = all.filter(|link| !link.self_issued()).map(|link| link.der.clone()).collect();
        let mut hash = digest::Context::new(&digest::SHA256);
        chain.iter().for_each(|der| hash.update(der));
        let mut chain_sha256 = [0; 32];
        chain_sha256.copy_from_slice(hash.finish().as_ref());
        Ok(Self { own, chain: chain.into(), chain_sha256, rcgen })
    }

    /// Its certificate.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.own.der
    }

    /// Its subject as text, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.own.name
    }

    /// Its subject's raw DER: the issuer of everything below.
    #[must_use]
    pub fn subject_der(&self) -> &[u8] {
        &self.own.subject
    }

    /// Its subject key identifier.
    #[must_use]
    pub fn key_id(&self) -> &[u8] {
        &self.own.key_id
    }

    /// The key identifier of the CA above it, as its certificate says; a root may leave it out.
    #[must_use]
    pub fn issuer_key_id(&self) -> Option<&[u8]> {
        self.own.issuer_key_id.as_deref()
    }

    /// Its certificate's serial, where it is a positive number as RFC 5280 wants it.
    #[must_use]
    pub fn serial(&self) -> Option<Serial> {
        self.own.serial
    }

    /// Its public key.
    #[must_use]
    pub fn key(&self) -> &SubjectKey {
        &self.own.key
    }

    /// How it signs.
    #[must_use]
    pub fn signature_algorithm(&self) -> SignatureAlgorithm {
        self.own.key.algorithm().signature()
    }

    /// The first moment of its validity.
    #[must_use]
    pub fn not_before(&self) -> OffsetDateTime {
        self.own.not_before
    }

    /// The last moment of its validity.
    #[must_use]
    pub fn not_after(&self) -> OffsetDateTime {
        self.own.not_after
    }

    /// Whether it may sign CRLs: a verifier takes none of one that may not (RFC 5280 section 6.3.3, step f).
    #[must_use]
    pub fn signs_crls(&self) -> bool {
        self.own.signs_crls
    }

    /// How many CAs may stand below it; nothing means any number.
    #[must_use]
    pub fn path_length(&self) -> Option<u32> {
        self.own.path_length
    }

    /// Whether it is a root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.own.self_issued()
    }

    /// What follows a leaf in its chain: this CA, then those above it, without any root. Empty under a root.
    #[must_use]
    pub fn chain(&self) -> &Arc<[Vec<u8>]> {
        &self.chain
    }

    /// SHA-256 over [`Self::chain`], concatenated.
    #[must_use]
    pub fn chain_sha256(&self) -> &[u8; 32] {
        &self.chain_sha256
    }

    pub(super) fn rcgen(&self) -> &rcgen::CertificateParams {
        &self.rcgen
    }
}

impl Authority {
    fn read(der: Vec<u8>) -> Result<Self, IssuerError> {
        split(&der)?;
        let (_, certificate) = X509Certificate::from_der(&der).map_err(|_| IssuerError::Malformed)?;
        let name = certificate.subject().to_string();
        let subject = certificate.subject().as_raw().to_vec();
        if certificate.subject().iter().next().is_none() {
            return Err(IssuerError::NoName);
        }
        let constraints = certificate.basic_constraints().map_err(|_| IssuerError::Malformed)?;
        let Some(constraints) = constraints.filter(|found| found.value.ca) else {
            return Err(IssuerError::NotCa { name });
        };
        let path_length = constraints.value.path_len_constraint;
        // RFC 5280 permits a CA without keyUsage; X509-SVID section 4.3 does not.
        let usage = certificate.key_usage().map_err(|_| IssuerError::Malformed)?;
        let Some(usage) = usage.filter(|usage| usage.value.key_cert_sign()) else {
            return Err(IssuerError::NoCertSign { name });
        };
        let signs_crls = usage.value.crl_sign();
        let (mut key_id, mut issuer_key_id) = (None, None);
        for extension in certificate.extensions() {
            if let ParsedExtension::SubjectKeyIdentifier(found) = extension.parsed_extension() {
                key_id = Some(found.0.to_vec());
            } else if let ParsedExtension::AuthorityKeyIdentifier(found) = extension.parsed_extension() {
                issuer_key_id = found.key_identifier.as_ref().map(|id| id.0.to_vec());
            }
        }
        let Some(key_id) = key_id else { return Err(IssuerError::NoKeyId { name }) };
        let key = SubjectKey::from_spki(certificate.public_key().raw.to_vec());
        let key = key.map_err(|fault| IssuerError::Key { name: name.clone(), fault })?;
        let validity = certificate.validity();
        let (not_before, not_after) = (validity.not_before.to_datetime(), validity.not_after.to_datetime());
        if not_after <= not_before {
            return Err(IssuerError::NeverValid { name });
        }
        let issuer = certificate.issuer().as_raw().to_vec();
        let serial = Serial::from_bytes(certificate.raw_serial());
        let read = Self {
            name,
            serial,
            subject,
            issuer,
            key,
            key_id,
            issuer_key_id,
            not_before,
            not_after,
            path_length,
            signs_crls,
            der,
        };
        // What calls itself a root must have signed itself, or another key hides behind a root's name.
        if read.self_issued() {
            read.issued(&read)?;
        }
        Ok(read)
    }

    fn self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    fn permits(&self, below: usize) -> Result<(), IssuerError> {
        // `below` counts CAs under this one; the limit does not count the last certificate, and that is the leaf.
        match self.path_length {
            Some(allowed) if usize::try_from(allowed).is_ok_and(|allowed| below > allowed) => {
                Err(IssuerError::PathLength { parent: self.name.clone(), allowed, found: below })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn issued(&self, child: &Self) -> Result<(), IssuerError> {
        let same_name = child.issuer == self.subject;
        let same_key = child.issuer_key_id.as_ref().is_none_or(|id| *id == self.key_id);
        let parts = split(&child.der)?;
        let verified = || self.key.algorithm().verify(parts.algorithm, self.key.raw(), parts.tbs, parts.signature);
        if same_name && same_key && verified() == Some(true) {
            return Ok(());
        }
        Err(IssuerError::Link { child: child.name.clone(), parent: self.name.clone() })
    }
}

#[cfg(test)]
mod tests;
