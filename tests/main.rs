//! The one integration-test binary: each module is a suite. Tests on form (`layering`, `tidy`) read the sources; all
//! others run the real program, against real counterparts where one exists. `tests/run` brings those up.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test ends at its first surprise, and asks the real clock because it watches real processes"
)]
#![allow(unreachable_pub, reason = "the harness is one program with its suites")]

mod admin;
mod authorities;
mod bench;
mod crash;
mod damage;
mod disk;
mod envoy;
mod errors;
mod fetch;
mod files;
mod hands;
mod harness;
mod http;
mod layering;
mod ledger;
mod logins;
mod mass;
mod moved_time;
mod mtls;
mod pki;
mod probe;
mod recover;
mod reload;
mod revocation;
mod root;
mod sds;
mod secrets;
mod service;
mod storm;
mod street;
mod tidy;
mod upstream;
mod xds;
