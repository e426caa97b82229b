//! Tells the service manager how the server is doing: sd_notify(3), where $NOTIFY_SOCKET is set.
//!
//! The watchdog is fed while the runtime turns and the ledger has not failed: a failed ledger heals by a restart alone,
//! which opens and checks it anew. A full one does not, so it is no reason to restart. Nothing here fails a server:
//! whoever listens is gone at worst.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::audit::ledger::{Health, Ledger};
use crate::clock::Clock;

/// Everything is bound and served.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Policy and configuration are being read again; [`ready`] follows.
pub fn reloading() {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now().ok());
    tell(&states);
}

/// What was read again is in force, or the old stays.
pub fn reloaded(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The server ends in order.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        // Not a warning: a heartbeat would repeat it for as long as the server runs.
        debug!(%error, "the service manager could not be told");
    }
}

/// How often the watchdog wants to be fed, at least; absent when nobody watches.
pub(super) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// Feeds the watchdog, twice as often as it wants, until the server stops or the ledger fails.
pub(super) async fn feed(every: Duration, ledger: Ledger, clock: Clock, stopping: CancellationToken) {
    loop {
        let failed = matches!(&*ledger.health().borrow(), Health::Failed { .. });
        if failed {
            tell(&[NotifyState::Status("the ledger failed; waiting to be restarted")]);
            return;
        }
        tell(&[NotifyState::Watchdog]);
        tokio::select! {
            () = clock.sleep(every / 2) => {}
            () = stopping.cancelled() => return,
        }
    }
}
