//! A certificate, its key and the roots as one set, checked before it is used.

use rcgen::PublicKeyData;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;
use x509_parser::pem::Pem;
use x509_parser::prelude::GeneralName;
use zeroize::Zeroizing;

/// What the files hold.
pub(super) struct Set {
    pub(super) chain: Vec<u8>,
    pub(super) key: Zeroizing<Vec<u8>>,
    pub(super) bundle: Vec<u8>,
    /// Revocation lists; empty when there are none.
    pub(super) crl: Vec<u8>,
    pub(super) certificate_version: String,
    pub(super) bundle_version: String,
}

/// What a leaf certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaf {
    /// Lower-case hex.
    pub(super) serial: String,
    pub(super) identity: String,
    pub(super) not_before: OffsetDateTime,
    pub(super) not_after: OffsetDateTime,
}

/// Why what the server sent can't be used. The texts go to the server as the reason of a refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SetError {
    /// Another kind of secret than the name should stand for.
    #[error("the response holds no {0}")]
    Kind(&'static str),
    /// No certificate where there must be one.
    #[error("the {0} is no PEM certificate")]
    NotPem(&'static str),
    /// The key can't be read.
    #[error("the private key is no PKCS#8 key in PEM")]
    NotKey,
    /// They don't belong together.
    #[error("the private key does not match the certificate")]
    Mismatch,
    /// A root of the bundle without its revocation list.
    #[error("there are revocation lists, but none of the root {0}: everything below it would be refused")]
    NoList(String),
    /// A revocation list that its root did not sign.
    #[error("the revocation list of the root {0} does not carry its signature")]
    ListSignature(String),
    /// Too late.
    #[error("the certificate has expired")]
    Expired,
}

/// Reads the leaf of `chain` and holds it against its key and the time.
pub(super) fn check_certificate(chain: &[u8], key: &[u8], now: OffsetDateTime) -> Result<Leaf, SetError> {
    const WHAT: &str = "certificate chain";
    let pem = Pem::iter_from_buffer(chain).next().and_then(Result::ok).ok_or(SetError::NotPem(WHAT))?;
    let certificate = pem.parse_x509().map_err(|_| SetError::NotPem(WHAT))?;
    let der = PrivateKeyDer::from_pem_slice(key).map_err(|_| SetError::NotKey)?;
    let key = rcgen::KeyPair::try_from(&der).map_err(|_| SetError::NotKey)?;
    if key.subject_public_key_info() != certificate.public_key().raw {
        return Err(SetError::Mismatch);
    }
    let not_before = certificate.validity().not_before.to_datetime();
    let not_after = certificate.validity().not_after.to_datetime();
    if not_after <= now {
        return Err(SetError::Expired);
    }
    let names = certificate.subject_alternative_name().ok().flatten();
    let uri = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .find_map(|name| if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None });
    let serial = hex::encode(certificate.raw_serial());
    Ok(Leaf { serial, identity: uri.unwrap_or_default(), not_before, not_after })
}

/// That `bundle` holds certificates and nothing else.
pub(super) fn check_bundle(bundle: &[u8]) -> Result<(), SetError> {
    let mut roots = Pem::iter_from_buffer(bundle).peekable();
    let any = roots.peek().is_some();
    let all = roots.all(|pem| pem.is_ok_and(|pem| pem.label == "X509 CRL" || pem.parse_x509().is_ok()));
    if any && all { Ok(()) } else { Err(SetError::NotPem("bundle")) }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// A self-signed certificate until `not_after`, with its key.
    pub(in crate::cli::fetch) fn certificate(not_after: OffsetDateTime) -> (Vec<u8>, Zeroizing<Vec<u8>>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.not_after = not_after;
        params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://example.org/a".try_into().unwrap())];
        let certificate = params.self_signed(&key).unwrap();
        (certificate.pem().into_bytes(), key.serialize_pem().into_bytes().into())
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_set_must_fit_together_and_be_in_time() {
        let (now, later) = (datetime!(2026-11-23 12:00 UTC), datetime!(2026-11-24 12:00 UTC));
        let (chain, key) = testing::certificate(later);
        let (_, other) = testing::certificate(later);
        let leaf = check_certificate(&chain, &key, now).unwrap();
        assert_eq!((leaf.identity.as_str(), leaf.not_after), ("spiffe://example.org/a", later));
        assert_eq!(check_certificate(&chain, &other, now), Err(SetError::Mismatch));
        assert_eq!(check_certificate(&chain, &key, later), Err(SetError::Expired));
        assert_eq!(check_certificate(&chain, b"x", now), Err(SetError::NotKey));
        assert_eq!(check_certificate(b"x", &key, now), Err(SetError::NotPem("certificate chain")));
        assert_eq!(check_bundle(&chain), Ok(()));
        assert_eq!(check_bundle(b""), Err(SetError::NotPem("bundle")));
        assert_eq!(check_bundle(&key), Err(SetError::NotPem("bundle")));
    }
}
