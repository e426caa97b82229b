//! The one mapping of our errors to gRPC.
//!
//! A status says what the caller can do and nothing of what it may not know: which rules exist, what the server's disk
//! is like. Those who may know read the ledger, the log and `chancery policy explain`.

use http::HeaderMap;
use tonic::Status;

use crate::attest::AttestError;
use crate::audit::ledger::LedgerError;
use crate::ca::authority::AuthorityError;
use crate::ca::authority::acts::ActError;
use crate::ca::issue::IssueError;
use crate::feed::End;
use crate::feed::source::SourceError;
use crate::revocation::RevokeError;

/// The longest text of a status, in bytes on the wire: clients take 16 KiB of headers, and give up beyond that without
/// a word of what was wrong.
pub const LONGEST_MESSAGE: usize = 8 << 10;

/// What stands for the rest of a text.
const CUT: &str = " … (cut)";

/// `status` with a text that every client takes.
#[must_use]
pub fn bounded(status: Status) -> Status {
    // Three bytes for each that is percent-encoded (gRPC over HTTP/2, "Responses").
    let encoded = |letter: char| if letter.is_ascii_alphanumeric() { 1 } else { 3 * letter.len_utf8() };
    let (message, mut length) = (status.message(), CUT.chars().map(encoded).sum::<usize>());
    let beyond = message.char_indices().find(|(_, letter)| {
        length += encoded(*letter);
        length > LONGEST_MESSAGE
    });
    let Some((end, _)) = beyond else { return status };
    let kept = message.get(..end).unwrap_or_default();
    Status::new(status.code(), format!("{kept}{CUT}"))
}

/// The same for the headers of an answer.
pub fn bound_headers(headers: &mut HeaderMap) {
    if headers.get(Status::GRPC_MESSAGE).is_none_or(|text| text.len() <= LONGEST_MESSAGE) {
        return;
    }
    let Some(status) = Status::from_header_map(headers).map(bounded) else { return };
    if status.add_header(headers).is_err() {
        // A status without its text still has its code.
        headers.remove(Status::GRPC_MESSAGE);
    }
}

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
        RevokeError::Nothing | RevokeError::NotTainted { .. } | RevokeError::NotOurs { .. } => {
            Status::failed_precondition(why.to_string())
        }
        RevokeError::AlreadyRevoked { .. } | RevokeError::AlreadyDenied { .. } => {
            Status::already_exists(why.to_string())
        }
        RevokeError::NotDenied { .. } => Status::not_found(why.to_string()),
        RevokeError::Ledger(ledger) => Status::new(of_ledger(ledger).code(), why.to_string()),
        RevokeError::Partly { source, .. } => Status::new(of_ledger(source).code(), why.to_string()),
        RevokeError::Store(_) => Status::internal(why.to_string()),
        RevokeError::Behind
        | RevokeError::Interrupted
        | RevokeError::Sign(_)
        | RevokeError::Upstream(_)
        | RevokeError::NotListed { .. } => Status::unavailable(why.to_string()),
    }
}

/// Why the authorities did not become what an operator ordered.
#[must_use]
pub fn of_act(why: &ActError) -> Status {
    match why {
        ActError::NotThere { .. } => Status::not_found(why.to_string()),
        ActError::Root { .. }
        | ActError::Above { .. }
        | ActError::NotPrepared { .. }
        | ActError::NotReady { .. }
        | ActError::LeftBehind { .. }
        | ActError::NoRoom { .. }
        | ActError::Authority(
            AuthorityError::SameRoot { .. } | AuthorityError::TooManyRoots { .. } | AuthorityError::NoUpstream { .. },
        ) => Status::failed_precondition(why.to_string()),
        ActError::Authority(AuthorityError::Ledger(ledger)) => Status::new(of_ledger(ledger).code(), why.to_string()),
        ActError::Busy | ActError::Authority(_) => Status::unavailable(why.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn a_text_is_never_longer_than_a_client_takes() {
        for text in ["a", " ", "é", "\u{10348}", "line\n"] {
            let status = bounded(Status::invalid_argument(text.repeat(100_000)));
            let mut headers = HeaderMap::new();
            status.add_header(&mut headers).unwrap();
            let length = headers[Status::GRPC_MESSAGE].len();
            assert!((LONGEST_MESSAGE / 4..=LONGEST_MESSAGE).contains(&length), "{text:?}: {length}");
            assert!(status.message().ends_with("(cut)"));
            let mut long = HeaderMap::new();
            Status::invalid_argument(text.repeat(100_000)).add_header(&mut long).unwrap();
            bound_headers(&mut long);
            assert_eq!(long.get(Status::GRPC_MESSAGE), headers.get(Status::GRPC_MESSAGE));
        }
        assert_eq!(bounded(Status::internal("short")).message(), "short");
    }

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
