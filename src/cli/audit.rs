//! `chancery audit`: read the ledger, prove a record, take it all out, and verify it without the server.

use std::io::IsTerminal;

use clap::{Args, Subcommand};
use time::OffsetDateTime;

use super::exit::{Done, Failure};
use super::records::{RecordOutput, line, pretty};
use super::screen::{Format, Paint, date, out, thousands};
use super::{Context, verify};
use crate::audit::event::Event;
use crate::clock::{parse_rfc3339, rfc3339_seconds};
use crate::proto::chancery::admin::v1 as pb;

/// The audit ledger.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Shows the newest records, and stays with --follow; the look itself is recorded
    Tail(Tail),
    /// Shows one record whole; the look itself is recorded
    Show(Show),
    /// Writes a receipt for one record (c2sp.org/tlog-proof) to standard output
    Prove(Prove),
    /// Checks hashes, checkpoints, history and serials on the data directory; needs no server
    Verify(verify::Verify),
    /// Writes records as JSON lines, oldest first; the export itself is recorded
    Export(Export),
}

/// `audit tail`.
#[derive(Debug, Args)]
pub struct Tail {
    /// How many to begin with
    #[arg(short = 'n', long = "lines", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    last: u32,
    /// Stay and show what comes
    #[arg(short, long)]
    follow: bool,
    /// Only this action (certificate.issue) or family (certificate); repeatable
    #[arg(long, value_name = "NAME")]
    action: Vec<String>,
    /// Only since then: 90s, 15m, 4h, 2d, or RFC 3339
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
}

/// `audit show`.
#[derive(Debug, Args)]
pub struct Show {
    /// An index, a record's id (example.org/ledger/ca-2026#17) or a certificate's serial
    what: String,
}

/// `audit prove`.
#[derive(Debug, Args)]
pub struct Prove {
    /// A certificate's serial, an index, or a record's id
    what: String,
}

/// `audit export`.
#[derive(Debug, Args)]
pub struct Export {
    /// Begin with this record: an index, an id or a serial
    #[arg(long, value_name = "RECORD")]
    from: Option<String>,
    /// At most this many
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Only this action or family; repeatable
    #[arg(long, value_name = "NAME")]
    action: Vec<String>,
    /// Only since then: 90s, 15m, 4h, 2d, or RFC 3339
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
}

impl Audit {
    pub(crate) async fn run(self, context: &Context) -> Done {
        match self {
            Self::Tail(args) => tail(args, context).await,
            Self::Show(args) => show(args, context).await,
            Self::Prove(args) => prove(args, context).await,
            Self::Verify(args) => verify::run(args, context).await,
            Self::Export(args) => export(args, context).await,
        }
    }
}

/// A time, or a span back from now.
fn since(text: Option<&str>, now: OffsetDateTime) -> Result<String, Failure> {
    let Some(text) = text else { return Ok(String::new()) };
    if parse_rfc3339(text).is_ok() {
        return Ok(text.to_owned());
    }
    let unit = text.chars().last().and_then(|unit| match unit {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3_600),
        'd' => Some(86_400),
        _ => None,
    });
    let number = text.get(..text.len().saturating_sub(1)).and_then(|number| number.parse::<u32>().ok());
    match (number, unit) {
        (Some(number), Some(unit)) => Ok(rfc3339_seconds(now - time::Duration::seconds(i64::from(number) * unit))),
        (None, _) | (_, None) => Err(Failure::usage(format!(
            "--since {text}: write 90s, 15m, 4h, 2d, or a time such as 2026-11-23T13:00:00Z"
        ))),
    }
}

async fn tail(args: Tail, context: &Context) -> Done {
    let ask = pb::ReadAuditRequest {
        purpose: "tail".to_owned(),
        actions: args.action,
        since: since(args.since.as_deref(), context.screen.now())?,
        last: args.last,
        follow: args.follow,
        ..pb::ReadAuditRequest::default()
    };
    let shown = read(ask, context).await?;
    if context.screen.format == Format::Text && !args.follow {
        let next = if shown == 0 { "No record matches" } else { "One of them whole: chancery audit show INDEX" };
        out(&format!("{next}. As they come: chancery audit tail --follow\n"))?;
    }
    Ok(())
}

/// Prints what the server sends, and says how many that were.
async fn read(ask: pb::ReadAuditRequest, context: &Context) -> Result<u64, Failure> {
    let (format, paint) = (context.screen.format, context.screen.paint);
    let lines = format == Format::Json || ask.purpose == "export";
    let mut records = context.admin().await?.read_audit(ask).await?.into_inner();
    let mut shown = 0;
    while let Some(record) = records.message().await? {
        out(&if lines { RecordOutput::new(&record)?.line()? } else { line(&record, paint) })?;
        shown += 1;
    }
    Ok(shown)
}

async fn show(args: Show, context: &Context) -> Done {
    let ask = pb::ReadAuditRequest {
        purpose: "show".to_owned(),
        from: args.what.clone(),
        count: 1,
        ..pb::ReadAuditRequest::default()
    };
    let mut records = context.admin().await?.read_audit(ask).await?.into_inner();
    let missing = || Failure::failed(format!("the ledger has no record {}", args.what));
    let record = records.message().await?.ok_or_else(missing)?;
    let output = RecordOutput::new(&record)?;
    context.screen.show(&output, |_| show_screen(&record))
}

fn show_screen(record: &pb::AuditRecord) -> String {
    let by = record.operator.as_ref().map_or(String::new(), |name| format!(", by {name}"));
    format!(
        "{}{by}\n{}\nA receipt that anyone can check: chancery audit prove {} > receipt.tlog-proof\n",
        record.id,
        pretty(record),
        record.index
    )
}

async fn prove(args: Prove, context: &Context) -> Done {
    let ask = pb::ProveRecordRequest { what: args.what };
    let proof = context.admin().await?.prove_record(ask).await?.into_inner();
    match context.screen.format {
        Format::Json => context.screen.show(&proof, |_| String::new()),
        Format::Text => {
            out(&proof.proof)?;
            // Beside the receipt, not in it: it goes to a file.
            eprint!("{}", prove_screen(&proof, Paint::of(&std::io::stderr())));
            if std::io::stdout().is_terminal() {
                eprintln!("To keep it: chancery audit prove {} > receipt.tlog-proof", proof.index);
            }
            Ok(())
        }
    }
}

fn prove_screen(proof: &pb::Proof, paint: Paint) -> String {
    let event = proof.record.as_ref().and_then(|record| Event::from_leaf(record.json.as_bytes()).ok());
    let what = event.map_or_else(String::new, |event| {
        let policy = event.policy.as_ref();
        let rule = policy.and_then(|policy| policy.rule.as_ref()).map_or_else(String::new, |rule| {
            let hash = policy.map(|policy| policy.hash.chars().take(4).collect::<String>()).unwrap_or_default();
            format!(" by rule \"{rule}\" (policy {hash}…)")
        });
        let time = event.time.get(..19).unwrap_or_else(|| date(&event.time));
        format!(", {} of {time}Z{rule}", event.action.as_str())
    });
    format!(
        "Record {}{what}, in the checkpoint of size {}.\n{}\n",
        thousands(proof.index),
        thousands(proof.checkpoint_size),
        paint.dim("Anyone can check it without chancery: docs/verify.md")
    )
}

async fn export(args: Export, context: &Context) -> Done {
    let ask = pb::ReadAuditRequest {
        purpose: "export".to_owned(),
        actions: args.action,
        since: since(args.since.as_deref(), context.screen.now())?,
        from: args.from.unwrap_or_default(),
        count: args.count.unwrap_or_default(),
        ..pb::ReadAuditRequest::default()
    };
    let written = read(ask, context).await?;
    eprintln!("{} records. The export is on record as operator.read.", thousands(written));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::event::{Action, CertificateFacts, Change, Outcome, PolicyFacts, Recorder, Source};
    use crate::cli::screen::golden;
    use crate::entropy::Entropy;
    use time::macros::datetime;

    fn record(index: u64, action: Action, outcome: Outcome, change: impl FnOnce(&mut Event)) -> pb::AuditRecord {
        let recorder = Recorder::new(Entropy::seeded(9));
        let mut event = recorder.event(action, outcome, datetime!(2026-11-23 13:02:11.25 UTC));
        change(&mut event);
        pb::AuditRecord {
            id: format!("example.org/ledger/ca-2026#{index}"),
            index,
            json: String::from_utf8(event.to_leaf().unwrap()).unwrap(),
            operator: (action == Action::OperatorRead).then(|| "kim".to_owned()),
        }
    }

    fn issue() -> pb::AuditRecord {
        record(10_017, Action::CertificateIssue, Outcome::Success, |event| {
            event.subject = Some("spiffe://example.org/ns/pay/sa/api".into());
            event.certificate = Some(CertificateFacts { serial: "5e0c0000000091f2".into(), ..Default::default() });
            event.policy = Some(PolicyFacts { hash: "9f3c77".into(), rule: Some("payments".into()), nearest: vec![] });
            event.node = Some("envoy-7f".into());
            event.source = Some(Source { uid: Some(1003), ..Source::default() });
        })
    }

    #[test]
    fn a_record_is_one_line_for_people() {
        let records = [
            issue(),
            record(10_018, Action::CertificateDeny, Outcome::Denied, |event| {
                event.reason = Some("no_rule".into());
                event.source = Some(Source { uid: Some(1004), ..Source::default() });
            }),
            record(10_019, Action::OperatorRead, Outcome::Success, |event| {
                event.change = Some(Change { what: "audit.tail".into(), ..Change::default() });
            }),
            record(10_020, Action::LedgerStart, Outcome::Success, |_| ()),
        ];
        let screen: String = records.iter().map(|record| line(record, Paint::PLAIN)).collect();
        golden::check("audit-tail.txt", &screen);
        golden::check("audit-show.txt", &show_screen(&records[0]));
        golden::check("audit-tail.json", &RecordOutput::new(&records[2]).unwrap().line().unwrap());
    }

    #[test]
    fn a_receipt_is_explained_beside_it() {
        let proof = pb::Proof { index: 10_017, checkpoint_size: 10_445, record: Some(issue()), ..pb::Proof::default() };
        golden::check("audit-prove.txt", &prove_screen(&proof, Paint::PLAIN));
    }

    #[test]
    fn since_is_a_span_or_a_time() {
        let now = datetime!(2026-11-23 13:00 UTC);
        let check = |text: &str, expected: &str| assert_eq!(since(Some(text), now).unwrap(), expected);
        check("90s", "2026-11-23T12:58:30Z");
        check("2d", "2026-11-21T13:00:00Z");
        check("2026-11-23T13:00:00Z", "2026-11-23T13:00:00Z");
        assert!(since(Some("soon"), now).is_err() && since(Some("ü"), now).is_err() && since(Some(""), now).is_err());
    }
}
