//! The issuing street as the feed's source of certificates.
//!
//! Translates between the two and keeps what a caller may not know on this side: which rules came closest and what is
//! wrong with the ledger are recorded and logged here, and leave as one plain word.

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::watch;
use tracing::{error, warn};

use super::source::{Asker, Certificate, FeedRefusal, Follows, Held, Holding, Nack, SecretSource, SourceError, Wanted};
use crate::attest::AttestError;
use crate::ca::issue::{IssueError, IssueRequest, Issued, KeyRequest, RequestContext, Street, Unattested};
use crate::ca::standing::Standing;
use crate::clock::{Clock, parse_rfc3339};
use crate::entropy::Entropy;
use crate::identity::SpiffeId;
use crate::policy::Refusal;
use crate::policy::schedule::renew_at;
use crate::store::{CertificateRow, Store};
use crate::x509::pem;

/// The street, with the projection that says what was issued before this process began.
#[derive(Debug)]
pub struct StreetSource {
    street: Street,
    store: Arc<dyn Store>,
    clock: Clock,
    entropy: Entropy,
}

impl StreetSource {
    /// Joins them. The projection must have caught up with the ledger before the first call.
    #[must_use]
    pub fn new(street: Street, store: Arc<dyn Store>, clock: Clock, entropy: Entropy) -> Self {
        Self { street, store, clock, entropy }
    }

    /// Whether `row` still stands for this asker: same account, same name, unexpired, signed, by an authority that may
    /// publish, and still granted by the policy in force.
    fn still_held(&self, asker: &Asker, wanted: &Wanted, row: &CertificateRow) -> Option<Holding> {
        let now = self.clock.now();
        let same_owner = row.account.as_deref() == Some(asker.caller.account().as_str());
        let same_name = row.secret_name.as_deref() == Some(asker.secret_name.as_str());
        let not_after = parse_rfc3339(&row.not_after).ok()?;
        let not_before = parse_rfc3339(&row.not_before).ok()?;
        let issuer = hex::decode(&row.issuer_key_id).ok()?;
        let publishable = self.street.authorities().borrow().may_publish(&issuer);
        if !(same_owner && same_name) || row.failed || now >= not_after {
            return None;
        }
        if self.street.standing().is_revoked(&row.serial) || row.revoked.is_some() {
            // With its identity: that is denied, or released since, and then nothing is held against its holder.
            let alone = row.revoked.as_ref().is_none_or(|revoked| !revoked.with_identity);
            let revoked = Holding::Revoked { serial: row.serial.clone(), until: not_after };
            return (alone && !self.is_barred(row)).then_some(revoked);
        }
        if !publishable || self.is_barred(row) {
            return None;
        }
        let grant = self.street.policy().authorise(&asker.caller, wanted).ok()?;
        if grant.identity().as_str() != row.identity {
            return None;
        }
        let issued = parse_rfc3339(&row.issued_at).ok()?;
        let renew_at = renew_at(issued, not_after, grant.renewal(), self.entropy.unit());
        Some(Holding::Stands(Held {
            identity: SpiffeId::parse(&row.identity).ok()?,
            serial: row.serial.clone(),
            version: row.version.clone(),
            not_before,
            not_after,
            renew_at,
            rule: row.rule.clone(),
        }))
    }

    fn is_barred(&self, row: &CertificateRow) -> bool {
        SpiffeId::parse(&row.identity).is_ok_and(|identity| self.street.standing().denied(&identity).is_some())
    }
}

fn context(asker: &Asker) -> RequestContext {
    RequestContext {
        secret_name: Some(asker.secret_name.clone()).filter(|name| !name.is_empty()),
        node: asker.node.clone(),
        request_id: asker.request_id.clone(),
        trace_id: None,
    }
}

fn certificate(issued: Issued) -> Result<Certificate, SourceError> {
    let key = issued.key.ok_or_else(|| SourceError::Invalid("this certificate's key is not made here".to_owned()))?;
    Ok(Certificate {
        chain_pem: pem::certificates(issued.chain.iter().map(Vec::as_slice)),
        key_pem: key.pkcs8_pem(),
        held: Held {
            identity: issued.identity,
            serial: issued.serial,
            version: issued.version,
            not_before: issued.not_before,
            not_after: issued.not_after,
            renew_at: issued.renew_at,
            rule: issued.rule,
        },
    })
}

/// What leaves of an error; the rest is logged here.
fn outward(asker: &Asker, failure: IssueError) -> SourceError {
    match failure {
        IssueError::Refused(Refusal::Nobody { .. } | Refusal::NoRule { .. }) => SourceError::NoRule,
        IssueError::Refused(Refusal::NotGranted { .. } | Refusal::OnlyByName { .. }) => SourceError::NotGranted,
        IssueError::Barred(_) => SourceError::Denied,
        IssueError::Reattest { .. } => SourceError::Reattest,
        IssueError::Request(csr) => SourceError::Invalid(csr.to_string()),
        IssueError::NoAuthority
        | IssueError::Draft(_)
        | IssueError::Key(_)
        | IssueError::Ledger(_)
        | IssueError::Sign { .. } => {
            error!(request_id = asker.request_id, caller = asker.caller.label(), error = %failure, "not issued");
            SourceError::Unavailable { retry_after: None }
        }
    }
}

impl SecretSource for StreetSource {
    fn admit<'a>(&'a self, asker: &'a Asker) -> BoxFuture<'a, Result<(), SourceError>> {
        Box::pin(async move {
            let admitted = self.street.admit(&asker.caller, &context(asker)).await;
            admitted.map_err(|failure| outward(asker, failure))
        })
    }

    fn issue<'a>(
        &'a self,
        asker: &'a Asker,
        wanted: &'a Wanted,
        follows: Option<Follows>,
    ) -> BoxFuture<'a, Result<Certificate, SourceError>> {
        Box::pin(async move {
            let request =
                IssueRequest { wanted: wanted.clone(), key: KeyRequest::ServerMade, follows, context: context(asker) };
            match self.street.issue(&asker.caller, request).await {
                Ok(issued) => certificate(issued),
                Err(failure) => Err(outward(asker, failure)),
            }
        })
    }

    fn held<'a>(&'a self, asker: &'a Asker, wanted: &'a Wanted, version: &'a str) -> BoxFuture<'a, Holding> {
        Box::pin(async move {
            match self.store.by_version(version) {
                Ok(row) => row.and_then(|row| self.still_held(asker, wanted, &row)).unwrap_or(Holding::Unknown),
                Err(error) => {
                    // Nothing is lost: the proxy gets a new certificate instead of keeping its own.
                    warn!(%error, "the index did not answer");
                    Holding::Unknown
                }
            }
        })
    }

    fn is_denied(&self, asker: &Asker, wanted: &Wanted) -> bool {
        let standing = self.street.standing();
        let grant = self.street.policy().authorise(&asker.caller, wanted);
        standing.barred(&asker.caller).is_some() || grant.is_ok_and(|grant| standing.denied(grant.identity()).is_some())
    }

    fn standing(&self) -> &Standing {
        self.street.standing()
    }

    fn nack<'a>(&'a self, asker: &'a Asker, nack: Nack) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let recorded = self.street.nack(&asker.caller, &nack, &context(asker)).await;
            warn!(node = asker.node, secret = asker.secret_name, serial = nack.serial, said = nack.text, "NACK");
            if let Err(error) = recorded {
                error!(%error, "a NACK could not be recorded");
            }
        })
    }

    fn refused<'a>(&'a self, asker: &'a Asker, refusal: FeedRefusal) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let reason = match refusal {
                FeedRefusal::TooManyCertificates { limit } => format!("max_certificates_per_caller = {limit}"),
                FeedRefusal::TooManyIssues { rate, burst } => {
                    format!("issue_rate_per_caller = {rate}, issue_burst_per_caller = {burst}")
                }
                FeedRefusal::TooManyStreams { limit } => format!("max_streams_per_caller = {limit}"),
                FeedRefusal::UnknownName => "unknown-name".to_owned(),
            };
            self.street.turned_away(&asker.caller, reason, &context(asker)).await;
        })
    }

    fn unattested<'a>(&'a self, socket: &'a str, why: &'a AttestError) -> BoxFuture<'a, ()> {
        let (listener, why) = (socket.to_owned(), why.to_string());
        let refused = Unattested { transport: "unix", listener, identity: None, serial: None, why };
        Box::pin(async move { self.street.attest_refused(&refused).await })
    }

    fn policy(&self) -> watch::Receiver<u64> {
        self.street.policy_version()
    }
}
