//! Laws of policy, for rules and callers at random: a decision is that of the first rule that applies, a template gives
//! what is written, and a diff says what differs.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::policy::facts::Facts;
use crate::policy::template::{Known, Template, check_dns, forms, has_room, split};

/// A caller as a test sees it.
#[derive(Debug, Clone)]
enum Who {
    Process { socket: &'static str, uid: u32, gid: u32, groups: Vec<u32> },
    Client { socket: &'static str, identity: &'static str },
}

const IDENTITIES: [&str; 7] = [
    "spiffe://example.org/a",
    "spiffe://example.org/u/1",
    "spiffe://example.org/u/2",
    "spiffe://example.org/w/a",
    "spiffe://example.org/w/ns/x/sa/y",
    "spiffe://example.org/ns/x/sa/y",
    "spiffe://example.org/ns/x",
];

fn any_who() -> impl Strategy<Value = Who> {
    let socket = select(vec!["sds", "web"]);
    prop_oneof![
        2 => (socket.clone(), 0..3_u32, 0..3_u32, prop::collection::vec(0..3_u32, 0..2))
            .prop_map(|(socket, uid, gid, groups)| Who::Process { socket, uid, gid, groups }),
        1 => (socket, select(IDENTITIES.to_vec())).prop_map(|(socket, identity)| Who::Client { socket, identity }),
    ]
}

impl Who {
    fn caller(&self) -> Caller {
        match self {
            Self::Process { socket, uid, gid, groups } => unix_on(socket, *uid, *gid, groups),
            Self::Client { socket, identity } => client(identity, socket),
        }
    }

    fn socket(&self) -> &'static str {
        match self {
            Self::Process { socket, .. } | Self::Client { socket, .. } => socket,
        }
    }
}

/// The text of a rule, but for its name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Written {
    condition: (&'static str, &'static str),
    istio: bool,
    identity: &'static str,
    lifetime: &'static str,
}

fn any_written() -> impl Strategy<Value = Written> {
    let ids = select(vec![("uid", "1"), ("uid", "2"), ("uid", "0-2"), ("gid", "1"), ("group", "1"), ("socket", "web")]);
    let clients = select(vec![("client", "spiffe://example.org/w/*"), ("client", "spiffe://example.org/*")]);
    let of_ids = select(vec!["/a", "/u/{uid}", "/w/{gid}", "/w/{socket}", "/ns/x/sa/y", "/*", "/w/*"]);
    let of_clients = select(vec!["{client}", "/a", "/*"]);
    let who = prop_oneof![3 => (ids, of_ids), 1 => (clients, of_clients)];
    (who, any::<bool>(), select(vec!["1h", "2h"])).prop_map(|((condition, identity), istio, lifetime)| Written {
        condition,
        istio,
        identity,
        lifetime,
    })
}

impl Written {
    fn text(&self, name: &str) -> String {
        let (key, value) = self.condition;
        let prefix = if self.identity.starts_with('/') { "spiffe://{trust_domain}" } else { "" };
        let mesh = if self.istio { "istio" } else { "envoy" };
        let (identity, lifetime) = (self.identity, self.lifetime);
        let rest = format!("mesh = \"{mesh}\"\nidentity = \"{prefix}{identity}\"\nlifetime = \"{lifetime}\"");
        rule(name, &format!("{key} = \"{value}\""), &rest)
    }

    /// Whether it is for `who`.
    fn is_for(&self, who: &Who) -> bool {
        let id = |id: u32| match self.condition.1 {
            "0-2" => id <= 2,
            one => one.parse() == Ok(id),
        };
        match (self.condition.0, who) {
            ("uid", Who::Process { uid, .. }) => id(*uid),
            ("gid", Who::Process { gid, .. }) => id(*gid),
            ("group", Who::Process { gid, groups, .. }) => id(*gid) || groups.iter().any(|group| id(*group)),
            ("socket", Who::Process { socket, .. }) => self.condition.1 == *socket,
            ("client", Who::Client { identity, .. }) => {
                identity.starts_with(self.condition.1.strip_suffix('*').unwrap())
            }
            _ => false,
        }
    }

    /// What it gives to one whom it is for.
    fn gives(&self, who: &Who, wanted: Option<&str>) -> Option<String> {
        let whole = match (self.identity, who) {
            ("{client}", Who::Client { identity, .. }) => (*identity).to_owned(),
            (path, Who::Process { uid, gid, .. }) => format!("spiffe://example.org{path}")
                .replace("{uid}", &uid.to_string())
                .replace("{gid}", &gid.to_string())
                .replace("{socket}", who.socket()),
            (path, Who::Client { .. }) => format!("spiffe://example.org{path}"),
        };
        let given = match (whole.strip_suffix('*'), wanted) {
            (Some(prefix), Some(wanted)) => wanted.starts_with(prefix).then(|| wanted.to_owned()),
            (Some(_), None) => None,
            (None, Some(wanted)) => (whole == wanted).then_some(whole),
            (None, None) => Some(whole),
        };
        let path = |id: &str| id.strip_prefix("spiffe://example.org").unwrap().to_owned();
        given.filter(|id| !self.istio || matches!(path(id).split('/').collect::<Vec<_>>()[..], ["", "ns", _, "sa", _]))
    }
}

fn whole(rules: &[Written]) -> String {
    rules.iter().enumerate().map(|(index, written)| written.text(&index.to_string())).collect()
}

fn wanted(name: Option<&str>) -> Wanted {
    name.map_or(Wanted::Default, |name| Wanted::Identity(id(name)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn the_first_rule_that_applies_decides(
        rules in prop::collection::vec(any_written(), 1..5),
        who in any_who(),
        name in prop::option::of(select(IDENTITIES.to_vec())),
    ) {
        let decides = rules.iter().enumerate().filter(|(_, rule)| rule.is_for(&who))
            .find_map(|(index, rule)| Some((rule.gives(&who, name)?, index.to_string())));
        let policy = match parse(&whole(&rules)) {
            Ok(policy) => policy,
            // What is called useless is: but other mistakes are no matter here.
            Err(mistakes) => {
                let said = mistakes.to_string();
                let useless = |index: &str| said.contains(&format!("rule {}  ", index.parse::<usize>().unwrap() + 1))
                    && said.contains("grants nothing that rule");
                let alone = said.starts_with("1 mistake ");
                prop_assert!(!alone || decides.is_none_or(|(_, index)| !useless(&index)), "{}\n{}", said, whole(&rules));
                return Ok(());
            }
        };
        let (caller, wanted) = (who.caller(), wanted(name));
        // A client whose own identity has another form than the rule's mesh is not one that the rule is for.
        let fits = |rule: &Written| rule.identity != "{client}" || name.is_some() || rule.gives(&who, None).is_some();
        let is_for = rules.iter().any(|rule| rule.is_for(&who) && fits(rule));
        let got = policy.authorise(&caller, &wanted);
        let explained = policy.explain(caller.evidence(), &wanted);
        prop_assert_eq!(explained.granted.zip(explained.rule), decides.clone());
        match (&got, &decides) {
            (Ok(grant), Some((identity, index))) => {
                prop_assert_eq!((grant.identity().as_str(), grant.rule()), (identity.as_str(), index.as_str()));
            }
            (Err(Refusal::NoRule { .. }), None) => prop_assert!(!is_for),
            (Err(Refusal::NotGranted { wanted, .. }), None) => prop_assert!(is_for && name == Some(wanted.as_str())),
            (Err(Refusal::OnlyByName { .. }), None) => prop_assert!(is_for && name.is_none()),
            _ => prop_assert!(false, "{:?} where {:?} decides", got, decides),
        }
        let mut all: Vec<String> = Vec::new();
        for given in rules.iter().filter(|rule| rule.is_for(&who)).filter_map(|rule| rule.gives(&who, None)) {
            if !all.contains(&given) {
                all.push(given);
            }
        }
        let granted: Vec<String> = policy.granted(&caller).iter().map(|grant| grant.identity().to_string()).collect();
        prop_assert_eq!(granted, all);
    }

    #[test]
    fn a_diff_names_what_differs_and_nothing_else(
        variants in prop::collection::vec((0..3_usize, 0..3_usize), 5),
        old in prop::sample::subsequence(vec![0, 1, 2, 3, 4], 1..=5).prop_shuffle(),
        new in prop::sample::subsequence(vec![0, 1, 2, 3, 4], 1..=5).prop_shuffle(),
    ) {
        let lifetimes = ["lifetime = \"1h\"", "lifetime = \"2h\"", "lifetime = \"1h\"\nrenew_at = 0.6"];
        let text = |index: usize, variant: usize| {
            let rest = format!("identity = \"spiffe://{{trust_domain}}/{index}\"\n{}", lifetimes[variant]);
            rule(&format!("r{index}"), &format!("uid = {index}"), &rest)
        };
        let before: String = old.iter().map(|index| text(*index, variants[*index].0)).collect();
        let after: String = new.iter().map(|index| text(*index, variants[*index].1)).collect();
        let names = |indices: &mut dyn Iterator<Item = usize>| indices.map(|i| format!("r{i}")).collect::<Vec<_>>();
        let place = |list: &[usize], other: &[usize], index: usize| {
            list.iter().filter(|i| other.contains(i)).position(|i| *i == index)
        };
        let changed = |index: &usize| {
            old.contains(index)
                && (variants[*index].0 != variants[*index].1 || place(&old, &new, *index) != place(&new, &old, *index))
        };
        let diff = RulesDiff::between(&policy(&before), &policy(&after));
        prop_assert_eq!(&diff.added, &names(&mut new.iter().copied().filter(|i| !old.contains(i))));
        prop_assert_eq!(&diff.removed, &names(&mut old.iter().copied().filter(|i| !new.contains(i))));
        prop_assert_eq!(&diff.changed, &names(&mut new.iter().copied().filter(changed)));
        prop_assert_eq!(diff.is_empty(), before == after);
        let respelt = format!("# A remark.\n\n{}", before.replace(" = ", "   =   "));
        prop_assert!(RulesDiff::between(&policy(&before), &policy(&respelt)).is_empty());
    }

    #[test]
    fn a_rule_that_reads_names_everyone_whom_it_matches(
        identity in any_template(), dns in prop::collection::vec(any_label(), 0..2), mesh in select(Mesh::ALL.to_vec()),
        uid in prop_oneof![0..20_u32, any::<u32>()], gid in any::<u32>(), socket in select(vec!["admin", "sds", "web"]),
    ) {
        let template = format!("spiffe://{{trust_domain}}{identity}");
        let dns = if mesh == Mesh::Envoy { format!("dns = {dns:?}\n") } else { String::new() };
        let text = rule("r", "uid = \"any\"", &format!("mesh = \"{mesh}\"\nidentity = \"{template}\"\n{dns}"));
        let caller = unix_on(socket, uid, gid, &[]);
        let filled = template
            .replace("{trust_domain}", "example.org")
            .replace("{uid}", &uid.to_string())
            .replace("{gid}", &gid.to_string())
            .replace("{socket}", socket);
        let valid = SpiffeId::parse(&filled.replace('*', "x"));
        let Ok(policy) = parse(&text) else { return Ok(()) };
        prop_assert!(valid.is_ok(), "{} reads as {}", template, filled);
        match policy.authorise(&caller, &Wanted::Default) {
            Ok(grant) => {
                prop_assert_eq!(grant.identity().as_str(), filled.as_str());
                prop_assert!(grant.dns_names().iter().all(|name| check_dns(name).is_ok()));
                let named = policy.authorise(&caller, &Wanted::Identity(grant.identity().clone())).unwrap();
                prop_assert_eq!(named.identity(), grant.identity());
            }
            Err(Refusal::OnlyByName { .. }) => prop_assert!(filled.ends_with("/*")),
            Err(Refusal::Nobody { .. }) => prop_assert!(uid == OVERFLOW_ID || uid == NO_ID),
            Err(refusal) => prop_assert!(filled.ends_with(OWN_PATH), "{}: {}", text, refusal),
        }
    }

    #[test]
    fn templates_are_the_same_when_they_name_everyone_the_same(one in any_template(), two in any_template()) {
        let read = |text: &str| Template::identity(text, &domain(), Known { for_clients: false, parts: &[] });
        let (Ok(one), Ok(two)) = (read(&one), read(&two)) else { return Ok(()) };
        // Of these two, nothing is the same, and no text of theirs is in a template.
        let peers = [(777, 666, "p"), (888, 999, "q")].map(|(uid, gid, socket)| UnixPeer {
            socket: socket.to_owned(), uid, gid, groups: Vec::new(), pid: 1, started: None,
        });
        let named = |template: &Template| {
            (peers.each_ref().map(|peer| template.render(Facts::Process(peer), &[])), template.is_below())
        };
        prop_assert_eq!(one.same_names(&two), named(&one) == named(&two));
        prop_assert_eq!(one.uses_gid(), named(&one).0[0].contains("666"));
    }

    #[test]
    fn an_identity_of_a_form_comes_apart_and_a_prefix_has_room_for_one(
        segments in prop::collection::vec(select(vec!["ns", "sa", "identity", "dc", "svc", "x", "y"]), 0..8),
        mesh in select(Mesh::ALL.to_vec()),
    ) {
        let parts = |path: &[&str]| -> Option<Vec<(&'static str, String)>> {
            let of = |names: &[&'static str], values: &[&str]| {
                Some(names.iter().copied().zip(values.iter().map(ToString::to_string)).collect())
            };
            match (mesh, path) {
                (Mesh::Envoy, _) => Some(Vec::new()),
                (Mesh::Istio | Mesh::Linkerd | Mesh::Cilium, ["ns", ns, "sa", sa]) => of(&["ns", "sa"], &[ns, sa]),
                (Mesh::Cilium, ["identity", id]) => of(&["id"], &[id]),
                (Mesh::Consul, ["ns", ns, "dc", dc, "svc", svc]) => of(&["ns", "dc", "svc"], &[ns, dc, svc]),
                _ => None,
            }
        };
        let prefix: String = segments.iter().map(|segment| format!("/{segment}")).collect();
        if !segments.is_empty() {
            let identity = id(&format!("spiffe://example.org{prefix}"));
            let got = split(mesh, &identity);
            let got = got.map(|got| got.into_iter().map(|(name, value)| (name, value.to_owned())).collect());
            prop_assert_eq!(got, parts(&segments));
        }
        let longer = |form: &&str| {
            let rest = form.split('/').skip(1 + segments.len()).map(|segment| segment.trim_matches(['<', '>']));
            let whole: Vec<&str> = segments.iter().copied().chain(rest).collect();
            whole.len() > segments.len() && parts(&whole).is_some()
        };
        prop_assert_eq!(has_room(mesh, &prefix), mesh == Mesh::Envoy || forms(mesh).iter().any(longer));
    }

    #[test]
    fn a_dns_name_is_what_the_standard_says(name in prop_oneof![
        "[a-z0-9-]{0,4}(\\.[a-z0-9-]{0,3}){0,3}", "[a-zA-Z0-9._*-]{0,8}", "[a-z]{60,66}", "([a-z]{1,63}\\.){3,5}[a-z]{1,63}",
    ]) {
        let label = regex::Regex::new("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$").unwrap();
        let address = regex::Regex::new("(^|[.])([0-9]*|0x[0-9a-f]*)$").unwrap().is_match(&name);
        let right = name.len() <= 253 && name.split('.').all(|part| label.is_match(part)) && !address;
        prop_assert_eq!(check_dns(&name).is_ok(), right, "{}", name);
        prop_assert!(!right || rustls_pki_types::DnsName::try_from(name.as_str()).is_ok(), "{}", name);
    }
}

/// A path of a template: mostly right.
fn any_template() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => select(vec!["a", "b", "ns", "sa", "A_b.c-d", "x", "identity"]).prop_map(str::to_owned),
        3 => select(vec!["{uid}", "{gid}", "{socket}", "{trust_domain}"]).prop_map(str::to_owned),
        1 => (select(vec!["a", "{uid}", "-"]), select(vec!["{gid}", "b", "."])).prop_map(|(a, b)| format!("{a}{b}")),
    ];
    let odd = select(vec!["", ".", "..", "*", "%", "{", "}", "{user}", "ü", "{client}"]).prop_map(str::to_owned);
    let part = prop_oneof![15 => piece, 1 => odd];
    let end = select(vec!["", "", "", "/*"]);
    let own = Just("/chancery/server".to_owned());
    let any = (prop::collection::vec(part, 0..5), end)
        .prop_map(|(parts, end)| parts.iter().map(|part| format!("/{part}")).collect::<String>() + end);
    let form = prop::collection::vec(select(vec!["a", "{uid}", "{socket}"]), 2)
        .prop_map(|parts| format!("/ns/{}/sa/{}", parts[0], parts[1]));
    let socket = Just("/{socket}/server".to_owned());
    prop_oneof![12 => any, 4 => form, 1 => own, 1 => socket]
}

fn any_label() -> impl Strategy<Value = String> {
    select(vec!["a.example.org", "{uid}.a", "u-{gid}.{trust_domain}", "{socket}", "-{uid}", "A.b", "{uid}..a"])
        .prop_map(str::to_owned)
}
