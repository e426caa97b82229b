//! Behind the calls that change policy and configuration, for tests that change nothing.

use futures::future::{BoxFuture, FutureExt};
use tonic::Status;

use super::super::change::{Changes, Pending, PolicyDiff};
use crate::audit::event::Event;
use crate::caller::Caller;
use crate::proto::chancery::admin::v1 as pb;

/// Nothing changes.
pub(super) struct FakeChanges;

impl Changes for FakeChanges {
    fn pending(&self) -> BoxFuture<'_, Pending> {
        async { Pending::default() }.boxed()
    }

    fn reload(&self, _: Event, _: Pending) -> BoxFuture<'_, pb::Reloaded> {
        async { pb::Reloaded::default() }.boxed()
    }

    fn diff<'a>(&'a self, _: &'a Caller, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<PolicyDiff, Status>> {
        async { Ok(PolicyDiff::default()) }.boxed()
    }

    fn apply<'a>(
        &'a self,
        _: &'a Caller,
        _: pb::ApplyPolicyRequest,
        _: Event,
    ) -> BoxFuture<'a, Result<pb::PolicyApplied, Status>> {
        async { Ok(pb::PolicyApplied::default()) }.boxed()
    }
}
