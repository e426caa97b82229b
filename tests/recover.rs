//! `chancery ledger recover`: what is damaged keeps the server from starting, the plan changes nothing, and what is made
//! of it holds every record that can be proved, verifies, continues every checkpoint that still can be continued, and
//! never signs a second history.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::harness::chancery::{Chancery, Said};
use crate::harness::policy::{self, Rule};
use crate::harness::{alone, ledger, sds};

/// A stopped server whose log has more than one full tile, and the checkpoint it published last.
fn stopped() -> (Chancery, u64, PathBuf) {
    let mut server = Chancery::with_policy(&policy::text(&[Rule::own("spiffe://example.org/ns/shop/sa/web", "1h")]));
    let received = Arc::new(Mutex::new(Vec::new()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (socket, them) = (server.socket("sds"), Arc::clone(&received));
    let asking = runtime.spawn(async move { sds::ask_again_and_again(&socket, "web", &them).await });
    while received.lock().unwrap().len() < 200 {
        std::thread::sleep(Duration::from_millis(20));
    }
    server.stop();
    runtime.block_on(asking).unwrap();
    let log = ledger::only_log(&server.data());
    let kept = server.scratch().join("kept.checkpoint");
    std::fs::copy(log.join("checkpoint"), &kept).unwrap();
    let size = ledger::size(&log);
    assert!(size > 300, "more than a tile: {size}");
    (server, size, kept)
}

/// What the server says of its ledger when it is started and refuses.
fn refused(server: &Chancery) -> Said {
    server.run(&["up"]).expect(1).expect_words(&["the ledger is damaged", "chancery ledger recover"])
}

fn flip(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

fn plan(server: &Chancery, more: &[&str]) -> Value {
    server.run(&[&["ledger", "recover", "--output", "json"], more].concat()).expect(0).json()
}

/// The only journal segment that was begun.
fn journal(server: &Chancery) -> PathBuf {
    let mut segments: Vec<PathBuf> = std::fs::read_dir(server.data().join("ledger/journal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| std::fs::read(path).unwrap().starts_with(b"CHNCRYJ1"))
        .collect();
    segments.sort();
    segments.pop().unwrap()
}

/// Afterwards: it starts, issues, says so on record, and verifies.
fn expect_sound(server: &mut Chancery, older: Option<&Path>) {
    server.start();
    let id = server.scratch().join("after");
    server.run(&[
        "fetch",
        "--once",
        "--identity",
        "spiffe://example.org/ns/shop/sa/web",
        "--dir",
        id.to_str().unwrap(),
    ]);
    let records = server.records_of("ledger.recover", 1);
    assert_eq!(records.last().unwrap()["reason"], "operator", "{records:?}");
    assert!(server.stop().success());
    let mut verify = vec!["audit", "verify"];
    verify.extend(older.map(|_| "--older"));
    verify.extend(older.map(|path| path.to_str().unwrap()));
    server.run(&verify).expect(0);
}

#[test]
fn a_journal_that_is_damaged_or_lost_costs_nothing_that_tiles_hold() {
    let _alone = alone();
    for lost in [false, true] {
        let (mut server, size, kept) = stopped();
        if lost {
            std::fs::remove_dir_all(server.data().join("ledger/journal")).unwrap();
        } else {
            flip(&journal(&server), 3 * 4096 + 100);
        }
        refused(&server);
        let before = plan(&server, &[]);
        assert_eq!(before["done"], false);
        assert_eq!((&before["logs"][0]["whole"], &before["logs"][0]["lost"]), (&size.into(), &0.into()), "{before}");
        refused(&server);
        let done = plan(&server, &["--yes"]);
        assert!(Path::new(done["before"].as_str().unwrap()).join("lock").exists(), "{done}");
        assert_eq!(done["successor"], Value::Null);
        expect_sound(&mut server, Some(&kept));
        assert!(ledger::size(&ledger::only_log(&server.data())) > size, "the same log goes on");
    }
}

#[test]
fn a_damaged_tile_comes_back_from_any_backup() {
    let _alone = alone();
    let (mut server, size, kept) = stopped();
    let backup = server.scratch().join("backup");
    let log = ledger::only_log(&server.data());
    let tile = log.join("tile/entries/000");
    let copied = backup.join(log.file_name().unwrap()).join("tile/entries/000");
    std::fs::create_dir_all(copied.parent().unwrap()).unwrap();
    std::fs::copy(&tile, &copied).unwrap();
    // Nor does the journal have it: a recovery before begins a new one.
    plan(&server, &["--yes"]);
    flip(&tile, 5_000);
    std::fs::remove_dir_all(server.data().join("ledger/journal")).unwrap();
    refused(&server);
    let alone = plan(&server, &[]);
    assert!(alone["logs"][0]["whole"].as_u64().unwrap() < 256, "{alone}");
    let helped = plan(&server, &["--from", backup.to_str().unwrap(), "--yes"]);
    assert_eq!(helped["logs"][0]["lost"], 0, "{helped}");
    assert!(helped["logs"][0]["whole"].as_u64().unwrap() > size, "{helped}");
    expect_sound(&mut server, Some(&kept));
}

#[test]
fn records_that_are_lost_are_said_and_no_log_signs_two_histories() {
    let _alone = alone();
    let (mut server, size, kept) = stopped();
    let log = ledger::only_log(&server.data());
    plan(&server, &["--yes"]);
    flip(&log.join("tile/entries/000"), 5_000);
    std::fs::remove_dir_all(server.data().join("ledger/journal")).unwrap();
    refused(&server);
    let said = server.run(&["ledger", "recover"]).expect(0);
    for words in ["records are lost", "--from DIR", "goes on: no log signs two histories", "--yes"] {
        assert!(said.out.contains(words), "{said:?}");
    }
    let done = plan(&server, &["--yes"]);
    let whole = done["logs"][0]["whole"].as_u64().unwrap();
    assert!(whole > 0 && whole < 256, "{done}");
    let name = log.file_name().unwrap().to_str().unwrap();
    assert_eq!(done["successor"], format!("{name}-2"));
    expect_sound(&mut server, None);
    let logs = ledger::logs(&server.data());
    assert_eq!((logs.len(), ledger::size(&logs[0])), (2, whole));
    let first: Value = serde_json::from_slice(&ledger::leaves(&logs[1])[0]).unwrap();
    assert_eq!(first["action"], "ledger.recover");
    assert!(first["change"]["count"].as_u64().unwrap() >= size - whole, "{first}");
    let named = first["snapshot"]["predecessor"].as_str().unwrap();
    let kept = std::fs::read_to_string(kept).unwrap();
    assert_eq!(named.lines().next(), kept.lines().next(), "the record names the checkpoint that was published");
    // Whoever holds that checkpoint is told that history was cut, not that all is well.
    let older = server.scratch().join("published.checkpoint");
    std::fs::write(&older, named).unwrap();
    server.run(&["audit", "verify", "--older", older.to_str().unwrap()]).expect(5);
}

#[test]
fn a_running_server_is_not_recovered() {
    let server = Chancery::up();
    server.run(&["ledger", "recover", "--yes"]).expect(1).expect_words(&["in use by another chancery"]);
    let nowhere = server.scratch().join("nowhere");
    std::fs::create_dir(&nowhere).unwrap();
    let said = crate::harness::chancery::run(["ledger", "recover", "--data-dir", nowhere.to_str().unwrap()]);
    said.expect(1).expect_words(&["not a data directory"]);
    server.run(&["ledger", "recover", "--from", "/nowhere"]).expect(2).expect_words(&["is no directory"]);
}
