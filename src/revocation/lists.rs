//! What is on each CRL, and how one is made, renewed and published.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use futures::future::BoxFuture;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::authority::Unfinished;
use super::cache::{self, Kept};
use super::elsewhere::Backoff;
use super::listed::{CrlSet, Listed};
use super::{CrlTimes, Inner, Revoker, RevokerParts};
use crate::audit::event::{Action, CrlFacts, Event, Outcome};
use crate::audit::ledger::LedgerError;
use crate::ca::authority::Lists;
use crate::ca::sign::{Deferred, SignError, SigningKey};
use crate::ca::slot::{Authority, Level, State};
use crate::ca::standing::Denied;
use crate::clock::parse_rfc3339;
use crate::feed::{Feed, TrustBundle};
use crate::store::StoreError;
use crate::upstream::UpstreamError;
use crate::x509::Serial;
use crate::x509::bundle::Bundle;
use crate::x509::crl::{Crl, CrlDraft, CrlEntry, CrlError, CrlSpec, Reason, Scope};

/// How far a CRL's `thisUpdate` lies in the past: verifiers whose clocks are behind must not refuse it.
pub(super) const BACKDATED: Duration = Duration::from_secs(300);

/// How long a certificate stays on the list after its end: verifiers whose clocks are behind still take it.
pub(super) const KEPT_AFTER_END: Duration = Duration::from_secs(3_600);

/// How long after a failure it is tried again.
pub(super) const RETRY: Duration = Duration::from_secs(5);

/// The longest that lists are left alone, so that a jump of the clock is noticed.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Certificates that may be on a list after they could be off it, before it is made anew for that alone.
const MOST_LAPSED: usize = 1_000;

/// Why a CRL is made, as its record says.
#[derive(Debug, Clone)]
pub(super) enum Cause {
    /// Its authority is new, or it was lost.
    Missing,
    /// The one before it nears its end.
    Scheduled,
    /// Something was revoked.
    Revocation {
        /// The order's.
        request_id: Option<String>,
    },
}

impl Cause {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Missing => "first",
            Self::Scheduled => "scheduled",
            Self::Revocation { .. } => "revocation",
        }
    }
}

/// Why there is no newer CRL.
#[derive(Debug, thiserror::Error)]
pub(super) enum MakeError {
    #[error(transparent)]
    Draft(#[from] CrlError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error(
        "{upstream} gives no CRL of {issuer} that holds now: name its mount in upstream.vault.crl_mounts, or a file in crl_files"
    )]
    NotGiven { upstream: String, issuer: String },
    #[error("its key is not here, so its list is its upstream's to make")]
    NoKey,
}

#[derive(Debug, Clone, Copy)]
struct OnList {
    entry: CrlEntry,
    expires: OffsetDateTime,
}

/// What is on each list and what was made of it; behind the revoker's lock.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// By issuer's key id and serial.
    revoked: BTreeMap<String, BTreeMap<Serial, OnList>>,
    /// By issuer's key id.
    pub(super) lists: BTreeMap<String, Listed>,
    /// The highest number ever recorded, by issuer's key id.
    numbers: BTreeMap<String, u64>,
    /// Signed while the ledger took no records, oldest first.
    unrecorded: Vec<CrlFacts>,
    /// Taints that a stop cut short.
    pub(super) unfinished: Vec<Unfinished>,
    /// When an upstream that did not revoke is asked again.
    pub(super) elsewhere: Backoff,
}

impl Book {
    /// From the index and the kept files; fills `Standing` as well.
    pub(super) fn open(parts: &RevokerParts) -> Result<Self, StoreError> {
        let (mut book, now, standing) = (Self::default(), parts.clock.now(), parts.street.standing());
        for deny in parts.store.denies()? {
            let why = Denied { record: deny.record, since: deny.since, reason: deny.reason };
            standing.deny(&deny.pattern, why);
        }
        let mut marks = Vec::new();
        let revoked = parts.store.revoked(now.unix_timestamp())?;
        let authorities = Arc::clone(&parts.street.authorities().borrow());
        book.unfinished = Unfinished::among(authorities.iter(), &parts.store.authorities()?, &revoked);
        for row in revoked {
            let (Ok(serial), Ok(expires)) =
                (Serial::from_hex(&row.serial), OffsetDateTime::from_unix_timestamp(row.expires))
            else {
                warn!(serial = row.serial, "a revoked serial in the index cannot be read");
                continue;
            };
            let revoked_at = parse_rfc3339(&row.revoked_at).unwrap_or(now);
            let reason = Reason::parse(&row.reason).unwrap_or_default();
            book.add(&row.issuer_key_id, CrlEntry { serial, revoked_at, reason }, row.expires);
            marks.push((row.serial, expires));
        }
        standing.revoke(marks);
        for authority in authorities.iter() {
            book.take_back(parts, authority, now)?;
        }
        Ok(book)
    }

    /// The kept CRL of an authority, if it says all that it must and holds now.
    fn take_back(
        &mut self,
        parts: &RevokerParts,
        authority: &Authority,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let issuer = authority.issuer();
        let issuer_key_id = hex::encode(issuer.key_id());
        let row = parts.store.crl(&issuer_key_id)?;
        self.numbers.insert(issuer_key_id.clone(), row.as_ref().map_or(0, |row| row.number));
        let (crl, record) = match cache::read(&parts.directory, issuer, row.as_ref()) {
            Some(Kept::Recorded(crl)) => (crl, row.map(|row| row.record).unwrap_or_default()),
            Some(Kept::Unrecorded(crl)) => {
                self.numbers.insert(issuer_key_id.clone(), crl.number());
                self.unrecorded.push(crl.facts());
                (crl, String::new())
            }
            None => return Ok(()),
        };
        if crl.this_update() <= now && now < crl.next_update() {
            let imported = authority.key().is_none();
            let listed =
                Listed { issuer: authority.name(), issuer_key_id, crl: Arc::new(crl), record, asked: None, imported };
            self.lists.insert(listed.issuer_key_id.clone(), listed);
        }
        Ok(())
    }

    /// Puts a certificate on its issuer's list.
    pub(super) fn add(&mut self, issuer_key_id: &str, entry: CrlEntry, expires: i64) {
        let Ok(expires) = OffsetDateTime::from_unix_timestamp(expires) else { return };
        let revoked_at = entry.revoked_at.replace_nanosecond(0).unwrap_or(entry.revoked_at);
        let on_list = OnList { entry: CrlEntry { revoked_at, ..entry }, expires };
        self.revoked.entry(issuer_key_id.to_owned()).or_default().insert(entry.serial, on_list);
    }

    /// What must be on a list now.
    fn entries(&self, issuer_key_id: &str, now: OffsetDateTime) -> Vec<CrlEntry> {
        let on_list = self.revoked.get(issuer_key_id).into_iter().flat_map(BTreeMap::values);
        on_list.filter(|on_list| now < on_list.expires + KEPT_AFTER_END).map(|on_list| on_list.entry).collect()
    }

    /// Why the CRL of this authority must be made now, if it must.
    pub(super) fn wanted(&self, issuer_key_id: &str, times: CrlTimes, now: OffsetDateTime) -> Option<Cause> {
        let Some(listed) = self.lists.get(issuer_key_id) else { return Some(Cause::Missing) };
        let entries = self.entries(issuer_key_id, now);
        if entries.iter().any(|entry| listed.crl.revokes(&entry.serial).is_none()) {
            return Some(Cause::Revocation { request_id: None });
        }
        let lapsed = listed.crl.entries().len().saturating_sub(entries.len());
        (listed.due(times, now) <= now || lapsed > MOST_LAPSED).then_some(Cause::Scheduled)
    }

    /// Forgets what has lapsed, and the lists of authorities that are gone.
    fn forget(&mut self, now: OffsetDateTime, present: &[String]) -> Vec<String> {
        for list in self.revoked.values_mut() {
            list.retain(|_, on_list| now < on_list.expires + KEPT_AFTER_END);
        }
        self.revoked.retain(|_, list| !list.is_empty());
        let gone: Vec<String> = self.lists.keys().filter(|key_id| !present.contains(key_id)).cloned().collect();
        gone.iter().for_each(|key_id| drop(self.lists.remove(key_id)));
        gone
    }
}

impl Revoker {
    /// Hands the bundle to `feed`, now and from now on.
    pub async fn attach(&self, feed: Feed) {
        let book = self.0.book.lock().await;
        if self.0.feed.set(feed).is_err() {
            warn!("the revoker already has a feed");
        }
        if let Err(why) = self.publish(&book) {
            warn!(why, "no bundle is published yet");
        }
    }

    /// Keeps every authority's CRL fresh and the bundle current, until `stopping`.
    pub async fn keep(self, stopping: CancellationToken) {
        let mut authorities = self.0.street.authorities();
        loop {
            authorities.mark_unchanged();
            let next = match self.bring_up_to_date().await {
                Ok(next) => next,
                Err(failure) => {
                    error!(error = failure, "not every CRL could be renewed; trying again");
                    self.0.clock.now() + RETRY
                }
            };
            tokio::select! {
                () = stopping.cancelled() => return,
                () = self.0.clock.sleep_until(next) => {}
                () = self.0.undone.notified() => {}
                changed = authorities.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Makes what is missing or due, publishes it, and says when to come again.
    ///
    /// # Errors
    /// In words, when not everything could be made; what could was published.
    pub async fn bring_up_to_date(&self) -> Result<OffsetDateTime, String> {
        let authorities = Arc::clone(&self.0.street.authorities().borrow());
        let again = self.finish_elsewhere().await;
        let given = self.ask_upstream(&authorities).await;
        let mut book = self.0.book.lock().await;
        let (now, times) = (self.0.clock.now(), self.times());
        let present: Vec<String> = authorities.iter().map(|a| hex::encode(a.issuer().key_id())).collect();
        for gone in book.forget(now, &present) {
            cache::remove(&self.0.directory, &gone);
        }
        self.0.street.standing().forget_before(now - KEPT_AFTER_END);
        let mut failures = self.finish_taints(&mut book).await;
        if let Err(failure) = self.0.record_unrecorded(&mut book).await {
            warn!(error = %failure, "CRLs that were made without a record are not recorded yet");
        }
        for authority in authorities.iter() {
            let Some(cause) = book.wanted(&hex::encode(authority.issuer().key_id()), times, now) else { continue };
            let done = match (authority.key(), &given) {
                (Some(_), _) => self.make(&mut book, authority, &cause).await.map(drop),
                (None, Some(given)) => self.import(&mut book, authority, given, &cause).await,
                // It became due this moment: the next look asks.
                (None, None) => Ok(()),
            };
            match done {
                Err(failure) if self.needs(authority) => failures.push(format!("{}: {failure}", authority.name())),
                Err(failure) => info!(authority = %authority.name(), %failure, "no CRL of it, and none is needed"),
                Ok(()) => {}
            }
        }
        failures.extend(self.publish(&book).err());
        if !failures.is_empty() {
            return Err(failures.join("; "));
        }
        let retry = (!book.unrecorded.is_empty()).then(|| now + RETRY);
        let due = book.lists.values().map(|listed| listed.due(times, now));
        Ok(due.chain(retry).chain(again).chain([now + LONGEST_WAIT]).min().unwrap_or(now + RETRY))
    }

    /// Makes the CRL of `authority` as the book has it: recorded, signed, kept.
    pub(super) async fn make(
        &self,
        book: &mut Book,
        authority: &Authority,
        cause: &Cause,
    ) -> Result<Listed, MakeError> {
        let issuer_key_id = hex::encode(authority.issuer().key_id());
        let (now, key) = (self.0.clock.now(), authority.key().ok_or(MakeError::NoKey)?);
        let made = self.recorded(book, (authority, key), &issuer_key_id, cause, now).await;
        let (crl, record) = match (made, book.lists.get(&issuer_key_id).cloned()) {
            (Ok(made), _) => made,
            (Err(MakeError::Ledger(why)), Some(before)) if before.due(self.times(), now) <= now => {
                (self.deferred(book, (authority, key), &before.crl, why, now).await?, String::new())
            }
            (Err(failure), _) => return Err(failure),
        };
        let (issuer, asked, imported) = (authority.name(), None, false);
        let listed = Listed { issuer, issuer_key_id, crl: Arc::new(crl), record, asked, imported };
        self.take(book, listed.clone(), cause.word());
        Ok(listed)
    }

    /// Keeps a list that is new, over a restart too.
    pub(super) fn take(&self, book: &mut Book, listed: Listed, cause: &str) {
        let (key_id, number, entries) = (&listed.issuer_key_id, listed.crl.number(), listed.crl.facts().entries);
        cache::write(&self.0.directory, key_id, &listed.crl);
        book.numbers.insert(key_id.clone(), number);
        info!(authority = %listed.issuer, number, entries, cause, "CRL");
        book.lists.insert(key_id.clone(), listed);
    }

    async fn recorded(
        &self,
        book: &mut Book,
        (authority, key): (&Authority, &SigningKey),
        issuer_key_id: &str,
        cause: &Cause,
        now: OffsetDateTime,
    ) -> Result<(Crl, String), MakeError> {
        self.0.record_unrecorded(book).await?;
        let draft = self.draft(book, authority, book.entries(issuer_key_id, now), now)?;
        let mut event = self.0.publish_event(draft.facts().clone(), cause.word());
        if let Cause::Revocation { request_id } = cause {
            event.request_id.clone_from(request_id);
        }
        // A number is used up by its record, whatever becomes of the signature.
        let number = draft.facts().number;
        let recorded = self.0.ledger.record(draft, event).await?;
        book.numbers.insert(issuer_key_id.to_owned(), number);
        match key.sign_crl(recorded, &self.0.clock).await {
            Ok((crl, position)) => Ok((crl, position.to_string())),
            Err((failure, position)) => {
                let mut event = self.0.recorder.event(Action::CertificateFail, Outcome::Failure, self.0.clock.now());
                event.refers_to = Some(position.to_string());
                event.reason = Some(failure.to_string());
                self.0.ledger.note(&event);
                Err(failure.into())
            }
        }
    }

    /// The same list again with a later end, because the ledger takes no record of it.
    async fn deferred(
        &self,
        book: &mut Book,
        (authority, key): (&Authority, &SigningKey),
        before: &Crl,
        why: LedgerError,
        now: OffsetDateTime,
    ) -> Result<Crl, MakeError> {
        let draft = self.draft(book, authority, before.entries().to_vec(), now)?;
        let Some(deferred) = Deferred::unchanged(draft, before, &why) else { return Err(why.into()) };
        let crl = key.sign_deferred(deferred, &self.0.clock).await?;
        warn!(authority = %authority.name(), error = %why, "a CRL was renewed before it could be recorded");
        book.unrecorded.push(crl.facts());
        Ok(crl)
    }

    fn draft(
        &self,
        book: &Book,
        authority: &Authority,
        entries: Vec<CrlEntry>,
        now: OffsetDateTime,
    ) -> Result<CrlDraft, CrlError> {
        let issuer = authority.issuer();
        let last = book.numbers.get(&hex::encode(issuer.key_id())).copied().unwrap_or(0);
        let milliseconds = u64::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
        let spec = CrlSpec {
            number: milliseconds.max(last.saturating_add(1)),
            this_update: now - BACKDATED,
            next_update: now + self.times().lifetime,
            entries,
        };
        CrlDraft::new(issuer, spec, now)
    }

    /// Whether nothing works without a CRL of it.
    fn needs(&self, authority: &Authority) -> bool {
        self.times().scope == Scope::WholeChain || authority.name().level == Level::Issuing
    }

    /// Makes what the book has the published set and bundle; the bundle's version. Without every CRL that is needed
    /// everything stays as it was.
    pub(super) fn publish(&self, book: &Book) -> Result<String, String> {
        let authorities = Arc::clone(&self.0.street.authorities().borrow());
        let listed = |authority: &Arc<Authority>| book.lists.get(&hex::encode(authority.issuer().key_id())).cloned();
        let issuing = |a: &&Arc<Authority>| matches!(a.state(), State::Active | State::Retiring) && self.needs(a);
        if let Some(without) = authorities.iter().filter(issuing).find(|authority| listed(authority).is_none()) {
            return Err(format!("{} has no CRL, so the bundle stays as it is", without.name()));
        }
        let levels = [Level::Root, Level::Intermediate, Level::Issuing].into_iter();
        let lists: Vec<Listed> = levels.flat_map(|level| authorities.at(level)).filter_map(listed).collect();
        let pem: Bytes = lists.iter().flat_map(|listed| listed.crl.pem()).collect::<Vec<u8>>().into();
        let needed = self.times().scope == Scope::WholeChain;
        let roots = authorities.trusted_roots_if(|key_id| !needed || book.lists.contains_key(&hex::encode(key_id)));
        let bundle = Bundle::new(self.0.trust_domain.clone(), roots).map_err(|why| why.to_string())?;
        let covers: Arc<[String]> = lists.iter().map(|listed| listed.issuer_key_id.clone()).collect();
        let mut content = digest::Context::new(&digest::SHA256);
        content.update(bundle.version().as_bytes());
        content.update(&pem);
        let version = hex::encode(content.finish());
        self.0.published.send_replace(Arc::new(CrlSet {
            lists,
            pem: pem.clone(),
            version: hex::encode(digest::digest(&digest::SHA256, &pem)),
        }));
        if let Some(feed) = self.0.feed.get() {
            feed.publish_bundle(TrustBundle {
                trust_domain: self.0.trust_domain.clone(),
                pem: bundle.pem(),
                crl_pem: pem.to_vec(),
                crl_scope: self.times().scope,
                version: version.clone(),
                covers,
            });
        }
        Ok(version)
    }
}

impl Inner {
    pub(super) fn publish_event(&self, facts: CrlFacts, reason: &str) -> Event {
        let mut event = self.recorder.event(Action::CrlPublish, Outcome::Success, self.clock.now());
        event.crl = Some(facts);
        event.reason = Some(reason.to_owned());
        event
    }

    /// Records what was made while the ledger took nothing, before any other CRL.
    pub(super) async fn record_unrecorded(&self, book: &mut Book) -> Result<(), LedgerError> {
        while let Some(facts) = book.unrecorded.first().cloned() {
            let (number, key_id) = (facts.number, facts.issuer_key_id.clone());
            let position = self.ledger.append(self.publish_event(facts, "deferred")).await?;
            book.unrecorded.remove(0);
            if let Some(listed) = book.lists.get_mut(&key_id).filter(|listed| listed.crl.number() == number) {
                listed.record = position.to_string();
            }
        }
        Ok(())
    }
}

impl Lists for Revoker {
    fn publish_missing(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move { self.bring_up_to_date().await.map(drop) })
    }
}
