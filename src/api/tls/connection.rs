//! One accepted connection, which ends by itself when its caller may not stay.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use tracing::info;

use crate::ca::slot::Authorities;
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
    /// Its certificate was signed by an authority that is not in use any more.
    #[error("the authority of the client certificate is not in use any more")]
    Withdrawn,
    /// Its certificate has ended.
    #[error("the client certificate has ended")]
    Expired,
}

/// Resolves when the connection of `caller` must end. The handshake looked at the same things, but some time ago.
pub(super) async fn ended(
    caller: Caller,
    standing: Standing,
    mut authorities: watch::Receiver<Arc<Authorities>>,
    clock: Clock,
) -> Ended {
    // Subscribed before the first look, so that no change is missed.
    let mut changes = standing.changes();
    let (not_after, issuer) = match caller.evidence() {
        Evidence::Client(client) => (Some(client.not_after), hex::decode(&client.issuer_key_id).ok()),
        Evidence::UnixPeer(_) | Evidence::Own => (None, None),
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
    let withdrawn = async {
        let Some(issuer) = issuer else { return std::future::pending().await };
        while authorities.borrow_and_update().may_publish(&issuer) {
            if authorities.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        barred = barred => Ended::Barred(barred),
        () = withdrawn => Ended::Withdrawn,
        () = expired => Ended::Expired,
    }
}

/// A TLS connection with its caller. Reading and writing fail as soon as the caller may not stay, so that whatever serves
/// it ends without knowing why. `S` is another stream in tests only.
pub struct Connection<S = TlsStream<TcpStream>> {
    stream: S,
    caller: Caller,
    ended: Option<BoxFuture<'static, Ended>>,
}

impl<S> std::fmt::Debug for Connection<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({})", self.caller.label())
    }
}

impl<S> Connection<S> {
    pub(super) fn new(stream: S, caller: Caller, ended: impl Future<Output = Ended> + Send + 'static) -> Self {
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

    /// Asked by every read and write: a server that waits for a client to read does not read itself, so that neither
    /// alone would be woken by the end.
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

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Closing needs the client to read, and one that may not stay is not waited for.
        self.check(context)?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;
    use tokio::io::AsyncWriteExt;
    use tokio::sync::oneshot;

    use super::*;
    use crate::caller::ClientCertificate;
    use crate::identity::SpiffeId;

    fn client() -> Caller {
        let identity = SpiffeId::parse("spiffe://example.org/node/a").unwrap();
        let not_after = datetime!(2026-11-24 12:00 UTC);
        let certificate = ClientCertificate::supposed(identity, "mesh");
        Caller::attested(Evidence::Client(ClientCertificate { not_after, issuer_key_id: "0a".into(), ..certificate }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_cut_off_while_it_is_written_to() {
        let (ours, _theirs) = tokio::io::duplex(8);
        let (end, ended) = oneshot::channel();
        let ended = async { ended.await.unwrap_or(Ended::Expired) };
        let mut connection = Connection::new(ours, client(), ended);
        let writing = crate::tasks::Tasks::new().spawn("test", async move { connection.write_all(&[0; 64]).await });
        tokio::time::sleep(SECOND).await;
        assert!(!writing.is_finished(), "it waits for the client");
        end.send(Ended::Barred(Barred::Revoked)).unwrap();
        let written = tokio::time::timeout(SECOND, writing).await.expect("an end").unwrap();
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn a_connection_ends_when_its_authority_is_withdrawn() {
        let (_sender, none) = watch::channel(Arc::new(Authorities::default()));
        let (clock, _time) = Clock::manual(datetime!(2026-11-23 12:00 UTC));
        let ended = ended(client(), Standing::default(), none, clock);
        assert_eq!(tokio::time::timeout(SECOND, ended).await, Ok(Ended::Withdrawn));
    }
}
