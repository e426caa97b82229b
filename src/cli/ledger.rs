//! `chancery ledger recover`: what is whole of a ledger that does not open, and a ledger made of that.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::Context;
use super::exit::{Done, Failure};
use super::screen::{Paint, Table, thousands};
use crate::app::recover::Recovering;
use crate::audit::ledger::salvage::Plan;

/// The ledger's files.
#[derive(Debug, Subcommand)]
pub(crate) enum Ledger {
    /// Says what is whole of a ledger that does not open; with --yes, makes a ledger of that. The server must be stopped
    Recover(Recover),
}

/// `ledger recover`.
#[derive(Debug, Args)]
pub(crate) struct Recover {
    /// The ledger directory of a backup, however old: its tiles fill what is damaged here
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// The key that the keys are sealed with, when it is not beside them
    #[arg(long, value_name = "FILE")]
    sealing_key: Option<PathBuf>,
    /// Do it. Nothing is deleted: the ledger of before stays beside the new one
    #[arg(long)]
    yes: bool,
}

/// The schema of `ledger recover --output json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecoverOutput {
    /// Every log, oldest first.
    pub logs: Vec<RecoverLog>,
    /// The log that begins, where the newest one cannot go on.
    pub successor: Option<String>,
    /// Whether it was done; otherwise this is the plan.
    pub done: bool,
    /// Where the ledger of before is.
    pub before: Option<String>,
    /// The record of the recovery.
    pub record: Option<String>,
}

/// One log of [`RecoverOutput`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecoverLog {
    /// Its name.
    pub name: String,
    /// Records that are whole and kept.
    pub whole: u64,
    /// The root at that size, hex.
    pub root: String,
    /// Records under the checkpoint that was published.
    pub published: Option<u64>,
    /// Records that are known and cannot be saved.
    pub lost: u64,
}

impl Ledger {
    pub(crate) async fn run(self, context: &Context) -> Done {
        match self {
            Self::Recover(args) => recover(args, context).await,
        }
    }
}

async fn recover(args: Recover, context: &Context) -> Done {
    if let Some(missing) = args.from.as_ref().filter(|path| !path.is_dir()) {
        return Err(Failure::usage(format!("{} is no directory: name a backup's ledger directory", missing.display())));
    }
    let failed = |error: crate::app::AppError| Failure::failed(error.to_string());
    let recovering = Recovering::open(&context.data_dir, args.sealing_key.as_deref(), args.from).map_err(failed)?;
    let plan = recovering.plan(context.screen.now()).map_err(failed)?;
    let mut output = output(&plan);
    if args.yes {
        let done = recovering.carry_out(&plan, context.screen.clock.clone()).await.map_err(failed)?;
        output.done = true;
        output.before = Some(done.before.display().to_string());
        output.record = Some(done.record.to_string());
    }
    context.screen.show(&output, |output| screen(output, context.screen.paint))
}

fn output(plan: &Plan) -> RecoverOutput {
    let logs = plan.logs.iter().map(|log| RecoverLog {
        name: log.name.clone(),
        whole: log.whole,
        root: hex::encode(log.root),
        published: log.published,
        lost: log.lost(),
    });
    RecoverOutput { logs: logs.collect(), successor: plan.successor.clone(), ..RecoverOutput::default() }
}

fn screen(output: &RecoverOutput, paint: Paint) -> String {
    if output.logs.is_empty() {
        let nothing = "There is no log, no journal and no tile: nothing of this ledger is here, and nobody can say how much that \
                       was.\nPut a backup in its place, or name one with --from DIR.\n";
        return nothing.to_owned() + &ending(output, paint);
    }
    let mut table = Table::new(&["LOG", "WHOLE", "PUBLISHED", "LOST"]);
    for log in &output.logs {
        let published = log.published.map_or_else(|| "-".to_owned(), thousands);
        table.row([log.name.clone(), thousands(log.whole), published, thousands(log.lost)]);
    }
    let mut text = table.render("");
    let lost = output.logs.iter().map(|log| log.lost).sum::<u64>();
    if lost == 0 {
        text.push_str(&format!("{}\n", paint.good("Every record is whole.")));
    } else {
        text.push_str(&format!("{} {} records are lost.\n", paint.bad("Lost:"), thousands(lost)));
        text.push_str(
            "A backup, however old, may have them: --from DIR takes its tiles where they fit.\nTheir certificates \
             run on until they expire, and revocations among them are forgotten:\nafterwards revoke again what was \
             revoked, and `chancery cert rotate --all`.\n",
        );
    }
    if let Some(successor) = &output.successor {
        text.push_str(&format!(
            "A published checkpoint reaches beyond what is whole, so the newest log ends where it is whole\nand {successor} \
             goes on: no log signs two histories. Its first record names that checkpoint.\n"
        ));
    }
    text + &ending(output, paint)
}

/// What was done, or how to do it.
fn ending(output: &RecoverOutput, paint: Paint) -> String {
    match (&output.before, &output.record) {
        (Some(before), Some(record)) => format!(
            "{} The ledger of before is {before}; keep it as evidence.\nOn record as {record}. Start the server, then: \
             chancery audit verify\n",
            paint.good("Done.")
        ),
        (None, _) | (_, None) => {
            "Nothing was changed. To make a ledger of what is whole: chancery ledger recover --yes\n".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::screen::golden;

    #[test]
    fn the_plan_and_the_result_say_what_is_lost_and_what_to_do() {
        let log = |whole, lost| RecoverLog {
            name: "ca-2026".into(),
            whole,
            root: "00".repeat(32),
            published: Some(10_445),
            lost,
        };
        let whole = RecoverOutput { logs: vec![log(10_445, 0)], ..RecoverOutput::default() };
        let cut = RecoverOutput {
            logs: vec![log(9_900, 545)],
            successor: Some("ca-2026-2".into()),
            done: true,
            before: Some("/var/lib/chancery/ledger.before-20261123T130000Z".into()),
            record: Some("example.org/ledger/ca-2026-2#0".into()),
        };
        golden::check("ledger-recover.txt", &[whole, cut].map(|output| screen(&output, Paint::PLAIN)).join("\n"));
    }
}
