//! The street in this process: what one certificate costs from an attested caller to the signed chain, its record included.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::try_join_all;
use tokio::net::UnixStream;

use super::report::Report;
use super::server::Place;
use super::{Bed, Failure, raw};
use crate::attest::unix_peer;
use crate::ca::issue::{IssueRequest, KeyRequest, RequestContext, Street};
use crate::caller::Caller;
use crate::clock::Clock;
use crate::policy::Wanted;
use crate::x509::csr;

/// Requests at the same time.
const IN_FLIGHT: usize = 64;

/// The process at the other end of a socket pair: this one.
pub(super) fn caller() -> Result<Caller, Failure> {
    let (ours, _theirs) = UnixStream::pair()?;
    unix_peer::attest(&ours, "sds").map_err(|error| Failure::failed(error.to_string()))
}

/// A certificate signing request that names nothing: the identity comes from policy.
fn request() -> Result<Vec<u8>, Failure> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let made = rcgen::KeyPair::generate().and_then(|key| params.serialize_request(&key));
    made.map(|csr| csr.der().to_vec()).map_err(|error| Failure::failed(error.to_string()))
}

/// Issues until `enough` says so; how many.
pub(super) async fn issue_while(
    street: &Street,
    csr: Option<&[u8]>,
    enough: impl Fn(u64) -> bool + Sync,
) -> Result<u64, Failure> {
    let (caller, issued) = (caller()?, AtomicU64::new(0));
    let one = |lane: usize| {
        let (street, caller, issued, enough) = (street.clone(), caller.clone(), &issued, &enough);
        async move {
            while !enough(issued.load(Ordering::Relaxed)) {
                let key = match csr {
                    Some(der) => {
                        let csr = csr::parse(der).map_err(|error| Failure::failed(error.to_string()))?;
                        KeyRequest::Csr(Box::new(csr))
                    }
                    None => KeyRequest::ServerMade,
                };
                let context =
                    RequestContext { secret_name: Some(format!("bench-{lane}")), ..RequestContext::default() };
                let request = IssueRequest { wanted: Wanted::Default, key, follows: None, context };
                let answer = street.issue(&caller, request).await;
                answer.map_err(|error| Failure::failed(error.to_string()))?;
                issued.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, Failure>(())
        }
    };
    try_join_all((0..IN_FLIGHT).map(one)).await?;
    Ok(issued.into_inner())
}

/// CPU microseconds of this process for each certificate.
async fn cpu_each(street: &Street, csr: Option<&[u8]>, clock: &Clock, span: Duration) -> Result<f64, Failure> {
    let (begin, used) = (clock.monotonic(), raw::cpu()?);
    let issued = issue_while(street, csr, |_| clock.monotonic() - begin >= span).await?;
    Ok((raw::cpu()? - used).as_secs_f64() * 1e6 / issued.max(1) as f64)
}

pub(super) async fn measure(bed: &Bed<'_>, report: &mut Report) -> Result<(), Failure> {
    let bound = Place::new(bed.scratch.sub("street"))?.within().await?;
    let street = Arc::new(bound.street().clone());
    let clock = &bed.machine.clock;
    // The first ones warm the allocator and the index.
    cpu_each(&street, None, clock, bed.sizes.span / 4).await?;
    let limit = bed.machine.key_and_sign.as_secs_f64() * 1e6;
    let each = cpu_each(&street, None, clock, bed.sizes.span).await?;
    report.row("street, key made here: CPU each", each, "µs", Some(limit), "≤ 1.5 × raw");
    let limit = bed.machine.verify_and_sign.as_secs_f64() * 1e6;
    let each = cpu_each(&street, Some(&request()?), clock, bed.sizes.span).await?;
    report.row("street, CSR: CPU each", each, "µs", Some(limit), "≤ 1.5 × raw");
    bound.close().await;
    Ok(())
}
