//! The directory of `chancery fetch`: sets of files that are swapped whole.
//!
//! ```text
//! DIR/cert.pem   -> ..data/cert.pem        what programs open; these links never change
//! DIR/key.pem    -> ..data/key.pem
//! DIR/bundle.pem -> ..data/bundle.pem
//! DIR/crl.pem    -> ..data/crl.pem         only while there are revocation lists
//! DIR/..data     -> ..set-1                the one link that is swapped, by rename(2)
//! DIR/..set-1/     cert.pem key.pem bundle.pem crl.pem state.json
//! ```
//!
//! A set is on the disk, whole and synced, before the link names it; a crash leaves the old set or the new one. The set
//! before the current one stays for readers that are between two files. One process owns the directory (a lock).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::set::Set;
use crate::secret::sync_directory;

/// The link that is swapped.
const CURRENT: &str = "..data";

/// What the link is made as before it is renamed into place.
const NEXT: &str = "..data.new";

/// What the directories of sets begin with.
const SET: &str = "..set-";

/// Locked by the process that owns the directory.
const LOCK: &str = "..lock";

/// Which set the command was run for, without failing.
const RAN: &str = "..ran";

const CERTIFICATE: &str = "cert.pem";
const KEY: &str = "key.pem";
const BUNDLE: &str = "bundle.pem";
const CRL: &str = "crl.pem";

/// The files of a set that programs open.
const SHOWN: [&str; 4] = [CERTIFICATE, KEY, BUNDLE, CRL];

const STATE: &str = "state.json";

/// The largest file of a set that is read back, in bytes.
const LARGEST_FILE: u64 = 64 << 20;

/// The number of the state file's form.
const SCHEMA: u32 = 1;

/// Why the directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The system refused; the path says where.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another `chancery fetch` works here.
    #[error("{dir} is in use by another chancery fetch: give each its own directory", dir = dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// A file that we did not make stands where a link must be.
    #[error("{path} is there already and was not made by chancery fetch: move it away, or choose another --dir", path = path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> FilesError + '_ {
    move |source| FilesError::Io { path: path.to_owned(), source }
}

#[derive(Debug, Serialize, Deserialize)]
struct State {
    schema: u32,
    name: String,
    bundle_name: String,
    certificate_version: String,
    bundle_version: String,
}

/// The directory, while we own it.
#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
    _lock: Flock<File>,
}

impl Files {
    /// Takes `dir` over, making it when it is not there, and clears away what a crash left.
    pub(super) fn open(dir: &Path) -> Result<Self, FilesError> {
        let files = Self::lock(dir)?;
        files.take_over()?;
        Ok(files)
    }

    /// Like [`Files::open`], but a certificate, key and roots that lie there as plain files (`cert issue` wrote them, and
    /// somebody carried them to this machine) become the first set.
    pub(super) fn open_adopting(dir: &Path, name: &str, bundle_name: &str) -> Result<Self, FilesError> {
        let files = Self::lock(dir)?;
        files.adopt(name, bundle_name)?;
        files.take_over()?;
        Ok(files)
    }

    fn lock(dir: &Path) -> Result<Self, FilesError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at(dir))?;
        let path = dir.join(LOCK);
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = Flock::lock(file.map_err(at(&path))?, FlockArg::LockExclusiveNonblock)
            .map_err(|_| FilesError::InUse { dir: dir.to_owned() })?;
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    fn take_over(&self) -> Result<(), FilesError> {
        for name in SHOWN {
            let path = self.dir.join(name);
            if fs::symlink_metadata(&path).is_ok() && fs::read_link(&path).ok() != Some(Path::new(CURRENT).join(name)) {
                return Err(FilesError::NotOurs { path });
            }
        }
        self.clear(self.current().as_deref(), None);
        // A crash may have come between a set and its links.
        if let Some(current) = self.current() {
            self.show(&self.dir.join(current))?;
        }
        Ok(())
    }

    /// Plain files become a set, then links to it. After a crash in between, those that equal the set's are replaced.
    fn adopt(&self, name: &str, bundle_name: &str) -> Result<(), FilesError> {
        let plain = |file: &str| fs::symlink_metadata(self.dir.join(file)).is_ok_and(|facts| facts.is_file());
        let file = |file: &str| {
            let path = self.dir.join(file);
            read(&path).map_err(at(&path))
        };
        if self.current().is_none() && [CERTIFICATE, KEY, BUNDLE].into_iter().all(plain) {
            let crl = if plain(CRL) { file(CRL)?.to_vec() } else { Vec::new() };
            // No versions: the server has not sent them, and offers its newest.
            let set = Set {
                chain: file(CERTIFICATE)?.to_vec(),
                key: file(KEY)?,
                bundle: file(BUNDLE)?.to_vec(),
                crl,
                certificate_version: String::new(),
                bundle_version: String::new(),
            };
            self.make_current(&set, name, bundle_name)?;
        }
        for shown in SHOWN.into_iter().filter(|shown| plain(shown)) {
            if read(&self.dir.join(CURRENT).join(shown)).is_ok_and(|same| file(shown).is_ok_and(|plain| plain == same))
            {
                self.link(&Path::new(CURRENT).join(shown), shown)?;
            }
        }
        Ok(())
    }

    /// The name of the current set's directory.
    pub(super) fn current(&self) -> Option<String> {
        let target = fs::read_link(self.dir.join(CURRENT)).ok()?;
        target.to_str().filter(|name| name.starts_with(SET)).map(str::to_owned)
    }

    /// The current set, if it was fetched by these names and is whole.
    pub(super) fn load(&self, name: &str, bundle_name: &str) -> Option<Set> {
        let set = self.dir.join(self.current()?);
        let state: State = serde_json::from_slice(&read(&set.join(STATE)).ok()?).ok()?;
        if state.schema != SCHEMA || state.name != name || state.bundle_name != bundle_name {
            return None;
        }
        Some(Set {
            chain: read(&set.join(CERTIFICATE)).ok()?.to_vec(),
            key: read(&set.join(KEY)).ok()?,
            bundle: read(&set.join(BUNDLE)).ok()?.to_vec(),
            crl: lists(&set.join(CRL)).ok()?,
            certificate_version: state.certificate_version,
            bundle_version: state.bundle_version,
        })
    }

    /// Makes `set` the current one. When this returns, it survives power loss.
    pub(super) fn write(&self, set: &Set, name: &str, bundle_name: &str) -> Result<(), FilesError> {
        let before = self.current();
        let next = self.make_current(set, name, bundle_name)?;
        self.show(&self.dir.join(&next))?;
        self.clear(Some(&next), before.as_deref());
        Ok(())
    }

    /// The new set's name.
    fn make_current(&self, set: &Set, name: &str, bundle_name: &str) -> Result<String, FilesError> {
        let before = self.current();
        let number = before.as_deref().and_then(|name| name.strip_prefix(SET)?.parse().ok()).unwrap_or(0_u64);
        let next = format!("{SET}{}", number.wrapping_add(1));
        let path = self.dir.join(&next);
        // A crash may have left it, half filled.
        let _ = fs::remove_dir_all(&path);
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(at(&path))?;
        let state = State {
            schema: SCHEMA,
            name: name.to_owned(),
            bundle_name: bundle_name.to_owned(),
            certificate_version: set.certificate_version.clone(),
            bundle_version: set.bundle_version.clone(),
        };
        let state =
            serde_json::to_vec(&state).map_err(|why| FilesError::Io { path: path.join(STATE), source: why.into() })?;
        let contents: [(&str, &[u8]); 5] =
            [(CERTIFICATE, &set.chain), (KEY, &set.key), (BUNDLE, &set.bundle), (CRL, &set.crl), (STATE, &state)];
        for (file, bytes) in contents {
            // A server told to check against a file without a list refuses to start.
            if file == CRL && bytes.is_empty() {
                continue;
            }
            let path = path.join(file);
            write_synced(&path, bytes).map_err(at(&path))?;
        }
        sync_directory(&path).map_err(at(&path))?;
        self.link(Path::new(&next), CURRENT)?;
        Ok(next)
    }

    /// The links that programs open: one for each file of the current `set`, and no other.
    fn show(&self, set: &Path) -> Result<(), FilesError> {
        for file in SHOWN {
            let path = self.dir.join(file);
            match (set.join(file).is_file(), fs::symlink_metadata(&path).is_ok()) {
                (true, false) => self.link(&Path::new(CURRENT).join(file), file)?,
                (false, true) => fs::remove_file(&path).map_err(at(&path))?,
                (true, true) | (false, false) => {}
            }
        }
        sync_directory(&self.dir).map_err(at(&self.dir))
    }

    /// Whether the command has run for the current set.
    pub(super) fn ran(&self) -> bool {
        let ran = fs::read_to_string(self.dir.join(RAN)).ok();
        ran.is_some() && ran == self.current()
    }

    /// Remembers that the command has run for `set`.
    pub(super) fn mark_ran(&self, set: &str) -> Result<(), FilesError> {
        let path = self.dir.join(RAN);
        let _ = fs::remove_file(&path);
        write_synced(&path, set.as_bytes()).map_err(at(&path))
    }

    /// A link `name` to `target` in place of what was there, at once.
    fn link(&self, target: &Path, name: &str) -> Result<(), FilesError> {
        let (next, path) = (self.dir.join(NEXT), self.dir.join(name));
        let _ = fs::remove_file(&next);
        symlink(target, &next).map_err(at(&next))?;
        fs::rename(&next, &path).map_err(at(&path))
    }

    /// Removes every set but these. What can't be removed stays: it is in nobody's way.
    fn clear(&self, current: Option<&str>, before: Option<&str>) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| name.starts_with(SET)) else { continue };
            if Some(name) != current && Some(name) != before {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Revocation lists, which need not be there.
fn lists(path: &Path) -> io::Result<Vec<u8>> {
    match read(path) {
        Ok(lists) => Ok(lists.to_vec()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    if length > LARGEST_FILE {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    // Reserved whole: a buffer that grows leaves copies of a key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1));
    file.take(LARGEST_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn set(version: &str) -> Set {
        Set {
            chain: format!("chain {version}").into_bytes(),
            key: format!("planted {version}").into_bytes().into(),
            bundle: b"roots".to_vec(),
            crl: Vec::new(),
            certificate_version: version.to_owned(),
            bundle_version: "b".to_owned(),
        }
    }

    #[test]
    fn sets_are_swapped_whole_and_read_back_by_their_names() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("id");
        let files = Files::open(&dir).unwrap();
        assert!(files.load("default", "ROOTCA").is_none());
        for version in ["v1", "v2", "v3"] {
            files.write(&set(version), "default", "ROOTCA").unwrap();
            assert_eq!(fs::read(dir.join(KEY)).unwrap(), format!("planted {version}").as_bytes());
        }
        for name in [CERTIFICATE, KEY, BUNDLE] {
            assert_eq!(fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let sets = fs::read_dir(&dir).unwrap().flatten().filter(|e| e.file_name().to_string_lossy().starts_with(SET));
        assert_eq!(sets.count(), 2, "the current one and the one before");
        assert!(matches!(Files::open(&dir), Err(FilesError::InUse { .. })));
        drop(files);
        let files = Files::open(&dir).unwrap();
        assert_eq!(files.load("default", "ROOTCA").unwrap().certificate_version, "v3");
        assert!(files.load("other", "ROOTCA").is_none());
    }

    #[test]
    fn what_a_crash_left_is_no_obstacle() {
        let scratch = tempfile::tempdir().unwrap();
        let files = Files::open(scratch.path()).unwrap();
        files.write(&set("v1"), "default", "ROOTCA").unwrap();
        fs::create_dir(scratch.path().join("..set-2")).unwrap();
        fs::write(scratch.path().join("..set-2/key.pem"), b"half").unwrap();
        symlink("..set-9", scratch.path().join(NEXT)).unwrap();
        files.write(&set("v2"), "default", "ROOTCA").unwrap();
        assert_eq!(files.load("default", "ROOTCA").unwrap().certificate_version, "v2");
    }

    #[test]
    fn the_command_is_remembered_for_the_set_it_ran_for() {
        let scratch = tempfile::tempdir().unwrap();
        let files = Files::open(scratch.path()).unwrap();
        assert!(!files.ran());
        files.write(&set("v1"), "default", "ROOTCA").unwrap();
        files.mark_ran(&files.current().unwrap()).unwrap();
        assert!(files.ran());
        files.write(&set("v2"), "default", "ROOTCA").unwrap();
        assert!(!files.ran());
    }

    #[test]
    fn revocation_lists_come_and_go_with_their_set() {
        let scratch = tempfile::tempdir().unwrap();
        let (files, crl) = (Files::open(scratch.path()).unwrap(), scratch.path().join(CRL));
        for (version, lists) in [("v1", ""), ("v2", "lists"), ("v3", "")] {
            files.write(&Set { crl: lists.into(), ..set(version) }, "default", "ROOTCA").unwrap();
            assert_eq!(fs::read_to_string(&crl).unwrap_or_default(), lists);
            assert_eq!(fs::symlink_metadata(&crl).is_ok(), !lists.is_empty());
            assert_eq!(files.load("default", "ROOTCA").unwrap().crl, lists.as_bytes());
        }
        // A crash between a set and its links.
        files.make_current(&Set { crl: b"lists".to_vec(), ..set("v4") }, "default", "ROOTCA").unwrap();
        drop(files);
        Files::open(scratch.path()).unwrap();
        assert_eq!(fs::read(&crl).unwrap(), b"lists");
    }

    #[test]
    fn plain_files_are_adopted_even_after_a_crash() {
        let scratch = tempfile::tempdir().unwrap();
        let plain = [(CERTIFICATE, "chain"), (KEY, "planted"), (BUNDLE, "roots")];
        let write = || plain.iter().for_each(|(file, text)| fs::write(scratch.path().join(file), text).unwrap());
        write();
        let files = Files::open_adopting(scratch.path(), "default", "ROOTCA").unwrap();
        let set = files.load("default", "ROOTCA").unwrap();
        assert_eq!((set.chain.as_slice(), set.certificate_version.as_str()), (&b"chain"[..], ""));
        drop(files);
        // Links not there yet.
        plain.iter().for_each(|(file, _)| fs::remove_file(scratch.path().join(file)).unwrap());
        write();
        drop(Files::open_adopting(scratch.path(), "default", "ROOTCA").unwrap());
        assert!(fs::read_link(scratch.path().join(KEY)).is_ok());
        // Somebody else's since.
        fs::remove_file(scratch.path().join(KEY)).unwrap();
        fs::write(scratch.path().join(KEY), "mine").unwrap();
        let error = Files::open_adopting(scratch.path(), "default", "ROOTCA").unwrap_err();
        assert!(matches!(error, FilesError::NotOurs { .. }), "{error}");
    }

    #[test]
    fn a_foreign_file_is_not_overwritten() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join(CERTIFICATE), b"mine").unwrap();
        let error = Files::open(scratch.path()).unwrap_err();
        assert!(matches!(&error, FilesError::NotOurs { .. }) && error.to_string().contains("--dir"), "{error}");
    }
}
