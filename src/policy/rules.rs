//! What a rule is: whom it matches and what it grants.
//!
//! A [`Rule`] in a [`super::Policy`] was checked whole when it was read: it can match somebody, its template gives valid
//! names for every caller it matches, and what it grants fits its certificate profile. Decisions are in `authorise`.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::facts::{ClientPattern, Facts, join};
use super::grant::Renewal;
use super::template::Template;
use crate::caller::UnixPeer;
use crate::identity::Mesh;
use crate::x509::KeyAlgorithm;
use crate::x509::profile::LeafProfile;

/// The id that Linux shows for users and groups that a namespace does not map. It stands for nobody in particular, so no
/// rule ever matches it (user_namespaces(7), "Unmapped user and group IDs").
pub const OVERFLOW_ID: u32 = 65_534;

/// `(uid_t)-1`, which means "no change" to the kernel and is nobody's id.
pub const NO_ID: u32 = u32::MAX;

/// One rule, in the order of the file.
#[derive(Debug)]
pub struct Rule {
    pub(super) number: usize,
    pub(super) name: Arc<str>,
    pub(super) matches: Match,
    pub(super) mesh: Mesh,
    pub(super) identity: Template,
    pub(super) dns: Vec<Template>,
    pub(super) profile: Arc<LeafProfile>,
    pub(super) lifetime: Duration,
    pub(super) keys: Arc<[KeyAlgorithm]>,
    pub(super) key: KeyAlgorithm,
    pub(super) renewal: Renewal,
    pub(super) reattest_after: Option<Duration>,
}

impl Rule {
    /// Its place in the file, from 1.
    #[must_use]
    pub fn number(&self) -> usize {
        self.number
    }

    /// Its name, unique in the policy.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whom it matches.
    #[must_use]
    pub fn matches(&self) -> &Match {
        &self.matches
    }

    /// Whose name shape it follows.
    #[must_use]
    pub fn mesh(&self) -> Mesh {
        self.mesh
    }

    /// The identity template as written.
    #[must_use]
    pub fn identity(&self) -> &str {
        self.identity.as_str()
    }

    /// The DNS name templates as written or as the mesh has them.
    #[must_use]
    pub fn dns(&self) -> Vec<&str> {
        self.dns.iter().map(Template::as_str).collect()
    }

    /// How long a certificate lives.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// Accepted key algorithms; the first is that of keys which the server makes.
    #[must_use]
    pub fn keys(&self) -> &[KeyAlgorithm] {
        &self.keys
    }

    /// When a certificate is renewed.
    #[must_use]
    pub fn renewal(&self) -> Renewal {
        self.renewal
    }

    /// For a rule for client certificates: how long after its attestation a line of certificates may renew itself.
    #[must_use]
    pub fn reattest_after(&self) -> Option<Duration> {
        self.reattest_after
    }
}

/// A set of user or group ids: ranges, sorted, apart from each other, without the ids of nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdSet(Vec<(u32, u32)>);

impl IdSet {
    /// The set of these ranges (first and last id), less [`OVERFLOW_ID`] and [`NO_ID`].
    #[must_use]
    pub fn new(ranges: &[(u32, u32)]) -> Self {
        let mut parts: Vec<(u32, u32)> = Vec::new();
        for &(first, last) in ranges {
            parts.push((first, last.min(OVERFLOW_ID - 1)));
            parts.push((first.max(OVERFLOW_ID + 1), last.min(NO_ID - 1)));
        }
        parts.retain(|(first, last)| first <= last);
        parts.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::new();
        for (first, last) in parts {
            match merged.last_mut() {
                // 65533 and 65535 stay apart: the next id after a range's end is what joins.
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                Some(_) | None => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    /// Whether nobody is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `id` is in it.
    #[must_use]
    pub fn contains(&self, id: u32) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&id))
    }

    /// Whether everyone in `other` is in it too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|(low, high)| self.0.iter().any(|(first, last)| first <= low && high <= last))
    }

    /// The largest id: the one with the longest text.
    #[must_use]
    pub(super) fn largest(&self) -> Option<u32> {
        self.0.last().map(|(_, last)| *last)
    }
}

impl fmt::Display for IdSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
        }
        Ok(())
    }
}

/// Whom a rule matches: every condition that is there must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// The effective user id is one of these.
    pub(super) uid: Option<IdSet>,
    /// The effective group id is one of these.
    pub(super) gid: Option<IdSet>,
    /// The effective group or a supplementary one is one of these.
    pub(super) group: Option<IdSet>,
    /// It connected to one of these sockets.
    pub(super) sockets: Option<BTreeSet<String>>,
    /// It holds a certificate of ours for one of these; a rule without this is for processes.
    pub(super) clients: Option<Vec<ClientPattern>>,
}

/// What a condition is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fact {
    /// Whether it is anybody at all.
    Caller,
    /// The effective user.
    Uid,
    /// The effective group.
    Gid,
    /// Any of its groups.
    Group,
    /// The socket it connected to.
    Socket,
    /// The identity in its client certificate.
    Client,
    /// The identity it asked for.
    Identity,
}

/// One condition that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Unmet {
    /// What it is about.
    pub fact: Fact,
    /// What the rule wants.
    pub needs: String,
    /// What the caller has, or asked for.
    pub has: String,
}

impl Unmet {
    /// What would make it hold, as the end of "To allow: …"; `None` where only another rule helps.
    #[must_use]
    pub fn cure(&self) -> Option<String> {
        match self.fact {
            Fact::Caller | Fact::Identity => None,
            Fact::Uid => Some(format!("run the caller as uid {}", self.needs)),
            Fact::Gid => Some(format!("run the caller with gid {}", self.needs)),
            Fact::Group => Some(format!("add the caller to group {}", self.needs)),
            Fact::Socket => Some(format!("connect to socket {}", self.needs)),
            Fact::Client => Some(format!("connect with a certificate of {}", self.needs)),
        }
    }
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fact = match self.fact {
            Fact::Caller => return write!(f, "needs {}; caller is {}", self.needs, self.has),
            Fact::Identity => return write!(f, "grants {}, not {}", self.needs, self.has),
            Fact::Uid => "uid",
            Fact::Gid => "gid",
            Fact::Group => "group",
            Fact::Socket => "socket",
            Fact::Client => "client",
        };
        write!(f, "needs {fact} {}; caller has {}", self.needs, self.has)
    }
}

impl Match {
    /// The conditions that a caller does not meet; none when the rule matches.
    #[must_use]
    pub(super) fn unmet(&self, facts: Facts<'_>) -> Vec<Unmet> {
        let other_kind =
            |needs: &str| Unmet { fact: Fact::Caller, needs: needs.to_owned(), has: facts.kind().to_owned() };
        let mut unmet = match (facts, &self.clients) {
            (Facts::Process(peer), None) => self.unmet_by(peer),
            (Facts::Process(_), Some(clients)) => {
                vec![other_kind(&format!("a client certificate of {}", join(clients)))]
            }
            (Facts::Client(_), None) => vec![other_kind("a process on a Unix socket")],
            (Facts::Client(client), Some(clients)) if clients.iter().any(|it| it.contains(&client.identity)) => {
                Vec::new()
            }
            (Facts::Client(client), Some(clients)) => {
                vec![Unmet { fact: Fact::Client, needs: join(clients), has: client.identity.to_string() }]
            }
        };
        if let Some(wanted) = self.sockets.as_ref().filter(|names| !names.contains(facts.socket())) {
            let needs = wanted.iter().map(String::as_str).collect::<Vec<_>>().join(" or ");
            unmet.push(Unmet { fact: Fact::Socket, needs, has: facts.socket().to_owned() });
        }
        unmet
    }

    fn unmet_by(&self, peer: &UnixPeer) -> Vec<Unmet> {
        let mut unmet = Vec::new();
        if let Some(wanted) = self.uid.as_ref().filter(|ids| !ids.contains(peer.uid)) {
            unmet.push(Unmet { fact: Fact::Uid, needs: wanted.to_string(), has: peer.uid.to_string() });
        }
        if let Some(wanted) = self.gid.as_ref().filter(|ids| !ids.contains(peer.gid)) {
            unmet.push(Unmet { fact: Fact::Gid, needs: wanted.to_string(), has: peer.gid.to_string() });
        }
        let groups = groups_of(peer);
        if let Some(wanted) = self.group.as_ref().filter(|ids| !groups.iter().any(|id| ids.contains(*id))) {
            let has = groups.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
            unmet.push(Unmet { fact: Fact::Group, needs: wanted.to_string(), has });
        }
        unmet
    }

    /// Whether everyone whom `other` matches is matched by this one too.
    #[must_use]
    pub(super) fn covers(&self, other: &Self) -> bool {
        let ids = |own: &Option<IdSet>, theirs: &Option<IdSet>| match (own, theirs) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(theirs)) => own.covers(theirs),
        };
        let sockets = match (&self.sockets, &other.sockets) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(theirs)) => own.is_superset(theirs),
        };
        let clients = match (&self.clients, &other.clients) {
            (None, None) => true,
            // One is for processes and the other for certificates: they have no caller in common.
            (None, Some(_)) | (Some(_), None) => false,
            (Some(own), Some(theirs)) => theirs.iter().all(|other| own.iter().any(|it| it.covers(other))),
        };
        let ids = ids(&self.uid, &other.uid) && ids(&self.gid, &other.gid) && ids(&self.group, &other.group);
        ids && sockets && clients
    }

    /// Whether it has no condition at all.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        let ids = self.uid.is_some() || self.gid.is_some() || self.group.is_some();
        !ids && self.sockets.is_none() && self.clients.is_none()
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = |name: &str, set: &Option<IdSet>| set.as_ref().map(|set| format!("{name} {set}"));
        let sockets = self.sockets.as_ref().map(|names| {
            let names = names.iter().map(String::as_str).collect::<Vec<_>>().join(" or ");
            format!("socket {names}")
        });
        let clients = self.clients.as_ref().map(|clients| format!("client {}", join(clients)));
        let parts = [clients, ids("uid", &self.uid), ids("gid", &self.gid), ids("group", &self.group), sockets];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// The effective group first, then the supplementary ones, each once.
fn groups_of(peer: &UnixPeer) -> Vec<u32> {
    let mut groups = vec![peer.gid];
    groups.extend(peer.groups.iter().copied().filter(|id| *id != peer.gid));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nobodys_ids_are_in_no_set() {
        let all = IdSet::new(&[(0, u32::MAX)]);
        assert!(all.contains(0) && all.contains(65_533) && all.contains(65_535) && all.contains(NO_ID - 1));
        assert!(!all.contains(OVERFLOW_ID) && !all.contains(NO_ID));
        assert_eq!(all.to_string(), "0-65533, 65535-4294967294");
        assert!(IdSet::new(&[(OVERFLOW_ID, OVERFLOW_ID)]).is_empty());
        assert!(IdSet::new(&[(9, 3)]).is_empty());
        assert_eq!(IdSet::new(&[(5, 7), (1, 4), (9, 9)]).to_string(), "1-7, 9");
    }

    proptest! {
        #[test]
        fn a_set_holds_what_its_ranges_hold(ranges in prop::collection::vec((0_u32..40, 0_u32..40), 0..5), id in 0_u32..40) {
            let set = IdSet::new(&ranges);
            prop_assert_eq!(set.contains(id), ranges.iter().any(|(a, b)| (*a..=*b).contains(&id)));
        }

        #[test]
        fn covering_is_having_every_member(
            a in prop::collection::vec((0_u32..20, 0_u32..20), 0..4),
            b in prop::collection::vec((0_u32..20, 0_u32..20), 0..4),
        ) {
            let (a, b) = (IdSet::new(&a), IdSet::new(&b));
            prop_assert_eq!(a.covers(&b), (0..20).all(|id| !b.contains(id) || a.contains(id)));
        }
    }
}
