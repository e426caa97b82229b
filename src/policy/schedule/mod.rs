//! When something is due: pure predicates over `now`.
//!
//! [`renewal`] says when a leaf is renewed and how long a failed attempt waits; [`authority`] says when an authority is
//! prepared, activated and retired. Both are asked again after each act and each wake, and hold nothing in between, so
//! that a restart, a long sleep or a jump of the clock leads to the same answers as an undisturbed run.

pub mod authority;
pub mod renewal;

pub use authority::{AuthoritySlot, AuthorityState, AuthorityTimes, Due, Plan, TooShort, authority_plan};
pub use renewal::{Backoff, renew_at};
