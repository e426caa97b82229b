//! Two real Envoys in mutual TLS: first certificates, renewals under load, a killed chancery, a restarted Envoy, a
//! refused push. The configurations are those that `chancery envoy bootstrap` writes.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::envoy::Envoy;
use crate::harness::http::{Echo, get, try_get};
use crate::harness::load::Load;
use crate::harness::pair::{API, Pair, WEB, bootstrap, chancery};
use crate::harness::{SOON, alone, eventually, free_port, need};

/// Renewals that both Envoys must live through under load.
const RENEWALS: usize = 20;

#[test]
fn two_envoys_talk_mutual_tls_with_recorded_certificates() {
    let Some(envoy) = need("envoy") else { return };
    let _alone = alone();
    let pair = Pair::start(&envoy, "24h");
    pair.wait_until_it_works();
    assert_eq!(get(pair.client.listener(), "/hello").text(), "GET /hello\n");
    for (envoy, identity) in [(&pair.client, WEB), (&pair.server, API)] {
        let (serial, named) = envoy.leaves().first().unwrap().clone();
        assert_eq!(named, identity);
        let record = pair.chancery.wait_for_record("the issue", |record| {
            record["action"] == "certificate.issue" && record["certificate"]["serial"] == serial.as_str()
        });
        assert_eq!(record["subject"], identity, "{record}");
        assert_eq!(record["outcome"], "success", "{record}");
        assert_eq!(record["source"]["uid"], nix::unistd::Uid::effective().as_raw(), "{record}");
    }
    // The listener accepts nobody without a certificate.
    assert!(try_get(pair.server.listener(), "/").is_err());
    let log = eventually("the access log has the request", SOON, || {
        let log = std::fs::read_to_string(pair.chancery.scratch().join("server.access.log")).ok()?;
        log.contains("/hello").then_some(log)
    });
    let line: Value = serde_json::from_str(log.lines().find(|line| line.contains("/hello")).unwrap()).unwrap();
    assert_eq!(line["source_identity"], WEB, "{line}");
    pair.expect_nothing_refused();
}

#[test]
fn twenty_renewals_under_load_fail_no_request() {
    let Some(envoy) = need("envoy") else { return };
    let _alone = alone();
    let pair = Pair::start(&envoy, "6s");
    pair.wait_until_it_works();
    let load = Load::start(pair.client.listener());
    let mut serials = [vec![pair.client.serial()], vec![pair.server.serial()]];
    while serials.iter().any(|seen| seen.len() <= RENEWALS) {
        for (envoy, seen) in [&pair.client, &pair.server].into_iter().zip(&mut serials) {
            let now = envoy.serial();
            if seen.last() != Some(&now) {
                seen.push(now);
            }
        }
        assert!(seen_is_moving(&pair, &serials), "renewals stopped: {serials:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    load.stop().expect_none_failed(2_000);
    pair.expect_nothing_refused();

    // Each certificate that an Envoy held has its record, and each renewal names the one before it.
    for seen in &serials {
        let last = seen.last().unwrap();
        pair.chancery.wait_for_record("the last renewal", |record| record["certificate"]["serial"] == last.as_str());
    }
    let records = pair.chancery.records();
    for seen in &serials {
        for (earlier, later) in seen.iter().zip(&seen[1..]) {
            let record = records.iter().find(|record| {
                record["action"] == "certificate.renew" && record["certificate"]["serial"] == later.as_str()
            });
            let record = record.unwrap_or_else(|| panic!("no record of {later}"));
            assert_eq!(record["certificate"]["previous_serial"], earlier.as_str(), "{record}");
            assert_eq!(record["certificate"]["renewal_cause"], "scheduled", "{record}");
        }
    }
    pair.chancery.run(&["audit", "verify"]).expect(0);
}

/// Whether the newest certificate of each Envoy is still valid.
fn seen_is_moving(pair: &Pair, _serials: &[Vec<String>; 2]) -> bool {
    [&pair.client, &pair.server].iter().all(|envoy| envoy.stat("server.live") == 1)
}

#[test]
fn a_killed_chancery_comes_back_under_load_and_changes_nothing() {
    let Some(envoy) = need("envoy") else { return };
    let _alone = alone();
    let mut pair = Pair::start(&envoy, "24h");
    pair.wait_until_it_works();
    let before = [pair.client.serial(), pair.server.serial()];
    let issued = pair.chancery.records_of("certificate.issue", 2).len();
    let load = Load::start(pair.client.listener());
    for _ in 0..3 {
        load.wait_for(100);
        pair.chancery.kill();
        load.wait_for(100);
        pair.chancery.start();
        // Each Envoy has two streams: its certificate and the roots. They come back with jitter, up to 30 s apart.
        eventually("all four streams are back", Duration::from_secs(60), || {
            let status = pair.chancery.run(&["status", "--output", "json"]).expect(0).json();
            (status["streams"] == 4).then_some(())
        });
    }
    load.wait_for(100);
    load.stop().expect_none_failed(700);
    assert_eq!([pair.client.serial(), pair.server.serial()], before);
    assert_eq!(pair.chancery.records_of("certificate.issue", issued).len(), issued, "nothing was issued again");
    assert!(pair.chancery.records_of("certificate.renew", 0).is_empty());
    pair.expect_nothing_refused();
}

#[test]
fn an_envoy_that_restarts_gets_a_new_certificate() {
    let Some(envoy) = need("envoy") else { return };
    let _alone = alone();
    let mut pair = Pair::start(&envoy, "24h");
    pair.wait_until_it_works();
    let before = pair.server.serial();
    pair.server.restart();
    pair.wait_until_it_works();
    let after = pair.server.serial();
    assert_ne!(after, before, "keys live in the proxy's memory only");
    let issued = pair.chancery.records_of("certificate.issue", 3);
    for serial in [before, after] {
        assert!(issued.iter().any(|record| record["certificate"]["serial"] == serial.as_str()), "{serial}: {issued:?}");
    }
}

#[test]
fn what_an_envoy_refuses_is_recorded() {
    let Some(envoy) = need("envoy") else { return };
    let _alone = alone();
    let chancery = chancery("24h");
    let echo = Echo::start();
    let mut configuration = bootstrap(&chancery, "server", "api", free_port(), echo.address(), WEB, &[]);
    // Envoy then refuses every certificate that comes without an OCSP response.
    let listener = &mut configuration["static_resources"]["listeners"][0];
    listener["filter_chains"][0]["transport_socket"]["typed_config"]["ocsp_staple_policy"] = json!("MUST_STAPLE");
    let server = Envoy::start(&envoy, "server", &configuration, chancery.scratch());
    let record = chancery.wait_for_record("the refusal", |record| record["action"] == "certificate.nack");
    assert_eq!(record["outcome"], "failure", "{record}");
    // Envoy judges the secrets of one context together, so it refuses whichever comes last.
    match record["secret_name"].as_str() {
        Some("default") => assert_eq!(record["subject"], API, "{record}"),
        Some("ROOTCA") => assert_eq!(record["subject"], Value::Null, "{record}"),
        other => panic!("{other:?}: {record}"),
    }
    assert!(record["reason"].as_str().is_some_and(|reason| reason.contains("OCSP")), "{record}");
    assert!(server.stat("update_rejected") >= 1);
}
