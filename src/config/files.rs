//! Reads the files that a server is told by, after a look at who may write them.
//!
//! Whoever can write the configuration or the policy can have any certificate, so a file that others than its owner can
//! write is refused, and so is one that belongs to neither us nor root. Meaning is left to `read` and to policy.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Settings;
use crate::identity::TrustDomain;
use crate::policy::{LARGEST_POLICY, Policy, Surroundings};
use crate::toml_reader::Mistakes;
use crate::x509::profile::Profiles;

/// The largest configuration file in bytes.
pub const LARGEST_CONFIGURATION: usize = 1 << 20;

/// Permission bits that let the group or others write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Why a file is not used. Each names the file and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// There is no such file.
    #[error("{what} {path} is not there: {remedy}", path = .path.display())]
    Missing {
        /// `configuration` or `policy`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What to do.
        remedy: &'static str,
    },
    /// It cannot be read.
    #[error("{what} {path} cannot be read ({source}): make it readable for the user that runs chancery", path = .path.display())]
    Unreadable {
        /// `configuration` or `policy`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It is a directory or something else.
    #[error("{what} {path} is no file: name the file itself", path = .path.display())]
    NoFile {
        /// `configuration` or `policy`.
        what: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// Others can write it.
    #[error("{what} {path} can be written by others (mode {mode:04o}), who could give themselves any certificate: chmod go-w {path}", path = .path.display())]
    WritableByOthers {
        /// `configuration` or `policy`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to somebody else.
    #[error("{what} {path} belongs to uid {owner}, who could give themselves any certificate: chown it to uid {own} or to root", path = .path.display())]
    OtherOwner {
        /// `configuration` or `policy`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who runs this.
        own: u32,
    },
    /// It is larger than anybody would write.
    #[error("{what} {path} has more than {limit} bytes: is it the right file?", path = .path.display())]
    TooLarge {
        /// `configuration` or `policy`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Bytes allowed.
        limit: usize,
    },
    /// It is not UTF-8.
    #[error("{what} {path} is no UTF-8 text: save it as UTF-8", path = .path.display())]
    NotText {
        /// `configuration` or `policy`.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// What it says is wrong.
    #[error(transparent)]
    Mistakes(#[from] Mistakes),
}

impl Settings {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// When the file is not safe to use, or has mistakes.
    pub fn load(path: &Path) -> Result<Self, FileError> {
        Self::of_text(path, &read_configuration(path)?)
    }

    /// Reads the text of the configuration file `path`, from whose directory relative paths are meant.
    ///
    /// # Errors
    /// When it has mistakes, or the working directory is gone.
    pub fn of_text(path: &Path, text: &str) -> Result<Self, FileError> {
        let unreadable = |source| FileError::Unreadable { what: "configuration", path: path.to_owned(), source };
        let whole = std::path::absolute(path).map_err(unreadable)?;
        let base = whole.parent().unwrap_or(Path::new("/"));
        Ok(Self::parse(text, &path.display().to_string(), base)?)
    }
}

/// The text of a configuration file that is safe to use.
///
/// # Errors
/// When it is not.
pub fn read_configuration(path: &Path) -> Result<String, FileError> {
    let remedy = "write one with: chancery config default > chancery.toml";
    read(path, "configuration", remedy, LARGEST_CONFIGURATION)
}

/// The text of a policy file that is safe to use.
///
/// # Errors
/// When it is not.
pub fn read_policy(path: &Path) -> Result<String, FileError> {
    let remedy = "write one (docs/policy.md has examples), or set `policy` in the configuration to where it is";
    read(path, "policy", remedy, LARGEST_POLICY)
}

/// Reads a policy file for a server of `trust_domain` with these sockets (`admin` among them).
///
/// # Errors
/// When the file is not safe to use, or has mistakes.
pub fn load_policy(path: &Path, trust_domain: &TrustDomain, sockets: Option<&[String]>) -> Result<Policy, FileError> {
    Ok(policy_of_text(path, &read_policy(path)?, trust_domain, sockets)?)
}

/// Reads the text of the policy file `path`, as [`load_policy`] does.
///
/// # Errors
/// When it has mistakes.
pub fn policy_of_text(
    path: &Path,
    text: &str,
    trust_domain: &TrustDomain,
    sockets: Option<&[String]>,
) -> Result<Policy, Mistakes> {
    let file = path.display().to_string();
    Policy::parse(text, &Surroundings { file: &file, trust_domain, sockets, profiles: Profiles::builtin() })
}

/// Reads a text that only its owner can write, where the owner is us or root.
fn read(path: &Path, what: &'static str, remedy: &'static str, limit: usize) -> Result<String, FileError> {
    let path_buf = path.to_owned();
    let failed = |source: io::Error| {
        let path = path.to_owned();
        if source.kind() == io::ErrorKind::NotFound {
            FileError::Missing { what, path, remedy }
        } else {
            FileError::Unreadable { what, path, source }
        }
    };
    // Looked at before it is opened, because opening a FIFO would wait for a writer; and again once open, because what
    // counts is the file that is read.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(FileError::NoFile { what, path: path_buf });
    }
    let file = File::open(path).map_err(failed)?;
    let facts = file.metadata().map_err(failed)?;
    let (mode, owner, own) = (facts.mode() & 0o7777, facts.uid(), nix::unistd::geteuid().as_raw());
    if mode & WRITABLE_BY_OTHERS != 0 {
        return Err(FileError::WritableByOthers { what, path: path_buf, mode });
    }
    if owner != own && owner != 0 {
        return Err(FileError::OtherOwner { what, path: path_buf, owner, own });
    }
    let mut bytes = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > limit {
        return Err(FileError::TooLarge { what, path: path_buf, limit });
    }
    String::from_utf8(bytes).map_err(|_| FileError::NotText { what, path: path_buf })
}
