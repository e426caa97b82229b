//! A long CRL: building, linting and signing it, its record included.

use std::time::Duration;

use super::report::Report;
use super::server::Place;
use super::{Bed, Failure, middle_and_tail};
use crate::app::Bound;
use crate::audit::event::{Action, Outcome, Recorder};
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::x509::Serial;
use crate::x509::crl::{CrlDraft, CrlEntry, CrlSpec, Reason};

/// CRLs that are made.
const ROUNDS: u64 = 20;

async fn one(
    bound: &Bound,
    clock: &Clock,
    recorder: &Recorder,
    number: u64,
    entries: Vec<CrlEntry>,
) -> Result<usize, Failure> {
    let now = clock.now();
    let authority = bound.street().authorities().borrow().active().ok_or_else(|| Failure::failed("no authority"))?;
    let spec = CrlSpec { number, this_update: now, next_update: now + Duration::from_secs(86_400), entries };
    let draft = CrlDraft::new(authority.issuer(), spec, now).map_err(|error| Failure::failed(error.to_string()))?;
    let mut event = recorder.event(Action::CrlPublish, Outcome::Success, now);
    event.crl = Some(draft.facts().clone());
    let recorded = bound.ledger().record(draft, event).await.map_err(|error| Failure::failed(error.to_string()))?;
    let key = authority.key().ok_or_else(|| Failure::failed("no key"))?;
    let signed = key.sign_crl(recorded, clock).await;
    signed.map(|(crl, _)| crl.der().len()).map_err(|(error, _)| Failure::failed(error.to_string()))
}

pub(super) async fn measure(bed: &Bed<'_>, report: &mut Report) -> Result<(), Failure> {
    let clock = &bed.machine.clock;
    let (entropy, bound) = (Entropy::system(), Place::new(bed.scratch.sub("crl"))?.within().await?);
    let recorder = Recorder::new(entropy.clone());
    let now = clock.now();
    let entry = || CrlEntry { serial: Serial::random(&entropy), revoked_at: now, reason: Reason::KeyCompromise };
    let entries: Vec<CrlEntry> = (0..bed.sizes.revoked).map(|_| entry()).collect();
    let (mut times, mut bytes) = (Vec::new(), 0);
    for number in 1..=ROUNDS {
        let entries = entries.clone();
        let begin = clock.monotonic();
        bytes = one(&bound, clock, &recorder, number + 1, entries).await?;
        times.push(clock.monotonic() - begin);
    }
    let (middle, _) = middle_and_tail(&mut times);
    let hashed = bytes as f64 / bed.machine.sha256_mb_s;
    let what = format!("CRL of {} entries: built, recorded, signed", bed.sizes.revoked);
    report.row(what, middle, "µs", Some(hashed + bed.machine.fdatasync_us), "≤ 10,000");
    report.row(format!("CRL of {} entries: size", bed.sizes.revoked), bytes as f64 / 1e3, "kB", None, "");
    bound.close().await;
    Ok(())
}
