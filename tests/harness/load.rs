//! A bounded load on one loopback address: a few connections that ask again and again, and a count of what failed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::runtime::Runtime;

/// Requests of one run at most, so that a forgotten load ends by itself.
const MOST_REQUESTS: u64 = 500_000;

/// Connections asking at the same time.
const CONNECTIONS: usize = 4;

/// A pause after each request, so that the load leaves the machine to what is measured.
const PAUSE: Duration = Duration::from_millis(4);

/// A running load.
pub struct Load {
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicU64,
    failed: AtomicU64,
    first_failures: Mutex<Vec<String>>,
}

/// What a load came to.
#[derive(Debug)]
pub struct Outcome {
    /// Requests answered with 200.
    pub answered: u64,
    /// All others.
    pub failed: u64,
    /// The first few failures.
    pub failures: Vec<String>,
}

impl Load {
    /// Starts asking `GET /load` of `address`.
    pub fn start(address: SocketAddr) -> Self {
        let shared = Arc::new(Shared::default());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        for _ in 0..CONNECTIONS {
            runtime.spawn(ask(address, Arc::clone(&shared)));
        }
        Self { shared, runtime: Some(runtime) }
    }

    /// Requests answered so far.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Waits until `more` requests were answered from now on.
    pub fn wait_for(&self, more: u64) {
        let goal = self.answered() + more;
        super::eventually("the load goes on", super::SOON, || (self.answered() >= goal).then_some(()));
    }

    /// Ends it and tells what it came to.
    pub fn stop(mut self) -> Outcome {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
        Outcome {
            answered: self.shared.answered.load(Ordering::Relaxed),
            failed: self.shared.failed.load(Ordering::Relaxed),
            failures: self.shared.first_failures.lock().expect("no holder panics").clone(),
        }
    }
}

impl Outcome {
    /// Fails unless at least `least` requests were answered and none failed.
    pub fn expect_none_failed(&self, least: u64) {
        let Self { answered, failed, failures } = self;
        assert!(*failed == 0, "{failed} failed of {}: {failures:?}", answered + failed);
        assert!(*answered >= least, "only {answered} were answered, {least} expected");
    }
}

async fn ask(address: SocketAddr, shared: Arc<Shared>) {
    let mut connection = None;
    while !shared.stop.load(Ordering::Relaxed) {
        if shared.answered.load(Ordering::Relaxed) + shared.failed.load(Ordering::Relaxed) >= MOST_REQUESTS {
            return;
        }
        let asked = tokio::time::timeout(Duration::from_secs(10), once(address, &mut connection)).await;
        match asked.unwrap_or_else(|_| Err("no answer in 10 s".to_owned())) {
            Ok(()) => {
                shared.answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(failure) => {
                connection = None;
                shared.failed.fetch_add(1, Ordering::Relaxed);
                let mut failures = shared.first_failures.lock().expect("no holder panics");
                if failures.len() < 5 {
                    failures.push(failure);
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn once(address: SocketAddr, connection: &mut Option<SendRequest<Empty<Bytes>>>) -> Result<(), String> {
    let text = |error: hyper::Error| format!("{error} ({error:?})");
    if connection.as_ref().is_none_or(SendRequest::is_closed) {
        let stream = tokio::net::TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let (sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
        tokio::spawn(driver);
        *connection = Some(sender);
    }
    let sender = connection.as_mut().ok_or("no connection")?;
    sender.ready().await.map_err(text)?;
    let request =
        http::Request::get("/load").header("host", "load").body(Empty::new()).map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await.map_err(text)?;
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(text)?.to_bytes();
    if status == 200 { Ok(()) } else { Err(format!("{status}: {}", String::from_utf8_lossy(&body))) }
}
