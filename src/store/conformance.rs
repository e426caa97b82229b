//! What every store must do, as a suite that takes the way to make one.

mod approval;

use super::embedded::{Embedded, Opened};
use super::row::version;
use super::{Activity, CertificateQuery, Entry, Found, REVOKED_KEPT_SECONDS, Store, StoreError};
use crate::audit::event::{
    Action, Actor, AuthorityFacts, CertificateFacts, Change, Coalesced, CrlFacts, Event, Outcome, PolicyFacts,
    Recorder, Source,
};
use crate::clock::rfc3339_seconds;
use crate::entropy::Entropy;
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

const LOG: &str = "example.org/ledger/ca-2026";
const START: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);

fn issue(recorder: &Recorder, number: u64, identity: &str, hours: i64) -> Event {
    let mut event = recorder.event(Action::CertificateIssue, Outcome::Success, START);
    event.subject = Some(format!("spiffe://example.org{identity}"));
    event.certificate = Some(CertificateFacts {
        serial: format!("{number:032x}"),
        tbs_sha256: format!("{number:064x}"),
        chain_sha256: "ab".repeat(32),
        issuer_key_id: "aa".into(),
        not_before: rfc3339_seconds(START),
        not_after: rfc3339_seconds(START + Duration::hours(hours)),
        profile: "workload".into(),
        ..CertificateFacts::default()
    });
    event.policy = Some(PolicyFacts { hash: "77".into(), nearest: vec![], rule: Some("payments".into()) });
    event.source = Some(Source { socket: Some("sds".into()), uid: Some(1000), ..Source::default() });
    event.secret_name = Some("default".into());
    event
}

fn plain(recorder: &Recorder, action: Action, change: impl FnOnce(&mut Event)) -> Event {
    let mut event = recorder.event(action, Outcome::Success, START);
    change(&mut event);
    event
}

/// A small history: three certificates, one signed and one whose signature failed, refusals, two authorities.
fn history() -> Vec<Event> {
    let recorder = Recorder::new(Entropy::seeded(3));
    let authority = |name: &str, state: &str, certificate: Option<&str>| AuthorityFacts {
        certificate: certificate.map(str::to_owned),
        key_id: format!("{name} key"),
        level: "issuing".into(),
        name: name.into(),
        state: state.into(),
        upstream: None,
    };
    vec![
        plain(&recorder, Action::CaPrepare, |e| e.authority = Some(authority("b", "prepared", Some("AA==")))),
        plain(&recorder, Action::CaActivate, |e| e.authority = Some(authority("b", "active", None))),
        plain(&recorder, Action::CaPrepare, |e| e.authority = Some(authority("a", "prepared", Some("BB==")))),
        issue(&recorder, 1, "/ns/pay/sa/api", 1),
        issue(&recorder, 2, "/ns/pay/sa/web", 24),
        issue(&recorder, 0x1f, "/ns/pay/sa/web", 12),
        plain(&recorder, Action::CertificateSigned, |e| {
            e.refers_to = Some(format!("{LOG}#3"));
            e.certificate = Some(CertificateFacts { der_sha256: Some("dd".into()), ..CertificateFacts::default() });
        }),
        plain(&recorder, Action::CertificateFail, |e| e.refers_to = Some(format!("{LOG}#4"))),
        plain(&recorder, Action::CertificateDeny, |_| {}),
        plain(&recorder, Action::CertificateDeny, |e| {
            e.coalesced = Some(Coalesced { count: 40, first: e.time.clone(), last: e.time.clone() });
        }),
        configured(&recorder, "aa"),
        configured(&recorder, "bb"),
    ]
}

fn configured(recorder: &Recorder, after: &str) -> Event {
    plain(recorder, Action::ConfigChange, |e| {
        e.change = Some(Change { what: "policy".into(), after: Some(after.into()), ..Change::default() });
    })
}

fn entries(events: &[Event]) -> Vec<Entry<'_>> {
    (0..).zip(events).map(|(index, event)| Entry { log: LOG, index, event }).collect()
}

fn serials(store: &dyn Store, query: CertificateQuery) -> Vec<String> {
    let page = store.certificates(&CertificateQuery { limit: 10, ..query }).unwrap();
    page.certificates.iter().map(|row| row.serial.trim_start_matches('0').to_owned()).collect()
}

/// What an operator does to the certificates of [`history`], whose first record has index 0 here too.
fn hands(recorder: &Recorder) -> Vec<Event> {
    let revoke = |number: u64, reason: &str| {
        plain(recorder, Action::CertificateRevoke, |e| {
            e.serial = Some(format!("{number:032x}"));
            e.reason = Some(reason.to_owned());
        })
    };
    let subject = |action, pattern: &str, reason: Option<&str>| {
        plain(recorder, action, |e| {
            e.subject = Some(pattern.to_owned());
            e.reason = reason.map(str::to_owned);
        })
    };
    let crl = |number| {
        let facts = CrlFacts { number, entries: number, issuer_key_id: "aa".into(), ..CrlFacts::default() };
        plain(recorder, Action::CrlPublish, |e| e.crl = Some(facts))
    };
    vec![
        subject(Action::IdentityDeny, "spiffe://example.org/b", Some("keyCompromise")),
        revoke(0x1f, "keyCompromise"),
        revoke(0x1f, "superseded"),
        revoke(0x77, "superseded"),
        crl(7),
        crl(8),
        crl(7),
        subject(Action::LedgerSnapshot, "spiffe://example.org/b", Some("superseded")),
        subject(Action::LedgerSnapshot, "spiffe://example.org/ns/a/*", Some("superseded")),
        subject(Action::IdentityDeny, "spiffe://example.org/ns/*", None),
        subject(Action::IdentityRelease, "spiffe://example.org/ns/*", None),
        subject(Action::IdentityRelease, "spiffe://example.org/", None),
    ]
}

fn revocation(store: &dyn Store) {
    let recorder = Recorder::new(Entropy::seeded(4));
    let mut renewed = issue(&recorder, 0x2a, "/ns/pay/sa/tls", 24);
    let mut renewal = Actor { attested_by: "client_certificate".into(), ..Actor::default() };
    renewal.attested_at = Some("2026-01-01T00:00:00Z".into());
    renewal.id = Some("spiffe://example.org/ns/pay/sa/tls".into());
    renewed.actor = Some(renewal);
    renewed.certificate.as_mut().unwrap().issuer_key_id = "bb".into();
    let events = [history(), hands(&recorder), vec![renewed]].concat();
    store.apply(&entries(&events)).unwrap();
    let (at, end) = (START.unix_timestamp(), (START + Duration::hours(12)).unix_timestamp());
    let id = |index: u64| format!("{LOG}#{index}");

    let [revoked] = store.revoked(at).unwrap().try_into().unwrap();
    assert_eq!((revoked.serial.clone(), revoked.issuer_key_id.as_str()), (format!("{:032x}", 0x1f), "aa"));
    assert_eq!((revoked.expires, revoked.record, revoked.reason.as_str()), (end, id(13), "keyCompromise"));
    assert_eq!(store.revoked(end + REVOKED_KEPT_SECONDS).unwrap().len(), 1);
    assert_eq!(store.revoked(end + REVOKED_KEPT_SECONDS + 1).unwrap(), []);
    let Found::One(row) = store.find(&revoked.serial).unwrap() else { panic!("it is still there") };
    let revocation = row.revoked.unwrap();
    assert_eq!(
        (revocation.at, revocation.record, revocation.reason.as_str()),
        (revoked.revoked_at, id(13), "keyCompromise")
    );
    assert_eq!(row.attested_at, row.issued_at);
    let Found::One(row) = store.find(&format!("{:032x}", 0x2a)).unwrap() else { panic!("it is there") };
    assert_eq!(row.attested_at, "2026-01-01T00:00:00Z");
    assert_eq!(row.account.as_deref(), Some("tls:sds:spiffe://example.org/ns/pay/sa/tls"));

    let denies: Vec<_> = store.denies().unwrap().into_iter().map(|d| (d.pattern, d.reason, d.record)).collect();
    let deny =
        |pattern: &str, reason: &str, index| (format!("spiffe://example.org/{pattern}"), reason.to_owned(), id(index));
    assert_eq!(denies, [deny("b", "keyCompromise", 12), deny("ns/a/*", "superseded", 20)]);
    let crl = store.crl("aa").unwrap().unwrap();
    assert_eq!((crl.number, crl.entries, crl.record), (8, 8, id(17)));
    assert_eq!(store.crl("bb").unwrap(), None);

    let counts = store.live(at).unwrap();
    assert_eq!((counts["aa"].live, counts["aa"].revoked, counts["bb"].live), (2, 1, 1));
    assert_eq!(store.live(end - 30).unwrap()["aa"].revoked, 1);
    assert_eq!(store.live(end).unwrap()["aa"].revoked, 0, "exact to the second");
    assert_eq!(store.activity(Activity::Revoked, at / 60..at / 60 + 1).unwrap(), 3);
    revoked_lists(store, end);
    assert!(!revocation.with_identity, "no deny covered it");
    let mut deny = plain(&recorder, Action::IdentityDeny, |e| e.reason = Some("superseded".into()));
    deny.subject = Some("spiffe://example.org/ns/pay/sa/a*".into());
    let revoke = plain(&recorder, Action::CertificateRevoke, |e| e.serial = Some(format!("{:032x}", 1)));
    store.apply(&entries(&[events, vec![deny, revoke]].concat())).unwrap();
    let Found::One(row) = store.find(&format!("{:032x}", 1)).unwrap() else { panic!("it is there") };
    assert!(row.revoked.unwrap().with_identity);
}

fn revoked_lists(store: &dyn Store, end: i64) {
    let prefix = || "spiffe://example.org/ns/pay/".to_owned();
    let of = |revoked, issuer: Option<&str>, identity_prefix| CertificateQuery {
        revoked,
        issuer_key_id: issuer.map(str::to_owned),
        identity_prefix,
        ..CertificateQuery::default()
    };
    for identity_prefix in [String::new(), prefix()] {
        let list = |revoked, issuer| serials(store, of(revoked, issuer, identity_prefix.clone()));
        assert_eq!(list(Some(true), None), ["1f"]);
        assert_eq!(list(Some(true), Some("aa")), ["1f"]);
        assert!(list(Some(true), Some("bb")).is_empty());
        assert_eq!(list(None, Some("bb")), ["2a"]);
        assert_eq!(list(Some(false), Some("aa")).len(), 2);
        assert_eq!(list(Some(false), None).len(), 3);
        assert_eq!(list(None, Some("aa")).len(), 3);
    }
    let late = CertificateQuery { expires_from: Some(end + 1), ..of(Some(true), None, String::new()) };
    assert!(serials(store, late).is_empty());
    let late = CertificateQuery { expires_from: Some(end + 1), ..of(None, None, prefix()) };
    assert_eq!(serials(store, late), ["2a", "2"], "goes on after names whose rest has ended");
    for query in [of(Some(true), None, String::new()), of(None, Some("aa"), String::new())] {
        let (mut seen, mut after) = (0, None);
        loop {
            let page = store.certificates(&CertificateQuery { limit: 1, after, ..query.clone() }).unwrap();
            seen += page.certificates.len();
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, if query.revoked.is_some() { 1 } else { 3 });
        let wrong = CertificateQuery { after: Some("?".into()), ..query };
        assert!(matches!(store.certificates(&wrong), Err(StoreError::PageToken)));
    }
}

/// Everything one can ask, so that two stores can be compared.
fn picture(store: &dyn Store) -> String {
    let all = store.certificates(&CertificateQuery { limit: 10, ..CertificateQuery::default() }).unwrap();
    let now = START.unix_timestamp();
    let minute = now / 60;
    format!(
        "{:?}\n{all:?}\n{:?}\n{:?}\n{:?}\n{:?}\n{:?}\n{:?}",
        store.cursor().unwrap(),
        store.revoked(now).unwrap(),
        store.denies().unwrap(),
        store.crl("aa").unwrap(),
        store.authorities().unwrap(),
        store.live(now).unwrap(),
        store.activity(Activity::Refused, minute..minute + 1).unwrap()
    )
}

/// The suite.
pub(super) fn check(make: impl Fn() -> Box<dyn Store>) {
    let events = history();
    let whole = make();
    whole.apply(&entries(&events)).unwrap();
    answers(&*whole);
    lists(&*whole);
    refuses_gaps(&*make(), &events);
    is_idempotent(&*make(), &events, &picture(&*whole));
    let operated = make();
    revocation(&*operated);
    approval::keeps_requests_and_what_was_opened(&*make());
    let more = [history(), hands(&Recorder::new(Entropy::seeded(4)))].concat();
    whole.apply(&entries(&more)).unwrap();
    is_idempotent(&*make(), &more, &picture(&*whole));
    whole.reset().unwrap();
    assert!(whole.cursor().unwrap().is_empty() && whole.denies().unwrap().is_empty());
    assert!(whole.revoked(0).unwrap().is_empty() && whole.crl("aa").unwrap().is_none());
    assert!(whole.approvals().unwrap().is_empty() && whole.breakglass().unwrap().is_empty());
    whole.apply(&entries(&events)).unwrap();
    answers(&*whole);
}

fn answers(store: &dyn Store) {
    let serial = format!("{:032x}", 1);
    let Found::One(row) = store.find(&serial).unwrap() else { panic!("an exact serial finds its certificate") };
    assert_eq!((row.log.as_str(), row.index, row.account.as_deref()), (LOG, 3, Some("unix:sds:uid=1000")));
    assert_eq!((row.der_sha256.as_deref(), row.failed, row.rule.as_str()), (Some("dd"), false, "payments"));
    assert!(matches!(store.find("FF").unwrap(), Found::Nothing));
    let Found::Several(several) = store.find("0000").unwrap() else { panic!("a common beginning names several") };
    assert_eq!(several.len(), 3);
    let Found::One(row) = store.find(&format!("{:031x}", 1)).unwrap() else { panic!("a unique beginning finds one") };
    assert_eq!(row.serial, format!("{:032x}", 0x1f));
    assert!(matches!(store.find("0000…001f").unwrap(), Found::One(_)), "the form of tables names one too");
    assert!(matches!(store.find("0000…ee1f").unwrap(), Found::Nothing));
    let wanted = version(&format!("{:064x}", 2), &"ab".repeat(32)).unwrap();
    let row = store.by_version(&wanted).unwrap().unwrap();
    assert_eq!((row.serial, row.failed), (format!("{:032x}", 2), true));
    assert!(store.by_version("00").unwrap().is_none());
    let authorities = store.authorities().unwrap();
    let shown: Vec<_> = authorities.iter().map(|a| (a.name.as_str(), a.state.as_str(), a.index)).collect();
    assert_eq!(shown, [("b", "active", 1), ("a", "prepared", 2)]);
    assert_eq!(authorities[0].certificate.as_deref(), Some("AA=="), "a later record does not lose the certificate");
    let (now, minute) = (START.unix_timestamp(), START.unix_timestamp() / 60);
    assert_eq!(store.live(now).unwrap()["aa"].live, 3);
    assert_eq!(store.live(now + 3600).unwrap()["aa"].live, 2);
    assert_eq!(store.live(now + 3599).unwrap()["aa"].live, 3, "exact to the second");
    assert_eq!(store.live(now).unwrap()["aa"].last_minute, Some(minute + 24 * 60));
    assert_eq!(store.activity(Activity::Refused, minute - 59..minute + 1).unwrap(), 41);
    assert_eq!(store.activity(Activity::Issued, minute + 1..minute + 60).unwrap(), 0);
    assert_eq!(store.total().unwrap(), 3);
    assert_eq!(store.cursor().unwrap()[LOG].next, 12);
    assert_eq!(store.configured("policy").unwrap().as_deref(), Some("bb"));
    assert_eq!(store.configured("configuration").unwrap(), None);
}

fn lists(store: &dyn Store) {
    let later = START.unix_timestamp() + 2 * 3600;
    let query = CertificateQuery::default;
    assert_eq!(serials(store, query()), ["2", "1f", "1"]);
    assert_eq!(serials(store, CertificateQuery { expires_from: Some(later), ..query() }), ["2", "1f"]);
    assert_eq!(serials(store, CertificateQuery { expires_before: Some(later), ..query() }), ["1"]);
    let prefix = |text: &str| CertificateQuery { identity_prefix: text.to_owned(), ..query() };
    assert_eq!(serials(store, prefix("spiffe://example.org/ns/pay")), ["1", "2", "1f"]);
    assert_eq!(serials(store, prefix("spiffe://example.org/ns/pay/sa/w")), ["2", "1f"]);
    assert!(serials(store, prefix("spiffe://example.org/ns/q")).is_empty());
    for identity_prefix in ["", "spiffe://"] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let ask = CertificateQuery { identity_prefix: identity_prefix.into(), limit: 1, after, ..query() };
            let page = store.certificates(&ask).unwrap();
            seen.extend(page.certificates.into_iter().map(|row| row.serial));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen.len(), 3, "pages of one cover {identity_prefix:?} without repeating");
        let wrong = CertificateQuery { identity_prefix: identity_prefix.into(), after: Some("?".into()), ..query() };
        assert!(matches!(store.certificates(&wrong), Err(StoreError::PageToken)));
    }
}

fn refuses_gaps(store: &dyn Store, events: &[Event]) {
    let all = entries(events);
    let error = store.apply(&[all[0], all[2]]).unwrap_err();
    assert!(matches!(error, StoreError::Gap { expected: 1, found: 2, .. }), "{error}");
    assert!(store.cursor().unwrap().is_empty(), "a refused batch changes nothing");
}

fn is_idempotent(store: &dyn Store, events: &[Event], once: &str) {
    let all = entries(events);
    for at in 0..all.len() {
        store.apply(&all[at.saturating_sub(2)..=at]).unwrap();
    }
    assert_eq!(picture(store), once, "overlapping batches end as one batch does");
}

#[test]
fn embedded_keeps_the_contract() {
    check(|| Box::new(Embedded::in_memory().unwrap()));
}

#[test]
fn a_file_survives_is_private_and_is_replaced_when_damaged() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.redb");
    let (store, opened) = Embedded::open(&path).unwrap();
    assert_eq!(opened, Opened::Fresh);
    assert!(matches!(Embedded::open(&path), Err(StoreError::InUse { .. })));
    let events = history();
    store.apply(&entries(&events)).unwrap();
    store.sync().unwrap();
    let before = picture(&store);
    drop(store);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let (store, opened) = Embedded::open(&path).unwrap();
    assert_eq!((opened, picture(&store)), (Opened::Kept, before));
    drop(store);
    std::fs::write(&path, b"not a database").unwrap();
    let (store, opened) = Embedded::open(&path).unwrap();
    assert!(matches!(opened, Opened::Replaced(_)), "{opened:?}");
    assert!(store.cursor().unwrap().is_empty());
}
