//! Reads `policy.toml` into rules, or into all its mistakes at once, each with its line and a remedy.
//!
//! What can be known when the file is read is known then: a rule that can match nobody, a template that could give a
//! wrong name to a caller that it matches, a rule that never decides because an earlier one grants the same to all the
//! same callers. So a [`Policy`] in force has no rule that fails for a reason that was visible here.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;

use super::Policy;
use super::facts::{ClientPattern, Facts};
use super::grant::Renewal;
use super::mistake::PolicyError;
use super::own::is_own;
use super::rules::{IdSet, Match, NO_ID, Rule};
use super::template::{Known, NotDns, Template, check_dns, forms, has_room, mesh_dns, part_names, split};
use crate::caller::{ClientCertificate, Evidence, UnixPeer};
use crate::identity::{Mesh, SpiffeId, TrustDomain};
use crate::toml_reader::{Document, Entry, Mistake, Mistakes, Table, did_you_mean};
use crate::x509::KeyAlgorithm;
use crate::x509::profile::{DnsNames, LeafProfile, Profiles};

/// The largest policy file in bytes.
pub const LARGEST_POLICY: usize = 1 << 20;

/// The most rules of a policy: each is tried for each request.
pub const MOST_RULES: usize = 1_000;

/// The longest name of a rule in bytes: it is in every record.
pub(super) const LONGEST_NAME: usize = 64;

/// The longest socket name in bytes, for templates that are read without knowing the sockets.
const LONGEST_SOCKET: usize = 64;

/// Which parts of a certificate's life may be chosen for its renewal.
const FRACTIONS: RangeInclusive<f64> = 0.1..=0.9;

/// How far apart renewals may be spread.
const JITTERS: RangeInclusive<f64> = 0.0..=0.2;

/// The renewal must be over well before the end: the latest moment, as a part of life.
pub(super) const LATEST_RENEWAL: f64 = 0.95;

/// How long a client may renew its own certificate before it has to be attested anew, where the rule does not say.
pub const REATTEST_AFTER: Duration = Duration::from_secs(30 * DAY_S);

/// What a rule may say instead. There is no "never": a stolen certificate that renews itself must come to an end.
const REATTEST_SPANS: RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(366 * DAY_S);

const DAY_S: u64 = 86_400;

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
    earlier.identity.same_names(&rule.identity) && earlier.matches.covers(&rule.matches) && !is_choosier(earlier, rule)
}

/// Whether `earlier` may refuse a name that `rule` grants: one that is asked for or held, not written in the file, may have
/// no form of its mesh, or make no DNS name.
fn is_choosier(earlier: &Rule, rule: &Rule) -> bool {
    let other_form = earlier.mesh != rule.mesh && !forms(earlier.mesh).is_empty();
    let same_dns = earlier.dns.iter().all(|own| rule.dns.iter().any(|other| own.same_names(other)));
    let is_written = !earlier.identity.is_below() && !earlier.identity.is_client();
    !is_written && (other_form || !same_dns)
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
        let (matches, for_clients) = self.matches();
        let meshes = Mesh::ALL.map(|mesh| (mesh.as_str(), mesh));
        let mesh = table.choice("mesh", &meshes).or_else(|| (!table.has("mesh")).then_some(Mesh::Envoy));
        let identity = self.identity(for_clients);
        let dns_texts = table.texts("dns");
        // Without a mesh the rest can be read but not judged: Envoy's bounds are the widest.
        let profile = self.around.profiles.leaf(mesh.unwrap_or(Mesh::Envoy));
        let dns = self.dns(dns_texts, profile, for_clients);
        let lifetime = profile.lifetime();
        let span = table.span("lifetime", lifetime.shortest..=lifetime.longest);
        let (key, keys) = self.keys(profile);
        let renewal = self.renewal();
        let reattest_after = self.reattest_after(for_clients);
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
            reattest_after,
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

    /// The conditions, and whether they are about client certificates, which can be told even when one is wrong.
    fn matches(&self) -> (Option<Match>, bool) {
        let table = self.table.table("match");
        let matches = Match {
            uid: ids(&table, "uid"),
            gid: ids(&table, "gid"),
            group: ids(&table, "group"),
            sockets: self.sockets(&table),
            clients: self.clients(&table),
        };
        let conditions = [
            ("uid", matches.uid.is_some()),
            ("gid", matches.gid.is_some()),
            ("group", matches.group.is_some()),
            ("socket", matches.sockets.is_some()),
            ("client", matches.clients.is_some()),
        ];
        let asked = conditions.iter().filter(|(key, _)| table.has(key));
        // A misspelt condition is told as an unknown key; a value that is no table as such.
        if table.is_empty() && (!self.table.has("match") || table.line() > 0 && asked.clone().count() == 0) {
            self.table.note("match", &PolicyError::NoCondition);
        }
        let for_clients = table.has("client");
        if for_clients && ["uid", "gid", "group"].iter().any(|key| table.has(key)) {
            table.note("client", &PolicyError::ClientAndProcess);
        }
        // A condition that could not be read must not silently be no condition.
        let whole = !matches.is_empty() && asked.into_iter().all(|(_, read)| *read);
        table.done();
        (whole.then_some(matches), for_clients)
    }

    fn clients(&self, table: &Table<'_, '_>) -> Option<Vec<ClientPattern>> {
        let entries = table.texts("client")?;
        if entries.is_empty() {
            table.note("client", &PolicyError::EmptyList);
            return None;
        }
        let asked = entries.len();
        let read = |(entry, text): (Entry<'_, '_>, &str)| {
            let problem = match ClientPattern::parse(text, self.around.trust_domain) {
                Ok(pattern) if pattern.example().member_of(self.around.trust_domain) => return Some(pattern),
                Ok(_) => PolicyError::ClientOfOthers,
                Err(problem) => PolicyError::Client { problem },
            };
            table.note_entry("client", entry, &problem);
            None
        };
        let patterns: Vec<ClientPattern> = entries.into_iter().filter_map(read).collect();
        (patterns.len() == asked).then_some(patterns)
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

    fn identity(&self, for_clients: bool) -> Option<Template> {
        let example = "identity = \"spiffe://{trust_domain}/user/{uid}\"";
        let text = self.table.required_text("identity", example)?;
        Template::identity(text, self.around.trust_domain, Known { for_clients, parts: &[] })
            .map_err(|problem| self.table.note("identity", &PolicyError::Template(problem)))
            .ok()
    }

    fn dns(
        &self,
        texts: Option<Vec<(Entry<'_, '_>, &str)>>,
        profile: &LeafProfile,
        for_clients: bool,
    ) -> Vec<Template> {
        let (mesh, domain) = (profile.mesh(), self.around.trust_domain);
        let parts = part_names(mesh);
        let known = Known { for_clients, parts: &parts };
        let Some(texts) = texts else {
            let own = mesh_dns(mesh).iter().map(|text| Template::dns(text, domain, known));
            return own.collect::<Result<_, _>>().expect("a unit test reads the meshes' own templates");
        };
        match profile.dns_names() {
            DnsNames::None if !texts.is_empty() => self.table.note("dns", &PolicyError::NoDnsHere { mesh }),
            DnsNames::Required if texts.is_empty() => self.table.note("dns", &PolicyError::DnsNeeded { mesh }),
            DnsNames::None | DnsNames::Required | DnsNames::Allowed => {}
        }
        let read = |(entry, text): (Entry<'_, '_>, &str)| {
            let template = Template::dns(text, domain, known);
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

    fn reattest_after(&self, for_clients: bool) -> Option<Duration> {
        let span = self.table.span("reattest_after", REATTEST_SPANS);
        if !for_clients && self.table.has("reattest_after") {
            self.table.note("reattest_after", &PolicyError::AttestedEachTime);
        }
        for_clients.then(|| span.unwrap_or(REATTEST_AFTER))
    }

    /// Tries the templates for the callers that make the longest and oddest names among those whom the rule matches.
    fn try_names(&self, identity: &Template, dns: &[Template], matches: &Match, mesh: Mesh) {
        let sockets: Vec<String> = match (&matches.sockets, self.around.sockets) {
            (Some(names), _) => names.iter().cloned().collect(),
            (None, Some(known)) => known.to_vec(),
            (None, None) => vec!["s".repeat(LONGEST_SOCKET)],
        };
        for example in sockets.into_iter().flat_map(|socket| examples(matches, socket)) {
            if let Err((key, problem)) = self.try_for(&example, identity, dns, mesh) {
                // One caller's wrong name is enough to say what is wrong with the template.
                return self.table.note(key, &problem);
            }
        }
    }

    fn try_for(&self, caller: &Example, identity: &Template, dns: &[Template], mesh: Mesh) -> Result<(), Wrong> {
        let Some(facts) = Facts::of(&caller.evidence) else { return Ok(()) };
        let example = identity.render(facts, &[]);
        let wrong = |problem| ("identity", PolicyError::Identity { example: example.clone(), problem });
        let form = || ("identity", PolicyError::Form { mesh, forms: forms(mesh).join(" or ") });
        // A prefix is tried with one segment below it; a prefix may be the trust domain alone.
        let whole = if identity.is_below() { format!("{example}/x") } else { example.clone() };
        let id = SpiffeId::parse(&whole).map_err(wrong)?;
        if !id.member_of(self.around.trust_domain) {
            return Err(("identity", PolicyError::OtherTrustDomain));
        }
        if identity.is_below() || identity.is_client() && caller.below {
            // Its DNS names depend on the name that is asked for; they are checked then.
            let prefix = id.path().strip_suffix("/x").unwrap_or_default();
            return if has_room(mesh, prefix) { Ok(()) } else { Err(form()) };
        }
        if is_own(&id) {
            return Err(("identity", PolicyError::Own));
        }
        let parts = split(mesh, &id).ok_or_else(form)?;
        for template in dns {
            let example = template.render(facts, &parts);
            let key = if self.table.has("dns") { "dns" } else { "identity" };
            check_dns(&example).map_err(|NotDns| (key, PolicyError::Dns { example }))?;
        }
        Ok(())
    }
}

/// A key and what is wrong with it.
type Wrong = (&'static str, PolicyError);

/// A caller to try templates with.
struct Example {
    evidence: Evidence,
    /// Whether it stands for all clients below a prefix, by a segment `x` behind it.
    below: bool,
}

/// Callers on `socket` that a rule matches: those with the longest ids, or one for each kind of client.
fn examples(matches: &Match, socket: String) -> Vec<Example> {
    let longest = |ids: &Option<IdSet>| ids.as_ref().and_then(IdSet::largest).unwrap_or(NO_ID - 1);
    let Some(clients) = &matches.clients else {
        let (uid, gid) = (longest(&matches.uid), longest(&matches.gid));
        let peer = UnixPeer { socket, uid, gid, groups: Vec::new(), pid: 1, started: None };
        return vec![Example { evidence: Evidence::UnixPeer(peer), below: false }];
    };
    let client = |pattern: &ClientPattern| {
        let supposed = ClientCertificate::supposed(pattern.example().clone(), &socket);
        Example { evidence: Evidence::Client(supposed), below: pattern.is_below() }
    };
    clients.iter().map(client).collect()
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
