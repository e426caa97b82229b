//! The one way of talking to a Vault: address, TLS, login, requests, and what its failures mean.
//!
//! An [`Access`] knows where one Vault is and how to log in there; whoever asks it something a few times a day takes a
//! [`Session`] for each act and gives its token back. [`kept::Kept`] holds one for who asks all the time: its token is
//! renewed before it lapses. Files that hold secrets (token, secret id, key) are read at each login, because whoever keeps
//! them fresh writes them anew. Redirects are not followed and no proxy of the environment is used: the token goes to the
//! configured address or nowhere. No secret is in an error or a log. Nothing here retries by itself. Used by
//! `upstream::vault` and by `keys`.

use std::path::PathBuf;
use std::time::Duration;

mod access;
mod call;
mod error;
pub mod kept;

pub use access::{Access, Session};
pub use call::Verb;
pub use error::VaultError;

/// Where a Vault is and how to get in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// `https://vault:8200`.
    pub address: String,
    /// Vault's own namespace, an enterprise feature.
    pub namespace: Option<String>,
    /// The CA certificates that its listener's certificate is verified against, PEM; the system's where there are none.
    pub ca_file: Option<PathBuf>,
    /// How long one request may take.
    pub timeout: Duration,
    /// How to log in.
    pub login: Login,
}

/// How to log in, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// A token in a file, which somebody else (Vault Agent) keeps fresh. It is neither renewed nor revoked here.
    Token {
        /// The file.
        file: PathBuf,
    },
    /// AppRole.
    AppRole {
        /// Where it is mounted.
        mount: String,
        /// The role's id.
        role_id: String,
        /// The file with the secret id.
        secret_id_file: PathBuf,
    },
    /// A Kubernetes service account.
    Kubernetes {
        /// Where it is mounted.
        mount: String,
        /// The role.
        role: String,
        /// The file with the account's token.
        token_file: PathBuf,
    },
    /// A client certificate.
    Certificate {
        /// Where it is mounted.
        mount: String,
        /// The role.
        role: String,
        /// The chain, PEM.
        certificate_file: PathBuf,
        /// Its key, PEM.
        key_file: PathBuf,
    },
}
