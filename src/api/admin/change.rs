//! What operators change: policy and configuration.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::Sources;
use crate::proto::chancery::admin::v1 as pb;

fn missing<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not there yet"))
}

pub(super) async fn diff(
    sources: &Arc<Sources>,
    request: Request<pb::DiffPolicyRequest>,
) -> Result<Response<pb::PolicyDiff>, Status> {
    sources.admit(&request).await?;
    missing()
}

pub(super) async fn apply(
    sources: &Arc<Sources>,
    request: Request<pb::ApplyPolicyRequest>,
) -> Result<Response<pb::PolicyApplied>, Status> {
    sources.admit(&request).await?;
    missing()
}

pub(super) async fn reload(
    sources: &Arc<Sources>,
    request: Request<pb::ReloadRequest>,
) -> Result<Response<pb::Reloaded>, Status> {
    sources.admit(&request).await?;
    missing()
}
