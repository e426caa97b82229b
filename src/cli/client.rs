//! The way to a running server: its admin socket, found by the data directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::exit::{Exit, Failure};
use crate::app::addresses::Addresses;
use crate::proto::chancery::admin::v1::admin_client::AdminClient;

/// How long connecting may take: the socket is on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest answer that is taken, in bytes: a page of a thousand certificates with long names.
const LARGEST_ANSWER: usize = 16 << 20;

/// Where the server of `data_dir` listens; absent when none runs there, or its file cannot be read.
pub(crate) fn addresses(data_dir: &Path) -> Option<Addresses> {
    Addresses::read(data_dir).ok()
}

/// The admin socket of the server in `data_dir`.
pub(crate) fn admin_socket(data_dir: &Path) -> PathBuf {
    addresses(data_dir).map_or_else(|| data_dir.join("admin.sock"), |addresses| addresses.admin)
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
