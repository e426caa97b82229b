//! Certificate revocation lists: RFC 5280 section 5.

use serde::{Deserialize, Serialize};

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
}
