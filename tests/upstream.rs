//! The root in Vault: a real one signs the issuing CA, and is away, sealed or unwilling at every step.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::chancery::{Chancery, Options, program, said};
use crate::harness::load::Load;
use crate::harness::pair::{API, Pair, Setup, WEB};
use crate::harness::policy::{self, Rule};
use crate::harness::proxy::{Proxy, Way};
use crate::harness::vault::Vault;
use crate::harness::{directory, need, sds};

/// A configuration with Vault above; `secret` is the file that holds the secret id.
fn configuration(vault: &Vault, role_id: &str, secret: &Path) -> String {
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

[upstream.vault]
address = "{}"
crl_mounts = ["pki-root"]
timeout = "5s"

[upstream.vault.login]
method = "approle"
role_id = "{role_id}"
secret_id_file = "{}"
"#,
        vault.url(),
        secret.display()
    )
}

pub(crate) fn private(path: &Path, text: &str) {
    use std::os::unix::fs::OpenOptionsExt;
    let _ = std::fs::remove_file(path);
    let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
}

pub(crate) fn options(configuration: String) -> Options {
    let policy = policy::text(&[Rule::on("web", WEB, "24h"), Rule::on("api", API, "24h")]);
    Options { configuration: Some(configuration), policy: Some(policy), ..Options::default() }
}

/// A Vault with a root and an intermediate, and the configuration of a chancery under it, whose secret id lies in `files` and
/// may be used so often; 0 is for ever.
fn hierarchy(vault: &Path, files: &Path, uses: u32) -> (Vault, String, String) {
    let vault = Vault::with_hierarchy(vault, files);
    let (role_id, secret_id) = vault.app_role(uses);
    let secret = files.join("secret-id");
    private(&secret, &secret_id);
    let configuration = configuration(&vault, &role_id, &secret);
    (vault, configuration, secret_id)
}

/// A Vault with a root and an intermediate, and a chancery under it.
fn under_vault(vault: &Path, files: &Path) -> (Vault, Chancery, String) {
    let (vault, configuration, secret_id) = hierarchy(vault, files, 0);
    let chancery = Chancery::with(options(configuration));
    (vault, chancery, secret_id)
}

pub(crate) fn authorities(chancery: &Chancery) -> Vec<(String, String)> {
    let shown = chancery.run(&["ca", "show", "--output", "json"]).expect(0).json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    shown["authorities"].as_array().unwrap().iter().map(|one| (text(&one["name"]), text(&one["state"]))).collect()
}

pub(crate) fn active(names: &[&str]) -> Vec<(String, String)> {
    names.iter().map(|name| ((*name).to_owned(), "active".to_owned())).collect()
}

/// What a client gets: leaf, chain behind it, roots and CRLs, each a file.
pub(crate) fn fetched(chancery: &Chancery) -> [PathBuf; 4] {
    let files = chancery.scratch().join("id");
    let socket = chancery.socket("web").display().to_string();
    let fetch = ["fetch", "--once", "--socket", &socket, "--dir", files.to_str().unwrap()];
    said(Command::new(program()).args(fetch)).expect(0);
    let chain = std::fs::read_to_string(files.join("cert.pem")).unwrap();
    let second = chain.match_indices("-----BEGIN").nth(1).unwrap().0;
    let [leaf, above] = ["leaf.pem", "above.pem"].map(|name| files.join(name));
    std::fs::write(&leaf, &chain[..second]).unwrap();
    std::fs::write(&above, &chain[second..]).unwrap();
    [leaf, above, files.join("bundle.pem"), files.join("crl.pem")]
}

pub(crate) fn expect_verified(openssl: &Path, [leaf, above, roots, crls]: &[PathBuf; 4]) {
    let mut command = Command::new(openssl);
    command.args(["verify", "-x509_strict", "-crl_check_all", "-CAfile"]).arg(roots).arg("-CRLfile").arg(crls);
    said(command.arg("-untrusted").arg(above).arg(leaf)).expect(0);
}

#[test]
fn a_root_in_vault_signs_and_two_envoys_talk_with_every_crl_checked() {
    let (Some(vault), Some(envoy), Some(openssl)) = (need("vault"), need("envoy"), need("openssl")) else { return };
    let files = directory();
    let (vault, chancery, secret_id) = under_vault(&vault, files.path());
    assert_eq!(authorities(&chancery), active(&["issuing 1", "root 1", "intermediate 1"]));
    expect_verified(&openssl, &fetched(&chancery));

    let pair = Pair::of(&envoy, chancery, Setup::default());
    pair.wait_until_it_works();
    let load = Load::start(pair.client.listener());
    let chancery = &pair.chancery;
    // The next issuing CA comes from Vault too, under the same root.
    let roots = chancery.run(&["bundle", "show"]).expect(0).out;
    chancery.run(&["ca", "rotate", "issuing"]).expect(0);
    assert_eq!(chancery.run(&["bundle", "show"]).expect(0).out, roots);
    let mut states = authorities(chancery);
    states.sort();
    let expected =
        [("intermediate 1", "active"), ("issuing 1", "retiring"), ("issuing 2", "active"), ("root 1", "active")];
    assert_eq!(states, expected.map(|(name, state)| (name.to_owned(), state.to_owned())));
    // While Vault is sealed everything goes on, a forced renewal and a new start of the server too.
    vault.seal();
    chancery.run(&["ca", "rotate", "issuing"]).expect(1).expect_words(&["is sealed", "unseal it"]);
    chancery.run(&["cert", "rotate", "--all", "--yes"]).expect(0);
    load.wait_for(500);
    load.stop().expect_none_failed(500);
    pair.expect_nothing_refused();

    let records = chancery.records();
    let above: Vec<&Value> = records.iter().filter(|one| one["authority"]["upstream"].is_string()).collect();
    let named = format!("vault {} pki", vault.url());
    assert!(above.len() >= 7 && above.iter().all(|one| one["authority"]["upstream"] == named.as_str()), "{above:#?}");
    let imported: Vec<&Value> = records.iter().filter(|one| one["reason"] == "imported").collect();
    assert_eq!(imported.len(), 2, "a CRL of each: {imported:#?}");
    chancery.run(&["audit", "verify"]).expect(0);
    let keys: Vec<_> =
        std::fs::read_dir(chancery.data().join("keys")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!keys.iter().any(|name| name.to_string_lossy().starts_with("root")), "{keys:?}");
    for secret in [secret_id.as_str(), vault.root_token()] {
        assert!(!chancery.output().contains(secret), "in the log");
        assert!(!records.iter().any(|one| one.to_string().contains(secret)), "in the ledger");
    }
}

#[test]
fn it_starts_again_and_issues_while_vault_is_away_or_sealed() {
    let (Some(vault), Some(openssl)) = (need("vault"), need("openssl")) else { return };
    let files = directory();
    let (vault, mut chancery, _) = under_vault(&vault, files.path());
    let before = chancery.run(&["bundle", "show"]).expect(0).out;
    vault.seal();
    chancery.kill();
    chancery.start();
    assert_eq!(chancery.run(&["bundle", "show"]).expect(0).out, before);
    expect_verified(&openssl, &fetched(&chancery));
    vault.unseal();
    drop(vault);
    chancery.stop();
    chancery.start();
    assert_eq!(authorities(&chancery), active(&["issuing 1", "root 1", "intermediate 1"]));
    expect_verified(&openssl, &fetched(&chancery));
    chancery.run(&["audit", "verify"]).expect(0);
}

/// The first start of a server with this configuration, which must fail, and what it says.
pub(crate) fn refused(configuration: &str, words: &[&str]) {
    let place = directory();
    let file = place.path().join("chancery.toml");
    std::fs::create_dir(place.path().join("data")).unwrap();
    let private = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o700);
    std::fs::set_permissions(place.path().join("data"), private).unwrap();
    let rules = policy::text(&[Rule::on("web", WEB, "24h"), Rule::on("api", API, "24h")]);
    std::fs::write(place.path().join("data/policy.toml"), rules).unwrap();
    std::fs::write(&file, configuration).unwrap();
    let said = said(Command::new(program()).args(["server", "--config"]).arg(&file).current_dir(place.path()));
    assert_ne!(said.code, 0, "{said:#?}");
    said.expect_words(words);
}

#[test]
fn a_first_start_that_vault_does_not_help_says_why() {
    let Some(vault) = need("vault") else { return };
    let files = directory();
    let vault = Vault::with_hierarchy(&vault, files.path());
    let (role_id, secret_id) = vault.app_role(0);
    let secret = files.path().join("secret-id");
    let good = configuration(&vault, &role_id, &secret);

    refused(&good, &["secret-id"]);
    private(&secret, "not-the-secret-id");
    refused(&good, &["refuses log in", "[upstream.vault.login]"]);
    private(&secret, &secret_id);
    refused(
        &good.replace("address = \"http", "mount = \"elsewhere\"\naddress = \"http"),
        &["sign the issuing CA", "403"],
    );
    refused(&good.replace("crl_mounts", "#"), &["gives no CRL of", "crl_mounts"]);
    refused(&good.replace(vault.url(), "http://127.0.0.1:1"), &["cannot be reached", "address"]);

    // A mount that cuts what it signs to less than leaves need.
    vault.write("sys/mounts/pki/tune", &serde_json::json!({"max_lease_ttl": "24h"}));
    refused(&good, &["cannot be used", "max_ttl"]);
    vault.write("sys/mounts/pki/tune", &serde_json::json!({"max_lease_ttl": "87600h"}));

    vault.seal();
    refused(&good, &["is sealed", "unseal it"]);
}

#[test]
fn a_secret_id_that_is_used_up_is_refused_and_one_of_two_uses_is_enough_to_start() {
    let Some(vault) = need("vault") else { return };
    let files = directory();
    let (vault, configuration, _) = hierarchy(&vault, files.path(), 1);
    // The certificate takes one login, the CRLs of all CAs above another.
    refused(&configuration, &["refuses log in", "400"]);
    private(&files.path().join("secret-id"), &vault.app_role(2).1);
    let chancery = Chancery::with(options(configuration));
    assert_eq!(authorities(&chancery), active(&["issuing 1", "root 1", "intermediate 1"]));
}

#[test]
fn another_upstream_in_the_configuration_changes_nothing_by_itself() {
    let Some(vault) = need("vault") else { return };
    let files = directory();
    let (_vault, mut chancery, _) = under_vault(&vault, files.path());
    let configuration = std::fs::read_to_string(chancery.scratch().join("chancery.toml")).unwrap();
    let without = configuration.split("[upstream.vault]").next().unwrap().to_owned();
    let before = chancery.run(&["bundle", "show"]).expect(0).out;
    chancery.stop();
    chancery.configure(&without);
    chancery.start();
    assert_eq!(chancery.run(&["bundle", "show"]).expect(0).out, before);
    assert_eq!(authorities(&chancery), active(&["issuing 1", "root 1", "intermediate 1"]));
    let status = chancery.run(&["status"]).expect(0).out;
    assert!(status.contains("root 1 is of vault") && status.contains("ca rotate root"), "{status}");
    // What no upstream signs cannot be made.
    chancery.run(&["ca", "rotate", "issuing"]).expect(1).expect_words(&["root 1 is the root of vault"]);

    let own = Chancery::with(options(without.clone()));
    let before = own.run(&["bundle", "show"]).expect(0).out;
    let mut own = own;
    own.stop();
    own.configure(&configuration);
    own.start();
    assert_eq!(own.run(&["bundle", "show"]).expect(0).out, before);
    let status = own.run(&["status"]).expect(0).out;
    assert!(status.contains("root 1 is this server's own") && status.contains("ca rotate root"), "{status}");
    // The next issuing CA is still its own root's.
    own.run(&["ca", "rotate", "issuing"]).expect(0);
    assert_eq!(own.run(&["bundle", "show"]).expect(0).out, before);
}

#[test]
fn a_bare_client_gets_the_whole_chain_over_sds() {
    let Some(vault) = need("vault") else { return };
    let files = directory();
    let (_vault, chancery, _) = under_vault(&vault, files.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let chain = runtime.block_on(async {
        let channel = sds::connect(&chancery.socket("web")).await.unwrap();
        let mut stream = sds::Stream::open(channel, "bare", "default", "").await.unwrap();
        stream.next(Duration::from_secs(20)).await.unwrap().certificate().0
    });
    let subjects: Vec<String> = x509_parser::pem::Pem::iter_from_buffer(&chain)
        .map(|block| block.unwrap().parse_x509().unwrap().subject().to_string())
        .collect();
    assert_eq!(subjects.len(), 3, "{subjects:?}");
    assert!(subjects[1].contains("issuing 1") && subjects[2].contains("Mesh Intermediate"), "{subjects:?}");
}

/// A certificate for 127.0.0.1 that signed itself: acceptor and PEM.
fn tls() -> (tokio_rustls::TlsAcceptor, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let private = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let settings = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private.into())
        .unwrap();
    (tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(settings)), certificate.pem())
}

#[test]
fn vault_is_reached_by_tls_and_only_under_the_ca_that_is_named() {
    let Some(vault) = need("vault") else { return };
    let files = directory();
    let (vault, configuration, _) = hierarchy(&vault, files.path(), 0);
    let ca = files.path().join("ca.pem");
    let (acceptor, pem) = tls();
    std::fs::write(&ca, pem).unwrap();
    let proxy = Proxy::to(vault.address(), Some(acceptor));
    let address = format!("https://{}", proxy.address());
    let plain = configuration.replace(vault.url(), &address);
    refused(&plain, &["cannot be reached", "ca_file"]);
    let other = files.path().join("other.pem");
    std::fs::write(&other, tls().1).unwrap();
    let with = |file: &Path| plain.replace("crl_mounts", &format!("ca_file = \"{}\"\ncrl_mounts", file.display()));
    refused(&with(&other), &["cannot be reached", "ca_file"]);
    let chancery = Chancery::with(options(with(&ca)));
    assert_eq!(authorities(&chancery), active(&["issuing 1", "root 1", "intermediate 1"]));
}

#[test]
fn whatever_vault_answers_the_authorities_stay_as_they_are() {
    let Some(vault) = need("vault") else { return };
    let files = directory();
    let (vault, configuration, secret_id) = hierarchy(&vault, files.path(), 0);
    let proxy = Proxy::to(vault.address(), None);
    let address = format!("http://{}", proxy.address());
    let configuration = configuration.replace(vault.url(), &address);
    let chancery = Chancery::with(options(configuration.replace("timeout = \"5s\"", "timeout = \"1s\"")));
    let before = authorities(&chancery);
    for (way, word) in [
        (Way::Answer(429, "{\"errors\":[\"slow down\"]}"), "429 slow down"),
        (Way::Answer(503, "{\"errors\":[\"Vault is sealed\"]}"), "is sealed"),
        (Way::Answer(403, "{\"errors\":[\"permission denied\"]}"), "403 permission denied"),
        (Way::Answer(500, "not JSON"), "did not log in"),
        (Way::Answer(200, "{}"), "did not log in"),
        (Way::Answer(200, "<html>a captive portal</html>"), "did not log in"),
        (Way::Answer(307, ""), "did not log in"),
        (Way::Silent, "cannot be reached"),
        (Way::Closed, "cannot be reached"),
    ] {
        proxy.set(way);
        let said = chancery.run(&["ca", "rotate", "issuing"]).expect(1);
        assert!(said.err.contains(word), "{way:?}: {said:#?}");
        assert!(!said.err.contains(&secret_id), "{said:#?}");
        assert_eq!(authorities(&chancery), before, "{way:?}");
    }
    // The request that was never answered is answered now.
    proxy.set(Way::Open);
    chancery.run(&["ca", "rotate", "issuing"]).expect(0);
    assert!(authorities(&chancery).contains(&("issuing 2".to_owned(), "active".to_owned())));
    chancery.run(&["audit", "verify"]).expect(0);
}

/// How many certificates are on an authority's CRL.
fn on_list(chancery: &Chancery, name: &str) -> u64 {
    let shown = chancery.run(&["ca", "show", "--output", "json"]).expect(0).json();
    let all = shown["authorities"].as_array().unwrap().iter();
    all.filter(|one| one["name"] == name).map(|one| one["crl"]["entries"].as_u64().unwrap()).sum()
}

#[test]
fn a_tainted_issuing_ca_is_revoked_at_vault_and_its_list_pushed() {
    let (Some(vault), Some(openssl)) = (need("vault"), need("openssl")) else { return };
    let files = directory();
    let (_vault, chancery, _) = under_vault(&vault, files.path());
    let before = fetched(&chancery);
    let [old, above] = ["old.pem", "old-above.pem"].map(|name| chancery.scratch().join(name));
    std::fs::copy(&before[0], &old).unwrap();
    std::fs::copy(&before[1], &above).unwrap();
    chancery.run(&["ca", "taint", "issuing 1", "--yes"]).expect(0);
    assert_eq!((on_list(&chancery, "intermediate 1"), on_list(&chancery, "root 1")), (1, 0));
    std::fs::remove_dir_all(chancery.scratch().join("id")).unwrap();
    let now = fetched(&chancery);
    expect_verified(&openssl, &now);
    let mut verify = Command::new(&openssl);
    verify.args(["verify", "-x509_strict", "-crl_check_all", "-CAfile"]).arg(&now[2]).arg("-CRLfile").arg(&now[3]);
    said(verify.arg("-untrusted").arg(&above).arg(&old)).expect(2).expect_words(&["certificate revoked"]);
    let order: Vec<String> = chancery.records().iter().map(|one| one["action"].as_str().unwrap().to_owned()).collect();
    let at = |action: &str| order.iter().rposition(|one| one == action).unwrap();
    assert!(at("ca.taint") < at("certificate.revoke") && at("certificate.revoke") < at("crl.publish"), "{order:?}");
    chancery.run(&["audit", "verify"]).expect(0);
}

#[test]
fn a_taint_that_vault_does_not_revoke_is_carried_out_when_it_lets_us_over_a_kill_too() {
    let Some(vault) = need("vault") else { return };
    let files = directory();
    let (vault, mut chancery, _) = under_vault(&vault, files.path());
    let sign = "path \"pki/issuer/default/sign-intermediate\" { capabilities = [\"create\", \"update\"] }";
    vault.policy(sign);
    let said = chancery.run(&["ca", "taint", "issuing 1", "--yes"]).expect(1);
    said.expect_words(&["recorded and replaced, but not revoked where it was signed", "403", "tried again"]);
    assert_eq!(on_list(&chancery, "intermediate 1"), 0);
    chancery.kill();
    vault.policy(&format!(
        "{sign}\npath \"pki/revoke\" {{ capabilities = [\"update\"] }}\npath \"pki/crl/rotate\" {{ capabilities = [\"read\"] }}"
    ));
    chancery.start();
    crate::harness::eventually("it is on Vault's list", crate::harness::SOON, || {
        (on_list(&chancery, "intermediate 1") == 1).then_some(())
    });
    let revokes = chancery.records_of("certificate.revoke", 1);
    assert_eq!(revokes.len(), 1, "recorded once: {revokes:#?}");
    chancery.run(&["audit", "verify"]).expect(0);
}

#[test]
fn what_vault_was_asked_for_before_a_kill_is_asked_for_again_with_the_same_key() {
    let Some(vault) = need("vault") else { return };
    let files = directory();
    let (vault, mut chancery, _) = under_vault(&vault, files.path());
    let keys = |chancery: &Chancery| {
        let all = std::fs::read_dir(chancery.data().join("keys")).unwrap();
        let mut names: Vec<String> = all.map(|one| one.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name.starts_with("issuing"));
        names.sort();
        names
    };
    vault.seal();
    chancery.run(&["ca", "rotate", "issuing"]).expect(1);
    chancery.kill();
    chancery.start();
    chancery.run(&["ca", "rotate", "issuing"]).expect(1);
    vault.unseal();
    chancery.run(&["ca", "rotate", "issuing"]).expect(0);
    assert_eq!(keys(&chancery), ["issuing-1.sealed", "issuing-2.sealed"], "no key that nothing names");
    assert!(authorities(&chancery).contains(&("issuing 2".to_owned(), "active".to_owned())));
    // A taint takes none that was asked for before; its key goes, on record.
    vault.policy("path \"nothing\" { capabilities = [\"read\"] }");
    chancery.run(&["ca", "rotate", "issuing"]).expect(1);
    assert_eq!(keys(&chancery).len(), 3);
    chancery.run(&["ca", "taint", "issuing 2", "--yes"]).expect(1);
    let gone = chancery
        .wait_for_record("ca.retire", |one| one["action"] == "ca.retire" && one["authority"]["name"] == "issuing 3");
    assert_eq!(gone["authority"]["state"], "gone");
    assert_eq!(keys(&chancery), ["issuing-1.sealed", "issuing-2.sealed", "issuing-4.sealed"]);
    chancery.run(&["audit", "verify"]).expect(0);
}
