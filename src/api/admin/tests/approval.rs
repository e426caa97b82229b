//! Acts that take two, and the break-glass, through the service: who may, what is on record, and what a restart finds.

use tonic::{Extensions, Request, Response};

use super::*;
use crate::api::admin::WAITS_FOR;
use crate::approval::{Guarded, MOST_OPEN_EACH};
use crate::breakglass::{Verifier, make};
use crate::caller::{ClientCertificate, Evidence};
use crate::identity::SpiffeId;

const KIM: &str = "spiffe://example.org/operators/kim";
const LOU: &str = "spiffe://example.org/operators/lou";

/// A request of whoever has that certificate, or of root.
fn from<T>(who: &str, message: T) -> Request<T> {
    let (caller, login) = match who {
        "root" => (unix_on(ADMIN_SOCKET, 0, 0, &[]), None),
        "stranger" => (unix_on(ADMIN_SOCKET, READER + 7, 7, &[]), None),
        identity => {
            let identity = SpiffeId::parse(identity).unwrap();
            (Caller::attested(Evidence::Client(ClientCertificate::supposed(identity, ADMIN_SOCKET))), None)
        }
    };
    let mut extensions = Extensions::default();
    extensions.insert(PeerInfo { caller: Ok(caller), login });
    Request::from_parts(Default::default(), extensions, message)
}

async fn guarded(acts: &[Guarded]) -> Fixture {
    let rules = Rules { acts: acts.iter().copied().collect(), ..Rules::default() };
    let fixture = fixture_with(false, rules).await;
    let domain = TrustDomain::parse("example.org").unwrap();
    let pattern = crate::policy::ClientPattern::parse("spiffe://example.org/operators/*", &domain).unwrap();
    let grant = Grant { role: Role::Admin, who: Who::Client(pattern) };
    fixture.service.sources().operators.store(Arc::new(Operators::new(vec![grant])));
    authorities::with_issuing(&fixture, "issuing 1", "0b", "active").await;
    fixture
}

async fn taint(fixture: &Fixture, who: &str) -> Result<(), Status> {
    let ask = pb::TaintAuthorityRequest { name: "issuing 1".into(), comment: "INC-7".into(), ..Default::default() };
    fixture.service.taint_authority(from(who, ask)).await.map(drop)
}

/// The request that an act waits for.
fn waits(refused: &Status) -> String {
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    refused.metadata().get(WAITS_FOR).unwrap_or_else(|| panic!("{refused}")).to_str().unwrap().to_owned()
}

async fn grant(fixture: &Fixture, who: &str, id: &str) -> Result<pb::Approval, Status> {
    let ask = pb::GrantApprovalRequest { id: id.into(), reason: "seen".into() };
    fixture.service.grant_approval(from(who, ask)).await.map(Response::into_inner)
}

#[tokio::test]
async fn an_act_that_takes_two_is_done_after_another_person_granted_it_and_not_before() {
    let fixture = guarded(&[Guarded::CaTaint]).await;
    let id = waits(&taint(&fixture, KIM).await.unwrap_err());
    let asked = fixture.last();
    let facts = asked.approval.clone().unwrap();
    assert_eq!((asked.action, asked.subject.as_deref()), (Action::ApprovalRequest, Some("issuing 1")));
    assert_eq!((facts.id.as_str(), facts.act.as_deref()), (id.as_str(), Some("ca.taint")));
    assert!(facts.description.unwrap().contains("INC-7") && facts.digest.unwrap().len() == 64);
    let size = || fixture.ledger.events.lock().unwrap().len();
    let before = size();
    assert_eq!(waits(&taint(&fixture, KIM).await.unwrap_err()), id, "asked again it is the same request");
    for (who, word) in [(KIM, "another person"), ("root", "nobody can tell who you are")] {
        let refused = grant(&fixture, who, &id).await.unwrap_err();
        assert!(refused.code() == Code::PermissionDenied && refused.message().contains(word), "{who}: {refused}");
    }
    assert_eq!(before, size(), "none of this is an answer");
    assert!(fixture.hands.acts.lock().unwrap().is_empty());

    let granted = grant(&fixture, LOU, id.get(..4).unwrap()).await.unwrap();
    assert_eq!((granted.state.as_str(), granted.asked_by.as_deref()), ("granted", Some(KIM)));
    let answer = fixture.last();
    assert_eq!((answer.action, answer.outcome), (Action::ApprovalGrant, Outcome::Success));
    assert_eq!(grant(&fixture, LOU, &id).await.unwrap_err().code(), Code::FailedPrecondition, "once");
    assert_ne!(waits(&taint(&fixture, LOU).await.unwrap_err()), id, "it was granted to kim, not to whoever asks");
    taint(&fixture, KIM).await.unwrap();
    let act = fixture.ledger.events.lock().unwrap().iter().rfind(|event| event.action == Action::OperatorAct).cloned();
    assert_eq!(act.unwrap().approval.unwrap().id, id, "the act names its grant");
    let ask = pb::ListApprovalsRequest { id, ..Default::default() };
    let list = fixture.service.list_approvals(from(KIM, ask)).await.unwrap().into_inner();
    assert_eq!((list.approvals[0].state.as_str(), list.approvals[0].used.is_some()), ("used", true));
}

#[tokio::test]
async fn a_grant_for_another_state_is_none_and_what_is_refused_or_late_is_over() {
    let fixture = guarded(&[Guarded::CaTaint]).await;
    let id = waits(&taint(&fixture, KIM).await.unwrap_err());
    grant(&fixture, LOU, &id).await.unwrap();
    authorities::with_issuing(&fixture, "issuing 2", "0c", "retiring").await;
    let refused = taint(&fixture, KIM).await.unwrap_err();
    assert!(refused.message().contains(&format!("request {id} was granted, but the state is another")), "{refused}");
    let second = waits(&refused);
    assert_ne!(second, id);
    let ask = pb::RefuseApprovalRequest { id: second.clone(), reason: "no".into() };
    let told = fixture.service.refuse_approval(from(KIM, ask)).await.unwrap().into_inner();
    assert_eq!((told.state.as_str(), fixture.last().outcome), ("refused", Outcome::Denied));
    assert_eq!(grant(&fixture, LOU, &second).await.unwrap_err().code(), Code::FailedPrecondition);
    let third = waits(&taint(&fixture, KIM).await.unwrap_err());
    fixture.time.advance(Duration::from_secs(3_600));
    let late = grant(&fixture, LOU, &third).await.unwrap_err();
    assert!(late.message().contains("is lapsed"), "{late}");
}

#[tokio::test]
async fn nobody_in_particular_asks_for_nothing_and_requests_are_bounded() {
    let fixture = guarded(&[Guarded::CaTaint, Guarded::RevokeMany]).await;
    let refused = taint(&fixture, "root").await.unwrap_err();
    assert!(refused.code() == Code::PermissionDenied && refused.message().contains("breakglass open"), "{refused}");
    let revoke = |prefix: String| {
        let selection = Some(pb::Selection { prefix, ..Default::default() });
        let ask = pb::RevokeCertificatesRequest { selection, ..Default::default() };
        fixture.service.revoke_certificates(from(KIM, ask))
    };
    for number in 0..MOST_OPEN_EACH {
        waits(&revoke(format!("spiffe://example.org/ns/{number}/")).await.err().unwrap());
    }
    let refused = revoke("spiffe://example.org/ns/x/".into()).await.err().unwrap();
    assert!(refused.code() == Code::ResourceExhausted && refused.message().contains("refuse ID"), "{refused}");
    let selection = Some(pb::Selection { identity: "spiffe://example.org/a".into(), ..Default::default() });
    let one = pb::RevokeCertificatesRequest { selection, ..Default::default() };
    fixture.service.revoke_certificates(from(KIM, one)).await.map(drop).expect("one identity takes one operator");
}

/// A credential that is sealed, in the hands of the test.
async fn sealed(fixture: &Fixture, who: &str) -> Result<String, Status> {
    let entropy = Entropy::system();
    let credential = make(&entropy);
    let Verifier { id, rounds, salt, hash } = Verifier::of(&credential, &entropy);
    let ask = pb::SealBreakglassRequest { id, rounds, salt, hash, reason: String::new() };
    if let Err(refused) = fixture.service.seal_breakglass(from(who, ask.clone())).await {
        grant(fixture, LOU, &waits(&refused)).await?;
        fixture.service.seal_breakglass(from(who, ask)).await?;
    }
    Ok(String::from_utf8(credential.expose().to_vec()).unwrap())
}

fn open(credential: &str) -> pb::OpenBreakglassRequest {
    pb::OpenBreakglassRequest { credential: credential.into(), reason: "INC-7".into(), seconds: 900 }
}

#[tokio::test]
async fn a_break_glass_waives_the_second_operator_for_a_time_and_tells_what_was_done() {
    let fixture = guarded(&[Guarded::CaTaint]).await;
    let credential = sealed(&fixture, KIM).await.unwrap();
    let events = || serde_json::to_string(&*fixture.ledger.events.lock().unwrap()).unwrap();
    let service = &fixture.service;
    assert_eq!(service.open_breakglass(from("root", open("wrong"))).await.unwrap_err().code(), Code::PermissionDenied);
    let tried = fixture.last();
    assert_eq!((tried.action, tried.outcome), (Action::BreakglassOpen, Outcome::Denied));
    let wait = service.open_breakglass(from("root", open(&credential))).await.unwrap_err();
    assert_eq!(wait.code(), Code::ResourceExhausted, "who tried in vain waits, with the right one too: {wait}");
    fixture.time.advance(Duration::from_secs(2));
    let opened = service.open_breakglass(from("root", open(&credential))).await.unwrap().into_inner();
    assert!(!events().contains(credential.get(20..).unwrap()), "the credential is in no record");
    let status = |who: &str| service.get_status(from(who, pb::GetStatusRequest {}));
    assert_eq!(status(KIM).await.unwrap().into_inner().breakglass.unwrap().reason, "INC-7");
    waits(&taint(&fixture, KIM).await.unwrap_err());
    taint(&fixture, "root").await.expect("root opened it");
    let again = service.open_breakglass(from("stranger", open(&credential))).await.unwrap_err();
    assert_eq!(again.code(), Code::PermissionDenied, "it is used up");
    let closed = service.close_breakglass(from(KIM, pb::CloseBreakglassRequest {})).await.unwrap().into_inner();
    assert_eq!((closed.id, closed.count), (opened.id, 1));
    assert!(closed.acts[0].ends_with(" ca.taint"), "{:?}", closed.acts);
    let record = fixture.last();
    assert_eq!((record.action, record.refers_to), (Action::BreakglassClose, Some(opened.record)));
    assert!(status(KIM).await.unwrap().into_inner().breakglass.is_none());
    assert_eq!(taint(&fixture, "root").await.unwrap_err().code(), Code::PermissionDenied, "over is over");
}

#[tokio::test]
async fn a_break_glass_lets_in_whom_the_table_locks_out_and_ends_by_itself() {
    let fixture = guarded(&[]).await;
    let credential = sealed(&fixture, "root").await.unwrap();
    let status = || fixture.service.get_status(from("stranger", pb::GetStatusRequest {}));
    assert_eq!(status().await.unwrap_err().code(), Code::PermissionDenied);
    for wrong in [
        pb::OpenBreakglassRequest { reason: String::new(), ..open(&credential) },
        pb::OpenBreakglassRequest { seconds: 86_401, ..open(&credential) },
    ] {
        let refused = fixture.service.open_breakglass(from("stranger", wrong)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    fixture.service.open_breakglass(from("stranger", open(&credential))).await.unwrap();
    status().await.expect("an admin for a time");
    let tasks = crate::tasks::Tasks::new();
    tasks.spawn("admin.breakglass", fixture.service.clone().keep(fixture.stopping.clone()));
    fixture.time.advance(Duration::from_secs(901));
    assert_eq!(status().await.unwrap_err().code(), Code::PermissionDenied, "its time is over");
    while fixture.last().action != Action::BreakglassClose {
        fixture.time.advance(Duration::from_secs(1));
        tokio::task::yield_now().await;
    }
    let close = fixture.last();
    assert_eq!((close.change.unwrap().what.as_str(), close.breakglass.unwrap().count), ("breakglass.lapse", Some(0)));
    fixture.stopping.cancel();
    assert!(tasks.drain(Duration::from_secs(5)).await.is_empty());
}
