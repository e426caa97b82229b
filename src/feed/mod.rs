//! The current certificate of each proxy, and the shared bundle, as streams of updates.
//!
//! The feed is the only producer of what a stream sends. A certificate belongs to one subscription of one stream: it is
//! renewed there by its own timer and handed to nobody else. Bundles are shared: encoded once, sent to all.

pub mod source;
