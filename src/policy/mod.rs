//! Who may have which certificate: rules over attested facts, read once, then pure decisions.
//!
//! [`Policy::parse`] turns the text of `policy.toml` into rules or into all its mistakes at once;
//! [`Policy::authorise`] is the only place where a [`Grant`] comes from; [`schedule`] says when renewals and authority
//! changes are due. Nothing here does IO or asks the time, and nothing a caller says of itself is looked at.

mod grant;

pub use grant::{Grant, Renewal};

#[cfg(test)]
pub(crate) use grant::testing;
