//! Certificate signing requests: foreign bytes in, a key that its sender holds out.
//!
//! A [`Csr`] was small enough, was one request and nothing else, has a key that we certify, and was signed by that key.
//! Of all it says only the SubjectPublicKeyInfo is ever used, byte for byte; names are compared with what policy granted
//! ([`Csr::check_against`]) so that a client which expects another certificate than it will get learns it, and are never
//! copied. Called by `api` and the admin API before the street begins. Every error is the sender's to mend.

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use super::algorithm::KeyAlgorithm;
use super::der::{self, NotDer, Reader};
use super::key::{KeyFault, SubjectKey};
use super::pem::{self, PemError};
use crate::policy::Grant;

/// The largest CSR that is read, in bytes, PEM or DER: twice what ML-DSA-87 with the longest SPIFFE ID needs.
pub const LARGEST_CSR: usize = 16 * 1024;

/// The most names that are looked at; no grant has nearly as many.
const MOST_NAMES: usize = 64;

/// The context tag of the attributes in a CertificationRequestInfo.
const ATTRIBUTES: u8 = 0xa0;

/// Why a CSR is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Nothing was sent.
    #[error("the CSR is empty: send one in PEM or DER (RFC 2986)")]
    Empty,
    /// More than [`LARGEST_CSR`].
    #[error("the CSR has {length} bytes, at most {LARGEST_CSR} are read: leave out what is not key, subject or names")]
    TooLarge {
        /// Bytes sent.
        length: usize,
    },
    /// Looks like PEM and is not.
    #[error("the CSR: {0}")]
    Pem(#[from] PemError),
    /// None or several blocks.
    #[error("there are {found} PEM blocks: send exactly one CERTIFICATE REQUEST")]
    NotOne {
        /// How many.
        found: usize,
    },
    /// A block of another kind.
    #[error(
        "a PEM block {label} was sent where a CERTIFICATE REQUEST belongs; if that was a private key, it is compromised: make a new one and send only the CSR"
    )]
    Label {
        /// What was sent.
        label: String,
    },
    /// Not a CSR in DER, or with bytes behind it.
    #[error(
        "this is no CSR in DER (RFC 2986), or it is damaged or has bytes behind its end: make it again with a current tool"
    )]
    Malformed,
    /// Version is not 1.
    #[error("the CSR's version is not 1 (RFC 2986 section 4.1): make it again with a current tool")]
    Version,
    /// A key that is not certified.
    #[error(transparent)]
    Key(#[from] KeyFault),
    /// Signed in a way that is not accepted for the key.
    #[error(
        "the CSR is signed with an algorithm that is not accepted for its {key} key: sign it with SHA-256 (not SHA-1, not RSA-PSS)"
    )]
    SignatureAlgorithm {
        /// The key's kind.
        key: KeyAlgorithm,
    },
    /// The signature does not verify.
    #[error(
        "the CSR's signature does not verify under its own key: it was changed on the way, or signed with another key"
    )]
    Signature,
    /// It wants to be a CA.
    #[error(
        "the CSR asks for a CA certificate (basicConstraints or keyUsage): a workload never gets one; leave that extension out"
    )]
    AsksForCa,
    /// An extension that is never issued, or twice the same.
    #[error(
        "the CSR asks for extension {oid}, which is not issued here, asked for twice, or not well formed: leave it out"
    )]
    Extension {
        /// Which.
        oid: String,
    },
    /// More names than any grant has.
    #[error("the CSR asks for more than {MOST_NAMES} names: ask for those that policy grants, or for none")]
    TooManyNames,
    /// A subject that is neither empty nor granted.
    #[error(
        "the CSR's subject is {found:?}, but certificates here have an empty subject: leave it out (openssl req -subj /)"
    )]
    Subject {
        /// What it says.
        found: String,
    },
    /// A URI name that is not the granted identity.
    #[error(
        "the CSR asks for {found:?}, but {granted} is what policy grants this caller: ask for that, or leave the URI name out"
    )]
    Uri {
        /// What it asks for.
        found: String,
        /// What it would get.
        granted: String,
    },
    /// Several URI names.
    #[error("the CSR asks for {found} URI names: an X509-SVID has exactly one; ask for one or none")]
    ManyUris {
        /// How many.
        found: usize,
    },
    /// A DNS name that is not granted.
    #[error(
        "the CSR asks for the DNS name {found:?}, which policy does not grant this caller: leave it out, or have a rule grant it"
    )]
    Dns {
        /// What it asks for.
        found: String,
    },
    /// An IP address, an e-mail address or another kind of name.
    #[error("the CSR asks for a name that is neither URI nor DNS: leave it out")]
    OtherName,
    /// A kind of key that this grant does not cover.
    #[error(
        "the CSR's key is {found}, but policy accepts {accepted} here: make such a key, or have the rule accept {found}"
    )]
    KeyNotGranted {
        /// What it is.
        found: KeyAlgorithm,
        /// What would do.
        accepted: String,
    },
}

impl From<NotDer> for CsrError {
    fn from(NotDer: NotDer) -> Self {
        Self::Malformed
    }
}

/// A request whose signature verified.
#[derive(Debug)]
pub struct Csr {
    key: SubjectKey,
    subject: Vec<Attribute>,
    subject_text: String,
    uri_names: Vec<String>,
    dns_names: Vec<String>,
    other_names: usize,
}

#[derive(Debug)]
struct Attribute {
    is_common_name: bool,
    /// Nothing when it is no text.
    value: Option<String>,
}

/// Reads and verifies one CSR, PEM or DER.
///
/// # Errors
/// Every variant of [`CsrError`] that does not speak of a grant.
pub fn parse(der_or_pem: &[u8]) -> Result<Csr, CsrError> {
    match der_or_pem.len() {
        0 => return Err(CsrError::Empty),
        length @ 1..=LARGEST_CSR => length,
        length => return Err(CsrError::TooLarge { length }),
    };
    if !pem::looks_like_pem(der_or_pem) {
        return parse_der(der_or_pem);
    }
    let blocks = pem::decode(der_or_pem)?;
    let found = blocks.len();
    let [block] = <[pem::Block; 1]>::try_from(blocks).map_err(|_| CsrError::NotOne { found })?;
    match block.label.as_str() {
        // The second is what Netscape and Microsoft tools write; RFC 7468 section 7.
        pem::CERTIFICATE_REQUEST | "NEW CERTIFICATE REQUEST" => parse_der(&block.der),
        label => Err(CsrError::Label { label: label.chars().take(64).collect() }),
    }
}

fn parse_der(bytes: &[u8]) -> Result<Csr, CsrError> {
    // The frame is read strictly here, so that what is verified, what is kept and what x509-parser reads are the same
    // bytes and nothing stands between or behind them.
    let mut outer = Reader::new(der::only(bytes, der::SEQUENCE)?.content);
    let info = outer.expect(der::SEQUENCE)?;
    let identifier = outer.expect(der::SEQUENCE)?;
    let signature = der::whole_bits(outer.expect(der::BIT_STRING)?.content)?;
    outer.end()?;
    let mut fields = Reader::new(info.content);
    let version = fields.expect(der::INTEGER)?;
    fields.expect(der::SEQUENCE)?;
    let spki = fields.expect(der::SEQUENCE)?;
    fields.expect(ATTRIBUTES)?;
    fields.end()?;
    if version.content != [0] {
        return Err(CsrError::Version);
    }

    // Strength before verification: a huge modulus is refused, not computed with.
    let key = SubjectKey::from_spki(spki.whole.to_vec())?;
    match key.algorithm().verify(identifier.whole, key.raw(), info.whole, signature) {
        Some(true) => {}
        Some(false) => return Err(CsrError::Signature),
        None => return Err(CsrError::SignatureAlgorithm { key: key.algorithm() }),
    }

    let (rest, request) = X509CertificationRequest::from_der(bytes).map_err(|_| CsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed);
    }
    let subject = &request.certification_request_info.subject;
    let mut csr = Csr {
        key,
        subject: attributes(subject),
        subject_text: subject.to_string().chars().take(256).collect(),
        uri_names: Vec::new(),
        dns_names: Vec::new(),
        other_names: 0,
    };
    for extension in requested_extensions(&request)? {
        csr.take(extension)?;
    }
    Ok(csr)
}

fn attributes(name: &X509Name<'_>) -> Vec<Attribute> {
    let read = name.iter_attributes().take(MOST_NAMES + 1).map(|attribute| Attribute {
        is_common_name: *attribute.attr_type() == x509_parser::oid_registry::OID_X509_COMMON_NAME,
        value: attribute.as_str().ok().map(str::to_owned),
    });
    read.collect()
}

/// The extensions asked for, each at most once; other attributes (a challenge password) mean nothing here.
fn requested_extensions<'a>(request: &'a X509CertificationRequest<'_>) -> Result<Vec<&'a X509Extension<'a>>, CsrError> {
    let mut found: Vec<&X509Extension<'_>> = Vec::new();
    for attribute in request.certification_request_info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(asked) = attribute.parsed_attribute() else { continue };
        // RFC 2985 section 5.4.2: exactly one value, and nothing behind it.
        der::only(der::only(attribute.value, der::SET)?.content, der::SEQUENCE)?;
        for extension in &asked.extensions {
            if found.iter().any(|known| known.oid == extension.oid) {
                return Err(CsrError::Extension { oid: extension.oid.to_id_string() });
            }
            found.push(extension);
        }
    }
    Ok(found)
}

impl Csr {
    /// The SubjectPublicKeyInfo as it was sent.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        self.key.spki_der()
    }

    /// The kind of its key.
    #[must_use]
    pub fn key_algorithm(&self) -> KeyAlgorithm {
        self.key.algorithm()
    }

    /// The URI names that it asks for.
    #[must_use]
    pub fn uri_names(&self) -> &[String] {
        &self.uri_names
    }

    /// The DNS names that it asks for.
    #[must_use]
    pub fn dns_names(&self) -> &[String] {
        &self.dns_names
    }

    /// Its key; the rest has served its purpose.
    #[must_use]
    pub fn into_key(self) -> SubjectKey {
        self.key
    }

    /// Whether the certificate that `grant` allows is what this request asks for: its names may be fewer, never others.
    ///
    /// # Errors
    /// [`CsrError`]: which name, subject or kind of key is not granted.
    pub fn check_against(&self, grant: &Grant) -> Result<(), CsrError> {
        let found = self.key.algorithm();
        if !grant.accepted_keys().contains(&found) {
            let accepted: Vec<&str> = grant.accepted_keys().iter().map(|algorithm| algorithm.as_str()).collect();
            return Err(CsrError::KeyNotGranted { found, accepted: accepted.join(", ") });
        }
        if !self.subject.iter().all(|attribute| attribute.harmless(grant)) {
            return Err(CsrError::Subject { found: self.subject_text.clone() });
        }
        // X509-SVID section 2: exactly one URI name.
        if self.uri_names.len() > 1 {
            return Err(CsrError::ManyUris { found: self.uri_names.len() });
        }
        if let Some(found) = self.uri_names.iter().find(|uri| *uri != grant.identity().as_str()) {
            return Err(CsrError::Uri { found: found.clone(), granted: grant.identity().to_string() });
        }
        if let Some(found) = self.dns_names.iter().find(|name| !grant.dns_names().contains(name)) {
            return Err(CsrError::Dns { found: found.clone() });
        }
        if self.other_names > 0 { Err(CsrError::OtherName) } else { Ok(()) }
    }

    fn take(&mut self, extension: &X509Extension<'_>) -> Result<(), CsrError> {
        let refused = || CsrError::Extension { oid: extension.oid.to_id_string() };
        let parsed = extension.parsed_extension();
        if let ParsedExtension::SubjectAlternativeName(names) = parsed {
            if names.general_names.len() > MOST_NAMES {
                return Err(CsrError::TooManyNames);
            }
            names.general_names.iter().for_each(|name| self.take_name(name));
            return Ok(());
        }
        if let ParsedExtension::BasicConstraints(constraints) = parsed {
            return if constraints.ca { Err(CsrError::AsksForCa) } else { Ok(()) };
        }
        if let ParsedExtension::KeyUsage(usage) = parsed {
            return if usage.key_cert_sign() || usage.crl_sign() { Err(CsrError::AsksForCa) } else { Ok(()) };
        }
        if let ParsedExtension::ExtendedKeyUsage(usage) = parsed {
            let others = usage.any
                || usage.code_signing
                || usage.email_protection
                || usage.time_stamping
                || usage.ocsp_signing
                || !usage.other.is_empty();
            return if others { Err(refused()) } else { Ok(()) };
        }
        if let ParsedExtension::SubjectKeyIdentifier(_) = parsed { Ok(()) } else { Err(refused()) }
    }

    fn take_name(&mut self, name: &GeneralName<'_>) {
        if let GeneralName::URI(uri) = name {
            self.uri_names.push((*uri).to_owned());
        } else if let GeneralName::DNSName(dns) = name {
            self.dns_names.push((*dns).to_owned());
        } else {
            self.other_names += 1;
        }
    }
}

impl Attribute {
    /// Istio's agent sends `O=""`; Linkerd's proxy and many tools send their DNS identity as common name.
    fn harmless(&self, grant: &Grant) -> bool {
        self.value
            .as_ref()
            .is_some_and(|value| value.is_empty() || (self.is_common_name && grant.dns_names().contains(value)))
    }
}

#[cfg(test)]
mod tests;
