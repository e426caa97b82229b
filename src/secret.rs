//! Secrets in memory and in files.
//!
//! A [`SecretBytes`] zeroises itself when dropped and prints as `[secret]`; it is neither `Clone` nor `Serialize`.
//! Files that hold secrets are written 0600, whole or not at all, and refused on reading when another user could have
//! read or changed them.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// The largest secret file that is read, in bytes.
pub const LARGEST_SECRET_FILE: u64 = 1 << 20;

/// Bytes that must not be seen: zeroised on drop, never printed.
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes `bytes` over; the caller keeps no copy.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes themselves, for the one call that needs them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

/// Why a secret file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// The system refused; the path says where.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Others may read or write it.
    #[error("{path} has mode {mode:04o}, so others can reach it: chmod 0600 {path}", path = path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to somebody else.
    #[error("{path} belongs to uid {owner}, but this process runs as uid {ours}: run as its owner, or chown it", path = path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who we are.
        ours: u32,
    },
    /// Too large to be a secret of ours.
    #[error("{path} is larger than {limit} bytes: not a secret file", path = path.display(), limit = LARGEST_SECRET_FILE)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> SecretFileError + '_ {
    move |source| SecretFileError::Io { path: path.to_owned(), source }
}

/// Writes `bytes` to `path`, 0600, so that a crash leaves the old file or the new one and both survive power loss.
///
/// # Errors
/// [`SecretFileError::Io`] when the system refuses; the old file is then untouched.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), SecretFileError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_directory(path.parent().unwrap_or(Path::new(".")))
    };
    write().map_err(io(path))
}

/// Reads a secret file after checking that only we could have touched it.
///
/// # Errors
/// Every variant of [`SecretFileError`].
pub fn read_private(path: &Path) -> Result<SecretBytes, SecretFileError> {
    let mut file = File::open(path).map_err(io(path))?;
    let facts = file.metadata().map_err(io(path))?;
    let (mode, ours) = (facts.mode() & 0o777, nix::unistd::geteuid().as_raw());
    if facts.uid() != ours {
        return Err(SecretFileError::Owner { path: path.to_owned(), owner: facts.uid(), ours });
    }
    if mode & 0o077 != 0 {
        return Err(SecretFileError::Mode { path: path.to_owned(), mode });
    }
    read_whole(&mut file, facts.len(), path)
}

fn read_whole(file: &mut File, length: u64, path: &Path) -> Result<SecretBytes, SecretFileError> {
    if length > LARGEST_SECRET_FILE {
        return Err(SecretFileError::TooLarge { path: path.to_owned() });
    }
    // Reserved whole, so that growing never leaves a copy behind.
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1);
    file.read_to_end(&mut bytes).map_err(io(path))?;
    Ok(SecretBytes::new(bytes))
}

/// Reads a secret file that somebody else may have put in its place, as systemd does with credentials: it belongs to us or
/// to root, nobody else can write it, and not everybody can read it (an access list shows as the group's bits).
///
/// # Errors
/// Every variant of [`SecretFileError`].
pub fn read_credential(path: &Path) -> Result<SecretBytes, SecretFileError> {
    let mut file = File::open(path).map_err(io(path))?;
    let facts = file.metadata().map_err(io(path))?;
    let (mode, ours) = (facts.mode() & 0o777, nix::unistd::geteuid().as_raw());
    if facts.uid() != ours && facts.uid() != 0 {
        return Err(SecretFileError::Owner { path: path.to_owned(), owner: facts.uid(), ours });
    }
    if mode & 0o037 != 0 {
        return Err(SecretFileError::Mode { path: path.to_owned(), mode });
    }
    read_whole(&mut file, facts.len(), path)
}

/// Makes renames and creations in `directory` survive power loss.
///
/// # Errors
/// What the system said.
pub fn sync_directory(directory: &Path) -> std::io::Result<()> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_nothing_and_survives_a_round_trip() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_private(&path, b"old").unwrap();
        write_private(&path, b"planted").unwrap();
        let secret = read_private(&path).unwrap();
        assert_eq!(secret.expose(), b"planted");
        assert_eq!(format!("{secret:?}"), "[secret]");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_readable_file_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_private(&path, b"x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let said = read_private(&path).unwrap_err().to_string();
        assert!(said.contains("0640") && said.contains("chmod 0600"), "{said}");
    }
}
