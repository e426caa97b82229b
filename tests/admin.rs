//! The operator's API as operators meet it: roles by uid and by certificate, from this machine and from another, what the
//! ledger says about it, and a listener that neither spins nor holds up the end.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use chancery::proto::chancery::admin::v1 as pb;
use chancery::proto::chancery::admin::v1::admin_client::AdminClient;
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::chancery::{Said, program, said};
use crate::harness::process::Process;
use crate::harness::{SOON, directory, eventually, ledger, need_root, sds};

/// An account that the configuration makes a reader.
const READER: u32 = 61_301;

/// One that it says nothing about.
const STRANGER: u32 = 61_302;

/// What the policy gives to root on the admin socket, and to its holders again on the port.
const POLICY: &str = "\
[[rule]]
name = \"people\"
match = { socket = \"admin\", uid = 0 }
mesh = \"envoy\"
identity = \"spiffe://{trust_domain}/operators/kim\"
lifetime = \"24h\"

[[rule]]
name = \"others\"
match = { socket = \"admin\", uid = 0 }
mesh = \"envoy\"
identity = \"spiffe://{trust_domain}/web\"
lifetime = \"24h\"

[[rule]]
name = \"renew\"
match = { socket = \"admin\", client = \"spiffe://{trust_domain}/operators/*\" }
mesh = \"envoy\"
identity = \"{client}\"
lifetime = \"24h\"
";

/// `chancery server` with an admin API for more than its own user. Its files are where other users may go.
struct Server {
    process: Process,
    directory: TempDir,
}

impl Server {
    fn start(under: &[&str]) -> Self {
        let directory = directory();
        let place = directory.path();
        std::fs::set_permissions(place, std::fs::Permissions::from_mode(0o711)).unwrap();
        let private = place.join("data");
        std::fs::create_dir(&private).unwrap();
        std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::write(place.join("policy.toml"), POLICY).unwrap();
        let text = format!(
            "trust_domain = \"example.org\"\ndata_dir = \"data\"\npolicy = \"policy.toml\"\n\
             [[sds.listen]]\nname = \"sds\"\npath = \"sds.sock\"\n\
             [admin]\npath = \"admin.sock\"\nmode = \"0666\"\nlisten = \"127.0.0.1:0\"\n\
             [[admin.operator]]\nrole = \"reader\"\nuid = {READER}\n\
             [[admin.operator]]\nrole = \"operator\"\nclient = \"spiffe://{{trust_domain}}/operators/*\"\n"
        );
        let config = place.join("chancery.toml");
        std::fs::write(&config, text).unwrap();
        let mut words: Vec<&str> = under.to_vec();
        words.extend([program().to_str().unwrap(), "server", "--config", config.to_str().unwrap()]);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).env("NO_COLOR", "1");
        let mut process = Process::start("chancery", command, place);
        let file = private.join("addresses.json");
        eventually("chancery is ready", SOON, || {
            assert!(process.ended().is_none(), "it ended: {}", process.output());
            file.exists().then_some(())
        });
        Self { process, directory }
    }

    fn place(&self) -> &Path {
        self.directory.path()
    }

    fn socket(&self) -> PathBuf {
        self.place().join("admin.sock")
    }

    /// The port of the admin API.
    fn port(&self) -> String {
        let text = std::fs::read(self.place().join("data/addresses.json")).unwrap();
        let addresses: Value = serde_json::from_slice(&text).unwrap();
        addresses["admin_tcp"].as_str().unwrap_or_else(|| panic!("no port in {addresses}")).to_owned()
    }

    /// A command over the socket, as another user.
    fn as_uid(&self, uid: u32, arguments: &[&str]) -> Said {
        let mut command = Command::new(program());
        command.args(arguments).arg("--admin-socket").arg(self.socket()).current_dir("/");
        said(command.uid(uid).gid(uid))
    }

    fn run(&self, arguments: &[&str]) -> Said {
        self.as_uid(0, arguments)
    }

    /// A command over the port, with the files of `identity`.
    fn remote(&self, identity: &Path, arguments: &[&str]) -> Said {
        let mut command = Command::new(program());
        command.args(arguments).args(["--server", &self.port(), "--identity-dir"]).arg(identity).current_dir("/");
        said(&mut command)
    }

    /// Issues `identity` over the socket into a directory of that name.
    fn identity(&self, identity: &str, name: &str) -> PathBuf {
        let dir = self.place().join(name);
        self.run(&["cert", "issue", "--identity", identity, "--dir", dir.to_str().unwrap()]).expect(0);
        dir
    }

    /// Revokes an identity over the socket, and waits until that is done.
    fn revoke(&self, identity: &str) {
        let selection = pb::Selection { identity: identity.to_owned(), ..Default::default() };
        let reason = "keyCompromise".to_owned();
        let ask = pb::RevokeCertificatesRequest { selection: Some(selection), reason, ..Default::default() };
        let work = async {
            let mut admin = AdminClient::new(sds::connect(&self.socket()).await.unwrap());
            let mut steps = admin.revoke_certificates(ask).await.unwrap().into_inner();
            while steps.message().await.unwrap().is_some_and(|step| step.step != "done") {}
        };
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
    }

    /// Waits for a record that satisfies `wanted`.
    fn record(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("a record of {what}"), SOON, || {
            ledger::records(&self.place().join("data")).into_iter().find(|record| wanted(record))
        })
    }

    fn stop(&mut self) -> Duration {
        let begin = Instant::now();
        self.process.signal(Signal::SIGTERM);
        assert!(self.process.wait(SOON).success());
        begin.elapsed()
    }
}

#[test]
fn a_reader_looks_and_does_no_more() {
    if !need_root() {
        return;
    }
    let server = Server::start(&[]);
    server.identity("spiffe://example.org/web", "web");
    server.as_uid(READER, &["status"]).expect(0);
    let list = server.as_uid(READER, &["cert", "list", "--output", "json"]).expect(0).json();
    let serial = list["certificates"][0]["serial"].as_str().unwrap().to_owned();
    let shown = server.as_uid(READER, &["cert", "show", &serial, "--output", "json"]).expect(0).json();
    assert!(shown["record"]["operator"].is_null(), "a reader learns no operator's name: {shown}");
    let tried = ["cert", "issue", "--dir", "/tmp"];
    server.as_uid(READER, &tried).expect(3).expect_words(&["cert.issue", "role operator", "role reader"]);
    let refused = server.record("the refusal", |record| record["reason"] == "role_too_low");
    assert_eq!((&refused["action"], &refused["outcome"]), (&"operator.act".into(), &"denied".into()));
    assert_eq!((&refused["change"]["what"], &refused["source"]["uid"]), (&"cert.issue".into(), &READER.into()));
    let words = ["is no operator", "[[admin.operator]]"];
    server.as_uid(STRANGER, &["status"]).expect(3).expect_words(&words);
    server.record("the stranger", |record| record["reason"] == "not_an_administrator");
}

#[test]
fn root_without_a_login_is_nobody_in_particular() {
    let login = std::fs::read_to_string("/proc/self/loginuid").unwrap_or_default();
    if !need_root() || login.trim() != u32::MAX.to_string() {
        return;
    }
    let server = Server::start(&[]);
    server.identity("spiffe://example.org/web", "web");
    let act = server.record("the act", |record| record["change"]["what"] == "cert.issue");
    assert_eq!(act["actor"]["unattributed"], true, "{act}");
    let status = server.run(&["status"]).expect(0);
    assert!(status.out.contains("without a person"), "{status:?}");
}

#[test]
fn an_operator_works_from_another_machine() {
    if !need_root() {
        return;
    }
    let mut server = Server::start(&[]);
    let kim = server.identity("spiffe://example.org/operators/kim", "kim");
    let web = server.identity("spiffe://example.org/web", "web");
    server.remote(&kim, &["status"]).expect(0);
    let list = server.remote(&kim, &["cert", "list", "--output", "json"]).expect(0).json();
    assert_eq!(list["live"].as_u64().unwrap(), 3, "kim's, the web's, the server's own: {list}");
    let again = server.place().join("again");
    server.remote(&kim, &["cert", "issue", "--dir", again.to_str().unwrap()]).expect(0);
    let act = server.record("kim's act", |record| {
        record["change"]["what"] == "cert.issue" && record["actor"]["attested_by"] == "client_certificate"
    });
    assert_eq!(act["actor"]["id"], "spiffe://example.org/operators/kim");
    assert!(act["actor"]["name"]["ct"].is_string() && act["source"]["address"]["ct"].is_string(), "sealed: {act}");
    let tail = server.remote(&again, &["audit", "tail"]).expect(0);
    assert!(tail.out.contains("operator"), "{tail:?}");
    server.remote(&web, &["status"]).expect(3).expect_words(&["spiffe://example.org/web", "is no operator"]);
    let nobody = server.place().join("nobody");
    server.remote(&nobody, &["status"]).expect(2).expect_words(&["cert issue"]);
    server.stop();
}

#[test]
fn an_operator_who_is_revoked_is_out_at_once() {
    if !need_root() {
        return;
    }
    let server = Server::start(&[]);
    let kim = server.identity("spiffe://example.org/operators/kim", "kim");
    let mut tail = Command::new(program());
    tail.args(["audit", "tail", "--follow", "--server", &server.port(), "--identity-dir"]).arg(&kim);
    let mut tail = Process::start("tail", tail, server.place());
    eventually("the tail is there", SOON, || tail.output().contains("operator.read").then_some(()));
    server.revoke("spiffe://example.org/operators/kim");
    tail.wait(SOON);
    let refused = server.remote(&kim, &["status"]).expect(3);
    assert!(refused.err.contains("certificate_revoked"), "{refused:?}");
}

#[test]
fn followers_do_not_hold_up_the_end() {
    if !need_root() {
        return;
    }
    let mut server = Server::start(&[]);
    let mut tail = Command::new(program());
    tail.args(["audit", "tail", "--follow", "--admin-socket"]).arg(server.socket());
    let mut tail = Process::start("tail", tail, server.place());
    eventually("the tail is there", SOON, || tail.output().contains("operator.read").then_some(()));
    let took = server.stop();
    assert!(took < Duration::from_secs(5), "the drain of 10 s is for those who have work: {took:?}");
    assert!(!tail.wait(SOON).success(), "a tail that was cut says so");
}

/// Seconds of processor time that a process has used.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

#[test]
fn a_server_without_descriptors_rests() {
    if !need_root() {
        return;
    }
    // Fewer than one operator may have connections.
    let server = Server::start(&["prlimit", "--nofile=72:72"]);
    let connections: Vec<_> = (0..150).filter_map(|_| UnixStream::connect(server.socket()).ok()).collect();
    let wait = || server.process.output().contains("could not be accepted").then_some(());
    eventually("it says that it is out of descriptors", SOON, wait);
    // What is measured is time itself: two seconds in which nothing happens.
    let before = cpu(server.process.id());
    std::thread::sleep(Duration::from_secs(2));
    let used = cpu(server.process.id()) - before;
    assert!(used < 1.0, "{used} s of processor time in 2 s");
    drop(connections);
    eventually("it answers again", SOON, || (server.run(&["status"]).code == 0).then_some(()));
}
