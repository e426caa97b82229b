//! What a server holds open: its directory, keys, ledger, index, authorities and street, taken up in this order.
//!
//! A failure at any line leaves what was made; the next start goes on from there.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::directory::{DataDirectory, DirectoryError};
use super::projection::{Projection, ProjectionError};
use super::snapshot;
use super::sockets::SocketError;
use crate::audit::event::{Action, Change, Event, Outcome, Recorder};
use crate::audit::ledger::{CheckpointKey, Ledger, LedgerError, LedgerLimits, LedgerOptions, OpenReport, Recovery};
use crate::audit::personal::{ErasurePool, PersonalError};
use crate::ca::authority::{AuthorityError, AuthorityPlan, Keeper, KeeperParts};
use crate::ca::issue::{Parts, Street};
use crate::ca::slot::Name;
use crate::ca::standing::Standing;
use crate::clock::Clock;
use crate::config::files::{self, FileError};
use crate::config::{SealingKey, SettingError, Settings};
use crate::entropy::Entropy;
use crate::feed::Feed;
use crate::feed::street::StreetSource;
use crate::identity::TrustDomain;
use crate::keys::sealed::{SealedError, SealedStore};
use crate::policy::schedule::Evidence;
use crate::policy::{Policy, starter};
use crate::revocation::{Revoker, RevokerParts};
use crate::secret::{SecretFileError, write_private};
use crate::store::embedded::{Embedded, Opened};
use crate::store::{Store, StoreError};
use crate::tasks::Tasks;
use crate::telemetry::{Measured, Metrics};
use crate::upstream::{Upstream, UpstreamSettings};

/// The sealed file of the ledger's signing key.
pub(super) const LEDGER_KEY: &str = "ledger-1";

/// Why a server could not be taken up or served. Each names the part and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The data directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A file of ours.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The sealed keys.
    #[error(transparent)]
    Keys(#[from] SealedError),
    /// A setting that only the start can judge.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Keys of authorities and no ledger: a new one under the same name would be a second history.
    #[error(
        "{path} is empty or gone, but keys of authorities are there: put the ledger back from a backup; if there is none, \
         `chancery ledger recover` begins a new log", path = path.display()
    )]
    LedgerGone {
        /// Where it was.
        path: PathBuf,
    },
    /// The keys of personal fields.
    #[error(transparent)]
    Personal(#[from] PersonalError),
    /// The index.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The index on its way along the ledger.
    #[error(transparent)]
    Projection(#[from] ProjectionError),
    /// The authorities.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The policy file cannot be used.
    #[error(transparent)]
    Policy(#[from] FileError),
    /// A listener.
    #[error(transparent)]
    Socket(#[from] SocketError),
}

impl AppError {
    /// Whether the operator wrote something wrong, as against something that failed.
    #[must_use]
    pub fn is_mistake(&self) -> bool {
        matches!(
            self,
            Self::Policy(_)
                | Self::Setting(_)
                | Self::Socket(SocketError::TooLong { .. })
                | Self::Authority(AuthorityError::TooShort(_))
        )
    }
}

/// Everything that is open.
#[derive(Debug)]
pub(super) struct State {
    pub(super) directory: DataDirectory,
    /// Everything that serves; ended first.
    pub(super) tasks: Tasks,
    /// The ledger's own threads; ended last, because what serves still records.
    ledger_tasks: Tasks,
    pub(super) clock: Clock,
    pub(super) entropy: Entropy,
    pub(super) recorder: Recorder,
    pub(super) ledger: Ledger,
    pub(super) opened: OpenReport,
    pub(super) personal: Arc<ErasurePool>,
    pub(super) store: Arc<dyn Store>,
    pub(super) street: Street,
    pub(super) revoker: Revoker,
    /// What is known of a root that waits.
    pub(super) evidence: watch::Sender<Option<Arc<Evidence<Name>>>>,
    pub(super) metrics: Metrics,
    /// Until it is handed to its task.
    pub(super) keeper: Option<Keeper>,
    /// Authorities that this start made.
    pub(super) made: Vec<Name>,
    pub(super) trust_domain: TrustDomain,
    pub(super) started_at: OffsetDateTime,
    pub(super) notes: Vec<String>,
}

impl State {
    /// Takes everything up.
    pub(super) async fn open(settings: &Settings) -> Result<Self, AppError> {
        let (clock, entropy) = (Clock::system(), Entropy::system());
        let (tasks, ledger_tasks) = (Tasks::new(), Tasks::new());
        let recorder = Recorder::new(entropy.clone());
        let directory = DataDirectory::open(&settings.data_dir, &settings.trust_domain)?;
        let (policy, keys) = (Arc::new(read_policy(settings, &directory)?), sealed_keys(settings, &directory)?);
        let personal = Arc::new(ErasurePool::open(&directory.path().join("erasure"), entropy.clone())?);
        let options = ledger_options(settings, &directory, checkpoint_key(&keys, &directory)?);
        let (ledger, opened) = Ledger::open(options, clock.clone(), &recorder, &ledger_tasks).await?;
        let mut notes: Vec<String> = opened.recovered.iter().map(whole_again).collect();
        let (store, mut projection) = index(&directory, &ledger, &mut notes)?;
        let (started_at, metrics) = (clock.now(), metrics(&ledger, &mut projection, clock.now()));
        let parts = KeeperParts {
            keys,
            ledger: ledger.clone(),
            clock: clock.clone(),
            entropy: entropy.clone(),
            recorder: recorder.clone(),
            plan: plan(settings, &policy),
            upstream: upstream(settings),
        };
        let mut keeper = Keeper::open(parts, &store.authorities()?, &store.live(clock.now().unix_timestamp())?)?;
        let street = Street::new(Parts {
            policy,
            ledger: ledger.clone(),
            authorities: keeper.watch(),
            clock: clock.clone(),
            entropy: entropy.clone(),
            recorder: recorder.clone(),
            standing: Standing::default(),
        });
        let parts = RevokerParts {
            street: street.clone(),
            ledger: ledger.clone(),
            store: Arc::clone(&store),
            clock: clock.clone(),
            recorder: recorder.clone(),
            tasks: tasks.clone(),
            trust_domain: settings.trust_domain.clone(),
            directory: directory.path().join("crl"),
            times: settings.crl,
            upstream: upstream(settings),
        };
        let (revoker, made) = establish(parts, &mut keeper).await?;
        record_in_force(settings, &street, &ledger, &*store, &recorder, clock.now()).await?;
        projection.catch_up()?;
        tasks.spawn("app.projection", projection.follow(clock.clone(), tasks.stopping()));
        ledger.set_snapshot_source(snapshot::source(street.clone(), clock.clone(), recorder.clone()));
        Ok(Self {
            directory,
            tasks,
            ledger_tasks,
            clock,
            entropy,
            recorder,
            ledger,
            opened,
            personal,
            store,
            street,
            revoker,
            evidence: watch::Sender::default(),
            metrics,
            keeper: Some(keeper),
            made,
            trust_domain: settings.trust_domain.clone(),
            started_at,
            notes,
        })
    }

    /// The feed, with the bundle published; the revoker keeps it current.
    pub(super) async fn feed(&self, settings: &Settings) -> Feed {
        let source =
            StreetSource::new(self.street.clone(), Arc::clone(&self.store), self.clock.clone(), self.entropy.clone());
        let source = Measured::new(Arc::new(source), self.metrics.clone(), self.clock.clone());
        let feed = Feed::new(
            Arc::new(source),
            settings.trust_domain.clone(),
            settings.sds.names.clone(),
            settings.limits.feed.clone(),
            self.clock.clone(),
            self.entropy.clone(),
            self.tasks.clone(),
        );
        self.revoker.attach(feed.clone()).await;
        feed
    }

    /// Ends everything in order: what serves, then counted refusals, then the ledger with its last checkpoint.
    pub(super) async fn close(&self, deadline: Duration) {
        let left = self.tasks.drain(deadline).await;
        if !left.is_empty() {
            warn!(tasks = left.join(", "), "not everything ended in time");
        }
        self.street.flush_refusals().await;
        if let Err(failure) = self.ledger.close().await {
            error!(error = %failure, "the ledger did not close cleanly; the next start recovers it");
        }
        let left = self.ledger_tasks.drain(deadline).await;
        if !left.is_empty() {
            warn!(tasks = left.join(", "), "the ledger did not end in time");
        }
        info!("stopped");
    }
}

fn whole_again(recovery: &Recovery) -> String {
    format!("the last run did not end cleanly; the ledger is whole again: {recovery:?}")
}

/// The authorities' keys, opened with the sealing key beside them or elsewhere.
fn sealed_keys(settings: &Settings, directory: &DataDirectory) -> Result<SealedStore, AppError> {
    let elsewhere = settings.sealing_key.as_ref().map(SealingKey::path).transpose()?;
    Ok(SealedStore::open(&directory.path().join("keys"), elsewhere.as_deref())?)
}

fn ledger_options(settings: &Settings, directory: &DataDirectory, key: CheckpointKey) -> LedgerOptions {
    let limits = LedgerLimits { reserve_bytes: settings.ledger.reserve_bytes, ..LedgerLimits::default() };
    let path = directory.path().join("ledger");
    LedgerOptions { limits, ..LedgerOptions::new(path, settings.trust_domain.as_str(), key) }
}

/// The index, caught up with the ledger.
fn index(
    directory: &DataDirectory,
    ledger: &Ledger,
    notes: &mut Vec<String>,
) -> Result<(Arc<dyn Store>, Projection), AppError> {
    let (store, found) = Embedded::open(&directory.path().join("index.redb"))?;
    if let Opened::Replaced(why) = found {
        notes.push(format!("the index was replaced and read anew from the ledger: {why}"));
    }
    let store: Arc<dyn Store> = Arc::new(store);
    let mut projection = Projection::open(ledger.reader(), Arc::clone(&store))?;
    projection.catch_up()?;
    Ok((store, projection))
}

/// Metrics that count what the ledger and the index do from now on.
fn metrics(ledger: &Ledger, projection: &mut Projection, started_at: OffsetDateTime) -> Metrics {
    let metrics = Metrics::new(started_at);
    projection.count_into(metrics.clone());
    let commits = metrics.clone();
    ledger.observe_commits(Box::new(move |span| commits.ledger_committed(span)));
    metrics
}

/// Who is denied, what is revoked and the CRLs; then authorities, which sign nothing before their CRL is there.
async fn establish(parts: RevokerParts, keeper: &mut Keeper) -> Result<(Revoker, Vec<Name>), AppError> {
    let revoker = Revoker::open(parts)?;
    keeper.publish_lists_with(Arc::new(revoker.clone()));
    let made = keeper.establish().await?;
    if let Err(why) = revoker.bring_up_to_date().await {
        // What was published before holds until its end; the revoker's task tries again.
        error!(error = why, "not every CRL could be made");
    }
    Ok((revoker, made))
}

/// The policy file; the starter where there is none and the directory is new.
fn read_policy(settings: &Settings, directory: &DataDirectory) -> Result<Policy, AppError> {
    let path = &settings.policy;
    if directory.is_fresh() && path.starts_with(&settings.data_dir) && !path.exists() {
        let more: Vec<&str> = settings.sds.listen.iter().skip(1).map(|socket| socket.name.as_str()).collect();
        let text = starter(&settings.trust_domain, nix::unistd::geteuid().as_raw(), &more);
        write_private(path, text.as_bytes())?;
    }
    Ok(files::load_policy(path, &settings.trust_domain, Some(&settings.socket_names()))?)
}

/// The ledger's signing key: made at the first start, then kept.
fn checkpoint_key(keys: &SealedStore, directory: &DataDirectory) -> Result<CheckpointKey, AppError> {
    let ledger = directory.path().join("ledger");
    let names = keys.list()?;
    // A first start makes this key, then the ledger, then authorities.
    if names.iter().any(|name| name != LEDGER_KEY) && holds_nothing(&ledger) {
        return Err(AppError::LedgerGone { path: ledger });
    }
    let pkcs8 = if names.iter().any(|name| name == LEDGER_KEY) || ledger.exists() {
        // A ledger without its key is refused here: a new key would fork its history.
        keys.get_secret(LEDGER_KEY)?
    } else {
        let made = CheckpointKey::generate_pkcs8()?;
        keys.put_secret(LEDGER_KEY, &made)?;
        made
    };
    Ok(CheckpointKey::from_pkcs8(&pkcs8)?)
}

/// Whether there is no ledger: no directory, or one with a lock and nothing else.
fn holds_nothing(ledger: &Path) -> bool {
    let names = std::fs::read_dir(ledger).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.into_iter().all(|name| name == "lock")
}

/// Who signs the issuing CA, where that is not a root of our own.
pub(super) fn upstream(settings: &Settings) -> Option<Arc<dyn Upstream>> {
    settings.upstream.clone().map(UpstreamSettings::build)
}

fn plan(settings: &Settings, policy: &Policy) -> AuthorityPlan {
    AuthorityPlan {
        trust_domain: settings.trust_domain.clone(),
        root_key: settings.ca.root.key,
        root_lifetime: settings.ca.root.lifetime,
        issuing_key: settings.ca.issuing.key,
        issuing_lifetime: settings.ca.issuing.lifetime,
        longest_leaf: policy.longest_lifetime(),
        crl_scope: settings.crl.scope,
        silent_wait: settings.ca.silent_wait,
    }
}

/// SHA-256 over the settings as they are in force, hex.
pub(super) fn fingerprint(settings: &Settings) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, format!("{settings:?}").as_bytes());
    hex::encode(digest)
}

/// Records which policy and configuration are in force, where they are not those of the last run.
async fn record_in_force(
    settings: &Settings,
    street: &Street,
    ledger: &Ledger,
    store: &dyn Store,
    recorder: &Recorder,
    now: OffsetDateTime,
) -> Result<(), AppError> {
    let in_force = [("policy", street.policy().hash_hex().to_owned()), ("configuration", fingerprint(settings))];
    for (what, after) in in_force {
        let event = recorder.event(Action::ConfigChange, Outcome::Success, now);
        record_change(ledger, store, event, what, after).await?;
    }
    Ok(())
}

/// Records what is in force now, if it is not what was in force before.
async fn record_change(
    ledger: &Ledger,
    store: &dyn Store,
    event: Event,
    what: &str,
    after: String,
) -> Result<(), AppError> {
    let before = store.configured(what)?;
    if before.as_ref() == Some(&after) {
        return Ok(());
    }
    let change = Change { after: Some(after), before, count: None, what: what.to_owned() };
    ledger.append(Event { change: Some(change), ..event }).await?;
    Ok(())
}
