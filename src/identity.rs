//! SPIFFE IDs and trust domains: parsed once, valid ever after.
//!
//! A value of these types obeys the SPIFFE-ID standard; nothing else in the program checks it again. Each mesh's own
//! name shape lives here too, as [`Mesh`]. Nothing here knows about certificates, callers or policy.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest SPIFFE ID that is accepted, in bytes; SPIFFE-ID section 2.3.
pub const LONGEST_ID: usize = 2048;

/// The longest trust domain name that is accepted, in bytes; SPIFFE-ID section 2.1.
pub const LONGEST_TRUST_DOMAIN: usize = 255;

/// Why a text is no SPIFFE ID or trust domain. Each says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Nothing was given.
    #[error("a SPIFFE ID is spiffe://TRUST-DOMAIN/PATH, but this is empty")]
    Empty,
    /// More than [`LONGEST_ID`] bytes, or more than [`LONGEST_TRUST_DOMAIN`] for the domain.
    #[error("{length} bytes, but at most {limit} are allowed")]
    TooLong {
        /// Bytes given.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Another scheme than `spiffe`.
    #[error("a SPIFFE ID begins with spiffe:// in lower case")]
    Scheme,
    /// A character that a trust domain must not hold.
    #[error(
        "a trust domain holds only a-z, 0-9, dot, dash and underscore, not {found:?}: no port, no user, no upper case"
    )]
    TrustDomainCharacter {
        /// The first wrong one.
        found: char,
    },
    /// No trust domain at all.
    #[error("the trust domain is missing between spiffe:// and the path")]
    NoTrustDomain,
    /// A character that a path segment must not hold.
    #[error(
        "a path holds only letters, digits, dot, dash and underscore, not {found:?}: no query, no fragment, no percent-encoding"
    )]
    PathCharacter {
        /// The first wrong one.
        found: char,
    },
    /// `//`, or a slash at the end.
    #[error("a path segment is empty: no double slash and no slash at the end")]
    EmptySegment,
    /// `.` or `..`.
    #[error("a path segment must not be . or ..")]
    DotSegment,
    /// A workload's ID needs a path.
    #[error("a workload's SPIFFE ID needs a path after the trust domain")]
    NoPath,
}

/// A trust domain's name, such as `example.org`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(String);

impl TrustDomain {
    /// Reads a name (`example.org`) or an ID without path (`spiffe://example.org`).
    ///
    /// # Errors
    /// When the text breaks a rule of SPIFFE-ID section 2.1.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        let name = text.strip_prefix("spiffe://").unwrap_or(text);
        if name.is_empty() {
            return Err(IdentityError::NoTrustDomain);
        }
        if name.len() > LONGEST_TRUST_DOMAIN {
            return Err(IdentityError::TooLong { length: name.len(), limit: LONGEST_TRUST_DOMAIN });
        }
        match name.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_')) {
            Some(found) => Err(IdentityError::TrustDomainCharacter { found }),
            None => Ok(Self(name.to_owned())),
        }
    }

    /// The bare name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `spiffe://NAME`: the ID of the domain itself, which CA certificates carry.
    #[must_use]
    pub fn id(&self) -> String {
        format!("spiffe://{}", self.0)
    }

    /// The ID `spiffe://NAME` followed by `path`, which begins with a slash.
    ///
    /// # Errors
    /// When `path` breaks a rule of SPIFFE-ID section 2.2.
    pub fn with_path(&self, path: &str) -> Result<SpiffeId, IdentityError> {
        SpiffeId::parse(&format!("spiffe://{}{path}", self.0))
    }
}

/// A workload's SPIFFE ID: a trust domain and a path that is not empty.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    whole: String,
    /// Where the path begins in `whole`.
    path_at: usize,
}

impl SpiffeId {
    /// Reads `spiffe://TRUST-DOMAIN/PATH`.
    ///
    /// # Errors
    /// When the text breaks a rule of SPIFFE-ID section 2.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        if text.is_empty() {
            return Err(IdentityError::Empty);
        }
        if text.len() > LONGEST_ID {
            return Err(IdentityError::TooLong { length: text.len(), limit: LONGEST_ID });
        }
        let rest = text.strip_prefix("spiffe://").ok_or(IdentityError::Scheme)?;
        let (domain, path) = rest.split_once('/').map_or((rest, None), |(domain, path)| (domain, Some(path)));
        TrustDomain::parse(domain)?;
        let path = path.ok_or(IdentityError::NoPath)?;
        path.split('/').try_for_each(check_segment)?;
        Ok(Self { whole: text.to_owned(), path_at: "spiffe://".len() + domain.len() })
    }

    /// The whole ID.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.whole
    }

    /// The path with its leading slash.
    #[must_use]
    pub fn path(&self) -> &str {
        self.whole.get(self.path_at..).unwrap_or_default()
    }

    /// The domain this ID belongs to.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(self.whole.get("spiffe://".len()..self.path_at).unwrap_or_default().to_owned())
    }

    /// Whether this ID belongs to `domain`.
    #[must_use]
    pub fn member_of(&self, domain: &TrustDomain) -> bool {
        self.whole.get("spiffe://".len()..self.path_at) == Some(domain.as_str())
    }
}

fn check_segment(segment: &str) -> Result<(), IdentityError> {
    match segment {
        "" => return Err(IdentityError::EmptySegment),
        "." | ".." => return Err(IdentityError::DotSegment),
        _ => {}
    }
    match segment.chars().find(|c| !matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_')) {
        Some(found) => Err(IdentityError::PathCharacter { found }),
        None => Ok(()),
    }
}

/// Whose name shape, lifetime and extra names a certificate follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mesh {
    /// Plain Envoy or anything that speaks SPIFFE: any path.
    Envoy,
    /// `/ns/<namespace>/sa/<service account>`.
    Istio,
    /// A DNS name first, the same SPIFFE ID as Istio's second.
    Linkerd,
    /// `/identity/<id>` or `/ns/<namespace>/sa/<service account>`.
    Cilium,
    /// `/ns/<namespace>/dc/<datacenter>/svc/<service>`.
    Consul,
}

impl Mesh {
    /// Every mesh, in the order in which documentation lists them.
    pub const ALL: [Self; 5] = [Self::Envoy, Self::Istio, Self::Linkerd, Self::Cilium, Self::Consul];

    /// The name in policy, records and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Envoy => "envoy",
            Self::Istio => "istio",
            Self::Linkerd => "linkerd",
            Self::Cilium => "cilium",
            Self::Consul => "consul",
        }
    }
}

impl fmt::Display for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! text_value {
    ($type:ident) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = IdentityError;

            fn from_str(text: &str) -> Result<Self, IdentityError> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = IdentityError;

            fn try_from(text: String) -> Result<Self, IdentityError> {
                Self::parse(&text)
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    };
}

text_value!(TrustDomain);
text_value!(SpiffeId);

/// Whether the last label of a DNS name is a number, in digits or as in `a.0x7`: no verifier takes such a one for a name,
/// because it reads as an address.
#[must_use]
pub fn ends_in_a_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_hexadecimal = last.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
    is_hexadecimal || last.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expected: Result<&str, IdentityError>) {
        assert_eq!(SpiffeId::parse(text).map(|id| id.path().to_owned()), expected.map(str::to_owned), "{text}");
    }

    #[test]
    fn ids_follow_the_standard() {
        check("spiffe://example.org/ns/pay/sa/api", Ok("/ns/pay/sa/api"));
        check("spiffe://127.0.0.1/a.b-c_D9", Ok("/a.b-c_D9"));
        check("", Err(IdentityError::Empty));
        check("https://example.org/a", Err(IdentityError::Scheme));
        check("SPIFFE://example.org/a", Err(IdentityError::Scheme));
        check("spiffe://example.org", Err(IdentityError::NoPath));
        check("spiffe://example.org/", Err(IdentityError::EmptySegment));
        check("spiffe://example.org/a/", Err(IdentityError::EmptySegment));
        check("spiffe://example.org/a//b", Err(IdentityError::EmptySegment));
        check("spiffe://example.org/a/../b", Err(IdentityError::DotSegment));
        check("spiffe://example.org/a/./b", Err(IdentityError::DotSegment));
        check("spiffe:///a", Err(IdentityError::NoTrustDomain));
        check("spiffe://Example.org/a", Err(IdentityError::TrustDomainCharacter { found: 'E' }));
        check("spiffe://example.org:443/a", Err(IdentityError::TrustDomainCharacter { found: ':' }));
        check("spiffe://user@example.org/a", Err(IdentityError::TrustDomainCharacter { found: '@' }));
        check("spiffe://[::1]/a", Err(IdentityError::TrustDomainCharacter { found: '[' }));
        check("spiffe://example.org/a%20b", Err(IdentityError::PathCharacter { found: '%' }));
        check("spiffe://example.org/a?b", Err(IdentityError::PathCharacter { found: '?' }));
        check("spiffe://example.org/a#b", Err(IdentityError::PathCharacter { found: '#' }));
        check("spiffe://example.org/ü", Err(IdentityError::PathCharacter { found: 'ü' }));
        let long = format!("spiffe://example.org/{}", "a".repeat(LONGEST_ID));
        check(&long, Err(IdentityError::TooLong { length: long.len(), limit: LONGEST_ID }));
    }

    #[test]
    fn a_domain_is_taken_with_or_without_scheme() {
        assert_eq!(TrustDomain::parse("spiffe://example.org"), TrustDomain::parse("example.org"));
        let id = SpiffeId::parse("spiffe://example.org/a").unwrap();
        assert!(id.member_of(&TrustDomain::parse("example.org").unwrap()));
        assert!(!id.member_of(&TrustDomain::parse("example.or").unwrap()));
        assert_eq!(id.trust_domain().id(), "spiffe://example.org");
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_keeps_what_it_accepts(text in ".{0,64}") {
            if let Ok(id) = SpiffeId::parse(&text) {
                prop_assert_eq!(id.as_str(), text.as_str());
                prop_assert_eq!(SpiffeId::parse(id.as_str()).unwrap(), id);
            }
        }

        #[test]
        fn joining_what_was_split_gives_the_same(domain in "[a-z0-9._-]{1,20}", path in "(/[A-Za-z0-9_-]{1,8}){1,4}") {
            let domain = TrustDomain::parse(&domain).unwrap();
            let id = domain.with_path(&path).unwrap();
            prop_assert_eq!(id.path(), path.as_str());
            prop_assert_eq!(id.trust_domain(), domain);
        }
    }
}
