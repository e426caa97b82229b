//! The sealing key: wrapped by Vault's Transit engine, or moved and replaced, so that a crash at any line is finished by the
//! next try.
//!
//! Where it is: `sealing.key` beside the keys, a file elsewhere, or `sealing.vault`, which holds it encrypted by a key that
//! never leaves Vault; then it is in this process's memory only, and a start asks Vault for it. Moving it, with the server
//! stopped ([`Reseal`]):
//!
//! 1. the next sealing key is written as `sealing.*.next`. From here on a start is refused, and the next try takes it up;
//! 2. the caller records it;
//! 3. each file is sealed under it, one after the other. A file names its sealing key, so both kinds are told apart;
//! 4. what held the old key is removed, then the next one gets its name.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::sealed::{self, SealedError, SealedStore};
use super::vault::{Transit, TransitError, Wrapped};
use crate::secret::{self, SecretBytes, SecretFileError};

/// The file with the sealing key as Vault wrapped it.
const WRAPPED: &str = "sealing.vault";
/// The version of that file that is written and read.
const FORMAT: u32 = 1;

/// Where the sealing key is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Beside the keys.
    Beside,
    /// In this file, which its operator made.
    File(PathBuf),
    /// Wrapped by Vault.
    Vault,
}

/// How the keys are being opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Now {
    /// With a sealing key beside them or in a file.
    HereOrElsewhere,
    /// With one that Vault unwraps.
    Vault,
}

/// Why the sealing key could not be unwrapped or moved.
#[derive(Debug, thiserror::Error)]
pub enum ResealError {
    /// The files.
    #[error(transparent)]
    Sealed(#[from] SealedError),
    /// A file of a sealing key.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// Vault.
    #[error("the sealing key is in Vault's hands: {0}")]
    Vault(#[from] TransitError),
    /// There is none.
    #[error("the sealing key is wrapped by Vault, and the configuration names none: write [keys.vault] again")]
    NoVault,
    /// The keys are sealed otherwise.
    #[error("keys.vault.sealing is true, but {path} is missing: with the server stopped, chancery ca reseal seals the keys so", path = path.display())]
    NotWrapped {
        /// Where it should be.
        path: PathBuf,
    },
    /// It holds something else.
    #[error("{path} holds no wrapped sealing key: put it back from a backup", path = path.display())]
    Form {
        /// The file.
        path: PathBuf,
    },
    /// Another one was cut off.
    #[error("{path} is left of another reseal: finish that first, with the configuration as it was then", path = path.display())]
    Other {
        /// What is left.
        path: PathBuf,
    },
    /// A file is sealed under a key that was not given.
    #[error("{name} is sealed under {id}, and none of the sealing keys at hand is that one: name its file with --from")]
    Unknown {
        /// The key's name.
        name: String,
        /// Its sealing key.
        id: String,
    },
}

/// `sealing.vault`.
#[derive(Serialize, Deserialize)]
struct File {
    chancery_wrapped_key: u32,
    #[serde(flatten)]
    wrapped: Wrapped,
}

/// Whether nothing was cut off in `directory`, and it is sealed as it is being opened.
pub(super) fn check_whole(directory: &Path, now: Now) -> Result<(), SealedError> {
    for target in [Target::Beside, Target::File(PathBuf::new()), Target::Vault] {
        let path = directory.join(target.next());
        if path.exists() {
            return Err(SealedError::CutOff { path });
        }
    }
    let path = directory.join(WRAPPED);
    match now {
        Now::HereOrElsewhere if path.exists() => Err(SealedError::InVault { path }),
        Now::HereOrElsewhere | Now::Vault => Ok(()),
    }
}

/// The sealed keys of `directory`, whose sealing key Vault unwraps; the first start has it made there.
///
/// # Errors
/// [`ResealError`].
pub async fn open_in_vault(directory: &Path, transit: &Transit) -> Result<SealedStore, ResealError> {
    sealed::prepare(directory)?;
    check_whole(directory, Now::Vault)?;
    let (path, beside) = (directory.join(WRAPPED), directory.join(sealed::SEALING_KEY));
    if beside.exists() || (!path.exists() && sealed::holds_keys(directory)?) {
        return Err(ResealError::NotWrapped { path });
    }
    if !path.exists() {
        return Ok(SealedStore::with_key(directory, &wrap_into(&path, transit).await?)?);
    }
    Ok(SealedStore::with_key(directory, &unwrap(&path, transit).await?)?)
}

/// Moves the keys of a directory from the sealing keys at hand to another.
#[derive(Debug)]
pub struct Reseal {
    directory: PathBuf,
    target: Target,
    to: SealedStore,
    from: Vec<SealedStore>,
    names: Vec<String>,
}

impl Reseal {
    /// Step 1. `from` is the file of the present sealing key where that is neither beside the keys nor wrapped.
    ///
    /// # Errors
    /// [`ResealError`]; no key was touched.
    pub async fn begin(
        directory: &Path,
        target: Target,
        from: Option<&Path>,
        transit: Option<&Transit>,
    ) -> Result<Self, ResealError> {
        sealed::prepare(directory)?;
        for other in [Target::Beside, Target::File(PathBuf::new()), Target::Vault] {
            let path = directory.join(other.next());
            if path.exists() && other.next() != target.next() {
                return Err(ResealError::Other { path });
            }
        }
        let mut stores = Vec::new();
        let beside = directory.join(sealed::SEALING_KEY);
        if beside.exists() {
            stores.push(read(directory, &beside)?);
        }
        let wrapped = directory.join(WRAPPED);
        if wrapped.exists() {
            let key = unwrap(&wrapped, transit.ok_or(ResealError::NoVault)?).await?;
            stores.push(SealedStore::with_key(directory, &key)?);
        }
        if let Some(file) = from {
            stores.push(read(directory, file)?);
        }
        let to = next(directory, &target, transit).await?;
        let names = to.list()?;
        let reseal = Self { directory: directory.to_owned(), target, to, from: stores, names };
        for name in &reseal.names {
            reseal.store_of(name)?;
        }
        Ok(reseal)
    }

    /// How many keys there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.names.len()
    }

    /// The sealing keys before and after, as their identifiers.
    #[must_use]
    pub fn ids(&self) -> (Vec<String>, String) {
        let from = self.from.iter().map(|store| store.seal_id().to_owned());
        (from.filter(|id| id != self.to.seal_id()).collect(), self.to.seal_id().to_owned())
    }

    /// A secret among the keys, under whichever sealing key it is.
    ///
    /// # Errors
    /// [`ResealError`].
    pub fn secret(&self, name: &str) -> Result<SecretBytes, ResealError> {
        Ok(self.store_of(name)?.get_secret(name)?)
    }

    /// Steps 3 and 4. It was recorded before.
    ///
    /// # Errors
    /// [`ResealError`]; the next try goes on from there.
    pub fn carry_out(self) -> Result<(), ResealError> {
        for name in &self.names {
            let store = self.store_of(name)?;
            if store.seal_id() != self.to.seal_id() {
                self.to.take_over(store, name)?;
            }
        }
        let next = self.directory.join(self.target.next());
        let (old, last) = match self.target {
            Target::Beside => (vec![WRAPPED], Some(sealed::SEALING_KEY)),
            Target::File(_) => (vec![sealed::SEALING_KEY, WRAPPED], None),
            Target::Vault => (vec![sealed::SEALING_KEY], Some(WRAPPED)),
        };
        let io = |source| SealedError::Directory { path: self.directory.clone(), source };
        for old in old {
            let path = self.directory.join(old);
            if path.exists() {
                fs::remove_file(path).map_err(io)?;
            }
        }
        secret::sync_directory(&self.directory).map_err(io)?;
        match last {
            Some(last) => fs::rename(next, self.directory.join(last)).map_err(io)?,
            None => fs::remove_file(next).map_err(io)?,
        }
        Ok(secret::sync_directory(&self.directory).map_err(io)?)
    }

    /// The store whose key `name` is sealed under.
    fn store_of(&self, name: &str) -> Result<&SealedStore, ResealError> {
        let id = self.to.sealed_under(name)?;
        let found = std::iter::once(&self.to).chain(&self.from).find(|store| store.seal_id() == id);
        found.ok_or_else(|| ResealError::Unknown { name: name.to_owned(), id })
    }
}

impl Target {
    /// The file that the next sealing key is in, or that says where it is, until it is the sealing key.
    fn next(&self) -> &'static str {
        match self {
            Self::Beside => "sealing.key.next",
            Self::File(_) => "sealing.file.next",
            Self::Vault => "sealing.vault.next",
        }
    }
}

/// The store under the next sealing key, which is made unless a try before made it.
async fn next(directory: &Path, target: &Target, transit: Option<&Transit>) -> Result<SealedStore, ResealError> {
    let path = directory.join(target.next());
    match target {
        Target::Beside => {
            if !path.exists() {
                sealed::make_sealing_key(&path)?;
            }
            read(directory, &path)
        }
        Target::File(file) => {
            let store = read(directory, file)?;
            secret::write_private(&path, format!("{}\n", file.display()).as_bytes())?;
            Ok(store)
        }
        Target::Vault => {
            let transit = transit.ok_or(ResealError::NoVault)?;
            let key = if path.exists() { unwrap(&path, transit).await? } else { wrap_into(&path, transit).await? };
            Ok(SealedStore::with_key(directory, &key)?)
        }
    }
}

/// With the sealing key in `file`.
fn read(directory: &Path, file: &Path) -> Result<SealedStore, ResealError> {
    let text = secret::read_credential(file)?;
    let key = sealed::sealing_key(text.expose());
    let key = key.ok_or_else(|| SealedError::NotASealingKey { path: file.to_owned() })?;
    Ok(SealedStore::with_key(directory, &key)?)
}

/// A new sealing key, wrapped by Vault into `path`; durable when this returns.
async fn wrap_into(path: &Path, transit: &Transit) -> Result<SecretBytes, ResealError> {
    let key = SecretBytes::new(sealed::random::<32>().map_err(SealedError::from)?.to_vec());
    let wrapped = transit.wrap(&key).await?;
    // Held against what Vault gives back: a key that cannot be unwrapped would lose all others.
    if transit.unwrap(&wrapped).await?.expose() != key.expose() {
        return Err(ResealError::Form { path: path.to_owned() });
    }
    let file = File { chancery_wrapped_key: FORMAT, wrapped };
    let mut text = serde_json::to_vec(&file).expect("strings and numbers always serialise");
    text.push(b'\n');
    secret::write_private(path, &text)?;
    Ok(key)
}

async fn unwrap(path: &Path, transit: &Transit) -> Result<SecretBytes, ResealError> {
    let text = secret::read_private(path)?;
    let file: Option<File> = serde_json::from_slice(text.expose()).ok();
    let form = || ResealError::Form { path: path.to_owned() };
    let file = file.filter(|file| file.chancery_wrapped_key == FORMAT).ok_or_else(form)?;
    let key = transit.unwrap(&file.wrapped).await?;
    if key.expose().len() == 32 { Ok(key) } else { Err(form()) }
}

#[cfg(test)]
mod tests;
