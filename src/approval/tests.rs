//! What becomes of a request in every standing, who is somebody else, and what a digest covers.

use time::macros::datetime;

use super::*;
use crate::store::row::ApprovalAnswer;

const NOW: OffsetDateTime = datetime!(2026-11-23 13:00 UTC);

fn plan(act: Guarded) -> Plan {
    Plan {
        act,
        subject: "issuing 3".into(),
        description: String::new(),
        parameters: vec![1, 2],
        state: vec!["issuing 3 active".into()],
    }
}

fn row(plan: &Plan, id: &str) -> ApprovalRow {
    ApprovalRow {
        id: id.into(),
        act: plan.act.as_str().into(),
        subject: plan.subject.clone(),
        digest: plan.digest(),
        until: "2026-11-23T14:00:00Z".into(),
        ..ApprovalRow::default()
    }
}

fn answered(row: ApprovalRow, granted: bool) -> ApprovalRow {
    ApprovalRow { answer: Some(ApprovalAnswer { granted, ..ApprovalAnswer::default() }), ..row }
}

fn kim() -> Person {
    Person::Client("spiffe://example.org/operators/kim".into())
}

fn decided(rows: Vec<ApprovalRow>, plan: &Plan, now: OffsetDateTime) -> Decision {
    let rows: Vec<_> = rows.into_iter().map(|row| (row, Some(kim()))).collect();
    decide(&rows, &kim(), plan, now)
}

#[test]
fn only_a_grant_that_fits_lets_an_act_through() {
    let taint = plan(Guarded::CaTaint);
    let open = row(&taint, "a");
    let granted = answered(open.clone(), true);
    let later = datetime!(2026-11-23 14:00 UTC);
    assert_eq!(decided(vec![], &taint, NOW), Decision::Ask(None));
    assert_eq!(decided(vec![open.clone()], &taint, NOW), Decision::Waits(open.clone()));
    assert_eq!(decided(vec![granted.clone()], &taint, NOW), Decision::Go("a".into()));
    assert_eq!(decided(vec![answered(open.clone(), false)], &taint, NOW), Decision::Ask(None), "refused");
    assert_eq!(decided(vec![open], &taint, later), Decision::Ask(None), "lapsed");
    assert_eq!(decided(vec![granted.clone()], &taint, later), Decision::Ask(None), "a grant lapses too");
    let others = decide(&[(granted.clone(), Some(Person::Login("lou".into())))], &kim(), &taint, NOW);
    assert_eq!(others, Decision::Ask(None), "what was granted to lou is not kim's");
    assert_eq!(decide(&[(granted.clone(), None)], &kim(), &taint, NOW), Decision::Ask(None), "nor an erased person's");
    let moved = Plan { state: vec!["issuing 3 retiring".into()], ..taint };
    assert_eq!(decided(vec![granted.clone()], &moved, NOW), Decision::Ask(Some(granted)), "the state is another");
}

#[test]
fn a_grant_is_used_once_or_goes_on_with_what_was_cut_short() {
    for act in Guarded::ALL {
        let plan = plan(act);
        let used = ApprovalRow { used: Some("log#9".into()), ..answered(row(&plan, "a"), true) };
        let expected = match act.uses() {
            Uses::Once => Decision::Ask(None),
            Uses::WhileUnchanged => Decision::Go("a".into()),
        };
        assert_eq!(decided(vec![used.clone()], &plan, NOW), expected, "{act:?}");
        assert_eq!(decided(vec![used], &plan, datetime!(2026-11-23 14:00 UTC)), Decision::Ask(None), "{act:?}, late");
    }
}

#[test]
fn open_requests_are_bounded_for_each_and_for_all() {
    let asked = plan(Guarded::CaRotate);
    let one = |n: usize| row(&Plan { parameters: n.to_be_bytes().into(), ..asked.clone() }, &n.to_string());
    let rows = |own: usize, others: usize| -> Vec<_> {
        let own = (0..own).map(|n| (one(n), Some(kim())));
        own.chain((0..others).map(|n| (one(1_000 + n), Some(Person::Login(n.to_string()))))).collect()
    };
    assert_eq!(decide(&rows(MOST_OPEN_EACH - 1, 3), &kim(), &asked, NOW), Decision::Ask(None));
    assert_eq!(decide(&rows(MOST_OPEN_EACH, 3), &kim(), &asked, NOW), Decision::TooMany(MOST_OPEN_EACH));
    assert_eq!(decide(&rows(0, MOST_OPEN), &kim(), &asked, NOW), Decision::TooMany(MOST_OPEN));
}

#[test]
fn nobody_is_their_own_second_operator() {
    let check = |one: &Person, other: &Person, expected: bool| {
        assert_eq!((one.may_be(other), other.may_be(one)), (expected, expected), "{one:?} {other:?}");
    };
    let login = |name: &str| Person::Login(name.into());
    check(&kim(), &kim(), true);
    check(&login("kim"), &login("kim"), true);
    check(&login("Kim"), &kim(), true);
    check(&login("lou"), &kim(), false);
    check(&kim(), &Person::Client("spiffe://example.org/operators/lou".into()), false);
    let actor = |unattributed| Actor { attested_by: "unix_peer".into(), unattributed, ..Actor::default() };
    assert_eq!(Person::of_record(&actor(None), Some("kim".into())), Some(login("kim")));
    assert_eq!(Person::of_record(&actor(Some(true)), Some("root".into())), None, "root without a login is nobody");
    assert_eq!(Person::of_record(&actor(None), None), None, "nor is who was erased");
}

#[test]
fn a_digest_covers_the_act_its_parameters_and_the_state() {
    let base = plan(Guarded::CaTaint);
    let others = [
        Plan { act: Guarded::CaRetire, ..base.clone() },
        Plan { parameters: vec![1], state: vec!["\u{2}issuing 3 active".into()], ..base.clone() },
        Plan { state: vec!["issuing 3 ".into(), "active".into()], ..base.clone() },
        Plan { state: vec![], ..base.clone() },
    ];
    for other in others {
        assert_ne!(other.digest(), base.digest(), "{other:?}");
    }
    assert_eq!(Plan { description: "other words".into(), ..base.clone() }.digest(), base.digest());
}

#[test]
fn where_any_act_takes_two_so_does_the_way_around() {
    let none = Rules::default();
    assert!(Guarded::ALL.iter().all(|act| !none.guards(*act)));
    let taint = Rules { acts: [Guarded::CaTaint].into(), ..none };
    assert!(taint.guards(Guarded::CaTaint) && taint.guards(Guarded::BreakglassSeal) && !taint.guards(Guarded::Policy));
}
