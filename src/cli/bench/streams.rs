//! Idle proxies: the memory that each stream takes, and a new bundle pushed to all of them.

use std::time::Duration;

use futures::future::try_join_all;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::report::Report;
use super::server::{Place, Server};
use super::{Bed, Failure};
use crate::cli::fetch::client::Subscription;
use crate::clock::Clock;

/// Envoy's first request is about this long: it names every extension it has.
const NODE_BYTES: usize = 61_000;

/// Connections that are opened at the same moment.
const AT_ONCE: usize = 64;

/// The secret with the roots, by Istio's name.
const ROOTS: &str = "ROOTCA";

/// How long a push may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A stream that takes what comes and acknowledges it, until the run ends.
async fn idle(mut stream: Subscription, updates: mpsc::Sender<Duration>, clock: Clock) {
    while let Ok(offer) = stream.next().await {
        let at = clock.monotonic();
        stream.accept(&offer).await;
        // The receiver is gone when the run ends.
        if updates.send(at).await.is_err() {
            return;
        }
    }
}

/// Opens a stream of each connection for `name`; what they are pushed is told to `updates`.
async fn open(
    channels: &[Channel],
    name: &'static str,
    updates: &mpsc::Sender<Duration>,
    clock: &Clock,
    streams: &mut JoinSet<()>,
) -> Result<(), Failure> {
    let node = "n".repeat(NODE_BYTES);
    for some in channels.chunks(AT_ONCE) {
        let opening = some.iter().map(|channel| Subscription::open(channel.clone(), &node, name, ""));
        for stream in try_join_all(opening).await? {
            streams.spawn(idle(stream, updates.clone(), clock.clone()));
        }
    }
    Ok(())
}

/// Waits for `count` updates; when the last one came.
async fn last(updates: &mut mpsc::Receiver<Duration>, count: usize, clock: &Clock) -> Result<Duration, Failure> {
    let mut last = Duration::ZERO;
    for _ in 0..count {
        let update = tokio::select! {
            update = updates.recv() => update,
            () = clock.sleep(PATIENCE) => None,
        };
        last = last.max(update.ok_or_else(|| Failure::failed("a stream was not served"))?);
    }
    Ok(last)
}

/// Waits until the server rests, so that its memory and CPU are those of what it did.
async fn rest(server: &Server, clock: &Clock) -> Result<(), Failure> {
    let mut before = server.cpu()?;
    for _ in 0..100 {
        clock.sleep(Duration::from_millis(300)).await;
        let now = server.cpu()?;
        if now - before <= Duration::from_millis(10) {
            return Ok(());
        }
        before = now;
    }
    Ok(())
}

pub(super) async fn measure(bed: &Bed<'_>, report: &mut Report) -> Result<(), Failure> {
    let clock = &bed.machine.clock;
    let place = Place::new(bed.scratch.sub("streams"))?;
    let (server, _) = place.child(clock).await?;
    let connections = bed.sizes.connections;
    let (told, mut updates) = mpsc::channel(4 * connections);
    let mut streams = JoinSet::new();
    rest(&server, clock).await?;
    let before = server.memory()?;
    let mut channels = Vec::with_capacity(connections);
    for _ in 0..connections {
        channels.push(server.connect().await?);
    }
    open(&channels, "default", &told, clock, &mut streams).await?;
    open(&channels, ROOTS, &told, clock, &mut streams).await?;
    last(&mut updates, 2 * connections, clock).await?;
    rest(&server, clock).await?;
    let each = (server.memory()?.saturating_sub(before)) as f64 / (2 * connections) as f64 / 1e3;
    let what = format!("memory for each of {} idle streams on {connections} connections", 2 * connections);
    report.row(what, each, "kB", None, "≤ 25");

    // As many again for the roots: then a revocation makes a new bundle for all of them.
    open(&channels, ROOTS, &told, clock, &mut streams).await?;
    last(&mut updates, connections, clock).await?;
    rest(&server, clock).await?;
    // Somebody's certificate that no stream holds.
    let issued = server.command(&["cert", "issue", "--dir", &place.beside("id")]).await?;
    let serial = issued.get("serial").and_then(serde_json::Value::as_str).unwrap_or_default();
    let arguments = ["cert", "revoke", "--serial", serial, "--yes"];
    rest(&server, clock).await?;
    let (begin, used) = (clock.monotonic(), server.cpu()?);
    let (revoked, last) = tokio::join!(server.command(&arguments), last(&mut updates, 2 * connections, clock));
    revoked?;
    let took = last?.saturating_sub(begin).as_secs_f64() * 1e3;
    rest(&server, clock).await?;
    let used = (server.cpu()? - used).as_secs_f64() * 1e6 / (2 * connections) as f64;
    let what = format!("new bundle to {} streams, from the operator's command to the last", 2 * connections);
    report.row(what, took, "ms", None, "< 500");
    report.row("new bundle: server's CPU for each push, with its acknowledgement", used, "µs", None, "≤ 25");
    streams.shutdown().await;
    server.stop(clock).await
}
