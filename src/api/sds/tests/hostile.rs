//! Clients that mean harm, or are broken in a way that looks like it: each is bounded, refused with a sentence, and
//! nobody else notices.

use bytes::Bytes;
use h2::client::SendRequest;
use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite};

use super::*;
use crate::api::sds::body::Outbox;
use crate::api::sds::said::Dialect;

/// HTTP/2 without any library's good manners in between.
struct Raw {
    requests: SendRequest<Bytes>,
    connection: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

const STREAM: &str = "http://sds/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";

impl Server {
    /// A connection that shares `account` with others.
    fn wire(&self, account: &Arc<Account>) -> impl AsyncRead + AsyncWrite + Unpin + Send + 'static {
        let context = SdsContext {
            feed: self.feed.clone(),
            tasks: self.tasks.clone(),
            limits: Arc::new(self.limits.clone()),
            health: HealthReporter::new(),
        };
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let serving = connection::run(theirs, Ok(unix(1000, 1000, &[])), Arc::clone(account), context);
        self.tasks.spawn("test.connection", serving);
        ours
    }

    fn account(&self) -> Arc<Account> {
        Arc::new(Account::new(&self.limits))
    }

    async fn raw(&self, account: &Arc<Account>) -> Raw {
        let (requests, connection) = h2::client::handshake(self.wire(account)).await.unwrap();
        let connection = self.tasks.spawn("test.client", connection);
        Raw { requests, connection }
    }
}

impl Raw {
    async fn open(&mut self) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
        let request = http::Request::post(STREAM).header("content-type", "application/grpc").body(()).unwrap();
        self.requests.clone().ready().await.unwrap().send_request(request, false).unwrap()
    }

    /// Opens a stream, sends `bytes` as they are, and waits for its status.
    async fn status(&mut self, bytes: Bytes) -> (Code, String) {
        let (response, mut sending) = self.open().await;
        // What is refused before it is read can't be sent whole.
        let sent = sending.send_data(bytes, false);
        assert!(sent.is_ok(), "{sent:?}");
        let (head, mut body) = response.await.unwrap().into_parts();
        let mut trailers = HeaderMap::new();
        if head.headers.get("grpc-status").is_none() {
            while let Some(data) = body.data().await {
                assert!(data.unwrap().is_empty(), "nothing is served");
            }
            trailers = body.trailers().await.unwrap().unwrap();
        }
        let all = if trailers.is_empty() { head.headers } else { trailers };
        let status = Status::from_header_map(&all).unwrap();
        (status.code(), status.message().to_owned())
    }
}

fn framed(message: &[u8]) -> Bytes {
    [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat().into()
}

#[tokio::test]
async fn a_node_of_16_mb_is_refused_when_its_length_is_read() {
    let server = Server::new();
    let account = server.account();
    let mut client = server.raw(&account).await;
    let mut large = request(&["default"], "");
    large.node = Some(Node { id: "n".repeat(16 << 20), cluster: String::new() });
    let (code, said) = client.status(framed(&large.encode_to_vec())).await;
    assert!(code == Code::ResourceExhausted && said.contains("max_request_bytes (524288)"), "{said}");
    assert_eq!(account.request_bytes().available_permits(), server.limits.max_request_bytes_per_caller);
    // The connection goes on.
    let (code, _) = client.status(framed(b"\xff\xff\xff")).await;
    assert_eq!(code, Code::InvalidArgument);
}

#[tokio::test]
async fn thousands_of_names_are_refused_and_a_thousand_are_served() {
    let server = Server::new();
    let mut client = server.raw(&server.account()).await;
    let many = |count: usize| -> Vec<String> { (0..count).map(|n| format!("spiffe://example.org/{n}")).collect() };
    let refused = DiscoveryRequest { resource_names: many(5_000), ..request(&[], "") };
    let (code, said) = client.status(framed(&refused.encode_to_vec())).await;
    assert!(code == Code::InvalidArgument && said.contains("5000 names") && said.contains("1024"), "{said}");
    assert!(server.fake.log().is_empty(), "nothing was asked for");
    let first = DiscoveryRequest { resource_names: many(1_024), ..request(&[], "") };
    let mut stream = Stream::open(server.connect_as(Ok(unix(1000, 1000, &[]))).await, first).await;
    for _ in 0..1_024 {
        stream.next().await.unwrap();
    }
}

#[tokio::test]
async fn names_that_come_one_by_one_have_the_same_bound() {
    use crate::proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;
    let mut server = Server::new();
    server.limits.max_names_per_stream = 3;
    let channel = server.connect_as(Ok(unix(1000, 1000, &[]))).await;
    let ask = |n: usize| DeltaDiscoveryRequest {
        resource_names_subscribe: vec![format!("spiffe://example.org/{n}")],
        ..DeltaDiscoveryRequest::default()
    };
    let outgoing = futures::StreamExt::chain(tokio_stream::iter((0..4).map(ask)), tokio_stream::pending());
    let mut client = SecretDiscoveryServiceClient::new(channel);
    let mut responses = client.delta_secrets(outgoing).await.unwrap().into_inner();
    let status = loop {
        match responses.message().await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("max_names_per_stream (3)"), "{status}");
}

#[tokio::test]
async fn unfinished_requests_of_one_account_are_bounded_together() {
    let mut server = Server::new();
    server.limits.max_request_bytes = 100_000;
    server.limits.max_request_bytes_per_caller = 250_000;
    server.limits.request_timeout = Duration::from_millis(400);
    let account = server.account();
    let begun = framed(&vec![0; 100_000]).slice(..20_000);
    let mut client = server.raw(&account).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        let (response, mut sending) = client.open().await;
        sending.send_data(begun.clone(), false).unwrap();
        held.push((response, sending));
    }
    until("no room is left", || account.request_bytes().available_permits() == 0).await;
    // An honest request waits its turn behind them, and is served when their time is over.
    let (_response, mut sending) = server.raw(&account).await.open().await;
    sending.send_data(framed(&request(&["default"], "").encode_to_vec()), false).unwrap();
    until("the honest one is served", || server.feed.live().iter().any(|live| live.version.is_some())).await;
    until("the room is free again", || account.request_bytes().available_permits() == 250_000).await;
}

#[tokio::test]
async fn streams_of_one_account_are_bounded_over_its_connections() {
    let mut server = Server::new();
    server.limits.max_streams_per_caller = 3;
    let account = server.account();
    let (mut one, mut another) = (server.raw(&account).await, server.raw(&account).await);
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(one.open().await);
    }
    for (response, _) in &mut held {
        response.await.unwrap();
    }
    let (code, said) = another.status(Bytes::new()).await;
    assert!(code == Code::ResourceExhausted && said.contains("max_streams_per_caller"), "{said}");
    assert_eq!(server.fake.log(), ["refused  TooManyStreams { limit: 3 }"]);
    drop(held);
    until("a place is free", || account.stream().is_some()).await;
}

#[tokio::test]
async fn a_client_that_throws_certificates_away_is_slowed_down() {
    let mut server = Server::new();
    let limits = FeedLimits { issue_burst_per_caller: 5, issue_rate_per_caller: 1, ..FeedLimits::default() };
    (server.feed, server.fake, server.hands) = testing::feed(limits);
    for _ in 0..5 {
        server.open(&["default"], "").await.next().await.unwrap();
    }
    let status = server.open(&["default"], "").await.next().await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("issue_burst_per_caller = 5"), "{status}");
    assert_eq!(server.fake.log().last().unwrap(), "refused default TooManyIssues { rate: 1, burst: 5 }");
    // Who names what it holds is not counted.
    server.open(&["default"], "v5").await;
    until("it is kept", || server.feed.counts().kept == 1).await;
    server.hands.advance(Duration::from_secs(1));
    server.open(&["default"], "").await.expect("v6").await;
}

#[tokio::test]
async fn a_flood_of_resets_ends_its_connection_and_no_other() {
    let server = Server::new();
    let mut honest = server.open(&["default"], "").await;
    honest.expect("v1").await;
    let client = server.raw(&server.account()).await;
    let mut opened = 0;
    while !client.connection.is_finished() && opened < 200_000 {
        let Ok(mut ready) = client.requests.clone().ready().await else { break };
        let request = http::Request::post(STREAM).header("content-type", "application/grpc").body(()).unwrap();
        let Ok((_, mut sending)) = ready.send_request(request, false) else { break };
        sending.send_reset(h2::Reason::CANCEL);
        opened += 1;
        if opened % 1_000 == 0 {
            tokio::task::yield_now().await;
        }
    }
    assert!(opened < 200_000, "the connection outlived {opened} resets");
    server.hands.advance(LIFE / 2);
    honest.expect("v2").await;
    until("nothing of it is left", || server.feed.live().len() == 1).await;
}

#[tokio::test]
async fn a_client_that_never_reads_costs_what_its_windows_hold() {
    let server = Server::new();
    let mut wire = Box::pin(server.wire(&server.account()));
    // A whole preface, settings and one request, by hand; not a byte of the answer is taken.
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    let mut block = vec![0x83, 0x86, 0x41, 3];
    block.extend(b"sds");
    let path = STREAM.strip_prefix("http://sds").unwrap();
    block.extend([0x44, u8::try_from(path.len()).unwrap()]);
    block.extend(path.bytes());
    let length = u8::try_from(block.len()).unwrap();
    bytes.extend([0, 0, length, 1, 4, 0, 0, 0, 1]);
    bytes.extend(block);
    let body = framed(&request(&["ROOTCA"], "").encode_to_vec());
    bytes.extend([0, 0, u8::try_from(body.len()).unwrap(), 0, 0, 0, 0, 0, 1]);
    bytes.extend(&body[..]);
    tokio::io::AsyncWriteExt::write_all(&mut wire, &bytes).await.unwrap();
    until("it is subscribed", || server.feed.live().iter().any(|live| live.version.is_some())).await;
    let pushed = server.feed.counts().pushes;
    for number in 0..50 {
        server.feed.publish_bundle(testing::bundle(&char::from(b'A' + number).to_string().repeat(1 << 20)));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let handed = server.feed.counts().pushes - pushed;
    assert!(handed <= 3, "{handed} of 50 pushes were made for a client that reads nothing");
    let mut honest = server.open(&["ROOTCA"], "").await;
    assert!(honest.next().await.unwrap().version_info.starts_with("bundle-r"));
}

#[tokio::test]
async fn what_was_taken_away_while_a_client_did_not_read_is_not_sent() {
    use crate::ca::standing::Denied;
    use crate::feed::source::SecretSource;
    let server = Server::new();
    let mut session = server.feed.session(unix(1000, 1000, &[]));
    let outbox = Outbox::new(Dialect::Delta);
    for name in ["default", "ROOTCA"] {
        session.subscribe(name, None).await.unwrap();
        outbox.put(session.next().await.unwrap());
    }
    let identity = server.feed.live()[0].identity.clone().unwrap();
    server.fake.standing().deny(identity.as_str(), Denied::default());
    let quiet = tokio::time::timeout(Duration::from_millis(50), session.next()).await;
    assert!(quiet.is_err(), "nothing new comes: {quiet:?}");
    let (head, _) = outbox.take().expect("the roots");
    assert!(head.windows(6).any(|bytes| bytes == b"ROOTCA"));
    assert!(outbox.take().is_none(), "the key of a denied identity");
}
