//! The admin socket: attests each peer as it connects and hands its requests to the service.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use super::AdminService;
use crate::attest::{AttestError, unix_peer};
use crate::caller::Caller;
use crate::policy::ADMIN_SOCKET;
use crate::proto::chancery::admin::v1::admin_server::AdminServer;

/// The largest request in bytes: a CSR and a few words.
pub const LARGEST_REQUEST: usize = 256 * 1024;

/// Requests and streams that one connection may have under way.
pub const MOST_STREAMS: u32 = 32;

/// How long an answer may take to begin.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Who is at the other end, as the kernel said when it connected.
#[derive(Debug, Clone)]
pub(super) struct PeerInfo(pub(super) Result<Caller, AttestError>);

struct Peer {
    stream: UnixStream,
    info: PeerInfo,
}

impl Connected for Peer {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.info.clone()
    }
}

impl AsyncRead for Peer {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Peer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Serves until `stopping`, then lets answers that are under way finish.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: UnixListener,
    service: AdminService,
    stopping: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let peers = UnixListenerStream::new(listener).map(|accepted| {
        accepted.map(|stream| {
            let info = PeerInfo(unix_peer::attest(&stream, ADMIN_SOCKET));
            Peer { stream, info }
        })
    });
    Server::builder()
        .timeout(REQUEST_TIMEOUT)
        .max_concurrent_streams(MOST_STREAMS)
        .add_service(AdminServer::new(service).max_decoding_message_size(LARGEST_REQUEST))
        .serve_with_incoming_shutdown(peers, stopping.cancelled_owned())
        .await
}
