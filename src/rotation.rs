//! Asks what is due for the authorities and has it done, for as long as the server runs.
//!
//! Leaves are renewed by their own streams; this is the roll-over of issuing CAs and roots and the flush of counted
//! refusals. A failed step is tried again after [`RETRY`] and never lost: what is due is computed afresh from the state each
//! time. While a new root waits, [`evidence`] is gathered for it; once it has taken over, [`reissue`] gives everyone a
//! certificate under it. The keeper of the authorities lives here, so what operators order of them comes here too, one order
//! after the other.

pub mod evidence;
mod reissue;

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::ca::authority::Keeper;
use crate::ca::authority::acts::Order;
use crate::ca::issue::Street;
use crate::ca::refusals::FLUSH_EVERY;
use crate::clock::Clock;
use crate::tasks::Tasks;

use evidence::Witness;
use reissue::Reissue;

/// How long after a failed step it is tried again.
pub const RETRY: Duration = Duration::from_secs(60);

/// What the authorities are moved with.
#[derive(Debug)]
pub struct Parts {
    /// Who moves them.
    pub keeper: Keeper,
    /// What operators order.
    pub orders: mpsc::Receiver<Order>,
    /// Whose policy says how long leaves live.
    pub street: Street,
    /// Who sees whether a new root is held.
    pub witness: Witness,
    /// Time.
    pub clock: Clock,
    /// Where certificates are issued anew.
    pub tasks: Tasks,
}

/// Moves the authorities through their states until the tasks stop; a policy with longer lives moves them sooner, orders at
/// once.
pub async fn authorities(parts: Parts) {
    let Parts { mut keeper, mut orders, street, witness, clock, tasks } = parts;
    let (stopping, mut policy) = (tasks.stopping(), street.policy_version());
    let mut reissue = Reissue::new(&witness, street.authorities(), clock.clone(), tasks);
    let mut failed_until: Option<OffsetDateTime> = None;
    loop {
        policy.mark_unchanged();
        if let Err(failure) = keeper.leaves_live_up_to(street.policy().longest_lifetime()) {
            error!(error = %failure, "the policy in force wants longer lives than an issuing CA has room for");
        }
        let pause = look(&mut keeper, &witness).await;
        let now = clock.now();
        let mut next = match failed_until.filter(|until| now < *until) {
            Some(until) => until,
            None => match keeper.step().await {
                Ok(next) => {
                    failed_until = None;
                    next
                }
                Err(failure) => {
                    error!(error = %failure, "the authorities could not be moved on; trying again");
                    failed_until = Some(now + RETRY);
                    now + RETRY
                }
            },
        };
        next = next.min(reissue.go().await);
        if keeper.candidate().is_some() {
            next = next.min(clock.now() + pause);
        }
        tokio::select! {
            go_on = sleep_until(&clock, next, &stopping) => if !go_on { return },
            Ok(()) = policy.changed() => {}
            Some(order) = orders.recv() => {
                keeper.carry_out(order).await;
                failed_until = None;
            }
        }
        debug!("looking at the authorities");
    }
}

/// Gathers the evidence for a root that waits, if one does; how long until it is worth while to do so again.
async fn look(keeper: &mut Keeper, witness: &Witness) -> Duration {
    let Some(candidate) = keeper.candidate() else {
        keeper.learn(None);
        witness.tell(None);
        return evidence::LOOK_EVERY;
    };
    match witness.look(&candidate, keeper.silent_wait()).await {
        Ok((found, pause)) => {
            witness.tell(Some(Arc::new(found.clone())));
            keeper.learn(Some(found));
            pause
        }
        Err(failure) => {
            error!(error = %failure, "who holds the new root is not known; it waits");
            keeper.learn(None);
            RETRY
        }
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
        () = clock.sleep_until(at) => true,
        () = stopping.cancelled() => false,
    }
}
