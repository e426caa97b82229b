//! The feed against a fake source, with time in hand.

use std::time::Duration;

use futures::FutureExt;

use super::source::SourceError;
use super::testing::{LIFE, another, bundle, feed};
use super::{End, Feed, FeedLimits, Session, Update};
use crate::caller::testing::unix;

fn session(feed: &Feed) -> Session {
    feed.session(unix(1000, 1000, &[]))
}

/// Lets the session run until it waits; what it had to send, if anything.
async fn settle(session: &mut Session) -> Option<Result<String, End>> {
    for _ in 0..20 {
        if let Some(outcome) = session.next().now_or_never() {
            return Some(outcome.map(|Update { name, payload, .. }| format!("{name}={}", payload.version)));
        }
        tokio::task::yield_now().await;
    }
    None
}

async fn expect(session: &mut Session, sent: &str) {
    assert_eq!(settle(session).await, Some(Ok(sent.to_owned())));
}

#[tokio::test]
async fn a_certificate_is_issued_and_renewed_unasked() {
    let (feed, fake, hands) = feed(FeedLimits::default());
    let mut session = session(&feed);
    session.subscribe("default", None).await.unwrap();
    expect(&mut session, "default=v1").await;
    session.acked("default", "v1");
    assert_eq!(settle(&mut session).await, None);
    hands.advance(LIFE / 2 - Duration::from_secs(1));
    assert_eq!(settle(&mut session).await, None);
    hands.advance(Duration::from_secs(1));
    expect(&mut session, "default=v2").await;
    assert_eq!(fake.log(), ["issue default 01", "issue default 02 after 01 (scheduled)"]);
    let live = &feed.live()[0];
    assert_eq!((live.serial.as_deref(), live.acked_version.as_deref(), live.acked()), (Some("02"), Some("v1"), false));
    drop(session);
    assert_eq!(feed.counts().subscriptions, 0);
}

#[tokio::test]
async fn a_failed_renewal_keeps_the_old_one_and_is_tried_again_within_bounds() {
    let (feed, fake, hands) = feed(FeedLimits::default());
    let mut session = session(&feed);
    session.subscribe("default", None).await.unwrap();
    expect(&mut session, "default=v1").await;
    fake.refuse(Some(SourceError::Unavailable { retry_after: None }));
    hands.advance(LIFE / 2);
    for _ in 0..12 {
        assert_eq!(settle(&mut session).await, None);
        hands.advance(Duration::from_secs(60));
    }
    assert_eq!(feed.live()[0].serial.as_deref(), Some("01"));
    let failures = feed.counts().renewal_failures;
    assert!((12..=40).contains(&failures), "{failures}");
    fake.refuse(None);
    hands.advance(Duration::from_secs(60));
    expect(&mut session, "default=v2").await;
}

#[tokio::test]
async fn a_name_that_is_not_granted_waits_for_policy() {
    let (feed, fake, _hands) = feed(FeedLimits::default());
    let mut session = session(&feed);
    fake.refuse(Some(SourceError::NotGranted));
    session.subscribe("spiffe://example.org/b", None).await.unwrap();
    assert_eq!(settle(&mut session).await, None);
    fake.policy_changes();
    assert_eq!(settle(&mut session).await, None);
    fake.refuse(None);
    fake.policy_changes();
    expect(&mut session, "spiffe://example.org/b=v1").await;
}

#[tokio::test]
async fn a_caller_without_any_rule_is_sent_away_whatever_it_asks() {
    let (feed, fake, hands) = feed(FeedLimits::default());
    let mut holder = session(&feed);
    holder.subscribe("default", None).await.unwrap();
    expect(&mut holder, "default=v1").await;
    fake.refuse(Some(SourceError::NoRule));
    for name in ["default", "ROOTCA", "ALL", "spiffe://example.org/b", "example.org", "nonsense?"] {
        let mut session = session(&feed);
        session.subscribe(name, None).await.unwrap();
        assert_eq!(settle(&mut session).await, Some(Err(End::Refused(SourceError::NoRule))), "{name}");
    }
    hands.advance(LIFE / 2);
    assert_eq!(settle(&mut holder).await, Some(Err(End::Refused(SourceError::NoRule))));
}

#[tokio::test]
async fn a_bundle_is_sent_once_for_each_content() {
    let (feed, _fake, _hands) = feed(FeedLimits::default());
    let mut session = session(&feed);
    session.subscribe("ROOTCA", None).await.unwrap();
    expect(&mut session, "ROOTCA=bundle-roots").await;
    feed.publish_bundle(bundle("roots"));
    assert_eq!(settle(&mut session).await, None);
    feed.publish_bundle(bundle("older"));
    feed.publish_bundle(bundle("newer"));
    expect(&mut session, "ROOTCA=bundle-newer").await;
    let mut second = feed.session(unix(1000, 1000, &[]));
    for (name, version) in [("ROOTCA", "bundle-newer"), ("spiffe://example.org", "bundle-newer")] {
        second.subscribe(name, Some(version)).await.unwrap();
    }
    assert_eq!(settle(&mut second).await, None);
    assert!(feed.live().iter().skip(1).all(super::LiveProxy::acked));
    second.subscribe("ALL", None).await.unwrap();
    assert!(settle(&mut second).await.unwrap().unwrap().starts_with("ALL="));
}

#[tokio::test]
async fn an_unknown_name_is_recorded_once_and_never_answered() {
    let (feed, fake, _hands) = feed(FeedLimits::default());
    let mut session = session(&feed);
    session.subscribe("nonsense?", None).await.unwrap();
    session.subscribe("other.org", None).await.unwrap();
    assert_eq!(settle(&mut session).await, None);
    fake.policy_changes();
    assert_eq!(settle(&mut session).await, None);
    assert_eq!(fake.log(), ["refused nonsense? UnknownName"]);
}

#[tokio::test]
async fn after_our_restart_a_named_version_is_kept_and_renewed_by_its_age() {
    let (before, fake, hands) = feed(FeedLimits::default());
    let mut old = session(&before);
    old.subscribe("default", None).await.unwrap();
    expect(&mut old, "default=v1").await;
    drop((old, before));

    let feed = another(&fake, FeedLimits::default());
    let mut session = session(&feed);
    session.subscribe("default", Some("v1")).await.unwrap();
    assert_eq!(settle(&mut session).await, None);
    assert_eq!((feed.counts().kept, feed.live()[0].acked()), (1, true));
    hands.advance(LIFE / 2);
    expect(&mut session, "default=v2").await;

    let mut stranger = feed.session(unix(1000, 1000, &[]));
    stranger.subscribe("default", Some("unheard-of")).await.unwrap();
    expect(&mut stranger, "default=v3").await;
    let kept = ["issue default 01", "held default v1 true", "issue default 02 after 01 (scheduled)"];
    let new = ["held default unheard-of false", "issue default 03"];
    assert_eq!(fake.log(), [kept.as_slice(), new.as_slice()].concat());
}

#[tokio::test]
async fn what_fell_due_while_we_were_away_is_renewed_soon_but_not_at_once() {
    let (before, fake, hands) = feed(FeedLimits::default());
    let mut old = session(&before);
    old.subscribe("default", None).await.unwrap();
    expect(&mut old, "default=v1").await;
    drop((old, before));
    hands.advance(LIFE * 3 / 4);
    let feed = another(&fake, FeedLimits::default());
    let mut session = session(&feed);
    session.subscribe("default", Some("v1")).await.unwrap();
    assert_eq!(settle(&mut session).await, None);
    hands.advance(FeedLimits::default().overdue_spread);
    expect(&mut session, "default=v2").await;
}

#[tokio::test]
async fn a_connection_that_names_a_held_version_takes_it_over_and_no_key_is_shared() {
    let (feed, _fake, _hands) = feed(FeedLimits::default());
    let (mut first, mut second) = (session(&feed), session(&feed));
    first.subscribe("default", None).await.unwrap();
    expect(&mut first, "default=v1").await;
    second.subscribe("default", None).await.unwrap();
    expect(&mut second, "default=v2").await;
    assert_eq!(settle(&mut first).await, None);

    let mut third = session(&feed);
    third.subscribe("default", Some("v1")).await.unwrap();
    let mut fourth = session(&feed);
    fourth.subscribe("default", Some("v1")).await.unwrap();
    assert_eq!(settle(&mut first).await, Some(Err(End::TakenOver)));
    assert_eq!(settle(&mut third).await, Some(Err(End::TakenOver)));
    assert_eq!(settle(&mut fourth).await, None);
    let mut foreign = feed.session(unix(1001, 1001, &[]));
    foreign.subscribe("default", Some("v2")).await.unwrap();
    assert_eq!(settle(&mut second).await, None);
}

#[tokio::test]
async fn one_caller_cannot_take_all_and_a_takeover_needs_no_room() {
    let (feed, fake, _hands) = feed(FeedLimits { max_certificates_per_caller: 2, ..FeedLimits::default() });
    let (mut first, mut second) = (session(&feed), session(&feed));
    first.subscribe("default", None).await.unwrap();
    first.subscribe("spiffe://example.org/b", None).await.unwrap();
    first.subscribe("ROOTCA", None).await.unwrap();
    for _ in 0..3 {
        settle(&mut first).await.unwrap().unwrap();
    }
    assert_eq!(second.subscribe("default", None).await, Err(End::TooManyCertificates { limit: 2 }));
    assert_eq!(fake.log().last().unwrap(), "refused default TooManyCertificates { limit: 2 }");
    second.subscribe("ROOTCA", None).await.unwrap();
    second.subscribe("default", Some("v1")).await.unwrap();
    first.retain(|_| false);
    assert_eq!(settle(&mut first).await, Some(Err(End::TakenOver)));
    drop(first);
    assert_eq!((feed.counts().certificates, feed.counts().subscriptions), (1, 2));
}

#[tokio::test]
async fn a_refused_push_is_recorded_and_not_repeated_until_the_next_renewal() {
    let (feed, fake, hands) = feed(FeedLimits::default());
    let mut session = session(&feed);
    session.subscribe("default", None).await.unwrap();
    expect(&mut session, "default=v1").await;
    session.nacked("default", "v1", "key values mismatch").await;
    assert_eq!(feed.live()[0].nack.as_deref(), Some("key values mismatch"));
    assert_eq!(fake.log().last().unwrap(), "nack default v1 \"key values mismatch\"");
    assert_eq!(settle(&mut session).await, None);
    hands.advance(LIFE / 2);
    expect(&mut session, "default=v2").await;
    assert_eq!(feed.live()[0].nack, None);
}
