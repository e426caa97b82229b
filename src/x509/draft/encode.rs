//! Has rcgen write the to-be-signed bytes, and keeps them.
//!
//! rcgen signs while it builds, so it gets a key that signs nothing; and it keeps one value per attribute of a name, so it
//! is told an empty issuer and the real one is spliced in as raw DER.

use std::cell::RefCell;

use rcgen::{CertificateParams, DistinguishedName, KeyIdMethod, KeyUsagePurpose};
use time::OffsetDateTime;

use super::DraftError;
use crate::x509::der::{self, NotDer, Reader};
use crate::x509::key::SubjectKey;
use crate::x509::profile::LeafUsage;

/// What rcgen calls it.
pub(super) fn purpose(usage: LeafUsage) -> KeyUsagePurpose {
    match usage {
        LeafUsage::DigitalSignature => KeyUsagePurpose::DigitalSignature,
        LeafUsage::KeyEncipherment => KeyUsagePurpose::KeyEncipherment,
    }
}

/// A name as rcgen wants it.
pub(super) fn ia5(text: &str) -> Result<rcgen::string::Ia5String, DraftError> {
    text.try_into().map_err(|error: rcgen::Error| DraftError::Encoding(error.to_string()))
}

/// Parameters with nothing of rcgen's defaults in them (a subject, a validity until 4096, no AKI).
pub(in crate::x509) fn blank_params(key_id: Vec<u8>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = OffsetDateTime::UNIX_EPOCH;
    params.not_after = OffsetDateTime::UNIX_EPOCH;
    params.use_authority_key_identifier_extension = true;
    params.key_identifier_method = KeyIdMethod::PreSpecified(key_id);
    params
}

/// Has rcgen write the TBS, with the issuer's own raw name in it; without `issuer_name` it is the subject's.
pub(super) fn build(
    params: &CertificateParams,
    key: &SubjectKey,
    issuer: &CertificateParams,
    issuer_key: &SubjectKey,
    issuer_name: Option<&[u8]>,
) -> Result<Vec<u8>, DraftError> {
    let keep = KeepTbs::new(issuer_key);
    let issuer = rcgen::Issuer::from_params(issuer, &keep);
    params.signed_by(key, &issuer).map_err(|error| DraftError::Encoding(error.to_string()))?;
    drop(issuer);
    let spliced = keep.into_kept().and_then(|tbs| splice(&tbs, issuer_name).ok());
    spliced.ok_or_else(|| DraftError::Encoding("the issuer's name could not be set".to_owned()))
}

/// A key for rcgen that signs nothing: it keeps the bytes.
pub(in crate::x509) struct KeepTbs<'a> {
    key: &'a SubjectKey,
    kept: RefCell<Option<Vec<u8>>>,
}

impl<'a> KeepTbs<'a> {
    /// Stands for the private half of `key`.
    pub(in crate::x509) fn new(key: &'a SubjectKey) -> Self {
        Self { key, kept: RefCell::new(None) }
    }

    /// What rcgen asked to have signed.
    pub(in crate::x509) fn into_kept(self) -> Option<Vec<u8>> {
        self.kept.into_inner()
    }
}

impl rcgen::PublicKeyData for KeepTbs<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.key.raw()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        rcgen::PublicKeyData::algorithm(self.key)
    }
}

impl rcgen::SigningKey for KeepTbs<'_> {
    fn sign(&self, tbs: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        *self.kept.borrow_mut() = Some(tbs.to_vec());
        Ok(Vec::new())
    }
}

/// RFC 5280 section 4.1: version, serial, signature, *issuer*, validity, subject, …
fn splice(tbs: &[u8], issuer_name: Option<&[u8]>) -> Result<Vec<u8>, NotDer> {
    let content = der::only(tbs, der::SEQUENCE)?.content;
    let mut fields = Reader::new(content);
    let before = fields.any()?.whole.len() + fields.any()?.whole.len() + fields.any()?.whole.len();
    let issuer = fields.expect(der::SEQUENCE)?.whole;
    fields.expect(der::SEQUENCE)?;
    let name = issuer_name.unwrap_or(fields.expect(der::SEQUENCE)?.whole);
    replaced(content, before, issuer.len(), name)
}

/// A SEQUENCE of `content`, where `length` bytes from `before` on are `name` instead.
pub(in crate::x509) fn replaced(content: &[u8], before: usize, length: usize, name: &[u8]) -> Result<Vec<u8>, NotDer> {
    let (head, rest) = content.split_at_checked(before).ok_or(NotDer)?;
    let (_, tail) = rest.split_at_checked(length).ok_or(NotDer)?;
    let length = head.len() + name.len() + tail.len();
    let mut out = Vec::with_capacity(length + 6);
    der::write_header(&mut out, der::SEQUENCE, length);
    for part in [head, name, tail] {
        out.extend_from_slice(part);
    }
    Ok(out)
}
