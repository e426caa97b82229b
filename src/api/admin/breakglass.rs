//! The break-glass: how its credential is kept, used and used up, and how what it opened ends.
//!
//! The ledger says which credential holds (`config.change` of `breakglass` names the hash of its verifier), which one is
//! used up and until when it is open (`breakglass.open`), and what was done meanwhile (`breakglass.close`); files without
//! such a record open nothing. So a crash at any line leaves either what was before or what is on record. Whoever holds a
//! credential needs no role: this is for the day when the table of operators locks everybody out.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tonic::{Request, Response, Status};
use tracing::{error, warn};

use super::Sources;
use super::acts::Operator;
use super::certificates::index_status;
use super::hands::words;
use super::server::PeerInfo;
use crate::approval::{Guarded, Plan};
use crate::audit::event::{Action, BreakglassFacts, Change, Event, Outcome};
use crate::breakglass::{Attempts, LONGEST_CREDENTIAL, LONGEST_OPEN, Verifier};
use crate::clock::{parse_rfc3339, rfc3339_seconds};
use crate::proto::chancery::admin::v1 as pb;
use crate::secret::{SecretBytes, read_private, write_private};
use crate::store::BreakglassRow;

/// What `config.change` calls the credential.
const WHAT: &str = "breakglass";

/// How often it is looked whether one is over, and how often the log repeats that one is open.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// See [`LOOK_EVERY`].
const REMIND_EVERY: Duration = Duration::from_secs(60);

/// The shortest time that it can be opened for.
const SHORTEST_OPEN: Duration = Duration::from_secs(60);

/// Where verifiers are, and who tried in vain.
#[derive(Debug)]
pub struct Breakglass {
    directory: PathBuf,
    attempts: Mutex<Attempts>,
}

impl Breakglass {
    /// Keeps the verifier in `directory`, which is made with the first one.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, attempts: Mutex::default() }
    }

    fn file(&self) -> PathBuf {
        self.directory.join("verifier.json")
    }

    /// The file of a verifier that is not on record yet.
    fn next(&self) -> PathBuf {
        self.directory.join("verifier-next.json")
    }

    /// The verifier whose hash is `recorded`, if it is there: in its place, or where a crash left it.
    fn verifier(&self, recorded: &str) -> Option<Verifier> {
        let both = [self.file(), self.next()];
        both.iter().filter_map(|path| Self::read(path)).find(|found| found.fingerprint() == recorded)
    }

    fn read(path: &Path) -> Option<Verifier> {
        serde_json::from_slice(read_private(path).ok()?.expose()).ok()
    }

    fn attempts(&self) -> std::sync::MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sources {
    /// The break-glass that is open now.
    pub(super) fn breakglass_now(&self) -> Option<BreakglassRow> {
        match self.index.breakglass() {
            Ok(mut rows) => rows.pop().filter(|row| row.closed.is_none() && !self.is_over(row)),
            Err(failure) => {
                error!(error = %failure, "the index does not answer, so that no break-glass is known");
                None
            }
        }
    }

    fn is_over(&self, row: &BreakglassRow) -> bool {
        parse_rfc3339(&row.until).map_or(true, |until| until <= self.clock.now())
    }

    pub(super) fn told(&self, row: BreakglassRow, operator: &Operator) -> pb::Breakglass {
        pb::Breakglass {
            opened_by: self.name_of(&row.actor).filter(|_| operator.sees_names()),
            id: row.id,
            opened_at: row.opened_at,
            until: row.until,
            reason: row.reason,
            record: row.record,
            acts: row.count,
        }
    }

    /// The verifier of the credential that holds: on record, and not used up.
    fn sealed(&self) -> Result<Option<Verifier>, Status> {
        let recorded = self.index.configured(WHAT).map_err(index_status)?;
        let Some(found) = recorded.and_then(|recorded| self.breakglass.verifier(&recorded)) else { return Ok(None) };
        let used = self.index.breakglass().map_err(index_status)?.into_iter().any(|row| row.id == found.id);
        Ok(Some(found).filter(|_| !used))
    }

    /// Records the end of `row` with what was done; `closing` is the record's beginning.
    async fn end(&self, row: &BreakglassRow, closing: Event) -> Result<pb::BreakglassClosed, Status> {
        self.reaches_head().await?;
        let rows = self.index.breakglass().map_err(index_status)?;
        let Some(row) = rows.into_iter().find(|one| one.id == row.id && one.closed.is_none()) else {
            return Err(Status::failed_precondition("no break-glass is open"));
        };
        let facts = BreakglassFacts { acts: row.acts, count: Some(row.count), id: row.id, until: Some(row.until) };
        let told = pb::BreakglassClosed {
            acts: facts.acts.clone(),
            count: row.count,
            id: facts.id.clone(),
            ..Default::default()
        };
        let event = Event { breakglass: Some(facts), refers_to: Some(row.record), ..closing };
        let record = self.ledger.append(event).await?;
        self.reaches_head().await?;
        error!(id = told.id, acts = told.count, record, "BREAK-GLASS IS CLOSED: look at what was done under it");
        Ok(pb::BreakglassClosed { record, ..told })
    }

    /// A record of the server's own.
    fn lapse(&self) -> Event {
        let mut event = self.recorder.event(Action::BreakglassClose, Outcome::Success, self.clock.now());
        event.change = Some(Change { what: "breakglass.lapse".to_owned(), ..Change::default() });
        event
    }

    /// Ends every break-glass whose time is over, and repeats while one is open.
    pub(super) async fn watch_breakglass(&self) {
        let mut reminded = self.clock.monotonic();
        loop {
            let rows = self.index.breakglass().unwrap_or_default();
            for row in rows.iter().filter(|row| row.closed.is_none()) {
                if self.is_over(row) {
                    let _turn = self.turn.lock().await;
                    if let Err(failure) = self.end(row, self.lapse()).await {
                        warn!(error = failure.message(), "the end of a break-glass is not on record yet; trying again");
                    }
                } else if self.clock.monotonic() - reminded >= REMIND_EVERY {
                    reminded = self.clock.monotonic();
                    error!(
                        id = row.id,
                        until = row.until,
                        reason = row.reason,
                        acts = row.count,
                        "BREAK-GLASS IS OPEN"
                    );
                }
            }
            self.clock.sleep(LOOK_EVERY).await;
        }
    }
}

pub(super) async fn seal(
    sources: &Arc<Sources>,
    request: Request<pb::SealBreakglassRequest>,
) -> Result<Response<pb::BreakglassSealed>, Status> {
    let operator = sources.admit(&request).await?;
    let ask = request.into_inner();
    let why = words(&ask.reason, "reason")?;
    let verifier = Verifier { id: ask.id.clone(), rounds: ask.rounds, salt: ask.salt.clone(), hash: ask.hash.clone() };
    let verifier = verifier.checked().map_err(|why| Status::invalid_argument(why.to_string()))?;
    let before = sources.sealed()?;
    if before.as_ref() == Some(&verifier) {
        return Err(Status::already_exists(format!("credential {} is sealed already", verifier.id)));
    }
    let plan = Plan {
        act: Guarded::BreakglassSeal,
        subject: format!("credential {}", verifier.id),
        description: format!(
            "seal the break-glass credential {}{}: whoever has it is an admin without a second operator, once",
            verifier.id,
            before.as_ref().map_or_else(String::new, |old| format!(" in the place of {}", old.id))
        ),
        parameters: prost::Message::encode_to_vec(&ask),
        state: before.iter().map(Verifier::fingerprint).collect(),
    };
    let leave = sources.leave(&operator, plan, why.clone()).await?;
    let unwritten = |failure: String| {
        error!(error = failure, "the verifier of a break-glass credential could not be written");
        Status::unavailable("the data directory does not take the verifier: is its disk full? chancery doctor")
    };
    let (breakglass, text, old) = (Arc::clone(&sources.breakglass), verifier.to_text(), before.clone());
    let written = tokio::task::spawn_blocking(move || write_next(&breakglass, &text, old.as_ref())).await;
    written.map_err(|why| unwritten(why.to_string()))?.map_err(unwritten)?;
    let mut event = sources.act(Action::ConfigChange, &operator, WHAT);
    event.subject = Some(verifier.id.clone());
    event.reason = why;
    if let Some(change) = event.change.as_mut() {
        (change.before, change.after) = (before.as_ref().map(Verifier::fingerprint), Some(verifier.fingerprint()));
    }
    leave.mark(&mut event);
    let record = sources.ledger.append(event).await?;
    // It holds from here on, wherever its file is; this only keeps it from the next one that is begun.
    if let Err(why) = fs::rename(sources.breakglass.next(), sources.breakglass.file()) {
        error!(error = %why, "the verifier of a break-glass credential stays where it was written first");
    }
    sources.reaches_head().await?;
    warn!(id = verifier.id, record, "a break-glass credential is sealed");
    Ok(Response::new(pb::BreakglassSealed { id: verifier.id, record, replaced: before.is_some() }))
}

/// Writes it beside the one that holds, which a crash may have left where this goes.
fn write_next(breakglass: &Breakglass, text: &str, holds: Option<&Verifier>) -> Result<(), String> {
    let directory = &breakglass.directory;
    if !directory.exists() {
        fs::DirBuilder::new().mode(0o700).create(directory).map_err(|why| why.to_string())?;
    }
    if holds.is_some_and(|holds| Breakglass::read(&breakglass.next()).as_ref() == Some(holds)) {
        fs::rename(breakglass.next(), breakglass.file()).map_err(|why| why.to_string())?;
    }
    write_private(&breakglass.next(), text.as_bytes()).map_err(|why| why.to_string())
}

pub(super) async fn open(
    sources: &Arc<Sources>,
    request: Request<pb::OpenBreakglassRequest>,
) -> Result<Response<pb::Breakglass>, Status> {
    let peer = request.extensions().get::<PeerInfo>().cloned();
    let operator = sources.admit_anyone(peer).await?;
    let ask = request.into_inner();
    let credential = SecretBytes::new(ask.credential.into_bytes());
    let reason = words(&ask.reason, "reason")?;
    let reason = reason.ok_or_else(|| Status::invalid_argument("say why: everybody who looks will read it"))?;
    let span = Duration::from_secs(ask.seconds.into());
    if span < SHORTEST_OPEN || span > LONGEST_OPEN {
        return Err(Status::invalid_argument(format!(
            "for between {} s and {} s: as short as it may be",
            SHORTEST_OPEN.as_secs(),
            LONGEST_OPEN.as_secs()
        )));
    }
    // One at a time: a credential is used up once, and guessing takes one core at most.
    let _turn = sources.turn.lock().await;
    let verifier = sources.tried(&operator, credential).await?;
    if let Some(open) = sources.breakglass_now() {
        let text = format!("one is open until {} already; close it first, or act under it", open.until);
        return Err(Status::failed_precondition(text));
    }
    let mut event = sources.act(Action::BreakglassOpen, &operator, "breakglass.open");
    let until = rfc3339_seconds(sources.clock.now() + span);
    event.breakglass =
        Some(BreakglassFacts { id: verifier.id.clone(), until: Some(until.clone()), ..Default::default() });
    event.reason = Some(reason.clone());
    let record = sources.ledger.append(event).await?;
    error!(id = verifier.id, by = operator.name, until, reason, record, "BREAK-GLASS IS OPEN");
    // The record has used it up; the file is of no use any more.
    for file in [sources.breakglass.file(), sources.breakglass.next()] {
        let _ = fs::remove_file(file);
    }
    sources.reaches_head().await?;
    let row = sources.breakglass_now().ok_or_else(|| Status::unavailable("it is on record; chancery status"))?;
    Ok(Response::new(sources.told(row, &Operator { role: super::Role::Admin, ..operator })))
}

impl Sources {
    /// The verifier that `credential` opens. A wrong one is on record, and whoever tried waits.
    async fn tried(&self, operator: &Operator, credential: SecretBytes) -> Result<Verifier, Status> {
        let account = operator.caller.account();
        let wait = self.breakglass.attempts().wait(&account, self.clock.monotonic());
        if let Some(wait) = wait {
            self.wrong(operator, "rate_limited").await;
            return Err(Status::resource_exhausted(format!(
                "wrong credentials were tried before: try again in {} s",
                wait.as_secs() + 1
            )));
        }
        self.reaches_head().await?;
        let sealed = self.sealed()?;
        let tried = tokio::task::spawn_blocking(move || {
            let short = credential.expose().len() <= LONGEST_CREDENTIAL;
            sealed.filter(|verifier| short && verifier.opens(&credential))
        });
        match tried.await {
            Ok(Some(verifier)) => Ok(verifier),
            Ok(None) => {
                self.breakglass.attempts().failed(&account, self.clock.monotonic());
                self.wrong(operator, "wrong_credential").await;
                // Whether there is one at all is for those who can look: chancery audit tail.
                Err(Status::permission_denied(
                    "this credential opens nothing: it is not the one that was sealed last, or it is used up",
                ))
            }
            Err(_) => Err(Status::unavailable("it was interrupted; try again")),
        }
    }

    async fn wrong(&self, operator: &Operator, reason: &str) {
        let mut event = self.act(Action::BreakglassOpen, operator, "breakglass.open");
        event.outcome = Outcome::Denied;
        event.reason = Some(reason.to_owned());
        error!(caller = operator.caller.label(), reason, "a wrong break-glass credential was tried");
        if let Err(failure) = self.ledger.refused(&operator.caller, event).await {
            error!(error = failure.message(), "a wrong break-glass credential could not be recorded");
        }
    }
}

pub(super) async fn close(
    sources: &Arc<Sources>,
    request: Request<pb::CloseBreakglassRequest>,
) -> Result<Response<pb::BreakglassClosed>, Status> {
    let operator = sources.admit(&request).await?;
    let _turn = sources.turn.lock().await;
    let row = sources.breakglass_now().ok_or_else(|| Status::failed_precondition("no break-glass is open"))?;
    let closing = sources.act(Action::BreakglassClose, &operator, "breakglass.close");
    sources.end(&row, closing).await.map(Response::new)
}
