//! Every call of the admin listeners passes here first: who has too low a role is told so before its request is read.
//!
//! A request can be as large as a policy, and generated code reads it whole before it calls the service; nobody who is
//! only told no makes us hold it. What a role may do beyond that depends on what is asked, and the service asks again.
//! Answers leave through here too: a status whose text is longer than a client takes is cut.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::Limited;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use super::AdminService;
use super::rights::{self, Least};
use super::roles::Role;
use super::server::PeerInfo;
use crate::api::status;

/// The largest request of whoever has no role, in bytes.
const LARGEST_OF_STRANGERS: usize = 8 << 10;

/// What the record of a refusal says of a call that no table has.
const NO_CALL: &str = "no such call";

/// A service behind the question who asks.
#[derive(Clone)]
pub(super) struct Gate<S> {
    inner: S,
    service: AdminService,
    what: Option<&'static str>,
}

impl<S> Gate<S> {
    /// For a service that knows no roles: readers and above come through. `what` is what the record of a refusal says was
    /// tried.
    pub(super) fn readers(inner: S, service: AdminService, what: &'static str) -> Self {
        Self { inner, service, what: Some(what) }
    }

    /// For the service whose calls are in the table of rights.
    pub(super) fn table(inner: S, service: AdminService) -> Self {
        Self { inner, service, what: None }
    }

    /// What any request to `path` takes at least, and what is tried with it.
    fn least(&self, path: &str) -> (Least, &'static str) {
        if let Some(what) = self.what {
            return (Least::Role(Role::Reader), what);
        }
        let rpc = path.rsplit('/').next().unwrap_or_default();
        let right = rights::all().find(|right| right.rpc == rpc);
        right.map_or((Least::Role(Role::Reader), NO_CALL), |right| (right.least, right.what))
    }
}

impl<S: NamedService> NamedService for Gate<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The one that was found ready answers; a clone takes its place.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let (least, what) = self.least(request.uri().path());
        let service = self.service.clone();
        let peer = request.extensions().get::<PeerInfo>().cloned();
        Box::pin(async move {
            let admitted = match least {
                Least::Role(least) => service.sources().admit_peer(peer, least, what).await.map(|_| request),
                // Everybody may try; what they send is small, so that strangers do not make us hold more.
                Least::Credential => Ok(request.map(|body| Body::new(Limited::new(body, LARGEST_OF_STRANGERS)))),
            };
            let mut answer = match admitted {
                Ok(request) => inner.call(request).await?,
                Err(status) => status.into_http(),
            };
            status::bound_headers(answer.headers_mut());
            Ok(answer)
        })
    }
}
