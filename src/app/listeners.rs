//! Everything that a server listens on: bound together before anybody is served, served together.

use std::path::Path;
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tonic_health::server::HealthReporter;
use tracing::warn;

use super::addresses::{self, Addresses, SdsAddress, SdsTcpAddress};
use super::own;
use super::sockets::{self, SocketError};
use super::state::State;
use crate::api::{sds, tls};
use crate::config::Settings;
use crate::feed::Feed;
use crate::policy::ADMIN_SOCKET;

/// Listeners that hold their places.
pub(super) struct Listeners {
    sds: Vec<(String, UnixListener)>,
    ports: Vec<(String, TcpListener)>,
    admin: UnixListener,
    admin_port: Option<TcpListener>,
    http: Option<TcpListener>,
}

/// Callers on a port, as their handshakes end.
pub(super) type Callers = mpsc::Receiver<tls::Connection>;

impl Listeners {
    /// Binds all of them, and says where they really are.
    pub(super) async fn bind(settings: &Settings) -> Result<(Self, Addresses), SocketError> {
        let (mut sds, mut sds_addresses) = (Vec::new(), Vec::new());
        for socket in &settings.sds.listen {
            let path = socket.path.as_path();
            sds.push((socket.name.clone(), sockets::unix(path, socket.mode)?));
            sds_addresses.push(SdsAddress { name: socket.name.clone(), path: path.to_owned() });
        }
        let (mut ports, mut sds_tcp) = (Vec::new(), Vec::new());
        for port in &settings.sds.tcp {
            let listener = sockets::tcp(port.address).await?;
            let address = listener.local_addr().unwrap_or(port.address);
            sds_tcp.push(SdsTcpAddress { name: port.name.clone(), address });
            ports.push((port.name.clone(), listener));
        }
        let admin = sockets::unix(settings.admin.path.as_path(), settings.admin.mode)?;
        let admin_port = match settings.admin.listen {
            Some(address) => Some(sockets::tcp(address).await?),
            None => None,
        };
        let http = match &settings.http {
            Some(http) => Some(sockets::tcp(http.listen).await?),
            None => None,
        };
        let local = |listener: &Option<TcpListener>| listener.as_ref().and_then(|bound| bound.local_addr().ok());
        let addresses = Addresses {
            schema: addresses::SCHEMA,
            pid: std::process::id(),
            trust_domain: settings.trust_domain.clone(),
            http: local(&http),
            admin: settings.admin.path.as_path().to_owned(),
            admin_tcp: local(&admin_port),
            sds: sds_addresses,
            sds_tcp,
        };
        Ok((Self { sds, ports, admin, admin_port, http }, addresses))
    }

    /// Serves SDS on every socket and port, and accepts callers of the admin port. The server gets a certificate of its
    /// own only where there is a port.
    pub(super) async fn serve(
        self,
        state: &State,
        settings: &Settings,
        (feed, health): (&Feed, &HealthReporter),
    ) -> (UnixListener, Option<Callers>, Option<TcpListener>) {
        let context = sds::SdsContext {
            feed: feed.clone(),
            tasks: state.tasks.clone(),
            limits: Arc::new(settings.limits.sds.clone()),
            health: health.clone(),
        };
        for (name, listener) in self.sds {
            sds::serve(listener, &name, context.clone());
        }
        let mut remote = None;
        if let Some(acceptor) = own::acceptor(state, settings).await {
            for (name, listener) in self.ports {
                let callers = tls::incoming(listener, &name, acceptor.clone());
                sds::serve_callers(callers, &name, context.clone());
            }
            // Named as the socket is: one name for rules, wherever operators come from.
            remote = self.admin_port.map(|listener| tls::incoming(listener, ADMIN_SOCKET, acceptor));
        }
        (self.admin, remote, self.http)
    }
}

/// Removes what was bound. A socket that stays is harmless: the next start replaces it.
pub(super) fn remove_sockets(settings: &Settings) {
    for socket in settings.sds.listen.iter().map(|socket| &socket.path).chain([&settings.admin.path]) {
        remove_socket(socket.as_path());
    }
}

fn remove_socket(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        warn!(path = %path.display(), %error, "a socket could not be removed");
    }
}
