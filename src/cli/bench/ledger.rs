//! The ledger alone: durable appends by many at once, and when a signed checkpoint covers them.

use std::time::Duration;

use futures::future::try_join_all;

use super::report::Report;
use super::{Bed, Failure, middle_and_tail};
use crate::audit::event::{Action, Outcome, Recorder};
use crate::audit::ledger::{CheckpointKey, Ledger, LedgerOptions};
use crate::entropy::Entropy;
use crate::tasks::Tasks;

/// Writers at the same time.
const WRITERS: [usize; 3] = [1, 64, 256];

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::failed(error.to_string())
}

pub(super) async fn measure(bed: &Bed<'_>, report: &mut Report) -> Result<(), Failure> {
    let (clock, span) = (&bed.machine.clock, bed.sizes.span);
    let recorder = Recorder::new(Entropy::system());
    let key = CheckpointKey::generate_pkcs8().and_then(|pkcs8| CheckpointKey::from_pkcs8(&pkcs8)).map_err(failed)?;
    let options = LedgerOptions::new(bed.scratch.sub("ledger"), "bench.example", key);
    let tasks = Tasks::new();
    let (ledger, _) = Ledger::open(options, clock.clone(), &recorder, &tasks).await.map_err(failed)?;
    for writers in WRITERS {
        let begin = clock.monotonic();
        let write = || async {
            let (mut covered, mut heads) = (Vec::new(), ledger.heads());
            while clock.monotonic() - begin < span {
                let start = clock.monotonic();
                let event = recorder.event(Action::CertificateIssue, Outcome::Success, clock.now());
                let index = ledger.append(event).await.map_err(failed)?.index;
                heads.wait_for(|heads| heads.size > index).await.map_err(failed)?;
                covered.push(clock.monotonic() - start);
            }
            Ok::<_, Failure>(covered)
        };
        let mut covered = try_join_all((0..writers).map(|_| write())).await?.concat();
        let took = clock.monotonic() - begin;
        let rate = covered.len() as f64 / took.as_secs_f64();
        let (middle, _) = middle_and_tail(&mut covered);
        let one_by_one = (writers == 1).then(|| 1e6 / bed.machine.fdatasync_us);
        report.row(format!("ledger, {writers} writers: records a second, each covered"), rate, "1/s", one_by_one, "");
        let limit = (writers == 1).then_some(bed.machine.fdatasync_us);
        report.row(
            format!("ledger, {writers} writers: record to signed checkpoint, p50"),
            middle,
            "µs",
            limit,
            "≤ 5,000",
        );
    }
    ledger.close().await.map_err(failed)?;
    drop(ledger);
    tasks.drain(Duration::from_secs(10)).await;
    Ok(())
}
