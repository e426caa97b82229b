//! The record schema: what one leaf of the ledger says.
//!
//! A record is canonical JSON (RFC 8785). The structs here declare their fields in the order of the canonical form, so
//! that serialising is canonicalising; a test holds that against an independent implementation. Fields that are absent
//! are left out, never `null`. What is once in an immutable log cannot be mended: a change of meaning is a new
//! [`SCHEMA`] number. Records hold no tokens, no keys, no passwords and no request bodies; what could identify a person
//! is [`Sealed`]. The id of a record (`<origin>#<index>`) is derived from its place and never stored in it.

mod facts;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

pub use facts::{
    Actor, AuthorityFacts, CertificateFacts, Change, Coalesced, CrlFacts, PolicyFacts, Sealed, Snapshot, Source,
};

use crate::clock::rfc3339_micros;
use crate::entropy::Entropy;
use crate::identity::Mesh;

/// The number of this schema.
pub const SCHEMA: u32 = 1;

/// The largest record in bytes: the entries tile gives it a 16-bit length.
pub const LARGEST_RECORD: usize = 65_535;

/// What was done. The names, and how each maps to ECS, OCSF and RFC 5424, are fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Action {
    /// A first certificate was authorised.
    #[serde(rename = "certificate.issue")]
    CertificateIssue,
    /// An authorised certificate was signed; names its record and the SHA-256 of the certificate.
    #[serde(rename = "certificate.signed")]
    CertificateSigned,
    /// A certificate that follows another was authorised.
    #[serde(rename = "certificate.renew")]
    CertificateRenew,
    /// A certificate was revoked.
    #[serde(rename = "certificate.revoke")]
    CertificateRevoke,
    /// A certificate was refused.
    #[serde(rename = "certificate.deny")]
    CertificateDeny,
    /// A signature was refused or came late; names the record.
    #[serde(rename = "certificate.fail")]
    CertificateFail,
    /// A proxy refused what was pushed to it.
    #[serde(rename = "certificate.nack")]
    CertificateNack,
    /// An identity was denied.
    #[serde(rename = "identity.deny")]
    IdentityDeny,
    /// An identity's deny was lifted.
    #[serde(rename = "identity.release")]
    IdentityRelease,
    /// A caller was attested.
    #[serde(rename = "attest.accept")]
    AttestAccept,
    /// A caller could not be attested.
    #[serde(rename = "attest.refuse")]
    AttestRefuse,
    /// An authority was made and is not used yet.
    #[serde(rename = "ca.prepare")]
    CaPrepare,
    /// A prepared root, and the CRL of every CA below it, is in what everyone is sent from now on.
    #[serde(rename = "ca.publish")]
    CaPublish,
    /// An authority signs from now on; the one before it retires.
    #[serde(rename = "ca.activate")]
    CaActivate,
    /// An authority is trusted no more because its key is not ours alone.
    #[serde(rename = "ca.taint")]
    CaTaint,
    /// An authority has no live certificates left and is gone.
    #[serde(rename = "ca.retire")]
    CaRetire,
    /// A CRL was authorised.
    #[serde(rename = "crl.publish")]
    CrlPublish,
    /// Configuration or policy changed.
    #[serde(rename = "config.change")]
    ConfigChange,
    /// An operator looked at entries, exported or proved.
    #[serde(rename = "operator.read")]
    OperatorRead,
    /// An operator did something that changes nothing but is not a mere look.
    #[serde(rename = "operator.act")]
    OperatorAct,
    /// The state that indexes need, at the opening of a log.
    #[serde(rename = "ledger.snapshot")]
    LedgerSnapshot,
    /// A server opened the ledger.
    #[serde(rename = "ledger.start")]
    LedgerStart,
    /// A server closed the ledger.
    #[serde(rename = "ledger.stop")]
    LedgerStop,
    /// A log was closed and its successor opened.
    #[serde(rename = "ledger.rotate")]
    LedgerRotate,
    /// The ledger was verified.
    #[serde(rename = "ledger.verify")]
    LedgerVerify,
    /// The ledger failed.
    #[serde(rename = "ledger.fail")]
    LedgerFail,
    /// The ledger was repaired after an unclean stop.
    #[serde(rename = "ledger.recover")]
    LedgerRecover,
    /// The ledger's signing key was made or changed.
    #[serde(rename = "ledger.key")]
    LedgerKey,
    /// Whole logs were removed by declared policy.
    #[serde(rename = "ledger.prune")]
    LedgerPrune,
    /// A legal hold was set.
    #[serde(rename = "ledger.hold")]
    LedgerHold,
    /// A legal hold was lifted.
    #[serde(rename = "ledger.release")]
    LedgerRelease,
}

impl Action {
    /// Every action, in the order of documentation.
    pub const ALL: [Self; 31] = [
        Self::CertificateIssue,
        Self::CertificateSigned,
        Self::CertificateRenew,
        Self::CertificateRevoke,
        Self::CertificateDeny,
        Self::CertificateFail,
        Self::CertificateNack,
        Self::IdentityDeny,
        Self::IdentityRelease,
        Self::AttestAccept,
        Self::AttestRefuse,
        Self::CaPrepare,
        Self::CaPublish,
        Self::CaActivate,
        Self::CaTaint,
        Self::CaRetire,
        Self::CrlPublish,
        Self::ConfigChange,
        Self::OperatorRead,
        Self::OperatorAct,
        Self::LedgerSnapshot,
        Self::LedgerStart,
        Self::LedgerStop,
        Self::LedgerRotate,
        Self::LedgerVerify,
        Self::LedgerFail,
        Self::LedgerRecover,
        Self::LedgerKey,
        Self::LedgerPrune,
        Self::LedgerHold,
        Self::LedgerRelease,
    ];

    /// The name in records, metrics and `audit tail --action`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CertificateIssue => "certificate.issue",
            Self::CertificateSigned => "certificate.signed",
            Self::CertificateRenew => "certificate.renew",
            Self::CertificateRevoke => "certificate.revoke",
            Self::CertificateDeny => "certificate.deny",
            Self::CertificateFail => "certificate.fail",
            Self::CertificateNack => "certificate.nack",
            Self::IdentityDeny => "identity.deny",
            Self::IdentityRelease => "identity.release",
            Self::AttestAccept => "attest.accept",
            Self::AttestRefuse => "attest.refuse",
            Self::CaPrepare => "ca.prepare",
            Self::CaPublish => "ca.publish",
            Self::CaActivate => "ca.activate",
            Self::CaTaint => "ca.taint",
            Self::CaRetire => "ca.retire",
            Self::CrlPublish => "crl.publish",
            Self::ConfigChange => "config.change",
            Self::OperatorRead => "operator.read",
            Self::OperatorAct => "operator.act",
            Self::LedgerSnapshot => "ledger.snapshot",
            Self::LedgerStart => "ledger.start",
            Self::LedgerStop => "ledger.stop",
            Self::LedgerRotate => "ledger.rotate",
            Self::LedgerVerify => "ledger.verify",
            Self::LedgerFail => "ledger.fail",
            Self::LedgerRecover => "ledger.recover",
            Self::LedgerKey => "ledger.key",
            Self::LedgerPrune => "ledger.prune",
            Self::LedgerHold => "ledger.hold",
            Self::LedgerRelease => "ledger.release",
        }
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As asked.
    Success,
    /// Refused by a rule.
    Denied,
    /// Something broke.
    Failure,
}

/// How long a record is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RetentionClass {
    /// The CA's end and two years.
    Ca,
}

/// A duty that a record is evidence for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Framework {
    /// GDPR.
    #[serde(rename = "GDPR")]
    Gdpr,
    /// HIPAA.
    #[serde(rename = "HIPAA")]
    Hipaa,
    /// ISO/IEC 27001.
    #[serde(rename = "ISO27001")]
    Iso27001,
    /// PCI DSS.
    #[serde(rename = "PCI-DSS")]
    PciDss,
    /// SOC 2.
    #[serde(rename = "SOC2")]
    Soc2,
}

/// One record. Fields in canonical order; see the module's own words for the rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What was done.
    pub action: Action,
    /// Who did it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub actor: Option<Actor>,
    /// The authority it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub authority: Option<AuthorityFacts>,
    /// Which run of which server wrote it, hex.
    pub boot_id: String,
    /// The certificate it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub certificate: Option<CertificateFacts>,
    /// What changed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub change: Option<Change>,
    /// How many like it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub coalesced: Option<Coalesced>,
    /// The CRL it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub crl: Option<CrlFacts>,
    /// What it is evidence for, sorted.
    pub frameworks: Vec<Framework>,
    /// Whose rules of naming applied.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mesh: Option<Mesh>,
    /// The proxy's own label for itself; not attested.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// The policy that decided.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub policy: Option<PolicyFacts>,
    /// Why, in a word or a rule's name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// The record that this one follows, by id.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub refers_to: Option<String>,
    /// One request's records share it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub request_id: Option<String>,
    /// How long it is kept.
    pub retention_class: RetentionClass,
    /// 128 random bits, hex, so that a hash tile does not allow guessing.
    pub salt: String,
    /// [`SCHEMA`].
    pub schema: u32,
    /// The name of the secret that was asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub secret_name: Option<String>,
    /// The serial of the certificate it is about, where the certificate's other facts stand in another record.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub serial: Option<String>,
    /// An item of a snapshot run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub snapshot: Option<Snapshot>,
    /// Where it came from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source: Option<Source>,
    /// The SPIFFE ID it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub subject: Option<String>,
    /// When, RFC 3339 with microseconds.
    pub time: String,
    /// The caller's trace, where it sent one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trace_id: Option<String>,
}

/// Why a text is no record.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// More than [`LARGEST_RECORD`] bytes.
    #[error("a record of {length} bytes is more than the {LARGEST_RECORD} that a leaf holds")]
    TooLarge {
        /// Bytes it would have.
        length: usize,
    },
    /// Not JSON of this schema.
    #[error("not a record of schema {SCHEMA}: {0}")]
    Form(#[from] serde_json::Error),
}

/// What every record of one server run shares: the boot id, and the source of salts.
#[derive(Debug, Clone)]
pub struct Recorder {
    boot_id: String,
    entropy: Entropy,
}

impl Recorder {
    /// For one run of a server, with a fresh boot id.
    #[must_use]
    pub fn new(entropy: Entropy) -> Self {
        Self { boot_id: hex::encode(entropy.bytes::<16>()), entropy }
    }

    /// A record of `action` at `now`, with a fresh salt and everything else absent.
    #[must_use]
    pub fn event(&self, action: Action, outcome: Outcome, now: OffsetDateTime) -> Event {
        Event {
            action,
            actor: None,
            authority: None,
            boot_id: self.boot_id.clone(),
            certificate: None,
            change: None,
            coalesced: None,
            crl: None,
            frameworks: frameworks(action),
            mesh: None,
            node: None,
            outcome,
            policy: None,
            reason: None,
            refers_to: None,
            request_id: None,
            retention_class: RetentionClass::Ca,
            salt: hex::encode(self.entropy.bytes::<16>()),
            schema: SCHEMA,
            secret_name: None,
            serial: None,
            snapshot: None,
            source: None,
            subject: None,
            time: rfc3339_micros(now),
            trace_id: None,
        }
    }
}

impl Event {
    /// The canonical bytes: the leaf.
    ///
    /// # Errors
    /// [`EventError::TooLarge`].
    pub fn to_leaf(&self) -> Result<Vec<u8>, EventError> {
        let leaf = serde_json::to_vec(self)?;
        if leaf.len() > LARGEST_RECORD {
            return Err(EventError::TooLarge { length: leaf.len() });
        }
        Ok(leaf)
    }

    /// Reads a leaf back.
    ///
    /// # Errors
    /// [`EventError::Form`].
    pub fn from_leaf(leaf: &[u8]) -> Result<Self, EventError> {
        Ok(serde_json::from_slice(leaf)?)
    }
}

/// Which duties a record of `action` is evidence for.
fn frameworks(action: Action) -> Vec<Framework> {
    match action {
        Action::ConfigChange | Action::OperatorRead | Action::OperatorAct => vec![Framework::Iso27001, Framework::Soc2],
        Action::CertificateIssue
        | Action::CertificateSigned
        | Action::CertificateRenew
        | Action::CertificateRevoke
        | Action::CertificateDeny
        | Action::CertificateFail
        | Action::CertificateNack
        | Action::IdentityDeny
        | Action::IdentityRelease
        | Action::AttestAccept
        | Action::AttestRefuse => vec![Framework::Hipaa, Framework::Iso27001, Framework::PciDss, Framework::Soc2],
        Action::CaPrepare
        | Action::CaPublish
        | Action::CaActivate
        | Action::CaTaint
        | Action::CaRetire
        | Action::CrlPublish
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
        | Action::LedgerRelease => vec![Framework::Iso27001, Framework::PciDss, Framework::Soc2],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    fn full() -> Event {
        let sealed = || Some(Sealed { ct: "AA==".into(), nonce: "AA==".into(), slot: 3 });
        let text = || Some("text \u{7} \"quoted\" ü".to_owned());
        let mut event = Recorder::new(Entropy::seeded(1)).event(
            Action::CertificateRenew,
            Outcome::Success,
            datetime!(2026-11-23 13:02:11 UTC),
        );
        event.actor = Some(Actor {
            attested_at: text(),
            attested_by: "unix_peer".into(),
            evidence_sha256: text(),
            id: text(),
            name: sealed(),
            serial: text(),
            unattributed: Some(true),
        });
        event.authority = Some(AuthorityFacts { certificate: text(), upstream: text(), ..AuthorityFacts::default() });
        event.certificate = Some(CertificateFacts {
            der_sha256: text(),
            previous_serial: text(),
            renewal_cause: text(),
            ..CertificateFacts::default()
        });
        event.change = Some(Change { after: text(), before: text(), count: Some(1), what: "policy".into() });
        event.coalesced = Some(Coalesced::default());
        event.crl = Some(CrlFacts { number: 1_763_900_000_000, ..CrlFacts::default() });
        event.mesh = Some(Mesh::Istio);
        event.node = text();
        event.policy = Some(PolicyFacts { hash: String::new(), nearest: vec!["a".into()], rule: text() });
        event.reason = text();
        event.refers_to = text();
        event.request_id = text();
        event.secret_name = text();
        event.serial = text();
        event.snapshot = Some(Snapshot { count: Some(1), predecessor: text(), run_sha256: text() });
        event.source = Some(Source { address: sealed(), gid: Some(1), pid: Some(2), socket: text(), uid: Some(3) });
        event.subject = text();
        event.trace_id = text();
        event
    }

    #[test]
    fn a_leaf_is_canonical_json() {
        let event = full();
        let leaf = event.to_leaf().unwrap();
        let independent = serde_json_canonicalizer::to_vec(&serde_json::to_value(&event).unwrap()).unwrap();
        assert_eq!(String::from_utf8(leaf.clone()).unwrap(), String::from_utf8(independent).unwrap());
        assert_eq!(Event::from_leaf(&leaf).unwrap(), event);
    }

    #[test]
    fn each_action_has_one_name() {
        for action in Action::ALL {
            assert_eq!(serde_json::to_string(&action).unwrap(), format!("{:?}", action.as_str()));
        }
    }

    #[test]
    fn a_record_too_large_for_a_leaf_is_refused() {
        let mut event = full();
        event.node = Some("n".repeat(LARGEST_RECORD));
        assert!(matches!(event.to_leaf(), Err(EventError::TooLarge { .. })));
    }
}
