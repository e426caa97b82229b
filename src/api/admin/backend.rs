//! What the admin service needs from the rest of the program, as three narrow traits.
//!
//! `app` fills them with the street, the feed, policy, revocation and the ledger; tests fill them with fakes. They speak the words of
//! the wire where a method only passes an answer on, so that nothing is spelled twice.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tonic::Status;

use crate::attest::AttestError;
use crate::audit::event::{Event, Sealed};
use crate::ca::authority::acts::{Act, Told};
use crate::ca::standing::Denied;
use crate::caller::Caller;
use crate::feed::LiveProxy;
use crate::feed::forced::{Delivery, Rotation};
use crate::identity::SpiffeId;
use crate::policy::Policy;
use crate::proto::chancery::admin::v1 as pb;
use crate::revocation::{AuthorityOrder, CrlState, Order, RevokeError, Step};
use crate::store::CertificateRow;

/// A request for a certificate whose key stays with the operator.
#[derive(Debug, Clone)]
pub struct IssueAsk {
    /// The identity, or the first that policy grants.
    pub identity: Option<SpiffeId>,
    /// PKCS #10, DER or PEM; hostile until parsed.
    pub csr: Vec<u8>,
    /// Hex; all records of the request share it.
    pub request_id: String,
}

/// What one proxy holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holding {
    /// The proxy's own label.
    pub node: Option<String>,
    /// `acked`, `pushed` or `nacked`.
    pub state: &'static str,
    /// When its next certificate is due.
    pub renew_at: Option<OffsetDateTime>,
}

/// An authority's schedule, which its records do not hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthoritySchedule {
    /// Its key id.
    pub key_id: String,
    /// When its next state is due.
    pub next_change_at: Option<OffsetDateTime>,
    /// Live proxies that acknowledged a bundle with it.
    pub held_by: u64,
    /// For a root: since when it is in every bundle.
    pub published_at: Option<OffsetDateTime>,
}

/// The policy that decides now.
#[derive(Debug, Clone)]
pub struct PolicyInForce {
    /// The rules.
    pub policy: Arc<Policy>,
    /// The file they were read from.
    pub path: String,
    /// Its text, as it was read.
    pub text: Arc<str>,
}

/// What the server knows of itself; the service adds what ledger and index say.
#[derive(Debug, Clone, Default)]
pub struct ServerFacts {
    /// The trust domain's name.
    pub trust_domain: String,
    /// When it became ready, or was started.
    pub started_at: Option<OffsetDateTime>,
    /// Whether certificates are being issued.
    pub ready: bool,
    /// What is wrong, each a sentence with its remedy.
    pub problems: Vec<String>,
    /// What an operator should know, each a sentence.
    pub warnings: Vec<String>,
    /// Open SDS streams.
    pub streams: u64,
    /// Live proxies that subscribe to the bundle.
    pub proxies: u64,
    /// What is listened on.
    pub listeners: Vec<pb::Listener>,
}

/// The street, the feed and policy, as an operator may use them.
pub trait Backend: Send + Sync + 'static {
    /// Attested caller, grant, record, signature: as for every certificate.
    fn issue<'a>(&'a self, caller: &'a Caller, ask: IssueAsk) -> BoxFuture<'a, Result<pb::IssuedCertificate, Status>>;
    /// How a live proxy holds this certificate, if one does; costs no walk over all of them.
    fn holding(&self, certificate: &CertificateRow) -> Option<Holding>;
    /// How many live proxies have a renewal that was due before this.
    fn due_before(&self, at: OffsetDateTime) -> u64;
    /// Who holds the root that waits to take over, and its name; nothing while none does.
    fn evidence(&self) -> Option<(String, pb::RootEvidence)>;
    /// What the schedule holds for authorities.
    fn authorities(&self) -> Vec<AuthoritySchedule>;
    /// The bundle as published.
    fn bundle(&self) -> pb::Bundle;
    /// The policy in force.
    fn policy(&self) -> PolicyInForce;
    /// The server's own state.
    fn facts(&self) -> ServerFacts;
}

/// Feed, revocation and the keeper of the authorities, as an operator's hands use them.
pub trait Hands: Send + Sync + 'static {
    /// What live streams hold, oldest first.
    fn live(&self) -> Vec<LiveProxy>;
    /// Rotates every live certificate that `choose` says yes to.
    fn rotate(&self, choose: &dyn Fn(&LiveProxy) -> bool) -> Rotation;
    /// Revokes. Each step as it is done, and at most one error, which is the last; the end when all of it is done. It
    /// goes on to its end when nobody listens.
    fn revoke(&self, order: Order) -> mpsc::Receiver<Result<Step, RevokeError>>;
    /// Revokes the certificate of a tainted authority; tells and goes on as [`Self::revoke`] does.
    fn revoke_authority(&self, order: AuthorityOrder) -> mpsc::Receiver<Result<Step, RevokeError>>;
    /// Has the keeper of the authorities do something. Each step, then whether all of it was done; no last word when the
    /// server stops meanwhile. It goes on to its end when nobody listens.
    fn order(&self, act: Act, template: Event) -> mpsc::Receiver<Told>;
    /// Lifts the deny of exactly `pattern`; its record's id.
    fn release<'a>(&'a self, pattern: &'a str, template: Event) -> BoxFuture<'a, Result<String, RevokeError>>;
    /// Every deny with its pattern, sorted.
    fn denies(&self) -> Vec<(String, Denied)>;
    /// The newest CRL of each authority.
    fn crls(&self) -> Vec<CrlState>;
    /// How the newest bundle stands with the streams.
    fn delivery(&self) -> Delivery;
    /// Does `work` to its end, even when the operator who ordered it goes away.
    fn carry_out(&self, work: BoxFuture<'static, ()>);
}

/// The ledger's head, as status and readers need it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// The log that is written to.
    pub origin: String,
    /// How many records it holds.
    pub size: u64,
    /// When its checkpoint was signed.
    pub checkpoint_at: Option<OffsetDateTime>,
    /// `ok`, `full` or `failed`.
    pub health: String,
}

/// A receipt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Receipt {
    /// A tlog-proof file.
    pub text: String,
    /// The size of the checkpoint in it.
    pub checkpoint_size: u64,
}

/// The ledger, as the admin service reads it and writes to it.
pub trait LedgerAccess: Send + Sync + 'static {
    /// Appends and waits until it is durable; the record's id.
    fn append(&self, event: Event) -> BoxFuture<'_, Result<String, Status>>;
    /// Writes a refusal down: the first few of a caller are each a durable record, further ones become a count.
    fn refused<'a>(&'a self, caller: &'a Caller, event: Event) -> BoxFuture<'a, Result<(), Status>>;
    /// Writes down that a peer could not be attested; counted like every refusal.
    fn unattested<'a>(&'a self, why: &'a AttestError) -> BoxFuture<'a, ()>;
    /// Every log's origin and size, oldest first; the last is written to.
    fn logs(&self) -> Vec<(String, u64)>;
    /// The head of the log that is written to.
    fn head(&self) -> Head;
    /// Returns when the head may have moved since `size`, or after `at_most`.
    fn moved<'a>(&'a self, size: u64, at_most: Duration) -> BoxFuture<'a, ()>;
    /// The leaves of `range`, which lies within the log's size.
    fn read<'a>(&'a self, origin: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Vec<Vec<u8>>, Status>>;
    /// A receipt for one record.
    fn prove<'a>(&'a self, origin: &'a str, index: u64) -> BoxFuture<'a, Result<Receipt, Status>>;
    /// Hides what names a person; absent when no erasure key is at hand, and then nothing is written.
    fn seal(&self, name: &str) -> Option<Sealed>;
    /// Reads it back while its key exists.
    fn unseal(&self, sealed: &Sealed) -> Option<String>;
}
