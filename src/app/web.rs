//! What the HTTP port serves: bundle, ledger, health and metrics, as they are at the moment of asking.

use std::sync::Arc;

use http::StatusCode;

use super::backend::{REFRESH_HINT_S, bundle, bundle_sequence, problems};
use super::state::State;
use crate::api::http::{BundleDocument, HttpSources, Route};
use crate::audit::ledger::{Ledger, LedgerReader};
use crate::ca::issue::Street;
use crate::clock::Clock;
use crate::identity::TrustDomain;

/// The sources of the HTTP port.
pub(super) struct Web {
    street: Street,
    ledger: Ledger,
    clock: Clock,
    trust_domain: TrustDomain,
}

impl Web {
    pub(super) fn new(state: &State) -> Arc<Self> {
        Arc::new(Self {
            street: state.street.clone(),
            ledger: state.ledger.clone(),
            clock: state.clock.clone(),
            trust_domain: state.trust_domain.clone(),
        })
    }
}

impl HttpSources for Web {
    fn bundle(&self) -> Option<BundleDocument> {
        let authorities = self.street.authorities();
        let authorities = authorities.borrow();
        let bundle = bundle(&self.trust_domain, &authorities);
        Some(BundleDocument {
            version: bundle.version().to_owned(),
            pem: bundle.pem().into(),
            json: bundle.spiffe_json(bundle_sequence(&authorities), REFRESH_HINT_S).into(),
        })
    }

    fn ledger(&self) -> Option<LedgerReader> {
        Some(self.ledger.reader())
    }

    fn problems(&self) -> Vec<String> {
        // What, not where: paths and causes are for operators (`chancery status`).
        let all = problems(&self.ledger, &self.street.authorities().borrow(), self.clock.now());
        all.iter().filter_map(|problem| problem.split([':', ';']).next()).map(str::to_owned).collect()
    }

    fn metrics(&self) -> String {
        String::new()
    }

    fn answered(&self, _route: Route, _status: StatusCode) {}
}
