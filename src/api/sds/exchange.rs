//! xDS in front of one session: state of the world or delta, for secrets alone or on an aggregated stream.
//!
//! What a client answers is told by the nonce, which is unique within the stream. A nonce that is unknown, answered
//! before or overtaken by a newer version of the same secret says nothing (xDS protocol, "ACK and NACK"). What the first
//! request of a stream says is held from before is how a proxy keeps its certificate over our restart; later requests
//! may not say so any more. Secrets are never taken away (`removed_resources`): Envoy would not let go of them.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use http_body::Body;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::api::sds::SdsLimits;
use crate::api::sds::body::Outbox;
use crate::api::sds::reader::{Message, Reader};
use crate::api::sds::said::{Method, Said, Wish, too_many};
use crate::api::status;
use crate::api::text::clean;
use crate::feed::Session;

/// The most of a proxy's own label that is kept, in bytes.
const LONGEST_NODE: usize = 256;

/// The most of a proxy's words about a refused push that is kept, in bytes.
const LONGEST_NACK: usize = 512;

/// One stream.
pub(super) struct Exchange<B> {
    pub(super) method: Method,
    pub(super) reader: Reader<B>,
    pub(super) session: Session,
    pub(super) outbox: Arc<Outbox>,
    pub(super) limits: Arc<SdsLimits>,
    pub(super) stopping: CancellationToken,
}

impl<B: Body<Data = Bytes> + Unpin> Exchange<B> {
    /// Runs the stream to its end.
    pub(super) async fn run(mut self) -> Status {
        let (mut first, mut reading) = (true, true);
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return Status::unavailable("the server stops; come back soon"),
                request = self.reader.next(), if reading => match request {
                    Ok(Some(message)) => {
                        if let Err(status) = self.request(message, first).await {
                            return status;
                        }
                        first = false;
                    }
                    // A client that only listens from now on is still served.
                    Ok(None) if !first => reading = false,
                    Ok(None) => return Status::invalid_argument("a stream needs a request that names its secrets"),
                    Err(why) => return why.status(),
                },
                update = self.session.next() => match update {
                    Ok(update) => self.outbox.put(update),
                    Err(end) => return status::of_stream(&end),
                },
            }
        }
    }

    async fn request(&mut self, message: Message, first: bool) -> Result<(), Status> {
        let said = self.method.read(message.bytes())?;
        drop(message);
        self.method.check(&said, first, &self.limits)?;
        if !said.node.is_empty() {
            self.session.set_node(Some(clean(&said.node, LONGEST_NODE)));
        }
        if !first {
            self.answer(&said).await;
        }
        self.forget(&said.wish);
        for name in said.wish.names() {
            let held = said.wish.held(name).filter(|_| first);
            self.session.subscribe(name, held).await.map_err(|end| status::of_stream(&end))?;
            if let Some(version) = held {
                self.outbox.holds(name, version);
            }
        }
        let names = self.session.len();
        if names > self.limits.max_names_per_stream { Err(too_many(names, &self.limits)) } else { Ok(()) }
    }

    /// Lets go of what is not wanted any more, or wanted anew.
    fn forget(&mut self, wish: &Wish) {
        match wish {
            Wish::Exactly { names, .. } => {
                let wanted: HashSet<&str> = names.iter().map(String::as_str).collect();
                self.retain(|name| wanted.contains(name));
            }
            Wish::Change { more, less, .. } => {
                let anew: HashSet<&str> = more.iter().map(String::as_str).collect();
                self.retain(|name| !anew.contains(name) && !less.contains(name));
            }
        }
    }

    fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.session.retain(&keep);
        self.outbox.retain(&keep);
    }

    async fn answer(&mut self, said: &Said) {
        let Some((name, version)) = self.outbox.answered(&said.nonce, said.refusal.is_some()) else { return };
        match &said.refusal {
            None => self.session.acked(&name, &version),
            Some(why) => self.session.nacked(&name, &version, &clean(why, LONGEST_NACK)).await,
        }
    }
}
