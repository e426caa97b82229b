//! What an operator does by hand, met by real Envoys: rotation under load, revocation of a client and of a server, one
//! process cut off, release.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::http::try_get;
use crate::harness::load::Load;
use crate::harness::pair::{API, Pair, Setup, WEB};
use crate::harness::{SOON, alone, eventually, full, need};

/// Rotations of both certificates.
const ROTATIONS: usize = 40;

/// Adds a log of the listener itself, where refused handshakes are, on Envoy's standard output.
fn with_listener_log(mut configuration: Value) -> Value {
    let format = json!({"text_format_source": {"inline_string": "handshake: %DOWNSTREAM_TRANSPORT_FAILURE_REASON%\n"}});
    for listener in configuration["static_resources"]["listeners"].as_array_mut().unwrap() {
        listener["access_log"] = json!([{
            "name": "envoy.access_loggers.stdout",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
                "log_format": format,
            },
        }]);
    }
    configuration
}

/// What the client's Envoy answers now.
fn answer(pair: &Pair) -> Option<(u16, String)> {
    try_get(pair.client.listener(), "/").ok().map(|answer| (answer.status, answer.text()))
}

/// Waits until requests go through, or do not, and gives the last answer's text.
fn until(pair: &Pair, through: bool) -> String {
    eventually("requests change their fate", SOON, || {
        answer(pair).filter(|(status, _)| (*status == 200) == through).map(|(_, text)| text)
    })
}

fn forced_rotations(setup: Setup) {
    let Some(envoy) = need("envoy") else { return };
    let _alone = alone();
    let pair = Pair::with(&envoy, setup);
    pair.wait_until_it_works();
    let load = Load::start(pair.client.listener());
    let mut before = [pair.client.serial(), pair.server.serial()];
    for _ in 0..ROTATIONS {
        let said = pair.chancery.run(&["cert", "rotate", "--all", "--yes", "--reason", "drill"]).expect(0);
        assert!(said.out.contains("2 acknowledged"), "{said:?}");
        let after = eventually("both Envoys show the new ones", SOON, || {
            let after = [pair.client.serial(), pair.server.serial()];
            after.iter().zip(&before).all(|(new, old)| new != old).then_some(after)
        });
        before = after;
        load.wait_for(20);
    }
    load.stop().expect_none_failed(ROTATIONS as u64 * 20);
    pair.expect_nothing_refused();
    let renewed = pair.chancery.records_of("certificate.renew", 2 * ROTATIONS);
    assert_eq!(renewed.len(), 2 * ROTATIONS);
    assert!(renewed.iter().all(|record| record["certificate"]["renewal_cause"] == "forced"));
}

#[test]
fn forty_forced_rotations_under_load_fail_no_request() {
    forced_rotations(Setup::default());
}

#[test]
fn forty_forced_rotations_over_delta_with_two_workers_fail_no_request() {
    forced_rotations(Setup { arguments: &["--api", "delta"], workers: 2, ..Setup::default() });
}

/// Revokes `identity` again and again; milliseconds from the command's record to the first refused request.
fn first_refusals(pair: &Pair, identity: &str, rounds: usize) -> Vec<f64> {
    let mut took = Vec::new();
    for _ in 0..rounds {
        until(pair, true);
        let stop = std::sync::atomic::AtomicBool::new(false);
        let refused = std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    if answer(pair).is_some_and(|(status, _)| status != 200) {
                        return Some(time::OffsetDateTime::now_utc());
                    }
                }
                None
            });
            pair.chancery.run(&["cert", "revoke", "--identity", identity, "--yes"]).expect(0);
            let begin = Instant::now();
            while !asking.is_finished() && begin.elapsed() < SOON {
                std::thread::sleep(Duration::from_millis(1));
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            asking.join().expect("it asks").expect("a request is refused")
        });
        let denies = pair.chancery.records_of("identity.deny", 1);
        let recorded = denies.last().unwrap()["time"].as_str().unwrap();
        let format = &time::format_description::well_known::Rfc3339;
        let recorded = time::OffsetDateTime::parse(recorded, format).unwrap();
        took.push((refused - recorded).as_seconds_f64() * 1_000.0);
        pair.chancery.run(&["cert", "release", identity]).expect(0);
    }
    took.sort_by(f64::total_cmp);
    took
}

#[test]
fn a_revoked_client_and_a_revoked_server_are_refused_and_come_back_once_released() {
    let Some(envoy) = need("envoy") else { return };
    let _alone = alone();
    let pair = Pair::with(&envoy, Setup { server: with_listener_log, ..Setup::default() });
    pair.wait_until_it_works();
    let rounds = if full() { 20 } else { 3 };
    for (who, identity) in [("client", WEB), ("server", API)] {
        let took = first_refusals(&pair, identity, rounds);
        println!("revoked {who}: first refusal after {took:.1?} ms, p50 {:.1} ms", took[took.len() / 2]);
    }
    until(&pair, true);
    let log = eventually("the server's Envoy has logged the refusal", SOON, || {
        Some(pair.server.output()).filter(|log| log.contains("CERTIFICATE_VERIFY_FAILED"))
    });
    let refused: Vec<&str> = log.lines().filter(|line| line.starts_with("handshake: ")).collect();
    assert!(refused.iter().any(|line| line.contains("certificate_revoked")), "{refused:#?}");
    pair.expect_nothing_refused();
}

#[test]
fn a_revoked_serial_cuts_one_process_off_and_no_other() {
    let Some(envoy) = need("envoy") else { return };
    let _alone = alone();
    let mut pair = Pair::start(&envoy, "24h");
    pair.wait_until_it_works();
    let serial = pair.client.serial();
    let revoke = ["cert", "revoke", "--serial", &serial, "--yes", "--reason", "key-compromise"];
    pair.chancery.run(&revoke).expect(0);
    pair.chancery.run(&revoke).expect(1).expect_words(&["revoked already"]);
    until(&pair, false);
    // It stays cut off over our restart, and a forced rotation gives it nothing.
    pair.chancery.kill();
    pair.chancery.start();
    pair.chancery.run(&["cert", "rotate", "--identity", WEB, "--yes"]);
    assert_eq!(answer(&pair).map(|(status, _)| status), Some(503));
    assert_eq!(pair.client.serial(), serial, "nothing new reaches it");
    // Another process of the same identity is another holder.
    pair.client.restart();
    until(&pair, true);
    assert_ne!(pair.client.serial(), serial);
}

#[test]
fn what_is_meant_wrongly_is_refused_and_changes_nothing() {
    let server = crate::harness::chancery::Chancery::up();
    let say = |arguments: &[&str]| server.run(arguments);
    let files = server.scratch().join("id").display().to_string();
    say(&["cert", "issue", "--identity", "spiffe://example.org/workload/x", "--dir", &files]).expect(0);
    say(&["cert", "revoke", "--serial", "00ff00ff"]).expect(1).expect_words(&["00ff00ff"]);
    say(&["cert", "revoke", "--all"]).expect(2).expect_words(&["--yes"]);
    say(&["cert", "revoke", "--issuer", "issuing 9", "--yes"]).expect(1).expect_words(&["issuing 9"]);
    say(&["cert", "revoke", "--identity", "spiffe://example.org/a", "--yes"]).expect(0);
    say(&["cert", "revoke", "--identity", "spiffe://example.org/a", "--yes"])
        .expect(1)
        .expect_words(&["denied already"]);
    say(&["cert", "release", "spiffe://example.org/b"]).expect(1).expect_words(&["not denied"]);
    say(&["cert", "revoke", "--identity", "spiffe://example.org/c", "--yes", "--reason", "mood"]).expect(2);
    assert_eq!(server.records_of("identity.deny", 1).len(), 1);
}

/// The filter of docs/revocation.md, as the first of the server's.
fn with_rbac(mut configuration: Value) -> Value {
    let filters =
        &mut configuration["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"];
    let denied = json!({"authenticated": {"principal_name": {"exact": WEB}}});
    let filter = json!({
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": {
                "action": "DENY",
                "policies": {"revoked": {"permissions": [{"any": true}], "principals": [denied]}},
            },
        },
    });
    filters["http_filters"].as_array_mut().unwrap().insert(0, filter);
    configuration
}

/// The age limit of docs/revocation.md.
fn with_age_limit(mut configuration: Value) -> Value {
    let manager =
        &mut configuration["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"];
    manager["common_http_protocol_options"] = json!({"max_connection_duration": "2s"});
    configuration
}

#[test]
fn requests_on_open_connections_are_refused_by_identity() {
    let Some(envoy) = need("envoy") else { return };
    let _alone = alone();
    let pair = Pair::with(&envoy, Setup { server: with_rbac, ..Setup::default() });
    eventually("the filter refuses", SOON, || answer(&pair).filter(|(status, _)| *status == 403));
}

#[test]
fn an_age_limit_ends_the_connections_of_a_revoked_client() {
    let Some(envoy) = need("envoy") else { return };
    let _alone = alone();
    let pair = Pair::with(&envoy, Setup { server: with_age_limit, ..Setup::default() });
    pair.wait_until_it_works();
    pair.chancery.run(&["cert", "revoke", "--identity", WEB, "--yes"]).expect(0);
    until(&pair, false);
}
