//! `chancery up`: a working authority with one command, the same one after every kind of end, several side by side.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::chancery::{Chancery, program, run};
use crate::harness::policy::{self, Rule};
use crate::harness::process::Process;
use crate::harness::{SOON, alone, directory, eventually, ledger};

const WEB: &str = "spiffe://example.org/ns/shop/sa/web";

#[test]
fn a_second_start_finds_the_same_authority_and_ledger_at_once() {
    let _alone = alone();
    let mut server = Chancery::up();
    let bundle = server.run(&["bundle", "show"]).expect(0).out;
    assert!(bundle.contains("BEGIN CERTIFICATE"), "{bundle}");
    let log = ledger::only_log(&server.data());
    let vkey = std::fs::read(log.join("vkey")).unwrap();
    let before = ledger::leaves(&log);

    assert!(server.stop().success());
    assert!(!server.data().join("addresses.json").exists(), "removed on a clean stop");
    let took = server.start();
    assert!(took < Duration::from_secs(1), "the second start took {took:?}");

    assert_eq!(server.run(&["bundle", "show"]).expect(0).out, bundle);
    assert_eq!(std::fs::read(log.join("vkey")).unwrap(), vkey);
    server.records_of("ledger.start", 2);
    let after = ledger::leaves(&log);
    assert!(after.len() > before.len(), "stop and start are on record");
    assert_eq!(after[..before.len()], before[..]);
    let actions: Vec<_> = server.records().iter().map(|record| record["action"].to_string()).collect();
    assert_eq!(
        actions.iter().filter(|action| *action == "\"ca.prepare\"").count(),
        2,
        "a root and an issuing CA: {actions:?}"
    );
    for action in ["ledger.start", "ledger.stop", "ca.activate"] {
        assert!(actions.contains(&format!("{action:?}")), "{action}: {actions:?}");
    }
}

#[test]
fn after_a_kill_it_starts_again_with_everything() {
    let mut server = Chancery::up();
    let bundle = server.run(&["bundle", "show"]).expect(0).out;
    let log = ledger::only_log(&server.data());
    let before = ledger::leaves(&log);
    server.kill();
    server.start();
    assert_eq!(server.run(&["bundle", "show"]).expect(0).out, bundle);
    assert_eq!(ledger::leaves(&log)[..before.len()], before[..]);
    server.wait_for_record("the unclean stop", |record| record["action"] == "ledger.recover");
    server.run(&["audit", "verify"]).expect(0);
}

#[test]
fn what_it_keeps_is_for_its_own_account_only() {
    let server = Chancery::up();
    let mut keys = 0;
    for entry in std::fs::read_dir(server.data().join("keys")).unwrap() {
        let path = entry.unwrap().path();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
        keys += 1;
    }
    assert!(keys >= 3, "root, issuing and sealing key");
    let status = server.run(&["status"]).expect(0);
    assert!(status.out.contains("ready"), "{status:?}");
}

#[test]
fn it_says_what_it_made_and_what_comes_next() {
    let server = Chancery::up();
    let said = eventually("it has said all", SOON, || {
        let output = server.output();
        output.contains("audit tail").then_some(output)
    });
    for word in ["example.org", "root CA", "issuing CA", "ledger", "SDS", "HTTP", "chancery fetch", "envoy bootstrap"] {
        assert!(said.contains(word), "{word:?} is not in:\n{said}");
    }
}

#[test]
fn several_run_side_by_side_on_free_ports() {
    let (one, two) = (Chancery::up(), Chancery::up());
    assert_ne!(one.http(), two.http());
    assert_ne!(one.socket("sds"), two.socket("sds"));
    let of = |server: &Chancery| server.run(&["bundle", "show"]).expect(0).out;
    assert_ne!(of(&one), of(&two), "each has a root of its own");
    for server in [&one, &two] {
        server.run(&["doctor"]).expect(0);
    }
}

#[test]
fn the_projection_can_be_deleted_and_comes_back() {
    let mut server = Chancery::up();
    let issue = server.run(&["fetch", "--once", "--dir", server.scratch().join("id").to_str().unwrap()]);
    issue.expect(0);
    let list = |server: &Chancery| server.run(&["cert", "list", "--output", "json"]).expect(0).json();
    let serial = |value: &serde_json::Value| value["certificates"][0]["serial"].clone();
    let before =
        eventually("the certificate is listed", SOON, || Some(list(&server)).filter(|list| serial(list).is_string()));
    assert!(server.stop().success());
    std::fs::remove_file(server.data().join("index.redb")).unwrap();
    server.start();
    let after =
        eventually("the projection is back", SOON, || Some(list(&server)).filter(|list| serial(list).is_string()));
    assert_eq!(serial(&after), serial(&before));
}

#[test]
fn a_server_with_a_configuration_file_has_nothing_implicit() {
    let place = directory();
    let data = place.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::write(place.path().join("policy.toml"), policy::text(&[Rule::on("web", WEB, "24h")])).unwrap();
    let file = place.path().join("chancery.toml");
    let text = "trust_domain = \"example.org\"\ndata_dir = \"data\"\npolicy = \"policy.toml\"\n\n[[sds.listen]]\n\
                name = \"web\"\npath = \"web.sock\"\n\n[http]\nlisten = \"127.0.0.1:0\"\n";
    std::fs::write(&file, text).unwrap();
    run(["config", "check", "--config", file.to_str().unwrap()]).expect(0);
    let mut command = Command::new(program());
    command.args(["server", "--config"]).arg(&file);
    let mut server = Process::start("chancery", command, place.path());
    let addresses = eventually("addresses.json", SOON, || std::fs::read_to_string(data.join("addresses.json")).ok());
    assert!(addresses.contains("web.sock") && !addresses.contains("sds.sock"), "{addresses}");
    run(["status", "--data-dir", data.to_str().unwrap()]).expect(0);
    server.signal(Signal::SIGTERM);
    assert!(server.wait(SOON).success());
}

#[test]
fn the_default_configuration_names_every_key() {
    let written = run(["config", "default"]).expect(0);
    for word in ["trust_domain", "data_dir", "policy", "[http]", "[[sds.listen]]", "max_certificates_per_caller"] {
        assert!(written.out.contains(word), "{word} is not in {}", written.out);
    }
}
