//! The server's own certificate, and the acceptor that shows it.
//!
//! It walks the street like every other: granted by the rule that no file writes, recorded, signed. A task renews it at
//! its time, and at once when it was revoked or its authority may not publish any more; a failed renewal keeps the old one
//! and is tried again. The key is made for each certificate and never stored, so each start begins with a new one. Nothing
//! here runs where nobody listens on TCP.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::state::State;
use crate::api::tls::{Acceptor, IdentityError, ServerIdentity, TlsParts};
use crate::attest;
use crate::ca::issue::{Follows, IssueError, IssueRequest, KeyRequest, RenewalCause, RequestContext, Street};
use crate::clock::Clock;
use crate::config::Settings;
use crate::entropy::Entropy;
use crate::identity::{IdentityError as NoIdentity, TrustDomain};
use crate::policy::{OWN_PATH, Wanted};

/// The wait after the first failure; it doubles each time.
const RETRY_FIRST: Duration = Duration::from_secs(1);

/// What that wait grows to.
const RETRY_LONGEST: Duration = Duration::from_secs(60);

/// Why the server has no certificate of its own.
#[derive(Debug, thiserror::Error)]
pub(super) enum OwnError {
    /// The street refused or failed.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The TLS library does not take it.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The trust domain makes no identity; it was read as one that does.
    #[error(transparent)]
    Name(#[from] NoIdentity),
    /// The street gave no key, which it makes for every request of this kind.
    #[error("the certificate came without its key")]
    NoKey,
}

/// The acceptor of every TCP listener, with a certificate to show that is kept fresh from here on; nothing where the
/// settings name no such listener.
pub(super) async fn acceptor(state: &State, settings: &Settings) -> Option<Acceptor> {
    if settings.sds.tcp.is_empty() && settings.admin.listen.is_none() {
        return None;
    }
    let identity = ServerIdentity::default();
    let own = Own {
        street: state.street.clone(),
        clock: state.clock.clone(),
        entropy: state.entropy.clone(),
        trust_domain: settings.trust_domain.clone(),
        identity: identity.clone(),
    };
    // The first client is answered; where this fails, the task tries again.
    let first = own.issue(None).await;
    state.tasks.spawn("app.own_certificate", own.keep(first, state.tasks.stopping()));
    Some(Acceptor::new(TlsParts {
        street: state.street.clone(),
        store: Arc::clone(&state.store),
        trust_domain: settings.trust_domain.clone(),
        identity,
        clock: state.clock.clone(),
        tasks: state.tasks.clone(),
        limits: settings.limits.tls,
    }))
}

/// Gets and renews the certificate.
#[derive(Debug)]
struct Own {
    street: Street,
    clock: Clock,
    entropy: Entropy,
    trust_domain: TrustDomain,
    identity: ServerIdentity,
}

/// What is shown now.
#[derive(Debug, Clone)]
struct Shown {
    serial: String,
    issuer_key_id: Vec<u8>,
    renew_at: OffsetDateTime,
}

impl Own {
    async fn issue(&self, follows: Option<Follows>) -> Result<Shown, OwnError> {
        let wanted = Wanted::Identity(self.trust_domain.with_path(OWN_PATH)?);
        let request_id = hex::encode(self.entropy.bytes::<8>());
        let context = RequestContext { request_id, ..RequestContext::default() };
        let request = IssueRequest { wanted, key: KeyRequest::ServerMade, follows, context };
        // Read before, so that a change while the certificate is made is seen as one.
        let issuer_key_id = self.street.authorities().borrow().active().map(|active| active.issuer().key_id().to_vec());
        let issued = self.street.issue(&attest::own::caller(), request).await?;
        let key = issued.key.ok_or(OwnError::NoKey)?;
        self.identity.set(&issued.chain, key.pkcs8().expose())?;
        info!(serial = issued.serial, not_after = %issued.not_after, "the server has a certificate of its own");
        let (serial, renew_at) = (issued.serial, issued.renew_at);
        Ok(Shown { serial, issuer_key_id: issuer_key_id.unwrap_or_default(), renew_at })
    }

    /// Renews until the server stops.
    async fn keep(self, first: Result<Shown, OwnError>, stopping: CancellationToken) {
        let (mut shown, mut wait) = (None, RETRY_FIRST);
        let mut latest = first;
        loop {
            let due = match latest {
                Ok(fresh) => {
                    wait = RETRY_FIRST;
                    self.due(shown.insert(fresh), &stopping).await
                }
                Err(failure) => {
                    error!(error = %failure, kept = self.identity.is_set(), "the server's own certificate could not be issued");
                    let slept = stopping.run_until_cancelled(self.clock.sleep(wait)).await;
                    wait = (wait * 2).min(RETRY_LONGEST);
                    slept.map(|()| RenewalCause::Scheduled)
                }
            };
            let Some(cause) = due else { return };
            let follows = shown.as_ref().map(|shown| Follows { serial: shown.serial.clone(), cause });
            latest = self.issue(follows).await;
        }
    }

    /// Returns when the certificate is to be replaced and why, or with nothing when the server stops.
    async fn due(&self, shown: &Shown, stopping: &CancellationToken) -> Option<RenewalCause> {
        let standing = self.street.standing();
        let (mut changes, mut authorities) = (standing.changes(), self.street.authorities());
        loop {
            let publishable = authorities.borrow_and_update().may_publish(&shown.issuer_key_id);
            if !publishable || standing.is_revoked(&shown.serial) {
                return Some(RenewalCause::Forced);
            }
            tokio::select! {
                () = stopping.cancelled() => return None,
                () = self.clock.sleep_until(shown.renew_at) => return Some(RenewalCause::Scheduled),
                changed = changes.changed() => changed.ok()?,
                changed = authorities.changed() => changed.ok()?,
            }
        }
    }
}
