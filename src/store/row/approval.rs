//! The rows of second operators and of break-glasses, and what a record adds to them.
//!
//! How a request stands (open, lapsed) is never a column: it depends on the time of asking.

use serde::{Deserialize, Serialize};

use super::{Effect, id};
use crate::audit::event::{Action, Actor, Outcome, Source};
use crate::store::Entry;

/// A request for a second operator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRow {
    /// Names it; hex.
    pub id: String,
    /// Which act, in the word of the configuration.
    pub act: String,
    /// What it is about.
    pub subject: String,
    /// What is to be done, for people.
    pub description: String,
    /// SHA-256 over all of it, hex.
    pub digest: String,
    /// RFC 3339.
    pub asked_at: String,
    /// Until when it may be granted and used, RFC 3339.
    pub until: String,
    /// Who asked.
    pub actor: Actor,
    /// Why, in that one's words.
    pub reason: Option<String>,
    /// The record, by id.
    pub record: String,
    /// What was said to it.
    pub answer: Option<ApprovalAnswer>,
    /// The record of the act that used it first.
    pub used: Option<String>,
}

/// What was said to a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalAnswer {
    /// Granted, or refused.
    pub granted: bool,
    /// RFC 3339.
    pub at: String,
    /// Who.
    pub actor: Actor,
    /// Why, in that one's words.
    pub reason: Option<String>,
    /// The record, by id.
    pub record: String,
}

/// A break-glass that was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakglassRow {
    /// Names the credential that opened it.
    pub id: String,
    /// RFC 3339.
    pub opened_at: String,
    /// RFC 3339.
    pub until: String,
    /// Who.
    pub actor: Actor,
    /// From where.
    pub source: Source,
    /// Why, in that one's words.
    pub reason: String,
    /// The record, by id.
    pub record: String,
    /// Each act under it, its record and what it was: the first [`MOST_ACTS_KEPT`].
    pub acts: Vec<String>,
    /// How many there were.
    pub count: u64,
    /// The record of its end.
    pub closed: Option<String>,
}

/// Acts under one break-glass that are told one by one: the record of its end has to hold them.
pub const MOST_ACTS_KEPT: usize = 400;

/// What a record says besides, whatever its action: by which grant something was done, and under which break-glass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::store) struct Marks {
    /// The request whose grant it used.
    pub(in crate::store) approval: Option<String>,
    /// The break-glass that it was done under.
    pub(in crate::store) breakglass: Option<String>,
    /// The record, by id.
    pub(in crate::store) record: String,
    /// What it was.
    pub(in crate::store) what: String,
}

/// The marks of an act; none on the records of requests and of break-glasses themselves.
pub(in crate::store) fn marks(entry: &Entry<'_>) -> Option<Marks> {
    let event = entry.event;
    let of_request = matches!(event.action, Action::ApprovalRequest | Action::ApprovalGrant);
    let of_breakglass = matches!(event.action, Action::BreakglassOpen | Action::BreakglassClose);
    let approval = event.approval.as_ref().filter(|_| !of_request).map(|facts| facts.id.clone());
    let breakglass = event.breakglass.as_ref().filter(|_| !of_breakglass).map(|facts| facts.id.clone());
    if approval.is_none() && breakglass.is_none() {
        return None;
    }
    let what = event.change.as_ref().map_or_else(|| event.action.as_str().to_owned(), |change| change.what.clone());
    Some(Marks { approval, breakglass, record: id(entry), what })
}

pub(super) fn asked(entry: &Entry<'_>) -> Option<ApprovalRow> {
    let event = entry.event;
    let facts = event.approval.clone()?;
    Some(ApprovalRow {
        id: facts.id,
        act: facts.act?,
        subject: event.subject.clone().unwrap_or_default(),
        description: facts.description.unwrap_or_default(),
        digest: facts.digest?,
        asked_at: event.time.clone(),
        until: facts.until?,
        actor: event.actor.clone()?,
        reason: event.reason.clone(),
        record: id(entry),
        answer: None,
        used: None,
    })
}

pub(super) fn answered(entry: &Entry<'_>) -> Option<Effect> {
    let event = entry.event;
    let answer = ApprovalAnswer {
        granted: event.outcome == Outcome::Success,
        at: event.time.clone(),
        actor: event.actor.clone().unwrap_or_default(),
        reason: event.reason.clone(),
        record: id(entry),
    };
    Some(Effect::ApprovalAnswered { id: event.approval.as_ref()?.id.clone(), answer: Box::new(answer) })
}

pub(super) fn opened(entry: &Entry<'_>) -> Option<BreakglassRow> {
    let event = entry.event;
    let facts = event.breakglass.clone()?;
    Some(BreakglassRow {
        id: facts.id,
        opened_at: event.time.clone(),
        until: facts.until?,
        actor: event.actor.clone()?,
        source: event.source.clone().unwrap_or_default(),
        reason: event.reason.clone().unwrap_or_default(),
        record: id(entry),
        acts: Vec::new(),
        count: 0,
        closed: None,
    })
}
