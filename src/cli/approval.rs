//! `chancery approval list|show|grant|refuse`: the second operator's side of an act that takes two.

use std::time::Duration;

use clap::{Args, Subcommand};
use time::OffsetDateTime;
use tonic::transport::Channel;

use super::Context;
use super::exit::{Done, Exit, Failure};
use super::screen::{NOTHING, Paint, Table, relative};
use crate::proto::chancery::admin::v1 as pb;
use crate::proto::chancery::admin::v1::admin_client::AdminClient;

/// How often somebody who waits for an answer asks whether it is there.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// What waits for a second operator.
#[derive(Debug, Subcommand)]
pub enum Approval {
    /// Lists what waits for a second operator, or was granted and not used yet
    List(List),
    /// Says exactly what one request is about, and what was said to it
    Show(Id),
    /// Lets an act that somebody else asked for be done; that one asks for it again then
    Grant(Answer),
    /// Says no to a request, or takes one's own back, or a grant that was not used yet
    Refuse(Answer),
}

/// `approval list`.
#[derive(Debug, Args)]
pub struct List {
    /// Those that are over as well
    #[arg(long)]
    all: bool,
}

/// `approval show`.
#[derive(Debug, Args)]
pub struct Id {
    /// The request's id, or the beginning of it
    id: String,
}

/// `approval grant` and `approval refuse`.
#[derive(Debug, Args)]
pub struct Answer {
    /// The request's id, or the beginning of it
    id: String,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
}

impl Approval {
    pub(super) async fn run(self, context: &Context) -> Done {
        let mut admin = context.admin().await?;
        let (screen, now) = (&context.screen, context.screen.now());
        match self {
            Self::List(args) => {
                let ask = pb::ListApprovalsRequest { all: args.all, ..Default::default() };
                let list = admin.list_approvals(ask).await?.into_inner();
                screen.show(&list, |list| list_screen(list, now))
            }
            Self::Show(args) => {
                screen.show(&one(&mut admin, &args.id).await?, |one| show_screen(one, now, screen.paint))
            }
            Self::Grant(Answer { id, reason }) => {
                let granted = admin.grant_approval(pb::GrantApprovalRequest { id, reason }).await?.into_inner();
                screen.show(&granted, |one| show_screen(one, now, screen.paint))
            }
            Self::Refuse(Answer { id, reason }) => {
                let refused = admin.refuse_approval(pb::RefuseApprovalRequest { id, reason }).await?.into_inner();
                screen.show(&refused, |one| show_screen(one, now, screen.paint))
            }
        }
    }
}

async fn one(admin: &mut AdminClient<Channel>, id: &str) -> Result<pb::Approval, Failure> {
    let ask = pb::ListApprovalsRequest { id: id.to_owned(), ..Default::default() };
    let found = admin.list_approvals(ask).await?.into_inner().approvals.pop();
    found.ok_or_else(|| Failure::failed(format!("the server knows no request {id}")))
}

/// Waits until the request that `failure` names is granted; gives every other failure back.
pub(super) async fn granted(admin: &mut AdminClient<Channel>, failure: Failure) -> Done {
    let Some(id) = failure.waits_for.clone() else { return Err(failure) };
    eprintln!("{}\nWaiting for the answer …", failure.message);
    loop {
        tokio::time::sleep(ASK_EVERY).await;
        let answer = one(admin, &id).await?;
        match answer.state.as_str() {
            "open" => {}
            "granted" => return Ok(()),
            other => return Err(Failure::new(Exit::Refused, format!("request {id} is {other}: nothing was done"))),
        }
    }
}

fn list_screen(list: &pb::ApprovalList, now: OffsetDateTime) -> String {
    if list.approvals.is_empty() {
        return "Nothing waits for a second operator.\n".to_owned();
    }
    let mut table = Table::new(&["ID", "STATE", "ACT", "ABOUT", "ASKED BY", "ASKED", "UNTIL"]);
    for one in &list.approvals {
        table.row([
            one.id.clone(),
            one.state.clone(),
            one.act.clone(),
            about(&one.subject),
            one.asked_by.clone().unwrap_or_else(|| NOTHING.to_owned()),
            relative(&one.asked_at, now),
            relative(&one.until, now),
        ]);
    }
    format!("{}What exactly: chancery approval show ID. Yes: chancery approval grant ID\n", table.render(""))
}

/// A hash is as good as its beginning here.
fn about(subject: &str) -> String {
    let is_hash = subject.len() == 64 && subject.chars().all(|letter| letter.is_ascii_hexdigit());
    if is_hash { super::screen::short(subject) } else { subject.to_owned() }
}

fn show_screen(one: &pb::Approval, now: OffsetDateTime, paint: Paint) -> String {
    let state = match one.state.as_str() {
        "granted" | "used" => paint.good(&one.state),
        "open" => paint.warn(&one.state),
        _ => paint.bad(&one.state),
    };
    let who = |name: &Option<String>| name.clone().unwrap_or_else(|| "somebody".to_owned());
    let why = |words: &Option<String>| words.as_ref().map_or_else(String::new, |words| format!(": {words}"));
    let mut text = format!("Request {} is {state}: {}\n  {}\n", one.id, one.act, one.description);
    let (asked, until) = (relative(&one.asked_at, now), relative(&one.until, now));
    text.push_str(&format!("  asked   {asked} by {}{}\n", who(&one.asked_by), why(&one.reason)));
    if let Some(at) = &one.answered_at {
        let said = if matches!(one.state.as_str(), "refused") { "refused" } else { "granted" };
        text.push_str(&format!("  {said} {} by {}{}\n", relative(at, now), who(&one.answered_by), why(&one.answer)));
    }
    text.push_str(&format!("  until   {until}\n  digest  {}\n  record  {}\n", one.digest, one.record));
    if let Some(record) = &one.answer_record {
        text.push_str(&format!("  answer  {record}\n"));
    }
    if let Some(record) = &one.used {
        text.push_str(&format!("  used by {record}\n"));
    }
    text.push_str(match one.state.as_str() {
        "open" => "Another admin grants it: chancery approval grant ID\n",
        "granted" => "Whoever asked says the same command again, and it is done.\n",
        _ => "",
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::screen::golden;
    use time::macros::datetime;

    #[test]
    fn a_request_is_told_with_all_that_a_second_operator_needs() {
        let open = pb::Approval {
            id: "5e0c4015899a".into(),
            state: "open".into(),
            act: "ca.taint".into(),
            subject: "issuing 3".into(),
            description: "ca.taint issuing 3 (active), under which 214 certificates live: INC-7".into(),
            digest: "9f3c".repeat(16),
            asked_at: "2026-11-23T12:58:00Z".into(),
            until: "2026-11-23T13:58:00Z".into(),
            asked_by: Some("spiffe://example.org/operators/kim".into()),
            reason: Some("INC-7".into()),
            record: "example.org/ledger/ca-2026#11".into(),
            ..pb::Approval::default()
        };
        let granted = pb::Approval {
            state: "granted".into(),
            answered_at: Some("2026-11-23T12:59:00Z".into()),
            answered_by: Some("lou".into()),
            answer: Some("seen on the phone".into()),
            answer_record: Some("example.org/ledger/ca-2026#12".into()),
            ..open.clone()
        };
        let used = pb::Approval {
            state: "used".into(),
            used: Some("example.org/ledger/ca-2026#13".into()),
            ..granted.clone()
        };
        let policy = pb::Approval { act: "policy".into(), subject: "51aa".repeat(16), asked_by: None, ..open.clone() };
        let now = datetime!(2026-11-23 13:00 UTC);
        let lists = [vec![], vec![open.clone(), policy]];
        let lists = lists.map(|approvals| list_screen(&pb::ApprovalList { approvals }, now)).join("\n");
        let screens = [open, granted, used].map(|one| show_screen(&one, now, Paint::PLAIN)).join("\n");
        golden::check("approval.txt", &format!("{lists}\n{screens}"));
    }
}
