//! Readers that follow the ledger, and what ends them.

use std::time::Duration;

use futures::StreamExt;

use super::*;

#[tokio::test]
async fn a_follower_sees_what_comes() {
    let mut fixture = fixture(false).await;
    let follow = pb::ReadAuditRequest { follow: true, ..ask("tail") };
    let mut records = fixture.admin.read_audit(follow).await.unwrap().into_inner();
    let recorder = Recorder::new(Entropy::seeded(8));
    for index in 4..6 {
        let event = recorder.event(Action::ConfigChange, Outcome::Success, datetime!(2026-11-23 13:00 UTC));
        fixture.ledger.append(event).await.unwrap();
        let record = records.message().await.unwrap().unwrap();
        assert_eq!(record.index, index);
    }
}

#[tokio::test]
async fn a_stopping_server_ends_its_followers() {
    let mut fixture = fixture(false).await;
    let follow = pb::ReadAuditRequest { follow: true, ..ask("tail") };
    let mut records = fixture.admin.read_audit(follow).await.unwrap().into_inner();
    fixture.stopping.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(5), records.message()).await.unwrap();
    assert_eq!(ended.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_follower_ends_with_its_role() {
    let fixture = fixture(false).await;
    let follow = pb::ReadAuditRequest { follow: true, ..ask("tail") };
    let worker = unix_on(ADMIN_SOCKET, 61_003, 7, &[WORKERS]);
    let mut records = fixture.service.read_audit(sent_by(worker, None, follow)).await.unwrap().into_inner();
    let recorder = Recorder::new(Entropy::seeded(8));
    let append = async || {
        let event = recorder.event(Action::ConfigChange, Outcome::Success, datetime!(2026-11-23 13:00 UTC));
        fixture.ledger.append(event).await.unwrap();
    };
    append().await;
    assert!(records.next().await.unwrap().is_ok());
    // A reload makes them readers, who do not see what operators are called.
    let readers = Operators::new(vec![Grant { role: Role::Reader, who: Who::Gid(WORKERS) }]);
    fixture.service.sources().operators.store(Arc::new(readers));
    append().await;
    let ended = records.next().await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::PermissionDenied);
    assert!(ended.message().contains("any more"), "{ended}");
    assert!(records.next().await.is_none());
}
