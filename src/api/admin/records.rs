//! Records for operators: a tail that follows, a range, one record with its receipt.
//!
//! Nothing is sent before the look itself is a durable record. Records are read in chunks as the reader takes them, so
//! that an export of a whole ledger holds one chunk in memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, Stream, StreamExt};
use time::OffsetDateTime;
use tonic::Status;

use super::Sources;
use super::acts::Operator;
use crate::api::status::bounded;
use crate::audit::event::{Action, Event};
use crate::clock::parse_rfc3339;
use crate::proto::chancery::admin::v1 as pb;

/// Records read at a time.
const CHUNK: u64 = 256;

/// How far back a tail looks for records that match.
const FARTHEST_BACK: u64 = 65_536;

/// The most records that a tail begins with.
const LONGEST_TAIL: u32 = 10_000;

/// How far the times of neighbouring records may be out of order.
const DISORDER: time::Duration = time::Duration::seconds(10);

/// How long a follower waits before it looks again whatever it was told.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Which records somebody wants.
#[derive(Debug, Clone, Default)]
pub(super) struct Filter {
    actions: Vec<Action>,
    since: Option<OffsetDateTime>,
}

impl Filter {
    pub(super) fn parse(ask: &pb::ReadAuditRequest) -> Result<Self, Status> {
        let actions = ask.actions.iter().map(|name| action(name)).collect::<Result<Vec<_>, _>>()?.concat();
        let since = (!ask.since.is_empty()).then(|| parse_rfc3339(&ask.since)).transpose();
        let since = since.map_err(|_| {
            Status::invalid_argument(format!("{:?} is not a time: write RFC 3339, 2026-11-23T13:00:00Z", ask.since))
        })?;
        Ok(Self { actions, since })
    }

    fn takes(&self, event: &Event) -> bool {
        (self.actions.is_empty() || self.actions.contains(&event.action))
            && self.since.is_none_or(|since| parse_rfc3339(&event.time).is_ok_and(|time| time >= since))
    }
}

/// `certificate.issue`, or a family: `certificate` and `certificate.*` stand for all of its actions.
fn action(name: &str) -> Result<Vec<Action>, Status> {
    let family = name.strip_suffix(".*").unwrap_or(name);
    let found: Vec<Action> = Action::ALL
        .into_iter()
        .filter(|action| {
            action.as_str() == name || action.as_str().strip_prefix(family).is_some_and(|rest| rest.starts_with('.'))
        })
        .collect();
    if found.is_empty() {
        let names = Action::ALL.into_iter().flat_map(|action| {
            let family = action.as_str().split('.').next();
            family.into_iter().chain([action.as_str()])
        });
        let likeness = |known: &str| strsim::jaro_winkler(known, name);
        let nearest = names.max_by(|a, b| likeness(a).total_cmp(&likeness(b))).unwrap_or("certificate");
        return Err(Status::invalid_argument(format!(
            "{name:?} is no action of the ledger; did you mean {nearest}? (docs/events.md)"
        )));
    }
    Ok(found)
}

/// A place in the ledger: which log (by its number in `logs`) and which record.
#[derive(Debug, Clone, Copy)]
struct Place {
    log: usize,
    next: u64,
}

/// A reader's state between two chunks.
struct Walk {
    sources: Arc<Sources>,
    filter: Filter,
    place: Place,
    left: Option<u64>,
    follow: bool,
    /// Who reads, for as long as it has the role that it had.
    operator: Operator,
    ready: VecDeque<pb::AuditRecord>,
}

impl Sources {
    /// Where a record is: `<origin>#<index>`, an index of the log that is written to, or a certificate's serial.
    pub(super) async fn locate(&self, what: &str) -> Result<(String, u64), Status> {
        let logs = self.ledger.logs();
        let (origin, index) = if let Some((origin, index)) = what.rsplit_once('#') {
            let known = logs.iter().find(|(known, _)| known == origin || known.rsplit('/').next() == Some(origin));
            let missing = || Status::not_found(format!("there is no log {origin}: chancery status names them"));
            (known.ok_or_else(missing)?.clone(), index.parse().ok())
        } else if what.len() < 16 && what.bytes().all(|b| b.is_ascii_digit()) && !what.is_empty() {
            (logs.last().cloned().unwrap_or_default(), what.parse().ok())
        } else {
            let row = self.one(what).await?;
            return Ok((row.log, row.index));
        };
        match index {
            Some(index) if index < origin.1 => Ok((origin.0, index)),
            Some(_) => {
                Err(Status::not_found(format!("{} has {} records, from 0: no record {what}", origin.0, origin.1)))
            }
            None => {
                Err(Status::invalid_argument(format!("{what:?} names no record: write an index, an id or a serial")))
            }
        }
    }

    /// One record; `names` says whether its reader sees what operators are called.
    pub(super) async fn record(&self, origin: &str, index: u64, names: bool) -> Result<pb::AuditRecord, Status> {
        let leaves = self.ledger.read(origin, index..index + 1).await?;
        let leaf =
            leaves.first().ok_or_else(|| Status::internal("the ledger gave no record for a place that it has"))?;
        self.render(origin, index, leaf, names).map(|(record, _)| record)
    }

    fn render(&self, origin: &str, index: u64, leaf: &[u8], names: bool) -> Result<(pb::AuditRecord, Event), Status> {
        let event = Event::from_leaf(leaf).map_err(|error| Status::internal(format!("{origin}#{index}: {error}")))?;
        let sealed = event.actor.as_ref().and_then(|actor| actor.name.as_ref()).filter(|_| names);
        let record = pb::AuditRecord {
            id: format!("{origin}#{index}"),
            index,
            json: String::from_utf8_lossy(leaf).into_owned(),
            operator: sealed.and_then(|name| self.ledger.unseal(name)),
        };
        Ok((record, event))
    }

    /// The place from which a tail shows the last `wanted` records that match.
    async fn tail_start(&self, filter: &Filter, wanted: u32, log: usize) -> Result<Place, Status> {
        let logs = self.ledger.logs();
        let Some((origin, size)) = logs.get(log) else { return Ok(Place { log, next: 0 }) };
        let (mut at, mut left) = (*size, u64::from(wanted.min(LONGEST_TAIL)));
        while left > 0 && at > 0 && size - at < FARTHEST_BACK {
            let from = at.saturating_sub(CHUNK);
            let leaves = self.ledger.read(origin, from..at).await?;
            let numbered: Vec<_> = (from..).zip(&leaves).collect();
            for (index, leaf) in numbered.into_iter().rev() {
                let (_, event) = self.render(origin, index, leaf, false)?;
                if left > 0 && filter.takes(&event) {
                    left -= 1;
                    at = index;
                }
            }
            if left > 0 {
                at = from;
            }
        }
        Ok(Place { log, next: at })
    }

    /// A place before the first record since then: records are in the order of their times, but for those that were
    /// made at nearly the same moment.
    async fn since_start(&self, since: OffsetDateTime) -> Result<Place, Status> {
        let since = since - DISORDER;
        for (log, (origin, size)) in self.ledger.logs().iter().enumerate().rev() {
            let (mut low, mut high) = (0, *size);
            while low < high {
                let middle = low.midpoint(high);
                let leaves = self.ledger.read(origin, middle..middle + 1).await?;
                let event = leaves.first().and_then(|leaf| Event::from_leaf(leaf).ok());
                if event.and_then(|event| parse_rfc3339(&event.time).ok()).is_some_and(|time| time < since) {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            if low > 0 || log == 0 {
                return Ok(Place { log, next: low });
            }
        }
        Ok(Place { log: 0, next: 0 })
    }

    /// The records that `ask` wants, with operators' names or without. The caller has recorded the look.
    pub(super) async fn walk(
        self: Arc<Self>,
        ask: &pb::ReadAuditRequest,
        filter: Filter,
        operator: Operator,
    ) -> Result<impl Stream<Item = Result<pb::AuditRecord, Status>> + Send + use<>, Status> {
        let logs = self.ledger.logs();
        let last = logs.len().saturating_sub(1);
        let place = if !ask.from.is_empty() {
            let (origin, next) = self.locate(&ask.from).await?;
            Place { log: logs.iter().position(|(known, _)| *known == origin).unwrap_or(last), next }
        } else if let Some(since) = filter.since {
            self.since_start(since).await?
        } else if ask.last > 0 || ask.follow {
            self.tail_start(&filter, ask.last, last).await?
        } else {
            Place { log: 0, next: 0 }
        };
        let left = (ask.count > 0).then_some(ask.count);
        let walk = Walk { sources: self, filter, place, left, follow: ask.follow, operator, ready: VecDeque::new() };
        Ok(stream::unfold(Some(walk), |walk| async move {
            let mut walk = walk?;
            match walk.next().await {
                Ok(Some(record)) => Some((Ok(record), Some(walk))),
                Ok(None) => None,
                Err(status) => Some((Err(bounded(status)), None)),
            }
        })
        .boxed())
    }
}

impl Walk {
    async fn next(&mut self) -> Result<Option<pb::AuditRecord>, Status> {
        loop {
            if self.left == Some(0) {
                return Ok(None);
            }
            if let Some(record) = self.ready.pop_front() {
                self.left = self.left.map(|left| left - 1);
                return Ok(Some(record));
            }
            let logs = self.sources.ledger.logs();
            let Some((origin, size)) = logs.get(self.place.log) else { return Ok(None) };
            if self.place.next < *size {
                self.fill(origin, *size).await?;
            } else if self.place.log + 1 < logs.len() {
                self.place = Place { log: self.place.log + 1, next: 0 };
            } else if self.follow {
                let moved = self.sources.ledger.moved(*size, LOOK_AGAIN);
                if self.sources.stopping.run_until_cancelled(moved).await.is_none() {
                    return Err(Status::unavailable("the server is stopping; follow it again when it is back"));
                }
            } else {
                return Ok(None);
            }
        }
    }

    async fn fill(&mut self, origin: &str, size: u64) -> Result<(), Status> {
        self.sources.still(&self.operator)?;
        let (end, names) = (size.min(self.place.next + CHUNK), self.operator.sees_names());
        let leaves = self.sources.ledger.read(origin, self.place.next..end).await?;
        if leaves.is_empty() {
            return Err(Status::internal(format!("{origin} gave no record from {} on", self.place.next)));
        }
        for leaf in &leaves {
            let (record, event) = self.sources.render(origin, self.place.next, leaf, names)?;
            self.place.next += 1;
            if self.filter.takes(&event) {
                self.ready.push_back(record);
            }
        }
        Ok(())
    }
}
