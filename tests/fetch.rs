//! `chancery fetch`: the same certificates in files, for everything that is not Envoy; and who is refused.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::chancery::{Chancery, Options, program, said};
use crate::harness::policy::{self, Rule};
use crate::harness::process::Process;
use crate::harness::{SOON, eventually, need_root};

const WEB: &str = "spiffe://example.org/ns/shop/sa/web";

fn leaf_serial(directory: &Path) -> String {
    let pem = std::fs::read(directory.join("cert.pem")).unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
    let certificate = pem.parse_x509().unwrap();
    certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn expect_a_whole_set(directory: &Path) {
    for name in ["cert.pem", "key.pem", "bundle.pem"] {
        let path = directory.join(name);
        let mode =
            std::fs::metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
}

#[test]
fn once_writes_a_set_of_files() {
    let server = Chancery::with_policy(&policy::text(&[Rule::own(WEB, "24h")]));
    let files = server.scratch().join("id");
    server.run(&["fetch", "--once", "--dir", files.to_str().unwrap()]).expect(0);
    expect_a_whole_set(&files);
    let serial = leaf_serial(&files);
    let issued = server.records_of("certificate.issue", 1);
    assert_eq!(issued.len(), 1);
    assert_eq!(issued[0]["certificate"]["serial"], serial.as_str());
    // What it still holds after a restart it names, and gets no other.
    server.run(&["fetch", "--once", "--dir", files.to_str().unwrap()]).expect(0);
    assert_eq!(leaf_serial(&files), serial);
    assert_eq!(server.records_of("certificate.issue", 1).len(), 1);
}

#[test]
fn it_stays_renews_and_runs_a_command_after_each_change() {
    let server = Chancery::with_policy(&policy::text(&[Rule::own(WEB, "6s")]));
    let files = server.scratch().join("id");
    let marks = server.scratch().join("marks");
    let hook = format!("echo changed >> {}", marks.display());
    let command = server.command(&["fetch", "--dir", files.to_str().unwrap(), "--exec", &hook]);
    let mut fetch = Process::start("fetch", command, server.scratch());
    let lines = || std::fs::read_to_string(&marks).map_or(0, |text| text.lines().count());
    eventually("the first set", SOON, || (lines() >= 1).then_some(()));
    let first = leaf_serial(&files);
    eventually("three sets", SOON, || (lines() >= 3).then_some(()));
    expect_a_whole_set(&files);
    assert_ne!(leaf_serial(&files), first);
    fetch.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(fetch.wait(SOON).success());
}

#[test]
fn it_outlives_a_killed_server() {
    let mut server = Chancery::with_policy(&policy::text(&[Rule::own(WEB, "24h")]));
    let files = server.scratch().join("id");
    let command = server.command(&["fetch", "--dir", files.to_str().unwrap()]);
    let mut fetch = Process::start("fetch", command, server.scratch());
    eventually("the first set", SOON, || files.join("cert.pem").exists().then_some(()));
    let serial = leaf_serial(&files);
    server.kill();
    server.start();
    let streams = |server: &Chancery| server.run(&["status", "--output", "json"]).expect(0).json()["streams"].clone();
    eventually("fetch is back", Duration::from_secs(60), || (streams(&server) == 2).then_some(()));
    assert!(fetch.ended().is_none());
    assert_eq!(leaf_serial(&files), serial);
    assert_eq!(server.records_of("certificate.issue", 1).len(), 1);
}

/// A server with a socket that anyone may connect to, and a copy of the program that anyone may run.
fn open_to_anyone(policy: &str) -> (Chancery, std::path::PathBuf, std::path::PathBuf) {
    let outside = Path::new("/tmp").join(format!("ch-anyone-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&outside);
    std::fs::create_dir(&outside).unwrap();
    std::fs::set_permissions(&outside, std::fs::Permissions::from_mode(0o755)).unwrap();
    let socket = outside.join("s.sock");
    let server = Chancery::with(Options {
        arguments: vec!["--sds-socket".into(), format!("anyone={}", socket.display())],
        policy: Some(policy.to_owned()),
        ..Options::default()
    });
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    let copy = outside.join("chancery");
    std::fs::copy(program(), &copy).unwrap();
    (server, socket, copy)
}

#[test]
fn an_unauthorised_account_is_refused_with_a_record() {
    if !need_root() {
        return;
    }
    const STRANGER: u32 = 61_234;
    let rule = Rule { uid: Some("61235".into()), ..Rule::on("anyone", WEB, "24h") };
    let (server, socket, copy) = open_to_anyone(&policy::text(&[rule]));
    let files = socket.parent().unwrap().join("files");
    std::fs::create_dir(&files).unwrap();
    std::os::unix::fs::chown(&files, Some(STRANGER), Some(STRANGER)).unwrap();
    let ask = |uid: u32| {
        let mut command = Command::new(&copy);
        command.args(["fetch", "--once", "--socket"]).arg(&socket).arg("--dir").arg(files.join("id"));
        said(command.uid(uid).gid(uid).current_dir("/"))
    };
    let refused = ask(STRANGER).expect(3).expect_words(&["policy"]);
    assert!(
        !refused.err.contains("61235") && !refused.err.contains("anyone"),
        "the caller learns no rule: {refused:?}"
    );
    let record = server.wait_for_record("the refusal", |record| {
        record["action"] == "certificate.deny" && record["source"]["uid"] == STRANGER
    });
    assert_eq!(record["outcome"], "denied", "{record}");
    assert!(record["policy"]["nearest"][0].as_str().is_some_and(|nearest| nearest.contains("61235")), "{record}");
    let explained = server.run(&["policy", "explain", "--uid", "61234", "--socket", "anyone"]);
    assert!(explained.out.contains("61235"), "{explained:?}");
    // The account that the rule names is served.
    std::fs::remove_dir_all(&files).unwrap();
    std::fs::create_dir(&files).unwrap();
    std::os::unix::fs::chown(&files, Some(61_235), Some(61_235)).unwrap();
    ask(61_235).expect(0);
    std::fs::remove_dir_all(socket.parent().unwrap()).unwrap();
}
