//! What a secret's name stands for.
//!
//! Envoy, Istio and SPIRE users expect certain words; an operator may choose others. A configured word wins over what
//! the name would mean otherwise. Nothing here decides who may have what.

use crate::feed::source::Wanted;
use crate::identity::{IdentityError, LONGEST_ID, SpiffeId, TrustDomain};

/// The longest secret name, in bytes: that of a SPIFFE ID.
pub const LONGEST_SECRET_NAME: usize = LONGEST_ID;

/// The words that stand for a secret without being an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SdsNames {
    /// The certificate that the first matching rule grants.
    pub default: String,
    /// The bundle of the server's own trust domain.
    pub bundle: String,
    /// The SPIFFE validator with every bundle that the server knows.
    pub all_bundles: String,
}

impl Default for SdsNames {
    fn default() -> Self {
        Self { default: "default".to_owned(), bundle: "ROOTCA".to_owned(), all_bundles: "ALL".to_owned() }
    }
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretRef {
    /// A certificate with its key.
    Certificate(Wanted),
    /// The roots of one trust domain.
    Bundle(TrustDomain),
    /// The SPIFFE validator with the roots of every known domain.
    AllBundles,
    /// Nothing that can be answered.
    Unknown,
}

impl SdsNames {
    /// Reads `name` as a client of the server of trust domain `own` means it.
    #[must_use]
    pub fn resolve(&self, name: &str, own: &TrustDomain) -> SecretRef {
        if name == self.default {
            return SecretRef::Certificate(Wanted::Default);
        }
        if name == self.bundle {
            return SecretRef::Bundle(own.clone());
        }
        if name == self.all_bundles {
            return SecretRef::AllBundles;
        }
        match SpiffeId::parse(name) {
            Ok(identity) => SecretRef::Certificate(Wanted::Identity(identity)),
            Err(IdentityError::Scheme | IdentityError::NoPath) => {
                TrustDomain::parse(name).map_or(SecretRef::Unknown, SecretRef::Bundle)
            }
            Err(
                IdentityError::Empty
                | IdentityError::TooLong { .. }
                | IdentityError::TrustDomainCharacter { .. }
                | IdentityError::NoTrustDomain
                | IdentityError::PathCharacter { .. }
                | IdentityError::EmptySegment
                | IdentityError::DotSegment,
            ) => SecretRef::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expected: &SecretRef) {
        let own = TrustDomain::parse("example.org").unwrap();
        assert_eq!(&SdsNames::default().resolve(name, &own), expected, "{name}");
    }

    #[test]
    fn names_mean_what_users_of_envoy_istio_and_spire_expect() {
        let domain = |name: &str| SecretRef::Bundle(TrustDomain::parse(name).unwrap());
        let id = SpiffeId::parse("spiffe://example.org/ns/pay/sa/api").unwrap();
        check("default", &SecretRef::Certificate(Wanted::Default));
        check("ROOTCA", &domain("example.org"));
        check("ALL", &SecretRef::AllBundles);
        check(id.as_str(), &SecretRef::Certificate(Wanted::Identity(id.clone())));
        check("spiffe://example.org", &domain("example.org"));
        check("example.org", &domain("example.org"));
        check("spiffe://other.org", &domain("other.org"));
        check("spiffe://example.org/", &SecretRef::Unknown);
        check("Server_Cert", &SecretRef::Unknown);
        check("", &SecretRef::Unknown);
    }

    #[test]
    fn a_configured_word_wins() {
        let own = TrustDomain::parse("example.org").unwrap();
        let names = SdsNames { default: "example.org".to_owned(), ..SdsNames::default() };
        assert_eq!(names.resolve("example.org", &own), SecretRef::Certificate(Wanted::Default));
    }
}
