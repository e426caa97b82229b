//! A certificate that somebody else holds up, read as an X.509-SVID of one trust domain.
//!
//! [`Svid::read`] judges the form alone (X509-SVID sections 2 to 5): exactly one URI name, which is a SPIFFE ID with a
//! path in our domain, and not a CA. Whether an authority of ours signed it, and whether it still stands, is for the
//! caller to find out. Nothing of what is read here is a fact before that. Called by `attest::mtls` at a handshake.

use aws_lc_rs::digest;
use time::OffsetDateTime;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::serial::Serial;
use crate::identity::{SpiffeId, TrustDomain};

/// Why a certificate is no X.509-SVID of the domain. Each says what to present instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// Not a certificate in DER.
    #[error("not a certificate in DER")]
    Malformed,
    /// A CA's certificate, which signs others and is nobody itself.
    #[error("a CA certificate: present the workload's own")]
    Ca,
    /// No URI name, or more than one.
    #[error("{found} URI names, and an X.509-SVID has exactly one")]
    UriNames {
        /// How many.
        found: usize,
    },
    /// The URI name is no workload's SPIFFE ID.
    #[error("its URI name is no workload's SPIFFE ID")]
    NoSpiffeId,
    /// A workload of another trust domain.
    #[error("it belongs to another trust domain")]
    OtherTrustDomain,
    /// A serial number that this program never gives.
    #[error("its serial number is none that chancery gives")]
    Serial,
}

/// What the certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Svid {
    /// Its only URI name.
    pub identity: SpiffeId,
    /// Its serial.
    pub serial: Serial,
    /// Its issuer's subject key identifier, hex; empty when it names none.
    pub issuer_key_id: String,
    /// The first moment of its validity.
    pub not_before: OffsetDateTime,
    /// The last moment of its validity.
    pub not_after: OffsetDateTime,
    /// SHA-256 of its to-be-signed bytes, hex: what the ledger holds of it.
    pub tbs_sha256: String,
}

impl Svid {
    /// Reads one.
    ///
    /// # Errors
    /// Every variant of [`SvidError`].
    pub fn read(der: &[u8], domain: &TrustDomain) -> Result<Self, SvidError> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| SvidError::Malformed)?;
        if !rest.is_empty() {
            return Err(SvidError::Malformed);
        }
        if signs_others(&certificate)? {
            return Err(SvidError::Ca);
        }
        let names = certificate.subject_alternative_name().map_err(|_| SvidError::Malformed)?;
        let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        // What can't be read might be a second URI name.
        if names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
            return Err(SvidError::Malformed);
        }
        let uris = || names.iter().filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None });
        let (Some(identity), 1) = (uris().next(), uris().count()) else {
            return Err(SvidError::UriNames { found: uris().count() });
        };
        let identity = SpiffeId::parse(identity).map_err(|_| SvidError::NoSpiffeId)?;
        if !identity.member_of(domain) {
            return Err(SvidError::OtherTrustDomain);
        }
        let serial = Serial::from_bytes(certificate.raw_serial()).ok_or(SvidError::Serial)?;
        let validity = certificate.validity();
        Ok(Self {
            identity,
            serial,
            issuer_key_id: issuer_key_id(&certificate),
            not_before: validity.not_before.to_datetime(),
            not_after: validity.not_after.to_datetime(),
            tbs_sha256: hex::encode(digest::digest(&digest::SHA256, certificate.tbs_certificate.as_ref())),
        })
    }
}

/// X509-SVID section 5.2: a leaf has `cA` false and neither `keyCertSign` nor `cRLSign`.
fn signs_others(certificate: &X509Certificate<'_>) -> Result<bool, SvidError> {
    let constraints = certificate.basic_constraints().map_err(|_| SvidError::Malformed)?;
    let usage = certificate.key_usage().map_err(|_| SvidError::Malformed)?;
    let usage = usage.is_some_and(|usage| usage.value.key_cert_sign() || usage.value.crl_sign());
    Ok(usage || constraints.is_some_and(|found| found.value.ca))
}

fn issuer_key_id(certificate: &X509Certificate<'_>) -> String {
    let named = certificate.extensions().iter().find_map(|extension| {
        let ParsedExtension::AuthorityKeyIdentifier(found) = extension.parsed_extension() else { return None };
        found.key_identifier.as_ref().map(|id| hex::encode(id.0))
    });
    named.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Mesh;
    use crate::x509::KeyAlgorithm;
    use crate::x509::draft::Draft;
    use crate::x509::tests::{NOW, grant, issuing, root, serial, subject_key, trust_domain};

    /// What is read of a certificate with these URI names that may sign others when `ca`.
    fn read_foreign(uris: &[&str], ca: bool) -> Result<Svid, SvidError> {
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| rcgen::SanType::URI((*uri).try_into().unwrap())).collect();
        params.serial_number = Some(vec![1; 16].into());
        if ca {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        let key = rcgen::KeyPair::generate().unwrap();
        Svid::read(params.self_signed(&key).unwrap().der(), &trust_domain())
    }

    #[test]
    fn ours_read_back() {
        let ca = issuing(&root(KeyAlgorithm::P256), KeyAlgorithm::P256);
        let draft = Draft::leaf(grant(Mesh::Envoy), subject_key(KeyAlgorithm::P256), &ca.issuer, serial(3), NOW);
        let signed = ca.sign(draft.unwrap());
        let svid = Svid::read(signed.der(), &trust_domain()).unwrap();
        assert_eq!(svid.identity.as_str(), "spiffe://example.org/web");
        assert_eq!((svid.serial, svid.not_after), (serial(3), signed.draft().not_after()));
        assert_eq!(svid.issuer_key_id, hex::encode(ca.issuer.key_id()));
        assert_eq!(svid.tbs_sha256, signed.facts().tbs_sha256);
        let authority = Svid::read(ca.issuer.der(), &trust_domain());
        assert_eq!(authority, Err(SvidError::Ca));
    }

    #[test]
    fn what_is_no_svid_of_the_domain_is_refused() {
        let good = "spiffe://example.org/web";
        assert!(read_foreign(&[good], false).is_ok());
        assert_eq!(read_foreign(&[good], true), Err(SvidError::Ca));
        assert_eq!(read_foreign(&[], false), Err(SvidError::UriNames { found: 0 }));
        assert_eq!(read_foreign(&[good, "spiffe://example.org/b"], false), Err(SvidError::UriNames { found: 2 }));
        assert_eq!(read_foreign(&["https://example.org/web"], false), Err(SvidError::NoSpiffeId));
        assert_eq!(read_foreign(&["spiffe://example.org"], false), Err(SvidError::NoSpiffeId));
        assert_eq!(read_foreign(&["spiffe://example.com/web"], false), Err(SvidError::OtherTrustDomain));
        assert_eq!(Svid::read(b"nonsense", &trust_domain()), Err(SvidError::Malformed));
    }
}
