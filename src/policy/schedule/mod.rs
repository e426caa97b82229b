//! When something is due: pure predicates over `now`.
//!
//! [`renewal`] says when a leaf is renewed and how long a failed attempt waits; [`authority`] says when an authority is
//! prepared, activated and retired; [`root`] does so for roots, which wait for [`evidence`]. All are asked again after each act and each wake, and hold nothing in between, so
//! that a restart, a long sleep or a jump of the clock leads to the same answers as an undisturbed run.

pub mod authority;
pub mod evidence;
pub mod renewal;
pub mod root;

pub use authority::{AuthoritySlot, AuthorityState, AuthorityTimes, Due, Plan, TooShort, authority_plan};
pub use evidence::{Evidence, HeldCertificate, LeftBehind, Sight, Why};
pub use renewal::{Backoff, renew_at};
pub use root::{RootDue, RootPlan, RootSlot, RootTimes, root_plan};
