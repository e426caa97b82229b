//! What operators see of a running server: log lines on standard error, and numbers for dashboards.
//!
//! [`log`] sets up the one subscriber; [`metrics`] holds every counter, gauge and histogram, all of them from the one
//! table in [`table`], which is also where `docs/metrics.md` comes from. Always true: a label takes few values, all
//! known beforehand or bounded by something small (logs, authorities), never an identity or an address; and neither
//! channel imitates the ledger, which alone is evidence. `app` makes both; nothing here decides anything.

pub mod log;
pub mod measured;
pub mod metrics;
pub mod table;

pub use log::{init, set_level};
pub use measured::Measured;
pub use metrics::{AuthoritySample, LedgerState, LogSample, Metrics, Sample};
