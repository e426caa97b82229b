//! What operators change: policy and configuration.
//!
//! The work is behind [`Changes`], which `app` fills; what is recorded is recorded there, with the operator's act as it
//! is begun here.

use std::sync::Arc;

use futures::future::BoxFuture;
use tonic::{Request, Response, Status};

use super::Sources;
use super::acts::Operator;
use super::hands::words;
use crate::approval::{Guarded, Plan};
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

/// What the files hold that is not in force: the hash in force, and that of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pending {
    /// Of the policy; `None` where the file says what is in force, or has a mistake.
    pub policy: Option<(String, String)>,
    /// Of what changes in the configuration while the server runs; as for the policy.
    pub configuration: Option<(String, String)>,
}

/// Policy and configuration, as operators change them.
pub trait Changes: Send + Sync {
    /// What a reload would put in force.
    fn pending(&self) -> BoxFuture<'_, Pending>;

    /// Reads both files again; `act` is the operator's, recorded already. What takes a second operator comes into force only
    /// as `granted` has it.
    fn reload(&self, act: Event, granted: Pending) -> BoxFuture<'_, pb::Reloaded>;

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
        lost: sources.describe_all(diff.lost.into_iter().take(MOST_LISTED))?,
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
    let ask = request.into_inner();
    let leave = if sources.needs_second(&operator, Guarded::Policy) {
        let plan = applying(sources, &operator, &ask).await?;
        Some(sources.leave(&operator, plan, words(ask.comment.trim(), "comment")?).await?)
    } else {
        None
    };
    let mut act = sources.act(Action::ConfigChange, &operator, "policy");
    leave.iter().for_each(|leave| leave.mark(&mut act));
    sources.changes.apply(&operator.caller, ask, act).await.map(Response::new)
}

/// A new policy as a second operator grants it. One with mistakes, or that compares with another, asks nobody.
async fn applying(sources: &Sources, operator: &Operator, ask: &pb::ApplyPolicyRequest) -> Result<Plan, Status> {
    let diff = sources.changes.diff(&operator.caller, "policy.toml", &ask.text).await?;
    if ask.expected_hash != diff.hash_before {
        return Err(Status::failed_precondition(format!(
            "another policy ({}) is in force than the one you compared with: chancery policy diff",
            diff.hash_before
        )));
    }
    if diff.locks_out_operator && !ask.allow_lock_out {
        return Err(Status::failed_precondition(
            "with this policy you could issue nothing any more: add a rule for yourself on the socket \"admin\", or say --allow-lock-out",
        ));
    }
    let rules = |what: &str, names: &[String]| match names {
        [] => String::new(),
        names => format!("; {what}: {}", names.join(", ")),
    };
    let (before, after) = (diff.hash_before, diff.hash_after);
    Ok(Plan {
        act: Guarded::Policy,
        subject: after.clone(),
        description: format!(
            "put policy {after} in the place of {before}{}{}{}; {} of {} live certificates would not be granted again{}",
            rules("added", &diff.added),
            rules("removed", &diff.removed),
            rules("changed", &diff.changed),
            diff.lost.len(),
            diff.compared,
            if ask.revoke { " and are revoked" } else { "" }
        ),
        parameters: prost::Message::encode_to_vec(ask),
        state: vec![before],
    })
}

pub(super) async fn reload(
    sources: &Arc<Sources>,
    request: Request<pb::ReloadRequest>,
) -> Result<Response<pb::Reloaded>, Status> {
    let operator = sources.admit(&request).await?;
    let pending = sources.changes.pending().await;
    let parts = [(Guarded::Policy, &pending.policy), (Guarded::Configuration, &pending.configuration)];
    let second = parts.iter().find(|(act, hashes)| hashes.is_some() && sources.needs_second(&operator, *act));
    let leave = match second {
        None => None,
        Some((act, _)) => Some(sources.leave(&operator, reloading(*act, &pending), None).await?),
    };
    let mut act = sources.act(Action::OperatorAct, &operator, "reload");
    leave.iter().for_each(|leave| leave.mark(&mut act));
    sources.ledger.append(act.clone()).await?;
    drop(leave);
    Ok(Response::new(sources.changes.reload(act, pending).await))
}

/// A reload of what the files hold, as a second operator grants it: exactly these contents.
fn reloading(act: Guarded, pending: &Pending) -> Plan {
    let parts = [("policy", &pending.policy), ("configuration", &pending.configuration)];
    let facts = parts.iter().filter_map(|(what, hashes)| {
        let (before, after) = hashes.as_ref()?;
        Some(format!("{what} {after} in the place of {before}"))
    });
    let facts: Vec<String> = facts.collect();
    let hash = pending.policy.as_ref().or(pending.configuration.as_ref()).map(|(_, after)| after.clone());
    Plan {
        act,
        subject: hash.unwrap_or_default(),
        description: format!("read the files again: {}", facts.join(", ")),
        parameters: Vec::new(),
        state: facts,
    }
}
