//! Forced rotation: certificates issued anew and pushed at once, paced, because an operator asked for it.
//!
//! Each certificate is replaced by the subscription that holds it, so that its key goes where every key goes; what is
//! here gives the orders, a few at a time, and reports. The old certificate is kept until the new one is there, and
//! where there is none, it stays and is renewed in its own time.

use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;

use super::orders::Told;
use super::{Feed, Inner, LiveProxy};

/// Steps that wait for the one who asked; with more, those that have something to say wait.
const STEPS_WAITING: usize = 64;

/// A forced rotation under way.
#[derive(Debug)]
pub struct Rotation {
    /// What was chosen, as it was before.
    pub chosen: Vec<LiveProxy>,
    /// What happens to each, in the order in which it happens; ends when all of them have ended.
    pub steps: mpsc::Receiver<Rotated>,
}

/// What happened to one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// Its place in [`Rotation::chosen`].
    pub index: usize,
    /// The serial that takes its place, once there is one.
    pub new_serial: Option<String>,
    /// What happened.
    pub outcome: Outcome,
}

/// What happened to a certificate that is rotated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Its successor is on its way to the proxy.
    Pushed,
    /// The proxy holds its successor. Final.
    Acked,
    /// The proxy refused its successor with these words, and keeps what it had. Final.
    Nacked(String),
    /// Policy, or a deny, gives no successor. Final; the old one stays until it expires.
    Refused(String),
    /// It could not be issued now. Final; the old one stays and is renewed in its own time.
    Failed(String),
    /// Its stream ended, or it took longer than `forced_rotation_timeout`. Final.
    Gone,
}

/// How the newest bundle stands with the streams that subscribe to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Streams that subscribe to a bundle.
    pub streams: u64,
    /// Those that acknowledged the newest one.
    pub acked: u64,
    /// Those that refused it.
    pub nacked: u64,
}

impl Feed {
    /// Rotates every live certificate that `choose` says yes to: at most `max_forced_rotations_at_once` are being issued
    /// at a moment, and never more than half of `max_issues_at_once`, so that new requests find room. Dropping
    /// [`Rotation::steps`] begins no further one; what is on its way arrives.
    #[must_use]
    pub fn rotate(&self, choose: impl Fn(&LiveProxy) -> bool) -> Rotation {
        let (places, chosen): (Vec<u64>, Vec<LiveProxy>) = self.0.live.chosen(choose).into_iter().unzip();
        let (told, steps) = mpsc::channel(STEPS_WAITING);
        let all: FuturesUnordered<_> = places
            .into_iter()
            .zip(&chosen)
            .enumerate()
            .map(|(index, (id, proxy))| {
                let serial = proxy.serial.clone().unwrap_or_default();
                let (feed, steps) = (Arc::clone(&self.0), told.clone());
                Replacement { feed, index, id, serial, new_serial: None, steps }.run()
            })
            .collect();
        let stopping = self.0.tasks.stopping();
        self.0.tasks.spawn("forced rotation", async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = all.collect() => {}
            }
        });
        Rotation { chosen, steps }
    }

    /// How the newest bundle stands with the streams.
    #[must_use]
    pub fn delivery(&self) -> Delivery {
        let bundles = Arc::clone(&self.0.bundles.borrow());
        let newest = |name: &str| {
            let wanted = self.0.names.resolve(name, &self.0.trust_domain);
            bundles.payload(&wanted).map(|payload| payload.version.to_string())
        };
        let mut delivery = Delivery::default();
        for (acked, nacked) in self.0.live.bundle_streams(newest) {
            delivery.streams += 1;
            delivery.acked += u64::from(acked);
            delivery.nacked += u64::from(nacked);
        }
        delivery
    }
}

/// One certificate that is replaced.
struct Replacement {
    feed: Arc<Inner>,
    index: usize,
    id: u64,
    serial: String,
    new_serial: Option<String>,
    steps: mpsc::Sender<Rotated>,
}

impl Replacement {
    async fn run(mut self) {
        let feed = Arc::clone(&self.feed);
        let mut turn = tokio::select! {
            biased;
            () = self.steps.closed() => return,
            turn = feed.forcing.acquire() => Some(turn),
        };
        let Some(mut told) = feed.live.order(self.id, &self.serial) else { return self.say(Outcome::Gone).await };
        let mut longest = std::pin::pin!(feed.clock.sleep(feed.limits.forced_rotation_timeout));
        loop {
            let said = tokio::select! {
                biased;
                said = told.recv() => said,
                () = &mut longest => None,
            };
            let Some(Told { outcome, new_serial }) = said else { return self.say(Outcome::Gone).await };
            self.new_serial = new_serial.or(self.new_serial);
            // From here on it is between the proxy and us, and takes room from nobody.
            turn.take();
            let is_final = outcome != Outcome::Pushed;
            self.say(outcome).await;
            if is_final {
                return;
            }
        }
    }

    async fn say(&self, outcome: Outcome) {
        let rotated = Rotated { index: self.index, new_serial: self.new_serial.clone(), outcome };
        // Nobody listens any more: what happens, happens all the same.
        drop(self.steps.send(rotated).await);
    }
}

#[cfg(test)]
mod tests;
