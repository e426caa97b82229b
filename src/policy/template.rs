//! Name templates: literal text and `{variables}` over attested facts.
//!
//! A template is read once against the place where it stands (which variables exist there) and rendered per caller.
//! The trust domain is filled in when it is read. An identity template may end in `/*`: then it grants any identity
//! below its prefix, but only to a caller that asks for one by name.

use std::fmt;

use super::facts::Facts;
use crate::identity::{Mesh, SpiffeId, TrustDomain, ends_in_a_number};

/// Something a template can hold in braces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variable {
    Uid,
    Gid,
    Socket,
    /// The whole SPIFFE ID in the caller's client certificate.
    Client,
    /// A part of the identity that the mesh's form names; for DNS names.
    Part(&'static str),
}

/// The variable that is filled in when the template is read.
const TRUST_DOMAIN: &str = "trust_domain";

/// The variable that is a whole identity.
const CLIENT: &str = "client";

/// The variables over what is attested of a process.
const OF_PROCESSES: &[(&str, Variable)] =
    &[("uid", Variable::Uid), ("gid", Variable::Gid), ("socket", Variable::Socket)];

/// The variables over what is attested of a client certificate.
const OF_CLIENTS: &[(&str, Variable)] = &[("socket", Variable::Socket), (CLIENT, Variable::Client)];

/// What may stand in braces in one place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    /// Whether the rule is for client certificates.
    pub(super) for_clients: bool,
    /// The parts of the identity that the mesh's form names; none in an identity itself.
    pub(super) parts: &'a [&'static str],
}

impl Known<'_> {
    fn facts(&self) -> &'static [(&'static str, Variable)] {
        if self.for_clients { OF_CLIENTS } else { OF_PROCESSES }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Variable(Variable),
}

/// A read template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    written: String,
    pieces: Vec<Piece>,
    below: bool,
}

/// What is wrong with a template's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum TemplateError {
    /// `{` without `}`, or the other way round.
    #[error("a brace stands alone: a variable is written {{uid}}")]
    Brace,
    /// A variable that does not exist here.
    #[error("no variable {{{name}}} here: known are {known}")]
    Unknown {
        /// The name between the braces.
        name: String,
        /// Those that exist, in braces.
        known: String,
    },
    /// `{client}` in a rule that is for processes.
    #[error("{{{CLIENT}}} is there only where the rule is for client certificates: write match = {{ client = … }}")]
    NoClient,
    /// `{client}` beside something else.
    #[error("{{{CLIENT}}} is a whole SPIFFE ID, so it stands alone: identity = \"{{{CLIENT}}}\"")]
    ClientAlone,
    /// A `*` somewhere else than as the last segment of an identity.
    #[error("a * may only be the whole last segment of an identity, as in spiffe://{{trust_domain}}/workload/*")]
    Star,
}

impl Template {
    /// Reads an identity template.
    pub(super) fn identity(written: &str, trust_domain: &TrustDomain, known: Known<'_>) -> Result<Self, TemplateError> {
        let (text, below) = written.strip_suffix("/*").map_or((written, false), |prefix| (prefix, true));
        let pieces = pieces(text, trust_domain, known)?;
        let client = pieces.contains(&Piece::Variable(Variable::Client));
        if client && (below || pieces.len() > 1) {
            return Err(TemplateError::ClientAlone);
        }
        Ok(Self { written: written.to_owned(), pieces, below })
    }

    /// Reads a DNS name template.
    pub(super) fn dns(written: &str, trust_domain: &TrustDomain, known: Known<'_>) -> Result<Self, TemplateError> {
        let pieces = pieces(written, trust_domain, known)?;
        if pieces.contains(&Piece::Variable(Variable::Client)) {
            return Err(TemplateError::ClientAlone);
        }
        Ok(Self { written: written.to_owned(), pieces, below: false })
    }

    /// As written in the policy.
    pub(super) fn as_str(&self) -> &str {
        &self.written
    }

    /// Whether it grants identities below a prefix instead of one.
    pub(super) fn is_below(&self) -> bool {
        self.below
    }

    /// Whether the caller's group is in it.
    pub(super) fn uses_gid(&self) -> bool {
        self.pieces.contains(&Piece::Variable(Variable::Gid))
    }

    /// Whether it gives a client the identity that its certificate has.
    pub(super) fn is_client(&self) -> bool {
        self.pieces.first() == Some(&Piece::Variable(Variable::Client))
    }

    /// The name for a caller (or the prefix, without the slash), with `parts` of its identity.
    pub(super) fn render(&self, facts: Facts<'_>, parts: &[(&str, &str)]) -> String {
        let mut text = String::with_capacity(self.written.len());
        for piece in &self.pieces {
            match piece {
                Piece::Literal(literal) => text.push_str(literal),
                Piece::Variable(Variable::Socket) => text.push_str(facts.socket()),
                Piece::Variable(variable @ (Variable::Uid | Variable::Gid | Variable::Client)) => {
                    text.push_str(&attested(*variable, facts));
                }
                Piece::Variable(Variable::Part(name)) => {
                    text.push_str(parts.iter().find(|(part, _)| part == name).map_or("", |(_, value)| value));
                }
            }
        }
        text
    }

    /// Whether it grants the same names as `other` to the same caller.
    pub(super) fn same_names(&self, other: &Self) -> bool {
        self.pieces == other.pieces && self.below == other.below
    }
}

/// The text of a fact; empty for one that this kind of caller does not have, which no rule that was read asks for.
fn attested(variable: Variable, facts: Facts<'_>) -> String {
    match (variable, facts) {
        (Variable::Uid, Facts::Process(peer)) => peer.uid.to_string(),
        (Variable::Gid, Facts::Process(peer)) => peer.gid.to_string(),
        (Variable::Client, Facts::Client(client)) => client.identity.to_string(),
        (Variable::Uid | Variable::Gid, Facts::Client(_)) | (Variable::Client, Facts::Process(_)) => String::new(),
        (Variable::Socket | Variable::Part(_), _) => String::new(),
    }
}

fn pieces(text: &str, trust_domain: &TrustDomain, known: Known<'_>) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (literal, after) = rest.split_once('{').map_or((rest, None), |(literal, after)| (literal, Some(after)));
        if literal.contains('}') {
            return Err(TemplateError::Brace);
        }
        if literal.contains('*') {
            return Err(TemplateError::Star);
        }
        push_literal(&mut pieces, literal);
        let Some(after) = after else { break };
        let (name, next) = after.split_once('}').ok_or(TemplateError::Brace)?;
        if name == TRUST_DOMAIN {
            push_literal(&mut pieces, trust_domain.as_str());
        } else {
            pieces.push(Piece::Variable(variable(name, known)?));
        }
        rest = next;
    }
    Ok(pieces)
}

/// Literals that follow each other are one, so that two spellings of the same names compare as equal.
fn push_literal(pieces: &mut Vec<Piece>, text: &str) {
    match pieces.last_mut() {
        _ if text.is_empty() => {}
        Some(Piece::Literal(before)) => before.push_str(text),
        Some(Piece::Variable(_)) | None => pieces.push(Piece::Literal(text.to_owned())),
    }
}

fn variable(name: &str, known: Known<'_>) -> Result<Variable, TemplateError> {
    let fact = known.facts().iter().find(|(known, _)| *known == name).map(|(_, variable)| *variable);
    let part = || known.parts.iter().find(|part| **part == name).map(|part| Variable::Part(part));
    fact.or_else(part).ok_or_else(|| {
        if name == CLIENT {
            return TemplateError::NoClient;
        }
        let facts = known.facts().iter().map(|(name, _)| *name);
        let known = [TRUST_DOMAIN].into_iter().chain(facts).chain(known.parts.iter().copied());
        let known = known.map(|name| format!("{{{name}}}")).collect::<Vec<_>>().join(", ");
        TemplateError::Unknown { name: name.to_owned(), known }
    })
}

/// The shapes that a mesh's identities have: literal segments and named parts in angle brackets.
pub(super) fn forms(mesh: Mesh) -> &'static [&'static str] {
    match mesh {
        // Plain Envoy takes any path.
        Mesh::Envoy => &[],
        Mesh::Istio | Mesh::Linkerd => &["/ns/<ns>/sa/<sa>"],
        Mesh::Cilium => &["/identity/<id>", "/ns/<ns>/sa/<sa>"],
        Mesh::Consul => &["/ns/<ns>/dc/<dc>/svc/<svc>"],
    }
}

/// The DNS names that a mesh puts in every certificate, as templates. Linkerd's proxies know each other by this one
/// (the control plane's namespace is `linkerd` unless the rule says otherwise).
pub(super) fn mesh_dns(mesh: Mesh) -> &'static [&'static str] {
    match mesh {
        Mesh::Linkerd => &["{sa}.{ns}.serviceaccount.identity.linkerd.{trust_domain}"],
        Mesh::Envoy | Mesh::Istio | Mesh::Cilium | Mesh::Consul => &[],
    }
}

/// The parts of an identity that every form of `mesh` names: what DNS templates can use.
pub(super) fn part_names(mesh: Mesh) -> Vec<&'static str> {
    let names = |form: &'static str| form.split('/').filter_map(part_name);
    let Some((first, others)) = forms(mesh).split_first() else { return Vec::new() };
    names(first).filter(|name| others.iter().all(|form| names(form).any(|other| other == *name))).collect()
}

fn part_name(segment: &'static str) -> Option<&'static str> {
    segment.strip_prefix('<')?.strip_suffix('>')
}

/// Splits an identity into the parts of its mesh's form; `None` when it has none of the mesh's forms.
pub(super) fn split(mesh: Mesh, identity: &SpiffeId) -> Option<Vec<(&'static str, &str)>> {
    if forms(mesh).is_empty() {
        return Some(Vec::new());
    }
    let path = identity.path();
    forms(mesh).iter().find_map(|form| {
        let (wanted, given) = (form.split('/'), path.split('/'));
        if wanted.clone().count() != given.clone().count() {
            return None;
        }
        let pairs = wanted.zip(given).filter(|(segment, value)| segment != value);
        pairs.map(|(segment, value)| part_name(segment).map(|name| (name, value))).collect()
    })
}

/// Whether some identity of the mesh's form lies below `prefix_path` (which begins with a slash or is empty).
pub(super) fn has_room(mesh: Mesh, prefix_path: &str) -> bool {
    forms(mesh).is_empty()
        || forms(mesh).iter().any(|form| {
            let given: Vec<&str> = prefix_path.split('/').collect();
            let fits = given.iter().zip(form.split('/')).all(|(g, w)| *g == w || part_name(w).is_some());
            fits && given.len() < form.split('/').count()
        })
}

/// Why a text is no DNS name that a certificate may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotDns;

impl fmt::Display for NotDns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a DNS name has labels of 1 to 63 of a-z, 0-9 and dash (not at their ends; the last is no number), 253 in all")
    }
}

/// Checks a DNS name: lower-case letters, digits and dashes; RFC 1123 section 2.1, RFC 5280 section 4.2.1.6. A last label
/// that is a number (as in `a.7` and `a.0x7`) makes an address of it, and no verifier takes that for a name.
pub(super) fn check_dns(name: &str) -> Result<(), NotDns> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() <= 253 && name.split('.').all(label) && !ends_in_a_number(name) { Ok(()) } else { Err(NotDns) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::caller::UnixPeer;

    fn peer() -> UnixPeer {
        UnixPeer { socket: "web".to_owned(), uid: 1001, gid: 100, groups: Vec::new(), pid: 1, started: None }
    }

    fn domain() -> TrustDomain {
        TrustDomain::parse("example.org").unwrap()
    }

    fn check(written: &str, expected: Result<&str, TemplateError>) {
        let known = Known { for_clients: false, parts: &[] };
        let rendered = Template::identity(written, &domain(), known).map(|t| t.render(Facts::Process(&peer()), &[]));
        assert_eq!(rendered, expected.map(str::to_owned), "{written}");
    }

    #[test]
    fn variables_are_filled_in() {
        check("spiffe://{trust_domain}/u/{uid}-{gid}/{socket}", Ok("spiffe://example.org/u/1001-100/web"));
        check("spiffe://{trust_domain}/workload/*", Ok("spiffe://example.org/workload"));
        check("a{uid", Err(TemplateError::Brace));
        check("a}b", Err(TemplateError::Brace));
        check("spiffe://{trust_domain}/a*", Err(TemplateError::Star));
        check("spiffe://{trust_domain}/*/a", Err(TemplateError::Star));
        let known = "{trust_domain}, {uid}, {gid}, {socket}".to_owned();
        check("{user}", Err(TemplateError::Unknown { name: "user".to_owned(), known }));
    }

    proptest! {
        /// Whatever is literal stays as it is, whatever is a variable is what was attested: nothing else comes in.
        #[test]
        fn a_template_is_its_pieces(pieces in proptest::collection::vec((0..4_usize, "[a-z0-9._-]{1,9}"), 1..9)) {
            let piece = |(kind, text): &(usize, String)| match kind {
                0 => ("{uid}".to_owned(), "1001".to_owned()),
                1 => ("{gid}".to_owned(), "100".to_owned()),
                2 => ("{socket}".to_owned(), "web".to_owned()),
                _ => (format!("x{text}"), format!("x{text}")),
            };
            let (written, expected): (Vec<_>, Vec<_>) = pieces.iter().map(piece).unzip();
            let known = Known { for_clients: false, parts: &[] };
            let read = |text: &str| Template::identity(text, &domain(), known);
            let template = read(&format!("spiffe://{{trust_domain}}/{}", written.join("/"))).unwrap();
            let rendered = template.render(Facts::Process(&peer()), &[]);
            prop_assert_eq!(&rendered, &format!("spiffe://example.org/{}", expected.join("/")));
            prop_assert!(SpiffeId::parse(&rendered).is_ok());
            // One brace too many or too few is never a template.
            for brace in ['{', '}'] {
                prop_assert_eq!(read(&format!("spiffe://example.org/{}{brace}", written.concat())), Err(TemplateError::Brace));
            }
        }
    }

    #[test]
    fn a_client_is_a_whole_identity_and_only_where_there_is_one() {
        let read = |text: &str, for_clients| Template::identity(text, &domain(), Known { for_clients, parts: &[] });
        assert!(read("{client}", true).unwrap().is_client());
        assert_eq!(read("{client}", false), Err(TemplateError::NoClient));
        for wrong in ["{client}/x", "{client}/*", "spiffe://example.org{client}", "{client}{socket}"] {
            assert_eq!(read(wrong, true), Err(TemplateError::ClientAlone), "{wrong}");
        }
        assert!(matches!(read("spiffe://example.org/{uid}", true), Err(TemplateError::Unknown { .. })));
        let dns = Template::dns("{client}", &domain(), Known { for_clients: true, parts: &[] });
        assert_eq!(dns, Err(TemplateError::ClientAlone));
    }

    #[test]
    fn two_spellings_of_the_same_names_are_the_same() {
        let known = Known { for_clients: false, parts: &[] };
        let read = |text: &str| Template::identity(text, &domain(), known).unwrap();
        assert!(read("spiffe://{trust_domain}/a").same_names(&read("spiffe://example.org/a")));
        assert!(!read("spiffe://example.org/a/*").same_names(&read("spiffe://example.org/a")));
    }

    #[test]
    fn each_mesh_has_its_forms() {
        let split_of = |mesh, id: &str| {
            let id = SpiffeId::parse(id).unwrap();
            split(mesh, &id)
                .map(|parts| parts.into_iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join(" "))
        };
        let istio = "spiffe://example.org/ns/pay/sa/api";
        assert_eq!(split_of(Mesh::Istio, istio).as_deref(), Some("ns=pay sa=api"));
        assert_eq!(split_of(Mesh::Cilium, "spiffe://example.org/identity/12").as_deref(), Some("id=12"));
        assert_eq!(split_of(Mesh::Cilium, istio).as_deref(), Some("ns=pay sa=api"));
        assert_eq!(split_of(Mesh::Consul, istio), None);
        assert_eq!(split_of(Mesh::Envoy, istio).as_deref(), Some(""));
        assert_eq!(split_of(Mesh::Istio, "spiffe://example.org/ns/pay/sa/api/x"), None);
        // A part that happens to be called like a literal stays a part.
        assert_eq!(split_of(Mesh::Istio, "spiffe://example.org/ns/sa/sa/ns").as_deref(), Some("ns=sa sa=ns"));
        assert_eq!(part_names(Mesh::Linkerd), ["ns", "sa"]);
        assert!(part_names(Mesh::Cilium).is_empty());
        assert!(has_room(Mesh::Istio, "/ns/pay/sa") && has_room(Mesh::Istio, "") && has_room(Mesh::Envoy, "/x"));
        assert!(!has_room(Mesh::Istio, "/ns/pay/sa/api") && !has_room(Mesh::Istio, "/user"));
    }

    #[test]
    fn dns_names_are_strict() {
        assert_eq!(check_dns("api.pay.svc"), Ok(()));
        for wrong in [
            "",
            "a..b",
            "-a",
            "a-",
            "1001",
            "10.0.0.1",
            "a.0x",
            "a.0xfe",
            "A.b",
            "a_b",
            "*.a",
            &"a".repeat(64),
            &"a.".repeat(127),
        ] {
            assert_eq!(check_dns(wrong), Err(NotDns), "{wrong}");
        }
    }
}
