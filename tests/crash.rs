//! Two hundred times `kill -9` at a random moment with issues and revocations in flight (`--full`: ten thousand): every
//! certificate that anyone received has its record, no revocation that an operator saw acknowledged is lost or off the CRL,
//! CRL numbers only grow, and the ledger verifies.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::harness::chancery::Chancery;
use crate::harness::http::try_get;
use crate::harness::policy::{self, Rule};
use crate::harness::{alone, full, ledger, need, sds};

/// Kills of one run, and of a full one.
const KILLS: [usize; 2] = [200, 10_000];

/// An operator revokes something in one round of this many.
const REVOKES: usize = 5;

/// Clients asking at the same time.
const CLIENTS: usize = 6;

/// The longest that a server lives in one round.
const LONGEST_LIFE: Duration = Duration::from_millis(150);

/// Small reproducible randomness; the seed is printed when the test fails.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

#[test]
fn a_server_killed_at_random_loses_nothing_that_anyone_saw() {
    let _alone = alone();
    let seed = u64::from(std::process::id());
    let mut dice = Dice(seed);
    let mut server = Chancery::with_policy(&policy::text(&[Rule::own("spiffe://example.org/ns/shop/sa/web", "1h")]));
    let received = Arc::new(Mutex::new(Vec::new()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut checkpoints = Vec::new();
    let (mut revoked, mut number) = (Vec::new(), 0);
    for round in 0..KILLS[usize::from(full())] {
        let socket = server.socket("sds");
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (socket, received) = (socket.clone(), Arc::clone(&received));
                runtime.spawn(async move {
                    sds::ask_again_and_again(&socket, &format!("{round}-{client}"), &received).await
                })
            })
            .collect();
        let life = u64::try_from(LONGEST_LIFE.as_millis()).unwrap();
        std::thread::sleep(Duration::from_millis(dice.roll(life)));
        let log = ledger::only_log(&server.data());
        let name = log.file_name().unwrap().to_str().unwrap();
        if let Ok(answer) = try_get(server.http(), &format!("/ledger/{name}/checkpoint"))
            && answer.status == 200
        {
            checkpoints.push(answer.text());
        }
        if round % REVOKES == 0 {
            revoke_one(&server, &received, &mut revoked);
        }
        server.kill();
        for client in clients {
            runtime.block_on(client).unwrap();
        }
        server.start();
        let now = crl_number(&server);
        assert!(now >= number, "CRL {now} after {number} in round {round}, seed {seed}");
        number = now;
    }
    expect_each_revoked(&server, &revoked);
    let received = received.lock().unwrap().clone();
    assert!(received.len() > 100, "only {} certificates, seed {seed}", received.len());
    assert!(server.stop().success());
    expect_each_recorded(&server, &received, seed);
    server_less_verification(&server, &checkpoints);
}

/// Revokes the newest certificate that anyone received; it is kept only if the operator was told that it is done.
fn revoke_one(server: &Chancery, received: &Mutex<Vec<String>>, revoked: &mut Vec<String>) {
    let Some(serial) = received.lock().unwrap().last().cloned() else { return };
    let said = server.run(&["cert", "revoke", "--serial", &serial, "--yes", "--wait", "0s", "--output", "json"]);
    if said.code == 0 {
        revoked.push(serial);
    }
}

/// The number of the issuing CA's CRL.
fn crl_number(server: &Chancery) -> u64 {
    let status = server.run(&["status", "--output", "json"]).expect(0).json();
    let crls = status["crls"].as_array().expect("CRLs").iter();
    crls.filter_map(|crl| crl["number"].as_u64()).max().expect("a number")
}

fn expect_each_revoked(server: &Chancery, revoked: &[String]) {
    assert!(!revoked.is_empty(), "nothing was revoked");
    let records = server.records_of("certificate.revoke", revoked.len());
    for serial in revoked {
        assert!(records.iter().any(|record| record["serial"] == serial.as_str()), "{serial} has no record");
    }
    let crl = try_get(server.http(), "/crl").expect("the CRLs").text();
    let lists = chancery::x509::crl::Crl::parse_pem(crl.as_bytes()).expect("CRLs");
    for serial in revoked {
        let serial = chancery::x509::Serial::from_hex(serial).expect("a serial");
        assert!(lists.iter().any(|crl| crl.revokes(&serial).is_some()), "{} is on no CRL", serial.hex());
    }
}

fn expect_each_recorded(server: &Chancery, received: &[String], seed: u64) {
    let recorded: std::collections::HashSet<String> = server
        .records()
        .iter()
        .filter(|record| record["action"] == "certificate.issue" || record["action"] == "certificate.renew")
        .map(|record| record["certificate"]["serial"].as_str().unwrap().to_owned())
        .collect();
    let lost: Vec<_> = received.iter().filter(|serial| !recorded.contains(*serial)).collect();
    assert!(lost.is_empty(), "certificates without a record, seed {seed}: {lost:?}");
}

/// The log extends every checkpoint that was ever served: to our own eyes, and to those of others.
fn server_less_verification(server: &Chancery, checkpoints: &[String]) {
    let log = ledger::only_log(&server.data());
    let file = server.scratch().join("served.checkpoint");
    let verifier = need("verifier");
    assert!(!checkpoints.is_empty());
    for checkpoint in checkpoints {
        std::fs::write(&file, checkpoint).unwrap();
        if let Some(verifier) = &verifier {
            let mut command = std::process::Command::new(verifier);
            command.arg("consistency").arg(&log).arg(log.join("vkey")).arg(&file);
            crate::harness::chancery::said(&mut command).expect(0);
        }
    }
    server.run(&["audit", "verify", "--older", file.to_str().unwrap()]).expect(0);
    if let Some(verifier) = &verifier {
        let mut command = std::process::Command::new(verifier);
        crate::harness::chancery::said(command.arg("fsck").arg(&log).arg(log.join("vkey"))).expect(0);
    }
}
