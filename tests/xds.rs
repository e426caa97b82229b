//! Every dialect that a real Envoy speaks with us: state of the world and delta, for secrets alone and on an aggregated
//! stream, with one and two workers. What must hold in each: certificates come, renewals under load fail no request, and
//! a killed chancery that comes back issues nothing anew.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::load::Load;
use crate::harness::pair::{Pair, Setup};
use crate::harness::{alone, eventually, need};

/// Renewals of each Envoy that a mode must live through under load.
const RENEWALS: usize = 5;

/// How soon every stream must be back after our restart: the longest wait of the configuration, and time for a slow
/// machine.
const BACK: Duration = Duration::from_secs(15);

const DELTA: Setup =
    Setup { lifetime: "6s", arguments: &["--api", "delta"], workers: 1, server: std::convert::identity };

/// Moves the secrets of the listener to the one aggregated stream of this Envoy. Static clusters can't have them there:
/// Envoy asks for them before the stream exists, and ends (envoyproxy/envoy 15517, 19618).
fn aggregated(mut configuration: Value) -> Value {
    let tls = &mut configuration["static_resources"]["listeners"][0]["filter_chains"][0]["transport_socket"]["typed_config"]
        ["common_tls_context"];
    let secrets = [
        "/tls_certificate_sds_secret_configs/0/sds_config",
        "/combined_validation_context/validation_context_sds_secret_config/sds_config",
    ];
    let mut source = Value::Null;
    for secret in secrets {
        let config = tls.pointer_mut(secret).expect("a secret");
        source = config["api_config_source"].take();
        *config = json!({"resource_api_version": "V3", "initial_fetch_timeout": "0s", "ads": {}});
    }
    configuration["dynamic_resources"] = json!({"ads_config": source});
    configuration
}

fn renewals_under_load_fail_no_request(setup: Setup) {
    let Some(envoy) = need("envoy") else { return };
    let _alone = alone();
    let pair = Pair::with(&envoy, setup);
    pair.wait_until_it_works();
    let load = Load::start(pair.client.listener());
    let mut serials = [vec![pair.client.serial()], vec![pair.server.serial()]];
    while serials.iter().any(|seen| seen.len() <= RENEWALS) {
        for (envoy, seen) in [&pair.client, &pair.server].into_iter().zip(&mut serials) {
            let now = envoy.serial();
            if seen.last() != Some(&now) {
                seen.push(now);
            }
            assert_eq!(envoy.stat("server.live"), 1);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    load.stop().expect_none_failed(500);
    pair.expect_nothing_refused();
    assert!(pair.chancery.records_of("certificate.nack", 0).is_empty());
    assert_eq!(pair.chancery.records_of("certificate.issue", 2).len(), 2, "one for each, all others follow them");
}

fn a_killed_chancery_issues_nothing_anew(setup: Setup) {
    let Some(envoy) = need("envoy") else { return };
    let _alone = alone();
    let mut pair = Pair::with(&envoy, Setup { lifetime: "24h", ..setup });
    pair.wait_until_it_works();
    let before = [pair.client.serial(), pair.server.serial()];
    let load = Load::start(pair.client.listener());
    let mut took = Vec::new();
    for _ in 0..3 {
        load.wait_for(100);
        pair.chancery.kill();
        // Long enough for waits between tries to grow to their longest.
        std::thread::sleep(Duration::from_secs(6));
        pair.chancery.start();
        let begin = std::time::Instant::now();
        eventually("every secret is subscribed to again", BACK, || {
            let status = pair.chancery.run(&["status", "--output", "json"]).expect(0).json();
            (status["streams"] == 4).then_some(())
        });
        took.push(begin.elapsed());
    }
    println!("all four secrets are subscribed to again after {took:?}");
    load.wait_for(100);
    load.stop().expect_none_failed(400);
    assert_eq!([pair.client.serial(), pair.server.serial()], before);
    assert_eq!(pair.chancery.records_of("certificate.issue", 2).len(), 2);
    assert!(pair.chancery.records_of("certificate.renew", 0).is_empty());
    pair.expect_nothing_refused();
}

#[test]
fn delta_renews_under_load() {
    renewals_under_load_fail_no_request(DELTA);
}

#[test]
fn delta_with_two_workers_renews_under_load() {
    renewals_under_load_fail_no_request(Setup { workers: 2, ..DELTA });
}

#[test]
fn state_of_the_world_with_two_workers_renews_under_load() {
    renewals_under_load_fail_no_request(Setup { arguments: &[], workers: 2, ..DELTA });
}

#[test]
fn an_aggregated_delta_stream_renews_under_load() {
    renewals_under_load_fail_no_request(Setup { server: aggregated, ..DELTA });
}

#[test]
fn an_aggregated_stream_renews_under_load() {
    renewals_under_load_fail_no_request(Setup { server: aggregated, arguments: &[], ..DELTA });
}

#[test]
fn delta_outlives_a_killed_chancery() {
    a_killed_chancery_issues_nothing_anew(DELTA);
}

#[test]
fn state_of_the_world_outlives_a_killed_chancery() {
    a_killed_chancery_issues_nothing_anew(Setup { arguments: &[], ..DELTA });
}

#[test]
fn an_aggregated_delta_stream_outlives_a_killed_chancery() {
    a_killed_chancery_issues_nothing_anew(Setup { server: aggregated, ..DELTA });
}

#[test]
fn an_aggregated_stream_outlives_a_killed_chancery() {
    a_killed_chancery_issues_nothing_anew(Setup { server: aggregated, arguments: &[], ..DELTA });
}
