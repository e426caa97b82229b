//! The command line: one file for each subcommand, `main` only calls [`main`].
//!
//! A command asks a server over its admin socket, or works on files; it prints one screen or one JSON value and ends
//! with a documented exit code. Screens are pure functions; what they share is in [`screen`]. Nothing here decides
//! anything about certificates, and nothing but `cert issue` and `fetch` ever holds a key.

pub mod approval;
pub mod audit;
pub mod bench;
pub mod breakglass;
pub mod bundle;
pub mod ca;
pub mod cert;
mod client;
pub mod config_file;
pub mod doctor;
pub mod envoy_bootstrap;
pub mod exit;
pub mod fetch;
mod ledger;
pub mod policy;
pub mod probe;
pub mod records;
mod reload;
#[cfg(test)]
mod schema;
pub mod screen;
pub mod serve;
pub mod shell;
mod status;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod up;
pub mod verify;

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tonic::transport::Channel;

use self::exit::{Done, Exit, Failure};
use self::screen::{Format, Paint, Screen, out};
use crate::clock::Clock;
use crate::proto::chancery::admin::v1::admin_client::AdminClient;

/// A SPIFFE certificate authority and rotation daemon for service meshes, with a tamper-evident audit ledger
#[derive(Debug, Parser)]
#[command(name = "chancery", version, after_help = exit::EXIT_CODES, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
struct Global {
    /// Text for people, or JSON with documented schemas (docs/cli-json.md)
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    output: Format,
    /// Everything of one installation; the server is found by it
    #[arg(long, global = true, env = "CHANCERY_DATA_DIR", value_name = "DIR", default_value = "./chancery-data")]
    data_dir: PathBuf,
    /// The server's admin socket, where its data directory may not be entered
    #[arg(long, global = true, env = "CHANCERY_ADMIN_SOCKET", value_name = "PATH")]
    admin_socket: Option<PathBuf>,
    #[command(flatten)]
    remote: tls::RemoteArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts a server with everything it needs, and nothing to configure
    Up(up::Up),
    /// Starts a server by its configuration file, with nothing implicit
    Server(serve::Server),
    /// Fetches a certificate into files over SDS and keeps it fresh
    Fetch(fetch::FetchArgs),
    /// Envoy: bootstrap
    #[command(subcommand)]
    Envoy(Envoy),
    /// Certificates: list, show, issue, rotate, revoke, release
    #[command(subcommand)]
    Cert(cert::Cert),
    /// Authorities: init, show, rotate, activate, retire, taint, reseal
    #[command(subcommand)]
    Ca(ca::Ca),
    /// Acts that take two operators: list, show, grant, refuse
    #[command(subcommand)]
    Approval(approval::Approval),
    /// For emergencies: seal a credential, open with it, close
    #[command(subcommand)]
    Breakglass(breakglass::Breakglass),
    /// The trust bundle: show
    #[command(subcommand)]
    Bundle(bundle::Bundle),
    /// Policy: check, show, explain, diff, apply
    #[command(subcommand)]
    Policy(policy::Policy),
    /// The ledger: tail, show, prove, verify, export
    #[command(subcommand)]
    Audit(audit::Audit),
    /// What to do with a ledger that does not open: recover
    #[command(subcommand)]
    Ledger(ledger::Ledger),
    /// Shakes hands with a listener: which certificate it shows, and whether it lets us in
    Probe(probe::Probe),
    /// Says whether the server is well, in a few lines
    Status,
    /// Looks for what is wrong with an installation, with or without its server
    Doctor(doctor::Doctor),
    /// Measures this build on this machine, beside what the machine does by itself
    Bench(bench::Bench),
    /// Has the server read its policy and configuration files again
    Reload,
    /// The configuration file: check, default, sealing-key
    #[command(subcommand)]
    Config(config_file::Config),
    /// Prints a completion script: chancery completions bash > /etc/bash_completion.d/chancery
    Completions(shell::Completions),
    /// Writes man pages, one for each command
    Man(shell::Man),
    /// Prints the version
    Version,
}

/// Help for those who run Envoy.
#[derive(Debug, Subcommand)]
enum Envoy {
    /// Writes an Envoy configuration that works as it is
    Bootstrap(envoy_bootstrap::EnvoyBootstrapArgs),
}

/// What a command works with.
pub(crate) struct Context {
    /// How to print.
    pub(crate) screen: Screen,
    /// The installation.
    pub(crate) data_dir: PathBuf,
    /// The admin socket, if it is named.
    pub(crate) admin_socket: Option<PathBuf>,
    /// The server on another machine, if one is named.
    pub(crate) remote: tls::RemoteArgs,
}

impl Context {
    /// Connects to the server that the command line means.
    pub(crate) async fn admin(&self) -> Result<AdminClient<Channel>, Failure> {
        client::connect(self).await
    }
}

/// Reads the command line, does what it says, and returns the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output and is no failure; clap's own code for the rest is ours: 2.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let format = cli.global.output;
    let screen = Screen { format, paint: Paint::of(&std::io::stdout()), clock: Clock::system() };
    let Global { data_dir, admin_socket, remote, .. } = cli.global;
    let context = Context { screen, data_dir, admin_socket, remote };
    match dispatch(cli.command, &context) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(format, Paint::of(&std::io::stderr())),
    }
}

fn dispatch(command: Command, context: &Context) -> Done {
    match command {
        Command::Up(args) => up::run(args, context),
        Command::Server(args) => serve::run(&args, context),
        Command::Fetch(args) => client_side(fetch_files(args, context)),
        Command::Envoy(Envoy::Bootstrap(args)) => bootstrap(&args, context),
        Command::Cert(command) => client_side(command.run(context)),
        Command::Ca(command) => client_side(command.run(context)),
        Command::Approval(command) => client_side(command.run(context)),
        Command::Breakglass(command) => client_side(command.run(context)),
        Command::Bundle(command) => client_side(command.run(context)),
        Command::Policy(command) => client_side(command.run(context)),
        Command::Audit(command) => client_side(command.run(context)),
        Command::Ledger(command) => client_side(command.run(context)),
        Command::Bench(args) => bench::run(&args, context),
        Command::Probe(args) => client_side(probe::run(args, context)),
        Command::Status => client_side(status::run(context)),
        Command::Reload => client_side(reload::run(context)),
        Command::Doctor(args) => client_side(doctor::run(args, context)),
        Command::Config(command) => command.run(context),
        Command::Completions(args) => shell::completions(&args),
        Command::Man(args) => shell::man(&args, context),
        Command::Version => version(context),
    }
}

/// Runs a command that waits for a server, on this thread.
fn client_side(work: impl Future<Output = Done>) -> Done {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

async fn fetch_files(args: fetch::FetchArgs, context: &Context) -> Done {
    let remote = context.remote.remote(Some(&args.dir), &context.screen.clock)?;
    let fetched = fetch::run(&args, &context.data_dir, remote, &mut std::io::stdout()).await;
    fetched.map_err(|error| Failure::new(Exit::of(error.exit_code()), error.to_string()))
}

fn bootstrap(args: &envoy_bootstrap::EnvoyBootstrapArgs, context: &Context) -> Done {
    // Collected first, so that a reader that goes away early ends the command as everywhere else.
    let (mut text, json) = (Vec::new(), context.screen.format == Format::Json);
    envoy_bootstrap::run(args, &context.data_dir, json, &mut text)
        .map_err(|error| Failure::new(Exit::of(error.exit_code()), error.to_string()))?;
    out(&String::from_utf8_lossy(&text))
}

fn version(context: &Context) -> Done {
    let value = serde_json::json!({"version": env!("CARGO_PKG_VERSION")});
    match context.screen.format {
        Format::Text => out(&format!("chancery {}\n", env!("CARGO_PKG_VERSION"))),
        Format::Json => out(&format!("{value}\n")),
    }
}
