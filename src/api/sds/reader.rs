//! Reads gRPC messages from a request body, one at a time, and keeps nothing between them.
//!
//! A message that is too large is refused when its length is read, before its bytes are; one that was begun must be
//! whole in time, and waits for room among all that its account has not finished yet. The room for a message is taken whole,
//! as soon as its length is read: those that wait hold nothing but one frame, so that they never wait for each other. The
//! buffer is given back after each message.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use crate::api::sds::frame::PREFIX;

/// Why there is no next message.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReadError {
    /// The client is gone; nobody is left to be told.
    #[error("the client ended the stream")]
    Gone,
    /// The body ended inside a message.
    #[error("the request ended inside a message")]
    Truncated,
    /// A compressed message: never offered, since keys and foreign text in one compressed stream leak (CRIME).
    #[error("compressed messages are not accepted: send grpc-encoding identity")]
    Compressed,
    /// More than the limit.
    #[error("a request of {length} bytes is more than max_request_bytes ({limit})")]
    TooLarge {
        /// What the client announced.
        length: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The account's other requests took all the room.
    #[error("the unfinished requests of this caller leave no room (max_request_bytes_per_caller): send less at once")]
    Crowded,
    /// Not whole in time.
    #[error("no whole request within request_timeout")]
    Slow,
}

impl ReadError {
    pub(super) fn status(&self) -> Status {
        match self {
            Self::Gone => Status::cancelled(self.to_string()),
            Self::Truncated => Status::invalid_argument(self.to_string()),
            Self::Compressed => Status::unimplemented(self.to_string()),
            Self::TooLarge { .. } | Self::Crowded => Status::resource_exhausted(self.to_string()),
            Self::Slow => Status::deadline_exceeded(self.to_string()),
        }
    }
}

/// One message, and the room that it takes in its account's budget.
#[derive(Debug)]
pub(super) struct Message {
    bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl Message {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The messages of one request body.
pub(super) struct Reader<B> {
    body: B,
    buffer: BytesMut,
    limit: usize,
    patience: Duration,
    /// What the account's unfinished requests may hold, in bytes.
    budget: Arc<Semaphore>,
    /// The room of the message that is being read, once its length is known.
    room: Option<OwnedSemaphorePermit>,
    /// By when the message that is being read must be whole.
    deadline: Option<Instant>,
}

impl<B: Body<Data = Bytes> + Unpin> Reader<B> {
    /// The first message must come within `patience`, as must the rest of any message once it has begun. `budget` has
    /// room for at least one message of `limit` bytes.
    pub(super) fn new(body: B, limit: usize, patience: Duration, budget: Arc<Semaphore>) -> Self {
        let deadline = Some(Instant::now() + patience);
        Self { body, buffer: BytesMut::new(), limit, patience, budget, room: None, deadline }
    }

    /// The next message; `None` when the client said that there are no more. Safe to cancel.
    pub(super) async fn next(&mut self) -> Result<Option<Message>, ReadError> {
        loop {
            if let Some(length) = self.announced()? {
                self.make_room(length).await?;
                if let Some(message) = self.take(length) {
                    return Ok(Some(message));
                }
            }
            let deadline = self.deadline_once_begun();
            let frame = match deadline {
                Some(deadline) => timeout_at(deadline, self.body.frame()).await.map_err(|_| ReadError::Slow)?,
                None => self.body.frame().await,
            };
            match frame {
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(ReadError::Truncated),
                Some(Err(_)) => return Err(ReadError::Gone),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    fn deadline_once_begun(&mut self) -> Option<Instant> {
        if !self.buffer.is_empty() && self.deadline.is_none() {
            self.deadline = Some(Instant::now() + self.patience);
        }
        self.deadline
    }

    /// The length of the message that is being read, once it can be known.
    fn announced(&self) -> Result<Option<u32>, ReadError> {
        let Some((prefix, _)) = self.buffer.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let [compressed, length @ ..] = *prefix;
        if compressed != 0 {
            return Err(ReadError::Compressed);
        }
        let length = u32::from_be_bytes(length);
        if length as usize > self.limit {
            return Err(ReadError::TooLarge { length: length as usize, limit: self.limit });
        }
        Ok(Some(length))
    }

    /// Waits until the account has room for the whole message.
    async fn make_room(&mut self, length: u32) -> Result<(), ReadError> {
        if self.room.is_some() || length == 0 {
            return Ok(());
        }
        let budget = Arc::clone(&self.budget);
        let room = match self.deadline_once_begun() {
            Some(deadline) => {
                timeout_at(deadline, budget.acquire_many_owned(length)).await.map_err(|_| ReadError::Crowded)?
            }
            None => budget.acquire_many_owned(length).await,
        };
        // An error would mean that the budget was closed, which nobody does.
        self.room = room.ok();
        Ok(())
    }

    fn take(&mut self, length: u32) -> Option<Message> {
        let length = length as usize;
        if self.buffer.len() < PREFIX + length {
            return None;
        }
        self.buffer.advance(PREFIX);
        let bytes = self.buffer.split_to(length).freeze();
        // A buffer that once held 61 KB would hold them for as long as the stream lives.
        self.buffer = BytesMut::from(&self.buffer[..]);
        self.deadline = None;
        Some(Message { bytes, _room: self.room.take() })
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    fn message(bytes: &[u8]) -> Vec<u8> {
        [&[0][..], &(bytes.len() as u32).to_be_bytes(), bytes].concat()
    }

    fn room(bytes: usize) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(bytes))
    }

    async fn read(pieces: Vec<Vec<u8>>) -> (Vec<Bytes>, Option<ReadError>) {
        let frames = pieces.into_iter().map(|piece| Ok::<_, std::io::Error>(Frame::data(Bytes::from(piece))));
        let mut reader = Reader::new(StreamBody::new(stream::iter(frames)), 100, Duration::from_secs(1), room(100));
        let mut got = Vec::new();
        loop {
            match reader.next().await {
                Ok(Some(message)) => got.push(Bytes::copy_from_slice(message.bytes())),
                Ok(None) => return (got, None),
                Err(why) => return (got, Some(why)),
            }
            assert!(reader.buffer.capacity() <= 200, "the buffer is given back");
        }
    }

    #[tokio::test]
    async fn messages_are_found_however_they_are_cut() {
        let wire = [message(b"one"), message(b""), message(&[7; 100])].concat();
        for size in [1, 2, 5, 7, 1_000] {
            let (got, error) = read(wire.chunks(size).map(<[u8]>::to_vec).collect()).await;
            assert_eq!((got.len(), error), (3, None), "in pieces of {size}");
            assert_eq!((&got[0][..], &got[2][..]), (&b"one"[..], &[7; 100][..]));
        }
    }

    #[tokio::test]
    async fn what_is_malformed_is_refused() {
        assert_eq!(read(vec![message(&[0; 101])]).await.1, Some(ReadError::TooLarge { length: 101, limit: 100 }));
        assert_eq!(read(vec![vec![0, 0xff, 0xff, 0xff, 0xff]]).await.1.map(|e| e.status().code() as i32), Some(8));
        assert_eq!(read(vec![vec![1, 0, 0, 0, 0]]).await.1, Some(ReadError::Compressed));
        assert_eq!(read(vec![vec![0, 0, 0, 0, 9, 1]]).await.1, Some(ReadError::Truncated));
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_must_be_whole_in_time() {
        let begun = stream::iter([Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(&[0])))]);
        let body = StreamBody::new(futures::StreamExt::chain(begun, stream::pending()));
        let mut reader = Reader::new(body, 100, Duration::from_secs(1), room(100));
        assert_eq!(reader.next().await.unwrap_err(), ReadError::Slow);
    }

    #[tokio::test(start_paused = true)]
    async fn messages_of_one_account_wait_for_room_and_not_for_each_other() {
        let budget = room(100);
        let reader = |pieces: Vec<Vec<u8>>| {
            let frames = pieces.into_iter().map(|piece| Ok::<_, std::io::Error>(Frame::data(Bytes::from(piece))));
            let body = StreamBody::new(futures::StreamExt::chain(stream::iter(frames), stream::pending()));
            Reader::new(body, 100, Duration::from_secs(1), Arc::clone(&budget))
        };
        let mut begun = reader(vec![message(&[1; 60])[..20].to_vec()]);
        let mut whole = reader(vec![message(&[2; 60])]);
        let (begun, whole) = tokio::join!(begun.next(), whole.next());
        assert_eq!(begun.unwrap_err(), ReadError::Slow);
        assert_eq!(whole.unwrap_err(), ReadError::Crowded);
        assert_eq!(budget.available_permits(), 40, "what failed holds its room until its stream ends");
        let held = reader(vec![message(&[3; 40])]).next().await.unwrap().unwrap();
        assert_eq!((held.bytes().len(), budget.available_permits()), (40, 0));
        drop(held);
        assert_eq!(budget.available_permits(), 40);
    }
}
