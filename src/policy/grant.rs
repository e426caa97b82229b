//! The proof that policy granted an identity.
//!
//! The first proof of the street: x509 takes it by value and makes a draft of nothing else. Its fields are private, it is
//! not `Clone`, and only `policy::authorise` calls [`Grant::seal`], for a rule that matched attested facts.

use std::sync::Arc;
use std::time::Duration;

use crate::identity::{Mesh, SpiffeId};
use crate::x509::KeyAlgorithm;
use crate::x509::profile::LeafProfile;

/// When in its life a certificate is renewed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Renewal {
    /// The part of its life after which it is due, such as 0.5.
    pub fraction: f64,
    /// How far each certificate's own moment may lie to either side, as a part of its life, such as 0.05.
    pub jitter: f64,
}

/// One identity, granted to one caller by one rule.
///
/// It cannot be made outside policy:
/// ```compile_fail,E0451
/// fn forge() -> chancery::policy::Grant {
///     chancery::policy::Grant { terms: unimplemented!() }
/// }
/// ```
/// nor used twice:
/// ```compile_fail,E0382
/// fn spend(_: chancery::policy::Grant) {}
/// fn twice(grant: chancery::policy::Grant) {
///     spend(grant);
///     spend(grant);
/// }
/// ```
#[derive(Debug)]
pub struct Grant {
    terms: Terms,
}

/// What a grant says, put together by `policy::authorise`.
#[derive(Debug)]
pub(super) struct Terms {
    /// The granted identity.
    pub(super) identity: SpiffeId,
    /// What the certificate may be.
    pub(super) profile: Arc<LeafProfile>,
    /// DNS names in the order of the certificate.
    pub(super) dns_names: Vec<String>,
    /// How long it may live.
    pub(super) lifetime: Duration,
    /// Accepted key algorithms; the first is that of keys which the server makes.
    pub(super) keys: Arc<[KeyAlgorithm]>,
    /// The first of `keys`.
    pub(super) key: KeyAlgorithm,
    /// Whose name shape it follows.
    pub(super) mesh: Mesh,
    /// When to renew.
    pub(super) renewal: Renewal,
    /// How old the attestation of a client certificate may be; `None` for a process, which is attested each time.
    pub(super) reattest_after: Option<Duration>,
    /// The rule's name.
    pub(super) rule: Arc<str>,
    /// SHA-256 of the policy, hex.
    pub(super) policy_hash: Arc<str>,
}

impl Grant {
    /// For `policy::authorise` only: states that a rule of the policy in force grants `terms` to an attested caller.
    pub(super) fn seal(terms: Terms) -> Self {
        Self { terms }
    }

    /// The granted identity: the certificate's only URI name.
    #[must_use]
    pub fn identity(&self) -> &SpiffeId {
        &self.terms.identity
    }

    /// Whose name shape it follows.
    #[must_use]
    pub fn mesh(&self) -> Mesh {
        self.terms.mesh
    }

    /// What the certificate may be.
    #[must_use]
    pub fn profile(&self) -> &Arc<LeafProfile> {
        &self.terms.profile
    }

    /// DNS names in the order of the certificate. Linkerd's own comes first in the whole list of names.
    #[must_use]
    pub fn dns_names(&self) -> &[String] {
        &self.terms.dns_names
    }

    /// How long the certificate may live, counted from its issue (backdating comes on top).
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.terms.lifetime
    }

    /// The algorithm of a key that the server makes.
    #[must_use]
    pub fn key_algorithm(&self) -> KeyAlgorithm {
        self.terms.key
    }

    /// The algorithms that a caller's own key may have.
    #[must_use]
    pub fn accepted_keys(&self) -> &[KeyAlgorithm] {
        &self.terms.keys
    }

    /// When in its life the certificate is renewed.
    #[must_use]
    pub fn renewal(&self) -> &Renewal {
        &self.terms.renewal
    }

    /// How old the attestation may be that the caller's client certificate goes back to; `None` for a process, which is
    /// attested each time.
    #[must_use]
    pub fn reattest_after(&self) -> Option<Duration> {
        self.terms.reattest_after
    }

    /// The name of the rule that granted.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.terms.rule
    }

    /// SHA-256 of the policy's text in lower-case hex.
    #[must_use]
    pub fn policy_hash(&self) -> &str {
        &self.terms.policy_hash
    }
}

/// Grants for unit tests of the layers above.
#[cfg(test)]
pub(crate) mod testing {
    use super::{Arc, Duration, Grant, KeyAlgorithm, LeafProfile, Renewal, SpiffeId, Terms};
    use crate::identity::Mesh;

    /// A grant of `identity` under `profile`, by rule `test`, renewed at half of its life.
    pub(crate) fn grant(
        identity: &str,
        mesh: Mesh,
        profile: &Arc<LeafProfile>,
        dns_names: &[&str],
        lifetime: Duration,
        keys: &[KeyAlgorithm],
    ) -> Grant {
        Grant::seal(Terms {
            identity: SpiffeId::parse(identity).unwrap(),
            profile: Arc::clone(profile),
            dns_names: dns_names.iter().map(|name| (*name).to_owned()).collect(),
            lifetime,
            keys: keys.into(),
            key: keys[0],
            mesh,
            renewal: Renewal { fraction: 0.5, jitter: 0.05 },
            reattest_after: None,
            rule: "test".into(),
            policy_hash: "00".repeat(32).into(),
        })
    }
}
