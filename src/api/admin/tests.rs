//! The service over a real Unix socket, with a ledger in memory and a fake server behind it.

mod authorities;
mod change;
mod follow;
mod gate;
mod hands;

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::future::{BoxFuture, FutureExt};
use hyper_util::rt::TokioIo;
use time::OffsetDateTime;
use time::macros::datetime;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::server::HealthReporter;

use super::backend::{
    AuthoritySchedule, Backend, Head, Holding, IssueAsk, LedgerAccess, PolicyInForce, Receipt, ServerFacts,
};
use super::roles::{Grant, Who};
use super::server::PeerInfo;
use super::{AdminService, Operators, Role, Sources, serve};
use crate::attest::AttestError;
use crate::audit::event::{
    Action, AuthorityFacts, CertificateFacts, Event, Outcome, PolicyFacts, Recorder, Sealed, Source,
};
use crate::caller::Caller;
use crate::caller::testing::unix_on;
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::identity::TrustDomain;
use crate::policy::{ADMIN_SOCKET, Policy, Surroundings};
use crate::proto::chancery::admin::v1 as pb;
use crate::proto::chancery::admin::v1::admin_client::AdminClient;
use crate::proto::chancery::admin::v1::admin_server::Admin;
use crate::store::embedded::Embedded;
use crate::store::{CertificateRow, Entry, Store};
use crate::x509::profile::Profiles;

const LOG: &str = "example.org/ledger/ca-2026";
/// A user that the configuration makes a reader.
const READER: u32 = 61_001;

/// A group that it makes operators.
const WORKERS: u32 = 61_002;

const SERIAL: &str = "5e0c00000000000000000000000091f2";

/// Appends to memory and to the index at once.
struct FakeLedger {
    events: Mutex<Vec<Event>>,
    index: Arc<Embedded>,
    full: bool,
}

impl LedgerAccess for FakeLedger {
    fn refused<'a>(&'a self, _: &'a Caller, event: Event) -> BoxFuture<'a, Result<(), Status>> {
        async move { self.append(event).await.map(drop) }.boxed()
    }

    fn unattested<'a>(&'a self, why: &'a AttestError) -> BoxFuture<'a, ()> {
        let mut event = Recorder::new(Entropy::seeded(9)).event(
            Action::AttestRefuse,
            Outcome::Denied,
            datetime!(2026-11-23 13:00 UTC),
        );
        event.reason = Some(why.to_string());
        async move { drop(self.append(event).await) }.boxed()
    }

    fn append(&self, event: Event) -> BoxFuture<'_, Result<String, Status>> {
        async move {
            if self.full {
                return Err(Status::unavailable("the ledger is full"));
            }
            let mut events = self.events.lock().unwrap();
            let index = events.len() as u64;
            self.index.apply(&[Entry { log: LOG, index, event: &event }]).unwrap();
            events.push(event);
            Ok(format!("{LOG}#{index}"))
        }
        .boxed()
    }

    fn logs(&self) -> Vec<(String, u64)> {
        vec![(LOG.to_owned(), self.events.lock().unwrap().len() as u64)]
    }

    fn head(&self) -> Head {
        let size = self.events.lock().unwrap().len() as u64;
        Head { origin: LOG.to_owned(), size, checkpoint_at: None, health: "ok".to_owned() }
    }

    fn moved<'a>(&'a self, _: u64, _: Duration) -> BoxFuture<'a, ()> {
        tokio::time::sleep(Duration::from_millis(1)).boxed()
    }

    fn read<'a>(&'a self, _: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Vec<Vec<u8>>, Status>> {
        let events = self.events.lock().unwrap();
        let leaves = events[range.start as usize..range.end as usize].iter().map(|event| event.to_leaf().unwrap());
        let leaves = leaves.collect();
        async move { Ok(leaves) }.boxed()
    }

    fn prove<'a>(&'a self, _: &'a str, index: u64) -> BoxFuture<'a, Result<Receipt, Status>> {
        async move { Ok(Receipt { text: format!("proof of {index}"), checkpoint_size: 9 }) }.boxed()
    }

    fn seal(&self, name: &str) -> Option<Sealed> {
        Some(Sealed { ct: hex::encode(name), nonce: String::new(), slot: 1 })
    }

    fn unseal(&self, sealed: &Sealed) -> Option<String> {
        String::from_utf8(hex::decode(&sealed.ct).ok()?).ok()
    }
}

struct FakeServer(Arc<Policy>);

impl Backend for FakeServer {
    fn issue<'a>(&'a self, caller: &'a Caller, ask: IssueAsk) -> BoxFuture<'a, Result<pb::IssuedCertificate, Status>> {
        async move {
            let identity = ask.identity.ok_or_else(|| Status::permission_denied("only by name"))?.to_string();
            Ok(pb::IssuedCertificate { identity, rule: caller.account(), ..pb::IssuedCertificate::default() })
        }
        .boxed()
    }

    fn holding(&self, certificate: &CertificateRow) -> Option<Holding> {
        let renew_at = Some(datetime!(2026-11-23 20:00 UTC));
        (certificate.serial == SERIAL).then(|| Holding { node: Some("envoy-7f".into()), state: "acked", renew_at })
    }

    fn due_before(&self, at: OffsetDateTime) -> u64 {
        u64::from(at > datetime!(2026-11-23 20:00 UTC))
    }

    fn evidence(&self) -> Option<(String, pb::RootEvidence)> {
        None
    }

    fn authorities(&self) -> Vec<AuthoritySchedule> {
        vec![AuthoritySchedule { key_id: "0a".into(), held_by: 1, ..AuthoritySchedule::default() }]
    }

    fn bundle(&self) -> pb::Bundle {
        pb::Bundle { roots: 1, ..pb::Bundle::default() }
    }

    fn policy(&self) -> PolicyInForce {
        PolicyInForce { policy: Arc::clone(&self.0), path: "policy.toml".into(), text: "".into() }
    }

    fn facts(&self) -> ServerFacts {
        ServerFacts {
            trust_domain: "example.org".into(),
            ready: true,
            streams: 1,
            proxies: 1,
            ..ServerFacts::default()
        }
    }
}

struct Fixture {
    admin: AdminClient<Channel>,
    channel: Channel,
    service: AdminService,
    ledger: Arc<FakeLedger>,
    hands: Arc<hands::FakeHands>,
    time: crate::clock::ManualClock,
    stopping: CancellationToken,
    _dir: tempfile::TempDir,
}

/// An issue, an authority and a refusal, as the street records them.
fn history(recorder: &Recorder) -> Vec<Event> {
    let now = datetime!(2026-11-23 12:00 UTC);
    let mut issue = recorder.event(Action::CertificateIssue, Outcome::Success, now);
    issue.subject = Some("spiffe://example.org/ns/pay/sa/api".into());
    issue.certificate = Some(CertificateFacts {
        serial: SERIAL.into(),
        not_before: "2026-11-23T12:00:00Z".into(),
        not_after: "2026-11-24T12:00:00Z".into(),
        issuer_key_id: "0a".into(),
        ..CertificateFacts::default()
    });
    issue.policy = Some(PolicyFacts { hash: "77".into(), nearest: vec![], rule: Some("payments".into()) });
    issue.source = Some(Source { socket: Some("sds".into()), uid: Some(1003), ..Source::default() });
    let mut authority = recorder.event(Action::CaActivate, Outcome::Success, now);
    authority.authority = Some(AuthorityFacts {
        certificate: None,
        key_id: "0a".into(),
        level: "root".into(),
        name: "root 1".into(),
        state: "active".into(),
        upstream: None,
    });
    vec![issue, authority, recorder.event(Action::CertificateDeny, Outcome::Denied, now)]
}

async fn fixture(full: bool) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let recorder = Recorder::new(Entropy::seeded(5));
    let index = Arc::new(Embedded::in_memory().unwrap());
    let ledger = Arc::new(FakeLedger { events: Mutex::default(), index: Arc::clone(&index), full });
    let events = history(&recorder);
    for (at, event) in (0..).zip(&events) {
        index.apply(&[Entry { log: LOG, index: at, event }]).unwrap();
    }
    *ledger.events.lock().unwrap() = events;
    let domain = TrustDomain::parse("example.org").unwrap();
    let around =
        Surroundings { file: "policy.toml", trust_domain: &domain, sockets: None, profiles: Profiles::builtin() };
    let policy = Policy::parse(&crate::policy::starter(&domain, 1000, &[]), &around).unwrap();
    let server = Arc::new(FakeServer(Arc::new(policy)));
    let (clock, time) = Clock::manual(datetime!(2026-11-23 13:00 UTC));
    let hands = Arc::<hands::FakeHands>::default();
    let stopping = CancellationToken::new();
    let reader = Grant { role: Role::Reader, who: Who::Uid(READER) };
    let worker = Grant { role: Role::Operator, who: Who::Gid(WORKERS) };
    let sources = Sources {
        backend: server,
        hands: hands.clone(),
        ledger: ledger.clone(),
        index,
        clock,
        entropy: Entropy::seeded(6),
        recorder,
        changes: Arc::new(change::FakeChanges),
        operators: Arc::new(ArcSwap::from_pointee(Operators::new(vec![reader, worker]))),
        own_uid: nix::unistd::geteuid().as_raw(),
        stopping: stopping.clone(),
    };
    let service = AdminService::new(sources);
    let listener = UnixListener::bind(&path).unwrap();
    let serving = serve(listener, None, service.clone(), HealthReporter::new(), stopping.clone());
    crate::tasks::Tasks::new().spawn("admin", serving);
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://test").connect_with_connector(connector).await.unwrap();
    Fixture { admin: AdminClient::new(channel.clone()), channel, service, ledger, hands, time, stopping, _dir: dir }
}

impl Fixture {
    fn last(&self) -> Event {
        self.ledger.events.lock().unwrap().last().unwrap().clone()
    }

    async fn read(&mut self, ask: pb::ReadAuditRequest) -> Result<Vec<u64>, Status> {
        let mut records = self.admin.read_audit(ask).await?.into_inner();
        let mut seen = Vec::new();
        while let Some(record) = records.message().await? {
            seen.push(record.index);
        }
        Ok(seen)
    }
}

fn ask(purpose: &str) -> pb::ReadAuditRequest {
    pb::ReadAuditRequest { purpose: purpose.into(), ..pb::ReadAuditRequest::default() }
}

#[tokio::test]
async fn certificates_are_listed_and_shown_with_what_proxies_hold() {
    let mut fixture = fixture(false).await;
    let list = fixture.admin.list_certificates(pb::ListCertificatesRequest::default()).await.unwrap().into_inner();
    let one = &list.certificates[0];
    assert_eq!((one.serial.as_str(), one.state.as_str(), one.held.as_str()), (SERIAL, "live", "acked"));
    assert_eq!((one.node.as_deref(), list.live, list.total), (Some("envoy-7f"), 1, 1));
    let wrong = pb::ListCertificatesRequest { state: "dead".into(), ..pb::ListCertificatesRequest::default() };
    assert_eq!(fixture.admin.list_certificates(wrong).await.unwrap_err().code(), Code::InvalidArgument);
    for serial in ["5e0c…91f2", "5E0C", SERIAL] {
        let show = pb::GetCertificateRequest { serial: serial.into() };
        let detail = fixture.admin.get_certificate(show).await.unwrap().into_inner();
        assert_eq!(detail.record.unwrap().index, 0);
        assert_eq!(fixture.last().refers_to.as_deref(), Some("example.org/ledger/ca-2026#0"), "the look is on record");
    }
    for (serial, code) in [("77", Code::NotFound), ("xyz", Code::InvalidArgument), ("", Code::InvalidArgument)] {
        let show = pb::GetCertificateRequest { serial: serial.into() };
        assert_eq!(fixture.admin.get_certificate(show).await.unwrap_err().code(), code, "{serial:?}");
    }
}

#[tokio::test]
async fn looks_at_entries_are_on_record_before_they_are_answered() {
    let mut fixture = fixture(false).await;
    let tail = pb::ReadAuditRequest { last: 2, ..ask("tail") };
    assert_eq!(fixture.read(tail).await.unwrap(), [2, 3], "the newest, among them the look itself");
    let look = fixture.last();
    assert_eq!((look.action, look.change.unwrap().what.as_str()), (Action::OperatorRead, "audit.tail"));
    assert!(look.actor.unwrap().name.is_some() && look.source.unwrap().uid.is_some());
    let denied = pb::ReadAuditRequest { actions: vec!["certificate".into()], ..ask("export") };
    assert_eq!(fixture.read(denied).await.unwrap(), [0, 2], "a family of actions");
    let since = pb::ReadAuditRequest { since: "2026-11-23T12:30:00Z".into(), ..ask("tail") };
    assert_eq!(fixture.read(since).await.unwrap(), [3, 4, 5]);
    let one = pb::ReadAuditRequest { from: SERIAL.into(), count: 1, ..ask("show") };
    assert_eq!(fixture.read(one).await.unwrap(), [0]);
    for wrong in [
        ask("spy"),
        pb::ReadAuditRequest { actions: vec!["certificate.isue".into()], ..ask("tail") },
        pb::ReadAuditRequest { since: "yesterday".into(), ..ask("tail") },
        pb::ReadAuditRequest { from: "no such#1".into(), ..ask("show") },
    ] {
        let before = fixture.ledger.events.lock().unwrap().len();
        fixture.read(wrong).await.unwrap_err();
        assert_eq!(fixture.ledger.events.lock().unwrap().len(), before, "a mistake is told, not recorded");
    }
    let proof = fixture.admin.prove_record(pb::ProveRecordRequest { what: "0".into() }).await.unwrap().into_inner();
    assert_eq!((proof.proof.as_str(), proof.checkpoint_size), ("proof of 0", 9));
}

#[tokio::test]
async fn nothing_is_shown_that_cannot_be_recorded() {
    let mut fixture = fixture(true).await;
    assert_eq!(fixture.read(ask("export")).await.unwrap_err().code(), Code::Unavailable);
    let show = pb::GetCertificateRequest { serial: SERIAL.into() };
    assert_eq!(fixture.admin.get_certificate(show).await.unwrap_err().code(), Code::Unavailable);
    let issue = pb::IssueCertificateRequest { identity: "spiffe://example.org/a".into(), ..Default::default() };
    assert_eq!(fixture.admin.issue_certificate(issue).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn acts_name_their_operator_and_verifications_are_kept() {
    let mut fixture = fixture(false).await;
    let issue = pb::IssueCertificateRequest { identity: "spiffe://example.org/a".into(), ..Default::default() };
    let issued = fixture.admin.issue_certificate(issue).await.unwrap().into_inner();
    assert!(issued.rule.starts_with("unix:admin:uid="), "the caller is attested on the socket admin");
    let act = fixture.last();
    assert_eq!((act.action, act.subject.as_deref()), (Action::OperatorAct, Some("spiffe://example.org/a")));
    assert!(act.actor.unwrap().name.is_some() && act.request_id.is_some());
    let refused = fixture.admin.issue_certificate(pb::IssueCertificateRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let result = pb::RecordVerificationRequest {
        passed: false,
        root_hash: "ab".repeat(32),
        size: 3,
        failure: "record 1 …".into(),
    };
    fixture.admin.record_verification(result).await.unwrap();
    let kept = fixture.last();
    assert_eq!((kept.action, kept.outcome), (Action::LedgerVerify, Outcome::Failure));
    let wrong = pb::RecordVerificationRequest { root_hash: "zz".into(), ..Default::default() };
    assert_eq!(fixture.admin.record_verification(wrong).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn state_policy_and_authorities_are_told() {
    let mut fixture = fixture(false).await;
    let status = fixture.admin.get_status(pb::GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.ready, status.live_certificates, status.ledger.unwrap().projection_lag), (true, 1, 0));
    assert_eq!(status.issued_last_hour, 0, "an hour ago is not within the hour");
    let list = fixture.admin.list_authorities(pb::ListAuthoritiesRequest {}).await.unwrap().into_inner();
    let root = &list.authorities[0];
    assert_eq!((root.name.as_str(), root.held_by, root.proxies, root.live_certificates), ("root 1", 1, 1, 1));
    let policy = fixture.admin.get_policy(pb::GetPolicyRequest {}).await.unwrap().into_inner();
    assert_eq!(policy.rules[0].name, "you");
    let explain =
        |uid, identity: &str| pb::ExplainPolicyRequest { uid, identity: identity.into(), ..Default::default() };
    let granted = fixture.admin.explain_policy(explain(1000, "")).await.unwrap().into_inner();
    assert_eq!(granted.granted.as_deref(), Some("spiffe://example.org/user/1000"));
    let nothing = fixture.admin.explain_policy(explain(1003, "")).await.unwrap().into_inner();
    assert!(nothing.granted.is_none() && nothing.nearest[0].contains("needs uid 1000"), "{nothing:?}");
    assert_eq!(fixture.admin.explain_policy(explain(1, "x")).await.unwrap_err().code(), Code::InvalidArgument);
}

/// A request as if `caller` had sent it.
fn sent_by<T>(caller: Caller, login: Option<u32>, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.extensions_mut().insert(PeerInfo { caller: Ok(caller), login });
    request
}

#[tokio::test]
async fn others_are_refused_with_a_remedy_and_on_record() {
    let fixture = fixture(false).await;
    let ours = nix::unistd::geteuid().as_raw();
    let as_uid = |uid| sent_by(unix_on(ADMIN_SOCKET, uid, uid, &[]), None, pb::GetStatusRequest {});
    for uid in [0, ours, READER] {
        fixture.service.get_status(as_uid(uid)).await.unwrap();
    }
    let before = fixture.ledger.events.lock().unwrap().len();
    for _ in 0..10 {
        let refused = fixture.service.get_status(as_uid(ours + 1)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(refused.message().contains("or as root"), "{}", refused.message());
    }
    let record = fixture.last();
    assert_eq!((record.action, record.outcome), (Action::OperatorAct, Outcome::Denied));
    assert_eq!(record.source.unwrap().uid, Some(ours + 1));
    let records = fixture.ledger.events.lock().unwrap().len() - before;
    assert_eq!(records, 10, "each is handed on; which become a count is for the street to say");
    let unattested = fixture.service.get_status(tonic::Request::new(pb::GetStatusRequest {})).await.unwrap_err();
    assert_eq!(unattested.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_role_ends_where_the_next_begins() {
    let fixture = fixture(false).await;
    let reader = || unix_on(ADMIN_SOCKET, READER, 7, &[]);
    let worker = || unix_on(ADMIN_SOCKET, 61_003, 7, &[WORKERS]);
    let revoke = |all| {
        let selection = if all {
            pb::Selection { all, ..Default::default() }
        } else {
            pb::Selection { identity: "spiffe://example.org/a".into(), ..Default::default() }
        };
        pb::RevokeCertificatesRequest { selection: Some(selection), ..Default::default() }
    };
    fixture.service.list_certificates(sent_by(reader(), None, Default::default())).await.unwrap();
    let refused = fixture.service.revoke_certificates(sent_by(reader(), None, revoke(false))).await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied);
    for word in ["cert.revoke", "role operator", "role reader", "[[admin.operator]]"] {
        assert!(refused.message().contains(word), "{word:?} is not in {}", refused.message());
    }
    let record = fixture.last();
    assert_eq!((record.outcome, record.reason.as_deref()), (Outcome::Denied, Some("role_too_low")));
    assert_eq!(record.change.unwrap().what, "cert.revoke", "what was tried is on record");
    let allowed = fixture.service.revoke_certificates(sent_by(worker(), None, revoke(false))).await.err();
    assert_ne!(allowed.map(|status| status.code()), Some(Code::PermissionDenied));
    let many = fixture.service.revoke_certificates(sent_by(worker(), None, revoke(true))).await.err().unwrap();
    assert!(many.message().contains("role admin"), "{}", many.message());
    let reload = fixture.service.reload(sent_by(worker(), None, pb::ReloadRequest {})).await.unwrap_err();
    assert_eq!(reload.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn the_person_is_who_logged_in() {
    let fixture = fixture(false).await;
    let show = || pb::GetCertificateRequest { serial: SERIAL.into() };
    let look = async |uid, login| {
        let request = sent_by(unix_on(ADMIN_SOCKET, uid, uid, &[]), login, show());
        let answer = fixture.service.get_certificate(request).await.unwrap().into_inner();
        assert!(answer.record.is_some());
        let actor = fixture.last().actor.unwrap();
        (fixture.ledger.unseal(&actor.name.unwrap()).unwrap(), actor.unattributed)
    };
    assert_eq!(look(0, Some(61_004)).await, ("61004".to_owned(), None), "sudo does not hide who it was");
    assert_eq!(look(READER, None).await, (READER.to_string(), None));
    assert_eq!(look(0, None).await, ("root".to_owned(), Some(true)), "root alone is nobody in particular");
    let status = |login| sent_by(unix_on(ADMIN_SOCKET, 0, 0, &[]), login, pb::GetStatusRequest {});
    let warned = fixture.service.get_status(status(None)).await.unwrap().into_inner().warnings;
    assert!(warned.iter().any(|warning| warning.contains("without a person")), "{warned:?}");
    let named = fixture.service.get_status(status(Some(61_004))).await.unwrap().into_inner().warnings;
    assert!(!named.iter().any(|warning| warning.contains("without a person")), "{named:?}");
}

#[tokio::test]
async fn readers_do_not_learn_who_did_what() {
    let fixture = fixture(false).await;
    let tail = || pb::ReadAuditRequest { last: 1, ..ask("tail") };
    let mut names = Vec::new();
    for (uid, gid) in [(0, 0), (READER, 7), (61_003, WORKERS)] {
        let request = sent_by(unix_on(ADMIN_SOCKET, uid, gid, &[]), Some(61_004), tail());
        let mut records = fixture.service.read_audit(request).await.unwrap().into_inner();
        let record = futures::StreamExt::next(&mut records).await.unwrap().unwrap();
        assert!(record.json.contains("operator.read"), "each reads the record of its own look");
        names.push(record.operator);
    }
    assert_eq!(names, [Some("61004".to_owned()), None, Some("61004".to_owned())]);
}

#[tokio::test]
async fn health_and_reflection_answer_operators() {
    let fixture = fixture(false).await;
    let mut health = HealthClient::new(fixture.channel.clone());
    let answer = health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap();
    assert_eq!(answer.into_inner().status, 1, "serving");
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    let ask = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(fixture.channel.clone());
    let mut answers = reflection.server_reflection_info(futures::stream::iter([ask])).await.unwrap().into_inner();
    let answer = format!("{:?}", answers.message().await.unwrap().unwrap());
    assert!(answer.contains("chancery.admin.v1.Admin") && answer.contains("grpc.health.v1.Health"), "{answer}");
}
