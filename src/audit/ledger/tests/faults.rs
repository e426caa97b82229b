//! Every operation on the disk fails once, in each way it can fail; whatever was acknowledged is there afterwards.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::audit::ledger::disk::{DiskFile, Identity};

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// An error, and nothing happened.
    Failed,
    /// An error, and it happened all the same.
    Happened,
    /// No space left, and nothing happened.
    Full,
}

/// A real disk on which the operation number `at` fails, and on which space can run out for good.
#[derive(Debug)]
struct FaultyDisk {
    real: RealDisk,
    plan: Arc<Plan>,
}

#[derive(Debug)]
struct Plan {
    done: AtomicU64,
    at: u64,
    fault: Fault,
    hit: AtomicBool,
    full: AtomicBool,
}

impl Plan {
    fn new(at: u64, fault: Fault) -> Arc<Self> {
        let (hit, full) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { done: AtomicU64::new(0), at, fault, hit, full })
    }

    fn run<T>(&self, takes_space: bool, operation: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if takes_space && self.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        // Only what takes space can say that there is none.
        if self.done.fetch_add(1, Ordering::SeqCst) != self.at || (self.fault == Fault::Full && !takes_space) {
            return operation();
        }
        self.hit.store(true, Ordering::SeqCst);
        match self.fault {
            Fault::Failed => Err(io::Error::other("planned")),
            Fault::Happened => operation().and(Err(io::Error::other("planned, but it happened"))),
            Fault::Full => Err(io::ErrorKind::StorageFull.into()),
        }
    }
}

impl Disk for FaultyDisk {
    fn make_dirs(&self, path: &Path) -> io::Result<()> {
        self.plan.run(true, || self.real.make_dirs(path))
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.plan.run(false, || self.real.list(path))
    }
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        self.plan.run(false, || self.real.read(path))
    }
    fn put(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.plan.run(true, || self.real.put(path, bytes))
    }

    fn put_unread(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.plan.run(true, || self.real.put_unread(path, bytes))
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.plan.run(false, || self.real.sync_file(path))
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.plan.run(false, || self.real.sync_dir(path))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.plan.run(false, || self.real.rename(from, to))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.plan.run(false, || self.real.remove(path))
    }
    fn allocate(&self, path: &Path, length: u64, content: &[u8], zeroed: bool) -> io::Result<()> {
        self.plan.run(true, || self.real.allocate(path, length, content, zeroed))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let plan = Arc::clone(&self.plan);
        self.plan.run(false, || Ok(Box::new(FaultyFile { real: self.real.open(path)?, plan }) as Box<dyn DiskFile>))
    }
    fn identity(&self, path: &Path) -> io::Result<Identity> {
        self.plan.run(false, || self.real.identity(path))
    }
}

struct FaultyFile {
    real: Box<dyn DiskFile>,
    plan: Arc<Plan>,
}

impl DiskFile for FaultyFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.plan.run(false, || self.real.write_at(bytes, offset)).inspect_err(|_| {
            // A failed write may have written a part.
            if self.plan.fault == Fault::Failed {
                self.real.write_at(&bytes[..bytes.len() / 2], offset).unwrap();
            }
        })
    }
    fn sync(&self) -> io::Result<()> {
        self.plan.run(false, || self.real.sync())
    }
    fn identity(&self) -> io::Result<Identity> {
        self.plan.run(false, || self.real.identity())
    }
}

/// One life: opens, appends, closes; collects what was acknowledged. Errors end it, as they would a server.
async fn live(bench: &mut Bench, disk: Arc<dyn Disk>, known: &mut Vec<(Position, Event)>) -> Result<(), LedgerError> {
    let opened = bench.open_on(disk).await;
    let (ledger, _) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            bench.gone().await;
            return Err(error);
        }
    };
    let mut outcome = Ok(());
    for n in 0..4 {
        // Large enough that segments change and are recycled.
        let event = bench.event(&"x".repeat(60_000 + n));
        match ledger.append(event.clone()).await {
            Ok(position) => known.push((position, event)),
            Err(error) => outcome = Err(error),
        }
    }
    let closed = ledger.close().await;
    bench.kill(ledger).await;
    outcome.and(closed)
}

async fn check(fault: Fault) {
    let mut at = 0;
    loop {
        let mut bench = Bench::new();
        let mut known = Vec::new();
        let plan = Plan::new(at, fault);
        let disk = || Arc::new(FaultyDisk { real: RealDisk, plan: Arc::clone(&plan) });
        // The first life and the second are faulty, so that creating and reopening are both hit.
        let first = live(&mut bench, disk(), &mut known).await;
        let second = live(&mut bench, disk(), &mut known).await;
        let hit = plan.hit.load(Ordering::SeqCst);
        if !hit && plan.done.load(Ordering::SeqCst) < at {
            assert!(first.is_ok() && second.is_ok());
            return;
        }
        live(&mut bench, Arc::new(RealDisk), &mut known)
            .await
            .unwrap_or_else(|error| panic!("{fault:?} {at}: {error}"));
        let report = audit(bench.path());
        assert_eq!(report.logs.len(), 1);
        let (ledger, _) = bench.open().await.unwrap();
        for (position, event) in &known {
            let record = ledger.reader().record(position).unwrap();
            assert_eq!(record, event.to_leaf().unwrap(), "{fault:?} at operation {at}");
        }
        bench.kill(ledger).await;
        at += 1;
    }
}

#[tokio::test]
async fn an_operation_that_failed_loses_nothing_acknowledged() {
    check(Fault::Failed).await;
}

#[tokio::test]
async fn an_operation_that_failed_but_happened_loses_nothing_acknowledged() {
    check(Fault::Happened).await;
}

#[tokio::test]
async fn an_operation_without_space_loses_nothing_acknowledged() {
    check(Fault::Full).await;
}

#[tokio::test]
async fn a_failed_sync_is_never_tried_again() {
    let mut bench = Bench::new();
    let plan = Plan::new(u64::MAX, Fault::Failed);
    let disk = Arc::new(FaultyDisk { real: RealDisk, plan: Arc::clone(&plan) });
    let (ledger, report) = bench.open_on(disk).await.unwrap();
    published(&ledger, report.size).await;
    std::fs::remove_file(only_segment(&bench)).unwrap();
    for _ in 0..2 {
        assert!(matches!(ledger.append(bench.event("x")).await, Err(LedgerError::Failed { .. })));
    }
    assert!(matches!(*ledger.health().borrow(), Health::Failed { .. }));
    bench.kill(ledger).await;
}

fn only_segment(bench: &Bench) -> PathBuf {
    bench.path().join("journal").join(format!("{:016x}.seg", 1))
}

#[tokio::test]
async fn a_full_disk_takes_revocations_and_recovers() {
    let mut bench = Bench::new();
    let plan = Plan::new(u64::MAX, Fault::Full);
    let disk = Arc::new(FaultyDisk { real: RealDisk, plan: Arc::clone(&plan) });
    let (ledger, report) = bench.open_on(disk).await.unwrap();
    published(&ledger, report.size).await;
    // The view thread has made the reserve by the time it has published and looked for work again.
    let reserve = bench.path().join("journal/reserve-0.seg");
    while !reserve.exists() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    plan.full.store(true, Ordering::SeqCst);
    let large = "x".repeat(60_000);
    let full = loop {
        match ledger.append(bench.event(&large)).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(full, LedgerError::Full { .. }), "{full}");
    assert!(matches!(*ledger.health().borrow(), Health::Full { .. }));
    let mut revoke = bench.event(&large);
    revoke.action = Action::CertificateRevoke;
    let mut position = ledger.append(revoke.clone()).await.unwrap();
    while reserve.exists() {
        position = ledger.append(revoke.clone()).await.unwrap();
    }
    assert!(matches!(ledger.append(bench.event("small")).await, Err(LedgerError::Full { .. })));
    assert_eq!(ledger.reader().record(&position).unwrap(), revoke.to_leaf().unwrap());

    plan.full.store(false, Ordering::SeqCst);
    ledger.health().wait_for(|health| *health == Health::Ok).await.unwrap();
    ledger.append(bench.event("again")).await.unwrap();
    assert!(reserve.exists());
    ledger.close().await.unwrap();
    bench.kill(ledger).await;
    audit(bench.path());
}
