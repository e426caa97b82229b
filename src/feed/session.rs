//! One stream's subscriptions, whatever protocol carries them.
//!
//! Each subscription is a small machine that knows when it has something new to send; the session runs them side by
//! side and hands out one [`Update`] at a time. Dropping the session ends them all and frees their places.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use futures::future::{AbortHandle, Abortable, BoxFuture};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tracing::warn;

use crate::caller::Caller;
use crate::feed::certificate::CertificateSubscription;
use crate::feed::live::{Registered, Stream};
use crate::feed::payload::Payload;
use crate::feed::source::{Asker, FeedRefusal, Nack, SourceError};
use crate::feed::{Bundles, Inner, SecretRef, count};

/// Something new for the proxy.
#[derive(Debug, Clone)]
pub struct Update {
    /// The secret's name, as the proxy asked for it.
    pub name: Arc<str>,
    /// Its content.
    pub payload: Payload,
    place: Weak<Registered>,
}

impl Update {
    /// Whether it may still be sent: not when it was taken away or overtaken while it waited for its proxy to read. What
    /// was made for a stream that ended since is for the edge to judge.
    #[must_use]
    pub fn stands(&self) -> bool {
        self.place.upgrade().is_none_or(|place| place.is_of(&self.payload.version))
    }
}

/// Why a stream must end. The texts are for the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// Policy, or the state of the server.
    #[error(transparent)]
    Refused(#[from] SourceError),
    /// The caller has as many live certificates as it may.
    #[error(
        "this caller already holds {limit} certificates (max_certificates_per_caller): close streams that are not needed"
    )]
    TooManyCertificates {
        /// The limit.
        limit: usize,
    },
    /// The caller was given new certificates faster than it may.
    #[error(
        "this caller asks for new certificates too often (issue_burst_per_caller = {burst} at once, then issue_rate_per_caller = {rate} a second): keep what was issued, name its version on reconnecting, and try again later"
    )]
    TooManyIssues {
        /// Each second.
        rate: u32,
        /// At once.
        burst: u32,
    },
    /// Another connection of the same account named the certificate that this one held.
    #[error("another connection of this caller took the certificate over")]
    TakenOver,
}

/// One stream's view of the feed.
pub struct Session {
    feed: Arc<Inner>,
    caller: Caller,
    node: Option<String>,
    stream: Stream,
    subscriptions: HashMap<Arc<str>, Subscribed>,
    running: FuturesUnordered<Running>,
}

struct Subscribed {
    place: Arc<Registered>,
    abort: AbortHandle,
    asker: Asker,
}

type Running = Abortable<BoxFuture<'static, (Machine, Result<Payload, End>)>>;

/// A subscription that can be asked for its next payload again and again.
enum Machine {
    Certificate(Box<CertificateSubscription>),
    Bundle(Box<BundleSubscription>),
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({}, {} names)", self.caller.label(), self.subscriptions.len())
    }
}

impl Session {
    pub(super) fn new(feed: Arc<Inner>, caller: Caller) -> Self {
        let (subscriptions, running) = (HashMap::new(), FuturesUnordered::new());
        Self { stream: feed.live.stream(), feed, caller, node: None, subscriptions, running }
    }

    /// Sets the proxy's own label for itself, cleaned and bounded by the edge.
    pub fn set_node(&mut self, node: Option<String>) {
        if node.is_some() && node != self.node {
            self.node = node;
            for subscribed in self.subscriptions.values_mut() {
                subscribed.asker.node.clone_from(&self.node);
                subscribed.place.node(self.node.as_deref());
            }
        }
    }

    /// How many names are subscribed to.
    #[must_use]
    pub fn len(&self) -> usize {
        self.subscriptions.len()
    }

    /// Whether nothing is subscribed to.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.subscriptions.is_empty()
    }

    /// Whether `name` is subscribed to.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.subscriptions.contains_key(name)
    }

    /// Subscribes to `name`; `named` is the version that the proxy says it holds. Does nothing when subscribed already.
    ///
    /// # Errors
    /// [`End::TooManyCertificates`]; everything else comes from [`next`](Self::next).
    pub async fn subscribe(&mut self, name: &str, named: Option<&str>) -> Result<(), End> {
        if self.has(name) {
            return Ok(());
        }
        let asker = Asker {
            caller: self.caller.clone(),
            node: self.node.clone(),
            secret_name: name.to_owned(),
            request_id: hex::encode(self.feed.entropy.bytes::<8>()),
        };
        let wanted = self.feed.names.resolve(name, &self.feed.trust_domain);
        let limit = self.feed.limits.max_certificates_per_caller;
        let is_certificate = matches!(wanted, SecretRef::Certificate(_));
        let now = self.feed.clock.now();
        let entered = self.feed.live.enter(&asker, is_certificate, named, &self.stream, limit, now);
        let Ok(place) = entered.map(Arc::new) else {
            self.feed.source.refused(&asker, FeedRefusal::TooManyCertificates { limit }).await;
            return Err(End::TooManyCertificates { limit });
        };
        let named = named.map(str::to_owned);
        let machine = match wanted {
            SecretRef::Certificate(wanted) => Machine::Certificate(Box::new(CertificateSubscription::new(
                Arc::clone(&self.feed),
                asker.clone(),
                wanted,
                named,
                Arc::clone(&place),
            ))),
            wanted @ (SecretRef::Bundle(_) | SecretRef::AllBundles | SecretRef::Unknown) => {
                Machine::Bundle(Box::new(BundleSubscription {
                    changes: self.feed.bundles.subscribe(),
                    feed: Arc::clone(&self.feed),
                    asker: asker.clone(),
                    wanted,
                    named: named.is_some(),
                    holds: named,
                    admitted: false,
                    place: Arc::clone(&place),
                }))
            }
        };
        let (running, abort) = futures::future::abortable(machine.step());
        self.running.push(running);
        self.subscriptions.insert(name.into(), Subscribed { place, abort, asker });
        Ok(())
    }

    /// Ends every subscription whose name `keep` does not say yes to.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.subscriptions.retain(|name, subscribed| {
            let stays = keep(name);
            if !stays {
                subscribed.abort.abort();
            }
            stays
        });
    }

    /// The next thing to send; waits for ever when there is none. Safe to cancel.
    ///
    /// # Errors
    /// [`End`]: the stream must end.
    pub async fn next(&mut self) -> Result<Update, End> {
        loop {
            let finished = tokio::select! {
                biased;
                () = self.stream.ended.cancelled() => return Err(End::TakenOver),
                Some(finished) = self.running.next() => finished,
            };
            // An error here means that the subscription was ended meanwhile.
            let Ok((machine, outcome)) = finished else { continue };
            let payload = outcome?;
            let name = machine.asker().secret_name.as_str().into();
            let Some(subscribed) = self.subscriptions.get_mut(&name) else { continue };
            let (running, abort) = futures::future::abortable(machine.step());
            self.running.push(running);
            subscribed.abort = abort;
            count(&self.feed.counters.pushes);
            let place = Arc::downgrade(&subscribed.place);
            return Ok(Update { name, payload, place });
        }
    }

    /// The proxy holds `version` of `name`.
    pub fn acked(&self, name: &str, version: &str) {
        if let Some(subscribed) = self.subscriptions.get(name) {
            count(&self.feed.counters.acks);
            subscribed.place.acked(version);
        }
    }

    /// The proxy refused `version` of `name`. It keeps what it had; what it refused is not sent again, the next renewal
    /// is. `text` is foreign, cleaned and bounded by the edge.
    pub async fn nacked(&mut self, name: &str, version: &str, text: &str) {
        let Some(subscribed) = self.subscriptions.get(name) else { return };
        let Some(facts) = subscribed.place.nacked(version, text) else { return };
        count(&self.feed.counters.nacks);
        warn!(caller = %facts.caller, secret = name, version, text, "a proxy refused a push and keeps what it had");
        let nack =
            Nack { version: version.to_owned(), serial: facts.serial, identity: facts.identity, text: text.to_owned() };
        self.feed.source.nack(&subscribed.asker, nack).await;
    }
}

impl Machine {
    fn asker(&self) -> &Asker {
        match self {
            Self::Certificate(machine) => &machine.asker,
            Self::Bundle(machine) => &machine.asker,
        }
    }

    fn step(mut self) -> BoxFuture<'static, (Self, Result<Payload, End>)> {
        Box::pin(async move {
            let outcome = match &mut self {
                Self::Certificate(machine) => machine.next().await,
                Self::Bundle(machine) => machine.next().await,
            };
            (self, outcome)
        })
    }
}

/// A bundle, sent whenever its content is another than what the proxy holds. Also the waiting room for names that mean
/// nothing: they are refused once, recorded, and never answered.
struct BundleSubscription {
    feed: Arc<Inner>,
    asker: Asker,
    wanted: SecretRef,
    /// The version that was sent last, or that the proxy named.
    holds: Option<String>,
    /// Whether the proxy named it, and nothing was sent since: then it holds it for certain.
    named: bool,
    admitted: bool,
    changes: watch::Receiver<Arc<Bundles>>,
    place: Arc<Registered>,
}

impl BundleSubscription {
    async fn next(&mut self) -> Result<Payload, End> {
        if !self.admitted {
            self.feed.source.admit(&self.asker).await?;
            self.admitted = true;
        }
        if self.wanted == SecretRef::Unknown {
            self.feed.source.refused(&self.asker, FeedRefusal::UnknownName).await;
            return std::future::pending().await;
        }
        loop {
            let payload = self.changes.borrow_and_update().payload(&self.wanted).cloned();
            if let Some(payload) = payload {
                let same = self.holds.as_deref() == Some(&*payload.version);
                // What was sent is acknowledged by the proxy, or not at all.
                if !same || self.named {
                    self.place.holds_bundle(&payload.version, same);
                }
                self.named = false;
                if !same {
                    self.holds = Some(payload.version.to_string());
                    return Ok(payload);
                }
            }
            if self.changes.changed().await.is_err() {
                // The feed is gone, and with it everything that could still be sent.
                return std::future::pending().await;
            }
        }
    }
}
