//! Revokes a tainted issuing CA that an upstream signed, there: its CRL is the upstream's to make, ours to fetch and push.
//!
//! The order is that of every revocation: record, then revoke at the upstream, then fetch its new list and publish it. What
//! is left to do is never stored: a tainted CA that is not on the list that is held is tried again, with a wait that
//! doubles, over restarts too, until its list has it. An upstream that revokes by hand only (an offline root) is not asked;
//! its next list is looked for just the same. The network is waited for without the book, so no other revocation waits.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::act::tell;
use super::imported::Given;
use super::lists::{Book, Cause};
use super::{AuthorityOrder, Listed, RevokeError, Revoker, STEPS, Step};
use crate::audit::event::{Action, Outcome};
use crate::audit::ledger::Position;
use crate::ca::slot::{Authority, Name, State};
use crate::upstream::UpstreamError;
use crate::x509::Serial;
use crate::x509::crl::{Crl, Reason};

/// The wait after the first failure; it doubles each time.
const RETRY_FIRST: Duration = Duration::from_secs(15);

/// What that wait grows to.
const RETRY_LONGEST: Duration = Duration::from_secs(900);

/// When the upstream is asked again.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    next: Option<OffsetDateTime>,
    wait: Duration,
}

impl Backoff {
    fn is_due(&self, now: OffsetDateTime) -> bool {
        self.next.is_none_or(|next| next <= now)
    }

    /// A quarter of the wait is left to chance, so that many servers of one upstream do not come at once.
    fn failed(&mut self, now: OffsetDateTime) {
        self.wait = (self.wait * 2).clamp(RETRY_FIRST, RETRY_LONGEST);
        let chance = self.wait.mul_f64(f64::from(now.microsecond() % 1_000) / 4_000.0);
        self.next = Some(now + self.wait + chance);
    }
}

/// A tainted CA, the one above it, and what that one calls it.
struct Meant {
    tainted: Arc<Authority>,
    above: Arc<Authority>,
    serial: Serial,
}

impl Revoker {
    /// Whether the list that this authority would stand on is not made here.
    pub(super) fn is_signed_elsewhere(&self, name: Name) -> bool {
        self.meant(name).is_some()
    }

    fn meant(&self, name: Name) -> Option<Meant> {
        let authorities = Arc::clone(&self.0.street.authorities().borrow());
        let tainted = authorities.iter().find(|one| one.name() == name && one.state() == State::Tainted).cloned()?;
        let parent = tainted.issuer().issuer_key_id()?;
        let above = authorities.iter().find(|one| one.issuer().key_id() == parent && one.key().is_none()).cloned()?;
        let serial = tainted.issuer().serial()?;
        Some(Meant { tainted, above, serial })
    }

    /// The whole of it, for an operator who waits.
    pub(super) async fn end_elsewhere(
        &self,
        order: &AuthorityOrder,
        told: &mpsc::Sender<Step>,
    ) -> Result<(), RevokeError> {
        let meant = self.meant(order.name).ok_or(RevokeError::NotOurs { name: order.name })?;
        let before = self.revoked_by(&meant.serial);
        if before.is_none() {
            let record = self.record_end(order, &meant.tainted, meant.serial, self.0.clock.now()).await?;
            tell(told, Step::Recorded { first: record.clone(), last: record, revoked: 1, denied: None });
        }
        match self.at_upstream(&meant, order.template.request_id.clone()).await {
            Ok((listed, bundle_version)) => {
                tell(told, Step::Signed { crls: vec![listed.state()] });
                tell(told, Step::Published { bundle_version });
                Ok(())
            }
            Err(failure) => {
                self.0.book.lock().await.elsewhere.failed(self.0.clock.now());
                self.0.undone.notify_one();
                Err(failure)
            }
        }
    }

    /// Carries out what is not on its upstream's list yet; when to come again, if anything is left.
    pub(super) async fn finish_elsewhere(&self) -> Option<OffsetDateTime> {
        let authorities = Arc::clone(&self.0.street.authorities().borrow());
        let tainted = authorities.iter().filter(|one| one.state() == State::Tainted);
        let meant: Vec<Meant> = tainted.filter_map(|one| self.meant(one.name())).collect();
        let mut left = Vec::new();
        {
            let book = self.0.book.lock().await;
            left.extend(meant.into_iter().filter(|meant| on_list(&book, meant).is_none()));
            if left.is_empty() || !book.elsewhere.is_due(self.0.clock.now()) {
                return if left.is_empty() { None } else { book.elsewhere.next };
            }
        }
        let mut failed = false;
        for meant in left {
            let name = meant.tainted.name();
            match self.end_elsewhere(&self.order_of(&meant), &mpsc::channel(STEPS).0).await {
                Ok(()) => info!(authority = %name, "revoked at its upstream at last"),
                Err(failure) => {
                    failed = true;
                    warn!(authority = %name, error = %failure, "tainted, and not on its upstream's list yet; tried again");
                }
            }
        }
        let mut book = self.0.book.lock().await;
        if !failed {
            book.elsewhere = Backoff::default();
        }
        book.elsewhere.next
    }

    /// As the record of the taint says.
    fn order_of(&self, meant: &Meant) -> AuthorityOrder {
        let order = AuthorityOrder {
            name: meant.tainted.name(),
            reason: Reason::CaCompromise,
            template: self.0.recorder.event(Action::CertificateRevoke, Outcome::Success, self.0.clock.now()),
        };
        let key_id = hex::encode(meant.tainted.issuer().key_id());
        let rows = self.0.store.authorities().unwrap_or_default();
        match rows.into_iter().find(|row| row.key_id == key_id) {
            Some(row) => self.as_ordered(&Position { log: row.log.as_str().into(), index: row.index }, order),
            None => order,
        }
    }

    /// Revokes there, then fetches the list and publishes it; the list, and the bundle's version.
    async fn at_upstream(&self, meant: &Meant, request_id: Option<String>) -> Result<(Listed, String), RevokeError> {
        let name = meant.tainted.name();
        let Some(upstream) = self.0.upstream.as_ref() else { return Err(RevokeError::NotOurs { name }) };
        let revoked = upstream.revoke(&meant.serial).await;
        if let Err(failure) = &revoked
            && !matches!(failure, UpstreamError::ByHand { .. })
        {
            return Err(failure.clone().into());
        }
        let given = Given { upstream: upstream.name().to_owned(), lists: parsed(upstream.crls().await) };
        let mut book = self.0.book.lock().await;
        let imported = self.import(&mut book, &meant.above, &given, &Cause::Revocation { request_id }).await;
        imported.map_err(|why| RevokeError::Sign(why.to_string()))?;
        match (on_list(&book, meant), revoked) {
            (Some(listed), _) => {
                let version = self.publish(&book).map_err(RevokeError::Sign)?;
                Ok((listed, version))
            }
            (None, Err(by_hand)) => Err(by_hand.into()),
            (None, Ok(())) => Err(RevokeError::NotListed { name, upstream: upstream.name().to_owned() }),
        }
    }
}

/// What an upstream gave, read; what cannot be read is none.
pub(super) fn parsed(given: Result<Vec<Vec<u8>>, UpstreamError>) -> Result<Vec<Crl>, UpstreamError> {
    given.map(|found| found.into_iter().filter_map(|der| Crl::parse(der).ok()).collect())
}

/// The held list of the CA above, if that certificate is on it.
fn on_list(book: &Book, meant: &Meant) -> Option<Listed> {
    let listed = book.lists.get(&hex::encode(meant.above.issuer().key_id()))?;
    listed.crl.revokes(&meant.serial).map(|_| listed.clone())
}
