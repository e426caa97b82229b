//! What operators change: policy and configuration.
//!
//! The work is behind [`Changes`], which `app` fills; what is recorded is recorded there, with the operator's act as it
//! is begun here.

use std::sync::Arc;

use futures::future::BoxFuture;
use tonic::{Request, Response, Status};

use super::Sources;
use crate::audit::event::{Action, Event};
use crate::caller::Caller;
use crate::proto::chancery::admin::v1 as pb;
use crate::store::CertificateRow;

/// The most certificates that a diff lists; it counts all of them.
pub const MOST_LISTED: usize = 1_000;

/// What another policy would mean.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyDiff {
    /// SHA-256 of the policy in force, hex.
    pub hash_before: String,
    /// SHA-256 of the other one.
    pub hash_after: String,
    /// Names of rules that only the other one has.
    pub added: Vec<String>,
    /// Names of rules that only the one in force has.
    pub removed: Vec<String>,
    /// Names of rules that say something else.
    pub changed: Vec<String>,
    /// Live certificates that it would not grant to whom they were issued; all of them.
    pub lost: Vec<CertificateRow>,
    /// Live certificates that were compared.
    pub compared: u64,
    /// Live certificates of callers whose groups decide and are not known, because they are not connected.
    pub unknown: u64,
    /// Whether the asking operator could get a certificate before and would get none after.
    pub locks_out_operator: bool,
}

/// Policy and configuration, as operators change them.
pub trait Changes: Send + Sync {
    /// Reads both files again; `act` is the operator's, recorded already.
    fn reload(&self, act: Event) -> BoxFuture<'_, pb::Reloaded>;

    /// Says what another policy would mean; nothing changes.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` with every mistake of `text`.
    fn diff<'a>(
        &'a self,
        caller: &'a Caller,
        path: &'a str,
        text: &'a str,
    ) -> BoxFuture<'a, Result<PolicyDiff, Status>>;

    /// Replaces the policy file and puts it in force, recorded with the actor of `act`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` with every mistake, `FAILED_PRECONDITION` when another policy is in force than the operator saw,
    /// the file holds another text, or the operator would be locked out.
    fn apply<'a>(
        &'a self,
        caller: &'a Caller,
        ask: pb::ApplyPolicyRequest,
        act: Event,
    ) -> BoxFuture<'a, Result<pb::PolicyApplied, Status>>;
}

pub(super) async fn diff(
    sources: &Arc<Sources>,
    request: Request<pb::DiffPolicyRequest>,
) -> Result<Response<pb::PolicyDiff>, Status> {
    let operator = sources.admit(&request).await?;
    let ask = request.get_ref();
    let path = if ask.path.is_empty() { "policy.toml" } else { &ask.path };
    let diff = sources.changes.diff(&operator.caller, path, &ask.text).await?;
    let lost_count = u64::try_from(diff.lost.len()).unwrap_or(u64::MAX);
    Ok(Response::new(pb::PolicyDiff {
        hash_before: diff.hash_before,
        hash_after: diff.hash_after,
        added: diff.added,
        removed: diff.removed,
        changed: diff.changed,
        lost: sources.describe_all(diff.lost.into_iter().take(MOST_LISTED)),
        lost_count,
        compared: diff.compared,
        unknown: diff.unknown,
        locks_out_operator: diff.locks_out_operator,
    }))
}

pub(super) async fn apply(
    sources: &Arc<Sources>,
    request: Request<pb::ApplyPolicyRequest>,
) -> Result<Response<pb::PolicyApplied>, Status> {
    let operator = sources.admit(&request).await?;
    let act = sources.act(Action::ConfigChange, &operator, "policy");
    sources.changes.apply(&operator.caller, request.into_inner(), act).await.map(Response::new)
}

pub(super) async fn reload(
    sources: &Arc<Sources>,
    request: Request<pb::ReloadRequest>,
) -> Result<Response<pb::Reloaded>, Status> {
    let operator = sources.admit(&request).await?;
    let act = sources.act(Action::OperatorAct, &operator, "reload");
    sources.ledger.append(act.clone()).await?;
    Ok(Response::new(sources.changes.reload(act).await))
}
