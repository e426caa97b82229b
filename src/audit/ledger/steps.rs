//! The writer and the views as one task instead of two threads, so that a simulation repeats exactly: only for tests.
//!
//! The same code as on the threads, one command or one round at a time. Where the writer would wait for the views it does
//! their rounds itself. A round after a command is done at once, later or with several others, as the seed says, so that
//! a crash meets views at every distance behind the journal.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::mpsc;

use super::views::Views;
use super::writer::{Command, Turn, Writer};
use crate::tasks::Tasks;

/// How long views that were left behind wait for the next round, on the simulated clock.
const LATER: Duration = Duration::from_millis(200);

/// Where the shared state finds the views.
#[derive(Default)]
pub(crate) struct Slot(OnceLock<Weak<Mutex<Views>>>);

impl Slot {
    /// Does rounds for as long as `waiting`; nothing where the views have a thread.
    pub(super) fn work_while(&self, mut waiting: impl FnMut() -> bool) {
        let Some(views) = self.0.get().and_then(Weak::upgrade) else { return };
        while waiting() && round(&views) {}
    }
}

fn round(views: &Mutex<Views>) -> bool {
    views.lock().unwrap_or_else(PoisonError::into_inner).round(Duration::ZERO).is_some()
}

/// Runs both until the ledger is closed or dropped.
pub(super) fn spawn(tasks: &Tasks, writer: Writer, commands: mpsc::Receiver<Command>, views: Views) {
    let views = Arc::new(Mutex::new(views));
    // A second ledger on the same shared state does not exist.
    let _ = writer.shared.steps.0.set(Arc::downgrade(&views));
    tasks.spawn("ledger", run(tasks.clone(), writer, commands, views));
}

async fn run(tasks: Tasks, mut writer: Writer, mut commands: mpsc::Receiver<Command>, views: Arc<Mutex<Views>>) {
    let mut held = None;
    loop {
        let command = match held.take() {
            Some(command) => Some(command),
            None => tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => Some(command),
                    None => return writer.shared.stop(),
                },
                () = writer.clock.sleep(LATER) => None,
            },
        };
        let waited = command.is_none();
        match command.map(|command| writer.take(command, &mut commands)) {
            Some(Turn::Next(next)) => held = next,
            Some(Turn::End(outcome, reply)) => {
                writer.shared.stop();
                drop((writer, views));
                let _ = reply.send(outcome);
                return;
            }
            None => {}
        }
        // A place to be killed at: committed and answered, and no view of it.
        tokio::task::yield_now().await;
        if waited || tasks.draw(3) != 0 {
            round(&views);
        }
    }
}
