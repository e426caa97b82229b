//! Policy and configuration as operators change them: what a new policy would mean, and putting it in force.
//!
//! What is always true: a policy is recorded before it decides; the file and what is in force say the same after each
//! step that succeeds, and after a crash the next start records which of the two it found.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;
use tracing::{error, warn};

use super::reload::{By, Reloader};
use super::replace::Replacement;
use super::state::State;
use crate::api::admin::change::{Changes, Pending, PolicyDiff};
use crate::api::status;
use crate::audit::event::{Change, Event};
use crate::ca::issue::Street;
use crate::caller::{Account, Caller};
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::identity::SpiffeId;
use crate::policy::{Outlook, Policy, RulesDiff};
use crate::proto::chancery::admin::v1 as pb;
use crate::revocation::{Order, RevokeError, Revoker, Selection, Step};
use crate::store::{CertificateQuery, CertificateRow, LARGEST_PAGE, Store, StoreError};
use crate::tasks::Tasks;
use crate::x509::crl::Reason;

/// How often what a policy takes away is looked for: what was being issued when it came into force is found the next time.
const ROUNDS: usize = 3;

/// How long a certificate that the old policy granted may need to reach the index.
const SETTLE: Duration = Duration::from_millis(50);

/// Steps of a revocation that wait for their reader: all there are.
const STEPS: usize = 8;

/// Fills [`Changes`].
pub(super) struct AppChanges {
    reloader: Reloader,
    street: Street,
    store: Arc<dyn Store>,
    clock: Clock,
    entropy: Entropy,
    revoker: Revoker,
    tasks: Tasks,
}

/// Live certificates under another policy.
#[derive(Debug, Default)]
struct Comparison {
    lost: Vec<CertificateRow>,
    compared: u64,
    unknown: u64,
}

impl AppChanges {
    pub(super) fn new(state: &State, reloader: Reloader) -> Self {
        Self {
            reloader,
            street: state.street.clone(),
            store: Arc::clone(&state.store),
            clock: state.clock.clone(),
            entropy: state.entropy.clone(),
            revoker: state.revoker.clone(),
            tasks: state.tasks.clone(),
        }
    }

    /// Every live certificate, asked of `new`; beside the tasks, because there may be a million.
    async fn compare(&self, new: Arc<Policy>) -> Result<Comparison, Status> {
        let (store, now) = (Arc::clone(&self.store), self.clock.now().unix_timestamp());
        let compared = tokio::task::spawn_blocking(move || compare(&*store, &new, now)).await;
        let compared = compared.map_err(|_| Status::unavailable("the comparison was interrupted; try again"))?;
        compared.map_err(|why| {
            error!(error = %why, "the index did not answer");
            Status::unavailable("the index does not answer; chancery doctor")
        })
    }

    fn locks_out(&self, caller: &Caller, new: &Policy) -> bool {
        self.street.policy().admits(caller) && !new.admits(caller)
    }

    async fn put(&self, caller: &Caller, ask: pb::ApplyPolicyRequest, act: Event) -> Result<pb::PolicyApplied, Status> {
        let path = self.reloader.policy_path().clone();
        let new = self.reloader.parse(&path, &ask.text).map_err(Status::invalid_argument)?;
        let hash = new.hash_hex().to_owned();
        let mut turn = self.reloader.turn().await;
        let old = self.street.policy();
        if ask.expected_hash != old.hash_hex() {
            return Err(Status::failed_precondition(format!(
                "another policy ({}) is in force than the one you compared with: chancery policy diff shows what it would mean now",
                old.hash_hex()
            )));
        }
        if hash == old.hash_hex() {
            return Err(Status::failed_precondition("this policy is in force already"));
        }
        if let Some(why) = self.reloader.pending_edit().await {
            return Err(Status::failed_precondition(why));
        }
        if self.locks_out(caller, &new) && !ask.allow_lock_out {
            return Err(Status::failed_precondition(
                "with this policy you could issue nothing any more: add a rule for yourself on the socket \"admin\", or say --allow-lock-out",
            ));
        }
        let prepared =
            Replacement::prepare(&path, &ask.text, &self.entropy).map_err(|why| not_replaced(&path, &why))?;
        let comment = ask.comment.trim();
        let cause = if comment.is_empty() { "operator".to_owned() } else { comment.to_owned() };
        let template = ask.revoke.then(|| act.clone());
        let by = By { cause: cause.into(), act: Some(act), granted: Pending::default() };
        let position = self.reloader.record_policy(&new, &by).await.map_err(|why| status::of_ledger(&why))?;
        if let Err(why) = prepared.put() {
            self.reloader.record_failure(&by, &why.to_string()).await;
            return Err(not_replaced(&path, &why));
        }
        self.reloader.applied(new, ask.text, &mut turn);
        drop(turn);
        let revoked = match template {
            Some(template) => self.revoke_lost(template).await?,
            None => 0,
        };
        Ok(pb::PolicyApplied { hash, record: position.to_string(), path: path.display().to_string(), revoked })
    }

    /// Revokes every live certificate that the policy in force would not grant; how many. Nobody is denied: policy says no.
    /// It goes on when whoever asked goes away.
    async fn revoke_lost(&self, template: Event) -> Result<u64, Status> {
        let mut all = 0;
        for round in 0..ROUNDS {
            let lost = self.compare(self.street.policy()).await?.lost;
            if lost.is_empty() && round > 0 {
                break;
            }
            if lost.is_empty() {
                self.clock.sleep(SETTLE).await;
                continue;
            }
            let change = Change { after: None, before: None, count: None, what: "policy.apply".to_owned() };
            let order = Order {
                selection: Selection::Serials(lost.into_iter().map(|row| row.serial).collect()),
                reason: Reason::PrivilegeWithdrawn,
                template: Event { change: Some(change), ..template.clone() },
            };
            match self.carry_out(order).await {
                Ok(revoked) => all += revoked,
                // Others revoked them, or they ended meanwhile.
                Err(RevokeError::Nothing) => break,
                Err(failure) => {
                    error!(error = %failure, "the policy is in force, but not everything that it takes away was revoked");
                    return Err(Status::unavailable(format!(
                        "the policy is in force and {all} certificates are revoked, then it stopped: {failure}. \
                         The rest: chancery cert list, chancery cert revoke"
                    )));
                }
            }
        }
        Ok(all)
    }

    async fn carry_out(&self, order: Order) -> Result<u64, RevokeError> {
        let (done, outcome) = oneshot::channel();
        let revoker = self.revoker.clone();
        self.tasks.spawn("change.revoke", async move {
            let (told, mut steps) = mpsc::channel(STEPS);
            let carried = revoker.revoke(order, told).await;
            let mut count = 0;
            while let Ok(step) = steps.try_recv() {
                if let Step::Recorded { revoked, .. } = step {
                    count += revoked;
                }
            }
            // Nobody listens any more: it is done all the same.
            let _ = done.send(carried.map(|()| count));
        });
        outcome.await.unwrap_or(Err(RevokeError::Interrupted))
    }
}

fn not_replaced(path: &Path, why: &io::Error) -> Status {
    warn!(path = %path.display(), error = %why, "the policy file could not be replaced");
    Status::failed_precondition(format!(
        "{} cannot be replaced by the server ({why}): change it where it comes from, and the server takes it up by itself",
        path.display()
    ))
}

fn compare(store: &dyn Store, new: &Policy, now: i64) -> Result<Comparison, StoreError> {
    let mut found = Comparison::default();
    let mut query = CertificateQuery {
        expires_from: Some(now + 1),
        revoked: Some(false),
        limit: LARGEST_PAGE,
        ..CertificateQuery::default()
    };
    loop {
        let page = store.certificates(&query)?;
        for row in page.certificates.into_iter().filter(|row| !row.failed) {
            let account = row.account.as_deref().and_then(Account::parse);
            let outlook = match (account, SpiffeId::parse(&row.identity)) {
                (Some(account), Ok(identity)) => new.outlook(&account, &identity),
                (None, _) | (_, Err(_)) => Outlook::Unknown,
            };
            match outlook {
                Outlook::Granted => found.compared += 1,
                Outlook::Lost => {
                    found.compared += 1;
                    found.lost.push(row);
                }
                Outlook::Unknown => found.unknown += 1,
            }
        }
        match page.next {
            Some(next) => query.after = Some(next),
            None => return Ok(found),
        }
    }
}

impl Changes for AppChanges {
    fn pending(&self) -> BoxFuture<'_, Pending> {
        Box::pin(self.reloader.pending())
    }

    fn reload(&self, act: Event, granted: Pending) -> BoxFuture<'_, pb::Reloaded> {
        Box::pin(async move {
            let done = self.reloader.reload(&By { cause: "operator".into(), act: Some(act), granted }).await;
            pb::Reloaded { changed: done.changed, refused: done.refused, needs_restart: done.needs_restart }
        })
    }

    fn diff<'a>(
        &'a self,
        caller: &'a Caller,
        path: &'a str,
        text: &'a str,
    ) -> BoxFuture<'a, Result<PolicyDiff, Status>> {
        Box::pin(async move {
            let new = self.reloader.parse(Path::new(path), text).map_err(Status::invalid_argument)?;
            let new = Arc::new(new);
            let old = self.street.policy();
            let RulesDiff { added, removed, changed } = RulesDiff::between(&old, &new);
            let Comparison { lost, compared, unknown } = self.compare(Arc::clone(&new)).await?;
            Ok(PolicyDiff {
                hash_before: old.hash_hex().to_owned(),
                hash_after: new.hash_hex().to_owned(),
                added,
                removed,
                changed,
                lost,
                compared,
                unknown,
                locks_out_operator: self.locks_out(caller, &new),
            })
        })
    }

    fn apply<'a>(
        &'a self,
        caller: &'a Caller,
        ask: pb::ApplyPolicyRequest,
        act: Event,
    ) -> BoxFuture<'a, Result<pb::PolicyApplied, Status>> {
        Box::pin(self.put(caller, ask, act))
    }
}
