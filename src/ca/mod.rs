//! The certificate authority: the street that every certificate walks, and the authorities it is signed by.
//!
//! [`issue`] is the main story, read it first. [`sign`] holds the one function that makes certificate signatures, and
//! spends a record each time. [`slot`] says which authority signs now and which one is next; [`authority`] makes them.
//! Nothing here listens, renders or waits for time to pass: the edges and `rotation` do.

pub mod authority;
pub mod issue;
pub mod refusals;
mod request;
pub mod sign;
pub mod slot;
pub mod standing;
#[cfg(test)]
mod tests;
