//! Each failure that a user can meet: it says what is wrong, where and what to do, and ends with its documented code.
//!
//! 0 done, 1 failed, 2 bad input or configuration, 3 refused by policy, 4 server not reachable, 5 verification failed.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::harness::chancery::{Chancery, Said, program, run, said};
use crate::harness::policy::{self, Rule};
use crate::harness::{directory, need, need_root};

const WEB: &str = "spiffe://example.org/ns/shop/sa/web";

/// `chancery up` that is expected to end at once.
fn up(data: &Path, more: &[&str]) -> Said {
    let mut arguments = vec!["up", "--data-dir", data.to_str().unwrap()];
    if !more.contains(&"--http") {
        arguments.extend_from_slice(&["--http", "127.0.0.1:0"]);
    }
    arguments.extend_from_slice(more);
    run(arguments)
}

#[test]
fn a_port_in_use_is_named() {
    let place = directory();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    up(&place.path().join("data"), &["--http", &address]).expect(1).expect_words(&[&address, "in use", "port 0"]);
}

#[test]
fn a_socket_in_use_is_named() {
    let place = directory();
    let path = place.path().join("taken.sock");
    let _taken = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let named = format!("other={}", path.display());
    let said = up(&place.path().join("data"), &["--sds-socket", &named]);
    said.expect(1).expect_words(&["taken.sock", "in use"]);
}

#[test]
fn a_socket_path_that_is_too_long_is_counted() {
    let place = directory();
    let long = place.path().join("x".repeat(100));
    up(&long, &[]).expect(2).expect_words(&["107", "--data-dir", "shorter"]);
}

#[test]
fn a_directory_that_another_chancery_uses_is_left_alone() {
    let server = Chancery::up();
    up(&server.data(), &[]).expect(1).expect_words(&["in use by another chancery", "--data-dir"]);
    server.run(&["status"]).expect(0);
}

#[test]
fn a_directory_of_another_trust_domain_is_left_alone() {
    let mut server = Chancery::up();
    server.stop();
    let said = up(&server.data(), &["--trust-domain", "other.example"]);
    said.expect(1).expect_words(&["example.org", "other.example", "--trust-domain"]);
}

#[test]
fn a_directory_of_a_newer_version_is_left_alone() {
    let mut server = Chancery::up();
    server.stop();
    let marker = server.data().join("chancery.json");
    std::fs::set_permissions(&marker, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&marker, r#"{"layout": 99, "trust_domain": "example.org"}"#).unwrap();
    up(&server.data(), &[]).expect(1).expect_words(&["newer", "99"]);
}

#[test]
fn a_directory_that_others_can_read_is_refused() {
    let place = directory();
    let data = place.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).unwrap();
    up(&data, &[]).expect(1).expect_words(&["0755", "chmod 0700"]);
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let mut server = Chancery::up();
    server.stop();
    let key = std::fs::read_dir(server.data().join("keys")).unwrap().next().unwrap().unwrap().path();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    up(&server.data(), &[]).expect(1).expect_words(&[key.file_name().unwrap().to_str().unwrap(), "chmod"]);
}

#[test]
fn a_directory_of_another_account_is_refused() {
    if !need_root() {
        return;
    }
    let mut server = Chancery::up();
    server.stop();
    std::os::unix::fs::chown(server.data(), Some(61_236), Some(61_236)).unwrap();
    up(&server.data(), &[]).expect(1).expect_words(&["61236", "uid 0"]);
}

#[test]
fn every_mistake_of_a_policy_is_told_at_once() {
    let place = directory();
    let data = place.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)).unwrap();
    let nobody = Rule { name: "nobody", uid: Some("65534".into()), ..Rule::own(WEB, "24h") };
    let wrong = Rule { name: "wrong", ..Rule::own("spiffe://other.example/x", "90") };
    std::fs::write(data.join("policy.toml"), policy::text(&[nobody, wrong])).unwrap();
    let said = up(&data, &[]).expect(2).expect_words(&["policy.toml", "line 3", "line 12", "line 13"]);
    assert!(said.err.contains("match"), "a rule that can match nobody says so: {said:?}");
    let path = data.join("policy.toml");
    run(["policy", "check", path.to_str().unwrap()]).expect(2).expect_words(&["line 3", "line 12", "line 13"]);
}

#[test]
fn every_mistake_of_a_configuration_is_told_at_once() {
    let place = directory();
    let file = place.path().join("chancery.toml");
    std::fs::write(&file, "trust_domain = \"not a domain\"\ndata_dri = \"x\"\n\n[http]\nlisten = \"nowhere\"\n")
        .unwrap();
    let words = ["chancery.toml", "line 1", "line 2", "data_dir", "line 5"];
    run(["server", "--config", file.to_str().unwrap()]).expect(2).expect_words(&words);
    run(["config", "check", "--config", file.to_str().unwrap()]).expect(2).expect_words(&words);
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let place = directory();
    let data = place.path().join("data");
    for command in ["status", "cert list", "ca show", "bundle show"] {
        let arguments = command.split(' ').chain(["--data-dir", data.to_str().unwrap()]);
        run(arguments).expect(4).expect_words(&["no server runs", "chancery up"]);
    }
    let socket = place.path().join("sds.sock");
    let files = place.path().join("id");
    run(["fetch", "--once", "--socket", socket.to_str().unwrap(), "--dir", files.to_str().unwrap()])
        .expect(4)
        .expect_words(&["sds.sock"]);
}

#[test]
fn a_wrong_command_line_has_its_code() {
    run(["no-such-command"]).expect(2);
    run(["fetch"]).expect(2);
}

#[test]
fn who_gets_nothing_is_told_which_rules_came_closest() {
    let rule = Rule { name: "payments", uid: Some("2000".into()), ..Rule::own(WEB, "24h") };
    let server = Chancery::with_policy(&policy::text(&[rule]));
    let said = server.run(&["policy", "explain", "--uid", "1003"]);
    for word in ["1003", "payments", "2000", "policy.toml"] {
        assert!(said.out.contains(word), "{word:?} is not in {said:?}");
    }
    let files = server.scratch().join("id");
    let refused = server.run(&["fetch", "--once", "--dir", files.to_str().unwrap()]);
    refused.expect(3).expect_words(&["policy explain"]);
    server.run(&["cert", "issue", "--identity", WEB, "--dir", files.to_str().unwrap()]).expect(3);
}

#[test]
fn a_weak_key_in_a_request_is_refused() {
    let Some(openssl) = need("openssl") else { return };
    let server = Chancery::with_policy(&policy::text(&[Rule::on("admin", WEB, "24h")]));
    let [key, csr] = ["weak.pem", "weak.csr"].map(|name| server.scratch().join(name));
    let mut command = Command::new(openssl);
    command.args(["req", "-new", "-newkey", "rsa:1024", "-nodes", "-subj", "/", "-keyout"]).arg(&key);
    said(command.arg("-out").arg(&csr)).expect(0);
    let refused = server.run(&["cert", "issue", "--identity", WEB, "--csr", csr.to_str().unwrap()]);
    refused.expect(2).expect_words(&["1024", "2048"]);
}

#[test]
fn a_clock_before_the_authority_is_noticed() {
    let Some(faketime) = need("faketime") else { return };
    let mut server = Chancery::up();
    server.stop();
    let mut command = Command::new(faketime);
    command.args(["-f", "-3d"]).arg(program()).args(["up", "--http", "127.0.0.1:0", "--data-dir"]).arg(server.data());
    said(&mut command).expect(1).expect_words(&["clock"]);
}
