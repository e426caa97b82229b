//! What operators do to issuing CAs by hand: roll over, taint, give up. Roots are [`super::roots`]'.
//!
//! What names nothing, or something that cannot be, is told with a remedy and leaves no trace. The keeper of the
//! authorities does each step; after `ca.taint` the order here is: every certificate under it that a stream holds is issued
//! anew, and only then its own is revoked, so that nobody is cut off who can be helped. Once it is recorded an act is
//! carried out whether or not its operator still listens.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tonic::{Request, Response, Status};

use super::acts::Operator;
use super::certificates::{end_of, index_status};
use super::choice::Choice;
use super::hands::{
    LONGEST_REISSUE, LONGEST_WATCH, LOOKS, Progress, Teller, crl_state, outcome, parse_reason, start_rotation, wide,
    words,
};
use super::{Sources, roots};
use crate::api::status;
use crate::audit::event::{Action, Event};
use crate::ca::authority::acts::{Act, ActError, Told, instead_of_giving_up};
use crate::ca::slot::{Level, Name, State};
use crate::feed::forced::Rotation;
use crate::proto::chancery::admin::v1 as pb;
use crate::revocation::{AuthorityOrder, Step};
use crate::store::AuthorityRow;
use crate::x509::crl::Reason;

/// How often streams that hold a certificate under a tainted authority are looked for: what was on its way to one at the
/// moment of the taint is found the next time.
const ROUNDS: usize = 3;

/// What an operator is told when the server stops in the middle of an act.
const STOPPED: &str = "the server stopped meanwhile: what was recorded stands, and the next start goes on from there";

/// An authority that an order is about, and what hangs on it.
pub(super) struct Meant {
    pub(super) name: Name,
    pub(super) state: State,
    pub(super) choice: Choice,
}

pub(super) async fn rotate(
    sources: &Arc<Sources>,
    request: Request<pb::RotateAuthorityRequest>,
) -> Result<Response<Progress<pb::AuthorityProgress>>, Status> {
    let began = sources.clock.monotonic();
    let operator = sources.admit(&request).await?;
    let ask = request.into_inner();
    let why = words(&ask.reason, "reason")?;
    let rows = sources.rows().await?;
    match ask.level.as_str() {
        "root" => return roots::rotate(sources, &operator, &rows, (ask.dry_run, why, began)).await,
        "issuing" => {}
        other => {
            return Err(Status::invalid_argument(format!("{other:?} is not rotated by hand: write issuing or root")));
        }
    }
    let active = rows.iter().rfind(|row| row.level == ask.level && row.state == State::Active.as_str());
    let active = active.ok_or_else(|| Status::failed_precondition("no issuing CA is active: chancery ca show"))?;
    let meant = meant(active)?;
    let mut first = sources.planned(&meant).await?;
    let prepared = rows.iter().rfind(|row| row.level == ask.level && row.state == State::Prepared.as_str());
    first.successor = prepared.map(|row| row.name.clone());
    first.makes_new = first.successor.is_none();
    let (mut teller, answer) = Teller::new();
    if ask.dry_run {
        teller.tell(Ok(first)).await;
        return Ok(answer);
    }
    let (record, template) = sources.ordered(&operator, "ca.rotate", &meant, first.live_certificates, why).await?;
    first.record = Some(record);
    let hand = Hand { sources: Arc::clone(sources), teller, began };
    sources.hands.carry_out(hand.act(first, Act::RollOver, template).boxed());
    Ok(answer)
}

pub(super) async fn taint(
    sources: &Arc<Sources>,
    request: Request<pb::TaintAuthorityRequest>,
) -> Result<Response<Progress<pb::AuthorityProgress>>, Status> {
    let began = sources.clock.monotonic();
    let operator = sources.admit(&request).await?;
    let ask = request.into_inner();
    let comment = words(&ask.comment, "comment")?;
    let reason = if ask.reason.is_empty() { Reason::CaCompromise } else { parse_reason(&ask.reason)? };
    let rows = sources.rows().await?;
    let row = named(&rows, &ask.name)?;
    let meant = meant(row)?;
    sources.can_be_tainted(&meant, row)?;
    let mut first = sources.planned(&meant).await?;
    first.makes_new = meant.state == State::Active;
    first.beside = beside(&rows, &meant);
    let (mut teller, answer) = Teller::new();
    if ask.dry_run {
        teller.tell(Ok(first)).await;
        return Ok(answer);
    }
    let (record, mut template) =
        sources.ordered(&operator, "ca.taint", &meant, first.live_certificates, comment).await?;
    template.reason = Some(reason.as_str().to_owned());
    first.record = Some(record);
    let hand = Hand { sources: Arc::clone(sources), teller, began };
    sources.hands.carry_out(hand.taint(first, meant, reason, template).boxed());
    Ok(answer)
}

pub(super) async fn retire(
    sources: &Arc<Sources>,
    request: Request<pb::RetireAuthorityRequest>,
) -> Result<Response<pb::AuthorityRetired>, Status> {
    let operator = sources.admit(&request).await?;
    let ask = request.into_inner();
    let why = words(&ask.reason, "reason")?;
    let rows = sources.rows().await?;
    let meant = meant(named(&rows, &ask.name)?)?;
    let (name, state) = (meant.name, meant.state);
    if name.level == Level::Root {
        let ask = roots::Retire { why, force: ask.force, dry_run: ask.dry_run };
        return roots::retire(sources, &operator, &rows, &meant, ask).await;
    }
    if name.level == Level::Intermediate {
        return Err(status::of_act(&ActError::Above { name }));
    }
    if state != State::Prepared {
        let refused = ActError::NotPrepared { name, state: state.as_str(), remedy: instead_of_giving_up(state) };
        return Err(status::of_act(&refused));
    }
    let told = pb::AuthorityRetired { name: name.to_string(), state: state.as_str().to_owned(), ..Default::default() };
    if ask.dry_run {
        return Ok(Response::new(told));
    }
    let (act, template) = sources.ordered(&operator, "ca.retire", &meant, 0, why).await?;
    let record = sources.carried_out(Act::GiveUp(name), template).await?;
    Ok(Response::new(pb::AuthorityRetired { record, act, ..told }))
}

/// The authority of that name, gone ones among them.
pub(super) fn named<'a>(rows: &'a [AuthorityRow], asked: &str) -> Result<&'a AuthorityRow, Status> {
    let name: Name = asked.parse().map_err(|why| Status::invalid_argument(format!("{why}")))?;
    let found = rows.iter().find(|row| row.name == name.to_string());
    found.ok_or_else(|| status::of_act(&ActError::NotThere { name }))
}

pub(super) fn meant(row: &AuthorityRow) -> Result<Meant, Status> {
    let read = (row.name.parse().ok(), State::from_name(&row.state));
    let (Some(name), Some(state)) = read else {
        return Err(Status::data_loss(format!("the record of {} cannot be read: chancery audit verify", row.name)));
    };
    Ok(Meant { name, state, choice: Choice::Issuer { name: row.name.clone(), key_id: row.key_id.clone() } })
}

/// Whoever stole one key may have these too; the next one is made afterwards.
fn beside(rows: &[AuthorityRow], meant: &Meant) -> Vec<String> {
    let states = [State::Prepared.as_str(), State::Retiring.as_str()];
    let others = rows.iter().filter(|row| row.level == "issuing" && states.contains(&row.state.as_str()));
    others.map(|row| row.name.clone()).filter(|name| *name != meant.name.to_string()).collect()
}

impl Sources {
    pub(super) async fn rows(&self) -> Result<Vec<AuthorityRow>, Status> {
        self.caught_up().await?;
        self.made()
    }

    /// Has the keeper do something short; the record of its last step.
    pub(super) async fn carried_out(&self, act: Act, template: Event) -> Result<String, Status> {
        let (mut told, mut record) = (self.hands.order(act, template), String::new());
        while let Some(word) = told.recv().await {
            match word {
                Told::Step(step) => record = step.record.to_string(),
                Told::Done => return Ok(record),
                Told::Failed(why) => return Err(status::of_act(&why)),
            }
        }
        Err(Status::unavailable(STOPPED))
    }

    /// Tells what cannot be done before anything is recorded.
    fn can_be_tainted(&self, meant: &Meant, row: &AuthorityRow) -> Result<(), Status> {
        let name = meant.name;
        match (name.level, meant.state) {
            (Level::Root, _) => Err(status::of_act(&ActError::Root { name })),
            (Level::Intermediate, _) => Err(status::of_act(&ActError::Above { name })),
            (Level::Issuing, State::Prepared | State::Active | State::Retiring) => Ok(()),
            (Level::Issuing, State::Gone) => Err(Status::failed_precondition(format!(
                "{name} is gone: it signs nothing, no certificate under it lives, and its state is final. Were its key \
                 stolen, its certificate would serve the thief until it ends ({}): what ends that is a new root, \
                 docs/operations.md",
                end_of(row)
            ))),
            (Level::Issuing, State::Tainted) => {
                let now = self.clock.now().unix_timestamp();
                let revoked = self.index.revoked(now).map_err(index_status)?;
                let serial = row.facts.as_ref().map(|facts| facts.serial.clone()).unwrap_or_default();
                match revoked.into_iter().find(|row| row.serial == serial) {
                    // It was cut short: this goes on.
                    None => Ok(()),
                    Some(done) => Err(Status::already_exists(format!(
                        "{name} is tainted and its certificate revoked already, by {}; what streams still hold of it: \
                         chancery cert rotate --issuer '{name}'",
                        done.record
                    ))),
                }
            }
        }
    }

    /// What hangs on an authority: the first message.
    pub(super) async fn planned(&self, meant: &Meant) -> Result<pb::AuthorityProgress, Status> {
        let found = self.chosen(&meant.choice).await?;
        let live = self.hands.live();
        let held: HashSet<&str> = live.iter().filter_map(|proxy| proxy.serial.as_deref()).collect();
        let (connected, not_connected) = found.connection(&held);
        let chosen: HashSet<&str> = found.serials.iter().map(String::as_str).collect();
        let tcp = live.iter().filter(|proxy| proxy.account.starts_with("tls:"));
        let over_tcp = tcp.filter_map(|proxy| proxy.serial.as_deref()).filter(|serial| chosen.contains(serial)).count();
        let last = found.shown.iter().map(|row| row.not_after.clone()).max();
        Ok(pb::AuthorityProgress {
            step: "planned".to_owned(),
            authority: meant.name.to_string(),
            state: meant.state.as_str().to_owned(),
            live_certificates: found.count,
            last_expires_at: last,
            connected,
            not_connected,
            over_tcp: wide(over_tcp),
            ..pb::AuthorityProgress::default()
        })
    }

    /// Records the act; the record, and who did it for the records that follow.
    pub(super) async fn ordered(
        &self,
        operator: &Operator,
        what: &str,
        meant: &Meant,
        count: u64,
        why: Option<String>,
    ) -> Result<(String, Event), Status> {
        let mut event = self.act(Action::OperatorAct, operator, what);
        event.subject = Some(meant.name.to_string());
        event.reason = why;
        if let Some(change) = event.change.as_mut() {
            change.count = Some(count);
        }
        let mut template = self.act(Action::OperatorAct, operator, what);
        template.request_id.clone_from(&event.request_id);
        Ok((self.ledger.append(event).await?, template))
    }
}

/// An act under way.
pub(super) struct Hand {
    pub(super) sources: Arc<Sources>,
    pub(super) teller: Teller<pb::AuthorityProgress>,
    pub(super) began: Duration,
}

impl Hand {
    /// Has the keeper do one thing, and watches what follows from it.
    pub(super) async fn act(mut self, first: pb::AuthorityProgress, act: Act, template: Event) {
        self.tell(first).await;
        match self.keep(act, template).await {
            Ok(()) => self.watch().await,
            Err(status) => self.teller.tell(Err(status)).await,
        }
    }

    async fn taint(mut self, first: pb::AuthorityProgress, meant: Meant, reason: Reason, template: Event) {
        self.tell(first).await;
        let revoked = match self.keep(Act::Taint(meant.name), template.clone()).await {
            Ok(()) => {
                // Whoever gets no new one now is cut off by what follows; that must not wait for ever.
                if let Err(status) = self.reissue(&meant.choice).await {
                    self.teller.tell(Err(status)).await;
                }
                self.revoke(AuthorityOrder { name: meant.name, reason, template }).await
            }
            Err(status) => Err(status),
        };
        match revoked {
            Ok(()) => self.watch().await,
            Err(status) => self.teller.tell(Err(status)).await,
        }
    }

    /// Has the keeper do it.
    async fn keep(&mut self, act: Act, template: Event) -> Result<(), Status> {
        let mut told = self.sources.hands.order(act, template);
        while let Some(word) = told.recv().await {
            let step = match word {
                Told::Step(step) => step,
                Told::Done => return Ok(()),
                Told::Failed(why) => return Err(status::of_act(&why)),
            };
            let authority = step.name.to_string();
            if step.action == Action::CaActivate {
                let crls = self.sources.hands.crls().into_iter().filter(|crl| crl.issuer == authority);
                let crls = crls.map(|crl| crl_state(crl, self.sources.clock.now())).collect();
                let listed = pb::AuthorityProgress { crls, ..message("listed") };
                self.tell(pb::AuthorityProgress { authority: authority.clone(), ..listed }).await;
            }
            let record = Some(step.record.to_string());
            self.tell(pb::AuthorityProgress { authority, record, ..message(word_of(step.action)) }).await;
        }
        Err(Status::unavailable(STOPPED))
    }

    /// Gives the streams that hold a certificate of `choice` new ones, paced as every rotation is.
    async fn reissue(&mut self, choice: &Choice) -> Result<(), Status> {
        let until = self.sources.clock.monotonic() + LONGEST_REISSUE;
        let mut tried = HashSet::new();
        for _ in 0..ROUNDS {
            // The index knows what was signed a moment ago.
            self.sources.caught_up().await?;
            let meant = self.sources.meant(choice, &self.sources.hands.live())?;
            let meant: HashSet<String> = meant.into_iter().filter(|serial| tried.insert(serial.clone())).collect();
            if meant.is_empty() {
                break;
            }
            let Rotation { chosen, mut steps } = start_rotation(&self.sources, &meant);
            loop {
                let left = until.saturating_sub(self.sources.clock.monotonic());
                let Ok(Some(step)) = tokio::time::timeout(left, steps.recv()).await else { break };
                if let Some(proxy) = chosen.get(step.index) {
                    let reissued = Some(outcome(proxy, &step));
                    self.tell(pb::AuthorityProgress { reissued, ..message("reissued") }).await;
                }
            }
        }
        Ok(())
    }

    async fn revoke(&mut self, order: AuthorityOrder) -> Result<(), Status> {
        let authority = order.name.to_string();
        let mut steps = self.sources.hands.revoke_authority(order);
        let mut published = false;
        while let Some(step) = steps.recv().await {
            let told = match step.map_err(|why| status::of_revoke(&why))? {
                Step::Recorded { first, .. } => {
                    let (authority, record) = (authority.clone(), Some(first.to_string()));
                    pb::AuthorityProgress { authority, record, ..message("revoked") }
                }
                Step::Signed { crls } => {
                    let crls = crls.into_iter().map(|crl| crl_state(crl, self.sources.clock.now())).collect();
                    pb::AuthorityProgress { crls, ..message("signed") }
                }
                Step::Published { .. } => {
                    published = true;
                    self.delivery("pushed")
                }
            };
            self.tell(told).await;
        }
        if published { Ok(()) } else { Err(Status::unavailable(STOPPED)) }
    }

    fn delivery(&self, step: &str) -> pb::AuthorityProgress {
        let delivery = self.sources.hands.delivery();
        let (streams, acked, nacked) = (delivery.streams, delivery.acked, delivery.nacked);
        pb::AuthorityProgress { streams, acked, nacked, ..message(step) }
    }

    /// Tells how the push goes until every stream has answered.
    async fn watch(&mut self) {
        let until = self.sources.clock.monotonic() + LONGEST_WATCH;
        let (mut pause, mut last) = (LOOKS.0, None);
        while self.teller.listens() && self.sources.clock.monotonic() < until {
            let seen = self.delivery("pushed");
            if seen.acked + seen.nacked >= seen.streams {
                return self.tell(pb::AuthorityProgress { step: "done".to_owned(), ..seen }).await;
            }
            if last.as_ref() != Some(&seen) {
                last = Some(seen.clone());
                self.tell(seen).await;
            }
            self.sources.clock.sleep(pause).await;
            pause = (pause * 2).min(LOOKS.1);
        }
    }

    async fn tell(&mut self, message: pb::AuthorityProgress) {
        let elapsed = self.sources.clock.monotonic().saturating_sub(self.began);
        let elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        self.teller.tell(Ok(pb::AuthorityProgress { elapsed_us, ..message })).await;
    }
}

fn message(step: &str) -> pb::AuthorityProgress {
    pb::AuthorityProgress { step: step.to_owned(), ..pb::AuthorityProgress::default() }
}

/// The step's word for what the keeper recorded.
fn word_of(action: Action) -> &'static str {
    if action == Action::CaPrepare {
        "prepared"
    } else if action == Action::CaPublish {
        "published"
    } else if action == Action::CaActivate {
        "activated"
    } else if action == Action::CaTaint {
        "tainted"
    } else {
        "retired"
    }
}
