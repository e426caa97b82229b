//! This server as its own caller: it needs a certificate to listen with, and gets it by the street like everyone else.
//!
//! There is no evidence to look at; that it runs in this process is all. Policy answers it by a rule that no file can
//! write (`policy::own`). Called by `app` alone.

use crate::caller::{Caller, Evidence};

/// The server itself.
#[must_use]
pub fn caller() -> Caller {
    Caller::attested(Evidence::Own)
}
