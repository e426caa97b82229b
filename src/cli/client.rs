//! The way to a running server: its admin socket, found by the data directory or named, or its admin port over mutual
//! TLS.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::Context;
use super::exit::{Exit, Failure};
use crate::app::addresses::Addresses;
use crate::proto::chancery::admin::v1::admin_client::AdminClient;

/// How often a silent connection is asked whether it lives, and how long it may take to answer: who follows the ledger
/// must notice that the server is gone.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

/// How long HTTP/2 may take to begin on a connection that is there.
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

/// Connects to the server that the command line means.
pub(crate) async fn connect(context: &Context) -> Result<AdminClient<Channel>, Failure> {
    let channel = match context.remote.remote(None, &context.screen.clock)? {
        Some(remote) => over(remote.connect().await?, &remote.address.to_string()).await?,
        None => local(context).await?,
    };
    Ok(AdminClient::new(channel).max_decoding_message_size(LARGEST_ANSWER))
}

/// The server on this machine.
async fn local(context: &Context) -> Result<Channel, Failure> {
    let path = context.admin_socket.clone().unwrap_or_else(|| admin_socket(&context.data_dir));
    let (dir, socket) = (context.data_dir.display(), path.display());
    let unreachable = |text: String| Failure::new(Exit::Unreachable, text);
    let stream = UnixStream::connect(&path).await.map_err(|error| {
        let gone = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused);
        unreachable(if gone && context.admin_socket.is_some() {
            format!("no server answers on {socket}: {error}; chancery status on its side names its admin socket")
        } else if gone {
            format!("no server runs in {dir}: start one with chancery up --data-dir {dir}, or name its --data-dir")
        } else if error.kind() == ErrorKind::PermissionDenied {
            format!(
                "{socket} may not be opened by this user: run the command as the server's own user or as root, or as \
                 one that [[admin.operator]] names, with --admin-socket PATH and an admin.mode that lets it in"
            )
        } else {
            format!("{socket}: {error}; chancery doctor may know more")
        })
    })?;
    over(stream, &socket.to_string()).await
}

/// A channel over one connection: when it breaks, the command has failed.
async fn over<S>(stream: S, name: &str) -> Result<Channel, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut first = Some(TokioIo::new(stream));
    let connector = service_fn(move |_| std::future::ready(first.take().ok_or(std::io::Error::other("disconnected"))));
    // The name is for the HTTP authority only; nothing resolves it.
    Endpoint::from_static("http://chancery.admin")
        .http2_keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .connect_timeout(CONNECT_TIMEOUT)
        .connect_with_connector(connector)
        .await
        .map_err(|error| Failure::new(Exit::Unreachable, format!("{name}: {error}")))
}
