//! Why fetching ended, in sentences, and the exit code of each.

use std::path::PathBuf;

use tonic::{Code, Status};

use super::files::FilesError;
use super::hook::HookError;
use super::set::SetError;
use crate::cli::tls::TlsError;

/// Why fetching ended, or what it says while it tries again.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody listens on the socket.
    #[error("{socket}: {source}; is a server running? Start one: chancery up, or name its socket: --socket PATH", socket = socket.display())]
    NoServer {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The socket is there, but its mode forbids us.
    #[error("{socket}: permission denied: its mode or its directory's keeps this account out; ask the operator", socket = socket.display())]
    Forbidden {
        /// The socket.
        socket: PathBuf,
    },
    /// The way to a server on another machine.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The server says no.
    #[error("refused: {0}")]
    Refused(String),
    /// The server ended the connection or can't serve.
    #[error("the server says: {0}")]
    Server(String),
    /// Connected, but there is no answer for a name.
    #[error(
        "connected, but no answer for {name:?} yet: policy may not grant it to this account (the operator sees why: chancery policy explain)"
    )]
    Unanswered {
        /// The name.
        name: String,
    },
    /// What the server sent can't be used.
    #[error("what the server sent for {name:?} can't be used and was refused: {source}")]
    Unusable {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: SetErrorText,
    },
    /// The directory.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The command, with `--once`.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// Signals can't be received.
    #[error("signals: {0}")]
    Signals(#[source] std::io::Error),
}

/// Why a set can't be used, as text.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SetErrorText(#[from] SetError);

impl FetchError {
    /// The process's exit code for this error, as `--help` has them.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Tls(error) => error.exit_code(),
            Self::Files(FilesError::NotOurs { .. }) => 2,
            Self::Refused(_) | Self::Unanswered { .. } | Self::Forbidden { .. } => 3,
            Self::NoServer { .. } | Self::Server(_) => 4,
            Self::Unusable { .. } | Self::Files(_) | Self::Hook(_) | Self::Signals(_) => 1,
        }
    }
}

impl From<Status> for FetchError {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::PermissionDenied | Code::Unauthenticated | Code::ResourceExhausted => {
                Self::Refused(status.message().to_owned())
            }
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::InvalidArgument
            | Code::DeadlineExceeded
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => Self::Server(status.message().to_owned()),
        }
    }
}
