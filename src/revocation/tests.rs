//! The engine on a real ledger and index.
