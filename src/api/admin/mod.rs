//! The operator's API on the admin socket.
//!
//! Peers are named by the kernel: the server's own user and root are administrators, everybody else is told no and how
//! to get in. Each act and each look at entries is a record before it is answered ([`acts`]); certificates are issued by
//! the same street as everybody's. The service holds no state: it asks [`backend`], the ledger and the index.

pub mod backend;
