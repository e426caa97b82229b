//! `chancery server`, and what it shares with `up`: the way from settings to a running server and out again.

use std::future::Future;
use std::path::PathBuf;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::Context;
use super::exit::{Done, Exit, Failure};
use super::screen::{Format, out};
use super::up::{relative_to, render};
use crate::app::{self, AppError, Bound};
use crate::config::Settings;
use crate::telemetry;

/// `server`.
#[derive(Debug, Args)]
pub struct Server {
    /// The configuration file (docs/configuration.md)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(crate) fn run(args: &Server, context: &Context) -> Done {
    let settings = Settings::load(&args.config)
        .map_err(|error| Failure::usage(format!("{error}\nNothing was started. Reference: docs/configuration.md")))?;
    start(settings, context)
}

/// Builds, says what was made, and serves until a signal.
pub(crate) fn start(settings: Settings, context: &Context) -> Done {
    telemetry::init(settings.log).map_err(|error| Failure::usage(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        // Taken before anything is made: a signal during the start must end it in order too.
        let stop = stop()?;
        let bound = app::build(settings).await.map_err(|error| failure(&error))?;
        announce(&bound, context)?;
        bound.run(stop).await.map_err(|error| failure(&error))
    })
}

/// Resolves with the first SIGINT or SIGTERM.
fn stop() -> Result<impl Future<Output = ()>, Failure> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

fn announce(bound: &Bound, context: &Context) -> Done {
    match context.screen.format {
        Format::Json => context.screen.show(bound.addresses(), |_| String::new()),
        Format::Text => {
            let Some(mut summary) = bound.summary() else { return Ok(()) };
            if let Ok(here) = std::env::current_dir() {
                relative_to(&mut summary, &here);
            }
            out(&format!("{}\n", render(&summary, context.screen.paint)))
        }
    }
}

fn failure(error: &AppError) -> Failure {
    let exit = if error.is_mistake() { Exit::Usage } else { Exit::Failed };
    Failure::new(exit, format!("{error}\nNothing is served. More: chancery doctor"))
}
