//! What every store must do with requests for a second operator and with break-glasses.

use super::{LOG, START, plain};
use crate::audit::event::{Action, Actor, ApprovalFacts, BreakglassFacts, Change, Event, Outcome, Recorder};
use crate::entropy::Entropy;
use crate::store::row::MOST_ACTS_KEPT;
use crate::store::{APPROVALS_KEPT, Entry, Store};
use time::Duration;

fn request(recorder: &Recorder, id: &str, after: Duration) -> Event {
    let mut event = recorder.event(Action::ApprovalRequest, Outcome::Success, START + after);
    event.actor = Some(Actor { attested_by: "client_certificate".into(), ..Actor::default() });
    event.approval = Some(ApprovalFacts {
        act: Some("ca.taint".into()),
        description: Some("taint".into()),
        digest: Some("77".into()),
        id: id.into(),
        until: Some("2026-11-23T13:00:00Z".into()),
    });
    event
}

fn of(id: &str) -> Option<ApprovalFacts> {
    Some(ApprovalFacts { id: id.into(), ..ApprovalFacts::default() })
}

fn act(recorder: &Recorder, breakglass: Option<&str>, approval: Option<&str>) -> Event {
    plain(recorder, Action::OperatorAct, |e| {
        e.change = Some(Change { what: "ca.taint".into(), ..Change::default() });
        e.approval = approval.and_then(of);
        e.breakglass = breakglass.map(|id| BreakglassFacts { id: id.into(), ..BreakglassFacts::default() });
    })
}

fn apply(store: &dyn Store, from: u64, events: &[Event]) {
    let entries = (from..).zip(events).map(|(index, event)| Entry { log: LOG, index, event });
    store.apply(&entries.collect::<Vec<_>>()).unwrap();
}

/// Of a store that holds nothing yet.
pub(super) fn keeps_requests_and_what_was_opened(store: &dyn Store) {
    let recorder = Recorder::new(Entropy::seeded(7));
    let answer = |outcome| plain(&recorder, Action::ApprovalGrant, |e| (e.approval, e.outcome) = (of("a"), outcome));
    let open = |outcome| {
        let mut event = request(&recorder, "", Duration::ZERO);
        (event.action, event.outcome, event.approval) = (Action::BreakglassOpen, outcome, None);
        event.breakglass =
            Some(BreakglassFacts { id: "g".into(), until: Some("2026".into()), ..BreakglassFacts::default() });
        event
    };
    let mut events = vec![
        request(&recorder, "b", Duration::seconds(1)),
        request(&recorder, "a", Duration::ZERO),
        answer(Outcome::Success),
        answer(Outcome::Denied),
        act(&recorder, None, Some("a")),
        act(&recorder, None, Some("a")),
        open(Outcome::Denied),
        open(Outcome::Success),
    ];
    events.extend((0..=MOST_ACTS_KEPT).map(|_| act(&recorder, Some("g"), None)));
    apply(store, 0, &events);
    let [first, second] = store.approvals().unwrap().try_into().unwrap();
    assert_eq!((first.id.as_str(), second.id.as_str()), ("a", "b"), "oldest first");
    assert_eq!(first.used, Some(format!("{LOG}#4")), "the first use counts");
    let answer = first.answer.unwrap();
    assert_eq!((answer.granted, answer.record), (true, format!("{LOG}#2")), "the first answer counts");
    assert!(second.answer.is_none() && second.used.is_none());
    let [open] = store.breakglass().unwrap().try_into().unwrap();
    assert_eq!((open.record, open.closed, open.count), (format!("{LOG}#7"), None, MOST_ACTS_KEPT as u64 + 1));
    assert_eq!((open.acts.len(), open.acts[0].as_str()), (MOST_ACTS_KEPT, &*format!("{LOG}#8 ca.taint")));
    let size = events.len() as u64;
    let close = plain(&recorder, Action::BreakglassClose, |e| {
        e.breakglass = Some(BreakglassFacts { id: "g".into(), ..BreakglassFacts::default() });
    });
    let many = (0..APPROVALS_KEPT).map(|n| request(&recorder, &format!("n{n}"), Duration::minutes(1)));
    apply(store, size, &[close].into_iter().chain(many).collect::<Vec<_>>());
    let [open] = store.breakglass().unwrap().try_into().unwrap();
    assert_eq!(
        (open.closed, open.count),
        (Some(format!("{LOG}#{size}")), MOST_ACTS_KEPT as u64 + 1),
        "no act of its own"
    );
    let kept = store.approvals().unwrap();
    assert!(kept.len() == APPROVALS_KEPT && kept.iter().all(|row| row.id.starts_with('n')), "the oldest made room");
}
