//! Open, record, read, close, and what a kill leaves.

use super::*;

#[tokio::test]
async fn a_ledger_begins_with_its_key_and_its_start_and_goes_on_where_it_was() {
    let mut bench = Bench::new();
    let (ledger, report) = bench.open().await.unwrap();
    assert!(report.created && report.recovered.is_none());
    assert_eq!((report.size, report.origin.as_str()), (2, "example.org/ledger/ca-2026"));
    let position = ledger.append(bench.event("one")).await.unwrap();
    assert_eq!(position.to_string(), "example.org/ledger/ca-2026#2");
    ledger.close().await.unwrap();
    assert!(matches!(ledger.append(bench.event("late")).await, Err(LedgerError::Closed)));
    bench.kill(ledger).await;

    let (ledger, report) = bench.open().await.unwrap();
    assert!(!report.created && report.recovered.is_none(), "{report:?}");
    assert_eq!(report.size, 5);
    let records = ledger.reader().read("ca-2026", 0..100).unwrap();
    let actions: Vec<Action> = records.iter().map(|(_, leaf)| Event::from_leaf(leaf).unwrap().action).collect();
    let expected =
        [Action::LedgerKey, Action::LedgerStart, Action::CertificateIssue, Action::LedgerStop, Action::LedgerStart];
    assert_eq!(actions, expected);
    bench.kill(ledger).await;
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let mut bench = Bench::new();
    let mut known = Vec::new();
    for round in 0..6 {
        let (ledger, report) = bench.open().await.unwrap();
        assert_eq!(report.recovered.is_some(), round > 0);
        for n in 0..40 {
            let event = bench.event(&format!("{round}-{n}"));
            known.push((ledger.append(event.clone()).await.unwrap(), event));
        }
        for (position, event) in &known {
            assert_eq!(ledger.reader().record(position).unwrap(), event.to_leaf().unwrap());
        }
        bench.kill(ledger).await;
    }
}

#[tokio::test]
async fn a_second_writer_is_kept_out() {
    let mut bench = Bench::new();
    let (ledger, _) = bench.open().await.unwrap();
    let said = match Ledger::open(bench.options(), bench.clock.clone(), &bench.recorder, &Tasks::new()).await {
        Err(error @ LedgerError::Locked { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(said.contains("another chancery"), "{said}");
    bench.kill(ledger).await;
}

#[tokio::test]
async fn a_note_rides_along_or_goes_by_itself() {
    let mut bench = Bench::new();
    let (ledger, _) = bench.open().await.unwrap();
    ledger.note(&bench.event("rides"));
    assert_eq!(ledger.append(bench.event("awaited")).await.unwrap().index, 3);
    ledger.note(&bench.event("alone"));
    while ledger.reader().logs()[0].size < 5 {
        bench.hands.advance(Duration::from_millis(11));
        tokio::task::yield_now().await;
    }
    let records = ledger.reader().read("ca-2026", 2..9).unwrap();
    let nodes: Vec<_> = records.iter().map(|(_, leaf)| Event::from_leaf(leaf).unwrap().node.unwrap()).collect();
    assert_eq!(nodes, ["rides", "awaited", "alone"]);
    bench.kill(ledger).await;
}

#[tokio::test]
async fn another_key_or_trust_domain_is_refused() {
    let mut bench = Bench::new();
    let (ledger, _) = bench.open().await.unwrap();
    ledger.close().await.unwrap();
    bench.kill(ledger).await;
    let open = async |options| Ledger::open(options, bench.clock.clone(), &bench.recorder, &Tasks::new()).await;
    let other_key = CheckpointKey::from_pkcs8(&CheckpointKey::generate_pkcs8().unwrap()).unwrap();
    let refused = open(LedgerOptions { key: other_key, ..bench.options() }).await;
    assert!(matches!(refused, Err(LedgerError::OtherKey { .. })), "{refused:?}");
    let refused = open(LedgerOptions { trust_domain: "other.org".into(), ..bench.options() }).await;
    assert!(matches!(refused, Err(LedgerError::OtherOrigin { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_removed_directory_is_noticed_at_the_next_commit() {
    for (what, replace) in [("journal", false), ("journal", true), ("ca-2026", false), ("ca-2026", true)] {
        let mut bench = Bench::new();
        let (ledger, report) = bench.open().await.unwrap();
        published(&ledger, report.size).await;
        let aside = bench.path().join("aside");
        std::fs::rename(bench.path().join(what), &aside).unwrap();
        if replace {
            std::fs::create_dir(bench.path().join(what)).unwrap();
            for entry in std::fs::read_dir(&aside).unwrap().filter(|_| what == "journal") {
                let name = entry.unwrap().file_name();
                std::fs::copy(aside.join(&name), bench.path().join(what).join(&name)).unwrap();
            }
        }
        let refused = ledger.append(bench.event("lost")).await;
        assert!(matches!(refused, Err(LedgerError::Failed { .. })), "{refused:?}");
        assert!(matches!(*ledger.health().borrow(), Health::Failed { .. }));
        bench.kill(ledger).await;
    }
}

#[tokio::test]
async fn a_receipt_of_every_record_proves_it() {
    let mut bench = Bench::new();
    let (ledger, report) = bench.open().await.unwrap();
    fill(&bench, &ledger, 300).await;
    let vkey = VerifierKey::parse(&report.vkey).unwrap();
    for index in [0, 1, 255, 256, 301] {
        let position = Position { log: report.origin.as_str().into(), index };
        let receipt = ledger.reader().proof(&position).await.unwrap();
        let record = ledger.reader().record(&position).unwrap();
        let checkpoint = crate::audit::receipt::verify_receipt(&receipt, &record, &vkey).unwrap();
        assert!(checkpoint.size > index);
    }
    bench.kill(ledger).await;
}
