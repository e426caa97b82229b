//! Drills: how long the answer to a stolen issuing key takes for very many proxies, and what issuing costs while something
//! else is under way. Prints what `docs/performance.md` says; the sizes there are those of `tests/run --full`.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use tokio::task::JoinSet;

use crate::harness::chancery::Chancery;
use crate::harness::{alone, full, need, sds};
use crate::mass::{LONG, SOCKETS, STREAMS, ask, chancery, hold, quantile, until};

/// Who asks for new certificates at the same time while something is under way.
const ASKING: usize = 8;

/// How many times without, and with it: A B A B.
const ROUNDS: usize = 2;

/// New certificates of each who asks in one round: all rounds together are what one account may have at once.
fn each() -> usize {
    if full() { 120 } else { 15 }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

/// Streams that subscribe to the bundle on one connection: each acknowledges whatever comes.
async fn subscribe(socket: PathBuf, acknowledged: Arc<AtomicUsize>) {
    let channel = sds::connect(&socket).await.expect("a connection");
    let mut stream = sds::Stream::open(channel, "many", "ROOTCA", "").await.expect("a stream");
    while let Ok(update) = stream.next(LONG).await {
        stream.acknowledge(&update).await;
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

/// Clients that hold `many` certificates, and one subscription to the bundle on each hundred of them.
async fn holders(server: &Chancery, many: usize, later: &Arc<AtomicUsize>) -> JoinSet<()> {
    let (first, bundles) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut holders = JoinSet::new();
    for (index, from) in (0..many).step_by(STREAMS).enumerate() {
        let socket = server.socket(SOCKETS[index % SOCKETS.len()]);
        holders.spawn(hold(socket.clone(), from, STREAMS, Arc::clone(&first), Arc::clone(later)));
        holders.spawn(subscribe(socket, Arc::clone(&bundles)));
    }
    until(&first, many).await;
    until(&bundles, many / STREAMS).await;
    holders
}

#[test]
fn a_tainted_issuer_is_replaced_for_all_who_hold_something_under_it() {
    let _alone = alone();
    let many = if full() { 10_000 } else { 400 };
    let server = chancery(&[]);
    runtime().block_on(async {
        let later = Arc::new(AtomicUsize::new(0));
        let mut holders = holders(&server, many, &later).await;
        let begin = Instant::now();
        let mut command = server.command(&["ca", "taint", "issuing 1", "--yes", "--wait", "240s", "--output", "json"]);
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command runs");
        let waiting = tokio::task::spawn_blocking(move || command.wait_with_output().map(|out| (out, begin.elapsed())));
        until(&later, many).await;
        let replaced = begin.elapsed();
        let (output, done) = waiting.await.unwrap().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((&told["reissued"]["acked"], &told["acked"]), (&many.into(), &(many / STREAMS).into()), "{told}");
        println!(
            "taint of an issuer with {many} identities: all hold a new certificate after {:.2} s ({:.0}/s), its revocation \
             is acknowledged by the last of {} bundle streams after {:.2} s",
            replaced.as_secs_f64(),
            many as f64 / replaced.as_secs_f64(),
            many / STREAMS,
            done.as_secs_f64(),
        );
        assert_eq!(later.load(Ordering::Relaxed), many, "each once");
        holders.abort_all();
    });
    let list = server.run(&["cert", "list", "--state", "tainted", "--limit", "1", "--output", "json"]).expect(0).json();
    assert_eq!(list["certificates"][0]["state"], "tainted", "what was under it is refused, and told so");
}

/// What issuing took in one round.
#[derive(Debug, Default)]
struct Round {
    took_ms: Vec<f64>,
    cpu_s: f64,
}

impl Round {
    fn line(mut self) -> String {
        format!(
            "{:.0} µs CPU, p50 {:.2} ms, p99 {:.2} ms ({})",
            self.cpu_s * 1e6 / self.took_ms.len() as f64,
            quantile(&mut self.took_ms, 0.5),
            quantile(&mut self.took_ms, 0.99),
            self.took_ms.len(),
        )
    }

    fn add(&mut self, other: Self) {
        self.took_ms.extend(other.took_ms);
        self.cpu_s += other.cpu_s;
    }
}

/// Seconds of processor time that the server has used, as the kernel counts them.
fn cpu(server: &Chancery) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.addresses()["pid"])).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// So many new certificates by some clients at once.
async fn round(server: &Chancery, socket: &str, label: &str, each: usize) -> Round {
    let (before, mut asking) = (cpu(server), JoinSet::new());
    for client in 0..ASKING {
        let (socket, label) = (server.socket(socket), format!("{label}-{client}"));
        asking.spawn(async move { ask(&socket, &label, &AtomicBool::new(true), each).await });
    }
    let took_ms = asking.join_all().await.into_iter().flatten().collect();
    Round { took_ms, cpu_s: cpu(server) - before }
}

/// Runs a command again and again until it is told to stop; how often it was done.
fn again_and_again(server: &Chancery, arguments: &[String], stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<usize> {
    let (stop, mut done) = (Arc::clone(stop), 0);
    let arguments: Vec<String> = arguments.to_vec();
    let data = server.data();
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let mut command = std::process::Command::new(crate::harness::chancery::program());
            command.args(&arguments).arg("--data-dir").arg(&data).stdout(Stdio::null()).stderr(Stdio::null());
            let _ = command.status();
            done += 1;
        }
        done
    })
}

/// Prints what issuing takes without and while `arguments` is done again and again.
async fn compare(server: &Chancery, socket: &str, what: &str, arguments: &[&str]) {
    let each = each();
    let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
    let (mut without, mut with, mut done) = (Round::default(), Round::default(), 0);
    for number in 0..ROUNDS {
        without.add(round(server, socket, &format!("{}-a{number}", arguments[1]), each).await);
        let stop = Arc::new(AtomicBool::new(false));
        let under_way = again_and_again(server, &arguments, &stop);
        with.add(round(server, socket, &format!("{}-b{number}", arguments[1]), each).await);
        stop.store(true, Ordering::Relaxed);
        done += tokio::task::spawn_blocking(move || under_way.join()).await.unwrap().expect("the commands ran");
    }
    assert!(done >= ROUNDS, "{what} was under way {done} times");
    println!("issuing without: {}; while {what} ({done} times): {}", without.line(), with.line());
}

#[test]
fn issuing_goes_on_while_authorities_and_identities_are_rotated_and_a_long_list_is_signed() {
    let _alone = alone();
    let (rotated, revoked) = if full() { (1_000, 10_000) } else { (100, 400) };
    let server = chancery(&["second", "third"]);
    runtime().block_on(async {
        let later = Arc::new(AtomicUsize::new(0));
        let mut first = holders(&server, rotated, &later).await;
        compare(&server, "sds", "the issuing CA is rolled over", &["ca", "rotate", "issuing", "--wait", "60s"]).await;
        let many = "spiffe://example.org/many/";
        let what = format!("{rotated} identities are rotated");
        compare(&server, "second", &what, &["cert", "rotate", "--prefix", many, "--yes"]).await;
        first.abort_all();
        while first.join_next().await.is_some() {}

        let mut second = holders(&server, revoked, &later).await;
        second.abort_all();
        while second.join_next().await.is_some() {}
        server.run(&["cert", "revoke", "--prefix", many, "--yes", "--wait", "0s"]);
        let status = server.run(&["status", "--output", "json"]).expect(0).json();
        let longest = status["crls"].as_array().unwrap().iter().filter_map(|crl| crl["entries"].as_u64()).max();
        assert!(longest >= Some(revoked as u64), "{status}");
        // Whatever was issued last under that name goes on the list, and the whole list is signed again.
        let issue = format!("CRL of {} entries is signed", longest.unwrap_or_default());
        let new = "spiffe://example.org/new/";
        compare_lists(&server, &issue, new).await;
    });
}

/// As [`compare`], with a revocation of one certificate again and again.
async fn compare_lists(server: &Chancery, what: &str, prefix: &str) {
    let list =
        server.run(&["cert", "list", "--state", "live", "--identity", prefix, "--limit", "1000", "--output", "json"]);
    let serials: Vec<String> = list.expect(0).json()["certificates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["serial"].as_str().unwrap().to_owned())
        .collect();
    let each = each();
    let (mut without, mut with, mut done) = (Round::default(), Round::default(), 0);
    let mut serials = serials.into_iter();
    for number in 0..ROUNDS {
        without.add(round(server, "third", &format!("crl-a{number}"), each).await);
        let stop = Arc::new(AtomicBool::new(false));
        let (data, told, own) = (server.data(), Arc::clone(&stop), serials.by_ref().take(200).collect::<Vec<_>>());
        let revoking = std::thread::spawn(move || {
            let revoke = |serial: &String| {
                let mut command = std::process::Command::new(crate::harness::chancery::program());
                command
                    .args(["cert", "revoke", "--yes", "--wait", "0s", "--serial", serial])
                    .arg("--data-dir")
                    .arg(&data);
                command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
            };
            own.iter().take_while(|_| !told.load(Ordering::Relaxed)).filter(|serial| revoke(serial)).count()
        });
        with.add(round(server, "third", &format!("crl-b{number}"), each).await);
        stop.store(true, Ordering::Relaxed);
        done += tokio::task::spawn_blocking(move || revoking.join()).await.unwrap().expect("the commands ran");
    }
    assert!(done >= ROUNDS, "{what} {done} times");
    println!("issuing without: {}; while a {what} ({done} times): {}", without.line(), with.line());
}

#[test]
fn issuing_goes_on_while_vault_is_away() {
    let Some(program) = need("vault") else { return };
    let _alone = alone();
    let files = crate::harness::directory();
    let (vault, server) = crate::upstream::drill(&program, files.path());
    let each = each();
    runtime().block_on(async {
        let (mut without, mut with) = (Round::default(), Round::default());
        for number in 0..ROUNDS {
            without.add(round(&server, "sds", &format!("vault-a{number}"), each).await);
            tokio::task::block_in_place(|| vault.seal());
            // A roll-over that cannot be is tried again and again meanwhile.
            let stop = Arc::new(AtomicBool::new(false));
            let arguments = ["ca", "rotate", "issuing", "--wait", "1s"].map(str::to_owned);
            let under_way = again_and_again(&server, &arguments, &stop);
            with.add(round(&server, "sds", &format!("vault-b{number}"), each).await);
            stop.store(true, Ordering::Relaxed);
            tokio::task::spawn_blocking(move || under_way.join()).await.unwrap().expect("the commands ran");
            tokio::task::block_in_place(|| vault.unseal());
        }
        println!("issuing under a Vault: {}; while it is sealed: {}", without.line(), with.line());
    });
}
