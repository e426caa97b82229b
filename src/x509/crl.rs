//! Certificate revocation lists: RFC 5280 section 5.
//!
//! The way of a CRL is that of a certificate: [`CrlDraft`] (built, spliced, linted) → recorded by the ledger → signed by
//! `ca::sign` → [`Crl`]. Always true: entries are sorted by serial and none is there twice, the issuer's name and key
//! identifier are those of its certificate byte for byte, and a [`Crl`] that was made here verifies under its issuer's
//! key, because Envoy takes a broken CRL without a word and then refuses every handshake. Callers are `revocation`,
//! which decides what is on a list, and whoever reads one: `fetch`, `probe`, `doctor`.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::Serial;

mod draft;
mod read;
#[cfg(test)]
pub(crate) mod tests;

pub use draft::{CrlDraft, CrlError, CrlRule, CrlSpec};
pub use read::{Crl, CrlFault};

/// Of which CAs in a peer's chain a verifier wants a CRL.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scope {
    /// Of every one, the root among them: Envoy's default.
    #[default]
    WholeChain,
    /// Of the one that issued the leaf (`only_verify_leaf_cert_crl`): a revoked CA further up goes unnoticed.
    LeafOnly,
}

/// A certificate on a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrlEntry {
    /// Its serial.
    pub serial: Serial,
    /// When it was revoked; whole seconds.
    pub revoked_at: OffsetDateTime,
    /// Why.
    pub reason: Reason,
}

/// Why a certificate is revoked; RFC 5280 section 5.3.1, by its names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// Nothing said.
    #[default]
    #[serde(rename = "unspecified")]
    Unspecified,
    /// Somebody else may have the key.
    #[serde(rename = "keyCompromise")]
    KeyCompromise,
    /// Somebody else may have the authority's key.
    #[serde(rename = "cACompromise")]
    CaCompromise,
    /// The name is not its holder's any more.
    #[serde(rename = "affiliationChanged")]
    AffiliationChanged,
    /// Another certificate took its place.
    #[serde(rename = "superseded")]
    Superseded,
    /// It is not needed any more.
    #[serde(rename = "cessationOfOperation")]
    CessationOfOperation,
    /// Its holder may not have it any more.
    #[serde(rename = "privilegeWithdrawn")]
    PrivilegeWithdrawn,
}

impl Reason {
    /// Every reason that an operator may give, in the order of documentation.
    pub const ALL: [Self; 7] = [
        Self::Unspecified,
        Self::KeyCompromise,
        Self::CaCompromise,
        Self::AffiliationChanged,
        Self::Superseded,
        Self::CessationOfOperation,
        Self::PrivilegeWithdrawn,
    ];

    /// RFC 5280's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "keyCompromise",
            Self::CaCompromise => "cACompromise",
            Self::AffiliationChanged => "affiliationChanged",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessationOfOperation",
            Self::PrivilegeWithdrawn => "privilegeWithdrawn",
        }
    }

    /// Reads a name, its words in any case and with or without dashes: `key-compromise` is `keyCompromise`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |text: &str| text.replace('-', "").to_ascii_lowercase();
        Self::ALL.into_iter().find(|reason| plain(reason.as_str()) == plain(text))
    }

    /// The number of RFC 5280 section 5.3.1.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Unspecified => 0,
            Self::KeyCompromise => 1,
            Self::CaCompromise => 2,
            Self::AffiliationChanged => 3,
            Self::Superseded => 4,
            Self::CessationOfOperation => 5,
            Self::PrivilegeWithdrawn => 9,
        }
    }

    /// The reason of that number, where it is one of ours.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    fn rcgen(self) -> rcgen::RevocationReason {
        match self {
            Self::Unspecified => rcgen::RevocationReason::Unspecified,
            Self::KeyCompromise => rcgen::RevocationReason::KeyCompromise,
            Self::CaCompromise => rcgen::RevocationReason::CaCompromise,
            Self::AffiliationChanged => rcgen::RevocationReason::AffiliationChanged,
            Self::Superseded => rcgen::RevocationReason::Superseded,
            Self::CessationOfOperation => rcgen::RevocationReason::CessationOfOperation,
            Self::PrivilegeWithdrawn => rcgen::RevocationReason::PrivilegeWithdrawn,
        }
    }
}
