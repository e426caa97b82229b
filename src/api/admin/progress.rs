//! What an operator sees of an act while it goes on: messages as they come, and the delivery of a push to its end.
//!
//! An act never waits for its operator for long: who does not read is left alone, and the act goes on in silence. Acts on
//! certificates and acts on authorities tell the same of a push, in messages of their own; [`Hand`] is that, told once.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio::sync::mpsc;
use tonic::{Response, Status};

use super::Sources;
use crate::api::status;
use crate::feed::forced::Delivery;
use crate::proto::chancery::admin::v1 as pb;

/// Messages that wait for an operator to read them.
const WAITING_MESSAGES: usize = 64;

/// How long an act waits for an operator who does not read; then it goes on in silence.
const SLOWEST_READER: Duration = Duration::from_secs(5);

/// How long the delivery of a bundle is watched.
const LONGEST_WATCH: Duration = Duration::from_secs(600);

/// How long the first look at a delivery comes after the one before, and the last.
const LOOKS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(200));

/// What happens, as it happens.
pub(super) type Progress<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Tells an operator what happens, as long as that one listens.
pub(super) struct Teller<T>(Option<mpsc::Sender<Result<T, Status>>>);

impl<T: Send + 'static> Teller<T> {
    pub(super) fn new() -> (Self, Response<Progress<T>>) {
        let (told, mut messages) = mpsc::channel(WAITING_MESSAGES);
        let stream = futures::stream::poll_fn(move |cx| messages.poll_recv(cx));
        (Self(Some(told)), Response::new(Box::pin(stream)))
    }

    pub(super) async fn tell(&mut self, message: Result<T, Status>) {
        let Some(told) = &self.0 else { return };
        let message = message.map_err(status::bounded);
        if !matches!(tokio::time::timeout(SLOWEST_READER, told.send(message)).await, Ok(Ok(()))) {
            self.0 = None;
        }
    }

    fn listens(&self) -> bool {
        self.0.as_ref().is_some_and(|told| !told.is_closed())
    }
}

/// A message of an act that ends in a push.
pub(super) trait Message: Clone + PartialEq + Send + 'static {
    /// How the push stands, under the step's word.
    fn delivery(step: &str, delivery: Delivery) -> Self;
    /// The same, so long after the request.
    fn after(self, elapsed_us: u64) -> Self;
}

macro_rules! messages {
    ($($message:ident),*) => {
        $(impl Message for pb::$message {
            fn delivery(step: &str, delivery: Delivery) -> Self {
                let Delivery { streams, acked, nacked } = delivery;
                Self { step: step.to_owned(), streams, acked, nacked, ..Self::default() }
            }

            fn after(self, elapsed_us: u64) -> Self {
                Self { elapsed_us, ..self }
            }
        })*
    };
}

messages!(RevocationProgress, AuthorityProgress);

/// An act under way.
pub(super) struct Hand<M> {
    pub(super) sources: Arc<Sources>,
    pub(super) teller: Teller<M>,
    /// When it was asked for.
    pub(super) began: Duration,
}

impl<M: Message> Hand<M> {
    /// Tells a message with the time that the act has taken so far.
    pub(super) async fn tell(&mut self, message: M) {
        let elapsed = self.sources.clock.monotonic().saturating_sub(self.began);
        let elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        self.teller.tell(Ok(message.after(elapsed_us))).await;
    }

    /// How the newest bundle stands with the streams.
    pub(super) fn delivery(&self, step: &str) -> M {
        M::delivery(step, self.sources.hands.delivery())
    }

    /// Tells how the push goes until every stream has answered.
    pub(super) async fn watch(&mut self) {
        let until = self.sources.clock.monotonic() + LONGEST_WATCH;
        let (mut pause, mut last) = (LOOKS.0, None);
        while self.teller.listens() && self.sources.clock.monotonic() < until {
            let delivery = self.sources.hands.delivery();
            if delivery.acked + delivery.nacked >= delivery.streams {
                return self.tell(M::delivery("done", delivery)).await;
            }
            let seen = M::delivery("pushed", delivery);
            if last.as_ref() != Some(&seen) {
                last = Some(seen.clone());
                self.tell(seen).await;
            }
            self.sources.clock.sleep(pause).await;
            pause = (pause * 2).min(LOOKS.1);
        }
    }
}
