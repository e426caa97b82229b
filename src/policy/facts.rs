//! Whom a rule can be for: a process on a Unix socket, or the holder of a client certificate of ours.
//!
//! A rule is for the one or for the other, never for both: one with the condition `client` is for certificates alone, any
//! other for processes alone. So nobody on the network gets what a rule gives to a process because only the name of its
//! listener is in it.

use std::fmt;

use super::rules::{Fact, NO_ID, OVERFLOW_ID, Unmet};
use crate::caller::{ClientCertificate, Evidence, UnixPeer};
use crate::identity::{IdentityError, SpiffeId, TrustDomain};

/// What is known of a caller, as rules look at it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Facts<'a> {
    /// A process, as the kernel names it.
    Process(&'a UnixPeer),
    /// A client certificate, as a handshake proved it.
    Client(&'a ClientCertificate),
}

impl<'a> Facts<'a> {
    /// The facts of evidence that a rule of a file can match; `None` for this server itself, which no rule is about.
    pub(super) fn of(evidence: &'a Evidence) -> Option<Self> {
        match evidence {
            Evidence::UnixPeer(peer) => Some(Self::Process(peer)),
            Evidence::Client(client) => Some(Self::Client(client)),
            Evidence::Own => None,
        }
    }

    /// The listener it connected to.
    pub(super) fn socket(self) -> &'a str {
        match self {
            Self::Process(peer) => &peer.socket,
            Self::Client(client) => &client.socket,
        }
    }

    /// The caller as the screen of `policy explain` names it.
    pub(super) fn subject(self) -> String {
        match self {
            Self::Process(peer) => format!("uid {} on socket {}", peer.uid, peer.socket),
            Self::Client(client) => format!("client {} on socket {}", client.identity, client.socket),
        }
    }

    /// What it is, where a rule is for the other kind.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Process(_) => "a process on a Unix socket",
            Self::Client(_) => "the holder of a client certificate",
        }
    }
}

/// Why no rule can match a caller whatever it says; `None` for anybody who is somebody.
///
/// `attest` refuses these too; policy does not rely on it.
#[must_use]
pub(super) fn nobody(facts: Facts<'_>) -> Option<Unmet> {
    let Facts::Process(peer) = facts else { return None };
    let has = if peer.pid == 0 {
        "a process of another pid namespace (pid 0)"
    } else if peer.uid == OVERFLOW_ID || peer.uid == NO_ID {
        "a user that this namespace does not map"
    } else {
        return None;
    };
    Some(Unmet { fact: Fact::Caller, needs: "a process and a user of this machine".to_owned(), has: has.to_owned() })
}

/// Identities that a client certificate may carry: one, or all below a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientPattern {
    /// The identity; for a prefix one just below it, so that it was checked like any other.
    example: SpiffeId,
    below: bool,
}

/// What stands for one segment below a prefix when a pattern or a template is tried.
const ANY_SEGMENT: &str = "/x";

impl ClientPattern {
    /// Reads a SPIFFE ID or a prefix that ends in `/*`; `{trust_domain}` is filled in.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str, trust_domain: &TrustDomain) -> Result<Self, IdentityError> {
        let text = text.replace("{trust_domain}", trust_domain.as_str());
        match text.strip_suffix("/*") {
            Some(prefix) => Ok(Self { example: SpiffeId::parse(&format!("{prefix}{ANY_SEGMENT}"))?, below: true }),
            None => Ok(Self { example: SpiffeId::parse(&text)?, below: false }),
        }
    }

    /// An identity that it covers.
    #[must_use]
    pub fn example(&self) -> &SpiffeId {
        &self.example
    }

    /// Whether it covers all below a prefix; then [`Self::example`] has a segment `x` behind it.
    pub(super) fn is_below(&self) -> bool {
        self.below
    }

    /// The prefix with its slash, or the whole identity.
    fn text(&self) -> &str {
        let whole = self.example.as_str();
        if self.below { whole.strip_suffix('x').unwrap_or(whole) } else { whole }
    }

    /// Whether a certificate of `identity` is one of these.
    #[must_use]
    pub fn contains(&self, identity: &SpiffeId) -> bool {
        if self.below { identity.as_str().starts_with(self.text()) } else { *identity == self.example }
    }

    /// Whether every identity in `other` is in it too.
    pub(super) fn covers(&self, other: &Self) -> bool {
        if self.below { other.text().starts_with(self.text()) } else { self == other }
    }
}

impl fmt::Display for ClientPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.text(), if self.below { "*" } else { "" })
    }
}

/// Several of them, as text: `a or b`.
pub(super) fn join(patterns: &[ClientPattern]) -> String {
    patterns.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> ClientPattern {
        ClientPattern::parse(text, &TrustDomain::parse("example.org").unwrap()).unwrap()
    }

    #[test]
    fn a_prefix_ends_at_a_segment() {
        let check = |text: &str, id: &str, expected: bool| {
            assert_eq!(pattern(text).contains(&SpiffeId::parse(id).unwrap()), expected, "{text} {id}");
        };
        check("spiffe://{trust_domain}/w/*", "spiffe://example.org/w/a/b", true);
        check("spiffe://{trust_domain}/w/*", "spiffe://example.org/w", false);
        check("spiffe://{trust_domain}/w/*", "spiffe://example.org/wa", false);
        check("spiffe://{trust_domain}/*", "spiffe://example.org/wa", true);
        check("spiffe://{trust_domain}/*", "spiffe://example.organic/wa", false);
        check("spiffe://example.org/w", "spiffe://example.org/w", true);
        check("spiffe://example.org/w", "spiffe://example.org/w/a", false);
        assert_eq!(pattern("spiffe://{trust_domain}/w/*").to_string(), "spiffe://example.org/w/*");
    }

    #[test]
    fn covering_is_having_every_identity() {
        let check = |own: &str, other: &str, expected| assert_eq!(pattern(own).covers(&pattern(other)), expected);
        check("spiffe://example.org/*", "spiffe://example.org/w/*", true);
        check("spiffe://example.org/w/*", "spiffe://example.org/w/*", true);
        check("spiffe://example.org/w/*", "spiffe://example.org/w/a", true);
        check("spiffe://example.org/w/*", "spiffe://example.org/w", false);
        check("spiffe://example.org/w/*", "spiffe://example.org/*", false);
        check("spiffe://example.org/w/x", "spiffe://example.org/w/*", false);
    }

    #[test]
    fn what_is_no_identity_is_no_pattern() {
        let domain = TrustDomain::parse("example.org").unwrap();
        for wrong in ["*", "", "spiffe://{trust_domain}", "spiffe://{trust_domain}/a*", "spiffe://{trust_domain}/a/**"]
        {
            assert!(ClientPattern::parse(wrong, &domain).is_err(), "{wrong}");
        }
    }
}
