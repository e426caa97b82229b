//! What operators do to certificates by hand: rotate, revoke, release.
//!
//! A choice that names nothing is told and leaves no trace. An act is a record before it begins, and once it is recorded
//! it is carried out whether or not its operator still listens.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use time::OffsetDateTime;
use tonic::{Request, Response, Status};

use super::Sources;
use super::acts::Operator;
use super::choice::{Choice, Chosen, MOST_CHOSEN};
use super::progress::{Hand, Progress, Teller};
use super::rights::Ask;
use super::roles::Role;
use crate::api::status;
use crate::approval::{Guarded, Plan};
use crate::audit::event::{Action, Event};
use crate::clock::parse_rfc3339;
use crate::feed::LiveProxy;
use crate::feed::forced::{Outcome, Rotated, Rotation};
use crate::proto::chancery::admin::v1 as pb;
use crate::revocation::{CrlState, Order, RevokeError, Selection, Step};
use crate::x509::crl::Reason;

/// The longest words that an operator may put on record, in characters.
const LONGEST_WORDS: usize = 500;

/// How long holders have to take over new certificates before the old ones are revoked all the same.
pub(super) const LONGEST_REISSUE: Duration = Duration::from_secs(120);

pub(super) fn words(text: &str, what: &str) -> Result<Option<String>, Status> {
    if text.chars().count() > LONGEST_WORDS {
        return Err(Status::invalid_argument(format!("the {what} has more than {LONGEST_WORDS} characters")));
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

pub(super) fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// The record that an operator ordered `what`.
fn act(sources: &Sources, operator: &Operator, what: &str, choice: &Choice, count: u64, why: Option<String>) -> Event {
    let mut event = sources.act(Action::OperatorAct, operator, what);
    event.subject = Some(choice.words());
    if let Choice::Serial(row) = choice {
        event.subject = Some(row.identity.clone());
        event.serial = Some(row.serial.clone());
    }
    event.reason = why;
    if let Some(change) = event.change.as_mut() {
        change.count = Some(count);
    }
    event
}

pub(super) async fn rotate(
    sources: &Arc<Sources>,
    request: Request<pb::RotateCertificatesRequest>,
) -> Result<Response<Progress<pb::RotationProgress>>, Status> {
    let operator = sources.admit(&request).await?;
    let ask = request.into_inner();
    let why = words(&ask.reason, "reason")?;
    let choice = sources.choose(ask.selection.as_ref()).await?;
    let found = sources.chosen(&choice).await?;
    let live = sources.hands.live();
    let meant = sources.meant(&choice, &live)?;
    let held: HashSet<&str> = live.iter().filter_map(|proxy| proxy.serial.as_deref()).collect();
    let (_, not_connected) = found.connection(&held);
    let first = pb::RotationProgress { chosen: wide(meant.len()), not_connected, ..pb::RotationProgress::default() };
    let (mut teller, answer) = Teller::new();
    if ask.dry_run {
        let chosen = live.into_iter().filter(|proxy| proxy.serial.as_ref().is_some_and(|one| meant.contains(one)));
        let chosen: Vec<_> = chosen.map(|proxy| rotated(&proxy, None, "chosen", None)).collect();
        sources.hands.carry_out(Box::pin(async move {
            teller.tell(Ok(first)).await;
            for one in chosen {
                teller.tell(Ok(progress(one))).await;
            }
        }));
        return Ok(answer);
    }
    if meant.is_empty() {
        return Err(Status::failed_precondition(nothing_to_rotate(&choice, not_connected)));
    }
    let event = act(sources, &operator, "cert.rotate", &choice, wide(meant.len()), why);
    let record = sources.ledger.append(event).await?;
    let rotation = start_rotation(sources, &meant);
    let first = pb::RotationProgress { chosen: wide(rotation.chosen.len()), record, ..first };
    sources.hands.carry_out(Box::pin(async move {
        teller.tell(Ok(first)).await;
        let Rotation { chosen, mut steps } = rotation;
        while let Some(step) = steps.recv().await {
            if let Some(proxy) = chosen.get(step.index) {
                teller.tell(Ok(progress(outcome(proxy, &step)))).await;
            }
        }
    }));
    Ok(answer)
}

fn nothing_to_rotate(choice: &Choice, not_connected: u64) -> String {
    match not_connected {
        0 => format!("nothing was rotated: no live certificate is {}: chancery cert list", choice.words()),
        away => format!(
            "nothing was rotated: no stream of this server holds a certificate of {}; {away} live without one, and their \
             holders renew them by themselves",
            choice.words()
        ),
    }
}

pub(super) fn start_rotation(sources: &Sources, meant: &HashSet<String>) -> Rotation {
    sources.hands.rotate(&|proxy| proxy.serial.as_ref().is_some_and(|serial| meant.contains(serial)))
}

fn progress(one: pb::RotatedCertificate) -> pb::RotationProgress {
    pb::RotationProgress { certificate: Some(one), ..pb::RotationProgress::default() }
}

fn rotated(proxy: &LiveProxy, new: Option<String>, state: &str, detail: Option<String>) -> pb::RotatedCertificate {
    pb::RotatedCertificate {
        serial: proxy.serial.clone().unwrap_or_default(),
        identity: proxy.identity.as_ref().map(ToString::to_string).unwrap_or_default(),
        node: proxy.node.clone(),
        new_serial: new,
        state: state.to_owned(),
        detail,
    }
}

pub(super) fn outcome(proxy: &LiveProxy, step: &Rotated) -> pb::RotatedCertificate {
    let (state, detail) = match &step.outcome {
        Outcome::Pushed => ("pushed", None),
        Outcome::Acked => ("acked", None),
        Outcome::Nacked(said) => ("nacked", Some(said.clone())),
        Outcome::Refused(why) => ("refused", Some(why.clone())),
        Outcome::Failed(why) => ("failed", Some(why.clone())),
        Outcome::Gone => ("gone", None),
    };
    rotated(proxy, step.new_serial.clone(), state, detail)
}

pub(super) async fn revoke(
    sources: &Arc<Sources>,
    request: Request<pb::RevokeCertificatesRequest>,
) -> Result<Response<Progress<pb::RevocationProgress>>, Status> {
    let began = sources.clock.monotonic();
    let operator = sources.admit(&request).await?;
    let ask = request.into_inner();
    let comment = words(&ask.comment, "comment")?;
    let reason = parse_reason(&ask.reason)?;
    let choice = sources.choose(ask.selection.as_ref()).await?;
    let found = sources.chosen(&choice).await?;
    if ask.reissue && !found.complete {
        return Err(Status::failed_precondition(format!(
            "more than {MOST_CHOSEN} live certificates are too many to reissue in one go: revoke by prefix or issuer"
        )));
    }
    let mut first = selected(sources, &choice, &found, ask.reissue)?;
    let (mut teller, answer) = Teller::new();
    if ask.dry_run {
        teller.tell(Ok(first)).await;
        return Ok(answer);
    }
    possible(sources, &choice, &found, ask.reissue)?;
    let leave = if ask.least() == Role::Admin {
        Some(sources.leave(&operator, many(&ask, &choice, found.count), comment.clone()).await?)
    } else {
        None
    };
    let mut event = act(sources, &operator, "cert.revoke", &choice, found.count, comment);
    leave.iter().for_each(|leave| leave.mark(&mut event));
    let mut template = sources.act(Action::CertificateRevoke, &operator, "cert.revoke");
    template.request_id.clone_from(&event.request_id);
    first.record = Some(sources.ledger.append(event).await?);
    drop(leave);
    let order = Order { selection: choice.selection(), reason, template };
    let act = Revocation { sources: Arc::clone(sources), teller, began };
    let reissue = ask.reissue.then_some((choice, found.serials));
    sources.hands.carry_out(act.run(first, order, reissue).boxed());
    Ok(answer)
}

/// A revocation of many, as a second operator grants it: the choice, whatever it names at the moment when it is done.
fn many(ask: &pb::RevokeCertificatesRequest, choice: &Choice, count: u64) -> Plan {
    let state = match choice {
        Choice::Issuer { key_id, .. } => vec![key_id.clone()],
        Choice::Identity(_) | Choice::Prefix(_) | Choice::Serial(_) | Choice::All => Vec::new(),
    };
    Plan {
        act: Guarded::RevokeMany,
        subject: choice.words(),
        description: format!("revoke {}: {count} live certificates at the moment of asking", choice.words()),
        parameters: prost::Message::encode_to_vec(ask),
        state,
    }
}

/// Tells what cannot be done before anything is recorded.
fn possible(sources: &Sources, choice: &Choice, found: &Chosen, reissue: bool) -> Result<(), Status> {
    if found.count > 0 {
        return Ok(());
    }
    if let Choice::Serial(row) = choice
        && let Some(revoked) = &row.revoked
    {
        let (serial, record) = (row.serial.clone(), revoked.record.clone());
        return Err(status::of_revoke(&RevokeError::AlreadyRevoked { serial, record }));
    }
    let why = match choice.denies().filter(|_| !reissue) {
        None => RevokeError::Nothing,
        Some(pattern) => match sources.hands.denies().into_iter().find(|(denied, _)| *denied == pattern) {
            None => return Ok(()),
            Some((pattern, denied)) => RevokeError::AlreadyDenied { pattern, record: denied.record },
        },
    };
    Err(status::of_revoke(&why))
}

pub(super) fn parse_reason(text: &str) -> Result<Reason, Status> {
    match text {
        "" => Ok(Reason::Unspecified),
        text => Reason::parse(text).ok_or_else(|| {
            let names: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
            Status::invalid_argument(format!("{text:?} is no reason: choose from {}", names.join(", ")))
        }),
    }
}

/// What a revocation of `choice` will mean.
fn selected(
    sources: &Sources,
    choice: &Choice,
    found: &Chosen,
    reissue: bool,
) -> Result<pb::RevocationProgress, Status> {
    let live = sources.hands.live();
    let held: HashSet<&str> = live.iter().filter_map(|proxy| proxy.serial.as_deref()).collect();
    let (connected, not_connected) = found.connection(&held);
    Ok(pb::RevocationProgress {
        step: "selected".to_owned(),
        certificates: sources.describe_all(found.shown.iter().cloned())?,
        chosen: found.count,
        denied: choice.denies().filter(|_| !reissue),
        connected,
        not_connected,
        ..pb::RevocationProgress::default()
    })
}

/// A revocation under way.
type Revocation = Hand<pb::RevocationProgress>;

impl Revocation {
    async fn run(mut self, first: pb::RevocationProgress, mut order: Order, reissue: Option<(Choice, Vec<String>)>) {
        self.teller.tell(Ok(first)).await;
        if let Some((choice, serials)) = reissue {
            match self.reissue(&choice, serials).await {
                Ok(serials) => order.selection = Selection::Serials(serials),
                Err(status) => return self.teller.tell(Err(status)).await,
            }
        }
        let mut steps = self.sources.hands.revoke(order);
        let mut published = false;
        while let Some(step) = steps.recv().await {
            match step {
                Ok(step) => {
                    published |= matches!(step, Step::Published { .. });
                    let message = self.step(step);
                    self.tell(message).await;
                }
                Err(why) => return self.teller.tell(Err(status::of_revoke(&why))).await,
            }
        }
        if published {
            self.watch().await;
        }
    }

    /// Gives the holders of what is chosen new certificates, and returns the serials that can go.
    async fn reissue(&mut self, choice: &Choice, mut serials: Vec<String>) -> Result<Vec<String>, Status> {
        let meant = self.sources.meant(choice, &self.sources.hands.live())?;
        let Rotation { chosen, mut steps } = start_rotation(&self.sources, &meant);
        let until = self.sources.clock.monotonic() + LONGEST_REISSUE;
        loop {
            let left = until.saturating_sub(self.sources.clock.monotonic());
            let step = tokio::time::timeout(left, steps.recv()).await;
            let Ok(Some(step)) = step else { break };
            if let Some(proxy) = chosen.get(step.index) {
                let reissued = Some(outcome(proxy, &step));
                let step = "reissued".to_owned();
                self.tell(pb::RevocationProgress { step, reissued, ..pb::RevocationProgress::default() }).await;
            }
        }
        // What was renewed between the look at the index and the rotation goes too.
        let known: HashSet<String> = serials.iter().cloned().collect();
        serials.extend(chosen.into_iter().filter_map(|proxy| proxy.serial).filter(|serial| !known.contains(serial)));
        Ok(serials)
    }

    fn step(&self, step: Step) -> pb::RevocationProgress {
        match step {
            Step::Recorded { first, last, revoked, denied } => pb::RevocationProgress {
                step: "recorded".to_owned(),
                first_record: first.to_string(),
                last_record: last.to_string(),
                revoked,
                denied,
                ..pb::RevocationProgress::default()
            },
            Step::Signed { crls } => {
                let now = self.sources.clock.now();
                let crls = crls.into_iter().map(|crl| crl_state(crl, now)).collect();
                pb::RevocationProgress { step: "signed".to_owned(), crls, ..pb::RevocationProgress::default() }
            }
            Step::Published { .. } => self.delivery("pushed"),
        }
    }
}

pub(super) async fn release(
    sources: &Arc<Sources>,
    request: Request<pb::ReleaseIdentityRequest>,
) -> Result<Response<pb::Released>, Status> {
    let operator = sources.admit(&request).await?;
    let ask = request.into_inner();
    if ask.pattern.is_empty() {
        return Err(Status::invalid_argument("say which: chancery cert list --denied shows what is denied"));
    }
    let mut event = sources.act(Action::IdentityRelease, &operator, "cert.release");
    event.reason = words(&ask.comment, "comment")?;
    let released = sources.hands.release(&ask.pattern, event).await;
    let record = released.map_err(|why| status::of_revoke(&why))?;
    Ok(Response::new(pb::Released { record, pattern: ask.pattern }))
}

pub(super) async fn denies(
    sources: &Arc<Sources>,
    request: Request<pb::ListDeniesRequest>,
) -> Result<Response<pb::DenyList>, Status> {
    sources.admit(&request).await?;
    let denies = sources.hands.denies().into_iter().map(|(pattern, denied)| pb::Deny {
        pattern,
        since: denied.since,
        reason: denied.reason,
        record: denied.record,
    });
    Ok(Response::new(pb::DenyList { denies: denies.collect() }))
}

pub(super) async fn crls(
    sources: &Arc<Sources>,
    request: Request<pb::ListCrlsRequest>,
) -> Result<Response<pb::CrlList>, Status> {
    sources.admit(&request).await?;
    Ok(Response::new(pb::CrlList { crls: crl_states(sources) }))
}

/// The newest CRL of each authority.
pub(super) fn crl_states(sources: &Sources) -> Vec<pb::Crl> {
    let now = sources.clock.now();
    sources.hands.crls().into_iter().map(|crl| crl_state(crl, now)).collect()
}

pub(super) fn crl_state(crl: CrlState, now: OffsetDateTime) -> pb::Crl {
    pb::Crl {
        state: freshness(&crl, now).to_owned(),
        issuer: crl.issuer,
        issuer_key_id: crl.issuer_key_id,
        number: crl.number,
        entries: crl.entries,
        this_update: crl.this_update,
        next_update: crl.next_update,
        record: crl.record,
    }
}

/// `late` from the moment on when three quarters of its life are over: it should have been signed again long before.
fn freshness(crl: &CrlState, now: OffsetDateTime) -> &'static str {
    let (Ok(this), Ok(next)) = (parse_rfc3339(&crl.this_update), parse_rfc3339(&crl.next_update)) else {
        return "expired";
    };
    match next - now {
        left if left <= time::Duration::ZERO => "expired",
        left if left * 4 < next - this => "late",
        _ => "fresh",
    }
}
