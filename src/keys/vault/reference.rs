//! The file that says where in Vault a key is: no secret, but what an authority's certificate is held against.
//!
//! It lies beside the sealed keys, `issuing-3.vault` beside `issuing-2.sealed`, and pins version and public half. Whoever
//! could edit it could make this server ask for another key's signatures, which then do not verify: nothing is signed
//! under a key that the certificate does not have.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::secret::{self, SecretFileError};
use crate::x509::KeyAlgorithm;

/// The version that this program writes, and the newest that it reads.
const FORMAT: u32 = 1;
/// The extension of references.
const EXTENSION: &str = "vault";

/// Where a key is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    chancery_vault_key: u32,
    name: String,
    mount: String,
    key: String,
    version: u64,
    algorithm: KeyAlgorithm,
    public_key: String,
}

/// Why a reference cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// Wrong permissions, a wrong owner, or unreadable.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// It holds something else.
    #[error("{path} does not say where in Vault the key {name} is: put it back from a backup", path = path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// The key's name.
        name: String,
    },
    /// There is one, and it is not overwritten.
    #[error("{path} is there already: a key is never overwritten", path = path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
}

impl Reference {
    pub(in crate::keys) fn new(
        name: &str,
        mount: &str,
        key: &str,
        version: u64,
        algorithm: KeyAlgorithm,
        spki: Vec<u8>,
    ) -> Self {
        let public_key = STANDARD.encode(spki);
        let (name, mount, key) = (name.to_owned(), mount.to_owned(), key.to_owned());
        Self { chancery_vault_key: FORMAT, name, mount, key, version, algorithm, public_key }
    }

    /// The key's name here: `issuing-3`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its kind.
    #[must_use]
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// The pinned version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Its path in Vault, for messages and records: `transit/keys/chancery-issuing-3-5f2a9c01`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}/keys/{}", self.mount, self.key)
    }

    pub(super) fn signing_path(&self) -> String {
        format!("{}/sign/{}", self.mount, self.key)
    }

    pub(super) fn spki(&self) -> Vec<u8> {
        STANDARD.decode(&self.public_key).unwrap_or_default()
    }

    /// Writes it into `directory`; durable when this returns.
    ///
    /// # Errors
    /// [`ReferenceError`].
    pub fn store(&self, directory: &Path) -> Result<(), ReferenceError> {
        let path = file(directory, &self.name);
        if path.exists() {
            return Err(ReferenceError::Exists { path });
        }
        let mut text = serde_json::to_vec(self).expect("strings and numbers always serialise");
        text.push(b'\n');
        Ok(secret::write_private(&path, &text)?)
    }

    /// The one of `name`, if there is one.
    ///
    /// # Errors
    /// [`ReferenceError`].
    pub fn read(directory: &Path, name: &str) -> Result<Option<Self>, ReferenceError> {
        let path = file(directory, name);
        if !path.exists() {
            return Ok(None);
        }
        let text = secret::read_private(&path)?;
        let found: Option<Self> = serde_json::from_slice(text.expose()).ok();
        let found = found.filter(|found| found.chancery_vault_key == FORMAT && found.name == name && found.is_plain());
        found.map(Some).ok_or_else(|| ReferenceError::Form { path, name: name.to_owned() })
    }

    /// Removes the one of `name`; durable when this returns.
    ///
    /// # Errors
    /// [`ReferenceError`].
    pub fn remove(directory: &Path, name: &str) -> Result<(), ReferenceError> {
        let path = file(directory, name);
        let removed = fs::remove_file(&path).and_then(|()| secret::sync_directory(directory));
        removed.map_err(|source| SecretFileError::Io { path, source }.into())
    }

    /// The names of all in `directory`.
    ///
    /// # Errors
    /// What the system said.
    pub fn list(directory: &Path) -> std::io::Result<Vec<String>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let name = path.file_stem().and_then(|name| name.to_str());
            if let Some(name) = name.filter(|_| path.extension().is_some_and(|extension| extension == EXTENSION)) {
                found.push(name.to_owned());
            }
        }
        Ok(found)
    }

    /// Whether its parts are what may stand in a path of Vault's.
    fn is_plain(&self) -> bool {
        let plain = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
                && !text.contains("..")
        };
        plain(&self.mount) && plain(&self.key) && !self.key.contains('/')
    }
}

fn file(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.{EXTENSION}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let one =
            Reference::new("issuing-3", "pki/transit", "chancery-issuing-3-0a", 2, KeyAlgorithm::P384, vec![1, 2]);
        one.store(dir.path()).unwrap();
        assert_eq!(Reference::read(dir.path(), "issuing-3").unwrap(), Some(one.clone()));
        assert!(matches!(one.store(dir.path()), Err(ReferenceError::Exists { .. })));
        assert_eq!(Reference::read(dir.path(), "issuing-4").unwrap(), None);
        assert_eq!(Reference::list(dir.path()).unwrap(), ["issuing-3"]);
        assert_eq!(one.signing_path(), "pki/transit/sign/chancery-issuing-3-0a");
        let file = file(dir.path(), "issuing-3");
        let good = fs::read_to_string(&file).unwrap();
        for (from, to) in
            [("issuing-3\"", "issuing-2\""), ("pki/transit", "../sys"), ("\"p384\"", "\"p999\""), ("{", "")]
        {
            secret::write_private(&file, good.replacen(from, to, 1).as_bytes()).unwrap();
            assert!(matches!(Reference::read(dir.path(), "issuing-3"), Err(ReferenceError::Form { .. })), "{to}");
        }
    }
}
