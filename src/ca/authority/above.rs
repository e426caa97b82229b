//! Issuing CAs that an upstream signs, and the upstream's own CAs above them.
//!
//! The order is that of [`super`], with the upstream between record and certificate:
//!
//! 1. the sealed key is written;
//! 2. `ca.prepare` is recorded with that key's identifier, which is what the request for it costs. While the upstream does
//!    not sign, the same request is shown again and again; a restart makes another one, under the next number;
//! 3. what comes back is checked, and the root must be the one that is trusted already;
//! 4. `ca.prepare` of each CA above that is new here, then of ours again, with its certificate. From here on it is prepared;
//! 5. their CRLs are fetched and published, then each is activated, ours last.

use std::sync::Arc;

use tracing::{info, warn};

use super::make::asked_for;
use super::received::{self, Received};
use super::{AuthorityError, Keeper};
use crate::audit::event::Action;
use crate::audit::ledger::Position;
use crate::ca::sign::SigningKey;
use crate::ca::slot::{Authorities, Authority, Level, Name, State, word};
use crate::clock::rfc3339_seconds;
use crate::upstream::{CaRequest, Upstream};
use crate::x509::SubjectKey;
use crate::x509::draft::RequestDraft;

/// A request that the upstream did not answer yet.
#[derive(Debug)]
pub(super) struct Pending {
    name: Name,
    key: SigningKey,
    /// Of that key, hex.
    key_id: String,
    common_name: String,
    csr: Vec<u8>,
    position: Position,
}

impl Keeper {
    /// Whether the authorities above were made by whom the configuration says.
    pub(super) fn check_upstream(&self, authorities: &Authorities) -> Result<(), AuthorityError> {
        let Some(root) = authorities.active_root() else { return Ok(()) };
        let name = root.name().to_string();
        match (&self.parts.upstream, root.upstream()) {
            (Some(_), None) => Err(AuthorityError::OwnRoot { name }),
            (None, Some(upstream)) => Err(AuthorityError::NoUpstream { name, upstream: upstream.to_owned() }),
            (Some(_), Some(_)) | (None, None) => Ok(()),
        }
    }

    /// Has an issuing CA signed by `upstream`.
    pub(super) async fn prepare_under(&mut self, upstream: &dyn Upstream) -> Result<Name, AuthorityError> {
        let pending = match self.pending.take() {
            Some(pending) => pending,
            None => self.request(upstream.name()).await?,
        };
        match self.obtain(&pending, upstream).await {
            Ok(received) => self.take_over(pending, received, upstream.name()).await,
            Err(failure) => {
                self.pending = Some(pending);
                Err(failure)
            }
        }
    }

    /// Steps 1 and 2: key and record, then the request.
    async fn request(&mut self, upstream: &str) -> Result<Pending, AuthorityError> {
        let name = self.next_name(Level::Issuing)?;
        let key = self.make_key(name).await?;
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
    async fn obtain(&mut self, pending: &Pending, upstream: &dyn Upstream) -> Result<Received, AuthorityError> {
        let Pending { key, key_id, common_name, csr, .. } = pending;
        let lifetime = self.parts.plan.issuing_lifetime;
        let chain = upstream.sign(CaRequest { csr, key_id, common_name, lifetime }).await?;
        let (now, least) = (self.parts.clock.now(), self.parts.plan.longest_leaf * 2);
        let received = received::check(chain, key.spki_der(), &self.parts.plan.trust_domain, least, now)
            .map_err(|source| AuthorityError::Received { upstream: upstream.name().to_owned(), source })?;
        if received.issuer.not_after() - now < lifetime - lifetime / 10 {
            let not_after = rfc3339_seconds(received.issuer.not_after());
            warn!(
                upstream = upstream.name(),
                not_after, "the upstream cut the issuing CA's life: it rolls over earlier"
            );
        }
        self.adopt(&received, upstream.name()).await?;
        Ok(received)
    }

    /// Step 4, for those above: root first.
    async fn adopt(&mut self, received: &Received, upstream: &str) -> Result<(), AuthorityError> {
        for ca in received.above.iter().rev() {
            let known = self.authorities().iter().any(|known| known.issuer().der() == ca.der());
            if known {
                continue;
            }
            let level = if ca.is_root() { Level::Root } else { Level::Intermediate };
            if let Some(root) = self.authorities().active_root().filter(|_| level == Level::Root) {
                let (found, here) =
                    (format!("{}, key {}", ca.name(), hex::encode(ca.key_id())), root.name().to_string());
                return Err(AuthorityError::OtherRoot { upstream: upstream.to_owned(), found, here });
            }
            let last = self.last(level);
            *last += 1;
            let name = Name { level, number: *last };
            let issuer = Arc::clone(ca);
            let (state, since, upstream) = (State::Prepared, self.parts.clock.now(), Some(upstream.to_owned()));
            let authority = Authority { name, state, since, issuer, key: None, upstream, last_before: None };
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

    /// Step 5, for those above: their CRLs are out.
    pub(super) async fn activate_above(&mut self) -> Result<(), AuthorityError> {
        let above: Vec<Name> = self
            .authorities()
            .iter()
            .filter(|ca| ca.key().is_none() && ca.state() == State::Prepared)
            .map(|ca| ca.name())
            .collect();
        for name in above {
            self.transition(name, Action::CaActivate, State::Active).await?;
        }
        Ok(())
    }
}
