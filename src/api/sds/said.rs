//! What one request of a stream says, whatever dialect it is in.
//!
//! State of the world and delta say the same things with other words: who asks, what is wanted, what is held from
//! before, and what became of a push. Messages are foreign: everything here is checked before it means anything.

use std::collections::{HashMap, HashSet};

use prost::Message;
use tonic::Status;

use crate::api::sds::SdsLimits;
use crate::api::sds::versions;
use crate::api::text::clean;
use crate::feed::names::LONGEST_SECRET_NAME;
use crate::feed::payload::SECRET_TYPE;
use crate::proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};

/// The most of a foreign type URL that an answer repeats, in bytes.
const LONGEST_TYPE: usize = 128;

/// How a stream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Each request names everything that is wanted.
    StateOfTheWorld,
    /// Each request names what changed.
    Delta,
}

/// Which method a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Method {
    /// How it speaks.
    pub(super) dialect: Dialect,
    /// Whether it could carry other kinds of resources, so that the type must be said.
    pub(super) aggregated: bool,
}

/// One request.
#[derive(Debug)]
pub(super) struct Said {
    /// The proxy's own label; foreign, empty when it is not said.
    pub(super) node: String,
    /// Which response is answered; empty for none.
    pub(super) nonce: String,
    /// Why that response is refused; foreign.
    pub(super) refusal: Option<String>,
    /// What is wanted.
    pub(super) wish: Wish,
    type_url: String,
}

/// What a client wants.
#[derive(Debug)]
pub(super) enum Wish {
    /// These and nothing else. The version is of all of them.
    Exactly {
        /// The names, in the order in which they were said.
        names: Vec<String>,
        /// What is held from before.
        held: String,
    },
    /// A change of what was wanted before.
    Change {
        /// What is wanted besides. What was wanted before already is not held any more: the client asks for it anew.
        more: Vec<String>,
        /// What is not wanted any more.
        less: HashSet<String>,
        /// What is held from before, name to version.
        held: HashMap<String, String>,
    },
}

impl Wish {
    /// The names that are subscribed to.
    pub(super) fn names(&self) -> &[String] {
        match self {
            Self::Exactly { names, .. } => names,
            Self::Change { more, .. } => more,
        }
    }

    /// The version of `name` that the client says it holds.
    pub(super) fn held(&self, name: &str) -> Option<&str> {
        match self {
            Self::Exactly { held, .. } => versions::of(held, name),
            Self::Change { held, .. } => {
                held.get(name).map(String::as_str).filter(|version| versions::is_ours(version))
            }
        }
    }
}

impl Method {
    /// Reads one message.
    pub(super) fn read(self, message: &[u8]) -> Result<Said, Status> {
        match self.dialect {
            Dialect::StateOfTheWorld => DiscoveryRequest::decode(message)
                .map(Said::from)
                .map_err(|_| Status::invalid_argument("a message is no DiscoveryRequest")),
            Dialect::Delta => DeltaDiscoveryRequest::decode(message)
                .map(Said::from)
                .map_err(|_| Status::invalid_argument("a message is no DeltaDiscoveryRequest")),
        }
    }

    /// Refuses what can't be meant here. `first` is the stream's first request; the others may leave names out.
    pub(super) fn check(self, said: &Said, first: bool, limits: &SdsLimits) -> Result<(), Status> {
        let unsaid = said.type_url.is_empty() && !self.aggregated;
        if said.type_url != SECRET_TYPE && !unsaid {
            let other = clean(&said.type_url, LONGEST_TYPE);
            let said =
                format!("this server serves one type only, {SECRET_TYPE}, not {other:?}: ask for that elsewhere");
            return Err(Status::invalid_argument(said));
        }
        let names = said.wish.names();
        if names.len() > limits.max_names_per_stream {
            return Err(too_many(names.len(), limits));
        }
        if first && names.is_empty() {
            return Err(Status::invalid_argument("the first request must name its secrets: there is no wildcard"));
        }
        // Names go into records and onto operators' screens: nothing that a terminal obeys.
        let printable = |name: &str| name.chars().all(|c| c.is_ascii_graphic() || c == ' ');
        let wrong = |name: &String| name.is_empty() || name.len() > LONGEST_SECRET_NAME || !printable(name);
        if names.iter().any(wrong) {
            let said = format!("a secret's name has 1 to {LONGEST_SECRET_NAME} printable ASCII characters");
            return Err(Status::invalid_argument(said));
        }
        Ok(())
    }
}

/// More names than a stream may have.
pub(super) fn too_many(names: usize, limits: &SdsLimits) -> Status {
    let most = limits.max_names_per_stream;
    Status::invalid_argument(format!("{names} names are more than max_names_per_stream ({most}): open another stream"))
}

impl From<DiscoveryRequest> for Said {
    fn from(request: DiscoveryRequest) -> Self {
        Self {
            node: request.node.map(|node| node.id).unwrap_or_default(),
            nonce: request.response_nonce,
            refusal: request.error_detail.map(|error| error.message),
            wish: Wish::Exactly { names: request.resource_names, held: request.version_info },
            type_url: request.type_url,
        }
    }
}

impl From<DeltaDiscoveryRequest> for Said {
    fn from(request: DeltaDiscoveryRequest) -> Self {
        Self {
            node: request.node.map(|node| node.id).unwrap_or_default(),
            nonce: request.response_nonce,
            refusal: request.error_detail.map(|error| error.message),
            wish: Wish::Change {
                more: request.resource_names_subscribe,
                less: request.resource_names_unsubscribe.into_iter().collect(),
                held: request.initial_resource_versions,
            },
            type_url: request.type_url,
        }
    }
}
