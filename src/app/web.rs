//! What the HTTP port serves: bundle, ledger, health and metrics, as they are at the moment of asking.

use std::sync::Arc;

use http::StatusCode;

use super::backend::{REFRESH_HINT_S, bundle, bundle_sequence, problems};
use super::lag::IndexLag;
use super::state::State;
use crate::api::http::{BundleDocument, HttpSources, Route};
use crate::audit::ledger::{Health, Ledger, LedgerReader, LogInfo};
use crate::ca::issue::Street;
use crate::clock::Clock;
use crate::feed::Feed;
use crate::identity::TrustDomain;
use crate::revocation::{CrlSet, Listed, Revoker};
use crate::store::Store;
use crate::telemetry::{AuthoritySample, CrlSample, LedgerState, LogSample, Metrics, Sample};

/// The sources of the HTTP port.
pub(super) struct Web {
    street: Street,
    ledger: Ledger,
    clock: Clock,
    trust_domain: TrustDomain,
    feed: Feed,
    store: Arc<dyn Store>,
    revoker: Revoker,
    metrics: Metrics,
    lag: IndexLag,
}

impl Web {
    pub(super) fn new(state: &State, feed: Feed, lag: IndexLag) -> Arc<Self> {
        Arc::new(Self {
            street: state.street.clone(),
            ledger: state.ledger.clone(),
            clock: state.clock.clone(),
            trust_domain: state.trust_domain.clone(),
            feed,
            store: Arc::clone(&state.store),
            revoker: state.revoker.clone(),
            metrics: state.metrics.clone(),
            lag,
        })
    }

    /// What the metrics do not count themselves.
    fn sample(&self) -> Sample {
        let now = self.clock.now();
        let authorities = self.street.authorities().borrow().clone();
        let counts = self.feed.counts();
        let mut first_not_after = None;
        let renewals_late = self.feed.count_live(|proxy| {
            first_not_after = proxy.not_after.into_iter().chain(first_not_after).min();
            proxy.renew_at.is_some_and(|due| due < now)
        });
        let (logs, index_lag) = self.logs();
        let levels = [("root", authorities.active_root()), ("issuing", authorities.active())];
        Sample {
            ready: problems(&self.ledger, &authorities, now).is_empty() && self.lag.problem().is_none(),
            pushes: counts.pushes,
            acks: counts.acks,
            nacks: counts.nacks,
            kept: counts.kept,
            renewal_failures: counts.renewal_failures,
            subscriptions: counts.subscriptions,
            certificates: counts.certificates,
            renewals_late: usize::try_from(renewals_late).unwrap_or(usize::MAX),
            first_not_after,
            logs,
            ledger: match &*self.ledger.health().borrow() {
                Health::Ok => LedgerState::Ok,
                Health::Full { .. } => LedgerState::Full,
                Health::Failed { .. } => LedgerState::Failed,
            },
            checkpoint: Some(&*self.ledger.heads().borrow()).filter(|head| !head.checkpoint.is_empty()).map(|h| h.time),
            notes_lost: self.ledger.notes_lost(),
            index_lag,
            authorities: levels
                .into_iter()
                .filter_map(|(level, found)| Some(AuthoritySample { level, not_after: found?.issuer().not_after() }))
                .collect(),
            crls: self.revoker.published().lists.iter().map(crl_sample).collect(),
            policy_hash: self.street.policy().hash_hex().to_owned(),
        }
    }

    /// Every log, and how many records the index lacks; all of them when it does not answer.
    fn logs(&self) -> (Vec<LogSample>, u64) {
        let cursor = self.store.cursor().unwrap_or_default();
        let mut lag = 0;
        let sample = |log: LogInfo| {
            let applied = cursor.get(&*log.origin).map_or(0, |applied| applied.next);
            lag += log.size.saturating_sub(applied);
            LogSample { log: log.name, size: log.size, published: log.published }
        };
        (self.ledger.reader().logs().into_iter().map(sample).collect(), lag)
    }
}

fn crl_sample(listed: &Listed) -> CrlSample {
    CrlSample {
        issuer: listed.issuer.to_string(),
        number: listed.crl.number(),
        entries: listed.crl.entries().len(),
        this_update: listed.crl.this_update(),
        next_update: listed.crl.next_update(),
        recorded: !listed.record.is_empty(),
    }
}

impl HttpSources for Web {
    fn bundle(&self) -> Option<BundleDocument> {
        let authorities = self.street.authorities();
        let authorities = authorities.borrow();
        let bundle = bundle(&self.trust_domain, &authorities, &self.revoker.published());
        Some(BundleDocument {
            version: bundle.version().to_owned(),
            pem: bundle.pem().into(),
            json: bundle.spiffe_json(bundle_sequence(&authorities), REFRESH_HINT_S).into(),
        })
    }

    fn crls(&self) -> Option<Arc<CrlSet>> {
        Some(self.revoker.published()).filter(|published| !published.lists.is_empty())
    }

    fn ledger(&self) -> Option<LedgerReader> {
        Some(self.ledger.reader())
    }

    fn problems(&self) -> Vec<String> {
        // What, not where: paths and causes are for operators (`chancery status`).
        let mut all = problems(&self.ledger, &self.street.authorities().borrow(), self.clock.now());
        all.extend(self.lag.problem());
        all.iter().filter_map(|problem| problem.split([':', ';']).next()).map(str::to_owned).collect()
    }

    fn metrics(&self) -> String {
        self.metrics.render(&self.sample())
    }

    fn answered(&self, route: Route, status: StatusCode) {
        self.metrics.http_answered(route.as_str(), status.as_u16());
    }
}
