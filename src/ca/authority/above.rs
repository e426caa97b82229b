//! Issuing CAs that an upstream signs, and the upstream's own CAs above them.
//!
//! The order is that of [`super`], with the upstream between record and certificate:
//!
//! 1. the sealed key is written;
//! 2. `ca.prepare` is recorded with that key's identifier, which is what the request for it costs. While the upstream does
//!    not sign, the same key is shown again and again, over restarts too (`unanswered`);
//! 3. what comes back is checked, and the root must be the one that is trusted already, or, where an operator moves to
//!    another ([`super::root`]), one that is not in use yet;
//! 4. `ca.prepare` of each CA above that is new here, then of ours again, with its certificate. From here on it is prepared;
//! 5. their CRLs are fetched and published, then each is activated, ours last; under a new root not before that one is.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::make::asked_for;
use super::received::{self, Received};
use super::{AuthorityError, AuthorityPlan, Keeper};
use crate::audit::event::Action;
use crate::audit::ledger::Position;
use crate::ca::sign::SigningKey;
use crate::ca::slot::{Authorities, Authority, Level, Name, State, word};
use crate::clock::rfc3339_seconds;
use crate::upstream::{CaRequest, Upstream};
use crate::x509::SubjectKey;
use crate::x509::chain::Issuer;
use crate::x509::draft::RequestDraft;

/// Which root the upstream is to stand under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Above {
    /// This one, and no other.
    Known(Name),
    /// One that is not in use here.
    New,
}

/// A request that the upstream did not answer yet.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) name: Name,
    key: SigningKey,
    /// Of that key, hex.
    pub(super) key_id: String,
    common_name: String,
    csr: Vec<u8>,
    position: Position,
}

impl Keeper {
    /// Says so where the authorities above were made by another than the configuration names: they stay until an operator
    /// moves over, and until then the configured one signs nothing.
    pub(super) fn tell_of_another_upstream(&self, authorities: &Authorities) {
        let Some(root) = authorities.active_root() else { return };
        let configured = self.parts.upstream.as_ref().map(|upstream| upstream.name());
        if let Some(difference) = another_upstream(&root, configured) {
            warn!("{difference}");
        }
    }

    /// Has an issuing CA signed by `upstream`, under the root that `above` says.
    pub(super) async fn prepare_under(
        &mut self,
        upstream: &dyn Upstream,
        above: Above,
    ) -> Result<Name, AuthorityError> {
        if let Some(held) = upstream.held()? {
            return self.prepare_held(held, upstream.name(), above).await;
        }
        let pending = match self.pending.take() {
            Some(pending) => pending,
            None => self.request(upstream.name()).await?,
        };
        match self.obtain(&pending, upstream, above).await {
            Ok(received) => self.take_over(pending, received, upstream.name()).await,
            Err(failure) => {
                self.pending = Some(pending);
                Err(failure)
            }
        }
    }

    /// Steps 1 and 2: key and record, then the request.
    async fn request(&mut self, upstream: &str) -> Result<Pending, AuthorityError> {
        let (name, key) = match self.resumed(upstream)? {
            Some(before) => before,
            None => {
                let name = self.next_name(Level::Issuing)?;
                let key = self.parts.keys.generate(&name.key_file(), self.parts.plan.issuing_key)?;
                (name, SigningKey::new(key))
            }
        };
        let common_name = self.common_name(name);
        let subject = SubjectKey::from_spki(key.spki_der().to_vec())?;
        let draft = RequestDraft::new(&common_name, &self.parts.plan.trust_domain, subject)?;
        let key_id = draft.key_id();
        let facts = asked_for(name, key_id.clone(), Some(upstream));
        let recorded = self.parts.ledger.record(draft, self.event(Action::CaPrepare, facts, |_| {})).await?;
        match key.sign_request(recorded, &self.parts.clock).await {
            Ok((csr, position)) => Ok(Pending { name, key, key_id, common_name, csr, position }),
            Err((source, position)) => Err(AuthorityError::Sign { position, source }),
        }
    }

    /// Steps 3 and 4, up to ours: what `upstream` gives, once it was checked and those above are on record.
    async fn obtain(
        &mut self,
        pending: &Pending,
        upstream: &dyn Upstream,
        above: Above,
    ) -> Result<Received, AuthorityError> {
        let Pending { key, key_id, common_name, csr, .. } = pending;
        let lifetime = self.parts.plan.issuing_lifetime;
        let chain = upstream.sign(CaRequest { csr, key_id, common_name, lifetime }).await?;
        let (now, least) = (self.parts.clock.now(), self.least());
        let AuthorityPlan { trust_domain, crl_scope, .. } = &self.parts.plan;
        let received = received::check(chain, key.spki_der(), trust_domain, least, *crl_scope, now)
            .map_err(|source| AuthorityError::Received { upstream: upstream.name().to_owned(), source })?;
        if received.issuer.not_after() - now < lifetime - lifetime / 10 {
            let not_after = rfc3339_seconds(received.issuer.not_after());
            warn!(
                upstream = upstream.name(),
                not_after, "the upstream cut the issuing CA's life: it rolls over earlier"
            );
        }
        self.check_root(&received.above, upstream.name(), above)?;
        self.adopt(&received.above, upstream.name(), None).await?;
        Ok(received)
    }

    /// Step 3, the last part: the root is the one that was meant.
    pub(super) fn check_root(&self, chain: &[Arc<Issuer>], upstream: &str, above: Above) -> Result<(), AuthorityError> {
        let authorities = self.authorities();
        let Some(root) = chain.last() else { return Ok(()) };
        let known = authorities.at(Level::Root).find(|known| known.issuer().der() == root.der());
        let is_meant = match (above, known) {
            (Above::Known(name), Some(known)) => known.name == name,
            (Above::Known(_), None) => false,
            // One that waits is gone on with; one that is, or was, in use is none to move to.
            (Above::New, Some(known)) => match known.state {
                State::Prepared => true,
                State::Active | State::Retiring | State::Tainted | State::Gone => {
                    let (upstream, root) = (upstream.to_owned(), known.name.to_string());
                    return Err(AuthorityError::SameRoot { upstream, root });
                }
            },
            (Above::New, None) => true,
        };
        if is_meant {
            return Ok(());
        }
        let here = match above {
            Above::Known(name) => name.to_string(),
            Above::New => authorities.active_root().map(|root| root.name.to_string()).unwrap_or_default(),
        };
        let found = format!("{}, key {}", root.name(), hex::encode(root.key_id()));
        Err(AuthorityError::OtherRoot { upstream: upstream.to_owned(), found, here })
    }

    /// The least that an issuing CA must live for to be of use.
    pub(super) fn least(&self) -> Duration {
        self.parts.plan.longest_leaf * 2
    }

    /// Step 4, for those above: root first. `held` is the key of one of them that lies here.
    pub(super) async fn adopt(
        &mut self,
        above: &[Arc<Issuer>],
        upstream: &str,
        held: Option<&SigningKey>,
    ) -> Result<(), AuthorityError> {
        for ca in above.iter().rev() {
            let known = self.authorities().iter().any(|known| known.issuer().der() == ca.der());
            if known {
                continue;
            }
            let level = if ca.is_root() { Level::Root } else { Level::Intermediate };
            let last = self.last(level);
            *last += 1;
            let name = Name { level, number: *last };
            let issuer = Arc::clone(ca);
            let (state, since, upstream) = (State::Prepared, self.parts.clock.now(), Some(upstream.to_owned()));
            let key = held.filter(|held| held.spki_der() == issuer.key().spki_der()).cloned();
            let authority = Authority { name, state, since, issuer, key, upstream, published: None, last_before: None };
            let facts = received::facts(ca, word(level))?;
            let event = self.event(Action::CaPrepare, authority.facts(state), |event| event.certificate = Some(facts));
            self.parts.ledger.append(event).await?;
            info!(authority = %name, subject = ca.name(), "an upstream's CA is trusted from now on");
            self.publish(|all| all.push(Arc::new(authority)));
        }
        Ok(())
    }

    /// Step 4, for ours.
    async fn take_over(
        &mut self,
        pending: Pending,
        received: Received,
        upstream: &str,
    ) -> Result<Name, AuthorityError> {
        let Pending { name, key, position, .. } = pending;
        let (state, since) = (State::Prepared, self.parts.clock.now());
        let authority = Authority {
            name,
            state,
            since,
            issuer: Arc::new(received.issuer),
            key: Some(key),
            upstream: Some(upstream.to_owned()),
            published: None,
            last_before: None,
        };
        let event = self.event(Action::CaPrepare, authority.facts(state), |event| {
            event.refers_to = Some(position.to_string());
            event.certificate = Some(received.facts);
        });
        let position = self.parts.ledger.append(event).await?;
        let not_after = rfc3339_seconds(authority.issuer().not_after());
        info!(authority = %name, upstream, not_after, "prepared");
        self.publish(|all| all.push(Arc::new(authority)));
        self.tell(name, Action::CaPrepare, &position);
        Ok(name)
    }

    /// Step 5, for those above `name`: their CRLs are out. A root beside an active one has its own way.
    pub(super) async fn activate_above(&mut self, name: Name) -> Result<(), AuthorityError> {
        let authorities = self.authorities();
        let Some(authority) = authorities.iter().find(|one| one.name == name) else { return Ok(()) };
        let comes_along = authorities.active_root().is_none();
        let waits = |ca: &Arc<Authority>| {
            let is_between = ca.name.level == Level::Intermediate || (comes_along && ca.name.level == Level::Root);
            ca.upstream().is_some() && ca.state() == State::Prepared && is_between
        };
        let above: Vec<Name> =
            authorities.chain_of(authority).iter().filter(|ca| waits(ca)).map(|ca| ca.name).collect();
        for name in above.into_iter().rev() {
            self.transition(name, Action::CaActivate, State::Active).await?;
        }
        Ok(())
    }
}

/// In words, where `configured` is another than who made `root`.
#[must_use]
pub fn another_upstream(root: &Authority, configured: Option<&str>) -> Option<String> {
    let name = root.name;
    match (root.upstream(), configured) {
        (None, None) => None,
        (Some(of), Some(configured)) if of == configured => None,
        (None, Some(configured)) => Some(format!(
            "{name} is this server's own, and {configured} is configured: it signs nothing until you move to it: chancery ca \
             rotate root"
        )),
        (Some(of), Some(configured)) => Some(format!(
            "{name} is of {of}, and {configured} is configured: where that stands under another root it signs nothing until \
             you move to it: chancery ca rotate root"
        )),
        (Some(of), None) => Some(format!(
            "{name} is of {of}, which is not configured: no further issuing CA can be made until you move to a root of this \
             server's own: chancery ca rotate root"
        )),
    }
}
