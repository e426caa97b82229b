//! Authorities' keys in a real Vault's Transit engine: they sign from there under load, and Vault is sealed, gone, slow, and
//! its keys are rotated, restricted and deleted behind the server's back.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::chancery::{Chancery, said};
use crate::harness::load::Load;
use crate::harness::pair::{API, Pair, Setup};
use crate::harness::proxy::{Proxy, Way};
use crate::harness::vault::Vault;
use crate::harness::{SOON, directory, eventually, need};
use crate::upstream::{authorities, expect_verified, fetched, options, private};

/// A configuration with keys in the Vault at `address`; `more` is for `[keys.vault]` and what comes after.
fn configuration(address: &str, role_id: &str, secret: &Path, more: &str) -> String {
    format!(
        r#"
trust_domain = "example.org"
data_dir = "data"

[[sds.listen]]
name = "web"
path = "data/web.sock"

[[sds.listen]]
name = "api"
path = "data/api.sock"

[http]
listen = "127.0.0.1:0"

[keys.vault.login]
method = "approle"
role_id = "{role_id}"
secret_id_file = "{}"

[keys.vault]
address = "{address}"
look_every = "1s"
timeout = "3s"
{more}
"#,
        secret.display()
    )
}

const BOTH: &str = "authorities = [\"root\", \"issuing\"]";

/// A Vault with a Transit engine and the configuration of a chancery whose keys are there; tokens live for `ttl`.
fn transit(program: &Path, files: &Path, ttl: &str, more: &str) -> (Vault, String, String) {
    let vault = Vault::start(program, files);
    let (role_id, secret_id) = vault.transit_role(ttl);
    let secret = files.join("secret-id");
    private(&secret, &secret_id);
    let configuration = configuration(vault.url(), &role_id, &secret, more);
    (vault, configuration, secret_id)
}

/// The path in Vault of the key of `name` (`issuing-1`).
fn key_path(chancery: &Chancery, name: &str) -> String {
    let text = std::fs::read_to_string(chancery.data().join(format!("keys/{name}.vault"))).unwrap();
    let found: Value = serde_json::from_str(&text).unwrap();
    format!("{}/keys/{}", found["mount"].as_str().unwrap(), found["key"].as_str().unwrap())
}

/// What `status` says is wrong, once it holds all of `words`.
fn wait_for_status(chancery: &Chancery, words: &[&str]) -> String {
    eventually(&format!("status says {words:?}"), SOON, || {
        let said = chancery.run(&["status"]);
        let text = format!("{}{}", said.out, said.err);
        words.iter().all(|word| text.contains(word)).then_some(text)
    })
}

fn state(chancery: &Chancery, name: &str) -> Option<String> {
    authorities(chancery).into_iter().find(|(found, _)| found == name).map(|(_, state)| state)
}

#[test]
fn keys_that_never_leave_vault_sign_through_a_roll_over_under_load_and_an_outage() {
    let (Some(vault), Some(envoy), Some(openssl)) = (need("vault"), need("envoy"), need("openssl")) else { return };
    let files = directory();
    let (vault, configuration, secret_id) = transit(&vault, files.path(), "60s", BOTH);
    let chancery = Chancery::with(options(configuration));
    expect_verified(&openssl, &fetched(&chancery));
    let keys: Vec<String> = std::fs::read_dir(chancery.data().join("keys"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert!(keys.iter().any(|name| name == "root-1.vault") && keys.iter().any(|name| name == "issuing-1.vault"));
    assert!(!keys.iter().any(|name| name == "root-1.sealed" || name == "issuing-1.sealed"), "{keys:?}");
    let shown = vault.ask("GET", &key_path(&chancery, "issuing-1"), None).json();
    assert_eq!(
        (&shown["data"]["exportable"], &shown["data"]["allow_plaintext_backup"]),
        (&json!(false), &json!(false))
    );

    let pair = Pair::of(&envoy, chancery, Setup::default());
    pair.wait_until_it_works();
    let load = Load::start(pair.client.listener());
    let chancery = &pair.chancery;
    chancery.run(&["ca", "rotate", "issuing"]).expect(0);
    chancery.run(&["cert", "rotate", "--all", "--yes"]).expect(0);
    assert_eq!(state(chancery, "issuing 2").as_deref(), Some("active"));
    expect_verified(&openssl, &fetched(chancery));
    // A revocation is signed by the key in Vault too.
    let before = chancery.records_of("crl.publish", 1).len();
    let issued = chancery.records_of("certificate.issue", 3);
    let of_api = issued.iter().find(|record| record["subject"] == API).expect("the server's Envoy has one");
    let serial = of_api["certificate"]["serial"].as_str().unwrap();
    chancery.run(&["cert", "revoke", "--serial", serial, "--reissue", "--yes"]).expect(0);
    assert!(chancery.records_of("crl.publish", before + 1).len() > before);

    // Sealed in the middle: what was issued goes on, nothing new is signed, and that is on record and on the screen.
    vault.seal();
    let refused = chancery.run(&["cert", "rotate", "--all", "--yes"]);
    assert_ne!(refused.code, 0, "{refused:#?}");
    let failed = chancery.records_of("certificate.fail", 1);
    assert!(failed[0]["refers_to"].is_string(), "{failed:#?}");
    let said = wait_for_status(chancery, &["Vault does not sign since", "unseal it", "no certificate is issued"]);
    assert!(said.contains("the CRL of") && said.contains("ends at"), "{said}");
    chancery.run(&["ca", "rotate", "issuing"]).expect(1).expect_words(&["is sealed"]);
    load.wait_for(300);
    vault.unseal();
    eventually("certificates are issued again", SOON, || {
        (chancery.run(&["cert", "rotate", "--all", "--yes"]).code == 0).then_some(())
    });
    load.wait_for(300);
    load.stop().expect_none_failed(600);
    pair.expect_nothing_refused();
    expect_verified(&openssl, &fetched(chancery));
    chancery.run(&["audit", "verify"]).expect(0);
    let records = chancery.records();
    for secret in [secret_id.as_str(), vault.root_token(), "hvs."] {
        assert!(!chancery.output().contains(secret), "in the log");
        assert!(!records.iter().any(|one| one.to_string().contains(secret)), "in the ledger");
    }
}

#[test]
fn every_algorithm_of_transit_makes_chains_that_openssl_verifies() {
    let (Some(vault), Some(openssl)) = (need("vault"), need("openssl")) else { return };
    let files = directory();
    let (_vault, configuration, _) = transit(&vault, files.path(), "60s", BOTH);
    for (root, issuing) in
        [("p384", "p256"), ("ed25519", "ed25519"), ("rsa4096", "rsa2048"), ("p256", "rsa3072"), ("p256", "p384")]
    {
        let keys = format!("\n[ca.root]\nkey = \"{root}\"\n\n[ca.issuing]\nkey = \"{issuing}\"\n");
        let chancery = Chancery::with(options(format!("{configuration}{keys}")));
        expect_verified(&openssl, &fetched(&chancery));
        chancery.run(&["audit", "verify"]).expect(0);
    }
}

#[test]
fn what_others_do_to_a_key_in_vault_is_recorded_and_said_and_the_pinned_version_goes_on() {
    let (Some(vault), Some(openssl)) = (need("vault"), need("openssl")) else { return };
    let files = directory();
    let (vault, configuration, _) = transit(&vault, files.path(), "60s", BOTH);
    let mut chancery = Chancery::with(options(configuration));
    let path = key_path(&chancery, "issuing-1");
    vault.write(&format!("{path}/rotate"), &json!({}));
    let seen = chancery.wait_for_record("the rotation", |record| record["action"] == "key.change");
    assert_eq!((&seen["authority"]["name"], &seen["outcome"]), (&json!("issuing 1"), &json!("success")), "{seen}");
    assert_eq!(seen["change"]["after"], "version 1 of 2", "{seen}");
    wait_for_status(&chancery, &["issuing 1 was rotated in Vault", "goes on with 1"]);
    expect_verified(&openssl, &fetched(&chancery));
    chancery.stop();
    chancery.start();
    expect_verified(&openssl, &fetched(&chancery));

    vault.write(&format!("{path}/config"), &json!({"deletion_allowed": true}));
    assert_eq!(vault.ask("DELETE", &path, None).status, 204);
    wait_for_status(&chancery, &["issuing 1 in Vault", "it was deleted", "chancery ca rotate issuing"]);
    let seen = chancery
        .wait_for_record("the deletion", |record| record["action"] == "key.change" && record["outcome"] == "failure");
    assert!(seen["change"]["after"].as_str().unwrap().contains("deleted"), "{seen}");
    // The way out that `status` names.
    chancery.run(&["ca", "rotate", "issuing"]).expect(0);
    expect_verified(&openssl, &fetched(&chancery));
}

#[test]
fn a_token_that_lapses_is_renewed_and_one_that_is_revoked_is_replaced() {
    let Some(vault) = need("vault") else { return };
    let files = directory();
    let (vault, configuration, _) = transit(&vault, files.path(), "3s", BOTH);
    let chancery = Chancery::with(options(configuration));
    let until = Instant::now() + Duration::from_secs(8);
    while Instant::now() < until {
        let _ = fetched(&chancery);
    }
    // As an operator of Vault's does to a token that leaked: every token of that login is gone.
    std::thread::sleep(Duration::from_secs(6));
    vault.write("sys/leases/revoke-prefix/auth/approle", &json!({}));
    let _ = fetched(&chancery);
    let records = chancery.records();
    let failed: Vec<&Value> = records.iter().filter(|record| record["action"] == "certificate.fail").collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn it_starts_without_vault_and_what_is_not_signed_is_on_record() {
    let Some(vault) = need("vault") else { return };
    let files = directory();
    let (vault, configuration, secret_id) = transit(&vault, files.path(), "60s", BOTH);
    let proxy = Proxy::to(vault.address(), None);
    let configuration = configuration.replace(vault.url(), &format!("http://{}", proxy.address()));
    let mut chancery = Chancery::with(options(configuration));
    let bundle = chancery.run(&["bundle", "show"]).expect(0).out;
    proxy.set(Way::Closed);
    chancery.kill();
    chancery.start();
    assert_eq!(chancery.run(&["bundle", "show"]).expect(0).out, bundle);
    wait_for_status(&chancery, &["Vault does not sign since", "cannot be reached"]);
    let mut failures = 0;
    for (way, word) in [
        (Way::Closed, "cannot be reached"),
        (Way::Answer(503, "{\"errors\":[\"Vault is sealed\"]}"), "is sealed"),
        (Way::Answer(403, "{\"errors\":[\"permission denied\"]}"), "permission denied"),
        (Way::Answer(429, "{\"errors\":[\"slow down\"]}"), "slow down"),
        (Way::Answer(200, "<html>a captive portal</html>"), "did not"),
        (Way::Answer(200, "{}"), "did not"),
        (Way::Silent, "cannot be reached"),
    ] {
        proxy.set(way);
        let begin = Instant::now();
        // Connections that are open already stay as they were made: what matters is that each way is answered in time.
        let said = chancery.run(&["ca", "rotate", "issuing"]).expect(1);
        assert!(begin.elapsed() < Duration::from_secs(15), "{way:?}: {:?}", begin.elapsed());
        assert!(!said.err.contains(&secret_id), "{said:#?}");
        failures += usize::from(said.err.contains(word));
    }
    assert!(failures >= 2, "only {failures} ways said what they were");
    proxy.set(Way::Open);
    eventually("it signs again", SOON, || (chancery.run(&["ca", "rotate", "issuing"]).code == 0).then_some(()));
    chancery.run(&["audit", "verify"]).expect(0);
}

#[test]
fn keys_move_into_vault_and_back_by_a_roll_over() {
    let (Some(vault), Some(openssl)) = (need("vault"), need("openssl")) else { return };
    let files = directory();
    let (_vault, configuration, _) = transit(&vault, files.path(), "60s", "authorities = []");
    let mut chancery = Chancery::with(options(configuration.clone()));
    assert!(chancery.data().join("keys/issuing-1.sealed").exists());
    let file = chancery.scratch().join("chancery.toml");
    let restart = |chancery: &mut Chancery, authorities: &str| {
        chancery.stop();
        chancery.configure(&configuration.replace("authorities = []", authorities));
        chancery.start();
        chancery.run(&["ca", "rotate", "issuing"]).expect(0);
        expect_verified(&openssl, &fetched(chancery));
    };
    restart(&mut chancery, "authorities = [\"issuing\"]");
    assert!(chancery.data().join("keys/issuing-2.vault").exists());
    restart(&mut chancery, "authorities = []");
    assert!(chancery.data().join("keys/issuing-3.sealed").exists());

    // A key in Vault, and no Vault: refused with what to do, and nothing is changed.
    chancery.stop();
    let without = configuration.split("[keys.vault.login]").next().unwrap();
    let other = chancery.scratch().join("other.toml");
    std::fs::write(&other, without).unwrap();
    let mut command = std::process::Command::new(crate::harness::chancery::program());
    said(command.args(["server", "--config"]).arg(&other))
        .expect(1)
        .expect_words(&["issuing-2 is in Vault", "[keys.vault]"]);
    assert!(file.exists());
}

#[test]
fn the_sealing_key_goes_into_vault_s_hands_and_back() {
    let (Some(vault), Some(openssl)) = (need("vault"), need("openssl")) else { return };
    let files = directory();
    let (vault, configuration, _) = transit(&vault, files.path(), "60s", "authorities = []");
    let wrapped = configuration.replace("authorities = []", "authorities = []\nsealing = true");
    let mut chancery = Chancery::with(options(configuration.clone()));
    let keys = chancery.data().join("keys");
    let file = chancery.scratch().join("chancery.toml");
    let reseal = |configuration: &str| {
        std::fs::write(&file, configuration).unwrap();
        crate::harness::chancery::run(["ca", "reseal", "--config", file.to_str().unwrap(), "--output", "json"])
    };
    assert_ne!(reseal(&wrapped).code, 0, "a server runs there");
    chancery.stop();
    chancery.configure(&wrapped);
    let done = reseal(&wrapped).expect(0).json();
    assert!(keys.join("sealing.vault").exists() && !keys.join("sealing.key").exists());
    assert!(done["keys"].as_u64().unwrap() >= 3, "{done}");
    chancery.start();
    expect_verified(&openssl, &fetched(&chancery));
    let record = chancery.wait_for_record("the reseal", |record| record["reason"] == "reseal");
    assert_eq!(
        (&record["action"], &record["change"]["after"]),
        (&json!("key.change"), &done["sealing_key"]),
        "{record}"
    );

    // Without Vault it does not start and says so; what was wrapped for it opens nothing elsewhere.
    chancery.stop();
    vault.seal();
    let start = || {
        said(std::process::Command::new(crate::harness::chancery::program()).args(["server", "--config"]).arg(&file))
    };
    start().expect(1).expect_words(&["the sealing key is in Vault's hands", "is sealed"]);
    vault.unseal();
    std::fs::write(&file, &configuration).unwrap();
    start().expect(1).expect_words(&["sealing.vault is there", "sealing = true"]);

    // Rotated there, then back beside the keys.
    let again = reseal(&wrapped).expect(0).json();
    assert_ne!(again["sealing_key"], done["sealing_key"]);
    reseal(&configuration).expect(0);
    assert!(!keys.join("sealing.vault").exists() && keys.join("sealing.key").exists());
    chancery.configure(&configuration);
    chancery.start();
    expect_verified(&openssl, &fetched(&chancery));
    chancery.run(&["audit", "verify"]).expect(0);

    // A new installation may begin so.
    let fresh = Chancery::with(options(wrapped));
    assert!(fresh.data().join("keys/sealing.vault").exists() && !fresh.data().join("keys/sealing.key").exists());
    expect_verified(&openssl, &fetched(&fresh));
}

/// The CPU that the server has used so far, in milliseconds.
fn cpu(chancery: &Chancery) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", chancery.addresses()["pid"])).expect("its statistics");
    let after = text.rsplit(')').next().expect("fields after the name");
    let field =
        |number: usize| after.split_whitespace().nth(number - 3).expect("a field").parse::<f64>().expect("ticks");
    // proc(5): utime and stime, in ticks of 10 ms.
    (field(14) + field(15)) * 10.0
}

/// Certificates over SDS from `at_once` streams at a time: how long each took of the wall clock and of the server's CPU, in
/// milliseconds.
fn issue(chancery: &Chancery, at_once: usize, each: usize) -> (f64, f64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let socket = chancery.socket("web");
    let one = async |stream: usize| {
        let channel = crate::harness::sds::connect(&socket).await.unwrap();
        for number in 0..each {
            let node = format!("n{stream}-{number}");
            let stream = crate::harness::sds::Stream::open(channel.clone(), &node, "default", "").await;
            let mut stream = stream.unwrap();
            assert!(!stream.next(SOON).await.unwrap().certificate().0.is_empty());
        }
    };
    let (begin, before) = (Instant::now(), cpu(chancery));
    runtime.block_on(futures::future::join_all((0..at_once).map(one)));
    let many = (at_once * each) as f64;
    (begin.elapsed().as_secs_f64() * 1000.0 / many, (cpu(chancery) - before) / many)
}

/// `CHANCERY_TEST_FULL=1 cargo test --release --test main -- a_signature_of_vault_for_each_certificate --nocapture` is what
/// docs/performance.md quotes.
#[test]
fn a_signature_of_vault_for_each_certificate_has_its_price() {
    let Some(vault) = need("vault") else { return };
    let _alone = crate::harness::alone();
    let files = directory();
    let limits = "\n[limits]\nissue_rate_per_caller = 100000\nissue_burst_per_caller = 100000\nmax_certificates_per_caller = 100000\n\
                  max_streams_per_caller = 10000\n";
    let (_vault, configuration, _) = transit(&vault, files.path(), "10m", BOTH);
    let remote = Chancery::with(options(format!("{configuration}{limits}")));
    let local = configuration.split("[keys.vault.login]").next().unwrap();
    let local = Chancery::with(options(format!("{local}{limits}")));
    let rounds = if crate::harness::full() { 400 } else { 4 };
    println!("{:>8} {:>12} {:>12} {:>12} {:>12}", "at once", "sealed, 1/s", "Vault, 1/s", "sealed, CPU", "Vault, CPU");
    for at_once in [1, 16, 64] {
        let each = rounds / at_once.min(4);
        let (sealed, vault) = (issue(&local, at_once, each), issue(&remote, at_once, each));
        println!(
            "{at_once:>8} {:>12.0} {:>12.0} {:>9.3} ms {:>9.3} ms",
            1000.0 / sealed.0,
            1000.0 / vault.0,
            sealed.1,
            vault.1
        );
        assert!(sealed.0 > 0.0 && vault.0 > 0.0);
    }
}
