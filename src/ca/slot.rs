//! The authorities of one trust domain and the states they pass through.
//!
//! `Prepared → Active → Retiring → Gone`, or `Tainted` when a key is no longer ours alone. [`Authorities`] is a value:
//! whoever signs or publishes looks at the newest one through a watch channel, only [`super::authority`] makes a new
//! one, and only after the ledger holds the change. An issuing CA is active at all times once the
//! first was made.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use time::OffsetDateTime;

use crate::audit::event::AuthorityFacts;
use crate::ca::sign::SigningKey;
use crate::policy::schedule::AuthoritySlot;
use crate::x509::chain::{Issuer, LONGEST_CHAIN};

pub use crate::policy::schedule::AuthorityState as State;
pub use crate::x509::profile::Level;

/// The n-th authority of its level: `issuing 3`. Numbers are never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name {
    /// Its level.
    pub level: Level,
    /// Counted from 1.
    pub number: u32,
}

/// The word for a level in records and names.
#[must_use]
pub fn word(level: Level) -> &'static str {
    match level {
        Level::Root => "root",
        Level::Intermediate => "intermediate",
        Level::Issuing => "issuing",
    }
}

impl Name {
    /// The file that its sealed key is kept under.
    #[must_use]
    pub fn key_file(self) -> String {
        format!("{}-{}", word(self.level), self.number)
    }

    /// The one after it.
    #[must_use]
    pub fn next(self) -> Self {
        Self { number: self.number + 1, ..self }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", word(self.level), self.number)
    }
}

/// A text that names no authority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no authority: write \"root 1\" or \"issuing 3\"")]
pub struct NoName(String);

impl FromStr for Name {
    type Err = NoName;

    fn from_str(text: &str) -> Result<Self, NoName> {
        let wrong = || NoName(text.to_owned());
        let (level, number) = text.split_once(' ').ok_or_else(wrong)?;
        let level = match level {
            "root" => Level::Root,
            "intermediate" => Level::Intermediate,
            "issuing" => Level::Issuing,
            _ => return Err(wrong()),
        };
        let number = number.parse().ok().filter(|n| *n > 0).ok_or_else(wrong)?;
        Ok(Self { level, number })
    }
}

/// One authority: its certificate, its key and its state.
#[derive(Debug, Clone)]
pub struct Authority {
    pub(super) name: Name,
    pub(super) state: State,
    pub(super) since: OffsetDateTime,
    pub(super) issuer: Arc<Issuer>,
    /// Nothing for an upstream's, whose key never comes here.
    pub(super) key: Option<SigningKey>,
    /// Who signed it, where that was not an authority of this server.
    pub(super) upstream: Option<String>,
    /// For a root: since when it is in every bundle.
    pub(super) published: Option<OffsetDateTime>,
    /// When the last leaf under it expires that was signed before this run; that may have been under another policy.
    pub(super) last_before: Option<OffsetDateTime>,
}

impl Authority {
    /// Which one.
    #[must_use]
    pub fn name(&self) -> Name {
        self.name
    }

    /// Its state.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Since when it is in this state.
    #[must_use]
    pub fn since(&self) -> OffsetDateTime {
        self.since
    }

    /// For a root: since when it is in every bundle; nothing before that is on record.
    #[must_use]
    pub fn published(&self) -> Option<OffsetDateTime> {
        self.published
    }

    /// Whether leaves are signed by it now.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.state == State::Active
    }

    /// As its schedule sees it, where leaves of this run live for at most `longest_leaf`: it signed its last one before it
    /// retired.
    #[must_use]
    pub fn slot(&self, longest_leaf: Duration) -> AuthoritySlot<Name> {
        let own = self.since + longest_leaf;
        let last_leaf = self.last_before.map_or(own, |before| before.max(own));
        AuthoritySlot {
            key: self.name,
            state: self.state,
            not_before: self.issuer.not_before(),
            not_after: self.issuer.not_after(),
            last_leaf: (self.state == State::Retiring).then_some(last_leaf),
        }
    }

    /// What a record says of it when it is in `state`.
    #[must_use]
    pub fn facts(&self, state: State) -> AuthorityFacts {
        AuthorityFacts {
            certificate: Some(STANDARD.encode(self.issuer.der())),
            key_id: hex::encode(self.issuer.key_id()),
            level: word(self.name.level).to_owned(),
            name: self.name.to_string(),
            state: state.as_str().to_owned(),
            upstream: self.upstream.clone(),
        }
    }

    /// Its certificate.
    #[must_use]
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// Its key, which signs only what is recorded; nothing where an upstream has it.
    #[must_use]
    pub fn key(&self) -> Option<&SigningKey> {
        self.key.as_ref()
    }

    /// Who signed it, where that was not an authority of this server.
    #[must_use]
    pub fn upstream(&self) -> Option<&str> {
        self.upstream.as_deref()
    }
}

/// All authorities that are not gone, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Authorities {
    pub(super) all: Vec<Arc<Authority>>,
    /// When a root last changed its state, those that are gone among them.
    pub(super) roots_changed: Option<OffsetDateTime>,
}

impl Authorities {
    /// Those of one level, oldest first.
    pub fn at(&self, level: Level) -> impl Iterator<Item = &Arc<Authority>> {
        self.all.iter().filter(move |authority| authority.name.level == level)
    }

    /// The one that signs leaves now: of two active ones (between an activation and the retirement that follows it) the
    /// newer.
    #[must_use]
    pub fn active(&self) -> Option<Arc<Authority>> {
        self.at(Level::Issuing).filter(|a| a.is_active()).max_by_key(|a| a.name.number).cloned()
    }

    /// The root under which new issuing CAs are made: of two active ones (between an activation and the retirement that
    /// follows it) the newer.
    #[must_use]
    pub fn active_root(&self) -> Option<Arc<Authority>> {
        self.at(Level::Root).filter(|a| a.is_active()).max_by_key(|a| a.name.number).cloned()
    }

    /// The root above `authority`; itself for a root, nothing where it is gone.
    #[must_use]
    pub fn root_of(&self, authority: &Authority) -> Option<Arc<Authority>> {
        self.chain_of(authority).pop().filter(|top| top.name.level == Level::Root)
    }

    /// `authority` and those above it, nearest first.
    #[must_use]
    pub fn chain_of(&self, authority: &Authority) -> Vec<Arc<Authority>> {
        let named = |name: Name| self.all.iter().find(|one| one.name == name).cloned();
        let mut chain: Vec<Arc<Authority>> = named(authority.name).into_iter().collect();
        while let Some(last) = chain.last().filter(|last| last.name.level != Level::Root && chain.len() < LONGEST_CHAIN)
        {
            let above = last.issuer.issuer_key_id();
            let Some(next) = self.all.iter().find(|one| Some(one.issuer.key_id()) == above).cloned() else { break };
            chain.push(next);
        }
        chain
    }

    /// Those below a root, oldest first.
    #[must_use]
    pub fn below(&self, root: Name) -> Vec<Arc<Authority>> {
        let under = |one: &&Arc<Authority>| self.root_of(one).is_some_and(|top| top.name == root);
        self.below_roots().filter(under).cloned().collect()
    }

    /// When what is trusted last changed: a number from it grows with every change of the bundle.
    #[must_use]
    pub fn roots_changed(&self) -> Option<OffsetDateTime> {
        let of = |root: &Arc<Authority>| root.published.max(Some(root.since));
        self.at(Level::Root).filter_map(of).max().max(self.roots_changed)
    }

    /// Whether a certificate by the authority `key_id` may still leave this program.
    #[must_use]
    pub fn may_publish(&self, key_id: &[u8]) -> bool {
        self.at(Level::Issuing)
            .any(|a| a.issuer.key_id() == key_id && matches!(a.state, State::Active | State::Retiring))
    }

    /// The roots that everyone should trust now, DER, in the order of their numbers.
    #[must_use]
    pub fn trusted_roots(&self) -> Vec<Vec<u8>> {
        self.trusted_roots_if(|_| true)
    }

    /// Those of [`Self::trusted_roots`] whose key identifier `choose` says yes to.
    #[must_use]
    pub fn trusted_roots_if(&self, choose: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let trusted = |a: &&Arc<Authority>| matches!(a.state, State::Prepared | State::Active | State::Retiring);
        let roots = self.at(Level::Root).filter(trusted).filter(|a| choose(a.issuer.key_id()));
        roots.map(|a| a.issuer.der().to_vec()).collect()
    }

    /// Every one that is no root.
    pub fn below_roots(&self) -> impl Iterator<Item = &Arc<Authority>> {
        self.all.iter().filter(|authority| authority.name.level != Level::Root)
    }

    /// Every one, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Authority>> {
        self.all.iter()
    }

    /// What a record says of each.
    pub fn facts(&self) -> impl Iterator<Item = AuthorityFacts> {
        self.all.iter().map(|authority| authority.facts(authority.state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        let name = Name { level: Level::Issuing, number: 3 };
        assert_eq!(name.to_string(), "issuing 3");
        assert_eq!(name.to_string().parse(), Ok(name));
        assert_eq!(name.next().key_file(), "issuing-4");
        for wrong in ["", "issuing", "issuing 0", "issuing x", "leaf 1", "issuing  1"] {
            assert!(wrong.parse::<Name>().is_err(), "{wrong}");
        }
    }
}
