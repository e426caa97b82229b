//! The command line.

pub mod envoy_bootstrap;
pub mod up;
