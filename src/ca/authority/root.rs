//! The way of a new root: prepared, in every bundle, waited for, active; and of the one before it, out.
//!
//! [`root_plan`] says what is due, and this does it, one durable step after the other. What a crash at each line leaves:
//!
//! 1. `ca.prepare` of the root, its certificate signed and noted (steps 1 to 3 of [`super`]). An upstream's comes along with
//!    the certificate of the first issuing CA below it. A crash leaves a prepared root without a CA below it, which nobody
//!    is sent before it has its CRL; the plan goes on with
//! 2. an issuing CA under it, prepared as every one is. A crash leaves both without CRLs; the next look makes them;
//! 3. CRLs of all of these, and one push of the bundle that has the new root beside the old one. Then `ca.publish`. A crash
//!    before that record leaves everyone with a bundle that has one root too many, which does no harm; time counts from the
//!    record that the next start makes;
//! 4. nothing, until the [`Evidence`] is complete that [`crate::rotation`] brings. A crash forgets what was seen of proxies; each
//!    that comes back names the bundle that it holds;
//! 5. `ca.activate` of upstream's CAs between, then of the root. A crash leaves two active roots: the newer one counts, and
//!    the issuing CA under the older one goes on signing until the next step;
//! 6. `ca.activate` of the issuing CA under it, `ca.retire` of the one before it. A crash between leaves both active: the newer
//!    one signs, and the next start retires the older;
//! 7. `ca.retire` of the old root (`retiring`). It stays in every bundle, with its CRL, and everyone gets a new certificate;
//! 8. when the last leaf under the old root's issuing CAs has ended they are gone, and `ca.retire` of the root (`gone`) takes it
//!    out of the bundle. A crash before that leaves a root that nothing is under; the next look takes it out.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tracing::{error, info};

use super::above::Above;
use super::acts::ActError;
use super::{AuthorityError, Keeper, LONGEST_WAIT, MOST_STEPS};
use crate::audit::event::Action;
use crate::ca::slot::{Authorities, Authority, Level, Name, State};
use crate::policy::schedule::root::{candidate, heir};
use crate::policy::schedule::{AuthorityTimes, Evidence, RootDue, RootPlan, RootSlot, RootTimes, root_plan};
use crate::x509::bundle::MOST_ROOTS;

/// What whoever acknowledges nothing needs beyond the longest leaf, where no wait is configured: one look at the bundle.
pub const REFRESH_HINT: Duration = Duration::from_secs(300);

/// A prepared root that is in every bundle, and the issuing CA that would take over with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The root.
    pub root: Name,
    /// The issuing CA.
    pub issuing: Name,
    /// Key identifiers, hex, of both and of whatever stands between them: what a bundle must cover.
    pub needs: Vec<String>,
    /// Since when it is in every bundle.
    pub published: OffsetDateTime,
}

/// The roots among `authorities`, as their plan sees them.
#[must_use]
pub fn slots(authorities: &Authorities, longest_leaf: Duration) -> Vec<RootSlot<Name>> {
    let slot = |root: &Arc<Authority>| RootSlot {
        key: root.name,
        state: root.state,
        ours: root.key.is_some() && root.upstream.is_none(),
        not_before: root.issuer.not_before(),
        not_after: root.issuer.not_after(),
        published: root.published,
        below: {
            let below = authorities.below(root.name).into_iter();
            below.filter(|one| one.name.level == Level::Issuing).map(|one| one.slot(longest_leaf)).collect()
        },
    };
    authorities.at(Level::Root).map(slot).collect()
}

/// The newest root that is prepared.
#[must_use]
pub fn next(slots: &[RootSlot<Name>]) -> Option<Name> {
    slots.iter().rfind(|slot| slot.state == State::Prepared).map(|slot| slot.key)
}

/// The lengths that roots follow.
#[must_use]
pub fn times(issuing: AuthorityTimes, issuing_lifetime: Duration, silent_wait: Option<Duration>) -> RootTimes {
    let silent_wait = silent_wait.unwrap_or(issuing.longest_leaf() + REFRESH_HINT);
    RootTimes { issuing, issuing_lifetime, silent_wait }
}

impl Keeper {
    /// The root that waits for evidence.
    #[must_use]
    pub fn candidate(&self) -> Option<Candidate> {
        let (authorities, now) = (self.authorities(), self.parts.clock.now());
        let slots = slots(&authorities, self.times.longest_leaf());
        let next = candidate(&slots, now)?;
        let heir = heir(next, self.times, now)?;
        let issuing = authorities.iter().find(|one| one.name == heir.key)?;
        let chain = authorities.chain_of(issuing);
        let needs = chain.iter().map(|one| hex::encode(one.issuer.key_id())).collect();
        Some(Candidate { root: next.key, issuing: heir.key, needs, published: next.published? })
    }

    /// Takes up what is known of the one that waits, in the place of what was known before.
    pub fn learn(&mut self, evidence: Option<Evidence<Name>>) {
        self.evidence = evidence;
    }

    /// How long whoever acknowledges nothing is waited for.
    #[must_use]
    pub fn silent_wait(&self) -> Duration {
        self.root_times().silent_wait
    }

    fn root_times(&self) -> RootTimes {
        times(self.times, self.parts.plan.issuing_lifetime, self.parts.plan.silent_wait)
    }

    fn root_plan(&self) -> RootPlan<Name> {
        let slots = slots(&self.authorities(), self.times.longest_leaf());
        root_plan(&slots, self.root_times(), self.evidence.as_ref(), self.parts.clock.now())
    }

    /// Does what is due for roots and says when to come again.
    pub(super) async fn step_roots(&mut self) -> Result<OffsetDateTime, AuthorityError> {
        for _ in 0..MOST_STEPS {
            let (plan, now) = (self.root_plan(), self.parts.clock.now());
            let Some(due) = plan.due else {
                return Ok(plan.next.unwrap_or(now + LONGEST_WAIT).min(now + LONGEST_WAIT));
            };
            self.do_for_root(due).await?;
        }
        Ok(self.parts.clock.now() + LONGEST_WAIT)
    }

    async fn do_for_root(&mut self, due: RootDue<Name>) -> Result<(), AuthorityError> {
        match due {
            RootDue::Prepare => self.prepare_root().await.map(drop),
            RootDue::PrepareBelow(name) => {
                let root = self.named(name)?;
                self.prepare_below(&root).await?;
                self.publish_lists().await
            }
            RootDue::Publish(name) => self.publish_root(name).await,
            RootDue::Activate(name) => self.activate_root(name, None).await,
            RootDue::ActivateLate(name) => {
                let why = format!("late: the root before it ends; {}", self.left_behind());
                error!(root = %name, why, "a root takes over before everyone has it");
                self.activate_root(name, Some(why)).await
            }
            RootDue::Retire(name) => self.transition(name, Action::CaRetire, State::Retiring).await,
            RootDue::Remove(name) => self.remove_root(name).await,
        }
    }

    /// Step 1.
    async fn prepare_root(&mut self) -> Result<Name, AuthorityError> {
        let found = self.authorities().at(Level::Root).count();
        if found >= MOST_ROOTS {
            return Err(AuthorityError::TooManyRoots { found });
        }
        match self.parts.upstream.clone() {
            Some(upstream) => self.prepare_under(&*upstream, Above::New).await,
            None => self.prepare(Level::Root).await,
        }
    }

    /// Step 3.
    async fn publish_root(&mut self, name: Name) -> Result<(), AuthorityError> {
        self.publish_lists().await?;
        let root = self.named(name)?;
        let position = self.parts.ledger.append(self.event(Action::CaPublish, root.facts(root.state), |_| {})).await?;
        let published = Some(self.parts.clock.now());
        self.publish(|all| {
            for slot in all.iter_mut().filter(|slot| slot.name == name) {
                *slot = Arc::new(Authority { published, ..Authority::clone(slot) });
            }
        });
        info!(root = %name, "a new root is in every bundle; it takes over when everyone holds it");
        self.tell(name, Action::CaPublish, &position);
        Ok(())
    }

    /// Step 5.
    async fn activate_root(&mut self, name: Name, why: Option<String>) -> Result<(), AuthorityError> {
        self.publish_lists().await?;
        let now = self.parts.clock.now();
        let slots = slots(&self.authorities(), self.times.longest_leaf());
        let below = slots.iter().find(|slot| slot.key == name).and_then(|slot| heir(slot, self.times, now));
        if let Some(below) = below.map(|below| below.key) {
            self.activate_above(below).await?;
        }
        self.evidence = None;
        self.transition_for(name, Action::CaActivate, State::Active, why).await
    }

    /// Step 8: what is below goes first, so that nothing ever hangs on a root that is gone.
    async fn remove_root(&mut self, name: Name) -> Result<(), AuthorityError> {
        for below in self.authorities().below(name).into_iter().rev() {
            self.transition(below.name, Action::CaRetire, State::Gone).await?;
        }
        self.transition(name, Action::CaRetire, State::Gone).await
    }

    /// The operator's order to move to another root: as far as it goes without waiting.
    pub(super) async fn rotate_root(&mut self) -> Result<(), ActError> {
        let waits = |authorities: &Authorities| authorities.at(Level::Root).any(|root| root.state == State::Prepared);
        if !waits(&self.authorities()) {
            self.prepare_root().await?;
        }
        for _ in 0..MOST_STEPS {
            match self.root_plan().due {
                Some(due @ (RootDue::PrepareBelow(_) | RootDue::Publish(_))) => self.do_for_root(due).await?,
                Some(
                    RootDue::Prepare
                    | RootDue::Activate(_)
                    | RootDue::ActivateLate(_)
                    | RootDue::Retire(_)
                    | RootDue::Remove(_),
                )
                | None => break,
            }
        }
        Ok(())
    }

    /// The operator's order to have a prepared root take over, whoever lacks it.
    pub(super) async fn activate_by_hand(&mut self, name: Name, force: Force) -> Result<(), ActError> {
        let state = self.state_of(name)?;
        let candidate = self.candidate().filter(|candidate| candidate.root == name);
        if state != State::Prepared || candidate.is_none() {
            return Err(ActError::NotReady { name, state: state.as_str() });
        }
        let now = self.parts.clock.now();
        let about = |evidence: &&Evidence<Name>| Some(evidence.issuing) == candidate.as_ref().map(|one| one.issuing);
        let complete = self.evidence.as_ref().filter(about).is_some_and(|evidence| evidence.is_complete(now));
        let why = match (complete, force) {
            (true, _) => None,
            (false, Force::Yes) => Some(format!("forced: {}", self.left_behind())),
            (false, Force::No) => return Err(ActError::LeftBehind { name, who: self.left_behind() }),
        };
        self.activate_root(name, why).await?;
        self.step_issuing().await?;
        self.step_roots().await?;
        Ok(())
    }

    /// The operator's order to take a root out of every bundle that does not sign.
    pub(super) async fn retire_root(&mut self, name: Name) -> Result<(), ActError> {
        match self.state_of(name)? {
            State::Prepared | State::Retiring | State::Tainted => Ok(self.remove_root(name).await?),
            state @ (State::Active | State::Gone) => Err(ActError::NotReady { name, state: state.as_str() }),
        }
    }

    /// In words, for records and refusals.
    fn left_behind(&self) -> String {
        match &self.evidence {
            Some(evidence) => format!(
                "{} of {} holders lack it, and whoever acknowledges nothing has until {}",
                evidence.left_behind(),
                evidence.holders,
                crate::clock::rfc3339_seconds(evidence.silent_until)
            ),
            None => "who holds it is not known yet".to_owned(),
        }
    }

    fn named(&self, name: Name) -> Result<Arc<Authority>, AuthorityError> {
        let found = self.authorities().iter().find(|one| one.name == name).cloned();
        found.ok_or_else(|| super::record(&name.to_string(), "it vanished"))
    }
}

/// Whether an operator takes it upon themselves to leave holders behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// Nobody is to be left behind.
    No,
    /// Those who are left behind were on the screen.
    Yes,
}
