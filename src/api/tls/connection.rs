//! One accepted connection, which ends by itself when its caller may not stay.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use tracing::info;

use crate::ca::standing::{Barred, Standing};
use crate::caller::{Caller, Evidence};
use crate::clock::Clock;

const SECOND: Duration = Duration::from_secs(1);

/// Why a connection was ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// Its certificate was revoked, or its identity denied.
    #[error("{0}")]
    Barred(Barred),
    /// Its certificate has ended.
    #[error("the client certificate has ended")]
    Expired,
}

/// Resolves when the connection of `caller` must end.
pub(super) async fn ended(caller: Caller, standing: Standing, clock: Clock) -> Ended {
    // Subscribed before the first look, so that no change is missed.
    let mut changes = standing.changes();
    let not_after = match caller.evidence() {
        Evidence::Client(client) => Some(client.not_after),
        Evidence::UnixPeer(_) | Evidence::Own => None,
    };
    let expired = async {
        match not_after {
            // The last second of its validity is a whole one (RFC 5280 section 4.1.2.5), at a handshake too.
            Some(not_after) => clock.sleep_until(not_after + SECOND).await,
            None => std::future::pending().await,
        }
    };
    let barred = async {
        loop {
            if let Some(barred) = standing.barred(&caller) {
                return barred;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        barred = barred => Ended::Barred(barred),
        () = expired => Ended::Expired,
    }
}

/// A TLS connection with its caller. Reading from it fails as soon as the caller may not stay, so that whatever serves
/// it ends without knowing why.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    caller: Caller,
    ended: Option<BoxFuture<'static, Ended>>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({})", self.caller.label())
    }
}

impl Connection {
    pub(super) fn new(
        stream: TlsStream<TcpStream>,
        caller: Caller,
        ended: impl Future<Output = Ended> + Send + 'static,
    ) -> Self {
        Self { stream, caller, ended: Some(Box::pin(ended)) }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// What a connection that was ended says to whoever reads or writes.
    fn over() -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionAborted, "the caller may not stay")
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let Some(ended) = &mut self.ended else { return Err(Self::over()) };
        let Poll::Ready(why) = ended.as_mut().poll(context) else { return Ok(()) };
        info!(caller = self.caller.label(), %why, "a connection was ended");
        self.ended = None;
        Err(Self::over())
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // HTTP/2 always waits for the next frame, so this is asked, and wakes it, whatever else goes on.
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.ended.is_none() {
            return Poll::Ready(Err(Self::over()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
