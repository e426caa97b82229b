//! `chancery config`: check a configuration file, or print one with every key.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::Context;
use super::exit::{Done, Failure};
use super::screen::{Format, out};
use crate::config::files::{FileError, load_policy};
use crate::config::{Settings, reference};
use crate::keys::sealed::make_sealing_key;

/// The configuration file of `chancery server`.
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Finds all mistakes of a configuration and its policy at once; starts nothing
    Check(Check),
    /// Prints a file with every key, its meaning and its default
    Default,
    /// Makes a key that the authorities' keys are sealed with, for keys.sealing_key; overwrites nothing
    SealingKey(SealingKey),
}

/// `config sealing-key`.
#[derive(Debug, Args)]
pub struct SealingKey {
    /// Where it goes, mode 0600
    #[arg(value_name = "FILE")]
    path: PathBuf,
}

/// `config check`.
#[derive(Debug, Args)]
pub struct Check {
    /// The file
    #[arg(long, value_name = "FILE", default_value = "chancery.toml")]
    config: PathBuf,
}

/// The schema of `config check --output json`; mistakes are an error with exit code 2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckOutput {
    /// The configuration file.
    pub path: String,
    /// The trust domain.
    pub trust_domain: String,
    /// The data directory.
    pub data_dir: String,
    /// The policy file.
    pub policy: String,
    /// How many rules it has.
    pub rules: usize,
}

impl Config {
    pub(crate) fn run(self, context: &Context) -> Done {
        match self {
            Self::Check(args) => check(&args, context),
            Self::Default => print_default(context),
            Self::SealingKey(args) => sealing_key(&args, context),
        }
    }
}

fn print_default(context: &Context) -> Done {
    let text = reference::default_file();
    match context.screen.format {
        Format::Text => out(&text),
        Format::Json => context.screen.show(&serde_json::json!({"toml": text}), |_| String::new()),
    }
}

fn sealing_key(args: &SealingKey, context: &Context) -> Done {
    make_sealing_key(&args.path).map_err(|error| Failure::failed(error.to_string()))?;
    let path = args.path.display().to_string();
    context.screen.show(&serde_json::json!({"path": path}), |_| {
        format!(
            "made {path} (0600)\nKeep a copy apart from every copy of the data directory: without it the authority's keys are lost.\nName it in the configuration, [keys] sealing_key, or hand it over by systemd's LoadCredential=.\n"
        )
    })
}

fn check(args: &Check, context: &Context) -> Done {
    let wrong = |error: FileError| Failure::usage(error.to_string());
    let settings = Settings::load(&args.config).map_err(wrong)?;
    let sockets = settings.socket_names();
    let policy = load_policy(&settings.policy, &settings.trust_domain, Some(&sockets)).map_err(wrong)?;
    let output = CheckOutput {
        path: args.config.display().to_string(),
        trust_domain: settings.trust_domain.to_string(),
        data_dir: settings.data_dir.display().to_string(),
        policy: settings.policy.display().to_string(),
        rules: policy.rules().len(),
    };
    context.screen.show(&output, check_screen)
}

fn check_screen(output: &CheckOutput) -> String {
    format!(
        "{}: no mistakes, trust domain {}\n{}: {} rules, no mistakes\nTo start it: chancery server --config {}\n",
        output.path, output.trust_domain, output.policy, output.rules, output.path
    )
}
