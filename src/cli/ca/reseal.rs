//! `chancery ca reseal`: all keys under another sealing key, beside them, in a file or wrapped by Vault.

use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::app::AppError;
use crate::app::sealing;
use crate::cli::Context;
use crate::cli::exit::{Done, Failure};
use crate::config::Settings;
use crate::config::files::FileError;

/// `ca reseal`.
#[derive(Debug, Args)]
pub struct Reseal {
    /// The server's configuration, already as it shall be: it says where the sealing key is to be
    #[arg(long, value_name = "FILE", default_value = "chancery.toml")]
    config: PathBuf,
    /// The file of the present sealing key, where that is neither beside the keys nor wrapped by Vault
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

/// The schema of `ca reseal --output json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ResealOutput {
    /// Where the sealing key is now, in words.
    pub place: String,
    /// Its identifier, as the sealed files name it.
    pub sealing_key: String,
    /// How many keys are sealed under it.
    pub keys: usize,
    /// The record of it.
    pub record: String,
}

pub(super) async fn run(args: Reseal, context: &Context) -> Done {
    let settings = Settings::load(&args.config).map_err(|error: FileError| Failure::usage(error.to_string()))?;
    let done = sealing::reseal(&settings, args.from.as_deref(), context.screen.clock.clone()).await;
    let done = done.map_err(|error: AppError| Failure::failed(error.to_string()))?;
    let output = ResealOutput {
        place: done.place,
        sealing_key: done.sealing_key,
        keys: done.keys,
        record: done.record.to_string(),
    };
    context.screen.show(&output, screen)
}

fn screen(output: &ResealOutput) -> String {
    format!(
        "{} keys are sealed under {}, {}.\nOn record as {}. Start the server. What was sealed under the key before, such as a \
         backup, still needs that one.\n",
        output.keys, output.sealing_key, output.place, output.record
    )
}
