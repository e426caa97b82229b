//! The second operator: where an act that takes two is stopped, and how another person lets it through.
//!
//! [`Sources::leave`] stands right before an act would be recorded, in every call that [`Guarded`] names. It lets through
//! what nobody guards, what a grant fits, and what is done under a break-glass; for the rest it records a request and
//! answers no with its id. Whoever asked asks again after the grant. What is open is read from the index, which has caught
//! up with the ledger by then, so that a restart or a crash at any line changes nothing: there is no other memory.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tonic::{Code, Request, Response, Status};

use super::Sources;
use super::acts::Operator;
use super::certificates::index_status;
use super::hands::{wide, words};
use crate::approval::{Decision, Guarded, MOST_OPEN, MOST_OPEN_EACH, Person, Plan, Standing, decide};
use crate::audit::event::{Action, Actor, ApprovalFacts, Event, Outcome};
use crate::clock::rfc3339_seconds;
use crate::proto::chancery::admin::v1 as pb;
use crate::store::ApprovalRow;

/// The metadata of a refusal that names the request it waits for.
pub const WAITS_FOR: &str = "chancery-approval";

/// How long a decision waits for the index to reach what is in the ledger: it must not miss a grant, or a use of one.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How long it waits between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The fewest digits that name a request.
const SHORTEST_ID: usize = 4;

/// The longest description on record, in characters.
const LONGEST_DESCRIPTION: usize = 1_000;

/// What lets an act through: held until the act is recorded, so that one grant is not used twice at once.
#[derive(Debug)]
pub(super) struct Leave {
    approval: Option<String>,
    _turn: Option<OwnedMutexGuard<()>>,
}

impl Leave {
    /// For what nobody guards.
    pub(super) fn free() -> Self {
        Self { approval: None, _turn: None }
    }

    /// Says in the record of the act by which grant it is done.
    pub(super) fn mark(&self, event: &mut Event) {
        if let Some(id) = &self.approval {
            event.approval = Some(ApprovalFacts { id: id.clone(), ..ApprovalFacts::default() });
        }
    }
}

impl Sources {
    /// Whether `operator` needs somebody else for `act`.
    pub(super) fn needs_second(&self, operator: &Operator, act: Guarded) -> bool {
        operator.breakglass.is_none() && self.approval.guards(act)
    }

    /// Lets `plan` through, or records that a second operator is asked for and says no. `why` is the operator's own words.
    pub(super) async fn leave(&self, operator: &Operator, plan: Plan, why: Option<String>) -> Result<Leave, Status> {
        if !self.needs_second(operator, plan.act) {
            return Ok(Leave::free());
        }
        let person = operator.person.clone().ok_or_else(|| nobody("ask for it", plan.act.as_str()))?;
        let turn = Arc::clone(&self.turn).lock_owned().await;
        match decide(&self.requests().await?, &person, &plan, self.clock.now()) {
            Decision::Go(id) => Ok(Leave { approval: Some(id), _turn: Some(turn) }),
            Decision::Waits(row) => Err(waits(&row, "")),
            Decision::Ask(outdated) => {
                let row = self.ask(operator, &plan, why).await?;
                let outdated = outdated.map_or_else(String::new, |row| {
                    format!("request {} was granted, but the state is another one since: it cannot be used. ", row.id)
                });
                Err(waits(&row, &outdated))
            }
            Decision::TooMany(count) => Err(Status::resource_exhausted(format!(
                "{count} requests wait for a second operator already (at most {MOST_OPEN_EACH} of one person, {MOST_OPEN} \
                 in all): chancery approval list; take one back with chancery approval refuse ID"
            ))),
        }
    }

    /// Records the request.
    async fn ask(&self, operator: &Operator, plan: &Plan, why: Option<String>) -> Result<ApprovalRow, Status> {
        let mut event = self.act(Action::ApprovalRequest, operator, plan.act.as_str());
        let facts = ApprovalFacts {
            act: Some(plan.act.as_str().to_owned()),
            description: Some(plan.description.chars().take(LONGEST_DESCRIPTION).collect()),
            digest: Some(plan.digest()),
            id: hex::encode(self.entropy.bytes::<6>()),
            until: Some(rfc3339_seconds(self.clock.now() + self.approval.open_for)),
        };
        let row = ApprovalRow {
            id: facts.id.clone(),
            until: facts.until.clone().unwrap_or_default(),
            ..ApprovalRow::default()
        };
        event.approval = Some(facts);
        event.subject = Some(plan.subject.clone());
        event.reason = why;
        self.ledger.append(event).await?;
        tracing::warn!(id = row.id, act = plan.act.as_str(), subject = plan.subject, "waits for a second operator");
        Ok(row)
    }

    /// Every request with the person who made it, as the ledger has them now.
    pub(super) async fn requests(&self) -> Result<Vec<(ApprovalRow, Option<Person>)>, Status> {
        self.reaches_head().await?;
        let rows = self.index.approvals().map_err(index_status)?;
        Ok(rows.into_iter().map(|row| (self.person(&row.actor), row)).map(|(person, row)| (row, person)).collect())
    }

    fn person(&self, actor: &Actor) -> Option<Person> {
        Person::of_record(actor, self.name_of(actor))
    }

    /// The name in a record, while its key exists.
    pub(super) fn name_of(&self, actor: &Actor) -> Option<String> {
        actor.name.as_ref().and_then(|name| self.ledger.unseal(name)).or_else(|| actor.id.clone())
    }

    /// Waits until the index has all that is in the ledger at this moment.
    pub(super) async fn reaches_head(&self) -> Result<(), Status> {
        let (wanted, until) = (self.ledger.logs(), self.clock.monotonic() + LONGEST_WAIT);
        loop {
            let cursor = self.index.cursor().map_err(index_status)?;
            let has = |origin: &str| cursor.get(origin).map_or(0, |at| at.next);
            if wanted.iter().all(|(origin, size)| has(origin) >= *size) {
                return Ok(());
            }
            if self.clock.monotonic() >= until {
                return Err(Status::unavailable("the index is behind the ledger: try again, or chancery doctor"));
            }
            self.clock.sleep(LOOK_EVERY).await;
        }
    }

    /// The one request that `id` names.
    async fn request(&self, id: &str) -> Result<(ApprovalRow, Option<Person>), Status> {
        let id = id.trim().to_ascii_lowercase();
        if id.len() < SHORTEST_ID {
            return Err(Status::invalid_argument(format!(
                "write at least {SHORTEST_ID} digits of the request's id: chancery approval list"
            )));
        }
        let mut found = self.requests().await?;
        found.retain(|(row, _)| row.id.starts_with(&id));
        match (found.pop(), found.is_empty()) {
            (Some(one), true) => Ok(one),
            (Some(_), false) => {
                Err(Status::invalid_argument(format!("several requests begin with {id}: write more of it")))
            }
            (None, _) => Err(Status::not_found(format!("no request is called {id}: chancery approval list --all"))),
        }
    }

    fn approval(&self, row: ApprovalRow, operator: &Operator) -> pb::Approval {
        let name = |actor: &Actor| self.name_of(actor).filter(|_| operator.sees_names());
        let (state, asked_by) = (Standing::of(&row, self.clock.now()).as_str().to_owned(), name(&row.actor));
        let (answered_at, answered_by, answer, answer_record) = match row.answer {
            Some(answer) => (Some(answer.at), name(&answer.actor), answer.reason, Some(answer.record)),
            None => (None, None, None, None),
        };
        pb::Approval {
            state,
            asked_by,
            answered_at,
            answered_by,
            answer,
            answer_record,
            id: row.id,
            act: row.act,
            subject: row.subject,
            description: row.description,
            digest: row.digest,
            asked_at: row.asked_at,
            until: row.until,
            reason: row.reason,
            record: row.record,
            used: row.used,
        }
    }

    /// How many requests wait.
    pub(super) fn open_requests(&self) -> Result<u64, Status> {
        let (rows, now) = (self.index.approvals().map_err(index_status)?, self.clock.now());
        Ok(wide(rows.iter().filter(|row| Standing::of(row, now) == Standing::Open).count()))
    }

    /// Records the answer to an open request, and gives the request as it is then.
    async fn answer(
        &self,
        operator: &Operator,
        row: &ApprovalRow,
        (outcome, what): (Outcome, &str),
        reason: Option<String>,
    ) -> Result<pb::Approval, Status> {
        let mut event = self.act(Action::ApprovalGrant, operator, what);
        event.outcome = outcome;
        event.approval = Some(ApprovalFacts {
            act: Some(row.act.clone()),
            digest: Some(row.digest.clone()),
            id: row.id.clone(),
            ..ApprovalFacts::default()
        });
        event.refers_to = Some(row.record.clone());
        event.subject = Some(row.subject.clone());
        event.reason = reason;
        self.ledger.append(event).await?;
        tracing::warn!(id = row.id, act = row.act, subject = row.subject, what, "a request was answered");
        let (row, _) = self.request(&row.id).await?;
        Ok(self.approval(row, operator))
    }

    fn still_open(&self, row: &ApprovalRow, also: Option<Standing>) -> Result<(), Status> {
        let state = Standing::of(row, self.clock.now());
        if state == Standing::Open || Some(state) == also {
            return Ok(());
        }
        Err(Status::failed_precondition(format!(
            "request {} is {}: chancery approval show {}",
            row.id,
            state.as_str(),
            row.id
        )))
    }
}

/// Nobody can be told from somebody else without a login or a certificate.
fn nobody(what: &str, act: &str) -> Status {
    Status::permission_denied(format!(
        "{act} takes two persons, and nobody can tell who you are, so you cannot {what}: sudo from an account of your own \
         that logged in, or use --server with a client certificate; in an emergency, chancery breakglass open"
    ))
}

/// No, and what it waits for.
fn waits(row: &ApprovalRow, before: &str) -> Status {
    let (id, until) = (&row.id, &row.until);
    let mut status = Status::new(
        Code::FailedPrecondition,
        format!(
            "{before}this takes a second operator, and nothing is done yet: request {id} is open until {until}. Another \
             admin says chancery approval grant {id}; then ask again, with the same words"
        ),
    );
    if let Ok(value) = id.parse() {
        status.metadata_mut().insert(WAITS_FOR, value);
    }
    status
}

pub(super) async fn list(
    sources: &Arc<Sources>,
    request: Request<pb::ListApprovalsRequest>,
) -> Result<Response<pb::ApprovalList>, Status> {
    let operator = sources.admit(&request).await?;
    let ask = request.into_inner();
    if !ask.id.is_empty() {
        let (row, _) = sources.request(&ask.id).await?;
        return Ok(Response::new(pb::ApprovalList { approvals: vec![sources.approval(row, &operator)] }));
    }
    let mut approvals = Vec::new();
    for (row, _) in sources.requests().await?.into_iter().rev() {
        let lives = matches!(Standing::of(&row, sources.clock.now()), Standing::Open | Standing::Granted);
        if lives || ask.all {
            approvals.push(sources.approval(row, &operator));
        }
    }
    Ok(Response::new(pb::ApprovalList { approvals }))
}

pub(super) async fn grant(
    sources: &Arc<Sources>,
    request: Request<pb::GrantApprovalRequest>,
) -> Result<Response<pb::Approval>, Status> {
    let operator = sources.admit(&request).await?;
    let ask = request.into_inner();
    let reason = words(&ask.reason, "reason")?;
    let _turn = sources.turn.lock().await;
    let (row, asked) = sources.request(&ask.id).await?;
    sources.still_open(&row, None)?;
    let person = operator.person.as_ref().ok_or_else(|| nobody("grant it", &row.act))?;
    let asked = asked.ok_or_else(|| {
        Status::failed_precondition(format!(
            "whoever asked for {} is not known any more, so nobody can be shown to be another: have it asked for again",
            row.id
        ))
    })?;
    if person.may_be(&asked) {
        return Err(Status::permission_denied(format!(
            "{} was asked for by {}, and you are {}: it takes another person",
            row.id,
            asked.name(),
            person.name()
        )));
    }
    sources.answer(&operator, &row, (Outcome::Success, "approval.grant"), reason).await.map(Response::new)
}

pub(super) async fn refuse(
    sources: &Arc<Sources>,
    request: Request<pb::RefuseApprovalRequest>,
) -> Result<Response<pb::Approval>, Status> {
    let operator = sources.admit(&request).await?;
    let ask = request.into_inner();
    let reason = words(&ask.reason, "reason")?;
    let _turn = sources.turn.lock().await;
    let (row, _) = sources.request(&ask.id).await?;
    // A grant that nobody used yet can be taken back.
    sources.still_open(&row, Some(Standing::Granted))?;
    sources.answer(&operator, &row, (Outcome::Denied, "approval.refuse"), reason).await.map(Response::new)
}
