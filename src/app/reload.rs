//! Reads policy and configuration again: when a file changed, on SIGHUP, and when an operator asks.
//!
//! The content of a file decides, not its times: a file replaced, a link turned (as Kubernetes does) and a file written in
//! place are the same. What is always true: a file with a mistake is refused whole and what is in force stays; a change
//! is durable in the ledger before it decides anything; one content is refused on record once; and a change of a file
//! never revokes. A file that is being written is left alone until it looks the same twice, [`LOOK_EVERY`] apart.

mod second;

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::notify;
use super::state::{State, fingerprint};
use crate::api::admin::Operators;
use crate::api::admin::change::Pending;
use crate::approval::Rules;
use crate::audit::event::{Action, Change, Event, Outcome, Recorder};
use crate::audit::ledger::{Ledger, LedgerError, Position};
use crate::ca::issue::Street;
use crate::clock::Clock;
use crate::config::Settings;
use crate::config::files::{policy_of_text, read_configuration, read_policy};
use crate::config::live::needs_restart;
use crate::identity::TrustDomain;
use crate::policy::Policy;
use crate::policy::schedule::AuthorityTimes;
use crate::telemetry;

/// How often the files are looked at. A change is in force after two looks.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How much of a mistake goes on record, in characters; `policy check` shows all of it.
const LONGEST_REASON: usize = 1_000;

/// What a look at a file finds: its text, or why it cannot be used.
pub(super) type Content = Result<String, String>;

/// Who or what wants a change.
#[derive(Debug, Clone)]
pub(super) struct By {
    /// `file`, `signal`, `operator` or the operator's own words: the reason on record.
    pub(super) cause: Cow<'static, str>,
    /// The operator's act, whose actor and source every record of it carries.
    pub(super) act: Option<Event>,
    /// The contents that may come into force where that takes a second operator.
    pub(super) granted: Pending,
}

impl By {
    const FILE: Self = Self { cause: Cow::Borrowed("file"), act: None, granted: NOTHING };
    const SIGNAL: Self = Self { cause: Cow::Borrowed("signal"), act: None, granted: NOTHING };
}

/// Files and signals are granted nothing.
const NOTHING: Pending = Pending { policy: None, configuration: None };

/// What a reload did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reloaded {
    /// `policy`, `configuration`.
    pub(super) changed: Vec<String>,
    /// What stays as it was, and why.
    pub(super) refused: Vec<String>,
    /// Configuration keys that wait for a restart.
    pub(super) needs_restart: Vec<String>,
}

/// Policy and configuration, and how they change; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Reloader(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    street: Street,
    ledger: Ledger,
    clock: Clock,
    recorder: Recorder,
    trust_domain: TrustDomain,
    sockets: Vec<String>,
    policy: PathBuf,
    issuing_lifetime: Duration,
    configuration: Option<Configuration>,
    rules: Rules,
    data_dir: PathBuf,
    live: Live,
    /// One change at a time.
    turn: tokio::sync::Mutex<Turn>,
    told: Mutex<Told>,
}

/// What is told of settings that change while the server runs.
#[derive(Debug, Clone)]
pub(super) struct Live {
    /// Who has which role.
    pub(super) operators: Arc<ArcSwap<Operators>>,
}

/// The file that a server was started with, and what it said then.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// Where it is.
    pub path: PathBuf,
    /// Its text at the start.
    pub text: String,
}

/// What was seen of the files, and the settings in force.
#[derive(Debug)]
pub(super) struct Turn {
    policy: Looks,
    configuration: Looks,
    started: Settings,
    in_force: Settings,
}

#[derive(Debug, Default)]
struct Looks {
    last: Option<Content>,
    /// The content that is in force or was refused.
    judged: Option<Content>,
}

impl Looks {
    /// Whether this content is new, and was the same at the look before.
    fn settled(&mut self, content: &Content) -> bool {
        let settled = self.last.as_ref() == Some(content);
        if !settled {
            self.last = Some(content.clone());
        }
        settled && self.judged.as_ref() != Some(content)
    }
}

/// What `status` warns of.
#[derive(Debug, Default)]
struct Told {
    policy: Option<String>,
    configuration: Option<String>,
    needs_restart: Vec<String>,
}

/// Which file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Policy,
    Configuration,
}

impl What {
    fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Configuration => "configuration",
        }
    }
}

/// What became of a file's content.
enum Verdict {
    Unchanged,
    Changed,
    Refused(String),
}

impl Reloader {
    pub(super) fn new(state: &State, settings: &Settings, configuration: Option<Configuration>, live: Live) -> Self {
        let judged = |text: &str| Looks { last: None, judged: Some(Ok(text.to_owned())) };
        let turn = Turn {
            policy: judged(state.street.policy().text()),
            configuration: configuration.as_ref().map(|file| judged(&file.text)).unwrap_or_default(),
            started: settings.clone(),
            in_force: settings.clone(),
        };
        Self(Arc::new(Inner {
            street: state.street.clone(),
            ledger: state.ledger.clone(),
            clock: state.clock.clone(),
            recorder: state.recorder.clone(),
            trust_domain: settings.trust_domain.clone(),
            sockets: settings.socket_names(),
            policy: settings.policy.clone(),
            issuing_lifetime: settings.ca.issuing.lifetime,
            configuration,
            rules: settings.admin.approval.clone(),
            data_dir: settings.data_dir.clone(),
            live,
            turn: tokio::sync::Mutex::new(turn),
            told: Mutex::default(),
        }))
    }

    /// The policy file.
    pub(super) fn policy_path(&self) -> &PathBuf {
        &self.0.policy
    }

    /// What an operator should know: files that were refused, keys that wait for a restart.
    pub(super) fn warnings(&self) -> Vec<String> {
        let told = self.told();
        let refused = [(What::Policy, &told.policy), (What::Configuration, &told.configuration)];
        let mut warnings: Vec<String> = refused
            .into_iter()
            .filter_map(|(what, why)| {
                Some(format!("the {} file was refused, the old one stays in force: {}", what.as_str(), why.as_ref()?))
            })
            .collect();
        if !told.needs_restart.is_empty() {
            let keys = told.needs_restart.join(", ");
            warnings.push(format!("the configuration was changed where only a restart puts it in force: {keys}"));
        }
        warnings
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the files and listens for SIGHUP until the server stops.
    pub(super) async fn watch(self, stopping: CancellationToken) {
        let mut hangup = match signal(SignalKind::hangup()) {
            Ok(hangup) => Some(hangup),
            Err(failure) => {
                error!(error = %failure, "SIGHUP cannot be listened for; files are looked at all the same");
                None
            }
        };
        let hung_up = async |hangup: &mut Option<tokio::signal::unix::Signal>| match hangup {
            Some(hangup) => hangup.recv().await,
            None => std::future::pending().await,
        };
        loop {
            tokio::select! {
                () = self.0.clock.sleep(LOOK_EVERY) => self.look().await,
                _ = hung_up(&mut hangup) => {
                    notify::reloading();
                    let done = self.reload(&By::SIGNAL).await;
                    info!(changed = ?done.changed, refused = done.refused.len(), "read again on SIGHUP");
                    notify::reloaded(&self.status_line(&done));
                }
                () = stopping.cancelled() => return,
            }
        }
    }

    fn status_line(&self, done: &Reloaded) -> String {
        let more = if done.refused.is_empty() { "" } else { "; a changed file was refused: chancery status" };
        format!("serving {}{more}", self.0.trust_domain)
    }

    /// One look at each file; what is new and no longer being written is judged.
    async fn look(&self) {
        let mut turn = self.0.turn.lock().await;
        let policy = self.read_policy().await;
        if turn.policy.settled(&policy) {
            self.judge_policy(policy, &By::FILE, &mut turn).await;
        }
        if let Some(text) = self.read_configuration().await
            && turn.configuration.settled(&text)
        {
            self.judge_configuration(text, &By::FILE, &mut turn).await;
        }
    }

    /// Reads both files now and puts in force what they say.
    pub(super) async fn reload(&self, by: &By) -> Reloaded {
        let mut turn = self.0.turn.lock().await;
        let mut done = Reloaded::default();
        let policy = self.read_policy().await;
        let mut verdicts = vec![(What::Policy, self.judge_policy(policy, by, &mut turn).await)];
        if let Some(text) = self.read_configuration().await {
            verdicts.push((What::Configuration, self.judge_configuration(text, by, &mut turn).await));
        }
        for (what, verdict) in verdicts {
            match verdict {
                Verdict::Unchanged => {}
                Verdict::Changed => done.changed.push(what.as_str().to_owned()),
                Verdict::Refused(why) => done.refused.push(why),
            }
        }
        done.needs_restart.clone_from(&self.told().needs_restart);
        done
    }

    async fn read_policy(&self) -> Content {
        let path = self.0.policy.clone();
        off_the_runtime(move || read_policy(&path).map_err(|why| why.to_string())).await
    }

    async fn read_configuration(&self) -> Option<Content> {
        let path = self.0.configuration.as_ref()?.path.clone();
        Some(off_the_runtime(move || read_configuration(&path).map_err(|why| why.to_string())).await)
    }

    /// Reads a policy as this server would: its sockets, its trust domain, and lives that its issuing CA has room for.
    pub(super) fn parse(&self, path: &std::path::Path, text: &str) -> Result<Policy, String> {
        let inner = &self.0;
        let policy =
            policy_of_text(path, text, &inner.trust_domain, Some(&inner.sockets)).map_err(|why| why.to_string())?;
        AuthorityTimes::new(inner.issuing_lifetime, policy.longest_lifetime()).map_err(|why| why.to_string())?;
        Ok(policy)
    }

    async fn judge_policy(&self, content: Content, by: &By, turn: &mut Turn) -> Verdict {
        let parsed = content.clone().and_then(|text| self.parse(&self.0.policy, &text));
        let verdict = match parsed {
            Err(why) => self.refuse(What::Policy, &content, (Outcome::Failure, why), by, &turn.policy).await,
            Ok(policy) if policy.hash_hex() == self.0.street.policy().hash_hex() => Ok(Verdict::Unchanged),
            Ok(policy) => match self.not_granted(What::Policy, by, policy.hash_hex()) {
                Some(why) => self.refuse(What::Policy, &content, (Outcome::Denied, why), by, &turn.policy).await,
                None => self.record_policy(&policy, by).await.map(|_| {
                    self.set_policy(policy);
                    Verdict::Changed
                }),
            },
        };
        self.conclude(What::Policy, content, verdict, turn)
    }

    /// Holds off every other change while it is kept.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, Turn> {
        self.0.turn.lock().await
    }

    /// What somebody wrote into the policy file that is not in force, as a refusal to write over it.
    pub(super) async fn pending_edit(&self) -> Option<String> {
        if !self.0.policy.exists() {
            return None;
        }
        let text = self.read_policy().await;
        let in_force = self.0.street.policy();
        (text.as_deref().ok() != Some(&**in_force.text())).then(|| {
            let path = self.0.policy.display();
            format!(
                "{path} holds another text than the policy in force, and that would be lost: make it right (chancery policy check {path}) or move it away"
            )
        })
    }

    /// Records a policy that was parsed by [`Self::parse`]; it may decide from then on.
    pub(super) async fn record_policy(&self, policy: &Policy, by: &By) -> Result<Position, LedgerError> {
        self.keep(policy);
        let before = self.0.street.policy().hash_hex().to_owned();
        let after = policy.hash_hex().to_owned();
        self.record(What::Policy, Outcome::Success, by, (Some(before), Some(after))).await
    }

    /// Records that what was recorded last did not come to pass.
    pub(super) async fn record_failure(&self, by: &By, why: &str) {
        let mut event = self.event(What::Policy, Outcome::Failure, by, (None, None));
        event.reason = Some(why.chars().take(LONGEST_REASON).collect());
        if let Err(failure) = self.0.ledger.append(event).await {
            error!(error = %failure, "a failure could not be recorded");
        }
    }

    fn set_policy(&self, policy: Policy) {
        info!(hash = policy.hash_hex(), rules = policy.rules().len(), "another policy is in force");
        self.0.street.set_policy(Arc::new(policy));
    }

    /// Lets a recorded policy decide whose text is in the file by now.
    pub(super) fn applied(&self, policy: Policy, text: String, turn: &mut Turn) {
        self.set_policy(policy);
        turn.policy.judged = Some(Ok(text));
        self.told().policy = None;
    }

    async fn judge_configuration(&self, content: Content, by: &By, turn: &mut Turn) -> Verdict {
        let Some(file) = &self.0.configuration else { return Verdict::Unchanged };
        let parsed = content.clone().and_then(|text| {
            Settings::of_text(&file.path, &text).map_err(|why| why.to_string()).map(|new| (text, new))
        });
        let verdict = match parsed {
            Err(why) => {
                self.refuse(What::Configuration, &content, (Outcome::Failure, why), by, &turn.configuration).await
            }
            Ok((text, new)) => {
                let settings = turn.started.with_live_of(&new);
                // A file may spell the same settings otherwise.
                let waiting = if settings == new { Vec::new() } else { needs_restart(&file.text, &text) };
                if !waiting.is_empty() {
                    warn!(
                        keys = waiting.join(", "),
                        "the configuration was changed where only a restart puts it in force"
                    );
                }
                self.told().needs_restart = waiting;
                let other = (settings != turn.in_force).then(|| fingerprint(&settings));
                match other.and_then(|hash| self.not_granted(What::Configuration, by, &hash)) {
                    Some(why) => {
                        let why = (Outcome::Denied, why);
                        self.refuse(What::Configuration, &content, why, by, &turn.configuration).await
                    }
                    None => self.take_live(settings, by, turn).await,
                }
            }
        };
        self.conclude(What::Configuration, content, verdict, turn)
    }

    /// Puts settings in force that differ from those in force in nothing but what changes live.
    async fn take_live(&self, settings: Settings, by: &By, turn: &mut Turn) -> Result<Verdict, LedgerError> {
        if settings == turn.in_force {
            return Ok(Verdict::Unchanged);
        }
        let hashes = (Some(fingerprint(&turn.in_force)), Some(fingerprint(&settings)));
        self.record(What::Configuration, Outcome::Success, by, hashes).await?;
        telemetry::set_level(settings.log.level);
        self.0.live.operators.store(Arc::new(settings.admin.operators.clone()));
        info!(by = %by.cause, "another configuration is in force");
        turn.in_force = settings;
        Ok(Verdict::Changed)
    }

    /// Puts on record that a content was refused, unless it was already.
    async fn refuse(
        &self,
        what: What,
        content: &Content,
        (outcome, why): (Outcome, String),
        by: &By,
        looks: &Looks,
    ) -> Result<Verdict, LedgerError> {
        if looks.judged.as_ref() == Some(content) {
            return Ok(Verdict::Refused(why));
        }
        warn!(by = %by.cause, "the {} file was refused, the old one stays in force: {why}", what.as_str());
        let mut event = self.event(what, outcome, by, (None, None));
        event.reason = Some(why.chars().take(LONGEST_REASON).collect());
        self.0.ledger.append(event).await?;
        Ok(Verdict::Refused(why))
    }

    /// Remembers what was decided. A content whose record failed is judged again at the next look.
    fn conclude(
        &self,
        what: What,
        content: Content,
        verdict: Result<Verdict, LedgerError>,
        turn: &mut Turn,
    ) -> Verdict {
        let (looks, verdict) = match (what, verdict) {
            (What::Policy, Ok(verdict)) => (Some(&mut turn.policy), verdict),
            (What::Configuration, Ok(verdict)) => (Some(&mut turn.configuration), verdict),
            (What::Policy | What::Configuration, Err(failure)) => {
                let why = format!("it could not be recorded ({failure}); it is tried again");
                (None, Verdict::Refused(why))
            }
        };
        if let Some(looks) = looks {
            looks.judged = Some(content);
        }
        let refused = match &verdict {
            Verdict::Unchanged | Verdict::Changed => None,
            Verdict::Refused(why) => Some(why.clone()),
        };
        let mut told = self.told();
        match what {
            What::Policy => told.policy = refused,
            What::Configuration => told.configuration = refused,
        }
        drop(told);
        verdict
    }

    async fn record(&self, what: What, outcome: Outcome, by: &By, hashes: Hashes) -> Result<Position, LedgerError> {
        self.0.ledger.append(self.event(what, outcome, by, hashes)).await
    }

    fn event(&self, what: What, outcome: Outcome, by: &By, (before, after): Hashes) -> Event {
        let mut event = self.0.recorder.event(Action::ConfigChange, outcome, self.0.clock.now());
        event.change = Some(Change { after, before, count: None, what: what.as_str().to_owned() });
        event.reason = Some(by.cause.clone().into_owned());
        if let Some(act) = &by.act {
            event.actor.clone_from(&act.actor);
            event.source.clone_from(&act.source);
            event.request_id.clone_from(&act.request_id);
            event.approval.clone_from(&act.approval);
            event.breakglass.clone_from(&act.breakglass);
        }
        event
    }
}

/// Before and after.
type Hashes = (Option<String>, Option<String>);

/// A file may lie on a disk that takes its time.
async fn off_the_runtime(read: impl FnOnce() -> Content + Send + 'static) -> Content {
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|_| Err("reading it was interrupted".to_owned()))
}
