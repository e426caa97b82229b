//! What the server shows to its clients: its own certificate, which changes while it listens.
//!
//! `app` puts a new one here whenever it was issued; every handshake takes what is there. The private key goes from the
//! street straight into the TLS library and is kept nowhere else.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Why a certificate cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The TLS library cannot sign with the key.
    #[error("the TLS library cannot use the server's key: {0}")]
    Key(#[source] rustls::Error),
    /// Certificate and key are not a pair.
    #[error("the server's certificate and key do not fit: {0}")]
    Pair(#[source] rustls::Error),
}

/// The server's certificate with its key; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ServerIdentity(Arc<ArcSwapOption<CertifiedKey>>);

impl ServerIdentity {
    /// Shows this chain (leaf first, DER) from now on; `pkcs8` is the leaf's key.
    ///
    /// # Errors
    /// [`IdentityError`]; what was shown before stays.
    pub fn set(&self, chain: &[Vec<u8>], pkcs8: &[u8]) -> Result<(), IdentityError> {
        // Borrowed, so that no copy is left behind.
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8));
        let key = any_supported_type(&key).map_err(IdentityError::Key)?;
        let chain = chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
        let shown = CertifiedKey::new(chain, key);
        shown.keys_match().map_err(IdentityError::Pair)?;
        self.0.store(Some(Arc::new(shown)));
        Ok(())
    }

    /// Whether there is one.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load().is_some()
    }
}

impl ResolvesServerCert for ServerIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}
