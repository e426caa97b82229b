//! `chancery breakglass seal|open|close`: the way in when nothing else lets anybody in.
//!
//! The credential is made here and never leaves but to be used: sealing sends the server a verifier, opening sends the
//! credential once. It comes from a file, standard input or a prompt, and never from the command line, where everybody
//! could read it.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::Context;
use super::approval::granted;
use super::cert::choice::span;
use super::exit::{Done, Failure};
use super::screen::{Paint, count, out, relative};
use crate::breakglass::{LONGEST_CREDENTIAL, Verifier, make};
use crate::entropy::Entropy;
use crate::proto::chancery::admin::v1 as pb;
use crate::secret::{SecretBytes, read_private, write_private};

/// A sealed credential for emergencies: loud, limited in time, used up by its use.
#[derive(Debug, Subcommand)]
pub enum Breakglass {
    /// Makes a credential and shows it once; the one before opens nothing any more
    Seal(Seal),
    /// Uses the credential up: whoever opens is an admin without a second operator for a time
    Open(Open),
    /// Ends it before its time, and tells what was done under it
    Close,
}

/// `breakglass seal`.
#[derive(Debug, Args)]
pub struct Seal {
    /// Writes the credential here, 0600, instead of showing it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
}

/// `breakglass open`.
#[derive(Debug, Args)]
pub struct Open {
    /// Why: everybody who looks at the status reads it
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// For how long, 1m to 24h
    #[arg(long = "for", value_name = "SPAN", default_value = "15m", value_parser = span)]
    span: Duration,
    /// A file with the credential, - for standard input; without it the terminal is asked
    #[arg(long, value_name = "FILE")]
    credential: Option<PathBuf>,
}

/// The schema of `breakglass seal --output json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealOutput {
    /// Names the credential in records.
    pub id: String,
    /// The credential itself; null where it went into a file.
    pub credential: Option<String>,
    /// That file.
    pub file: Option<String>,
    /// The record.
    pub record: String,
    /// Whether another credential was there, which opens nothing any more.
    pub replaced: bool,
}

impl Breakglass {
    pub(super) async fn run(self, context: &Context) -> Done {
        match self {
            Self::Seal(args) => seal(args, context).await,
            Self::Open(args) => open(args, context).await,
            Self::Close => close(context).await,
        }
    }
}

async fn seal(args: Seal, context: &Context) -> Done {
    let mut admin = context.admin().await?;
    let entropy = Entropy::system();
    let credential = make(&entropy);
    let Verifier { id, rounds, salt, hash } = Verifier::of(&credential, &entropy);
    if let Some(path) = &args.out {
        if path.exists() {
            return Err(Failure::usage(format!("{} is there already: name another file", path.display())));
        }
        // Before the server knows it: a credential that was sealed and lost would be worse than one that opens nothing.
        write_private(path, credential.expose()).map_err(|why| Failure::failed(why.to_string()))?;
    }
    let ask = pb::SealBreakglassRequest { id: id.clone(), rounds, salt, hash, reason: args.reason };
    let sealed = loop {
        match admin.seal_breakglass(ask.clone()).await {
            Ok(sealed) => break sealed.into_inner(),
            // The credential exists here alone, so this waits until the other person has answered.
            Err(status) => granted(&mut admin, status.into()).await?,
        }
    };
    let text = String::from_utf8_lossy(credential.expose()).into_owned();
    let output = SealOutput {
        id,
        credential: args.out.is_none().then_some(text),
        file: args.out.map(|path| path.display().to_string()),
        record: sealed.record,
        replaced: sealed.replaced,
    };
    context.screen.show(&output, |output| seal_screen(output, context.screen.paint))
}

fn seal_screen(output: &SealOutput, paint: Paint) -> String {
    let place = match (&output.credential, &output.file) {
        (Some(credential), _) => format!("  {credential}\nThis is the only time that it is shown."),
        (None, Some(file)) => format!("  in {file} (0600)\nThe server does not have it."),
        (None, None) => String::new(),
    };
    let replaced = if output.replaced { " The one before opens nothing any more." } else { "" };
    format!(
        "{} credential {}\n{place} Keep it on paper, in a safe, apart from the operators' keys.{replaced}\nRecord {}\n\
         To use it: chancery breakglass open --reason TEXT --for 15m\n",
        paint.good("Sealed:"),
        output.id,
        output.record
    )
}

async fn open(args: Open, context: &Context) -> Done {
    let seconds = u32::try_from(args.span.as_secs()).map_err(|_| Failure::usage("--for is longer than a day"))?;
    let mut admin = context.admin().await?;
    let credential = read(args.credential.as_deref())?;
    let credential = String::from_utf8(credential.expose().to_vec())
        .map_err(|_| Failure::usage("the credential is not text: is it the right file?"))?;
    let ask = pb::OpenBreakglassRequest { credential, reason: args.reason, seconds };
    let opened = admin.open_breakglass(ask).await?.into_inner();
    let (now, paint) = (context.screen.now(), context.screen.paint);
    context.screen.show(&opened, |opened| open_screen(opened, now, paint))
}

fn open_screen(opened: &pb::Breakglass, now: OffsetDateTime, paint: Paint) -> String {
    format!(
        "{} {} You are an admin and need no second operator; everything that you do is on record under {}.\n\
         Record {}\nThe credential is used up: chancery breakglass seal makes another.\nDone? chancery breakglass close\n",
        paint.bad("BREAK-GLASS IS OPEN"),
        format_args!("until {} ({}).", opened.until, relative(&opened.until, now)),
        opened.id,
        opened.record
    )
}

async fn close(context: &Context) -> Done {
    let closed = context.admin().await?.close_breakglass(pb::CloseBreakglassRequest {}).await?.into_inner();
    context.screen.show(&closed, close_screen)
}

fn close_screen(closed: &pb::BreakglassClosed) -> String {
    let mut text = format!("Closed: {} under {}\n", count(closed.count, "act"), closed.id);
    closed.acts.iter().for_each(|act| text.push_str(&format!("  {act}\n")));
    let told = u64::try_from(closed.acts.len()).unwrap_or(u64::MAX);
    if closed.count > told {
        text.push_str(&format!("  and {} more: chancery audit export\n", closed.count - told));
    }
    format!("{text}Record {}\nSeal a new credential: chancery breakglass seal\n", closed.record)
}

/// The credential from a file, standard input or the terminal.
fn read(path: Option<&Path>) -> Result<SecretBytes, Failure> {
    let bytes = match path {
        Some(path) if path != Path::new("-") => {
            return read_private(path).map_err(|why| Failure::usage(why.to_string()));
        }
        None if std::io::stdin().is_terminal() => return prompt(),
        None => {
            return Err(Failure::usage(
                "standard input is no terminal: name a file with --credential, or - for standard input",
            ));
        }
        Some(_) => {
            let mut bytes = Vec::new();
            let limit = u64::try_from(LONGEST_CREDENTIAL).unwrap_or(u64::MAX);
            std::io::stdin().lock().take(limit).read_to_end(&mut bytes)?;
            bytes
        }
    };
    Ok(SecretBytes::new(bytes))
}

/// Asks on the terminal, which does not show what is typed.
fn prompt() -> Result<SecretBytes, Failure> {
    let stdin = std::io::stdin();
    let before = tcgetattr(&stdin).map_err(std::io::Error::from)?;
    let mut silent = before.clone();
    silent.local_flags.remove(LocalFlags::ECHO);
    eprint!("Credential: ");
    std::io::stderr().flush()?;
    tcsetattr(&stdin, SetArg::TCSAFLUSH, &silent).map_err(std::io::Error::from)?;
    let mut line = String::new();
    let read = stdin.read_line(&mut line);
    let shown = tcsetattr(&stdin, SetArg::TCSAFLUSH, &before).map_err(std::io::Error::from);
    eprintln!();
    read?;
    shown?;
    out("")?;
    Ok(SecretBytes::new(line.into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::screen::golden;
    use time::macros::datetime;

    #[test]
    fn what_is_opened_is_loud_and_what_was_done_is_listed() {
        let shown = SealOutput {
            id: "5e0c4015899a".into(),
            credential: Some("chancery-breakglass-1111-2222".into()),
            record: "example.org/ledger/ca-2026#11".into(),
            ..SealOutput::default()
        };
        let kept = SealOutput { credential: None, file: Some("glass".into()), replaced: true, ..shown.clone() };
        let opened = pb::Breakglass {
            id: shown.id.clone(),
            until: "2026-11-23T13:15:00Z".into(),
            record: "example.org/ledger/ca-2026#12".into(),
            ..pb::Breakglass::default()
        };
        let closed = pb::BreakglassClosed {
            id: shown.id.clone(),
            record: "example.org/ledger/ca-2026#20".into(),
            acts: vec!["example.org/ledger/ca-2026#13 ca.taint".into()],
            count: 3,
        };
        let sealed = [shown, kept].map(|output| seal_screen(&output, Paint::PLAIN)).join("\n");
        let opened = open_screen(&opened, datetime!(2026-11-23 13:00 UTC), Paint::PLAIN);
        golden::check("breakglass.txt", &format!("{sealed}\n{opened}\n{}", close_screen(&closed)));
    }
}
