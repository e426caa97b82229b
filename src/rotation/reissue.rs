//! Gives everyone a certificate under the new root, once it signs: paced, as every rotation that an operator orders is.
//!
//! What is on a stream and was issued under a root that retires is ordered anew, each certificate once; whoever cannot be
//! given another keeps what it has, which the old root is in every bundle for, and is renewed in its own time. A restart
//! begins again with those that are still under the old root.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::watch;
use tracing::{info, warn};

use super::evidence::Witness;
use crate::ca::slot::{Authorities, Level, State};
use crate::clock::Clock;
use crate::feed::Feed;
use crate::feed::forced::{Outcome, Rotation};
use crate::store::{Found, Store, StoreError};
use crate::tasks::Tasks;

/// How often it is looked for certificates under a root that retires: whoever comes back after the hand-over is found.
const EVERY: Duration = Duration::from_secs(10);

pub(super) struct Reissue {
    feed: Feed,
    store: Arc<dyn Store>,
    authorities: watch::Receiver<Arc<Authorities>>,
    clock: Clock,
    tasks: Tasks,
    /// Serials that were ordered anew, or are not under a root that retires.
    seen: HashSet<String>,
    /// For which roots that is so.
    roots: Vec<u32>,
    next: OffsetDateTime,
}

impl Reissue {
    pub(super) fn new(
        witness: &Witness,
        authorities: watch::Receiver<Arc<Authorities>>,
        clock: Clock,
        tasks: Tasks,
    ) -> Self {
        let (feed, store, next) = (witness.feed.clone(), Arc::clone(&witness.store), clock.now());
        Self { feed, store, authorities, clock, tasks, seen: HashSet::new(), roots: Vec::new(), next }
    }

    /// Orders what is to be ordered now; when to come again.
    pub(super) async fn go(&mut self) -> OffsetDateTime {
        let authorities = Arc::clone(&self.authorities.borrow_and_update());
        let retiring = |state| matches!(state, State::Retiring | State::Tainted);
        let roots: Vec<u32> =
            authorities.at(Level::Root).filter(|root| retiring(root.state())).map(|root| root.name().number).collect();
        let now = self.clock.now();
        if roots != self.roots {
            self.seen.clear();
            self.roots.clone_from(&roots);
            self.next = now;
        }
        if roots.is_empty() {
            return now + EVERY;
        }
        if now < self.next {
            return self.next;
        }
        self.next = now + EVERY;
        let under: Vec<String> = authorities
            .at(Level::Issuing)
            .filter(|one| authorities.root_of(one).is_some_and(|root| retiring(root.state())))
            .map(|one| hex::encode(one.issuer().key_id()))
            .collect();
        match self.chosen(&under).await {
            Ok(chosen) if chosen.is_empty() => {}
            Ok(chosen) => self.order(&chosen),
            Err(failure) => {
                warn!(error = %failure, "the index did not say who is under the old root; it is asked again")
            }
        }
        self.next
    }

    /// The serials on streams that are under one of these issuers and were not ordered yet.
    async fn chosen(&mut self, issuers: &[String]) -> Result<HashSet<String>, StoreError> {
        let live: Vec<String> = self.feed.live().into_iter().filter_map(|proxy| proxy.serial).collect();
        let held: HashSet<&String> = live.iter().collect();
        self.seen.retain(|serial| held.contains(serial));
        let mut chosen = HashSet::new();
        for (number, serial) in live.iter().enumerate() {
            if self.seen.contains(serial) {
                continue;
            }
            match self.store.find(serial)? {
                Found::One(row) => {
                    if issuers.contains(&row.issuer_key_id) {
                        chosen.insert(serial.clone());
                    }
                    self.seen.insert(serial.clone());
                }
                // Issued this moment: the index has it at the next look.
                Found::Nothing | Found::Several(_) => {}
            }
            if number % 256 == 255 {
                tokio::task::yield_now().await;
            }
        }
        Ok(chosen)
    }

    fn order(&self, chosen: &HashSet<String>) {
        let Rotation { chosen, mut steps } =
            self.feed.rotate(|proxy| proxy.serial.as_ref().is_some_and(|serial| chosen.contains(serial)));
        let all = chosen.len();
        info!(certificates = all, "issuing anew under the new root");
        self.tasks.spawn("rotation.reissue", async move {
            let (mut acked, mut left) = (0_usize, 0_usize);
            while let Some(step) = steps.recv().await {
                match step.outcome {
                    Outcome::Pushed => {}
                    Outcome::Acked => acked += 1,
                    Outcome::Nacked(_) | Outcome::Refused(_) | Outcome::Failed(_) | Outcome::Gone => left += 1,
                }
            }
            info!(certificates = all, acked, left, "issued anew under the new root");
        });
    }
}
