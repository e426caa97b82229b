//! Binds Unix sockets and the HTTP port, and says plainly when a place is taken.
//!
//! A socket file that nobody answers on is left by a crash and replaced; one that somebody answers on is in use. The
//! mode is set before anyone can connect, because the socket is bound under another name first.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener};

use crate::config::LONGEST_SOCKET_PATH;

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Longer than the kernel allows.
    #[error("the socket path {path} has {length} bytes, and the kernel allows {LONGEST_SOCKET_PATH}: use a shorter --data-dir or path", path = path.display())]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
    /// Somebody answers on it.
    #[error("the socket {path} is in use by another process: stop it, or choose another path", path = path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{path} is there already and no socket: remove it, or choose another path", path = path.display())]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// The port is taken.
    #[error("the address {address} is in use: stop what listens there, or choose another (port 0 picks a free one)")]
    PortInUse {
        /// The address.
        address: SocketAddr,
    },
    /// The system refused a socket.
    #[error("the socket {path} cannot be opened: {source}", path = path.display())]
    Socket {
        /// The path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The system refused a port.
    #[error("the address {address} cannot be opened: {source}")]
    Port {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// Listens on `path`; `mode` says who may connect.
///
/// # Errors
/// [`SocketError`].
pub fn unix(path: &Path, mode: u32) -> Result<UnixListener, SocketError> {
    let length = path.as_os_str().len();
    if length > LONGEST_SOCKET_PATH {
        return Err(SocketError::TooLong { path: path.to_owned(), length });
    }
    let refused = |source| SocketError::Socket { path: path.to_owned(), source };
    clear(path)?;
    let fresh = first_name(path);
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(refused(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh).map_err(refused)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(mode)).map_err(refused)?;
    fs::rename(&fresh, path).map_err(refused)?;
    Ok(listener)
}

/// The name that a socket is bound under until its mode is set: hidden, beside its own, and no longer than it.
fn first_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let shorter = name.get(..name.len().saturating_sub(1)).unwrap_or_default();
    let mut hidden = OsString::from(".");
    hidden.push(OsStr::from_bytes(if shorter.is_empty() { b"new" } else { shorter }));
    path.with_file_name(hidden)
}

fn clear(path: &Path) -> Result<(), SocketError> {
    use std::os::unix::fs::FileTypeExt;
    let refused = |source| SocketError::Socket { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(refused(error)),
        Ok(facts) if !facts.file_type().is_socket() => Err(SocketError::NoSocket { path: path.to_owned() }),
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(refused),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            _ => Err(SocketError::InUse { path: path.to_owned() }),
        },
    }
}

/// Listens on `address`; port 0 picks a free one.
///
/// # Errors
/// [`SocketError::PortInUse`] and [`SocketError::Port`].
pub async fn tcp(address: SocketAddr) -> Result<TcpListener, SocketError> {
    TcpListener::bind(address).await.map_err(|source| {
        if source.kind() == ErrorKind::AddrInUse {
            SocketError::PortInUse { address }
        } else {
            SocketError::Port { address, source }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_left_by_a_crash_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sds.sock");
        let first = unix(&path, 0o600).unwrap();
        assert!(matches!(unix(&path, 0o600), Err(SocketError::InUse { .. })));
        drop(first);
        let _second = unix(&path, 0o660).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    }

    #[tokio::test]
    async fn what_cannot_be_bound_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        assert!(matches!(unix(&file, 0o600), Err(SocketError::NoSocket { .. })));
        // The longest that the kernel takes is taken, and one byte more is told.
        let room = LONGEST_SOCKET_PATH - dir.path().as_os_str().len() - 1;
        unix(&dir.path().join("x".repeat(room)), 0o600).unwrap();
        let long = dir.path().join("x".repeat(room + 1));
        assert!(matches!(unix(&long, 0o600), Err(SocketError::TooLong { .. })));
        let taken = tcp(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = taken.local_addr().unwrap();
        assert!(matches!(tcp(address).await, Err(SocketError::PortInUse { .. })));
    }
}
