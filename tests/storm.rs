//! Very many clients at once, and clients that behave badly: everybody is served, nobody gets what he holds already again,
//! memory stays under what `docs/operations.md` states, and a stop under load loses nothing that anyone received.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::task::JoinSet;

use crate::harness::chancery::{Chancery, Options};
use crate::harness::{SOON, alone, eventually, full, sds};

/// Clients, each with a connection of its own: of one run, and of a full one.
const CLIENTS: [usize; 2] = [1_000, 10_000];

/// Sockets that they are spread over: limits count by socket and user.
const SOCKETS: [&str; 4] = ["a", "b", "c", "d"];

/// How long everything may take at full size on a busy machine.
const LONG: Duration = Duration::from_secs(240);

/// `docs/operations.md`, "How much memory": a server with no stream, in KiB.
const AT_REST_KIB: u64 = 128 << 10;
/// The same: a stream, in KiB.
const STREAM_KIB: u64 = 64;
/// The same: what one caller's unfinished requests may hold, in KiB.
const REQUESTS_KIB: u64 = 64 << 10;

/// `limits.drain`.
const DRAIN: Duration = Duration::from_secs(10);

fn chancery() -> Chancery {
    let sockets = SOCKETS.iter().flat_map(|name| ["--sds-socket".to_owned(), format!("{name}={name}.sock")]);
    let names = SOCKETS.map(|name| format!("\"{name}\"")).join(", ");
    let policy = format!(
        "[[rule]]\nname = \"many\"\nmatch = {{ uid = \"any\", socket = [\"sds\", {names}] }}\n\
         identity = \"spiffe://{{trust_domain}}/many/*\"\n"
    );
    Chancery::with(Options { arguments: sockets.collect(), policy: Some(policy), ..Options::default() })
}

/// A client that holds a certificate.
struct Held {
    number: usize,
    stream: sds::Stream,
    update: sds::Update,
    took: Duration,
}

fn name(number: usize) -> String {
    format!("spiffe://example.org/many/{number}")
}

fn socket(server: &Chancery, number: usize) -> PathBuf {
    server.socket(SOCKETS[number % SOCKETS.len()])
}

/// All at the same moment: one connection, one stream and one certificate each.
async fn all_at_once(server: &Chancery, clients: usize) -> Vec<Held> {
    let mut asking = JoinSet::new();
    for number in 0..clients {
        let socket = socket(server, number);
        asking.spawn(async move {
            let begin = Instant::now();
            let channel = sds::connect(&socket).await.expect("a connection");
            let mut stream = sds::Stream::open(channel, "storm", &name(number), "").await.expect("a stream");
            let update = stream.next(LONG).await.expect("a certificate");
            stream.acknowledge(&update).await;
            Held { number, stream, update, took: begin.elapsed() }
        });
    }
    asking.join_all().await
}

fn quantile(took: impl Iterator<Item = Duration>, part: f64) -> f64 {
    let mut all: Vec<Duration> = took.collect();
    all.sort();
    all[((all.len() - 1) as f64 * part) as usize].as_secs_f64() * 1_000.0
}

/// What `/proc/PID/status` says, in KiB.
fn memory(server: &Chancery, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.addresses()["pid"])).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().expect("KiB")
}

fn enough_descriptors() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

#[test]
fn all_at_once_are_served_and_come_back_after_a_kill_with_what_they_hold() {
    let _alone = alone();
    enough_descriptors();
    let clients = CLIENTS[usize::from(full())];
    let mut server = chancery();
    let runtime = runtime();
    let held = runtime.block_on(all_at_once(&server, clients));
    let mut serials: Vec<String> = held.iter().map(|held| sds::serial(&held.update.certificate().0)).collect();
    serials.sort();
    serials.dedup();
    assert_eq!(serials.len(), clients, "each has its own");
    println!(
        "{clients} clients at once: p50 {:.0} ms, p99 {:.0} ms; the server's memory {} KiB, at most {} KiB",
        quantile(held.iter().map(|held| held.took), 0.5),
        quantile(held.iter().map(|held| held.took), 0.99),
        memory(&server, "VmRSS:"),
        memory(&server, "VmHWM:"),
    );
    assert!(memory(&server, "VmHWM:") < AT_REST_KIB + clients as u64 * STREAM_KIB, "more than is stated");

    server.kill();
    server.start();
    let again = runtime.block_on(async {
        let mut coming = JoinSet::new();
        for Held { number, update, .. } in held {
            let socket = socket(&server, number);
            coming.spawn(async move {
                let begin = Instant::now();
                let channel = sds::connect(&socket).await.expect("a connection");
                let held = update.version.clone();
                let stream = sds::Stream::open(channel, "storm", &name(number), &held).await.expect("a stream");
                Held { number, stream, update, took: begin.elapsed() }
            });
        }
        coming.join_all().await
    });
    let p99 = quantile(again.iter().map(|held| held.took), 0.99);
    println!(
        "{clients} clients back at once: p50 {:.0} ms, p99 {p99:.0} ms",
        quantile(again.iter().map(|h| h.took), 0.5)
    );
    // Each of them is known again, and hears of what changes from now on.
    let rotating = ["cert", "rotate", "--prefix", "spiffe://example.org/many/", "--yes", "--output", "json"];
    let mut command = server.command(&rotating);
    let rotating = command.stdout(std::process::Stdio::piped()).spawn().expect("the command runs");
    // Kept until the rotation has ended: who leaves at once is told of as gone.
    let _held = runtime.block_on(async {
        let mut waiting = JoinSet::new();
        for Held { mut stream, update, .. } in again {
            waiting.spawn(async move {
                let next = stream.next(LONG).await.expect("the rotated certificate");
                stream.acknowledge(&next).await;
                let [old, new] = [&update, &next].map(|update| sds::serial(&update.certificate().0));
                assert_ne!(old, new);
                stream
            });
        }
        waiting.join_all().await
    });
    let said = rotating.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success(), "{}", text.chars().take(600).collect::<String>());
    let renewed = server.records_of("certificate.renew", clients);
    assert_eq!(renewed.len(), clients, "once each, by the rotation: none because it came back");
    assert!(renewed.iter().all(|record| record["certificate"]["renewal_cause"] == "forced"));
    assert_eq!(server.records_of("certificate.issue", clients).len(), clients, "none was issued again");
    assert!(server.stop().success());
}

#[test]
fn clients_that_do_not_read_or_only_make_noise_hurt_nobody() {
    let _alone = alone();
    enough_descriptors();
    let server = chancery();
    let (silent, noise) = if full() { (500, 20_000) } else { (100, 2_000) };
    let runtime = runtime();
    runtime.block_on(async {
        // Streams that are opened and never read, while each is pushed certificate after certificate.
        let mut streams = Vec::new();
        for number in 0..silent {
            let channel = sds::connect(&socket(&server, number)).await.expect("a connection");
            streams.push(sds::Stream::open(channel, "silent", &name(number), "").await.expect("a stream"));
        }
        for _ in 0..5 {
            server.run(&["cert", "rotate", "--prefix", "spiffe://example.org/many/", "--yes", "--wait", "0s"]);
        }
        // Streams that are reset as soon as they are opened (CVE-2023-44487), many on each connection.
        let mut resets = JoinSet::new();
        for from in 0..4 {
            let socket = socket(&server, from);
            resets.spawn(async move {
                let mut channel = sds::connect(&socket).await.expect("a connection");
                for number in 0..noise / 4 {
                    let wanted = name(1_000_000 + number);
                    let opening = sds::Stream::open(channel.clone(), "reset", &wanted, "");
                    // Cut off after the request was sent; a connection that the server ended is made anew.
                    if let Ok(Err(_)) = tokio::time::timeout(Duration::from_micros(200), opening).await {
                        channel = sds::connect(&socket).await.expect("a connection");
                    }
                }
            });
        }
        while let Some(ended) = resets.join_next().await {
            ended.expect("the flood ran to its end");
        }
        drop(streams);
    });
    // Connections that say nothing, or nothing that anyone understands.
    for number in 0..noise {
        let mut connection = UnixStream::connect(socket(&server, number)).expect("a connection");
        // The server may have closed it already.
        let _ =
            connection.write_all(if number % 2 == 0 { b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\xff" } else { b"noise" });
    }
    let asked = Instant::now();
    let update = runtime.block_on(async {
        let channel = sds::connect(&server.socket("sds")).await.expect("a connection");
        let mut stream = sds::Stream::open(channel, "good", &name(9_999_999), "").await.expect("a stream");
        stream.next(SOON).await.expect("a certificate")
    });
    assert!(!update.certificate().0.is_empty());
    let most = memory(&server, "VmHWM:");
    println!("after the floods: served in {:.1} ms, at most {most} KiB", asked.elapsed().as_secs_f64() * 1_000.0);
    assert!(most < AT_REST_KIB + REQUESTS_KIB + silent as u64 * STREAM_KIB, "{most} KiB is more than is stated");
    server.run(&["status"]).expect(0);
}

#[test]
fn a_server_without_descriptors_serves_again_when_some_are_free() {
    let _alone = alone();
    let under = ["prlimit", "--nofile=96:96"].map(str::to_owned).to_vec();
    let server = Chancery::with(Options { under, ..Options::default() });
    let path = server.socket("sds");
    let taken: Vec<UnixStream> = (0..120).filter_map(|_| UnixStream::connect(&path).ok()).collect();
    assert!(taken.len() > 90, "{}", taken.len());
    std::thread::sleep(Duration::from_millis(300));
    drop(taken);
    let id = server.scratch().join("id");
    eventually("it serves again", SOON, || {
        (server.run(&["fetch", "--once", "--dir", id.to_str().unwrap()]).code == 0).then_some(())
    });
    server.run(&["status"]).expect(0);
}

#[test]
fn a_stop_under_load_loses_nothing_that_anyone_received() {
    let _alone = alone();
    let policy = "[[rule]]\nname = \"own\"\nmatch = { uid = \"any\" }\nidentity = \"spiffe://{trust_domain}/web\"\n";
    for _ in 0..if full() { 20 } else { 3 } {
        let mut server = Chancery::with_policy(policy);
        let received = Arc::new(Mutex::new(Vec::new()));
        let runtime = runtime();
        let clients: Vec<_> = (0..16)
            .map(|client| {
                let (socket, received) = (server.socket("sds"), Arc::clone(&received));
                runtime
                    .spawn(async move { sds::ask_again_and_again(&socket, &format!("load-{client}"), &received).await })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(400));
        let begin = Instant::now();
        assert!(server.stop().success());
        assert!(begin.elapsed() < DRAIN, "nothing hangs: {:?}", begin.elapsed());
        for client in clients {
            runtime.block_on(client).unwrap();
        }
        let received = received.lock().unwrap().clone();
        assert!(received.len() > 20, "only {}", received.len());
        let recorded: std::collections::HashSet<String> = crate::harness::ledger::records(&server.data())
            .iter()
            .filter(|record| record["action"] == "certificate.issue" || record["action"] == "certificate.renew")
            .filter_map(|record| record["certificate"]["serial"].as_str().map(str::to_owned))
            .collect();
        for serial in &received {
            assert!(recorded.contains(serial), "{serial} was received and is not on record");
        }
        server.run(&["audit", "verify"]).expect(0);
    }
}
