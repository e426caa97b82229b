//! The server's own identity, and the one rule that no file writes: only the server itself gets it.
//!
//! Clients of an mTLS listener know the server by this name, so whoever else had it could stand between them. A policy
//! that would grant it is refused when it is read where that can be seen, and every decision looks once more.

use std::sync::Arc;
use std::time::Duration;

use super::Policy;
use super::authorise::{Refusal, Wanted};
use super::grant::{Grant, Renewal, Terms};
use crate::identity::{Mesh, SpiffeId};
use crate::x509::KeyAlgorithm;
use crate::x509::profile::Profiles;

/// The path of the server's own identity: `spiffe://example.org/chancery/server`.
pub const OWN_PATH: &str = "/chancery/server";

/// The rule's name in records: parentheses are not allowed in a file.
const RULE: &str = "(server)";

/// How long its certificate lives, unless the policy's longest life is shorter: an issuing CA outlives that one only.
const LIFETIME: Duration = Duration::from_secs(86_400);

/// Whether `identity` is the server's own.
pub(super) fn is_own(identity: &SpiffeId) -> bool {
    identity.path() == OWN_PATH
}

/// What the server itself gets: its own identity and nothing else.
pub(super) fn grant(policy: &Policy, wanted: &Wanted) -> Result<Grant, Refusal> {
    let identity = match wanted {
        Wanted::Identity(identity) if is_own(identity) => identity.clone(),
        Wanted::Identity(identity) => {
            return Err(Refusal::NotGranted { wanted: identity.clone(), nearest: Vec::new() });
        }
        Wanted::Default => return Err(Refusal::OnlyByName { nearest: Vec::new() }),
    };
    Ok(Grant::seal(Terms {
        identity,
        profile: Arc::clone(Profiles::builtin().leaf(Mesh::Envoy)),
        dns_names: Vec::new(),
        lifetime: policy.longest_lifetime().min(LIFETIME),
        keys: [KeyAlgorithm::P256].into(),
        key: KeyAlgorithm::P256,
        mesh: Mesh::Envoy,
        renewal: Renewal { fraction: 0.5, jitter: 0.05 },
        reattest_after: None,
        rule: RULE.into(),
        policy_hash: Arc::clone(&policy.hash),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest;
    use crate::caller::testing::{unix, unix_on};
    use crate::identity::TrustDomain;
    use crate::policy::Surroundings;
    use crate::toml_reader::Mistakes;

    fn parse(identity: &str) -> Result<Policy, Mistakes> {
        let text = format!(
            "[[rule]]\nname = \"r\"\nmatch = {{ uid = 1000 }}\nidentity = \"spiffe://{{trust_domain}}/{identity}\"\nlifetime = \"1h\"\n"
        );
        let domain = TrustDomain::parse("example.org").unwrap();
        let profiles = Profiles::builtin();
        Policy::parse(&text, &Surroundings { file: "policy.toml", trust_domain: &domain, sockets: None, profiles })
    }

    fn own() -> Wanted {
        Wanted::Identity(SpiffeId::parse("spiffe://example.org/chancery/server").unwrap())
    }

    #[test]
    fn the_server_gets_its_own_identity_and_no_other() {
        let policy = parse("web").unwrap();
        let grant = policy.authorise(&attest::own::caller(), &own()).unwrap();
        assert_eq!((grant.identity().path(), grant.rule()), (OWN_PATH, "(server)"));
        assert_eq!(grant.lifetime(), Duration::from_secs(3_600), "never longer than the policy's longest");
        let other = Wanted::Identity(SpiffeId::parse("spiffe://example.org/web").unwrap());
        assert!(policy.authorise(&attest::own::caller(), &other).is_err());
        assert!(policy.authorise(&attest::own::caller(), &Wanted::Default).is_err());
    }

    #[test]
    fn no_rule_grants_it() {
        let said = parse("chancery/server").unwrap_err().to_string();
        assert!(said.contains("kept for the server itself"), "{said}");
        // Where it depends on the caller or on what is asked for, the decision looks.
        for (identity, caller) in [("*", unix(1000, 1, &[])), ("{socket}/server", unix_on("chancery", 1000, 1, &[]))] {
            let policy = parse(identity).unwrap();
            assert!(policy.authorise(&caller, &own()).is_err(), "{identity}");
            assert!(policy.granted(&caller).is_empty(), "{identity}");
        }
    }
}
