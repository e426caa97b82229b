//! Replaces a small text file in one step: a reader sees the old text or the new one, after a crash too.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::entropy::Entropy;

/// Mode of a file that was not there before.
const NEW_MODE: u32 = 0o600;

/// A new text beside the file that it will take the place of; dropped unused, it is removed.
#[derive(Debug)]
pub(super) struct Replacement {
    target: PathBuf,
    temporary: PathBuf,
}

impl Replacement {
    /// Writes `text` beside `path` and syncs it, with the mode and owner of what is there. A symbolic link is followed:
    /// the file behind it is what is replaced.
    pub(super) fn prepare(path: &Path, text: &str, entropy: &Entropy) -> io::Result<Self> {
        let old = match fs::metadata(path) {
            Ok(facts) => Some(facts),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let target = if old.is_some() { fs::canonicalize(path)? } else { path.to_owned() };
        let name = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let temporary = target.with_file_name(format!(".{name}.{}", hex::encode(entropy.bytes::<8>())));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(NEW_MODE).open(&temporary)?;
        // From here on a failure removes it.
        let made = Self { target, temporary };
        file.write_all(text.as_bytes())?;
        if let Some(old) = old {
            let own = file.metadata()?;
            if (own.uid(), own.gid()) != (old.uid(), old.gid()) {
                std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()))?;
            }
            file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
        }
        file.sync_all()?;
        Ok(made)
    }

    /// Puts it in place, durably.
    pub(super) fn put(self) -> io::Result<()> {
        fs::rename(&self.temporary, &self.target)?;
        File::open(self.target.parent().unwrap_or(Path::new("/")))?.sync_all()
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        // After `put` there is nothing left to remove.
        let _ = fs::remove_file(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_behind_a_link_is_replaced_with_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("policy-1"), directory.path().join("policy.toml"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let entropy = Entropy::seeded(1);
        drop(Replacement::prepare(&link, "never", &entropy).unwrap());
        assert_eq!(
            (fs::read_to_string(&file).unwrap().as_str(), fs::read_dir(directory.path()).unwrap().count()),
            ("old", 2)
        );
        Replacement::prepare(&link, "new", &entropy).unwrap().put().unwrap();
        assert_eq!(fs::read_to_string(&link).unwrap(), "new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
        let missing = directory.path().join("other.toml");
        Replacement::prepare(&missing, "new", &entropy).unwrap().put().unwrap();
        assert_eq!(fs::metadata(&missing).unwrap().mode() & 0o7777, NEW_MODE);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
    }
}
