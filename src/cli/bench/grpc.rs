//! Over gRPC on the Unix socket, as Envoy asks: a stream for each certificate, acknowledged, and the stream let go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::try_join_all;

use super::report::Report;
use super::server::{Place, Server};
use super::{Bed, Failure, middle_and_tail};
use crate::cli::fetch::client::Subscription;
use crate::clock::Clock;

/// What is asked for: a certificate, or the roots, which cost what the way there and back costs by itself.
const CERTIFICATE: &str = "default";
const ROOTS: &str = "ROOTCA";

/// Clients of the row that shows the way alone, at most.
const ON_THE_WAY: usize = 64;

/// One client: a connection, and a new stream for each secret until told to stop.
async fn client(
    server: &Server,
    secret: &'static str,
    clock: &Clock,
    stop: Arc<AtomicBool>,
    lane: usize,
) -> Result<Vec<Duration>, Failure> {
    let channel = server.connect().await?;
    let (clock, node) = (clock.clone(), format!("bench-{lane}"));
    let asking = async move {
        let mut times = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let begin = clock.monotonic();
            let mut stream = Subscription::open(channel.clone(), &node, secret, "").await?;
            let offer = stream.next().await?;
            times.push(clock.monotonic() - begin);
            stream.accept(&offer).await;
        }
        Ok::<_, tonic::Status>(times)
    };
    // A task of its own, so that clients use every core.
    Ok(tokio::task::JoinSet::from_iter([asking]).join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
}

/// Secrets served in one run of `span`, the server's CPU meanwhile, and how long each took.
async fn load(
    server: &Server,
    secret: &'static str,
    clients: usize,
    clock: &Clock,
    span: Duration,
) -> Result<(Duration, Vec<Duration>), Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let used = server.cpu()?;
    let asking = try_join_all((0..clients).map(|lane| client(server, secret, clock, Arc::clone(&stop), lane)));
    let end = async {
        clock.sleep(span).await;
        stop.store(true, Ordering::Relaxed);
    };
    let (times, ()) = tokio::join!(asking, end);
    Ok((server.cpu()? - used, times?.concat()))
}

pub(super) async fn measure(bed: &Bed<'_>, report: &mut Report) -> Result<(), Failure> {
    let (clock, span) = (&bed.machine.clock, bed.sizes.span);
    let place = Place::new(bed.scratch.sub("grpc"))?;
    let (server, _) = place.child(clock).await?;
    load(&server, CERTIFICATE, 4, clock, span / 4).await?;
    let clients = bed.sizes.clients.iter().copied().filter(|clients| *clients <= ON_THE_WAY).max().unwrap_or(1);
    let (used, times) = load(&server, ROOTS, clients, clock, span).await?;
    let each = used.as_secs_f64() * 1e6 / times.len().max(1) as f64;
    let what = format!("SDS, {clients} clients, roots: nothing made, nothing recorded; server's CPU each");
    report.row(what, each, "µs", None, "");
    let raw = bed.machine.key_and_sign.as_secs_f64() * 1e6;
    for clients in bed.sizes.clients {
        let (used, mut times) = load(&server, CERTIFICATE, *clients, clock, span).await?;
        let rate = times.len() as f64 / span.as_secs_f64();
        let each = used.as_secs_f64() * 1e6 / times.len().max(1) as f64;
        let (middle, tail) = middle_and_tail(&mut times);
        let goal = if *clients == 64 { "≥ 15,000" } else { "" };
        report.row(format!("SDS, {clients} clients: issues a second"), rate, "1/s", None, goal);
        report.row(format!("SDS, {clients} clients: server's CPU each"), each, "µs", Some(raw), "≤ 2.0 × raw at 64");
        let goal = if *clients == 1 { "≤ 450 µs" } else { "" };
        let limit = (*clients == 1).then_some(bed.machine.fdatasync_us);
        report.row(format!("SDS, {clients} clients: request to certificate, p50"), middle, "µs", limit, goal);
        report.row(format!("SDS, {clients} clients: request to certificate, p99"), tail, "µs", None, "");
    }
    server.stop(clock).await
}
