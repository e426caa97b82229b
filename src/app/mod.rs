//! The only module that knows every part: builds a server from settings, runs it, and ends it in order.
//!
//! [`build`] takes everything up to the point where it listens and returns a [`Bound`] with real addresses; nothing is
//! served before all of it worked. [`Bound::run`] serves until asked to stop, then: no new connections, streams end,
//! counted refusals are written, the ledger is closed with its final checkpoint. Callers are `cli::up`, `cli::server`
//! and the tests.

pub mod addresses;
pub mod backend;
mod change;
pub mod directory;
mod hands;
mod lag;
mod listeners;
pub mod notify;
mod own;
pub mod projection;
pub mod recover;
pub mod reload;
mod replace;
mod roots;
mod snapshot;
pub mod sockets;
mod state;
mod summary;
mod web;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tonic_health::server::HealthReporter;
use tracing::{error, info};

use crate::api::admin;
use crate::api::http::{self, HttpLimits};
use crate::audit::ledger::Ledger;
use crate::ca::authority::acts;
use crate::ca::issue::Street;
use crate::config::Settings;
use crate::feed::Feed;
use crate::rotation;
use crate::rotation::evidence::Witness;

use addresses::{Addresses, AddressesFile};
use backend::{AppBackend, AppLedger};
use change::AppChanges;
use hands::AppHands;
use listeners::{Listeners, remove_sockets};
use reload::{Configuration, Live, Reloader};
use state::State;
use summary::summary;
use web::Web;

pub use state::AppError;

/// A server that holds its listeners and has served nobody yet.
pub struct Bound {
    state: State,
    settings: Settings,
    feed: Feed,
    listeners: Listeners,
    addresses: Addresses,
    configuration: Option<Configuration>,
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bound({:?})", self.addresses)
    }
}

/// Opens or makes everything of one installation, and binds its listeners.
///
/// # Errors
/// [`AppError`]; what was made stays, and the next start goes on from there.
pub async fn build(settings: Settings) -> Result<Bound, AppError> {
    let state = State::open(&settings).await?;
    let feed = state.feed(&settings).await;
    match Listeners::bind(&settings).await {
        Ok((listeners, addresses)) => Ok(Bound { state, settings, feed, listeners, addresses, configuration: None }),
        Err(failure) => {
            state.close(settings.limits.drain).await;
            Err(failure.into())
        }
    }
}

impl Bound {
    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Has the configuration file read again whenever it changes.
    #[must_use]
    pub fn read_from(self, configuration: Option<Configuration>) -> Self {
        Self { configuration, ..self }
    }

    /// The street, for who measures it without a connection.
    #[must_use]
    pub fn street(&self) -> &Street {
        &self.state.street
    }

    /// The ledger that the street writes to.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.state.ledger
    }

    /// Ends what was built and never served.
    pub async fn close(self) {
        let Self { state, settings, feed, listeners, .. } = self;
        drop((feed, listeners));
        state.close(settings.limits.drain).await;
    }

    /// What `up` tells its operator; `None` without an active authority, which a server that was built has.
    #[must_use]
    pub fn summary(&self) -> Option<crate::cli::up::UpSummary> {
        summary(&self.state, &self.settings, &self.addresses)
    }

    /// Serves until `stop` resolves, then drains.
    ///
    /// # Errors
    /// When a listener or the ledger could not be served or closed.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), AppError> {
        let Self { mut state, settings, feed, listeners, addresses, configuration } = self;
        let stopping = state.tasks.stopping();
        let mut health = HealthReporter::new();
        let operators = Arc::new(ArcSwap::from_pointee(settings.admin.operators.clone()));
        let live = Live { operators: Arc::clone(&operators) };
        let reloader = Reloader::new(&state, &settings, configuration, live);
        let lag = lag::IndexLag::new(state.ledger.reader(), Arc::clone(&state.store), state.clock.clone());
        let backend =
            Arc::new(AppBackend::new(&state, feed.clone(), &settings, &addresses, (reloader.clone(), lag.clone())));

        let (order, orders) = mpsc::channel(acts::MOST_ORDERS);
        let (admin, remote, http) = listeners.serve(&state, &settings, (&feed, &health)).await;
        let service = admin::AdminService::new(admin::Sources {
            backend,
            hands: Arc::new(AppHands::new(&state, feed.clone(), order)),
            ledger: Arc::new(AppLedger::new(&state)),
            index: Arc::clone(&state.store),
            clock: state.clock.clone(),
            entropy: state.entropy.clone(),
            recorder: state.recorder.clone(),
            operators,
            changes: Arc::new(AppChanges::new(&state, reloader.clone())),
            own_uid: nix::unistd::geteuid().as_raw(),
            stopping: stopping.clone(),
        });
        let serving = admin::serve(admin, remote, service, health.clone(), stopping.clone());
        state.tasks.spawn("admin", async move {
            if let Err(failure) = serving.await {
                error!(error = %failure, "the admin socket is not served any more");
            }
        });
        if let Some(listener) = http {
            http::serve(listener, Web::new(&state, feed.clone(), lag), HttpLimits::default(), &state.tasks);
        }
        let witness = Witness::new(
            feed.clone(),
            Arc::clone(&state.store),
            state.ledger.reader(),
            state.clock.clone(),
            state.evidence.clone(),
        );
        go_on_by_themselves(&mut state, reloader, orders, witness);
        let file = AddressesFile::write(state.directory.path(), &addresses)?;
        info!(trust_domain = %settings.trust_domain, "ready");
        notify::ready(&format!("serving {}", settings.trust_domain));
        if let Some(every) = notify::watchdog() {
            let feeding = notify::feed(every, state.ledger.clone(), state.clock.clone(), stopping.clone());
            state.tasks.spawn("app.watchdog", feeding);
        }

        tokio::select! {
            () = stop => {}
            () = stopping.cancelled() => {}
        }
        info!("stopping");
        notify::stopping();
        drop(file);
        // Whoever watches health is told, and its stream ends: it would take the whole drain otherwise.
        health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
        health.clear_service_status("").await;
        remove_sockets(&settings);
        state.close(settings.limits.drain).await;
        Ok(())
    }
}

/// What the server does without being asked.
fn go_on_by_themselves(state: &mut State, reloader: Reloader, orders: mpsc::Receiver<acts::Order>, witness: Witness) {
    let (stopping, clock) = (state.tasks.stopping(), || state.clock.clone());
    if let Some(keeper) = state.keeper.take() {
        let (street, tasks, clock) = (state.street.clone(), state.tasks.clone(), clock());
        let parts = rotation::Parts { keeper, orders, street, witness, clock, tasks };
        state.tasks.spawn("rotation.authorities", rotation::authorities(parts));
    }
    state.tasks.spawn("revocation.lists", state.revoker.clone().keep(stopping.clone()));
    let refusals = rotation::refusals(state.street.clone(), clock(), stopping.clone());
    state.tasks.spawn("rotation.refusals", refusals);
    state.tasks.spawn("app.reload", reloader.watch(stopping));
}
