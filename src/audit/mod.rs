//! The audit ledger: what a record says, how it becomes durable, and how anyone can check it later.
//!
//! [`event`] is the schema. Only the ledger writes ledger files; recovery runs the same code as the normal path.

pub mod event;
