//! Accepts TCP connections, shakes hands beside the accepting, and hands over what became a caller's.
//!
//! Handshakes under way are bounded, and those of one address (of one /64 in IPv6, which one machine has whole) among them, so that clients who never finish keep nobody
//! else out for longer than `handshake_timeout`. A consumer that takes no more connections lets them wait, and in the
//! end the system's queue.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tracing::{debug, warn};

use super::{Acceptor, Connection};

/// How long accepting rests after the system refused a connection (out of descriptors): it would refuse at once again.
const ACCEPT_REST: Duration = Duration::from_millis(200);

/// Attested connections that may wait to be taken.
const WAITING: usize = 16;

/// The attested connections to `listener`, which is called `name`, until the server stops or the receiver is dropped.
pub fn incoming(listener: TcpListener, name: &str, acceptor: Acceptor) -> mpsc::Receiver<Connection> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let tasks = acceptor.parts.tasks.clone();
    let name: Arc<str> = name.into();
    tasks.clone().spawn("tls.accept", async move {
        let stopping = tasks.stopping();
        let room = Arc::new(Semaphore::new(acceptor.parts.limits.max_handshakes));
        let addresses = Arc::new(Addresses::default());
        loop {
            let place = tokio::select! {
                () = stopping.cancelled() => return,
                () = sender.closed() => return,
                place = Arc::clone(&room).acquire_owned() => place,
            };
            // The semaphore is never closed.
            let Ok(place) = place else { return };
            let accepted = tokio::select! {
                () = stopping.cancelled() => return,
                () = sender.closed() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(why) => {
                    warn!(listener = &*name, %why, "a connection could not be accepted; is the limit of open files low?");
                    acceptor.parts.clock.sleep(ACCEPT_REST).await;
                    continue;
                }
            };
            let most = acceptor.parts.limits.max_handshakes_per_address();
            let Some(counted) = addresses.enter(address.ip(), most) else {
                warn!(listener = &*name, %address, most, "an address has too many handshakes under way; closed");
                continue;
            };
            let one = One { acceptor: acceptor.clone(), name: Arc::clone(&name), sender: sender.clone() };
            tasks.spawn("tls.handshake", one.run(stream, address, (place, counted)));
        }
    });
    receiver
}

/// One connection on its way to being a caller's.
struct One {
    acceptor: Acceptor,
    name: Arc<str>,
    sender: mpsc::Sender<Connection>,
}

impl One {
    async fn run(self, stream: TcpStream, address: SocketAddr, held: (OwnedSemaphorePermit, Counted)) {
        // Small messages both ways: waiting to fill a packet would only delay them.
        if let Err(why) = stream.set_nodelay(true) {
            debug!(%address, %why, "TCP_NODELAY could not be set");
        }
        let parts = &self.acceptor.parts;
        let stopping = parts.tasks.stopping();
        let accepted = stopping.run_until_cancelled(self.acceptor.accept(stream, address, &self.name)).await;
        if let Some(Ok(connection)) = accepted
            && self.sender.send_timeout(connection, parts.limits.handshake_timeout).await.is_err()
        {
            warn!(listener = &*self.name, %address, "a connection was not taken in time; closed");
        }
        drop(held);
    }
}

/// The bits of an IPv6 address that tell networks apart; a machine chooses the others as it likes (RFC 4291, 2.5.1).
const NETWORK: u128 = !0 << 64;

/// What is counted as one address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & NETWORK)),
        four @ IpAddr::V4(_) => four,
    }
}

/// How many handshakes of each address are under way.
#[derive(Debug, Default)]
struct Addresses(Mutex<HashMap<IpAddr, usize>>);

impl Addresses {
    fn enter(self: &Arc<Self>, address: IpAddr, most: usize) -> Option<Counted> {
        let address = network(address);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Counted { addresses: Arc::clone(self), address })
    }
}

/// One handshake of an address, while it lasts.
struct Counted {
    addresses: Arc<Addresses>,
    address: IpAddr,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.addresses.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_one_share_however_many_addresses_it_uses() {
        let addresses = Arc::new(Addresses::default());
        let enter = |text: &str| addresses.enter(text.parse().unwrap(), 2);
        let held = [enter("2001:db8::1"), enter("2001:db8::ffff:0:0:1")];
        assert!(held.iter().all(Option::is_some));
        assert!(enter("2001:db8::2").is_none() && enter("2001:db8:0:1::2").is_some());
        let _four = [enter("192.0.2.1"), enter("::ffff:192.0.2.1")];
        assert!(enter("192.0.2.1").is_none() && enter("192.0.2.2").is_some());
        drop(held);
        assert!(enter("2001:db8::2").is_some());
    }
}
