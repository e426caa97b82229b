//! SDS at the wire, with a bare client: the names that Envoy, Istio and SPIRE users expect, versions that outlive both
//! ends, keys that nobody shares, refusals that say nothing.

use std::time::Duration;

use tonic::Code;

use crate::harness::chancery::Chancery;
use crate::harness::policy::{self, Rule};
use crate::harness::{SOON, sds};

const WEB: &str = "spiffe://example.org/ns/shop/sa/web";

/// How long nothing must come before we believe that nothing will.
const QUIET: Duration = Duration::from_millis(700);

fn server() -> Chancery {
    Chancery::with_policy(&policy::text(&[Rule::own(WEB, "24h")]))
}

fn run<T>(body: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body)
}

/// One connection, one stream, its first update acknowledged.
async fn first(server: &Chancery, name: &str) -> (sds::Stream, sds::Update) {
    let channel = sds::connect(&server.socket("sds")).await.unwrap();
    let mut stream = sds::Stream::open(channel, "test", name, "").await.unwrap();
    let update = stream.next(SOON).await.unwrap_or_else(|status| panic!("{name}: {status}"));
    stream.acknowledge(&update).await;
    (stream, update)
}

#[test]
fn every_usual_name_is_answered() {
    let server = server();
    run(async {
        for name in ["default", WEB] {
            let (_, update) = first(&server, name).await;
            assert_eq!(update.secret.name, name);
            let (chain, key) = update.certificate();
            assert_eq!(x509_parser::pem::Pem::iter_from_buffer(&chain).count(), 2, "leaf and issuing CA, no root");
            assert!(key.starts_with(b"-----BEGIN PRIVATE KEY-----"));
        }
        for name in ["ROOTCA", "spiffe://example.org"] {
            let (_, update) = first(&server, name).await;
            assert_eq!(update.secret.name, name);
            assert!(update.roots().starts_with(b"-----BEGIN CERTIFICATE-----"));
        }
        let (_, update) = first(&server, "ALL").await;
        assert_eq!(update.secret.name, "ALL");
        assert!(format!("{:?}", update.secret).contains("SPIFFECertValidatorConfig"));
    });
}

#[test]
fn what_a_proxy_holds_is_not_sent_again_even_after_our_restart() {
    let mut server = server();
    for name in ["default", "ROOTCA"] {
        let (stream, update) = run(first(&server, name));
        drop(stream);
        server.kill();
        server.start();
        run(async {
            let channel = sds::connect(&server.socket("sds")).await.unwrap();
            let mut stream = sds::Stream::open(channel, "test", name, &update.version).await.unwrap();
            let quiet = stream.next(QUIET).await.unwrap_err();
            assert_eq!(quiet.code(), Code::DeadlineExceeded, "{name}: {quiet}");
        });
    }
    assert_eq!(server.records_of("certificate.issue", 1).len(), 1);
}

#[test]
fn two_connections_never_share_a_key() {
    let server = server();
    run(async {
        let (_one, first_update) = first(&server, "default").await;
        let (_two, second_update) = first(&server, "default").await;
        assert_ne!(first_update.version, second_update.version);
        assert_ne!(first_update.certificate().1, second_update.certificate().1);
    });
    assert_eq!(server.records_of("certificate.issue", 2).len(), 2);
}

#[test]
fn a_refused_update_is_recorded_and_the_stream_goes_on() {
    let server = server();
    run(async {
        let channel = sds::connect(&server.socket("sds")).await.unwrap();
        let mut stream = sds::Stream::open(channel, "picky", "default", "").await.unwrap();
        let update = stream.next(SOON).await.unwrap();
        stream.refuse(&update, "", "not to my taste\u{1b}[31m").await;
        let quiet = stream.next(QUIET).await.unwrap_err();
        assert_eq!(quiet.code(), Code::DeadlineExceeded, "what was refused is not pushed in a loop: {quiet}");
    });
    let record = server.wait_for_record("the refusal", |record| record["action"] == "certificate.nack");
    assert_eq!(record["node"], "picky", "{record}");
    let reason = record["reason"].as_str().unwrap();
    assert!(reason.contains("not to my taste") && !reason.contains('\u{1b}'), "{record}");
}

#[test]
fn who_is_granted_nothing_learns_nothing() {
    let secret = Rule { name: "hidden-rule", uid: Some("61237".into()), ..Rule::own(WEB, "24h") };
    let server = Chancery::with_policy(&policy::text(&[secret]));
    let status = run(async {
        let channel = sds::connect(&server.socket("sds")).await.unwrap();
        match sds::Stream::open(channel, "test", "default", "").await {
            Err(status) => status,
            Ok(mut stream) => stream.next(SOON).await.unwrap_err(),
        }
    });
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert!(!status.message().contains("hidden-rule") && !status.message().contains("61237"), "{status}");
    let record = server.wait_for_record("the refusal", |record| record["action"] == "certificate.deny");
    assert!(record.to_string().contains("hidden-rule"), "{record}");
}

#[test]
fn a_name_that_is_not_granted_is_neither_answered_nor_told_apart() {
    let server = server();
    run(async {
        let channel = sds::connect(&server.socket("sds")).await.unwrap();
        let other = "spiffe://example.org/ns/shop/sa/other";
        let mut stream = sds::Stream::open(channel, "test", other, "").await.unwrap();
        let quiet = stream.next(QUIET).await.unwrap_err();
        assert_eq!(quiet.code(), Code::DeadlineExceeded, "the stream stays open: {quiet}");
    });
    server.wait_for_record("the refusal", |record| record["action"] == "certificate.deny");
}

#[test]
fn a_flood_of_refusals_becomes_a_count() {
    let server = server();
    const TRIES: usize = 60;
    run(async {
        for _ in 0..TRIES {
            let channel = sds::connect(&server.socket("sds")).await.unwrap();
            let mut stream =
                sds::Stream::open(channel, "test", "spiffe://example.org/ns/shop/sa/other", "").await.unwrap();
            let _ = stream.next(Duration::from_millis(20)).await;
        }
    });
    let refusals = |server: &Chancery| server.records_of("certificate.deny", 1);
    let counted = server.wait_for_record("the count", |record| record["coalesced"]["count"].is_u64());
    assert!(counted["coalesced"]["first"].is_string() && counted["coalesced"]["last"].is_string(), "{counted}");
    assert!(refusals(&server).len() < 10, "{}", refusals(&server).len());
}
