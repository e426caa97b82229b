//! `chancery ca rotate root`, `ca activate` and `ca retire` of a root: who would be left behind is on the screen first.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use time::OffsetDateTime;

use super::acts::{ActOutput, StepOutput, follow, steps};
use crate::ca::slot::{Level, Name};
use crate::cli::Context;
use crate::cli::cert::choice::{confirm, span};
use crate::cli::exit::{Done, Exit, Failure};
use crate::cli::screen::{Format, NOTHING, Paint, Table, count, relative, short, thousands};
use crate::proto::chancery::admin::v1 as pb;

/// Left-behind holders that a screen names; JSON has all that the server names.
const MOST_LINES: usize = 10;

/// How often `--watch` looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// `ca activate`.
#[derive(Debug, Args)]
pub struct Activate {
    /// A prepared root: "root 2"
    name: Name,
    /// Says who would be left behind, and does nothing
    #[arg(long)]
    dry_run: bool,
    /// Takes over although somebody lacks it: those are named, and you are asked
    #[arg(long)]
    force: bool,
    /// Does not ask; needed where standard input is no terminal
    #[arg(long, short)]
    yes: bool,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// How long to wait until every stream has answered
    #[arg(long, value_name = "SPAN", default_value = "5s", value_parser = span)]
    wait: Duration,
}

/// `ca retire`.
#[derive(Debug, Args)]
pub struct Retire {
    /// A prepared issuing CA or root ("issuing 4", "root 2"), or a root that signs no more
    name: Name,
    /// Says what hangs on it, and does nothing
    #[arg(long)]
    dry_run: bool,
    /// Takes a root out although certificates under it live: those are named, and you are asked
    #[arg(long)]
    force: bool,
    /// Does not ask; needed where standard input is no terminal
    #[arg(long, short)]
    yes: bool,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
}

pub(super) async fn activate(args: Activate, context: &Context) -> Done {
    let (mut admin, screen) = (context.admin().await?, &context.screen);
    let ask = pb::ActivateAuthorityRequest {
        name: args.name.to_string(),
        dry_run: true,
        force: args.force,
        reason: args.reason,
    };
    if args.dry_run || args.force {
        let answer = admin.activate_authority(ask.clone()).await?.into_inner();
        let (looked, failure) = follow(answer, args.wait, screen).await;
        failure.map_or(Ok(()), Err)?;
        let looked = ActOutput { dry_run: true, ..looked };
        if args.dry_run {
            return screen.show(&looked, |looked| activate_plan(looked, screen.now()));
        }
        if screen.format == Format::Text {
            eprint!("{}", looked.evidence.as_ref().map(|one| behind(one, screen.now())).unwrap_or_default());
        }
        confirm(screen, &question(&looked), args.yes)?;
    }
    let ask = pb::ActivateAuthorityRequest { dry_run: false, ..ask };
    let answer = admin.activate_authority(ask).await?.into_inner();
    let (output, failure) = follow(answer, args.wait, screen).await;
    if output.record.is_some() {
        screen.show(&output, |done| activated_screen(done, screen.paint))?;
    }
    failure.map_or(Ok(()), Err)
}

pub(super) async fn retire(args: Retire, context: &Context) -> Done {
    let (mut admin, screen) = (context.admin().await?, &context.screen);
    let ask = pb::RetireAuthorityRequest {
        name: args.name.to_string(),
        reason: args.reason,
        force: args.force,
        dry_run: true,
    };
    if args.dry_run || (args.force && args.name.level == Level::Root) {
        let looked = admin.retire_authority(ask.clone()).await?.into_inner();
        if args.dry_run {
            return screen.show(&looked, |looked| retire_plan(looked, screen.now()));
        }
        if looked.live_certificates > 0 {
            if screen.format == Format::Text {
                eprint!("{}", certificates(&looked, screen.now()));
            }
            let live = count(looked.live_certificates, "certificate");
            confirm(
                screen,
                &format!("This takes {} out of every bundle: {live} under it are refused everywhere.", looked.name),
                args.yes,
            )?;
        }
    }
    let retired = admin.retire_authority(pb::RetireAuthorityRequest { dry_run: false, ..ask }).await?.into_inner();
    screen.show(&retired, retired_screen)
}

/// Waits until the root that waits has taken over, with a bar and an estimate.
pub(super) async fn watch(context: &Context) -> Result<WatchOutput, Failure> {
    let (mut admin, screen, bar) = (context.admin().await?, &context.screen, bar(context));
    let mut waiting: Option<String> = None;
    loop {
        let list = admin.list_authorities(pb::ListAuthoritiesRequest {}).await?.into_inner().authorities;
        let next = list.iter().rfind(|one| one.level == "root" && one.state == "prepared");
        match (next, &waiting) {
            (Some(next), _) => {
                waiting = Some(next.name.clone());
                if let Some(evidence) = &next.evidence {
                    bar.set_length(evidence.holders);
                    bar.set_position(evidence.holding);
                    bar.set_message(estimate(evidence, screen.now()));
                }
            }
            (None, None) => {
                bar.finish_and_clear();
                return Err(Failure::failed("no root waits to take over: chancery ca rotate root prepares one"));
            }
            (None, Some(name)) => {
                bar.finish_and_clear();
                let found = list.iter().find(|one| one.name == *name).map(|one| one.state.clone());
                let state = found.unwrap_or_else(|| "gone".to_owned());
                return Ok(WatchOutput { root: name.clone(), state });
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// How a watch ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct WatchOutput {
    pub(super) root: String,
    pub(super) state: String,
}

impl WatchOutput {
    /// The last line, or why it is none.
    pub(super) fn done(&self) -> Result<String, Failure> {
        match self.state.as_str() {
            "active" => {
                Ok(format!("{} has taken over; everyone gets a new certificate: chancery ca show\n", self.root))
            }
            other => Err(Failure::new(Exit::Failed, format!("{} is {other}: chancery audit tail says why", self.root))),
        }
    }
}

/// A bar on a terminal, nothing anywhere else.
fn bar(context: &Context) -> ProgressBar {
    if context.screen.format == Format::Json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("Held by {human_pos} of {human_len} {bar:28} {msg}  {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━━ "));
    bar
}

/// How long it takes at most.
pub(super) fn estimate(evidence: &pb::RootEvidence, now: OffsetDateTime) -> String {
    match (&evidence.complete_by, evidence.complete) {
        (_, true) => "now".to_owned(),
        (Some(by), false) => format!("{} at the latest", relative(by, now)),
        (None, false) => "until those who are connected acknowledge".to_owned(),
    }
}

/// What comes next of a root that waits, for `ca show`.
pub(super) fn next(root: &pb::Authority, now: OffsetDateTime) -> String {
    let name = &root.name;
    let Some(evidence) = &root.evidence else {
        return format!("Next: {name} is put into every bundle with its CRL; if it stays at that, the log says why\n");
    };
    let lacking = evidence.holders.saturating_sub(evidence.holding);
    let when = estimate(evidence, now);
    match (evidence.complete, lacking) {
        (true, _) => format!("Next: {name} takes over now, by itself\n"),
        (false, 0) => format!(
            "Next: {name} takes over by itself when whoever acknowledges nothing has had time, {}\n",
            relative(&evidence.silent_until, now)
        ),
        (false, lacking) => format!(
            "Next: {name} takes over by itself when the last {} it, {when}: chancery ca rotate root --watch\n",
            if lacking == 1 { "one holds".to_owned() } else { format!("{} hold", thousands(lacking)) }
        ),
    }
}

/// Who lacks a root, those that stay longest first.
pub(super) fn behind(evidence: &pb::RootEvidence, now: OffsetDateTime) -> String {
    let mut table = Table::bare();
    for one in evidence.behind.iter().take(MOST_LINES) {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| NOTHING.to_owned());
        let serial = one.serial.as_deref().map_or_else(|| NOTHING.to_owned(), short);
        let end =
            one.until.as_ref().map_or_else(|| "no end".to_owned(), |until| format!("ends {}", relative(until, now)));
        let who = one.identity.clone().unwrap_or_else(|| one.caller.clone());
        table.row([serial, who, text(&one.node), one.why.clone(), end]);
    }
    let lacking = evidence.holders.saturating_sub(evidence.holding);
    let more = lacking.saturating_sub(u64::try_from(evidence.behind.len().min(MOST_LINES)).unwrap_or(u64::MAX));
    let mut text = table.render("  ");
    if more > 0 {
        text.push_str(&format!("  and {} more\n", thousands(more)));
    }
    text
}

/// `214 certificates live under it, 5 of them with nobody who has a stream here`.
fn live(looked: &ActOutput) -> String {
    let live = match looked.live_certificates {
        1 => "1 certificate lives".to_owned(),
        many => format!("{} certificates live", thousands(many)),
    };
    match looked.not_connected {
        0 => format!("{live} under it"),
        away => format!("{live} under it, {} with nobody who has a stream here", thousands(away)),
    }
}

pub(super) fn rotate_plan(looked: &ActOutput, now: OffsetDateTime) -> String {
    let first = match &looked.successor {
        Some(prepared) => format!("{prepared} is prepared and in every bundle already."),
        None => format!(
            "A new root is made, with an issuing CA under it, and goes into every bundle beside {}, all with their CRLs.",
            looked.authority
        ),
    };
    let last = looked.last_expires_at.as_ref().map(|last| format!(", the last ends {}", relative(last, now)));
    format!(
        "{first}\nIt takes over by itself when nobody is left who would refuse what it signs; then everyone gets a new \
         certificate.\n{} stays in every bundle until the last certificate under it has ended: {}{}.\nNothing was done.\n",
        looked.authority,
        live(looked),
        last.unwrap_or_default()
    )
}

pub(super) fn rotated_screen(done: &ActOutput, paint: Paint) -> String {
    let made = |step: &&StepOutput| step.step == "published";
    let next = done.steps.iter().find(made).map(|step| step.authority.clone()).or_else(|| done.successor.clone());
    format!(
        "{}{} takes over by itself when everyone holds it: chancery ca rotate root --watch\n",
        steps(done, paint).render("  "),
        next.unwrap_or_else(|| "The new root".to_owned())
    )
}

pub(super) fn activate_plan(looked: &ActOutput, now: OffsetDateTime) -> String {
    let evidence = looked.evidence.clone().unwrap_or_default();
    let lacking = evidence.holders.saturating_sub(evidence.holding);
    let first = match (evidence.complete, lacking) {
        (true, _) => format!("Nobody would refuse what {} signs: it takes over by itself.\n", looked.authority),
        (false, 0) => format!(
            "All {} that acknowledge hold {}; whoever acknowledges nothing has until {} ({}).\n",
            count(evidence.holders, "holder"),
            looked.authority,
            evidence.silent_until,
            relative(&evidence.silent_until, now)
        ),
        (false, lacking) => format!(
            "{} of {} cannot verify what {} and {} sign, and would refuse everyone's next certificate:\n",
            thousands(lacking),
            count(evidence.holders, "holder"),
            looked.authority,
            evidence.issuing
        ),
    };
    format!("{first}{}Nothing was done.\n", behind(&evidence, now))
}

pub(super) fn question(looked: &ActOutput) -> String {
    let evidence = looked.evidence.clone().unwrap_or_default();
    let lacking = evidence.holders.saturating_sub(evidence.holding);
    format!(
        "This has {} take over now: {} of {} would refuse what it signs until they hold it.",
        looked.authority,
        thousands(lacking),
        count(evidence.holders, "holder")
    )
}

pub(super) fn activated_screen(done: &ActOutput, paint: Paint) -> String {
    format!(
        "{}Everyone gets a new certificate now; the root before it leaves when the last one under it has ended: chancery ca show\n",
        steps(done, paint).render("  ")
    )
}

fn certificates(looked: &pb::AuthorityRetired, now: OffsetDateTime) -> String {
    let mut table = Table::bare();
    for one in looked.certificates.iter().take(MOST_LINES) {
        let node = one.node.clone().unwrap_or_else(|| NOTHING.to_owned());
        table.row([short(&one.serial), one.identity.clone(), node, format!("ends {}", relative(&one.not_after, now))]);
    }
    let shown = u64::try_from(looked.certificates.len().min(MOST_LINES)).unwrap_or(u64::MAX);
    let mut text = table.render("  ");
    if looked.live_certificates > shown {
        text.push_str(&format!("  and {} more\n", thousands(looked.live_certificates - shown)));
    }
    text
}

pub(super) fn retire_plan(looked: &pb::AuthorityRetired, now: OffsetDateTime) -> String {
    let what = match (looked.name.starts_with("root "), looked.live_certificates) {
        (false, _) => format!("{} ({}) is given up before it signed anything.\n", looked.name, looked.state),
        (true, 0) => format!("{} ({}) leaves every bundle; nothing live is under it.\n", looked.name, looked.state),
        (true, live) => format!(
            "{} ({}) leaves every bundle, and {} under it would be refused everywhere:\n{}",
            looked.name,
            looked.state,
            count(live, "certificate"),
            certificates(looked, now)
        ),
    };
    format!("{what}Nothing was done.\n")
}

pub(super) fn retired_screen(retired: &pb::AuthorityRetired) -> String {
    if retired.name.starts_with("root ") {
        return format!("{} has left every bundle, as {} says.\n", retired.name, retired.record);
    }
    format!(
        "{} is given up, as {} says; another is prepared by itself when the time has come.\n",
        retired.name, retired.record
    )
}

#[cfg(test)]
mod tests;
