//! What a crash may leave, cut at every byte; and what no crash leaves, which is refused.

use std::path::PathBuf;

use super::*;
use crate::audit::ledger::frame::{BLOCK, decode};

/// A ledger killed after records of which the last `awaited` may be lost with the tail: (its files, first kept size).
async fn killed(bench: &mut Bench, records: usize) -> PathBuf {
    let (ledger, report) = bench.open().await.unwrap();
    published(&ledger, report.size).await;
    for n in 0..records {
        ledger.append(bench.event(&n.to_string())).await.unwrap();
    }
    published(&ledger, report.size + records as u64).await;
    bench.kill(ledger).await;
    bench.path().join("journal").join(format!("{:016x}.seg", 1))
}

/// Takes the views of the last commits away, as a power cut would.
fn forget_views(bench: &Bench) {
    let log = bench.path().join("ca-2026");
    // They may not have been written before the kill.
    let _ = (std::fs::remove_dir_all(log.join("tile")), std::fs::remove_file(log.join("checkpoint")));
}

/// Where the frames of a segment end.
fn ends(segment: &[u8]) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut at = 0;
    while let Ok(frame) = decode(&segment[at..]) {
        at += frame.length;
        ends.push(at);
    }
    ends
}

#[tokio::test]
async fn a_frame_cut_at_any_byte_is_dropped_and_all_before_it_kept() {
    let mut bench = Bench::new();
    bench.lifecycle = false;
    let path = killed(&mut bench, 3).await;
    forget_views(&bench);
    let segment = std::fs::read(&path).unwrap();
    let ends = ends(&segment);
    let [.., before, last] = ends.as_slice() else { panic!("{ends:?}") };
    let whole = segment[..*last].iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for cut in *before..=whole {
        // The rest of the segment as the preallocated zeroes, or as an earlier use left it.
        let mut torn = segment.clone();
        torn[cut..].fill(if cut % 2 == 0 { 0 } else { 0xa5 });
        std::fs::write(&path, &torn).unwrap();
        let (ledger, report) = bench.open().await.unwrap();
        assert_eq!(report.size, if cut == whole { 3 } else { 2 }, "cut at {cut}");
        bench.kill(ledger).await;
        forget_views(&bench);
        std::fs::write(&path, &segment).unwrap();
    }
}

#[tokio::test]
async fn a_flipped_bit_in_a_committed_frame_is_damage() {
    let mut bench = Bench::new();
    bench.lifecycle = false;
    let path = killed(&mut bench, 3).await;
    let segment = std::fs::read(&path).unwrap();
    // With frames behind it, and as the last one below a known checkpoint.
    for at in [BLOCK + 100, BLOCK, 20, 3 * BLOCK + 100] {
        let mut flipped = segment.clone();
        flipped[at] ^= 4;
        std::fs::write(&path, &flipped).unwrap();
        let refused = bench.open().await;
        assert!(matches!(refused, Err(LedgerError::Corrupt { .. })), "byte {at}: {refused:?}");
        bench.gone().await;
    }
    std::fs::write(&path, &segment).unwrap();
    let (ledger, _) = bench.open().await.unwrap();
    bench.kill(ledger).await;
}

#[tokio::test]
async fn an_old_copy_of_the_journal_or_a_lost_one_is_refused() {
    let mut bench = Bench::new();
    let path = killed(&mut bench, 3).await;
    let old = std::fs::read(&path).unwrap();
    let (ledger, report) = bench.open().await.unwrap();
    published(&ledger, report.size).await;
    bench.kill(ledger).await;
    let new = std::fs::read(&path).unwrap();
    std::fs::write(&path, &old).unwrap();
    let refused = bench.open().await;
    let behind = matches!(refused, Err(LedgerError::Corrupt { damage: Damage::BehindCheckpoint { .. }, .. }));
    assert!(behind, "{refused:?}");
    bench.gone().await;
    std::fs::remove_dir_all(bench.path().join("journal")).unwrap();
    let refused = bench.open().await;
    assert!(matches!(refused, Err(LedgerError::Corrupt { damage: Damage::NoJournal, .. })), "{refused:?}");
    bench.gone().await;
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, &new).unwrap();
    let (ledger, _) = bench.open().await.unwrap();
    ledger.close().await.unwrap();
    bench.kill(ledger).await;
    audit(bench.path());
}

#[tokio::test]
async fn segments_are_reused_and_the_past_is_not_read_again() {
    let mut bench = Bench::new();
    for _ in 0..3 {
        let (ledger, _) = bench.open().await.unwrap();
        fill(&bench, &ledger, 4_000).await;
        bench.kill(ledger).await;
    }
    let (ledger, report) = bench.open().await.unwrap();
    assert!(report.size > 12_000);
    let replayed = report.recovered.unwrap().records;
    assert!(replayed < 12_000, "{replayed}");
    ledger.close().await.unwrap();
    bench.kill(ledger).await;
    let segments = std::fs::read_dir(bench.path().join("journal")).unwrap().count();
    assert!(segments < 12, "{segments} segments stay");
    assert_eq!(audit(bench.path()).records, report.size + 1);
}

#[tokio::test]
async fn a_new_year_opens_a_log_that_names_the_end_of_the_old_one() {
    let mut bench = Bench::new();
    let (ledger, _) = bench.open().await.unwrap();
    let carried = vec![bench.recorder.event(Action::LedgerSnapshot, Outcome::Success, bench.clock.now())];
    ledger.set_snapshot_source(Arc::new(move || carried.clone()));
    ledger.append(bench.event("old")).await.unwrap();
    bench.hands.advance(Duration::from_secs(60 * 86_400));
    let position = ledger.append(bench.event("new")).await.unwrap();
    assert_eq!(position.to_string(), "example.org/ledger/ca-2027#2");
    let mut follower = crate::audit::follow::Follower::open(ledger.reader(), None).unwrap();
    let mut actions = Vec::new();
    while actions.len() < 7 {
        actions.extend(follower.next_batch().await.unwrap().into_iter().map(|(_, event)| event.action));
    }
    let expected = [
        Action::LedgerKey,
        Action::LedgerStart,
        Action::CertificateIssue,
        Action::LedgerRotate,
        Action::LedgerSnapshot,
        Action::LedgerSnapshot,
        Action::CertificateIssue,
    ];
    assert_eq!(actions, expected);
    // A kill, then a clock that ran back: the year stays.
    bench.kill(ledger).await;
    bench.hands.set(time::macros::datetime!(2026-12-01 00:00 UTC));
    let (ledger, report) = bench.open().await.unwrap();
    assert_eq!(report.log, "ca-2027");
    ledger.close().await.unwrap();
    bench.kill(ledger).await;
    let (ledger, _) = bench.open().await.unwrap();
    ledger.close().await.unwrap();
    bench.kill(ledger).await;
    let report = audit(bench.path());
    assert_eq!(report.logs.iter().map(|log| log.name.as_str()).collect::<Vec<_>>(), ["ca-2026", "ca-2027"]);
    assert!(report.absent.is_empty());
    // The old year moved to an archive: the new one says what is absent.
    std::fs::rename(bench.path().join("ca-2026"), bench.path().join("ARCHIVE")).unwrap();
    assert_eq!(audit(bench.path()).absent, ["example.org/ledger/ca-2026"]);
    let (ledger, _) = bench.open().await.unwrap();
    ledger.close().await.unwrap();
    bench.kill(ledger).await;
    // The journal still held it all, so its views came back.
    assert!(audit(bench.path()).absent.is_empty());
}

/// Power loss leaves files that were renamed into place and never synced with no content.
#[tokio::test]
async fn partial_tiles_that_power_loss_emptied_are_written_again() {
    let mut bench = Bench::new();
    let (ledger, report) = bench.open().await.unwrap();
    fill(&bench, &ledger, 300).await;
    // Each of these has a partial tile of its own.
    for n in 1..=8 {
        published(&ledger, report.size + 299 + n).await;
        ledger.append(bench.event("one")).await.unwrap();
    }
    published(&ledger, report.size + 308).await;
    bench.kill(ledger).await;
    let log = bench.path().join("ca-2026").join("tile");
    let mut emptied = 0;
    for kind in ["0", "entries"] {
        let partials = log.join(kind).join("001.p");
        let mut widths: Vec<u16> = std::fs::read_dir(&partials)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
            .collect();
        widths.sort_unstable();
        // All but the widest, which is what a sync of the directory's newest would have kept.
        for width in widths.split_last().unwrap().1 {
            std::fs::write(partials.join(width.to_string()), if width % 2 == 0 { &b""[..] } else { &b"cut"[..] })
                .unwrap();
            emptied += 1;
        }
    }
    assert!(emptied > 0, "the test has something to mend");
    let (ledger, report) = bench.open().await.unwrap();
    published(&ledger, report.size).await;
    ledger.close().await.unwrap();
    bench.kill(ledger).await;
    assert!(audit(bench.path()).records >= report.size);
}

#[tokio::test]
async fn a_narrow_tile_torn_after_a_clean_end_is_mended() {
    let mut bench = Bench::new();
    let (ledger, report) = bench.open().await.unwrap();
    published(&ledger, report.size).await;
    ledger.append(bench.event("wider")).await.unwrap();
    ledger.close().await.unwrap();
    bench.kill(ledger).await;
    // Only the newest of each tile is synced, so the power may go after the end and take this one.
    let narrow = bench.path().join("ca-2026/tile/0/000.p").join(report.size.to_string());
    std::fs::write(narrow, b"").unwrap();
    let (ledger, report) = bench.open().await.unwrap();
    assert_eq!(report.recovered, None);
    ledger.close().await.unwrap();
    bench.kill(ledger).await;
    audit(bench.path());
}

#[tokio::test]
async fn a_narrow_tile_of_last_year_is_mended_too() {
    let mut bench = Bench::new();
    let (ledger, report) = bench.open().await.unwrap();
    ledger.set_snapshot_source(Arc::new(Vec::new));
    published(&ledger, report.size).await;
    ledger.append(bench.event("wider")).await.unwrap();
    published(&ledger, report.size + 1).await;
    bench.hands.advance(Duration::from_secs(60 * 86_400));
    assert!(ledger.append(bench.event("new")).await.unwrap().log.ends_with("ca-2027"));
    ledger.close().await.unwrap();
    bench.kill(ledger).await;
    let narrow = bench.path().join("ca-2026/tile/entries/000.p").join(report.size.to_string());
    assert!(narrow.exists(), "the test has something to tear");
    std::fs::write(narrow, b"").unwrap();
    let (ledger, _) = bench.open().await.unwrap();
    ledger.close().await.unwrap();
    bench.kill(ledger).await;
    audit(bench.path());
}
