//! The way to a running server: its admin socket, found by the data directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::exit::{Exit, Failure};
use crate::proto::chancery::admin::v1::admin_client::AdminClient;

/// How long connecting may take: the socket is on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest answer that is taken, in bytes: a page of a thousand certificates with long names.
const LARGEST_ANSWER: usize = 16 << 20;

/// What a running server says of itself in `DATA/addresses.json`, as far as a client needs it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Addresses {
    /// The process.
    pub(crate) pid: u32,
    /// The trust domain.
    pub(crate) trust_domain: String,
    /// The HTTP address, when HTTP is on.
    #[serde(default)]
    pub(crate) http: Option<String>,
    /// The admin socket.
    pub(crate) admin: PathBuf,
    /// The SDS sockets.
    #[serde(default)]
    pub(crate) sds: Vec<SdsAddress>,
}

/// One SDS socket.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct SdsAddress {
    /// Its name.
    pub(crate) name: String,
    /// Its path.
    pub(crate) path: PathBuf,
}

impl Addresses {
    /// Reads `DATA/addresses.json`; absent when no server runs there.
    pub(crate) fn read(data_dir: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(data_dir.join("addresses.json")).ok()?;
        serde_json::from_str(&text).ok()
    }
}

/// The admin socket of the server in `data_dir`.
pub(crate) fn admin_socket(data_dir: &Path) -> PathBuf {
    Addresses::read(data_dir).map_or_else(|| data_dir.join("admin.sock"), |addresses| addresses.admin)
}

/// Connects to the server in `data_dir`.
pub(crate) async fn connect(data_dir: &Path) -> Result<AdminClient<Channel>, Failure> {
    let path = admin_socket(data_dir);
    let (dir, socket) = (data_dir.display(), path.display());
    // Tried by itself first: the transport would wrap the reason beyond recognition.
    let tried = UnixStream::connect(&path).await;
    match tried.as_ref().map_err(std::io::Error::kind) {
        Ok(_) => {}
        Err(std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) => {
            return Err(Failure::new(
                Exit::Unreachable,
                format!("no server runs in {dir}: start one with chancery up --data-dir {dir}, or name its --data-dir"),
            ));
        }
        Err(std::io::ErrorKind::PermissionDenied) => {
            return Err(Failure::new(
                Exit::Unreachable,
                format!("{socket} may not be opened by this user: run the command as the server's own user or as root"),
            ));
        }
        Err(_) => {
            let why = tried.err().map(|error| error.to_string()).unwrap_or_default();
            return Err(Failure::new(Exit::Unreachable, format!("{socket}: {why}; chancery doctor may know more")));
        }
    }
    let connector = service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The name is for the HTTP authority only; nothing resolves it.
    let channel = Endpoint::from_static("http://chancery.admin")
        .connect_timeout(CONNECT_TIMEOUT)
        .connect_with_connector(connector)
        .await
        .map_err(|error| Failure::new(Exit::Unreachable, format!("the server in {data_dir:?}: {error}")))?;
    Ok(AdminClient::new(channel).max_decoding_message_size(LARGEST_ANSWER))
}
