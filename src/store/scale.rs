//! How long questions take with a million certificates: run by hand, prints what it measured.
//!
//! `cargo test --release --lib store::scale -- --ignored --nocapture`; the bound holds for that build.

use std::time::Duration;

use time::OffsetDateTime;
use time::macros::datetime;

use super::embedded::Embedded;
use super::{Activity, CertificateQuery, Entry, Store};
use crate::audit::event::{Action, CertificateFacts, Event, Outcome, Recorder};
use crate::clock::{Clock, rfc3339_seconds};
use crate::entropy::Entropy;

const LOG: &str = "example.org/ledger/ca-2026";
const NOW: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);
const CERTIFICATES: u64 = 1_000_000;
const REVOKED: u64 = 10_000;
const IDENTITIES: u64 = 100_000;
/// Half of them live: issued over two days, each for a day.
const SPREAD_S: u64 = 2 * 24 * 3600;

/// The longest that any of the questions below may take.
const BOUND: Duration = Duration::from_millis(50);

fn issue(recorder: &Recorder, number: u64) -> Event {
    let seconds = i64::try_from(number * SPREAD_S / CERTIFICATES).unwrap();
    let end = NOW - time::Duration::days(1) + time::Duration::seconds(seconds);
    let mut event = recorder.event(Action::CertificateIssue, Outcome::Success, end - time::Duration::days(1));
    event.subject = Some(format!("spiffe://example.org/ns/n{}/sa/s{}", number % 100, number % IDENTITIES));
    event.certificate = Some(CertificateFacts {
        serial: serial(number),
        tbs_sha256: format!("{number:064x}"),
        chain_sha256: "ab".repeat(32),
        issuer_key_id: format!("{:040x}", number % 3),
        not_before: rfc3339_seconds(end - time::Duration::days(1)),
        not_after: rfc3339_seconds(end),
        profile: "workload".into(),
        ..CertificateFacts::default()
    });
    event
}

fn serial(number: u64) -> String {
    format!("{:032x}", u128::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835))
}

fn fill(store: &dyn Store) {
    let recorder = Recorder::new(Entropy::seeded(1));
    for batch in 0..CERTIFICATES / 10_000 {
        let events: Vec<Event> = (batch * 10_000..(batch + 1) * 10_000).map(|n| issue(&recorder, n)).collect();
        apply(store, batch * 10_000, &events);
    }
    let revoke = |number: u64| {
        let mut event = recorder.event(Action::CertificateRevoke, Outcome::Success, NOW);
        // Every fiftieth of those that live.
        event.serial = Some(serial(CERTIFICATES / 2 + number * (CERTIFICATES / 2 / REVOKED)));
        event
    };
    apply(store, CERTIFICATES, &(0..REVOKED).map(revoke).collect::<Vec<_>>());
}

fn apply(store: &dyn Store, first: u64, events: &[Event]) {
    let entries: Vec<Entry<'_>> =
        (first..).zip(events).map(|(index, event)| Entry { log: LOG, index, event }).collect();
    store.apply(&entries).unwrap();
}

#[test]
#[ignore = "fills a million rows"]
fn questions_are_answered_quickly_with_a_million_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Embedded::open(&dir.path().join("index.redb")).unwrap();
    let (clock, now) = (Clock::system(), NOW.unix_timestamp());
    let begin = clock.monotonic();
    fill(&store);
    store.sync().unwrap();
    println!("filled in {:?}", clock.monotonic() - begin);
    let mut slow = Vec::new();
    let mut ask = |what: &str, question: &dyn Fn() -> String| {
        let begin = clock.monotonic();
        let answer = question();
        let took = clock.monotonic() - begin;
        println!("{what:34} {took:>12?}  {answer}");
        if took > BOUND {
            slow.push(what.to_owned());
        }
    };
    let query = || CertificateQuery { limit: 100, ..CertificateQuery::default() };
    let page = |query: &CertificateQuery| {
        let page = store.certificates(query).unwrap();
        format!("{} rows, more: {}", page.certificates.len(), page.next.is_some())
    };
    let live = || CertificateQuery { expires_from: Some(now + 1), revoked: Some(false), ..query() };
    let prefix = |text: &str, query: CertificateQuery| CertificateQuery { identity_prefix: text.into(), ..query };
    ask("total", &|| store.total().unwrap().to_string());
    ask("live", &|| format!("{:?}", store.live(now).unwrap().values().next()));
    ask("live, in the last second", &|| format!("{:?}", store.live(now + 59).unwrap().values().next()));
    ask("activity", &|| store.activity(Activity::Issued, now / 60 - 59..now / 60 + 1).unwrap().to_string());
    ask("page", &|| page(&query()));
    ask("page of 1000", &|| page(&CertificateQuery { limit: 1000, ..query() }));
    ask("page, live", &|| page(&live()));
    ask("page, expired", &|| page(&CertificateQuery { expires_before: Some(now), ..query() }));
    ask("page, revoked", &|| page(&CertificateQuery { revoked: Some(true), ..query() }));
    ask("page, issuer", &|| page(&CertificateQuery { issuer_key_id: Some(format!("{:040x}", 1)), ..live() }));
    ask("page, prefix, live", &|| page(&prefix("spiffe://example.org/ns/n7", live())));
    ask("page, one identity, live", &|| page(&prefix("spiffe://example.org/ns/n7/sa/s99907", live())));
    let rare = CertificateQuery { revoked: Some(true), ..prefix("spiffe://example.org/ns/n1/", query()) };
    ask("page, prefix without a match", &|| page(&rare));
    let none = CertificateQuery { issuer_key_id: Some("ff".into()), revoked: Some(true), ..query() };
    ask("page, issuer without a match", &|| page(&none));
    ask("find by serial", &|| format!("{:?}", store.find(&serial(77))).len().to_string());
    ask("find by beginning", &|| format!("{:?}", store.find(&serial(77)[..9])).len().to_string());
    let short = format!("{}…{}", &serial(77)[..4], &serial(77)[28..]);
    ask("find by the form of tables", &|| format!("{:?}", store.find(&short)).len().to_string());
    ask("denies", &|| store.denies().unwrap().len().to_string());
    ask("revoked, all of ten thousand", &|| store.revoked(now).unwrap().len().to_string());
    assert!(cfg!(debug_assertions) || slow.is_empty(), "longer than {BOUND:?}: {slow:?}");
}
