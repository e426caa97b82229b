//! `chancery cert revoke` and `cert release`: ends certificates before their time, keeps identities out, lets them in again.

use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tonic::Streaming;

use super::choice::{Choice, confirm, span};
use super::follow::{self, Followed};
use super::rotate::{RotateOutput, rows, sums};
use crate::cli::Context;
use crate::cli::exit::{Done, Exit, Failure};
use crate::cli::screen::{NOTHING, Paint, Screen, Table, count, relative, short, thousands};
use crate::proto::chancery::admin::v1 as pb;
use crate::x509::crl::Reason;

/// Certificates that a dry run and the question show.
const MOST_ROWS: usize = 20;

/// `cert revoke`.
#[derive(Debug, Args)]
pub struct Revoke {
    #[command(flatten)]
    choice: Choice,
    /// Says which certificates that means, and does nothing
    #[arg(long)]
    dry_run: bool,
    /// Does not ask; needed where standard input is no terminal
    #[arg(long, short)]
    yes: bool,
    /// As RFC 5280 names it: unspecified, key-compromise, ca-compromise, affiliation-changed, superseded,
    /// cessation-of-operation, privilege-withdrawn
    #[arg(long, default_value = "unspecified", value_parser = reason)]
    reason: Reason,
    /// A ticket or a sentence, for the record
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    comment: String,
    /// Gives each holder a new certificate first, and denies nobody
    #[arg(long)]
    reissue: bool,
    /// How long to wait until every stream has answered
    #[arg(long, value_name = "SPAN", default_value = "5s", value_parser = span)]
    wait: Duration,
}

/// `cert release`.
#[derive(Debug, Args)]
pub struct Release {
    /// The SPIFFE ID, or the prefix with its *, as cert list --denied shows it
    pattern: String,
    /// A ticket or a sentence, for the record
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    comment: String,
}

/// The schema of `cert revoke --output json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RevokeOutput {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// Live certificates that were chosen.
    pub chosen: u64,
    /// Those of them that streams of this server hold.
    pub connected: u64,
    /// Those whose holders have no stream here.
    pub not_connected: u64,
    /// The chosen ones, at most a thousand.
    pub certificates: Vec<pb::Certificate>,
    /// What is denied from now on; null where nothing is.
    pub denied: Option<String>,
    /// The record of the act; null in a dry run.
    pub record: Option<String>,
    /// How many were revoked.
    pub revoked: u64,
    /// The first record of the revocation.
    pub first_record: String,
    /// The last.
    pub last_record: String,
    /// The CRLs that changed.
    pub crls: Vec<pb::Crl>,
    /// Streams that have the bundle; null when nothing was pushed.
    pub streams: Option<u64>,
    /// Those of them that acknowledged this one.
    pub acked: u64,
    /// Those that refused it.
    pub nacked: u64,
    /// From the request to the last word, in microseconds.
    pub elapsed_us: u64,
    /// What became of each holder before that; null without `--reissue`.
    pub reissued: Option<RotateOutput>,
}

/// Reads a reason as RFC 5280 names it.
pub(in crate::cli) fn reason(text: &str) -> Result<Reason, String> {
    Reason::parse(text).ok_or_else(|| {
        let names: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        format!("choose from {}", names.join(", "))
    })
}

pub(super) async fn revoke(args: Revoke, context: &Context) -> Done {
    let mut admin = context.admin().await?;
    let ask = pb::RevokeCertificatesRequest {
        selection: Some(args.choice.wire()),
        dry_run: args.dry_run || !args.yes,
        reason: args.reason.as_str().to_owned(),
        comment: args.comment,
        reissue: args.reissue,
    };
    let screen = &context.screen;
    if ask.dry_run {
        let mut looked = RevokeOutput { dry_run: true, ..RevokeOutput::default() };
        let mut answer = admin.revoke_certificates(ask.clone()).await?.into_inner();
        while let Some(message) = answer.message().await? {
            take(&mut looked, message);
        }
        if args.dry_run {
            return screen.show(&looked, |output| dry_screen(output, args.reissue, screen.now()));
        }
        if looked.chosen > 0 || looked.denied.is_some() {
            confirm(screen, &question(&looked, args.reissue), args.yes)?;
        }
    }
    let ask = pb::RevokeCertificatesRequest { dry_run: false, ..ask };
    let answer = admin.revoke_certificates(ask).await?.into_inner();
    let (mut done, failure) = follow(answer, args.wait, screen).await;
    if failure.is_some() && done.first_record.is_empty() {
        // It was chosen, and then nothing came of it.
        done.denied = None;
    }
    if done.record.is_some() {
        screen.show(&done, |output| done_screen(output, screen.paint))?;
    }
    match failure {
        Some(failure) => Err(failure),
        None => unanswered(&done, args.wait),
    }
}

/// What is left to say when not every stream has the revocation.
pub(super) fn unanswered(done: &RevokeOutput, wait: Duration) -> Done {
    let streams = done.streams.unwrap_or(0);
    let silent = streams.saturating_sub(done.acked + done.nacked);
    if done.nacked > 0 {
        let refused = thousands(done.nacked);
        return Err(Failure::new(
            Exit::Failed,
            format!("it is revoked, but {refused} streams refused the bundle and still accept it: chancery audit tail"),
        ));
    }
    if silent > 0 {
        let (silent, wait) = (count(silent, "stream"), wait.as_secs_f32());
        return Err(Failure::new(
            Exit::Failed,
            format!("it is revoked, but {silent} did not acknowledge the bundle within {wait} s: chancery status"),
        ));
    }
    Ok(())
}

pub(super) fn take(output: &mut RevokeOutput, message: pb::RevocationProgress) {
    output.elapsed_us = output.elapsed_us.max(message.elapsed_us);
    match message.step.as_str() {
        "selected" => {
            output.certificates = message.certificates;
            (output.chosen, output.connected) = (message.chosen, message.connected);
            output.not_connected = message.not_connected;
            (output.denied, output.record) = (message.denied, message.record);
        }
        "recorded" => {
            (output.first_record, output.last_record) = (message.first_record, message.last_record);
            (output.revoked, output.denied) = (message.revoked, message.denied);
        }
        "signed" => output.crls = message.crls,
        "pushed" | "done" => {
            output.streams = Some(message.streams);
            (output.acked, output.nacked) = (message.acked, message.nacked);
        }
        // A newer server may tell more.
        _ => {}
    }
}

/// What was done comes with a failure too.
async fn follow(
    answer: Streaming<pb::RevocationProgress>,
    wait: Duration,
    screen: &Screen,
) -> (RevokeOutput, Option<Failure>) {
    let mut output = RevokeOutput::default();
    let failure = follow::to_the_end(answer, wait, screen, &mut output).await;
    (output, failure)
}

impl Followed for RevokeOutput {
    type Message = pb::RevocationProgress;

    fn reissued_in(message: &mut Self::Message) -> Option<pb::RotatedCertificate> {
        message.reissued.take()
    }

    fn is_pushed(message: &Self::Message) -> bool {
        message.step == "pushed"
    }

    fn line(&self, message: &Self::Message, _reissued: Option<u64>) -> String {
        format!("  {} …", message.step)
    }

    fn take(&mut self, message: Self::Message) {
        take(self, message);
    }

    fn reissued(&mut self) -> (&mut Option<RotateOutput>, Option<&String>) {
        (&mut self.reissued, self.record.as_ref())
    }
}

/// What it would mean, in a sentence or two.
fn meaning(looked: &RevokeOutput, reissue: bool) -> String {
    let held = match (looked.connected, looked.not_connected) {
        (0, 0) => String::new(),
        (held, 0) => format!(", {} held by proxies that are connected here", thousands(held)),
        (held, away) => {
            format!(", {} held by proxies that are connected here, {} by others", thousands(held), thousands(away))
        }
    };
    let after = match (&looked.denied, reissue) {
        (Some(pattern), _) if pattern.ends_with('*') => {
            format!(" All of {pattern} stays denied until you release it.")
        }
        (Some(_), _) => " The identity stays denied until you release it.".to_owned(),
        (None, true) => " Each holder that is connected gets a new one first.".to_owned(),
        (None, false) => " Their holders are cut off until they start again.".to_owned(),
    };
    format!("{}{held}.{after}", count(looked.chosen, "certificate"))
}

pub(super) fn question(looked: &RevokeOutput, reissue: bool) -> String {
    format!("This revokes {}", meaning(looked, reissue))
}

pub(super) fn dry_screen(looked: &RevokeOutput, reissue: bool, now: OffsetDateTime) -> String {
    let mut text = String::new();
    if !looked.certificates.is_empty() {
        let mut table = Table::new(&["SERIAL", "IDENTITY", "PROXY", "EXPIRES", "HELD"]);
        for one in looked.certificates.iter().take(MOST_ROWS) {
            table.row([
                short(&one.serial),
                one.identity.clone(),
                one.node.clone().unwrap_or_else(|| NOTHING.to_owned()),
                relative(&one.not_after, now),
                one.held.clone(),
            ]);
        }
        text = table.render("");
        let more = looked.chosen.saturating_sub(u64::try_from(MOST_ROWS).unwrap_or(u64::MAX));
        if more > 0 {
            text.push_str(&format!("… and {} more\n", thousands(more)));
        }
    }
    format!("{text}Would revoke {} Nothing was done.\n", meaning(looked, reissue))
}

pub(super) fn done_screen(done: &RevokeOutput, paint: Paint) -> String {
    let mut text = String::new();
    let mut table = Table::bare();
    if let Some(reissued) = &done.reissued {
        let wrong: Vec<_> = reissued.certificates.iter().filter(|one| one.state != "acked").cloned().collect();
        text.push_str(&rows(&wrong, paint));
        table.row(["reissued".to_owned(), sums(reissued, paint)]);
    }
    if !done.first_record.is_empty() {
        table.row(["recorded".to_owned(), records(done)]);
    }
    for crl in &done.crls {
        let (number, entries) = (crl.number, thousands(crl.entries));
        table.row([format!("CRL {number}"), format!("of {}, signed, {entries} on it", crl.issuer)]);
    }
    if let Some(streams) = done.streams {
        let mut line = format!(
            "{}, {} acknowledged in {}",
            count(streams, "stream"),
            thousands(done.acked),
            millis(done.elapsed_us)
        );
        if done.nacked > 0 {
            line.push_str(&paint.bad(&format!(", {} refused it", thousands(done.nacked))));
        }
        table.row(["pushed".to_owned(), line]);
    }
    if let Some(pattern) = &done.denied {
        table.row(["denied".to_owned(), format!("{pattern}; to let it in again: chancery cert release '{pattern}'")]);
    }
    text.push_str(&table.render("  "));
    text.push_str(
        "Live connections stay open until they close or reach their age limit; to cut them: docs/revocation.md\n",
    );
    text
}

/// `example.org/ledger/ca-2026#10442–10444`.
fn records(done: &RevokeOutput) -> String {
    let of = count(done.revoked, "certificate");
    match (done.first_record.rsplit_once('#'), done.last_record.rsplit_once('#')) {
        (Some((log, _)), Some((same, last))) if log == same && done.first_record != done.last_record => {
            format!("{}–{last}, {of}", done.first_record)
        }
        _ if done.first_record == done.last_record => format!("{}, {of}", done.first_record),
        _ => format!("{}–{}, {of}", done.first_record, done.last_record),
    }
}

fn millis(micros: u64) -> String {
    match micros {
        0..10_000 => format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100),
        10_000..10_000_000 => format!("{} ms", thousands(micros / 1_000)),
        _ => format!("{} s", micros / 1_000_000),
    }
}

pub(super) async fn release(args: Release, context: &Context) -> Done {
    let ask = pb::ReleaseIdentityRequest { pattern: args.pattern, comment: args.comment };
    let released = context.admin().await?.release_identity(ask).await?.into_inner();
    context.screen.show(&released, release_screen)
}

pub(super) fn release_screen(released: &pb::Released) -> String {
    format!(
        "{} may have certificates again, as {} says; who waits for one gets it now.\n\
         Its revoked certificates stay revoked: chancery cert list --identity {}\n",
        released.pattern,
        released.record,
        released.pattern.trim_end_matches('*')
    )
}

/// `cert list --denied`.
pub(super) fn denied_screen(list: &pb::DenyList, now: OffsetDateTime) -> String {
    if list.denies.is_empty() {
        return "Nothing is denied. Certificates that are revoked: chancery cert list --state revoked\n".to_owned();
    }
    let mut table = Table::new(&["DENIED", "SINCE", "REASON", "RECORD"]);
    for one in &list.denies {
        table.row([one.pattern.clone(), relative(&one.since, now), one.reason.clone(), one.record.clone()]);
    }
    format!("{}To let one in again: chancery cert release 'DENIED'\n", table.render(""))
}
