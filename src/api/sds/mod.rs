//! Envoy's secret discovery service on Unix sockets: state of the world and delta, by itself or as the one type of an
//! aggregated stream.
//!
//! Each connection is attested when it is accepted; each stream is a [`Session`](crate::feed::Session) of the feed with
//! xDS spoken in front of it. Streams use an HTTP body of their own (`body`): generated code keeps buffers per stream
//! that never shrink and copies a shared bundle for each of them. Everything a client can make large is bounded in
//! [`SdsLimits`]. Nothing here knows what policy says or what a certificate is.

mod accounts;
mod body;
mod connection;
mod exchange;
mod frame;
mod reader;
mod said;
#[cfg(test)]
mod tests;
mod versions;

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tonic_health::server::HealthReporter;
use tracing::warn;

use crate::api::sds::accounts::Accounts;
use crate::api::tls::Connection;
use crate::attest::{AttestError, unix_peer};
use crate::caller::Caller;
use crate::feed::Feed;
use crate::tasks::Tasks;

/// How long accepting rests after the system refused a connection (out of descriptors): it would refuse at once again.
const ACCEPT_REST: Duration = Duration::from_millis(200);

/// The bounds of the SDS edge, each with the configuration key that sets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SdsLimits {
    /// `max_connections`: on one socket; further ones wait in the system's queue.
    pub max_connections: usize,
    /// `max_connections_per_caller`: of one account on one socket; further ones are closed at once.
    pub max_connections_per_caller: usize,
    /// `max_streams_per_connection`: Envoy opens one for each secret.
    pub max_streams_per_connection: u32,
    /// `max_streams_per_caller`: of one account on one socket, all its connections together; further ones are refused.
    pub max_streams_per_caller: usize,
    /// `max_request_bytes`: one message of a client. Envoy's node description takes 61 KB of it.
    pub max_request_bytes: usize,
    /// `max_request_bytes_per_caller`: what the requests of one account on one socket may hold that are not whole yet;
    /// further ones wait. At least `max_request_bytes`.
    pub max_request_bytes_per_caller: usize,
    /// `max_header_bytes`: the headers of one request.
    pub max_header_bytes: u32,
    /// `max_names_per_stream`: secrets that one stream subscribes to.
    pub max_names_per_stream: usize,
    /// `request_timeout`: a message that was begun must be whole by then, and a stream must have its first.
    pub request_timeout: Duration,
    /// `keepalive_interval`: how often a silent connection is asked whether it lives.
    pub keepalive_interval: Duration,
    /// `keepalive_timeout`: how long it may take to answer.
    pub keepalive_timeout: Duration,
    /// `idle_timeout`: a connection without a stream is closed after this.
    pub idle_timeout: Duration,
}

impl Default for SdsLimits {
    fn default() -> Self {
        Self {
            max_connections: 8_192,
            max_connections_per_caller: 6_144,
            max_streams_per_connection: 2_048,
            max_streams_per_caller: 16_384,
            max_request_bytes: 512 << 10,
            max_request_bytes_per_caller: 64 << 20,
            max_header_bytes: 16 << 10,
            max_names_per_stream: 1_024,
            request_timeout: Duration::from_secs(30),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(300),
        }
    }
}

/// What every connection needs; cheap to clone.
#[derive(Debug, Clone)]
pub struct SdsContext {
    /// Where secrets come from.
    pub feed: Feed,
    /// Where tasks are spawned, and what says that the server stops.
    pub tasks: Tasks,
    /// The bounds.
    pub limits: Arc<SdsLimits>,
    /// What `grpc.health.v1.Health` answers.
    pub health: HealthReporter,
}

/// Accepts connections on `listener` until the server stops; `socket` is the listener's name, a fact for policy.
/// Streams that live when the server stops are ended with `Unavailable`, so that clients come back.
pub fn serve(listener: UnixListener, socket: &str, context: SdsContext) -> JoinHandle<()> {
    let tasks = context.tasks.clone();
    let socket: Arc<str> = socket.into();
    tasks.spawn("sds.accept", async move {
        let stopping = context.tasks.stopping();
        let room = Arc::new(Semaphore::new(context.limits.max_connections));
        let accounts = Arc::new(Accounts::new(Arc::clone(&context.limits)));
        loop {
            let place = tokio::select! {
                () = stopping.cancelled() => return,
                place = Arc::clone(&room).acquire_owned() => place,
            };
            let accepted = tokio::select! {
                () = stopping.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(why) => {
                    warn!(socket = &*socket, %why, "a connection could not be accepted; is the limit of open files low?");
                    tokio::time::sleep(ACCEPT_REST).await;
                    continue;
                }
            };
            let (context, socket, accounts) = (context.clone(), Arc::clone(&socket), Arc::clone(&accounts));
            context.tasks.clone().spawn("sds.connection", async move {
                let _place = place;
                accepted_one(stream, &socket, context, &accounts).await;
            });
        }
    })
}

/// Serves the attested connections that `incoming` brings, until there are no more: those of the TCP listener `socket`.
pub fn serve_callers(mut incoming: mpsc::Receiver<Connection>, socket: &str, context: SdsContext) -> JoinHandle<()> {
    let tasks = context.tasks.clone();
    let socket: Arc<str> = socket.into();
    tasks.clone().spawn("sds.callers", async move {
        let room = Arc::new(Semaphore::new(context.limits.max_connections));
        let accounts = Arc::new(Accounts::new(Arc::clone(&context.limits)));
        let stopping = context.tasks.stopping();
        loop {
            let place = tokio::select! {
                () = stopping.cancelled() => return,
                place = Arc::clone(&room).acquire_owned() => place,
            };
            let connection = tokio::select! {
                () = stopping.cancelled() => return,
                connection = incoming.recv() => connection,
            };
            let Some(connection) = connection else { return };
            let (context, socket, accounts) = (context.clone(), Arc::clone(&socket), Arc::clone(&accounts));
            tasks.spawn("sds.connection", async move {
                let _place = place;
                let caller = connection.caller().clone();
                identified(connection, Ok(caller), &socket, context, &accounts).await;
            });
        }
    })
}

async fn accepted_one(stream: UnixStream, socket: &str, context: SdsContext, accounts: &Arc<Accounts>) {
    let peer = unix_peer::attest(&stream, socket);
    if let Err(why) = &peer {
        warn!(socket, %why, "a caller could not be identified");
        context.feed.source().unattested(socket, why).await;
    }
    identified(stream, peer, socket, context, accounts).await;
}

async fn identified<I>(
    stream: I,
    peer: Result<Caller, AttestError>,
    socket: &str,
    context: SdsContext,
    accounts: &Arc<Accounts>,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let account = peer.as_ref().map_or_else(|_| format!("unattested:{socket}"), Caller::account);
    let Some(counted) = accounts.enter(&account) else {
        warn!(socket, caller = ?peer.map(|caller| caller.label()), limit = context.limits.max_connections_per_caller,
            "a caller has too many connections (max_connections_per_caller); this one is closed");
        return;
    };
    connection::run(stream, peer, counted.account(), context).await;
}

/// Reads and checks a message as a stream would, for `fuzzing`.
pub(crate) fn read(message: &[u8], delta: bool) {
    let dialect = if delta { said::Dialect::Delta } else { said::Dialect::StateOfTheWorld };
    let method = said::Method { dialect, aggregated: true };
    if let Ok(said) = method.read(message) {
        for first in [true, false] {
            let _ = method.check(&said, first, &SdsLimits::default());
        }
    }
}
