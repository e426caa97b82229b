//! What another policy would mean: which rules differ, and whether somebody would still get what it holds.
//!
//! Pure, like every decision here. A caller that is not connected is known by its account alone, without groups, so the
//! answer about it may be that nobody knows.

use std::collections::BTreeMap;

use super::authorise::{Answer, Wanted};
use super::facts::Facts;
use super::rules::Rule;
use super::{Policy, Refusal};
use crate::caller::{Account, Caller, ClientCertificate, Evidence, UnixPeer};
use crate::identity::SpiffeId;

/// Whether an account would get an identity that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// It would.
    Granted,
    /// It would not.
    Lost,
    /// Its groups decide, and they are not known.
    Unknown,
}

/// Rules by name that differ between two policies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RulesDiff {
    /// Only in the new one.
    pub added: Vec<String>,
    /// Only in the old one.
    pub removed: Vec<String>,
    /// In both, and not the same: what it says, or its place among the others.
    pub changed: Vec<String>,
}

impl RulesDiff {
    /// Compares two policies rule by rule.
    #[must_use]
    pub fn between(old: &Policy, new: &Policy) -> Self {
        let by_name = |policy: &Policy| -> BTreeMap<String, String> {
            policy.rules().iter().map(|rule| (rule.name().to_owned(), whole(rule))).collect()
        };
        let (before, after) = (by_name(old), by_name(new));
        let of = |policy: &Policy, wanted: &dyn Fn(&str) -> bool| -> Vec<String> {
            policy.rules().iter().map(|rule| rule.name().to_owned()).filter(|name| wanted(name)).collect()
        };
        let common = |policy: &Policy| of(policy, &|name| before.contains_key(name) && after.contains_key(name));
        let moved: Vec<String> =
            common(old).into_iter().zip(common(new)).filter(|(old, new)| old != new).map(|(_, new)| new).collect();
        Self {
            added: of(new, &|name| !before.contains_key(name)),
            removed: of(old, &|name| !after.contains_key(name)),
            changed: of(new, &|name| {
                let differs = before.get(name).is_some_and(|old| after.get(name) != Some(old));
                differs || moved.iter().any(|moved| moved == name)
            }),
        }
    }

    /// Whether the two say the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// All that a rule says, but for its place.
fn whole(rule: &Rule) -> String {
    let Rule { number: _, name, matches, mesh, identity, dns, profile, lifetime, keys, key, renewal, reattest_after } =
        rule;
    let profile = profile.name();
    format!(
        "{name} {matches:?} {mesh} {identity:?} {dns:?} {profile} {lifetime:?} {keys:?} {key:?} {renewal:?} {reattest_after:?}"
    )
}

impl Policy {
    /// Whether the caller could get anything at all, by name or by default.
    #[must_use]
    pub fn admits(&self, caller: &Caller) -> bool {
        match self.authorise(caller, &Wanted::Default) {
            Ok(_) | Err(Refusal::OnlyByName { .. }) => true,
            Err(Refusal::Nobody { .. } | Refusal::NoRule { .. } | Refusal::NotGranted { .. }) => false,
        }
    }

    /// Whether a caller that is connected would get `identity`.
    #[must_use]
    pub fn would_grant(&self, caller: &Caller, identity: &SpiffeId) -> bool {
        self.authorise(caller, &Wanted::Identity(identity.clone())).is_ok()
    }

    /// Whether a caller of that account would get `identity`, as far as can be told without its groups.
    #[must_use]
    pub fn outlook(&self, account: &Account, identity: &SpiffeId) -> Outlook {
        let wanted = Wanted::Identity(identity.clone());
        let (socket, uid) = match account {
            // It has no rule of the file.
            Account::Own => return Outlook::Granted,
            Account::Client { socket, identity } => {
                let supposed = Evidence::Client(ClientCertificate::supposed(identity.clone(), socket));
                return if self.grants(&supposed, &wanted) { Outlook::Granted } else { Outlook::Lost };
            }
            Account::Process { socket, uid } => (socket.clone(), *uid),
        };
        // A group that nobody has: what is granted all the same is granted for certain.
        let nogroup =
            Evidence::UnixPeer(UnixPeer { socket, uid, gid: NO_GROUP, groups: Vec::new(), pid: 1, started: None });
        if self.grants(&nogroup, &wanted) {
            return Outlook::Granted;
        }
        let Some(facts) = Facts::of(&nogroup) else { return Outlook::Lost };
        let groups_decide = |rule: &Rule| rule.could_with_groups(facts, &wanted);
        if self.rules().iter().any(groups_decide) { Outlook::Unknown } else { Outlook::Lost }
    }

    fn grants(&self, evidence: &Evidence, wanted: &Wanted) -> bool {
        let Some(facts) = Facts::of(evidence) else { return false };
        super::facts::nobody(facts).is_none()
            && self.rules().iter().any(|rule| matches!(self.ask(rule, facts, wanted), Answer::Grants(_)))
    }
}

/// `(gid_t)-1`, which no rule matches.
const NO_GROUP: u32 = super::NO_ID;

impl Rule {
    /// Whether it might grant `wanted` to this caller if it had other groups.
    fn could_with_groups(&self, facts: Facts<'_>, wanted: &Wanted) -> bool {
        let mut open = self.matches.clone();
        let by_groups = open.gid.take().is_some() | open.group.take().is_some();
        let template = self.identity.uses_gid();
        (by_groups || template)
            && open.unmet(facts).is_empty()
            && (template || self.identity_for(facts, wanted).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::caller::testing::{client, unix};
    use crate::identity::TrustDomain;
    use crate::policy::Surroundings;
    use crate::x509::profile::Profiles;

    fn policy(text: &str) -> Policy {
        let domain = TrustDomain::parse("example.org").unwrap();
        let profiles = Profiles::builtin();
        let around = Surroundings { file: "policy.toml", trust_domain: &domain, sockets: None, profiles };
        Policy::parse(text, &around).unwrap_or_else(|mistakes| panic!("{mistakes}"))
    }

    fn rule(name: &str, matches: &str, identity: &str) -> String {
        format!("[[rule]]\nname = \"{name}\"\nmatch = {{ {matches} }}\nidentity = \"{identity}\"\n")
    }

    /// Rules of different names in some order, each in one of three forms.
    fn rules() -> impl Strategy<Value = Vec<(usize, u32)>> {
        let names = Just((0..6).collect::<Vec<usize>>()).prop_shuffle();
        (names, 1..7_usize, proptest::collection::vec(1..4_u32, 6))
            .prop_map(|(names, count, forms)| names.into_iter().zip(forms).take(count).collect())
    }

    fn written(rules: &[(usize, u32)]) -> Policy {
        let one = |(name, form): &(usize, u32)| {
            rule(&format!("r{name}"), &format!("uid = {form}"), &format!("spiffe://example.org/{name}"))
        };
        policy(&rules.iter().map(one).collect::<String>())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        #[test]
        fn a_diff_names_each_rule_that_differs_and_no_other(old in rules(), new in rules()) {
            let diff = RulesDiff::between(&written(&old), &written(&new));
            prop_assert_eq!(&RulesDiff::between(&written(&new), &written(&new)), &RulesDiff::default());
            let names = |rules: Vec<usize>| rules.iter().map(|name| format!("r{name}")).collect::<Vec<_>>();
            let only = |these: &[(usize, u32)], those: &[(usize, u32)]| -> Vec<String> {
                let without = |name: usize| those.iter().all(|(other, _)| *other != name);
                names(these.iter().map(|(name, _)| *name).filter(|name| without(*name)).collect())
            };
            prop_assert_eq!(&diff.added, &only(&new, &old));
            prop_assert_eq!(&diff.removed, &only(&old, &new));
            // A rule that says another thing is named; one is named beside it only if the common ones changed places.
            let in_both = |these: &[(usize, u32)], those: &[(usize, u32)]| -> Vec<(usize, u32)> {
                these.iter().filter(|(name, _)| those.iter().any(|(other, _)| other == name)).copied().collect()
            };
            let (before, after) = (in_both(&old, &new), in_both(&new, &old));
            let edited = names(after.iter().filter(|it| !before.contains(it)).map(|(name, _)| *name).collect());
            prop_assert!(edited.iter().all(|name| diff.changed.contains(name)), "{:?}", diff);
            let order = |rules: &[(usize, u32)]| rules.iter().map(|(name, _)| *name).collect::<Vec<_>>();
            if order(&before) == order(&after) {
                prop_assert_eq!(&diff.changed, &edited);
            } else {
                prop_assert!(diff.changed.len() >= 2, "two rules at least changed places: {:?}", diff);
            }
        }
    }

    #[test]
    fn rules_are_compared_by_name() {
        let (a, b, c) = (
            rule("a", "uid = 1", "spiffe://example.org/a"),
            rule("b", "uid = 2", "spiffe://example.org/b"),
            rule("c", "uid = 3", "spiffe://example.org/c"),
        );
        let check = |old: &[&str], new: &[&str], expected: [&[&str]; 3]| {
            let diff = RulesDiff::between(&policy(&old.concat()), &policy(&new.concat()));
            assert_eq!(
                [diff.added, diff.removed, diff.changed],
                expected.map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>())
            );
        };
        check(&[&a, &b], &["# the same\n", &a, &b], [&[], &[], &[]]);
        check(&[&a, &b], &[&c, &b], [&["c"], &["a"], &[]]);
        check(&[&a, &b], &[&a.replace("uid = 1", "uid = 4"), &b], [&[], &[], &["a"]]);
        check(&[&a, &b], &[&b, &a], [&[], &[], &["b", "a"]]);
        check(
            &[&a],
            &[&format!("{a}reattest_after = \"1d\"\n").replace("uid = 1", "client = \"spiffe://example.org/*\"")],
            [&[], &[], &["a"]],
        );
    }

    #[test]
    fn what_is_not_known_is_said() {
        let text = [
            rule("uid", "uid = 1", "spiffe://example.org/a"),
            rule("group", "uid = 2, group = 7", "spiffe://example.org/b"),
            rule("template", "uid = 3", "spiffe://example.org/g/{gid}"),
            rule("client", "client = \"spiffe://example.org/w/*\"", "{client}"),
        ];
        let policy = policy(&text.concat());
        let check = |account: &str, identity: &str, expected| {
            let identity = SpiffeId::parse(identity).unwrap();
            assert_eq!(policy.outlook(&Account::parse(account).unwrap(), &identity), expected, "{account} {identity}");
        };
        check("unix:sds:uid=1", "spiffe://example.org/a", Outlook::Granted);
        check("unix:sds:uid=1", "spiffe://example.org/b", Outlook::Lost);
        check("unix:sds:uid=2", "spiffe://example.org/b", Outlook::Unknown);
        check("unix:sds:uid=2", "spiffe://example.org/a", Outlook::Lost);
        check("unix:sds:uid=3", "spiffe://example.org/g/5", Outlook::Unknown);
        check("unix:sds:uid=9", "spiffe://example.org/a", Outlook::Lost);
        check("tls:edge:spiffe://example.org/w/a", "spiffe://example.org/w/a", Outlook::Granted);
        check("tls:edge:spiffe://example.org/v/a", "spiffe://example.org/v/a", Outlook::Lost);
        check("self", "spiffe://example.org/chancery/server", Outlook::Granted);
    }

    #[test]
    fn a_caller_that_is_connected_is_known_whole() {
        let text = rule("group", "group = 7", "spiffe://example.org/b");
        let (policy, b) = (policy(&text), SpiffeId::parse("spiffe://example.org/b").unwrap());
        assert!(policy.would_grant(&unix(2, 2, &[7]), &b) && policy.admits(&unix(2, 2, &[7])));
        assert!(!policy.would_grant(&unix(2, 2, &[]), &b) && !policy.admits(&unix(2, 2, &[])));
        assert!(!policy.admits(&client("spiffe://example.org/b", "sds")));
    }
}
