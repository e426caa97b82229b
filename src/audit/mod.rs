//! The audit ledger: what a record says, how it becomes durable, and how anyone can check it later.
//!
//! [`event`] is the schema. [`ledger`] makes records durable: only it writes ledger files, and recovery runs the same
//! code as the normal path. [`follow`] reads along, [`verify`] checks a directory without a server, [`receipt`] proves
//! one record to somebody else, and [`personal`] keeps what could identify a person erasable.

pub mod event;
pub mod follow;
pub mod ledger;
pub mod personal;
pub mod receipt;
pub mod verify;
