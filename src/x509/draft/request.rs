//! The request for a CA certificate that an upstream signs: PKCS #10, RFC 2986.

use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, KeyUsagePurpose, SanType};

use super::encode::{KeepTbs, ia5};
use super::{DraftError, LONGEST_NAME};
use crate::identity::TrustDomain;
use crate::x509::key::SubjectKey;
use crate::x509::{chain, der};

/// What a new issuing CA asks of its upstream: its names and its key, on the way to the ledger and then to that key.
#[derive(Debug)]
pub struct RequestDraft {
    info: Vec<u8>,
    key: SubjectKey,
}

impl RequestDraft {
    /// For `key`, under this common name; the organisation is the trust domain, the URI name its ID.
    ///
    /// # Errors
    /// [`DraftError::CommonName`], [`DraftError::Encoding`].
    pub fn new(common_name: &str, trust_domain: &TrustDomain, key: SubjectKey) -> Result<Self, DraftError> {
        if common_name.is_empty() || common_name.chars().count() > LONGEST_NAME {
            return Err(DraftError::CommonName { name: common_name.chars().take(LONGEST_NAME).collect() });
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if trust_domain.as_str().len() <= LONGEST_NAME {
            params.distinguished_name.push(DnType::OrganizationName, trust_domain.as_str());
        }
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names.push(SanType::URI(ia5(&trust_domain.id())?));
        // All that the certificate is to have, so that who signs by hand only copies it.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let mut key_id = Vec::new();
        der::write(&mut key_id, der::OCTET_STRING, key.key_id());
        // id-ce-subjectKeyIdentifier
        params.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 14], key_id));
        let keep = KeepTbs::new(&key);
        params.serialize_request(&keep).map_err(|error| DraftError::Encoding(error.to_string()))?;
        let info = keep.into_kept().ok_or_else(|| DraftError::Encoding("the request was not written".to_owned()))?;
        Ok(Self { info, key })
    }

    /// The bytes to sign.
    #[must_use]
    pub fn info(&self) -> &[u8] {
        &self.info
    }

    /// The identifier of its key, hex, as records have it.
    #[must_use]
    pub fn key_id(&self) -> String {
        hex::encode(self.key.key_id())
    }

    /// Wraps these very bytes with their signature: for `ca::sign`. The request, DER.
    pub(crate) fn finish(self, signature: &[u8]) -> Result<Vec<u8>, DraftError> {
        let algorithm = self.key.algorithm().signature();
        if !algorithm.has_form(signature) {
            return Err(DraftError::SignatureForm { algorithm });
        }
        Ok(chain::wrap(&self.info, algorithm.identifier(), signature))
    }
}
