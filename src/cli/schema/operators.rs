//! The JSON of acts that take two operators, and of the break-glass, for docs/cli-json.md.

use super::{BEGIN, HASH, RECORD, section};
use crate::proto::chancery::admin::v1 as pb;

pub(super) fn breakglass() -> pb::Breakglass {
    pb::Breakglass {
        id: "5e0c4015899a".into(),
        opened_at: BEGIN.into(),
        until: "2026-11-23T13:15:00Z".into(),
        opened_by: Some("kim".into()),
        reason: "INC-7".into(),
        record: RECORD.into(),
        acts: 2,
    }
}

pub(super) fn of_two(page: &mut String) {
    let request = pb::Approval {
        id: "5e0c4015899a".into(),
        state: "used".into(),
        act: "ca.taint".into(),
        subject: "issuing 3".into(),
        description: "ca.taint issuing 3 (active), under which 214 certificates live".into(),
        digest: HASH.into(),
        asked_at: BEGIN.into(),
        until: "2026-11-23T14:00:00Z".into(),
        asked_by: Some("kim".into()),
        reason: Some("INC-7".into()),
        record: RECORD.into(),
        answered_at: Some("2026-11-23T13:01:00Z".into()),
        answered_by: Some("lou".into()),
        answer: Some("seen".into()),
        answer_record: Some("example.org/ledger/ca-2026#12".into()),
        used: Some("example.org/ledger/ca-2026#13".into()),
    };
    section(page, "approval list", &pb::ApprovalList { approvals: vec![request.clone()] });
    section(page, "approval show ID`, `approval grant ID` and `approval refuse ID", &request);
    let sealed = crate::cli::breakglass::SealOutput {
        id: "5e0c4015899a".into(),
        credential: Some("chancery-breakglass-…".into()),
        file: None,
        record: RECORD.into(),
        replaced: true,
    };
    section(page, "breakglass seal", &sealed);
    section(page, "breakglass open --reason TEXT", &breakglass());
    let closed = pb::BreakglassClosed {
        id: "5e0c4015899a".into(),
        record: "example.org/ledger/ca-2026#20".into(),
        acts: vec!["example.org/ledger/ca-2026#13 ca.taint".into()],
        count: 1,
    };
    section(page, "breakglass close", &closed);
}
