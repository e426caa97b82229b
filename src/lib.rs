//! Chancery: a SPIFFE certificate authority and rotation daemon with a tamper-evident audit ledger.
//!
//! The street runs one way, and each step's output is the next step's proof: a request is attested ([`caller`]),
//! authorised (policy), prepared (x509), recorded ([`audit`]), signed and published. ARCHITECTURE.md has the map;
//! `tests/layering.rs` holds the layers.

pub mod api;
pub mod app;
pub mod approval;
pub mod attest;
pub mod audit;
pub mod breakglass;
pub mod ca;
pub mod caller;
pub mod cli;
pub mod clock;
pub mod config;
pub mod entropy;
pub mod feed;
#[doc(hidden)]
pub mod fuzzing;
#[cfg(test)]
mod golden;
pub mod identity;
pub mod keys;
pub mod merkle;
pub mod policy;
pub mod proto;
pub mod revocation;
pub mod rotation;
pub mod secret;
#[cfg(test)]
mod simulation;
pub mod store;
pub mod tasks;
pub mod telemetry;
pub mod toml_reader;
pub mod upstream;
pub mod x509;
