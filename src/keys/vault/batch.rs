//! Sends signatures to Vault: what is asked for at the same time shares a request.
//!
//! One task owns the queue. It sends what waits whenever fewer than [`MOST_AT_ONCE`] requests are under way, as much as
//! [`MOST_IN_BATCH`] under one key: alone, a signature leaves at once and by itself, and while Vault is busy others gather.
//! Nothing is asked twice, but for one login where a token lapsed. A caller that is gone costs nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Reference;
use super::answers::Answers;
use super::api::{SignAnswer, SignBody};
use crate::keys::KeyError;
use crate::vault::kept::Kept;
use crate::vault::{VaultError, Verb};

/// The most signatures of one request.
pub const MOST_IN_BATCH: usize = 64;
/// The most requests under way.
pub const MOST_AT_ONCE: usize = 4;
/// The most signatures that wait in the task; whoever asks for more waits outside it.
pub(super) const MOST_WAITING: usize = 1024;

/// A signature that is asked for.
pub(super) struct Ask {
    pub(super) key: Arc<Reference>,
    /// Base64.
    pub(super) input: String,
    pub(super) reply: oneshot::Sender<Result<Vec<u8>, KeyError>>,
}

/// The task.
pub(super) struct Batches {
    kept: Kept,
    answers: Answers,
}

impl Batches {
    pub(super) fn new(kept: Kept, answers: Answers) -> Self {
        Self { kept, answers }
    }

    pub(super) async fn run(self, mut asks: mpsc::Receiver<Ask>, stopping: CancellationToken) {
        let mut waiting: VecDeque<Ask> = VecDeque::new();
        let mut running = FuturesUnordered::new();
        let mut came = Vec::new();
        loop {
            while running.len() < MOST_AT_ONCE
                && let Some(batch) = next(&mut waiting)
            {
                running.push(self.send(batch));
            }
            tokio::select! {
                biased;
                Some(()) = running.next() => {}
                count = asks.recv_many(&mut came, MOST_IN_BATCH), if waiting.len() < MOST_WAITING => {
                    if count == 0 {
                        break;
                    }
                    waiting.extend(came.drain(..));
                }
                () = stopping.cancelled() => break,
            }
        }
        while running.next().await.is_some() {}
    }

    async fn send(&self, batch: Vec<Ask>) {
        let Some(first) = batch.first() else { return };
        let key = Arc::clone(&first.key);
        let inputs = batch.iter().map(|ask| ask.input.as_str());
        let body = SignBody::new(key.version(), key.algorithm().signature(), inputs);
        let answer: Result<SignAnswer, VaultError> =
            self.kept.call("sign", Verb::Write, &key.signing_path(), Some(&body)).await;
        match &answer {
            Ok(_) => self.answers.good(),
            Err(why) => self.answers.failed(why),
        }
        let path = key.path();
        match answer {
            Ok(answer) if answer.batch_results.len() == batch.len() => {
                for (ask, result) in batch.into_iter().zip(answer.batch_results) {
                    let signature = result.signature(key.version());
                    let signature = signature.map_err(|why| KeyError::NotSigned { key: path.clone(), why });
                    // Whoever does not wait any more misses it.
                    let _ = ask.reply.send(signature);
                }
            }
            Ok(answer) => {
                let why = format!("{} answers to {} questions", answer.batch_results.len(), batch.len());
                refuse(batch, &KeyError::NotSigned { key: path, why });
            }
            Err(source) => refuse(batch, &KeyError::Vault { key: path, source: Box::new(source) }),
        }
    }
}

fn refuse(batch: Vec<Ask>, why: &KeyError) {
    for ask in batch {
        // Whoever does not wait any more misses it.
        let _ = ask.reply.send(Err(why.clone()));
    }
}

/// What the oldest one that is still waited for can share a request with, it included.
fn next(waiting: &mut VecDeque<Ask>) -> Option<Vec<Ask>> {
    let mut batch: Vec<Ask> = Vec::new();
    let mut others = VecDeque::new();
    while let Some(ask) = waiting.pop_front() {
        if ask.reply.is_closed() {
            continue;
        }
        let shares = batch.first().is_none_or(|first| first.key == ask.key);
        if shares && batch.len() < MOST_IN_BATCH {
            batch.push(ask);
        } else {
            others.push_back(ask);
            if batch.len() == MOST_IN_BATCH {
                break;
            }
        }
    }
    others.append(waiting);
    *waiting = others;
    (!batch.is_empty()).then_some(batch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x509::KeyAlgorithm;

    fn ask(key: &Arc<Reference>, input: usize) -> (Ask, oneshot::Receiver<Result<Vec<u8>, KeyError>>) {
        let (reply, answer) = oneshot::channel();
        (Ask { key: Arc::clone(key), input: input.to_string(), reply }, answer)
    }

    #[test]
    fn those_of_one_key_go_together_up_to_the_bound_and_in_their_order() {
        let key = |name| Arc::new(Reference::new(name, "transit", name, 1, KeyAlgorithm::P256, Vec::new()));
        let (one, two) = (key("one"), key("two"));
        let mut waiting = VecDeque::new();
        let mut answers = Vec::new();
        for number in 0..200 {
            let (ask, answer) = ask(if number % 10 == 9 { &two } else { &one }, number);
            waiting.push_back(ask);
            if number != 0 {
                answers.push(answer);
            }
        }
        let inputs = |batch: &[Ask]| batch.iter().map(|ask| ask.input.parse().unwrap()).collect::<Vec<usize>>();
        let first = next(&mut waiting).unwrap();
        let expected: Vec<usize> = (1..200).filter(|number| number % 10 != 9).take(MOST_IN_BATCH).collect();
        assert_eq!(inputs(&first), expected, "nobody waits for number 0");
        let second = next(&mut waiting).unwrap();
        assert!(second.iter().all(|ask| ask.key == two), "the oldest that is left");
        assert_eq!(inputs(&second), (0..20).map(|tens| tens * 10 + 9).collect::<Vec<_>>());
        let (third, fourth) = (next(&mut waiting).unwrap(), next(&mut waiting).unwrap());
        assert_eq!((third.len(), fourth.len()), (64, 179 - 128));
        assert!(next(&mut waiting).is_none() && waiting.is_empty());
        drop(answers);
    }
}
