//! The edges: what others say to us over sockets, turned into values of ours at once, and our answers.
//!
//! Nothing here keeps a state of its own or decides anything.

pub mod admin;
pub mod http;
pub mod sds;
pub mod status;
pub mod text;
pub mod tls;
