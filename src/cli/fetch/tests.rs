//! Fetching from a real socket with a fake street behind it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use clap::Parser;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tonic_health::server::HealthReporter;

use super::*;
use crate::api::sds::{SdsContext, SdsLimits, serve};
use crate::clock::ManualClock;
use crate::feed::source::SourceError;
use crate::feed::testing::{self, Fake, LIFE};
use crate::feed::{Feed, FeedLimits};
use crate::tasks::Tasks;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: FetchArgs,
    #[command(flatten)]
    remote: crate::cli::tls::RemoteArgs,
}

struct Server {
    scratch: TempDir,
    feed: Feed,
    fake: Arc<Fake>,
    hands: ManualClock,
}

impl Server {
    /// A server on a socket; its tasks end with the test's runtime.
    fn start() -> Self {
        let (feed, fake, hands) = testing::feed(FeedLimits::default());
        let roots = testing::self_signed("spiffe://example.org/root").0;
        feed.publish_bundle(testing::bundle(std::str::from_utf8(&roots).unwrap()));
        let scratch = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(scratch.path().join("sds.sock")).unwrap();
        let (limits, health) = (Arc::new(SdsLimits::default()), HealthReporter::new());
        drop(serve(listener, "sds", SdsContext { feed: feed.clone(), tasks: Tasks::new(), limits, health }));
        Self { scratch, feed, fake, hands }
    }

    fn dir(&self) -> PathBuf {
        self.scratch.path().join("id")
    }

    async fn fetch(&self, extra: &[&str]) -> (Result<(), FetchError>, String) {
        let dir = self.dir();
        let args = ["fetch", "--dir", dir.to_str().unwrap()];
        let args = Command::parse_from(args.iter().chain(extra)).args;
        let mut out = Vec::new();
        let ended = run(&args, self.scratch.path(), None, &mut out).await;
        (ended, String::from_utf8(out).unwrap())
    }

    fn issues(&self) -> usize {
        self.fake.log().iter().filter(|line| line.starts_with("issue")).count()
    }
}

fn certificate(dir: &Path) -> Vec<u8> {
    std::fs::read(dir.join("cert.pem")).unwrap_or_default()
}

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
async fn once_writes_a_set_and_keeps_it_the_next_time() {
    let server = Server::start();
    let mark = server.scratch.path().join("mark");
    let exec = format!("echo x >> {}", mark.display());
    let (ended, said) = server.fetch(&["--once", "--exec", &exec]).await;
    ended.unwrap();
    assert!(said.starts_with("wrote") && said.contains("spiffe://example.org/default"), "{said}");
    let first = certificate(&server.dir());
    assert_eq!(std::fs::metadata(server.dir().join("key.pem")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(server.issues(), 1);

    let (ended, said) = server.fetch(&["--once", "--exec", &exec]).await;
    ended.unwrap();
    assert!(said.starts_with("kept"), "{said}");
    assert_eq!((certificate(&server.dir()), server.issues()), (first, 0));
    assert_eq!(std::fs::read_to_string(&mark).unwrap(), "x\n");
}

#[tokio::test]
async fn it_renews_acknowledges_and_runs_the_command() {
    let server = Server::start();
    let mark = server.scratch.path().join("mark");
    let exec = format!("echo x >> {}", mark.display());
    let marks = || std::fs::read_to_string(&mark).unwrap_or_default().len() / 2;
    let watch = async {
        until("the first set", || marks() == 1).await;
        until("acknowledged", || server.feed.live().iter().filter(|live| live.acked()).count() == 2).await;
        let first = certificate(&server.dir());
        server.hands.advance(LIFE / 2);
        until("the second set", || marks() == 2).await;
        assert_ne!(certificate(&server.dir()), first);
        let roots = testing::self_signed("spiffe://example.org/next").0;
        server.feed.publish_bundle(testing::bundle(std::str::from_utf8(&roots).unwrap()));
        until("new roots", || std::fs::read(server.dir().join("bundle.pem")).unwrap() == roots).await;
        until("the third run", || marks() == 3).await;
    };
    let with_exec = ["--exec", &exec];
    tokio::select! {
        (ended, said) = server.fetch(&with_exec) => panic!("{ended:?} {said}"),
        () = watch => {}
    }
}

#[tokio::test]
async fn a_key_that_does_not_match_is_refused_and_the_files_stay() {
    let server = Server::start();
    server.fetch(&["--once"]).await.0.unwrap();
    let first = certificate(&server.dir());
    until("disconnected", || server.feed.live().is_empty()).await;
    server.fake.mismatch();
    let watch = async {
        until("connected", || server.feed.live().iter().filter(|live| live.acked()).count() == 2).await;
        server.hands.advance(LIFE / 2);
        until("refused", || server.feed.live().iter().any(|live| live.nack.is_some())).await;
    };
    tokio::select! {
        (ended, said) = server.fetch(&[]) => panic!("{ended:?} {said}"),
        () = watch => {}
    }
    assert_eq!(certificate(&server.dir()), first);
    let nack = server.fake.log().into_iter().find(|line| line.starts_with("nack")).unwrap();
    assert!(nack.contains("does not match"), "{nack}");
}

#[tokio::test]
async fn what_cannot_be_had_is_said_with_its_exit_code() {
    let server = Server::start();
    server.fake.refuse(Some(SourceError::NoRule));
    let (ended, _) = server.fetch(&["--once"]).await;
    let error = ended.unwrap_err();
    assert!(error.exit_code() == 3 && error.to_string().contains("policy"), "{error}");

    server.fake.refuse(Some(SourceError::NotGranted));
    let (ended, _) = server.fetch(&["--once", "--timeout", "1s"]).await;
    let error = ended.unwrap_err();
    assert!(error.exit_code() == 3 && error.to_string().contains("no answer"), "{error}");

    for stays in [&["--timeout", "1s"][..], &["--once"]] {
        let nowhere = server.scratch.path().join("nowhere").display().to_string();
        let (ended, _) = server.fetch(&[stays, &["--socket", &nowhere]].concat()).await;
        let error = ended.unwrap_err();
        assert!(error.exit_code() == 4 && error.to_string().contains("chancery up"), "{error}");
    }
    assert!(!server.dir().join("cert.pem").exists());
}
