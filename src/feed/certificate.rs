//! The certificate of one subscription: kept over restarts, issued, renewed by its own timer.
//!
//! The machine forgets the key as soon as its message is handed out. What it keeps is what the next renewal needs.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tracing::{info, warn};

use crate::feed::live::Registered;
use crate::feed::payload::Payload;
use crate::feed::source::{Asker, Certificate, FeedRefusal, Follows, Held, RenewalCause, SourceError, Wanted};
use crate::feed::{End, Inner, count};
use crate::policy::schedule::Backoff;

pub(super) struct CertificateSubscription {
    feed: Arc<Inner>,
    pub(super) asker: Asker,
    wanted: Wanted,
    /// The version that the proxy said it holds, until that is judged.
    named: Option<String>,
    held: Option<Held>,
    place: Arc<Registered>,
}

impl CertificateSubscription {
    pub(super) fn new(
        feed: Arc<Inner>,
        asker: Asker,
        wanted: Wanted,
        named: Option<String>,
        place: Arc<Registered>,
    ) -> Self {
        Self { feed, asker, wanted, named, held: None, place }
    }

    /// The next certificate that the proxy must be sent.
    pub(super) async fn next(&mut self) -> Result<Payload, End> {
        if let Some(version) = self.named.take() {
            self.keep(&version).await;
        }
        let certificate = match self.held.clone() {
            None => self.first().await?,
            Some(held) => self.renewed(held).await?,
        };
        self.place.holds(&certificate.held, false);
        let payload = Payload::certificate(&certificate);
        self.held = Some(certificate.held);
        Ok(payload)
    }

    /// After our restart, or the proxy's reconnect: what it holds stands, if the source says so.
    async fn keep(&mut self, version: &str) {
        let Some(mut held) = self.feed.source.held(&self.asker, &self.wanted, version).await else { return };
        let now = self.feed.clock.now();
        if held.renew_at <= now {
            held.renew_at = self.soon(now, held.not_after);
        }
        self.place.holds(&held, true);
        count(&self.feed.counters.kept);
        info!(identity = %held.identity, serial = %held.serial, "a proxy keeps the certificate that it holds");
        self.held = Some(held);
    }

    /// A moment for a renewal that fell due while nobody was there: spread, so that a restart is no herd, and never
    /// later than half of what is left.
    fn soon(&self, now: OffsetDateTime, not_after: OffsetDateTime) -> OffsetDateTime {
        let left = Duration::try_from(not_after - now).unwrap_or_default();
        now + self.feed.limits.overdue_spread.min(left / 2).mul_f64(self.feed.entropy.unit())
    }

    /// The first certificate: at once, or as soon as policy grants it.
    async fn first(&mut self) -> Result<Certificate, End> {
        let mut policy = self.feed.source.policy();
        loop {
            policy.mark_unchanged();
            let account = self.asker.caller.account();
            self.pace(&account).await?;
            let why = match self.issue(None).await {
                Ok(certificate) => return Ok(certificate),
                Err(why) => why,
            };
            self.feed.pace.give_back(&account);
            match why {
                SourceError::NotGranted | SourceError::Denied => {}
                SourceError::NoRule
                | SourceError::Reattest
                | SourceError::Invalid(_)
                | SourceError::Unavailable { .. } => return Err(why.into()),
            }
            if policy.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Takes this certificate from what the account may have in a while, or records that it may not.
    async fn pace(&self, account: &str) -> Result<(), End> {
        let limits = &self.feed.limits;
        if self.feed.pace.take(account, self.feed.clock.monotonic(), limits) {
            return Ok(());
        }
        let (rate, burst) = (limits.issue_rate_per_caller, limits.issue_burst_per_caller);
        self.feed.source.refused(&self.asker, FeedRefusal::TooManyIssues { rate, burst }).await;
        Err(End::TooManyIssues { rate, burst })
    }

    /// Waits until the next certificate is due, and goes on trying until there is one. The proxy keeps the old one.
    async fn renewed(&mut self, held: Held) -> Result<Certificate, End> {
        self.feed.clock.sleep_until(held.renew_at).await;
        let mut policy = self.feed.source.policy();
        let mut failures = 0;
        loop {
            policy.mark_unchanged();
            let follows = Follows { serial: held.serial.clone(), cause: RenewalCause::Scheduled };
            let why = match self.issue(Some(follows)).await {
                Ok(certificate) => return Ok(certificate),
                Err(why) => why,
            };
            count(&self.feed.counters.renewal_failures);
            if why == SourceError::NoRule {
                return Err(why.into());
            }
            let wait = self.backoff(&held, failures, &why);
            failures += 1;
            let next = self.feed.clock.now() + wait;
            self.place.due(next);
            warn!(identity = %held.identity, serial = %held.serial, failures, wait_s = wait.as_secs_f32(), %why,
                "a renewal failed and is tried again; the proxy keeps what it holds");
            tokio::select! {
                () = self.feed.clock.sleep(wait) => {}
                Ok(()) = policy.changed() => {}
            }
        }
    }

    /// Never less than the source asked for, as far as the longest wait allows.
    fn backoff(&self, held: &Held, failures: u32, why: &SourceError) -> Duration {
        let limits = &self.feed.limits;
        let backoff = Backoff { first: limits.renewal_retry_first, longest: limits.renewal_retry_longest };
        let asked = match why {
            SourceError::Unavailable { retry_after } => retry_after.unwrap_or_default(),
            SourceError::NoRule
            | SourceError::NotGranted
            | SourceError::Denied
            | SourceError::Reattest
            | SourceError::Invalid(_) => Duration::ZERO,
        };
        let wait = backoff.wait_before(self.feed.clock.now(), held.not_after, failures, self.feed.entropy.unit());
        wait.max(asked).min(limits.renewal_retry_longest)
    }

    async fn issue(&mut self, follows: Option<Follows>) -> Result<Certificate, SourceError> {
        let _turn = self.feed.issuing.acquire().await;
        if follows.is_some() {
            self.asker.request_id = hex::encode(self.feed.entropy.bytes::<8>());
        }
        self.feed.source.issue(&self.asker, &self.wanted, follows).await
    }
}
