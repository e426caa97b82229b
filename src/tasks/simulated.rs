//! The tasks of a simulated process, which can be killed between any two of their awaits: only for tests.
//!
//! Every poll of every task of the process is counted. At the chosen one the process is dead: no task of it is polled any
//! more, and whoever drives the simulation drops the runtime, so that each task ends where it stood.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::sync::watch;

use super::Tasks;
use crate::entropy::Entropy;

/// A process that has no threads; clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Process(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    polls: AtomicU64,
    /// The poll that is not made any more.
    killed_at: AtomicU64,
    dead: watch::Sender<bool>,
    chance: Entropy,
}

impl Process {
    /// One that lives, and takes what it must choose from `chance`.
    pub(crate) fn new(chance: Entropy) -> Self {
        let (polls, killed_at, dead) = (AtomicU64::new(0), AtomicU64::new(u64::MAX), watch::Sender::new(false));
        Self(Arc::new(Inner { polls, killed_at, dead, chance }))
    }

    /// The process dies after so many further polls of its tasks.
    pub(crate) fn kill_after(&self, polls: u64) {
        self.0.killed_at.store(self.0.polls.load(Ordering::Relaxed) + polls, Ordering::Relaxed);
    }

    /// It is not killed any more, if it lives.
    pub(crate) fn spare(&self) {
        self.0.killed_at.store(u64::MAX, Ordering::Relaxed);
    }

    fn is_dead(&self) -> bool {
        *self.0.dead.borrow()
    }

    /// Returns when the process is dead.
    pub(crate) async fn died(&self) {
        // The sender lives as long as `self`.
        let _ = self.0.dead.subscribe().wait_for(|dead| *dead).await;
    }

    /// The group of tasks of this process.
    pub(crate) fn tasks(&self) -> Tasks {
        Tasks { simulated: Some(self.clone()), ..Tasks::new() }
    }

    /// `work` as a part of this process.
    pub(crate) fn part<F: Future>(&self, work: F) -> Fused<F> {
        Fused::new(Some(self.clone()), work)
    }

    fn may_go_on(&self) -> bool {
        let polls = self.0.polls.fetch_add(1, Ordering::Relaxed);
        if polls >= self.0.killed_at.load(Ordering::Relaxed) {
            self.0.dead.send_replace(true);
        }
        !self.is_dead()
    }
}

impl Tasks {
    /// Whether they are those of a simulated process.
    pub(crate) fn are_simulated(&self) -> bool {
        self.simulated.is_some()
    }

    /// A number below `end` as the simulation wants it; 0 elsewhere.
    pub(crate) fn draw(&self, end: u64) -> u64 {
        let number = |process: &Process| u64::from_be_bytes(process.0.chance.bytes()) % end.max(1);
        self.simulated.as_ref().map_or(0, number)
    }
}

/// A task that ends when its process does.
pub(crate) struct Fused<F> {
    process: Option<Process>,
    work: Pin<Box<F>>,
}

impl<F: Future> Fused<F> {
    pub(super) fn new(process: Option<Process>, work: F) -> Self {
        Self { process, work: Box::pin(work) }
    }
}

impl<F: Future> Future for Fused<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        match &self.process {
            Some(process) if !process.may_go_on() => Poll::Pending,
            Some(_) | None => self.work.as_mut().poll(context),
        }
    }
}

#[tokio::test]
async fn a_process_dies_between_two_awaits() {
    let process = Process::new(Entropy::seeded(1));
    let tasks = process.tasks();
    let (steps, mut seen) = watch::channel(0);
    tasks.spawn("walker", async move {
        loop {
            steps.send_modify(|steps| *steps += 1);
            tokio::task::yield_now().await;
        }
    });
    process.kill_after(3);
    process.died().await;
    assert_eq!(*seen.borrow_and_update(), 3);
    tokio::task::yield_now().await;
    assert!(!seen.has_changed().unwrap(), "the dead do not walk");
}
