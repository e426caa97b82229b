//! The key of an existing CA in a PEM file: PKCS #8, encrypted or not, SEC 1 or PKCS #1.
//!
//! The file stays its owner's: it is read, and decrypted where it is, for each signature and forgotten again, because such
//! a key signs a few times a week (an issuing CA, the CRLs above it). It must belong to this process's user and be closed to
//! everybody else. A passphrase is the first line of another such file, never an argument or a variable. What is not read
//! here is named together with the command that makes it readable. Called by `upstream::files`, and by [`super::sealed`]
//! when a CA is taken over with its key.

use std::fmt;
use std::path::{Path, PathBuf};

use futures::future::BoxFuture;

use super::private::PrivateKey;
use super::{KeyError, Signer};
use crate::secret::{SecretBytes, SecretFileError, read_private};
use crate::x509::key::KeyFault;
use crate::x509::pem::{self, PemError};
use crate::x509::{KeyAlgorithm, SignatureAlgorithm};

mod pbes2;

/// The labels of RFC 7468 sections 10 and 11, and of OpenSSL's older forms.
const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";
const SEC1: &str = "EC PRIVATE KEY";
const PKCS1: &str = "RSA PRIVATE KEY";

/// What stands in PEM that OpenSSL encrypted in its own older way.
const OLD_ENCRYPTION: &[u8] = b"Proc-Type:";

/// Why a key file cannot be used. Nothing here shows what is in it.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It, or the passphrase's file, cannot be read, or others can.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// No PEM.
    #[error("{path}: {source}", path = path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: PemError,
    },
    /// No private key in it, or several.
    #[error("{path} holds {found} private keys in PEM, not one: keep the key of the CA alone in it", path = path.display())]
    NotOne {
        /// The file.
        path: PathBuf,
        /// How many.
        found: usize,
    },
    /// Encrypted, and no passphrase is named.
    #[error("{path} is encrypted: name the file that holds its passphrase (passphrase_file)", path = path.display())]
    NoPassphrase {
        /// The file.
        path: PathBuf,
    },
    /// Encrypted in a way that is not read.
    #[error(
        "{path} is encrypted with {what}, which is not read here: openssl pkcs8 -topk8 -v2 aes-256-cbc -v2prf hmacWithSHA256 -in {path} -out NEW",
        path = path.display()
    )]
    Encryption {
        /// The file.
        path: PathBuf,
        /// How.
        what: &'static str,
    },
    /// The passphrase does not open it.
    #[error("the passphrase in {passphrase} does not open {path}, or the file is damaged", path = path.display(), passphrase = passphrase.display())]
    Passphrase {
        /// The key's file.
        path: PathBuf,
        /// The passphrase's file.
        passphrase: PathBuf,
    },
    /// Of a kind that does not sign here.
    #[error("{path} holds no key that signs here: RSA of 2048 to 4096 bits, P-256, P-384, Ed25519 or ML-DSA", path = path.display())]
    Kind {
        /// The file.
        path: PathBuf,
    },
    /// Its public half is not one that is certified.
    #[error("{path}: {source}", path = path.display())]
    Fault {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: KeyFault,
    },
}

/// Where a key is, and the passphrase that opens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile {
    /// The key, PEM.
    pub path: PathBuf,
    /// The passphrase, its first line.
    pub passphrase: Option<PathBuf>,
}

/// A key that stays in its file.
pub struct FileSigner {
    file: KeyFile,
    algorithm: KeyAlgorithm,
    spki: Vec<u8>,
}

impl FileSigner {
    /// Reads it once, to know its public half.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn open(file: KeyFile) -> Result<Self, KeyFileError> {
        let key = file.read()?;
        let (algorithm, spki) = (key.algorithm(), key.spki());
        Ok(Self { file, algorithm, spki })
    }

    /// Its kind.
    #[must_use]
    pub fn key_algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// Its SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The key again, if it is the same still.
    pub(super) fn read(&self) -> Result<PrivateKey, KeyError> {
        let key = self.file.read().map_err(|why| KeyError::File { why: why.to_string() })?;
        if key.spki() == self.spki {
            return Ok(key);
        }
        let why = format!("{} holds another key than before", self.file.path.display());
        Err(KeyError::File { why })
    }
}

impl fmt::Debug for FileSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileSigner({})", self.algorithm)
    }
}

impl Signer for FileSigner {
    fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm.signature()
    }

    fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    // Opening a passphrase may take some tenths of a second, a few times a week: not worth another thread.
    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, KeyError>> {
        Box::pin(std::future::ready(self.read().and_then(|key| key.sign(message))))
    }
}

impl KeyFile {
    fn read(&self) -> Result<PrivateKey, KeyFileError> {
        let path = || self.path.clone();
        let text = read_private(&self.path)?;
        if text.expose().windows(OLD_ENCRYPTION.len()).any(|window| window == OLD_ENCRYPTION) {
            return Err(KeyFileError::Encryption { path: path(), what: "OpenSSL's own older form of PEM" });
        }
        let blocks = pem::decode(text.expose()).map_err(|source| KeyFileError::Pem { path: path(), source })?;
        let is_key = |label: &str| [ENCRYPTED, SEC1, PKCS1, pem::PRIVATE_KEY].contains(&label);
        let mut keys: Vec<(String, SecretBytes)> =
            blocks.into_iter().map(|block| (block.label, SecretBytes::new(block.der))).collect();
        keys.retain(|(label, _)| is_key(label));
        let (label, der) = match (keys.pop(), keys.len()) {
            (Some(one), 0) => one,
            (one, more) => return Err(KeyFileError::NotOne { path: path(), found: more + usize::from(one.is_some()) }),
        };
        let found = match label.as_str() {
            SEC1 => PrivateKey::from_sec1(der.expose()),
            PKCS1 => PrivateKey::from_pkcs1(der.expose()),
            ENCRYPTED => PrivateKey::from_any_pkcs8(self.decrypted(&der)?.expose()),
            _ => PrivateKey::from_any_pkcs8(der.expose()),
        };
        match found {
            Some(Ok(key)) => Ok(key),
            Some(Err(source)) => Err(KeyFileError::Fault { path: path(), source }),
            None => Err(KeyFileError::Kind { path: path() }),
        }
    }

    fn decrypted(&self, der: &SecretBytes) -> Result<SecretBytes, KeyFileError> {
        let path = || self.path.clone();
        let Some(file) = &self.passphrase else { return Err(KeyFileError::NoPassphrase { path: path() }) };
        let text = read_private(file)?;
        let passphrase = first_line(text.expose());
        match pbes2::open(der.expose(), passphrase) {
            Ok(plain) => Ok(plain),
            Err(pbes2::Fault::Unknown(what)) => Err(KeyFileError::Encryption { path: path(), what }),
            Err(pbes2::Fault::Closed) => Err(KeyFileError::Passphrase { path: path(), passphrase: file.clone() }),
        }
    }
}

impl KeyFileError {
    /// Whether the file is simply not there.
    #[must_use]
    pub fn is_missing(&self, path: &Path) -> bool {
        matches!(self, Self::File(SecretFileError::Io { path: at, source })
            if at == path && source.kind() == std::io::ErrorKind::NotFound)
    }
}

/// Without the end of the line, which editors add.
fn first_line(text: &[u8]) -> &[u8] {
    let line = text.split(|&octet| octet == b'\n').next().unwrap_or_default();
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests;
