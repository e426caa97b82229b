//! The hands on authorities over a real socket: what cannot be is told and leaves no trace; what can is on record first.

use super::*;
use crate::ca::authority::acts::Act;

async fn taint(fixture: &mut Fixture, name: &str, reason: &str) -> Result<Vec<pb::AuthorityProgress>, Status> {
    let ask = pb::TaintAuthorityRequest { name: name.into(), reason: reason.into(), ..Default::default() };
    let mut answer = fixture.admin.taint_authority(ask).await?.into_inner();
    let mut said = Vec::new();
    while let Some(one) = answer.message().await? {
        said.push(one);
    }
    Ok(said)
}

/// Makes the index know an issuing CA.
async fn with_issuing(fixture: &Fixture, name: &str, key_id: &str, state: &str) {
    let recorder = Recorder::new(Entropy::seeded(8));
    let mut event = recorder.event(Action::CaActivate, Outcome::Success, datetime!(2026-11-23 12:00 UTC));
    event.authority = Some(AuthorityFacts {
        certificate: None,
        key_id: key_id.into(),
        level: "issuing".into(),
        name: name.into(),
        state: state.into(),
        upstream: None,
    });
    fixture.ledger.append(event).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_is_told_with_a_remedy_and_leaves_no_trace() {
    let mut fixture = fixture(false).await;
    with_issuing(&fixture, "issuing 1", "0b", "gone").await;
    let size = || fixture.ledger.events.lock().unwrap().len();
    let before = size();
    let mut admin = fixture.admin.clone();
    let rotate = |level: &str| pb::RotateAuthorityRequest { level: level.into(), ..Default::default() };
    assert_eq!(admin.rotate_authority(rotate("leaf")).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(admin.rotate_authority(rotate("issuing")).await.unwrap_err().code(), Code::FailedPrecondition);
    let retire = |name: &str| pb::RetireAuthorityRequest { name: name.into(), ..Default::default() };
    let refused = admin.retire_authority(retire("root 1")).await.unwrap_err();
    assert!(refused.message().contains("ca rotate root"), "{refused}");
    for (name, code, word) in [
        ("root 1", Code::FailedPrecondition, "not ready"),
        ("root 9", Code::NotFound, "ca show"),
        ("issuing 1", Code::InvalidArgument, "ca rotate issuing"),
    ] {
        let ask = pb::ActivateAuthorityRequest { name: name.into(), force: true, ..Default::default() };
        let refused = admin.activate_authority(ask).await.unwrap_err();
        assert!(refused.code() == code && refused.message().contains(word), "{name}: {refused}");
    }
    assert_eq!(admin.retire_authority(retire("issuing 1")).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(before, size());
    for (name, reason, code, word) in [
        ("root 1", "", Code::FailedPrecondition, "operations.md"),
        ("issuing 1", "", Code::FailedPrecondition, "is gone"),
        ("issuing 9", "", Code::NotFound, "ca show"),
        ("issuing", "", Code::InvalidArgument, "issuing 3"),
        ("issuing 1", "mood", Code::InvalidArgument, "keyCompromise"),
    ] {
        let refused = taint(&mut fixture, name, reason).await.unwrap_err();
        assert!(refused.code() == code && refused.message().contains(word), "{name} {reason}: {refused}");
    }
    assert_eq!(before, fixture.ledger.events.lock().unwrap().len());
    assert!(fixture.hands.acts.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_taint_is_on_record_before_the_keeper_hears_of_it_and_what_fails_there_revokes_nothing() {
    let mut fixture = fixture(false).await;
    with_issuing(&fixture, "issuing 1", "0b", "active").await;
    let refused = taint(&mut fixture, "issuing 1", "key-compromise").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "the keeper of this test is busy: {refused}");
    let act = fixture.last();
    assert_eq!((act.action, act.subject.as_deref()), (Action::OperatorAct, Some("issuing 1")));
    let (ordered, template) = fixture.hands.acts.lock().unwrap().remove(0);
    assert_eq!(ordered, Act::Taint("issuing 1".parse().unwrap()));
    assert_eq!((template.request_id, template.reason.as_deref()), (act.request_id, Some("keyCompromise")));
    assert!(fixture.hands.tainted.lock().unwrap().is_empty(), "nothing is revoked that is not tainted");
}
