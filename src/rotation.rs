//! Asks what is due for the authorities and has it done, for as long as the server runs.
//!
//! Leaves are renewed by their own streams; this is the roll-over of issuing CAs and the flush of counted refusals. A
//! failed step is tried again after [`RETRY`] and never lost: what is due is computed afresh from the state each time.
//! The keeper of the authorities lives here, so what operators order of them comes here too, one order after the other.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::ca::authority::Keeper;
use crate::ca::authority::acts::Order;
use crate::ca::issue::Street;
use crate::ca::refusals::FLUSH_EVERY;
use crate::clock::Clock;

/// How long after a failed step it is tried again.
pub const RETRY: Duration = Duration::from_secs(60);

/// Moves the authorities through their states until `stopping`; a policy with longer lives moves them sooner, `orders` at
/// once.
pub async fn authorities(
    mut keeper: Keeper,
    mut orders: mpsc::Receiver<Order>,
    street: Street,
    clock: Clock,
    stopping: CancellationToken,
) {
    let mut policy = street.policy_version();
    loop {
        policy.mark_unchanged();
        if let Err(failure) = keeper.leaves_live_up_to(street.policy().longest_lifetime()) {
            error!(error = %failure, "the policy in force wants longer lives than an issuing CA has room for");
        }
        let next = match keeper.step().await {
            Ok(next) => next,
            Err(failure) => {
                error!(error = %failure, "the authorities could not be moved on; trying again");
                clock.now() + RETRY
            }
        };
        tokio::select! {
            biased;
            go_on = sleep_until(&clock, next, &stopping) => if !go_on { return },
            Ok(()) = policy.changed() => {}
            Some(order) = orders.recv() => keeper.carry_out(order).await,
        }
        info!("looking at the authorities");
    }
}

/// Writes counted refusals every [`FLUSH_EVERY`], and once more at the end.
pub async fn refusals(street: Street, clock: Clock, stopping: CancellationToken) {
    while sleep_until(&clock, clock.now() + FLUSH_EVERY, &stopping).await {
        street.flush_refusals().await;
    }
    street.flush_refusals().await;
}

/// Whether there is reason to go on.
async fn sleep_until(clock: &Clock, at: OffsetDateTime, stopping: &CancellationToken) -> bool {
    tokio::select! {
        biased;
        () = clock.sleep_until(at) => true,
        () = stopping.cancelled() => false,
    }
}
