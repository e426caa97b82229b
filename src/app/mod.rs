//! The only module that knows every part: builds a server from settings, runs it, and ends it in order.

pub mod directory;
pub mod sockets;
