//! Who may, and what is written down about it.
//!
//! An [`Operator`] exists only for a peer whose role may do what it asks. Its acts and its looks at entries are durable
//! records before anything is answered: when the ledger takes no record, the answer is an error. A refused peer is a
//! record too, and one that keeps trying becomes a count.
//!
//! The operator that records name is a person: the account that logged in (`loginuid`), not the one that `sudo` made of
//! it; on TCP the identity of the client certificate. Root without a login is nobody in particular: its records say so.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::unistd::{Uid, User};
use tonic::{Request, Status};

use super::Sources;
use super::rights::Ask;
use super::roles::Role;
use super::server::PeerInfo;
use crate::approval::Person;
use crate::audit::event::{Action, Actor, BreakglassFacts, Change, Event, Outcome, Source};
use crate::ca::issue::{actor, source};
use crate::caller::{Caller, Evidence};

/// The warning that root without a login meets.
const UNATTRIBUTED: &str = "your acts are on record without a person: you are root without a login. Use sudo from an \
                            account of your own, or --server with a client certificate";

/// A peer that may do what it asks.
#[derive(Debug, Clone)]
pub(super) struct Operator {
    /// Attested on the admin socket or port.
    pub(super) caller: Caller,
    /// The user's name on this machine, or its number; on TCP the identity.
    pub(super) name: String,
    /// The highest role that it has.
    pub(super) role: Role,
    /// Whether no person can be named: root without a login.
    pub(super) unattributed: bool,
    /// The person, where evidence names one: a login or a certificate.
    pub(super) person: Option<Person>,
    /// The break-glass that it acts under.
    pub(super) breakglass: Option<String>,
}

impl Operator {
    fn of(caller: Caller, login: Option<u32>) -> Self {
        let (name, unattributed, person) = match caller.evidence() {
            Evidence::UnixPeer(peer) => {
                let uid = login.unwrap_or(peer.uid);
                let name = user_name(uid);
                let person = login.filter(|uid| *uid != 0).map(|_| Person::Login(name.clone()));
                (name, uid == 0, person)
            }
            Evidence::Client(client) => {
                (client.identity.to_string(), false, Some(Person::Client(client.identity.to_string())))
            }
            Evidence::Own => ("chancery".to_owned(), false, None),
        };
        Self { caller, name, role: Role::Reader, unattributed, person, breakglass: None }
    }

    /// Whether it may read what other operators are called.
    pub(super) fn sees_names(&self) -> bool {
        self.role >= Role::Operator
    }

    /// What this operator should know about itself, in a sentence.
    pub(super) fn warning(&self) -> Option<&'static str> {
        self.unattributed.then_some(UNATTRIBUTED)
    }
}

impl Sources {
    /// Lets those in whose role may ask this.
    pub(super) async fn admit<T: Ask + Sync>(&self, request: &Request<T>) -> Result<Operator, Status> {
        let peer = request.extensions().get::<PeerInfo>().cloned();
        self.admit_peer(peer, request.get_ref().least(), T::RIGHT.what).await
    }

    /// Lets a peer in that has at least the role `least`; `what` is what a refusal says was tried.
    pub(super) async fn admit_peer(
        &self,
        peer: Option<PeerInfo>,
        least: Role,
        what: &'static str,
    ) -> Result<Operator, Status> {
        let mut operator = self.admit_anyone(peer).await?;
        operator.breakglass = self.breakglass_of(&operator);
        let role = self.role_now(&operator);
        operator.role = role.unwrap_or(Role::Reader);
        match role {
            Some(role) if role >= least => Ok(operator),
            Some(role) => {
                self.refuse(&operator, what, "role_too_low").await;
                let who = &operator.name;
                Err(Status::permission_denied(format!(
                    "{what} takes the role {least}, and {who} has the role {role}: ask somebody who has it, or an \
                     admin to give it under [[admin.operator]] in the server's configuration"
                )))
            }
            None => {
                self.refuse(&operator, what, "not_an_administrator").await;
                Err(Status::permission_denied(self.stranger(&operator.caller)))
            }
        }
    }

    /// Lets everybody in whom evidence names, with or without a role: for the one call that takes a credential instead.
    pub(super) async fn admit_anyone(&self, peer: Option<PeerInfo>) -> Result<Operator, Status> {
        match peer {
            Some(PeerInfo { caller: Ok(caller), login }) => Ok(Operator::of(caller, login)),
            Some(PeerInfo { caller: Err(why), .. }) => {
                self.ledger.unattested(&why).await;
                Err(Status::permission_denied(why.to_string()))
            }
            None => Err(Status::permission_denied("the admin API answers on its own listeners only")),
        }
    }

    /// The role that it has by the configuration, or by an open break-glass.
    fn role_now(&self, operator: &Operator) -> Option<Role> {
        match self.breakglass_of(operator) {
            Some(_) => Some(Role::Admin),
            None => self.operators.load().role_of(operator.caller.evidence(), self.own_uid),
        }
    }

    /// The break-glass that is open for `operator`: whoever opened it, by certificate or by the name on this machine.
    fn breakglass_of(&self, operator: &Operator) -> Option<String> {
        let row = self.breakglass_now()?;
        let same = match operator.caller.evidence() {
            Evidence::Client(client) => row.actor.id.as_deref() == Some(client.identity.as_str()),
            Evidence::UnixPeer(peer) => {
                let nobody = row.actor.unattributed == Some(true);
                let named = match self.name_of(&row.actor) {
                    Some(name) => name == operator.name,
                    // A full disk may have kept the name off the record.
                    None => row.source.uid == Some(peer.uid),
                };
                row.actor.id.is_none() && nobody == operator.unattributed && named
            }
            Evidence::Own => false,
        };
        same.then_some(row.id)
    }

    /// Whether `operator` still has the role that it came in with; a reload may have taken it.
    pub(super) fn still(&self, operator: &Operator) -> Result<(), Status> {
        let role = self.role_now(operator);
        if role.is_some_and(|role| role >= operator.role) {
            return Ok(());
        }
        let (who, was) = (&operator.name, operator.role);
        Err(Status::permission_denied(format!(
            "{who} does not have the role {was} any more: ask again with the one it has"
        )))
    }

    /// What somebody without any role is told.
    fn stranger(&self, caller: &Caller) -> String {
        let remedy = "an admin can add it under [[admin.operator]] in the server's configuration";
        match caller.evidence() {
            Evidence::UnixPeer(peer) => format!(
                "uid {} is no operator of this server: run the command as its own user (uid {}) or as root, or {remedy}",
                peer.uid, self.own_uid
            ),
            Evidence::Client(client) => format!("{} is no operator of this server: {remedy}", client.identity),
            Evidence::Own => format!("the server itself is no operator: {remedy}"),
        }
    }

    async fn refuse(&self, operator: &Operator, what: &str, reason: &str) {
        let mut event = self.recorder.event(Action::OperatorAct, Outcome::Denied, self.clock.now());
        event.actor = Some(self.actor(operator));
        event.source = Some(self.source(operator));
        event.reason = Some(reason.to_owned());
        event.change = Some(Change { what: what.to_owned(), ..Change::default() });
        let (caller, name) = (&operator.caller, &operator.name);
        tracing::info!(caller = caller.label(), what, reason, "refused on the admin API");
        // The answer is no whether or not it can be recorded.
        if let Err(error) = self.ledger.refused(caller, event).await {
            tracing::error!(name, error = error.message(), "a refusal on the admin API could not be recorded");
        }
    }

    /// Starts the record of an operator's act.
    pub(super) fn act(&self, action: Action, operator: &Operator, what: &str) -> Event {
        let mut event = self.recorder.event(action, Outcome::Success, self.clock.now());
        event.actor = Some(self.actor(operator));
        event.source = Some(self.source(operator));
        event.change = Some(Change { what: what.to_owned(), ..Change::default() });
        event.request_id = Some(hex::encode(self.entropy.bytes::<16>()));
        if let Some(id) = &operator.breakglass {
            event.breakglass = Some(BreakglassFacts { id: id.clone(), ..BreakglassFacts::default() });
        }
        if operator.unattributed {
            warn_once(what);
        }
        event
    }

    fn actor(&self, operator: &Operator) -> Actor {
        Actor {
            name: self.ledger.seal(&operator.name),
            unattributed: operator.unattributed.then_some(true),
            ..actor(&operator.caller)
        }
    }

    /// Where it is; an address can name a person, so it is sealed like a name.
    fn source(&self, operator: &Operator) -> Source {
        let address = match operator.caller.evidence() {
            Evidence::Client(client) => self.ledger.seal(&client.address.ip().to_string()),
            Evidence::UnixPeer(_) | Evidence::Own => None,
        };
        Source { address, ..source(&operator.caller) }
    }
}

/// Each such act is on record; the log says it once in a run.
fn warn_once(what: &str) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            what,
            "an operator acts as root without a login, so that records name no person; sudo from an account of their own would"
        );
    }
}

/// The name that people know this user by; looked up locally, and its number where there is none.
fn user_name(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        Ok(None) | Err(_) => uid.to_string(),
    }
}
