//! The ledger before judges that we did not write: Tessera's fsck and the Go checksum database's notes and proofs.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use chancery::audit::event::{Action, Outcome, Recorder};
use chancery::audit::ledger::{CheckpointKey, Ledger, LedgerOptions, MOST_RECORDS};
use chancery::clock::Clock;
use chancery::entropy::Entropy;
use chancery::tasks::Tasks;
use serde_json::Value;

use crate::harness::chancery::{Chancery, Said, said};
use crate::harness::{SOON, alone, directory, eventually, ledger, need};

fn judge(verifier: &Path, what: &str, paths: &[&Path]) -> Said {
    said(Command::new(verifier).arg(what).args(paths))
}

fn fsck(verifier: &Path, log: &Path) -> Said {
    judge(verifier, "fsck", &[log, &log.join("vkey")])
}

/// Every file below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// A copy that chancery accepts: for its own account only.
fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(target.parent().unwrap()).unwrap();
        std::fs::copy(&file, target).unwrap();
    }
}

/// A log of exactly `size` records below `place`, made by the ledger itself.
async fn log_of(size: usize, place: &Path) -> PathBuf {
    let key = CheckpointKey::from_pkcs8(&CheckpointKey::generate_pkcs8().unwrap()).unwrap();
    let (clock, tasks) = (Clock::system(), Tasks::new());
    let recorder = Recorder::new(Entropy::system());
    let mut options = LedgerOptions::new(place.join(size.to_string()), "example.org", key);
    options.lifecycle_records = false;
    options.limits.reserve_bytes = 0;
    let (writer, report) = Ledger::open(options, clock.clone(), &recorder, &tasks).await.unwrap();
    let mut left = size;
    while left > 0 {
        let now = left.min(MOST_RECORDS).min(512);
        let event = |_| recorder.event(Action::OperatorAct, Outcome::Success, clock.now());
        writer.append_batch(&(0..now).map(event).collect::<Vec<_>>()).await.unwrap();
        left -= now;
    }
    // Tiles and checkpoint follow the commit; a clean end would add a record of its own.
    let log = place.join(size.to_string()).join(report.log);
    eventually("the checkpoint is there", SOON, || {
        (log.join("checkpoint").exists() && ledger::size(&log) == size as u64).then_some(())
    });
    drop(writer);
    assert!(tasks.drain(SOON).await.is_empty());
    log
}

#[test]
fn logs_of_every_shape_pass() {
    let Some(verifier) = need("verifier") else { return };
    let _alone = alone();
    let place = directory();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    // Nothing, one record, around a full tile, and a third level of tiles.
    for size in [0, 1, 255, 256, 257, 70_000] {
        let log = runtime.block_on(log_of(size, place.path()));
        let said = fsck(&verifier, &log).expect(0);
        assert!(said.out.contains(&format!("proved: {size} records")), "{said:?}");
    }
}

#[test]
fn one_flipped_byte_anywhere_is_found() {
    let Some(verifier) = need("verifier") else { return };
    let place = directory();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let log = runtime.block_on(log_of(257, place.path()));
    fsck(&verifier, &log).expect(0);
    let mut tried = 0;
    for file in files(&log) {
        let good = std::fs::read(&file).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        std::fs::write(&file, &bad).unwrap();
        let said = fsck(&verifier, &log);
        assert_eq!(said.code, 1, "a flipped byte of {} was not found: {said:?}", file.display());
        std::fs::write(&file, &good).unwrap();
        tried += 1;
    }
    assert!(tried >= 7, "checkpoint, key, two entry tiles and three hash tiles: {tried}");
    fsck(&verifier, &log).expect(0);
}

#[test]
fn a_forked_history_is_found() {
    let Some(verifier) = need("verifier") else { return };
    let mut server = Chancery::up();
    assert!(server.stop().success());
    let fork = server.scratch().join("fork");
    copy(&server.data(), &fork);
    server.start();
    server.run(&["fetch", "--once", "--dir", server.scratch().join("id").to_str().unwrap()]).expect(0);
    assert!(server.stop().success());
    let log = ledger::only_log(&server.data());
    let old = ledger::only_log(&fork).join("checkpoint");
    let kept = server.scratch().join("older.checkpoint");
    std::fs::copy(&old, &kept).unwrap();
    judge(&verifier, "consistency", &[&log, &log.join("vkey"), &kept]).expect(0);
    server.run(&["audit", "verify", "--older", kept.to_str().unwrap()]).expect(0);

    // The same key goes on from the same point to another history: neither extends the other.
    std::fs::rename(server.data(), server.scratch().join("first")).unwrap();
    std::fs::rename(&fork, server.data()).unwrap();
    server.start();
    server.run(&["status"]).expect(0);
    server.run(&["fetch", "--once", "--dir", server.scratch().join("id2").to_str().unwrap()]).expect(0);
    assert!(server.stop().success());
    let first = server.scratch().join("first");
    let other = ledger::only_log(&server.data());
    let theirs = ledger::only_log(&first).join("checkpoint");
    let (a, b) = (ledger::size(&other), ledger::size(&ledger::only_log(&first)));
    let (newer, older) =
        if a >= b { (other.clone(), theirs) } else { (ledger::only_log(&first), other.join("checkpoint")) };
    judge(&verifier, "consistency", &[&newer, &newer.join("vkey"), &older]).expect(1);
    let data = newer.parent().unwrap().parent().unwrap();
    let ours = crate::harness::chancery::run([
        "audit",
        "verify",
        "--data-dir",
        data.to_str().unwrap(),
        "--older",
        older.to_str().unwrap(),
    ]);
    assert_eq!(ours.code, 5, "{ours:?}");
}

#[test]
fn a_receipt_proves_a_certificates_record() {
    let Some(verifier) = need("verifier") else { return };
    let server = Chancery::up();
    server.run(&["fetch", "--once", "--dir", server.scratch().join("id").to_str().unwrap()]).expect(0);
    let issued = server.records_of("certificate.issue", 1).remove(0);
    let serial = issued["certificate"]["serial"].as_str().unwrap();
    let receipt = server.run(&["audit", "prove", serial]).expect(0);
    let paths = ["receipt.tlog-proof", "record"].map(|name| server.scratch().join(name));
    std::fs::write(&paths[0], &receipt.out).unwrap();
    let log = ledger::only_log(&server.data());
    let leaf = ledger::leaves(&log).into_iter().find(|leaf| serde_json::from_slice::<Value>(leaf).unwrap() == issued);
    let mut leaf = leaf.unwrap();
    std::fs::write(&paths[1], &leaf).unwrap();
    judge(&verifier, "receipt", &[&paths[0], &log.join("vkey"), &paths[1]]).expect(0);
    let last = leaf.len() - 1;
    leaf[last] ^= 1;
    std::fs::write(&paths[1], &leaf).unwrap();
    judge(&verifier, "receipt", &[&paths[0], &log.join("vkey"), &paths[1]]).expect(1);
}

#[test]
fn records_hold_no_keys() {
    let _alone = alone();
    let server = Chancery::up();
    let files = server.scratch().join("id");
    server.run(&["fetch", "--once", "--dir", files.to_str().unwrap()]).expect(0);
    let key = std::fs::read_to_string(files.join("key.pem")).unwrap();
    let secret: String = key.lines().filter(|line| !line.starts_with("---")).collect();
    let needle = &secret[secret.len() - 40..];
    for file in self::files(&server.data()) {
        let bytes = std::fs::read(&file).unwrap_or_default();
        let found = bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
        assert!(!found, "{} holds a workload's key", file.display());
    }
    assert!(!server.output().contains(needle));
}
