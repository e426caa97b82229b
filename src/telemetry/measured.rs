//! A certificate source that measures another: how long certificates took, how many could not be made.
//!
//! It changes nothing of what it passes on. `app` puts it between the feed and the street; what was issued or refused is
//! counted from the ledger's records instead, where no way in can be forgotten.

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::watch;

use super::metrics::Metrics;
use crate::attest::AttestError;
use crate::ca::standing::Standing;
use crate::clock::Clock;
use crate::feed::source::{Asker, Certificate, FeedRefusal, Follows, Holding, Nack, SecretSource, SourceError, Wanted};

/// Measures `inner`.
pub struct Measured {
    inner: Arc<dyn SecretSource>,
    metrics: Metrics,
    clock: Clock,
}

impl std::fmt::Debug for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Measured")
    }
}

impl Measured {
    /// The same source as `inner`, measured.
    #[must_use]
    pub fn new(inner: Arc<dyn SecretSource>, metrics: Metrics, clock: Clock) -> Self {
        Self { inner, metrics, clock }
    }
}

impl SecretSource for Measured {
    fn admit<'a>(&'a self, asker: &'a Asker) -> BoxFuture<'a, Result<(), SourceError>> {
        self.inner.admit(asker)
    }

    fn issue<'a>(
        &'a self,
        asker: &'a Asker,
        wanted: &'a Wanted,
        follows: Option<Follows>,
    ) -> BoxFuture<'a, Result<Certificate, SourceError>> {
        Box::pin(async move {
            let began = self.clock.monotonic();
            let answer = self.inner.issue(asker, wanted, follows).await;
            match &answer {
                Ok(_) => self.metrics.issue_took(self.clock.monotonic().saturating_sub(began)),
                Err(SourceError::Unavailable { .. }) => self.metrics.issue_failed(),
                Err(
                    SourceError::NoRule
                    | SourceError::NotGranted
                    | SourceError::Denied
                    | SourceError::Reattest
                    | SourceError::Invalid(_),
                ) => {}
            }
            answer
        })
    }

    fn held<'a>(&'a self, asker: &'a Asker, wanted: &'a Wanted, version: &'a str) -> BoxFuture<'a, Holding> {
        self.inner.held(asker, wanted, version)
    }

    fn is_denied(&self, asker: &Asker, wanted: &Wanted) -> bool {
        self.inner.is_denied(asker, wanted)
    }

    fn standing(&self) -> &Standing {
        self.inner.standing()
    }

    fn nack<'a>(&'a self, asker: &'a Asker, nack: Nack) -> BoxFuture<'a, ()> {
        self.inner.nack(asker, nack)
    }

    fn refused<'a>(&'a self, asker: &'a Asker, refusal: FeedRefusal) -> BoxFuture<'a, ()> {
        self.inner.refused(asker, refusal)
    }

    fn unattested<'a>(&'a self, socket: &'a str, why: &'a AttestError) -> BoxFuture<'a, ()> {
        self.inner.unattested(socket, why)
    }

    fn policy(&self) -> watch::Receiver<u64> {
        self.inner.policy()
    }
}
