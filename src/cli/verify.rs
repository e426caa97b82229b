//! `chancery audit verify`: the ledger against itself and against an older checkpoint, on the files alone.

use std::fs;
use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use super::Context;
use super::exit::{Done, Exit, Failure};
use super::screen::{Format, Paint, Table, count, thousands};
use crate::audit::ledger::VerifierKey;
use crate::audit::verify::{Report, VerifyError, VerifyOptions, verify};
use crate::proto::chancery::admin::v1 as pb;

/// The largest checkpoint or key file that is read, in bytes.
const LARGEST_TEXT: u64 = 64 * 1024;

/// `audit verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// A checkpoint from earlier, kept where this ledger's administrator could not change it
    #[arg(long, value_name = "FILE")]
    older: Option<PathBuf>,
    /// A verifier key from a source you trust; repeatable. Without it the keys beside the logs are believed
    #[arg(long, value_name = "FILE")]
    vkey: Vec<PathBuf>,
    /// Do not put the result on record
    #[arg(long)]
    no_record: bool,
}

/// The schema of `audit verify --output json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyOutput {
    /// Whether everything holds.
    pub passed: bool,
    /// The first thing that does not hold.
    pub failure: Option<String>,
    /// Records that were checked.
    pub records: u64,
    /// Certificates that were authorised.
    pub certificates: u64,
    /// Of those, how many have the record of their signature.
    pub signed: u64,
    /// Records of a newer schema: hashed, not read.
    pub unread: u64,
    /// The size of the older checkpoint that the log continues.
    pub consistent_with: Option<u64>,
    /// Whether the keys came from outside the directory.
    pub trusted_keys: bool,
    /// Every log, oldest first.
    pub logs: Vec<VerifiedLog>,
    /// The record of this verification, when a server took it.
    pub recorded: Option<String>,
}

/// One verified log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedLog {
    /// Its directory's name.
    pub name: String,
    /// Its origin.
    pub origin: String,
    /// Records under its checkpoint.
    pub size: u64,
    /// The root hash, hex.
    pub root: String,
}

pub(crate) async fn run(args: Verify, context: &Context) -> Done {
    let options = VerifyOptions {
        older: args.older.as_ref().map(read_text).transpose()?,
        keys: args.vkey.iter().map(read_key).collect::<Result<_, _>>()?,
    };
    let trusted_keys = !options.keys.is_empty();
    let bar = progress(context);
    let directory = context.data_dir.join("ledger");
    let result = verify(&directory, &options, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let mut output = match result {
        Ok(report) => passed(report),
        // Nothing was verified: that is no finding about a ledger.
        Err(error @ VerifyError::NoLog { .. }) => return Err(Failure::usage(error.to_string())),
        Err(error) => VerifyOutput { failure: Some(error.to_string()), ..VerifyOutput::default() },
    };
    output.trusted_keys = trusted_keys;
    if !args.no_record {
        output.recorded = record(&output, context).await;
    }
    let screen = &context.screen;
    screen.show(&output, |output| verify_screen(output, screen.paint))?;
    if output.passed { Ok(()) } else { Err(Failure::said(Exit::Unverified)) }
}

fn read_text(path: &PathBuf) -> Result<String, Failure> {
    let failed = |error: std::io::Error| Failure::usage(format!("{}: {error}", path.display()));
    if fs::metadata(path).map_err(failed)?.len() > LARGEST_TEXT {
        return Err(Failure::usage(format!("{} is too large for a checkpoint or a verifier key", path.display())));
    }
    fs::read_to_string(path).map_err(failed)
}

fn read_key(path: &PathBuf) -> Result<VerifierKey, Failure> {
    let text = read_text(path)?;
    VerifierKey::parse(text.trim()).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

/// A bar on a terminal, nothing anywhere else.
fn progress(context: &Context) -> ProgressBar {
    if context.screen.format == Format::Json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("Checking {human_len} records {bar:28} {percent:>3} %  {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━━ "));
    bar
}

fn passed(report: Report) -> VerifyOutput {
    let logs = report.logs.into_iter().map(|log| VerifiedLog {
        name: log.name,
        origin: log.checkpoint.origin.to_string(),
        size: log.checkpoint.size,
        root: hex::encode(log.checkpoint.root),
    });
    VerifyOutput {
        passed: true,
        failure: None,
        records: report.records,
        certificates: report.certificates,
        signed: report.signed,
        unread: report.unread,
        consistent_with: report.consistent_with,
        trusted_keys: false,
        logs: logs.collect(),
        recorded: None,
    }
}

/// Tells a running server; without one the result stands on the screen only.
async fn record(output: &VerifyOutput, context: &Context) -> Option<String> {
    let last = output.logs.last();
    let ask = pb::RecordVerificationRequest {
        passed: output.passed,
        root_hash: last.map(|log| log.root.clone()).unwrap_or_default(),
        size: last.map(|log| log.size).unwrap_or_default(),
        failure: output.failure.clone().unwrap_or_default(),
    };
    let mut admin = context.admin().await.ok()?;
    admin.record_verification(ask).await.ok().map(|answer| answer.into_inner().id)
}

fn verify_screen(output: &VerifyOutput, paint: Paint) -> String {
    let mut text = match &output.failure {
        Some(failure) => format!(
            "{}: {failure}\n  Keep a copy of the whole directory before anything else writes to it. What to do: docs/verify.md\n",
            paint.bad("verification failed")
        ),
        None => passed_screen(output, paint),
    };
    if let Some(id) = &output.recorded {
        text.push_str(&format!("  recorded as {id}\n"));
    }
    text
}

fn passed_screen(output: &VerifyOutput, paint: Paint) -> String {
    let ok = paint.good("ok");
    let mut table = Table::bare();
    let mut row = |name: &str, state: &str, detail: String| table.row([name.to_owned(), state.to_owned(), detail]);
    let hashes = match output.unread {
        0 => format!("every record, every tile: {} records", thousands(output.records)),
        unread => format!(
            "every record, every tile: {} records, {} of a newer schema not read",
            thousands(output.records),
            thousands(unread)
        ),
    };
    row("hashes", &ok, hashes);
    let origins: Vec<String> =
        output.logs.iter().map(|log| format!("{} ({})", log.origin, thousands(log.size))).collect();
    let keys = if output.trusted_keys { "by the keys you gave" } else { "by the keys beside the logs" };
    row("checkpoints", &ok, format!("signed {keys}: {}", origins.join(", ")));
    match output.consistent_with {
        Some(size) => row("history", &ok, format!("continues the checkpoint of size {}", thousands(size))),
        None => {
            row("history", "–", "no older checkpoint given: --older FILE shows that nothing was rewritten".to_owned())
        }
    }
    let unsigned = output.certificates.saturating_sub(output.signed);
    let waiting = match unsigned {
        0 => String::new(),
        unsigned => format!("; {} authorised without a record of their signature", thousands(unsigned)),
    };
    row("serials", &ok, format!("{}, each once{waiting}", count(output.certificates, "certificate")));
    table.render("  ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::screen::golden;

    #[test]
    fn the_screen_says_what_was_checked_and_what_was_not() {
        let log = VerifiedLog {
            name: "ca-2026".into(),
            origin: "example.org/ledger/ca-2026".into(),
            size: 1_204_551,
            root: "00".repeat(32),
        };
        let good = VerifyOutput {
            passed: true,
            records: 1_204_551,
            certificates: 612_004,
            signed: 612_004,
            consistent_with: Some(1_100_210),
            trusted_keys: true,
            logs: vec![log],
            recorded: Some("example.org/ledger/ca-2026#1204551".into()),
            ..VerifyOutput::default()
        };
        let alone = VerifyOutput {
            consistent_with: None,
            trusted_keys: false,
            recorded: None,
            signed: 612_003,
            unread: 2,
            ..good.clone()
        };
        let bad = VerifyOutput {
            failure: Some("record example.org/ledger/ca-2026#17: its JSON is not canonical (RFC 8785)".into()),
            ..VerifyOutput::default()
        };
        let screens = [good, alone, bad].map(|output| verify_screen(&output, Paint::PLAIN));
        golden::check("audit-verify.txt", &screens.join("\n"));
    }
}
