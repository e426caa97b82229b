//! The directories before judges: the crates `tlog_tiles` and `signed_note`, and our own verifier.

use std::path::PathBuf;

use signed_note::{Note, StandardVerifier, VerifierList};
use tlog_tiles::{HashReader, Tile, TileHashReader, TileReader};

use super::*;
use crate::audit::verify::{VerifyError, VerifyOptions, verify};

struct Files(PathBuf);

impl TileReader for Files {
    fn height(&self) -> u8 {
        8
    }
    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, tlog_tiles::Error> {
        // The crate's paths name the height as well; the specification's do not.
        let path = |tile: &Tile| self.0.join(tile.path().replacen("tile/8/", "tile/", 1));
        Ok(tiles.iter().map(|tile| std::fs::read(path(tile)).unwrap()).collect())
    }
    fn save_tiles(&self, _: &[Tile], _: &[Vec<u8>]) {}
}

/// The independent verdict on a log directory.
fn judge(log: &Path, expected: u64) {
    let vkey = std::fs::read_to_string(log.join("vkey")).unwrap();
    let note = Note::from_bytes(&std::fs::read(log.join("checkpoint")).unwrap()).unwrap();
    let verifiers = VerifierList::new(vec![Box::new(StandardVerifier::new(vkey.trim()).unwrap())]);
    assert_eq!(note.verify(&verifiers).unwrap().0.len(), 1);
    let checkpoint = tlog_tiles::Checkpoint::from_bytes(note.text()).unwrap();
    assert_eq!(checkpoint.size(), expected);
    if expected == 0 {
        assert_eq!(*checkpoint.hash(), tlog_tiles::EMPTY_HASH);
        return;
    }
    let files = Files(log.to_owned());
    let hashes = TileHashReader::new(checkpoint.size(), *checkpoint.hash(), &files);
    assert_eq!(tlog_tiles::tree_hash(checkpoint.size(), &hashes).unwrap(), *checkpoint.hash());
    for index in [0, expected / 2, expected - 1] {
        let stored = hashes.read_hashes(&[tlog_tiles::stored_hash_index(0, index)]).unwrap();
        let tile = index / 256;
        let width = (expected - tile * 256).min(256) as u16;
        let name = TileName { kind: TileKind::Entries, index: tile, width };
        let bundle = std::fs::read(log.join(name.path())).unwrap();
        let records = tiles::split_entries(&bundle).unwrap();
        assert_eq!(records.len(), usize::from(width));
        assert_eq!(stored, [tlog_tiles::record_hash(records[(index % 256) as usize])]);
    }
}

#[tokio::test]
async fn logs_of_telling_sizes_pass_every_judge() {
    for size in [0, 1, 255, 256, 257, 70_000] {
        let mut bench = Bench::new();
        bench.lifecycle = false;
        let (ledger, report) = bench.open().await.unwrap();
        assert_eq!(report.size, 0);
        fill(&bench, &ledger, size).await;
        published(&ledger, size as u64).await;
        ledger.heads().wait_for(|heads| !heads.checkpoint.is_empty()).await.unwrap();
        let log = bench.path().join("ca-2026");
        judge(&log, size as u64);
        assert_eq!(audit(bench.path()).records, size as u64);
        ledger.close().await.unwrap();
        bench.kill(ledger).await;
        if size >= 256 {
            assert!(!log.join("tile/0/000.p").exists(), "partial tiles stay behind a full one");
        }
    }
}

#[tokio::test]
async fn one_flipped_byte_anywhere_is_found() {
    let mut bench = Bench::new();
    let (ledger, _) = bench.open().await.unwrap();
    fill(&bench, &ledger, 300).await;
    ledger.append(bench.event("x")).await.unwrap();
    ledger.close().await.unwrap();
    bench.kill(ledger).await;
    audit(bench.path());
    let mut files = vec![bench.path().join("ca-2026")];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        let verdict = verify(bench.path(), &VerifyOptions::default(), &mut |_, _| {});
        assert!(verdict.is_err(), "a flipped byte in {} was not found", path.display());
        std::fs::write(&path, &good).unwrap();
    }
    audit(bench.path());
    std::fs::remove_file(bench.path().join("ca-2026/checkpoint")).unwrap();
    let verdict = verify(bench.path(), &VerifyOptions::default(), &mut |_, _| {});
    assert!(matches!(verdict, Err(VerifyError::Checkpoint { .. })), "a missing checkpoint was not found");
}

#[tokio::test]
async fn a_log_continues_its_older_checkpoint_and_a_fork_does_not() {
    let mut bench = Bench::new();
    let (ledger, _) = bench.open().await.unwrap();
    ledger.close().await.unwrap();
    bench.kill(ledger).await;
    let older = std::fs::read_to_string(bench.path().join("ca-2026/checkpoint")).unwrap();
    let (ledger, _) = bench.open().await.unwrap();
    fill(&bench, &ledger, 10).await;
    ledger.close().await.unwrap();
    bench.kill(ledger).await;
    let check = |older: &str| {
        let options = VerifyOptions { older: Some(older.to_owned()), ..VerifyOptions::default() };
        verify(bench.path(), &options, &mut |_, _| {})
    };
    assert_eq!(check(&older).unwrap().consistent_with, Some(3));

    let key = CheckpointKey::from_pkcs8(&bench.key).unwrap();
    let origin = "example.org/ledger/ca-2026".to_owned();
    let fork = |size| key.sign(&Checkpoint { origin: origin.clone(), size, root: [7; 32] });
    for size in [1, 3, 14, 1000] {
        assert!(matches!(check(&fork(size)), Err(VerifyError::History { .. })), "{size}");
    }
    let stranger = CheckpointKey::from_pkcs8(&CheckpointKey::generate_pkcs8().unwrap()).unwrap();
    let unsigned = stranger.sign(&Checkpoint { origin: origin.clone(), size: 1, root: [7; 32] });
    assert!(matches!(check(&unsigned), Err(VerifyError::Checkpoint { .. })));
    let options = VerifyOptions { keys: vec![stranger.verifier(&origin)], ..VerifyOptions::default() };
    assert!(verify(bench.path(), &options, &mut |_, _| {}).is_err(), "a key kept elsewhere decides");
}

async fn verdict_of_two_signatures() -> Result<(), crate::audit::verify::Claim> {
    use crate::audit::event::CertificateFacts;
    let mut bench = Bench::new();
    bench.lifecycle = false;
    let (ledger, _) = bench.open().await.unwrap();
    let facts = CertificateFacts { serial: "01".into(), tbs_sha256: "aa".into(), ..Default::default() };
    let events = [Action::CertificateIssue, Action::CertificateSigned, Action::CertificateSigned].map(|action| {
        let mut event = bench.event("n");
        event.action = action;
        event.certificate = Some(facts.clone());
        event.refers_to = (action == Action::CertificateSigned).then(|| "example.org/ledger/ca-2026#0".to_owned());
        event
    });
    ledger.append_batch(&events).await.unwrap();
    published(&ledger, 3).await;
    bench.kill(ledger).await;
    match verify(bench.path(), &VerifyOptions::default(), &mut |_, _| {}) {
        Ok(_) => Ok(()),
        Err(VerifyError::Claim { claim, .. }) => Err(claim),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_serial_twice_or_a_signature_without_its_record_is_found() {
    use crate::audit::event::CertificateFacts;
    use crate::audit::verify::Claim;
    let facts =
        |serial: &str| CertificateFacts { serial: serial.into(), tbs_sha256: "aa".into(), ..Default::default() };
    let verdict = async |second: Action, serial: &str, tbs: &str, refers_to: Option<&str>| {
        let mut bench = Bench::new();
        bench.lifecycle = false;
        let (ledger, _) = bench.open().await.unwrap();
        let mut issue = bench.event("n");
        issue.certificate = Some(facts("01"));
        let mut event = bench.event("n");
        event.action = second;
        event.certificate = Some(CertificateFacts { tbs_sha256: tbs.into(), ..facts(serial) });
        event.refers_to = refers_to.map(str::to_owned);
        ledger.append_batch(&[issue, event]).await.unwrap();
        published(&ledger, 2).await;
        bench.kill(ledger).await;
        match verify(bench.path(), &VerifyOptions::default(), &mut |_, _| {}) {
            Ok(report) => Ok((report.certificates, report.signed)),
            Err(VerifyError::Claim { claim, .. }) => Err(claim),
            Err(other) => panic!("{other}"),
        }
    };
    let first = Some("example.org/ledger/ca-2026#0");
    assert_eq!(verdict(Action::CertificateSigned, "01", "aa", first).await, Ok((1, 1)));
    assert_eq!(verdict(Action::CertificateRenew, "02", "aa", None).await, Ok((2, 0)));
    assert_eq!(verdict(Action::CertificateRenew, "01", "aa", None).await, Err(Claim::SerialTwice("01".into())));
    let twice = verdict_of_two_signatures().await;
    assert_eq!(twice, Err(Claim::SignedTwice("example.org/ledger/ca-2026#0".to_owned())));
    for (serial, tbs, refers_to) in [("02", "aa", first), ("01", "bb", first), ("01", "aa", None)] {
        let claim = verdict(Action::CertificateSigned, serial, tbs, refers_to).await.unwrap_err();
        assert!(matches!(claim, Claim::NotAuthorised(_)));
    }
}
