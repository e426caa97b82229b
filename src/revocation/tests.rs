//! The engine on a real ledger and index, over weeks of manual time.

use std::path::Path;

use prost::Message;
use time::OffsetDateTime;
use time::macros::datetime;

mod authority;

use super::*;
use crate::app::projection::Projection;
use crate::audit::event::{Action, CertificateFacts, Outcome};
use crate::audit::follow::Follower;
use crate::audit::ledger::{CheckpointKey, LedgerLimits, LedgerOptions};
use crate::ca::authority::{AuthorityPlan, Keeper, KeeperParts};
use crate::ca::issue::{IssueError, IssueRequest, Issued, KeyRequest, Parts, RequestContext};
use crate::ca::standing::Standing;
use crate::caller::testing;
use crate::clock::{ManualClock, rfc3339_seconds};
use crate::entropy::Entropy;
use crate::feed::{FeedLimits, SdsNames, SecretRef};
use crate::keys::sealed::SealedStore;
use crate::policy::{Policy, Surroundings, Wanted};
use crate::proto::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use crate::store::embedded::Embedded;
use crate::x509::chain::Issuer;
use crate::x509::crl::{Crl, Scope};
use crate::x509::profile::Profiles;
use crate::x509::{KeyAlgorithm, Serial, pem};

const START: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
const API: &str = "spiffe://example.org/ns/pay/sa/api";

const POLICY: &str = r#"
[[rule]]
name = "api"
match = { uid = 1000, socket = "sds" }
identity = "spiffe://{trust_domain}/ns/pay/sa/api"
lifetime = "24h"
"#;

/// A directory of one installation, opened as often as a test likes.
struct World {
    directory: tempfile::TempDir,
    clock: Clock,
    hands: ManualClock,
}

struct Running {
    keeper: Keeper,
    street: Street,
    revoker: Revoker,
    feed: Feed,
    ledger: Ledger,
    store: Arc<dyn Store>,
    tasks: Tasks,
    ledger_tasks: Tasks,
    recorder: Recorder,
    clock: Clock,
}

impl World {
    fn new() -> Self {
        let (clock, hands) = Clock::manual(START);
        Self { directory: tempfile::tempdir().unwrap(), clock, hands }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// As `app` does it.
    fn ledger_options(&self, keys: &SealedStore) -> LedgerOptions {
        let key = CheckpointKey::from_pkcs8(&keys.get_secret("ledger-1").unwrap()).unwrap();
        let mut options = LedgerOptions::new(self.path().join("ledger"), "example.org", key);
        options.limits = LedgerLimits { segment_bytes: 4 << 20, reserve_bytes: 256 << 10 };
        options
    }

    async fn open(&self) -> Running {
        let (entropy, domain) = (Entropy::system(), TrustDomain::parse("example.org").unwrap());
        let recorder = Recorder::new(entropy.clone());
        let keys = SealedStore::open(&self.path().join("keys"), None).unwrap();
        if !keys.list().unwrap().iter().any(|name| name == "ledger-1") {
            keys.put_secret("ledger-1", &CheckpointKey::generate_pkcs8().unwrap()).unwrap();
        }
        let options = self.ledger_options(&keys);
        let (tasks, ledger_tasks) = (Tasks::new(), Tasks::new());
        let (ledger, _) = Ledger::open(options, self.clock.clone(), &recorder, &ledger_tasks).await.unwrap();
        let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
        let mut projection = Projection::open(ledger.reader(), Arc::clone(&store)).unwrap();
        projection.catch_up().unwrap();
        let policy = Arc::new(policy(&domain));
        let plan = AuthorityPlan {
            trust_domain: domain.clone(),
            root_key: KeyAlgorithm::P384,
            root_lifetime: DAY * 3650,
            issuing_key: KeyAlgorithm::P256,
            issuing_lifetime: DAY * 90,
            longest_leaf: policy.longest_lifetime(),
            crl_scope: Scope::default(),
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
        let mut keeper = Keeper::open(parts, &store.authorities().unwrap(), &live).unwrap();
        let street = Street::new(Parts {
            policy,
            ledger: ledger.clone(),
            authorities: keeper.watch(),
            clock: self.clock.clone(),
            entropy: entropy.clone(),
            recorder: recorder.clone(),
            standing: Standing::default(),
        });
        let revoker = Revoker::open(RevokerParts {
            street: street.clone(),
            ledger: ledger.clone(),
            store: Arc::clone(&store),
            clock: self.clock.clone(),
            recorder: recorder.clone(),
            tasks: tasks.clone(),
            trust_domain: domain.clone(),
            directory: self.path().join("crl"),
            times: CrlTimes::default(),
            upstream: None,
        });
        let revoker = revoker.unwrap();
        keeper.publish_lists_with(Arc::new(revoker.clone()));
        keeper.establish().await.unwrap();
        revoker.bring_up_to_date().await.unwrap();
        projection.catch_up().unwrap();
        tasks.spawn("projection", projection.follow(self.clock.clone(), tasks.stopping()));
        let (clock, index) = (self.clock.clone(), Arc::clone(&store));
        let source = crate::feed::street::StreetSource::new(street.clone(), index, clock.clone(), entropy.clone());
        let (limits, names) = (FeedLimits::default(), SdsNames::default());
        let feed = Feed::new(Arc::new(source), domain, names, limits, self.clock.clone(), entropy, tasks.clone());
        revoker.attach(feed.clone()).await;
        Running { keeper, street, revoker, feed, ledger, store, tasks, ledger_tasks, recorder, clock }
    }
}

fn policy(domain: &TrustDomain) -> Policy {
    let sockets = ["sds".to_owned()];
    let around = Surroundings {
        file: "policy.toml",
        trust_domain: domain,
        sockets: Some(&sockets),
        profiles: Profiles::builtin(),
    };
    Policy::parse(POLICY, &around).unwrap()
}

impl Running {
    async fn close(self) {
        assert_eq!(self.tasks.drain(Duration::from_secs(10)).await, [""; 0]);
        self.ledger.close().await.unwrap();
        let ledger_tasks = self.ledger_tasks.clone();
        // The ledger's threads end with its last handle.
        drop(self);
        assert_eq!(ledger_tasks.drain(Duration::from_secs(10)).await, [""; 0]);
    }

    /// Until notes are written and the index has everything: nobody moves the clock, so nobody may wait for it.
    async fn settled(&self) {
        let mut same = 0;
        let mut last = 0;
        while same < 3 {
            tokio::time::sleep(Duration::from_millis(15)).await;
            let size = self.ledger.reader().logs().iter().map(|log| log.size).sum();
            let applied: u64 = self.store.cursor().unwrap().values().map(|cursor| cursor.next).sum();
            same = if size == applied && size == last { same + 1 } else { 0 };
            last = size;
        }
    }

    async fn issue(&self) -> Result<Issued, IssueError> {
        let request = IssueRequest {
            wanted: Wanted::Default,
            key: KeyRequest::ServerMade,
            follows: None,
            context: RequestContext { secret_name: Some("default".into()), ..RequestContext::default() },
        };
        self.street.issue(&testing::unix(1000, 1000, &[]), request).await
    }

    /// Records certificates under the active authority that are not signed yet.
    async fn authorised(&self, identity: &str, count: u64) {
        let issuer = self.street.authorities().borrow().active().unwrap();
        let event = |number: u64| {
            let mut event = self.recorder.event(Action::CertificateIssue, Outcome::Success, self.clock.now());
            event.subject = Some(format!("{identity}{number}"));
            event.certificate = Some(CertificateFacts {
                serial: format!("7f{number:030x}"),
                issuer_key_id: hex::encode(issuer.issuer().key_id()),
                not_before: rfc3339_seconds(self.clock.now()),
                not_after: rfc3339_seconds(self.clock.now() + DAY),
                tbs_sha256: format!("{number:064x}"),
                chain_sha256: "ab".repeat(32),
                ..CertificateFacts::default()
            });
            event
        };
        for first in (0..count).step_by(500) {
            let events: Vec<Event> = (first..count.min(first + 500)).map(event).collect();
            self.ledger.append_batch(&events).await.unwrap();
        }
    }

    async fn revoke(&self, selection: Selection) -> Result<Vec<Step>, RevokeError> {
        self.settled().await;
        let (told, mut steps) = mpsc::channel(STEPS);
        let mut template = self.recorder.event(Action::OperatorAct, Outcome::Success, self.clock.now());
        template.request_id = Some("request 7".to_owned());
        self.revoker.revoke(Order { selection, reason: Reason::KeyCompromise, template }, told).await?;
        let mut all = Vec::new();
        while let Some(step) = steps.recv().await {
            all.push(step);
        }
        Ok(all)
    }

    fn records(&self, wanted: Action) -> Vec<(Position, Event)> {
        let mut follower = Follower::open(self.ledger.reader(), None).unwrap();
        let batches = std::iter::from_fn(|| Some(follower.batch_now().unwrap()).filter(|batch| !batch.is_empty()));
        batches.flatten().filter(|(_, event)| event.action == wanted).collect()
    }

    fn of_issuing(&self) -> Listed {
        let active = self.street.authorities().borrow().active().unwrap();
        self.revoker.published().of(&hex::encode(active.issuer().key_id())).unwrap().clone()
    }

    /// Version, roots and CRLs, as an Envoy with the default validator gets them.
    fn pushed(&self) -> (String, Vec<u8>, Vec<u8>) {
        use crate::proto::envoy::config::core::v3::data_source::Specifier;
        let bundles = Arc::clone(&self.feed.bundles().borrow());
        let payload = bundles.payload(&SecretRef::Bundle(TrustDomain::parse("example.org").unwrap())).unwrap();
        let secret = Secret::decode(payload.secret.clone()).unwrap();
        let Some(secret::Type::ValidationContext(context)) = secret.r#type else { panic!("{secret:?}") };
        let bytes = |source: Option<crate::proto::envoy::config::core::v3::DataSource>| {
            let Some(Specifier::InlineBytes(bytes)) = source.unwrap().specifier else { panic!("not inline") };
            bytes
        };
        (payload.version.to_string(), bytes(context.trusted_ca), bytes(context.crl))
    }
}

fn identity(text: &str) -> Selection {
    Selection::Identity(SpiffeId::parse(text).unwrap())
}

#[tokio::test]
async fn every_authority_has_a_crl_from_its_first_minute_and_keeps_it_over_a_restart() {
    let world = World::new();
    let running = world.open().await;
    let (version, roots, crls) = running.pushed();
    let crls = Crl::parse_pem(&crls).unwrap();
    assert_eq!(crls.len(), 2, "root and issuing CA");
    assert!(crls.iter().all(|crl| crl.entries().is_empty() && crl.this_update() < START && crl.number() > 1 << 40));
    let root = Issuer::from_der(pem::decode(&roots).unwrap().remove(0).der, Vec::new()).unwrap();
    crls[0].verify(&root).unwrap();
    assert_eq!(running.revoker.crls()[1].issuer, "issuing 1");
    let published = running.records(Action::CrlPublish);
    let activated = running.records(Action::CaActivate);
    assert!(published[1].0.index < activated[1].0.index, "the issuing CA signs only once its CRL is there");
    assert_eq!(published[1].1.crl.as_ref().unwrap(), &crls[1].facts());
    running.close().await;

    let running = world.open().await;
    assert_eq!(running.pushed().0, version, "no proxy is sent anything for a restart");
    assert_eq!(running.records(Action::CrlPublish).len(), 2, "nothing was made twice");
    running.close().await;

    // A lost or strange file costs one push.
    for file in std::fs::read_dir(world.path().join("crl")).unwrap() {
        std::fs::write(file.unwrap().path(), b"nonsense").unwrap();
    }
    let running = world.open().await;
    assert_ne!(running.pushed().0, version);
    assert!(running.of_issuing().crl.number() > crls[1].number(), "numbers only grow");
    running.close().await;
}

#[tokio::test]
async fn an_identity_is_denied_and_all_it_holds_revoked_until_it_is_released() {
    let world = World::new();
    let running = world.open().await;
    let held = [running.issue().await.unwrap(), running.issue().await.unwrap()];
    let before = (running.of_issuing(), running.pushed().0);
    world.hands.advance(HOUR);
    let steps = running.revoke(identity(API)).await.unwrap();
    let [Step::Recorded { first, last, revoked: 2, denied: Some(denied) }, Step::Signed { crls }, published] =
        steps.as_slice()
    else {
        panic!("{steps:?}")
    };
    assert_eq!((denied.as_str(), last.index - first.index, crls.len()), (API, 2, 1));
    let (version, _, pushed) = running.pushed();
    assert_eq!(published, &Step::Published { bundle_version: version.clone() });
    assert_ne!(version, before.1);
    let crl = Crl::parse_pem(&pushed).unwrap().remove(1);
    for certificate in &held {
        let on_list = crl.revokes(&Serial::from_hex(&certificate.serial).unwrap()).unwrap();
        assert_eq!((on_list.reason, on_list.revoked_at), (Reason::KeyCompromise, START + HOUR));
        assert!(running.street.standing().is_revoked(&certificate.serial));
    }
    assert!(crl.number() > before.0.crl.number());
    let deny = running.records(Action::IdentityDeny).remove(0);
    assert_eq!((deny.0, deny.1.reason.as_deref()), (first.clone(), Some("keyCompromise")));
    let revoked = running.records(Action::CertificateRevoke);
    let issue = running.records(Action::CertificateIssue).remove(0);
    assert!(revoked.iter().any(|(_, event)| event.refers_to == Some(issue.0.to_string())));
    assert!(revoked.iter().all(|(_, event)| event.request_id.as_deref() == Some("request 7")));
    assert_ne!(revoked[0].1.salt, revoked[1].1.salt);
    assert!(matches!(running.issue().await, Err(IssueError::Barred(_))));
    let again = running.revoke(identity(API)).await.unwrap_err();
    assert!(matches!(&again, RevokeError::AlreadyDenied { record, .. } if *record == first.to_string()), "{again}");
    running.close().await;

    let running = world.open().await;
    assert_eq!(running.pushed().0, version, "the restart changes nothing");
    assert!(running.street.standing().is_revoked(&held[0].serial));
    assert!(matches!(running.issue().await, Err(IssueError::Barred(_))));
    let template = running.recorder.event(Action::OperatorAct, Outcome::Success, START);
    let wrong = running.revoker.release("spiffe://example.org/ns/pay/*", template.clone()).await;
    assert!(matches!(wrong, Err(RevokeError::NotDenied { .. })));
    let mut asking = running.street.policy_version();
    running.revoker.release(API, template).await.unwrap();
    assert!(asking.has_changed().unwrap(), "who waits asks again");
    asking.mark_unchanged();
    running.issue().await.unwrap();
    assert!(running.street.standing().is_revoked(&held[0].serial), "a release takes no revocation back");
    running.close().await;
}

#[tokio::test]
async fn a_serial_is_revoked_once_and_nobody_is_denied() {
    let world = World::new();
    let running = world.open().await;
    let (one, other) = (running.issue().await.unwrap(), running.issue().await.unwrap());
    let steps = running.revoke(Selection::Serial(one.serial.clone())).await.unwrap();
    assert!(matches!(&steps[0], Step::Recorded { revoked: 1, denied: None, .. }), "{steps:?}");
    assert!(!running.street.standing().is_revoked(&other.serial));
    running.issue().await.unwrap();
    let again = running.revoke(Selection::Serial(one.serial)).await.unwrap_err();
    assert!(matches!(again, RevokeError::AlreadyRevoked { .. }), "{again}");
    for nothing in [Selection::Serial("77".into()), Selection::Issuer("77".into())] {
        let said = running.revoke(nothing).await;
        assert!(matches!(said, Err(RevokeError::Nothing)), "{said:?}");
    }
    let left = running.revoke(Selection::All).await.unwrap();
    assert!(matches!(&left[0], Step::Recorded { revoked: 2, .. }), "{left:?}");
    assert!(matches!(running.revoke(Selection::All).await, Err(RevokeError::Nothing)));
    running.close().await;
}

#[tokio::test]
async fn what_is_recorded_and_not_signed_is_covered_and_many_take_several_commits() {
    let world = World::new();
    let running = world.open().await;
    running.authorised("spiffe://example.org/ns/pay/", 3_000).await;
    running.authorised("spiffe://example.org/ns/other/", 0).await;
    let steps = running.revoke(Selection::Prefix("spiffe://example.org/ns/pay/".into())).await.unwrap();
    let Step::Recorded { revoked, denied, .. } = &steps[0] else { panic!("{steps:?}") };
    assert_eq!((*revoked, denied.as_deref()), (3_000, Some("spiffe://example.org/ns/pay/*")));
    assert_eq!(running.of_issuing().crl.entries().len(), 3_000);
    assert!(matches!(running.issue().await, Err(IssueError::Barred(_))), "{API} begins so");
    assert_eq!(running.records(Action::CrlPublish).len(), 3, "one CRL and one push for all of it");
    running.close().await;
}

#[tokio::test]
async fn a_crl_is_renewed_at_half_of_its_life_and_forgets_what_has_ended() {
    let world = World::new();
    let running = world.open().await;
    let issued = running.issue().await.unwrap();
    running.revoke(Selection::Serial(issued.serial.clone())).await.unwrap();
    let first = running.of_issuing();
    let next = running.revoker.bring_up_to_date().await.unwrap();
    assert!(next <= START + Duration::from_secs(600), "a jump of the clock is noticed");
    world.hands.advance(DAY * 7 / 2 - HOUR);
    running.revoker.bring_up_to_date().await.unwrap();
    assert_eq!(running.of_issuing().crl.number(), first.crl.number());
    world.hands.advance(HOUR);
    running.revoker.bring_up_to_date().await.unwrap();
    let second = running.of_issuing();
    assert!(second.crl.number() > first.crl.number() && second.crl.entries().is_empty(), "{second:?}");
    assert!(!running.street.standing().is_revoked(&issued.serial), "it ended days ago");
    assert_eq!(second.crl.next_update(), world.clock.now() + DAY * 7);
    assert!(!second.is_late(world.clock.now() + DAY * 5) && second.is_late(world.clock.now() + DAY * 6));
    // A clock that goes back behind thisUpdate would have every handshake fail.
    assert_eq!(running.tasks.drain(Duration::from_secs(10)).await, [""; 0]);
    world.hands.set(START);
    running.revoker.bring_up_to_date().await.unwrap();
    let third = running.of_issuing();
    assert!(third.crl.number() > second.crl.number() && third.crl.this_update() < START);
    running.close().await;
}

#[tokio::test]
async fn a_new_issuing_ca_signs_only_once_its_crl_is_out() {
    let world = World::new();
    let mut running = world.open().await;
    while running.records(Action::CaActivate).len() < 3 {
        world.hands.advance(DAY / 2);
        running.keeper.step().await.unwrap();
        running.revoker.bring_up_to_date().await.unwrap();
        running.issue().await.unwrap();
    }
    let active = running.of_issuing();
    assert_eq!(active.issuer.to_string(), "issuing 2");
    let mut published = running.records(Action::CrlPublish).into_iter();
    let of_it = |event: &Event| event.crl.as_ref().unwrap().issuer_key_id == active.issuer_key_id;
    let first = published.find(|(_, event)| of_it(event)).unwrap().0;
    assert!(first.index < running.records(Action::CaActivate)[2].0.index);
    assert_eq!(running.revoker.crls().len(), 3, "that of the retiring one is needed until its last leaf has ended");
    while running.revoker.crls().len() == 3 {
        world.hands.advance(DAY / 2);
        running.keeper.step().await.unwrap();
        running.revoker.bring_up_to_date().await.unwrap();
    }
    assert_eq!(std::fs::read_dir(world.path().join("crl")).unwrap().count(), 2, "the gone one's file too");
    running.close().await;
}

#[tokio::test]
async fn without_a_ledger_a_list_lives_on_unchanged_and_is_recorded_first_afterwards() {
    let world = World::new();
    let running = world.open().await;
    let issued = running.issue().await.unwrap();
    running.revoke(Selection::Serial(issued.serial.clone())).await.unwrap();
    let before = running.of_issuing();
    // The ledger's directory vanishes, and it fails closed.
    let (ledger, away) = (world.path().join("ledger"), world.path().join("away"));
    std::fs::rename(&ledger, &away).unwrap();
    let other = running.revoke(identity("spiffe://example.org/other")).await.unwrap_err();
    assert!(matches!(other, RevokeError::Ledger(_)), "{other}");
    running.revoker.bring_up_to_date().await.unwrap();
    assert_eq!(running.of_issuing().crl.number(), before.crl.number(), "nothing was due");
    world.hands.advance(DAY * 4);
    running.revoker.bring_up_to_date().await.unwrap();
    let deferred = running.of_issuing();
    assert!(deferred.crl.number() > before.crl.number() && deferred.record.is_empty());
    assert_eq!(deferred.crl.entries(), before.crl.entries(), "not one certificate more or less");
    assert_eq!(Crl::parse_pem(&running.pushed().2).unwrap()[1].number(), deferred.crl.number());
    assert!(!running.tasks.drain(Duration::from_secs(10)).await.contains(&"revocation"));
    assert!(running.ledger.close().await.is_err());
    let ledger_tasks = running.ledger_tasks.clone();
    drop(running);
    assert_eq!(ledger_tasks.drain(Duration::from_secs(10)).await, [""; 0]);

    // Tiles of the last commit may have been on their way when it vanished.
    let _ = std::fs::remove_dir_all(&ledger);
    std::fs::rename(&away, &ledger).unwrap();
    let running = world.open().await;
    let listed = running.of_issuing();
    assert_eq!(listed.crl.number(), deferred.crl.number(), "the same list, now on record");
    let deferred: Vec<_> = running
        .records(Action::CrlPublish)
        .into_iter()
        .filter(|(_, e)| e.reason.as_deref() == Some("deferred"))
        .collect();
    assert_eq!(deferred.len(), 2);
    assert!(deferred.iter().any(|(position, _)| position.to_string() == listed.record));
    running.close().await;
}

#[tokio::test]
async fn who_asks_and_goes_away_ends_the_telling_only() {
    let world = World::new();
    let running = world.open().await;
    let issued = running.issue().await.unwrap();
    running.settled().await;
    let template = running.recorder.event(Action::OperatorAct, Outcome::Success, START);
    let order = Order { selection: identity(API), reason: Reason::Superseded, template };
    let (told, steps) = mpsc::channel(1);
    drop(steps);
    let mut revoking = Box::pin(running.revoker.revoke(order, told));
    assert!(futures::poll!(&mut revoking).is_pending());
    drop(revoking);
    let serial = Serial::from_hex(&issued.serial).unwrap();
    while running.of_issuing().crl.revokes(&serial).is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    running.close().await;
}
