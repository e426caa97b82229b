//! What every store must do, as a suite that takes the way to make one.

use super::embedded::{Embedded, Opened};
use super::row::version;
use super::{Activity, CertificateQuery, Entry, Found, Store, StoreError};
use crate::audit::event::{
    Action, AuthorityFacts, CertificateFacts, Change, Coalesced, Event, Outcome, PolicyFacts, Recorder, Source,
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

/// Everything one can ask, so that two stores can be compared.
fn picture(store: &dyn Store) -> String {
    let all = store.certificates(&CertificateQuery { limit: 10, ..CertificateQuery::default() }).unwrap();
    let now = START.unix_timestamp();
    let minute = now / 60;
    format!(
        "{:?}\n{all:?}\n{:?}\n{:?}\n{:?}",
        store.cursor().unwrap(),
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
    whole.reset().unwrap();
    assert!(whole.cursor().unwrap().is_empty());
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
