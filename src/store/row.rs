//! What one record adds to the projection: from an event to rows, without any IO.
//!
//! Rows keep what lists, `cert show` and the hold after a restart need; the whole record stays in the ledger and is
//! found by its place. State (live, expired) is never a column: it depends on the time of asking.

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{Activity, Entry};
use crate::audit::event::{Action, CertificateFacts, Event};
use crate::clock::parse_rfc3339;
use crate::x509::chain::Issuer;

/// A certificate that was authorised.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRow {
    /// Lower-case hex.
    pub serial: String,
    /// The SPIFFE ID.
    pub identity: String,
    /// When it was authorised, RFC 3339.
    pub issued_at: String,
    /// RFC 3339, seconds.
    pub not_before: String,
    /// RFC 3339, seconds.
    pub not_after: String,
    /// [`CertificateRow::not_after`] as Unix seconds.
    pub expires: i64,
    /// The record's log.
    pub log: String,
    /// The record's index.
    pub index: u64,
    /// Who asked, without what changes at a restart: `unix:<socket>:uid=<uid>`, as `Caller::account` says it.
    pub account: Option<String>,
    /// The secret it was asked for as.
    pub secret_name: Option<String>,
    /// The proxy's own label for itself.
    pub node: Option<String>,
    /// The mesh whose names it follows.
    pub mesh: Option<String>,
    /// The rule that granted it.
    pub rule: String,
    /// The policy file's hash.
    pub policy_hash: String,
    /// The certificate profile.
    pub profile: String,
    /// The issuer's subject key identifier, hex.
    pub issuer_key_id: String,
    /// SHA-256 over the chain behind it, hex.
    pub chain_sha256: String,
    /// SHA-256 of its to-be-signed bytes, hex.
    pub tbs_sha256: String,
    /// The version its holder names: SHA-256 over both hashes, hex.
    pub version: String,
    /// The serial it follows.
    pub previous_serial: Option<String>,
    /// Why it follows.
    pub renewal_cause: Option<String>,
    /// SHA-256 of the certificate; absent until it was signed.
    pub der_sha256: Option<String>,
    /// Whether its signature failed, so that it does not exist.
    pub failed: bool,
    /// When the first of its line was issued by fresh attestation, RFC 3339; for most it is when they were issued.
    pub attested_at: String,
    /// Its revocation.
    pub revoked: Option<Revoked>,
}

/// The revocation of a certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// RFC 3339.
    pub at: String,
    /// RFC 5280's name.
    pub reason: String,
    /// The record, by id.
    pub record: String,
    /// Whether its identity was denied at that moment: then the deny says what becomes of its holder, not this.
    pub with_identity: bool,
}

/// A revoked certificate, as its issuer's CRL needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedRow {
    /// Lower-case hex.
    pub serial: String,
    /// The issuer's subject key identifier, hex.
    pub issuer_key_id: String,
    /// The end of the certificate, Unix seconds.
    pub expires: i64,
    /// RFC 3339.
    pub revoked_at: String,
    /// RFC 5280's name.
    pub reason: String,
    /// The record of the revocation, by id.
    pub record: String,
}

/// A denied identity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenyRow {
    /// A SPIFFE ID, or a prefix with `*`.
    pub pattern: String,
    /// RFC 3339.
    pub since: String,
    /// RFC 5280's name of the reason.
    pub reason: String,
    /// The record, by id.
    pub record: String,
}

/// A CRL as it was recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrlRow {
    /// Its number.
    pub number: u64,
    /// SHA-256 of its to-be-signed bytes, hex.
    pub tbs_sha256: String,
    /// RFC 3339, seconds.
    pub this_update: String,
    /// RFC 3339, seconds.
    pub next_update: String,
    /// How many certificates are on it.
    pub entries: u64,
    /// The record, by id.
    pub record: String,
}

/// An authority as its latest record has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityRow {
    /// Its place among all authorities, from the first record that names it.
    pub number: u64,
    /// Subject key identifier, hex.
    pub key_id: String,
    /// `root`, `intermediate` or `issuing`.
    pub level: String,
    /// Common name.
    pub name: String,
    /// `prepared`, `active`, `retiring`, `gone`, `tainted`.
    pub state: String,
    /// DER, base64.
    pub certificate: Option<String>,
    /// Who signed it, where that was not an authority of this server.
    #[serde(default)]
    pub upstream: Option<String>,
    /// Certificate facts of the record that made it.
    pub facts: Option<CertificateFacts>,
    /// When the state began, RFC 3339.
    pub since: String,
    /// For a root: since when it is in every bundle, RFC 3339.
    #[serde(default)]
    pub published: Option<String>,
    /// The log of the latest record.
    pub log: String,
    /// The index of the latest record.
    pub index: u64,
}

/// What a record changes in the projection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// A certificate was authorised.
    Certificate(Box<CertificateRow>),
    /// The certificate of that record was signed; its hash.
    Signed { log: String, index: u64, der_sha256: Option<String> },
    /// The signature for that record failed.
    SignatureFailed { log: String, index: u64 },
    /// An authority is new or changed.
    Authority(Box<AuthorityRow>),
    /// Something was configured: the hash of what is in force now.
    Configured { what: String, after: String },
    /// The certificate of that serial was revoked.
    Revoked { serial: String, revoked: Revoked },
    /// The certificate of an authority was revoked.
    AuthorityRevoked(Box<RevokedRow>),
    /// An identity was denied.
    Denied(Box<DenyRow>),
    /// The deny of exactly this pattern was lifted.
    Released { pattern: String },
    /// A CRL was authorised.
    Crl { issuer_key_id: String, row: Box<CrlRow> },
}

/// What `entry` changes; nothing for most actions, and for a record that lacks what its action needs.
pub(super) fn effect(entry: &Entry<'_>) -> Option<Effect> {
    let event = entry.event;
    match event.action {
        Action::CertificateIssue | Action::CertificateRenew => {
            certificate(entry).map(Box::new).map(Effect::Certificate)
        }
        // An authority's own certificate, which its preparation could not hold yet.
        Action::CertificateSigned if event.authority.is_some() => authority(entry).map(Box::new).map(Effect::Authority),
        Action::CertificateSigned => {
            let (log, index) = refers_to(event)?;
            let der_sha256 = event.certificate.as_ref().and_then(|facts| facts.der_sha256.clone());
            Some(Effect::Signed { log, index, der_sha256 })
        }
        Action::CertificateFail => refers_to(event).map(|(log, index)| Effect::SignatureFailed { log, index }),
        Action::CaPrepare | Action::CaPublish | Action::CaActivate | Action::CaTaint | Action::CaRetire => {
            authority(entry).map(Box::new).map(Effect::Authority)
        }
        Action::ConfigChange => {
            let change = event.change.as_ref()?;
            Some(Effect::Configured { what: change.what.clone(), after: change.after.clone()? })
        }
        // A log that follows a pruned one opens with the authorities that live on, and with what is denied.
        Action::LedgerSnapshot if event.authority.is_none() => denied(entry),
        Action::LedgerSnapshot => authority(entry).map(Box::new).map(Effect::Authority),
        Action::CertificateRevoke if event.authority.is_some() => {
            authority_revoked(entry).map(Box::new).map(Effect::AuthorityRevoked)
        }
        Action::CertificateRevoke => {
            let (at, reason) = (event.time.clone(), event.reason.clone().unwrap_or_default());
            Some(Effect::Revoked {
                serial: event.serial.clone()?,
                revoked: Revoked { at, reason, record: id(entry), with_identity: false },
            })
        }
        Action::IdentityDeny => denied(entry),
        Action::IdentityRelease => Some(Effect::Released { pattern: event.subject.clone()? }),
        Action::CrlPublish => crl(entry),
        Action::CertificateDeny
        | Action::CertificateNack
        | Action::AttestAccept
        | Action::AttestRefuse
        | Action::OperatorRead
        | Action::OperatorAct
        | Action::LedgerStart
        | Action::LedgerStop
        | Action::LedgerRotate
        | Action::LedgerVerify
        | Action::LedgerFail
        | Action::LedgerRecover
        | Action::LedgerKey
        | Action::LedgerPrune
        | Action::LedgerHold
        | Action::LedgerRelease => None,
    }
}

/// What `event` counts as, in which minute, and how often.
pub(super) fn activity(event: &Event) -> Option<(Activity, i64, u64)> {
    let what = match event.action {
        Action::CertificateIssue => Activity::Issued,
        Action::CertificateRenew => Activity::Renewed,
        Action::CertificateDeny => Activity::Refused,
        Action::CertificateFail => Activity::Failed,
        Action::CertificateNack => Activity::Nacked,
        Action::CertificateRevoke => Activity::Revoked,
        Action::CertificateSigned
        | Action::IdentityDeny
        | Action::IdentityRelease
        | Action::AttestAccept
        | Action::AttestRefuse
        | Action::CaPrepare
        | Action::CaPublish
        | Action::CaActivate
        | Action::CaTaint
        | Action::CaRetire
        | Action::CrlPublish
        | Action::ConfigChange
        | Action::OperatorRead
        | Action::OperatorAct
        | Action::LedgerSnapshot
        | Action::LedgerStart
        | Action::LedgerStop
        | Action::LedgerRotate
        | Action::LedgerVerify
        | Action::LedgerFail
        | Action::LedgerRecover
        | Action::LedgerKey
        | Action::LedgerPrune
        | Action::LedgerHold
        | Action::LedgerRelease => return None,
    };
    let minute = parse_rfc3339(&event.time).ok()?.unix_timestamp().div_euclid(60);
    let count = event.coalesced.as_ref().map_or(1, |coalesced| coalesced.count);
    Some((what, minute, count))
}

/// The account in a record's source, spelled as `Caller::account` spells it.
#[must_use]
pub fn account(event: &Event) -> Option<String> {
    let actor = event.actor.as_ref();
    let source = event.source.as_ref();
    match actor.map(|actor| actor.attested_by.as_str()) {
        Some("self") => Some("self".to_owned()),
        Some("client_certificate") => Some(format!("tls:{}:{}", source?.socket.as_ref()?, actor?.id.as_ref()?)),
        Some(_) | None => Some(format!("unix:{}:uid={}", source?.socket.as_ref()?, source?.uid?)),
    }
}

/// The version that names a certificate and its chain: SHA-256 over the two hashes in its record.
#[must_use]
pub fn version(tbs_sha256: &str, chain_sha256: &str) -> Option<String> {
    let mut both = hex::decode(tbs_sha256).ok()?;
    both.extend(hex::decode(chain_sha256).ok()?);
    Some(hex::encode(digest::digest(&digest::SHA256, &both)))
}

fn certificate(entry: &Entry<'_>) -> Option<CertificateRow> {
    let event = entry.event;
    let facts = event.certificate.as_ref()?;
    let policy = event.policy.clone().unwrap_or_default();
    Some(CertificateRow {
        serial: facts.serial.clone(),
        identity: event.subject.clone()?,
        issued_at: event.time.clone(),
        not_before: facts.not_before.clone(),
        not_after: facts.not_after.clone(),
        expires: parse_rfc3339(&facts.not_after).ok()?.unix_timestamp(),
        log: entry.log.to_owned(),
        index: entry.index,
        account: account(event),
        secret_name: event.secret_name.clone(),
        node: event.node.clone(),
        mesh: event.mesh.map(|mesh| mesh.as_str().to_owned()),
        rule: policy.rule.unwrap_or_default(),
        policy_hash: policy.hash,
        profile: facts.profile.clone(),
        issuer_key_id: facts.issuer_key_id.clone(),
        version: version(&facts.tbs_sha256, &facts.chain_sha256)?,
        chain_sha256: facts.chain_sha256.clone(),
        tbs_sha256: facts.tbs_sha256.clone(),
        previous_serial: facts.previous_serial.clone(),
        renewal_cause: facts.renewal_cause.clone(),
        der_sha256: facts.der_sha256.clone(),
        failed: false,
        attested_at: event.actor.as_ref().and_then(|actor| actor.attested_at.clone()).unwrap_or(event.time.clone()),
        revoked: None,
    })
}

fn denied(entry: &Entry<'_>) -> Option<Effect> {
    let event = entry.event;
    let row = DenyRow {
        pattern: event.subject.clone()?,
        since: event.time.clone(),
        reason: event.reason.clone().unwrap_or_default(),
        record: id(entry),
    };
    Some(Effect::Denied(Box::new(row)))
}

fn crl(entry: &Entry<'_>) -> Option<Effect> {
    let facts = entry.event.crl.clone()?;
    let row = CrlRow {
        number: facts.number,
        tbs_sha256: facts.tbs_sha256,
        this_update: facts.this_update,
        next_update: facts.next_update,
        entries: facts.entries,
        record: id(entry),
    };
    Some(Effect::Crl { issuer_key_id: facts.issuer_key_id, row: Box::new(row) })
}

/// The id of the entry's record.
fn id(entry: &Entry<'_>) -> String {
    format!("{}#{}", entry.log, entry.index)
}

fn authority(entry: &Entry<'_>) -> Option<AuthorityRow> {
    let facts = entry.event.authority.as_ref()?;
    Some(AuthorityRow {
        number: 0,
        key_id: facts.key_id.clone(),
        level: facts.level.clone(),
        name: facts.name.clone(),
        state: facts.state.clone(),
        certificate: facts.certificate.clone(),
        upstream: facts.upstream.clone(),
        facts: entry.event.certificate.clone(),
        since: entry.event.time.clone(),
        published: (entry.event.action == Action::CaPublish).then(|| entry.event.time.clone()),
        log: entry.log.to_owned(),
        index: entry.index,
    })
}

/// The record holds the certificate, so that this needs no other record.
fn authority_revoked(entry: &Entry<'_>) -> Option<RevokedRow> {
    let (event, certificate) = (entry.event, entry.event.authority.as_ref()?.certificate.as_ref()?);
    let issuer = Issuer::from_der(STANDARD.decode(certificate).ok()?, Vec::new()).ok()?;
    Some(RevokedRow {
        serial: issuer.serial()?.hex(),
        issuer_key_id: hex::encode(issuer.issuer_key_id()?),
        expires: issuer.not_after().unix_timestamp(),
        revoked_at: event.time.clone(),
        reason: event.reason.clone().unwrap_or_default(),
        record: id(entry),
    })
}

fn refers_to(event: &Event) -> Option<(String, u64)> {
    let (log, index) = event.refers_to.as_ref()?.rsplit_once('#')?;
    Some((log.to_owned(), index.parse().ok()?))
}
