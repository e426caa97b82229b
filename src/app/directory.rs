//! The data directory: everything of one installation, for one process at a time.
//!
//! Opening creates it 0700, takes its lock and checks that it is ours: our uid, our trust domain, a layout this version
//! knows. `chancery.json` says what it is; it is written once and never changed by this version.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::identity::TrustDomain;
use crate::secret::{SecretFileError, write_private};

/// The layout that this version writes, and the newest it reads.
pub const LAYOUT: u32 = 1;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It cannot be written.
    #[error("{path} cannot be written: {source}. Make it writable, or name another with --data-dir", path = path.display())]
    ReadOnly {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It belongs to somebody else.
    #[error("{path} belongs to uid {owner}, but this process runs as uid {ours}: run as its owner, or name another directory with --data-dir", path = path.display())]
    Owner {
        /// Where.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who we are.
        ours: u32,
    },
    /// Others could read what is in it.
    #[error("{path} has mode {mode:04o}, so others can look into it: chmod 0700 {path}", path = path.display())]
    Mode {
        /// Where.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another process uses it.
    #[error("{path} is in use by another chancery: stop that one, or name another directory with --data-dir", path = path.display())]
    InUse {
        /// Where.
        path: PathBuf,
    },
    /// It is of another trust domain.
    #[error("{path} belongs to trust domain {found}, not {wanted}: use --trust-domain {found}, or another --data-dir", path = path.display())]
    OtherDomain {
        /// Where.
        path: PathBuf,
        /// Whose it is.
        found: TrustDomain,
        /// Whose was asked for.
        wanted: TrustDomain,
    },
    /// A newer version wrote it.
    #[error("{path} was written by a newer chancery (layout {found}, this one knows {LAYOUT}): run that version or a newer one", path = path.display())]
    Newer {
        /// Where.
        path: PathBuf,
        /// Its layout.
        found: u32,
    },
    /// `chancery.json` is not what we write.
    #[error("{path} cannot be read: {source}. Put it back as it was; it is never changed after the first start", path = path.display())]
    Marker {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// It holds files, but not ours.
    #[error("{path} is not empty and not a data directory of chancery: it has no chancery.json. Name an empty or new one with --data-dir", path = path.display())]
    Foreign {
        /// Where.
        path: PathBuf,
    },
    /// A file of ours could not be written.
    #[error(transparent)]
    File(#[from] SecretFileError),
}

/// What `chancery.json` says.
#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    layout: u32,
    trust_domain: TrustDomain,
}

/// A data directory that is ours until this value is dropped.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    fresh: bool,
    _lock: Flock<File>,
}

impl DataDirectory {
    /// Opens or makes it.
    ///
    /// # Errors
    /// Every variant of [`DirectoryError`].
    pub fn open(path: &Path, trust_domain: &TrustDomain) -> Result<Self, DirectoryError> {
        make(path)?;
        // Absolute, so that addresses.json and errors mean the same to everyone.
        let path = fs::canonicalize(path).map_err(|source| DirectoryError::Io { path: path.to_owned(), source })?;
        check_owner(&path)?;
        let marker = path.join("chancery.json");
        let known = read_marker(&marker)?;
        if known.is_none() && holds_anything_else(&path)? {
            return Err(DirectoryError::Foreign { path });
        }
        let lock = lock(&path)?;
        match &known {
            Some(found) if found.layout > LAYOUT => return Err(DirectoryError::Newer { path, found: found.layout }),
            Some(found) if found.trust_domain != *trust_domain => {
                let (found, wanted) = (found.trust_domain.clone(), trust_domain.clone());
                return Err(DirectoryError::OtherDomain { path, found, wanted });
            }
            Some(_) => {}
            None => {
                let ours = Marker { layout: LAYOUT, trust_domain: trust_domain.clone() };
                let text = serde_json::to_vec_pretty(&ours)
                    .map_err(|source| DirectoryError::Marker { path: marker.clone(), source })?;
                write_private(&marker, &text)?;
            }
        }
        Ok(Self { path, fresh: known.is_none(), _lock: lock })
    }

    /// Opens one that exists, of whatever trust domain; also says which.
    ///
    /// # Errors
    /// Every variant of [`DirectoryError`]; [`DirectoryError::Foreign`] when it is none of ours.
    pub fn existing(path: &Path) -> Result<(Self, TrustDomain), DirectoryError> {
        let marker = read_marker(&path.join("chancery.json"))?;
        let foreign = || DirectoryError::Foreign { path: path.to_owned() };
        let trust_domain = marker.ok_or_else(foreign)?.trust_domain;
        Ok((Self::open(path, &trust_domain)?, trust_domain))
    }

    /// Where it is, absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it was made just now.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }
}

fn make(path: &Path) -> Result<(), DirectoryError> {
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(source) if matches!(source.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
            Err(DirectoryError::ReadOnly { path: path.to_owned(), source })
        }
        Err(source) => Err(DirectoryError::Io { path: path.to_owned(), source }),
    }
}

fn check_owner(path: &Path) -> Result<(), DirectoryError> {
    let facts = fs::metadata(path).map_err(|source| DirectoryError::Io { path: path.to_owned(), source })?;
    let (ours, mode) = (nix::unistd::geteuid().as_raw(), facts.mode() & 0o777);
    if facts.uid() != ours {
        return Err(DirectoryError::Owner { path: path.to_owned(), owner: facts.uid(), ours });
    }
    // Others must be able to reach a socket in it, where its mode lets them (0711), but never to list or write.
    if mode & 0o066 != 0 {
        return Err(DirectoryError::Mode { path: path.to_owned(), mode });
    }
    Ok(())
}

fn read_marker(path: &Path) -> Result<Option<Marker>, DirectoryError> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| DirectoryError::Marker { path: path.to_owned(), source }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DirectoryError::Io { path: path.to_owned(), source }),
    }
}

/// A crash of a first start may leave the lock and nothing else; an operator may have put policy.toml there before.
fn holds_anything_else(path: &Path) -> Result<bool, DirectoryError> {
    let io = |source| DirectoryError::Io { path: path.to_owned(), source };
    for entry in fs::read_dir(path).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        if !["lock", "policy.toml", "chancery.toml", "chancery.json.new"].iter().any(|ours| name == *ours) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn lock(path: &Path) -> Result<Flock<File>, DirectoryError> {
    let file = path.join("lock");
    let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&file);
    let opened = opened.map_err(|source| {
        if matches!(source.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) {
            DirectoryError::ReadOnly { path: path.to_owned(), source }
        } else {
            DirectoryError::Io { path: file.clone(), source }
        }
    })?;
    Flock::lock(opened, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno == nix::errno::Errno::EWOULDBLOCK {
            DirectoryError::InUse { path: path.to_owned() }
        } else {
            DirectoryError::Io { path: file, source: errno.into() }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn domain(name: &str) -> TrustDomain {
        TrustDomain::parse(name).unwrap()
    }

    #[test]
    fn opens_again_but_only_once_at_a_time() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("data");
        let first = DataDirectory::open(&path, &domain("example.org")).unwrap();
        assert!(first.is_fresh());
        assert!(matches!(DataDirectory::open(&path, &domain("example.org")), Err(DirectoryError::InUse { .. })));
        drop(first);
        assert!(!DataDirectory::open(&path, &domain("example.org")).unwrap().is_fresh());
        let other = DataDirectory::open(&path, &domain("example.net")).unwrap_err().to_string();
        assert!(other.contains("--trust-domain example.org"), "{other}");
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("data");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(DataDirectory::open(&path, &domain("a.b")), Err(DirectoryError::Mode { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(path.join("thesis.tex"), "x").unwrap();
        assert!(matches!(DataDirectory::open(&path, &domain("a.b")), Err(DirectoryError::Foreign { .. })));
        fs::remove_file(path.join("thesis.tex")).unwrap();
        fs::write(path.join("chancery.json"), r#"{"layout": 99, "trust_domain": "a.b"}"#).unwrap();
        assert!(matches!(DataDirectory::open(&path, &domain("a.b")), Err(DirectoryError::Newer { found: 99, .. })));
        fs::write(path.join("chancery.json"), "{").unwrap();
        assert!(matches!(DataDirectory::open(&path, &domain("a.b")), Err(DirectoryError::Marker { .. })));
    }
}
