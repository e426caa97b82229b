//! The port that holds private keys and signs, and its adapters.
//!
//! A [`Signer`] is one authority key that cannot be taken out: it tells its public half and signs what it is given. Only
//! `ca::sign` calls it, with bytes that the ledger has recorded. [`memory`] keeps the key in this process, [`sealed`]
//! keeps it in an encrypted file as well, [`mod@file`] has it from a PEM file of its operator's, [`vault`] has it in Vault's
//! Transit engine and asks there; [`authority`] knows which of them holds which. [`leaf`] is something else: keys made for a
//! proxy, which do leave, once, to
//! their owner. No private key here is ever `Clone`, `Serialize` or printed.

use std::fmt::Debug;

use futures::future::BoxFuture;

use crate::vault::VaultError;
use crate::x509::SignatureAlgorithm;

pub mod authority;
#[cfg(test)]
pub(crate) mod conformance;
pub mod file;
pub mod leaf;
pub mod memory;
mod private;
pub mod reseal;
pub mod sealed;
#[cfg(test)]
pub(crate) mod simulated;
pub mod vault;

/// Why a key could not be made or did not sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The library failed; there is no reason that a caller could mend.
    #[error(
        "the cryptographic library could not {what}: the process is out of memory or its random source is broken; restart it, and report this if it stays"
    )]
    Library {
        /// What it was to do.
        what: &'static str,
    },
    /// Stored bytes are no private key of the kind that their label says.
    #[error("the stored bytes are no {algorithm} private key")]
    NotAKey {
        /// What they should have been.
        algorithm: crate::x509::KeyAlgorithm,
    },
    /// Vault, which holds the key, did not answer as it should.
    #[error("{key} in Vault did not sign: {source}")]
    Vault {
        /// The key's path in Vault.
        key: String,
        /// What happened.
        #[source]
        source: Box<VaultError>,
    },
    /// Vault answered, and not with a signature.
    #[error("{key} in Vault did not sign: {why}")]
    NotSigned {
        /// The key's path in Vault.
        key: String,
        /// What it said.
        why: String,
    },
    /// Vault gave a signature that does not verify under the pinned key.
    #[error(
        "{key} in Vault gave a signature that does not verify under its own public key: nothing was issued with it. Was the key restored or replaced there?"
    )]
    OtherSignature {
        /// The key's path in Vault.
        key: String,
    },
    /// The server ends.
    #[error("the server is stopping: ask again")]
    Stopping,
    /// The file that it is in cannot be used any more.
    #[error("{why}")]
    File {
        /// Why not.
        why: String,
    },
}

/// One private key of an authority.
///
/// Contract, held by `keys::conformance` for every adapter:
/// - The key, its algorithm and its public half never change during the life of the value.
/// - [`Self::sign`] signs exactly the bytes given, in the form that X.509 wants (ECDSA as DER), and the result verifies
///   under [`Self::spki_der`]. It may be called from many tasks at once and may be dropped at any time; a dropped call
///   leaves nothing behind that matters.
/// - Implementations do not retry; the caller has a deadline (`sign_deadline`) and a record to close.
/// - `Debug` shows no private byte.
pub trait Signer: Send + Sync + Debug {
    /// How it signs.
    fn algorithm(&self) -> SignatureAlgorithm;

    /// Its SubjectPublicKeyInfo.
    fn spki_der(&self) -> &[u8];

    /// The signature over `message`, which for a certificate is the recorded TBS.
    ///
    /// # Errors
    /// [`KeyError`]: no signature exists, as far as this adapter can know.
    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, KeyError>>;
}
