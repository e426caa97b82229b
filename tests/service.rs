//! Chancery as a service of a machine: what it tells the service manager, its unit, its sealing key apart, its man pages
//! and completions.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::chancery::{Chancery, Options, program, run, said};
use crate::harness::process::Process;
use crate::harness::{SOON, directory, eventually, need};

/// How long forty records take when each is an answer to a command.
const LONG: Duration = Duration::from_secs(60);

/// What arrives next on a notify socket.
fn heard(socket: &UnixDatagram) -> String {
    let mut text = [0; 4096];
    let length = socket.recv(&mut text).expect("a message of the service");
    String::from_utf8_lossy(&text[..length]).into_owned()
}

#[test]
fn the_service_manager_hears_ready_a_heartbeat_and_the_end() {
    let place = directory();
    let path = place.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let under = ["env".into(), format!("NOTIFY_SOCKET={}", path.display()), "WATCHDOG_USEC=200000".into()];
    let mut server = Chancery::with(Options { under: under.into(), ..Options::default() });
    let ready = heard(&socket);
    assert!(ready.contains("READY=1") && ready.contains("STATUS=serving example.org"), "{ready}");
    for _ in 0..5 {
        assert_eq!(heard(&socket).trim(), "WATCHDOG=1");
    }
    server.stop();
    let last = std::iter::repeat_with(|| heard(&socket)).find(|text| text.trim() != "WATCHDOG=1").unwrap();
    assert!(last.contains("STOPPING=1"), "{last}");
}

#[test]
fn a_failed_ledger_starves_the_watchdog() {
    let Some(strace) = need("strace") else { return };
    let place = directory();
    let path = place.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let under = [
        "env".into(),
        format!("NOTIFY_SOCKET={}", path.display()),
        "WATCHDOG_USEC=200000".into(),
        strace.display().to_string(),
        "-f".into(),
        "-qq".into(),
        "-o".into(),
        "/dev/null".into(),
        "-e".into(),
        "trace=fdatasync".into(),
        "-e".into(),
        "inject=fdatasync:error=EIO:when=40+".into(),
    ];
    let server = Chancery::with(Options { under: under.into(), ..Options::default() });
    assert!(heard(&socket).contains("READY=1"));
    // Each look at entries is a record, so one of them meets the failing disk.
    eventually("the ledger fails", LONG, || (server.run(&["audit", "prove", "0"]).code == 1).then_some(()));
    eventually("the watchdog is not fed any more", SOON, || heard(&socket).contains("the ledger failed").then_some(()));
    socket.set_read_timeout(Some(Duration::from_millis(600))).unwrap();
    assert!(socket.recv(&mut [0; 64]).is_err(), "nothing feeds it");
}

#[test]
fn the_unit_is_one_that_systemd_accepts() {
    let Some(analyze) = need("systemd_analyze") else { return };
    let place = directory();
    // The program's own place, so that the unit's command is there.
    let unit = std::fs::read_to_string("deploy/systemd/chancery.service").unwrap();
    let unit = unit.replace("/usr/local/bin/chancery", &program().display().to_string());
    let path = place.path().join("chancery.service");
    std::fs::write(&path, unit).unwrap();
    let said = said(Command::new(analyze).args(["verify", "--man=no"]).arg(&path));
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
}

#[test]
fn a_server_with_its_sealing_key_as_a_credential() {
    let place = directory();
    let credentials = place.path().join("credentials");
    std::fs::create_dir(&credentials).unwrap();
    let key = credentials.join("sealing.key");
    run(["config", "sealing-key", key.to_str().unwrap()]).expect(0);
    run(["config", "sealing-key", key.to_str().unwrap()]).expect(1).expect_words(&["never overwritten"]);
    let config = std::fs::read_to_string("deploy/chancery.toml").unwrap();
    let here = |path: &str| place.path().join(path).display().to_string();
    let config = config
        .replace("/var/lib/chancery", &here("data"))
        .replace("/etc/chancery/policy.toml", &here("policy.toml"))
        .replace("/run/chancery", place.path().to_str().unwrap())
        .replace("127.0.0.1:8080", "127.0.0.1:0");
    std::fs::write(here("chancery.toml"), config).unwrap();
    std::fs::copy("deploy/policy.toml", here("policy.toml")).unwrap();
    let server = || {
        let mut command = Command::new(program());
        command.args(["server", "--config", &here("chancery.toml")]).env("CREDENTIALS_DIRECTORY", &credentials);
        command
    };
    said(server().env_remove("CREDENTIALS_DIRECTORY")).expect(2).expect_words(&["LoadCredential"]);
    let mut running = Process::start("chancery", server(), place.path());
    let addresses = Path::new(&here("data")).join("addresses.json");
    eventually("chancery is ready", SOON, || addresses.exists().then_some(()));
    let status = run(["status", "--data-dir", &here("data")]).expect(0);
    assert!(!status.out.contains("lies beside"), "{}", status.out);
    assert!(!Path::new(&here("data/keys/sealing.key")).exists());
    running.signal(nix::sys::signal::Signal::SIGTERM);
    running.wait(SOON);
    // A copy of the data directory alone holds no usable key.
    std::fs::remove_file(&key).unwrap();
    said(&mut server()).expect(1).expect_words(&["sealing.key"]);
}

#[test]
fn every_command_has_a_man_page_that_renders() {
    let place = directory();
    let pages = place.path().join("man1");
    run(["man", pages.to_str().unwrap()]).expect(0);
    for page in ["chancery.1", "chancery-up.1", "chancery-cert-issue.1", "chancery-audit-verify.1"] {
        let text = std::fs::read_to_string(pages.join(page)).unwrap();
        assert!(text.starts_with(".ie") && text.contains(".TH chancery"), "{page}: {text}");
    }
}

#[test]
fn completion_works_in_a_real_bash() {
    let place = directory();
    let script = place.path().join("chancery.bash");
    std::fs::write(&script, run(["completions", "bash"]).expect(0).out).unwrap();
    let ask = format!(
        "source {}; COMP_WORDS=(chancery cert i); COMP_CWORD=2; _chancery chancery i cert; echo \"${{COMPREPLY[*]}}\"",
        script.display()
    );
    let said = said(Command::new("bash").args(["--norc", "-c", &ask])).expect(0);
    assert_eq!(said.out.trim(), "issue", "{said:?}");
}
