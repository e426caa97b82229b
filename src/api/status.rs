//! The one mapping of our errors to gRPC.
//!
//! A status says what the caller can do and nothing of what it may not know: which rules exist, what the server's disk
//! is like. Those who may know read the ledger, the log and `chancery policy explain`.

use tonic::Status;

use crate::attest::AttestError;
use crate::audit::ledger::LedgerError;
use crate::ca::issue::IssueError;
use crate::feed::End;
use crate::feed::source::SourceError;
use crate::revocation::RevokeError;

/// Why a stream of secrets ends.
#[must_use]
pub fn of_stream(end: &End) -> Status {
    match end {
        End::Refused(why) => of_source(why),
        End::TooManyCertificates { .. } | End::TooManyIssues { .. } => Status::resource_exhausted(end.to_string()),
        End::TakenOver => Status::aborted(end.to_string()),
    }
}

/// Why there is no certificate.
#[must_use]
pub fn of_source(why: &SourceError) -> Status {
    match why {
        SourceError::NoRule | SourceError::NotGranted | SourceError::Denied | SourceError::Reattest => {
            Status::permission_denied(why.to_string())
        }
        SourceError::Invalid(_) => Status::invalid_argument(why.to_string()),
        SourceError::Unavailable { .. } => Status::unavailable(why.to_string()),
    }
}

/// Why a caller is nobody to us. The reason is in the ledger.
#[must_use]
pub fn of_attestation(_: &AttestError) -> Status {
    Status::unauthenticated("the process at the other end of this socket could not be identified; see the server's log")
}

/// Why an operator gets no certificate. An operator may know which rules came closest.
#[must_use]
pub fn of_issue(why: &IssueError) -> Status {
    match why {
        IssueError::Refused(refusal) => Status::permission_denied(refusal.to_string()),
        IssueError::Barred(_) | IssueError::Reattest { .. } => Status::permission_denied(why.to_string()),
        IssueError::Request(_) => Status::invalid_argument(why.to_string()),
        IssueError::Draft(_) => Status::failed_precondition(why.to_string()),
        IssueError::NoAuthority | IssueError::Key(_) | IssueError::Sign { .. } => Status::unavailable(why.to_string()),
        IssueError::Ledger(ledger) => of_ledger(ledger),
    }
}

/// Why the ledger did not do as an operator asked.
#[must_use]
pub fn of_ledger(why: &LedgerError) -> Status {
    match why {
        LedgerError::NoRecord { .. } | LedgerError::NoLog { .. } => Status::not_found(why.to_string()),
        LedgerError::Full { .. } => Status::resource_exhausted(why.to_string()),
        LedgerError::Record(_) | LedgerError::Batch { .. } => Status::invalid_argument(why.to_string()),
        LedgerError::Corrupt { .. } => Status::data_loss(why.to_string()),
        LedgerError::Io { .. }
        | LedgerError::Locked { .. }
        | LedgerError::Failed { .. }
        | LedgerError::Closed
        | LedgerError::OtherCertificate
        | LedgerError::OtherOrigin { .. }
        | LedgerError::OtherKey { .. }
        | LedgerError::KeyForm
        | LedgerError::Option { .. } => Status::unavailable(why.to_string()),
    }
}

/// Why nothing, or not all, was revoked or released.
#[must_use]
pub fn of_revoke(why: &RevokeError) -> Status {
    match why {
        RevokeError::Nothing => Status::failed_precondition(why.to_string()),
        RevokeError::AlreadyRevoked { .. } | RevokeError::AlreadyDenied { .. } => {
            Status::already_exists(why.to_string())
        }
        RevokeError::NotDenied { .. } => Status::not_found(why.to_string()),
        RevokeError::Ledger(ledger) => Status::new(of_ledger(ledger).code(), why.to_string()),
        RevokeError::Partly { source, .. } => Status::new(of_ledger(source).code(), why.to_string()),
        RevokeError::Store(_) => Status::internal(why.to_string()),
        RevokeError::Behind | RevokeError::Interrupted | RevokeError::Sign(_) => Status::unavailable(why.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn each_fault_has_its_code() {
        let check = |end: End, code: Code| assert_eq!(of_stream(&end).code(), code, "{end}");
        check(End::Refused(SourceError::NoRule), Code::PermissionDenied);
        check(End::Refused(SourceError::NotGranted), Code::PermissionDenied);
        check(End::Refused(SourceError::Invalid("x".into())), Code::InvalidArgument);
        check(End::Refused(SourceError::Unavailable { retry_after: None }), Code::Unavailable);
        check(End::TooManyCertificates { limit: 1 }, Code::ResourceExhausted);
        check(End::TooManyIssues { rate: 1, burst: 1 }, Code::ResourceExhausted);
        check(End::TakenOver, Code::Aborted);
        assert_eq!(of_attestation(&AttestError::InvisibleProcess).code(), Code::Unauthenticated);
    }
}
