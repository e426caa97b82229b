//! The command line.

pub mod up;
