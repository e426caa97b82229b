//! The operator's hands on issuing CAs, with the real program over its admin socket: rolled over, tainted, tainted and
//! killed in the middle; what streams, OpenSSL and real Envoys see of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;

use crate::harness::chancery::{Chancery, Options, Said, said};
use crate::harness::http::try_get;
use crate::harness::load::Load;
use crate::harness::mtls::Identity;
use crate::harness::pair::{Pair, Setup};
use crate::harness::policy::{self, Rule};
use crate::harness::{SOON, alone, eventually, full, http, ledger, need, sds};

const WEB: &str = "spiffe://example.org/ns/shop/sa/web";

/// Streams that hold certificates while their issuing CA is tainted.
const HOLDERS: usize = 24;

/// How long a stream is listened to that should hear nothing.
const QUIET: Duration = Duration::from_millis(300);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn server() -> Chancery {
    Chancery::with_policy(&policy::text(&[Rule::own(WEB, "24h")]))
}

/// `ca show --all`: state and serial of the authority of that name.
fn authority(server: &Chancery, name: &str) -> (String, String) {
    let shown = server.run(&["ca", "show", "--all", "--output", "json"]).expect(0).json();
    let found = shown["authorities"].as_array().unwrap().iter().find(|one| one["name"] == name).cloned();
    let found = found.unwrap_or_else(|| panic!("{name} is not in {shown}"));
    (found["state"].as_str().unwrap().to_owned(), found["serial"].as_str().unwrap().to_owned())
}

fn blocks(pem: &[u8]) -> Vec<x509_parser::pem::Pem> {
    x509_parser::pem::Pem::iter_from_buffer(pem).map(|block| block.unwrap()).collect()
}

/// Who issued the first certificate of a chain: `issuing 2`.
fn issuer(chain: &[u8]) -> String {
    let leaf = blocks(chain).remove(0);
    let name = leaf.parse_x509().unwrap().issuer().to_string();
    let at = name.find("issuing ").unwrap_or_else(|| panic!("{name} names no issuing CA"));
    name[at..].to_owned()
}

/// The serials on the CRL of the root, among CRLs in PEM.
fn on_the_roots_list(crls: &[u8]) -> Vec<String> {
    let lists = blocks(crls).into_iter().filter_map(|block| {
        let (_, list) = x509_parser::parse_x509_crl(&block.contents).unwrap();
        let serials = list.iter_revoked_certificates().map(|one| hex::encode(one.raw_serial())).collect();
        list.issuer().to_string().contains("root ").then_some(serials)
    });
    lists.collect::<Vec<Vec<String>>>().concat()
}

/// `openssl verify` with the CRL of every authority, as they are served now.
fn openssl(openssl: &Path, server: &Chancery, name: &str, chain: &[u8]) -> Said {
    let file = |what: &str, content: &[u8]| -> PathBuf {
        let path = server.scratch().join(format!("{name}.{what}.pem"));
        std::fs::write(&path, content).unwrap();
        path
    };
    let second = std::str::from_utf8(chain).unwrap().match_indices("-----BEGIN").nth(1).unwrap().0;
    let (leaf, issuing) = (file("leaf", &chain[..second]), file("issuing", &chain[second..]));
    let roots = file("roots", server.run(&["bundle", "show"]).expect(0).out.as_bytes());
    let crls = file("crls", http::get(server.http(), "/crl").text().as_bytes());
    let mut command = Command::new(openssl);
    command.args(["verify", "-x509_strict", "-crl_check_all", "-CAfile"]).arg(roots).arg("-CRLfile").arg(crls);
    said(command.arg("-untrusted").arg(issuing).arg(leaf))
}

/// Runs a command of the operator's while the runtime goes on.
async fn run(server: &Chancery, words: &[&str]) -> Said {
    let mut command = server.command(words);
    tokio::task::spawn_blocking(move || said(&mut command)).await.unwrap()
}

/// Records of anything but leaves, whose signatures are noted a moment later.
fn acts(server: &Chancery) -> usize {
    let of_leaves = |record: &Value| record["action"].as_str().is_some_and(|action| action.starts_with("certificate."));
    server.records().iter().filter(|record| !of_leaves(record)).count()
}

/// The steps that a command printed: `prepared issuing 2`.
fn steps(report: &Value) -> Vec<String> {
    let steps = report["steps"].as_array().unwrap_or_else(|| panic!("{report}")).iter();
    steps.map(|step| format!("{} {}", step["step"].as_str().unwrap(), step["authority"].as_str().unwrap())).collect()
}

/// Acknowledges whatever comes, until the stream ends; tells each.
async fn follow(mut stream: sds::Stream, told: tokio::sync::mpsc::UnboundedSender<sds::Update>) {
    while let Ok(update) = stream.next(SOON).await {
        stream.acknowledge(&update).await;
        if told.send(update).is_err() {
            return;
        }
    }
}

#[test]
fn a_roll_over_by_hand_disturbs_nobody_and_new_requests_come_under_the_new_ca() {
    let mut server = server();
    let (old, new) = runtime().block_on(async {
        let channel = sds::connect(&server.socket("sds")).await.unwrap();
        let mut stream = sds::Stream::open(channel.clone(), "a", "default", "").await.unwrap();
        let old = stream.next(SOON).await.unwrap();
        stream.acknowledge(&old).await;
        let (told, _updates) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(follow(sds::Stream::open(channel, "a", "ROOTCA", "").await.unwrap(), told));

        let before = acts(&server);
        let plan = run(&server, &["ca", "rotate", "issuing", "--dry-run", "--output", "json"]).await.expect(0).json();
        assert_eq!((&plan["live_certificates"], &plan["connected"]), (&1.into(), &1.into()), "{plan}");
        assert_eq!(acts(&server), before, "a dry run changes nothing");

        let words = ["ca", "rotate", "issuing", "--reason", "drill", "--output", "json"];
        let report = run(&server, &words).await.expect(0).json();
        assert_eq!(steps(&report), ["prepared issuing 2", "activated issuing 2", "retired issuing 1"]);
        assert_eq!((&report["streams"], &report["acked"]), (&1.into(), &1.into()), "{report}");
        assert!(stream.next(QUIET).await.is_err(), "who holds a certificate is sent nothing");

        let channel = sds::connect(&server.socket("sds")).await.unwrap();
        let mut other = sds::Stream::open(channel, "b", "default", "").await.unwrap();
        (old.certificate().0, other.next(SOON).await.unwrap().certificate().0)
    });
    assert_eq!((issuer(&old).as_str(), issuer(&new).as_str()), ("issuing 1", "issuing 2"));
    if let Some(program) = need("openssl") {
        openssl(&program, &server, "old", &old).expect(0);
        openssl(&program, &server, "new", &new).expect(0);
    }
    let act = server.wait_for_record("the act", |record| record["change"]["what"] == "ca.rotate");
    let activated = server.records_of("ca.activate", 3).pop().unwrap();
    assert_eq!(act["request_id"], activated["request_id"], "{activated}");
    assert_eq!((&act["reason"], &act["subject"]), (&"drill".into(), &"issuing 1".into()));

    for (name, word) in
        [("issuing 1", "goes by itself"), ("issuing 2", "ca rotate issuing"), ("root 1", "ca rotate root")]
    {
        server.run(&["ca", "retire", name]).expect(1).expect_words(&[word]);
    }
    server.run(&["ca", "rotate", "leaf"]).expect(2);
    server.kill();
    server.start();
    assert_eq!(authority(&server, "issuing 1").0, "retiring");
    assert_eq!(authority(&server, "issuing 2").0, "active");
    server.run(&["audit", "verify"]).expect(0);
}

/// A server for many identities.
fn for_many() -> Chancery {
    let policy = "[[rule]]\nname = \"many\"\nmatch = { uid = \"any\", socket = \"sds\" }\n\
                  identity = \"spiffe://{trust_domain}/many/*\"\n";
    Chancery::with(Options { policy: Some(policy.to_owned()), ..Options::default() })
}

async fn holder(server: &Chancery, number: usize) -> sds::Stream {
    let channel = sds::connect(&server.socket("sds")).await.unwrap();
    let name = format!("spiffe://example.org/many/{number}");
    sds::Stream::open(channel, &number.to_string(), &name, "").await.unwrap()
}

/// Holds a certificate and then the next; notes what came, in the order in which it came. The stream stays open.
async fn hold(mut stream: sds::Stream, seen: Arc<Mutex<Vec<String>>>) -> ([Vec<u8>; 2], sds::Stream) {
    let mut chains = Vec::new();
    for _ in 0..2 {
        let update = stream.next(SOON).await.expect("a certificate");
        let chain = update.certificate().0;
        seen.lock().unwrap().push(format!("leaf under {}", issuer(&chain)));
        stream.acknowledge(&update).await;
        chains.push(chain);
    }
    (chains.try_into().unwrap(), stream)
}

#[test]
fn a_taint_gives_every_holder_another_certificate_and_then_revokes_the_ca() {
    let mut server = for_many();
    let (runtime, seen) = (runtime(), Arc::new(Mutex::new(Vec::new())));
    let tainted = authority(&server, "issuing 1").1;
    let noted = |what: &str| seen.lock().unwrap().iter().filter(|one| *one == what).count();
    let holders = runtime.block_on(async {
        let mut holders = JoinSet::new();
        for number in 0..HOLDERS {
            holders.spawn(hold(holder(&server, number).await, Arc::clone(&seen)));
        }
        eventually("all of them hold one", SOON, || (noted("leaf under issuing 1") == HOLDERS).then_some(()));
        let channel = sds::connect(&server.socket("sds")).await.unwrap();
        let (told, mut updates) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(follow(sds::Stream::open(channel, "a", "ROOTCA", "").await.unwrap(), told));
        assert_eq!(on_the_roots_list(&updates.recv().await.unwrap().crls()), [""; 0]);

        let before = acts(&server);
        let plan = ["ca", "taint", "issuing 1", "--dry-run"];
        let plan = run(&server, &[&plan[..], &["--output", "json"]].concat()).await.expect(0).json();
        assert_eq!((&plan["connected"], &plan["makes_new"]), (&HOLDERS.into(), &true.into()), "{plan}");
        run(&server, &["ca", "taint", "issuing 1"]).await.expect(2).expect_words(&["--yes", "for good"]);
        assert_eq!(acts(&server), before, "neither the plan nor the question changes anything");

        let words = ["ca", "taint", "issuing 1", "--yes", "--reason", "key-compromise", "--output", "json"];
        let report = run(&server, &words).await.expect(0).json();
        let expected = ["prepared issuing 2", "activated issuing 2", "tainted issuing 1", "revoked issuing 1"];
        assert_eq!(steps(&report), expected);
        assert_eq!((&report["reissued"]["acked"], &report["acked"]), (&HOLDERS.into(), &1.into()), "{report}");
        loop {
            let update = updates.recv().await.unwrap();
            if on_the_roots_list(&update.crls()) == [tainted.clone()] {
                break;
            }
        }
        assert_eq!(noted("leaf under issuing 2"), HOLDERS, "each of them before the CA is revoked");
        holders
    });
    let held = runtime.block_on(holders.join_all());
    let [old, new] = &held[0].0;
    if let Some(program) = need("openssl") {
        let refused = openssl(&program, &server, "old", old);
        assert!(refused.code != 0 && refused.err.contains("certificate revoked"), "{refused:?}");
        openssl(&program, &server, "new", new).expect(0);
    }
    stands_after_restarts(&mut server, &tainted);
}

/// A finished taint of `issuing 1`, whose serial that is, is the same after a crash and without the index.
fn stands_after_restarts(server: &mut Chancery, serial: &str) {
    let taint = server.records_of("ca.taint", 1).remove(0);
    assert_eq!((&taint["authority"]["state"], &taint["authority"]["name"]), (&"tainted".into(), &"issuing 1".into()));
    let revocations = server.records_of("certificate.revoke", 1);
    let [revocation] = revocations.as_slice() else { panic!("{revocations:?}") };
    assert_eq!((&revocation["serial"], &revocation["subject"]), (&serial.into(), &"issuing 1".into()));
    assert_eq!(revocation["request_id"], taint["request_id"]);
    assert_eq!(revocation["reason"], taint["reason"]);
    for without_index in [false, true] {
        server.kill();
        if without_index {
            std::fs::remove_file(server.data().join("index.redb")).unwrap();
        }
        server.start();
        assert_eq!(on_the_roots_list(http::get(server.http(), "/crl").text().as_bytes()), [serial.to_owned()]);
        assert_eq!(authority(server, "issuing 1").0, "tainted");
        assert_eq!(authority(server, "issuing 2").0, "active");
        server.run(&["ca", "taint", "issuing 1", "--yes"]).expect(1).expect_words(&["revoked already"]);
        server.run(&["ca", "taint", "issuing 9", "--yes"]).expect(1).expect_words(&["ca show"]);
        server.run(&["ca", "taint", "root 1", "--yes"]).expect(1).expect_words(&["ca rotate root", "operations.md"]);
    }
    assert_eq!(server.records_of("certificate.revoke", 1).len(), 1, "nothing was done twice");
    let shown = server.run(&["ca", "show"]).expect(0).out;
    assert!(shown.contains("tainted"), "{shown}");
    server.run(&["audit", "verify"]).expect(0);
}

#[test]
fn a_taint_that_a_kill_cut_short_is_finished_by_the_next_start() {
    let mut server = for_many();
    let runtime = runtime();
    let serial = authority(&server, "issuing 1").1;
    let version = runtime.block_on(async {
        // Whoever never acknowledges its new certificate is waited for, with the CA not revoked yet.
        let mut stream = holder(&server, 7).await;
        let first = stream.next(SOON).await.unwrap();
        stream.acknowledge(&first).await;
        let mut tainting = server.command(&["ca", "taint", "issuing 1", "--yes"]);
        tainting.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut tainting = tainting.spawn().unwrap();
        let second = stream.next(SOON).await.unwrap();
        assert_eq!(issuer(&second.certificate().0), "issuing 2");
        server.records_of("ca.taint", 1);
        server.kill();
        let _ = tainting.wait();
        first.version
    });
    let revoked = |server: &Chancery| server.records().iter().any(|record| record["action"] == "certificate.revoke");
    assert!(!revoked(&server), "it was cut short");
    server.start();
    assert!(revoked(&server), "the start has finished it");
    runtime.block_on(async {
        let channel = sds::connect(&server.socket("sds")).await.unwrap();
        let name = "spiffe://example.org/many/7";
        let mut stream = sds::Stream::open(channel, "7", name, &version).await.unwrap();
        let update = stream.next(SOON).await.expect("another for the one that is worth nothing any more");
        assert_eq!(issuer(&update.certificate().0), "issuing 2");
    });
    stands_after_restarts(&mut server, &serial);
}

/// The number of the issuing CA that signs; the only one that does.
fn active(server: &Chancery) -> u32 {
    let shown = server.run(&["ca", "show", "--output", "json"]).expect(0).json();
    let all = shown["authorities"].as_array().unwrap().iter();
    let active: Vec<&str> = all
        .filter(|one| one["level"] == "issuing" && one["state"] == "active")
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    let [one] = active.as_slice() else { panic!("{shown}") };
    one.strip_prefix("issuing ").unwrap().parse().unwrap()
}

#[test]
fn a_kill_at_any_moment_of_a_taint_leaves_what_a_second_order_finishes() {
    let mut server = for_many();
    let runtime = runtime();
    let mut all = Vec::new();
    for round in 0..if full() { 40 } else { 8 } {
        let name = format!("issuing {}", active(&server));
        all.push(authority(&server, &name).1);
        let (told, _updates) = tokio::sync::mpsc::unbounded_channel();
        let stream = runtime.block_on(holder(&server, round));
        let stream = runtime.spawn(follow(stream, told));
        server.records_of("certificate.issue", all.len());
        let mut tainting = server.command(&["ca", "taint", &name, "--yes"]);
        tainting.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let ordered = |record: &Value| record["change"]["what"] == "ca.taint" && record["subject"] == name.as_str();
        let mut tainting = tainting.spawn().unwrap();
        eventually("it is ordered", SOON, || ledger::records(&server.data()).iter().any(ordered).then_some(()));
        std::thread::sleep(Duration::from_millis(u64::try_from(round).unwrap() * 7 % 40));
        server.kill();
        let _ = tainting.wait();
        stream.abort();
        server.start();
        let state = authority(&server, &name).0;
        println!("round {round}: {name} is {state} after the kill");
        let again = server.run(&["ca", "taint", &name, "--yes"]);
        assert!(again.code == 0 || again.err.contains("revoked already"), "{again:?}");
        let mut listed = on_the_roots_list(http::get(server.http(), "/crl").text().as_bytes());
        listed.sort();
        all.sort();
        assert_eq!(listed, all, "round {round}");
        assert_ne!(format!("issuing {}", active(&server)), name);
    }
    server.run(&["audit", "verify"]).expect(0);
}

#[test]
fn a_client_certificate_under_a_tainted_ca_opens_no_connection_any_more() {
    const NODE: &str = "spiffe://example.org/node/a";
    let rule = |name: &str, condition: &str, identity: &str| {
        format!("[[rule]]\nname = \"{name}\"\nmatch = {{ {condition} }}\nidentity = \"{identity}\"\n\n")
    };
    let nodes = "spiffe://{trust_domain}/node/*";
    let policy = rule("operators", "socket = \"admin\", uid = \"any\"", nodes)
        + &rule("nodes", &format!("client = \"{nodes}\", socket = \"mesh\""), "{client}");
    let arguments = vec!["--sds-tcp".into(), "mesh=127.0.0.1:0".into()];
    let server = Chancery::with(Options { arguments, policy: Some(policy), ..Options::default() });
    let port = server.addresses()["sds_tcp"][0]["address"].as_str().unwrap().parse().unwrap();
    let node = Identity::issue(&server, NODE, "node");
    runtime().block_on(async {
        let channel = node.connect(port).await.unwrap();
        let mut stream = sds::Stream::open(channel, "n", "default", "").await.unwrap();
        let update = stream.next(SOON).await.unwrap();
        stream.acknowledge(&update).await;
        let plan = run(&server, &["ca", "taint", "issuing 1", "--dry-run", "--output", "json"]).await.expect(0).json();
        assert_eq!((&plan["connected"], &plan["over_tcp"]), (&1.into(), &1.into()), "{plan}");
        // Its stream is gone before it can be helped, and the command says so.
        let told = run(&server, &["ca", "taint", "issuing 1", "--yes"]).await;
        assert!(told.out.contains("revoked"), "{told:?}");
        while stream.next(SOON).await.is_ok() {}
        assert!(node.refusal(port).await.contains("CertificateRevoked"));
        let again = Identity::issue(&server, NODE, "again");
        assert_eq!(again.refusal(port).await, "accepted");
    });
    server.run(&["audit", "verify"]).expect(0);
}

#[test]
fn requests_go_on_through_a_roll_over_and_a_taint_and_the_old_certificate_is_refused() {
    let Some(envoy) = need("envoy") else { return };
    let _alone = alone();
    let pair = Pair::with(&envoy, Setup::default());
    pair.wait_until_it_works();
    let stolen = pair.chancery.scratch().join("stolen").display().to_string();
    let socket = pair.chancery.socket("web").display().to_string();
    pair.chancery.run(&["fetch", "--once", "--dir", &stolen, "--socket", &socket]).expect(0);
    let listener = pair.server.listener().to_string();
    let probe = ["probe", &listener, "--identity-dir", &stolen];
    pair.chancery.run(&probe).expect(0);

    let load = Load::start(pair.client.listener());
    pair.chancery.run(&["ca", "rotate", "issuing"]).expect(0);
    load.wait_for(40);
    let before = [pair.client.serial(), pair.server.serial()];
    for name in ["issuing 2", "issuing 1"] {
        pair.chancery.run(&["ca", "taint", name, "--yes"]).expect(0);
        load.wait_for(40);
    }
    load.stop().expect_none_failed(120);
    pair.expect_nothing_refused();
    let after = [pair.client.serial(), pair.server.serial()];
    assert!(before.iter().zip(&after).all(|(before, after)| before != after), "{after:?}");
    eventually("the stolen certificate is refused", SOON, || {
        let refused = pair.chancery.run(&[&probe[..], &["--expect-refused"]].concat());
        (refused.code == 0).then_some(())
    });
    assert_eq!(try_get(pair.client.listener(), "/").unwrap().status, 200);
    pair.chancery.run(&["audit", "verify"]).expect(0);
}
