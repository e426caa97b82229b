//! `chancery policy diff` and `apply`: what a new file would mean, and putting it in force.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::Context;
use crate::cli::client;
use crate::cli::exit::{Done, Exit, Failure};
use crate::cli::screen::{Format, Paint, Table, count, relative, short, thousands};
use crate::config::files::policy_of_text;
use crate::identity::TrustDomain;
use crate::policy::{LARGEST_POLICY, RulesDiff};
use crate::proto::chancery::admin::v1 as pb;

/// How many lost certificates a person is shown.
const MOST_SHOWN: usize = 20;

/// `policy diff`.
#[derive(Debug, Args)]
pub struct Diff {
    /// The new file
    new: PathBuf,
}

/// `policy apply`.
#[derive(Debug, Args)]
pub struct Apply {
    /// The new file; the server's own file is replaced by it
    new: PathBuf,
    /// Revokes the live certificates that it does not grant any more; without it they live to their end
    #[arg(long)]
    revoke: bool,
    /// Does not ask
    #[arg(long)]
    yes: bool,
    /// Goes on although you could issue nothing any more
    #[arg(long)]
    allow_lock_out: bool,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", default_value = "")]
    comment: String,
}

pub(super) async fn diff(args: Diff, context: &Context) -> Done {
    let text = read(&args.new)?;
    let answer = match context.admin().await {
        Ok(mut admin) => {
            let ask = pb::DiffPolicyRequest { text, path: args.new.display().to_string() };
            admin.diff_policy(ask).await?.into_inner()
        }
        // Without a server there are no certificates to compare, but there is a file.
        Err(failure) if failure.exit == Exit::Unreachable => offline(&args.new, &text, context)?,
        Err(failure) => return Err(failure),
    };
    context.screen.show(&answer, |answer| {
        let next = match answer.hash_before == answer.hash_after {
            true => String::new(),
            false => format!("Put it in force: chancery policy apply {}\n", args.new.display()),
        };
        format!("{}{next}", diff_screen(answer, &args.new, context))
    })
}

/// Compares with the policy file of the data directory.
fn offline(new: &Path, text: &str, context: &Context) -> Result<pb::PolicyDiff, Failure> {
    let path = context.data_dir.join("policy.toml");
    let usual = || TrustDomain::parse("example.org").map_err(|error| Failure::failed(error.to_string()));
    let served = client::addresses(&context.data_dir).map(|addresses| addresses.trust_domain);
    let trust_domain = served.map_or_else(usual, Ok)?;
    let parse = |path: &Path, text: &str| {
        policy_of_text(path, text, &trust_domain, None).map_err(|mistakes| Failure::usage(mistakes.to_string()))
    };
    let (old, new) = (parse(&path, &read(&path)?)?, parse(new, text)?);
    let RulesDiff { added, removed, changed } = RulesDiff::between(&old, &new);
    Ok(pb::PolicyDiff {
        hash_before: old.hash_hex().to_owned(),
        hash_after: new.hash_hex().to_owned(),
        added,
        removed,
        changed,
        ..pb::PolicyDiff::default()
    })
}

pub(super) async fn apply(args: Apply, context: &Context) -> Done {
    let text = read(&args.new)?;
    let mut admin = context.admin().await?;
    let ask = pb::DiffPolicyRequest { text: text.clone(), path: args.new.display().to_string() };
    let diff = admin.diff_policy(ask).await?.into_inner();
    if diff.hash_before == diff.hash_after {
        let applied = pb::PolicyApplied { hash: diff.hash_after, ..pb::PolicyApplied::default() };
        return context.screen.show(&applied, |_| "This policy is in force already; nothing was changed.\n".to_owned());
    }
    if context.screen.format == Format::Text {
        crate::cli::screen::out(&diff_screen(&diff, &args.new, context))?;
    }
    if !args.yes {
        confirm(if args.revoke { "Put it in force and revoke these certificates?" } else { "Put it in force?" })?;
    }
    let ask = pb::ApplyPolicyRequest {
        text,
        expected_hash: diff.hash_before,
        revoke: args.revoke,
        allow_lock_out: args.allow_lock_out,
        comment: args.comment,
    };
    let applied = admin.apply_policy(ask).await?.into_inner();
    context.screen.show(&applied, |applied| applied_screen(applied, context.screen.paint))
}

/// A policy's text, wherever it comes from: the server judges it, and looks at who may write its own file.
fn read(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("{} cannot be read: {error}", path.display())))?;
    if text.len() > LARGEST_POLICY {
        return Err(Failure::usage(format!(
            "{} has more than {LARGEST_POLICY} bytes: is it the right file?",
            path.display()
        )));
    }
    Ok(text)
}

/// Asks on the terminal. No answer is no.
fn confirm(question: &str) -> Done {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::usage("standard input is no terminal, so nobody can be asked: say --yes"));
    }
    eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::failed("nothing was changed")),
    }
}

fn diff_screen(diff: &pb::PolicyDiff, new: &Path, context: &Context) -> String {
    render(diff, new, context.screen.paint, context.screen.now())
}

fn render(diff: &pb::PolicyDiff, new: &Path, paint: Paint, now: time::OffsetDateTime) -> String {
    if diff.hash_before == diff.hash_after {
        return format!("{} is the policy in force, byte for byte.\n", new.display());
    }
    let mut text = format!("Policy {} → {} ({})\n", short(&diff.hash_before), short(&diff.hash_after), new.display());
    let rules = [("added", &diff.added), ("removed", &diff.removed), ("changed", &diff.changed)];
    let mut table = Table::bare();
    for (what, name) in rules.iter().flat_map(|(what, names)| names.iter().map(move |name| (what, name))) {
        table.row([(*what).to_owned(), format!("rule \"{name}\"")]);
    }
    text.push_str(&table.render("  "));
    if rules.iter().all(|(_, names)| names.is_empty()) {
        text.push_str("  no rule says anything else: comments, or the way it is written\n");
    }
    let compared = count(diff.compared, "live certificate");
    if diff.compared + diff.unknown == 0 {
        text.push_str("No live certificate was compared.\n");
    } else if diff.lost_count == 0 {
        text.push_str(&format!("{} {compared} would be granted again.\n", paint.good("Nothing is lost:")));
    } else {
        let lost = format!("{} of {compared} would not be granted again:", thousands(diff.lost_count));
        text.push_str(&format!("{}\n{}", paint.warn(&lost), lost_table(diff, now)));
    }
    if diff.unknown > 0 {
        text.push_str(&format!(
            "Not compared: {} whose callers' groups decide and are not known.\n",
            count(diff.unknown, "live certificate")
        ));
    }
    if diff.locks_out_operator {
        let out = "You could issue nothing any more: add a rule for yourself on the socket \"admin\".";
        text.push_str(&format!("{}\n", paint.bad(out)));
    }
    text
}

fn lost_table(diff: &pb::PolicyDiff, now: time::OffsetDateTime) -> String {
    let mut table = Table::new(&["SERIAL", "IDENTITY", "CALLER", "RULE", "EXPIRES"]);
    for one in diff.lost.iter().take(MOST_SHOWN) {
        table.row([
            short(&one.serial),
            one.identity.clone(),
            one.caller.clone().unwrap_or_default(),
            format!("\"{}\"", one.rule),
            relative(&one.not_after, now),
        ]);
    }
    let mut text = table.render("  ");
    let shown = u64::try_from(diff.lost.len().min(MOST_SHOWN)).unwrap_or(u64::MAX);
    if diff.lost_count > shown {
        text.push_str(&format!("  and {} more\n", thousands(diff.lost_count - shown)));
    }
    text
}

fn applied_screen(applied: &pb::PolicyApplied, paint: Paint) -> String {
    let revoked = match applied.revoked {
        0 => String::new(),
        revoked => format!(", {} revoked", count(revoked, "certificate")),
    };
    format!(
        "{} {} in {}{revoked}\nRecord {}\n",
        paint.good("In force:"),
        short(&applied.hash),
        applied.path,
        applied.record
    )
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::cli::screen::golden;

    fn lost() -> pb::Certificate {
        pb::Certificate {
            serial: "595bda4015899a25942b1dc6818da020".into(),
            identity: "spiffe://example.org/ns/pay/sa/api".into(),
            caller: Some("unix:sds:uid=1003".into()),
            rule: "payments".into(),
            not_after: "2026-11-24T13:00:00Z".into(),
            ..pb::Certificate::default()
        }
    }

    #[test]
    fn a_diff_says_what_is_lost() {
        let some = pb::PolicyDiff {
            hash_before: "9f3c".repeat(16),
            hash_after: "51aa".repeat(16),
            added: vec!["batch".into()],
            removed: vec!["payments".into()],
            changed: vec!["operators".into()],
            lost: vec![lost(); 21],
            lost_count: 1_234,
            compared: 20_000,
            unknown: 1,
            locks_out_operator: true,
        };
        let none =
            pb::PolicyDiff { lost: vec![], lost_count: 0, unknown: 0, locks_out_operator: false, ..some.clone() };
        let offline = pb::PolicyDiff { compared: 0, removed: vec![], ..none.clone() };
        let comments = pb::PolicyDiff { added: vec![], removed: vec![], changed: vec![], ..none.clone() };
        let same = pb::PolicyDiff { hash_after: some.hash_before.clone(), ..none.clone() };
        let now = datetime!(2026-11-23 13:00 UTC);
        let screens =
            [some, none, offline, comments, same].map(|diff| render(&diff, Path::new("new.toml"), Paint::PLAIN, now));
        let applied = pb::PolicyApplied {
            hash: "51aa".repeat(16),
            record: "example.org/ledger/ca-2026#11".into(),
            path: "/srv/chancery/policy.toml".into(),
            revoked: 3,
        };
        let applied = applied_screen(&applied, Paint::PLAIN);
        golden::check("policy-diff.txt", &format!("{}\n{applied}", screens.join("\n")));
    }
}
