//! Policy as a whole: what is read, what is refused when reading, what is decided and how it is explained.

use std::time::Duration;

use super::*;
use crate::caller::testing::{client, unix, unix_on};
use crate::caller::{Caller, Evidence, UnixPeer};
use crate::golden;
use crate::identity::{Mesh, SpiffeId, TrustDomain};
use crate::policy::mistake::PolicyError;
use crate::toml_reader::Mistakes;
use crate::x509::KeyAlgorithm;
use crate::x509::profile::Profiles;

mod laws;

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn sockets() -> Vec<String> {
    ["admin", "sds", "web"].map(str::to_owned).to_vec()
}

fn parse(text: &str) -> Result<Policy, Mistakes> {
    let (domain, sockets) = (domain(), sockets());
    let profiles = Profiles::builtin();
    Policy::parse(text, &Surroundings { file: "policy.toml", trust_domain: &domain, sockets: Some(&sockets), profiles })
}

fn policy(text: &str) -> Policy {
    parse(text).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

fn rule(name: &str, condition: &str, rest: &str) -> String {
    format!("[[rule]]\nname = \"{name}\"\nmatch = {{ {condition} }}\n{rest}\n")
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

/// The identity or the refusal that `caller` gets from `text`.
fn check(text: &str, caller: &Caller, wanted: Option<&str>, expected: Result<(&str, &str), &str>) {
    let wanted = wanted.map_or(Wanted::Default, |wanted| Wanted::Identity(id(wanted)));
    let got = policy(text).authorise(caller, &wanted);
    let got = got.map(|grant| (grant.identity().to_string(), grant.rule().to_owned())).map_err(|e| e.to_string());
    let expected = expected.map(|(id, rule)| (id.to_owned(), rule.to_owned())).map_err(str::to_owned);
    assert_eq!(got, expected);
}

const TWO: &str = r#"
[[rule]]
name = "payments"
match = { group = 2000 }
mesh = "istio"
identity = "spiffe://{trust_domain}/ns/pay/sa/api"
keys = ["p384", "p256"]
lifetime = "90s"
renew_at = 0.6
jitter = 0.1

[[rule]]
name = "operators"
match = { uid = "0-999" }
identity = "spiffe://{trust_domain}/user/{uid}"

[[rule]]
name = "by name"
match = { uid = [7, "100-199"], socket = "admin" }
mesh = "istio"
identity = "spiffe://{trust_domain}/ns/*"
"#;

#[test]
fn the_first_matching_rule_is_the_default() {
    check(TWO, &unix(1001, 100, &[27, 2000]), None, Ok(("spiffe://example.org/ns/pay/sa/api", "payments")));
    check(TWO, &unix(1001, 2000, &[]), None, Ok(("spiffe://example.org/ns/pay/sa/api", "payments")));
    check(TWO, &unix(7, 2000, &[]), None, Ok(("spiffe://example.org/ns/pay/sa/api", "payments")));
    check(TWO, &unix(7, 7, &[]), None, Ok(("spiffe://example.org/user/7", "operators")));
    let grants = policy(TWO).granted(&unix(7, 2000, &[]));
    let ids: Vec<&str> = grants.iter().map(|grant| grant.identity().as_str()).collect();
    assert_eq!(ids, ["spiffe://example.org/ns/pay/sa/api", "spiffe://example.org/user/7"]);
}

#[test]
fn a_named_identity_is_decided_by_the_first_rule_that_grants_it() {
    let both = unix(7, 2000, &[]);
    check(TWO, &both, Some("spiffe://example.org/user/7"), Ok(("spiffe://example.org/user/7", "operators")));
    let refused = "no rule grants spiffe://example.org/user/8 to the caller; nearest: rule 1 \"payments\" grants \
                   spiffe://{trust_domain}/ns/pay/sa/api, not spiffe://example.org/user/8: add one to the policy, or \
                   ask for what it is granted";
    check(TWO, &both, Some("spiffe://example.org/user/8"), Err(refused));
    let operator = unix_on("admin", 7, 7, &[]);
    let web = "spiffe://example.org/ns/web/sa/front";
    check(TWO, &operator, Some(web), Ok((web, "by name")));
    for wrong in
        ["spiffe://example.org/ns/web", "spiffe://example.org/nsx/web/sa/front", "spiffe://other.org/ns/a/sa/b"]
    {
        assert!(policy(TWO).authorise(&operator, &Wanted::Identity(id(wrong))).is_err(), "{wrong}");
    }
}

#[test]
fn a_grant_says_all_that_the_rule_says() {
    let policy = policy(TWO);
    let grant = policy.authorise(&unix(1001, 2000, &[]), &Wanted::Default).unwrap();
    assert_eq!((grant.mesh(), grant.lifetime()), (Mesh::Istio, Duration::from_secs(90)));
    assert_eq!(grant.key_algorithm(), KeyAlgorithm::P384);
    assert_eq!(grant.accepted_keys(), [KeyAlgorithm::P384, KeyAlgorithm::P256]);
    assert_eq!(*grant.renewal(), Renewal { fraction: 0.6, jitter: 0.1 });
    assert_eq!(grant.policy_hash(), policy.hash_hex());
    assert_eq!(grant.profile().name(), "leaf-istio");
    assert!(grant.dns_names().is_empty());
    assert_eq!(policy.longest_lifetime(), Duration::from_secs(86_400));
}

#[test]
fn each_mesh_brings_its_lifetime_and_names() {
    for (mesh, path, hours, dns) in [
        ("envoy", "/any/path/at/all", 24, None),
        ("istio", "/ns/pay/sa/api", 24, None),
        ("linkerd", "/ns/pay/sa/api", 24, Some("api.pay.serviceaccount.identity.linkerd.example.org")),
        ("cilium", "/identity/4711", 24, None),
        ("cilium", "/ns/pay/sa/api", 24, None),
        ("consul", "/ns/default/dc/dc1/svc/web", 72, None),
    ] {
        let rest = format!("mesh = \"{mesh}\"\nidentity = \"spiffe://{{trust_domain}}{path}\"");
        let grant = policy(&rule("one", "uid = 1", &rest)).authorise(&unix(1, 1, &[]), &Wanted::Default).unwrap();
        assert_eq!(grant.identity().as_str(), format!("spiffe://example.org{path}"));
        assert_eq!(grant.lifetime(), Duration::from_secs(hours * 3600), "{mesh}");
        assert_eq!(grant.dns_names().first().map(String::as_str), dns, "{mesh}");
    }
}

#[test]
fn nobody_matches_nothing() {
    let text = rule("all", "uid = \"any\"", "identity = \"spiffe://{trust_domain}/all\"");
    check(&text, &unix(65_533, 1, &[]), None, Ok(("spiffe://example.org/all", "all")));
    for uid in [OVERFLOW_ID, NO_ID] {
        let refusal = policy(&text).authorise(&unix(uid, 1, &[]), &Wanted::Default).unwrap_err();
        assert!(matches!(refusal, Refusal::Nobody { .. }), "{refusal}");
        assert!(policy(&text).granted(&unix(uid, 1, &[])).is_empty());
    }
    let peer = UnixPeer { socket: "sds".to_owned(), uid: 1, gid: 1, groups: Vec::new(), pid: 0, started: None };
    let hidden = Caller::attested(Evidence::UnixPeer(peer));
    assert!(matches!(policy(&text).authorise(&hidden, &Wanted::Default), Err(Refusal::Nobody { .. })));
    // A group that is not mapped is nobody's group.
    let text = rule("all", "group = \"any\"", "identity = \"spiffe://{trust_domain}/all\"");
    assert!(policy(&text).authorise(&unix(1, OVERFLOW_ID, &[OVERFLOW_ID]), &Wanted::Default).is_err());
}

#[test]
fn a_prefix_is_never_a_default() {
    let text = rule("by name", "uid = 1", "identity = \"spiffe://{trust_domain}/w/*\"");
    let refusal = policy(&text).authorise(&unix(1, 1, &[]), &Wanted::Default).unwrap_err();
    assert!(matches!(refusal, Refusal::OnlyByName { .. }), "{refusal}");
    assert!(policy(&text).granted(&unix(1, 1, &[])).is_empty());
    let deep = "spiffe://example.org/w/a/b";
    check(&text, &unix(1, 1, &[]), Some(deep), Ok((deep, "by name")));
}

#[test]
fn a_name_below_a_prefix_that_makes_no_dns_name_is_refused() {
    let text = rule("linkerd", "uid = 1", "mesh = \"linkerd\"\nidentity = \"spiffe://{trust_domain}/ns/pay/sa/*\"");
    let good = "spiffe://example.org/ns/pay/sa/api";
    check(&text, &unix(1, 1, &[]), Some(good), Ok((good, "linkerd")));
    let wanted = Wanted::Identity(id("spiffe://example.org/ns/pay/sa/API"));
    let refusal = policy(&text).authorise(&unix(1, 1, &[]), &wanted).unwrap_err();
    assert!(refusal.to_string().contains("whose DNS name would be API.pay."), "{refusal}");
}

const CLIENTS: &str = r#"
[[rule]]
name = "web socket"
match = { socket = "web" }
identity = "spiffe://{trust_domain}/web/front"

[[rule]]
name = "renew"
match = { client = "spiffe://{trust_domain}/w/*", socket = "web" }
identity = "{client}"

[[rule]]
name = "node"
match = { client = ["spiffe://{trust_domain}/node/a", "spiffe://{trust_domain}/node/b"] }
mesh = "istio"
identity = "spiffe://{trust_domain}/ns/*"

[[rule]]
name = "istio"
match = { client = "spiffe://{trust_domain}/ns/*" }
mesh = "istio"
identity = "{client}"
"#;

#[test]
fn a_client_gets_its_own_identity_and_what_rules_say() {
    let (own, web) = ("spiffe://example.org/w/api", "spiffe://example.org/web/front");
    let caller = client(own, "web");
    check(CLIENTS, &caller, None, Ok((own, "renew")));
    check(CLIENTS, &caller, Some(own), Ok((own, "renew")));
    // Neither another identity below the same prefix, nor what the socket gives to processes.
    for other in ["spiffe://example.org/w/other", web] {
        assert!(policy(CLIENTS).authorise(&caller, &Wanted::Identity(id(other))).is_err(), "{other}");
    }
    let named = "spiffe://example.org/ns/pay/sa/api";
    check(CLIENTS, &client("spiffe://example.org/node/b", "sds"), Some(named), Ok((named, "node")));
    check(CLIENTS, &client(named, "sds"), None, Ok((named, "istio")));
    // A form that the mesh does not have is never granted, though the prefix has room for it.
    let short = client("spiffe://example.org/ns/pay", "sds");
    let refusal = policy(CLIENTS).authorise(&short, &Wanted::Default).unwrap_err();
    let line = "rule 4 \"istio\" needs client of istio's form /ns/<ns>/sa/<sa>; caller has spiffe://example.org/ns/pay";
    assert!(refusal.nearest_lines().contains(&line.to_owned()), "{refusal}");
}

#[test]
fn processes_and_clients_never_meet_in_a_rule() {
    check(CLIENTS, &unix_on("web", 5, 5, &[]), None, Ok(("spiffe://example.org/web/front", "web socket")));
    let any = rule("any", "uid = \"any\"", "identity = \"spiffe://{trust_domain}/any\"");
    let refusal = policy(&any).authorise(&client("spiffe://example.org/w/a", "web"), &Wanted::Default).unwrap_err();
    let line = "rule 1 \"any\" needs a process on a Unix socket; caller is the holder of a client certificate";
    assert_eq!(refusal.nearest_lines(), [line]);
    let refusal = policy(CLIENTS).authorise(&client("spiffe://example.org/x", "web"), &Wanted::Default).unwrap_err();
    assert_eq!(
        refusal.nearest_lines(),
        [
            "rule 2 \"renew\" needs client spiffe://example.org/w/*; caller has spiffe://example.org/x",
            "rule 3 \"node\" needs client spiffe://example.org/node/a or spiffe://example.org/node/b; caller has \
             spiffe://example.org/x",
            "rule 4 \"istio\" needs client spiffe://example.org/ns/*; caller has spiffe://example.org/x",
        ]
    );
    // The server itself is nobody that a rule is about.
    assert!(policy(&any).authorise(&Caller::attested(Evidence::Own), &Wanted::Default).is_err());
}

#[test]
fn refusals_name_the_nearest_rules_first() {
    let refusal = policy(TWO).authorise(&unix(1003, 1003, &[100]), &Wanted::Default).unwrap_err();
    assert_eq!(
        refusal.nearest_lines(),
        [
            "rule 1 \"payments\" needs group 2000; caller has 1003, 100",
            "rule 2 \"operators\" needs uid 0-999; caller has 1003",
            "rule 3 \"by name\" needs uid 7, 100-199; caller has 1003; needs socket admin; caller has sds",
        ]
    );
}

#[test]
fn explanations_are_the_answers_of_authorise() {
    let explain = |caller: &Caller, wanted: &Wanted| policy(TWO).explain(caller.evidence(), wanted).to_string();
    let stranger = unix(1003, 1003, &[100]);
    let root = unix(0, 0, &[]);
    let screens = [
        explain(&stranger, &Wanted::Default),
        explain(&root, &Wanted::Default),
        explain(&root, &Wanted::Identity(id("spiffe://example.org/user/7"))),
        explain(&unix(OVERFLOW_ID, 1, &[]), &Wanted::Default),
        policy(CLIENTS).explain(client("spiffe://example.org/w/api", "web").evidence(), &Wanted::Default).to_string(),
        policy(CLIENTS).explain(client("spiffe://example.org/w/api", "sds").evidence(), &Wanted::Default).to_string(),
    ];
    golden::check("src/policy/golden/explain.txt", &format!("{}\n", screens.join("\n\n")));
}

#[test]
fn every_mistake_is_told_at_once() {
    let text = include_str!("golden/mistakes.toml");
    golden::check("src/policy/golden/mistakes.txt", &format!("{}\n", parse(text).unwrap_err()));
}

#[test]
fn a_policy_without_rules_is_a_mistake() {
    let expected = "1 mistake in policy.toml\n  rule  there is no rule, so nobody would get a certificate: write \
                    one under [[rule]] (examples: docs/policy.md)";
    assert_eq!(parse("# nothing yet\n").unwrap_err().to_string(), expected);
    assert!(parse(&" ".repeat(LARGEST_POLICY + 1)).unwrap_err().to_string().contains("1048577 bytes"));
    let many: String = (0..=MOST_RULES)
        .map(|n| rule(&format!("r{n}"), &format!("uid = {n}"), "identity = \"spiffe://{trust_domain}/a\""))
        .collect();
    assert!(parse(&many).unwrap_err().to_string().contains("1001 rules"));
}

#[test]
fn a_mistake_is_told_once_and_as_what_it_is() {
    let rest = "name = \"r\"\nidentity = \"spiffe://{trust_domain}/x\"\n";
    let told = |condition: &str| parse(&format!("[[rule]]\n{rest}{condition}\n")).unwrap_err().to_string();
    let missing = PolicyError::NoCondition.to_string();
    assert!(told("").contains(&missing) && told("match = {}").contains(&missing), "{}", told(""));
    // A misspelt condition is an unknown key.
    let misspelt = told("match = { user = 3 }");
    assert!(!misspelt.contains(&missing), "{misspelt}");
    assert!(!parse("rule = 3").unwrap_err().to_string().contains(&PolicyError::NoRules.to_string()));
    // No names are no names, where a profile has none.
    let cilium = rule("r", "uid = 1", "mesh = \"cilium\"\nidentity = \"spiffe://{trust_domain}/identity/1\"\ndns = []");
    assert!(parse(&cilium).is_ok());
}

#[test]
fn limits_are_reached_and_not_passed() {
    let one = rule("r", "uid = 1", "identity = \"spiffe://{trust_domain}/x\"");
    let padded = |length: usize| format!("{one}#{}", "x".repeat(length - one.len() - 1));
    assert!(parse(&padded(LARGEST_POLICY)).is_ok());
    assert!(parse(&padded(LARGEST_POLICY + 1)).is_err());
    // The longest id of a condition is the longest text of an identity.
    let path = "x".repeat(crate::identity::LONGEST_ID - "spiffe://example.org//1".len());
    let long = |uid: &str| {
        parse(&rule("r", &format!("uid = {uid}"), &format!("identity = \"spiffe://{{trust_domain}}/{path}/{{uid}}\"")))
    };
    assert!(long("9").is_ok());
    assert!(long("[9, 10]").is_err());
}

#[test]
fn unknown_sockets_pass_where_sockets_are_not_known() {
    let text = rule("far", "socket = \"elsewhere\"", "identity = \"spiffe://{trust_domain}/{socket}\"");
    let (domain, profiles) = (domain(), Profiles::builtin());
    let around = Surroundings { file: "policy.toml", trust_domain: &domain, sockets: None, profiles };
    assert!(Policy::parse(&text, &around).is_ok());
    assert!(parse(&text).is_err());
}

#[test]
fn the_starter_reads_and_grants() {
    let text = starter(&domain(), 1000, &[]);
    check(&text, &unix(1000, 1000, &[]), None, Ok(("spiffe://example.org/user/1000", "you")));
    let operator = unix_on("admin", 1000, 1000, &[]);
    let web = "spiffe://example.org/workload/web";
    check(&text, &operator, Some(web), Ok((web, "operator")));
    let text = starter(&domain(), 1000, &["web"]);
    check(&text, &unix_on("web", 1000, 1000, &[]), None, Ok((web, "sockets")));
    // The commented examples are rules that read, too.
    let uncommented: String = text
        .lines()
        .filter_map(|line| line.strip_prefix("# ").filter(|line| line.contains(" = ") || *line == "[[rule]]"))
        .map(|line| format!("{line}\n"))
        .collect();
    let renew = "spiffe://example.org/workload/far";
    check(&uncommented, &client(renew, "sds"), None, Ok((renew, "renew your own")));
    assert_eq!(policy(&uncommented).rules().len(), 2);
}

#[test]
fn the_examples_of_the_documentation_are_true() {
    let text = include_str!("../../docs/policy.md");
    let examples: Vec<&str> =
        text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect();
    assert!(examples.len() >= 6, "docs/policy.md has examples");
    for example in examples {
        policy(example);
    }
}
