//! The service of `proto/chancery/admin/v1`: each method lets the operator in, records, answers.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use tonic::{Request, Response, Status};

use super::Sources;
use super::acts::Operator;
use super::backend::IssueAsk;
use super::certificates::index_status;
use super::records::Filter;
use super::{authorities, change, hands, roots, rules};
use crate::audit::event::{Action, Outcome};
use crate::caller::Caller;
use crate::clock::rfc3339_seconds;
use crate::identity::SpiffeId;
use crate::proto::chancery::admin::v1 as pb;
use crate::proto::chancery::admin::v1::admin_server::Admin;
use crate::store::Activity;

/// How long after its moment a renewal counts as late.
const LATE_AFTER: time::Duration = time::Duration::minutes(2);

/// The longest reason that an offline verification may give, in characters.
const LONGEST_FAILURE: usize = 500;

/// The service; cheap to clone.
#[derive(Clone)]
pub struct AdminService(Arc<Sources>);

impl AdminService {
    /// Answers from `sources`.
    #[must_use]
    pub fn new(sources: Sources) -> Self {
        Self(Arc::new(sources))
    }

    /// What it answers from.
    pub(super) fn sources(&self) -> &Sources {
        &self.0
    }

    /// Whether somebody has any role.
    pub(super) fn knows(&self, caller: &Caller) -> bool {
        self.0.operators.load().role_of(caller.evidence(), self.0.own_uid).is_some()
    }

    fn status(&self, operator: &Operator) -> Result<pb::Status, Status> {
        let sources = &self.0;
        let (facts, head, now) = (sources.backend.facts(), sources.ledger.head(), sources.clock.now());
        let minute = now.unix_timestamp().div_euclid(60);
        let hour = |what| sources.index.activity(what, minute - 59..minute + 1).map_err(index_status);
        let live = sources.index.live(now.unix_timestamp()).map_err(index_status)?;
        Ok(pb::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            trust_domain: facts.trust_domain,
            ready: facts.ready,
            problems: facts.problems,
            warnings: facts.warnings.into_iter().chain(operator.warning().map(str::to_owned)).collect(),
            started_at: facts.started_at.map(rfc3339_seconds).unwrap_or_default(),
            issued_last_hour: hour(Activity::Issued)?,
            renewed_last_hour: hour(Activity::Renewed)?,
            refused_last_hour: hour(Activity::Refused)?,
            renewals_late: sources.backend.due_before(now - LATE_AFTER),
            streams: facts.streams,
            live_certificates: live.values().map(|count| count.live).sum(),
            ledger: Some(pb::LedgerStatus {
                origin: head.origin,
                size: head.size,
                checkpoint_at: head.checkpoint_at.map(rfc3339_seconds).unwrap_or_default(),
                health: head.health,
                projection_lag: sources.lag()?,
            }),
            listeners: facts.listeners,
            policy_hash: sources.backend.policy().policy.hash_hex().to_owned(),
            crls: hands::crl_states(sources),
        })
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn get_status(&self, request: Request<pb::GetStatusRequest>) -> Result<Response<pb::Status>, Status> {
        let operator = self.0.admit(&request).await?;
        self.status(&operator).map(Response::new)
    }

    async fn list_certificates(
        &self,
        request: Request<pb::ListCertificatesRequest>,
    ) -> Result<Response<pb::CertificateList>, Status> {
        self.0.admit(&request).await?;
        self.0.list(request.get_ref()).map(Response::new)
    }

    async fn get_certificate(
        &self,
        request: Request<pb::GetCertificateRequest>,
    ) -> Result<Response<pb::CertificateDetail>, Status> {
        let operator = self.0.admit(&request).await?;
        let row = self.0.one(&request.get_ref().serial).await?;
        let mut event = self.0.act(Action::OperatorRead, &operator, "cert.show");
        event.refers_to = Some(format!("{}#{}", row.log, row.index));
        self.0.ledger.append(event).await?;
        let record = self.0.record(&row.log, row.index, operator.sees_names()).await?;
        Ok(Response::new(pb::CertificateDetail { certificate: Some(self.0.describe(row)), record: Some(record) }))
    }

    async fn issue_certificate(
        &self,
        request: Request<pb::IssueCertificateRequest>,
    ) -> Result<Response<pb::IssuedCertificate>, Status> {
        let operator = self.0.admit(&request).await?;
        let ask = request.into_inner();
        let identity = match ask.identity.as_str() {
            "" => None,
            text => Some(
                SpiffeId::parse(text)
                    .map_err(|error| Status::invalid_argument(format!("identity {text:?}: {error}")))?,
            ),
        };
        // The certificate's own record comes from the street, which knows uids and no names; this one says who it was.
        let mut event = self.0.act(Action::OperatorAct, &operator, "cert.issue");
        let request_id = event.request_id.clone().unwrap_or_default();
        event.subject = identity.as_ref().map(ToString::to_string);
        self.0.ledger.append(event).await?;
        let ask = IssueAsk { identity, csr: ask.csr, request_id };
        self.0.backend.issue(&operator.caller, ask).await.map(Response::new)
    }

    async fn list_authorities(
        &self,
        request: Request<pb::ListAuthoritiesRequest>,
    ) -> Result<Response<pb::AuthorityList>, Status> {
        self.0.admit(&request).await?;
        self.0.authorities().map(Response::new)
    }

    async fn get_bundle(&self, request: Request<pb::GetBundleRequest>) -> Result<Response<pb::Bundle>, Status> {
        self.0.admit(&request).await?;
        Ok(Response::new(self.0.backend.bundle()))
    }

    async fn get_policy(&self, request: Request<pb::GetPolicyRequest>) -> Result<Response<pb::Policy>, Status> {
        self.0.admit(&request).await?;
        Ok(Response::new(rules::policy(&self.0.backend.policy())))
    }

    async fn explain_policy(
        &self,
        request: Request<pb::ExplainPolicyRequest>,
    ) -> Result<Response<pb::Explanation>, Status> {
        self.0.admit(&request).await?;
        rules::explain(&self.0.backend.policy(), request.into_inner()).map(Response::new)
    }

    type ReadAuditStream = Pin<Box<dyn Stream<Item = Result<pb::AuditRecord, Status>> + Send>>;

    async fn read_audit(
        &self,
        request: Request<pb::ReadAuditRequest>,
    ) -> Result<Response<Self::ReadAuditStream>, Status> {
        let operator = self.0.admit(&request).await?;
        let ask = request.into_inner();
        let what = match ask.purpose.as_str() {
            "tail" => "audit.tail",
            "show" => "audit.show",
            "export" => "audit.export",
            other => {
                return Err(Status::invalid_argument(format!("purpose {other:?}: choose from tail, show, export")));
            }
        };
        let filter = Filter::parse(&ask)?;
        if !ask.from.is_empty() {
            // A look at what does not exist is a mistake to tell, not a look to record.
            self.0.locate(&ask.from).await?;
        }
        let event = self.0.act(Action::OperatorRead, &operator, what);
        self.0.ledger.append(event).await?;
        let records = Arc::clone(&self.0).walk(&ask, filter, operator).await?;
        Ok(Response::new(Box::pin(records)))
    }

    async fn prove_record(&self, request: Request<pb::ProveRecordRequest>) -> Result<Response<pb::Proof>, Status> {
        let operator = self.0.admit(&request).await?;
        let (origin, index) = self.0.locate(&request.get_ref().what).await?;
        let id = format!("{origin}#{index}");
        let mut event = self.0.act(Action::OperatorRead, &operator, "audit.prove");
        event.refers_to = Some(id.clone());
        self.0.ledger.append(event).await?;
        let receipt = self.0.ledger.prove(&origin, index).await?;
        let record = self.0.record(&origin, index, operator.sees_names()).await?;
        Ok(Response::new(pb::Proof {
            id,
            index,
            proof: receipt.text,
            checkpoint_size: receipt.checkpoint_size,
            record: Some(record),
        }))
    }

    type RotateCertificatesStream = hands::Progress<pb::RotationProgress>;

    async fn rotate_certificates(
        &self,
        request: Request<pb::RotateCertificatesRequest>,
    ) -> Result<Response<Self::RotateCertificatesStream>, Status> {
        hands::rotate(&self.0, request).await
    }

    type RevokeCertificatesStream = hands::Progress<pb::RevocationProgress>;

    async fn revoke_certificates(
        &self,
        request: Request<pb::RevokeCertificatesRequest>,
    ) -> Result<Response<Self::RevokeCertificatesStream>, Status> {
        hands::revoke(&self.0, request).await
    }

    async fn release_identity(
        &self,
        request: Request<pb::ReleaseIdentityRequest>,
    ) -> Result<Response<pb::Released>, Status> {
        hands::release(&self.0, request).await
    }

    async fn list_denies(&self, request: Request<pb::ListDeniesRequest>) -> Result<Response<pb::DenyList>, Status> {
        hands::denies(&self.0, request).await
    }

    async fn list_crls(&self, request: Request<pb::ListCrlsRequest>) -> Result<Response<pb::CrlList>, Status> {
        hands::crls(&self.0, request).await
    }

    async fn diff_policy(&self, request: Request<pb::DiffPolicyRequest>) -> Result<Response<pb::PolicyDiff>, Status> {
        change::diff(&self.0, request).await
    }

    async fn apply_policy(
        &self,
        request: Request<pb::ApplyPolicyRequest>,
    ) -> Result<Response<pb::PolicyApplied>, Status> {
        change::apply(&self.0, request).await
    }

    async fn reload(&self, request: Request<pb::ReloadRequest>) -> Result<Response<pb::Reloaded>, Status> {
        change::reload(&self.0, request).await
    }

    async fn record_verification(
        &self,
        request: Request<pb::RecordVerificationRequest>,
    ) -> Result<Response<pb::Recorded>, Status> {
        let operator = self.0.admit(&request).await?;
        let ask = request.into_inner();
        let hash = &ask.root_hash;
        if !hash.is_empty() && hex::decode(hash).map_or(true, |bytes| bytes.len() != 32) {
            return Err(Status::invalid_argument("root_hash is not 64 hex digits"));
        }
        let mut event = self.0.act(Action::LedgerVerify, &operator, "checkpoint");
        if let Some(change) = event.change.as_mut() {
            change.after = (!hash.is_empty()).then(|| hash.clone());
            change.count = Some(ask.size);
        }
        if !ask.passed {
            event.outcome = Outcome::Failure;
            event.reason = Some(ask.failure.chars().take(LONGEST_FAILURE).collect());
        }
        let id = self.0.ledger.append(event).await?;
        Ok(Response::new(pb::Recorded { id }))
    }

    type RotateAuthorityStream = hands::Progress<pb::AuthorityProgress>;

    async fn rotate_authority(
        &self,
        request: Request<pb::RotateAuthorityRequest>,
    ) -> Result<Response<Self::RotateAuthorityStream>, Status> {
        authorities::rotate(&self.0, request).await
    }

    type TaintAuthorityStream = hands::Progress<pb::AuthorityProgress>;

    async fn taint_authority(
        &self,
        request: Request<pb::TaintAuthorityRequest>,
    ) -> Result<Response<Self::TaintAuthorityStream>, Status> {
        authorities::taint(&self.0, request).await
    }

    async fn retire_authority(
        &self,
        request: Request<pb::RetireAuthorityRequest>,
    ) -> Result<Response<pb::AuthorityRetired>, Status> {
        authorities::retire(&self.0, request).await
    }

    type ActivateAuthorityStream = hands::Progress<pb::AuthorityProgress>;

    async fn activate_authority(
        &self,
        request: Request<pb::ActivateAuthorityRequest>,
    ) -> Result<Response<Self::ActivateAuthorityStream>, Status> {
        roots::activate(&self.0, request).await
    }
}
