//! The listener and its bounds: how many connections, how long each may take for what, how large a request may be.
//!
//! HTTP/1.1 only: nothing here needs more, and each protocol is an attack surface. When the server stops, accepting ends
//! at once, answers under way are finished, idle connections are closed; [`Tasks::drain`] waits for that. A client that
//! neither sends nor reads is dropped, and never costs more than one of the connections.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Edge, HttpSources};
use crate::tasks::Tasks;

/// How long to wait after the system refused a connection (no descriptors left), before the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The most header fields of one request.
const MOST_HEADERS: usize = 64;

/// The least that hyper reads into at once; a smaller bound on headers is checked by its parser.
const SMALLEST_BUFFER: usize = 8 << 10;

/// The bounds of the HTTP listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpLimits {
    /// Connections at the same time; further ones wait in the system's queue.
    pub max_connections: usize,
    /// How long a connection may be without a whole request header: when it is new, when it is slow, when it is idle.
    pub header_timeout: Duration,
    /// How long an answer may take to be made.
    pub request_timeout: Duration,
    /// How long a connection lives; the answer under way then has `request_timeout` more to be read.
    pub connection_lifetime: Duration,
    /// Bytes of a request's path and query.
    pub longest_uri: usize,
    /// Bytes of a request's line and headers.
    pub longest_header: usize,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            max_connections: 256,
            header_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(10),
            connection_lifetime: Duration::from_secs(300),
            longest_uri: 1 << 10,
            longest_header: 16 << 10,
        }
    }
}

/// Serves `listener` until the tasks are asked to stop.
pub fn serve(
    listener: TcpListener,
    sources: Arc<dyn HttpSources>,
    limits: HttpLimits,
    tasks: &Tasks,
) -> JoinHandle<()> {
    let edge = Edge::new(sources, limits);
    tasks.spawn("http", accept(listener, edge, tasks.clone()))
}

async fn accept(listener: TcpListener, edge: Edge, tasks: Tasks) {
    let stopping = tasks.stopping();
    let places = Arc::new(Semaphore::new(edge.limits.max_connections));
    loop {
        // A place first, then a connection: what we can't serve stays with the system.
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = stopping.cancelled() => return,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                let (edge, stopping) = (edge.clone(), stopping.clone());
                tasks.spawn("http connection", async move {
                    let _place = place;
                    converse(stream, edge, stopping).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "an HTTP connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection from its first byte to its end.
async fn converse(stream: TcpStream, edge: Edge, stopping: CancellationToken) {
    let limits = edge.limits.clone();
    let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
        let edge = edge.clone();
        async move {
            let request: Request = request.map(Body::new);
            Ok::<_, Infallible>(edge.answer(request).await)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(MOST_HEADERS)
        .max_header_size(limits.longest_header)
        .max_buf_size(limits.longest_header.max(SMALLEST_BUFFER))
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = stopping.cancelled() => None,
        () = tokio::time::sleep(limits.connection_lifetime) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(limits.request_timeout, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}
