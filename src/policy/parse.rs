//! Reads `policy.toml` into rules, or into all its mistakes at once, each with its line and a remedy.
//!
//! What can be known when the file is read is known then: a rule that can match nobody, a template that could give a
//! wrong name to a caller that it matches, a rule that never decides because an earlier one grants the same to all the
//! same callers. So a [`Policy`] in force has no rule that fails for a reason that was visible here.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use aws_lc_rs::digest;

use super::Policy;
use super::grant::Renewal;
use super::own::{OWN_PATH, is_own};
use super::rules::{IdSet, Match, NO_ID, OVERFLOW_ID, Rule};
use super::template::{NotDns, Template, TemplateError, check_dns, forms, has_room, mesh_dns, part_names, split};
use crate::caller::UnixPeer;
use crate::identity::{IdentityError, Mesh, SpiffeId, TrustDomain};
use crate::toml_reader::{Document, Entry, Mistake, Mistakes, Table, did_you_mean};
use crate::x509::KeyAlgorithm;
use crate::x509::profile::{DnsNames, LeafProfile, Profiles};

/// The largest policy file in bytes.
pub const LARGEST_POLICY: usize = 1 << 20;

/// The most rules of a policy: each is tried for each request.
pub const MOST_RULES: usize = 1_000;

/// The longest name of a rule in bytes: it is in every record.
const LONGEST_NAME: usize = 64;

/// The longest socket name in bytes, for templates that are read without knowing the sockets.
const LONGEST_SOCKET: usize = 64;

/// Which parts of a certificate's life may be chosen for its renewal.
const FRACTIONS: RangeInclusive<f64> = 0.1..=0.9;

/// How far apart renewals may be spread.
const JITTERS: RangeInclusive<f64> = 0.0..=0.2;

/// The renewal must be over well before the end: the latest moment, as a part of life.
const LATEST_RENEWAL: f64 = 0.95;

/// Where there is no rule of its own.
const RENEWAL: Renewal = Renewal { fraction: 0.5, jitter: 0.05 };

/// What a policy is read for.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The file as the user named it, for the screen of mistakes.
    pub file: &'a str,
    /// The server's trust domain.
    pub trust_domain: &'a TrustDomain,
    /// The names of all listening sockets, `admin` among them; `None` when they are not known, as when a file is
    /// checked away from its server.
    pub sockets: Option<&'a [String]>,
    /// The certificate profiles.
    pub profiles: &'a Profiles,
}

/// What can be wrong with a rule. Each says what to write instead.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
enum PolicyError {
    /// The file is larger than [`LARGEST_POLICY`].
    #[error(
        "{length} bytes, but a policy has at most {LARGEST_POLICY}: write ranges and templates instead of many rules"
    )]
    TooLarge { length: usize },
    /// No `[[rule]]` at all.
    #[error("there is no rule, so nobody would get a certificate: write one under [[rule]] (examples: docs/policy.md)")]
    NoRules,
    /// More than [`MOST_RULES`].
    #[error("{count} rules, but a policy has at most {MOST_RULES}: write ranges and templates instead")]
    TooManyRules { count: usize },
    /// A name that records could not carry.
    #[error("a rule's name has 1 to {LONGEST_NAME} letters, digits, spaces, dots, dashes and underscores")]
    Name,
    /// Two rules of one name.
    #[error("rule {first} has this name already: records name rules, so each needs its own")]
    DuplicateName { first: usize },
    /// A rule for everybody, perhaps by oversight.
    #[error(
        "no condition, so it would match everybody: write match = {{ uid = 1000 }}, or {{ uid = \"any\" }} if you mean it"
    )]
    NoCondition,
    /// Neither number nor range.
    #[error("not an id: write a number (1000), a range (\"1000-1999\") or \"any\"")]
    IdForm,
    /// A range that ends before it begins.
    #[error("an empty range: write the lower id first, \"{last}-{first}\"")]
    EmptyRange { first: u32, last: u32 },
    /// A list without values.
    #[error("an empty list matches nobody: leave the condition out or name one")]
    EmptyList,
    /// An id that never belongs to anybody.
    #[error(
        "matches nobody: {OVERFLOW_ID} and {NO_ID} stand for unmapped users, who are nobody in particular; name a real id"
    )]
    NobodysId,
    /// A socket that is not open, and is like one that is.
    #[error("no such socket, so it matches nobody; did you mean \"{suggestion}\"?")]
    SocketLike { suggestion: String },
    /// A socket that is not open.
    #[error(
        "no such socket, so it matches nobody: open one under [[sds.listen]] (--sds-socket with up), or choose from {known}"
    )]
    Socket { known: String },
    /// A template whose text is wrong.
    #[error("{0}")]
    Template(TemplateError),
    /// A template that gives something that is no SPIFFE ID.
    #[error("gives {example}: {problem}")]
    Identity { example: String, problem: IdentityError },
    /// A template of another trust domain.
    #[error("names another trust domain than this server's: write spiffe://{{trust_domain}}/…")]
    OtherTrustDomain,
    /// The server's own identity.
    #[error("gives spiffe://{{trust_domain}}{OWN_PATH}, which is kept for the server itself: choose another path")]
    Own,
    /// A template that is not of the mesh's form.
    #[error("is not of {mesh}'s form: write spiffe://{{trust_domain}}{forms}, or choose another mesh")]
    Form { mesh: Mesh, forms: String },
    /// A template that gives something that is no DNS name.
    #[error("gives {example}: {NotDns}")]
    Dns { example: String },
    /// DNS names where the profile has none.
    #[error("a certificate of {mesh} has no DNS names: leave dns out, or choose mesh = \"envoy\"")]
    NoDnsHere { mesh: Mesh },
    /// No DNS name where the profile needs one.
    #[error("a certificate of {mesh} needs a DNS name: leave dns out for the mesh's own, or write at least one")]
    DnsNeeded { mesh: Mesh },
    /// A key algorithm that the mesh cannot use.
    #[error("not for {mesh}: choose from {allowed}")]
    Key { mesh: Mesh, allowed: String },
    /// A renewal too near to the end.
    #[error("renews as late as at {percent} % of its life: keep renew_at + jitter at or below {LATEST_RENEWAL}")]
    LateRenewal { percent: f64 },
    /// A rule that never decides.
    #[error(
        "grants nothing that rule {number} \"{name}\" does not grant to the same callers: remove it, or move it up"
    )]
    Shadowed { number: usize, name: String },
}

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    /// With every mistake in `text`, by line.
    pub fn parse(text: &str, around: &Surroundings<'_>) -> Result<Self, Mistakes> {
        if text.len() > LARGEST_POLICY {
            let remedy = PolicyError::TooLarge { length: text.len() }.to_string();
            return Err(Mistakes::new(around.file, vec![Mistake { line: 0, place: "size".to_owned(), remedy }]));
        }
        let document = Document::parse(text);
        let root = document.root();
        let tables = root.tables("rule");
        match tables.len() {
            0 if !root.has("rule") => document.note_file("rule", &PolicyError::NoRules),
            count if count > MOST_RULES => document.note_file("rule", &PolicyError::TooManyRules { count }),
            _ => {}
        }
        let mut rules: Vec<Rule> = Vec::new();
        let mut names: Vec<(usize, &str)> = Vec::new();
        for (index, table) in tables.into_iter().enumerate().take(MOST_RULES) {
            let reader = RuleReader { table: &table, around, number: index + 1 };
            if let Some(rule) = reader.read(&mut names) {
                if let Some(earlier) = rules.iter().find(|earlier| shadows(earlier, &rule)) {
                    let (number, name) = (earlier.number, earlier.name.to_string());
                    table.note_whole(&PolicyError::Shadowed { number, name });
                }
                rules.push(rule);
            }
            table.done();
        }
        root.done();
        document.finish(around.file)?;
        let hash = hex::encode(digest::digest(&digest::SHA256, text.as_bytes())).into();
        Ok(Self { rules, hash, text: text.into() })
    }
}

/// Whether `rule` never decides anything because `earlier` grants the same names to everyone whom it matches.
fn shadows(earlier: &Rule, rule: &Rule) -> bool {
    earlier.identity.same_names(&rule.identity) && earlier.matches.covers(&rule.matches)
}

/// Reads one `[[rule]]`.
struct RuleReader<'r, 'd, 't> {
    table: &'r Table<'d, 't>,
    around: &'r Surroundings<'r>,
    number: usize,
}

impl<'d> RuleReader<'_, 'd, '_> {
    /// The rule; `None` when a part is missing or wrong. Every part is read either way.
    fn read(&self, names: &mut Vec<(usize, &'d str)>) -> Option<Rule> {
        let table = self.table;
        table.call(&format!("rule {}", self.number));
        let name = self.name(names);
        let matches = self.matches();
        let meshes = Mesh::ALL.map(|mesh| (mesh.as_str(), mesh));
        let mesh = table.choice("mesh", &meshes).or_else(|| (!table.has("mesh")).then_some(Mesh::Envoy));
        let identity = self.identity();
        let dns_texts = table.texts("dns");
        // Without a mesh the rest can be read but not judged: Envoy's bounds are the widest.
        let profile = self.around.profiles.leaf(mesh.unwrap_or(Mesh::Envoy));
        let dns = self.dns(dns_texts, profile);
        let lifetime = profile.lifetime();
        let span = table.span("lifetime", lifetime.shortest..=lifetime.longest);
        let (key, keys) = self.keys(profile);
        let renewal = self.renewal();
        if let (Some(identity), Some(matches), Some(mesh)) = (&identity, &matches, mesh) {
            self.try_names(identity, &dns, matches, mesh);
        }
        Some(Rule {
            number: self.number,
            name: name?.into(),
            matches: matches?,
            mesh: mesh?,
            identity: identity?,
            dns,
            profile: Arc::clone(profile),
            lifetime: span.unwrap_or(lifetime.default),
            keys: keys.into(),
            key,
            renewal,
        })
    }

    fn name(&self, names: &mut Vec<(usize, &'d str)>) -> Option<&'d str> {
        let name = self.table.required_text("name", "name = \"payments\"")?;
        let fits = |c: char| c.is_ascii_alphanumeric() || " ._-".contains(c);
        if name.trim().is_empty() || name.len() > LONGEST_NAME || !name.chars().all(fits) {
            self.table.note("name", &PolicyError::Name);
            return None;
        }
        match names.iter().find(|(_, other)| *other == name) {
            Some((first, _)) => self.table.note("name", &PolicyError::DuplicateName { first: *first }),
            None => names.push((self.number, name)),
        }
        Some(name)
    }

    fn matches(&self) -> Option<Match> {
        let table = self.table.table("match");
        let matches = Match {
            uid: ids(&table, "uid"),
            gid: ids(&table, "gid"),
            group: ids(&table, "group"),
            sockets: self.sockets(&table),
        };
        let asked = ["uid", "gid", "group", "socket"].iter().filter(|key| table.has(key)).count();
        let read = [matches.uid.is_some(), matches.gid.is_some(), matches.group.is_some(), matches.sockets.is_some()];
        // A misspelt condition is told as an unknown key; a value that is no table as such.
        if table.is_empty() && (!self.table.has("match") || table.line() > 0 && asked == 0) {
            self.table.note("match", &PolicyError::NoCondition);
        }
        table.done();
        // A condition that could not be read must not silently be no condition.
        (!matches.is_empty() && read.into_iter().filter(|read| *read).count() == asked).then_some(matches)
    }

    fn sockets(&self, table: &Table<'_, '_>) -> Option<BTreeSet<String>> {
        let entries = table.texts("socket")?;
        if entries.is_empty() {
            table.note("socket", &PolicyError::EmptyList);
            return None;
        }
        for (entry, name) in &entries {
            let known = self.around.sockets.unwrap_or_default();
            if self.around.sockets.is_none() || known.iter().any(|socket| socket == name) {
                continue;
            }
            let problem = match did_you_mean(name, known.iter().map(String::as_str)) {
                Some(suggestion) => PolicyError::SocketLike { suggestion: suggestion.to_owned() },
                None => PolicyError::Socket { known: known.join(", ") },
            };
            table.note_entry("socket", *entry, &problem);
        }
        Some(entries.into_iter().map(|(_, name)| name.to_owned()).collect())
    }

    fn identity(&self) -> Option<Template> {
        let example = "identity = \"spiffe://{trust_domain}/user/{uid}\"";
        let text = self.table.required_text("identity", example)?;
        Template::identity(text, self.around.trust_domain)
            .map_err(|problem| self.table.note("identity", &PolicyError::Template(problem)))
            .ok()
    }

    fn dns(&self, texts: Option<Vec<(Entry<'_, '_>, &str)>>, profile: &LeafProfile) -> Vec<Template> {
        let (mesh, domain) = (profile.mesh(), self.around.trust_domain);
        let parts = part_names(mesh);
        let Some(texts) = texts else {
            let own = mesh_dns(mesh).iter().map(|text| Template::dns(text, domain, &parts));
            return own.collect::<Result<_, _>>().expect("a unit test reads the meshes' own templates");
        };
        match profile.dns_names() {
            DnsNames::None if !texts.is_empty() => self.table.note("dns", &PolicyError::NoDnsHere { mesh }),
            DnsNames::Required if texts.is_empty() => self.table.note("dns", &PolicyError::DnsNeeded { mesh }),
            DnsNames::None | DnsNames::Required | DnsNames::Allowed => {}
        }
        let read = |(entry, text): (Entry<'_, '_>, &str)| {
            let template = Template::dns(text, domain, &parts);
            template.map_err(|problem| self.table.note_entry("dns", entry, &PolicyError::Template(problem))).ok()
        };
        texts.into_iter().filter_map(read).collect()
    }

    /// The algorithm of keys that the server makes, and all accepted ones.
    fn keys(&self, profile: &LeafProfile) -> (KeyAlgorithm, Vec<KeyAlgorithm>) {
        let default = (profile.key_algorithm(), profile.key_algorithms().to_vec());
        let mesh = profile.mesh();
        // ML-DSA is never on by default; a rule may name it wherever the mesh is not bound to one kind of key.
        let post_quantum = [KeyAlgorithm::MlDsa44, KeyAlgorithm::MlDsa65, KeyAlgorithm::MlDsa87];
        let more: &[KeyAlgorithm] = if mesh == Mesh::Linkerd { &[] } else { &post_quantum };
        let allowed: Vec<KeyAlgorithm> = profile.key_algorithms().iter().chain(more).copied().collect();
        let all = KeyAlgorithm::ALL.map(|algorithm| (algorithm.as_str(), algorithm));
        let Some(chosen) = self.table.choices("keys", &all) else { return default };
        if chosen.iter().any(|key| !allowed.contains(key)) {
            let allowed = allowed.iter().map(|key| key.as_str()).collect::<Vec<_>>().join(", ");
            self.table.note("keys", &PolicyError::Key { mesh, allowed });
        }
        match chosen.first() {
            Some(first) => (*first, chosen),
            None => {
                if self.table.list("keys").is_some_and(|entries| entries.is_empty()) {
                    self.table.note("keys", &PolicyError::EmptyList);
                }
                default
            }
        }
    }

    fn renewal(&self) -> Renewal {
        let fraction = self.table.number("renew_at", FRACTIONS).unwrap_or(RENEWAL.fraction);
        let jitter = self.table.number("jitter", JITTERS).unwrap_or(RENEWAL.jitter);
        if fraction + jitter > LATEST_RENEWAL {
            self.table.note("renew_at", &PolicyError::LateRenewal { percent: ((fraction + jitter) * 100.0).round() });
        }
        Renewal { fraction, jitter }
    }

    /// Tries the templates for the callers that make the longest and oddest names among those whom the rule matches.
    fn try_names(&self, identity: &Template, dns: &[Template], matches: &Match, mesh: Mesh) {
        let longest = |ids: &Option<IdSet>| ids.as_ref().and_then(IdSet::largest).unwrap_or(NO_ID - 1);
        let (uid, gid) = (longest(&matches.uid), longest(&matches.gid));
        let sockets: Vec<String> = match (&matches.sockets, self.around.sockets) {
            (Some(names), _) => names.iter().cloned().collect(),
            (None, Some(known)) => known.to_vec(),
            (None, None) => vec!["s".repeat(LONGEST_SOCKET)],
        };
        for socket in sockets {
            let peer = UnixPeer { socket, uid, gid, groups: Vec::new(), pid: 1, started: None };
            if let Err((key, problem)) = self.try_for(&peer, identity, dns, mesh) {
                // One caller's wrong name is enough to say what is wrong with the template.
                return self.table.note(key, &problem);
            }
        }
    }

    fn try_for(
        &self,
        peer: &UnixPeer,
        identity: &Template,
        dns: &[Template],
        mesh: Mesh,
    ) -> Result<(), (&'static str, PolicyError)> {
        let example = identity.render(peer, &[]);
        let wrong = |problem| ("identity", PolicyError::Identity { example: example.clone(), problem });
        let form = || ("identity", PolicyError::Form { mesh, forms: forms(mesh).join(" or ") });
        // A prefix is tried with one segment below it; a prefix may be the trust domain alone.
        let whole = if identity.is_below() { format!("{example}/x") } else { example.clone() };
        let id = SpiffeId::parse(&whole).map_err(wrong)?;
        if !id.member_of(self.around.trust_domain) {
            return Err(("identity", PolicyError::OtherTrustDomain));
        }
        if identity.is_below() {
            // Its DNS names depend on the name that is asked for; they are checked then.
            let prefix = id.path().strip_suffix("/x").unwrap_or_default();
            return if has_room(mesh, prefix) { Ok(()) } else { Err(form()) };
        }
        if is_own(&id) {
            return Err(("identity", PolicyError::Own));
        }
        let parts = split(mesh, &id).ok_or_else(form)?;
        for template in dns {
            let example = template.render(peer, &parts);
            let key = if self.table.has("dns") { "dns" } else { "identity" };
            check_dns(&example).map_err(|NotDns| (key, PolicyError::Dns { example }))?;
        }
        Ok(())
    }
}

/// A condition on ids: numbers, ranges or `"any"`.
fn ids(table: &Table<'_, '_>, key: &'static str) -> Option<IdSet> {
    let entries = table.list(key)?;
    if entries.is_empty() {
        table.note(key, &PolicyError::EmptyList);
        return None;
    }
    let mut ranges = Vec::new();
    let mut right = true;
    for entry in entries {
        match range(entry) {
            Ok(range) if IdSet::new(&[range]).is_empty() => {
                right = false;
                table.note_entry(key, entry, &PolicyError::NobodysId);
            }
            Ok(range) => ranges.push(range),
            Err(problem) => {
                right = false;
                table.note_entry(key, entry, &problem);
            }
        }
    }
    right.then(|| IdSet::new(&ranges))
}

fn range(entry: Entry<'_, '_>) -> Result<(u32, u32), PolicyError> {
    if let Some(number) = entry.integer() {
        let id = u32::try_from(number).map_err(|_| PolicyError::IdForm)?;
        return Ok((id, id));
    }
    let text = entry.text().ok_or(PolicyError::IdForm)?;
    if text == "any" {
        return Ok((0, NO_ID));
    }
    let id = |text: &str| text.trim().parse::<u32>().map_err(|_| PolicyError::IdForm);
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (id(first)?, id(last)?),
        None => (id(text)?, id(text)?),
    };
    if first > last { Err(PolicyError::EmptyRange { first, last }) } else { Ok((first, last)) }
}
