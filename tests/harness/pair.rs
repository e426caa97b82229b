//! Two real Envoys in mutual TLS, and one modestly used service behind them: what most suites with Envoy need. The
//! configurations are those that `chancery envoy bootstrap` writes.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::chancery::{Chancery, Options};
use super::envoy::Envoy;
use super::http::{Echo, try_get};
use super::policy::{self, Rule};
use super::{SOON, eventually, free_port};

/// The identity of the client's Envoy.
pub const WEB: &str = "spiffe://example.org/ns/shop/sa/web";

/// The identity of the server's Envoy.
pub const API: &str = "spiffe://example.org/ns/shop/sa/api";

/// load → client Envoy → mutual TLS → server Envoy → echo, each Envoy with an SDS socket and an identity of its own.
pub struct Pair {
    /// Takes plain requests.
    pub client: Envoy,
    /// Takes mutual TLS.
    pub server: Envoy,
    /// Where both get their certificates.
    pub chancery: Chancery,
    _echo: Echo,
}

/// How a pair is made.
#[derive(Clone, Copy)]
pub struct Setup {
    /// How long certificates live.
    pub lifetime: &'static str,
    /// More arguments for `envoy bootstrap`.
    pub arguments: &'static [&'static str],
    /// Worker threads of each Envoy.
    pub workers: u32,
    /// What becomes of the server's configuration before it is started.
    pub server: fn(Value) -> Value,
}

impl Default for Setup {
    fn default() -> Self {
        Self { lifetime: "24h", arguments: &[], workers: 1, server: std::convert::identity }
    }
}

/// A chancery with one SDS socket for each Envoy.
pub fn chancery(lifetime: &'static str) -> Chancery {
    Chancery::with(Options {
        arguments: vec!["--sds-socket".into(), "web=web.sock".into(), "--sds-socket".into(), "api=api.sock".into()],
        policy: Some(policy::text(&[Rule::on("web", WEB, lifetime), Rule::on("api", API, lifetime)])),
        ..Options::default()
    })
}

/// What `chancery envoy bootstrap` writes.
pub fn bootstrap(
    chancery: &Chancery,
    role: &str,
    socket: &str,
    listen: u16,
    upstream: SocketAddr,
    peer: &str,
    more: &[&str],
) -> Value {
    let socket = chancery.socket(socket).display().to_string();
    let (listen, upstream) = (format!("127.0.0.1:{listen}"), upstream.to_string());
    let log = chancery.scratch().join(format!("{role}.access.log")).display().to_string();
    let arguments = [
        "envoy",
        "bootstrap",
        "--role",
        role,
        "--sds-socket",
        &socket,
        "--listen",
        &listen,
        "--upstream",
        &upstream,
        "--peer",
        peer,
        "--node",
        role,
        "--access-log",
        &log,
        "--output",
        "json",
    ];
    chancery.run(&[&arguments, more].concat()).expect(0).json()
}

/// Lets each connection between the Envoys carry a few requests only, so that handshakes go on all the time.
pub fn few_requests_per_connection(mut configuration: Value) -> Value {
    for cluster in configuration["static_resources"]["clusters"].as_array_mut().unwrap() {
        if cluster["transport_socket"]["name"] == "envoy.transport_sockets.tls" {
            cluster["max_requests_per_connection"] = json!(5);
        }
    }
    configuration
}

impl Pair {
    /// Both with one worker.
    pub fn start(envoy: &Path, lifetime: &'static str) -> Self {
        Self::with(envoy, Setup { lifetime, ..Setup::default() })
    }

    /// As `setup` says.
    pub fn with(envoy: &Path, setup: Setup) -> Self {
        Self::of(envoy, chancery(setup.lifetime), setup)
    }

    /// With certificates from `chancery`, which has the sockets `web` and `api`.
    pub fn of(envoy: &Path, chancery: Chancery, setup: Setup) -> Self {
        let echo = Echo::start();
        let port = free_port();
        let configuration = bootstrap(&chancery, "server", "api", port, echo.address(), WEB, setup.arguments);
        let configuration = (setup.server)(configuration);
        let server = Envoy::with_workers(envoy, "server", &configuration, chancery.scratch(), setup.workers);
        let to = SocketAddr::from(([127, 0, 0, 1], port));
        let configuration = bootstrap(&chancery, "client", "web", free_port(), to, API, setup.arguments);
        let configuration = few_requests_per_connection(configuration);
        let client = Envoy::with_workers(envoy, "client", &configuration, chancery.scratch(), setup.workers);
        Self { client, server, chancery, _echo: echo }
    }

    /// One request the whole way, as soon as both Envoys hold what they need.
    pub fn wait_until_it_works(&self) {
        let to = self.client.listener();
        eventually("a request goes the whole way", SOON, || {
            try_get(to, "/first").ok().filter(|answer| answer.status == 200)
        });
    }

    /// Fails if an Envoy ever refused a push.
    pub fn expect_nothing_refused(&self) {
        for envoy in [&self.client, &self.server] {
            assert_eq!(envoy.stat("update_rejected"), 0, "{}", envoy.output());
        }
    }
}
