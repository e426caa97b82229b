//! Rotation, revocation and release over a real socket, with a feed and a revocation that only say what they were told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use super::*;
use crate::api::admin::backend::Hands;
use crate::audit::ledger::Position;
use crate::ca::authority::acts::{Act, ActError, Told};
use crate::ca::standing::Denied;
use crate::feed::LiveProxy;
use crate::feed::forced::{Delivery, Outcome as Rotates, Rotated, Rotation};
use crate::identity::SpiffeId;
use crate::revocation::{AuthorityOrder, CrlState, Order, RevokeError, Selection, Step};
use crate::x509::crl::Reason;

const API: &str = "spiffe://example.org/ns/pay/sa/api";
const OLD: &str = "spiffe://example.org/ns/old/*";

/// One proxy that holds [`SERIAL`], one deny, one CRL; two streams, of which the second answers at the third look.
#[derive(Default)]
pub(super) struct FakeHands {
    pub(super) orders: Mutex<Vec<Order>>,
    pub(super) released: Mutex<Vec<Event>>,
    pub(super) tainted: Mutex<Vec<AuthorityOrder>>,
    pub(super) acts: Mutex<Vec<(Act, Event)>>,
    rotations: AtomicU64,
    looks: AtomicU64,
    tasks: crate::tasks::Tasks,
}

fn at(index: u64) -> Position {
    Position { log: LOG.into(), index }
}

fn crl() -> CrlState {
    CrlState {
        issuer: "issuing 1".into(),
        issuer_key_id: "0a".into(),
        number: 88,
        entries: 3,
        this_update: "2026-11-23T12:00:00Z".into(),
        next_update: "2026-11-23T14:00:00Z".into(),
        record: format!("{LOG}#9"),
    }
}

impl Hands for FakeHands {
    fn live(&self) -> Vec<LiveProxy> {
        vec![LiveProxy {
            node: Some("envoy-7f".into()),
            caller: "unix:sds:uid=1003:pid=7".into(),
            account: "unix:sds:uid=1003".into(),
            holder: "unix:sds:uid=1003:pid=7,started=None".into(),
            secret_name: "default".into(),
            is_certificate: true,
            identity: Some(SpiffeId::parse(API).unwrap()),
            serial: Some(SERIAL.into()),
            version: None,
            acked_version: None,
            nack: None,
            covers: Arc::default(),
            since: datetime!(2026-11-23 12:00 UTC),
            renew_at: None,
            not_after: None,
        }]
    }

    fn rotate(&self, choose: &dyn Fn(&LiveProxy) -> bool) -> Rotation {
        self.rotations.fetch_add(1, Ordering::Relaxed);
        let chosen: Vec<_> = self.live().into_iter().filter(|proxy| choose(proxy)).collect();
        let (told, steps) = mpsc::channel(4);
        for index in 0..chosen.len() {
            for outcome in [Rotates::Pushed, Rotates::Acked] {
                told.try_send(Rotated { index, new_serial: Some("77aa".into()), outcome }).unwrap();
            }
        }
        Rotation { chosen, steps }
    }

    fn revoke(&self, order: Order) -> mpsc::Receiver<Result<Step, RevokeError>> {
        let denied = match &order.selection {
            Selection::Identity(identity) => Some(identity.to_string()),
            Selection::Prefix(prefix) => Some(format!("{prefix}*")),
            Selection::Serial(_) | Selection::Serials(_) | Selection::Issuer(_) | Selection::All => None,
        };
        let unsigned = order.reason == Reason::CaCompromise;
        self.orders.lock().unwrap().push(order);
        let (told, steps) = mpsc::channel(4);
        let recorded = Step::Recorded { first: at(4), last: at(5), revoked: 1, denied };
        told.try_send(Ok(recorded)).unwrap();
        if unsigned {
            told.try_send(Err(RevokeError::Sign("the key is away".into()))).unwrap();
            return steps;
        }
        told.try_send(Ok(Step::Signed { crls: vec![crl()] })).unwrap();
        told.try_send(Ok(Step::Published { bundle_version: "77".into() })).unwrap();
        steps
    }

    fn revoke_authority(&self, order: AuthorityOrder) -> mpsc::Receiver<Result<Step, RevokeError>> {
        self.tainted.lock().unwrap().push(order);
        let (told, steps) = mpsc::channel(4);
        told.try_send(Ok(Step::Recorded { first: at(8), last: at(8), revoked: 1, denied: None })).unwrap();
        told.try_send(Ok(Step::Signed { crls: vec![crl()] })).unwrap();
        told.try_send(Ok(Step::Published { bundle_version: "78".into() })).unwrap();
        steps
    }

    fn order(&self, act: Act, template: Event) -> mpsc::Receiver<Told> {
        self.acts.lock().unwrap().push((act, template));
        let (told, words) = mpsc::channel(4);
        told.try_send(Told::Failed(ActError::Busy)).unwrap();
        words
    }

    fn release<'a>(&'a self, pattern: &'a str, template: Event) -> BoxFuture<'a, Result<String, RevokeError>> {
        async move {
            if pattern != OLD {
                return Err(RevokeError::NotDenied { pattern: pattern.to_owned() });
            }
            self.released.lock().unwrap().push(template);
            Ok(at(7).to_string())
        }
        .boxed()
    }

    fn denies(&self) -> Vec<(String, Denied)> {
        let since = "2026-11-22T12:00:00Z".into();
        vec![(OLD.into(), Denied { record: at(3).to_string(), since, reason: "keyCompromise".into() })]
    }

    fn crls(&self) -> Vec<CrlState> {
        vec![crl()]
    }

    fn delivery(&self) -> Delivery {
        let acked = if self.looks.fetch_add(1, Ordering::Relaxed) < 2 { 1 } else { 2 };
        Delivery { streams: 2, acked, nacked: 0 }
    }

    fn carry_out(&self, work: BoxFuture<'static, ()>) {
        self.tasks.spawn("hands", work);
    }
}

fn by(choose: impl FnOnce(&mut pb::Selection)) -> Option<pb::Selection> {
    let mut selection = pb::Selection::default();
    choose(&mut selection);
    Some(selection)
}

fn identity(of: &str) -> Option<pb::Selection> {
    by(|selection| selection.identity = of.to_owned())
}

fn serial() -> Option<pb::Selection> {
    by(|selection| selection.serial = "5e0c…91f2".to_owned())
}

impl Fixture {
    async fn rotate(
        &mut self,
        selection: Option<pb::Selection>,
        dry_run: bool,
    ) -> Result<Vec<pb::RotationProgress>, Status> {
        let ask = pb::RotateCertificatesRequest { selection, dry_run, reason: "new keys".into() };
        let mut answer = self.admin.rotate_certificates(ask).await?.into_inner();
        let mut said = Vec::new();
        while let Some(one) = answer.message().await? {
            said.push(one);
        }
        Ok(said)
    }

    async fn revoke(&mut self, ask: pb::RevokeCertificatesRequest) -> Result<Vec<pb::RevocationProgress>, Status> {
        let mut answer = self.admin.revoke_certificates(ask).await?.into_inner();
        let mut said = Vec::new();
        let mut read = Box::pin(async {
            while let Some(one) = answer.message().await? {
                said.push(one);
            }
            Ok(said)
        });
        // Between two looks at a delivery there is time.
        loop {
            tokio::select! {
                read = &mut read => break read,
                () = tokio::time::sleep(Duration::from_millis(1)) => self.time.advance(Duration::from_millis(10)),
            }
        }
    }
}

fn revocation(selection: Option<pb::Selection>) -> pb::RevokeCertificatesRequest {
    pb::RevokeCertificatesRequest { selection, reason: "key-compromise".into(), ..Default::default() }
}

#[tokio::test]
async fn a_rotation_is_recorded_and_says_what_happens_to_each() {
    let mut fixture = fixture(false).await;
    let said = fixture.rotate(identity(API), false).await.unwrap();
    assert_eq!((said[0].chosen, said[0].not_connected, said[0].record.as_str()), (1, 0, &*format!("{LOG}#3")));
    let states: Vec<_> = said[1..].iter().map(|one| one.certificate.clone().unwrap().state).collect();
    assert_eq!(states, ["pushed", "acked"]);
    let record = fixture.last();
    assert_eq!((record.action, record.subject.as_deref()), (Action::OperatorAct, Some(API)));
    assert_eq!((record.reason.as_deref(), record.change.unwrap().count), (Some("new keys"), Some(1)));
}

#[tokio::test]
async fn a_dry_run_leaves_no_trace() {
    let mut fixture = fixture(false).await;
    let mut issuing =
        Recorder::new(Entropy::seeded(7)).event(Action::CaActivate, Outcome::Success, datetime!(2026-11-23 12:00 UTC));
    issuing.authority = Some(AuthorityFacts {
        key_id: "0a".into(),
        level: "issuing".into(),
        name: "issuing 1".into(),
        ..Default::default()
    });
    fixture.ledger.append(issuing).await.unwrap();
    let before = fixture.ledger.events.lock().unwrap().len();
    for selection in [identity(API), serial(), by(|all| all.all = true), by(|it| it.issuer = "issuing 1".into())] {
        let said = fixture.rotate(selection.clone(), true).await.unwrap();
        assert_eq!(said[1].certificate.as_ref().unwrap().state, "chosen", "{selection:?}");
        let ask = pb::RevokeCertificatesRequest { dry_run: true, ..revocation(selection) };
        let said = fixture.revoke(ask).await.unwrap();
        assert_eq!((said.len(), said[0].chosen, said[0].connected), (1, 1, 1));
    }
    assert_eq!(fixture.ledger.events.lock().unwrap().len(), before, "the history alone");
    assert!(fixture.hands.orders.lock().unwrap().is_empty());
    assert_eq!(fixture.hands.rotations.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_revocation_says_each_step_until_every_stream_has_answered() {
    let mut fixture = fixture(false).await;
    let said = fixture.revoke(revocation(identity(API))).await.unwrap();
    let steps: Vec<&str> = said.iter().map(|one| one.step.as_str()).collect();
    assert_eq!(steps.first_chunk(), Some(&["selected", "recorded", "signed", "pushed"]));
    let (first, last) = (&said[0], said.last().unwrap());
    assert_eq!((first.denied.as_deref(), first.record.clone()), (Some(API), Some(format!("{LOG}#3"))));
    assert_eq!(said[1].first_record, format!("{LOG}#4"));
    assert_eq!((said[2].crls[0].number, said[2].crls[0].state.as_str()), (88, "fresh"));
    assert_eq!((last.step.as_str(), last.streams, last.acked), ("done", 2, 2));
    let order = fixture.hands.orders.lock().unwrap().remove(0);
    assert_eq!(order.reason, Reason::KeyCompromise);
    assert_eq!(order.selection, Selection::Identity(SpiffeId::parse(API).unwrap()));
    assert_eq!(order.template.request_id, fixture.last().request_id, "the act and its records belong together");
    assert_eq!(order.template.change.unwrap().what, "cert.revoke");
}

#[tokio::test]
async fn a_reissue_comes_before_its_revocation_and_denies_nobody() {
    let mut fixture = fixture(false).await;
    let ask = pb::RevokeCertificatesRequest { reissue: true, ..revocation(identity(API)) };
    let said = fixture.revoke(ask).await.unwrap();
    let steps: Vec<&str> = said.iter().map(|one| one.step.as_str()).collect();
    assert_eq!(steps.first_chunk(), Some(&["selected", "reissued", "reissued", "recorded"]));
    assert_eq!(said[0].denied, None);
    assert_eq!(said[2].reissued.as_ref().unwrap().state, "acked");
    let order = fixture.hands.orders.lock().unwrap().remove(0);
    assert_eq!(order.selection, Selection::Serials(vec![SERIAL.to_owned()]));
}

#[tokio::test]
async fn what_stays_unsigned_is_an_error_after_what_is_recorded() {
    let mut fixture = fixture(false).await;
    let ask = pb::RevokeCertificatesRequest { reason: "cACompromise".into(), ..revocation(identity(API)) };
    let mut answer = fixture.admin.revoke_certificates(ask).await.unwrap().into_inner();
    for step in ["selected", "recorded"] {
        assert_eq!(answer.message().await.unwrap().unwrap().step, step);
    }
    assert_eq!(answer.message().await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn what_names_nothing_or_too_much_is_told_and_not_recorded() {
    let mut fixture = fixture(false).await;
    let check = [
        (None, Code::InvalidArgument),
        (by(|two| (two.all, two.serial) = (true, "5e0c".into())), Code::InvalidArgument),
        (by(|it| it.serial = "0123".into()), Code::NotFound),
        (by(|it| it.issuer = "issuing 9".into()), Code::NotFound),
        (by(|it| it.issuer = "root 1".into()), Code::InvalidArgument),
        (by(|it| it.prefix = "spiffe://example.org/*".into()), Code::InvalidArgument),
        (by(|it| it.prefix = "spiffe://example.org/a*b".into()), Code::InvalidArgument),
        (by(|it| it.prefix = "spiffe://other.org/a".into()), Code::InvalidArgument),
        (identity("spiffe://other.org/a"), Code::InvalidArgument),
        (identity("api"), Code::InvalidArgument),
    ];
    for (selection, code) in check {
        let found = fixture.revoke(revocation(selection.clone())).await.unwrap_err();
        assert_eq!(found.code(), code, "{selection:?}: {found:?}");
        let found = fixture.rotate(selection.clone(), false).await.unwrap_err();
        assert_eq!(found.code(), code, "{selection:?}: {found:?}");
    }
    let nothing = identity("spiffe://example.org/ns/none/sa/none");
    assert_eq!(fixture.rotate(nothing, false).await.unwrap_err().code(), Code::FailedPrecondition);
    let denied = by(|it| it.prefix = OLD.into());
    assert_eq!(fixture.revoke(revocation(denied)).await.unwrap_err().code(), Code::AlreadyExists);
    let why = pb::RevokeCertificatesRequest { reason: "angry".into(), ..revocation(identity(API)) };
    assert_eq!(fixture.revoke(why).await.unwrap_err().code(), Code::InvalidArgument);
    let long = pb::RevokeCertificatesRequest { comment: "x".repeat(501), ..revocation(identity(API)) };
    assert_eq!(fixture.revoke(long).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(fixture.ledger.events.lock().unwrap().len(), 3, "the history alone");
}

#[tokio::test]
async fn an_identity_without_certificates_can_be_denied() {
    let mut fixture = fixture(false).await;
    let said = fixture.revoke(revocation(identity("spiffe://example.org/ns/new/sa/new"))).await.unwrap();
    assert_eq!((said[0].chosen, said.last().unwrap().step.as_str()), (0, "done"));
}

#[tokio::test]
async fn without_its_record_nothing_is_done() {
    let mut fixture = fixture(true).await;
    assert_eq!(fixture.rotate(identity(API), false).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(fixture.revoke(revocation(identity(API))).await.unwrap_err().code(), Code::Unavailable);
    assert!(fixture.hands.orders.lock().unwrap().is_empty());
    assert_eq!(fixture.hands.rotations.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn denies_are_listed_and_released_by_their_pattern() {
    let mut fixture = fixture(false).await;
    let denies = fixture.admin.list_denies(pb::ListDeniesRequest {}).await.unwrap().into_inner().denies;
    assert_eq!((denies[0].pattern.as_str(), denies[0].reason.as_str()), (OLD, "keyCompromise"));
    let ask = |pattern: &str| pb::ReleaseIdentityRequest { pattern: pattern.into(), comment: "mended".into() };
    let released = fixture.admin.release_identity(ask(OLD)).await.unwrap().into_inner();
    assert_eq!((released.pattern.as_str(), released.record), (OLD, format!("{LOG}#7")));
    let template = fixture.hands.released.lock().unwrap().remove(0);
    assert_eq!((template.action, template.reason.as_deref()), (Action::IdentityRelease, Some("mended")));
    for (pattern, code) in [("spiffe://example.org/ns/old/", Code::NotFound), ("", Code::InvalidArgument)] {
        assert_eq!(fixture.admin.release_identity(ask(pattern)).await.unwrap_err().code(), code, "{pattern}");
    }
    let crls = fixture.admin.list_crls(pb::ListCrlsRequest {}).await.unwrap().into_inner().crls;
    assert_eq!((crls[0].issuer.as_str(), crls[0].entries), ("issuing 1", 3));
}
