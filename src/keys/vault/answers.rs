//! Whether Vault signs, as far as was seen; said once when it begins to fail and once when it signs again.

use time::OffsetDateTime;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::vault::VaultError;

/// Whether Vault signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answering {
    /// It was not asked yet.
    NotAsked,
    /// It did, the last time.
    Yes,
    /// It did not, the last time.
    No {
        /// Since when.
        since: OffsetDateTime,
        /// What it said, or what happened instead.
        why: String,
    },
}

/// Where both tasks say what they saw.
#[derive(Debug, Clone)]
pub(super) struct Answers {
    state: watch::Sender<Answering>,
    clock: Clock,
}

impl Answers {
    pub(super) fn new(clock: Clock) -> Self {
        Self { state: watch::Sender::new(Answering::NotAsked), clock }
    }

    pub(super) fn watch(&self) -> watch::Receiver<Answering> {
        self.state.subscribe()
    }

    /// It answered as it should.
    pub(super) fn good(&self) {
        self.state.send_if_modified(|state| {
            if *state == Answering::Yes {
                return false;
            }
            if matches!(state, Answering::No { .. }) {
                info!("Vault signs again");
            }
            *state = Answering::Yes;
            true
        });
    }

    /// It did not.
    pub(super) fn failed(&self, why: &VaultError) {
        let now = self.clock.now();
        self.state.send_if_modified(|state| {
            let since = match state {
                Answering::No { since, .. } => *since,
                Answering::NotAsked | Answering::Yes => {
                    warn!(error = %why, "Vault does not sign");
                    now
                }
            };
            *state = Answering::No { since, why: why.to_string() };
            true
        });
    }
}
