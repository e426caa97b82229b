//! Turns evidence on a connection into a [`Caller`](crate::caller::Caller).
//!
//! The contract of every adapter: a `Caller` states only what the kernel or a verified credential says, at the moment of
//! asking; doubt is an [`AttestError`], never a caller with fewer facts, except where the fact's own documentation says
//! so (supplementary groups). Adapters hold no state, ask no policy and never block for long.

pub mod login;
pub mod mtls;
pub mod own;
pub mod unix_peer;

pub use unix_peer::AttestError;

/// What every adapter is held to.
#[cfg(test)]
pub(crate) mod conformance {
    use std::fmt::{Debug, Display};

    use crate::caller::Caller;

    /// Runs the suite on `evidence` that must be accepted.
    pub(crate) fn check<E, F>(evidence: &E, attest: impl Fn(&E) -> Result<Caller, F>, method: &str)
    where
        F: Debug + Display + PartialEq,
    {
        let caller = match attest(evidence) {
            Ok(caller) => caller,
            // Whoever runs the tests may be somebody that no system can name: then the refusal must say so.
            Err(why) => return assert!(why.to_string().contains(':'), "{why}"),
        };
        assert_eq!(caller.method(), method);
        assert_eq!(attest(evidence).as_ref(), Ok(&caller), "the same evidence says the same");
        assert_eq!(attest(evidence).map(|again| again.evidence_digest()), Ok(caller.evidence_digest()));
        assert!(caller.label().starts_with(&caller.account()), "an account is the lasting part of the label");
    }
}
