//! The current certificate of each proxy, and the shared bundle, as streams of updates.
//!
//! The feed is the only producer of what a stream sends. A certificate belongs to one subscription of one stream: it is
//! renewed there by its own timer and handed to nobody else; the key leaves with the one message that carries it and is
//! kept nowhere. Bundles are shared: encoded once, sent to all. A [`Session`] is one stream's view, whatever its
//! protocol: `api` translates requests into [`Session::subscribe`] and answers into [`Session::acked`], and holds no
//! state of its own about secrets. Nothing here knows about HTTP, gRPC or nonces.

pub mod bundles;
mod certificate;
pub mod coverage;
pub mod forced;
mod live;
pub mod names;
mod orders;
mod pace;
pub mod payload;
mod session;
pub mod source;
pub mod street;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use crate::caller::Caller;
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::identity::TrustDomain;
use crate::tasks::Tasks;

pub use bundles::{Bundles, TrustBundle};
pub use live::LiveProxy;
pub use names::{SdsNames, SecretRef};
pub use payload::Payload;
pub use session::{End, Session, Update};
use source::{Asker, FeedRefusal, SecretSource};

/// The bounds of the feed, each with the configuration key that sets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedLimits {
    /// `max_certificates_per_caller`: live certificates of one account (socket and uid), all its processes together.
    pub max_certificates_per_caller: usize,
    /// `max_issues_at_once`: certificates being issued at the same moment; further ones wait, so that a restart with
    /// thousands of proxies is paced by what the ledger can take.
    pub max_issues_at_once: usize,
    /// `max_forced_rotations_at_once`: certificates that operators have issued anew at the same moment; at most half of
    /// `max_issues_at_once` counts, so that new requests find room.
    pub max_forced_rotations_at_once: usize,
    /// `forced_rotation_timeout`: how long a forced rotation waits for its proxy before it is given up as gone.
    pub forced_rotation_timeout: Duration,
    /// `issue_rate_per_caller`: new certificates of one account that are added each second to what it may have at once.
    /// Renewals, and what a proxy keeps, are not counted.
    pub issue_rate_per_caller: u32,
    /// `issue_burst_per_caller`: new certificates that one account may have at once; further ones are refused until the
    /// rate allows them.
    pub issue_burst_per_caller: u32,
    /// `renewal_retry_first`: how long after a failed renewal the next one is tried, at most; doubles each time.
    pub renewal_retry_first: Duration,
    /// `renewal_retry_longest`: the most that this wait grows to.
    pub renewal_retry_longest: Duration,
    /// `overdue_spread`: renewals that fell due while the server was away are spread over this time.
    pub overdue_spread: Duration,
}

impl Default for FeedLimits {
    fn default() -> Self {
        Self {
            max_certificates_per_caller: 4_096,
            max_issues_at_once: 256,
            max_forced_rotations_at_once: 32,
            forced_rotation_timeout: Duration::from_secs(30),
            issue_rate_per_caller: 20,
            issue_burst_per_caller: 4_096,
            renewal_retry_first: Duration::from_secs(2),
            renewal_retry_longest: Duration::from_secs(60),
            overdue_spread: Duration::from_secs(10),
        }
    }
}

/// What the feed has done since it was made, and what lives now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FeedCounts {
    /// Live subscriptions.
    pub subscriptions: usize,
    /// Those of them that are certificates.
    pub certificates: usize,
    /// Updates handed to streams.
    pub pushes: u64,
    /// Updates that proxies accepted.
    pub acks: u64,
    /// Updates that proxies refused.
    pub nacks: u64,
    /// Renewals that failed and are tried again.
    pub renewal_failures: u64,
    /// Certificates that a proxy kept over a restart of the server or of its connection.
    pub kept: u64,
}

#[derive(Debug, Default)]
struct Counters {
    pushes: AtomicU64,
    acks: AtomicU64,
    nacks: AtomicU64,
    renewal_failures: AtomicU64,
    kept: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The feed; cheap to clone.
#[derive(Clone)]
pub struct Feed(Arc<Inner>);

struct Inner {
    source: Arc<dyn SecretSource>,
    trust_domain: TrustDomain,
    names: SdsNames,
    limits: FeedLimits,
    clock: Clock,
    entropy: Entropy,
    tasks: Tasks,
    issuing: Semaphore,
    /// Turns of forced rotations.
    forcing: Semaphore,
    pace: pace::Pace,
    bundles: watch::Sender<Arc<Bundles>>,
    live: Arc<live::Registry>,
    counters: Counters,
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Feed({}, {:?})", self.0.trust_domain, self.counts())
    }
}

impl Feed {
    /// A feed of `trust_domain` without bundles, certificates coming from `source`; forced rotations run in `tasks`.
    #[must_use]
    pub fn new(
        source: Arc<dyn SecretSource>,
        trust_domain: TrustDomain,
        names: SdsNames,
        limits: FeedLimits,
        clock: Clock,
        entropy: Entropy,
        tasks: Tasks,
    ) -> Self {
        Self(Arc::new(Inner {
            issuing: Semaphore::new(limits.max_issues_at_once),
            forcing: Semaphore::new(limits.max_forced_rotations_at_once.min((limits.max_issues_at_once / 2).max(1))),
            tasks,
            pace: pace::Pace::default(),
            source,
            trust_domain,
            names,
            limits,
            clock,
            entropy,
            bundles: watch::Sender::new(Arc::default()),
            live: Arc::default(),
            counters: Counters::default(),
        }))
    }

    /// Makes `bundle` what is sent for its trust domain from now on; every stream that wants it gets it, unless the
    /// version is the same.
    pub fn publish_bundle(&self, bundle: TrustBundle) {
        self.0.bundles.send_if_modified(|bundles| {
            let same = bundles.get(&bundle.trust_domain) == Some(&bundle);
            if !same {
                let (domain, covers) = (bundle.trust_domain.clone(), Arc::clone(&bundle.covers));
                *bundles = Arc::new(bundles.with(bundle));
                // Known before anyone can acknowledge it.
                if domain == self.0.trust_domain {
                    self.0.live.knows(bundles.versions(&domain), &covers);
                }
            }
            !same
        });
    }

    /// Every known bundle, now and as it changes.
    #[must_use]
    pub fn bundles(&self) -> watch::Receiver<Arc<Bundles>> {
        self.0.bundles.subscribe()
    }

    /// Every live subscription, oldest first.
    #[must_use]
    pub fn live(&self) -> Vec<LiveProxy> {
        self.0.live.list()
    }

    /// The live subscription whose newest certificate has this version, if there is one.
    #[must_use]
    pub fn holder(&self, version: &str) -> Option<LiveProxy> {
        self.0.live.holder(version)
    }

    /// How many live subscriptions `look` says yes to, without a copy of any. It must be quick: nothing moves meanwhile.
    #[must_use]
    pub fn count_live(&self, look: impl FnMut(&LiveProxy) -> bool) -> u64 {
        self.0.live.count_where(look)
    }

    /// Totals, for metrics and status.
    #[must_use]
    pub fn counts(&self) -> FeedCounts {
        let (subscriptions, certificates) = self.0.live.count();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        FeedCounts {
            subscriptions,
            certificates,
            pushes: read(&self.0.counters.pushes),
            acks: read(&self.0.counters.acks),
            nacks: read(&self.0.counters.nacks),
            renewal_failures: read(&self.0.counters.renewal_failures),
            kept: read(&self.0.counters.kept),
        }
    }

    /// A new stream's view for an attested caller.
    #[must_use]
    pub fn session(&self, caller: Caller) -> Session {
        Session::new(Arc::clone(&self.0), caller)
    }

    /// Has an edge's own refusal of a whole stream recorded (or counted).
    pub async fn refused(&self, caller: Caller, refusal: FeedRefusal) {
        let request_id = hex::encode(self.0.entropy.bytes::<8>());
        let asker = Asker { caller, node: None, secret_name: String::new(), request_id };
        self.0.source.refused(&asker, refusal).await;
    }

    /// Where certificates come from, for what an edge must have recorded.
    #[must_use]
    pub fn source(&self) -> &Arc<dyn SecretSource> {
        &self.0.source
    }
}
