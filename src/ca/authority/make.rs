//! Steps 1 to 3 of an authority's life: its key, its record, its certificate.

use std::sync::Arc;
use std::time::Duration;

use tracing::info;

use super::above::Above;
use super::held::Parent;
use super::{AuthorityError, Keeper, record};
use crate::audit::event::{Action, AuthorityFacts};
use crate::ca::sign::SigningKey;
use crate::ca::slot::{Authority, Level, Name, State, word};
use crate::clock::rfc3339_seconds;
use crate::x509::chain::Issuer;
use crate::x509::draft::{AuthoritySpec, Draft};
use crate::x509::profile::{AuthorityProfile, Profiles};
use crate::x509::{Serial, SubjectKey};

impl Keeper {
    /// Steps 1 to 3: a root of our own, or the next issuing CA under the root that is active.
    pub(super) async fn prepare(&mut self, level: Level) -> Result<Name, AuthorityError> {
        match (level, self.authorities().active_root(), self.parts.upstream.clone()) {
            (Level::Root, _, _) => self.prepare_own(level, None).await,
            (Level::Intermediate | Level::Issuing, Some(root), _) => self.prepare_below(&root).await,
            (Level::Intermediate | Level::Issuing, None, Some(upstream)) => {
                self.prepare_under(&*upstream, Above::New).await
            }
            (Level::Intermediate | Level::Issuing, None, None) => Err(record("the root", "it vanished")),
        }
    }

    /// Steps 1 to 3: an issuing CA under `root`, by whoever has its key.
    pub(super) async fn prepare_below(&mut self, root: &Arc<Authority>) -> Result<Name, AuthorityError> {
        let own = Parent::of(root).filter(|_| root.upstream.is_none());
        match (own, self.parts.upstream.clone()) {
            (Some(root), _) => self.prepare_own(Level::Issuing, Some(root)).await,
            (None, Some(upstream)) => self.prepare_under(&*upstream, Above::Known(root.name)).await,
            (None, None) => {
                let (name, upstream) = (root.name.to_string(), root.upstream.clone().unwrap_or_default());
                Err(AuthorityError::NoUpstream { name, upstream })
            }
        }
    }

    /// Steps 1 to 3: key, record, certificate, under `parent` or by itself.
    pub(super) async fn prepare_own(&mut self, level: Level, parent: Option<Parent>) -> Result<Name, AuthorityError> {
        let name = self.next_name(level)?;
        let (algorithm, lifetime) = match level {
            Level::Root => (self.parts.plan.root_key, self.parts.plan.root_lifetime),
            Level::Intermediate | Level::Issuing => (self.parts.plan.issuing_key, self.parts.plan.issuing_lifetime),
        };
        let key = SigningKey::new(self.parts.keys.generate(&name.key_file(), algorithm)?);
        let draft = self.draft(name, &key, lifetime, parent.as_ref().map(|parent| &*parent.issuer))?;
        let upstream = parent.as_ref().and_then(|parent| parent.upstream.clone());
        let facts = asked_for(name, key_id(&key)?, upstream.as_deref());
        let event = self.event(Action::CaPrepare, facts, |event| event.certificate = Some(draft.facts().clone()));
        let recorded = self.parts.ledger.record(draft, event).await?;
        let signer = parent.as_ref().map_or(&key, |parent| &parent.key);
        let issuance = match signer.sign(recorded, &self.parts.clock).await {
            Ok(issuance) => issuance,
            Err((source, position)) => return Err(AuthorityError::Sign { position, source }),
        };
        let above = parent.map(|parent| parent.above).unwrap_or_default();
        let issuer = Arc::new(Issuer::from_der(issuance.signed.der().to_vec(), above)?);
        let (state, since) = (State::Prepared, self.parts.clock.now());
        let authority =
            Authority { name, state, since, issuer, key: Some(key), upstream, published: None, last_before: None };
        let event = self.event(Action::CertificateSigned, authority.facts(State::Prepared), |event| {
            event.refers_to = Some(issuance.position.to_string());
            event.certificate = Some(issuance.signed.facts().clone());
        });
        self.parts.ledger.append(event).await?;
        info!(authority = %name, not_after = %rfc3339_seconds(authority.issuer.not_after()), "prepared");
        self.publish(|all| all.push(Arc::new(authority)));
        self.tell(name, Action::CaPrepare, &issuance.position);
        Ok(name)
    }

    /// The common name of an authority's certificate.
    pub(super) fn common_name(&self, name: Name) -> String {
        format!("{} {name}", self.parts.plan.trust_domain)
    }

    /// The next number whose key file is free.
    pub(super) fn next_name(&mut self, level: Level) -> Result<Name, AuthorityError> {
        let sealed = self.parts.keys.list()?;
        let last = self.last(level);
        loop {
            *last += 1;
            let name = Name { level, number: *last };
            if !sealed.contains(&name.key_file()) {
                return Ok(name);
            }
        }
    }

    fn draft(
        &self,
        name: Name,
        key: &SigningKey,
        lifetime: Duration,
        parent: Option<&Issuer>,
    ) -> Result<Draft, AuthorityError> {
        let now = self.parts.clock.now();
        let profiles = Profiles::builtin();
        let profile: &Arc<AuthorityProfile> = match name.level {
            Level::Root => profiles.root(),
            Level::Intermediate | Level::Issuing => profiles.issuing(),
        };
        let spec = AuthoritySpec {
            profile: Arc::clone(profile),
            common_name: self.common_name(name),
            trust_domain: self.parts.plan.trust_domain.clone(),
            key: SubjectKey::from_spki(key.spki_der().to_vec())?,
            serial: Serial::random(&self.parts.entropy),
            lifetime,
        };
        Ok(Draft::authority(spec, parent, now)?)
    }
}

/// What a record says of an authority that has a key and no certificate yet.
pub(super) fn asked_for(name: Name, key_id: String, upstream: Option<&str>) -> AuthorityFacts {
    AuthorityFacts {
        certificate: None,
        key_id,
        level: word(name.level).to_owned(),
        name: name.to_string(),
        state: State::Prepared.as_str().to_owned(),
        upstream: upstream.map(str::to_owned),
    }
}

fn key_id(key: &SigningKey) -> Result<String, AuthorityError> {
    Ok(hex::encode(SubjectKey::from_spki(key.spki_der().to_vec())?.key_id()))
}
