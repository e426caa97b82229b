//! How a command ends: one number and one sentence with its remedy.

use std::io;
use std::process::ExitCode;

use super::screen::{Format, Paint};
use crate::api::admin::WAITS_FOR;

/// The exit codes; documented in `--help` and stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Something failed.
    Failed = 1,
    /// Wrong usage, input or configuration.
    Usage = 2,
    /// Policy or the server's door refused.
    Refused = 3,
    /// No server answers.
    Unreachable = 4,
    /// A verification failed.
    Unverified = 5,
    /// Nothing is done yet: it waits for a second operator.
    Waits = 6,
}

impl Exit {
    /// The exit of a command that knows its number.
    pub(crate) fn of(code: u8) -> Self {
        match code {
            2 => Self::Usage,
            3 => Self::Refused,
            4 => Self::Unreachable,
            5 => Self::Unverified,
            _ => Self::Failed,
        }
    }
}

/// The paragraph of `--help`.
pub const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage, input or configuration, 3 refused, \
                              4 no server answers, 5 verification failed, 6 waits for a second operator";

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub struct Failure {
    /// What the shell sees.
    pub exit: Exit,
    /// What is wrong and what to do; empty when it was said already.
    pub message: String,
    /// The request for a second operator that it waits for.
    pub waits_for: Option<String>,
}

impl Failure {
    /// A failure with its sentence.
    #[must_use]
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), waits_for: None }
    }

    /// A command that says no by its exit code, after its screen said why.
    #[must_use]
    pub fn said(exit: Exit) -> Self {
        Self { exit, message: String::new(), waits_for: None }
    }

    /// Wrong input.
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Something failed.
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// Tells the operator and gives the number.
    pub(crate) fn report(&self, format: Format, paint: Paint) -> ExitCode {
        if !self.message.is_empty() {
            match format {
                Format::Text => eprintln!("{} {}", paint.bad("error:"), self.message),
                Format::Json => {
                    let error = serde_json::json!({"error": {"exit_code": self.exit as u8, "message": self.message}});
                    eprintln!("{error}");
                }
            }
        }
        ExitCode::from(self.exit as u8)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        use tonic::Code;
        let waits_for = status.metadata().get(WAITS_FOR).and_then(|id| id.to_str().ok()).map(str::to_owned);
        if waits_for.is_some() {
            return Self { exit: Exit::Waits, message: status.message().to_owned(), waits_for };
        }
        let exit = match status.code() {
            Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
            Code::PermissionDenied | Code::Unauthenticated => Exit::Refused,
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::NotFound
            | Code::AlreadyExists
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => Exit::Failed,
        };
        Self::new(exit, status.message())
    }
}

/// What every command returns.
pub type Done = Result<(), Failure>;
