//! A revocation, step by step.
//!
//! 1. deny: the identity is in [`crate::ca::standing::Standing`] before anything else, so that nothing is issued to it
//!    while the rest goes on;
//! 2. select: the index reaches the ledger's head and names every live certificate;
//! 3. mark: their serials are in `Standing`, and every listener of ours refuses them from here on;
//! 4. record: deny and revocations, durable. When that fails, deny and marks are taken back;
//! 5. sign: the CRL of each authority concerned;
//! 6. publish: one bundle with all of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use time::OffsetDateTime;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::lists::{Book, Cause};
use super::select::{Chosen, select};
use super::{Listed, Order, RevokeError, Revoker, Step};
use crate::audit::event::{Action, Event, Outcome};
use crate::audit::ledger::{LedgerError, Position};
use crate::ca::standing::{Denied, Standing};
use crate::clock::rfc3339_micros;
use crate::x509::crl::CrlEntry;

/// Records of one commit: an order for more takes several, the deny in the first.
const RECORDS_AT_ONCE: usize = 1_024;

/// What was recorded of an order.
struct Done {
    first: Position,
    last: Position,
    /// How many of the chosen certificates; from the first on.
    revoked: usize,
    /// Why not all.
    stopped: Option<LedgerError>,
}

impl Revoker {
    /// The whole of a revocation; one at a time.
    pub(super) async fn carry_out(&self, order: Order, told: &mpsc::Sender<Step>) -> Result<(), RevokeError> {
        let mut book = self.0.book.lock().await;
        let now = self.0.clock.now();
        let standing = self.0.street.standing();

        // 1. Deny.
        let pattern = order.selection.pattern();
        let before = pattern.as_ref().and_then(|pattern| self.denied_exactly(pattern));
        let deny = pattern.clone().filter(|_| before.is_none());
        if let Some(pattern) = &deny {
            standing.deny(pattern, denied(&order, now, String::new()));
        }

        // 2. Select.
        let chosen = match self.chosen(&order, now).await {
            Ok(chosen) => chosen,
            Err(failure) => {
                undeny(standing, deny.as_deref());
                return Err(failure);
            }
        };
        if chosen.is_empty() && deny.is_none() {
            return Err(match (pattern, before) {
                (Some(pattern), Some(before)) => RevokeError::AlreadyDenied { pattern, record: before.record },
                (Some(_) | None, None) | (None, Some(_)) => RevokeError::Nothing,
            });
        }

        // 3. Mark.
        standing.revoke(chosen.iter().map(|one| (one.serial.hex(), end(one))));

        // 4. Record.
        let done = match self.record(&order, deny.as_deref(), &chosen, now).await {
            Ok(done) => done,
            Err(failure) => {
                if surely_absent(&failure) {
                    unmark(standing, &chosen);
                    undeny(standing, deny.as_deref());
                }
                return Err(failure.into());
            }
        };
        if let Some(pattern) = &deny {
            standing.deny(pattern, denied(&order, now, done.first.to_string()));
        }
        let (revoked, left) = chosen.split_at_checked(done.revoked).unwrap_or((&chosen, &[]));
        if done.stopped.as_ref().is_some_and(surely_absent) {
            unmark(standing, left);
        }
        let count = |certificates: &[Chosen]| u64::try_from(certificates.len()).unwrap_or(u64::MAX);
        info!(revoked = revoked.len(), denied = pattern, reason = order.reason.as_str(), "revoked");
        let step = Step::Recorded { first: done.first, last: done.last, revoked: count(revoked), denied: pattern };
        tell(told, step);

        // 5. and 6. Sign and publish.
        let mut touched = BTreeSet::new();
        for one in revoked {
            let entry = CrlEntry { serial: one.serial, revoked_at: now, reason: order.reason };
            book.add(&one.issuer_key_id, entry, one.expires);
            touched.insert(one.issuer_key_id.clone());
        }
        self.relist(&mut book, &touched, order.template.request_id.as_deref(), told).await?;
        match done.stopped {
            None => Ok(()),
            Some(source) => Err(RevokeError::Partly { revoked: count(revoked), left: count(left), source }),
        }
    }

    async fn chosen(&self, order: &Order, now: OffsetDateTime) -> Result<Vec<Chosen>, RevokeError> {
        self.0.index_reaches_head().await?;
        let (store, standing) = (Arc::clone(&self.0.store), self.0.street.standing().clone());
        let (selection, now) = (order.selection.clone(), now.unix_timestamp());
        let found = self.0.tasks.block(move || select(&*store, &standing, &selection, now)).await;
        found.unwrap_or(Err(RevokeError::Interrupted))
    }

    fn denied_exactly(&self, pattern: &str) -> Option<Denied> {
        self.0.street.standing().denies().into_iter().find(|(denied, _)| denied == pattern).map(|(_, why)| why)
    }

    /// Appends in as few commits as hold it. An error means that not even the first one was taken.
    async fn record(
        &self,
        order: &Order,
        deny: Option<&str>,
        chosen: &[Chosen],
        now: OffsetDateTime,
    ) -> Result<Done, LedgerError> {
        let mut deny = deny.map(|pattern| self.event(order, Action::IdentityDeny, pattern, now));
        let (mut done, mut at, mut at_once): (Option<Done>, usize, usize) = (None, 0, RECORDS_AT_ONCE);
        while deny.is_some() || at < chosen.len() {
            let taken: Vec<&Chosen> = chosen.iter().skip(at).take(at_once).collect();
            let revocations = taken.iter().map(|one| self.revocation(order, one, now));
            let events: Vec<Event> = deny.iter().cloned().chain(revocations).collect();
            match (self.0.ledger.append_batch(&events).await, &mut done) {
                (Ok(positions), done) => {
                    let (Some(first), Some(last)) = (positions.first(), positions.last()) else {
                        return Err(LedgerError::Closed);
                    };
                    deny = None;
                    at += taken.len();
                    let first = done.as_ref().map_or(first, |done| &done.first).clone();
                    *done = Some(Done { first, last: last.clone(), revoked: at, stopped: None });
                }
                (Err(LedgerError::Batch { .. }), _) if at_once > 1 => at_once /= 2,
                (Err(failure), Some(done)) => {
                    done.stopped = Some(failure);
                    break;
                }
                (Err(failure), None) => return Err(failure),
            }
        }
        done.ok_or(LedgerError::Closed)
    }

    fn revocation(&self, order: &Order, one: &Chosen, now: OffsetDateTime) -> Event {
        let mut event = self.event(order, Action::CertificateRevoke, &one.identity, now);
        event.serial = Some(one.serial.hex());
        event.refers_to = Some(one.record.clone());
        event
    }

    /// A record of the order with what its template says and a salt of its own.
    fn event(&self, order: &Order, action: Action, subject: &str, now: OffsetDateTime) -> Event {
        let mut event = self.worded(&order.template, action, subject, now);
        event.reason = Some(order.reason.as_str().to_owned());
        event
    }

    pub(super) fn worded(&self, template: &Event, action: Action, subject: &str, now: OffsetDateTime) -> Event {
        let mut event = self.0.recorder.event(action, Outcome::Success, now);
        event.actor.clone_from(&template.actor);
        event.source.clone_from(&template.source);
        event.change.clone_from(&template.change);
        event.request_id.clone_from(&template.request_id);
        event.trace_id.clone_from(&template.trace_id);
        event.policy.clone_from(&template.policy);
        event.subject = Some(subject.to_owned());
        event
    }

    /// Signs the lists of `touched`, which are key identifiers in hex, as the book has them, and publishes them together.
    pub(super) async fn relist(
        &self,
        book: &mut Book,
        touched: &BTreeSet<String>,
        request_id: Option<&str>,
        told: &mpsc::Sender<Step>,
    ) -> Result<(), RevokeError> {
        let authorities = Arc::clone(&self.0.street.authorities().borrow());
        let (mut signed, mut failed) = (Vec::new(), None);
        for authority in authorities.iter() {
            if !touched.contains(&hex::encode(authority.issuer().key_id())) {
                continue;
            }
            let cause = Cause::Revocation { request_id: request_id.map(str::to_owned) };
            match self.make(book, authority, &cause).await {
                Ok(listed) => signed.push(listed),
                Err(failure) => failed = Some(failure.to_string()),
            }
        }
        tell(told, Step::Signed { crls: signed.iter().map(Listed::state).collect() });
        let published = self.publish(book);
        if let Some(failure) = failed {
            error!(error = %failure, "a revocation is recorded, but not every CRL could be signed; trying again");
            self.0.undone.notify_one();
            return Err(RevokeError::Sign(failure));
        }
        match published {
            Ok(bundle_version) => tell(told, Step::Published { bundle_version }),
            Err(why) => {
                self.0.undone.notify_one();
                return Err(RevokeError::Sign(why));
            }
        }
        Ok(())
    }

    /// The whole of a release: in force once it is durable.
    pub(super) async fn lift(&self, pattern: &str, template: &Event) -> Result<Position, RevokeError> {
        let _one_at_a_time = self.0.book.lock().await;
        if self.denied_exactly(pattern).is_none() {
            return Err(RevokeError::NotDenied { pattern: pattern.to_owned() });
        }
        let mut event = self.worded(template, Action::IdentityRelease, pattern, self.0.clock.now());
        event.reason.clone_from(&template.reason);
        event.breakglass.clone_from(&template.breakglass);
        let position = self.0.ledger.append(event).await?;
        self.0.street.standing().release(pattern);
        self.0.street.reconsider();
        info!(pattern, "released");
        Ok(position)
    }
}

fn undeny(standing: &Standing, pattern: Option<&str>) {
    if let Some(pattern) = pattern {
        standing.release(pattern);
    }
}

fn unmark(standing: &Standing, chosen: &[Chosen]) {
    let serials: Vec<String> = chosen.iter().map(|one| one.serial.hex()).collect();
    standing.unrevoke(serials.iter().map(String::as_str));
}

/// Steps have room for all that there are; whoever does not listen any more misses them.
pub(super) fn tell(told: &mpsc::Sender<Step>, step: Step) {
    if told.try_send(step).is_err() {
        warn!("nobody waits for a revocation that goes on");
    }
}

fn denied(order: &Order, now: OffsetDateTime, record: String) -> Denied {
    Denied { record, since: rfc3339_micros(now), reason: order.reason.as_str().to_owned() }
}

fn end(one: &Chosen) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(one.expires).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// Whether a record that failed like this is surely not in the ledger. After other failures the next opening may find
/// it, and doubt refuses.
pub(super) fn surely_absent(failure: &LedgerError) -> bool {
    matches!(failure, LedgerError::Full { .. } | LedgerError::Record(_) | LedgerError::Batch { .. })
}
