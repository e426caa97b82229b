//! `chancery server`, and what it shares with `up`: the way from settings to a running server and out again.

use std::future::Future;
use std::path::PathBuf;

use clap::Args;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use super::Context;
use super::exit::{Done, Exit, Failure};
use super::screen::{Format, out};
use super::up::{relative_to, render};
use crate::app::reload::Configuration;
use crate::app::{self, AppError, Bound};
use crate::config::Settings;
use crate::config::files::read_configuration;
use crate::telemetry;

/// `server`.
#[derive(Debug, Args)]
pub struct Server {
    /// The configuration file (docs/configuration.md)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(crate) fn run(args: &Server, context: &Context) -> Done {
    let read = read_configuration(&args.config)
        .and_then(|text| Settings::of_text(&args.config, &text).map(|settings| (text, settings)));
    let (text, settings) = read
        .map_err(|error| Failure::usage(format!("{error}\nNothing was started. Reference: docs/configuration.md")))?;
    start(settings, Some(Configuration { path: args.config.clone(), text }), context)
}

/// Builds, says what was made, and serves until a signal.
pub(crate) fn start(settings: Settings, configuration: Option<Configuration>, context: &Context) -> Done {
    telemetry::init(settings.log).map_err(|error| Failure::usage(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    keep_memory_private();
    take_all_descriptors();
    runtime.block_on(async {
        // Taken before anything is made: a signal during the start must end it in order too.
        let (stop, hurry) = (signals(1)?, signals(2)?);
        // SIGHUP means "read again", from the first moment: without a listener it would end the process.
        let _hangup = signal(SignalKind::hangup())?;
        let bound = app::build(settings).await.map_err(|error| failure(&error))?.read_from(configuration);
        announce(&bound, context)?;
        tokio::select! {
            ended = bound.run(stop) => ended.map_err(|error| failure(&error)),
            () = hurry => Err(Failure::failed("ended at once by a second signal; the next start recovers the ledger")),
        }
    })
}

/// No core dump, and no look into memory by other processes of the same user: keys are in it.
fn keep_memory_private() {
    let core = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    let dumpable = nix::sys::prctl::set_dumpable(false);
    if let Err(error) = core.and(dumpable) {
        tracing::warn!(%error, "core dumps could not be switched off");
    }
}

/// The usual soft limit of 1,024 open files is less than the connections that are allowed; the ledger's own files must
/// never be those that find no place.
pub(crate) fn take_all_descriptors() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files could not be raised; many connections may exhaust it");
    }
}

/// Resolves with the `count`-th SIGINT or SIGTERM.
fn signals(count: usize) -> Result<impl Future<Output = ()>, Failure> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        for _ in 0..count {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
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
