//! Why a certificate was not drafted or its signature not wrapped: whose fault it is, and what to do.

use crate::x509::algorithm::{KeyAlgorithm, SignatureAlgorithm};
use crate::x509::lint::LintError;

use super::LONGEST_NAME;

/// Why there is no draft. Nothing was recorded or signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DraftError {
    /// The caller's key is of a kind that the rule does not accept.
    #[error(
        "rule {rule} accepts keys of kind {accepted}, not {found}: make such a key, or have the rule accept {found}"
    )]
    KeyNotAccepted {
        /// The rule.
        rule: String,
        /// What it accepts.
        accepted: String,
        /// The key's kind.
        found: KeyAlgorithm,
    },
    /// Policy granted names that the profile forbids, or none where it needs one.
    #[error("rule {rule} grants {found} DNS names, but profile {profile} wants {wanted}: correct the rule")]
    DnsNames {
        /// The rule.
        rule: String,
        /// How many it grants.
        found: usize,
        /// The profile.
        profile: String,
        /// What the profile says.
        wanted: &'static str,
    },
    /// The issuing CA is not valid yet.
    #[error("{issuer} is valid from {not_before} only and it is {now}: correct this machine's clock, or wait")]
    IssuerNotYetValid {
        /// The CA.
        issuer: String,
        /// Its first moment.
        not_before: String,
        /// What the clock says.
        now: String,
    },
    /// The issuing CA has ended, or so nearly that nothing useful fits before its end.
    #[error(
        "{issuer} ends at {not_after} and it is {now}, which leaves less than the shortest lifetime of {shortest_s} s: its successor must take over (`chancery ca show`), or this machine's clock is wrong"
    )]
    IssuerEnds {
        /// The CA.
        issuer: String,
        /// Its last moment.
        not_after: String,
        /// What the clock says.
        now: String,
        /// What must be left, in seconds.
        shortest_s: u64,
    },
    /// A lifetime outside of what the profile permits.
    #[error(
        "a lifetime of {found_s} s is outside of what profile {profile} permits ({shortest_s} s to {longest_s} s): change the rule or the configuration"
    )]
    Lifetime {
        /// The profile.
        profile: String,
        /// What was wanted, in seconds.
        found_s: u64,
        /// The least, in seconds.
        shortest_s: u64,
        /// The most, in seconds.
        longest_s: u64,
    },
    /// A root under another CA, an issuing CA without one, or one where its issuer permits none.
    #[error(
        "profile {profile} cannot stand there: a root has no issuer, and an issuing CA needs one that permits CAs below it"
    )]
    Hierarchy {
        /// The profile.
        profile: String,
    },
    /// A name that is empty or too long for a certificate.
    #[error("{name:?} is no common name for a CA: 1 to {LONGEST_NAME} characters")]
    CommonName {
        /// What was given.
        name: String,
    },
    /// The encoder refused a value.
    #[error("the certificate could not be encoded: {0}; nothing was signed, please report this")]
    Encoding(String),
    /// A rule is broken: a fault of this program, and the last net under it.
    #[error(transparent)]
    Lint(#[from] LintError),
    /// The signature has not the form of its algorithm.
    #[error(
        "the key service answered with something that is no {algorithm} signature: check which algorithm and encoding that key is set to"
    )]
    SignatureForm {
        /// What was wanted.
        algorithm: SignatureAlgorithm,
    },
}
