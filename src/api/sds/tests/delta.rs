//! Delta, and both dialects on an aggregated stream.

use std::collections::HashMap;
use std::pin::Pin;

use futures::{Stream as Responses, StreamExt};

use super::*;
use crate::proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use crate::proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};

/// A delta stream of either service.
struct Delta {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

fn delta(more: &[&str], less: &[&str]) -> DeltaDiscoveryRequest {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    DeltaDiscoveryRequest {
        type_url: SECRET_TYPE.to_owned(),
        resource_names_subscribe: names(more),
        resource_names_unsubscribe: names(less),
        ..DeltaDiscoveryRequest::default()
    }
}

fn holding(held: &[(&str, &str)]) -> DeltaDiscoveryRequest {
    let names: Vec<_> = held.iter().map(|(name, _)| *name).collect();
    let held = held.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned()));
    DeltaDiscoveryRequest { initial_resource_versions: held.collect(), ..delta(&names, &[]) }
}

impl Delta {
    async fn open(server: &Server, aggregated: bool, first: DeltaDiscoveryRequest) -> Self {
        let channel = server.connect_as(Ok(unix(1000, 1000, &[]))).await;
        let (requests, outgoing) = mpsc::channel(8);
        requests.send(first).await.unwrap();
        let outgoing = ReceiverStream::new(outgoing);
        let responses = if aggregated {
            AggregatedDiscoveryServiceClient::new(channel).delta_aggregated_resources(outgoing).await
        } else {
            SecretDiscoveryServiceClient::new(channel).delta_secrets(outgoing).await
        };
        Self { requests, responses: responses.unwrap().into_inner() }
    }

    async fn next(&mut self) -> Result<(Resource, String), Status> {
        let next = tokio::time::timeout(Duration::from_secs(10), self.responses.message()).await;
        let mut response = next.expect("an answer")?.expect("no clean end");
        assert_eq!((response.type_url.as_str(), response.resources.len()), (SECRET_TYPE, 1));
        let resource = response.resources.remove(0);
        let secret = Secret::decode(resource.resource.as_ref().unwrap().value.as_slice()).unwrap();
        assert_eq!(secret.name, resource.name);
        Ok((resource, response.nonce))
    }

    async fn expect(&mut self, name: &str, version: &str) -> String {
        let (resource, nonce) = self.next().await.unwrap();
        assert_eq!((resource.name.as_str(), resource.version.as_str()), (name, version));
        nonce
    }

    async fn answer(&self, nonce: &str, error: Option<&str>) {
        let error_detail =
            error.map(|message| google::rpc::Status { code: 13, message: message.to_owned(), details: Vec::new() });
        let response_nonce = nonce.to_owned();
        self.requests.send(DeltaDiscoveryRequest { response_nonce, error_detail, ..delta(&[], &[]) }).await.unwrap();
    }
}

#[tokio::test]
async fn each_secret_has_its_version_and_its_answer() {
    for aggregated in [false, true] {
        let server = Server::new();
        let mut stream = Delta::open(&server, aggregated, delta(&["default"], &[])).await;
        let first = stream.expect("default", "v1").await;
        stream.answer("77", None).await;
        stream.answer(&first, None).await;
        until("acknowledged", || server.feed.live()[0].acked()).await;
        stream.requests.send(delta(&["ROOTCA"], &[])).await.unwrap();
        let roots = stream.expect("ROOTCA", "bundle-roots").await;
        stream.answer(&roots, Some("bad\u{1b}[31m roots")).await;
        stream.answer(&roots, None).await;
        until("refused", || server.feed.live()[1].nack.is_some()).await;
        server.hands.advance(LIFE / 2);
        stream.expect("default", "v2").await;
        assert!(!server.feed.live()[1].acked(), "a refused push is answered once");
        let nacks: Vec<_> = server.fake.log().into_iter().filter(|line| line.starts_with("nack")).collect();
        assert_eq!(nacks, ["nack ROOTCA bundle-roots \"bad\u{fffd}[31m roots\""]);
    }
}

#[tokio::test]
async fn names_are_added_taken_away_and_asked_for_anew() {
    let server = Server::new();
    let mut stream = Delta::open(&server, false, delta(&["default"], &[])).await;
    stream.expect("default", "v1").await;
    stream.requests.send(delta(&["ROOTCA"], &["default", "never wanted"])).await.unwrap();
    stream.expect("ROOTCA", "bundle-roots").await;
    until("one is left", || server.feed.live().len() == 1).await;
    // Who asks again for what it has does not have it any more.
    stream.requests.send(delta(&["ROOTCA", "nonsense?"], &[])).await.unwrap();
    stream.expect("ROOTCA", "bundle-roots").await;
    stream.requests.send(delta(&["default"], &[])).await.unwrap();
    stream.expect("default", "v2").await;
    stream.requests.send(delta(&["default"], &[])).await.unwrap();
    stream.expect("default", "v3").await;
    server.feed.publish_bundle(testing::bundle("newer"));
    stream.expect("ROOTCA", "bundle-newer").await;
}

#[tokio::test]
async fn what_is_held_from_before_is_not_sent_again() {
    for aggregated in [false, true] {
        let server = Server::new();
        let mut old = Delta::open(&server, aggregated, delta(&["default", "ROOTCA"], &[])).await;
        let mut seen = HashMap::new();
        for _ in 0..2 {
            let (resource, _) = old.next().await.unwrap();
            seen.insert(resource.name, resource.version);
        }
        assert_eq!(seen["default"], "v1");
        let held = [("default", "v1"), ("ROOTCA", "bundle-roots"), ("not asked for", "v9")];
        let mut new = Delta::open(&server, aggregated, holding(&held)).await;
        assert_eq!(old.next().await.unwrap_err().code(), Code::Aborted);
        until("both are known", || server.feed.live().iter().filter(|live| live.acked()).count() == 2).await;
        server.feed.publish_bundle(testing::bundle("newer"));
        new.expect("ROOTCA", "bundle-newer").await;
        server.hands.advance(LIFE / 2);
        new.expect("default", "v2").await;
        // Only the first request of a stream may say what is held.
        new.requests.send(holding(&[("spiffe://example.org/b", "v1")])).await.unwrap();
        new.expect("spiffe://example.org/b", "v3").await;
    }
}

#[tokio::test]
async fn an_aggregated_stream_of_several_secrets_keeps_all_over_a_reconnect() {
    let server = Server::new();
    let open = async |version: String| {
        let channel = server.connect_as(Ok(unix(1000, 1000, &[]))).await;
        let first = request(&["default", "ROOTCA"], &version);
        let outgoing = tokio_stream::once(first).chain(tokio_stream::pending());
        let client = AggregatedDiscoveryServiceClient::new(channel).stream_aggregated_resources(outgoing).await;
        let responses: Pin<Box<dyn Responses<Item = Result<DiscoveryResponse, Status>> + Send>> =
            Box::pin(client.unwrap().into_inner());
        responses
    };
    let mut old = open(String::new()).await;
    let mut last = old.next().await.unwrap().unwrap();
    last = old.next().await.unwrap().map(|next| if next.nonce > last.nonce { next } else { last }).unwrap();
    let mut new = open(last.version_info).await;
    assert_eq!(old.next().await.unwrap().unwrap_err().code(), Code::Aborted);
    until("both are known", || server.feed.live().iter().filter(|live| live.acked()).count() == 2).await;
    server.hands.advance(LIFE / 2);
    let renewed = new.next().await.unwrap().unwrap();
    assert_eq!(versions::of(&renewed.version_info, "default"), Some("v2"));
    assert_eq!(versions::of(&renewed.version_info, "ROOTCA"), Some("bundle-roots"));
}

#[tokio::test]
async fn an_aggregated_stream_carries_secrets_and_nothing_else() {
    let server = Server::new();
    for type_url in ["", "type.googleapis.com/envoy.config.cluster.v3.Cluster", "x\u{1b}[31m"] {
        let first = DeltaDiscoveryRequest { type_url: type_url.to_owned(), ..delta(&["default"], &[]) };
        let status = Delta::open(&server, true, first).await.next().await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("one type only") && !status.message().contains('\u{1b}'), "{status}");
    }
    let first = DeltaDiscoveryRequest { type_url: String::new(), ..delta(&["default"], &[]) };
    Delta::open(&server, false, first).await.expect("default", "v1").await;
}

#[tokio::test]
async fn a_delta_client_that_does_not_read_gets_the_newest_and_no_queue() {
    let server = Server::new();
    let mut stream = Delta::open(&server, false, delta(&["ROOTCA"], &[])).await;
    stream.expect("ROOTCA", "bundle-roots").await;
    stream.responses = {
        let channel = server.connect_as(Ok(unix(1000, 1000, &[]))).await;
        let outgoing = tokio_stream::once(delta(&["ROOTCA"], &[])).chain(tokio_stream::pending());
        let client = SecretDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
        { client }.delta_secrets(outgoing).await.unwrap().into_inner()
    };
    for number in 0..20 {
        server.feed.publish_bundle(testing::bundle(&char::from(b'a' + number).to_string().repeat(8 << 20)));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut seen = 1;
    while !stream.next().await.unwrap().0.version.starts_with("bundle-t") {
        seen += 1;
    }
    assert!(seen <= 6, "{seen} of 20 were sent to a client that did not read");
}
