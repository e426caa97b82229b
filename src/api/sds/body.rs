//! The response body of one stream.
//!
//! The work of the stream (reading requests, running the session) happens inside polling the body, so that the stream
//! is one task and dropping the body ends everything. HTTP/2 polls only when the client has room: while it has none,
//! nothing is made for it, and what the outbox holds is the newest version of each secret, one and no more.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::HeaderMap;
use http_body::{Body, Frame};
use tonic::Status;

use crate::api::sds::said::Dialect;
use crate::api::sds::{frame, versions};
use crate::api::status::bounded;
use crate::feed::Update;

/// What waits to be sent and what waits to be answered, of one stream.
#[derive(Debug)]
pub(super) struct Outbox {
    dialect: Dialect,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// At most one for each name.
    pending: VecDeque<Update>,
    /// The newest message of each name that was sent and not answered.
    in_flight: HashMap<Arc<str>, Sent>,
    /// The version of each name that the client holds, unless it refuses what is on its way.
    held: BTreeMap<Arc<str>, Arc<str>>,
    last_nonce: u64,
}

#[derive(Debug)]
struct Sent {
    nonce: u64,
    version: Arc<str>,
    /// What the client held before, and still does if it refuses this one.
    before: Option<Arc<str>>,
}

impl Outbox {
    pub(super) fn new(dialect: Dialect) -> Self {
        Self { dialect, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `update` in line; an older one of the same name gives it its place.
    pub(super) fn put(&self, update: Update) {
        let mut state = self.lock();
        match state.pending.iter_mut().find(|older| older.name == update.name) {
            Some(older) => *older = update,
            None => state.pending.push_back(update),
        }
    }

    /// The client says that it holds `version` of `name` from before.
    pub(super) fn holds(&self, name: &str, version: &str) {
        self.lock().held.insert(name.into(), version.into());
    }

    /// Forgets what waits for names that are not wanted any more.
    pub(super) fn retain(&self, keep: impl Fn(&str) -> bool) {
        let mut state = self.lock();
        state.pending.retain(|update| keep(&update.name));
        state.in_flight.retain(|name, _| keep(name));
        state.held.retain(|name, _| keep(name));
    }

    /// What the client answered with `nonce`, once; `None` for a nonce that is unknown, answered or overtaken.
    pub(super) fn answered(&self, nonce: &str, refused: bool) -> Option<(Arc<str>, Arc<str>)> {
        let nonce: u64 = nonce.parse().ok()?;
        let mut state = self.lock();
        let name = state.in_flight.iter().find(|(_, sent)| sent.nonce == nonce).map(|(name, _)| Arc::clone(name))?;
        let Sent { version, before, .. } = state.in_flight.remove(&name)?;
        match before {
            Some(before) if refused => drop(state.held.insert(Arc::clone(&name), before)),
            None if refused => drop(state.held.remove(&name)),
            Some(_) | None => {}
        }
        Some((name, version))
    }

    /// The next message: its head and its content.
    pub(super) fn take(&self) -> Option<(Bytes, Bytes)> {
        let mut state = self.lock();
        // A client that did not read for a while does not get what was taken away meanwhile.
        let Update { name, payload, .. } = loop {
            let update = state.pending.pop_front()?;
            if update.stands() {
                break update;
            }
        };
        state.last_nonce += 1;
        let nonce = state.last_nonce;
        let version = Arc::clone(&payload.version);
        let before = state.held.insert(Arc::clone(&name), Arc::clone(&version));
        let head = match self.dialect {
            Dialect::StateOfTheWorld => {
                let said = versions::join(&version, state.held.iter().map(|(name, version)| (&**name, &**version)));
                frame::head(&name, &said, &payload, &nonce.to_string())?
            }
            Dialect::Delta => frame::delta_head(&name, &payload, &nonce.to_string())?,
        };
        state.in_flight.insert(name, Sent { nonce, version, before });
        Some((head, payload.secret))
    }
}

/// The body: frames as long as `work` runs, then its status as trailers.
pub(super) struct StreamBody {
    work: Option<BoxFuture<'static, Status>>,
    outbox: Arc<Outbox>,
    content: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl StreamBody {
    /// `work` fills `outbox` and returns what the stream ends with.
    pub(super) fn new(work: BoxFuture<'static, Status>, outbox: Arc<Outbox>) -> Self {
        Self { work: Some(work), outbox, content: None, trailers: None }
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(content) = self.content.take() {
            return Poll::Ready(Some(Ok(Frame::data(content))));
        }
        if let Some(work) = &mut self.work
            && let Poll::Ready(status) = work.as_mut().poll(context)
        {
            self.work = None;
            let mut trailers = HeaderMap::new();
            let status = bounded(status);
            // A status whose text can't be a header still has its code.
            if status.add_header(&mut trailers).is_err() {
                trailers.insert(Status::GRPC_STATUS, (status.code() as u16).into());
            }
            self.trailers = Some(trailers);
        }
        if let Some((head, content)) = self.outbox.take() {
            self.content = Some(content).filter(|content| !content.is_empty());
            return Poll::Ready(Some(Ok(Frame::data(head))));
        }
        match self.trailers.take() {
            Some(trailers) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            None if self.work.is_none() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}
