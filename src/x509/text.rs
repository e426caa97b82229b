//! A certificate as text: the same certificate, the same text, field by field in the order of the DER.
//!
//! For `cert show`, and for the golden files in `certs/golden/`, which are one certificate of each profile without its
//! random parts. Reads foreign certificates too, so nothing that it meets is trusted to be well formed.

use std::fmt::Write as _;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, KeyUsage, ParsedExtension, X509Extension};
use x509_parser::oid_registry::{OidRegistry, format_oid};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use super::chain::IssuerError;
use super::key::SubjectKey;
use crate::clock::rfc3339_seconds;

/// How much is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Everything.
    Whole,
    /// Lengths in place of what differs with every key: key identifiers and signature.
    WithoutKeys,
}

/// The text of a certificate.
///
/// # Errors
/// [`IssuerError::Malformed`] when it is no certificate.
pub fn certificate(der: &[u8], detail: Detail) -> Result<String, IssuerError> {
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| IssuerError::Malformed)?;
    if !rest.is_empty() {
        return Err(IssuerError::Malformed);
    }
    let registry = OidRegistry::default().with_all_crypto().with_x509();
    let mut out = Text { out: String::new(), registry, detail };
    out.line(0, "certificate", &format!("X.509 version {}", certificate.version().0 + 1));
    out.line(1, "serial", &hex::encode(certificate.raw_serial()));
    out.line(1, "signature algorithm", &out.oid(&certificate.signature_algorithm.algorithm));
    out.line(1, "issuer", &name(certificate.issuer()));
    out.line(1, "not before", &rfc3339_seconds(certificate.validity().not_before.to_datetime()));
    out.line(1, "not after", &rfc3339_seconds(certificate.validity().not_after.to_datetime()));
    out.line(1, "subject", &name(certificate.subject()));
    let key = match SubjectKey::from_spki(certificate.public_key().raw.to_vec()) {
        Ok(key) => format!("{}, {} bits", key.algorithm(), key.bits()),
        Err(fault) => format!("{} ({fault})", out.oid(&certificate.public_key().algorithm.algorithm)),
    };
    out.line(1, "public key", &key);
    out.line(1, "extensions", "");
    certificate.extensions().iter().for_each(|extension| out.extension(extension));
    let signature = out.bytes(&certificate.signature_value.data);
    // An ECDSA signature is 70 to 72 octets long by chance.
    out.line(1, "signature", if detail == Detail::Whole { &signature } else { "present" });
    Ok(out.out)
}

struct Text {
    out: String,
    registry: OidRegistry<'static>,
    detail: Detail,
}

impl Text {
    fn line(&mut self, depth: usize, label: &str, value: &str) {
        let space = if value.is_empty() { "" } else { " " };
        writeln!(self.out, "{:1$}{label}:{space}{value}", "", depth * 2).expect("writing to a string succeeds");
    }

    fn oid(&self, oid: &x509_parser::der_parser::oid::Oid<'_>) -> String {
        format_oid(oid, &self.registry)
    }

    fn bytes(&self, bytes: &[u8]) -> String {
        match self.detail {
            Detail::Whole => hex::encode(bytes),
            Detail::WithoutKeys => format!("{} octets", bytes.len()),
        }
    }

    fn extension(&mut self, extension: &X509Extension<'_>) {
        let (label, values) = self.describe(extension);
        let critical = if extension.critical { " (critical)" } else { "" };
        self.line(2, &format!("{label}{critical}"), "");
        for value in values {
            writeln!(self.out, "      {value}").expect("writing to a string succeeds");
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a foreign enum of dozens; what we do not issue is shown in hex"
    )]
    fn describe(&self, extension: &X509Extension<'_>) -> (String, Vec<String>) {
        match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(found) => {
                let id = found.key_identifier.as_ref().map(|id| self.bytes(id.0));
                let whole = found.authority_cert_serial.is_some() || found.authority_cert_issuer.is_some();
                let more = whole.then(|| "and issuer with serial".to_owned());
                ("authority key identifier".into(), id.into_iter().chain(more).collect())
            }
            ParsedExtension::SubjectKeyIdentifier(found) => {
                ("subject key identifier".into(), vec![self.bytes(found.0)])
            }
            ParsedExtension::KeyUsage(usage) => ("key usage".into(), key_usage(usage)),
            ParsedExtension::ExtendedKeyUsage(usage) => {
                let known = [
                    ("serverAuth", usage.server_auth),
                    ("clientAuth", usage.client_auth),
                    ("codeSigning", usage.code_signing),
                    ("emailProtection", usage.email_protection),
                    ("timeStamping", usage.time_stamping),
                    ("OCSPSigning", usage.ocsp_signing),
                    ("anyExtendedKeyUsage", usage.any),
                ];
                let others = usage.other.iter().map(|oid| self.oid(oid));
                ("extended key usage".into(), chosen(&known).into_iter().chain(others).collect())
            }
            ParsedExtension::BasicConstraints(found) => {
                let length = found.path_len_constraint.map(|length| format!("path length {length}"));
                let is_ca = if found.ca { "CA" } else { "no CA" };
                ("basic constraints".into(), std::iter::once(is_ca.to_owned()).chain(length).collect())
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                ("subject alternative names".into(), names.general_names.iter().map(general_name).collect())
            }
            _ => (self.oid(&extension.oid), vec![hex::encode(extension.value)]),
        }
    }
}

fn name(name: &X509Name<'_>) -> String {
    let text = name.to_string();
    if text.is_empty() { "(empty)".to_owned() } else { text }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a foreign enum; the kinds that we never issue are shown as they are"
)]
fn general_name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::URI(uri) => format!("URI {uri}"),
        GeneralName::DNSName(dns) => format!("DNS {dns}"),
        other => format!("{other:?}"),
    }
}

fn key_usage(usage: &KeyUsage) -> Vec<String> {
    chosen(&[
        ("digitalSignature", usage.digital_signature()),
        ("nonRepudiation", usage.non_repudiation()),
        ("keyEncipherment", usage.key_encipherment()),
        ("dataEncipherment", usage.data_encipherment()),
        ("keyAgreement", usage.key_agreement()),
        ("keyCertSign", usage.key_cert_sign()),
        ("cRLSign", usage.crl_sign()),
        ("encipherOnly", usage.encipher_only()),
        ("decipherOnly", usage.decipher_only()),
    ])
}

fn chosen(named: &[(&str, bool)]) -> Vec<String> {
    named.iter().filter(|(_, there)| *there).map(|(name, _)| (*name).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Mesh;
    use crate::x509::draft::Draft;
    use crate::x509::tests::*;
    use crate::x509::{KeyAlgorithm, profile::Profiles};

    fn check(name: &str, der: &[u8]) {
        let found = certificate(der, Detail::WithoutKeys).unwrap();
        crate::golden::check(&format!("certs/golden/{name}.txt"), &found);
    }

    #[test]
    fn each_profile_has_its_golden_certificate() {
        let root = root(KeyAlgorithm::P256);
        let ca = issuing(&root, KeyAlgorithm::P256);
        check("root", root.issuer.der());
        check("issuing", ca.issuer.der());
        for (number, mesh) in Mesh::ALL.into_iter().enumerate() {
            let profile = Profiles::builtin().leaf(mesh);
            let grant = grant_of(profile, profile.key_algorithms(), profile.lifetime().default);
            let key = subject_key(profile.key_algorithm());
            let draft = Draft::leaf(grant, key, &ca.issuer, serial(10 + number as u64), NOW).unwrap();
            check(profile.name(), ca.sign(draft).der());
        }
        let istio = Profiles::builtin().leaf(Mesh::Istio);
        let grant = grant_of(istio, istio.key_algorithms(), istio.lifetime().default);
        let draft = Draft::leaf(grant, subject_key(KeyAlgorithm::Rsa2048), &ca.issuer, serial(20), NOW).unwrap();
        check("leaf-istio-rsa", ca.sign(draft).der());
    }

    #[test]
    fn whole_text_shows_the_key_identifiers() {
        let root = root(KeyAlgorithm::Ed25519);
        let text = certificate(root.issuer.der(), Detail::Whole).unwrap();
        assert!(text.contains(&hex::encode(root.issuer.key_id())), "{text}");
        assert_eq!(certificate(b"nothing", Detail::Whole), Err(IssuerError::Malformed));
    }
}
