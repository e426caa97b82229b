//! Acts that take two operators, and the break-glass, with the real program: two people with certificates, a file that
//! somebody changes, and `kill -9` between any two steps. A full disk is in `disk`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::harness::chancery::{Chancery, Options, Said, program, said};
use crate::harness::{SOON, alone, eventually, full, need_root};

/// Kills of one run, and of a full one.
const KILLS: [usize; 2] = [12, 300];

/// The server's file; everything that can take two does.
const CONFIGURATION: &str = "\
trust_domain = \"example.org\"
data_dir = \"data\"
policy = \"policy.toml\"
[[sds.listen]]
name = \"sds\"
path = \"sds.sock\"
[http]
listen = \"127.0.0.1:0\"
[admin]
listen = \"127.0.0.1:0\"
[admin.approval]
acts = [\"ca.rotate\", \"ca.taint\", \"ca.activate\", \"ca.retire\", \"cert.revoke\", \"policy\", \"configuration\"]
[[admin.operator]]
role = \"admin\"
client = \"spiffe://{trust_domain}/operators/*\"
";

/// Root on the admin socket may have an operator's certificate.
const POLICY: &str = "\
[[rule]]
name = \"kim\"
match = { socket = \"admin\", uid = 0 }
mesh = \"envoy\"
identity = \"spiffe://{trust_domain}/operators/kim\"
lifetime = \"24h\"

[[rule]]
name = \"lou\"
match = { socket = \"admin\", uid = 0 }
mesh = \"envoy\"
identity = \"spiffe://{trust_domain}/operators/lou\"
lifetime = \"24h\"
";

/// A server and two people who hold an operator's certificate.
struct Two {
    server: Chancery,
    kim: PathBuf,
    lou: PathBuf,
}

impl Two {
    fn start() -> Self {
        let options = Options { configuration: Some(CONFIGURATION.to_owned()), ..Options::default() };
        let mut server = Chancery::prepared(options);
        std::fs::write(server.scratch().join("policy.toml"), POLICY).unwrap();
        server.start();
        let issue = |name: &str| {
            let dir = server.scratch().join(name);
            let identity = format!("spiffe://example.org/operators/{name}");
            server.run(&["cert", "issue", "--identity", &identity, "--dir", dir.to_str().unwrap()]).expect(0);
            dir
        };
        let (kim, lou) = (issue("kim"), issue("lou"));
        Self { server, kim, lou }
    }

    fn command(&self, who: &Path, arguments: &[&str]) -> Command {
        let port = self.server.addresses()["admin_tcp"].as_str().expect("a port").to_owned();
        let mut command = Command::new(program());
        command.args(arguments).args(["--server", &port, "--identity-dir"]).arg(who).current_dir("/");
        command
    }

    fn kim(&self, arguments: &[&str]) -> Said {
        said(&mut self.command(&self.kim, arguments))
    }

    fn lou(&self, arguments: &[&str]) -> Said {
        said(&mut self.command(&self.lou, arguments))
    }

    fn restart(&mut self) {
        self.server.kill();
        self.server.start();
    }

    /// The requests that live, as lou sees them.
    fn open(&self) -> Vec<Value> {
        let list = self.lou(&["approval", "list", "--output", "json"]).expect(0).json();
        list["approvals"].as_array().expect("a list").clone()
    }

    /// The one request, granted by lou.
    fn grant(&self) -> String {
        let id = self.open().iter().find(|one| one["state"] == "open").expect("a request")["id"].clone();
        let id = id.as_str().unwrap().to_owned();
        self.lou(&["approval", "grant", &id]).expect(0);
        id
    }

    fn policy_in_force(&self) -> String {
        let shown = self.kim(&["policy", "show", "--output", "json"]).expect(0).json();
        shown["hash"].as_str().unwrap().to_owned()
    }
}

const TAINT: [&str; 4] = ["ca", "taint", "issuing 1", "--yes"];

#[test]
fn a_taint_takes_two_people_and_survives_kill_between_any_two_steps() {
    if !need_root() {
        return;
    }
    let mut two = Two::start();
    two.server.run(&TAINT).expect(3).expect_words(&["nobody can tell who you are", "breakglass open"]);
    let asked = two.kim(&TAINT).expect(6).expect_words(&["takes a second operator", "chancery approval grant"]);
    two.restart();
    let id = two.open()[0]["id"].as_str().unwrap().to_owned();
    assert!(asked.err.contains(&id), "{asked:?}");
    two.kim(&["approval", "grant", &id]).expect(3).expect_words(&["it takes another person"]);
    two.server.run(&["approval", "grant", &id]).expect(3);
    two.lou(&["approval", "grant", &id, "--reason", "seen"]).expect(0);
    two.restart();
    let shown = two.kim(&["approval", "show", &id]).expect(0);
    assert!(shown.out.contains("is granted") && shown.out.contains("operators/lou: seen"), "{shown:?}");
    // Kim's own certificate is under the tainted CA: the connection ends with it, and the act goes on.
    let tainted = two.kim(&TAINT);
    assert!(tainted.out.contains("recorded"), "{tainted:?}");
    two.server.records_of("ca.taint", 1);
    two.restart();
    let used = two.server.run(&["approval", "list", "--all", "--output", "json"]).expect(0).json();
    assert_eq!(used["approvals"][0]["state"], "used", "{used}");
    let of = |action: &str| two.server.records_of(action, 1);
    let (request, grant, taint) = (&of("approval.request")[0], &of("approval.grant")[0], &of("ca.taint")[0]);
    assert_eq!(request["approval"]["digest"], grant["approval"]["digest"]);
    assert!(request["time"].as_str() < grant["time"].as_str() && grant["time"].as_str() < taint["time"].as_str());
    two.server.run(&["audit", "verify"]).expect(0);
}

#[test]
fn a_file_that_changed_waits_for_a_second_person_over_a_restart_too() {
    if !need_root() {
        return;
    }
    let mut two = Two::start();
    let (file, old) = (two.server.scratch().join("policy.toml"), two.policy_in_force());
    let other = format!("{POLICY}\n# another\n");
    std::fs::write(&file, &other).unwrap();
    let warned = || two.server.run(&["status"]).out.contains("takes a second operator").then_some(());
    eventually("status says that it waits", SOON, warned);
    two.restart();
    assert_eq!(two.policy_in_force(), old, "a restart grants nothing");
    let refused = |record: &Value| record["change"]["what"] == "policy" && record["outcome"] == "denied";
    two.server.wait_for_record("the refusal", refused);
    two.kim(&["reload"]).expect(6);
    two.grant();
    // Whoever changes it once more has nothing in force: what was granted is a content.
    std::fs::write(&file, format!("{other}# and another\n")).unwrap();
    two.kim(&["reload"]).expect(6).expect_words(&["takes a second operator"]);
    std::fs::write(&file, &other).unwrap();
    let reloaded = two.kim(&["reload"]).expect(0);
    assert!(reloaded.out.contains("policy"), "{reloaded:?}");
    let new = two.policy_in_force();
    assert_ne!(new, old);
    two.restart();
    assert_eq!(two.policy_in_force(), new);
    let third = two.server.scratch().join("third.toml");
    std::fs::write(&third, POLICY).unwrap();
    let apply = ["policy", "apply", third.to_str().unwrap(), "--yes", "--comment", "back"];
    two.kim(&apply).expect(6);
    let request = two.open().into_iter().find(|one| one["state"] == "open").expect("a request");
    assert!(request["description"].as_str().unwrap().contains(&old), "it says what it is about: {request}");
    two.grant();
    two.kim(&apply).expect(0);
    assert_eq!(two.policy_in_force(), old);
    let config = two.server.scratch().join("chancery.toml");
    std::fs::write(&config, CONFIGURATION.replace("operators/*", "operators/kim")).unwrap();
    let refused = |record: &Value| record["change"]["what"] == "configuration" && record["outcome"] == "denied";
    two.server.wait_for_record("a table of operators that nobody granted", refused);
    two.lou(&["status"]).expect(0);
}

#[test]
fn the_break_glass_is_loud_limited_and_survives_a_kill() {
    if !need_root() {
        return;
    }
    let mut two = Two::start();
    let glass = two.server.scratch().join("glass");
    let mut seal = two.command(&two.kim, &["breakglass", "seal", "--out", glass.to_str().unwrap()]);
    let sealing = seal.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("sealing waits for lou", SOON, || two.open().iter().any(|one| one["state"] == "open").then_some(()));
    two.grant();
    assert!(sealing.wait_with_output().unwrap().status.success());
    let secret = std::fs::read_to_string(&glass).unwrap();
    let open = ["breakglass", "open", "--reason", "INC-7: nobody else is awake", "--credential"];
    let wrong = two.server.scratch().join("wrong");
    std::fs::copy(&glass, &wrong).unwrap();
    std::fs::write(&wrong, secret.replace(char::is_numeric, "9")).unwrap();
    two.server.run(&[&open[..], &[wrong.to_str().unwrap()]].concat()).expect(3).expect_words(&["opens nothing"]);
    two.restart();
    two.server.run(&[&open[..], &[glass.to_str().unwrap()]].concat()).expect(0);
    let first = |said: &Said| said.out.lines().next().unwrap_or_default().to_owned();
    assert!(first(&two.kim(&["status"])).contains("BREAK-GLASS IS OPEN"), "{:?}", two.kim(&["status"]));
    two.restart();
    assert!(first(&two.kim(&["status"])).contains("INC-7"), "{:?}", two.kim(&["status"]));
    let metrics = crate::harness::http::get(two.server.http(), "/metrics").text();
    assert!(metrics.contains("chancery_breakglass_open 1"), "{metrics}");
    two.kim(&["ca", "rotate", "issuing"]).expect(6);
    two.server.run(&["ca", "rotate", "issuing"]).expect(0);
    two.server.run(&[&open[..], &[glass.to_str().unwrap()]].concat()).expect(3);
    let closed = two.server.run(&["breakglass", "close", "--output", "json"]).expect(0).json();
    assert!(
        closed["acts"].as_array().unwrap().iter().any(|act| act.as_str().unwrap().ends_with("ca.rotate")),
        "{closed}"
    );
    two.server.run(&["ca", "rotate", "issuing"]).expect(3);
    let needle = secret.trim_start_matches("chancery-breakglass-");
    let everywhere = format!("{:?}{}", two.server.records(), two.server.output());
    assert!(!everywhere.contains(needle), "the credential is in a record or the log");
    assert!(!needle.is_empty() && two.server.records_of("breakglass.open", 2).len() >= 2);
}

#[test]
fn a_break_glass_ends_by_itself() {
    if !need_root() {
        return;
    }
    let server = Chancery::up();
    let glass = server.scratch().join("glass");
    server.run(&["breakglass", "seal", "--out", glass.to_str().unwrap()]).expect(0);
    let open = ["breakglass", "open", "--reason", "INC-7", "--for", "1m", "--credential", glass.to_str().unwrap()];
    server.run(&open).expect(0);
    let ended = |record: &Value| record["action"] == "breakglass.close";
    let deadline = std::time::Instant::now() + Duration::from_secs(90);
    while !server.records().iter().any(ended) {
        assert!(std::time::Instant::now() < deadline, "it goes on and on");
        std::thread::sleep(Duration::from_secs(1));
    }
    server.run(&["breakglass", "close"]).expect(1).expect_words(&["no break-glass is open"]);
}

#[test]
fn a_server_killed_at_random_forgets_no_request_and_no_grant_and_does_nothing_without() {
    if !need_root() {
        return;
    }
    let _alone = alone();
    let mut two = Two::start();
    let (mut asked, mut granted): (Vec<String>, Vec<String>) = Default::default();
    for round in 0..KILLS[usize::from(full())] {
        let rotate = ["ca", "rotate", "issuing", "--wait", "0s", "--reason", "drill"];
        let mut working = two.command(&two.kim, &rotate);
        let working = working.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let open =
            two.open().iter().find(|one| one["state"] == "open").map(|one| one["id"].as_str().unwrap().to_owned());
        let answering = open.map(|id| {
            let mut grant = two.command(&two.lou, &["approval", "grant", &id]);
            (id, grant.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
        });
        std::thread::sleep(Duration::from_millis(u64::try_from(round * 37 % 150).unwrap()));
        two.server.kill();
        let worked = working.wait_with_output().unwrap();
        if worked.status.code() == Some(6) {
            let text = String::from_utf8_lossy(&worked.stderr).into_owned();
            let id = text.split("request ").filter_map(|rest| rest.get(..12)).last().expect("an id").to_owned();
            asked.push(id);
        }
        if let Some((id, answer)) = answering
            && answer.wait_with_output().unwrap().status.success()
        {
            granted.push(id);
        }
        two.server.start();
    }
    assert!(!asked.is_empty(), "no round got as far as a request");
    let records = two.server.records();
    let of = |action: &str| records.iter().filter(|record| record["action"] == action).collect::<Vec<_>>();
    let has = |action: &str, id: &String| of(action).iter().any(|record| record["approval"]["id"] == id.as_str());
    asked.iter().for_each(|id| assert!(has("approval.request", id), "request {id} is lost"));
    granted.iter().for_each(|id| assert!(has("approval.grant", id), "the grant of {id} is lost"));
    let place = |wanted: &dyn Fn(&Value) -> bool| records.iter().position(wanted);
    for act in of("operator.act").iter().filter(|act| act["change"]["what"] == "ca.rotate") {
        let id = act["approval"]["id"].as_str().expect("no roll-over without a grant");
        let grant = place(&|record| record["action"] == "approval.grant" && record["approval"]["id"] == id);
        assert!(grant.expect("its grant") < place(&|record| record == *act).unwrap(), "{act}");
    }
    two.server.run(&["audit", "verify"]).expect(0);
    println!(
        "{} requests and {} grants were told, {} roll-overs",
        asked.len(),
        granted.len(),
        of("operator.act").len()
    );
}
