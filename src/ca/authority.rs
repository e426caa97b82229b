//! Makes authorities and moves them through their states, each step on record before it takes effect.
//!
//! One [`Keeper`] owns the authorities of a server; everyone else watches. Its order is the same at the first start and
//! at each roll-over, and a crash at any line resumes:
//!
//! 1. the sealed key is written. A crash leaves a key that nothing names; the next try takes the next number;
//! 2. `ca.prepare` is recorded, with the hash of what will be signed. A crash leaves an authority without a certificate,
//!    which the next start passes over, its number used up;
//! 3. it is signed, and `certificate.signed` holds the certificate. From here on it is prepared;
//! 4. its CRL is made and published ([`Lists`]): a verifier that has CRLs refuses what an authority without one issued;
//! 5. `ca.activate`, then `ca.retire` of the one before it. A crash between the two leaves both active in the records;
//!    [`Keeper::establish`] retires the older one then.
//!
//! The index of the ledger is where a start reads them from, so the ledger alone can rebuild the hierarchy.

pub mod acts;
mod error;
pub mod root;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use time::OffsetDateTime;
use tokio::sync::watch;
use tracing::info;

use super::slot::{Authorities, Authority, Level, Name, State, word};
use crate::audit::event::{Action, AuthorityFacts, Event, Outcome, Recorder};
use crate::audit::ledger::Ledger;
use crate::clock::{Clock, parse_rfc3339, rfc3339_seconds};
use crate::entropy::Entropy;
use crate::identity::TrustDomain;
use crate::keys::sealed::SealedStore;
use crate::policy::schedule::{AuthoritySlot, AuthorityTimes, Due, Evidence, TooShort, authority_plan};
use crate::store::{AuthorityRow, LiveCount};
use crate::upstream::Upstream;
use crate::x509::KeyAlgorithm;
use crate::x509::crl::Scope;

mod above;
mod held;
mod load;
mod make;
mod received;
mod unanswered;

use above::Pending;
pub use above::another_upstream;
pub use error::AuthorityError;
pub use received::ReceivedError;

/// The longest that the authorities are left alone, so that a jump of the clock is noticed.
const LONGEST_WAIT: Duration = Duration::from_secs(3_600);

/// The most steps that one look at the authorities takes: prepare, activate, retire, and each once more.
const MOST_STEPS: usize = 8;

/// What a server's authorities are to be like.
#[derive(Debug, Clone)]
pub struct AuthorityPlan {
    /// Whose authorities they are.
    pub trust_domain: TrustDomain,
    /// The root's key.
    pub root_key: KeyAlgorithm,
    /// The root's life.
    pub root_lifetime: Duration,
    /// The issuing CA's key.
    pub issuing_key: KeyAlgorithm,
    /// The issuing CA's life.
    pub issuing_lifetime: Duration,
    /// The longest life of a leaf that policy may grant: an issuing CA is replaced while it can still outlive one.
    pub longest_leaf: Duration,
    /// Of which CAs of a chain a CRL is needed: those must be able to sign one.
    pub crl_scope: Scope,
    /// How long a new root waits for whoever acknowledges nothing; the longest leaf and a look at the bundle where absent.
    pub silent_wait: Option<Duration>,
}

/// What the keeper works with.
#[derive(Debug)]
pub struct KeeperParts {
    /// Where keys are kept.
    pub keys: SealedStore,
    /// Where it is written.
    pub ledger: Ledger,
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub entropy: Entropy,
    /// What this run's records share.
    pub recorder: Recorder,
    /// What the authorities are to be like.
    pub plan: AuthorityPlan,
    /// Who signs issuing CAs; a root of our own where there is none.
    pub upstream: Option<Arc<dyn Upstream>>,
}

/// Makes CRLs; `revocation` does.
pub trait Lists: Send + Sync + std::fmt::Debug {
    /// Makes and publishes the CRL of every authority that has none yet. In words why not.
    fn publish_missing(&self) -> BoxFuture<'_, Result<(), String>>;
}

/// The one that owns the authorities.
#[derive(Debug)]
pub struct Keeper {
    parts: KeeperParts,
    times: AuthorityTimes,
    /// The highest number that was ever given at each level, so that none is given twice.
    last_root: u32,
    last_intermediate: u32,
    last_issuing: u32,
    /// What the upstream was asked and did not sign yet.
    pending: Option<Pending>,
    /// What was asked for before this run and has no certificate, oldest first.
    unanswered: Vec<AuthorityRow>,
    current: watch::Sender<Arc<Authorities>>,
    lists: Option<Arc<dyn Lists>>,
    /// What is known of the root that is to be next.
    evidence: Option<Evidence<Name>>,
    /// The operator's order that is being carried out.
    acting: Option<acts::Acting>,
}

impl Keeper {
    /// Opens the authorities that the ledger knows of; none at the first start. `live` says how long the leaves of each
    /// live, by its key identifier.
    ///
    /// # Errors
    /// [`AuthorityError`]: a clock outside the active authority's time, a missing or other key, another trust domain.
    pub fn open(
        parts: KeeperParts,
        rows: &[AuthorityRow],
        live: &BTreeMap<String, LiveCount>,
    ) -> Result<Self, AuthorityError> {
        let times = AuthorityTimes::new(parts.plan.issuing_lifetime, parts.plan.longest_leaf)?;
        let mut keeper = Self {
            parts,
            times,
            last_root: 0,
            last_intermediate: 0,
            last_issuing: 0,
            pending: None,
            unanswered: Vec::new(),
            current: watch::Sender::default(),
            lists: None,
            evidence: None,
            acting: None,
        };
        let mut all: Vec<Arc<Authority>> = Vec::new();
        let held = keeper.held_key();
        for row in rows {
            let name: Name = row.name.parse().map_err(|_| record(&row.name, "its name has another form"))?;
            let last = keeper.last(name.level);
            *last = name.number.max(*last);
            if unanswered::is_unanswered(name, row) {
                keeper.unanswered.push(row.clone());
            }
            if let Some(mut authority) = keeper.load(name, row, rows, held.as_ref())? {
                let last = live.get(&row.key_id).and_then(|count| count.last_minute);
                authority.last_before = last.and_then(end_of_minute);
                all.push(Arc::new(authority));
            }
        }
        let roots = rows.iter().filter(|row| row.level == word(Level::Root));
        let roots_changed = roots.filter_map(|row| parse_rfc3339(&row.since).ok()).max();
        let authorities = Authorities { all, roots_changed };
        keeper.tell_of_another_upstream(&authorities);
        keeper.check_time(&authorities)?;
        keeper.current.send_replace(Arc::new(authorities));
        Ok(keeper)
    }

    /// From now on no authority signs before `lists` has published its CRL.
    pub fn publish_lists_with(&mut self, lists: Arc<dyn Lists>) {
        self.lists = Some(lists);
    }

    /// The authorities, now and as they change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Authorities>> {
        self.current.subscribe()
    }

    /// Makes whatever is missing for issuing: at the first start a root and an issuing CA.
    ///
    /// # Errors
    /// [`AuthorityError`]; what was recorded stays, and the next call goes on from there.
    pub async fn establish(&mut self) -> Result<Vec<Name>, AuthorityError> {
        let mut made = Vec::new();
        let now = self.parts.clock.now();
        self.clear_unanswered().await?;
        // Where an upstream signs, its CAs come with the issuing CA's certificate.
        let comes_along = self.parts.upstream.is_some() && self.authorities().active_root().is_none();
        let levels: &[Level] = if comes_along { &[Level::Issuing] } else { &[Level::Root, Level::Issuing] };
        for &level in levels {
            let usable = |authority: &Arc<Authority>| authority.is_active() && now < authority.issuer.not_after();
            let newest =
                self.authorities().at(level).filter(|a| usable(a)).map(|a| a.name).max_by_key(|name| name.number);
            match newest {
                // Of two roots the older one retires when a CA below the newer one signs.
                Some(_) if level == Level::Root => {}
                Some(newest) => self.retire_all_but(newest).await?,
                None => {
                    let name = match self.prepared(level) {
                        Some(name) => name,
                        None => self.prepare(level).await?,
                    };
                    self.activate(name).await?;
                    made.push(name);
                }
            }
        }
        Ok(made)
    }

    /// Does what is due for roots and issuing CAs and says when to come again.
    ///
    /// # Errors
    /// [`AuthorityError`]; nothing is lost, the same step is due again. What could be done was.
    pub async fn step(&mut self) -> Result<OffsetDateTime, AuthorityError> {
        let roots = self.step_roots().await;
        let issuing = self.step_issuing().await;
        // A root retires once a CA below the next one signs.
        let after = self.step_roots().await;
        Ok(roots?.min(issuing?).min(after?))
    }

    async fn step_issuing(&mut self) -> Result<OffsetDateTime, AuthorityError> {
        for _ in 0..MOST_STEPS {
            let (slots, now) = (self.slots(), self.parts.clock.now());
            let plan = authority_plan(&slots, self.times, now);
            let due: Vec<_> = plan.due.into_iter().filter(|due| *due != Due::Prepare || self.has_room(now)).collect();
            if due.is_empty() {
                return Ok(plan.next.unwrap_or(now + LONGEST_WAIT).min(now + LONGEST_WAIT));
            }
            for due in due {
                match due {
                    Due::Prepare => {
                        self.prepare(Level::Issuing).await?;
                    }
                    Due::Activate(name) => self.activate(name).await?,
                    Due::Retire(name) => self.transition(name, Action::CaRetire, State::Gone).await?,
                }
            }
        }
        Ok(self.parts.clock.now() + LONGEST_WAIT)
    }

    /// From now on leaves live up to `longest`, where that is more than before: hand-overs come earlier. Never less, because
    /// leaves that were issued under another policy still live, and their authority stays for as long as they do.
    ///
    /// # Errors
    /// [`TooShort`] when an issuing CA would be too short for them; nothing changes then.
    pub fn leaves_live_up_to(&mut self, longest: Duration) -> Result<(), TooShort> {
        let longest = longest.max(self.parts.plan.longest_leaf);
        self.times = AuthorityTimes::new(self.parts.plan.issuing_lifetime, longest)?;
        self.parts.plan.longest_leaf = longest;
        Ok(())
    }

    /// Whether the root outlives a further issuing CA long enough for one to be of use: a CA that is cut at the root's
    /// end would be over as soon as it is made.
    fn has_room(&self, now: OffsetDateTime) -> bool {
        let least = self.parts.plan.longest_leaf * 3;
        // What an upstream signs is looked at once it is there.
        let is_long = |root: Arc<Authority>| root.key.is_none() || root.issuer.not_after() - now > least;
        self.authorities().active_root().is_some_and(is_long)
    }

    /// The issuing CAs that have their turn: not those that wait for the root above them.
    fn slots(&self) -> Vec<AuthoritySlot<Name>> {
        let (longest_leaf, authorities) = (self.parts.plan.longest_leaf, self.authorities());
        let has_turn = |authority: &&Arc<Authority>| match authority.state {
            State::Prepared | State::Active => self.is_under_the_active_root(authority),
            State::Retiring | State::Tainted | State::Gone => true,
        };
        authorities.at(Level::Issuing).filter(has_turn).map(|authority| authority.slot(longest_leaf)).collect()
    }

    fn is_under_the_active_root(&self, authority: &Authority) -> bool {
        let authorities = self.authorities();
        let active = authorities.active_root().map(|root| root.name);
        authorities.root_of(authority).map(|root| root.name) == active
    }

    fn authorities(&self) -> Arc<Authorities> {
        Arc::clone(&self.current.borrow())
    }

    /// What a start that was cut short left.
    fn prepared(&self, level: Level) -> Option<Name> {
        let authorities = self.authorities();
        let counts = |a: &&Arc<Authority>| {
            let first = level == Level::Root || authorities.active_root().is_none();
            a.state == State::Prepared && (first || self.is_under_the_active_root(a))
        };
        authorities.at(level).find(counts).map(|a| a.name)
    }

    fn last(&mut self, level: Level) -> &mut u32 {
        match level {
            Level::Root => &mut self.last_root,
            Level::Intermediate => &mut self.last_intermediate,
            Level::Issuing => &mut self.last_issuing,
        }
    }

    /// A clock outside the active authorities' own time would make certificates that nobody accepts.
    fn check_time(&self, authorities: &Authorities) -> Result<(), AuthorityError> {
        let now = self.parts.clock.now();
        for authority in authorities.all.iter().filter(|authority| authority.is_active()) {
            let (name, from, until) =
                (authority.name.to_string(), authority.issuer.not_before(), authority.issuer.not_after());
            if now < from {
                let not_before = rfc3339_seconds(from);
                return Err(AuthorityError::ClockBehind { name, now: rfc3339_seconds(now), not_before });
            }
            if now >= until && authority.name.level == Level::Root {
                let not_after = rfc3339_seconds(until);
                return Err(AuthorityError::Ended { name, now: rfc3339_seconds(now), not_after });
            }
        }
        Ok(())
    }

    /// Steps 4 and 5: its CRL is out, it signs from now on, the one before it retires.
    async fn activate(&mut self, name: Name) -> Result<(), AuthorityError> {
        self.publish_lists().await?;
        self.activate_above(name).await?;
        self.transition(name, Action::CaActivate, State::Active).await?;
        match name.level {
            // The plan of roots says when the one before it retires.
            Level::Root => Ok(()),
            Level::Intermediate | Level::Issuing => self.retire_all_but(name).await,
        }
    }

    async fn publish_lists(&self) -> Result<(), AuthorityError> {
        match &self.lists {
            Some(lists) => lists.publish_missing().await.map_err(AuthorityError::Lists),
            None => Ok(()),
        }
    }

    async fn retire_all_but(&mut self, name: Name) -> Result<(), AuthorityError> {
        let older: Vec<Name> =
            self.authorities().at(name.level).filter(|a| a.is_active() && a.name != name).map(|a| a.name).collect();
        for older in older {
            self.transition(older, Action::CaRetire, State::Retiring).await?;
        }
        Ok(())
    }

    /// Records the new state, then makes it visible.
    async fn transition(&mut self, name: Name, action: Action, state: State) -> Result<(), AuthorityError> {
        self.transition_for(name, action, state, None).await
    }

    async fn transition_for(
        &mut self,
        name: Name,
        action: Action,
        state: State,
        why: Option<String>,
    ) -> Result<(), AuthorityError> {
        let authorities = self.authorities();
        let Some(authority) = authorities.all.iter().find(|a| a.name == name) else {
            return Err(record(&name.to_string(), "it vanished"));
        };
        let event = self.event(action, authority.facts(state), |event| event.reason = why.or(event.reason.take()));
        let position = self.parts.ledger.append(event).await?;
        info!(authority = %name, state = state.as_str(), "authority");
        let since = self.parts.clock.now();
        self.publish(|all| {
            for slot in all.iter_mut().filter(|slot| slot.name == name) {
                *slot = Arc::new(Authority { state, since, ..Authority::clone(slot) });
            }
            all.retain(|slot| slot.state != State::Gone);
        });
        self.tell(name, action, &position);
        Ok(())
    }

    fn publish(&self, change: impl FnOnce(&mut Vec<Arc<Authority>>)) {
        let mut next = Authorities::clone(&self.authorities());
        change(&mut next.all);
        let was = |authorities: &Authorities| {
            authorities.at(Level::Root).map(|root| (root.name, root.state)).collect::<Vec<_>>()
        };
        if was(&next) != was(&self.authorities()) {
            next.roots_changed = Some(self.parts.clock.now());
        }
        self.current.send_replace(Arc::new(next));
    }

    fn event(&self, action: Action, facts: AuthorityFacts, more: impl FnOnce(&mut Event)) -> Event {
        let mut event = self.parts.recorder.event(action, Outcome::Success, self.parts.clock.now());
        event.authority = Some(facts);
        if let Some(acting) = &self.acting {
            acting.sign_for(&mut event);
        }
        more(&mut event);
        event
    }
}

fn record(name: &str, why: &'static str) -> AuthorityError {
    AuthorityError::Record { name: name.to_owned(), why }
}

/// Unix time / 60, as the index counts.
fn end_of_minute(minute: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(minute.checked_add(1)?.checked_mul(60)?).ok()
}
