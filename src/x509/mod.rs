//! Certificates: what one may be, how it is drafted, and what must hold before it is signed.
//!
//! The way of a leaf is `csr` or `keys::leaf` → [`SubjectKey`] → [`draft::Draft`] (built, spliced, linted) → recorded by
//! the ledger → signed by `ca::sign` → [`draft::Signed`]. Always true: a [`draft::Draft`] passed every lint, its bytes
//! are the bytes that get signed, and a leaf's names come from policy's grant, never from what a client sent. Nothing
//! here does IO, asks the time, takes random bytes or holds a private key. Callers are policy, `ca`, `feed`, `api`.

pub mod algorithm;
pub mod bundle;
pub mod chain;
pub mod crl;
pub mod csr;
pub mod der;
pub mod draft;
pub mod key;
pub mod lint;
pub mod pem;
pub mod profile;
pub mod serial;
pub mod svid;
pub mod text;

pub use algorithm::{KeyAlgorithm, SignatureAlgorithm};
pub use key::SubjectKey;
pub use serial::Serial;

#[cfg(test)]
pub(crate) mod tests;
