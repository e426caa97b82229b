//! A key of ours, encrypted by a key that never leaves Vault.

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::api::NewKey;
use super::{Transit, TransitError};
use crate::keys::KeyError;
use crate::secret::SecretBytes;
use crate::vault::Verb;

/// What Vault made of it, and by which key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrapped {
    mount: String,
    key: String,
    ciphertext: String,
}

#[derive(Serialize)]
struct Plain<'a> {
    plaintext: &'a str,
}

#[derive(Serialize)]
struct Cipher<'a> {
    ciphertext: &'a str,
}

#[derive(Deserialize)]
struct Encrypted {
    ciphertext: String,
}

#[derive(Deserialize)]
struct Decrypted {
    plaintext: Zeroizing<String>,
}

impl Transit {
    /// Has Vault encrypt `plain` by a new key of its own.
    ///
    /// # Errors
    /// [`TransitError`]. A key may have been made all the same; nothing names it then.
    pub async fn wrap(&self, plain: &SecretBytes) -> Result<Wrapped, TransitError> {
        let mut end = [0; 4];
        rand::fill(&mut end).map_err(|_| KeyError::Library { what: "take random bytes" })?;
        let (settings, kept) = (&self.0.settings, &self.0.kept);
        let (mount, key) = (settings.mount.clone(), format!("{}sealing-{}", settings.prefix, hex::encode(end)));
        let new = NewKey { kind: "aes256-gcm96", exportable: false, allow_plaintext_backup: false };
        kept.write("make a key", &format!("{mount}/keys/{key}"), &new).await?;
        let text = Zeroizing::new(STANDARD.encode(plain.expose()));
        let path = format!("{mount}/encrypt/{key}");
        let body = Plain { plaintext: &text };
        let answer: Encrypted = kept.call("wrap the sealing key", Verb::Write, &path, Some(&body)).await?;
        Ok(Wrapped { mount, key, ciphertext: answer.ciphertext })
    }

    /// What [`Self::wrap`] was given.
    ///
    /// # Errors
    /// [`TransitError`].
    pub async fn unwrap(&self, wrapped: &Wrapped) -> Result<SecretBytes, TransitError> {
        let path = format!("{}/decrypt/{}", wrapped.mount, wrapped.key);
        let body = Cipher { ciphertext: &wrapped.ciphertext };
        let answer: Decrypted = self.0.kept.call("unwrap the sealing key", Verb::Write, &path, Some(&body)).await?;
        let plain = STANDARD.decode(answer.plaintext.as_bytes());
        let unusable = || TransitError::Unusable { key: path.clone(), why: "what it gave back is not base64" };
        plain.map(SecretBytes::new).map_err(|_| unusable())
    }
}
