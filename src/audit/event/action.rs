//! What a record says was done: one name for each, fixed for good, because what is in an immutable log cannot be renamed.

use serde::{Deserialize, Serialize};

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
    /// An act that takes a second operator was asked for.
    #[serde(rename = "approval.request")]
    ApprovalRequest,
    /// Another person granted it, or somebody refused it.
    #[serde(rename = "approval.grant")]
    ApprovalGrant,
    /// The sealed credential was used, or somebody tried a wrong one.
    #[serde(rename = "breakglass.open")]
    BreakglassOpen,
    /// What it opened is over.
    #[serde(rename = "breakglass.close")]
    BreakglassClose,
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
    pub const ALL: [Self; 35] = [
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
        Self::ApprovalRequest,
        Self::ApprovalGrant,
        Self::BreakglassOpen,
        Self::BreakglassClose,
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
            Self::ApprovalRequest => "approval.request",
            Self::ApprovalGrant => "approval.grant",
            Self::BreakglassOpen => "breakglass.open",
            Self::BreakglassClose => "breakglass.close",
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
