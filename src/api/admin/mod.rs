//! The operator's API on the admin socket.
//!
//! Peers are named by the kernel: the server's own user and root are administrators, everybody else is told no and how
//! to get in. Each act and each look at entries is a record before it is answered; certificates are issued by the same
//! street as everybody's. The service holds no state of its own: it asks [`backend`], the ledger and the index.

mod acts;
pub mod backend;
mod certificates;
mod change;
mod choice;
mod hands;
mod records;
mod rules;
mod server;
mod service;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use server::{LARGEST_REQUEST, MOST_STREAMS, REQUEST_TIMEOUT, serve};
pub use service::AdminService;

use crate::audit::event::Recorder;
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::store::Store;

/// Everything the service asks.
pub struct Sources {
    backend: Arc<dyn backend::Backend>,
    hands: Arc<dyn backend::Hands>,
    ledger: Arc<dyn backend::LedgerAccess>,
    index: Arc<dyn Store>,
    clock: Clock,
    entropy: Entropy,
    recorder: Recorder,
    own_uid: u32,
}

impl Sources {
    /// Puts them together; administrators are root and the user that this process runs as.
    #[must_use]
    pub fn new(
        backend: Arc<dyn backend::Backend>,
        hands: Arc<dyn backend::Hands>,
        ledger: Arc<dyn backend::LedgerAccess>,
        index: Arc<dyn Store>,
        clock: Clock,
        entropy: Entropy,
        recorder: Recorder,
    ) -> Self {
        let own_uid = nix::unistd::geteuid().as_raw();
        Self { backend, hands, ledger, index, clock, entropy, recorder, own_uid }
    }
}
