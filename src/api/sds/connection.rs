//! One connection: HTTP/2 with explicit bounds, and the few paths that it answers.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthService;
use tower::ServiceExt;
use tracing::debug;

use crate::api::sds::SdsContext;
use crate::api::sds::accounts::Account;
use crate::api::sds::body::{Outbox, StreamBody};
use crate::api::sds::exchange::Exchange;
use crate::api::sds::reader::Reader;
use crate::api::sds::said::{Dialect, Method as Stream};
use crate::api::status;
use crate::attest::AttestError;
use crate::caller::Caller;
use crate::feed::source::FeedRefusal;
use crate::tasks::Tasks;

const SDS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/";
const ADS: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/";
const HEALTH: &str = "/grpc.health.v1.Health/";

/// The largest question about health, in bytes: it names one service.
const LARGEST_HEALTH_QUESTION: usize = 1 << 10;

/// What a client may send on one stream before we have read it, in bytes: a request with Envoy's node.
const STREAM_WINDOW: u32 = 64 << 10;

/// The same for a whole connection: what a client makes us hold that sends and never reads.
const CONNECTION_WINDOW: u32 = 256 << 10;

/// What may wait to be written on one stream, in bytes, before the stream's body is asked for more.
const SEND_BUFFER: usize = 256 << 10;

/// The largest HTTP/2 frame, in bytes: the protocol's own default.
const FRAME: u32 = 16 << 10;

/// Streams that a client may have reset before we noticed; more end the connection (rapid reset, CVE-2023-44487).
const RESETS: usize = 64;

/// Serves `io` until it ends, falls silent or the server stops.
pub(super) async fn run<I>(io: I, peer: Result<Caller, AttestError>, account: Arc<Account>, context: SdsContext)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (limits, stopping) = (Arc::clone(&context.limits), context.tasks.stopping());
    let activity = Arc::new(Activity::default());
    let service = Service { peer: Arc::new(peer), account, activity: Arc::clone(&activity), context: context.clone() };
    let connection = http2::Builder::new(Executor(context.tasks))
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_streams_per_connection)
        .max_header_list_size(limits.max_header_bytes)
        .max_frame_size(FRAME)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(RESETS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    let mut idle = pin!(activity.idle(limits.idle_timeout));
    let mut closing = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(why) = ended {
                    debug!(%why, "an SDS connection ended");
                }
                return;
            }
            () = stopping.cancelled(), if !closing => closing = true,
            () = &mut idle, if !closing => closing = true,
        }
        // From here on no new stream begins, and those that live may finish.
        connection.as_mut().graceful_shutdown();
    }
}

/// hyper spawns through our tasks like everyone else.
#[derive(Clone)]
struct Executor(Tasks);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, work: F) {
        drop(self.0.spawn("sds.stream", work));
    }
}

/// How many streams live and how many there were.
#[derive(Debug, Default)]
struct Activity {
    live: AtomicUsize,
    begun: AtomicUsize,
}

impl Activity {
    fn begin(self: &Arc<Self>) -> Live {
        self.live.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        Live(Arc::clone(self))
    }

    /// Returns when no stream has lived or begun for a whole `span`.
    async fn idle(&self, span: std::time::Duration) {
        loop {
            let before = self.begun.load(Ordering::Relaxed);
            tokio::time::sleep(span).await;
            if self.live.load(Ordering::Relaxed) == 0 && self.begun.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }
}

/// A stream, while it lives.
struct Live(Arc<Activity>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Clone)]
struct Service {
    peer: Arc<Result<Caller, AttestError>>,
    account: Arc<Account>,
    activity: Arc<Activity>,
    context: SdsContext,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<Reply>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Reply>, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(service.answer(request).await) })
    }
}

impl Service {
    async fn answer(self, request: Request<Incoming>) -> Response<Reply> {
        let live = self.activity.begin();
        let path = request.uri().path();
        if path.starts_with(HEALTH) {
            // Served before anyone is admitted, so it must cost nothing: a question has a service's name in it, no more.
            let health = HealthServer::new(HealthService::from_health_reporter(self.context.health))
                .max_decoding_message_size(LARGEST_HEALTH_QUESTION);
            let answer = tokio::time::timeout(self.context.limits.request_timeout, health.oneshot(request)).await;
            let Ok(Ok(response)) = answer else {
                return refuse(live, Status::deadline_exceeded("no whole request within request_timeout"));
            };
            return response.map(|body| Reply { _live: live, _place: None, body: ReplyBody::Tonic(body) });
        }
        let method = match method_of(request.method(), path) {
            Ok(method) => method,
            Err(hint) => return refuse(live, Status::unimplemented(hint)),
        };
        let caller = match &*self.peer {
            Ok(caller) => caller.clone(),
            Err(why) => return refuse(live, status::of_attestation(why)),
        };
        let limits = Arc::clone(&self.context.limits);
        let Some(place) = self.account.stream() else {
            let most = limits.max_streams_per_caller;
            self.context.feed.refused(caller, FeedRefusal::TooManyStreams { limit: most }).await;
            let said = format!("this caller has {most} streams open (max_streams_per_caller): close those not needed");
            return refuse(live, Status::resource_exhausted(said));
        };
        let outbox = Arc::new(Outbox::new(method.dialect));
        let budget = self.account.request_bytes();
        let stream = Exchange {
            method,
            reader: Reader::new(request.into_body(), limits.max_request_bytes, limits.request_timeout, budget),
            session: self.context.feed.session(caller),
            outbox: Arc::clone(&outbox),
            limits,
            stopping: self.context.tasks.stopping(),
        };
        let body = ReplyBody::Secrets(StreamBody::new(Box::pin(stream.run()), outbox));
        let mut response = Response::new(Reply { _live: live, _place: Some(place), body });
        response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/grpc"));
        response
    }
}

/// Which stream a request opens, or what its client should use instead.
fn method_of(method: &Method, path: &str) -> Result<Stream, &'static str> {
    let post = *method == Method::POST;
    let (name, aggregated) = match (path.strip_prefix(SDS), path.strip_prefix(ADS)) {
        (Some(name), _) if post => (name, false),
        (None, Some(name)) if post => (name, true),
        (Some(_) | None, _) => return Err("no such service here"),
    };
    let dialect = match (name, aggregated) {
        ("StreamSecrets", false) | ("StreamAggregatedResources", true) => Dialect::StateOfTheWorld,
        ("DeltaSecrets", false) | ("DeltaAggregatedResources", true) => Dialect::Delta,
        ("FetchSecrets", false) => return Err("a secret is renewed on its stream: use StreamSecrets or DeltaSecrets"),
        (_, false) => return Err("use StreamSecrets or DeltaSecrets"),
        (_, true) => return Err("use StreamAggregatedResources or DeltaAggregatedResources"),
    };
    Ok(Stream { dialect, aggregated })
}

fn refuse(live: Live, status: Status) -> Response<Reply> {
    status.into_http::<tonic::body::Body>().map(|body| Reply {
        _live: live,
        _place: None,
        body: ReplyBody::Tonic(body),
    })
}

/// What is sent back, and that it is still being sent.
struct Reply {
    _live: Live,
    _place: Option<OwnedSemaphorePermit>,
    body: ReplyBody,
}

enum ReplyBody {
    Secrets(StreamBody),
    Tonic(tonic::body::Body),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match &mut self.body {
            ReplyBody::Secrets(body) => {
                Pin::new(body).poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(|never| match never {})))
            }
            ReplyBody::Tonic(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            ReplyBody::Secrets(_) => false,
            ReplyBody::Tonic(body) => body.is_end_stream(),
        }
    }
}
