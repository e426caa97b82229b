//! How the street says no: each refusal with its record, before it is answered.
//!
//! For [`Street::issue`] alone. The first few of a kind are each durable when these return, further ones are counted.

use time::OffsetDateTime;

use super::{IssueError, RequestContext, Street, described, policy_facts};
use crate::audit::event::{Action, Outcome, PolicyFacts};
use crate::audit::ledger::LedgerError;
use crate::ca::refusals::Kind;
use crate::ca::standing::Barred;
use crate::caller::{Caller, ClientCertificate, Evidence};
use crate::clock::rfc3339_seconds;
use crate::identity::SpiffeId;
use crate::policy::{Grant, Policy, Refusal, Wanted};
use crate::toml_reader::render_span;
use crate::x509::csr::CsrError;

impl Street {
    pub(super) async fn refuse(
        &self,
        caller: &Caller,
        wanted: &Wanted,
        policy: &Policy,
        refusal: Refusal,
        context: &RequestContext,
        now: OffsetDateTime,
    ) -> IssueError {
        let mut event = self.0.recorder.event(Action::CertificateDeny, Outcome::Denied, now);
        event.subject = match wanted {
            Wanted::Identity(identity) => Some(identity.to_string()),
            Wanted::Default => None,
        };
        event.reason = Some(refusal.word().to_owned());
        event.policy =
            Some(PolicyFacts { hash: policy.hash_hex().to_owned(), nearest: refusal.nearest_lines(), rule: None });
        let kind = Kind { account: caller.account(), reason: refusal.word().to_owned() };
        match self.record_refusal(kind, described(event, caller, context), now).await {
            Ok(()) => IssueError::Refused(refusal),
            Err(error) => error.into(),
        }
    }

    /// What keeps the caller from what policy grants it: a deny, a revocation, an attestation that is too old.
    pub(super) async fn check_standing(
        &self,
        caller: &Caller,
        grant: &Grant,
        context: &RequestContext,
        now: OffsetDateTime,
    ) -> Result<(), IssueError> {
        if let Some(barred) = self.barred(caller, grant.identity()) {
            return Err(self.refuse_barred(caller, grant.identity(), barred, context, now).await);
        }
        match overdue(caller, grant, now) {
            Some(client) => Err(self.refuse_overdue(caller, client, grant, context, now).await),
            None => Ok(()),
        }
    }

    async fn refuse_barred(
        &self,
        caller: &Caller,
        identity: &SpiffeId,
        barred: Barred,
        context: &RequestContext,
        now: OffsetDateTime,
    ) -> IssueError {
        let mut event = self.0.recorder.event(Action::CertificateDeny, Outcome::Denied, now);
        event.subject = Some(identity.to_string());
        event.reason = Some(barred.to_string());
        let kind = Kind { account: caller.account(), reason: format!("barred:{identity}") };
        match self.record_refusal(kind, described(event, caller, context), now).await {
            Ok(()) => IssueError::Barred(barred),
            Err(error) => error.into(),
        }
    }

    async fn refuse_overdue(
        &self,
        caller: &Caller,
        client: &ClientCertificate,
        grant: &Grant,
        context: &RequestContext,
        now: OffsetDateTime,
    ) -> IssueError {
        let mut event = self.0.recorder.event(Action::CertificateDeny, Outcome::Denied, now);
        event.subject = Some(grant.identity().to_string());
        event.reason = Some("reattest".to_owned());
        event.policy = Some(policy_facts(grant));
        let kind = Kind { account: caller.account(), reason: format!("reattest:{}", grant.identity()) };
        match self.record_refusal(kind, described(event, caller, context), now).await {
            Ok(()) => IssueError::Reattest {
                attested_at: rfc3339_seconds(client.attested_at),
                limit: render_span(grant.reattest_after().unwrap_or_default()),
            },
            Err(error) => error.into(),
        }
    }

    pub(super) async fn refuse_request(
        &self,
        caller: &Caller,
        grant: &Grant,
        error: &CsrError,
        context: &RequestContext,
        now: OffsetDateTime,
    ) -> Result<(), LedgerError> {
        let mut event = self.0.recorder.event(Action::CertificateDeny, Outcome::Denied, now);
        event.subject = Some(grant.identity().to_string());
        event.reason = Some(format!("csr: {error}"));
        let kind = Kind { account: caller.account(), reason: format!("csr:{}", grant.rule()) };
        self.record_refusal(kind, described(event, caller, context), now).await
    }
}

/// The client whose certificate goes back to an attestation that is older than the grant allows.
fn overdue<'a>(caller: &'a Caller, grant: &Grant, now: OffsetDateTime) -> Option<&'a ClientCertificate> {
    let (Evidence::Client(client), Some(limit)) = (caller.evidence(), grant.reattest_after()) else { return None };
    (now - client.attested_at > limit).then_some(client)
}
