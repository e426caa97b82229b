//! The port that says who signs our CA certificates, where that is not a root of our own.
//!
//! An [`Upstream`] takes the request of a new issuing CA and gives its certificate with everything above it up to the root,
//! and the CRLs of those above: Envoy refuses a chain of which one CA has none. What it gives is foreign:
//! `ca::authority` checks every byte of it before anything is signed under it. [`vault`] asks Vault's PKI engine, [`files`]
//! has an existing CA in PEM files.

use std::fmt::Debug;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::keys::file::FileSigner;
use crate::x509::{Serial, pem};

pub mod files;
pub mod vault;

/// The largest file or answer that is read, in bytes: a CRL of some 300,000 entries.
pub const LARGEST_CRL: u64 = 16 << 20;

/// Which upstream, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamSettings {
    /// Vault's PKI engine.
    Vault(vault::VaultSettings),
    /// An existing CA in files.
    Files(files::FilesSettings),
}

impl UpstreamSettings {
    /// The adapter; nothing is asked yet.
    #[must_use]
    pub fn build(self) -> Arc<dyn Upstream> {
        match self {
            Self::Vault(settings) => Arc::new(vault::Vault::new(settings)),
            Self::Files(settings) => Arc::new(files::Files::new(settings)),
        }
    }
}

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

/// A CA above ours whose key is here: `ca` signs with it, as with a root of our own, after the record.
#[derive(Debug)]
pub struct HeldCa {
    /// Its certificate, DER, unchecked.
    pub certificate: Vec<u8>,
    /// The CAs above it, nearest first, a root at the end.
    pub above: Vec<Vec<u8>>,
    /// Its key.
    pub key: FileSigner,
    /// Who makes its CRLs.
    pub lists: ListsOfHeld,
}

/// Who makes the CRLs of a CA whose key is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListsOfHeld {
    /// This server.
    MadeHere,
    /// Its owner, who puts them into files: two makers would contradict each other.
    InFiles,
}

/// Why an upstream gave nothing. No variant holds a token, a secret or a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// It cannot be reached, or did not answer in time.
    #[error(
        "{upstream} cannot be reached ({why}): see that it runs, and check address and ca_file in [upstream.vault]"
    )]
    Unreachable {
        /// Which.
        upstream: String,
        /// What happened.
        why: String,
    },
    /// It is sealed, or not initialised.
    #[error("{upstream} is sealed or not ready ({why}): unseal it; what was issued before goes on being served")]
    Sealed {
        /// Which.
        upstream: String,
        /// What it said.
        why: String,
    },
    /// It does not let us.
    #[error(
        "{upstream} refuses {what} ({why}): check [upstream.vault.login] and the policy of its token (docs/upstream.md)"
    )]
    Refused {
        /// Which.
        upstream: String,
        /// What was asked.
        what: &'static str,
        /// What it said.
        why: String,
    },
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
    /// A file of ours that it takes to log in cannot be used.
    #[error("the login to {upstream} cannot be read: {why}")]
    Login {
        /// Which.
        upstream: String,
        /// What is wrong.
        why: String,
    },
    /// Its files cannot be used.
    #[error("{upstream} cannot be used: {why}")]
    Files {
        /// Which.
        upstream: String,
        /// What is wrong, and where.
        why: String,
    },
    /// Somebody has to revoke by hand.
    #[error(
        "whoever has the key of {upstream} must revoke the serial {serial} and put its new CRL into the files (crl_files)"
    )]
    ByHand {
        /// Which.
        upstream: String,
        /// What.
        serial: String,
    },
    /// Somebody has to sign by hand, and has not yet.
    #[error(
        "the issuing CA is not signed yet: have {request} signed by the CA of {upstream}, and put the certificate, with the CAs above it, into {answer} (docs/upstream.md)"
    )]
    Waiting {
        /// Which.
        upstream: String,
        /// The request.
        request: String,
        /// Where the answer is looked for.
        answer: String,
    },
}

/// An authority above ours.
///
/// Contract: neither call changes what was given before; each ends by itself within the adapter's time limit; neither
/// retries (the caller does, later); no secret is in an error.
pub trait Upstream: Send + Sync + Debug {
    /// What it is called in records and messages: `vault https://vault:8200 pki`.
    fn name(&self) -> &str;

    /// The CA that signs, where its key is here: `ca` drafts, records and signs under it itself, and [`Self::sign`] is not
    /// called.
    ///
    /// # Errors
    /// [`UpstreamError::Files`].
    fn held(&self) -> Result<Option<HeldCa>, UpstreamError> {
        Ok(None)
    }

    /// Has a CA certificate signed.
    ///
    /// # Errors
    /// [`UpstreamError`]; it may have been signed all the same, and nobody has that certificate then.
    fn sign<'a>(&'a self, request: CaRequest<'a>) -> BoxFuture<'a, Result<CaChain, UpstreamError>>;

    /// Revokes a certificate that it signed; one that is revoked already stays so.
    ///
    /// # Errors
    /// [`UpstreamError::ByHand`] where only its owner can.
    fn revoke<'a>(&'a self, serial: &'a Serial) -> BoxFuture<'a, Result<(), UpstreamError>>;

    /// The newest CRLs of the CAs above ours, as many as it has, DER. Asks for fresh ones first, where it may.
    ///
    /// # Errors
    /// [`UpstreamError`].
    fn crls(&self) -> BoxFuture<'_, Result<Vec<Vec<u8>>, UpstreamError>>;
}

/// The whole of a file of certificates or CRLs.
fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST_CRL + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_CRL {
        return Err(std::io::Error::other(format!("larger than {LARGEST_CRL} bytes")));
    }
    Ok(bytes)
}

/// The CRLs of a file: PEM, or one in DER.
fn crls_in(bytes: Vec<u8>) -> Vec<Vec<u8>> {
    if !pem::looks_like_pem(&bytes) {
        return vec![bytes];
    }
    let blocks = pem::decode(&bytes).unwrap_or_default();
    blocks.into_iter().filter(|block| block.label == pem::CRL).map(|block| block.der).collect()
}
