//! What happens before a request is read.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use tower::Service;

use super::*;
use crate::api::admin::gate::Gate;
use crate::proto::chancery::admin::v1::admin_server::AdminServer;

/// A request that nobody may read.
struct Unread;

impl Body for Unread {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        panic!("the request of somebody without the role was read");
    }
}

async fn refused(fixture: &Fixture, rpc: &str, uid: u32) -> (Status, Event) {
    let mut gate = Gate::table(AdminServer::new(fixture.service.clone()), fixture.service.clone());
    let mut request = http::Request::post(format!("http://test/chancery.admin.v1.Admin/{rpc}"))
        .header("content-type", "application/grpc")
        .body(tonic::body::Body::new(Unread))
        .unwrap();
    let caller = Ok(unix_on(ADMIN_SOCKET, uid, 7, &[]));
    request.extensions_mut().insert(PeerInfo { caller, login: None });
    let answer = gate.call(request).await.unwrap();
    (Status::from_header_map(answer.headers()).expect("a status"), fixture.last())
}

#[tokio::test]
async fn who_may_not_ask_is_told_before_the_request_is_read() {
    let fixture = fixture(false).await;
    let stranger = READER + 900;
    for (rpc, uid, reason, what) in [
        ("DiffPolicy", stranger, "not_an_administrator", "policy.diff"),
        ("NoSuchCall", stranger, "not_an_administrator", "no such call"),
        ("ApplyPolicy", READER, "role_too_low", "policy.apply"),
        ("RevokeCertificates", READER, "role_too_low", "cert.revoke"),
    ] {
        let (status, record) = refused(&fixture, rpc, uid).await;
        assert_eq!(status.code(), Code::PermissionDenied, "{rpc}");
        assert_eq!((record.outcome, record.reason.as_deref()), (Outcome::Denied, Some(reason)), "{rpc}");
        assert_eq!(record.change.unwrap().what, what);
    }
}

#[tokio::test]
async fn who_is_nobody_to_the_kernel_is_on_record() {
    let fixture = fixture(false).await;
    let mut request = tonic::Request::new(pb::GetStatusRequest {});
    let caller = Err(AttestError::InvisibleProcess);
    request.extensions_mut().insert(PeerInfo { caller, login: None });
    assert_eq!(fixture.service.get_status(request).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(fixture.last().action, Action::AttestRefuse);
}

#[tokio::test]
async fn a_long_mistake_is_told_as_far_as_a_client_takes_it() {
    let mut fixture = fixture(false).await;
    let issue = pb::IssueCertificateRequest { identity: "é".repeat(100_000), ..Default::default() };
    let refused = fixture.admin.issue_certificate(issue).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().ends_with("(cut)"), "{}", refused.message().len());
}
