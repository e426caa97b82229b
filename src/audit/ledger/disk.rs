//! The file port of the ledger: the few file operations it needs, so that tests can make each of them fail.
//!
//! Contract: an operation that returned `Ok` happened, and is visible to later reads of this process; it survives
//! power loss only after the matching `sync` returned `Ok`. An operation that returned an error may have happened, in
//! part or whole. `put` is atomic for readers: they see the old file or the new one. Nothing here retries.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes written at a time when a new segment is zeroed.
const ZEROES: usize = 1 << 20;
/// Records are for the server's own user only; auditors read through the admin socket or as that user.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// Device and inode: whether a path still is the file that was opened.
pub(crate) type Identity = (u64, u64);

/// The operations on paths.
pub(crate) trait Disk: Send + Sync + 'static {
    /// Makes `path` and its parents.
    fn make_dirs(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory; none when it does not exist.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// A whole file; `None` when it does not exist.
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>>;
    /// Writes a whole file in place of any old one, with its parent directories; not synced.
    fn put(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// As `put`, but readers may meet the file half written: for names that nothing refers to yet. One that is there
    /// already is replaced whole.
    fn put_unread(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Makes a file's content survive power loss.
    fn sync_file(&self, path: &Path) -> io::Result<()>;
    /// Makes a directory's names survive power loss.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Moves a file within the ledger.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file or a directory with what is in it; fine when it does not exist.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// A new file of `length` bytes with its space allocated, starting with `content`, synced. When `zeroed`, the
    /// rest is really written, so that a later sync has no block mapping to change.
    fn allocate(&self, path: &Path, length: u64, content: &[u8], zeroed: bool) -> io::Result<()>;
    /// Opens a file for writing at offsets.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Device and inode of what is at `path` now.
    fn identity(&self, path: &Path) -> io::Result<Identity>;
}

/// An open file.
pub(crate) trait DiskFile: Send {
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// `fdatasync`. After an error nobody knows what the disk holds: never retry.
    fn sync(&self) -> io::Result<()>;
    /// Device and inode.
    fn identity(&self) -> io::Result<Identity>;
}

/// The real file system.
#[derive(Debug, Default)]
pub(crate) struct RealDisk;

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(true).write(true).mode(FILE_MODE).open(path)
}

/// `path` with `.tmp` behind it: such files are leftovers of a crash, removed or replaced later.
fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

/// Turns "it is not there" into `None`.
fn absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Disk for RealDisk {
    fn make_dirs(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let Some(entries) = absent(fs::read_dir(path))? else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        for entry in entries {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        absent(fs::read(path))
    }

    fn put(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let new = temporary(path);
        let mut file = match create(&new) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_dirs(path.parent().unwrap_or(Path::new(".")))?;
                create(&new)?
            }
            other => other?,
        };
        if let Err(error) = file.write_all(bytes).and_then(|()| fs::rename(&new, path)) {
            // Best effort: gives the space back that a full disk needs.
            let _ = fs::remove_file(&new);
            return Err(error);
        }
        Ok(())
    }

    fn put_unread(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let new = || OpenOptions::new().create_new(true).write(true).mode(FILE_MODE).open(path);
        let file = match new() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_dirs(path.parent().unwrap_or(Path::new(".")))?;
                new()
            }
            other => other,
        };
        match file {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.put(path, bytes),
            Err(error) => Err(error),
            Ok(mut file) => file.write_all(bytes).inspect_err(|_| {
                // Best effort, as above.
                let _ = fs::remove_file(path);
            }),
        }
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let Some(facts) = absent(fs::symlink_metadata(path))? else { return Ok(()) };
        let removed = if facts.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        absent(removed).map(|_| ())
    }

    fn allocate(&self, path: &Path, length: u64, content: &[u8], zeroed: bool) -> io::Result<()> {
        let new = temporary(path);
        let write = || -> io::Result<()> {
            let mut file = create(&new)?;
            let zeroed = !preallocate(&file, length)? || zeroed;
            file.write_all(content)?;
            let mut left = if zeroed { length.saturating_sub(content.len() as u64) } else { 0 };
            let zeroes = vec![0; ZEROES.min(usize::try_from(left).unwrap_or(ZEROES))];
            while left > 0 {
                let step = zeroes.get(..usize::try_from(left).unwrap_or(ZEROES)).unwrap_or(&zeroes);
                file.write_all(step)?;
                left -= step.len() as u64;
            }
            file.sync_all()?;
            fs::rename(&new, path)?;
            self.sync_dir(path.parent().unwrap_or(Path::new(".")))
        };
        write().inspect_err(|_| {
            let _ = fs::remove_file(&new);
        })
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn identity(&self, path: &Path) -> io::Result<Identity> {
        fs::metadata(path).map(|facts| (facts.dev(), facts.ino()))
    }
}

/// Takes the space now, so that a full disk shows here and never in the middle of a frame. Returns whether it could:
/// some file systems have no such call, and there only writing takes space.
fn preallocate(file: &File, length: u64) -> io::Result<bool> {
    let end = i64::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    match nix::fcntl::fallocate(file, nix::fcntl::FallocateFlags::empty(), 0, end) {
        Err(nix::errno::Errno::EOPNOTSUPP) => Ok(false),
        other => other.map(|()| true).map_err(io::Error::from),
    }
}

impl DiskFile for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn identity(&self) -> io::Result<Identity> {
        self.metadata().map(|facts| (facts.dev(), facts.ino()))
    }
}
