//! Gathers who holds a new root: what streams acknowledged, and who has an unexpired certificate and no stream.
//!
//! Facts come from two places: [`Feed::sights`] knows the live and those that left during this run, the index knows every
//! certificate that is unexpired. A certificate that another took the place of is nobody's any more. Nothing is assumed: what
//! this run has not seen counts as lacking the root until its certificate ends. The judgement is
//! [`crate::policy::schedule::evidence`]'s.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::watch;

use crate::audit::ledger::LedgerReader;
use crate::ca::authority::root::{Candidate, REFRESH_HINT};
use crate::ca::slot::Name;
use crate::clock::{Clock, parse_rfc3339};
use crate::feed::Feed;
use crate::feed::coverage::{Seen, Sights};
use crate::policy::schedule::Evidence;
use crate::policy::schedule::evidence::{Handed, HeldCertificate, Sight, gather, judge};
use crate::store::{CertificateQuery, CertificateRow, LARGEST_PAGE, Store, StoreError};

/// How often it is gathered while a root waits.
pub const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A look costs at most one part in so many of the time: where it takes long it is taken less often.
const SHARE: u32 = 20;

/// How long a process that has a certificate on a stream and no bundle may take to ask for one; after that it counts as one
/// that takes its bundle elsewhere. Envoy opens a stream for each, up to 30 seconds apart.
const SETTLED: Duration = Duration::from_secs(60);

/// How long the index may take to what was recorded before a look.
const LONGEST_LAG: Duration = Duration::from_secs(10);

/// How often the index is asked whether it is there.
const LAG_EVERY: Duration = Duration::from_millis(5);

/// Why there is no evidence.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The index failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The index does not know yet what was recorded.
    #[error("the index lags behind the ledger, so not every holder is known")]
    Behind,
}

/// Whoever sees what everyone holds.
#[derive(Debug)]
pub struct Witness {
    pub(super) feed: Feed,
    pub(super) store: Arc<dyn Store>,
    reader: LedgerReader,
    clock: Clock,
    /// When this run began to serve: time before it was nobody's chance to look.
    since: OffsetDateTime,
    told: watch::Sender<Option<Arc<Evidence<Name>>>>,
}

impl Witness {
    /// From now on. What it sees is told to `told`.
    #[must_use]
    pub fn new(
        feed: Feed,
        store: Arc<dyn Store>,
        reader: LedgerReader,
        clock: Clock,
        told: watch::Sender<Option<Arc<Evidence<Name>>>>,
    ) -> Self {
        Self { since: clock.now(), feed, store, reader, clock, told }
    }

    /// Who holds what `candidate` needs, and how long until the next look is worth while.
    ///
    /// # Errors
    /// [`LookError`].
    pub async fn look(
        &self,
        candidate: &Candidate,
        silent_wait: Duration,
    ) -> Result<(Evidence<Name>, Duration), LookError> {
        let (began, now) = (self.clock.monotonic(), self.clock.now());
        // Streams first: whoever comes later is sent the new bundle.
        let mut sights = self.feed.sights(&candidate.needs, now - SETTLED);
        self.caught_up().await?;
        let held = self.held(candidate, &mut sights, now).await?;
        // The server was there for everyone to look, once at least.
        let silent_until = (candidate.published + silent_wait).max(self.since + silent_wait.min(REFRESH_HINT));
        let found = gather((candidate.root, candidate.issuing), held, candidate.published, silent_until);
        let took = self.clock.monotonic().saturating_sub(began);
        Ok((found, LOOK_EVERY.max(took * SHARE)))
    }

    /// Tells those who watch.
    pub(super) fn tell(&self, evidence: Option<Arc<Evidence<Name>>>) {
        self.told.send_replace(evidence);
    }

    /// Returns once the index knows what was recorded before this call.
    async fn caught_up(&self) -> Result<(), LookError> {
        let until = self.clock.monotonic() + LONGEST_LAG;
        let sizes: Vec<(Arc<str>, u64)> = self.reader.logs().into_iter().map(|log| (log.origin, log.size)).collect();
        loop {
            let applied = self.store.cursor()?;
            let read = |origin: &str| applied.get(origin).map_or(0, |at| at.next);
            if sizes.iter().all(|(origin, size)| read(origin) >= *size) {
                return Ok(());
            }
            if self.clock.monotonic() >= until {
                return Err(LookError::Behind);
            }
            self.clock.sleep(LAG_EVERY).await;
        }
    }

    /// Every holder: of what the index knows, those that streams show, and processes that take bundles only. Of those that
    /// hold the root a count is all that is needed, so that a large index fits.
    async fn held(
        &self,
        candidate: &Candidate,
        sights: &mut Sights,
        now: OffsetDateTime,
    ) -> Result<Vec<HeldCertificate>, LookError> {
        let mut superseded: HashSet<String> = HashSet::new();
        let mut held: HashMap<String, HeldCertificate> = HashMap::new();
        let mut query = CertificateQuery {
            expires_from: Some(now.unix_timestamp() + 1),
            revoked: Some(false),
            limit: LARGEST_PAGE,
            ..CertificateQuery::default()
        };
        loop {
            let page = self.store.certificates(&query)?;
            for row in page.certificates {
                superseded.extend(row.previous_serial.clone());
                if row.failed || row.account.as_deref() == Some("self") {
                    continue;
                }
                let seen = sights.certificates.remove(&row.serial);
                let sight = match seen {
                    Some(seen) => seen.sight,
                    None if superseded.contains(&row.serial) => continue,
                    None => self.feed.sight_of_absent(&row.serial, &candidate.needs),
                };
                let one = certificate(row, sight);
                held.insert(one.serial.clone(), one);
            }
            query.after = page.next;
            if query.after.is_none() {
                break;
            }
            tokio::task::yield_now().await;
        }
        // A successor may stand on a later page than what it followed.
        let is_held =
            |one: &HeldCertificate| !superseded.contains(&one.serial) || judge(one, candidate.published).is_none();
        let mut held: Vec<HeldCertificate> = held.into_values().filter(is_held).collect();
        held.extend(sights.certificates.drain().map(|(_, seen)| live(seen)));
        held.extend(sights.bundles_only.drain(..).map(live));
        Ok(held)
    }
}

fn certificate(row: CertificateRow, sight: Sight) -> HeldCertificate {
    // What an operator's command was given came with the bundle; a stream's certificate has a secret's name.
    let handed = if row.secret_name.is_none() { Handed::WithBundle } else { Handed::Alone };
    let time = |text: &str| parse_rfc3339(text).ok();
    HeldCertificate {
        identity: Some(row.identity),
        node: row.node,
        caller: row.account.unwrap_or_default(),
        issued: time(&row.issued_at).unwrap_or(OffsetDateTime::UNIX_EPOCH),
        until: time(&row.not_after),
        serial: row.serial,
        handed,
        sight,
    }
}

fn live(seen: Seen) -> HeldCertificate {
    let Seen { proxy, sight } = seen;
    HeldCertificate {
        serial: proxy.serial.unwrap_or_default(),
        identity: proxy.identity.map(|identity| identity.to_string()),
        node: proxy.node,
        caller: proxy.caller,
        issued: proxy.since,
        until: proxy.not_after,
        handed: Handed::Alone,
        sight,
    }
}
