//! Records of the ledger for people and for scripts: one line, or the whole.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::exit::Failure;
use super::screen::{NOTHING, Paint, short};
use crate::audit::event::{Event, Outcome};
use crate::proto::chancery::admin::v1 as pb;

/// The schema of one line of `audit tail`, `show` and `export` with `--output json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordOutput {
    /// `<origin>#<index>`.
    pub id: String,
    /// Its index in the log.
    pub index: u64,
    /// The operator's name, where there is one and its key still exists.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub operator: Option<String>,
    /// The record itself; docs/events.md.
    pub record: Value,
}

impl RecordOutput {
    pub(crate) fn new(record: &pb::AuditRecord) -> Result<Self, Failure> {
        let value = serde_json::from_str(&record.json)
            .map_err(|error| Failure::failed(format!("record {} is no JSON: {error}", record.id)))?;
        Ok(Self { id: record.id.clone(), index: record.index, operator: record.operator.clone(), record: value })
    }

    /// One line.
    pub(crate) fn line(&self) -> Result<String, Failure> {
        let text = serde_json::to_string(self).map_err(|error| Failure::failed(error.to_string()))?;
        Ok(format!("{text}\n"))
    }
}

/// The whole record, indented.
pub(crate) fn pretty(record: &pb::AuditRecord) -> String {
    let value: Option<Value> = serde_json::from_str(&record.json).ok();
    let text = value.and_then(|value| serde_json::to_string_pretty(&value).ok());
    text.unwrap_or_else(|| record.json.clone())
}

/// One line for people: index, time, action, whom it is about, who did it.
pub(crate) fn line(record: &pb::AuditRecord, paint: Paint) -> String {
    let Ok(event) = Event::from_leaf(record.json.as_bytes()) else {
        return format!(
            "{:>8}  a record of a newer schema: chancery audit show {} --output json\n",
            record.index, record.id
        );
    };
    let time = event.time.get(..19).unwrap_or(&event.time).replace('T', " ");
    let action = format!("{:<18}", event.action.as_str());
    let action = match event.outcome {
        Outcome::Success => action,
        Outcome::Denied => paint.warn(&action),
        Outcome::Failure => paint.bad(&action),
    };
    let text = format!("{:>8}  {}  {action}  {}", record.index, paint.dim(&time), about(&event, record));
    format!("{}\n", text.trim_end())
}

fn about(event: &Event, record: &pb::AuditRecord) -> String {
    let mut parts = Vec::new();
    if let Some(subject) = &event.subject {
        parts.push(subject.clone());
    }
    if let Some(authority) = &event.authority {
        parts.push(format!("{} {}", authority.name, authority.state));
    }
    let serial = event.certificate.as_ref().map(|facts| &facts.serial).or(event.serial.as_ref());
    if let Some(serial) = serial.filter(|serial| !serial.is_empty()) {
        parts.push(short(serial));
    }
    if let Some(change) = &event.change {
        parts.push(change.what.clone());
    }
    if let Some(refers) = event.refers_to.as_ref().and_then(|id| id.rsplit_once('#')) {
        parts.push(format!("of #{}", refers.1));
    }
    if let Some(rule) = event.policy.as_ref().and_then(|policy| policy.rule.as_ref()) {
        parts.push(format!("rule \"{rule}\""));
    }
    if let Some(reason) = &event.reason {
        parts.push(reason.clone());
    }
    if let Some(node) = &event.node {
        parts.push(node.clone());
    }
    match (&record.operator, event.source.as_ref().and_then(|source| source.uid)) {
        (Some(operator), _) => parts.push(format!("by {operator}")),
        (None, Some(uid)) => parts.push(format!("uid {uid}")),
        (None, None) => {}
    }
    if let Some(coalesced) = &event.coalesced {
        parts.push(format!("{} times", coalesced.count));
    }
    if parts.is_empty() { NOTHING.to_owned() } else { parts.join("  ") }
}
