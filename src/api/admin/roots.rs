//! What operators do to roots by hand: move to another, have it take over, take the old one out.
//!
//! Whom an act would cut off is told first, and it takes `force` then. The keeper of the authorities does each step, each on
//! record before it takes effect; a new root that nobody forces takes over by itself when everyone holds it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tonic::{Request, Response, Status};

use super::Sources;
use super::acts::Operator;
use super::authorities::{Hand, Meant, meant, named};
use super::choice::Choice;
use super::hands::{Progress, Teller, words};
use crate::api::status;
use crate::ca::authority::acts::{Act, ActError};
use crate::ca::authority::root::Force;
use crate::ca::slot::{Level, State};
use crate::proto::chancery::admin::v1 as pb;
use crate::store::{AuthorityRow, CertificateRow};
use crate::x509::chain::LONGEST_CHAIN;

/// Certificates under a root that an answer shows; all are counted.
const MOST_SHOWN: usize = 50;

/// `RetireAuthority` of a root.
pub(super) struct Retire {
    pub(super) why: Option<String>,
    pub(super) force: bool,
    pub(super) dry_run: bool,
}

/// What is live under a root.
#[derive(Default)]
struct Under {
    count: u64,
    shown: Vec<CertificateRow>,
    connected: u64,
    not_connected: u64,
}

pub(super) async fn rotate(
    sources: &Arc<Sources>,
    operator: &Operator,
    rows: &[AuthorityRow],
    (dry_run, why, began): (bool, Option<String>, Duration),
) -> Result<Response<Progress<pb::AuthorityProgress>>, Status> {
    let of = |state: State| rows.iter().rfind(|row| row.level == "root" && row.state == state.as_str());
    let active = of(State::Active);
    let active = active.ok_or_else(|| Status::failed_precondition("no root is active: chancery ca show"))?;
    let meant = meant(active)?;
    let mut first = sources.planned_root(&meant, active, rows).await?;
    first.successor = of(State::Prepared).map(|row| row.name.clone());
    first.makes_new = first.successor.is_none();
    let (mut teller, answer) = Teller::new();
    if dry_run {
        teller.tell(Ok(first)).await;
        return Ok(answer);
    }
    let (record, template) = sources.ordered(operator, "ca.rotate", &meant, first.live_certificates, why).await?;
    first.record = Some(record);
    let hand = Hand { sources: Arc::clone(sources), teller, began };
    sources.hands.carry_out(hand.act(first, Act::RotateRoot, template).boxed());
    Ok(answer)
}

pub(super) async fn activate(
    sources: &Arc<Sources>,
    request: Request<pb::ActivateAuthorityRequest>,
) -> Result<Response<Progress<pb::AuthorityProgress>>, Status> {
    let began = sources.clock.monotonic();
    let operator = sources.admit(&request).await?;
    let ask = request.into_inner();
    let why = words(&ask.reason, "reason")?;
    let rows = sources.rows().await?;
    let row = named(&rows, &ask.name)?;
    let meant = meant(row)?;
    let (name, state) = (meant.name, meant.state);
    if name.level != Level::Root {
        return Err(Status::invalid_argument(format!(
            "{name} is no root: issuing CAs take over by themselves, and at once with chancery ca rotate issuing"
        )));
    }
    let evidence = sources.evidence_of(&row.name);
    let (State::Prepared, Some(evidence)) = (state, evidence) else {
        return Err(status::of_act(&ActError::NotReady { name, state: state.as_str() }));
    };
    let mut first = sources.planned_root(&meant, row, &rows).await?;
    (first.successor, first.evidence) = (Some(evidence.issuing.clone()), Some(evidence.clone()));
    let (mut teller, answer) = Teller::new();
    if ask.dry_run {
        teller.tell(Ok(first)).await;
        return Ok(answer);
    }
    if !evidence.complete && !ask.force {
        let (lacking, until) = (evidence.holders.saturating_sub(evidence.holding), &evidence.silent_until);
        let who = format!("{lacking} of {} holders lack it, silent ones have until {until}", evidence.holders);
        return Err(status::of_act(&ActError::LeftBehind { name, who }));
    }
    let lacking = evidence.holders.saturating_sub(evidence.holding);
    let (record, template) = sources.ordered(&operator, "ca.activate", &meant, lacking, why).await?;
    first.record = Some(record);
    let force = if ask.force { Force::Yes } else { Force::No };
    let hand = Hand { sources: Arc::clone(sources), teller, began };
    sources.hands.carry_out(hand.act(first, Act::ActivateRoot(name, force), template).boxed());
    Ok(answer)
}

pub(super) async fn retire(
    sources: &Arc<Sources>,
    operator: &Operator,
    rows: &[AuthorityRow],
    meant: &Meant,
    ask: Retire,
) -> Result<Response<pb::AuthorityRetired>, Status> {
    let (name, state) = (meant.name, meant.state);
    match state {
        State::Prepared | State::Retiring | State::Tainted => {}
        State::Active => {
            return Err(Status::failed_precondition(format!(
                "{name} is active: have another take its place first, chancery ca rotate root"
            )));
        }
        State::Gone => return Err(status::of_act(&ActError::NotThere { name })),
    }
    let under = sources.under(&row_of(rows, meant)?.key_id, rows).await?;
    let now = sources.clock.now().unix_timestamp();
    let certificates = under.shown.into_iter().map(|row| {
        let holding = sources.backend.holding(&row);
        super::certificates::certificate(row, now, holding)
    });
    let told = pb::AuthorityRetired {
        name: name.to_string(),
        state: state.as_str().to_owned(),
        live_certificates: under.count,
        certificates: certificates.collect(),
        ..pb::AuthorityRetired::default()
    };
    if ask.dry_run {
        return Ok(Response::new(told));
    }
    if under.count > 0 && !ask.force {
        return Err(Status::failed_precondition(format!(
            "{} certificates under {name} live, and would be refused everywhere: it leaves by itself when the last of them \
             has ended; chancery ca retire --force takes it out now",
            under.count
        )));
    }
    let (act, template) = sources.ordered(operator, "ca.retire", meant, under.count, ask.why).await?;
    let record = sources.carried_out(Act::RetireRoot(name), template).await?;
    Ok(Response::new(pb::AuthorityRetired { record, act, ..told }))
}

fn row_of<'a>(rows: &'a [AuthorityRow], meant: &Meant) -> Result<&'a AuthorityRow, Status> {
    named(rows, &meant.name.to_string())
}

/// Whether the authority of `row` is below the one with this key identifier.
fn is_below(row: &AuthorityRow, top: &str, rows: &[AuthorityRow]) -> bool {
    let above = |row: &AuthorityRow| row.facts.as_ref().map(|facts| facts.issuer_key_id.clone());
    let mut next = above(row);
    for _ in 0..LONGEST_CHAIN {
        let Some(key_id) = next else { return false };
        if key_id == top {
            return true;
        }
        next = rows.iter().find(|row| row.key_id == key_id && row.level != "root").and_then(above);
    }
    false
}

impl Sources {
    /// Who holds the root of that name, where it waits.
    pub(super) fn evidence_of(&self, name: &str) -> Option<pb::RootEvidence> {
        self.backend.evidence().filter(|(root, _)| root == name).map(|(_, evidence)| evidence)
    }

    /// What is live under a root.
    async fn under(&self, root: &str, rows: &[AuthorityRow]) -> Result<Under, Status> {
        let (mut under, live) = (Under::default(), self.hands.live());
        let held: HashSet<&str> = live.iter().filter_map(|proxy| proxy.serial.as_deref()).collect();
        for row in rows.iter().filter(|row| row.level == "issuing" && is_below(row, root, rows)) {
            let choice = Choice::Issuer { name: row.name.clone(), key_id: row.key_id.clone() };
            let found = self.chosen(&choice).await?;
            let (connected, not_connected) = found.connection(&held);
            under.count += found.count;
            under.connected += connected;
            under.not_connected += not_connected;
            under.shown.extend(found.shown);
        }
        under.shown.sort_by(|a, b| b.expires.cmp(&a.expires).then_with(|| a.serial.cmp(&b.serial)));
        under.shown.truncate(MOST_SHOWN);
        Ok(under)
    }

    /// What hangs on a root: the first message.
    async fn planned_root(
        &self,
        meant: &Meant,
        row: &AuthorityRow,
        rows: &[AuthorityRow],
    ) -> Result<pb::AuthorityProgress, Status> {
        let under = self.under(&row.key_id, rows).await?;
        Ok(pb::AuthorityProgress {
            step: "planned".to_owned(),
            authority: meant.name.to_string(),
            state: meant.state.as_str().to_owned(),
            live_certificates: under.count,
            last_expires_at: under.shown.first().map(|row| row.not_after.clone()),
            connected: under.connected,
            not_connected: under.not_connected,
            ..pb::AuthorityProgress::default()
        })
    }
}
