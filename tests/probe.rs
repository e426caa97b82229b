//! `chancery probe` against a real Envoy: what it shows, and how it takes those that it may let in and those that it
//! must not.

use serde_json::Value;

use crate::harness::chancery::{Chancery, Options, Said};
use crate::harness::envoy::Envoy;
use crate::harness::http::Echo;
use crate::harness::policy::{self, Rule};
use crate::harness::{SOON, alone, eventually, free_port, need};

const WEB: &str = "spiffe://example.org/ns/shop/sa/web";
const API: &str = "spiffe://example.org/ns/shop/sa/api";

/// A certificate of that socket in a directory of that name.
fn fetch(chancery: &Chancery, socket: &str) -> String {
    let dir = chancery.scratch().join(format!("id-{socket}")).display().to_string();
    let socket = chancery.socket(socket).display().to_string();
    chancery.run(&["fetch", "--once", "--dir", &dir, "--socket", &socket]).expect(0);
    dir
}

fn probe(chancery: &Chancery, arguments: &[&str]) -> Said {
    chancery.run(&[&["probe", "--output", "json"], arguments].concat())
}

#[test]
fn an_envoy_listener_is_described_and_its_verdict_heard() {
    let Some(envoy) = need("envoy") else { return };
    let _alone = alone();
    let chancery = Chancery::with(Options {
        arguments: vec!["--sds-socket".into(), "web=web.sock".into(), "--sds-socket".into(), "api=api.sock".into()],
        policy: Some(policy::text(&[Rule::on("web", WEB, "24h"), Rule::on("api", API, "24h")])),
        ..Options::default()
    });
    let echo = Echo::start();
    let (listen, upstream) = (format!("127.0.0.1:{}", free_port()), echo.address().to_string());
    let socket = chancery.socket("api").display().to_string();
    let role = ["envoy", "bootstrap", "--role", "server", "--sds-socket", &socket, "--output", "json"];
    let where_to = ["--listen", &listen, "--upstream", &upstream, "--peer", WEB];
    let configuration: Value = chancery.run(&[&role[..], &where_to].concat()).expect(0).json();
    let server = Envoy::start(&envoy, "server", &configuration, chancery.scratch());
    let (web, api) = (fetch(&chancery, "web"), fetch(&chancery, "api"));

    let known = eventually("Envoy lets us in", SOON, || {
        let said = probe(&chancery, &[&listen, "--identity-dir", &web, "--expect", API]);
        (said.code == 0).then(|| said.json())
    });
    assert_eq!(known["chain"][0]["serial"], server.serial().as_str(), "{known}");
    assert_eq!((&known["verified"], &known["client_asked"]), (&true.into(), &true.into()), "{known}");
    assert_eq!(known["client_result"], "accepted", "{known}");
    println!("Envoy: {} {} alpn {} in {} ms", known["group"], known["cipher"], known["alpn"], known["took_ms"]);

    // Somebody of our roots, but not the one whom the listener lets in; then nobody at all.
    let wrong = probe(&chancery, &[&listen, "--identity-dir", &api]).expect(3).json();
    println!("wrong identity: {} {}", wrong["client_result"], wrong["alert"]);
    assert_eq!(wrong["verified"], true, "{wrong}");
    probe(&chancery, &[&listen, "--identity-dir", &api, "--expect-refused"]).expect(0);
    let nobody = probe(&chancery, &[&listen]).expect(3).json();
    println!("nobody: {} {}", nobody["client_result"], nobody["alert"]);
    assert_eq!(nobody["alert"], "certificate_required", "{nobody}");

    // It is not who we think, and we are let in where we must not be.
    let other = probe(&chancery, &[&listen, "--identity-dir", &web, "--expect", WEB]).expect(5).json();
    assert!(other["fault"].as_str().is_some_and(|fault| fault.contains(API)), "{other}");
    probe(&chancery, &[&listen, "--identity-dir", &web, "--expect-refused"]).expect(5);
    // The text says the same.
    let text = chancery.run(&["probe", &listen, "--identity-dir", &web]).expect(0).out;
    assert!(["verified", API, "come in"].iter().all(|word| text.contains(word)), "{text}");

    // No TLS at all, and nobody.
    let plain = probe(&chancery, &[&upstream]).expect(4);
    assert!(plain.err.contains("TLS"), "{}", plain.err);
    probe(&chancery, &[&format!("127.0.0.1:{}", free_port())]).expect(4);
}
