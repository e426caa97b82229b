//! Forced rotation, revoked holders and denied identities, against a fake source with time in hand.

use futures::FutureExt;
use tokio::task::unconstrained;

use super::{Delivery, Outcome, Rotated, Rotation};
use crate::ca::standing::Denied;
use crate::caller::testing::unix;
use crate::feed::source::{SecretSource, SourceError};
use crate::feed::testing::{LIFE, another, bundle, feed};
use crate::feed::{Feed, FeedLimits, Session, Update};

const ID: &str = "spiffe://example.org/default";

fn session(feed: &Feed) -> Session {
    feed.session(unix(1000, 1000, &[]))
}

async fn settle(session: &mut Session) -> Option<String> {
    for _ in 0..20 {
        if let Some(outcome) = session.next().now_or_never() {
            let Update { name, payload, .. } = outcome.unwrap();
            return Some(format!("{name}={}", payload.version));
        }
        tokio::task::yield_now().await;
    }
    None
}

/// A session that holds and acknowledged `version` of `default`.
async fn holder(feed: &Feed, version: &str) -> Session {
    let mut session = session(feed);
    session.subscribe("default", None).await.unwrap();
    assert_eq!(settle(&mut session).await.unwrap(), format!("default={version}"));
    session.acked("default", version);
    session
}

async fn told(rotation: &mut Rotation) -> Vec<(usize, Option<String>, Outcome)> {
    let mut told = Vec::new();
    for _ in 0..20 {
        while let Ok(Rotated { index, new_serial, outcome }) = rotation.steps.try_recv() {
            told.push((index, new_serial, outcome));
        }
        tokio::task::yield_now().await;
    }
    told
}

fn serial(serial: &str) -> Option<String> {
    Some(serial.to_owned())
}

#[tokio::test]
async fn a_rotation_issues_at_once_and_follows_each_to_its_answer() {
    let (feed, fake, _hands) = feed(FeedLimits::default());
    let (mut first, mut second) = (holder(&feed, "v1").await, holder(&feed, "v2").await);
    first.subscribe("ROOTCA", None).await.unwrap();
    settle(&mut first).await.unwrap();
    let mut rotation = feed.rotate(|_| true);
    assert_eq!(rotation.chosen.iter().map(|proxy| proxy.serial.clone().unwrap()).collect::<Vec<_>>(), ["01", "02"]);
    assert_eq!(told(&mut rotation).await, []);
    assert_eq!(settle(&mut first).await.unwrap(), "default=v3");
    assert_eq!(settle(&mut second).await.unwrap(), "default=v4");
    let pushed = [(0, serial("03"), Outcome::Pushed), (1, serial("04"), Outcome::Pushed)];
    assert_eq!(told(&mut rotation).await, pushed);
    first.acked("default", "v3");
    second.nacked("default", "v4", "no").await;
    let answers = [(0, serial("03"), Outcome::Acked), (1, serial("04"), Outcome::Nacked("no".into()))];
    assert_eq!(told(&mut rotation).await, answers);
    assert!(rotation.steps.recv().await.is_none(), "ends with the last of them");
    assert_eq!(fake.log()[2..4], ["issue default 03 after 01 (forced)", "issue default 04 after 02 (forced)"]);
}

#[tokio::test]
async fn what_cannot_be_rotated_says_why_and_keeps_what_it_has() {
    let (feed, fake, hands) = feed(FeedLimits::default());
    let mut session = holder(&feed, "v1").await;
    for (why, failed) in [(SourceError::NoRule, false), (SourceError::Unavailable { retry_after: None }, true)] {
        fake.refuse(Some(why.clone()));
        let mut rotation = feed.rotate(|proxy| proxy.serial.as_deref() == Some("01"));
        tokio::task::yield_now().await;
        assert_eq!(settle(&mut session).await, None);
        let outcome = if failed { Outcome::Failed(why.to_string()) } else { Outcome::Refused(why.to_string()) };
        assert_eq!(told(&mut rotation).await, [(0, None, outcome)]);
    }
    assert_eq!(feed.live()[0].serial.as_deref(), Some("01"));
    fake.refuse(None);
    assert_eq!(settle(&mut session).await, None, "its own time comes");
    hands.advance(LIFE / 2);
    assert_eq!(settle(&mut session).await.unwrap(), "default=v2");
    assert_eq!(fake.log().last().unwrap(), "issue default 02 after 01 (scheduled)");
}

#[tokio::test]
async fn who_is_gone_or_silent_is_reported_as_gone() {
    let (feed, _fake, hands) = feed(FeedLimits::default());
    let (mut silent, leaving) = (holder(&feed, "v1").await, holder(&feed, "v2").await);
    let mut rotation = feed.rotate(|_| true);
    assert_eq!(told(&mut rotation).await, []);
    drop(leaving);
    assert_eq!(told(&mut rotation).await, [(1, None, Outcome::Gone)]);
    assert_eq!(settle(&mut silent).await.unwrap(), "default=v3");
    assert_eq!(told(&mut rotation).await, [(0, serial("03"), Outcome::Pushed)]);
    hands.advance(FeedLimits::default().forced_rotation_timeout);
    assert_eq!(told(&mut rotation).await, [(0, serial("03"), Outcome::Gone)]);
    let stopped = feed.rotate(|_| true);
    drop(stopped.steps);
    tokio::task::yield_now().await;
    assert_eq!(settle(&mut silent).await, None, "nobody waits for it any more");
}

#[tokio::test]
async fn ten_thousand_are_rotated_a_few_at_a_time_and_new_requests_do_not_wait_for_them() {
    const PROXIES: usize = 10_000;
    let limits =
        FeedLimits { max_certificates_per_caller: 20_000, issue_burst_per_caller: 20_000, ..FeedLimits::default() };
    let at_once = limits.max_forced_rotations_at_once;
    let (feed, fake, _hands) = feed(limits);
    fake.without_keys();
    let mut sessions = Vec::new();
    for number in 1..=PROXIES {
        let mut session = session(&feed);
        session.subscribe("default", None).await.unwrap();
        assert!(unconstrained(session.next()).now_or_never().is_some());
        session.acked("default", &format!("v{number}"));
        sessions.push(session);
    }
    fake.log();
    let mut rotation = feed.rotate(|_| true);
    let mut issued = 0;
    let (mut acked, mut rounds) = (0, 0);
    while acked < PROXIES {
        tokio::task::yield_now().await;
        // Orders are given in the order of their places; those further on have nothing to say yet.
        for session in sessions.iter_mut().skip(acked).take(4 * at_once) {
            if let Some(Ok(update)) = unconstrained(session.next()).now_or_never() {
                session.acked("default", &update.payload.version);
            }
        }
        let now = fake.log().len();
        assert!(now <= at_once, "{now} issued in one round");
        issued += now;
        rounds += 1;
        if rounds == 10 {
            let mut stranger = session(&feed);
            stranger.subscribe("spiffe://example.org/new", None).await.unwrap();
            assert!(settle(&mut stranger).await.is_some(), "served in the midst of it");
            assert_eq!(fake.log().iter().filter(|line| line.contains("/new")).count(), 1);
        }
        while let Ok(step) = rotation.steps.try_recv() {
            acked += usize::from(step.outcome == Outcome::Acked);
        }
    }
    assert_eq!(issued, PROXIES, "each exactly once");
}

#[tokio::test]
async fn a_revoked_serial_cuts_its_holder_off_also_after_reconnects_and_restarts() {
    let (feed, fake, hands) = feed(FeedLimits::default());
    let (mut holding, mut other) = (holder(&feed, "v1").await, feed.session(unix(1001, 1001, &[])));
    other.subscribe("default", None).await.unwrap();
    settle(&mut other).await.unwrap();
    let end = feed.live()[0].not_after.unwrap();
    fake.standing().revoke([("01".to_owned(), end)]);
    assert_eq!(settle(&mut holding).await, None);
    assert_eq!(feed.live()[0].serial, None);
    hands.advance(LIFE / 2);
    assert_eq!(settle(&mut holding).await, None, "no renewal either");
    feed.publish_bundle(bundle("newer"));
    holding.subscribe("ROOTCA", None).await.unwrap();
    assert_eq!(settle(&mut holding).await.unwrap(), "ROOTCA=bundle-newer");
    assert_eq!(settle(&mut other).await.unwrap(), "default=v3", "others go on");
    drop((holding, other));

    let mut again = session(&feed);
    again.subscribe("default", None).await.unwrap();
    assert_eq!(settle(&mut again).await, None);
    fake.standing().unrevoke(["01"]);
    assert_eq!(settle(&mut again).await.unwrap(), "default=v4", "a mark that is taken back");
    fake.standing().revoke([("01".to_owned(), end)]);
    assert_eq!(settle(&mut again).await, None, "it holds another one");
    drop((again, feed));

    let feed = another(&fake, FeedLimits::default());
    let mut restarted = session(&feed);
    restarted.subscribe("default", Some("v1")).await.unwrap();
    assert_eq!(settle(&mut restarted).await, None);
    hands.advance(LIFE / 2);
    assert_eq!(settle(&mut restarted).await.unwrap(), "default=v5", "its time is over");
}

#[tokio::test]
async fn a_successor_in_the_making_is_withheld_unless_it_was_ordered() {
    for ordered in [false, true] {
        let (feed, fake, hands) = feed(FeedLimits::default());
        let mut session = holder(&feed, "v1").await;
        let rotation = ordered.then(|| feed.rotate(|_| true));
        tokio::task::yield_now().await;
        fake.revoke_while_issuing("01");
        if !ordered {
            hands.advance(LIFE / 2);
        }
        assert_eq!(settle(&mut session).await.is_some(), ordered);
        drop(rotation);
    }
}

#[tokio::test]
async fn a_denied_identity_waits_for_its_release_and_is_then_served_at_once() {
    let (feed, fake, hands) = feed(FeedLimits::default());
    let mut session = holder(&feed, "v1").await;
    fake.standing().deny(ID, Denied::default());
    fake.standing().revoke([("01".to_owned(), feed.live()[0].not_after.unwrap())]);
    assert_eq!(settle(&mut session).await, None);
    fake.log();
    fake.standing().deny("spiffe://example.org/another", Denied::default());
    hands.advance(LIFE / 2);
    assert_eq!(settle(&mut session).await, None);
    assert_eq!(fake.log(), [""; 0], "nothing is asked for that is known to be refused");
    let mut rotation = feed.rotate(|_| true);
    assert!(rotation.chosen.is_empty() && rotation.steps.recv().await.is_none());
    fake.standing().release(ID);
    assert_eq!(settle(&mut session).await.unwrap(), "default=v2");
}

#[tokio::test]
async fn delivery_counts_streams_by_what_they_said_of_the_newest_bundle() {
    let (feed, _fake, _hands) = feed(FeedLimits::default());
    let (mut first, mut second) = (session(&feed), session(&feed));
    for name in ["ROOTCA", "ALL"] {
        first.subscribe(name, None).await.unwrap();
    }
    second.subscribe("ROOTCA", None).await.unwrap();
    assert_eq!(feed.delivery(), Delivery { streams: 2, acked: 0, nacked: 0 });
    while let Some(sent) = settle(&mut first).await {
        let (name, version) = sent.split_once('=').unwrap();
        assert_eq!(feed.delivery().acked, 0, "both must be there");
        first.acked(name, version);
    }
    settle(&mut second).await.unwrap();
    second.nacked("ROOTCA", "bundle-roots", "no").await;
    assert_eq!(feed.delivery(), Delivery { streams: 2, acked: 1, nacked: 1 });
    feed.publish_bundle(bundle("newer"));
    assert_eq!(feed.delivery(), Delivery { streams: 2, acked: 0, nacked: 0 });
}
