//! The keys of this server's own authorities, wherever each lives: sealed in a file, or in Vault.
//!
//! A key stays where it was made; only the next authority's may be made elsewhere. The directory of keys names all of them,
//! `NAME.sealed` or `NAME.vault`, and no name is given twice. Used by `ca::authority`.

use std::sync::Arc;

use super::file::FileSigner;
use super::sealed::{SealedError, SealedStore};
use super::vault::{Reference, ReferenceError, Transit, TransitError};
use super::{KeyError, Signer};
use crate::x509::KeyAlgorithm;
use crate::x509::profile::Level;

/// Why a key could not be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityKeyError {
    /// A sealed one.
    #[error(transparent)]
    Sealed(#[from] SealedError),
    /// One in Vault, by what is written here.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// One in Vault, by what Vault says.
    #[error(transparent)]
    Vault(#[from] TransitError),
    /// Its public half.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It is in Vault, and no Vault is configured.
    #[error("the key {name} is in Vault ({path}), and the configuration names none: write [keys.vault] again")]
    NoVault {
        /// The key's name here.
        name: String,
        /// Its path there.
        path: String,
    },
}

/// All of them.
#[derive(Debug)]
pub struct AuthorityKeys {
    sealed: SealedStore,
    vault: Option<InVault>,
}

/// The Vault that holds keys, and whose are made there from now on.
#[derive(Debug)]
pub struct InVault {
    /// Where.
    pub transit: Transit,
    /// The levels whose next authority's key is made there.
    pub levels: Vec<Level>,
}

impl From<SealedStore> for AuthorityKeys {
    fn from(sealed: SealedStore) -> Self {
        Self { sealed, vault: None }
    }
}

impl AuthorityKeys {
    /// Those of `sealed`'s directory, and those in Vault that it names.
    #[must_use]
    pub fn new(sealed: SealedStore, vault: Option<InVault>) -> Self {
        Self { sealed, vault }
    }

    /// Makes a key under `name` for an authority of `level` and gives it; it, or what names it, is durable when this
    /// returns. A crash before leaves at most a key in Vault that nothing names.
    ///
    /// # Errors
    /// [`AuthorityKeyError`].
    pub async fn make(
        &self,
        name: &str,
        algorithm: KeyAlgorithm,
        level: Level,
    ) -> Result<Arc<dyn Signer>, AuthorityKeyError> {
        match self.vault.as_ref().filter(|vault| vault.levels.contains(&level)) {
            None => Ok(self.sealed.generate(name, algorithm)?),
            Some(InVault { transit, .. }) => {
                let reference = transit.make(name, algorithm).await?;
                reference.store(self.sealed.directory())?;
                Ok(transit.open(&reference)?)
            }
        }
    }

    /// The key that was made under `name`. Vault is not asked.
    ///
    /// # Errors
    /// [`AuthorityKeyError`].
    pub fn open(&self, name: &str) -> Result<Arc<dyn Signer>, AuthorityKeyError> {
        let Some(reference) = Reference::read(self.sealed.directory(), name)? else {
            return Ok(self.sealed.load(name)?);
        };
        let none = || AuthorityKeyError::NoVault { name: name.to_owned(), path: reference.path() };
        Ok(self.vault.as_ref().ok_or_else(none)?.transit.open(&reference)?)
    }

    /// Takes over a key that its operator had in a file, sealed under `name`.
    ///
    /// # Errors
    /// [`AuthorityKeyError`].
    pub fn import(&self, name: &str, key: &FileSigner) -> Result<Arc<dyn Signer>, AuthorityKeyError> {
        Ok(self.sealed.import(name, key)?)
    }

    /// Removes a key that never signed anything for others; one in Vault stays there, and nothing names it any more.
    ///
    /// # Errors
    /// [`AuthorityKeyError`].
    pub fn destroy(&self, name: &str) -> Result<(), AuthorityKeyError> {
        match Reference::read(self.sealed.directory(), name)? {
            Some(_) => Ok(Reference::remove(self.sealed.directory(), name)?),
            None => Ok(self.sealed.destroy(name)?),
        }
    }

    /// Where the key under `name` is in Vault; nothing for a sealed one.
    ///
    /// # Errors
    /// [`AuthorityKeyError`].
    pub fn in_vault(&self, name: &str) -> Result<Option<String>, AuthorityKeyError> {
        let reference = Reference::read(self.sealed.directory(), name)?;
        Ok(reference.map(|reference| format!("{} v{}", reference.path(), reference.version())))
    }

    /// The names of all, sorted.
    ///
    /// # Errors
    /// [`AuthorityKeyError`].
    pub fn list(&self) -> Result<Vec<String>, AuthorityKeyError> {
        let directory = self.sealed.directory();
        let failed = |source| SealedError::Directory { path: directory.to_owned(), source };
        let mut all = self.sealed.list()?;
        all.extend(Reference::list(directory).map_err(failed)?);
        all.sort();
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_vault_only_sealed_keys_are_made_and_opened() {
        let dir = tempfile::tempdir().unwrap();
        let keys = AuthorityKeys::from(SealedStore::open(&dir.path().join("keys"), None).unwrap());
        let made = keys.make("root-1", KeyAlgorithm::P256, Level::Root).await.unwrap();
        assert_eq!(keys.open("root-1").unwrap().spki_der(), made.spki_der());
        assert_eq!(keys.in_vault("root-1").unwrap(), None);
        let elsewhere = Reference::new("issuing-1", "transit", "k", 1, KeyAlgorithm::P256, made.spki_der().to_vec());
        elsewhere.store(&dir.path().join("keys")).unwrap();
        assert!(matches!(keys.open("issuing-1"), Err(AuthorityKeyError::NoVault { .. })));
        assert_eq!(keys.list().unwrap(), ["issuing-1", "root-1"]);
    }
}
