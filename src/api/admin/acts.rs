//! Who may, and what is written down about it.
//!
//! An [`Operator`] exists only for a peer that may use the admin API. Its acts and its looks at entries are durable
//! records before anything is answered: when the ledger takes no record, the answer is an error. A refused peer is a
//! record too, and one that keeps trying becomes a count.

use nix::unistd::{Uid, User};
use tonic::{Request, Status};

use super::Sources;
use super::server::PeerInfo;
use crate::audit::event::{Action, Change, Event, Outcome};
use crate::ca::issue::{actor, source};
use crate::caller::{Caller, Evidence};

/// A peer that may use the admin API.
#[derive(Debug, Clone)]
pub(super) struct Operator {
    /// Attested on the socket `admin`.
    pub(super) caller: Caller,
    /// The user's name on this machine, or its number.
    pub(super) name: String,
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
        let Evidence::UnixPeer(facts) = caller.evidence() else {
            return Err(Status::permission_denied("the admin API answers on its Unix socket only"));
        };
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
        let mut event = self.recorder.event(Action::OperatorAct, Outcome::Denied, self.clock.now());
        event.actor = Some(actor(caller));
        event.source = Some(source(caller));
        event.reason = Some("not_an_administrator".to_owned());
        event.change = Some(Change { what: "admin".to_owned(), ..Change::default() });
        // The answer is no whether or not it can be recorded.
        if let Err(error) = self.ledger.refused(caller, event).await {
            tracing::error!(uid, error = error.message(), "a refusal on the admin socket could not be recorded");
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

/// The name that people know this user by; looked up locally, and its number where there is none.
fn user_name(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        Ok(None) | Err(_) => uid.to_string(),
    }
}
