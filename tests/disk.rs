//! When the ledger's disk is full, broken or read-only: nothing is issued without a record, what was issued goes on being
//! served, the operator is told, and a disk that has room again needs nothing more.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::harness::chancery::{Chancery, Options, run, said};
use crate::harness::http::get;
use crate::harness::policy::{self, Rule};
use crate::harness::{SOON, alone, eventually, need, need_root, sds};

const WEB: &str = "spiffe://example.org/ns/shop/sa/web";

/// Where certificates are asked for until the disk is full.
const SOCKETS: [&str; 4] = ["full-a", "full-b", "full-c", "full-d"];

fn policy() -> Option<String> {
    Some(policy::text(&[Rule::own(WEB, "24h")]))
}

fn fetch(server: &Chancery, name: &str) -> i32 {
    let files = server.data().with_file_name(name);
    server.run(&["fetch", "--once", "--timeout", "3s", "--dir", files.to_str().unwrap()]).code
}

/// Readiness says no and names the ledger; what was made is served all the same.
fn expect_closed(server: &Chancery) {
    let ready =
        eventually("it is not ready", SOON, || Some(get(server.http(), "/readyz")).filter(|it| it.status == 503));
    assert!(ready.text().contains("ledger"), "{}", ready.text());
    assert_eq!(get(server.http(), "/bundle").status, 200);
    let status = server.run(&["status"]);
    assert!(status.out.contains("ledger"), "{status:?}");
}

#[test]
fn a_full_disk_stops_issuing_until_there_is_room_again() {
    if !need_root() {
        return;
    }
    let _alone = alone();
    // Several sockets, because one account has no more than `issue_burst_per_caller` at once.
    let arguments = SOCKETS.iter().flat_map(|name| ["--sds-socket".to_owned(), format!("{name}={name}.sock")]);
    let rules = SOCKETS.iter().map(|name| Rule::on(name, WEB, "24h")).chain([Rule::own(WEB, "24h")]);
    let policy = Some(policy::text(&rules.collect::<Vec<_>>()));
    let server =
        Chancery::with(Options { arguments: arguments.collect(), policy, disk_mib: Some(110), ..Options::default() });
    let elsewhere = crate::harness::directory();
    let glass = elsewhere.path().join("glass");
    server.run(&["breakglass", "seal", "--out", glass.to_str().unwrap()]).expect(0);
    let filler = server.scratch().join("filler");
    let _ = Command::new("dd")
        .stderr(Stdio::null())
        .args(["if=/dev/zero", "bs=64k", "status=none"])
        .arg(format!("of={}", filler.display()))
        .status();
    // The journal is allocated ahead, so that some thousand records still fit; then no more.
    let received = Arc::new(Mutex::new(Vec::new()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let (socket, received) = (server.socket(SOCKETS[client % SOCKETS.len()]), Arc::clone(&received));
            runtime.spawn(async move { sds::ask_again_and_again(&socket, &client.to_string(), &received).await })
        })
        .collect();
    for client in clients {
        runtime.block_on(client).unwrap();
    }
    expect_closed(&server);
    server.run(&["breakglass", "open", "--reason", "INC-7", "--credential", glass.to_str().unwrap()]).expect(0);
    let status = server.run(&["status"]);
    assert!(status.out.starts_with("BREAK-GLASS IS OPEN"), "{status:?}");
    server.run(&["breakglass", "close"]).expect(0);
    std::fs::remove_file(&filler).unwrap();
    eventually("it issues again", SOON, || (fetch(&server, "id") == 0).then_some(()));
    assert_eq!(get(server.http(), "/readyz").status, 200);
    server.run(&["audit", "verify"]).expect(0);
    println!("{} certificates fitted", received.lock().unwrap().len());
}

#[test]
fn a_disk_that_cannot_be_written_is_named() {
    if !need_root() {
        return;
    }
    let mut server = Chancery::with(Options { policy: policy(), disk_mib: Some(110), ..Options::default() });
    assert!(server.stop().success());
    said(Command::new("mount").args(["-o", "remount,ro"]).arg(server.scratch())).expect(0);
    let data = server.data().display().to_string();
    run(["up", "--data-dir", &data, "--http", "127.0.0.1:0"]).expect(1).expect_words(&[&data, "cannot be written"]);
}

#[test]
fn a_ledger_that_cannot_be_synced_stops_issuing_and_nothing_else() {
    let Some(strace) = need("strace") else { return };
    let rules = policy::text(&[Rule::own(WEB, "24h")]);
    // The first syncs make the ledger; later ones fail as a broken disk would.
    let under =
        format!("{} -f -o /dev/null -e trace=fdatasync -e inject=fdatasync:error=EIO:when=40+", strace.display());
    let under = under.split(' ').map(str::to_owned).collect();
    let server = Chancery::with(Options { policy: Some(rules), under, ..Options::default() });
    eventually("issuing stops", SOON, || {
        let files = server.scratch().join("id");
        let _ = std::fs::remove_dir_all(&files);
        let said = server.run(&["fetch", "--once", "--timeout", "3s", "--dir", files.to_str().unwrap()]);
        (said.code != 0).then_some(())
    });
    assert_eq!(get(server.http(), "/bundle").status, 200, "what was made goes on being served");
    let ready = get(server.http(), "/readyz");
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("ledger"), "{}", ready.text());
    let status = server.run(&["status"]);
    assert!(status.out.contains("ledger"), "{status:?}");
}

/// Makes `calls` on the file at `path` fail in a running server, until dropped.
struct Failing(std::process::Child);

impl Failing {
    fn begin(strace: &Path, server: &Chancery, path: &Path, calls: &str, error: &str) -> Self {
        let pid = server.addresses()["pid"].to_string();
        let mut command = Command::new(strace);
        command.args(["-f", "-o", "/dev/null", "-p", &pid, "-P"]).arg(path);
        command.args(["-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:error={error}")]);
        let child = command.stderr(Stdio::null()).spawn().expect("strace");
        let status = format!("/proc/{pid}/status");
        eventually("it is attached", SOON, || {
            let text = std::fs::read_to_string(&status).ok()?;
            (!text.contains("TracerPid:\t0\n")).then_some(())
        });
        Self(child)
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        // A test that failed leaves no tracer behind; the server is let go.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_index_that_cannot_be_written_stops_no_issuing_and_is_made_anew() {
    let Some(strace) = need("strace") else { return };
    for (error, ready) in [("ENOSPC", 200), ("EIO", 503)] {
        let mut server = Chancery::with_policy(&policy::text(&[Rule::own(WEB, "24h")]));
        let path = server.data().join("index.redb");
        let failing = Failing::begin(&strace, &server, &path, "pwrite64,fdatasync,fsync,ftruncate", error);
        for round in 0..3 {
            let files = server.scratch().join(format!("id-{round}"));
            server.run(&["fetch", "--once", "--dir", files.to_str().unwrap()]).expect(0);
        }
        // Full: it goes on in memory. Broken: it stays behind, and readiness says so after ten seconds.
        eventually("readiness is as stated", SOON, || (get(server.http(), "/readyz").status == ready).then_some(()));
        drop(failing);
        server.kill();
        server.start();
        let listed = server.run(&["cert", "list", "--output", "json"]).expect(0).json();
        assert_eq!(listed["certificates"].as_array().map(Vec::len), Some(3), "{error}: {listed}");
        assert!(server.stop().success());
        server.run(&["audit", "verify"]).expect(0);
    }
}

#[test]
fn a_journal_that_cannot_be_written_stops_the_ledger_until_a_restart() {
    let Some(strace) = need("strace") else { return };
    for calls in ["pwrite64", "fdatasync"] {
        let mut server = Chancery::with_policy(&policy::text(&[Rule::own(WEB, "24h")]));
        let files = |name: &str| server.scratch().join(name).display().to_string();
        let [before, during, after] = ["before", "during", "after"].map(files);
        server.run(&["fetch", "--once", "--dir", &before]).expect(0);
        let path = server.data().join("ledger/journal/0000000000000001.seg");
        let failing = Failing::begin(&strace, &server, &path, calls, "EIO");
        server.run(&["fetch", "--once", "--timeout", "3s", "--dir", &during]).expect(4);
        assert_eq!(get(server.http(), "/readyz").status, 503);
        drop(failing);
        // The disk is sound again, and nobody knows what it holds: only an opening looks.
        server.run(&["fetch", "--once", "--timeout", "3s", "--dir", &during]).expect(4);
        server.kill();
        server.start();
        server.run(&["fetch", "--once", "--dir", &after]).expect(0);
        assert!(server.stop().success());
        server.run(&["audit", "verify"]).expect(0);
    }
}
