//! `chancery cert rotate`: has certificates issued anew and pushed at once, and says what became of each.

use std::collections::HashMap;

use clap::Args;
use serde::{Deserialize, Serialize};
use tonic::transport::Channel;

use super::choice::{Choice, Ticker, confirm};
use crate::cli::Context;
use crate::cli::exit::{Done, Exit, Failure};
use crate::cli::screen::{NOTHING, Paint, Table, count, short, thousands};
use crate::proto::chancery::admin::v1 as pb;
use crate::proto::chancery::admin::v1::admin_client::AdminClient;

/// Rows of the report; those that need a look come first, and JSON has all.
const MOST_ROWS: usize = 30;

/// `cert rotate`.
#[derive(Debug, Args)]
pub struct Rotate {
    #[command(flatten)]
    choice: Choice,
    /// Says which certificates that means, and does nothing
    #[arg(long)]
    dry_run: bool,
    /// Does not ask; needed where standard input is no terminal
    #[arg(long, short)]
    yes: bool,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
}

/// The schema of `cert rotate --output json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotateOutput {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// The record of the act; empty in a dry run.
    pub record: String,
    /// Certificates that streams of this server hold.
    pub chosen: u64,
    /// Live ones that no stream holds: their holders renew by themselves.
    pub not_connected: u64,
    /// Proxies that hold the new one.
    pub acked: u64,
    /// Proxies that refused it.
    pub nacked: u64,
    /// Policy or a deny gave none.
    pub refused: u64,
    /// Not issued now; tried again as every renewal.
    pub failed: u64,
    /// Streams that ended or did not answer in time.
    pub gone: u64,
    /// What became of each.
    pub certificates: Vec<pb::RotatedCertificate>,
}

/// What became of each, as it is told; the last word about one counts.
#[derive(Debug, Default)]
pub(in crate::cli) struct Report {
    certificates: Vec<pb::RotatedCertificate>,
    places: HashMap<String, usize>,
    ended: u64,
}

impl Report {
    pub(in crate::cli) fn take(&mut self, one: pb::RotatedCertificate) {
        self.ended += u64::from(one.state != "pushed");
        match self.places.get(&one.serial).and_then(|place| self.certificates.get_mut(*place)) {
            Some(known) => *known = one,
            None => {
                self.places.insert(one.serial.clone(), self.certificates.len());
                self.certificates.push(one);
            }
        }
    }

    /// How many are over.
    pub(in crate::cli) fn ended(&self) -> u64 {
        self.ended
    }

    /// Sums up; what was pushed and never answered for counts as gone.
    pub(in crate::cli) fn sum_up(self, into: &mut RotateOutput) {
        let of = |state: &str| {
            let number = self.certificates.iter().filter(|one| one.state == state).count();
            u64::try_from(number).unwrap_or(u64::MAX)
        };
        (into.acked, into.nacked, into.refused) = (of("acked"), of("nacked"), of("refused"));
        (into.failed, into.gone) = (of("failed"), of("gone") + of("pushed"));
        into.certificates = self.certificates;
    }
}

pub(super) async fn rotate(args: Rotate, context: &Context) -> Done {
    let mut admin = context.admin().await?;
    let ask = pb::RotateCertificatesRequest {
        selection: Some(args.choice.wire()),
        dry_run: args.dry_run || !args.yes,
        reason: args.reason,
    };
    let screen = &context.screen;
    if ask.dry_run {
        let looked = follow(&mut admin, ask.clone(), &Ticker::new(screen)).await?;
        if args.dry_run {
            return screen.show(&looked, |output| dry_screen(output, screen.paint));
        }
        if looked.chosen > 0 {
            confirm(screen, &question(&looked), args.yes)?;
        }
    }
    let ask = pb::RotateCertificatesRequest { dry_run: false, ..ask };
    let done = follow(&mut admin, ask, &Ticker::new(screen)).await?;
    screen.show(&done, |output| done_screen(output, screen.paint))?;
    if done.acked < done.chosen {
        let left = done.chosen - done.acked;
        return Err(Failure::new(
            Exit::Failed,
            format!("{} of {} not rotated", thousands(left), thousands(done.chosen)),
        ));
    }
    Ok(())
}

async fn follow(
    admin: &mut AdminClient<Channel>,
    ask: pb::RotateCertificatesRequest,
    ticker: &Ticker,
) -> Result<RotateOutput, Failure> {
    let mut output = RotateOutput { dry_run: ask.dry_run, ..RotateOutput::default() };
    let mut report = Report::default();
    let mut answer = admin.rotate_certificates(ask).await?.into_inner();
    while let Some(message) = answer.message().await? {
        match message.certificate {
            None => {
                output.record = message.record;
                (output.chosen, output.not_connected) = (message.chosen, message.not_connected);
            }
            Some(one) => report.take(one),
        }
        if !output.dry_run {
            ticker.show(&format!("  {} of {} rotated", thousands(report.ended()), thousands(output.chosen)));
        }
    }
    ticker.clear();
    report.sum_up(&mut output);
    Ok(output)
}

/// What it would mean.
fn meaning(looked: &RotateOutput) -> String {
    let away = match looked.not_connected {
        0 => String::new(),
        away => format!("; {} more live without a stream here, their holders renew by themselves", thousands(away)),
    };
    format!("{}{away}.", count(looked.chosen, "certificate"))
}

pub(super) fn question(looked: &RotateOutput) -> String {
    format!("This issues and pushes a successor of {}", meaning(looked))
}

pub(super) fn dry_screen(looked: &RotateOutput, paint: Paint) -> String {
    format!("{}Would rotate {} Nothing was done.\n", rows(&looked.certificates, paint), meaning(looked))
}

pub(super) fn done_screen(done: &RotateOutput, paint: Paint) -> String {
    let mut text = rows(&done.certificates, paint);
    let mut table = Table::bare();
    table.row(["recorded".to_owned(), done.record.clone()]);
    table.row(["rotated".to_owned(), sums(done, paint)]);
    text.push_str(&table.render("  "));
    if done.not_connected > 0 {
        let away = count(done.not_connected, "certificate");
        text.push_str(&format!("{away} live without a stream here: their holders renew by themselves\n"));
    }
    text.push_str(match (done.refused, done.nacked + done.failed + done.gone) {
        (0, 0) => "The old ones stay valid until they expire; to end them now: chancery cert revoke\n",
        (0, _) => "A proxy that refused or was away keeps what it has; each is tried again when it is due\n",
        (_, _) => "Why policy gives nothing: chancery policy explain\n",
    });
    text
}

/// `2 acknowledged, 1 refused by its proxy`.
pub(in crate::cli) fn sums(done: &RotateOutput, paint: Paint) -> String {
    let parts = [
        (done.acked, "acknowledged", false),
        (done.nacked, "refused by their proxies", true),
        (done.refused, "not granted", true),
        (done.failed, "failed", true),
        (done.gone, "without an answer", true),
    ];
    let said = parts.iter().filter(|(number, ..)| *number > 0).map(|(number, word, wrong)| {
        let part = format!("{} {word}", thousands(*number));
        if *wrong { paint.bad(&part) } else { part }
    });
    format!("{} of {}: {}", thousands(done.acked), thousands(done.chosen), said.collect::<Vec<_>>().join(", "))
}

/// The report, one line each: what needs a look first.
pub(in crate::cli) fn rows(certificates: &[pb::RotatedCertificate], paint: Paint) -> String {
    if certificates.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["SERIAL", "IDENTITY", "PROXY", "SUCCESSOR", "STATE"]);
    let well = |one: &&pb::RotatedCertificate| ["acked", "chosen"].contains(&one.state.as_str());
    let (good, bad): (Vec<_>, Vec<_>) = certificates.iter().partition(well);
    for one in bad.iter().chain(&good).take(MOST_ROWS) {
        let state = match (&one.detail, well(one)) {
            (Some(detail), _) => paint.bad(&format!("{}: {detail}", one.state)),
            (None, false) => paint.bad(&one.state),
            (None, true) => one.state.clone(),
        };
        table.row([
            short(&one.serial),
            one.identity.clone(),
            one.node.clone().unwrap_or_else(|| NOTHING.to_owned()),
            one.new_serial.as_deref().map_or_else(|| NOTHING.to_owned(), short),
            state,
        ]);
    }
    let mut text = table.render("");
    if certificates.len() > MOST_ROWS {
        text.push_str(&format!("… and {} more; --output json has all\n", certificates.len() - MOST_ROWS));
    }
    text
}
