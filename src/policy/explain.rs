//! Says why somebody would or would not get an identity: the very answers of `authorise`, rule by rule.
//!
//! It takes evidence, not a [`crate::caller::Caller`]: a question of "what if" must not make an attested caller.

use std::fmt;

use super::Policy;
use super::authorise::{Answer, NearMiss, Wanted, near_miss, nearest};
use super::facts::{Facts, nobody};
use super::rules::Unmet;
use crate::caller::Evidence;
use crate::toml_reader::render_span;

/// What one rule says.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Verdict {
    /// Its place in the file, from 1.
    pub number: usize,
    /// Its name.
    pub rule: String,
    /// The identity it grants, when it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grants: Option<String>,
    /// How long the certificate would live, with unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<String>,
    /// The conditions that do not hold; empty when it grants.
    pub unmet: Vec<Unmet>,
}

/// The whole answer. Its `Display` is the screen of `chancery policy explain`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Explanation {
    /// Whom it is about, such as `uid 1003 on socket sds`.
    pub subject: String,
    /// What was asked for by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted: Option<String>,
    /// The identity that would be granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub granted: Option<String>,
    /// The rule that decides for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Why no rule is tried, for a caller that is nobody in particular.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nobody: Option<Unmet>,
    /// Each rule's answer, in order.
    pub verdicts: Vec<Verdict>,
    /// When nothing is granted: the rules that came closest.
    pub nearest: Vec<NearMiss>,
}

impl Policy {
    /// What each rule says to a caller with this evidence.
    #[must_use]
    pub fn explain(&self, evidence: &Evidence, wanted: &Wanted) -> Explanation {
        let facts = Facts::of(evidence);
        let mut explanation = Explanation {
            subject: facts.map_or_else(|| "this server".to_owned(), Facts::subject),
            wanted: match wanted {
                Wanted::Default => None,
                Wanted::Identity(id) => Some(id.to_string()),
            },
            granted: None,
            rule: None,
            nobody: facts.and_then(nobody),
            verdicts: Vec::new(),
            nearest: Vec::new(),
        };
        let Some(facts) = facts.filter(|_| explanation.nobody.is_none()) else { return explanation };
        let mut missed = Vec::new();
        for rule in self.rules() {
            let (number, name) = (rule.number(), rule.name().to_owned());
            let verdict = match self.ask(rule, facts, wanted) {
                Answer::Grants(terms) => {
                    let identity = terms.identity.to_string();
                    if explanation.granted.is_none() {
                        explanation.granted = Some(identity.clone());
                        explanation.rule = Some(name.clone());
                    }
                    let lifetime = Some(render_span(terms.lifetime));
                    Verdict { number, rule: name, grants: Some(identity), lifetime, unmet: Vec::new() }
                }
                Answer::Misses(unmet) => {
                    missed.push(near_miss(rule, unmet.clone()));
                    Verdict { number, rule: name, grants: None, lifetime: None, unmet }
                }
            };
            explanation.verdicts.push(verdict);
        }
        if explanation.granted.is_none() {
            explanation.nearest = nearest(missed);
        }
        explanation
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.granted, &self.wanted) {
            (Some(identity), _) => write!(f, "{} would get {identity}.", self.subject)?,
            (None, Some(wanted)) => write!(f, "{} would not get {wanted}.", self.subject)?,
            (None, None) => write!(f, "{} would get nothing.", self.subject)?,
        }
        if let Some(unmet) = &self.nobody {
            return write!(f, "\n  no rule is tried: {unmet}");
        }
        let widest = self.verdicts.iter().map(|v| v.rule.chars().count() + 2).max().unwrap_or_default();
        let digits = self.verdicts.len().to_string().len();
        for verdict in &self.verdicts {
            let name = format!("\"{}\"", verdict.rule);
            write!(f, "\n  rule {:digits$}  {name:widest$}  ", verdict.number)?;
            match (&verdict.grants, &verdict.lifetime) {
                (Some(identity), Some(lifetime)) => write!(f, "grants {identity} for {lifetime}")?,
                (Some(identity), None) => write!(f, "grants {identity}")?,
                (None, _) => {
                    let unmet = verdict.unmet.iter().map(ToString::to_string).collect::<Vec<_>>();
                    f.write_str(&unmet.join("; "))?;
                }
            }
        }
        let Some(first) = self.nearest.first() else { return Ok(()) };
        // Where a condition has no cure (the rule grants another identity), the cures of the others don't help.
        let cures: Option<Vec<String>> = first.unmet.iter().map(Unmet::cure).collect();
        let cure = cures.map_or(String::new(), |cures| format!("{}, or ", cures.join(" and ")));
        let what = if cure.is_empty() { "add a rule to" } else { "a rule in" };
        write!(f, "\n  nearest: rule {}. To allow: {cure}{what} policy.toml (examples: docs/policy.md)", first.number)
    }
}
