//! Makes authorities and moves them through their states, each step on record before it takes effect.
//!
//! One [`Keeper`] owns the authorities of a server; everyone else watches. Its order is the same at the first start and
//! at each roll-over, and a crash at any line resumes:
//!
//! 1. the sealed key is written, or the key is made in Vault and what names it is written. A crash leaves a key that
//!    nothing names; the next try takes the next number;
//! 2. `ca.prepare` is recorded, with the hash of what will be signed. A crash leaves an authority without a certificate,
//!    which the next start passes over, its number used up;
//! 3. it is signed, and `certificate.signed` holds the certificate. From here on it is prepared;
//! 4. its CRL is made and published ([`Lists`]): a verifier that has CRLs refuses what an authority without one issued;
//! 5. `ca.activate`, then `ca.retire` of the one before it. A crash between the two leaves both active in the records;
//!    [`Keeper::establish`] retires the older one then.
//!
//! The index of the ledger is where a start reads them from, so the ledger alone can rebuild the hierarchy.

pub mod acts;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use time::OffsetDateTime;
use tokio::sync::watch;
use tracing::info;

use super::sign::SignError;
use super::slot::{Authorities, Authority, Level, Name, State};
use crate::audit::event::{Action, AuthorityFacts, Event, Outcome, Recorder};
use crate::audit::ledger::{Ledger, LedgerError, Position};
use crate::clock::{Clock, rfc3339_seconds};
use crate::entropy::Entropy;
use crate::identity::TrustDomain;
use crate::keys::authority::{AuthorityKeyError, AuthorityKeys};
use crate::policy::schedule::{AuthoritySlot, AuthorityTimes, Due, TooShort, authority_plan};
use crate::store::{AuthorityRow, LiveCount};
use crate::upstream::{Upstream, UpstreamError};
use crate::x509::KeyAlgorithm;
use crate::x509::chain::IssuerError;
use crate::x509::draft::DraftError;
use crate::x509::key::KeyFault;

mod above;
mod load;
mod make;
mod received;

use above::Pending;
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
}

/// Why an authority could not be made, loaded or moved.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The clock is before the authority's certificate.
    #[error("the clock says {now}, but {name} is valid only from {not_before}: set the clock right, then start again")]
    ClockBehind {
        /// Which authority.
        name: String,
        /// What the clock says.
        now: String,
        /// When its certificate begins.
        not_before: String,
    },
    /// The authority's certificate has ended.
    #[error(
        "{name} ended at {not_after}, and the clock says {now}: if the clock is right, move the data directory away and start a new authority"
    )]
    Ended {
        /// Which authority.
        name: String,
        /// What the clock says.
        now: String,
        /// When its certificate ended.
        not_after: String,
    },
    /// The ledger's record of an authority cannot be used.
    #[error("the record of {name} cannot be used: {why}. Run chancery audit verify")]
    Record {
        /// Which authority.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The key is not the one in the certificate.
    #[error("the key of {name} is not the key of its certificate: put back keys/{file}.* as it was", file = name.replace(' ', "-"))]
    OtherKey {
        /// Which authority.
        name: String,
    },
    /// The issuing CA would end before its leaves.
    #[error(transparent)]
    TooShort(#[from] TooShort),
    /// A certificate in the ledger cannot be read.
    #[error("the certificate of an authority cannot be used: {0}")]
    Issuer(#[from] IssuerError),
    /// Its key could not be made or opened.
    #[error(transparent)]
    Key(#[from] AuthorityKeyError),
    /// Its public key is not of a kind that is certified.
    #[error("the public key of an authority cannot be certified: {0}")]
    PublicKey(#[from] KeyFault),
    /// Its certificate could not be prepared.
    #[error("the certificate of an authority cannot be prepared: {0}")]
    Draft(#[from] DraftError),
    /// The upstream signed nothing.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// What the upstream signed cannot be used.
    #[error("{upstream} signed a certificate that cannot be used: {source}")]
    Received {
        /// Who.
        upstream: String,
        /// Why not.
        #[source]
        source: ReceivedError,
    },
    /// An upstream that stands under another root.
    #[error(
        "{upstream} now signs under another root ({found}) than the one that is trusted here ({here}): nothing was changed. If nobody meant that, look for an intruder; put the old issuer back, or begin a new data directory"
    )]
    OtherRoot {
        /// Who.
        upstream: String,
        /// Its root's subject and key identifier.
        found: String,
        /// Ours, by name.
        here: String,
    },
    /// The root's key is ours, and an upstream is configured.
    #[error(
        "{name} is a root of this server's own, but [upstream.vault] names another authority above it: take that table out, or begin a new data directory"
    )]
    OwnRoot {
        /// The root.
        name: String,
    },
    /// The root is an upstream's, and none is configured.
    #[error("{name} is the root of {upstream}: write [upstream.vault] again, because the next issuing CA needs it")]
    NoUpstream {
        /// The root.
        name: String,
        /// Whose it is.
        upstream: String,
    },
    /// There is no CRL of an authority that should sign from now on.
    #[error("the CRLs could not be published, so no authority is activated: {0}")]
    Lists(String),
    /// Nothing could be recorded.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// It was recorded but not signed.
    #[error("recorded as {position}, but not signed: {source}")]
    Sign {
        /// The record.
        position: Position,
        /// What happened.
        #[source]
        source: SignError,
    },
}

/// What the keeper works with.
#[derive(Debug)]
pub struct KeeperParts {
    /// Where keys are kept.
    pub keys: AuthorityKeys,
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
    current: watch::Sender<Arc<Authorities>>,
    lists: Option<Arc<dyn Lists>>,
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
            current: watch::Sender::default(),
            lists: None,
            acting: None,
        };
        let mut all: Vec<Arc<Authority>> = Vec::new();
        for row in rows {
            let name: Name = row.name.parse().map_err(|_| record(&row.name, "its name has another form"))?;
            let last = keeper.last(name.level);
            *last = name.number.max(*last);
            if let Some(mut authority) = keeper.load(name, row, rows)? {
                let last = live.get(&row.key_id).and_then(|count| count.last_minute);
                authority.last_before = last.and_then(end_of_minute);
                all.push(Arc::new(authority));
            }
        }
        let authorities = Authorities { all };
        keeper.check_upstream(&authorities)?;
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
        // Where an upstream signs, its CAs come with the issuing CA's certificate.
        let levels: &[Level] =
            if self.parts.upstream.is_some() { &[Level::Issuing] } else { &[Level::Root, Level::Issuing] };
        for &level in levels {
            let usable = |authority: &Arc<Authority>| authority.is_active() && now < authority.issuer.not_after();
            let newest =
                self.authorities().at(level).filter(|a| usable(a)).map(|a| a.name).max_by_key(|name| name.number);
            if let Some(newest) = newest {
                self.retire_all_but(newest).await?;
            } else {
                let name = match self.prepared(level) {
                    Some(name) => name,
                    None => self.prepare(level).await?,
                };
                self.activate(name).await?;
                made.push(name);
            }
        }
        Ok(made)
    }

    /// Does what is due for the issuing CAs and says when to come again.
    ///
    /// # Errors
    /// [`AuthorityError`]; nothing is lost, the same step is due again.
    pub async fn step(&mut self) -> Result<OffsetDateTime, AuthorityError> {
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
        // What an upstream signs is looked at once it is there.
        if self.parts.upstream.is_some() {
            return true;
        }
        let least = self.parts.plan.longest_leaf * 3;
        self.authorities().active_root().is_some_and(|root| root.issuer.not_after() - now > least)
    }

    fn slots(&self) -> Vec<AuthoritySlot<Name>> {
        let longest_leaf = self.parts.plan.longest_leaf;
        self.authorities().at(Level::Issuing).map(|authority| authority.slot(longest_leaf)).collect()
    }

    fn authorities(&self) -> Arc<Authorities> {
        Arc::clone(&self.current.borrow())
    }

    fn prepared(&self, level: Level) -> Option<Name> {
        self.authorities().at(level).find(|a| a.state == State::Prepared).map(|a| a.name)
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
        self.activate_above().await?;
        self.transition(name, Action::CaActivate, State::Active).await?;
        self.retire_all_but(name).await
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
        let authorities = self.authorities();
        let Some(authority) = authorities.all.iter().find(|a| a.name == name) else {
            return Err(record(&name.to_string(), "it vanished"));
        };
        let position = self.parts.ledger.append(self.event(action, authority.facts(state), |_| {})).await?;
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
