//! The one place that spawns tasks and threads, and that ends them.
//!
//! A task has a name and ends for a reason: its work is done, or the [`Tasks::stopping`] token fired and it drained.
//! [`Tasks::drain`] waits for all of them up to a deadline and names those that did not come home. Whoever spawns holds
//! a clone of [`Tasks`]; nobody else may call `tokio::spawn`.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Does `work` for each of `items` on all cores, on threads that end before it returns; the answers are in the order of
/// the items. For pure computation and short reads: it blocks.
pub fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let share = items.len().div_ceil(cores).max(1);
    let work = &work;
    std::thread::scope(|scope| {
        let all = |part: &[T]| part.iter().map(work).collect::<Vec<R>>();
        let mut parts = items.chunks(share);
        let first = parts.next().unwrap_or_default();
        let others: Vec<_> = parts.map(|part| scope.spawn(move || all(part))).collect();
        let mut answers = all(first);
        for other in others {
            match other.join() {
                Ok(more) => answers.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        answers
    })
}

/// A group of named tasks that stop together; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stopping: CancellationToken,
    running: Arc<Mutex<BTreeMap<&'static str, usize>>>,
    #[cfg(test)]
    simulated: Option<simulated::Process>,
}

impl Tasks {
    /// An empty group.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Fires when the group should stop; tasks finish what they hold and return.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Runs `work` to its end under `name`.
    #[expect(clippy::disallowed_methods, reason = "this is the module that may spawn")]
    pub fn spawn<F>(&self, name: &'static str, work: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let guard = Running::enter(&self.running, name);
        #[cfg(test)]
        let work = simulated::Fused::new(self.simulated.clone(), work);
        tokio::spawn(self.tracker.track_future(async move {
            let _guard = guard;
            work.await
        }))
    }

    /// Runs `work` where blocking is allowed and gives what it says; `None` when it panicked or the process stops.
    pub async fn block<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        #[cfg(test)]
        if self.are_simulated() {
            return Some(work());
        }
        tokio::task::spawn_blocking(work).await.ok()
    }

    /// Runs `work` on a thread of its own: for blocking writers that own files. The thread must end by itself when its
    /// input ends; [`Tasks::drain`] waits for it like for a task.
    ///
    /// # Errors
    /// When the system refuses another thread.
    pub fn spawn_thread<F>(&self, name: &'static str, work: F) -> std::io::Result<std::thread::JoinHandle<()>>
    where
        F: FnOnce() + Send + 'static,
    {
        let guard = Running::enter(&self.running, name);
        let token = self.tracker.token();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _held = (guard, token);
            work();
        })
    }

    /// Asks every task to stop, waits for them up to `deadline` and returns the names of those still running.
    pub async fn drain(&self, deadline: Duration) -> Vec<&'static str> {
        self.stopping.cancel();
        self.tracker.close();
        if tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok() {
            return Vec::new();
        }
        self.running.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }
}

/// Counts a task in while it lives.
struct Running {
    running: Arc<Mutex<BTreeMap<&'static str, usize>>>,
    name: &'static str,
}

impl Running {
    fn enter(running: &Arc<Mutex<BTreeMap<&'static str, usize>>>, name: &'static str) -> Self {
        *running.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
        Self { running: Arc::clone(running), name }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = running.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                running.remove(self.name);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod simulated;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn drain_waits_and_names_who_stays() {
        let tasks = Tasks::new();
        let stopping = tasks.stopping();
        tasks.spawn("polite", async move { stopping.cancelled().await });
        tasks.spawn("stubborn", std::future::pending::<()>());
        assert_eq!(tasks.drain(Duration::from_secs(1)).await, ["stubborn"]);
    }

    #[tokio::test]
    async fn a_thread_is_waited_for() {
        let tasks = Tasks::new();
        let (sender, receiver) = std::sync::mpsc::sync_channel::<()>(1);
        tasks.spawn_thread("writer", move || while receiver.recv().is_ok() {}).unwrap();
        drop(sender);
        assert!(tasks.drain(Duration::from_secs(5)).await.is_empty());
    }
}
