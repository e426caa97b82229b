//! Reads a CRL strictly: version 2, whole, with key identifier and number, and not a part or a difference of one.
//!
//! The same reader serves the lint of a draft (its bytes are read again, independently of the encoder) and everyone who
//! gets a CRL back: from the cache, from `/crl`, from `crl.pem`, from an upstream. A critical extension is refused: it would
//! change what the list means (RFC 5280 section 5.2). Others that we do not write are passed over, and a reason that is none
//! of ours is no reason. A serial that is no positive number is counted; no certificate has it.

use aws_lc_rs::digest;
use time::format_description::StaticFormatDescription;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

use super::{CrlEntry, Reason};
use crate::audit::event::CrlFacts;
use crate::clock::rfc3339_seconds;
use crate::x509::chain::{self, Issuer};
use crate::x509::der::{self, Element, NotDer, Reader};
use crate::x509::serial::LONGEST_SERIAL;
use crate::x509::{Serial, pem};

/// Why a CRL is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CrlFault {
    /// Not a CRL as chancery writes them.
    #[error("this is no CRL that can be read: fetch it again")]
    Malformed,
    /// A file that is no PEM.
    #[error("{0}")]
    Pem(#[from] pem::PemError),
    /// Another authority's, or not signed by it.
    #[error("the CRL was not signed by {issuer}: fetch CRL and bundle together")]
    NotBy {
        /// Whose it should be.
        issuer: String,
    },
}

impl From<NotDer> for CrlFault {
    fn from(NotDer: NotDer) -> Self {
        Self::Malformed
    }
}

/// What the signed part of a CRL says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tbs {
    /// The whole AlgorithmIdentifier.
    pub(super) algorithm: Vec<u8>,
    /// The whole Name.
    pub(super) issuer: Vec<u8>,
    pub(super) this_update: OffsetDateTime,
    pub(super) next_update: OffsetDateTime,
    pub(super) entries: Vec<CrlEntry>,
    /// Certificates on it whose serials are not of our form.
    pub(super) foreign: u64,
    pub(super) issuer_key_id: Vec<u8>,
    pub(super) number: u64,
}

/// A signed CRL.
#[derive(Debug, Clone)]
pub struct Crl {
    der: Vec<u8>,
    tbs_sha256: [u8; 32],
    content: Tbs,
}

impl Crl {
    /// Reads one in DER. Whose it is, [`Self::verify`] says.
    ///
    /// # Errors
    /// [`CrlFault::Malformed`].
    pub fn parse(der: Vec<u8>) -> Result<Self, CrlFault> {
        let parts = chain::split(&der)?;
        let content = tbs(parts.tbs)?;
        if content.algorithm != parts.algorithm {
            return Err(CrlFault::Malformed);
        }
        let mut tbs_sha256 = [0; 32];
        tbs_sha256.copy_from_slice(digest::digest(&digest::SHA256, parts.tbs).as_ref());
        Ok(Self { der, tbs_sha256, content })
    }

    /// Reads every CRL of a PEM text; other blocks are passed over.
    ///
    /// # Errors
    /// [`CrlFault::Pem`], [`CrlFault::Malformed`].
    pub fn parse_pem(text: &[u8]) -> Result<Vec<Self>, CrlFault> {
        let blocks = pem::decode(text)?;
        blocks.into_iter().filter(|block| block.label == pem::CRL).map(|block| Self::parse(block.der)).collect()
    }

    /// That `issuer` made it.
    ///
    /// # Errors
    /// [`CrlFault::NotBy`].
    pub fn verify(&self, issuer: &Issuer) -> Result<(), CrlFault> {
        let parts = chain::split(&self.der)?;
        let key = issuer.key();
        let same = self.content.issuer == issuer.subject_der() && self.content.issuer_key_id == issuer.key_id();
        let verified = || key.algorithm().verify(parts.algorithm, key.raw(), parts.tbs, parts.signature) == Some(true);
        if same && verified() { Ok(()) } else { Err(CrlFault::NotBy { issuer: issuer.name().to_owned() }) }
    }

    /// The whole of it.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The same in PEM.
    #[must_use]
    pub fn pem(&self) -> Vec<u8> {
        let mut out = Vec::new();
        pem::encode(&mut out, pem::CRL, &self.der);
        out
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.content.number
    }

    /// From when on it holds.
    #[must_use]
    pub fn this_update(&self) -> OffsetDateTime {
        self.content.this_update
    }

    /// From when on every handshake fails where there is no newer one.
    #[must_use]
    pub fn next_update(&self) -> OffsetDateTime {
        self.content.next_update
    }

    /// What is on it, sorted by serial.
    #[must_use]
    pub fn entries(&self) -> &[CrlEntry] {
        &self.content.entries
    }

    /// Whether that certificate of this issuer is on it.
    #[must_use]
    pub fn revokes(&self, serial: &Serial) -> Option<&CrlEntry> {
        let at = self.content.entries.binary_search_by(|entry| entry.serial.cmp(serial)).ok()?;
        self.content.entries.get(at)
    }

    /// The issuer's subject key identifier.
    #[must_use]
    pub fn issuer_key_id(&self) -> &[u8] {
        &self.content.issuer_key_id
    }

    /// The issuer's Name, whole DER.
    #[must_use]
    pub fn issuer_der(&self) -> &[u8] {
        &self.content.issuer
    }

    /// SHA-256 of the to-be-signed bytes.
    #[must_use]
    pub fn tbs_sha256(&self) -> &[u8; 32] {
        &self.tbs_sha256
    }

    /// What its record says of it.
    #[must_use]
    pub fn facts(&self) -> CrlFacts {
        self.content.facts(&self.tbs_sha256)
    }
}

impl Tbs {
    pub(super) fn facts(&self, tbs_sha256: &[u8; 32]) -> CrlFacts {
        CrlFacts {
            entries: u64::try_from(self.entries.len()).unwrap_or(u64::MAX).saturating_add(self.foreign),
            issuer_key_id: hex::encode(&self.issuer_key_id),
            next_update: rfc3339_seconds(self.next_update),
            number: self.number,
            tbs_sha256: hex::encode(tbs_sha256),
            this_update: rfc3339_seconds(self.this_update),
        }
    }
}

/// RFC 5280 section 5.1.2: version 2, signature, issuer, thisUpdate, nextUpdate, revokedCertificates, crlExtensions.
pub(super) fn tbs(bytes: &[u8]) -> Result<Tbs, NotDer> {
    let mut fields = Reader::new(der::only(bytes, der::SEQUENCE)?.content);
    if fields.expect(der::INTEGER)?.content != [1] {
        return Err(NotDer);
    }
    let algorithm = fields.expect(der::SEQUENCE)?.whole.to_vec();
    let issuer = fields.expect(der::SEQUENCE)?.whole.to_vec();
    let (this_update, next_update) = (moment(fields.any()?)?, moment(fields.any()?)?);
    let (entries, foreign) = match fields.optional(der::SEQUENCE)? {
        // An empty list must be left out.
        Some(list) if list.content.is_empty() => return Err(NotDer),
        Some(list) => entries(list.content)?,
        None => (Vec::new(), 0),
    };
    let extensions = fields.expect(0xa0)?;
    fields.end()?;
    let (mut issuer_key_id, mut number) = (None, None);
    each_extension(der::only(extensions.content, der::SEQUENCE)?.content, |arc, value| match arc {
        35 if issuer_key_id.is_none() => {
            // The key identifier, [0]; issuer and serial may stand behind it.
            let mut fields = Reader::new(der::only(value, der::SEQUENCE)?.content);
            issuer_key_id = Some(fields.expect(0x80)?.content.to_vec());
            Ok(())
        }
        20 if number.is_none() => {
            number = Some(positive(der::only(value, der::INTEGER)?.content)?);
            Ok(())
        }
        20 | 35 => Err(NotDer),
        _ => Ok(()),
    })?;
    let (issuer_key_id, number) = (issuer_key_id.ok_or(NotDer)?, number.ok_or(NotDer)?);
    Ok(Tbs { algorithm, issuer, this_update, next_update, entries, foreign, issuer_key_id, number })
}

fn entries(list: &[u8]) -> Result<(Vec<CrlEntry>, u64), NotDer> {
    let (mut list, mut found, mut foreign) = (Reader::new(list), Vec::new(), 0);
    while !list.is_empty() {
        let mut fields = Reader::new(list.expect(der::SEQUENCE)?.content);
        let serial = fields.expect(der::INTEGER)?.content;
        let Some(serial) = Serial::from_bytes(serial) else {
            if !(1..=LONGEST_SERIAL).contains(&serial.len()) {
                return Err(NotDer);
            }
            foreign += 1;
            continue;
        };
        let revoked_at = moment(fields.any()?)?;
        let mut reason = None;
        if let Some(extensions) = fields.optional(der::SEQUENCE)? {
            each_extension(extensions.content, |arc, value| {
                if arc != 21 {
                    return Ok(());
                }
                match der::only(value, der::ENUMERATED)?.content {
                    [code] if reason.is_none() => reason = Some(Reason::from_code(*code).unwrap_or_default()),
                    _ => return Err(NotDer),
                }
                Ok(())
            })?;
        }
        fields.end()?;
        found.push(CrlEntry { serial, revoked_at, reason: reason.unwrap_or_default() });
    }
    Ok((found, foreign))
}

/// Calls `take` with the last arc under id-ce (2.5.29) and the value of each extension; none may be critical.
fn each_extension(content: &[u8], mut take: impl FnMut(u8, &[u8]) -> Result<(), NotDer>) -> Result<(), NotDer> {
    let mut extensions = Reader::new(content);
    while !extensions.is_empty() {
        let mut fields = Reader::new(extensions.expect(der::SEQUENCE)?.content);
        let oid = fields.expect(der::OID)?.content;
        let value = fields.expect(der::OCTET_STRING)?.content;
        fields.end()?;
        if let [0x55, 0x1d, arc] = oid {
            take(*arc, value)?;
        }
    }
    Ok(())
}

/// RFC 5280 section 5.1.2.4: UTCTime through 2049, GeneralizedTime from then on.
fn moment(element: Element<'_>) -> Result<OffsetDateTime, NotDer> {
    const FORM: StaticFormatDescription = format_description!("[year][month][day][hour][minute][second]Z");
    let text = std::str::from_utf8(element.content).map_err(|_| NotDer)?;
    let text = match element.tag {
        der::UTC_TIME => format!("20{text}"),
        der::GENERALIZED_TIME => text.to_owned(),
        _ => return Err(NotDer),
    };
    let moment = PrimitiveDateTime::parse(&text, FORM).map_err(|_| NotDer)?.assume_utc();
    let right = (element.tag == der::UTC_TIME) == (moment.year() < 2050);
    if right { Ok(moment) } else { Err(NotDer) }
}

/// A positive INTEGER in its shortest form.
fn positive(content: &[u8]) -> Result<u64, NotDer> {
    let digits = match content {
        [0, rest @ ..] if rest.first().is_some_and(|&octet| octet >= 0x80) => rest,
        [0x01..=0x7f, ..] => content,
        _ => return Err(NotDer),
    };
    if digits.len() > 8 {
        return Err(NotDer);
    }
    Ok(digits.iter().fold(0, |sum, &octet| (sum << 8) | u64::from(octet)))
}
