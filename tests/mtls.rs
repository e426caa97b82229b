//! SDS over TCP with mutual TLS: who gets in and what it gets, who does not and what is recorded, when a connection ends,
//! how the server's own certificate changes under it, and a real Envoy as the client.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustls::NamedGroup;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::harness::chancery::{Chancery, Options};
use crate::harness::envoy::Envoy;
use crate::harness::http::{Echo, try_get};
use crate::harness::load::Load;
use crate::harness::mtls::Identity;
use crate::harness::pair::{bootstrap, few_requests_per_connection};
use crate::harness::{SOON, alone, eventually, free_port, need, sds};

const NODE: &str = "spiffe://example.org/node/a";

fn run<T>(body: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body)
}

/// Operators issue the first certificate of a node; with it the node gets its own identity again.
fn policy(lifetime: &str) -> String {
    let rule = |name: &str, condition: &str, identity: &str| {
        format!(
            "[[rule]]\nname = \"{name}\"\nmatch = {{ {condition} }}\nidentity = \"{identity}\"\nlifetime = \"{lifetime}\"\n\n"
        )
    };
    let nodes = "spiffe://{trust_domain}/node/*";
    rule("operators", "socket = \"admin\", uid = \"any\"", nodes)
        + &rule("nodes", &format!("client = \"{nodes}\", socket = \"mesh\""), "{client}")
}

fn server(lifetime: &str) -> Chancery {
    Chancery::with(Options {
        arguments: vec!["--sds-tcp".into(), "mesh=127.0.0.1:0".into()],
        policy: Some(policy(lifetime)),
        ..Options::default()
    })
}

fn port(server: &Chancery) -> SocketAddr {
    let addresses = server.addresses();
    let port = &addresses["sds_tcp"][0];
    assert_eq!(port["name"], "mesh", "{addresses}");
    port["address"].as_str().expect("an address").parse().expect("an address")
}

/// The only URI name and the serial of a certificate.
fn names(der: &[u8]) -> (String, String) {
    let (_, certificate) = X509Certificate::from_der(der).expect("a certificate");
    let names = certificate.subject_alternative_name().expect("names").expect("names").value.general_names.clone();
    let [GeneralName::URI(uri)] = names.as_slice() else { panic!("{names:?}") };
    ((*uri).to_owned(), hex::encode(certificate.raw_serial()))
}

#[test]
fn a_certificate_of_ours_gets_secrets_over_tcp() {
    let server = server("24h");
    let (node, to) = (Identity::issue(&server, NODE, "node"), port(&server));
    run(async {
        let stream = node.handshake(to).await.expect("a handshake");
        let tls = stream.get_ref().1;
        assert_eq!(tls.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(tls.negotiated_key_exchange_group().map(|group| group.name()), Some(NamedGroup::X25519MLKEM768));
        assert_eq!(tls.alpn_protocol(), Some(&b"h2"[..]));
        let (name, serial) = names(&tls.peer_certificates().expect("a chain")[0]);
        assert_eq!(name, "spiffe://example.org/chancery/server");
        let own = server.wait_for_record("the server's own certificate", |record| {
            record["action"] == "certificate.issue" && record["certificate"]["serial"] == serial.as_str()
        });
        assert_eq!((&own["actor"]["attested_by"], &own["policy"]["rule"]), (&json!("self"), &json!("(server)")));

        let channel = node.connect(to).await.expect("a connection");
        let mut stream = sds::Stream::open(channel.clone(), "n", "default", "").await.expect("a stream");
        let update = stream.next(SOON).await.expect("a certificate");
        stream.acknowledge(&update).await;
        let serial = sds::serial(&update.certificate().0);
        let record = server.wait_for_record("the issue over TCP", |record| {
            record["action"] == "certificate.issue" && record["certificate"]["serial"] == serial.as_str()
        });
        assert_eq!(record["subject"], NODE);
        assert_eq!(record["actor"]["attested_by"], "client_certificate");
        assert_eq!(record["actor"]["id"], NODE);
        assert_eq!(record["actor"]["serial"], node.serial().as_str());
        assert_eq!(record["source"]["socket"], "mesh");
        let mut roots = sds::Stream::open(channel, "n", "ROOTCA", "").await.expect("a stream");
        assert!(!roots.next(SOON).await.expect("roots").roots().is_empty());
        // Its leaf alone is enough: what stands above it is ours to know.
        assert_eq!(node.leaf_alone().refusal(to).await, "accepted");
    });
    let status = server.run(&["status"]).expect(0).out;
    assert!(status.contains(&format!("tls://{to}")), "{status}");
}

/// A certificate by a stranger's CA, which calls itself what it likes.
fn foreign(uris: &[&str], ca: bool) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = uris.iter().map(|uri| rcgen::SanType::URI((*uri).try_into().unwrap())).collect();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    if ca {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    }
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
}

#[test]
fn strangers_are_refused_with_an_alert_and_a_record() {
    let server = server("24h");
    let (node, to) = (Identity::issue(&server, NODE, "node"), port(&server));
    let other = "spiffe://example.com/node/a";
    for (uris, ca) in [(&[NODE][..], false), (&[other][..], false), (&[NODE][..], true), (&[NODE, other][..], false)] {
        let (chain, key) = foreign(uris, ca);
        let said = run(node.showing(chain, key).refusal(to));
        assert!(said.contains("UnknownCA") || said.contains("Certificate"), "{uris:?} {ca}: {said}");
    }
    let said = run(node.nobody().refusal(to));
    assert!(said.contains("CertificateRequired"), "{said}");
    let records = server.records_of("attest.refuse", 2);
    for why in ["no client certificate", "the client certificate does not verify: no root of the bundle is above it"] {
        let record = records.iter().find(|record| record["reason"] == why);
        let record = record.unwrap_or_else(|| panic!("{why}: {records:#?}"));
        assert_eq!(record["source"]["socket"], "mesh", "{record}");
        assert!(record["subject"].is_null(), "a stranger's words are not recorded: {record}");
    }
    assert_eq!(run(node.refusal(to)), "accepted");
}

#[test]
fn what_is_no_tls_1_3_gets_nowhere_and_holds_nobody_up() {
    let server = server("24h");
    let (node, to) = (Identity::issue(&server, NODE, "node"), port(&server));
    run(async {
        let mut plain = TcpStream::connect(to).await.unwrap();
        plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _ = plain.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP") && answer.len() < 64, "{answer:?}");
        // Half-open ones take at most half of the places: from another address there is room.
        let mut half_open = Vec::new();
        for _ in 0..300 {
            half_open.push(TcpStream::connect(to).await.unwrap());
        }
        let stream = node.handshake_from([127, 0, 0, 2], to).await.expect("room for another address");
        drop(stream);
        // And they are cut off in time.
        let begun = Instant::now();
        let mut last = half_open.swap_remove(0);
        let ended = tokio::time::timeout(SOON, last.read(&mut [0; 1])).await.expect("an end");
        assert!(matches!(ended, Ok(0) | Err(_)) && begun.elapsed() < Duration::from_secs(15), "{ended:?}");
        assert_eq!(node.refusal(to).await, "accepted");
    });
    let Some(openssl) = need("openssl") else { return };
    let files = |name: &str| node.directory().join(name).display().to_string();
    let client = |version: &str| {
        let mut command = Command::new(&openssl);
        command.args(["s_client", "-connect", &to.to_string(), version, "-alpn", "h2", "-cert", &files("cert.pem")]);
        command.args(["-key", &files("key.pem"), "-CAfile", &files("bundle.pem"), "-verify_return_error"]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let said = client("-tls1_2");
    assert!(said.contains("protocol version"), "{said}");
    let said = client("-tls1_3");
    assert!(said.contains("Verify return code: 0 (ok)") && said.contains("ALPN protocol: h2"), "{said}");
    assert!(!said.contains("New Session Ticket"), "{said}");
}

#[test]
fn a_connection_ends_with_its_certificate() {
    let server = server("8s");
    let (node, to) = (Identity::issue(&server, NODE, "node"), port(&server));
    run(async {
        let channel = node.connect(to).await.expect("a connection");
        let mut stream = sds::Stream::open(channel, "n", "ROOTCA", "").await.expect("a stream");
        stream.next(SOON).await.expect("roots");
        let ended = stream.next(SOON).await.expect_err("nothing more comes");
        assert_ne!(ended.code(), tonic::Code::DeadlineExceeded, "{ended}");
        let said = node.refusal(to).await;
        assert!(said.contains("CertificateExpired"), "{said}");
    });
    let record = server.wait_for_record("the refusal", |record| record["action"] == "attest.refuse");
    assert_eq!(record["reason"], "the client certificate does not verify: it has expired", "{record}");
}

#[test]
fn a_revoked_client_is_cut_off_refused_and_recorded() {
    let server = server("24h");
    let (stolen, to) = (Identity::issue(&server, NODE, "node"), port(&server));
    let fresh = Identity::issue(&server, NODE, "fresh");
    let other = Identity::issue(&server, "spiffe://example.org/node/b", "other");
    run(async {
        let mut held = Vec::new();
        for identity in [&stolen, &fresh, &other] {
            let channel = identity.connect(to).await.expect("a connection");
            let mut stream = sds::Stream::open(channel, "n", "default", "").await.expect("a stream");
            let update = stream.next(SOON).await.expect("a certificate");
            stream.acknowledge(&update).await;
            held.push(stream);
        }
        // A thief asks on the connection of the holder for what its rule makes of it, `{client}`, again and again.
        let mut thief =
            sds::Stream::open(stolen.connect(to).await.expect("a connection"), "n", NODE, "").await.unwrap();
        assert_eq!(thief.next(SOON).await.expect("it renews itself").secret.name, NODE);
        let issued = server.records_of("certificate.issue", 4).len();
        // Its serial: that one certificate, wherever it is used.
        let serial = stolen.serial();
        server.run(&["cert", "revoke", "--serial", &serial, "--reason", "key-compromise", "--yes"]).expect(0);
        let ended = held[0].next(SOON).await.expect_err("its stream ends");
        assert_ne!(ended.code(), tonic::Code::DeadlineExceeded, "{ended}");
        assert!(thief.next(SOON).await.is_err(), "and so does the thief's");
        if let Ok(channel) = stolen.connect(to).await {
            assert!(sds::Stream::open(channel, "n", NODE, "").await.is_err(), "nor does it come back");
        }
        let said = stolen.refusal(to).await;
        assert!(said.contains("CertificateRevoked"), "{said}");
        assert_eq!(server.records_of("certificate.issue", issued).len(), issued, "nothing more was issued to it");
        let refused = server.wait_for_record("the refusal", |record| record["action"] == "attest.refuse");
        assert_eq!((&refused["subject"], &refused["serial"]), (&json!(NODE), &json!(serial)), "{refused}");
        assert_eq!(refused["reason"], "the client certificate is revoked", "{refused}");
        assert_eq!(fresh.refusal(to).await, "accepted", "the same identity by another certificate");

        // The identity: whoever shows it, until it is released.
        server.run(&["cert", "revoke", "--identity", NODE, "--yes"]).expect(0);
        let ended = held[1].next(SOON).await.expect_err("its stream ends");
        assert_ne!(ended.code(), tonic::Code::DeadlineExceeded, "{ended}");
        let said = fresh.refusal(to).await;
        assert!(said.contains("CertificateRevoked"), "{said}");
        assert_eq!(other.refusal(to).await, "accepted", "others stay");
        server.run(&["cert", "release", NODE]).expect(0);
        let again = Identity::issue(&server, NODE, "again");
        assert_eq!(again.refusal(to).await, "accepted");
        let said = fresh.refusal(to).await;
        assert!(said.contains("CertificateRevoked"), "what was revoked stays so: {said}");
    });
}

#[test]
fn the_servers_own_certificate_is_replaced_at_once_when_it_is_revoked() {
    let server = server("24h");
    let (node, to) = (Identity::issue(&server, NODE, "node"), port(&server));
    let shown = || {
        let stream = run(node.handshake(to)).expect("a handshake");
        names(&stream.get_ref().1.peer_certificates().unwrap()[0]).1
    };
    let first = shown();
    server.run(&["cert", "revoke", "--serial", &first, "--yes"]).expect(0);
    let second = eventually("another certificate is shown", SOON, || Some(shown()).filter(|serial| *serial != first));
    let record = server.wait_for_record("its renewal", |record| record["certificate"]["serial"] == second.as_str());
    assert_eq!(record["certificate"]["renewal_cause"], "forced", "{record}");
}

#[test]
fn the_servers_own_certificate_changes_while_it_listens() {
    // Its own lives as long as the longest in the policy, and is renewed at the half.
    let server = server("6s");
    let to = port(&server);
    let mut seen = Vec::new();
    let begun = Instant::now();
    while seen.len() < 3 && begun.elapsed() < SOON {
        let node = Identity::issue(&server, NODE, "node");
        let stream = run(node.handshake(to)).expect("a handshake, whenever");
        let serial = names(&stream.get_ref().1.peer_certificates().unwrap()[0]).1;
        if !seen.contains(&serial) {
            seen.push(serial);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
    let renewed = server.wait_for_record("the renewal", |record| {
        record["action"] == "certificate.renew" && record["certificate"]["serial"] == seen[1].as_str()
    });
    assert_eq!(renewed["certificate"]["previous_serial"], seen[0].as_str(), "{renewed}");
    assert_eq!(renewed["subject"], "spiffe://example.org/chancery/server");
}

/// What `chancery envoy bootstrap` writes, with its SDS cluster on TCP: the certificate that `cert issue` wrote.
fn over_tcp(mut configuration: Value, to: SocketAddr, node: &Identity) -> Value {
    let file = |name: &str| json!({"filename": node.directory().join(name)});
    let clusters = configuration["static_resources"]["clusters"].as_array_mut().unwrap();
    let cluster = clusters.iter_mut().find(|cluster| cluster["name"] == "chancery_sds").expect("the SDS cluster");
    cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"] =
        json!({"socket_address": {"address": "127.0.0.1", "port_value": to.port()}});
    cluster["transport_socket"] = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
                "tls_certificates": [{"certificate_chain": file("cert.pem"), "private_key": file("key.pem")}],
                "validation_context": {
                    "trusted_ca": file("bundle.pem"),
                    "match_typed_subject_alt_names": [{
                        "san_type": "URI", "matcher": {"exact": "spiffe://example.org/chancery/server"}
                    }],
                },
            },
        },
    });
    configuration
}

#[test]
fn a_real_envoy_gets_its_certificate_over_mutual_tls_and_keeps_it_over_our_restart() {
    let Some(envoy) = need("envoy") else { return };
    let _alone = alone();
    let listener = format!("mesh=127.0.0.1:{}", free_port());
    let arguments = vec!["--sds-tcp".into(), listener];
    let options = Options { arguments, policy: Some(policy("24h")), ..Options::default() };
    let mut server = Chancery::with(options);
    let (node, to, echo) = (Identity::issue(&server, NODE, "node"), port(&server), Echo::start());
    let socket = server.socket("sds").display().to_string();
    let (listen, upstream) = (format!("127.0.0.1:{}", free_port()), echo.address().to_string());
    let words = ["envoy", "bootstrap", "--role", "server", "--sds-socket", &socket, "--listen", &listen];
    let more = ["--upstream", &upstream, "--peer", NODE, "--node", "a", "--output", "json"];
    let configuration = server.run(&[&words[..], &more[..]].concat()).expect(0).json();
    let envoy = Envoy::start(&envoy, "tcp", &over_tcp(configuration, to, &node), server.scratch());
    // Two of one identity: the file that it connects with, and what it got.
    let got = |envoy: &Envoy| envoy.leaves().into_iter().map(|(serial, _)| serial).find(|one| *one != node.serial());
    let serial = eventually("the Envoy has its certificate", Duration::from_secs(20), || got(&envoy));

    // A client that shows the node's certificate gets through the Envoy.
    let through = |node: &Identity| run(node.handshake(envoy.listener())).is_ok();
    assert!(through(&node), "{}", envoy.output());
    assert!(try_get(envoy.listener(), "/").is_err(), "nobody without a certificate");

    let connections = envoy.stat("cluster.chancery_sds.upstream_cx_total");
    server.kill();
    server.start();
    eventually("the Envoy is back", Duration::from_secs(60), || {
        (envoy.stat("cluster.chancery_sds.upstream_cx_total") > connections
            && envoy.stat("cluster.chancery_sds.upstream_cx_active") > 0)
            .then_some(())
    });
    assert_eq!(got(&envoy), Some(serial), "what it holds is not issued again");
    let issued = server.records_of("certificate.issue", 1);
    let over_tcp = issued.iter().filter(|record| record["actor"]["attested_by"] == "client_certificate");
    assert_eq!(over_tcp.count(), 1, "{issued:#?}");
    assert_eq!(envoy.stat("update_rejected"), 0, "{}", envoy.output());
}

#[test]
fn two_remote_envoys_lose_no_request_while_chancery_is_killed_and_comes_back() {
    let Some(envoy) = need("envoy") else { return };
    let _alone = alone();
    let listener = format!("mesh=127.0.0.1:{}", free_port());
    let arguments = vec!["--sds-tcp".into(), listener];
    let options = Options { arguments, policy: Some(policy("24h")), ..Options::default() };
    let mut server = Chancery::with(options);
    let (to, echo) = (port(&server), Echo::start());
    let [web, api] = ["web", "api"].map(|name| format!("spiffe://example.org/node/{name}"));
    let between = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let remote = |role: &str, identity: &str, configuration: Value| {
        let configuration = over_tcp(configuration, to, &Identity::issue(&server, identity, role));
        Envoy::start(&envoy, role, &few_requests_per_connection(configuration), server.scratch())
    };
    let inner = bootstrap(&server, "server", "sds", between.port(), echo.address(), &web, &[]);
    let inner = remote("api", &api, inner);
    let outer = bootstrap(&server, "client", "sds", free_port(), between, &api, &[]);
    let outer = remote("web", &web, outer);
    eventually("a request goes the whole way", SOON, || {
        try_get(outer.listener(), "/first").ok().filter(|answer| answer.status == 200)
    });

    let issued = server.records_of("certificate.issue", 2).len();
    let load = Load::start(outer.listener());
    for _ in 0..3 {
        load.wait_for(100);
        server.kill();
        load.wait_for(100);
        server.start();
        eventually("all four streams are back", Duration::from_secs(60), || {
            let status = server.run(&["status", "--output", "json"]).expect(0).json();
            (status["streams"] == 4).then_some(())
        });
    }
    load.wait_for(100);
    load.stop().expect_none_failed(700);
    let after = server.records_of("certificate.issue", issued);
    let theirs = after.iter().filter(|record| record["actor"]["attested_by"] == "client_certificate");
    assert_eq!(theirs.count(), 2, "nothing was issued again: {after:#?}");
    for one in [&inner, &outer] {
        assert_eq!(one.stat("update_rejected"), 0, "{}", one.output());
    }
}
