//! Lets readers and above through to a service that knows no roles: health, reflection.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{Request, Response};
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use super::AdminService;
use super::roles::Role;
use super::server::PeerInfo;

/// A service behind the question who asks.
#[derive(Clone)]
pub(super) struct Gate<S> {
    inner: S,
    service: AdminService,
    what: &'static str,
}

impl<S> Gate<S> {
    /// `what` is what the record of a refusal says was tried.
    pub(super) fn new(inner: S, service: AdminService, what: &'static str) -> Self {
        Self { inner, service, what }
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
        let (service, what) = (self.service.clone(), self.what);
        let peer = request.extensions().get::<PeerInfo>().cloned();
        Box::pin(async move {
            match service.sources().admit_peer(peer, Role::Reader, what).await {
                Ok(_) => inner.call(request).await,
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}
