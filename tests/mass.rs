//! Many identities at once: all of them rotated by hand while new requests go on; `drills` has more with the same clients. Prints what it took; the sizes of
//! `docs/performance.md` are those of `tests/run --full`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::harness::chancery::{Chancery, Options};
use crate::harness::{SOON, alone, full, sds};

/// Sockets that the identities are spread over: limits count by socket and user.
pub const SOCKETS: [&str; 4] = ["a", "b", "c", "d"];

/// Streams on one connection, as an Envoy with many certificates has them.
pub const STREAMS: usize = 100;

/// New requests between two looks at the clock, before the rotation.
const QUIET: usize = 40;

/// How long everything may take at full size on a busy machine.
pub const LONG: Duration = Duration::from_secs(240);

/// With sockets for those who hold one of many identities, and `more` beside "sds" for those who ask for new ones.
pub fn chancery(more: &[&str]) -> Chancery {
    let sockets =
        SOCKETS.iter().chain(more).flat_map(|name| ["--sds-socket".to_owned(), format!("{name}={name}.sock")]);
    let quoted = |names: &[&str]| names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    let (names, asking) = (quoted(&SOCKETS), quoted(&[&["sds"], more].concat()));
    let policy = format!(
        "[[rule]]\nname = \"many\"\nmatch = {{ uid = \"any\", socket = [{names}] }}\n\
         identity = \"spiffe://{{trust_domain}}/many/*\"\n\n\
         [[rule]]\nname = \"new\"\nmatch = {{ uid = \"any\", socket = [{asking}] }}\n\
         identity = \"spiffe://{{trust_domain}}/new/*\"\n"
    );
    Chancery::with(Options { arguments: sockets.collect(), policy: Some(policy), ..Options::default() })
}

/// Holds `count` certificates on one connection until it is aborted; counts first ones, and those that came later.
pub async fn hold(socket: PathBuf, from: usize, count: usize, first: Arc<AtomicUsize>, later: Arc<AtomicUsize>) {
    let channel = sds::connect(&socket).await.expect("a connection");
    let mut streams = JoinSet::new();
    for number in from..from + count {
        let (channel, first, later) = (channel.clone(), Arc::clone(&first), Arc::clone(&later));
        streams.spawn(async move {
            let name = format!("spiffe://example.org/many/{number}");
            let mut stream = sds::Stream::open(channel, "many", &name, "").await.expect("a stream");
            let mut serials = Vec::new();
            loop {
                let update = stream.next(LONG).await.expect("an update");
                let serial = sds::serial(&update.certificate().0);
                assert!(!serials.contains(&serial), "{name} was sent {serial} twice");
                serials.push(serial);
                stream.acknowledge(&update).await;
                if serials.len() == 1 { &first } else { &later }.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    // None of them ends, unless it panics.
    streams.join_all().await;
}

/// Asks for new certificates, one after another, until told to stop; each answer's time in milliseconds.
pub async fn ask(socket: &Path, label: &str, stop: &AtomicBool, at_least: usize) -> Vec<f64> {
    let channel = sds::connect(socket).await.expect("a connection");
    let mut took = Vec::new();
    while took.len() < at_least || !stop.load(Ordering::Relaxed) {
        let name = format!("spiffe://example.org/new/{label}-{}", took.len());
        let begin = Instant::now();
        let mut stream = sds::Stream::open(channel.clone(), "new", &name, "").await.expect("a stream");
        let update = stream.next(SOON).await.expect("a certificate");
        took.push(begin.elapsed().as_secs_f64() * 1_000.0);
        stream.acknowledge(&update).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    took
}

pub fn quantile(took: &mut [f64], part: f64) -> f64 {
    took.sort_by(f64::total_cmp);
    took[((took.len() - 1) as f64 * part) as usize]
}

pub async fn until(count: &AtomicUsize, wanted: usize) {
    let begin = Instant::now();
    while count.load(Ordering::Relaxed) < wanted {
        assert!(begin.elapsed() < LONG, "{} of {wanted}", count.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[test]
fn many_identities_are_rotated_while_new_requests_are_served() {
    let _alone = alone();
    let many = if full() { 10_000 } else { 400 };
    let server = chancery(&[]);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (first, later) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut holders = JoinSet::new();
        for (index, from) in (0..many).step_by(STREAMS).enumerate() {
            let socket = server.socket(SOCKETS[index % SOCKETS.len()]);
            holders.spawn(hold(socket, from, STREAMS, Arc::clone(&first), Arc::clone(&later)));
        }
        until(&first, many).await;

        let socket = server.socket("sds");
        let mut quiet = ask(&socket, "quiet", &AtomicBool::new(true), QUIET).await;
        let stop = Arc::new(AtomicBool::new(false));
        let asking = {
            let (socket, stop) = (socket.clone(), Arc::clone(&stop));
            tokio::spawn(async move { ask(&socket, "busy", &stop, 1).await })
        };
        let begin = Instant::now();
        let mut command = server.command(&["cert", "rotate", "--prefix", "spiffe://example.org/many/", "--yes"]);
        command.args(["--output", "json"]).stdout(std::process::Stdio::null());
        let mut rotating = command.spawn().expect("the command runs");
        until(&later, many).await;
        let took = begin.elapsed();
        stop.store(true, Ordering::Relaxed);
        let mut busy = asking.await.expect("new requests were served");
        let ended = tokio::task::spawn_blocking(move || rotating.wait()).await.unwrap().unwrap();
        assert!(ended.success(), "{ended}");
        println!(
            "rotated {many} identities in {:.2} s ({:.0}/s); a new request before p50 {:.2} ms p99 {:.2} ms, \
             meanwhile ({}) p50 {:.2} ms p99 {:.2} ms",
            took.as_secs_f64(),
            many as f64 / took.as_secs_f64(),
            quantile(&mut quiet, 0.5),
            quantile(&mut quiet, 0.99),
            busy.len(),
            quantile(&mut busy, 0.5),
            quantile(&mut busy, 0.99),
        );
        assert_eq!(later.load(Ordering::Relaxed), many, "each once");
        holders.abort_all();
    });
    let renewed = server.records_of("certificate.renew", many);
    assert_eq!(renewed.len(), many);
    let forced = |record: &serde_json::Value| record["certificate"]["renewal_cause"] == "forced";
    assert!(renewed.iter().all(forced));
}
