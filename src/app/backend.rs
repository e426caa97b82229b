//! The program as its operators may use it: what the admin service asks of street, feed, policy and ledger.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use time::OffsetDateTime;
use tokio::sync::watch;
use tonic::Status;
use tracing::error;

use super::addresses::Addresses;
use super::lag::IndexLag;
use super::reload::Reloader;
use super::roots;
use super::state::{State, upstream};
use crate::api::admin::backend::{
    AuthoritySchedule, Backend, Head, Holding, IssueAsk, LedgerAccess, PolicyInForce, Receipt, ServerFacts,
};
use crate::api::status;
use crate::attest::AttestError;
use crate::audit::event::{Event, Sealed};
use crate::audit::ledger::{Health, Ledger, Position};
use crate::audit::personal::ErasurePool;
use crate::ca::authority::another_upstream;
use crate::ca::authority::root;
use crate::ca::issue::{IssueRequest, Issued, KeyRequest, RequestContext, Street, Unattested};
use crate::ca::slot::{Authorities, Authority, Level, Name};
use crate::caller::Caller;
use crate::clock::{Clock, rfc3339_seconds};
use crate::feed::Feed;
use crate::identity::TrustDomain;
use crate::policy::schedule::{AuthorityTimes, Evidence, RootTimes, authority_plan};
use crate::policy::{ADMIN_SOCKET, Wanted};
use crate::proto::chancery::admin::v1 as pb;
use crate::revocation::{CrlSet, Revoker};
use crate::store::CertificateRow;
use crate::x509::bundle::Bundle;
use crate::x509::{csr, pem};

/// How long clients of the bundle are asked to wait between two looks, in seconds.
pub(super) const REFRESH_HINT_S: u64 = 300;

/// The street, the feed and policy for operators.
pub(super) struct AppBackend {
    street: Street,
    feed: Feed,
    clock: Clock,
    ledger: Ledger,
    revoker: Revoker,
    trust_domain: TrustDomain,
    reloader: Reloader,
    lag: IndexLag,
    sealed_beside: bool,
    issuing_lifetime: Duration,
    silent_wait: Option<Duration>,
    upstream: Option<String>,
    evidence: watch::Receiver<Option<Arc<Evidence<Name>>>>,
    started_at: OffsetDateTime,
    listeners: Vec<pb::Listener>,
    notes: Vec<String>,
}

impl AppBackend {
    pub(super) fn new(
        state: &State,
        feed: Feed,
        settings: &crate::config::Settings,
        addresses: &Addresses,
        (reloader, lag): (Reloader, IndexLag),
    ) -> Self {
        Self {
            street: state.street.clone(),
            feed,
            clock: state.clock.clone(),
            ledger: state.ledger.clone(),
            revoker: state.revoker.clone(),
            trust_domain: settings.trust_domain.clone(),
            reloader,
            lag,
            sealed_beside: settings.sealing_key.is_none(),
            issuing_lifetime: settings.ca.issuing.lifetime,
            silent_wait: settings.ca.silent_wait,
            upstream: upstream(settings).map(|upstream| upstream.name().to_owned()),
            evidence: state.evidence.subscribe(),
            started_at: state.started_at,
            listeners: listeners(addresses),
            notes: state.notes.clone(),
        }
    }

    fn times(&self) -> Option<RootTimes> {
        let issuing = AuthorityTimes::new(self.issuing_lifetime, self.street.policy().longest_lifetime()).ok()?;
        Some(root::times(issuing, self.issuing_lifetime, self.silent_wait))
    }

    fn authorities_now(&self) -> Arc<Authorities> {
        Arc::clone(&self.street.authorities().borrow())
    }

    fn warnings(&self) -> Vec<String> {
        let sealed = "authority keys are sealed with a key that lies beside them (keys/sealing.key): whoever can read \
                      the data directory has them; keys.sealing_key parts them";
        let mut warnings: Vec<String> = self.sealed_beside.then(|| sealed.to_owned()).into_iter().collect();
        warnings.extend(self.notes.iter().cloned());
        warnings.extend(self.reloader.warnings());
        let root = self.authorities_now().active_root();
        warnings.extend(root.and_then(|root| another_upstream(&root, self.upstream.as_deref())));
        warnings
    }
}

fn listeners(addresses: &Addresses) -> Vec<pb::Listener> {
    let listener = |kind: &str, name: &str, address: String| pb::Listener {
        kind: kind.to_owned(),
        name: name.to_owned(),
        address,
    };
    let sds =
        addresses.sds.iter().map(|socket| listener("sds", &socket.name, format!("unix:{}", socket.path.display())));
    let tcp = addresses.sds_tcp.iter().map(|port| listener("sds", &port.name, format!("tls://{}", port.address)));
    let admin = listener("admin", "admin", format!("unix:{}", addresses.admin.display()));
    let port = addresses.admin_tcp.map(|address| listener("admin", "admin", format!("tls://{address}")));
    let http = addresses.http.map(|address| listener("http", "http", format!("http://{address}")));
    sds.chain(tcp).chain([admin]).chain(port).chain(http).collect()
}

/// What keeps certificates from being issued, each a sentence with its remedy.
pub(super) fn problems(ledger: &Ledger, authorities: &Authorities, now: OffsetDateTime) -> Vec<String> {
    let mut problems = Vec::new();
    match &*ledger.health().borrow() {
        Health::Ok => {}
        Health::Full { directory, .. } => problems.push(format!(
            "the ledger is full: no space left in {}; free some, issuing resumes by itself",
            directory.display()
        )),
        Health::Failed { cause, .. } => {
            problems.push(format!("the ledger stopped after a failure: {cause}; restart when the disk is sound"));
        }
    }
    match authorities.active() {
        None => problems.push("no issuing CA is active: chancery ca show".to_owned()),
        Some(active) if active.issuer().not_after() <= now => {
            problems.push(format!("{} has expired: is the clock right?", active.name()));
        }
        Some(active) if now < active.issuer().not_before() => {
            problems.push(format!("{} is not valid yet: the clock is behind", active.name()));
        }
        Some(_) => {}
    }
    problems
}

/// What is wrong with the CRLs: nothing stops for it now, and everything at their end.
fn crl_problems(published: &CrlSet, authorities: &Authorities, now: OffsetDateTime) -> Vec<String> {
    let late = published.lists.iter().filter(|listed| listed.is_late(now)).map(|listed| {
        let (issuer, end) = (listed.issuer, rfc3339_seconds(listed.crl.next_update()));
        format!("the CRL of {issuer} could not be renewed and ends at {end}, when every handshake fails: see the log")
    });
    let listed = |authority: &&Arc<Authority>| published.of(&hex::encode(authority.issuer().key_id())).is_some();
    let without = authorities.iter().filter(|authority| !listed(authority)).map(|authority| {
        format!("{} has no CRL, so no new bundle is sent: see the log; it is tried again", authority.name())
    });
    late.chain(without).collect()
}

/// A number that grows with every change of the bundle: the second in which a root last changed.
pub(super) fn bundle_sequence(authorities: &Authorities) -> u64 {
    let newest = authorities.roots_changed().map(OffsetDateTime::unix_timestamp);
    newest.and_then(|second| u64::try_from(second).ok()).unwrap_or(0)
}

/// The roots of `authorities` as a bundle: those that have a CRL in what is published, as on every stream.
pub(super) fn bundle(trust_domain: &TrustDomain, authorities: &Authorities, published: &CrlSet) -> Bundle {
    let listed = |key_id: &[u8]| published.of(&hex::encode(key_id)).is_some();
    Bundle::new(trust_domain.clone(), authorities.trusted_roots_if(listed))
        .expect("the roots were read as CA certificates when they were loaded or made")
}

fn wire(issued: &Issued, bundle: &Bundle) -> pb::IssuedCertificate {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    pb::IssuedCertificate {
        serial: issued.serial.clone(),
        identity: issued.identity.to_string(),
        chain_pem: text(pem::certificates(issued.chain.iter().map(Vec::as_slice))),
        bundle_pem: text(bundle.pem()),
        not_before: rfc3339_seconds(issued.not_before),
        not_after: rfc3339_seconds(issued.not_after),
        renew_at: rfc3339_seconds(issued.renew_at),
        rule: issued.rule.clone(),
        record: issued.position.to_string(),
    }
}

impl Backend for AppBackend {
    fn issue<'a>(&'a self, caller: &'a Caller, ask: IssueAsk) -> BoxFuture<'a, Result<pb::IssuedCertificate, Status>> {
        Box::pin(async move {
            let parsed = csr::parse(&ask.csr).map_err(|why| Status::invalid_argument(why.to_string()))?;
            let request = IssueRequest {
                wanted: ask.identity.map_or(Wanted::Default, Wanted::Identity),
                key: KeyRequest::Csr(Box::new(parsed)),
                follows: None,
                context: RequestContext { request_id: ask.request_id, ..RequestContext::default() },
            };
            let issued = self.street.issue(caller, request).await.map_err(|why| status::of_issue(&why))?;
            let published = self.revoker.published();
            Ok(wire(&issued, &bundle(&self.trust_domain, &self.authorities_now(), &published)))
        })
    }

    fn holding(&self, certificate: &CertificateRow) -> Option<Holding> {
        let proxy = self.feed.holder(&certificate.version)?;
        let state = match (proxy.nack.is_some(), proxy.acked()) {
            (true, _) => "nacked",
            (false, true) => "acked",
            (false, false) => "pushed",
        };
        Some(Holding { node: proxy.node, state, renew_at: proxy.renew_at })
    }

    fn due_before(&self, at: OffsetDateTime) -> u64 {
        self.feed.count_live(|proxy| proxy.renew_at.is_some_and(|due| due < at))
    }

    fn evidence(&self) -> Option<(String, pb::RootEvidence)> {
        let evidence = self.evidence.borrow().clone()?;
        Some((evidence.root.to_string(), roots::wire(&evidence, self.clock.now())))
    }

    fn authorities(&self) -> Vec<AuthoritySchedule> {
        let (authorities, now) = (self.authorities_now(), self.clock.now());
        let held_by = |key_id: &String| self.feed.count_live(|proxy| proxy.covers.contains(key_id));
        let root = authorities.active_root().map(|root| root.name());
        let next = |authority: &Arc<Authority>| {
            let times = self.times()?.issuing;
            let has_turn = || authorities.root_of(authority).map(|root| root.name()) == root;
            match (authority.name().level, authority.state()) {
                (Level::Root | Level::Intermediate, _) => None,
                (Level::Issuing, crate::ca::slot::State::Prepared) if !has_turn() => None,
                (Level::Issuing, _) => authority_plan(&[authority.slot(times.longest_leaf())], times, now).next,
            }
        };
        let schedule = |authority: &Arc<Authority>| AuthoritySchedule {
            held_by: held_by(&hex::encode(authority.issuer().key_id())),
            key_id: hex::encode(authority.issuer().key_id()),
            next_change_at: next(authority),
            published_at: authority.published(),
        };
        [Level::Root, Level::Intermediate, Level::Issuing]
            .iter()
            .flat_map(|level| authorities.at(*level))
            .map(schedule)
            .collect()
    }

    fn bundle(&self) -> pb::Bundle {
        let authorities = self.authorities_now();
        let bundle = bundle(&self.trust_domain, &authorities, &self.revoker.published());
        let json = bundle.spiffe_json(bundle_sequence(&authorities), REFRESH_HINT_S);
        pb::Bundle {
            trust_domain: self.trust_domain.to_string(),
            version: bundle.version().to_owned(),
            pem: String::from_utf8_lossy(&bundle.pem()).into_owned(),
            spiffe_json: String::from_utf8_lossy(&json).into_owned(),
            roots: u32::try_from(bundle.len()).unwrap_or(u32::MAX),
        }
    }

    fn policy(&self) -> PolicyInForce {
        let policy = self.street.policy();
        let text = Arc::clone(policy.text());
        PolicyInForce { policy, path: self.reloader.policy_path().display().to_string(), text }
    }

    fn facts(&self) -> ServerFacts {
        let (authorities, now) = (self.authorities_now(), self.clock.now());
        let mut problems = problems(&self.ledger, &authorities, now);
        problems.extend(self.lag.problem());
        let ready = problems.is_empty();
        problems.extend(crl_problems(&self.revoker.published(), &authorities, now));
        problems.extend(self.times().and_then(|times| roots::late(&authorities, times, now)));
        ServerFacts {
            trust_domain: self.trust_domain.to_string(),
            started_at: Some(self.started_at),
            ready,
            problems,
            warnings: self.warnings(),
            streams: self.feed.count_live(|_| true),
            proxies: self.feed.count_live(|proxy| !proxy.is_certificate),
            listeners: self.listeners.clone(),
        }
    }
}

/// The ledger for operators.
pub(super) struct AppLedger {
    street: Street,
    ledger: Ledger,
    personal: Arc<ErasurePool>,
}

impl AppLedger {
    pub(super) fn new(state: &State) -> Self {
        Self { street: state.street.clone(), ledger: state.ledger.clone(), personal: Arc::clone(&state.personal) }
    }
}

impl LedgerAccess for AppLedger {
    fn append(&self, event: Event) -> BoxFuture<'_, Result<String, Status>> {
        Box::pin(async move {
            let position = self.ledger.append(event).await.map_err(|why| status::of_ledger(&why))?;
            Ok(position.to_string())
        })
    }

    fn refused<'a>(&'a self, caller: &'a Caller, event: Event) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move { self.street.refused(caller, event).await.map_err(|why| status::of_ledger(&why)) })
    }

    fn unattested<'a>(&'a self, why: &'a AttestError) -> BoxFuture<'a, ()> {
        let (listener, why) = (ADMIN_SOCKET.to_owned(), why.to_string());
        let refused = Unattested { transport: "unix", listener, identity: None, serial: None, why };
        Box::pin(async move { self.street.attest_refused(&refused).await })
    }

    fn logs(&self) -> Vec<(String, u64)> {
        self.ledger.reader().logs().into_iter().map(|log| (log.origin.to_string(), log.size)).collect()
    }

    fn head(&self) -> Head {
        let heads = self.ledger.heads();
        let head = heads.borrow();
        let health = match &*self.ledger.health().borrow() {
            Health::Ok => "ok",
            Health::Full { .. } => "full",
            Health::Failed { .. } => "failed",
        };
        let size = self.ledger.reader().logs().last().map_or(head.size, |log| log.size);
        let checkpoint_at = (!head.checkpoint.is_empty()).then_some(head.time);
        Head { origin: head.origin.to_string(), size, checkpoint_at, health: health.to_owned() }
    }

    fn moved<'a>(&'a self, size: u64, at_most: Duration) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut committed = self.ledger.reader().committed();
            committed.mark_unchanged();
            if self.ledger.reader().logs().last().is_some_and(|log| log.size > size) {
                return;
            }
            let _ = tokio::time::timeout(at_most, committed.changed()).await;
        })
    }

    fn read<'a>(&'a self, origin: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Vec<Vec<u8>>, Status>> {
        Box::pin(async move {
            let mut leaves = Vec::new();
            let mut next = range.start;
            while next < range.end {
                let read = self.ledger.reader().read(origin, next..range.end).map_err(|why| status::of_ledger(&why))?;
                let Some((last, _)) = read.last() else { break };
                next = last.index + 1;
                leaves.extend(read.into_iter().map(|(_, leaf)| leaf.to_vec()));
            }
            Ok(leaves)
        })
    }

    fn prove<'a>(&'a self, origin: &'a str, index: u64) -> BoxFuture<'a, Result<Receipt, Status>> {
        Box::pin(async move {
            let position = Position { log: origin.into(), index };
            let receipt = self.ledger.reader().proof(&position).await.map_err(|why| status::of_ledger(&why))?;
            let size = receipt.checkpoint.lines().nth(1).and_then(|line| line.parse().ok()).unwrap_or(0);
            Ok(Receipt { text: receipt.to_string(), checkpoint_size: size })
        })
    }

    fn seal(&self, name: &str) -> Option<Sealed> {
        match self.personal.seal(name, name) {
            Ok(sealed) => Some(sealed),
            Err(error) => {
                error!(%error, "an operator's name could not be sealed, so it is not recorded");
                None
            }
        }
    }

    fn unseal(&self, sealed: &Sealed) -> Option<String> {
        self.personal.open_value(sealed).ok()
    }
}
