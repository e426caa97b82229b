//! What operators are told of a root that waits, and of one that ends too soon.

use time::OffsetDateTime;

use crate::ca::authority::root::{self, slots};
use crate::ca::slot::{Authorities, Name};
use crate::clock::rfc3339_seconds;
use crate::policy::schedule::{AuthorityState, Evidence, LeftBehind, RootTimes};
use crate::proto::chancery::admin::v1 as pb;

/// As it goes over the wire.
pub(super) fn wire(evidence: &Evidence<Name>, now: OffsetDateTime) -> pb::RootEvidence {
    pb::RootEvidence {
        issuing: evidence.issuing.to_string(),
        holders: evidence.holders,
        holding: evidence.holding,
        behind: evidence.behind.iter().map(left_behind).collect(),
        silent_until: rfc3339_seconds(evidence.silent_until),
        complete: evidence.is_complete(now),
        complete_by: evidence.complete_by().map(rfc3339_seconds),
    }
}

fn left_behind(one: &LeftBehind) -> pb::LeftBehind {
    let held = &one.certificate;
    pb::LeftBehind {
        serial: Some(held.serial.clone()).filter(|serial| !serial.is_empty()),
        identity: held.identity.clone(),
        node: held.node.clone(),
        caller: held.caller.clone(),
        why: one.why.words(),
        until: held.until.map(rfc3339_seconds),
    }
}

/// What is wrong with the root that signs, with its remedy: it ends too soon, and none has taken its place.
pub(super) fn late(authorities: &Authorities, times: RootTimes, now: OffsetDateTime) -> Option<String> {
    let slots = slots(authorities, times.issuing.longest_leaf());
    let active = slots.iter().rfind(|slot| slot.state == AuthorityState::Active)?;
    if now < times.late_at(active) {
        return None;
    }
    let (name, end) = (active.key, rfc3339_seconds(active.not_after));
    let remedy = match (root::next(&slots), active.ours) {
        (Some(next), _) => format!("{next} waits to take over: chancery ca show says for whom"),
        (None, true) => "the next one could not be made: see the log; it is tried again".to_owned(),
        (None, false) => {
            "give its upstream another root, or name another upstream, then: chancery ca rotate root".to_owned()
        }
    };
    Some(format!("{name} ends at {end}, and issuing CAs under it are cut short: {remedy}"))
}
