//! Who stands and who does not: denied identities, revoked serials, and the processes that a revoked serial cut off.
//!
//! One value for the whole server, in memory, so that a decision on the issue path or at a handshake costs a look into a
//! map. What is always true: an entry is here before its record is durable and goes only when its release is (or its
//! record failed), so that doubt refuses. `revocation` alone changes it, from records; the street, the feed and every
//! listener read it. A start fills it from the index before anything is served.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use time::OffsetDateTime;
use tokio::sync::watch;

use crate::caller::{Caller, Evidence};
use crate::identity::SpiffeId;

/// The shared state; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Standing(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: RwLock<State>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// Whole SPIFFE IDs.
    denied: BTreeMap<String, Denied>,
    /// Prefixes of SPIFFE IDs, without the `*` behind them.
    denied_below: BTreeMap<String, Denied>,
    /// Serial to the end of its certificate.
    revoked: HashMap<String, OffsetDateTime>,
    /// [`Caller::holder`] and secret name of those whose certificate was revoked.
    cut_off: HashMap<(String, String), CutOff>,
}

/// A certificate whose holder gets no other while it would have lived.
#[derive(Debug)]
struct CutOff {
    serial: String,
    until: OffsetDateTime,
}

/// Why an identity is denied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Denied {
    /// The record, by id; empty until it is durable.
    pub record: String,
    /// RFC 3339.
    pub since: String,
    /// RFC 5280's name of the reason.
    pub reason: String,
}

/// What keeps a caller out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Barred {
    /// An operator denied the identity.
    #[error("the identity is denied ({pattern})")]
    Denied {
        /// What was denied: a SPIFFE ID, or a prefix with `*`.
        pattern: String,
    },
    /// The client's own certificate is revoked.
    #[error("the client certificate is revoked")]
    Revoked,
}

impl Standing {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.state.write().unwrap_or_else(PoisonError::into_inner));
        self.0.changed.send_modify(|version| *version += 1);
    }

    /// Changes whenever anything here does.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// The deny that covers `identity`: the SPIFFE ID itself, or a prefix with `*`.
    #[must_use]
    pub fn denied(&self, identity: &SpiffeId) -> Option<String> {
        let (state, id) = (self.read(), identity.as_str());
        if state.denied.contains_key(id) {
            return Some(id.to_owned());
        }
        state.denied_below.keys().find(|prefix| id.starts_with(prefix.as_str())).map(|prefix| format!("{prefix}*"))
    }

    /// Every deny with its pattern, sorted.
    #[must_use]
    pub fn denies(&self) -> Vec<(String, Denied)> {
        let state = self.read();
        let whole = state.denied.iter().map(|(id, why)| (id.clone(), why.clone()));
        let below = state.denied_below.iter().map(|(prefix, why)| (format!("{prefix}*"), why.clone()));
        whole.chain(below).collect()
    }

    /// Whether the certificate of that serial (lower-case hex) is revoked.
    #[must_use]
    pub fn is_revoked(&self, serial: &str) -> bool {
        self.read().revoked.contains_key(serial)
    }

    /// What keeps this caller out as it is, whatever it asks for.
    #[must_use]
    pub fn barred(&self, caller: &Caller) -> Option<Barred> {
        match caller.evidence() {
            Evidence::Client(client) if self.is_revoked(&client.serial) => Some(Barred::Revoked),
            Evidence::Client(client) => self.denied(&client.identity).map(|pattern| Barred::Denied { pattern }),
            Evidence::UnixPeer(_) | Evidence::Own => None,
        }
    }

    /// Until when this one holder was cut off from `secret_name`; `None` when it was not.
    #[must_use]
    pub fn cut_off_until(&self, caller: &Caller, secret_name: &str) -> Option<OffsetDateTime> {
        self.read().cut_off.get(&(caller.holder(), secret_name.to_owned())).map(|cut_off| cut_off.until)
    }

    /// Denies `pattern` (a SPIFFE ID, or a prefix with `*`); for `revocation` alone.
    pub fn deny(&self, pattern: &str, why: Denied) {
        self.write(|state| match pattern.strip_suffix('*') {
            Some(prefix) => drop(state.denied_below.insert(prefix.to_owned(), why)),
            None => drop(state.denied.insert(pattern.to_owned(), why)),
        });
    }

    /// Lifts the deny of exactly `pattern`; whether there was one. For `revocation` alone.
    pub fn release(&self, pattern: &str) -> bool {
        let mut was = false;
        self.write(|state| {
            was = match pattern.strip_suffix('*') {
                Some(prefix) => state.denied_below.remove(prefix).is_some(),
                None => state.denied.remove(pattern).is_some(),
            };
        });
        was
    }

    /// Marks certificates as revoked, each serial with the end of its life; for `revocation` alone.
    pub fn revoke(&self, serials: impl IntoIterator<Item = (String, OffsetDateTime)>) {
        self.write(|state| state.revoked.extend(serials));
    }

    /// Takes marks back whose record failed, and with them what they cut off; for `revocation` alone.
    pub fn unrevoke<'a>(&self, serials: impl IntoIterator<Item = &'a str>) {
        let taken: BTreeSet<&str> = serials.into_iter().collect();
        self.write(|state| {
            state.revoked.retain(|serial, _| !taken.contains(serial.as_str()));
            state.cut_off.retain(|_, cut_off| !taken.contains(cut_off.serial.as_str()));
        });
    }

    /// Remembers that this one holder of the certificate `serial` gets no further one under `secret_name` until `until`.
    /// Nobody else needs to hear of it, so it is no change.
    pub fn cut_off(&self, caller: &Caller, secret_name: &str, serial: &str, until: OffsetDateTime) {
        let mut state = self.0.state.write().unwrap_or_else(PoisonError::into_inner);
        let cut_off = CutOff { serial: serial.to_owned(), until };
        state.cut_off.insert((caller.holder(), secret_name.to_owned()), cut_off);
    }

    /// As [`Self::cut_off`] if `serial` is revoked at this moment; whether it was.
    pub fn cut_off_if_revoked(&self, caller: &Caller, secret_name: &str, serial: &str, until: OffsetDateTime) -> bool {
        let mut state = self.0.state.write().unwrap_or_else(PoisonError::into_inner);
        let revoked = state.revoked.contains_key(serial);
        if revoked {
            let cut_off = CutOff { serial: serial.to_owned(), until };
            state.cut_off.insert((caller.holder(), secret_name.to_owned()), cut_off);
        }
        revoked
    }

    /// Forgets serials and holders whose certificates have ended.
    pub fn forget_before(&self, now: OffsetDateTime) {
        let mut state = self.0.state.write().unwrap_or_else(PoisonError::into_inner);
        state.revoked.retain(|_, end| *end > now);
        state.cut_off.retain(|_, cut_off| cut_off.until > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::testing;

    fn id(text: &str) -> SpiffeId {
        SpiffeId::parse(text).unwrap()
    }

    #[test]
    fn a_deny_covers_what_it_says_and_no_more() {
        let standing = Standing::default();
        standing.deny("spiffe://example.org/a", Denied::default());
        standing.deny("spiffe://example.org/ns/pay/*", Denied::default());
        assert_eq!(standing.denied(&id("spiffe://example.org/a")).as_deref(), Some("spiffe://example.org/a"));
        assert_eq!(standing.denied(&id("spiffe://example.org/ab")), None);
        let pattern = standing.denied(&id("spiffe://example.org/ns/pay/sa/api"));
        assert_eq!(pattern.as_deref(), Some("spiffe://example.org/ns/pay/*"));
        assert_eq!(standing.denied(&id("spiffe://example.org/ns/payments/sa/api")), None);
        assert!(!standing.release("spiffe://example.org/ns/pay/"), "another pattern");
        assert!(standing.release("spiffe://example.org/ns/pay/*"));
        assert_eq!(standing.denied(&id("spiffe://example.org/ns/pay/sa/api")), None);
    }

    #[test]
    fn a_mark_that_is_taken_back_cuts_nobody_off() {
        let standing = Standing::default();
        let (caller, end) = (testing::unix(1, 1, &[]), OffsetDateTime::UNIX_EPOCH);
        assert!(!standing.cut_off_if_revoked(&caller, "default", "aa", end));
        standing.revoke([("aa".to_owned(), end)]);
        assert!(standing.cut_off_if_revoked(&caller, "default", "aa", end));
        standing.unrevoke(["aa"]);
        assert_eq!(standing.cut_off_until(&caller, "default"), None);
    }

    #[test]
    fn what_has_ended_is_forgotten() {
        let standing = Standing::default();
        let (caller, end) = (testing::unix(1, 1, &[]), OffsetDateTime::UNIX_EPOCH);
        standing.revoke([("aa".to_owned(), end)]);
        standing.cut_off(&caller, "default", "aa", end);
        assert!(standing.is_revoked("aa") && standing.cut_off_until(&caller, "default") == Some(end));
        assert_eq!(standing.cut_off_until(&caller, "other"), None);
        standing.forget_before(end);
        assert!(!standing.is_revoked("aa") && standing.cut_off_until(&caller, "default").is_none());
    }
}
