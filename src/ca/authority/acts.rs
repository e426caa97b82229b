//! What operators have done to authorities: rolled over now, tainted, given up before they were used; roots in [`super::root`].
//!
//! The [`Keeper`] stays the one owner: [`crate::rotation`] hands it one [`Order`] after the other, and each step is told
//! with its record once that is durable. An act that was cut off is ordered again and goes on from what the records say:
//! each step looks at the state first. What is always true: the authority that signs leaves its place only when the next
//! one signs, and a tainted one never signs, never publishes and never comes back.
//!
//! A taint's order: its successor is made, its CRL is out, it is active; then `ca.taint`. A crash before that record leaves
//! both active, the newer one signs, and the next start retires the older: it is not tainted yet, and the operator who was
//! told nothing orders it again. What comes after that record is the operator's other hand (`api::admin`) and
//! `revocation`, which a start makes finish it.

use time::OffsetDateTime;
use tokio::sync::mpsc;
use tracing::warn;

use super::root::Force;
use super::{AuthorityError, Keeper};
use crate::audit::event::{Action, Event};
use crate::audit::ledger::Position;
use crate::ca::slot::{Authority, Level, Name, State};
use crate::clock::rfc3339_seconds;

/// Orders that wait for the keeper; with more, an operator is told to try again.
pub const MOST_ORDERS: usize = 4;

/// Words that wait for whoever gave an order: all that one order has.
pub const MOST_WORDS: usize = 64;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// The next issuing CA signs from now on, and the one before it retires.
    RollOver,
    /// This issuing CA's key is not ours alone.
    Taint(Name),
    /// This prepared issuing CA shall not be used.
    GiveUp(Name),
    /// Another root is to take over as soon as everyone holds it.
    RotateRoot,
    /// This prepared root takes over now.
    ActivateRoot(Name, Force),
    /// This root leaves every bundle now.
    RetireRoot(Name),
}

/// What an operator ordered.
#[derive(Debug)]
pub struct Order {
    /// What is to be done.
    pub act: Act,
    /// Actor, source and request id of every record; its reason is that of a taint.
    pub template: Event,
    /// Where it is told.
    pub told: mpsc::Sender<Told>,
}

/// What the keeper says of an order.
#[derive(Debug)]
pub enum Told {
    /// A step is durable and in force.
    Step(Step),
    /// All of it is done; the last word.
    Done,
    /// It went no further; the last word. What was told before stands.
    Failed(ActError),
}

/// A step of one authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Which authority.
    pub name: Name,
    /// What was recorded: `ca.prepare`, `ca.publish`, `ca.activate`, `ca.retire` or `ca.taint`.
    pub action: Action,
    /// The record.
    pub record: Position,
}

/// Why an order was not, or not wholly, carried out.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// It names nothing that is there.
    #[error("{name} is gone or was never made: chancery ca show --all")]
    NotThere {
        /// What was named.
        name: Name,
    },
    /// It names a root.
    #[error(
        "{name} is a root, whose own CRL nobody would believe: have another take its place (chancery ca rotate root), then take it out of every bundle (chancery ca retire); docs/operations.md"
    )]
    Root {
        /// Which.
        name: Name,
    },
    /// It names an upstream's CA.
    #[error("{name} is an upstream's, whose key is not here: revoke or replace it there (docs/upstream.md)")]
    Above {
        /// Which.
        name: Name,
    },
    /// Only a prepared one can be given up.
    #[error("{name} is {state} and not prepared: {remedy}")]
    NotPrepared {
        /// Which.
        name: Name,
        /// Its state.
        state: &'static str,
        /// What to do instead.
        remedy: &'static str,
    },
    /// The root ends too soon for another issuing CA.
    #[error("{root} ends at {not_after}, too soon for another issuing CA to be of use: nothing was done")]
    NoRoom {
        /// The root.
        root: String,
        /// Its end.
        not_after: String,
    },
    /// A root is in a state, or at a point, that does not allow it.
    #[error("{name} is {state} and not ready for that: chancery ca show says what comes next")]
    NotReady {
        /// Which.
        name: Name,
        /// Its state.
        state: &'static str,
    },
    /// Somebody would refuse what the root signs.
    #[error("{name} would leave holders behind: {who}; chancery ca activate --force takes over all the same")]
    LeftBehind {
        /// Which.
        name: Name,
        /// How many, and until when.
        who: String,
    },
    /// Too many orders wait.
    #[error("other orders for the authorities are being carried out: try again in a moment")]
    Busy,
    /// A step failed.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// The order that is being carried out.
#[derive(Debug)]
pub(super) struct Acting {
    template: Event,
    told: mpsc::Sender<Told>,
}

impl Acting {
    /// Says in a record who ordered it.
    pub(super) fn sign_for(&self, event: &mut Event) {
        event.actor.clone_from(&self.template.actor);
        event.source.clone_from(&self.template.source);
        event.request_id.clone_from(&self.template.request_id);
        if event.action == Action::CaTaint {
            event.reason.clone_from(&self.template.reason);
        }
    }
}

/// What to do with an authority in that state, where somebody wanted to give it up.
#[must_use]
pub fn instead_of_giving_up(state: State) -> &'static str {
    match state {
        State::Prepared => "chancery ca retire takes it",
        State::Active => "chancery ca rotate issuing has the next one take its place",
        State::Retiring => "it goes by itself when the last certificate under it has ended",
        State::Tainted => "it is kept until its certificate ends, so that its revocation stays on the root's CRL",
        State::Gone => "there is nothing left to do",
    }
}

impl Keeper {
    /// Carries an order out and tells each step. Whoever does not listen any more misses it.
    pub async fn carry_out(&mut self, order: Order) {
        let Order { act, template, told } = order;
        self.acting = Some(Acting { template, told: told.clone() });
        let outcome = match act {
            Act::RollOver => self.roll_over().await,
            Act::Taint(name) => self.taint(name).await,
            Act::GiveUp(name) => self.give_up(name).await,
            Act::RotateRoot => self.rotate_root().await,
            Act::ActivateRoot(name, force) => self.activate_by_hand(name, force).await,
            Act::RetireRoot(name) => self.retire_root(name).await,
        };
        self.acting = None;
        if let Err(failure) = &outcome {
            warn!(?act, error = %failure, "an order for the authorities was not carried out");
        }
        tell(&told, outcome.map_or_else(Told::Failed, |()| Told::Done));
    }

    /// A step is durable.
    pub(super) fn tell(&self, name: Name, action: Action, record: &Position) {
        if let Some(acting) = &self.acting {
            tell(&acting.told, Told::Step(Step { name, action, record: record.clone() }));
        }
    }

    async fn roll_over(&mut self) -> Result<(), ActError> {
        let now = self.parts.clock.now();
        let name = match self.successor(now) {
            Some(name) => name,
            None => {
                self.require_room(now)?;
                self.prepare(Level::Issuing).await?
            }
        };
        Ok(self.activate(name).await?)
    }

    async fn taint(&mut self, name: Name) -> Result<(), ActError> {
        let state = self.state_of(name)?;
        match (name.level, state) {
            (Level::Root, _) => return Err(ActError::Root { name }),
            (Level::Intermediate, _) => return Err(ActError::Above { name }),
            // Its record is there; what comes after it is not the keeper's.
            (Level::Issuing, State::Tainted) => return Ok(()),
            (Level::Issuing, State::Gone) => return Err(ActError::NotThere { name }),
            (Level::Issuing, State::Prepared | State::Active | State::Retiring) => {}
        }
        let signs = self.authorities().active().map(|active| active.name);
        if signs != Some(name) {
            self.transition(name, Action::CaTaint, State::Tainted).await?;
            return Ok(());
        }
        // Never one that was prepared or asked for before: its key lay where the stolen one lay.
        self.abandon_requests().await?;
        let successor = self.prepare(Level::Issuing).await?;
        self.publish_lists().await?;
        self.activate_above(successor).await?;
        self.transition(successor, Action::CaActivate, State::Active).await?;
        self.transition(name, Action::CaTaint, State::Tainted).await?;
        Ok(self.retire_all_but(successor).await?)
    }

    async fn give_up(&mut self, name: Name) -> Result<(), ActError> {
        match (name.level, self.state_of(name)?) {
            (Level::Root, _) => Err(ActError::Root { name }),
            (Level::Intermediate, _) => Err(ActError::Above { name }),
            (Level::Issuing, State::Prepared) => Ok(self.transition(name, Action::CaRetire, State::Gone).await?),
            (Level::Issuing, state @ (State::Active | State::Retiring | State::Tainted | State::Gone)) => {
                Err(ActError::NotPrepared { name, state: state.as_str(), remedy: instead_of_giving_up(state) })
            }
        }
    }

    pub(super) fn state_of(&self, name: Name) -> Result<State, ActError> {
        let authorities = self.authorities();
        let found = authorities.iter().find(|authority| authority.name == name).map(|authority| authority.state);
        found.ok_or(ActError::NotThere { name })
    }

    /// A prepared issuing CA that could sign now and would not hand over at once.
    fn successor(&self, now: OffsetDateTime) -> Option<Name> {
        let usable = |authority: &&std::sync::Arc<Authority>| {
            let slot = authority.slot(self.times.longest_leaf());
            self.is_under_the_active_root(authority)
                && slot.state == State::Prepared
                && slot.not_before <= now
                && now < self.times.hand_over_at(&slot)
        };
        let authorities = self.authorities();
        let newest = authorities.at(Level::Issuing).filter(usable).max_by_key(|authority| authority.issuer.not_after());
        newest.map(|authority| authority.name)
    }

    fn require_room(&self, now: OffsetDateTime) -> Result<(), ActError> {
        match self.authorities().active_root() {
            Some(root) if !self.has_room(now) => Err(ActError::NoRoom {
                root: root.name.to_string(),
                not_after: rfc3339_seconds(root.issuer.not_after()),
            }),
            Some(_) | None => Ok(()),
        }
    }
}

/// Words have room for all that there are.
fn tell(told: &mpsc::Sender<Told>, word: Told) {
    // Whoever does not listen any more misses it.
    let _ = told.try_send(word);
}
