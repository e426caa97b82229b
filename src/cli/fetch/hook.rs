//! The command that runs after each change of the files.
//!
//! It runs beside fetching, never twice at once; a change while it runs has it run once more. A failure is reported and
//! tried again a few times, then left until the next change: a broken hook must not stop renewals.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::clock::Clock;

/// How often a command that fails is tried, in all.
const TRIES: u32 = 4;

/// How long after the first failure the second try comes; doubles each time.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// How long a command may take.
const LONGEST_RUN: Duration = Duration::from_secs(300);

/// What to run.
#[derive(Debug, Clone)]
pub(super) struct Hook {
    pub(super) command: String,
    pub(super) dir: PathBuf,
}

/// How a run ended that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It could not be started.
    #[error("--exec {command:?} cannot be started: {source}")]
    Start {
        /// The command.
        command: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It failed.
    #[error("--exec {command:?} ended with {status}")]
    Failed {
        /// The command.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// It did not end.
    #[error("--exec {command:?} did not end within {seconds} s and was killed", seconds = LONGEST_RUN.as_secs())]
    TooLong {
        /// The command.
        command: String,
    },
}

impl Hook {
    /// Runs the command, again when it fails; `report` hears of each failure with the wait before the next try.
    pub(super) async fn run(
        &self,
        clock: &Clock,
        report: impl Fn(&HookError, Option<Duration>),
    ) -> Result<(), HookError> {
        let mut wait = FIRST_WAIT;
        let mut tries = 1;
        loop {
            match self.once().await {
                Ok(()) => return Ok(()),
                Err(why) if tries == TRIES => {
                    report(&why, None);
                    return Err(why);
                }
                Err(why) => report(&why, Some(wait)),
            }
            clock.sleep(wait).await;
            wait *= 2;
            tries += 1;
        }
    }

    async fn once(&self) -> Result<(), HookError> {
        let command = || self.command.clone();
        let mut child = Command::new("sh");
        // The command's environment names the directory; what is secret is in its files only.
        child.arg("-c").arg(&self.command).env("CHANCERY_DIR", &self.dir).stdin(Stdio::null());
        let mut child = child.spawn().map_err(|source| HookError::Start { command: command(), source })?;
        match tokio::time::timeout(LONGEST_RUN, child.wait()).await {
            Err(_) => {
                // It may have ended this very moment.
                let _ = child.start_kill();
                Err(HookError::TooLong { command: command() })
            }
            Ok(Err(source)) => Err(HookError::Start { command: command(), source }),
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(HookError::Failed { command: command(), status }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn it_runs_in_a_shell_and_is_told_where() {
        let scratch = tempfile::tempdir().unwrap();
        let hook = Hook { command: "echo ok > \"$CHANCERY_DIR/mark\"".into(), dir: scratch.path().to_owned() };
        hook.run(&Clock::system(), |why, _| panic!("{why}")).await.unwrap();
        assert_eq!(std::fs::read_to_string(scratch.path().join("mark")).unwrap(), "ok\n");
    }

    #[tokio::test]
    async fn a_failure_is_tried_again_a_few_times() {
        let (clock, hands) = Clock::manual(time::macros::datetime!(2026-11-23 12:00 UTC));
        let hook = Hook { command: "exit 7".into(), dir: PathBuf::new() };
        let failures = AtomicU32::new(0);
        let report = |_: &HookError, _: Option<Duration>| _ = failures.fetch_add(1, Ordering::Relaxed);
        let time_passes = async {
            loop {
                tokio::time::sleep(Duration::from_millis(5)).await;
                hands.advance(FIRST_WAIT);
            }
        };
        let error = tokio::select! {
            ended = hook.run(&clock, report) => ended.unwrap_err(),
            () = time_passes => unreachable!(),
        };
        assert!(error.to_string().contains("exit status: 7"), "{error}");
        assert_eq!(failures.load(Ordering::Relaxed), TRIES);
    }
}
