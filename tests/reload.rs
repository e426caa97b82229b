//! Policy and configuration change while the server runs: what is taken up, what is refused, and what is on record.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::chancery::{Chancery, program, said};
use crate::harness::policy::{self, Rule};
use crate::harness::process::Process;
use crate::harness::{SOON, directory, eventually};

const OWN: &str = "spiffe://example.org/ns/shop/sa/web";
const LATE: &str = "spiffe://example.org/ns/shop/sa/late";

fn own() -> String {
    policy::text(&[Rule::own(OWN, "1h")])
}

fn both() -> String {
    policy::text(&[Rule::own(OWN, "1h"), Rule { name: "late", ..Rule::own(LATE, "1h") }])
}

/// Puts a text where the file was, as a careful editor does.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}

fn status(server: &Chancery) -> Value {
    server.run(&["status", "--output", "json"]).json()
}

/// Waits until `status` warns of something with all of `words`, or of nothing with them.
fn wait_for_warning(server: &Chancery, words: &[&str], there: bool) {
    eventually(&format!("a warning about {words:?}: {there}"), SOON, || {
        let status = status(server);
        let warnings = status["warnings"].as_array().unwrap();
        let found = warnings.iter().any(|line| words.iter().all(|word| line.as_str().unwrap().contains(word)));
        (found == there).then_some(())
    });
}

/// Changes of the policy on record, those at the start left out.
fn changes(server: &Chancery) -> Vec<Value> {
    let all = server.records_of("config.change", 2);
    all.into_iter().filter(|record| record["change"]["what"] == "policy" && !record["reason"].is_null()).collect()
}

#[test]
fn a_name_that_waits_is_answered_after_a_change_of_policy() {
    let server = Chancery::with_policy(&own());
    let files = server.scratch().join("late");
    let socket = server.socket("sds");
    let mut command = Command::new(program());
    command.args(["fetch", "--once", "--timeout", "60s", "--name", LATE, "--dir"]).arg(&files);
    command.arg("--socket").arg(&socket);
    let mut fetch = Process::start("fetch", command, server.scratch());
    server.wait_for_record("the refusal", |record| record["action"] == "certificate.deny" && record["subject"] == LATE);
    let before = status(&server)["policy_hash"].clone();
    replace(&server.data().join("policy.toml"), &both());
    assert!(fetch.wait(SOON).success(), "{}", fetch.output());
    assert!(files.join("cert.pem").exists());
    let [change] = &changes(&server)[..] else { panic!("one change: {:?}", changes(&server)) };
    assert_eq!((&change["outcome"], &change["reason"]), (&"success".into(), &"file".into()));
    assert_eq!(change["change"]["before"], before);
    assert_eq!(change["change"]["after"], status(&server)["policy_hash"]);
    // The record comes before anything is issued by it.
    let records = server.records();
    let at = |wanted: &dyn Fn(&Value) -> bool| records.iter().position(wanted).unwrap();
    let issued = at(&|record| record["action"] == "certificate.issue" && record["subject"] == LATE);
    assert!(at(&|record| record["id"] == change["id"] && record["time"] == change["time"]) < issued);
}

#[test]
fn a_broken_policy_is_refused_whole_and_recorded_once() {
    let mut server = Chancery::with_policy(&own());
    let path = server.data().join("policy.toml");
    let before = status(&server)["policy_hash"].clone();
    replace(&path, &both().replace("lifetime = \"1h\"", "lifetime = 1"));
    wait_for_warning(&server, &["policy file was refused", "lifetime", "2 mistakes"], true);
    server.signal(Signal::SIGHUP);
    server.run(&["reload"]).expect(2);
    let refused = changes(&server);
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(refused[0]["outcome"], "failure");
    assert!(refused[0]["reason"].as_str().unwrap().contains("no unit"), "{refused:?}");
    assert_eq!(status(&server)["policy_hash"], before);
    // The old one still grants; the file's rights count as its content does.
    server.run(&["policy", "explain", "--uid", &nix::unistd::Uid::effective().to_string()]).expect(0);
    replace(&path, &own());
    wait_for_warning(&server, &["policy file was refused"], false);
    assert_eq!(changes(&server).len(), 1, "what is in force again is no change");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    wait_for_warning(&server, &["policy file was refused", "chmod go-w"], true);
    std::fs::remove_file(&path).unwrap();
    wait_for_warning(&server, &["policy file was refused", "is not there"], true);
    server.stop();
}

#[test]
fn a_link_that_turns_is_a_change() {
    let server = Chancery::with_policy(&own());
    let (data, path) = (server.data(), server.data().join("policy.toml"));
    for (name, text) in [("one", own()), ("two", both())] {
        std::fs::create_dir(data.join(name)).unwrap();
        std::fs::write(data.join(name).join("policy.toml"), text).unwrap();
    }
    // As a ConfigMap is mounted: the file is a link through a link that is turned.
    std::os::unix::fs::symlink("one", data.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/policy.toml", data.join("link")).unwrap();
    std::fs::rename(data.join("link"), &path).unwrap();
    std::os::unix::fs::symlink("two", data.join("turned")).unwrap();
    std::fs::rename(data.join("turned"), data.join("..data")).unwrap();
    eventually("the other policy is in force", SOON, || {
        server.run(&["policy", "show"]).out.contains(LATE).then_some(())
    });
}

#[test]
fn sighup_and_reload_take_a_change_up_at_once() {
    let server = Chancery::with_policy(&own());
    let path = server.data().join("policy.toml");
    replace(&path, &both());
    server.run(&["reload"]).expect(0);
    assert!(server.run(&["policy", "show"]).out.contains(LATE));
    let change = changes(&server).pop().unwrap();
    // The watcher may have been faster; an operator's act is on record either way.
    assert!(["operator", "file"].contains(&change["reason"].as_str().unwrap()), "{change}");
    server.wait_for_record("the act", |record| {
        record["action"] == "operator.act" && record["change"]["what"] == "reload" && !record["actor"].is_null()
    });
    replace(&path, &own());
    server.signal(Signal::SIGHUP);
    eventually("the first policy again", Duration::from_secs(5), || {
        (!server.run(&["policy", "show"]).out.contains(LATE)).then_some(())
    });
}

#[test]
fn a_policy_is_compared_and_applied() {
    let server = Chancery::with_policy(&policy::text(&[
        Rule::own(OWN, "1h"),
        Rule { name: "operators", ..Rule::on("admin", "spiffe://example.org/op/*", "1h") },
    ]));
    let path = server.data().join("policy.toml");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let files = server.scratch().join("held");
    let socket = server.socket("sds");
    let fetch = ["fetch", "--once", "--dir", files.to_str().unwrap(), "--socket", socket.to_str().unwrap()];
    server.run(&fetch).expect(0);
    let new = server.scratch().join("new.toml");
    let name = new.to_str().unwrap();

    // Broken, and without anybody to ask.
    std::fs::write(&new, "[[rule]]\n").unwrap();
    server.run(&["policy", "diff", name]).expect(2).expect_words(&["new.toml", "missing"]);
    std::fs::write(&new, policy::text(&[Rule::own(LATE, "1h")])).unwrap();
    let diff = server.run(&["policy", "diff", name, "--output", "json"]).expect(0).json();
    assert_eq!((&diff["lost_count"], &diff["locks_out_operator"]), (&1.into(), &true.into()), "{diff}");
    assert_eq!(diff["lost"][0]["identity"], OWN);
    assert_eq!(diff["changed"][0], "own");
    server.run(&["policy", "apply", name]).expect(2).expect_words(&["--yes"]);
    server.run(&["policy", "apply", name, "--yes"]).expect(1).expect_words(&["--allow-lock-out"]);
    assert!(changes(&server).is_empty());

    let said = server.run(&["policy", "apply", name, "--yes", "--allow-lock-out", "--comment", "ticket 7"]).expect(0);
    assert!(said.out.contains("1 of 1 live certificate would not be granted again"), "{}", said.out);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), std::fs::read_to_string(&new).unwrap());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    let change = changes(&server).pop().unwrap();
    assert_eq!((&change["reason"], &change["outcome"]), (&"ticket 7".into(), &"success".into()));
    assert!(!change["actor"].is_null() && change["change"]["after"] == status(&server)["policy_hash"], "{change}");
    assert!(server.run(&["policy", "apply", name, "--yes"]).expect(0).out.contains("already"));
    let live = server.run(&["cert", "list", "--state", "live", "--output", "json"]).json();
    assert_eq!(live["certificates"][0]["identity"], OWN, "a change of policy alone revokes nothing: {live}");

    // Put back, then applied again with --revoke: what it takes away is on the CRL.
    std::fs::write(&new, both()).unwrap();
    server.run(&["policy", "apply", name, "--yes"]).expect(0);
    std::fs::write(&new, policy::text(&[Rule::own(LATE, "1h")])).unwrap();
    let said = server.run(&["policy", "apply", name, "--yes", "--allow-lock-out", "--revoke"]).expect(0);
    assert!(said.out.contains("1 certificate revoked"), "{}", said.out);
    let revoked = server.records_of("certificate.revoke", 1).pop().unwrap();
    assert_eq!((&revoked["subject"], &revoked["reason"]), (&OWN.into(), &"privilegeWithdrawn".into()), "{revoked}");
    assert_eq!(revoked["change"]["what"], "policy.apply", "{revoked}");
    let live = server.run(&["cert", "list", "--state", "live", "--output", "json"]).json();
    assert_eq!(live["certificates"].as_array().map_or(0, Vec::len), 0, "{live}");
    assert!(server.records().iter().all(|record| record["action"] != "identity.deny"), "policy says no, nothing else");

    // An edit that is not in force is not written over.
    std::fs::write(&path, "half a fi").unwrap();
    std::fs::write(&new, both()).unwrap();
    server.run(&["policy", "apply", name, "--yes"]).expect(1).expect_words(&["would be lost"]);
    std::fs::remove_file(&path).unwrap();
    server.run(&["policy", "apply", name, "--yes"]).expect(0);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), both());
}

#[test]
fn a_policy_is_compared_without_a_server() {
    let mut server = Chancery::with_policy(&own());
    server.stop();
    let new = server.scratch().join("new.toml");
    std::fs::write(&new, both()).unwrap();
    let said = server.run(&["policy", "diff", new.to_str().unwrap()]).expect(0);
    assert!(said.out.contains("added  rule \"late\"") && said.out.contains("No live certificate"), "{}", said.out);
}

#[test]
fn a_configuration_changes_where_it_can() {
    let place = directory();
    let (data, file) = (place.path().join("data"), place.path().join("chancery.toml"));
    let text = format!(
        "trust_domain = \"example.org\"\ndata_dir = \"{0}\"\npolicy = \"policy.toml\"\n[[sds.listen]]\nname = \"sds\"\npath = \
         \"{0}/sds.sock\"\n",
        data.display()
    );
    replace(&file, &text);
    replace(&place.path().join("policy.toml"), &own());
    let mut command = Command::new(program());
    command.args(["server", "--config"]).arg(&file).env("NO_COLOR", "1");
    let mut server = Process::start("server", command, place.path());
    let ask = |arguments: &[&str]| said(Command::new(program()).args(arguments).arg("--data-dir").arg(&data));
    eventually("the server is ready", SOON, || (ask(&["status"]).code == 0).then_some(()));

    replace(&file, &format!("{text}[log]\nlevel = \"debug\"\n[limits]\nmax_connections = 77\n"));
    let done = ask(&["reload", "--output", "json"]).expect(0).json();
    assert_eq!(done["needs_restart"], serde_json::json!(["limits.max_connections"]), "{done}");
    let status = ask(&["status", "--output", "json"]).json();
    let warnings = status["warnings"].to_string();
    assert!(warnings.contains("limits.max_connections") && !warnings.contains("log.level"), "{warnings}");
    eventually("debug lines", SOON, || server.output().contains("DEBUG").then_some(()));

    replace(&file, &format!("{text}[log]\nlevel = \"loud\"\n"));
    let refused = ask(&["reload"]).expect(2);
    assert!(refused.out.contains("log.level") || refused.out.contains("level"), "{}", refused.out);
    replace(&file, &text);
    let done = ask(&["reload", "--output", "json"]).expect(0).json();
    assert!(done["needs_restart"].as_array().unwrap().is_empty(), "{done}");
    server.signal(Signal::SIGTERM);
    assert!(server.wait(SOON).success());
}
