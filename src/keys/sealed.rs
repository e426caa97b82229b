//! Authority keys in files, encrypted with AES-256-GCM under a sealing key that lies beside them or in a file of its own.
//!
//! Be plain about what this is worth: beside them, whoever reads the directory has both halves, so sealing protects nothing
//! by itself. A sealing key elsewhere (`keys.sealing_key`, a credential of systemd) parts a stolen disk or backup from its
//! keys; a thief in the running machine has both all the same. Beside them, it keeps a key out of accidental copies of single files (a backup of `keys/` without `sealing.key`, a support bundle,
//! a grep) and gives each file an integrity check. Real protection is another adapter (a key service, an HSM).
//!
//! A file is one line of JSON (the header) and then the ciphertext with its tag. The header names format version, key,
//! kind, sealing key and nonce, and is the associated data: a file that was renamed, mixed or edited does not open. Files
//! and directory belong to the server's user, 0600 and 0700; anything wider is refused on reading. Used by `ca::slot` for
//! authorities and by the ledger for its checkpoint key ([`SealedStore::put_secret`]). A lost sealing key is never
//! replaced silently: the keys under it would be lost with it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::file::FileSigner;
use super::memory::MemorySigner;
use super::private::PrivateKey;
use super::{KeyError, Signer};
use crate::secret::{self, SecretBytes, SecretFileError};
use crate::x509::KeyAlgorithm;

/// The version that this program writes, and the newest that it reads.
const VERSION: u32 = 1;
/// The file with the sealing key.
const SEALING_KEY: &str = "sealing.key";
/// What the sealing key's file begins with, so that nobody takes it for something else.
const SEALING_MARK: &str = "chancery-sealing-key-1 ";
/// The extension of sealed files.
const EXTENSION: &str = "sealed";
/// The longest name of a key; it becomes a file name.
const LONGEST_NAME: usize = 64;

/// Why a sealed key could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum SealedError {
    /// The directory cannot be made or listed.
    #[error("{path}: {source}", path = path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Others may change the directory, and so exchange keys.
    #[error("{path} has mode {mode:04o} and uid {owner}: keys are kept only where nobody else can write: chown it to this server's user and chmod 0700", path = path.display())]
    OpenDirectory {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Whose it is.
        owner: u32,
    },
    /// A file has wrong permissions, a wrong owner, or cannot be read.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// There are sealed keys but no sealing key.
    #[error("{path} is missing although keys are sealed under it: put it back from a backup; without it they are lost, and only a new CA in an empty data directory helps", path = path.display())]
    NoSealingKey {
        /// Where it should be.
        path: PathBuf,
    },
    /// A sealing key is configured elsewhere, and one lies beside the keys.
    #[error("{path} is there although keys.sealing_key names another file: move it to that place, so that there is one", path = path.display())]
    TwoSealingKeys {
        /// The one beside the keys.
        path: PathBuf,
    },
    /// The sealing key's file holds something else.
    #[error("{path} is no sealing key: put it back from a backup, or for a new installation make one with chancery config sealing-key FILE", path = path.display())]
    NotASealingKey {
        /// The file.
        path: PathBuf,
    },
    /// No key of this name.
    #[error("there is no key {name} in {path}: put {name}.{EXTENSION} back from a backup", path = path.display())]
    Missing {
        /// The name.
        name: String,
        /// The directory.
        path: PathBuf,
    },
    /// A key of this name exists and is not overwritten.
    #[error("there is already a key {name} in {path}: a key is never overwritten; choose another name", path = path.display())]
    Exists {
        /// The name.
        name: String,
        /// The directory.
        path: PathBuf,
    },
    /// A name that is no safe file name.
    #[error("{name:?} is no name for a key: at most {LONGEST_NAME} of a-z, 0-9 and -, beginning with a letter")]
    Name {
        /// What was given.
        name: String,
    },
    /// Sealed under another sealing key than the one beside it.
    #[error("{path} was sealed under another sealing key ({theirs}, here is {ours}): the file or {SEALING_KEY} comes from another installation or an older backup; put back the pair that belongs together", path = path.display())]
    OtherSealingKey {
        /// The file.
        path: PathBuf,
        /// The sealing key it names.
        theirs: String,
        /// The one we have.
        ours: String,
    },
    /// The file says it holds a key of another name.
    #[error("{path} holds the key {found}: it was renamed; give it its name back", path = path.display())]
    Renamed {
        /// The file.
        path: PathBuf,
        /// The name inside.
        found: String,
    },
    /// Written by a newer version.
    #[error("{path} has format {found}, this program knows up to {VERSION}: run the newer chancery that wrote it", path = path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Changed or cut short.
    #[error("{path} is damaged: its content does not match its seal; put it back from a backup", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// It holds something else than was asked for.
    #[error("{path} holds {found}, not {wanted}: the name belongs to something else", path = path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: String,
        /// What was wanted.
        wanted: &'static str,
    },
    /// The key itself could not be made or used.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// A directory of sealed keys, opened. One process uses it at a time (the data directory's lock).
pub struct SealedStore {
    directory: PathBuf,
    seal: LessSafeKey,
    /// The first 64 bits of a hash of the sealing key: enough to tell two apart, useless to find either.
    seal_id: String,
}

/// The first line of a sealed file, and its associated data.
#[derive(Serialize, Deserialize)]
struct Header {
    chancery_sealed: u32,
    name: String,
    kind: String,
    sealing_key: String,
    nonce: String,
}

/// The kind of a file that holds no authority key.
const SECRET_KIND: &str = "secret";

impl SealedStore {
    /// Opens `directory`, making it when there is none. The sealing key is read from the file `elsewhere`, which its
    /// operator made; without one it lies in the directory and is made when there is nothing yet.
    ///
    /// # Errors
    /// [`SealedError`] about the directory or the sealing key.
    pub fn open(directory: &Path, elsewhere: Option<&Path>) -> Result<Self, SealedError> {
        let failed = |source| SealedError::Directory { path: directory.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let facts = fs::metadata(directory).map_err(failed)?;
        if facts.mode() & 0o022 != 0 || facts.uid() != nix::unistd::geteuid().as_raw() {
            let (mode, owner) = (facts.mode() & 0o7777, facts.uid());
            return Err(SealedError::OpenDirectory { path: directory.to_owned(), mode, owner });
        }
        let beside = directory.join(SEALING_KEY);
        let (text, path) = match elsewhere {
            Some(_) if beside.exists() => return Err(SealedError::TwoSealingKeys { path: beside }),
            Some(path) => (secret::read_credential(path)?, path.to_owned()),
            None => {
                if !beside.exists() {
                    if names(directory).map_err(failed)?.next().is_some() {
                        return Err(SealedError::NoSealingKey { path: beside });
                    }
                    make_sealing_key(&beside)?;
                }
                (secret::read_private(&beside)?, beside)
            }
        };
        let key = sealing_key(text.expose()).ok_or(SealedError::NotASealingKey { path })?;
        let unbound = UnboundKey::new(&AES_256_GCM, key.expose()).map_err(|_| KeyError::Library { what: "seal" })?;
        let labelled = [b"chancery sealing key id\0", key.expose()].concat();
        let labelled = SecretBytes::new(labelled);
        let id = digest::digest(&digest::SHA256, labelled.expose());
        let seal_id = hex::encode(id.as_ref().iter().take(8).copied().collect::<Vec<u8>>());
        Ok(Self { directory: directory.to_owned(), seal: LessSafeKey::new(unbound), seal_id })
    }

    /// Makes a key, stores it under `name` and gives it; it is durable when this returns. RSA blocks for long.
    ///
    /// # Errors
    /// [`SealedError::Exists`], [`SealedError::Name`], or what the system or the library refused.
    pub fn generate(&self, name: &str, algorithm: impl Into<KeyAlgorithm>) -> Result<Arc<dyn Signer>, SealedError> {
        let algorithm = algorithm.into();
        // Before the work of making an RSA key.
        self.free(name)?;
        let signer = MemorySigner::new(PrivateKey::generate(algorithm)?);
        self.put(name, algorithm.as_str(), &signer.key().pkcs8()?)?;
        Ok(Arc::new(signer))
    }

    /// Stores a key that lies in a file of its operator's, from now on independent of it; durable when this returns.
    ///
    /// # Errors
    /// As [`Self::generate`], or [`KeyError::File`].
    pub fn import(&self, name: &str, from: &FileSigner) -> Result<Arc<dyn Signer>, SealedError> {
        self.free(name)?;
        let signer = MemorySigner::new(from.read()?);
        self.put(name, from.key_algorithm().as_str(), &signer.key().pkcs8()?)?;
        Ok(Arc::new(signer))
    }

    /// The key that was stored under `name`.
    ///
    /// # Errors
    /// Every variant of [`SealedError`] about a file.
    pub fn load(&self, name: &str) -> Result<Arc<dyn Signer>, SealedError> {
        let (kind, plain, path) = self.get(name)?;
        let Ok(algorithm) = kind.parse::<KeyAlgorithm>() else {
            return Err(SealedError::Kind { path, found: kind, wanted: "an authority's key" });
        };
        Ok(Arc::new(MemorySigner::new(PrivateKey::from_pkcs8(algorithm, plain.expose())?)))
    }

    /// Stores bytes that are no authority key, such as the ledger's signing key; durable when this returns.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub fn put_secret(&self, name: &str, plain: &SecretBytes) -> Result<(), SealedError> {
        self.free(name)?;
        self.put(name, SECRET_KIND, plain)
    }

    /// What [`Self::put_secret`] stored.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn get_secret(&self, name: &str) -> Result<SecretBytes, SealedError> {
        let (kind, plain, path) = self.get(name)?;
        if kind == SECRET_KIND { Ok(plain) } else { Err(SealedError::Kind { path, found: kind, wanted: SECRET_KIND }) }
    }

    /// Removes a key for ever, one that never signed anything: its file is gone when this returns, and the number in its
    /// name stays used.
    ///
    /// # Errors
    /// [`SealedError::Name`], or what the system said.
    pub fn destroy(&self, name: &str) -> Result<(), SealedError> {
        let path = self.path(name)?;
        let removed = fs::remove_file(&path).and_then(|()| secret::sync_directory(&self.directory));
        removed.map_err(|source| SealedError::Directory { path, source })
    }

    /// The names of all sealed files, sorted.
    ///
    /// # Errors
    /// [`SealedError::Directory`].
    pub fn list(&self) -> Result<Vec<String>, SealedError> {
        let failed = |source| SealedError::Directory { path: self.directory.clone(), source };
        let mut found: Vec<String> = names(&self.directory).map_err(failed)?.collect();
        found.sort();
        Ok(found)
    }

    fn path(&self, name: &str) -> Result<PathBuf, SealedError> {
        let safe = name.len() <= LONGEST_NAME
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-'));
        if !safe {
            return Err(SealedError::Name { name: name.chars().take(LONGEST_NAME).collect() });
        }
        Ok(self.directory.join(format!("{name}.{EXTENSION}")))
    }

    fn free(&self, name: &str) -> Result<(), SealedError> {
        let taken = || SealedError::Exists { name: name.to_owned(), path: self.directory.clone() };
        if self.path(name)?.exists() { Err(taken()) } else { Ok(()) }
    }

    fn put(&self, name: &str, kind: &str, plain: &SecretBytes) -> Result<(), SealedError> {
        let nonce = *random::<NONCE_LEN>()?;
        let header = Header {
            chancery_sealed: VERSION,
            name: name.to_owned(),
            kind: kind.to_owned(),
            sealing_key: self.seal_id.clone(),
            nonce: hex::encode(nonce),
        };
        let mut file = serde_json::to_vec(&header).expect("strings and numbers always serialise");
        file.push(b'\n');
        // A second buffer in which the plain text becomes the cipher text, cleared either way.
        let mut body = Zeroizing::new(Vec::with_capacity(plain.expose().len() + AES_256_GCM.tag_len()));
        body.extend_from_slice(plain.expose());
        self.seal
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&file), &mut *body)
            .map_err(|_| KeyError::Library { what: "seal a key" })?;
        file.extend_from_slice(&body);
        Ok(secret::write_private(&self.path(name)?, &file)?)
    }

    fn get(&self, name: &str) -> Result<(String, SecretBytes, PathBuf), SealedError> {
        let path = self.path(name)?;
        if !path.exists() {
            return Err(SealedError::Missing { name: name.to_owned(), path: self.directory.clone() });
        }
        let file = secret::read_private(&path)?;
        let damaged = || SealedError::Damaged { path: path.clone() };
        let end = file.expose().iter().position(|&byte| byte == b'\n').ok_or_else(damaged)?;
        let (line, body) = file.expose().split_at_checked(end + 1).ok_or_else(damaged)?;
        let header: Header = serde_json::from_slice(line).map_err(|_| damaged())?;
        if header.chancery_sealed > VERSION {
            return Err(SealedError::Newer { path, found: header.chancery_sealed });
        }
        if header.sealing_key != self.seal_id {
            return Err(SealedError::OtherSealingKey { path, theirs: header.sealing_key, ours: self.seal_id.clone() });
        }
        if header.name != name {
            return Err(SealedError::Renamed { path, found: header.name });
        }
        let mut nonce = [0; NONCE_LEN];
        hex::decode_to_slice(&header.nonce, &mut nonce).map_err(|_| damaged())?;
        let mut body = Zeroizing::new(body.to_vec());
        let opened = self.seal.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(line), &mut body);
        let plain = SecretBytes::new(opened.map_err(|_| damaged())?.to_vec());
        Ok((header.kind, plain, path))
    }
}

impl std::fmt::Debug for SealedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SealedStore({})", self.directory.display())
    }
}

/// Writes a new sealing key to `path`, 0600; nothing is overwritten.
///
/// # Errors
/// [`SealedError::Exists`], or what the system or the library refused.
pub fn make_sealing_key(path: &Path) -> Result<(), SealedError> {
    if path.exists() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return Err(SealedError::Exists { name, path: path.parent().unwrap_or(path).to_owned() });
    }
    let digits = Zeroizing::new(hex::encode(*random::<32>()?));
    let text = SecretBytes::new(format!("{SEALING_MARK}{}\n", *digits).into_bytes());
    Ok(secret::write_private(path, text.expose())?)
}

/// From the library's own generator and never from a seed: a nonce must not repeat under one sealing key.
fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, KeyError> {
    let mut out = Zeroizing::new([0; N]);
    aws_lc_rs::rand::fill(&mut *out).map_err(|_| KeyError::Library { what: "take random bytes" })?;
    Ok(out)
}

fn sealing_key(text: &[u8]) -> Option<SecretBytes> {
    let digits = std::str::from_utf8(text).ok()?.strip_prefix(SEALING_MARK)?.trim_end();
    let key = SecretBytes::new(hex::decode(digits).ok()?);
    (key.expose().len() == AES_256_GCM.key_len()).then_some(key)
}

fn names(directory: &Path) -> io::Result<impl Iterator<Item = String>> {
    let entries = fs::read_dir(directory)?;
    Ok(entries.filter_map(|entry| {
        let path = entry.ok()?.path();
        let sealed = path.extension().is_some_and(|extension| extension == EXTENSION);
        if sealed { path.file_stem()?.to_str().map(str::to_owned) } else { None }
    }))
}

#[cfg(test)]
mod tests;
