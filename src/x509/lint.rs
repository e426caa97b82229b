//! The last net: what must hold of a certificate's bytes before anything is recorded or signed.
//!
//! `check` reads the to-be-signed bytes again, strictly and independently of the encoder, and compares every field with
//! what the grant, the issuer and the rules of X.509-SVID and RFC 5280 say it must be; an extension that nobody expects
//! is an error too. Envoy accepts two URI names and a client with a serverAuth-only certificate, so nobody else would
//! notice. Any [`LintError`] is a fault of this program. Called by [`super::draft`] for every certificate.

use time::OffsetDateTime;
use time::macros::format_description;

use super::algorithm::SignatureAlgorithm;
use super::chain;
use super::der::{self, NotDer, Reader};
use super::key::SubjectKey;
use super::profile::LeafUsage;
use super::serial::Serial;
use crate::identity::{SpiffeId, TrustDomain, ends_in_a_number};

/// A rule that the bytes break. A fault of this program; nothing was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the certificate would break this rule: {rule}; nothing was recorded or signed. This is a fault in chancery: please report it with the profile and rule in use"
)]
pub struct LintError {
    /// The rule, with where it stands.
    pub rule: Rule,
}

/// The rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    /// DER of the certificate's shape, without unknown fields.
    #[error("a TBSCertificate in DER, RFC 5280 section 4.1")]
    Shape,
    /// Version 3.
    #[error("version 3, RFC 5280 section 4.1.2.1")]
    Version,
    /// The serial that was drawn.
    #[error("the serial number drawn for it, positive and at most 20 octets, RFC 5280 section 4.1.2.2")]
    Serial,
    /// The issuer's signature algorithm, inside and outside of the TBS.
    #[error("the issuer's signature algorithm inside and outside of the signed part, RFC 5280 section 4.1.1.2")]
    SignatureAlgorithm,
    /// The issuer's name, byte for byte.
    #[error("an issuer name equal to the CA's subject byte for byte, RFC 5280 section 4.1.2.4")]
    Issuer,
    /// The validity that was computed, in the right form.
    #[error("the computed validity as UTCTime before 2050 and GeneralizedTime after, RFC 5280 section 4.1.2.5")]
    Validity,
    /// Empty subject for leaves, a name for CAs.
    #[error("an empty subject for a workload and a name for a CA, RFC 5280 section 4.1.2.6")]
    Subject,
    /// The public key as it was given.
    #[error("the SubjectPublicKeyInfo exactly as it was proven, RFC 5280 section 4.1.2.7")]
    PublicKey,
    /// Only expected extensions.
    #[error("no extension but those of the profile, and none twice, RFC 5280 section 4.2")]
    UnknownExtension,
    /// All expected extensions.
    #[error(
        "every extension of the profile: key identifiers, key usage, basic constraints, names, RFC 5280 section 4.2"
    )]
    MissingExtension,
    /// Which extensions are critical.
    #[error(
        "critical key usage and basic constraints, critical names when the subject is empty, others not, RFC 5280 section 4.2.1"
    )]
    Critical,
    /// The URI name.
    #[error("exactly one URI name, the granted SPIFFE ID (or the trust domain's, for a CA), X509-SVID section 2")]
    UriName,
    /// The DNS names.
    #[error("exactly the granted DNS names, valid and before the URI name, RFC 5280 section 4.2.1.6")]
    DnsNames,
    /// Key usage.
    #[error(
        "digitalSignature and never keyCertSign or cRLSign for a workload, both of those for a CA, X509-SVID section 4.3"
    )]
    KeyUsage,
    /// Extended key usage.
    #[error("both serverAuth and clientAuth for a workload and none for a CA, X509-SVID section 4.4")]
    ExtendedKeyUsage,
    /// Basic constraints.
    #[error("cA false for a workload, true with the profile's path length for a CA, X509-SVID section 4.1")]
    BasicConstraints,
    /// Subject and authority key identifiers.
    #[error("the key identifiers of subject and issuer, RFC 5280 sections 4.2.1.1 and 4.2.1.2")]
    KeyIdentifier,
    /// The finished certificate wraps the recorded bytes.
    #[error("a certificate that holds the recorded bytes unchanged, RFC 5280 section 4.1.1.1")]
    Finished,
}

impl From<Rule> for LintError {
    fn from(rule: Rule) -> Self {
        Self { rule }
    }
}

/// What the bytes must say, from the sources and not from what the encoder was told.
pub(super) struct Expected<'a> {
    pub(super) serial: &'a Serial,
    pub(super) signature: SignatureAlgorithm,
    /// The issuer's raw subject; nothing when it is self-signed.
    pub(super) issuer: Option<&'a [u8]>,
    pub(super) not_before: OffsetDateTime,
    pub(super) not_after: OffsetDateTime,
    pub(super) key: &'a SubjectKey,
    pub(super) issuer_key_id: &'a [u8],
    pub(super) purpose: Purpose<'a>,
}

/// What the certificate is for.
pub(super) enum Purpose<'a> {
    /// A workload.
    Leaf { identity: &'a SpiffeId, dns_names: &'a [String], key_usage: &'a [LeafUsage] },
    /// A CA.
    Authority { trust_domain: &'a TrustDomain, path_length: Option<u8> },
}

/// An empty Name.
const EMPTY_NAME: &[u8] = &[0x30, 0x00];
/// The context tags of a GeneralName.
const DNS_NAME: u8 = 0x82;
const URI_NAME: u8 = 0x86;
/// BOOLEAN TRUE.
const TRUE: &[u8] = &[0xff];

/// Checks to-be-signed bytes.
pub(super) fn check(tbs: &[u8], expected: &Expected<'_>) -> Result<(), LintError> {
    let mut fields = Reader::new(shape(der::only(tbs, der::SEQUENCE))?.content);
    let version = shape(fields.expect(0xa0))?;
    must(version.content == [0x02, 0x01, 0x02], Rule::Version)?;
    must(shape(fields.expect(der::INTEGER))?.content == expected.serial.as_bytes(), Rule::Serial)?;
    must(shape(fields.expect(der::SEQUENCE))?.whole == expected.signature.identifier(), Rule::SignatureAlgorithm)?;
    let issuer = shape(fields.expect(der::SEQUENCE))?.whole;
    let validity = shape(fields.expect(der::SEQUENCE))?.content;
    let subject = shape(fields.expect(der::SEQUENCE))?.whole;
    must(issuer == expected.issuer.unwrap_or(subject), Rule::Issuer)?;
    check_validity(validity, expected)?;
    let is_leaf = matches!(expected.purpose, Purpose::Leaf { .. });
    must((subject == EMPTY_NAME) == is_leaf, Rule::Subject)?;
    must(shape(fields.expect(der::SEQUENCE))?.whole == expected.key.spki_der(), Rule::PublicKey)?;
    // No unique identifiers ([1], [2]): RFC 5280 section 4.1.2.8 forbids conforming CAs to write them.
    let extensions = shape(fields.expect(0xa3))?;
    shape(fields.end())?;
    check_extensions(shape(der::only(extensions.content, der::SEQUENCE))?.content, expected)
}

/// Checks that a finished certificate holds `tbs` unchanged and names one signature algorithm.
pub(super) fn check_finished(der: &[u8], tbs: &[u8]) -> Result<(), LintError> {
    let parts = chain::split(der).map_err(|NotDer| Rule::Finished)?;
    must(parts.tbs == tbs, Rule::Finished)?;
    let mut fields = Reader::new(shape(der::only(tbs, der::SEQUENCE))?.content);
    for _before in ["version", "serial"] {
        shape(fields.any())?;
    }
    must(shape(fields.expect(der::SEQUENCE))?.whole == parts.algorithm, Rule::SignatureAlgorithm)
}

fn shape<T>(read: Result<T, NotDer>) -> Result<T, LintError> {
    read.map_err(|NotDer| Rule::Shape.into())
}

fn must(holds: bool, rule: Rule) -> Result<(), LintError> {
    if holds { Ok(()) } else { Err(rule.into()) }
}

fn check_validity(content: &[u8], expected: &Expected<'_>) -> Result<(), LintError> {
    let mut times = Reader::new(content);
    for moment in [expected.not_before, expected.not_after] {
        let (tag, text) = encoded(moment)?;
        let found = shape(times.any())?;
        must(found.tag == tag && found.content == text.as_bytes(), Rule::Validity)?;
    }
    shape(times.end())?;
    must(expected.not_before < expected.not_after, Rule::Validity)
}

fn encoded(moment: OffsetDateTime) -> Result<(u8, String), LintError> {
    let utc = format_description!("[year repr:last_two][month][day][hour][minute][second]Z");
    let generalized = format_description!("[year][month][day][hour][minute][second]Z");
    let (tag, text) = if moment.year() < 2050 {
        (der::UTC_TIME, moment.format(&utc))
    } else {
        (der::GENERALIZED_TIME, moment.format(&generalized))
    };
    Ok((tag, text.map_err(|_| Rule::Validity)?))
}

/// Which extensions there were; each at most once.
#[derive(Default)]
struct Seen {
    authority_key_id: bool,
    subject_key_id: bool,
    key_usage: bool,
    extended_key_usage: bool,
    basic_constraints: bool,
    names: bool,
}

fn check_extensions(content: &[u8], expected: &Expected<'_>) -> Result<(), LintError> {
    let is_leaf = matches!(expected.purpose, Purpose::Leaf { .. });
    let mut seen = Seen::default();
    let mut extensions = Reader::new(content);
    while !extensions.is_empty() {
        let mut fields = Reader::new(shape(extensions.expect(der::SEQUENCE))?.content);
        let oid = shape(fields.expect(der::OID))?.content;
        // DER leaves the default out, so a BOOLEAN that is there says true.
        let critical = shape(fields.optional(0x01))?;
        must(critical.is_none_or(|flag| flag.content == TRUE), Rule::Shape)?;
        let value = shape(fields.expect(der::OCTET_STRING))?.content;
        shape(fields.end())?;
        // All of ours stand under id-ce, 2.5.29.
        let [0x55, 0x1d, arc] = oid else { return Err(Rule::UnknownExtension.into()) };
        let (first, must_be_critical) = match arc {
            14 => (&mut seen.subject_key_id, false),
            15 => (&mut seen.key_usage, true),
            17 => (&mut seen.names, is_leaf),
            19 => (&mut seen.basic_constraints, true),
            35 => (&mut seen.authority_key_id, false),
            37 => (&mut seen.extended_key_usage, false),
            _ => return Err(Rule::UnknownExtension.into()),
        };
        must(!std::mem::replace(first, true), Rule::UnknownExtension)?;
        must(critical.is_some() == must_be_critical, Rule::Critical)?;
        match arc {
            14 => {
                must(shape(der::only(value, der::OCTET_STRING))?.content == expected.key.key_id(), Rule::KeyIdentifier)?
            }
            15 => check_key_usage(value, expected)?,
            17 => check_names(value, expected)?,
            19 => check_basic_constraints(value, expected)?,
            35 => check_authority_key_id(value, expected)?,
            _ => check_extended_key_usage(value)?,
        }
    }
    must(seen.extended_key_usage == is_leaf, Rule::ExtendedKeyUsage)?;
    let all = seen.authority_key_id && seen.subject_key_id && seen.key_usage && seen.basic_constraints && seen.names;
    must(all, Rule::MissingExtension)
}

fn check_key_usage(value: &[u8], expected: &Expected<'_>) -> Result<(), LintError> {
    // RFC 5280 section 4.2.1.3: digitalSignature is bit 0 (the highest), keyEncipherment 2, keyCertSign 5, cRLSign 6.
    let bits = match &expected.purpose {
        Purpose::Leaf { key_usage, .. } => key_usage.iter().fold(0_u8, |bits, usage| {
            bits | match usage {
                LeafUsage::DigitalSignature => 0x80,
                LeafUsage::KeyEncipherment => 0x20,
            }
        }),
        Purpose::Authority { .. } => 0x04 | 0x02,
    };
    let signs = matches!(expected.purpose, Purpose::Authority { .. }) || bits & 0x80 != 0;
    let unused = u8::try_from(bits.trailing_zeros()).unwrap_or(0);
    let found = shape(der::only(value, der::BIT_STRING))?.content;
    must(signs && found == [unused, bits], Rule::KeyUsage)
}

fn check_extended_key_usage(value: &[u8]) -> Result<(), LintError> {
    // id-kp-serverAuth and id-kp-clientAuth, RFC 5280 section 4.2.1.12.
    const SERVER: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
    const CLIENT: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];
    let mut purposes = Reader::new(shape(der::only(value, der::SEQUENCE))?.content);
    must(shape(purposes.expect(der::OID))?.content == SERVER, Rule::ExtendedKeyUsage)?;
    must(shape(purposes.expect(der::OID))?.content == CLIENT, Rule::ExtendedKeyUsage)?;
    must(purposes.is_empty(), Rule::ExtendedKeyUsage)
}

fn check_basic_constraints(value: &[u8], expected: &Expected<'_>) -> Result<(), LintError> {
    let mut fields = Reader::new(shape(der::only(value, der::SEQUENCE))?.content);
    let is_ca = shape(fields.optional(0x01))?.map(|flag| flag.content);
    let length = shape(fields.optional(der::INTEGER))?.map(|length| length.content);
    shape(fields.end())?;
    let right = match expected.purpose {
        Purpose::Leaf { .. } => is_ca.is_none() && length.is_none(),
        Purpose::Authority { path_length: None, .. } => is_ca == Some(TRUE) && length.is_none(),
        // Lengths of 128 and more would need a second octet; no profile has one.
        Purpose::Authority { path_length: Some(wanted), .. } => is_ca == Some(TRUE) && length == Some(&[wanted]),
    };
    must(right, Rule::BasicConstraints)
}

fn check_authority_key_id(value: &[u8], expected: &Expected<'_>) -> Result<(), LintError> {
    // Only keyIdentifier [0]: issuer and serial beside it would tie the leaf to one certificate of its CA.
    let mut fields = Reader::new(shape(der::only(value, der::SEQUENCE))?.content);
    must(shape(fields.expect(0x80))?.content == expected.issuer_key_id, Rule::KeyIdentifier)?;
    must(fields.is_empty(), Rule::KeyIdentifier)
}

fn check_names(value: &[u8], expected: &Expected<'_>) -> Result<(), LintError> {
    let mut names = Reader::new(shape(der::only(value, der::SEQUENCE))?.content);
    let of_authority;
    let (dns_names, uri): (&[String], &str) = match &expected.purpose {
        Purpose::Leaf { identity, dns_names, .. } => (dns_names, identity.as_str()),
        Purpose::Authority { trust_domain, .. } => {
            of_authority = trust_domain.id();
            (&[], &of_authority)
        }
    };
    for name in dns_names {
        let found = shape(names.expect(DNS_NAME)).map_err(|_| Rule::DnsNames)?;
        must(found.content == name.as_bytes() && is_dns_name(name), Rule::DnsNames)?;
    }
    let found = shape(names.expect(URI_NAME)).map_err(|_| Rule::UriName)?;
    must(found.content == uri.as_bytes(), Rule::UriName)?;
    must(names.is_empty(), Rule::UriName)
}

/// RFC 5280 section 4.2.1.6 with RFC 1123's letters and digits, and no address; no wildcard, because a workload is one and
/// not many.
fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '-'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label) && !ends_in_a_number(name)
}

#[cfg(test)]
mod tests;
