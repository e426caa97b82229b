//! The HTTP edge before a real ledger: answers one by one, then limits over real connections.

use std::sync::Mutex;
use std::time::Duration;

use http_body_util::BodyExt;
use proptest::prelude::*;
use tempfile::TempDir;
use time::macros::datetime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::audit::event::{Action, Outcome, Recorder};
use crate::audit::ledger::{CheckpointKey, Ledger, LedgerLimits, LedgerOptions};
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::revocation::Listed;
use crate::tasks::Tasks;

const RECORDS: usize = 300;

/// Long enough for anything that does happen.
const SOON: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Fake {
    bundle: Option<BundleDocument>,
    crls: Option<Arc<CrlSet>>,
    ledger: Option<LedgerReader>,
    problems: Mutex<Vec<String>>,
    counted: Mutex<Vec<(Route, u16)>>,
}

impl HttpSources for Fake {
    fn bundle(&self) -> Option<BundleDocument> {
        self.bundle.clone()
    }

    fn crls(&self) -> Option<Arc<CrlSet>> {
        self.crls.clone()
    }

    fn ledger(&self) -> Option<LedgerReader> {
        self.ledger.clone()
    }

    fn problems(&self) -> Vec<String> {
        self.problems.lock().unwrap().clone()
    }

    fn metrics(&self) -> String {
        "# HELP chancery_x X.\n# TYPE chancery_x counter\nchancery_x_total 1\n# EOF\n".to_owned()
    }

    fn answered(&self, route: Route, status: StatusCode) {
        self.counted.lock().unwrap().push((route, status.as_u16()));
    }
}

struct Bench {
    edge: Edge,
    fake: Arc<Fake>,
    _dir: TempDir,
    _ledger: Ledger,
}

/// One authority's CRL.
fn crls() -> Arc<CrlSet> {
    use crate::x509::crl::tests::{crl, entry};
    let root = crate::x509::tests::root(crate::x509::KeyAlgorithm::P256);
    let crl = crl(&root, vec![entry(1, crate::x509::crl::Reason::KeyCompromise)]);
    let issuer_key_id = hex::encode(crl.issuer_key_id());
    let pem = crl.pem().into();
    let listed = Listed {
        issuer: "root 1".parse().unwrap(),
        issuer_key_id,
        crl: Arc::new(crl),
        record: String::new(),
        asked: None,
        imported: false,
    };
    Arc::new(CrlSet { lists: vec![listed], pem, version: "def".into(), scope: crate::x509::crl::Scope::default() })
}

/// An edge before a ledger of 300 records, all of them published.
async fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let now = datetime!(2026-11-23 13:00 UTC);
    let (clock, _hands) = Clock::manual(now);
    let recorder = Recorder::new(Entropy::seeded(7));
    let key = CheckpointKey::from_pkcs8(&CheckpointKey::generate_pkcs8().unwrap()).unwrap();
    let options = LedgerOptions {
        limits: LedgerLimits { segment_bytes: 256 << 10, reserve_bytes: 256 << 10 },
        lifecycle_records: false,
        ..LedgerOptions::new(dir.path().to_owned(), "example.org", key)
    };
    let (ledger, _) = Ledger::open(options, clock, &recorder, &Tasks::new()).await.unwrap();
    let events: Vec<_> = (0..RECORDS).map(|_| recorder.event(Action::OperatorAct, Outcome::Success, now)).collect();
    ledger.append_batch(&events).await.unwrap();
    let mut heads = ledger.heads();
    tokio::time::timeout(SOON, heads.wait_for(|head| head.size == RECORDS as u64)).await.unwrap().unwrap();
    let bundle = BundleDocument { pem: "PEM".into(), json: "{}".into(), version: "abc".into() };
    let fake =
        Arc::new(Fake { bundle: Some(bundle), crls: Some(crls()), ledger: Some(ledger.reader()), ..Fake::default() });
    let edge = Edge::new(Arc::clone(&fake) as Arc<dyn HttpSources>, HttpLimits::default());
    Bench { edge, fake, _dir: dir, _ledger: ledger }
}

fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request {
    let mut request = http::Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).unwrap()
}

async fn ask(edge: &Edge, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, Vec<u8>) {
    let (head, body) = edge.answer(request(method, path, headers)).await.into_parts();
    (head.status.as_u16(), head.headers, body.collect().await.unwrap().to_bytes().to_vec())
}

#[tokio::test]
async fn each_path_has_its_status_type_and_cache() {
    let bench = bench().await;
    let check = async |path: &str, status: u16, kind: &str, cache: &str| {
        let (got, headers, body) = ask(&bench.edge, "GET", path, &[]).await;
        let said = String::from_utf8_lossy(&body);
        let header = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap());
        assert_eq!((got, header("content-type"), header("cache-control")), (status, kind, cache), "{path}: {said}");
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
        body
    };
    let text = "text/plain; charset=utf-8";
    let forever = "public, max-age=31536000, immutable";
    let octets = "application/octet-stream";
    check("/", 200, text, "").await;
    assert_eq!(check("/bundle", 200, "application/x-pem-file", "no-cache").await, b"PEM");
    assert_eq!(check("/bundle?format=json", 200, "application/json", "no-cache").await, b"{}");
    assert_eq!(check("/bundle.json", 200, "application/json", "no-cache").await, b"{}");
    check("/bundle?format=der", 400, text, "").await;
    let crls = bench.fake.crls.clone().unwrap();
    assert_eq!(check("/crl", 200, "application/x-pem-file", "no-cache").await, crls.pem);
    let one = format!("/crl/{}.crl", crls.lists[0].issuer_key_id);
    assert_eq!(check(&one, 200, "application/pkix-crl", "no-cache").await, crls.lists[0].crl.der());
    for nothing in ["/crl/", "/crl/00.crl", &one[..one.len() - 4], "/crl/..%2fcrl", "/crl/a/b.crl"] {
        check(nothing, 404, text, "").await;
    }
    check("/healthz", 200, text, "no-store").await;
    check("/readyz", 200, text, "no-store").await;
    check("/metrics", 200, "text/plain; version=0.0.4; charset=utf-8", "no-store").await;
    let logs: serde_json::Value =
        serde_json::from_slice(&check("/ledger", 200, "application/json", "no-store").await).unwrap();
    assert_eq!(logs["logs"][0]["size"], RECORDS, "{logs}");
    assert_eq!(logs["logs"][0]["checkpoint"], "/ledger/ca-2026/checkpoint");
    let checkpoint = String::from_utf8(check("/ledger/ca-2026/checkpoint", 200, text, "no-store").await).unwrap();
    assert!(checkpoint.starts_with("example.org/ledger/ca-2026\n300\n"), "{checkpoint}");
    let key = String::from_utf8(check("/ledger/ca-2026/vkey", 200, text, "no-store").await).unwrap();
    crate::audit::ledger::VerifierKey::parse(key.trim()).unwrap().verify(&checkpoint).unwrap();
    assert_eq!(check("/ledger/ca-2026/tile/0/000", 200, octets, forever).await.len(), 256 * 32);
    assert_eq!(check("/ledger/ca-2026/tile/0/001.p/44", 200, octets, forever).await.len(), 44 * 32);
    assert_eq!(check("/ledger/ca-2026/tile/1/000.p/1", 200, octets, forever).await.len(), 32);
    check("/ledger/ca-2026/tile/0/002", 404, text, "no-store").await;
    check("/ledger/ca-2025/checkpoint", 404, text, "").await;
    check("/ledger/ca-2026", 404, text, "").await;
    check("/nothing", 404, text, "").await;
    for entries in ["000", "001.p/44", "x001/000", "what/ever"] {
        let said = check(&format!("/ledger/ca-2026/tile/entries/{entries}"), 403, text, "").await;
        assert!(String::from_utf8(said).unwrap().contains("admin socket"));
    }
    assert!(bench.fake.counted.lock().unwrap().contains(&(Route::Tile, 403)));
}

#[tokio::test]
async fn nothing_is_there_before_the_server_is() {
    let fake =
        Arc::new(Fake { problems: Mutex::new(vec!["ledger: full".into(), "index: behind".into()]), ..Fake::default() });
    let edge = Edge::new(fake, HttpLimits::default());
    for path in ["/bundle", "/bundle.json", "/crl", "/crl/00.crl", "/ledger", "/readyz"] {
        assert_eq!(ask(&edge, "GET", path, &[]).await.0, 503, "{path}");
    }
    assert_eq!(ask(&edge, "GET", "/readyz", &[]).await.2, b"ledger: full\nindex: behind\n");
    assert_eq!(ask(&edge, "GET", "/healthz", &[]).await.0, 200);
}

#[tokio::test]
async fn a_bundle_that_is_known_is_not_sent_again() {
    let bench = bench().await;
    let (_, headers, _) = ask(&bench.edge, "GET", "/bundle", &[]).await;
    assert_eq!(
        (&headers["etag"], &headers["vary"]),
        (&HeaderValue::from_static("\"abc-pem\""), &HeaderValue::from_static("accept"))
    );
    let (status, headers, body) = ask(&bench.edge, "GET", "/bundle", &[("if-none-match", "\"abc-pem\"")]).await;
    assert_eq!((status, body.len(), &headers["etag"]), (304, 0, &HeaderValue::from_static("\"abc-pem\"")));
    assert_eq!(ask(&bench.edge, "GET", "/crl", &[("if-none-match", "\"def\"")]).await.0, 304);
    let json = [("if-none-match", "\"abc-pem\""), ("accept", "application/json")];
    let (status, _, body) = ask(&bench.edge, "GET", "/bundle", &json).await;
    assert_eq!((status, body.as_slice()), (200, b"{}".as_slice()));
}

#[tokio::test]
async fn prometheus_gets_the_format_it_names() {
    let bench = bench().await;
    let accept = [("accept", "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2")];
    let (_, headers, body) = ask(&bench.edge, "GET", "/metrics", &accept).await;
    assert_eq!(headers["content-type"], exposition::OPEN_METRICS);
    assert!(body.ends_with(b"# EOF\n"));
    let (_, _, body) = ask(&bench.edge, "GET", "/metrics", &[]).await;
    assert!(String::from_utf8(body).unwrap().contains("# TYPE chancery_x_total counter\nchancery_x_total 1\n"));
}

#[tokio::test]
async fn nothing_can_be_changed() {
    let bench = bench().await;
    for path in ["/", "/bundle", "/ledger", "/ledger/ca-2026/checkpoint", "/metrics"] {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
            let (status, headers, _) = ask(&bench.edge, method, path, &[]).await;
            assert_eq!(
                (status, headers.get("allow").unwrap().to_str().unwrap()),
                (405, "GET, HEAD"),
                "{method} {path}"
            );
        }
    }
    let (status, headers, body) = ask(&bench.edge, "HEAD", "/bundle", &[]).await;
    assert_eq!((status, &headers["content-length"], body.len()), (200, &HeaderValue::from_static("3"), 0));
}

#[tokio::test]
async fn no_spelling_leads_out_of_the_log() {
    let bench = bench().await;
    for path in [
        "/ledger/ca-2026/../../keys/sealing.key",
        "/ledger/../keys/sealing.key",
        "/ledger/ca-2026/tile/0/../entries/000",
        "/ledger/ca-2026/tile/0/..%2fentries%2f000",
        "/ledger/%2e%2e/keys",
        "/ledger/ca-2026%2fcheckpoint",
        "/ledger/ca-2026/%63heckpoint",
        "/ledger//checkpoint",
        "/ledger/CA-2026/checkpoint",
        "/ledger/journal/0.seg",
        "/ledger/ca-2026/checkpoint/",
        "/ledger/ca-2026/vkey.new",
        "/ledger/ca-2026/tile/9999/000",
        "/ledger/ca-2026/tile/0/0",
        "/ledger/ca-2026/tile/0/+00",
        "/ledger/ca-2026/tile/0/x000/001",
        "/ledger/ca-2026/tile/0/000.p/0",
        "/ledger/ca-2026/tile/0/000.p/256",
        "/ledger/ca-2026/tile/0/000.p/01",
        "/ledger/ca-2026/tile/0/x999/x999/x999/x999/x999/x999/x999/999",
    ] {
        assert_eq!(ask(&bench.edge, "GET", path, &[]).await.0, 404, "{path}");
    }
    let long = format!("/{}", "a".repeat(HttpLimits::default().longest_uri));
    assert_eq!(ask(&bench.edge, "GET", &long, &[]).await.0, 414);
}

proptest! {
    /// Whatever is asked for: what parses is a name, and one of the files of a log in its only spelling.
    #[test]
    fn a_target_has_one_spelling(path in "/ledger/[a-c.%/]{0,6}[/-]{0,2}(tile/)?[0-9ex./%p]{0,24}(checkpoint|vkey)?") {
        if let Some(target) = ledger::Target::parse(&path) {
            prop_assert!(!path.contains("..") || path.contains("/tile/entries/"), "{path}");
            prop_assert!(target.route() != Route::Unknown);
        }
    }

    #[test]
    fn every_tile_has_a_target(level in 0_u8..8, index in 0_u64..(1 << 56), width in 1_u16..=256) {
        let name = crate::audit::ledger::TileName { kind: crate::audit::ledger::TileKind::Hashes(level), index, width };
        let path = format!("/ledger/ca-2026/{}", name.path());
        prop_assert_eq!(ledger::Target::parse(&path).map(|target| target.route()), Some(Route::Tile));
    }

    #[test]
    fn no_path_breaks_the_parser(path in "\\PC{0,64}") {
        let _ = Route::of(&path);
        let _ = Route::of(&format!("/ledger/{path}"));
    }
}

/// A server on a free port with short limits.
async fn server(fake: Fake, limits: HttpLimits) -> (std::net::SocketAddr, Tasks) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = Tasks::new();
    serve(listener, Arc::new(fake), limits, &tasks);
    (address, tasks)
}

fn short() -> HttpLimits {
    HttpLimits { header_timeout: Duration::from_millis(200), ..HttpLimits::default() }
}

async fn send(address: std::net::SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// What the server says until it closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    // A reset is an end like any other.
    let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut said)).await.expect("the server never closes");
    String::from_utf8_lossy(&said).into_owned()
}

const GET: &str = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";

#[tokio::test]
async fn silence_is_ended() {
    let (address, _tasks) = server(Fake::default(), short()).await;
    for begun in ["", "GET /heal", "GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow: "] {
        let mut stream = send(address, begun).await;
        assert!(!rest(&mut stream).await.contains("200"), "{begun}");
    }
    let mut idle = send(address, GET).await;
    let said = rest(&mut idle).await;
    assert!(said.starts_with("HTTP/1.1 200") && said.ends_with("alive\n"), "{said}");
}

#[tokio::test]
async fn a_large_request_is_refused() {
    let (address, _tasks) = server(Fake::default(), short()).await;
    let check = async |request: String, status: &str| {
        let mut stream = send(address, &request).await;
        let said = rest(&mut stream).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{}: {said}", request.len());
    };
    check(format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(2_000)), "414").await;
    check(format!("GET / HTTP/1.1\r\nhost: x\r\na: {}\r\n\r\n", "a".repeat(20_000)), "431").await;
    check(format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: a\r\n".repeat(100)), "431").await;
    // A body is never read: whoever sends one without end is answered and cut off.
    check("GET / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n".into(), "200").await;
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_for_a_place() {
    let limits = HttpLimits { max_connections: 1, ..HttpLimits::default() };
    let (address, _tasks) = server(Fake::default(), limits).await;
    let mut first = send(address, GET).await;
    let mut head = [0; 15];
    first.read_exact(&mut head).await.unwrap();
    let mut second = send(address, "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let mut byte = [0; 1];
    let early = tokio::time::timeout(Duration::from_millis(200), second.read_exact(&mut byte)).await;
    assert!(early.is_err(), "the second connection was served beside the first");
    drop(first);
    assert!(rest(&mut second).await.contains("alive"));
}

#[tokio::test]
async fn an_old_connection_ends() {
    let limits = HttpLimits { connection_lifetime: Duration::from_millis(300), ..HttpLimits::default() };
    let (address, _tasks) = server(Fake::default(), limits).await;
    let mut old = send(address, GET).await;
    assert!(rest(&mut old).await.contains("alive"), "closed in the middle of its lifetime");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_takes_too_long_is_given_up() {
    let fake = Arc::new(Fake::default());
    let mut edge = Edge::new(Arc::clone(&fake) as Arc<dyn HttpSources>, HttpLimits::default());
    edge.router = Router::new().route("/healthz", get(std::future::pending::<Response>));
    let (status, headers, _) = ask(&edge, "GET", "/healthz", &[]).await;
    assert_eq!((status, &headers["retry-after"]), (503, &HeaderValue::from_static("5")));
    assert_eq!(*fake.counted.lock().unwrap(), [(Route::Health, 503)]);
}

#[tokio::test]
async fn stopping_finishes_what_is_under_way_and_closes_the_rest() {
    let (address, tasks) = server(Fake::default(), HttpLimits::default()).await;
    let mut idle = send(address, GET).await;
    let mut head = [0; 15];
    idle.read_exact(&mut head).await.unwrap();
    let mut fresh = send(address, "").await;
    assert!(tasks.drain(Duration::from_secs(5)).await.is_empty());
    assert!(rest(&mut idle).await.ends_with("alive\n"));
    assert_eq!(rest(&mut fresh).await, "");
    assert!(TcpStream::connect(address).await.is_err(), "still accepting");
}
