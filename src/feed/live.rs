//! Which stream holds what, at this moment: the registry behind `status`, limits and take-overs.
//!
//! An entry lives exactly as long as its subscription: dropping the [`Registered`] handle removes it. One lock, never
//! held across an await, and no work under it that grows with the number of entries except listing them.
//! What each process last said it holds of bundles is in [`super::coverage`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use time::OffsetDateTime;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::feed::coverage::Coverage;
use crate::feed::forced::Outcome;
use crate::feed::orders::{Orders, Told};
use crate::feed::source::{Asker, Held};
use crate::identity::SpiffeId;

/// What one subscription of one stream is and holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveProxy {
    /// The proxy's own label; not attested.
    pub node: Option<String>,
    /// Who it is, attested: [`Caller::label`](crate::caller::Caller::label).
    pub caller: String,
    /// What limits count by: [`Caller::account`](crate::caller::Caller::account).
    pub account: String,
    /// The one process or client certificate: [`Caller::holder`](crate::caller::Caller::holder).
    pub holder: String,
    /// The secret's name as asked for.
    pub secret_name: String,
    /// Whether it is a certificate (with a key) or a bundle.
    pub is_certificate: bool,
    /// The certificate's identity; `None` for a bundle, and while unanswered.
    pub identity: Option<SpiffeId>,
    /// The certificate's serial; `None` for a bundle, and while unanswered.
    pub serial: Option<String>,
    /// The newest version that was sent or is held; `None` while unanswered.
    pub version: Option<String>,
    /// The version that the proxy said it holds.
    pub acked_version: Option<String>,
    /// What the proxy said when it refused the newest version.
    pub nack: Option<String>,
    /// For a bundle: what the acknowledged version covers ([`TrustBundle::covers`](super::TrustBundle::covers)); nothing where
    /// that is not known.
    pub covers: Arc<[String]>,
    /// Since when this stream subscribes.
    pub since: OffsetDateTime,
    /// When the certificate's next renewal is due.
    pub renew_at: Option<OffsetDateTime>,
    /// Until when the certificate is valid.
    pub not_after: Option<OffsetDateTime>,
}

impl LiveProxy {
    /// Whether the proxy holds the newest version.
    #[must_use]
    pub fn acked(&self) -> bool {
        self.version.is_some() && self.version == self.acked_version
    }
}

/// Every live subscription.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    next_id: u64,
    next_stream: u64,
    entries: HashMap<u64, Entry>,
    certificates_by_account: HashMap<String, usize>,
    /// Which entry sent or holds a certificate of that version.
    by_version: HashMap<String, u64>,
    coverage: Coverage,
}

#[derive(Debug)]
struct Entry {
    facts: LiveProxy,
    /// The stream that this entry belongs to.
    stream: Stream,
    /// Tells the subscription that something was ordered.
    wake: Arc<Notify>,
    orders: Orders,
}

/// One stream, which has any number of entries.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    number: u64,
    /// Ends it.
    pub(crate) ended: CancellationToken,
}

/// The caller holds as many certificates as it may.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AtLimit;

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream that has no entries yet.
    pub(crate) fn stream(&self) -> Stream {
        let mut inner = self.lock();
        inner.next_stream += 1;
        Stream { number: inner.next_stream, ended: CancellationToken::new() }
    }

    /// Enters a subscription. One that names a certificate `version` which another stream of the same account and name
    /// holds takes its place, and that stream is ended: two live connections never share a key.
    pub(crate) fn enter(
        self: &Arc<Self>,
        asker: &Asker,
        is_certificate: bool,
        named: Option<&str>,
        stream: &Stream,
        limit: usize,
        now: OffsetDateTime,
    ) -> Result<Registered, AtLimit> {
        let account = asker.caller.account();
        let mut inner = self.lock();
        if is_certificate {
            if let Some(version) = named {
                inner.end_holder(version, &account, &asker.secret_name);
            }
            let count = inner.certificates_by_account.entry(account.clone()).or_default();
            if *count >= limit {
                return Err(AtLimit);
            }
            *count += 1;
        }
        let facts = LiveProxy {
            node: asker.node.clone(),
            caller: asker.caller.label(),
            account,
            holder: asker.caller.holder(),
            secret_name: asker.secret_name.clone(),
            is_certificate,
            identity: None,
            serial: None,
            version: None,
            acked_version: None,
            nack: None,
            covers: Arc::default(),
            since: now,
            renew_at: None,
            not_after: None,
        };
        let id = inner.next_id;
        inner.next_id += 1;
        // Claimed at once, so that of two connections that name one version the later one wins whatever their pace.
        if let Some(version) = named.filter(|_| is_certificate) {
            inner.by_version.insert(version.to_owned(), id);
        }
        let wake = Arc::<Notify>::default();
        let entry = Entry { facts, stream: stream.clone(), wake: Arc::clone(&wake), orders: Orders::default() };
        inner.entries.insert(id, entry);
        Ok(Registered { registry: Arc::clone(self), id, wake, claimed: Mutex::new(named.map(str::to_owned)) })
    }

    /// Everything that lives, in the order in which it came.
    pub(crate) fn list(&self) -> Vec<LiveProxy> {
        let inner = self.lock();
        let mut all: Vec<(u64, LiveProxy)> =
            inner.entries.iter().map(|(id, entry)| (*id, entry.facts.clone())).collect();
        drop(inner);
        all.sort_unstable_by_key(|(id, _)| *id);
        all.into_iter().map(|(_, facts)| facts).collect()
    }

    /// Who was sent, or holds, the certificate of that version, and nothing newer.
    pub(crate) fn holder(&self, version: &str) -> Option<LiveProxy> {
        let inner = self.lock();
        let entry = inner.entries.get(inner.by_version.get(version)?)?;
        (entry.facts.version.as_deref() == Some(version)).then(|| entry.facts.clone())
    }

    /// How many `look` says yes to.
    pub(crate) fn count_where(&self, mut look: impl FnMut(&LiveProxy) -> bool) -> u64 {
        self.lock().entries.values().fold(0, |count, entry| count + u64::from(look(&entry.facts)))
    }

    /// The certificates that `choose` says yes to, each with its place, in the order in which they came.
    pub(crate) fn chosen(&self, choose: impl Fn(&LiveProxy) -> bool) -> Vec<(u64, LiveProxy)> {
        let inner = self.lock();
        let live = inner.entries.iter().filter(|(_, entry)| entry.facts.is_certificate && entry.facts.serial.is_some());
        let mut chosen: Vec<(u64, LiveProxy)> =
            live.filter(|(_, entry)| choose(&entry.facts)).map(|(id, entry)| (*id, entry.facts.clone())).collect();
        drop(inner);
        chosen.sort_unstable_by_key(|(id, _)| *id);
        chosen
    }

    /// Orders a certificate that takes the place of `serial`; what becomes of it, or `None` when the entry is gone.
    pub(crate) fn order(&self, id: u64, serial: &str) -> Option<mpsc::Receiver<Told>> {
        let mut inner = self.lock();
        let entry = inner.entries.get_mut(&id)?;
        let told = entry.orders.place(serial, &entry.facts);
        entry.wake.notify_one();
        Some(told)
    }

    /// For each stream with bundles: whether it acknowledged, and whether it refused, what `newest` says is the newest
    /// version of each name.
    pub(crate) fn bundle_streams(&self, newest: impl Fn(&str) -> Option<String>) -> Vec<(bool, bool)> {
        let mut versions: HashMap<String, Option<String>> = HashMap::new();
        let mut streams: HashMap<u64, (bool, bool)> = HashMap::new();
        for entry in self.lock().entries.values().filter(|entry| !entry.facts.is_certificate) {
            let facts = &entry.facts;
            if !versions.contains_key(&facts.secret_name) {
                versions.insert(facts.secret_name.clone(), newest(&facts.secret_name));
            }
            let Some(Some(version)) = versions.get(&facts.secret_name) else { continue };
            let (acked, nacked) = streams.entry(entry.stream.number).or_insert((true, false));
            *acked &= facts.acked_version.as_ref() == Some(version);
            *nacked |= facts.nack.is_some() && facts.version.as_ref() == Some(version);
        }
        streams.into_values().collect()
    }

    /// What bundles of these versions cover, from now on.
    pub(crate) fn knows(&self, versions: Vec<String>, covers: &Arc<[String]>) {
        let mut inner = self.lock();
        for version in versions {
            inner.coverage.knows(version, covers);
        }
    }

    /// Looks at every live subscription and at what is known of processes that went away.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut dyn Iterator<Item = &LiveProxy>, &Coverage) -> T) -> T {
        let inner = self.lock();
        look(&mut inner.entries.values().map(|entry| &entry.facts), &inner.coverage)
    }

    /// How many subscriptions live, and how many of them are certificates.
    pub(crate) fn count(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.entries.len(), inner.certificates_by_account.values().sum())
    }
}

impl Inner {
    /// Notes what the bundle covers that an entry holds now, where that is another than before.
    fn bundle_changed(&mut self, id: u64, acked_before: Option<String>) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let facts = &mut entry.facts;
        if facts.acked_version == acked_before {
            return;
        }
        facts.covers = self.coverage.of_version(facts.acked_version.as_deref());
        self.coverage.acked(&facts.holder, &facts.secret_name, &facts.covers);
    }

    fn end_holder(&mut self, version: &str, account: &str, secret_name: &str) {
        let Some(id) = self.by_version.get(version).copied() else { return };
        let same = |entry: &Entry| entry.facts.account == account && entry.facts.secret_name == secret_name;
        if self.entries.get(&id).is_some_and(same)
            && let Some(old) = self.remove(id)
        {
            old.stream.ended.cancel();
        }
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        if let Some(serial) = &entry.facts.serial {
            self.coverage.left(serial, &entry.facts.holder);
        }
        if entry.facts.is_certificate
            && let Some(count) = self.certificates_by_account.get_mut(&entry.facts.account)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.certificates_by_account.remove(&entry.facts.account);
            }
        }
        for version in [&entry.facts.version, &entry.facts.acked_version].into_iter().flatten() {
            self.forget_version(version, id);
        }
        Some(entry)
    }

    fn forget_version(&mut self, version: &str, id: u64) {
        if self.by_version.get(version) == Some(&id) {
            self.by_version.remove(version);
        }
    }
}

/// A subscription's place in the registry; dropping it gives the place up.
#[derive(Debug)]
pub(crate) struct Registered {
    registry: Arc<Registry>,
    id: u64,
    wake: Arc<Notify>,
    /// The version named on subscribing, until something is known to be held.
    claimed: Mutex<Option<String>>,
}

impl Registered {
    fn update(&self, change: impl FnOnce(&mut LiveProxy)) {
        let mut inner = self.registry.lock();
        let Some(entry) = inner.entries.get_mut(&self.id) else { return };
        let before = [entry.facts.version.clone(), entry.facts.acked_version.clone()];
        change(&mut entry.facts);
        if !entry.facts.is_certificate {
            inner.bundle_changed(self.id, before.get(1).cloned().flatten());
            return;
        }
        let after = [entry.facts.version.clone(), entry.facts.acked_version.clone()];
        for gone in before.iter().flatten().filter(|version| !after.contains(&Some((*version).clone()))) {
            inner.forget_version(gone, self.id);
        }
        for version in after.into_iter().flatten() {
            inner.by_version.insert(version, self.id);
        }
        drop(inner);
        self.release_claim();
    }

    /// Forgets the version that was named on subscribing, unless it is what the entry holds.
    fn release_claim(&self) {
        let claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(version) = claimed else { return };
        let mut inner = self.registry.lock();
        let holds = |entry: &Entry| {
            [&entry.facts.version, &entry.facts.acked_version].into_iter().flatten().any(|held| *held == version)
        };
        if !inner.entries.get(&self.id).is_some_and(holds) {
            inner.forget_version(&version, self.id);
        }
    }

    /// A certificate is on its way (`acked` false) or was held already (`acked` true).
    pub(crate) fn holds(&self, held: &Held, acked: bool) {
        self.update(|facts| {
            facts.identity = Some(held.identity.clone());
            facts.serial = Some(held.serial.clone());
            facts.version = Some(held.version.clone());
            facts.renew_at = Some(held.renew_at);
            facts.not_after = Some(held.not_after);
            facts.nack = None;
            if acked {
                facts.acked_version = Some(held.version.clone());
            }
        });
        if !acked {
            self.orders(|orders, _| orders.pushed(&held.serial, &held.version));
        }
    }

    /// What was held was taken away, and nothing is on its way.
    pub(crate) fn forgets(&self) {
        self.update(|facts| {
            (facts.identity, facts.serial, facts.version, facts.acked_version) = (None, None, None, None);
            (facts.renew_at, facts.not_after, facts.nack) = (None, None, None);
        });
    }

    /// Whether `version` is what was sent last, or is held.
    pub(crate) fn is_of(&self, version: &str) -> bool {
        let inner = self.registry.lock();
        inner.entries.get(&self.id).is_some_and(|entry| entry.facts.version.as_deref() == Some(version))
    }

    /// Returns when something may have been ordered.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Whether a certificate is ordered and none was sent since.
    pub(crate) fn is_ordered(&self) -> bool {
        let mut ordered = false;
        self.orders(|orders, _| ordered = orders.are_open());
        ordered
    }

    /// What was ordered is not to be had.
    pub(crate) fn not_delivered(&self, why: &Outcome) {
        self.orders(|orders, _| orders.end_open(why));
    }

    fn orders(&self, change: impl FnOnce(&mut Orders, &LiveProxy)) {
        if let Some(entry) = self.registry.lock().entries.get_mut(&self.id) {
            change(&mut entry.orders, &entry.facts);
        }
    }

    /// A bundle is on its way (`acked` false) or was held already (`acked` true).
    pub(crate) fn holds_bundle(&self, version: &str, acked: bool) {
        self.update(|facts| {
            facts.version = Some(version.to_owned());
            facts.nack = None;
            if acked {
                facts.acked_version = Some(version.to_owned());
            }
        });
    }

    /// The next renewal is tried at `at`.
    pub(crate) fn due(&self, at: OffsetDateTime) {
        self.update(|facts| facts.renew_at = Some(at));
    }

    /// The proxy's label became known or changed.
    pub(crate) fn node(&self, node: Option<&str>) {
        self.update(|facts| facts.node = node.map(str::to_owned));
    }

    /// The proxy holds `version`.
    pub(crate) fn acked(&self, version: &str) {
        self.update(|facts| {
            facts.acked_version = Some(version.to_owned());
            if facts.version.as_deref() == Some(version) {
                facts.nack = None;
            }
        });
        self.orders(|orders, facts| orders.answered(version, facts, &Outcome::Acked));
    }

    /// The proxy refused `version`; returns what it was, for the record.
    pub(crate) fn nacked(&self, version: &str, text: &str) -> Option<LiveProxy> {
        self.update(|facts| {
            if facts.version.as_deref() == Some(version) {
                facts.nack = Some(text.to_owned());
            }
        });
        self.orders(|orders, facts| orders.answered(version, facts, &Outcome::Nacked(text.to_owned())));
        self.registry.lock().entries.get(&self.id).map(|entry| entry.facts.clone())
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.lock().remove(self.id);
        self.release_claim();
    }
}
