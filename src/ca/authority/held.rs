//! Issuing CAs under a CA whose key lies here, in files of its operator's; or that CA itself, where nothing fits below it.
//!
//! The key signs as a root's of our own does: after the record, through `ca::sign`. It stays in its file, so that its owner
//! may move or renew it. A CA of path length 0 can have no CA below it, so it becomes the issuing CA itself: its key is
//! sealed here then, because leaves are signed with it, and from that on the file is not needed. Either way everything that
//! an upstream in Vault gives is checked here too.

use std::sync::Arc;

use tracing::{info, warn};

use super::above::Above;
use super::received::{self, ReceivedError};
use super::{AuthorityError, Keeper};
use crate::audit::event::Action;
use crate::ca::sign::SigningKey;
use crate::ca::slot::{Authority, Level, Name, State, word};
use crate::clock::rfc3339_seconds;
use crate::keys::file::FileSigner;
use crate::upstream::{HeldCa, ListsOfHeld};
use crate::x509::chain::Issuer;

/// What signs a new issuing CA, when its key is here.
#[derive(Debug)]
pub(super) struct Parent {
    pub(super) issuer: Arc<Issuer>,
    pub(super) key: SigningKey,
    /// Its certificate and those above it, DER; nothing for a root of our own, which no chain holds.
    pub(super) above: Vec<Vec<u8>>,
    pub(super) upstream: Option<String>,
}

/// Where a CA that is held takes its place.
#[derive(Debug)]
enum Place {
    /// Above the issuing CA.
    Above(Parent),
    /// It is the issuing CA.
    Itself(Taken),
}

/// A CA that becomes the issuing one.
#[derive(Debug)]
struct Taken {
    issuer: Arc<Issuer>,
    key: FileSigner,
}

impl Parent {
    /// A root of our own; nothing without its key.
    pub(super) fn of(root: &Authority) -> Option<Self> {
        let (issuer, key) = (Arc::clone(&root.issuer), root.key.clone()?);
        Some(Self { issuer, key, above: Vec::new(), upstream: None })
    }
}

impl Keeper {
    /// The key of an upstream's CA that lies here, where this server makes its CRLs.
    pub(super) fn held_key(&self) -> Option<SigningKey> {
        match self.parts.upstream.as_ref()?.held() {
            Ok(held) => {
                held.filter(|held| held.lists == ListsOfHeld::MadeHere).map(|held| SigningKey::new(Arc::new(held.key)))
            }
            Err(failure) => {
                // What was issued goes on; the CRLs of that CA too, until they end.
                warn!(error = %failure, "the CA above cannot be used now; mend it and start again");
                None
            }
        }
    }

    /// Makes the next issuing CA with a CA that is held, under the root that `root` says.
    pub(super) async fn prepare_held(
        &mut self,
        held: HeldCa,
        upstream: &str,
        root: Above,
    ) -> Result<Name, AuthorityError> {
        match self.take_up(held, upstream, root).await? {
            Place::Above(parent) => self.prepare_own(Level::Issuing, Some(parent)).await,
            Place::Itself(taken) => self.take_in(taken, upstream).await,
        }
    }

    /// Checks a CA that is held and those above it, and takes them on record.
    async fn take_up(&mut self, held: HeldCa, upstream: &str, root: Above) -> Result<Place, AuthorityError> {
        let HeldCa { certificate, above, key, lists } = held;
        let (now, scope) = (self.parts.clock.now(), self.parts.plan.crl_scope);
        let refused = |source| AuthorityError::Received { upstream: upstream.to_owned(), source };
        let issuer = Arc::new(Issuer::from_der(certificate.clone(), above.clone())?);
        if issuer.path_length() == Some(0) {
            let all = received::check_above(&above, scope, now).map_err(refused)?;
            received::check_issuing(&issuer, &all, self.least(), now).map_err(refused)?;
            if lists == ListsOfHeld::InFiles {
                let source = ReceivedError::OthersList { name: issuer.name().to_owned() };
                return Err(refused(source));
            }
            self.check_root(&all, upstream, root)?;
            self.adopt(&all, upstream, None).await?;
            return Ok(Place::Itself(Taken { issuer, key }));
        }
        let whole: Vec<Vec<u8>> = std::iter::once(certificate).chain(above).collect();
        let all = received::check_above(&whole, scope, now).map_err(refused)?;
        let end = all.iter().map(|ca| ca.not_after()).min().unwrap_or(now);
        if end - now < self.least() {
            let (not_after, least) = (rfc3339_seconds(end), crate::toml_reader::render_span(self.least()));
            return Err(refused(ReceivedError::TooShort { not_after, least }));
        }
        self.check_root(&all, upstream, root)?;
        let key = SigningKey::new(Arc::new(key));
        self.adopt(&all, upstream, Some(&key).filter(|_| lists == ListsOfHeld::MadeHere)).await?;
        Ok(Place::Above(Parent { issuer, key, above: whole, upstream: Some(upstream.to_owned()) }))
    }

    /// Makes a CA that is held the issuing one: its key is sealed, then it is on record.
    async fn take_in(&mut self, taken: Taken, upstream: &str) -> Result<Name, AuthorityError> {
        let Taken { issuer, key } = taken;
        if let Some(same) = self.authorities().at(Level::Issuing).find(|known| known.issuer().der() == issuer.der()) {
            let (name, not_after) = (same.name().to_string(), rfc3339_seconds(issuer.not_after()));
            return Err(AuthorityError::SameCa { upstream: upstream.to_owned(), name, not_after });
        }
        let name = self.next_name(Level::Issuing)?;
        let key = Some(SigningKey::new(self.parts.keys.import(&name.key_file(), &key)?));
        let facts = received::facts(&issuer, word(Level::Issuing))?;
        let (state, since) = (State::Prepared, self.parts.clock.now());
        let authority = Authority {
            name,
            state,
            since,
            issuer,
            key,
            upstream: Some(upstream.to_owned()),
            published: None,
            last_before: None,
        };
        let event = self.event(Action::CaPrepare, authority.facts(state), |event| event.certificate = Some(facts));
        let position = self.parts.ledger.append(event).await?;
        info!(authority = %name, upstream, subject = authority.issuer().name(), "taken over as the issuing CA");
        self.publish(|all| all.push(Arc::new(authority)));
        self.tell(name, Action::CaPrepare, &position);
        Ok(name)
    }
}
