//! Small HTTP pieces on the loopback: one blocking request, and a service that echoes what it is asked.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::Request;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::runtime::Runtime;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: http::HeaderMap,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON: {error}: {}", self.text()))
    }

    /// A header's value, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// One GET on a connection of its own, or why there was no answer.
pub fn try_get(address: SocketAddr, path: &str) -> Result<Answer, String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let request = http::Request::get(path).body(Full::default()).map_err(|error| error.to_string())?;
        tokio::time::timeout(Duration::from_secs(10), once(address, request)).await.map_err(|_| "no answer in 10 s")?
    })
}

/// One GET that must be answered.
pub fn get(address: SocketAddr, path: &str) -> Answer {
    try_get(address, path).unwrap_or_else(|error| panic!("GET http://{address}{path}: {error}"))
}

/// One request on a connection of its own, answered whatever with.
pub fn send(address: SocketAddr, request: http::Request<Full<Bytes>>) -> Answer {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(once(address, request)).unwrap_or_else(|error| panic!("http://{address}: {error}"))
}

async fn once(address: SocketAddr, mut request: http::Request<Full<Bytes>>) -> Result<Answer, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let stream = tokio::net::TcpStream::connect(address).await.map_err(|error| text(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| text(&error))?;
    let connection = tokio::spawn(connection);
    let host = http::HeaderValue::from_str(&address.to_string()).map_err(|error| text(&error))?;
    request.headers_mut().insert(http::header::HOST, host);
    let answer = sender.send_request(request).await.map_err(|error| text(&error))?;
    let (head, body) = answer.into_parts();
    let body = body.collect().await.map_err(|error| text(&error))?.to_bytes().to_vec();
    connection.abort();
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
}

/// A service that answers each request with its method and path.
pub struct Echo {
    address: SocketAddr,
    _runtime: Runtime,
}

impl Echo {
    /// Starts it on a free port.
    pub fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let service = axum::Router::new()
            .fallback(|request: Request| async move { format!("{} {}\n", request.method(), request.uri().path()) });
        runtime.spawn(async move { axum::serve(listener, service).await });
        Self { address, _runtime: runtime }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
