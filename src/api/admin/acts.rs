//! Who may, and what is written down about it.
//!
//! An [`Operator`] exists only for a peer that may use the admin API. Its acts and its looks at entries are durable
//! records before anything is answered: when the ledger takes no record, the answer is an error. A refused peer is a
//! record too, and one that keeps trying becomes a count.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use nix::unistd::{Uid, User};
use tonic::{Request, Status};

use super::Sources;
use super::server::PeerInfo;
use crate::audit::event::{Action, Actor, Change, Coalesced, Event, Outcome, Source};
use crate::caller::{Caller, Evidence};
use crate::clock::rfc3339_micros;

/// How many refusals of one user are each a record in one minute; more are counted.
const REFUSALS_RECORDED: u64 = 3;

/// How many users are remembered as refused; beyond it the memory starts anew.
const MOST_REFUSED_USERS: usize = 256;

/// A peer that may use the admin API.
#[derive(Debug, Clone)]
pub(super) struct Operator {
    /// Attested on the socket `admin`.
    pub(super) caller: Caller,
    /// The user's name on this machine, or its number.
    pub(super) name: String,
}

/// Refusals of the running minute, by user.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<HashMap<u32, Window>>);

#[derive(Debug, Clone, Default)]
struct Window {
    minute: i64,
    count: u64,
    last: String,
    first: String,
}

impl Refusals {
    /// Counts one, and says whether to record it and which earlier ones to record as a count.
    fn take(&self, uid: u32, minute: i64, time: &str) -> (bool, Option<Coalesced>) {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if windows.len() >= MOST_REFUSED_USERS && !windows.contains_key(&uid) {
            windows.clear();
        }
        let window = windows.entry(uid).or_default();
        let mut missed = None;
        if window.minute != minute {
            let count = window.count.saturating_sub(REFUSALS_RECORDED);
            if count > 0 {
                missed = Some(Coalesced { count, first: window.first.clone(), last: window.last.clone() });
            }
            *window = Window { minute, ..Window::default() };
        }
        window.count += 1;
        if window.count == REFUSALS_RECORDED + 1 {
            window.first = time.to_owned();
        }
        window.last = time.to_owned();
        (window.count <= REFUSALS_RECORDED, missed)
    }
}

impl Sources {
    /// Lets administrators in: the server's own user and root.
    pub(super) async fn admit<T>(&self, request: &Request<T>) -> Result<Operator, Status> {
        let peer = request.extensions().get::<PeerInfo>();
        let caller = match peer {
            Some(PeerInfo(Ok(caller))) => caller.clone(),
            Some(PeerInfo(Err(why))) => return Err(Status::permission_denied(why.to_string())),
            None => return Err(Status::permission_denied("the admin API answers on its Unix socket only")),
        };
        let Evidence::UnixPeer(facts) = caller.evidence();
        if facts.uid == 0 || facts.uid == self.own_uid {
            let name = user_name(facts.uid);
            return Ok(Operator { caller, name });
        }
        let (uid, own) = (facts.uid, self.own_uid);
        self.refuse(&caller, uid).await;
        Err(Status::permission_denied(format!(
            "uid {uid} is no administrator of this server: run the command as its own user (uid {own}) or as root"
        )))
    }

    async fn refuse(&self, caller: &Caller, uid: u32) {
        let now = self.clock.now();
        let time = rfc3339_micros(now);
        let (record, missed) = self.refusals.take(uid, now.unix_timestamp().div_euclid(60), &time);
        for coalesced in missed.map(Some).into_iter().chain(record.then_some(None)) {
            let mut event = self.recorder.event(Action::OperatorAct, Outcome::Denied, now);
            event.actor = Some(actor(caller));
            event.source = Some(source(caller));
            event.reason = Some("not_an_administrator".to_owned());
            event.change = Some(Change { what: "admin".to_owned(), ..Change::default() });
            event.coalesced = coalesced;
            // The answer is no whether or not it can be recorded.
            if let Err(error) = self.ledger.append(event).await {
                tracing::error!(uid, error = error.message(), "a refusal on the admin socket could not be recorded");
            }
        }
    }

    /// Starts the record of an operator's act.
    pub(super) fn act(&self, action: Action, operator: &Operator, what: &str) -> Event {
        let mut event = self.recorder.event(action, Outcome::Success, self.clock.now());
        let mut actor = actor(&operator.caller);
        actor.name = self.ledger.seal(&operator.name);
        event.actor = Some(actor);
        event.source = Some(source(&operator.caller));
        event.change = Some(Change { what: what.to_owned(), ..Change::default() });
        event.request_id = Some(hex::encode(self.entropy.bytes::<16>()));
        event
    }
}

fn actor(caller: &Caller) -> Actor {
    Actor {
        attested_by: caller.method().to_owned(),
        evidence_sha256: Some(hex::encode(caller.evidence_digest())),
        id: None,
        name: None,
    }
}

fn source(caller: &Caller) -> Source {
    let Evidence::UnixPeer(peer) = caller.evidence();
    Source {
        address: None,
        gid: Some(peer.gid),
        pid: Some(peer.pid),
        socket: Some(peer.socket.clone()),
        uid: Some(peer.uid),
    }
}

/// The name that people know this user by; looked up locally, and its number where there is none.
fn user_name(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        Ok(None) | Err(_) => uid.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_refusals_are_records_and_the_rest_a_count() {
        let refusals = Refusals::default();
        let taken: Vec<bool> = (0..5).map(|n| refusals.take(7, 1, &format!("t{n}")).0).collect();
        assert_eq!(taken, [true, true, true, false, false]);
        assert!(refusals.take(8, 1, "t").0, "each user has its own");
        let (record, missed) = refusals.take(7, 2, "t9");
        assert!(record);
        assert_eq!(missed, Some(Coalesced { count: 2, first: "t3".into(), last: "t4".into() }));
        assert_eq!(refusals.take(7, 3, "t10").1, None);
    }
}
