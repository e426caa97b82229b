//! What Vault's failures mean to an operator.

/// Why Vault gave nothing. No variant holds a token, a secret or a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// It cannot be reached, or did not answer in time.
    #[error("{vault} cannot be reached ({why}): see that it runs, and check address and ca_file in [{table}]")]
    Unreachable {
        /// Which.
        vault: String,
        /// The configuration's table that names it.
        table: &'static str,
        /// What happened.
        why: String,
    },
    /// It is sealed, or not initialised.
    #[error("{vault} is sealed or not ready ({why}): unseal it; what was issued before goes on being served")]
    Sealed {
        /// Which.
        vault: String,
        /// What it said.
        why: String,
    },
    /// It does not let us.
    #[error("{vault} refuses {what} ({why}): check [{table}.login] and the policy of its token (docs/upstream.md)")]
    Refused {
        /// Which.
        vault: String,
        /// The configuration's table that names it.
        table: &'static str,
        /// What was asked.
        what: &'static str,
        /// Its status: 400, 401, 403 or 404.
        code: u16,
        /// What it said.
        why: String,
    },
    /// It failed, or said something else than was asked.
    #[error("{vault} did not {what}: {why}")]
    Failed {
        /// Which.
        vault: String,
        /// What was asked.
        what: &'static str,
        /// What it said.
        why: String,
    },
    /// A file of ours that it takes to log in cannot be used.
    #[error("the login to {vault} cannot be read: {why}")]
    Login {
        /// Which.
        vault: String,
        /// What is wrong.
        why: String,
    },
}

impl VaultError {
    /// Whether a token that was good before may be good no more: another login can help.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Refused { code: 401 | 403, .. })
    }

    /// Whether what was asked for is not there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { code: 404, .. })
    }
}
