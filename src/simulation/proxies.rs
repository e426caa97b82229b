//! Proxies: each holds a stream, reads or does not, and may be gone at any await.
//!
//! As the edge does, a stream takes what the feed has at any time and keeps the newest of each secret until its proxy
//! reads; and what does not stand any more when it reads is not sent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::server::Server;
use super::told::{BUNDLE, CERTIFICATE, Told};
use super::world::{FIRST_UID, World};
use crate::caller::testing;
use crate::feed::{Session, Update};

/// A stream of a proxy.
pub(super) struct Stream {
    pub(super) reads: watch::Sender<bool>,
    work: JoinHandle<()>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Wherever it stands.
        self.work.abort();
    }
}

/// Opens a stream for `proxy`, which says what it holds.
pub(super) fn connect(world: &World, server: &Server, proxy: u32) {
    let session = server.feed.session(testing::unix(FIRST_UID + proxy, 1000, &[]));
    let (reads, reading) = watch::channel(world.draw(6) != 0);
    // A proxy that was restarted itself holds nothing any more.
    if world.draw(4) == 0 {
        world.told().holds.remove(&proxy);
    }
    let chatty = world.draw(8) == 0;
    let work = server.tasks.spawn("stream", serve(session, reading, proxy, world.share_told(), chatty));
    // The one before is gone first: two streams of one proxy would each have a certificate.
    let mut streams = server.streams.lock().unwrap();
    streams.remove(&proxy);
    streams.insert(proxy, Stream { reads, work });
}

async fn serve(
    mut session: Session,
    mut reading: watch::Receiver<bool>,
    proxy: u32,
    told: Arc<Mutex<Told>>,
    refuses: bool,
) {
    let holds = told.lock().unwrap().holds.get(&proxy).cloned().unwrap_or_default();
    let certificate = holds.certificate.as_ref().map(|(version, _)| version.as_str());
    for (name, version) in [(CERTIFICATE, certificate), (BUNDLE, holds.bundle.as_deref())] {
        if session.subscribe(name, version).await.is_err() {
            return;
        }
    }
    let mut outbox: BTreeMap<Arc<str>, Update> = BTreeMap::new();
    loop {
        tokio::select! {
            biased;
            changed = reading.changed() => if changed.is_err() { return },
            update = session.next() => match update {
                Ok(update) => {
                    outbox.insert(Arc::clone(&update.name), update);
                }
                Err(_) => return,
            },
        }
        if !*reading.borrow() {
            continue;
        }
        for (name, update) in std::mem::take(&mut outbox).into_iter().filter(|(_, update)| update.stands()) {
            if refuses && &*name == BUNDLE {
                session.nacked(&name, &update.payload.version, "it does not like it").await;
            } else {
                told.lock().unwrap().received(proxy, &update);
                session.acked(&name, &update.payload.version);
            }
        }
    }
}
