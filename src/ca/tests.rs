//! The street and its authorities over months of manual time, on a real ledger in a temporary directory.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use time::macros::datetime;

use super::authority::{AuthorityError, AuthorityPlan, Keeper, KeeperParts};
use super::issue::{
    Follows, IssueError, IssueRequest, Issued, KeyRequest, Parts, RenewalCause, RequestContext, Street,
};
use super::slot::{Level, State};
use crate::audit::event::{Action, Event, Outcome, Recorder};
use crate::audit::follow::Follower;
use crate::audit::ledger::{CheckpointKey, Ledger, LedgerLimits, LedgerOptions};
use crate::caller::{Caller, ClientCertificate, Evidence, testing};
use crate::clock::{Clock, ManualClock};
use crate::entropy::Entropy;
use crate::identity::{SpiffeId, TrustDomain};
use crate::keys::sealed::SealedStore;
use crate::policy::{Policy, Surroundings, Wanted};
use crate::store::embedded::Embedded;
use crate::store::{Entry, Store};
use crate::tasks::Tasks;
use crate::x509::KeyAlgorithm;
use crate::x509::profile::Profiles;

mod acts;
mod lives;
mod roots;

const START: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);
const DAY: Duration = Duration::from_secs(86_400);

const POLICY: &str = r#"
[[rule]]
name = "api"
match = { uid = 1000, socket = "sds" }
identity = "spiffe://{trust_domain}/ns/pay/sa/api"
lifetime = "24h"

[[rule]]
name = "renew"
match = { client = "spiffe://{trust_domain}/*" }
identity = "{client}"
lifetime = "24h"
reattest_after = "3d"
"#;

/// A directory of one installation, opened as often as a test likes.
struct World {
    directory: tempfile::TempDir,
    clock: Clock,
    hands: ManualClock,
    root_lifetime: Duration,
    issuing_lifetime: Duration,
    leaf_lifetime: &'static str,
}

struct Running {
    keeper: Keeper,
    street: Street,
    ledger: Ledger,
    tasks: Tasks,
}

impl Running {
    /// Ends it as a server ends, so that the directory can be opened again.
    async fn close(self) {
        self.ledger.close().await.unwrap();
        let Self { keeper, street, ledger, tasks } = self;
        drop((keeper, street, ledger));
        assert_eq!(tasks.drain(Duration::from_secs(10)).await, [""; 0]);
    }
}

impl World {
    fn new() -> Self {
        let (clock, hands) = Clock::manual(START);
        let directory = tempfile::tempdir().unwrap();
        Self { directory, clock, hands, root_lifetime: DAY * 3650, issuing_lifetime: DAY * 90, leaf_lifetime: "24h" }
    }

    fn domain(&self) -> TrustDomain {
        TrustDomain::parse("example.org").unwrap()
    }

    async fn open(&self) -> Result<Running, AuthorityError> {
        self.open_with(usize::MAX).await
    }

    /// As if only so many records had become durable.
    async fn open_with(&self, known: usize) -> Result<Running, AuthorityError> {
        let entropy = Entropy::system();
        let recorder = Recorder::new(entropy.clone());
        let keys = SealedStore::open(&self.directory.path().join("keys"), None).unwrap();
        if !keys.list().unwrap().iter().any(|name| name == "ledger-1") {
            keys.put_secret("ledger-1", &CheckpointKey::generate_pkcs8().unwrap()).unwrap();
        }
        let key = CheckpointKey::from_pkcs8(&keys.get_secret("ledger-1").unwrap()).unwrap();
        let mut options = LedgerOptions::new(self.directory.path().join("ledger"), "example.org", key);
        options.limits = LedgerLimits { segment_bytes: 256 << 10, reserve_bytes: 256 << 10 };
        let tasks = Tasks::new();
        let (ledger, _) = Ledger::open(options, self.clock.clone(), &recorder, &tasks).await.unwrap();
        let store = replayed(&ledger, known);
        let sockets = ["sds".to_owned()];
        let around = Surroundings {
            file: "policy.toml",
            trust_domain: &self.domain(),
            sockets: Some(&sockets),
            profiles: Profiles::builtin(),
        };
        let policy = Arc::new(Policy::parse(&POLICY.replace("24h", self.leaf_lifetime), &around).unwrap());
        let plan = AuthorityPlan {
            trust_domain: self.domain(),
            root_key: KeyAlgorithm::P384,
            root_lifetime: self.root_lifetime,
            issuing_key: KeyAlgorithm::P256,
            issuing_lifetime: self.issuing_lifetime,
            longest_leaf: policy.longest_lifetime(),
            crl_scope: crate::x509::crl::Scope::default(),
            silent_wait: None,
        };
        let parts = KeeperParts {
            keys,
            ledger: ledger.clone(),
            clock: self.clock.clone(),
            entropy: entropy.clone(),
            recorder: recorder.clone(),
            plan,
            upstream: None,
        };
        let live = store.live(self.clock.now().unix_timestamp()).unwrap();
        let mut keeper = Keeper::open(parts, &store.authorities().unwrap(), &live)?;
        keeper.establish().await?;
        let street = Street::new(Parts {
            policy,
            ledger: ledger.clone(),
            authorities: keeper.watch(),
            clock: self.clock.clone(),
            entropy,
            recorder,
            standing: super::standing::Standing::default(),
        });
        Ok(Running { keeper, street, ledger, tasks })
    }
}

/// The index of the first `known` records.
fn replayed(ledger: &Ledger, known: usize) -> Embedded {
    let store = Embedded::in_memory().unwrap();
    for (position, event) in all(ledger).into_iter().take(known) {
        store.apply(&[Entry { log: &position.log, index: position.index, event: &event }]).unwrap();
    }
    store
}

fn all(ledger: &Ledger) -> Vec<(crate::audit::ledger::Position, Event)> {
    let mut follower = Follower::open(ledger.reader(), None).unwrap();
    let mut all = Vec::new();
    loop {
        let batch = follower.batch_now().unwrap();
        if batch.is_empty() {
            return all;
        }
        all.extend(batch);
    }
}

fn ask(follows: Option<Follows>) -> IssueRequest {
    IssueRequest {
        wanted: Wanted::Default,
        key: KeyRequest::ServerMade,
        follows,
        context: RequestContext { secret_name: Some("default".into()), ..RequestContext::default() },
    }
}

async fn issue(running: &Running) -> Issued {
    running.street.issue(&testing::unix(1000, 1000, &[]), ask(None)).await.unwrap()
}

fn actions(ledger: &Ledger, wanted: &[Action]) -> Vec<Event> {
    all(ledger).into_iter().map(|(_, event)| event).filter(|event| wanted.contains(&event.action)).collect()
}

#[tokio::test]
async fn a_certificate_has_its_record_before_it_leaves() {
    let world = World::new();
    let running = world.open().await.unwrap();
    let first = issue(&running).await;
    let follows = Follows { serial: first.serial.clone(), cause: RenewalCause::Scheduled };
    let second = running.street.issue(&testing::unix(1000, 1000, &[]), ask(Some(follows))).await.unwrap();
    assert_eq!(first.identity.as_str(), "spiffe://example.org/ns/pay/sa/api");
    assert_eq!(first.not_after, START + DAY);
    assert!(START + DAY * 45 / 100 <= first.renew_at && first.renew_at <= START + DAY * 55 / 100);
    assert_eq!(first.chain.len(), 2, "leaf and issuing CA, no root");

    let issued = actions(&running.ledger, &[Action::CertificateIssue, Action::CertificateRenew]);
    let facts: Vec<_> = issued.iter().map(|event| event.certificate.clone().unwrap()).collect();
    assert_eq!(facts[0].serial, first.serial);
    assert_eq!(facts[1].previous_serial.as_deref(), Some(first.serial.as_str()));
    assert_eq!((issued[1].action, facts[1].renewal_cause.as_deref()), (Action::CertificateRenew, Some("scheduled")));
    assert_eq!(issued[0].policy.as_ref().unwrap().rule.as_deref(), Some("api"));
    assert_ne!(first.version, second.version);
    // The index names it by the version that its holder names.
    running.ledger.close().await.unwrap();
    let row = replayed(&running.ledger, usize::MAX).by_version(&second.version).unwrap().unwrap();
    assert_eq!(row.serial, second.serial);
    let signed = actions(&running.ledger, &[Action::CertificateSigned]);
    assert!(signed.iter().any(|event| event.refers_to.as_deref() == Some(first.position.to_string().as_str())));
}

#[tokio::test]
async fn a_refusal_is_recorded_and_a_flood_of_them_counted() {
    let world = World::new();
    let running = world.open().await.unwrap();
    let stranger = testing::unix(1001, 1001, &[]);
    for _ in 0..10 {
        let refused = running.street.issue(&stranger, ask(None)).await.unwrap_err();
        assert!(matches!(refused, IssueError::Refused(_)), "{refused}");
        assert!(!refused.to_string().contains("api"), "a caller does not learn rules: {refused}");
    }
    running.street.flush_refusals().await;
    let denied = actions(&running.ledger, &[Action::CertificateDeny]);
    assert_eq!(denied.len(), 4);
    assert!(denied.iter().all(|event| event.outcome == Outcome::Denied));
    assert_eq!(denied[3].coalesced.as_ref().unwrap().count, 7);
    assert!(denied[0].policy.as_ref().unwrap().nearest[0].contains("api"), "the ledger names the nearest rule");
}

#[tokio::test]
async fn a_client_renews_itself_until_it_must_be_attested_anew() {
    let world = World::new();
    let mut running = world.open().await.unwrap();
    let supposed = ClientCertificate::supposed(SpiffeId::parse("spiffe://example.org/w/far").unwrap(), "sds");
    let client = ClientCertificate { serial: "0a0b".into(), attested_at: START, ..supposed };
    let caller = Caller::attested(Evidence::Client(client));
    for _ in 0..=3 {
        let issued = running.street.issue(&caller, ask(None)).await.unwrap();
        assert_eq!(issued.identity.as_str(), "spiffe://example.org/w/far");
        world.hands.advance(DAY);
        running.keeper.step().await.unwrap();
    }
    let refused = running.street.issue(&caller, ask(None)).await.unwrap_err();
    let said = refused.to_string();
    assert!(said.contains("2026-11-23T12:00:00Z") && said.contains("every 72h"), "{said}");
    let denied = actions(&running.ledger, &[Action::CertificateDeny]);
    let [denied] = denied.as_slice() else { panic!("{denied:?}") };
    assert_eq!(denied.reason.as_deref(), Some("reattest"));
    assert_eq!(denied.subject.as_deref(), Some("spiffe://example.org/w/far"));
    assert_eq!(denied.policy.as_ref().unwrap().rule.as_deref(), Some("renew"));
    let actor = denied.actor.as_ref().unwrap();
    assert_eq!((actor.serial.as_deref(), actor.attested_at.as_deref()), (Some("0a0b"), Some("2026-11-23T12:00:00Z")));
}

#[tokio::test]
async fn authorities_come_back_after_a_restart() {
    let world = World::new();
    let before = {
        let running = world.open().await.unwrap();
        let before = running.keeper.watch().borrow().trusted_roots();
        issue(&running).await;
        running.close().await;
        before
    };
    let running = world.open().await.unwrap();
    assert_eq!(running.keeper.watch().borrow().trusted_roots(), before);
    assert_eq!(actions(&running.ledger, &[Action::CaActivate]).len(), 2, "nothing was made twice");
    issue(&running).await;
}

#[tokio::test]
async fn a_year_of_roll_overs_leaves_no_gap_and_outlives_every_leaf() {
    let world = World::new();
    let mut running = world.open().await.unwrap();
    let root = running.keeper.watch().borrow().trusted_roots();
    let mut next = running.keeper.step().await.unwrap();
    let mut issuers = std::collections::BTreeSet::new();
    let end = START + DAY * 365;
    while world.clock.now() < end {
        let now = world.clock.now();
        if next <= now {
            next = running.keeper.step().await.unwrap();
        }
        if (now - START).whole_hours() % 12 == 0 {
            let issued = issue(&running).await;
            let authorities = running.keeper.watch();
            let active = authorities.borrow().active().unwrap();
            assert!(issued.not_after <= active.issuer().not_after());
            assert_eq!(issued.not_after - now, DAY, "no leaf is cut short by its issuer's end");
            issuers.insert(active.name().number);
        }
        world.hands.advance(Duration::from_secs(3_600));
    }
    assert_eq!(running.keeper.watch().borrow().trusted_roots(), root, "the root stays");
    assert!(issuers.len() >= 6, "{issuers:?}");
    let gone = actions(&running.ledger, &[Action::CaRetire]);
    assert!(gone.iter().any(|event| event.authority.as_ref().unwrap().state == "gone"));
    let authorities = running.keeper.watch();
    let active = authorities.borrow().at(Level::Issuing).filter(|a| a.state() == State::Active).count();
    assert_eq!(active, 1);
}

#[tokio::test]
async fn a_server_that_slept_for_long_gets_a_new_issuing_ca() {
    let world = World::new();
    world.open().await.unwrap().close().await;
    world.hands.advance(DAY * 200);
    let running = world.open().await.unwrap();
    assert_eq!(running.keeper.watch().borrow().active().unwrap().name().number, 2);
    assert_eq!(issue(&running).await.not_after, world.clock.now() + DAY);
}

#[tokio::test]
async fn a_clock_before_the_authority_is_refused_with_the_remedy() {
    let world = World::new();
    world.open().await.unwrap().close().await;
    world.hands.set(START - DAY * 400);
    let Err(refused) = world.open().await else { panic!("a clock a year behind was taken") };
    assert!(refused.to_string().contains("set the clock right"), "{refused}");
}
