//! The certificate of one subscription: kept over restarts, issued, renewed by its own timer or because it was ordered,
//! and taken away when it is revoked or its identity denied.
//!
//! The machine forgets the key as soon as its message is handed out. What it keeps is what the next renewal needs.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::feed::forced::Outcome;
use crate::feed::live::Registered;
use crate::feed::payload::Payload;
use crate::feed::source::{Asker, Certificate, FeedRefusal, Follows, Held, Holding, RenewalCause, SourceError, Wanted};
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
        let certificate = loop {
            let next = match self.held.clone() {
                None => Some(self.first().await?),
                Some(held) => self.renewed(held).await?,
            };
            if let Some(certificate) = next {
                break certificate;
            }
        };
        self.place.holds(&certificate.held, false);
        let payload = Payload::certificate(&certificate);
        self.held = Some(certificate.held);
        Ok(payload)
    }

    /// After our restart, or the proxy's reconnect: what it holds stands, if the source says so.
    async fn keep(&mut self, version: &str) {
        let mut held = match self.feed.source.held(&self.asker, &self.wanted, version).await {
            Holding::Stands(held) => held,
            Holding::Revoked { serial, until } => {
                let standing = self.feed.source.standing();
                standing.cut_off(&self.asker.caller, &self.asker.secret_name, &serial, until);
                return;
            }
            Holding::Unknown => return,
        };
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

    /// The first certificate: at once, or as soon as policy grants it and nothing stands against it.
    async fn first(&mut self) -> Result<Certificate, End> {
        let mut policy = self.feed.source.policy();
        loop {
            self.cut_off_is_over().await;
            policy.mark_unchanged();
            let mut standing = self.feed.source.standing().changes();
            let account = self.asker.caller.account();
            self.pace(&account).await?;
            let why = match self.issue(None).await {
                Ok(certificate) => return Ok(certificate),
                Err(why) => why,
            };
            self.feed.pace.give_back(&account);
            match why {
                SourceError::NotGranted => changed(&mut policy).await,
                SourceError::Denied => self.released(&mut policy, &mut standing).await,
                SourceError::NoRule
                | SourceError::Reattest
                | SourceError::Invalid(_)
                | SourceError::Unavailable { .. } => return Err(why.into()),
            }
        }
    }

    /// Returns once this holder may have a certificate again: at once for nearly all.
    async fn cut_off_is_over(&self) {
        let (standing, asker) = (self.feed.source.standing(), &self.asker);
        let mut changes = standing.changes();
        let mut said = false;
        while let Some(until) = standing.cut_off_until(&asker.caller, &asker.secret_name) {
            if until <= self.feed.clock.now() {
                return;
            }
            if !said {
                info!(caller = %asker.caller.label(), secret = asker.secret_name, %until,
                    "its certificate is revoked: this process gets no other until that one would have ended");
                said = true;
            }
            tokio::select! {
                biased;
                () = self.feed.clock.sleep_until(until) => {}
                () = changed(&mut changes) => {}
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

    /// Returns when a denied identity may be allowed again.
    async fn released(&self, policy: &mut watch::Receiver<u64>, standing: &mut watch::Receiver<u64>) {
        loop {
            tokio::select! {
                biased;
                () = changed(policy) => return,
                () = changed(standing) => {
                    if !self.feed.source.is_denied(&self.asker, &self.wanted) {
                        return;
                    }
                }
            }
        }
    }

    /// Waits until the next certificate is due or ordered, and goes on trying until there is one. The proxy keeps the old
    /// one; `None` when that was taken away.
    async fn renewed(&mut self, held: Held) -> Result<Option<Certificate>, End> {
        let (mut policy, mut standing) = (self.feed.source.policy(), self.feed.source.standing().changes());
        let mut retry = None;
        let mut failures = 0;
        loop {
            standing.mark_unchanged();
            if self.is_taken_away(&held) {
                return Ok(None);
            }
            let ordered = self.place.is_ordered();
            if !ordered && !self.is_due(&held, retry) {
                tokio::select! {
                    biased;
                    () = self.rest(&held, retry) => {}
                    () = self.place.woken() => {}
                    () = changed(&mut standing) => {}
                    () = changed(&mut policy), if retry.is_some() => retry = Some(Duration::ZERO),
                }
                continue;
            }
            policy.mark_unchanged();
            let cause = if ordered { RenewalCause::Forced } else { RenewalCause::Scheduled };
            let why = match self.issue(Some(Follows { serial: held.serial.clone(), cause })).await {
                // Revoked while its successor was made: who holds the one must not have the other, unless that is wanted.
                Ok(_) if !ordered && self.is_taken_away(&held) => return Ok(None),
                Ok(certificate) => return Ok(Some(certificate)),
                Err(why) => why,
            };
            count(&self.feed.counters.renewal_failures);
            if ordered {
                warn!(identity = %held.identity, serial = %held.serial, %why,
                    "an ordered renewal failed; the proxy keeps what it holds until its time");
                self.place.not_delivered(&outcome(&why));
                continue;
            }
            if why == SourceError::NoRule {
                return Err(why.into());
            }
            let wait = self.backoff(&held, failures, &why);
            failures += 1;
            retry = Some(self.feed.clock.monotonic() + wait);
            self.place.due(self.feed.clock.now() + wait);
            warn!(identity = %held.identity, serial = %held.serial, failures, wait_s = wait.as_secs_f32(), %why,
                "a renewal failed and is tried again; the proxy keeps what it holds");
        }
    }

    /// Whether what the proxy holds is denied or revoked; then it is forgotten, and in the second case its holder is cut
    /// off.
    fn is_taken_away(&mut self, held: &Held) -> bool {
        let (standing, asker) = (self.feed.source.standing(), &self.asker);
        let denied = standing.denied(&held.identity);
        if denied.is_none()
            && !standing.cut_off_if_revoked(&asker.caller, &asker.secret_name, &held.serial, held.not_after)
        {
            return false;
        }
        info!(identity = %held.identity, serial = %held.serial, denied, "taken away from a proxy");
        self.held = None;
        self.place.not_delivered(&outcome(&SourceError::Denied));
        self.place.forgets();
        true
    }

    /// Whether the next certificate is due; `retry` is the monotonic time of the next attempt after one that failed.
    fn is_due(&self, held: &Held, retry: Option<Duration>) -> bool {
        let clock = &self.feed.clock;
        retry.map_or_else(|| held.renew_at <= clock.now(), |at| at <= clock.monotonic())
    }

    async fn rest(&self, held: &Held, retry: Option<Duration>) {
        let clock = &self.feed.clock;
        match retry {
            None => clock.sleep_until(held.renew_at).await,
            Some(at) => clock.sleep(at.saturating_sub(clock.monotonic())).await,
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

/// Returns at the next change; never when there can be none.
async fn changed(version: &mut watch::Receiver<u64>) {
    if version.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What an order that could not be carried out is told.
fn outcome(why: &SourceError) -> Outcome {
    match why {
        SourceError::Unavailable { .. } => Outcome::Failed(why.to_string()),
        SourceError::NoRule
        | SourceError::NotGranted
        | SourceError::Denied
        | SourceError::Reattest
        | SourceError::Invalid(_) => Outcome::Refused(why.to_string()),
    }
}
