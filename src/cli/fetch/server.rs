//! Whom `fetch` asks: a socket of this machine, or a server on another one with the certificate that it keeps fresh.

use std::path::PathBuf;

use tonic::transport::Channel;

use super::{FetchError, client};
use crate::cli::tls::{Identity, Remote, TlsError};

/// Where certificates come from.
pub(super) enum Server {
    /// A socket of this machine.
    Socket(PathBuf),
    /// Another machine.
    Remote {
        /// With the identity that the operator named, which may be the first one only.
        remote: Remote,
        /// The directory that we fill: as soon as there is a certificate in it, that is our identity.
        own: PathBuf,
    },
}

impl Server {
    pub(super) async fn connect(&self) -> Result<Channel, FetchError> {
        match self {
            Self::Remote { remote, own } => Ok(connect_remote(remote, own).await?),
            Self::Socket(socket) => client::connect(socket).await.map_err(|source| {
                let socket = socket.clone();
                if source.kind() == std::io::ErrorKind::PermissionDenied {
                    FetchError::Forbidden { socket }
                } else {
                    FetchError::NoServer { socket, source }
                }
            }),
        }
    }
}

/// With what was fetched last while it is in time; else, or when the server refuses it, with what the operator gave.
async fn connect_remote(remote: &Remote, own: &PathBuf) -> Result<Channel, TlsError> {
    let ours = Identity::load(own).is_ok_and(|identity| identity.facts.not_after > remote.clock.now());
    if !ours || *own == remote.identity_dir {
        return client::connect_remote(remote).await;
    }
    match client::connect_remote(&Remote { identity_dir: own.clone(), ..remote.clone() }).await {
        Err(refused @ TlsError::Refused { .. }) => {
            // A certificate of our own that is revoked: the operator may have put a new one there.
            client::connect_remote(remote).await.map_err(|_| refused)
        }
        ended => ended,
    }
}
