//! A root rolls over by evidence: under load with two Envoys that check every CRL, with one of them cut off, with a client that
//! refuses, with chancery killed between any two steps; every chain verified against every bundle that somebody may hold.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::chancery::{Chancery, Options, said};
use crate::harness::envoy::Envoy;
use crate::harness::http::Echo;
use crate::harness::load::Load;
use crate::harness::pair::{API, Pair, Setup, WEB, bootstrap, few_requests_per_connection};
use crate::harness::policy::{self, Rule};
use crate::harness::relay::Relay;
use crate::harness::{SOON, alone, eventually, free_port, full, ledger, need, sds};

/// How long certificates live: a roll-over takes two of these at the most.
const LIFE: &str = "20s";

/// The same, and room for a busy machine.
const LIVES: Duration = Duration::from_secs(90);

/// Roots of one roll-over after the other that are there at the same time.
const MOST_AT_ONCE: usize = 5;

/// A configuration with a socket for each Envoy and one for a bare client.
pub fn configuration(more: &str) -> String {
    let socket = |name: &str| format!("[[sds.listen]]\nname = \"{name}\"\npath = \"data/{name}.sock\"\n\n");
    format!(
        "trust_domain = \"example.org\"\ndata_dir = \"data\"\n\n{}{}{}[http]\nlisten = \"127.0.0.1:0\"\n\n\
         [ca.root]\nsilent_wait = \"1s\"\n\n{more}",
        socket("web"),
        socket("api"),
        socket("bare")
    )
}

/// A server of that configuration, whose certificates live so long.
pub fn server(more: &str, life: &'static str) -> Chancery {
    let bare = "spiffe://example.org/ns/shop/sa/bare";
    let rules = [Rule::on("web", WEB, life), Rule::on("api", API, life), Rule::on("bare", bare, life)];
    let (configuration, policy) = (Some(configuration(more)), Some(policy::text(&rules)));
    Chancery::with(Options { configuration, policy, ..Options::default() })
}

/// `ca show`: each authority with its state.
pub fn states(server: &Chancery) -> Vec<(String, String)> {
    let shown = server.run(&["ca", "show", "--output", "json"]).expect(0).json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    shown["authorities"].as_array().unwrap().iter().map(|one| (text(&one["name"]), text(&one["state"]))).collect()
}

fn state(server: &Chancery, name: &str) -> String {
    let found = states(server).into_iter().find(|(one, _)| one == name);
    found.map_or_else(|| "gone".to_owned(), |(_, state)| state)
}

fn evidence(server: &Chancery, name: &str) -> Value {
    let shown = server.run(&["ca", "show", "--output", "json"]).expect(0).json();
    let all = shown["authorities"].as_array().unwrap();
    all.iter().find(|one| one["name"] == name).map(|one| one["evidence"].clone()).unwrap_or_default()
}

/// Waits until an authority is in that state.
pub fn wait_for(server: &Chancery, name: &str, wanted: &str) {
    eventually(&format!("{name} is {wanted}"), LIVES, || (state(server, name) == wanted).then_some(()));
}

/// What a client held at some moment.
#[derive(Debug, Clone, Default)]
pub struct Held {
    /// Certificate and the CAs above it, PEM.
    pub chain: Vec<u8>,
    /// PEM.
    pub roots: Vec<u8>,
    /// PEM.
    pub crls: Vec<u8>,
}

/// A bare client on the socket `bare` that takes whatever it is sent, and comes back when its streams end.
pub struct Client {
    /// What it held after each update.
    history: Arc<Mutex<Vec<Held>>>,
    _runtime: tokio::runtime::Runtime,
}

impl Client {
    /// Starts it and waits until it holds everything.
    pub fn start(server: &Chancery) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let history = Arc::new(Mutex::new(vec![Held::default()]));
        for name in ["default", "ROOTCA"] {
            runtime.spawn(follow(server.socket("bare"), name, Arc::clone(&history)));
        }
        let client = Self { history, _runtime: runtime };
        eventually("the bare client holds everything", SOON, || client.now().is_whole().then_some(()));
        client
    }

    /// What it holds.
    pub fn now(&self) -> Held {
        self.history.lock().unwrap().last().unwrap().clone()
    }
}

impl Held {
    fn is_whole(&self) -> bool {
        !self.chain.is_empty() && !self.roots.is_empty()
    }
}

async fn follow(socket: PathBuf, name: &'static str, history: Arc<Mutex<Vec<Held>>>) {
    let mut version = String::new();
    loop {
        let opened = async {
            let channel = sds::connect(&socket).await.ok()?;
            sds::Stream::open(channel, "bare", name, &version).await.ok()
        };
        if let Some(mut stream) = opened.await {
            while let Ok(update) = stream.next(Duration::from_secs(3_600)).await {
                {
                    let mut history = history.lock().unwrap();
                    let mut held = history.last().unwrap().clone();
                    match name {
                        "default" => held.chain = update.certificate().0,
                        _ => (held.roots, held.crls) = (update.roots(), update.crls()),
                    }
                    history.push(held);
                }
                version.clone_from(&update.version);
                stream.acknowledge(&update).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// `openssl verify` of a chain against a bundle, every CRL checked.
fn verify(openssl: &Path, directory: &Path, chain: &[u8], bundle: &Held) {
    let file = |what: &str, content: &[u8]| -> PathBuf {
        let path = directory.join(format!("verify.{what}.pem"));
        std::fs::write(&path, content).unwrap();
        path
    };
    let second = std::str::from_utf8(chain).unwrap().match_indices("-----BEGIN").nth(1).unwrap().0;
    let (leaf, above) = (file("leaf", &chain[..second]), file("above", &chain[second..]));
    let (roots, crls) = (file("roots", &bundle.roots), file("crls", &bundle.crls));
    let mut command = Command::new(openssl);
    command.args(["verify", "-x509_strict", "-crl_check_all", "-CAfile"]).arg(roots).arg("-CRLfile").arg(crls);
    said(command.arg("-untrusted").arg(above).arg(leaf)).expect(0);
}

/// Whether the first certificate of a chain has ended, or will have before it is verified.
fn is_over(chain: &[u8]) -> bool {
    let (_, block) = x509_parser::pem::parse_x509_pem(chain).unwrap();
    let left = block.parse_x509().unwrap().validity().time_to_expiration();
    left.is_none_or(|left| left.whole_seconds() < 2)
}

/// Who issued it.
fn issuer(chain: &[u8]) -> String {
    let (_, block) = x509_parser::pem::parse_x509_pem(chain).unwrap();
    let name = block.parse_x509().unwrap().issuer().to_string();
    name[name.find("issuing ").unwrap()..].to_owned()
}

/// Everything that a client ever held: each certificate is verified by the bundle of that moment, and each bundle must verify
/// every certificate that was given before and may still be shown.
pub struct Steps {
    openssl: PathBuf,
    chains: Vec<Vec<u8>>,
    looked: usize,
    verified: usize,
}

impl Steps {
    /// Nothing yet.
    pub fn new(openssl: PathBuf) -> Self {
        Self { openssl, chains: Vec::new(), looked: 0, verified: 0 }
    }

    /// Verifies what came since the last look.
    pub fn look(&mut self, server: &Chancery, client: &Client) {
        let history = client.history.lock().unwrap().clone();
        for held in history.iter().skip(self.looked).filter(|held| held.is_whole()) {
            if !self.chains.contains(&held.chain) {
                self.chains.push(held.chain.clone());
            }
            self.chains.retain(|chain| !is_over(chain));
            for chain in &self.chains {
                verify(&self.openssl, server.scratch(), chain, held);
                self.verified += 1;
            }
        }
        self.looked = history.len();
    }

    /// Looks until an authority is in that state.
    pub fn until(&mut self, server: &Chancery, client: &Client, name: &str, wanted: &str) {
        eventually(&format!("{name} is {wanted}"), LIVES, || {
            self.look(server, client);
            (state(server, name) == wanted).then_some(())
        });
        self.look(server, client);
    }
}

fn steps(report: &Value) -> Vec<String> {
    let steps = report["steps"].as_array().unwrap_or_else(|| panic!("{report}")).iter();
    steps.map(|step| format!("{} {}", step["step"].as_str().unwrap(), step["authority"].as_str().unwrap())).collect()
}

#[test]
fn a_root_rolls_over_under_load_and_every_chain_meets_every_bundle() {
    let (Some(envoy), Some(openssl)) = (need("envoy"), need("openssl")) else { return };
    let _alone = alone();
    let pair = Pair::of(&envoy, server("", LIFE), Setup { lifetime: LIFE, ..Setup::default() });
    pair.wait_until_it_works();
    let (client, mut checked) = (Client::start(&pair.chancery), Steps::new(openssl));
    checked.look(&pair.chancery, &client);
    let load = Load::start(pair.client.listener());

    let plan = pair.chancery.run(&["ca", "rotate", "root", "--dry-run", "--output", "json"]).expect(0).json();
    assert_eq!((&plan["authority"], &plan["makes_new"]), (&"root 1".into(), &true.into()), "{plan}");
    assert_eq!(states(&pair.chancery).len(), 2, "a plan changes nothing");
    let report = pair.chancery.run(&["ca", "rotate", "root", "--output", "json"]).expect(0).json();
    assert_eq!(steps(&report), ["prepared root 2", "prepared issuing 2", "published root 2"], "{report}");
    checked.until(&pair.chancery, &client, "root 2", "active");
    // Both are in the bundle, and everyone is given a certificate under the new one without waiting for its time.
    checked.until(&pair.chancery, &client, "root 1", "retiring");
    eventually("the bare client's certificate is under the new root", SOON, || {
        checked.look(&pair.chancery, &client);
        (issuer(&client.now().chain) == "issuing 2").then_some(())
    });
    load.wait_for(200);
    checked.until(&pair.chancery, &client, "root 1", "gone");
    load.wait_for(200);
    let roots = std::str::from_utf8(&client.now().roots).unwrap().matches("BEGIN CERTIFICATE").count();
    assert_eq!((roots, states(&pair.chancery).len()), (1, 2));
    load.stop().expect_none_failed(600);
    pair.expect_nothing_refused();
    println!("{} verifications of {} updates", checked.verified, checked.looked);
    assert!(checked.verified >= 6);

    let records = pair.chancery.records();
    let at = |what: &str| {
        let is = |record: &Value| format!("{} {}", text(&record["action"]), text(&record["authority"]["name"])) == what;
        records.iter().position(is).unwrap_or_else(|| panic!("no {what}"))
    };
    let order = [
        "ca.prepare root 2",
        "ca.prepare issuing 2",
        "ca.publish root 2",
        "ca.activate root 2",
        "ca.activate issuing 2",
        "ca.retire issuing 1",
        "ca.retire root 1",
    ];
    let places: Vec<usize> = order.iter().map(|what| at(what)).collect();
    assert!(places.is_sorted(), "{places:?}");
    pair.chancery.run(&["audit", "verify"]).expect(0);
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Two Envoys, of which the client's way to chancery can be cut.
fn with_a_relay(envoy: &Path, server: Chancery) -> (Chancery, Relay, [Envoy; 2], Echo) {
    let (echo, port) = (Echo::start(), free_port());
    let relay = Relay::start(&server.scratch().join("relay.sock"), &server.socket("web"));
    let of_server = bootstrap(&server, "server", "api", port, echo.address(), WEB, &[]);
    let to = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let of_client = bootstrap(&server, "client", "web", free_port(), to, API, &[]);
    let direct = server.socket("web").display().to_string();
    let relayed = of_client.to_string().replace(&direct, &relay.path().display().to_string());
    assert!(relayed.contains("relay.sock"));
    let of_client = few_requests_per_connection(serde_json::from_str(&relayed).unwrap());
    let server_side = Envoy::start(envoy, "server", &of_server, server.scratch());
    let client_side = Envoy::start(envoy, "client", &of_client, server.scratch());
    (server, relay, [client_side, server_side], echo)
}

#[test]
fn a_proxy_that_is_cut_off_is_waited_for_and_named_and_comes_back_in_time() {
    let Some(envoy) = need("envoy") else { return };
    let _alone = alone();
    let (server, relay, [client, other], _echo) = with_a_relay(&envoy, server("", "120s"));
    let listener = client.listener();
    eventually("a request goes the whole way", SOON, || {
        crate::harness::http::try_get(listener, "/first").ok().filter(|answer| answer.status == 200)
    });
    let load = Load::start(listener);
    relay.cut();
    server.run(&["ca", "rotate", "root"]).expect(0);
    // The other Envoy has it, this one is known by the certificate that it holds.
    let lacking = eventually("only the one that is cut off lacks it", SOON, || {
        let evidence = evidence(&server, "root 2");
        (evidence["holders"] == 2 && evidence["holding"] == 1).then_some(evidence)
    });
    let [behind] = lacking["behind"].as_array().unwrap().as_slice() else { panic!("{lacking}") };
    assert_eq!(behind["identity"], WEB, "{lacking}");
    assert!(text(&behind["why"]).starts_with("not connected"), "{lacking}");
    assert_eq!(behind["serial"], client.serial().as_str());
    let shown = server.run(&["ca", "show"]).expect(0).out;
    assert!(shown.contains("root 2 is lacking at:") && shown.contains("when the last one holds it"), "{shown}");
    server.run(&["ca", "activate", "root 2"]).expect(1).expect_words(&["1 of 2 holders lack it", "--force"]);
    server.run(&["ca", "activate", "root 2", "--force"]).expect(2).expect_words(&["--yes"]);
    load.wait_for(300);
    assert_eq!(state(&server, "root 2"), "prepared", "it waits");
    relay.mend();
    wait_for(&server, "root 2", "active");
    eventually("both have certificates under it", LIVES, || {
        let list = server.run(&["cert", "list", "--output", "json"]).expect(0).json();
        let second = server.run(&["ca", "show", "--output", "json"]).expect(0).json();
        let all = second["authorities"].as_array().unwrap().clone();
        let key = all.iter().find(|one| one["name"] == "issuing 2").unwrap()["key_id"].clone();
        let held = [client.serial(), other.serial()];
        let under = |serial: &String| {
            let rows = list["certificates"].as_array().unwrap();
            rows.iter().any(|row| row["serial"] == serial.as_str() && row["issuer_key_id"] == key)
        };
        held.iter().all(under).then_some(())
    });
    load.wait_for(200);
    load.stop().expect_none_failed(500);
    assert_eq!(client.stat("update_rejected") + other.stat("update_rejected"), 0);
    server.run(&["audit", "verify"]).expect(0);
}

#[test]
fn one_that_refuses_the_bundle_keeps_the_root_waiting_until_it_is_forced() {
    let mut server = server("", "60s");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut stream = runtime.block_on(async {
        let channel = sds::connect(&server.socket("bare")).await.unwrap();
        let mut leaf = sds::Stream::open(channel.clone(), "stubborn", "default", "").await.unwrap();
        let update = leaf.next(SOON).await.unwrap();
        leaf.acknowledge(&update).await;
        let mut roots = sds::Stream::open(channel, "stubborn", "ROOTCA", "").await.unwrap();
        let update = roots.next(SOON).await.unwrap();
        roots.acknowledge(&update).await;
        (leaf, roots, update.version)
    });
    server.run(&["ca", "rotate", "root"]).expect(0);
    runtime.block_on(async {
        while let Ok(update) = stream.1.next(Duration::from_millis(500)).await {
            stream.1.refuse(&update, &stream.2, "it does not like it").await;
        }
    });
    let lacking = eventually("it is named with its words", SOON, || {
        let evidence = evidence(&server, "root 2");
        let why = evidence["behind"][0]["why"].as_str().unwrap_or_default().to_owned();
        why.contains("it does not like it").then_some(evidence)
    });
    assert!(lacking["complete_by"].is_null(), "{lacking}");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(state(&server, "root 2"), "prepared");
    // A restart knows no more than what it is told again: nothing.
    server.kill();
    server.start();
    let plan = eventually("the root is looked at again", SOON, || {
        let plan = server.run(&["ca", "activate", "root 2", "--dry-run", "--output", "json"]);
        (plan.code == 0).then(|| plan.json())
    });
    assert_eq!((&plan["evidence"]["holders"], &plan["evidence"]["holding"]), (&1.into(), &0.into()), "{plan}");
    let forced = ["ca", "activate", "root 2", "--force", "--yes", "--reason", "drill", "--output", "json"];
    let report = server.run(&forced).expect(0).json();
    let expected = ["activated root 2", "activated issuing 2", "retired issuing 1", "retired root 1"];
    assert_eq!(steps(&report), expected, "{report}");
    let act = server.wait_for_record("the act", |record| record["change"]["what"] == "ca.activate");
    assert_eq!((&act["reason"], &act["change"]["count"]), (&"drill".into(), &1.into()));
    let activated = server.wait_for_record("the hand-over", |record| {
        record["action"] == "ca.activate" && record["authority"]["name"] == "root 2"
    });
    assert!(text(&activated["reason"]).starts_with("forced: 1 of 1"), "{activated}");
    assert_eq!(act["request_id"], activated["request_id"]);

    // The old root, by force too: what is under it is named.
    server.run(&["ca", "retire", "root 2"]).expect(1).expect_words(&["active"]);
    let plan = server.run(&["ca", "retire", "root 1", "--dry-run", "--output", "json"]).expect(0).json();
    assert_eq!((&plan["live_certificates"], &plan["state"]), (&1.into(), &"retiring".into()), "{plan}");
    server.run(&["ca", "retire", "root 1"]).expect(1).expect_words(&["1 certificates under root 1 live", "--force"]);
    server.run(&["ca", "retire", "root 1", "--force", "--yes"]).expect(0);
    assert_eq!(states(&server).len(), 2);
    assert_eq!(server.run(&["bundle", "show"]).expect(0).out.matches("BEGIN CERTIFICATE").count(), 1);
    server.run(&["audit", "verify"]).expect(0);
    drop(stream);
}

#[test]
fn a_root_that_nobody_wants_is_given_up() {
    let server = server("", "60s");
    let before = server.run(&["bundle", "show"]).expect(0).out;
    server.run(&["ca", "rotate", "root"]).expect(0);
    assert_ne!(server.run(&["bundle", "show"]).expect(0).out, before);
    server.run(&["ca", "retire", "root 2"]).expect(0);
    assert_eq!(server.run(&["bundle", "show"]).expect(0).out, before);
    assert_eq!(states(&server).len(), 2);
}

#[test]
fn a_kill_between_any_two_steps_is_gone_on_from_without_a_failed_verification() {
    let Some(openssl) = need("openssl") else { return };
    let mut server = server("", "6s");
    let (client, mut checked) = (Client::start(&server), Steps::new(openssl));
    let rounds: u32 = if full() { 40 } else { 6 };
    for round in 0..rounds {
        let before = active_root(&server);
        let ordered = ledger::records(&server.data()).len();
        let mut rotating = server.command(&["ca", "rotate", "root"]);
        rotating.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut rotating = rotating.spawn().unwrap();
        // Half of the kills come while it is prepared, the others while it takes over.
        let begin = Instant::now();
        let wanted = if round % 2 == 0 { "ca.prepare" } else { "ca.activate" };
        let is_there = |record: &Value| record["action"] == wanted && record["authority"]["level"] == "root";
        eventually("the moment has come", LIVES, || {
            ledger::records(&server.data()).iter().skip(ordered).any(is_there).then_some(())
        });
        std::thread::sleep(Duration::from_millis(u64::from(round) * 5 % 37));
        server.kill();
        let _ = rotating.wait();
        server.start();
        println!("round {round}: killed after {:?}: {:?}", begin.elapsed(), states(&server));
        if states(&server).iter().all(|(_, state)| state != "prepared") && active_root(&server) == before {
            // Not even the root's certificate was durable: the operator who was told nothing orders it again.
            server.run(&["ca", "rotate", "root"]).expect(0);
        }
        checked.look(&server, &client);
        eventually("another root has taken over", LIVES, || {
            checked.look(&server, &client);
            let all = states(&server);
            let waits = all.iter().any(|(_, state)| state == "prepared");
            let both = all.iter().filter(|(name, state)| name.starts_with("root") && state == "active").count();
            (!waits && both == 1 && active_root(&server) > before).then_some(())
        });
        // The old ones leave at the end of the minute in which their last certificate ends; a bundle holds a few.
        eventually("there is room for the next", LIVES, || {
            checked.look(&server, &client);
            (states(&server).iter().filter(|(name, _)| name.starts_with("root")).count() < MOST_AT_ONCE).then_some(())
        });
    }
    println!("{} verifications of {} updates", checked.verified, checked.looked);
    assert!(checked.verified >= 6);
    server.run(&["audit", "verify"]).expect(0);
}

/// The number of the root that signs.
fn active_root(server: &Chancery) -> u32 {
    let all = states(server);
    let active = all.iter().filter(|(name, state)| name.starts_with("root") && state == "active");
    active.map(|(name, _)| name.strip_prefix("root ").unwrap().parse().unwrap()).max().unwrap()
}
