//! Who may have which certificate: rules over attested facts, read once, then pure decisions.
//!
//! [`Policy::parse`] turns the text of `policy.toml` into rules or into all its mistakes at once;
//! [`Policy::authorise`] is the only place where a [`Grant`] comes from; [`schedule`] says when renewals and authority
//! changes are due. Nothing here does IO or asks the time, and nothing a caller says of itself is looked at.

use std::sync::Arc;
use std::time::Duration;

mod authorise;
mod diff;
mod explain;
mod facts;
mod grant;
mod mistake;
mod own;
mod parse;
mod rules;
pub mod schedule;
mod starter;
mod template;

pub use authorise::{NEAREST, NearMiss, Refusal, Wanted};
pub use diff::{Outlook, RulesDiff};
pub use explain::{Explanation, Verdict};
pub use facts::ClientPattern;
pub use grant::{Grant, Renewal};
pub use own::OWN_PATH;
pub use parse::{LARGEST_POLICY, MOST_RULES, REATTEST_AFTER, Surroundings};
pub use rules::{Fact, IdSet, Match, NO_ID, OVERFLOW_ID, Rule, Unmet};
pub use starter::starter;

#[cfg(test)]
pub(crate) use grant::testing;

/// The name of the admin socket as a fact: operators who ask for a certificate are callers on it.
pub const ADMIN_SOCKET: &str = "admin";

/// A whole policy: right in itself, and for the trust domain and sockets it was read for.
#[derive(Debug)]
pub struct Policy {
    rules: Vec<Rule>,
    hash: Arc<str>,
    text: Arc<str>,
}

impl Policy {
    /// SHA-256 of the text it was read from, lower-case hex: what records name.
    #[must_use]
    pub fn hash_hex(&self) -> &str {
        &self.hash
    }

    /// The text it was read from.
    #[must_use]
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// The rules in order.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The longest life that any rule gives: an issuing CA must always have more left than this.
    #[must_use]
    pub fn longest_lifetime(&self) -> Duration {
        self.rules.iter().map(Rule::lifetime).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
