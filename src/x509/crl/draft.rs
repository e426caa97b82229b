//! The draft of a CRL: its exact to-be-signed bytes, linted, on their way to the ledger and then to the signer.

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use time::OffsetDateTime;

use super::read::{self, Crl, Tbs};
use super::{CrlEntry, CrlFault};
use crate::audit::event::CrlFacts;
use crate::x509::algorithm::SignatureAlgorithm;
use crate::x509::chain::{self, Issuer};
use crate::x509::der::{self, NotDer, Reader};
use crate::x509::draft::{KeepTbs, replaced};
use crate::x509::key::SubjectKey;

/// Why there is no CRL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CrlError {
    /// The encoder refused a value.
    #[error("the CRL could not be encoded: {0}; nothing was signed, please report this")]
    Encoding(String),
    /// A rule is broken: the last net, because Envoy takes a broken CRL and then refuses every handshake.
    #[error("the CRL would break this rule: {0}; nothing was recorded or signed. Is the clock right?")]
    Rule(CrlRule),
    /// The signature has not the form of its algorithm, or does not verify.
    #[error(
        "the key service answered with something that is no {algorithm} signature of the CRL by its issuer: check which key and algorithm it is set to"
    )]
    Signature {
        /// What was wanted.
        algorithm: SignatureAlgorithm,
    },
}

/// What must hold of a CRL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CrlRule {
    /// The ASN.1 shape.
    #[error("a version 2 TBSCertList in DER with key identifier and number, RFC 5280 section 5.1")]
    Shape,
    /// Its times.
    #[error("thisUpdate not after now and nextUpdate after it, RFC 5280 section 5.1.2.4")]
    Times,
    /// Its number.
    #[error("a number above zero, RFC 5280 section 5.2.3")]
    Number,
    /// Its issuer.
    #[error("name, key identifier and algorithm equal to its issuer's, RFC 5280 sections 5.1.2.3 and 5.2.1")]
    Issuer,
    /// What its issuer may do.
    #[error("an issuer whose keyUsage has cRLSign, RFC 5280 section 4.2.1.3: make that CA certificate again with it")]
    Usage,
    /// Its entries.
    #[error("each certificate that it was made for, once, RFC 5280 section 5.3")]
    Entries,
}

/// What a new CRL shall say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrlSpec {
    /// Its number; grows with each CRL of this issuer.
    pub number: u64,
    /// From when on it holds.
    pub this_update: OffsetDateTime,
    /// When there will be another one by.
    pub next_update: OffsetDateTime,
    /// What is revoked, in any order.
    pub entries: Vec<CrlEntry>,
}

/// Linted to-be-signed bytes of a CRL. Like [`crate::x509::draft::Draft`] it is not `Clone`, and the ledger takes it by
/// value.
#[derive(Debug)]
pub struct CrlDraft {
    tbs: Vec<u8>,
    facts: CrlFacts,
    content: Tbs,
    signature: SignatureAlgorithm,
    key: SubjectKey,
}

impl CrlDraft {
    /// A CRL of `issuer`. Times are cut to seconds.
    ///
    /// # Errors
    /// [`CrlError::Encoding`], [`CrlError::Rule`].
    pub fn new(issuer: &Issuer, spec: CrlSpec, now: OffsetDateTime) -> Result<Self, CrlError> {
        if !issuer.signs_crls() {
            return Err(CrlError::Rule(CrlRule::Usage));
        }
        let CrlSpec { number, this_update, next_update, mut entries } = spec;
        for entry in &mut entries {
            entry.revoked_at = seconds(entry.revoked_at);
        }
        entries.sort_by_key(|entry| entry.serial);
        let signature = issuer.signature_algorithm();
        let expected = Tbs {
            foreign: 0,
            algorithm: signature.identifier().to_vec(),
            issuer: issuer.subject_der().to_vec(),
            this_update: seconds(this_update),
            next_update: seconds(next_update),
            entries,
            issuer_key_id: issuer.key_id().to_vec(),
            number,
        };
        let tbs = encode(issuer, &expected)?;
        let content = lint(&tbs, &expected, now).map_err(CrlError::Rule)?;
        let facts = content.facts(&sha256(&tbs));
        Ok(Self { tbs, facts, content, signature, key: issuer.key().clone() })
    }

    /// The bytes to sign.
    #[must_use]
    pub fn tbs(&self) -> &[u8] {
        &self.tbs
    }

    /// What its record says of it.
    #[must_use]
    pub fn facts(&self) -> &CrlFacts {
        &self.facts
    }

    /// What will be on it, sorted by serial.
    #[must_use]
    pub fn entries(&self) -> &[CrlEntry] {
        &self.content.entries
    }

    /// Wraps these very bytes with their signature, which must verify: for `ca::sign`, which has the proof that they are
    /// recorded.
    pub(crate) fn finish(self, signature: &[u8]) -> Result<Crl, CrlError> {
        let wrong = CrlError::Signature { algorithm: self.signature };
        let form = self.signature.has_form(signature);
        if !form || self.key.verify(self.signature, &self.tbs, signature).is_err() {
            return Err(wrong);
        }
        let crl = Crl::parse(chain::wrap(&self.tbs, self.signature.identifier(), signature));
        crl.map_err(|_: CrlFault| wrong)
    }
}

fn encode(issuer: &Issuer, content: &Tbs) -> Result<Vec<u8>, CrlError> {
    let encoding = |error: rcgen::Error| CrlError::Encoding(error.to_string());
    let revoked = |entry: &CrlEntry| RevokedCertParams {
        serial_number: SerialNumber::from_slice(entry.serial.as_bytes()),
        revocation_time: entry.revoked_at,
        reason_code: Some(entry.reason.rcgen()),
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: content.this_update,
        next_update: content.next_update,
        crl_number: SerialNumber::from(content.number),
        issuing_distribution_point: None,
        revoked_certs: content.entries.iter().map(revoked).collect(),
        // A CRL's key identifier comes from its own parameters, not from the issuer's.
        key_identifier_method: KeyIdMethod::PreSpecified(content.issuer_key_id.clone()),
    };
    let keep = KeepTbs::new(issuer.key());
    let by = rcgen::Issuer::from_params(issuer.rcgen(), &keep);
    params.signed_by(&by).map_err(encoding)?;
    drop(by);
    let spliced = keep.into_kept().and_then(|tbs| splice(&tbs, &content.issuer).ok());
    spliced.ok_or_else(|| CrlError::Encoding("the issuer's name could not be set".to_owned()))
}

/// RFC 5280 section 5.1: version, signature, *issuer*, thisUpdate, …
fn splice(tbs: &[u8], name: &[u8]) -> Result<Vec<u8>, NotDer> {
    let content = der::only(tbs, der::SEQUENCE)?.content;
    let mut fields = Reader::new(content);
    let before = fields.any()?.whole.len() + fields.any()?.whole.len();
    let issuer = fields.expect(der::SEQUENCE)?.whole;
    replaced(content, before, issuer.len(), name)
}

/// Reads the bytes again and compares every field with what it must be.
fn lint(tbs: &[u8], expected: &Tbs, now: OffsetDateTime) -> Result<Tbs, CrlRule> {
    let must = |holds: bool, rule: CrlRule| if holds { Ok(()) } else { Err(rule) };
    must(expected.number > 0, CrlRule::Number)?;
    let found = read::tbs(tbs).map_err(|NotDer| CrlRule::Shape)?;
    let times = (found.this_update, found.next_update) == (expected.this_update, expected.next_update);
    must(times && found.this_update <= now && now < found.next_update, CrlRule::Times)?;
    must(found.number == expected.number, CrlRule::Number)?;
    let issuer = found.issuer == expected.issuer && found.issuer_key_id == expected.issuer_key_id;
    must(issuer && found.algorithm == expected.algorithm, CrlRule::Issuer)?;
    let once = found.entries.is_sorted_by(|one, other| one.serial < other.serial);
    must(once && found.entries == expected.entries, CrlRule::Entries)?;
    Ok(found)
}

fn seconds(at: OffsetDateTime) -> OffsetDateTime {
    at.replace_nanosecond(0).unwrap_or(at)
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    out
}
