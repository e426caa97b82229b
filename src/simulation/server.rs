//! A server, opened as `app` opens it and with all that `app` runs beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::breaks::{Break, Broken, Crooked};
use super::proxies::Stream;
use super::world::World;
use crate::app::projection::Projection;
use crate::app::snapshot;
use crate::audit::event::Recorder;
use crate::audit::ledger::{CheckpointKey, Health, Ledger, LedgerLimits, LedgerOptions};
use crate::ca::authority::acts::{self, Order};
use crate::ca::authority::{AuthorityError, AuthorityPlan, Keeper, KeeperParts};
use crate::ca::issue::{Parts, Street};
use crate::ca::standing::Standing;
use crate::feed::source::SecretSource;
use crate::feed::street::StreetSource;
use crate::feed::{Feed, FeedLimits, SdsNames};
use crate::identity::TrustDomain;
use crate::keys::sealed::SealedStore;
use crate::revocation::{CrlTimes, Revoker, RevokerParts};
use crate::rotation::{self, evidence::Witness};
use crate::secret::SecretBytes;
use crate::store::embedded::Embedded;
use crate::store::{Store, StoreError};
use crate::tasks::Tasks;
use crate::tasks::simulated::Process;
use crate::upstream::Upstream;
use crate::x509::KeyAlgorithm;
use crate::x509::crl::Scope;

const DAY: Duration = Duration::from_secs(86_400);

/// An open server.
pub(super) struct Server {
    pub(super) process: Process,
    pub(super) street: Street,
    pub(super) revoker: Revoker,
    pub(super) feed: Feed,
    pub(super) ledger: Ledger,
    pub(super) store: Arc<dyn Store>,
    pub(super) recorder: Recorder,
    pub(super) orders: mpsc::Sender<Order>,
    /// The streams of proxies, by proxy.
    pub(super) streams: Mutex<BTreeMap<u32, Stream>>,
    /// Who came since the last check.
    pub(super) arrived: Mutex<BTreeSet<u32>>,
    pub(super) tasks: Tasks,
    ledger_tasks: Tasks,
}

impl Server {
    pub(super) fn is_well(&self) -> bool {
        *self.ledger.health().borrow() == Health::Ok
    }

    /// Sets everything going that `app` runs beside what serves.
    fn goes_on(&self, world: &World, keeper: Keeper, orders: mpsc::Receiver<Order>) {
        let (clock, tasks, street) = (world.clock.clone(), self.tasks.clone(), self.street.clone());
        let (feed, store, told) = (self.feed.clone(), Arc::clone(&self.store), watch::Sender::default());
        let witness = Witness::new(feed, store, self.ledger.reader(), clock.clone(), told);
        let refusals = rotation::refusals(street.clone(), clock.clone(), tasks.stopping());
        self.tasks.spawn("rotation.refusals", refusals);
        let parts = rotation::Parts { keeper, orders, street, witness, clock, tasks };
        self.tasks.spawn("rotation.authorities", rotation::authorities(parts));
        if !world.is_broken(Break::ListsNotKept) {
            self.tasks.spawn("revocation.lists", self.revoker.clone().keep(self.tasks.stopping()));
        }
    }

    /// As `app` ends: what serves, then counted refusals, then the ledger.
    pub(super) async fn close(self) -> Result<(), String> {
        // The edge ends its streams by itself.
        self.streams.lock().unwrap().clear();
        let left = self.tasks.drain(DAY).await;
        self.street.flush_refusals().await;
        self.ledger.close().await.map_err(|failure| failure.to_string())?;
        let left = [left, self.ledger_tasks.drain(DAY).await].concat();
        if left.is_empty() { Ok(()) } else { Err(left.join(", ")) }
    }
}

fn ledger_options(world: &World) -> LedgerOptions {
    let key = CheckpointKey::from_pkcs8(&SecretBytes::new(world.ledger_key.clone())).unwrap();
    let options = LedgerOptions::new(world.ledger(), "example.org", key);
    LedgerOptions { limits: LedgerLimits { segment_bytes: 256 << 10, reserve_bytes: 256 << 10 }, ..options }
}

/// The index, caught up, or why it is not.
fn index(world: &World, ledger: &Ledger) -> Result<(Arc<dyn Store>, Projection), String> {
    let store = world.store.clone().unwrap_or_else(|| {
        let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
        match world.temper.broken {
            Some(broken) => Arc::new(Broken::new(store, broken)),
            None => store,
        }
    });
    let mut projection = Projection::open(ledger.reader(), Arc::clone(&store)).map_err(|why| why.to_string())?;
    projection.catch_up().map_err(|why| why.to_string())?;
    Ok((store, projection))
}

fn plan(longest_leaf: Duration) -> AuthorityPlan {
    AuthorityPlan {
        trust_domain: TrustDomain::parse("example.org").unwrap(),
        root_key: KeyAlgorithm::Ed25519,
        root_lifetime: DAY * 3650,
        issuing_key: KeyAlgorithm::Ed25519,
        issuing_lifetime: DAY * 30,
        longest_leaf,
        crl_scope: Scope::default(),
        silent_wait: None,
    }
}

/// Opens everything and sets it going; why not, in words.
pub(super) async fn open(world: &World, process: &Process) -> Result<Server, String> {
    let (clock, entropy) = (world.clock.clone(), world.entropy.clone());
    let (tasks, ledger_tasks) = (process.tasks(), process.tasks());
    let recorder = Recorder::new(entropy.clone());
    let keys = SealedStore::open(&world.directory.path().join("keys"), None).unwrap();
    let disk = Arc::new(world.disk.clone());
    let opened = Ledger::open_on(disk, ledger_options(world), clock.clone(), &recorder, &ledger_tasks).await;
    let (ledger, _) = opened.map_err(|failure| failure.to_string())?;
    let (store, mut projection) = index(world, &ledger)?;
    let granted = world.told().granted.clone();
    let policy = world.policy(&granted);
    world.told().policies.insert(policy.hash_hex().to_owned(), granted);
    let parts = KeeperParts {
        keys: keys.into(),
        ledger: ledger.clone(),
        clock: clock.clone(),
        entropy: entropy.clone(),
        recorder: recorder.clone(),
        plan: plan(policy.longest_lifetime()),
        upstream: upstream(world),
    };
    let (words, text) = (|failure: AuthorityError| failure.to_string(), |failure: StoreError| failure.to_string());
    let (live, rows) = (store.live(clock.now().unix_timestamp()).map_err(text)?, store.authorities().map_err(text)?);
    let mut keeper = Keeper::open(parts, &rows, &live).map_err(words)?;
    let street = Street::new(Parts {
        policy,
        ledger: ledger.clone(),
        authorities: keeper.watch(),
        clock: clock.clone(),
        entropy: entropy.clone(),
        recorder: recorder.clone(),
        standing: Standing::default(),
    });
    let revoker = revoker(world, (&street, &ledger, &store), recorder.clone(), &tasks).map_err(text)?;
    keeper.publish_lists_with(Arc::new(revoker.clone()));
    keeper.establish().await.map_err(words)?;
    // As in `app`: what was published before holds until its end, and is tried again.
    drop(revoker.bring_up_to_date().await);
    projection.catch_up().map_err(|failure| failure.to_string())?;
    tasks.spawn("projection", projection.follow(clock.clone(), tasks.stopping()));
    ledger.set_snapshot_source(snapshot::source(street.clone(), clock.clone(), recorder.clone()));
    let feed = feed(world, &street, &store, &tasks);
    let (orders, ordered) = mpsc::channel(acts::MOST_ORDERS);
    revoker.attach(feed.clone()).await;
    let (process, streams, arrived) = (process.clone(), Mutex::default(), Mutex::default());
    let server = Server {
        process,
        street,
        revoker,
        feed,
        ledger,
        store,
        recorder,
        orders,
        streams,
        arrived,
        tasks,
        ledger_tasks,
    };
    server.goes_on(world, keeper, ordered);
    Ok(server)
}

fn upstream(world: &World) -> Option<Arc<dyn Upstream>> {
    world.above.clone().map(|above| above as Arc<dyn Upstream>)
}

fn revoker(
    world: &World,
    (street, ledger, store): (&Street, &Ledger, &Arc<dyn Store>),
    recorder: Recorder,
    tasks: &Tasks,
) -> Result<Revoker, StoreError> {
    Revoker::open(RevokerParts {
        street: street.clone(),
        ledger: ledger.clone(),
        store: Arc::clone(store),
        clock: world.clock.clone(),
        recorder,
        tasks: tasks.clone(),
        trust_domain: TrustDomain::parse("example.org").unwrap(),
        directory: world.lists(),
        times: CrlTimes::default(),
        upstreams: upstream(world).into_iter().collect(),
    })
}

fn feed(world: &World, street: &Street, store: &Arc<dyn Store>, tasks: &Tasks) -> Feed {
    let (clock, entropy) = (world.clock.clone(), world.entropy.clone());
    let source = StreetSource::new(street.clone(), Arc::clone(store), clock.clone(), entropy.clone());
    let source: Arc<dyn SecretSource> = match world.temper.broken {
        Some(broken) => Arc::new(Crooked::new(source, broken, clock.clone(), world.chance.clone())),
        None => Arc::new(source),
    };
    let domain = TrustDomain::parse("example.org").unwrap();
    Feed::new(source, domain, SdsNames::default(), FeedLimits::default(), clock, entropy, tasks.clone())
}
