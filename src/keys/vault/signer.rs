//! One key in Vault as a [`Signer`].

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::Reference;
use super::api;
use super::batch::Ask;
use crate::keys::{KeyError, Signer};
use crate::x509::{SignatureAlgorithm, SubjectKey};

/// A key that is asked for each signature.
pub(super) struct VaultSigner {
    key: Arc<Reference>,
    public: SubjectKey,
    asks: mpsc::Sender<Ask>,
}

impl VaultSigner {
    pub(super) fn new(reference: &Reference, asks: mpsc::Sender<Ask>) -> Result<Self, KeyError> {
        let algorithm = reference.algorithm();
        let public = SubjectKey::from_spki(reference.spki()).map_err(|_| KeyError::NotAKey { algorithm })?;
        if public.algorithm() != algorithm {
            return Err(KeyError::NotAKey { algorithm });
        }
        Ok(Self { key: Arc::new(reference.clone()), public, asks })
    }
}

impl Signer for VaultSigner {
    fn algorithm(&self) -> SignatureAlgorithm {
        self.public.algorithm().signature()
    }

    fn spki_der(&self) -> &[u8] {
        self.public.spki_der()
    }

    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, KeyError>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let input = api::input(self.algorithm(), message);
            let stopped = || KeyError::Stopping;
            self.asks.send(Ask { key: Arc::clone(&self.key), input, reply }).await.map_err(|_| stopped())?;
            let signature = answer.await.map_err(|_| stopped())??;
            // What another key signed, or was changed on the way, must not become a certificate.
            let is_good = self.algorithm().has_form(&signature)
                && self.public.verify(self.algorithm(), message, &signature).is_ok();
            if is_good { Ok(signature) } else { Err(KeyError::OtherSignature { key: self.key.path() }) }
        })
    }
}

impl fmt::Debug for VaultSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VaultSigner({} v{})", self.public.algorithm(), self.key.version())
    }
}
