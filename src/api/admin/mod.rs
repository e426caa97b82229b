//! The operator's API on the admin socket.
//!
//! Peers are named by the kernel, or by a client certificate on TCP; [`roles`] says who may, [`rights`] what that takes.
//! Strangers are told no and how to get in. Each act and each look at entries is a record before it is answered; certificates are issued by the same
//! street as everybody's. The service holds no state of its own: it asks [`backend`], the ledger and the index.

mod acts;
mod authorities;
pub mod backend;
mod certificates;
pub mod change;
mod choice;
mod gate;
mod hands;
mod places;
mod records;
pub mod rights;
pub mod roles;
mod roots;
mod rules;
mod server;
mod service;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

pub use places::{MOST_CONNECTIONS, MOST_PER_OPERATOR, MOST_STRANGERS};
pub use roles::{Operators, Role};
pub use server::{LARGEST_REQUEST, MOST_STREAMS, REQUEST_TIMEOUT, serve};
pub use service::AdminService;

use crate::audit::event::Recorder;
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::store::Store;

/// Everything the service asks, and what it is told from outside.
pub struct Sources {
    /// Street, feed and policy.
    pub backend: Arc<dyn backend::Backend>,
    /// Feed and revocation.
    pub hands: Arc<dyn backend::Hands>,
    /// The ledger.
    pub ledger: Arc<dyn backend::LedgerAccess>,
    /// The index of the ledger.
    pub index: Arc<dyn Store>,
    /// What changes policy and configuration.
    pub changes: Arc<dyn change::Changes>,
    /// Asks the time.
    pub clock: Clock,
    /// Makes ids of requests.
    pub entropy: Entropy,
    /// Begins records.
    pub recorder: Recorder,
    /// Who has which role, beside root and `own_uid`; a reload puts others in its place.
    pub operators: Arc<ArcSwap<Operators>>,
    /// The user that this process runs as.
    pub own_uid: u32,
    /// Ends streams that would go on for ever, so that the server can stop.
    pub stopping: CancellationToken,
}
