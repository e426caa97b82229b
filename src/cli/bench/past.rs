//! A long past: how soon a server with it is ready, and how fast its ledger is verified.

use super::report::Report;
use super::server::Place;
use super::street::issue_while;
use super::{Bed, Failure, raw};
use crate::audit::verify::{VerifyOptions, verify};

/// Bytes below a directory.
fn bytes_below(directory: &std::path::Path) -> std::io::Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let about = entry.metadata()?;
        sum += if about.is_dir() { bytes_below(&entry.path())? } else { about.len() };
    }
    Ok(sum)
}

pub(super) async fn measure(bed: &Bed<'_>, report: &mut Report) -> Result<(), Failure> {
    let clock = &bed.machine.clock;
    let place = Place::new(bed.scratch.sub("past"))?;
    let bound = place.within().await?;
    // Each certificate has two records: that it was authorised, and that it was signed.
    let certificates = bed.sizes.records / 2;
    issue_while(bound.street(), None, |issued| issued >= certificates).await?;
    bound.close().await;

    let (server, took) = place.child(clock).await?;
    let records = bed.sizes.records;
    report.row(
        format!("start with {records} records, in order ended before"),
        took.as_secs_f64() * 1e3,
        "ms",
        None,
        "< 1,000",
    );
    let memory = server.memory()? as f64 / 1e6;
    report.row(format!("memory after a start with {records} records"), memory, "MB", None, "");
    server.stop(clock).await?;

    let directory = place.data().join("ledger");
    let (begin, used) = (clock.monotonic(), raw::cpu()?);
    let verified = tokio::task::spawn_blocking({
        let directory = directory.clone();
        move || verify(&directory, &VerifyOptions::default(), &mut |_, _| {})
    });
    let verified = verified.await.map_err(|error| Failure::failed(error.to_string()))?;
    let verified = verified.map_err(|error| Failure::failed(error.to_string()))?;
    let (took, used) = (clock.monotonic() - begin, raw::cpu()? - used);
    let entries: u64 = verified.logs.iter().try_fold(0, |sum, log| {
        Ok::<_, std::io::Error>(sum + bytes_below(&directory.join(&log.name).join("tile").join("entries"))?)
    })?;
    let megabytes = entries as f64 / 1e6;
    let rate = megabytes / took.as_secs_f64();
    report.row(
        format!("audit verify of {} records", verified.records),
        rate,
        "MB/s",
        Some(bed.machine.sha256_mb_s),
        "",
    );
    let each = used.as_secs_f64() * 1e6 / verified.records.max(1) as f64;
    report.row("audit verify: CPU each record", each, "µs", None, "");
    Ok(())
}
