//! `chancery ca rotate` and `ca taint`: the operator's hands on issuing CAs; what is of roots alone is in [`super::roots`].

use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tonic::Streaming;

use super::roots;
use crate::ca::slot::Name;
use crate::cli::Context;
use crate::cli::cert::choice::{confirm, span};
use crate::cli::cert::follow::{self, Followed};
use crate::cli::cert::revoke::reason;
use crate::cli::cert::rotate::{RotateOutput, rows, sums};
use crate::cli::exit::{Done, Exit, Failure};
use crate::cli::screen::{Format, Paint, Screen, Table, count, relative, thousands};
use crate::proto::chancery::admin::v1 as pb;
use crate::x509::crl::Reason;

/// `ca rotate`.
#[derive(Debug, Args)]
pub struct Rotate {
    /// Which level: an issuing CA takes over at once, a root when everyone holds it
    #[arg(value_name = "LEVEL", value_parser = ["issuing", "root"])]
    level: String,
    /// Says what it means, and does nothing
    #[arg(long)]
    dry_run: bool,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// For a root: stays until it has taken over, with a bar and an estimate
    #[arg(long, conflicts_with = "dry_run")]
    watch: bool,
    /// How long to wait until every stream has answered
    #[arg(long, value_name = "SPAN", default_value = "5s", value_parser = span)]
    wait: Duration,
}

/// `ca taint`.
#[derive(Debug, Args)]
pub struct Taint {
    /// The issuing CA whose key is not ours alone: "issuing 3"
    name: Name,
    /// Says what it means, and does nothing
    #[arg(long)]
    dry_run: bool,
    /// Does not ask; needed where standard input is no terminal
    #[arg(long, short)]
    yes: bool,
    /// As RFC 5280 names it: ca-compromise, key-compromise, unspecified, affiliation-changed, superseded,
    /// cessation-of-operation, privilege-withdrawn
    #[arg(long, default_value = "ca-compromise", value_parser = reason)]
    reason: Reason,
    /// A ticket or a sentence, for the record
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    comment: String,
    /// How long to wait until every stream has answered
    #[arg(long, value_name = "SPAN", default_value = "5s", value_parser = span)]
    wait: Duration,
}

/// A step with its record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepOutput {
    /// `prepared`, `published`, `activated`, `retired`, `tainted` or `revoked`.
    pub step: String,
    /// Which authority.
    pub authority: String,
    /// The record.
    pub record: String,
}

/// The schema of `ca rotate --output json`, `ca activate --output json` and `ca taint --output json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ActOutput {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// The authority that goes.
    pub authority: String,
    /// The state that it had.
    pub state: String,
    /// The prepared one that takes its place; null where a new one is made or none is needed.
    pub successor: Option<String>,
    /// Whether a new one is made.
    pub makes_new: bool,
    /// Unexpired certificates under the one that goes.
    pub live_certificates: u64,
    /// When the last of them expires.
    pub last_expires_at: Option<String>,
    /// Those of them that streams of this server hold.
    pub connected: u64,
    /// Those of the connected that are held over TCP.
    pub over_tcp: u64,
    /// Those whose holders have no stream here.
    pub not_connected: u64,
    /// Other issuing CAs, prepared or retiring, whose keys lay beside that of a tainted one.
    pub beside: Vec<String>,
    /// Who holds the root that is to take over, and who not; null where it is about none.
    pub evidence: Option<pb::RootEvidence>,
    /// The record of the act; null in a dry run.
    pub record: Option<String>,
    /// What was done, in this order.
    pub steps: Vec<StepOutput>,
    /// What became of each holder; null where nobody was to get a new certificate.
    pub reissued: Option<RotateOutput>,
    /// The CRLs that are new.
    pub crls: Vec<pb::Crl>,
    /// Streams that have the bundle; null when nothing was pushed.
    pub streams: Option<u64>,
    /// Those of them that acknowledged this one.
    pub acked: u64,
    /// Those that refused it.
    pub nacked: u64,
    /// From the request to the last word, in microseconds.
    pub elapsed_us: u64,
}

pub(super) async fn rotate(args: Rotate, context: &Context) -> Done {
    let (mut admin, screen, is_root) = (context.admin().await?, &context.screen, args.level == "root");
    let ask = pb::RotateAuthorityRequest { level: args.level, dry_run: args.dry_run, reason: args.reason };
    let answer = admin.rotate_authority(ask).await?.into_inner();
    let (output, failure) = follow(answer, args.wait, screen).await;
    if args.dry_run {
        failure.map_or(Ok(()), Err)?;
        let looked = ActOutput { dry_run: true, ..output };
        let plan = if is_root { roots::rotate_plan } else { rotate_plan };
        return screen.show(&looked, |looked| plan(looked, screen.now()));
    }
    if output.record.is_some() {
        screen.show(&output, |done| match is_root {
            true => roots::rotated_screen(done, screen.paint),
            false => rotated_screen(done, screen.now(), screen.paint),
        })?;
    }
    match failure {
        Some(failure) => Err(failure),
        None if is_root && args.watch => {
            let last = roots::watch(context).await?.done()?;
            if screen.format == Format::Text { crate::cli::screen::out(&last) } else { Ok(()) }
        }
        // Who has not answered is what a root waits for.
        None if is_root => Ok(()),
        None => unanswered(&output, args.wait),
    }
}

pub(super) async fn taint(args: Taint, context: &Context) -> Done {
    let mut admin = context.admin().await?;
    let screen = &context.screen;
    let ask = pb::TaintAuthorityRequest {
        name: args.name.to_string(),
        dry_run: args.dry_run || !args.yes,
        reason: args.reason.as_str().to_owned(),
        comment: args.comment,
    };
    if ask.dry_run {
        let answer = admin.taint_authority(ask.clone()).await?.into_inner();
        let (looked, failure) = follow(answer, args.wait, screen).await;
        failure.map_or(Ok(()), Err)?;
        let looked = ActOutput { dry_run: true, ..looked };
        if args.dry_run {
            return screen.show(&looked, |looked| taint_plan(looked, screen.now()));
        }
        confirm(screen, &question(&looked), args.yes)?;
    }
    let ask = pb::TaintAuthorityRequest { dry_run: false, ..ask };
    let answer = admin.taint_authority(ask).await?.into_inner();
    let (output, failure) = follow(answer, args.wait, screen).await;
    if output.record.is_some() {
        screen.show(&output, |done| tainted_screen(done, screen.paint))?;
    }
    failure.map_or_else(|| unanswered(&output, args.wait), Err)
}

/// What is left to say when not everyone has what was pushed.
fn unanswered(done: &ActOutput, wait: Duration) -> Done {
    let fail = |text: String| Err(Failure::new(Exit::Failed, text));
    let without = done.reissued.as_ref().map_or(0, |reissued| reissued.chosen.saturating_sub(reissued.acked));
    if without > 0 {
        let holders = count(without, "holder");
        return fail(format!(
            "all is done, but {holders} did not take a new certificate and are refused by their peers: chancery cert rotate \
             --issuer '{}'",
            done.authority
        ));
    }
    if done.nacked > 0 {
        return fail(format!(
            "all is done, but {} streams refused the bundle and go by the old one: chancery audit tail",
            thousands(done.nacked)
        ));
    }
    let silent = done.streams.unwrap_or(0).saturating_sub(done.acked);
    if silent > 0 {
        let (silent, wait) = (count(silent, "stream"), wait.as_secs_f32());
        return fail(format!(
            "all is done, but {silent} did not acknowledge the bundle within {wait} s: chancery status"
        ));
    }
    Ok(())
}

pub(super) fn take(output: &mut ActOutput, message: pb::AuthorityProgress) {
    output.elapsed_us = output.elapsed_us.max(message.elapsed_us);
    match message.step.as_str() {
        "planned" => {
            (output.authority, output.state) = (message.authority, message.state);
            (output.successor, output.makes_new) = (message.successor, message.makes_new);
            (output.live_certificates, output.last_expires_at) = (message.live_certificates, message.last_expires_at);
            (output.connected, output.not_connected) = (message.connected, message.not_connected);
            output.over_tcp = message.over_tcp;
            (output.beside, output.record, output.evidence) = (message.beside, message.record, message.evidence);
        }
        "prepared" | "published" | "activated" | "retired" | "tainted" | "revoked" => output.steps.push(StepOutput {
            step: message.step,
            authority: message.authority,
            record: message.record.unwrap_or_default(),
        }),
        "listed" | "signed" => output.crls.extend(message.crls),
        "pushed" | "done" => {
            output.streams = Some(message.streams);
            (output.acked, output.nacked) = (message.acked, message.nacked);
        }
        // A newer server may tell more.
        _ => {}
    }
}

/// What was done comes with a failure too.
pub(super) async fn follow(
    answer: Streaming<pb::AuthorityProgress>,
    wait: Duration,
    screen: &Screen,
) -> (ActOutput, Option<Failure>) {
    let mut output = ActOutput::default();
    let failure = follow::to_the_end(answer, wait, screen, &mut output).await;
    (output, failure)
}

impl Followed for ActOutput {
    type Message = pb::AuthorityProgress;

    fn reissued_in(message: &mut Self::Message) -> Option<pb::RotatedCertificate> {
        message.reissued.take()
    }

    fn is_pushed(message: &Self::Message) -> bool {
        message.step == "pushed"
    }

    fn line(&self, message: &Self::Message, reissued: Option<u64>) -> String {
        match reissued {
            Some(ended) => format!("  {} of {} reissued", thousands(ended), thousands(self.connected)),
            None => format!("  {} {} …", message.authority, message.step),
        }
    }

    fn take(&mut self, message: Self::Message) {
        take(self, message);
    }

    fn reissued(&mut self) -> (&mut Option<RotateOutput>, Option<&String>) {
        (&mut self.reissued, self.record.as_ref())
    }
}

/// `12 certificates live under it, the last expires in 9h`.
fn under(looked: &ActOutput, now: OffsetDateTime) -> String {
    let live = match looked.live_certificates {
        1 => "1 certificate lives under it".to_owned(),
        many => format!("{} certificates live under it", thousands(many)),
    };
    match &looked.last_expires_at {
        Some(last) => format!("{live}, the last expires {}", relative(last, now)),
        None => live,
    }
}

fn next_one(looked: &ActOutput) -> String {
    match (&looked.successor, looked.makes_new) {
        (Some(prepared), _) => format!("{prepared}, which is prepared, gets its CRL published and signs from then on."),
        (None, true) => "A new issuing CA is made, its CRL is published, and it signs from then on.".to_owned(),
        (None, false) => String::new(),
    }
}

pub(super) fn rotate_plan(looked: &ActOutput, now: OffsetDateTime) -> String {
    format!(
        "{}\n{} retires: {}; it stays until then.\n\
         Proxies see nothing: leaves move over at their next renewal.\nNothing was done.\n",
        next_one(looked),
        looked.authority,
        under(looked, now)
    )
}

pub(super) fn taint_plan(looked: &ActOutput, now: OffsetDateTime) -> String {
    let mut text = String::new();
    if looked.makes_new {
        text.push_str(&format!("{}\n", next_one(looked)));
    }
    text.push_str(&format!("{} ({}) never signs again: {}.\n", looked.authority, looked.state, under(looked, now)));
    text.push_str(&format!(
        "{} held by streams of this server: each is issued anew and pushed.\n",
        thousands(looked.connected)
    ));
    if looked.over_tcp > 0 {
        text.push_str(&format!(
            "{} of them over TCP: a connection whose client certificate is under it ends; its client must be attested anew.\n",
            thousands(looked.over_tcp)
        ));
    }
    if looked.not_connected > 0 {
        text.push_str(&format!(
            "{} held by nobody who has a stream here: refused from then on, their holders must be attested anew.\n",
            thousands(looked.not_connected)
        ));
    }
    text.push_str("Then its own certificate goes on the root's CRL, and whatever is under it is refused everywhere.\n");
    text.push_str(&beside(looked));
    text.push_str("Nothing was done.\n");
    text
}

/// What else the thief may have.
fn beside(output: &ActOutput) -> String {
    let each = output
        .beside
        .iter()
        .map(|name| format!("The key of {name} lay beside it: if it may be stolen too, chancery ca taint '{name}'\n"));
    each.collect()
}

pub(super) fn question(looked: &ActOutput) -> String {
    let away = match looked.not_connected {
        0 => String::new(),
        away => format!(" {} more are cut off until their holders are attested anew.", thousands(away)),
    };
    format!(
        "This ends {} for good: {} get a successor, then everything under it is refused everywhere.{away}",
        looked.authority,
        count(looked.connected, "certificate")
    )
}

pub(super) fn steps(output: &ActOutput, paint: Paint) -> Table {
    let mut table = Table::bare();
    table.row(["recorded".to_owned(), String::new(), output.record.clone().unwrap_or_default()]);
    for step in &output.steps {
        let word = if step.step == "tainted" { paint.bad(&step.step) } else { step.step.clone() };
        table.row([word, step.authority.clone(), step.record.clone()]);
        if step.step == "tainted"
            && let Some(reissued) = &output.reissued
        {
            table.row(["reissued".to_owned(), String::new(), sums(reissued, paint)]);
        }
    }
    for crl in &output.crls {
        table.row([format!("CRL {}", crl.number), crl.issuer.clone(), format!("{} on it", thousands(crl.entries))]);
    }
    if let Some(streams) = output.streams {
        let mut line = format!("{}, {} acknowledged", count(streams, "stream"), thousands(output.acked));
        if output.nacked > 0 {
            line.push_str(&paint.bad(&format!(", {} refused it", thousands(output.nacked))));
        }
        table.row(["pushed".to_owned(), String::new(), line]);
    }
    table
}

pub(super) fn rotated_screen(done: &ActOutput, now: OffsetDateTime, paint: Paint) -> String {
    format!(
        "{}{} retires: {}; it stays until then. Leaves move over at their next renewal;\n\
         to have them move now: chancery cert rotate --issuer '{}'\n",
        steps(done, paint).render("  "),
        done.authority,
        under(done, now),
        done.authority
    )
}

pub(super) fn tainted_screen(done: &ActOutput, paint: Paint) -> String {
    let mut text = String::new();
    if let Some(reissued) = &done.reissued {
        let wrong: Vec<_> = reissued.certificates.iter().filter(|one| one.state != "acked").cloned().collect();
        text.push_str(&rows(&wrong, paint));
    }
    text.push_str(&steps(done, paint).render("  "));
    if done.not_connected > 0 {
        text.push_str(&format!(
            "{} under it had no stream here: their holders must be attested anew\n",
            count(done.not_connected, "certificate")
        ));
    }
    text.push_str(&beside(done));
    text.push_str(
        "Live connections stay open until they close or reach their age limit; to cut them: docs/revocation.md\n",
    );
    text
}

#[cfg(test)]
mod tests;
