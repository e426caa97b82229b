//! The listeners of the admin API: attest each peer as it connects and hand its requests to the services.
//!
//! Connections are counted in [`places`](super::places). Every service stands behind [`Gate`], health and reflection too.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::{self, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tracing::warn;

use super::AdminService;
use super::gate::Gate;
use super::places::{Place, Places};
use crate::api::tls::Connection;
use crate::attest::{AttestError, login, unix_peer};
use crate::caller::{Caller, Evidence};
use crate::policy::{ADMIN_SOCKET, LARGEST_POLICY};
use crate::proto::ADMIN_DESCRIPTORS;
use crate::proto::chancery::admin::v1::admin_server::AdminServer;

/// The largest request in bytes: a whole policy file and a few words.
pub const LARGEST_REQUEST: usize = LARGEST_POLICY + (64 << 10);

/// Requests and streams that one connection may have under way.
pub const MOST_STREAMS: u32 = 32;

/// How long an answer may take to begin.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a silent connection is asked whether it lives.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// How long it may take to answer that.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// The headers of one request, in bytes.
const LARGEST_HEADERS: u32 = 16 << 10;

/// Streams that a client may have reset before we noticed; more end the connection (rapid reset, CVE-2023-44487).
const RESETS: usize = 64;

/// How long accepting rests after the system refused a connection (out of descriptors): it would refuse at once again.
const ACCEPT_REST: Duration = Duration::from_millis(200);

/// Who is at the other end, as it was when it connected.
#[derive(Debug, Clone)]
pub(super) struct PeerInfo {
    pub(super) caller: Result<Caller, AttestError>,
    /// The account that logged in, on a Unix socket.
    pub(super) login: Option<u32>,
}

impl PeerInfo {
    fn of(stream: &UnixStream) -> Self {
        let caller = unix_peer::attest(stream, ADMIN_SOCKET);
        let login = match caller.as_ref().map(Caller::evidence) {
            Ok(Evidence::UnixPeer(peer)) => login::of(stream, peer.pid),
            Ok(Evidence::Client(_) | Evidence::Own) | Err(_) => None,
        };
        Self { caller, login }
    }
}

/// Bytes in both directions, whatever carries them.
trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

/// One connection, while it lives.
pub(super) struct Peer {
    bytes: Box<dyn Bytes>,
    info: PeerInfo,
    _place: Place,
}

impl Connected for Peer {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.info.clone()
    }
}

impl AsyncRead for Peer {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_read(cx, buf)
    }
}

impl AsyncWrite for Peer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.bytes).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_shutdown(cx)
    }
}

/// Connections of `listener`, attested; those without a place are closed at once.
fn unix_peers(
    listener: UnixListener,
    service: AdminService,
    places: Places,
) -> impl Stream<Item = io::Result<Peer>> + Send {
    stream::unfold((listener, service, places), |(listener, service, places)| async move {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(why) => {
                    warn!(%why, "a connection to the admin socket could not be accepted; is the limit of open files low?");
                    tokio::time::sleep(ACCEPT_REST).await;
                    continue;
                }
            };
            let info = PeerInfo::of(&stream);
            if let Some(peer) = seat(Box::new(stream), info, &service, &places) {
                return Some((Ok(peer), (listener, service, places)));
            }
        }
    })
}

/// Connections whose handshakes are done; those without a place are closed at once.
fn tls_peers(
    connections: mpsc::Receiver<Connection>,
    service: AdminService,
    places: Places,
) -> impl Stream<Item = io::Result<Peer>> + Send {
    ReceiverStream::new(connections).filter_map(move |connection| {
        let info = PeerInfo { caller: Ok(connection.caller().clone()), login: None };
        let peer = seat(Box::new(connection), info, &service, &places);
        std::future::ready(peer.map(Ok))
    })
}

fn seat(bytes: Box<dyn Bytes>, info: PeerInfo, service: &AdminService, places: &Places) -> Option<Peer> {
    let has_role = info.caller.as_ref().is_ok_and(|caller| service.knows(caller));
    let place = match &info.caller {
        Ok(caller) if has_role => places.operator(caller.account()),
        Ok(_) | Err(_) => places.stranger(),
    };
    match place {
        Some(place) => Some(Peer { bytes, info, _place: place }),
        None => {
            let caller = info.caller.as_ref().map(Caller::label);
            warn!(?caller, has_role, "too many connections to the admin API; this one is closed");
            None
        }
    }
}

/// Serves the socket, and the connections of a TCP listener where there is one, until `stopping`; then lets answers that
/// are under way finish.
///
/// # Errors
/// When serving fails.
pub async fn serve(
    listener: UnixListener,
    remote: Option<mpsc::Receiver<Connection>>,
    service: AdminService,
    health: HealthReporter,
    stopping: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let places = Places::new();
    let local = unix_peers(listener, service.clone(), places.clone());
    let remote = match remote {
        Some(connections) => tls_peers(connections, service.clone(), places).boxed(),
        None => stream::empty().boxed(),
    };
    let peers = stream::select(local.boxed(), remote);
    let health = HealthServer::new(HealthService::from_health_reporter(health));
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(ADMIN_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name("chancery.admin.v1.Admin")
            .with_service_name("grpc.health.v1.Health")
    };
    let (v1, v1alpha) = (
        reflection().build_v1().expect("descriptors that the build wrote"),
        reflection().build_v1alpha().expect("descriptors that the build wrote"),
    );
    let admin = AdminServer::new(service.clone()).max_decoding_message_size(LARGEST_REQUEST);
    Server::builder()
        .timeout(REQUEST_TIMEOUT)
        .max_concurrent_streams(MOST_STREAMS)
        .http2_max_header_list_size(LARGEST_HEADERS)
        .http2_max_pending_accept_reset_streams(Some(RESETS))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(Gate::readers(health, service.clone(), "health"))
        .add_service(Gate::readers(v1, service.clone(), "reflection"))
        .add_service(Gate::readers(v1alpha, service.clone(), "reflection"))
        .add_service(Gate::table(admin, service))
        .serve_with_incoming_shutdown(peers, stopping.cancelled_owned())
        .await
}
