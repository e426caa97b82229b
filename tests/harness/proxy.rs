//! A way to an HTTP service that a test can break while it is used, in the clear or with TLS.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

/// What happens to each new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It reaches the service.
    Open,
    /// The first request is read and answered with this status and body.
    Answer(u16, &'static str),
    /// The first request is read and never answered.
    Silent,
    /// The first request is read, and the connection ends.
    Closed,
}

/// The way; gone when dropped.
pub struct Proxy {
    address: SocketAddr,
    way: Arc<Mutex<Way>>,
    _runtime: Runtime,
}

impl Proxy {
    /// To `service`, on a free port; with TLS where an acceptor is given.
    pub fn to(service: SocketAddr, tls: Option<TlsAcceptor>) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let way = Arc::new(Mutex::new(Way::Open));
        let current = Arc::clone(&way);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (way, tls) = (*current.lock().expect("no holder panics"), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => go(stream, service, way).await,
                        // A client that does not take the certificate is the client's business.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                go(stream, service, way).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, way, _runtime: runtime }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From the next connection on.
    pub fn set(&self, way: Way) {
        *self.way.lock().expect("no holder panics") = way;
    }
}

async fn go(mut stream: impl AsyncRead + AsyncWrite + Unpin, service: SocketAddr, way: Way) {
    if way == Way::Open {
        let Ok(mut there) = TcpStream::connect(service).await else { return };
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut there).await;
        return;
    }
    let mut request = [0; 16_384];
    let _ = stream.read(&mut request).await;
    match way {
        Way::Answer(status, body) => {
            let head = format!("HTTP/1.1 {status} Said\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(body.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
        Way::Silent => tokio::time::sleep(Duration::from_secs(60)).await,
        Way::Open | Way::Closed => {}
    }
}
