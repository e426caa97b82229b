//! The command line.

pub mod envoy_bootstrap;
pub mod fetch;
pub mod up;
