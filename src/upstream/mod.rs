//! The port that says who signs our CA certificates, where that is not a root of our own.
//!
//! An [`Upstream`] takes the request of a new issuing CA and gives its certificate with everything above it up to the root,
//! and the CRLs of those above: Envoy refuses a chain of which one CA has none. What it gives is foreign:
//! `ca::authority` checks every byte of it before anything is signed under it. [`vault`] asks Vault's PKI engine.

use std::fmt::Debug;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::vault::VaultError;

pub mod vault;

/// What a new issuing CA asks for. Its path length is to be 0, always.
#[derive(Debug, Clone, Copy)]
pub struct CaRequest<'a> {
    /// The request, PKCS #10 in DER: names and key, signed by that key.
    pub csr: &'a [u8],
    /// The subject key identifier that the certificate is to have, hex: records name the authority by it.
    pub key_id: &'a str,
    /// The common name that is in it.
    pub common_name: &'a str,
    /// How long the certificate is to live.
    pub lifetime: Duration,
}

/// What came back: DER, unchecked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaChain {
    /// The new CA's certificate.
    pub certificate: Vec<u8>,
    /// The CAs above it, nearest first, a root at the end.
    pub above: Vec<Vec<u8>>,
}

/// Why an upstream gave nothing. No variant holds a token, a secret or a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// A Vault gave nothing.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// It failed, or said something else than was asked.
    #[error("{upstream} did not {what}: {why}")]
    Failed {
        /// Which.
        upstream: String,
        /// What was asked.
        what: &'static str,
        /// What it said.
        why: String,
    },
}

/// An authority above ours.
///
/// Contract: neither call changes what was given before; each ends by itself within the adapter's time limit; neither
/// retries (the caller does, later); no secret is in an error.
pub trait Upstream: Send + Sync + Debug {
    /// What it is called in records and messages: `vault https://vault:8200 pki`.
    fn name(&self) -> &str;

    /// Has a CA certificate signed.
    ///
    /// # Errors
    /// [`UpstreamError`]; it may have been signed all the same, and nobody has that certificate then.
    fn sign<'a>(&'a self, request: CaRequest<'a>) -> BoxFuture<'a, Result<CaChain, UpstreamError>>;

    /// The newest CRLs of the CAs above ours, as many as it has, DER. Asks for fresh ones first, where it may.
    ///
    /// # Errors
    /// [`UpstreamError`].
    fn crls(&self) -> BoxFuture<'_, Result<Vec<Vec<u8>>, UpstreamError>>;
}
