//! Who asks: attested facts as a value.
//!
//! A [`Caller`] is made by `attest` alone, from evidence on a connection, and consumed by policy. What a caller says of
//! itself (its node id, the subject of its CSR) is never part of it.

use std::net::SocketAddr;

use aws_lc_rs::digest;
use time::OffsetDateTime;

use crate::identity::SpiffeId;

/// Someone at the other end of a connection, as attested.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Caller {
    evidence: Evidence,
}

/// What a caller was attested by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Evidence {
    /// The process at the other end of a Unix socket, as the kernel names it.
    UnixPeer(UnixPeer),
    /// A client certificate of ours, verified at a TLS handshake.
    Client(ClientCertificate),
    /// This server itself, which needs a certificate to listen with.
    Own,
}

/// A process at the other end of a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnixPeer {
    /// The name of the listening socket (`[[sds.listen]] name`), a fact that rules can match.
    pub socket: String,
    /// Effective user id when it connected.
    pub uid: u32,
    /// Effective group id when it connected.
    pub gid: u32,
    /// Supplementary groups, sorted; empty when they could not be read without doubt.
    pub groups: Vec<u32>,
    /// Process id in our pid namespace; never 0.
    pub pid: u32,
    /// When the process began, in clock ticks since the machine's start (proc(5), field 22): tells it from a later one
    /// with the same id. `None` when it could not be read without doubt.
    pub started: Option<u64>,
}

/// A certificate of ours that a client proved to hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientCertificate {
    /// The name of the listener (`[[sds.listen]] name`), a fact that rules can match.
    pub socket: String,
    /// Its URI SAN.
    pub identity: SpiffeId,
    /// Its serial, as records spell it.
    pub serial: String,
    /// Its issuer's subject key identifier, hex.
    pub issuer_key_id: String,
    /// Until when it is valid: the connection ends then.
    pub not_after: OffsetDateTime,
    /// When the first certificate of its line was issued by fresh attestation, not by another client certificate.
    pub attested_at: OffsetDateTime,
    /// Where it connects from.
    pub address: SocketAddr,
}

impl Caller {
    /// For `attest` only: states that `evidence` was verified.
    pub(crate) fn attested(evidence: Evidence) -> Self {
        Self { evidence }
    }

    /// The facts.
    #[must_use]
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// How it was attested, as records name it.
    #[must_use]
    pub fn method(&self) -> &'static str {
        match self.evidence {
            Evidence::UnixPeer(_) => "unix_peer",
            Evidence::Client(_) => "client_certificate",
            Evidence::Own => "self",
        }
    }

    /// A short name for logs and tables: `unix:sds:uid=1000,pid=4711`.
    #[must_use]
    pub fn label(&self) -> String {
        match &self.evidence {
            Evidence::UnixPeer(peer) => format!("unix:{}:uid={},pid={}", peer.socket, peer.uid, peer.pid),
            Evidence::Client(client) => format!("tls:{}:{},serial={}", client.socket, client.identity, client.serial),
            Evidence::Own => "self".to_owned(),
        }
    }

    /// The part of the facts that stays the same when the process restarts: what limits and coalescing count by.
    #[must_use]
    pub fn account(&self) -> String {
        match &self.evidence {
            Evidence::UnixPeer(peer) => format!("unix:{}:uid={}", peer.socket, peer.uid),
            Evidence::Client(client) => format!("tls:{}:{}", client.socket, client.identity),
            Evidence::Own => "self".to_owned(),
        }
    }

    /// The one process or client certificate that it is, as far as can be told: what a revoked serial cuts off.
    #[must_use]
    pub fn holder(&self) -> String {
        match &self.evidence {
            Evidence::UnixPeer(peer) => format!("{},started={:?}", self.label(), peer.started),
            Evidence::Client(_) | Evidence::Own => self.label(),
        }
    }

    /// SHA-256 over the facts, so that a record can be compared with evidence kept elsewhere.
    #[must_use]
    pub fn evidence_digest(&self) -> [u8; 32] {
        let facts = match &self.evidence {
            Evidence::UnixPeer(p) => {
                format!("unix_peer\n{}\n{}\n{}\n{:?}\n{}", p.socket, p.uid, p.gid, p.groups, p.pid)
            }
            Evidence::Client(c) => {
                format!("client_certificate\n{}\n{}\n{}\n{}", c.socket, c.identity, c.serial, c.issuer_key_id)
            }
            Evidence::Own => "self".to_owned(),
        };
        let mut out = [0; 32];
        out.copy_from_slice(digest::digest(&digest::SHA256, facts.as_bytes()).as_ref());
        out
    }
}

/// The lasting part of a caller, read back from what records and the index keep of it: see [`Caller::account`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    /// A user on a Unix socket; its groups are not known.
    Process {
        /// The socket's name.
        socket: String,
        /// The user.
        uid: u32,
    },
    /// The holder of a client certificate.
    Client {
        /// The listener's name.
        socket: String,
        /// The identity in it.
        identity: SpiffeId,
    },
    /// This server itself.
    Own,
}

impl Account {
    /// Reads what [`Caller::account`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "self" {
            return Some(Self::Own);
        }
        let (kind, rest) = text.split_once(':')?;
        let (socket, who) = rest.split_once(':')?;
        let socket = socket.to_owned();
        match kind {
            "unix" => Some(Self::Process { socket, uid: who.strip_prefix("uid=")?.parse().ok()? }),
            "tls" => Some(Self::Client { socket, identity: SpiffeId::parse(who).ok()? }),
            _ => None,
        }
    }
}

impl ClientCertificate {
    /// A certificate of `identity` that nobody showed: for questions of "what if", never for a [`Caller`].
    #[must_use]
    pub fn supposed(identity: SpiffeId, socket: &str) -> Self {
        let (nobody, epoch) = (SocketAddr::from(([0, 0, 0, 0], 0)), OffsetDateTime::UNIX_EPOCH);
        Self {
            socket: socket.to_owned(),
            identity,
            serial: String::new(),
            issuer_key_id: String::new(),
            not_after: epoch,
            attested_at: epoch,
            address: nobody,
        }
    }
}

/// Callers for unit tests of the layers above.
#[cfg(test)]
pub(crate) mod testing {
    use super::{Caller, ClientCertificate, Evidence, SpiffeId, UnixPeer};

    /// A Unix peer on socket `sds` with pid 4242.
    pub(crate) fn unix(uid: u32, gid: u32, groups: &[u32]) -> Caller {
        unix_on("sds", uid, gid, groups)
    }

    /// A Unix peer on a named socket with pid 4242.
    pub(crate) fn unix_on(socket: &str, uid: u32, gid: u32, groups: &[u32]) -> Caller {
        let peer = UnixPeer { socket: socket.to_owned(), uid, gid, groups: groups.to_vec(), pid: 4242, started: None };
        Caller::attested(Evidence::UnixPeer(peer))
    }

    /// The holder of a client certificate of `identity` on a named listener, attested at the epoch.
    pub(crate) fn client(identity: &str, socket: &str) -> Caller {
        let identity = SpiffeId::parse(identity).unwrap();
        Caller::attested(Evidence::Client(ClientCertificate::supposed(identity, socket)))
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{client, unix};
    use super::*;

    #[test]
    fn an_account_is_read_back() {
        let process = Account::Process { socket: "sds".into(), uid: 7 };
        assert_eq!(Account::parse(&unix(7, 8, &[9]).account()), Some(process));
        let far = client("spiffe://example.org/w/far", "edge");
        let identity = SpiffeId::parse("spiffe://example.org/w/far").unwrap();
        assert_eq!(Account::parse(&far.account()), Some(Account::Client { socket: "edge".into(), identity }));
        assert_eq!(Account::parse(&Caller::attested(Evidence::Own).account()), Some(Account::Own));
        assert_eq!(Account::parse("unix:sds:uid=x"), None);
    }
}
