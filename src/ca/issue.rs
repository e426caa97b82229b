//! The street: how every certificate comes to be. Read this first.
//!
//! One direction, each step's output is the next step's proof:
//!
//! 1. authorise: policy turns an attested [`Caller`] into a [`Grant`], or the refusal is recorded;
//! 2. key: the caller's CSR is checked against the grant, or a key is made for its proxy;
//! 3. prepare: the profile turns the grant into a linted [`Draft`];
//! 4. record: the ledger makes the draft durable and gives a `Recorded` back;
//! 5. sign: the issuing key signs the recorded bytes and spends the `Recorded`;
//! 6. publish: the authority is looked at once more, the signature is noted, and the certificate leaves.
//!
//! What is always true: nothing leaves step 6 that the ledger does not hold; a refusal is a record too. The edges call
//! [`Street::issue`]; nothing here knows about sockets, streams or files.
//!
//! A grant cannot be skipped, nor a record:
//!
//! ```compile_fail
//! use chancery::x509::draft::Draft;
//! fn skip_policy(key: chancery::x509::SubjectKey, issuer: &chancery::x509::chain::Issuer) {
//!     // A leaf draft wants a `Grant`, and only policy makes one.
//!     let now = time::OffsetDateTime::UNIX_EPOCH;
//!     let serial = chancery::x509::Serial::random(&chancery::entropy::Entropy::system());
//!     let _ = Draft::leaf(chancery::policy::Grant {}, key, issuer, serial, now);
//! }
//! ```
//!
//! ```compile_fail
//! async fn skip_record(key: chancery::ca::sign::SigningKey, draft: chancery::x509::draft::Draft) {
//!     // Signing wants a `Recorded`, and only the ledger makes one.
//!     let _ = key.sign(draft, &chancery::clock::Clock::system()).await;
//! }
//! ```

mod refuse;

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use time::OffsetDateTime;
use tokio::sync::{Semaphore, watch};
use tracing::{info, warn};

use super::refusals::{Kind, Refusals, Verdict};
pub use super::request::{
    Follows, IssueError, IssueRequest, Issued, KeyRequest, Nacked, RenewalCause, RequestContext, Unattested,
};
use super::sign::{Issuance, SignError};
use super::slot::Authorities;
use super::standing::{Barred, Standing};
use crate::audit::event::{Action, Actor, Event, Outcome, PolicyFacts, Recorder, Source};
use crate::audit::ledger::{Ledger, LedgerError, Position};
use crate::caller::{Caller, Evidence};
use crate::clock::{Clock, rfc3339_seconds};
use crate::entropy::Entropy;
use crate::identity::SpiffeId;
use crate::keys::KeyError;
use crate::keys::leaf::{self, LeafKey};
use crate::policy::schedule::renew_at;
use crate::policy::{Grant, Policy, Refusal, Wanted};
use crate::x509::csr::CsrError;
use crate::x509::draft::{Draft, Signed};
use crate::x509::{KeyAlgorithm, Serial, SubjectKey};

/// What a street is made of.
#[derive(Debug)]
pub struct Parts {
    /// Who may have what.
    pub policy: Arc<Policy>,
    /// Where it is written.
    pub ledger: Ledger,
    /// By whom it is signed.
    pub authorities: watch::Receiver<Arc<Authorities>>,
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub entropy: Entropy,
    /// What this run's records share.
    pub recorder: Recorder,
    /// Who is denied and what is revoked.
    pub standing: Standing,
}

/// The street; cheap to clone.
#[derive(Clone, Debug)]
pub struct Street(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    policy: ArcSwap<Policy>,
    policy_version: watch::Sender<u64>,
    ledger: Ledger,
    authorities: watch::Receiver<Arc<Authorities>>,
    clock: Clock,
    entropy: Entropy,
    recorder: Recorder,
    standing: Standing,
    refusals: Mutex<Refusals>,
    rsa_keys: Semaphore,
}

/// RSA keys that are made at the same moment.
const RSA_KEYS_AT_ONCE: usize = 2;

impl Street {
    /// Opens the street.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner {
            policy: ArcSwap::new(parts.policy),
            policy_version: watch::Sender::new(0),
            ledger: parts.ledger,
            authorities: parts.authorities,
            clock: parts.clock,
            entropy: parts.entropy,
            recorder: parts.recorder,
            standing: parts.standing,
            refusals: Mutex::default(),
            rsa_keys: Semaphore::new(RSA_KEYS_AT_ONCE),
        }))
    }

    /// Walks the street once. The reply is durable in the ledger before this returns, a refusal too (or it is counted
    /// for the next flush).
    ///
    /// # Errors
    /// [`IssueError`]; what was recorded stays recorded.
    pub async fn issue(&self, caller: &Caller, request: IssueRequest) -> Result<Issued, IssueError> {
        let now = self.0.clock.now();
        let IssueRequest { wanted, key, follows, context } = request;

        // 1. Authorise.
        let policy = self.policy();
        let grant = match policy.authorise(caller, &wanted) {
            Ok(grant) => grant,
            Err(refusal) => return Err(self.refuse(caller, &wanted, &policy, refusal, &context, now).await),
        };
        self.check_standing(caller, &grant, &context, now).await?;

        // 2. The key: proven by its holder, or made here.
        let (subject_key, own_key) = match self.key_for(&grant, key).await {
            Ok(keys) => keys,
            Err(KeyFault::Request(error)) => {
                self.refuse_request(caller, &grant, &error, &context, now).await?;
                return Err(error.into());
            }
            Err(KeyFault::Made(error)) => return Err(error.into()),
        };

        // 3. Prepare: profile and lint.
        let authority = self.0.authorities.borrow().active().ok_or(IssueError::NoAuthority)?;
        let issuing_key = authority.key().ok_or(IssueError::NoAuthority)?;
        let renewal = *grant.renewal();
        let identity = grant.identity().clone();
        let rule = grant.rule().to_owned();
        let mut event = self.event(caller, &grant, follows.as_ref(), &context, now);
        let serial = Serial::random(&self.0.entropy);
        let draft = Draft::leaf(grant, subject_key, authority.issuer(), serial, now)?;

        // 4. Record: durable when this returns. A crash from here on leaves a record without a certificate, which
        //    `certificate.signed` being absent makes visible; never the other way round.
        let draft = following(draft, follows);
        event.certificate = Some(draft.facts().clone());
        let recorded = self.0.ledger.record(draft, event).await?;

        // 5. Sign, and spend the record.
        let Issuance { signed, position } = match issuing_key.sign(recorded, &self.0.clock).await {
            Ok(issuance) => issuance,
            Err((source, position)) => return Err(self.failed(&context, source, position)),
        };

        // 6. Publish: nothing by an authority that was tainted meanwhile, nothing for who was denied meanwhile.
        let draft = signed.draft();
        if !self.0.authorities.borrow().may_publish(authority.issuer().key_id())
            || self.0.standing.is_revoked(&draft.serial().hex())
            || self.barred(caller, &identity).is_some()
        {
            return Err(self.failed(&context, SignError::Withdrawn, position));
        }
        self.note_signed(&context, &signed, &position);
        let renew_at = renew_at(now, signed.draft().not_after(), &renewal, self.0.entropy.unit());
        let (serial, version) = (draft.serial().hex(), draft.version().to_string());
        info!(request_id = context.request_id, %identity, serial, rule, "issued");
        Ok(Issued {
            identity,
            serial,
            not_before: draft.not_before(),
            not_after: draft.not_after(),
            version,
            chain: std::iter::once(signed.der().to_vec()).chain(draft.chain().iter().cloned()).collect(),
            key: own_key,
            renew_at,
            rule,
            position,
        })
    }

    /// Puts another policy in force; its record is durable already.
    pub fn set_policy(&self, policy: Arc<Policy>) {
        self.0.policy.store(policy);
        self.reconsider();
    }

    /// Has everyone ask again who waits for an answer that was no.
    pub fn reconsider(&self) {
        self.0.policy_version.send_modify(|version| *version += 1);
    }

    /// Who is denied and what is revoked.
    #[must_use]
    pub fn standing(&self) -> &Standing {
        &self.0.standing
    }

    /// What keeps `caller` from a certificate for `identity`, whatever policy says.
    fn barred(&self, caller: &Caller, identity: &SpiffeId) -> Option<Barred> {
        let denied = || self.0.standing.denied(identity).map(|pattern| Barred::Denied { pattern });
        self.0.standing.barred(caller).or_else(denied)
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        self.0.policy.load_full()
    }

    /// Changes whenever another policy comes into force.
    #[must_use]
    pub fn policy_version(&self) -> watch::Receiver<u64> {
        self.0.policy_version.subscribe()
    }

    /// The authorities, now and as they change.
    #[must_use]
    pub fn authorities(&self) -> watch::Receiver<Arc<Authorities>> {
        self.0.authorities.clone()
    }

    /// Writes the refusals that were only counted; called every [`super::refusals::FLUSH_EVERY`] and at the end.
    pub async fn flush_refusals(&self) {
        let runs = self.refusals().flush(self.0.clock.now());
        for run in runs {
            if let Err(error) = self.0.ledger.append(run).await {
                warn!(%error, "a count of refusals could not be recorded");
            }
        }
    }

    /// Whether any rule grants this caller anything; a refusal is recorded.
    ///
    /// # Errors
    /// [`IssueError::Refused`], or [`IssueError::Ledger`] when the refusal could not be recorded.
    pub async fn admit(&self, caller: &Caller, context: &RequestContext) -> Result<(), IssueError> {
        let policy = self.policy();
        match policy.authorise(caller, &Wanted::Default) {
            // A caller with rules that grant named identities only is welcome: it has to say which.
            Ok(_) | Err(Refusal::OnlyByName { .. }) => Ok(()),
            Err(refusal @ (Refusal::Nobody { .. } | Refusal::NoRule { .. } | Refusal::NotGranted { .. })) => {
                Err(self.refuse(caller, &Wanted::Default, &policy, refusal, context, self.0.clock.now()).await)
            }
        }
    }

    /// Records that a proxy refused what was pushed to it. Counted like a refusal, so that a proxy which refuses again
    /// and again cannot fill the disk.
    ///
    /// # Errors
    /// When the ledger takes no records.
    pub async fn nack(&self, caller: &Caller, nack: &Nacked, context: &RequestContext) -> Result<(), LedgerError> {
        let now = self.0.clock.now();
        let mut event = self.0.recorder.event(Action::CertificateNack, Outcome::Failure, now);
        event.subject = nack.identity.as_ref().map(ToString::to_string);
        event.reason = Some(nack.text.clone());
        event.serial.clone_from(&nack.serial);
        let kind = Kind { account: caller.account(), reason: format!("nack:{:?}", context.secret_name) };
        self.record_refusal(kind, described(event, caller, context), now).await
    }

    /// Records that an edge turned a request away before policy was asked: a limit, an unknown name.
    pub async fn turned_away(&self, caller: &Caller, reason: String, context: &RequestContext) {
        let now = self.0.clock.now();
        let mut event = self.0.recorder.event(Action::CertificateDeny, Outcome::Denied, now);
        event.reason = Some(reason.clone());
        let kind = Kind { account: caller.account(), reason };
        if let Err(error) = self.record_refusal(kind, described(event, caller, context), now).await {
            warn!(%error, "a refusal could not be recorded");
        }
    }

    /// Records that the other end of a connection could not be attested; counted like every refusal.
    pub async fn attest_refused(&self, refused: &Unattested) {
        let now = self.0.clock.now();
        let mut event = self.0.recorder.event(Action::AttestRefuse, Outcome::Denied, now);
        event.subject = refused.identity.as_ref().map(ToString::to_string);
        event.serial.clone_from(&refused.serial);
        event.reason = Some(refused.why.clone());
        event.source = Some(Source { socket: Some(refused.listener.clone()), ..Source::default() });
        let kind = Kind { account: refused.account(), reason: refused.why.clone() };
        if let Err(error) = self.record_refusal(kind, event, now).await {
            warn!(%error, listener = refused.listener, "a refused attestation could not be recorded");
        }
    }

    /// Writes a refusal of an edge down by the same rule: the first few of a caller and reason each, then a count.
    ///
    /// # Errors
    /// When it is one of the first, and the ledger takes no records.
    pub async fn refused(&self, caller: &Caller, event: Event) -> Result<(), LedgerError> {
        let kind = Kind { account: caller.account(), reason: event.reason.clone().unwrap_or_default() };
        self.record_refusal(kind, event, self.0.clock.now()).await
    }

    fn refusals(&self) -> std::sync::MutexGuard<'_, Refusals> {
        self.0.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn key_for(&self, grant: &Grant, key: KeyRequest) -> Result<(SubjectKey, Option<LeafKey>), KeyFault> {
        match key {
            KeyRequest::Csr(csr) => {
                csr.check_against(grant).map_err(KeyFault::Request)?;
                Ok((csr.into_key(), None))
            }
            KeyRequest::ServerMade => {
                let made = self.make_key(grant.key_algorithm()).await.map_err(KeyFault::Made)?;
                Ok((made.subject_key(), Some(made)))
            }
        }
    }

    /// Microseconds for most algorithms; an RSA key takes up to seconds, so it is made beside the tasks, a few at a time.
    async fn make_key(&self, algorithm: KeyAlgorithm) -> Result<LeafKey, KeyError> {
        if !algorithm.is_rsa() {
            return leaf::generate(algorithm);
        }
        let _turn = self.0.rsa_keys.acquire().await;
        let made = tokio::task::spawn_blocking(move || leaf::generate(algorithm)).await;
        made.unwrap_or(Err(KeyError::Library { what: "make an RSA key" }))
    }

    /// The authorisation's record, before the certificate's own facts are known.
    fn event(
        &self,
        caller: &Caller,
        grant: &Grant,
        follows: Option<&Follows>,
        context: &RequestContext,
        now: OffsetDateTime,
    ) -> Event {
        let action = if follows.is_some() { Action::CertificateRenew } else { Action::CertificateIssue };
        let mut event = self.0.recorder.event(action, Outcome::Success, now);
        event.subject = Some(grant.identity().to_string());
        event.mesh = Some(grant.mesh());
        event.policy = Some(policy_facts(grant));
        described(event, caller, context)
    }

    async fn record_refusal(&self, kind: Kind, event: Event, now: OffsetDateTime) -> Result<(), LedgerError> {
        let verdict = self.refusals().admit(kind, event, now);
        match verdict {
            Verdict::Record(event) => self.0.ledger.append(*event).await.map(|_| ()),
            Verdict::Counted => Ok(()),
        }
    }

    fn note_signed(&self, context: &RequestContext, signed: &Signed, position: &Position) {
        let mut event = self.0.recorder.event(Action::CertificateSigned, Outcome::Success, self.0.clock.now());
        event.refers_to = Some(position.to_string());
        event.subject = signed.draft().identity().map(ToString::to_string);
        event.certificate = Some(signed.facts().clone());
        event.request_id = Some(context.request_id.clone());
        self.0.ledger.note(&event);
    }

    fn failed(&self, context: &RequestContext, source: SignError, position: Position) -> IssueError {
        warn!(request_id = context.request_id, %position, error = %source, "recorded but not signed");
        let mut event = self.0.recorder.event(Action::CertificateFail, Outcome::Failure, self.0.clock.now());
        event.refers_to = Some(position.to_string());
        event.reason = Some(source.to_string());
        event.request_id = Some(context.request_id.clone());
        self.0.ledger.note(&event);
        IssueError::Sign { position, source }
    }
}

fn policy_facts(grant: &Grant) -> PolicyFacts {
    PolicyFacts { hash: grant.policy_hash().to_owned(), nearest: Vec::new(), rule: Some(grant.rule().to_owned()) }
}

/// The feed names serials that this program gave out, so a form that cannot be read names nothing.
fn following(draft: Draft, follows: Option<Follows>) -> Draft {
    let previous = follows.and_then(|follows| Some((Serial::from_hex(&follows.serial).ok()?, follows.cause)));
    match previous {
        Some((previous, cause)) => draft.following(&previous, cause.as_str()),
        None => draft,
    }
}

/// Which side is at fault when there is no key.
enum KeyFault {
    Request(CsrError),
    Made(KeyError),
}

/// Who asked, from where, for which secret.
fn described(mut event: Event, caller: &Caller, context: &RequestContext) -> Event {
    event.actor = Some(actor(caller));
    event.source = Some(source(caller));
    event.node.clone_from(&context.node);
    event.secret_name.clone_from(&context.secret_name);
    event.request_id = Some(context.request_id.clone());
    event.trace_id.clone_from(&context.trace_id);
    event
}

/// The caller as a record names it.
#[must_use]
pub fn actor(caller: &Caller) -> Actor {
    let known = Actor {
        attested_by: caller.method().to_owned(),
        evidence_sha256: Some(hex::encode(caller.evidence_digest())),
        ..Actor::default()
    };
    match caller.evidence() {
        Evidence::Client(client) => Actor {
            attested_at: Some(rfc3339_seconds(client.attested_at)),
            id: Some(client.identity.to_string()),
            serial: Some(client.serial.clone()),
            ..known
        },
        Evidence::UnixPeer(_) | Evidence::Own => known,
    }
}

/// Where the caller is, as a record names it.
#[must_use]
pub fn source(caller: &Caller) -> Source {
    match caller.evidence() {
        Evidence::UnixPeer(peer) => Source {
            address: None,
            gid: Some(peer.gid),
            pid: Some(peer.pid),
            socket: Some(peer.socket.clone()),
            uid: Some(peer.uid),
        },
        Evidence::Client(client) => Source { socket: Some(client.socket.clone()), ..Source::default() },
        Evidence::Own => Source::default(),
    }
}
