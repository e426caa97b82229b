//! Who may use the admin API, and as what.
//!
//! Three roles, each may do all that the one before it may. Root and the server's own user are admins always: they could
//! read the keys anyway, so that a configuration can't lock them out. Everybody else needs a grant by uid, by group or by
//! the identity of a client certificate; of several the highest counts. Pure: `acts` asks, the configuration is read into
//! it, a reload puts another in its place.

use std::fmt;

use crate::caller::Evidence;
use crate::policy::ClientPattern;

/// What an operator may do, from the least to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// May look: lists, states, explanations, records without the names of operators.
    Reader,
    /// May do the daily work: issue, rotate, revoke one certificate or identity, release it, read who did what.
    Operator,
    /// May do what reaches everybody: revoke many, change the policy, reload.
    Admin,
}

impl Role {
    /// All of them, from the least to the most.
    pub const ALL: [Self; 3] = [Self::Reader, Self::Operator, Self::Admin];

    /// Its word in configuration, records and messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whom a grant is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// A user of this machine.
    Uid(u32),
    /// Members of a group of this machine, as their own or as a supplementary one.
    Gid(u32),
    /// Holders of a client certificate, on TCP.
    Client(ClientPattern),
}

/// One line of `[[admin.operator]]`, for one of those that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// As what.
    pub role: Role,
    /// Who.
    pub who: Who,
}

/// Everybody who has a role.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Operators(Vec<Grant>);

impl Operators {
    /// Those of `grants`, beside root and the server's own user.
    #[must_use]
    pub fn new(grants: Vec<Grant>) -> Self {
        Self(grants)
    }

    /// The grants, in the order of the configuration.
    #[must_use]
    pub fn grants(&self) -> &[Grant] {
        &self.0
    }

    /// The highest role of whoever has shown `evidence` to a server that runs as `own_uid`; `None` for a stranger.
    #[must_use]
    pub fn role_of(&self, evidence: &Evidence, own_uid: u32) -> Option<Role> {
        let granted =
            |who: &dyn Fn(&Who) -> bool| self.0.iter().filter(|grant| who(&grant.who)).map(|grant| grant.role).max();
        match evidence {
            Evidence::UnixPeer(peer) if peer.uid == 0 || peer.uid == own_uid => Some(Role::Admin),
            Evidence::UnixPeer(peer) => granted(&|who| match who {
                Who::Uid(uid) => *uid == peer.uid,
                Who::Gid(gid) => *gid == peer.gid || peer.groups.binary_search(gid).is_ok(),
                Who::Client(_) => false,
            }),
            Evidence::Client(client) => granted(&|who| match who {
                Who::Uid(_) | Who::Gid(_) => false,
                Who::Client(pattern) => pattern.contains(&client.identity),
            }),
            Evidence::Own => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::ClientCertificate;
    use crate::caller::testing::unix;
    use crate::identity::{SpiffeId, TrustDomain};

    const OWN: u32 = 500;

    fn operators() -> Operators {
        let pattern = |text: &str| ClientPattern::parse(text, &TrustDomain::parse("example.org").unwrap()).unwrap();
        let grant = |role, who| Grant { role, who };
        Operators::new(vec![
            grant(Role::Reader, Who::Uid(1001)),
            grant(Role::Operator, Who::Gid(2000)),
            grant(Role::Reader, Who::Client(pattern("spiffe://{trust_domain}/people/*"))),
            grant(Role::Admin, Who::Client(pattern("spiffe://example.org/people/kim"))),
        ])
    }

    fn client(identity: &str) -> Evidence {
        Evidence::Client(ClientCertificate::supposed(SpiffeId::parse(identity).unwrap(), "admin"))
    }

    #[test]
    fn the_highest_grant_counts_and_strangers_have_none() {
        let check = |evidence: &Evidence, expected: Option<Role>| {
            assert_eq!(operators().role_of(evidence, OWN), expected, "{evidence:?}");
        };
        check(unix(0, 0, &[]).evidence(), Some(Role::Admin));
        check(unix(OWN, 7, &[]).evidence(), Some(Role::Admin));
        check(unix(1001, 7, &[]).evidence(), Some(Role::Reader));
        check(unix(1001, 7, &[1, 2000]).evidence(), Some(Role::Operator));
        check(unix(1002, 2000, &[]).evidence(), Some(Role::Operator));
        check(unix(1002, 7, &[2001]).evidence(), None);
        check(&client("spiffe://example.org/people/lou"), Some(Role::Reader));
        check(&client("spiffe://example.org/people/kim"), Some(Role::Admin));
        check(&client("spiffe://example.org/people"), None);
        check(&client("spiffe://example.org/peoples/x"), None);
        check(&Evidence::Own, None);
    }
}
