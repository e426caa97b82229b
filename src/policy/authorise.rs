//! The decision: which rule grants what to an attested caller.
//!
//! Every matching rule grants, in the order of the file. The first one that grants a single identity gives the default;
//! a named identity is decided by the first rule that grants it. This is the only place that seals a [`Grant`].

use std::fmt;
use std::sync::Arc;

use super::Policy;
use super::facts::{Facts, nobody};
use super::grant::{Grant, Terms};
use super::own;
use super::rules::{Fact, Rule, Unmet};
use super::template::{check_dns, forms, split};
use crate::caller::{Caller, Evidence};
use crate::identity::SpiffeId;

/// How many rules a refusal names: enough to see what is missing, few enough for a record.
pub const NEAREST: usize = 3;

/// The longest line about one of them, in characters.
const LONGEST_NEAREST: usize = 512;

/// What a caller asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Whatever policy gives it first.
    Default,
    /// This identity and no other.
    Identity(SpiffeId),
}

/// A rule that did not grant, and why.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct NearMiss {
    /// Its place in the file, from 1.
    pub number: usize,
    /// Its name.
    pub rule: String,
    /// The conditions that do not hold.
    pub unmet: Vec<Unmet>,
}

impl fmt::Display for NearMiss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {} \"{}\" ", self.number, self.rule)?;
        for (index, unmet) in self.unmet.iter().enumerate() {
            write!(f, "{}{unmet}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

/// Why a caller gets nothing. For the ledger and for operators: a caller is told no more than that it is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The caller is nobody in particular; no rule was tried. Run it in the same pid and user namespace as the server.
    #[error("the caller {unmet}: run it in the server's own pid and user namespace")]
    Nobody {
        /// What is wrong with it.
        unmet: Unmet,
    },
    /// No rule matches the caller.
    #[error("no rule matches the caller{}: add one to the policy, or see what is missing with chancery policy explain", Tail(.nearest))]
    NoRule {
        /// The rules that came closest.
        nearest: Vec<NearMiss>,
    },
    /// Rules match the caller, but none grants the identity it names.
    #[error("no rule grants {wanted} to the caller{}: add one to the policy, or ask for what it is granted", Tail(.nearest))]
    NotGranted {
        /// What it asked for.
        wanted: SpiffeId,
        /// The rules that came closest.
        nearest: Vec<NearMiss>,
    },
    /// The rules that match grant identities below a prefix, none as a default.
    #[error("the caller gets identities only by name{}: name one, or add a rule that grants a single identity", Tail(.nearest))]
    OnlyByName {
        /// The rules that came closest.
        nearest: Vec<NearMiss>,
    },
}

impl Refusal {
    /// The word in records and metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Nobody { .. } => "nobody",
            Self::NoRule { .. } => "no-rule",
            Self::NotGranted { .. } => "not-granted",
            Self::OnlyByName { .. } => "only-by-name",
        }
    }

    /// One line for each of the nearest rules, as records keep them.
    #[must_use]
    pub fn nearest_lines(&self) -> Vec<String> {
        match self {
            Self::Nobody { unmet } => vec![unmet.to_string()],
            Self::NoRule { nearest } | Self::NotGranted { nearest, .. } | Self::OnlyByName { nearest } => {
                nearest.iter().map(|miss| shortened(&miss.to_string())).collect()
            }
        }
    }
}

/// A rule may list thousands of ids; a record and an answer hold what a person reads.
fn shortened(line: &str) -> String {
    match line.char_indices().nth(LONGEST_NEAREST) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line.to_owned(),
    }
}

/// `; nearest: …` where there is something near.
struct Tail<'a>(&'a [NearMiss]);

impl fmt::Display for Tail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.first().map_or(Ok(()), |first| write!(f, "; nearest: {}", shortened(&first.to_string())))
    }
}

/// What one rule says to one caller.
pub(super) enum Answer {
    /// It grants this.
    Grants(Terms),
    /// It does not, because of these; the caller matches it when the only one is about the identity.
    Misses(Vec<Unmet>),
}

impl Policy {
    /// Decides. The first rule that grants what is wanted wins.
    ///
    /// # Errors
    /// When no rule grants it, with the rules that came closest.
    pub fn authorise(&self, caller: &Caller, wanted: &Wanted) -> Result<Grant, Refusal> {
        if *caller.evidence() == Evidence::Own {
            return own::grant(self, wanted);
        }
        let Some(facts) = Facts::of(caller.evidence()) else {
            return Err(Refusal::NoRule { nearest: Vec::new() });
        };
        if let Some(unmet) = nobody(facts) {
            return Err(Refusal::Nobody { unmet });
        }
        let mut missed = Vec::new();
        for rule in self.rules() {
            match self.ask(rule, facts, wanted) {
                Answer::Grants(terms) => return Ok(Grant::seal(terms)),
                Answer::Misses(unmet) => missed.push(near_miss(rule, unmet)),
            }
        }
        let matched = missed.iter().any(|miss| miss.unmet.iter().all(|unmet| unmet.fact == Fact::Identity));
        let nearest = nearest(missed);
        Err(match wanted {
            Wanted::Identity(id) if matched => Refusal::NotGranted { wanted: id.clone(), nearest },
            Wanted::Default if matched => Refusal::OnlyByName { nearest },
            Wanted::Identity(_) | Wanted::Default => Refusal::NoRule { nearest },
        })
    }

    /// Everything the caller may have without naming it, in order, each identity once; the first is the default.
    #[must_use]
    pub fn granted(&self, caller: &Caller) -> Vec<Grant> {
        let mut grants: Vec<Grant> = Vec::new();
        let Some(facts) = Facts::of(caller.evidence()) else { return grants };
        if nobody(facts).is_some() {
            return grants;
        }
        for rule in self.rules() {
            match self.ask(rule, facts, &Wanted::Default) {
                Answer::Grants(terms) if grants.iter().all(|grant| *grant.identity() != terms.identity) => {
                    grants.push(Grant::seal(terms));
                }
                Answer::Grants(_) | Answer::Misses(_) => {}
            }
        }
        grants
    }

    /// What `rule` says; shared with `explain`, so that what is explained is what is decided.
    pub(super) fn ask(&self, rule: &Rule, facts: Facts<'_>, wanted: &Wanted) -> Answer {
        let mut unmet = rule.matches.unmet(facts);
        let identity = match rule.identity_for(facts, wanted) {
            Ok(identity) => identity,
            Err(reason) => {
                // That a prefix gives no default is worth a word only to a caller that the rule is for.
                if unmet.is_empty() || *wanted != Wanted::Default {
                    unmet.push(reason);
                }
                return Answer::Misses(unmet);
            }
        };
        if own::is_own(&identity) {
            let has = format!("{identity}, which is kept for the server itself");
            unmet.push(Unmet { fact: Fact::Identity, needs: rule.identity.as_str().to_owned(), has });
        }
        if !unmet.is_empty() {
            return Answer::Misses(unmet);
        }
        match rule.dns_for(facts, &identity) {
            Ok(dns_names) => Answer::Grants(Terms {
                identity,
                dns_names,
                profile: Arc::clone(&rule.profile),
                lifetime: rule.lifetime,
                keys: Arc::clone(&rule.keys),
                key: rule.key,
                mesh: rule.mesh,
                renewal: rule.renewal,
                reattest_after: rule.reattest_after,
                rule: Arc::clone(&rule.name),
                policy_hash: Arc::clone(&self.hash),
            }),
            Err(reason) => Answer::Misses(vec![reason]),
        }
    }
}

impl Rule {
    /// The identity that this rule gives to a caller it matches.
    pub(super) fn identity_for(&self, facts: Facts<'_>, wanted: &Wanted) -> Result<SpiffeId, Unmet> {
        let not_this = |has: String| Unmet { fact: Fact::Identity, needs: self.identity.as_str().to_owned(), has };
        let rendered = self.identity.render(facts, &[]);
        let of_form = |id: &SpiffeId| split(self.mesh, id).is_some();
        match (wanted, self.identity.is_below()) {
            (Wanted::Default, true) => Err(not_this("without a name".to_owned())),
            (Wanted::Default, false) => {
                let id = SpiffeId::parse(&rendered).map_err(|problem| not_this(format!("{rendered} ({problem})")))?;
                if of_form(&id) {
                    return Ok(id);
                }
                // Only a client's own identity can have another form than the rule's mesh: the file was checked.
                let needs = format!("of {}'s form {}", self.mesh, forms(self.mesh).join(" or "));
                Err(Unmet { fact: Fact::Client, needs, has: id.to_string() })
            }
            (Wanted::Identity(id), false) if id.as_str() == rendered && of_form(id) => Ok(id.clone()),
            (Wanted::Identity(id), true) if below(&rendered, id) && of_form(id) => Ok(id.clone()),
            (Wanted::Identity(id), _) => Err(not_this(id.to_string())),
        }
    }

    /// The DNS names that go with `identity`.
    fn dns_for(&self, facts: Facts<'_>, identity: &SpiffeId) -> Result<Vec<String>, Unmet> {
        let parts = split(self.mesh, identity).unwrap_or_default();
        let render = |template: &super::template::Template| {
            let name = template.render(facts, &parts);
            check_dns(&name).map(|()| name.clone()).map_err(|problem| Unmet {
                fact: Fact::Identity,
                needs: self.identity.as_str().to_owned(),
                has: format!("{identity}, whose DNS name would be {name} ({problem})"),
            })
        };
        self.dns.iter().map(render).collect()
    }
}

/// Whether `id` lies below `prefix`, at a segment's boundary.
fn below(prefix: &str, id: &SpiffeId) -> bool {
    id.as_str().strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
}

pub(super) fn near_miss(rule: &Rule, unmet: Vec<Unmet>) -> NearMiss {
    NearMiss { number: rule.number, rule: rule.name.to_string(), unmet }
}

/// The rules with the fewest unmet conditions, the earlier first among equals; those for another kind of caller last.
pub(super) fn nearest(mut missed: Vec<NearMiss>) -> Vec<NearMiss> {
    let other_kind = |miss: &NearMiss| miss.unmet.iter().any(|unmet| unmet.fact == Fact::Caller);
    missed.sort_by_key(|miss| (other_kind(miss), miss.unmet.len()));
    missed.truncate(NEAREST);
    missed
}
