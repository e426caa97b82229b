//! Revokes a tainted authority's own certificate, on the CRL of the root above it.
//!
//! The order is that of every revocation: record, sign, publish. Only a tainted authority is revoked, because one that
//! signs would take every certificate under it along. A taint without its revocation in the records is one that a stop
//! cut short: [`Book::open`] finds it, and the first look at the lists carries it out, before anything is served. While
//! a server runs, the one who tainted says when: the holders have other certificates by then.

use std::collections::BTreeSet;
use std::sync::Arc;

use time::OffsetDateTime;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::act::{surely_absent, tell};
use super::lists::Book;
use super::{AuthorityOrder, RevokeError, Revoker, STEPS, Step};
use crate::audit::event::{Action, Event, Outcome};
use crate::audit::ledger::Position;
use crate::ca::slot::{Authority, Name, State};
use crate::store::{AuthorityRow, RevokedRow};
use crate::x509::Serial;
use crate::x509::crl::{CrlEntry, Reason};

/// A taint that was recorded, and its revocation not.
#[derive(Debug, Clone)]
pub(super) struct Unfinished {
    name: Name,
    /// The record of the taint.
    taint: Position,
}

impl Unfinished {
    /// Those among `authorities`, where `rows` are what the index knows of them and `revoked` what is revoked.
    pub(super) fn among<'a>(
        authorities: impl Iterator<Item = &'a Arc<Authority>>,
        rows: &[AuthorityRow],
        revoked: &[RevokedRow],
    ) -> Vec<Self> {
        let tainted = authorities.filter(|authority| authority.state() == State::Tainted);
        let unfinished = tainted.filter_map(|authority| {
            let serial = authority.issuer().serial()?.hex();
            if revoked.iter().any(|row| row.serial == serial) {
                return None;
            }
            let key_id = hex::encode(authority.issuer().key_id());
            let row = rows.iter().find(|row| row.key_id == key_id)?;
            let taint = Position { log: row.log.as_str().into(), index: row.index };
            Some(Self { name: authority.name(), taint })
        });
        unfinished.collect()
    }
}

impl Revoker {
    /// Revokes the certificate of a tainted authority, and tells each step as it is done. Complete when it returns; whoever
    /// drops this ends the telling, not the revocation.
    ///
    /// # Errors
    /// [`RevokeError`]; [`RevokeError::NotTainted`] for one that is trusted still.
    pub async fn revoke_authority(&self, order: AuthorityOrder, told: mpsc::Sender<Step>) -> Result<(), RevokeError> {
        let (tell, mut steps) = mpsc::channel(STEPS);
        let this = self.clone();
        let work = self.0.tasks.spawn("revocation", async move {
            if this.is_signed_elsewhere(order.name) {
                return this.end_elsewhere(&order, &tell).await;
            }
            let mut book = this.0.book.lock().await;
            this.end_authority(&mut book, &order, &tell).await
        });
        while let Some(step) = steps.recv().await {
            // Whoever does not listen any more misses it.
            let _ = told.send(step).await;
        }
        work.await.unwrap_or(Err(RevokeError::Interrupted))
    }

    /// Carries out what a stop cut short; in words what could not be done now.
    pub(super) async fn finish_taints(&self, book: &mut Book) -> Vec<String> {
        let (mut left, mut failures) = (Vec::new(), Vec::new());
        for unfinished in std::mem::take(&mut book.unfinished) {
            let order = AuthorityOrder {
                name: unfinished.name,
                reason: Reason::CaCompromise,
                template: self.0.recorder.event(Action::CertificateRevoke, Outcome::Success, self.0.clock.now()),
            };
            let order = self.as_ordered(&unfinished.taint, order);
            match self.end_authority(book, &order, &mpsc::channel(STEPS).0).await {
                Ok(()) => warn!(authority = %unfinished.name, "a taint that was cut short is finished"),
                Err(RevokeError::AlreadyRevoked { .. }) => {}
                // Trying again would change nothing here; what an upstream signed, `elsewhere` does.
                Err(why @ (RevokeError::NotOurs { .. } | RevokeError::NotTainted { .. })) => {
                    debug!(authority = %unfinished.name, error = %why, "a taint is not finished here");
                }
                Err(failure) => {
                    failures.push(format!("{} is tainted and not revoked: {failure}", unfinished.name));
                    left.push(unfinished);
                }
            }
        }
        book.unfinished = left;
        failures
    }

    /// Who ordered it and why, as the record of the taint says.
    pub(super) fn as_ordered(&self, taint: &Position, order: AuthorityOrder) -> AuthorityOrder {
        let read = self.0.ledger.reader().read(&taint.log, taint.index..taint.index.saturating_add(1));
        let leaf = read.ok().and_then(|leaves| leaves.into_iter().next());
        let Some(event) = leaf.and_then(|(_, leaf)| Event::from_leaf(&leaf).ok()) else { return order };
        let reason = event.reason.as_deref().and_then(Reason::parse).unwrap_or(order.reason);
        let Event { actor, source, request_id, .. } = event;
        let template = Event { actor, source, request_id, ..order.template };
        AuthorityOrder { reason, template, ..order }
    }

    async fn end_authority(
        &self,
        book: &mut Book,
        order: &AuthorityOrder,
        told: &mpsc::Sender<Step>,
    ) -> Result<(), RevokeError> {
        let name = order.name;
        let authorities = Arc::clone(&self.0.street.authorities().borrow());
        let found = authorities.iter().find(|authority| authority.name() == name);
        let tainted = found.filter(|authority| authority.state() == State::Tainted);
        let authority = tainted.ok_or(RevokeError::NotTainted { name })?;
        let (parent, serial) = above(authority, authorities.iter()).ok_or(RevokeError::NotOurs { name })?;
        if let Some(record) = self.revoked_by(&serial) {
            return Err(RevokeError::AlreadyRevoked { serial: serial.hex(), record });
        }
        let (now, end) = (self.0.clock.now(), authority.issuer().not_after());
        let record = self.record_end(order, authority, serial, now).await?;
        book.unfinished.retain(|unfinished| unfinished.name != name);
        tell(told, Step::Recorded { first: record.clone(), last: record, revoked: 1, denied: None });
        let entry = CrlEntry { serial, revoked_at: now, reason: order.reason };
        book.add(&parent, entry, end.unix_timestamp());
        self.relist(book, &BTreeSet::from([parent]), order.template.request_id.as_deref(), told).await
    }

    /// Marks it, then records it.
    pub(super) async fn record_end(
        &self,
        order: &AuthorityOrder,
        authority: &Authority,
        serial: Serial,
        now: OffsetDateTime,
    ) -> Result<Position, RevokeError> {
        let standing = self.0.street.standing();
        standing.revoke([(serial.hex(), authority.issuer().not_after())]);
        match self.0.ledger.append(self.taking_away(order, authority, serial, now)).await {
            Ok(record) => {
                info!(authority = %order.name, serial = serial.hex(), reason = order.reason.as_str(), "revoked");
                Ok(record)
            }
            Err(failure) => {
                if surely_absent(&failure) {
                    standing.unrevoke([serial.hex().as_str()]);
                }
                Err(failure.into())
            }
        }
    }

    pub(super) fn revoked_by(&self, serial: &Serial) -> Option<String> {
        if !self.0.street.standing().is_revoked(&serial.hex()) {
            return None;
        }
        let rows = self.0.store.revoked(self.0.clock.now().unix_timestamp()).unwrap_or_default();
        let row = rows.into_iter().find(|row| row.serial == serial.hex());
        Some(row.map_or_else(|| "a record of moments ago".to_owned(), |row| row.record))
    }

    fn taking_away(&self, order: &AuthorityOrder, authority: &Authority, serial: Serial, now: OffsetDateTime) -> Event {
        let mut event = self.worded(&order.template, Action::CertificateRevoke, &authority.name().to_string(), now);
        event.authority = Some(authority.facts(State::Tainted));
        event.reason = Some(order.reason.as_str().to_owned());
        event.serial = Some(serial.hex());
        event
    }
}

/// The key identifier (hex) of the authority above, which is one of ours, and the serial that it gave.
fn above<'a>(authority: &Authority, mut all: impl Iterator<Item = &'a Arc<Authority>>) -> Option<(String, Serial)> {
    let parent = authority.issuer().issuer_key_id()?;
    let ours = all.any(|other| other.issuer().key_id() == parent && other.key().is_some());
    Some((hex::encode(parent), authority.issuer().serial()?)).filter(|_| ours)
}
