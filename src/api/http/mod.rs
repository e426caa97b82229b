//! Plain HTTP, on loopback unless the operator says otherwise: what anyone may see.
//!
//! The bundle, the CRLs, the ledger's checkpoints, verifier keys and hash tiles, health and metrics. Always true: nothing here
//! changes anything, asks who is there, or shows a record; each answer goes to anyone who can connect. So only GET and
//! HEAD are known, request bodies are never read, and what is not public is not in [`HttpSources`]. `app` binds the
//! listener, fills the trait and calls [`serve`]. What goes wrong inside is logged; the client is told that it is not
//! its fault, and no more.

mod bundle;
mod crl;
mod exposition;
mod ledger;
mod limits;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use tower::ServiceExt;

use crate::audit::ledger::LedgerReader;
use crate::revocation::CrlSet;

pub use limits::{HttpLimits, serve};

/// The bundle of this server's trust domain, in both spellings, made once per version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleDocument {
    /// PEM, the roots in a stable order.
    pub pem: Bytes,
    /// The SPIFFE bundle (SPIFFE Trust Domain and Bundle, section 4), JSON.
    pub json: Bytes,
    /// Derived from the content: letters, digits and dashes. Becomes the entity tag.
    pub version: String,
}

/// What the rest of the program lets anyone see.
///
/// Contract: every method answers at once from memory; none waits, and none fails. Called from any number of tasks at
/// the same time. Files of the ledger are read through [`LedgerReader`], on threads made for blocking.
pub trait HttpSources: Send + Sync + 'static {
    /// The current bundle; `None` until the first authority is there.
    fn bundle(&self) -> Option<BundleDocument>;

    /// The CRL of every authority; `None` until the first is there.
    fn crls(&self) -> Option<Arc<CrlSet>>;

    /// The ledger, once it is open.
    fn ledger(&self) -> Option<LedgerReader>;

    /// What keeps this server from being ready, a line each, in words that anyone may read; empty when it is ready.
    fn problems(&self) -> Vec<String>;

    /// Every metric in the OpenMetrics 1.0 text format.
    fn metrics(&self) -> String;

    /// Counts an answer.
    fn answered(&self, route: Route, status: StatusCode);
}

/// What kind of thing was asked for: bounded, so that it can be a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Route {
    /// `/`
    Index,
    /// `/bundle`, `/bundle.json`
    Bundle,
    /// `/crl`, `/crl/<issuer key id>.crl`
    Crl,
    /// `/ledger`
    Logs,
    /// `/ledger/<log>/checkpoint`
    Checkpoint,
    /// `/ledger/<log>/vkey`
    VerifierKey,
    /// `/ledger/<log>/tile/…`
    Tile,
    /// `/healthz`
    Health,
    /// `/readyz`
    Ready,
    /// `/metrics`
    Metrics,
    /// Nothing that we serve.
    Unknown,
}

impl Route {
    /// Every route, in the order of documentation.
    pub const ALL: [Self; 11] = [
        Self::Index,
        Self::Bundle,
        Self::Crl,
        Self::Logs,
        Self::Checkpoint,
        Self::VerifierKey,
        Self::Tile,
        Self::Health,
        Self::Ready,
        Self::Metrics,
        Self::Unknown,
    ];

    /// The word in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Bundle => "bundle",
            Self::Crl => "crl",
            Self::Logs => "logs",
            Self::Checkpoint => "checkpoint",
            Self::VerifierKey => "vkey",
            Self::Tile => "tile",
            Self::Health => "healthz",
            Self::Ready => "readyz",
            Self::Metrics => "metrics",
            Self::Unknown => "unknown",
        }
    }

    /// By a request's path, as it came over the wire.
    #[must_use]
    pub fn of(path: &str) -> Self {
        match path {
            "/" => Self::Index,
            "/bundle" | "/bundle.json" => Self::Bundle,
            "/crl" => Self::Crl,
            one if one.starts_with("/crl/") => Self::Crl,
            "/ledger" => Self::Logs,
            "/healthz" => Self::Health,
            "/readyz" => Self::Ready,
            "/metrics" => Self::Metrics,
            other => ledger::Target::parse(other).map_or(Self::Unknown, |target| target.route()),
        }
    }
}

const INDEX: &str = "\
chancery: a SPIFFE certificate authority with a tamper-evident audit ledger.

/bundle                       the roots of this trust domain, PEM (JSON with Accept: application/json)
/bundle.json                  the same as a SPIFFE bundle
/crl                          the CRL of every authority, PEM
/crl/<issuer key id>.crl      the CRL of one authority, DER
/ledger                       the logs of the ledger, JSON
/ledger/<log>/checkpoint      the signed tree head (c2sp.org/tlog-checkpoint)
/ledger/<log>/vkey            the key that verifies it (c2sp.org/signed-note)
/ledger/<log>/tile/<L>/<N>    hash tiles (c2sp.org/tlog-tiles); records are not served here
/healthz                      the process is alive
/readyz                       the server is ready, or why not
/metrics                      for Prometheus
";

/// All that is served here, without the limits.
#[derive(Clone)]
pub(crate) struct Edge {
    sources: Arc<dyn HttpSources>,
    limits: HttpLimits,
    router: Router,
}

impl Edge {
    pub(crate) fn new(sources: Arc<dyn HttpSources>, limits: HttpLimits) -> Self {
        let router = Router::new()
            .route("/", get(|| async { text(StatusCode::OK, INDEX) }))
            .route("/bundle", get(bundle::by_accept))
            .route("/bundle.json", get(bundle::json))
            .route("/crl", get(crl::all))
            .route("/crl/{file}", get(crl::one))
            .route("/ledger", get(ledger::logs))
            .route("/ledger/{*below}", get(ledger::file))
            .route("/healthz", get(|| async { uncached(text(StatusCode::OK, "alive\n")) }))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .fallback(|| async { text(StatusCode::NOT_FOUND, "nothing is served at this path; GET / lists what is\n") })
            .method_not_allowed_fallback(|| async {
                text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD: nothing can be changed over HTTP\n")
            })
            .with_state(Arc::clone(&sources));
        Self { sources, limits, router }
    }

    /// Answers one request within the limits, and counts the answer.
    pub(crate) async fn answer(&self, request: Request) -> Response {
        let route = Route::of(request.uri().path());
        let length = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
        let mut response = if length > self.limits.longest_uri {
            text(StatusCode::URI_TOO_LONG, "the path is longer than anything that is served here\n")
        } else {
            let answering = self.router.clone().oneshot(request);
            match tokio::time::timeout(self.limits.request_timeout, answering).await {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                Err(_) => {
                    tracing::warn!(route = route.as_str(), "an HTTP request took longer than its limit");
                    unavailable("the server took too long; try again\n")
                }
            }
        };
        if response.status() == StatusCode::METHOD_NOT_ALLOWED {
            // RFC 9110, section 15.5.6: with 405 comes the list.
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        for (name, value) in GUARDS {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        self.sources.answered(route, response.status());
        // The content of an answer to HEAD is left out by hyper (RFC 9110, section 9.3.2).
        response
    }
}

/// On every answer: a browser takes none of it for a page of ours that may run something.
const GUARDS: [(HeaderName, &str); 2] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
];

async fn ready(State(sources): State<Arc<dyn HttpSources>>) -> Response {
    let problems = sources.problems();
    if problems.is_empty() {
        return uncached(text(StatusCode::OK, "ready\n"));
    }
    let lines: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
    uncached(text(StatusCode::SERVICE_UNAVAILABLE, lines))
}

async fn metrics(State(sources): State<Arc<dyn HttpSources>>, headers: HeaderMap) -> Response {
    let open = sources.metrics();
    let (content_type, body) = if exposition::wants_open_metrics(&headers) {
        (exposition::OPEN_METRICS, open)
    } else {
        (exposition::TEXT, exposition::to_text(&open))
    };
    let mut response = uncached(body_of(StatusCode::OK, content_type, body));
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

fn body_of(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn text(status: StatusCode, body: impl Into<Body>) -> Response {
    body_of(status, "text/plain; charset=utf-8", body)
}

fn cached(mut response: Response, how: &'static str) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(how));
    response
}

/// What is true only at this moment.
fn uncached(response: Response) -> Response {
    cached(response, "no-store")
}

/// It is ours to mend; the client may try again in a moment.
fn unavailable(why: &'static str) -> Response {
    let mut response = uncached(text(StatusCode::SERVICE_UNAVAILABLE, why));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    response
}
