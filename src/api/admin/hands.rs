//! What operators do to certificates by hand: rotate, revoke, release.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use tonic::{Request, Response, Status};

use super::Sources;
use crate::proto::chancery::admin::v1 as pb;

/// What happens, as it happens.
pub(super) type Progress<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn missing<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not there yet"))
}

pub(super) async fn rotate(
    sources: &Arc<Sources>,
    request: Request<pb::RotateCertificatesRequest>,
) -> Result<Response<Progress<pb::RotationProgress>>, Status> {
    sources.admit(&request).await?;
    missing()
}

pub(super) async fn revoke(
    sources: &Arc<Sources>,
    request: Request<pb::RevokeCertificatesRequest>,
) -> Result<Response<Progress<pb::RevocationProgress>>, Status> {
    sources.admit(&request).await?;
    missing()
}

pub(super) async fn release(
    sources: &Arc<Sources>,
    request: Request<pb::ReleaseIdentityRequest>,
) -> Result<Response<pb::Released>, Status> {
    sources.admit(&request).await?;
    missing()
}

pub(super) async fn denies(
    sources: &Arc<Sources>,
    request: Request<pb::ListDeniesRequest>,
) -> Result<Response<pb::DenyList>, Status> {
    sources.admit(&request).await?;
    missing()
}

pub(super) async fn crls(
    sources: &Arc<Sources>,
    request: Request<pb::ListCrlsRequest>,
) -> Result<Response<pb::CrlList>, Status> {
    sources.admit(&request).await?;
    missing()
}
