//! What the suites share: finding components, waiting with a deadline, and real processes that never outlive their test.
//!
//! A suite that needs a real counterpart asks [`need`] for it and returns when there is none: that is counted as not
//! run, and is a failure where every component is required. Nothing here sleeps to synchronise; [`eventually`] polls
//! what can be observed and fails at a named deadline.

pub mod chancery;
pub mod envoy;
pub mod http;
pub mod ledger;
pub mod load;
pub mod mtls;
pub mod openssl;
pub mod pair;
pub mod policy;
pub mod process;
pub mod proxy;
pub mod relay;
pub mod sds;
pub mod source;
pub mod vault;

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How long anything that should happen at once may take on a busy machine with two cores.
pub const SOON: Duration = Duration::from_secs(20);

/// A component by its name (`envoy`, `pkilint`, `verifier`, `openssl`, `strace`): `CHANCERY_TEST_ENVOY` and so on, set
/// by `tests/run`. `None` is recorded as not run; the caller returns.
pub fn need(component: &str) -> Option<PathBuf> {
    let variable = format!("CHANCERY_TEST_{}", component.to_uppercase());
    let path = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.exists());
    if path.is_none() {
        not_run(component);
    }
    path
}

/// Whether this is root, for tests that act as other accounts; recorded as not run where it is not.
pub fn need_root() -> bool {
    let root = nix::unistd::Uid::effective().is_root();
    if !root {
        not_run("root");
    }
    root
}

/// Records that the running test lacks `what`.
///
/// # Panics
/// Where every component is required (`tests/run --require-all`).
pub fn not_run(what: &str) {
    let thread = std::thread::current();
    let line = format!("{} without {what}", thread.name().unwrap_or("a test"));
    eprintln!("NOT RUN: {line}");
    if let Some(file) = std::env::var_os("CHANCERY_TEST_NOT_RUN") {
        let mut file =
            std::fs::OpenOptions::new().append(true).create(true).open(file).expect("the list of tests not run");
        writeln!(file, "{line}").expect("the list of tests not run");
    }
    assert!(std::env::var("CHANCERY_REQUIRE_ALL").as_deref() != Ok("1"), "{what} is required here");
}

/// Whether bigger sizes and more rounds were asked for (`tests/run --full`).
pub fn full() -> bool {
    std::env::var("CHANCERY_TEST_FULL").as_deref() == Ok("1")
}

/// Asks `probe` every few milliseconds until it has an answer.
///
/// # Panics
/// With `what` when `limit` has passed.
pub fn eventually<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(begin.elapsed() < limit, "after {limit:?} still not: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Tests that measure or load the machine hold this, one at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    // A test that failed while it held the guard leaves nothing half-done behind: its processes are gone.
    ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A directory that is removed at the end. Its path is short: a Unix socket's is at most 107 bytes.
pub fn directory() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("ch").tempdir_in("/tmp").expect("a temporary directory")
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}
