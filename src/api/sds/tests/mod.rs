//! The edge over a connection in memory, with generated code as the client and a fake source behind the feed.

mod delta;
mod hostile;

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::server::HealthReporter;

use super::accounts::Account;
use super::{SdsContext, SdsLimits, connection, versions};
use crate::attest::AttestError;
use crate::caller::Caller;
use crate::caller::testing::unix;
use crate::clock::ManualClock;
use crate::feed::payload::SECRET_TYPE;
use crate::feed::source::SourceError;
use crate::feed::testing::{self, Fake, LIFE};
use crate::feed::{Feed, FeedLimits};
use crate::proto::envoy::config::core::v3::Node;
use crate::proto::envoy::extensions::transport_sockets::tls::v3::{Secret, secret::Type};
use crate::proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use crate::proto::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use crate::proto::google;
use crate::tasks::Tasks;

struct Server {
    feed: Feed,
    fake: Arc<Fake>,
    hands: ManualClock,
    tasks: Tasks,
    limits: SdsLimits,
}

impl Server {
    fn new() -> Self {
        let (feed, fake, hands) = testing::feed(FeedLimits::default());
        Self { feed, fake, hands, tasks: Tasks::new(), limits: SdsLimits::default() }
    }

    async fn connect_as(&self, peer: Result<Caller, AttestError>) -> Channel {
        let context = SdsContext {
            feed: self.feed.clone(),
            tasks: self.tasks.clone(),
            limits: Arc::new(self.limits.clone()),
            health: HealthReporter::new(),
        };
        let account = Arc::new(Account::new(&self.limits));
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        self.tasks.spawn("test.connection", connection::run(theirs, peer, account, context));
        let mut ours = Some(TokioIo::new(ours));
        let connector = tower::service_fn(move |_| {
            std::future::ready(ours.take().ok_or(std::io::Error::other("one connection only")))
        });
        Endpoint::from_static("http://sds").connect_with_connector(connector).await.unwrap()
    }

    async fn open(&self, names: &[&str], version: &str) -> Stream {
        let channel = self.connect_as(Ok(unix(1000, 1000, &[]))).await;
        Stream::open(channel, request(names, version)).await
    }
}

fn request(names: &[&str], version: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        version_info: version.to_owned(),
        node: Some(Node { id: "envoy\u{1b}1".to_owned(), cluster: String::new() }),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        type_url: SECRET_TYPE.to_owned(),
        ..DiscoveryRequest::default()
    }
}

struct Stream {
    requests: mpsc::Sender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
}

impl Stream {
    async fn open(channel: Channel, first: DiscoveryRequest) -> Self {
        let (requests, outgoing) = mpsc::channel(8);
        requests.send(first).await.unwrap();
        let mut client = SecretDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
        let responses = client.stream_secrets(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        Self { requests, responses }
    }

    async fn next(&mut self) -> Result<DiscoveryResponse, Status> {
        let next = tokio::time::timeout(Duration::from_secs(10), self.responses.message()).await;
        next.expect("an answer").map(|response| response.expect("no clean end"))
    }

    async fn expect(&mut self, version: &str) -> DiscoveryResponse {
        let response = self.next().await.unwrap();
        let name = secret(&response).name;
        assert_eq!(versions::of(&response.version_info, &name), Some(version));
        response
    }

    /// Nothing comes: what the server does instead is shown by `then`, an update that must be next.
    async fn send(&self, names: &[&str], nonce: &str, error: Option<&str>) {
        let error_detail =
            error.map(|message| google::rpc::Status { code: 13, message: message.to_owned(), details: Vec::new() });
        let request = DiscoveryRequest { response_nonce: nonce.to_owned(), error_detail, ..request(names, "") };
        self.requests.send(request).await.unwrap();
    }
}

fn secret(response: &DiscoveryResponse) -> Secret {
    assert_eq!((response.type_url.as_str(), response.resources.len()), (SECRET_TYPE, 1));
    Secret::decode(response.resources[0].value.as_slice()).unwrap()
}

/// Waits for a state that the server reaches by itself.
async fn until(what: &str, reached: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if reached() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn a_certificate_comes_is_acknowledged_and_renewed() {
    let server = Server::new();
    let mut stream = server.open(&["default"], "").await;
    let first = stream.expect("v1").await;
    let Some(Type::TlsCertificate(certificate)) = secret(&first).r#type else { panic!("{first:?}") };
    assert!(format!("{certificate:?}").contains("private_key"));
    assert!(!server.feed.live()[0].acked());
    stream.send(&["default"], &first.nonce, None).await;
    until("acknowledged", || server.feed.live()[0].acked()).await;
    assert_eq!(server.feed.live()[0].node.as_deref(), Some("envoy\u{fffd}1"));
    server.hands.advance(LIFE / 2);
    let second = stream.expect("v2").await;
    assert_ne!(first.nonce, second.nonce);
    drop(stream);
    until("the stream is forgotten", || server.feed.live().is_empty()).await;
}

#[tokio::test]
async fn a_refused_push_is_recorded_once_and_stale_nonces_say_nothing() {
    let server = Server::new();
    let mut stream = server.open(&["default"], "").await;
    let first = stream.expect("v1").await;
    stream.send(&["default"], "77", Some("not ours")).await;
    stream.send(&["default"], &first.nonce, Some("bad\u{1b}[31m key")).await;
    stream.send(&["default"], &first.nonce, Some("again")).await;
    until("refused", || server.feed.live()[0].nack.is_some()).await;
    server.hands.advance(LIFE / 2);
    stream.expect("v2").await;
    stream.send(&["default"], &first.nonce, None).await;
    stream.send(&["default", "ROOTCA"], "", None).await;
    stream.expect("bundle-roots").await;
    assert_eq!(server.feed.live()[0].acked_version, None);
    let nacks: Vec<_> = server.fake.log().into_iter().filter(|line| line.starts_with("nack")).collect();
    assert_eq!(nacks, ["nack default v1 \"bad\u{fffd}[31m key\""]);
}

#[tokio::test]
async fn names_come_and_go_on_one_stream_and_each_secret_has_its_own_response() {
    let server = Server::new();
    let mut stream = server.open(&["ROOTCA", "default", "default"], "").await;
    let mut names = Vec::new();
    for _ in 0..2 {
        names.push(secret(&stream.next().await.unwrap()).name);
    }
    names.sort();
    assert_eq!(names, ["ROOTCA", "default"]);
    stream.send(&["ALL"], "", None).await;
    assert_eq!(secret(&stream.next().await.unwrap()).name, "ALL");
    until("the others are gone", || server.feed.live().len() == 1).await;
    stream.send(&[], "", None).await;
    until("all are gone", || server.feed.live().is_empty()).await;
    stream.send(&["spiffe://example.org/b"], "", None).await;
    assert_eq!(secret(&stream.next().await.unwrap()).name, "spiffe://example.org/b");
}

#[tokio::test]
async fn what_the_client_names_it_keeps_and_a_takeover_ends_the_old_stream() {
    let server = Server::new();
    let mut old = server.open(&["default"], "").await;
    let first = old.expect("v1").await;
    old.send(&["default"], &first.nonce, None).await;
    let mut new = server.open(&["default"], "v1").await;
    assert_eq!(old.next().await.unwrap_err().code(), Code::Aborted);
    server.hands.advance(LIFE / 2);
    new.expect("v2").await;
    let mut foreign = server.open(&["default"], &"v".repeat(300)).await;
    foreign.expect("v3").await;
    let mut roots = server.open(&["ROOTCA"], "bundle-roots").await;
    server.feed.publish_bundle(testing::bundle("newer"));
    roots.expect("bundle-newer").await;
}

#[tokio::test]
async fn a_client_that_does_not_read_gets_the_newest_and_no_queue() {
    let server = Server::new();
    let mut stream = server.open(&["ROOTCA"], "").await;
    stream.expect("bundle-roots").await;
    // Far more than the client's window: the server can't be rid of it until the client reads.
    let large = |number: u8| char::from(b'a' + number).to_string().repeat(8 << 20);
    for number in 0..20 {
        server.feed.publish_bundle(testing::bundle(&large(number)));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut seen = 0;
    loop {
        let response = stream.next().await.unwrap();
        seen += 1;
        if response.version_info.starts_with("bundle-t") {
            break;
        }
    }
    assert!(seen <= 6, "{seen} of 20 were sent to a client that did not read");
}

#[tokio::test]
async fn refusals_have_their_codes_and_say_no_more() {
    let server = Server::new();
    let code = async |names: &[&str], change: fn(&mut DiscoveryRequest)| {
        let mut first = request(names, "");
        change(&mut first);
        let channel = server.connect_as(Ok(unix(1000, 1000, &[]))).await;
        let status = Stream::open(channel, first).await.next().await.unwrap_err();
        (status.code(), status.message().to_owned())
    };
    let invalid = Code::InvalidArgument;
    assert_eq!(code(&[], |_| ()).await.0, invalid);
    assert_eq!(code(&[""], |_| ()).await.0, invalid);
    assert_eq!(code(&["default"], |request| request.type_url = "other".into()).await.0, invalid);
    assert_eq!(code(&["default"], |request| request.resource_names = vec!["n".repeat(3_000)]).await.0, invalid);
    let (got, said) = code(&["default"], |request| request.resource_names = vec!["n".into(); 1_025]).await;
    assert!(got == invalid && said.contains("max_names_per_stream (1024)"), "{said}");
    let (got, said) = code(&["default"], |request| request.type_url = "x".repeat(600 << 10)).await;
    assert!(got == Code::ResourceExhausted && said.contains("max_request_bytes"), "{said}");
    server.fake.refuse(Some(SourceError::NoRule));
    assert_eq!(code(&["default"], |_| ()).await.0, Code::PermissionDenied);
    assert_eq!(code(&["ROOTCA"], |_| ()).await.0, Code::PermissionDenied);
    server.fake.refuse(Some(SourceError::Unavailable { retry_after: None }));
    assert_eq!(code(&["default"], |_| ()).await.0, Code::Unavailable);
}

#[tokio::test]
async fn a_name_that_is_not_granted_is_answered_when_policy_grants_it() {
    let server = Server::new();
    server.fake.refuse(Some(SourceError::NotGranted));
    let mut stream = server.open(&["default"], "").await;
    until("refused", || server.fake.log().iter().any(|line| line.starts_with("refuse"))).await;
    server.fake.refuse(None);
    server.fake.policy_changes();
    stream.expect("v1").await;
}

#[tokio::test]
async fn whoever_is_nobody_is_told_so_and_other_services_are_not_here() {
    let server = Server::new();
    let channel = server.connect_as(Err(AttestError::InvisibleProcess)).await;
    let empty = || tokio_stream::iter(Vec::<DiscoveryRequest>::new());
    let mut client = SecretDiscoveryServiceClient::new(channel.clone());
    assert_eq!(client.stream_secrets(empty()).await.unwrap_err().code(), Code::Unauthenticated);
    let fetched = client.fetch_secrets(Request::new(request(&["default"], ""))).await.unwrap_err();
    assert_eq!(fetched.code(), Code::Unimplemented);
    let health = HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(health.status, tonic_health::ServingStatus::Serving as i32);
}

#[tokio::test]
async fn a_stopping_server_sends_its_streams_away() {
    let server = Server::new();
    let mut stream = server.open(&["default"], "").await;
    stream.expect("v1").await;
    let draining = server.tasks.clone();
    let drained = draining.drain(Duration::from_secs(10));
    let (status, left) = tokio::join!(stream.next(), drained);
    assert_eq!(status.unwrap_err().code(), Code::Unavailable);
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_streams_is_closed() {
    let server = Server::new();
    let _channel = server.connect_as(Ok(unix(1000, 1000, &[]))).await;
    tokio::time::sleep(server.limits.idle_timeout * 3).await;
    assert!(server.tasks.drain(Duration::from_millis(1)).await.is_empty());
}
