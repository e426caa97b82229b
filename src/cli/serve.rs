//! `chancery server`, and what it shares with `up`: the way from settings to a running server and out again.

use std::path::PathBuf;

use clap::Args;

use super::Context;
use super::exit::{Done, Failure};
use super::up::{UpSummary, render};
use crate::config::Settings;

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

/// Builds, prints what was made, runs until a signal.
pub(crate) fn start(settings: Settings, context: &Context) -> Done {
    let _ = (settings, context, render as fn(&UpSummary, super::screen::Paint) -> String);
    Err(Failure::failed("this build has no server in it"))
}
