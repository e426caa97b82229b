//! The screens of the hands on roots, as golden files.

use time::macros::datetime;

use super::*;
use crate::cli::screen::golden;

const NOW: OffsetDateTime = datetime!(2026-11-23 13:00 UTC);

fn evidence(lacking: u64) -> pb::RootEvidence {
    let one = |number: u64| pb::LeftBehind {
        serial: (number > 0).then(|| format!("5e0c4015899a25942b1dc6818da0{number:04}")),
        identity: (number > 0).then(|| "spiffe://example.org/ns/pay/sa/api".to_owned()),
        node: Some(format!("envoy-{number}")),
        caller: "unix:sds:uid=1003,pid=7".into(),
        why: if number == 1 { "refused the bundle: no".to_owned() } else { "not connected".to_owned() },
        until: (number > 0).then(|| "2026-11-23T22:00:00Z".to_owned()),
    };
    pb::RootEvidence {
        issuing: "issuing 5".into(),
        holders: 214,
        holding: 214 - lacking,
        behind: (0..lacking).map(one).collect(),
        silent_until: "2026-11-24T12:05:00Z".into(),
        complete: false,
        complete_by: (lacking == 0).then(|| "2026-11-24T12:05:00Z".into()),
    }
}

fn looked(evidence: Option<pb::RootEvidence>) -> ActOutput {
    ActOutput {
        authority: "root 2".into(),
        state: "prepared".into(),
        live_certificates: 1_214,
        not_connected: 14,
        last_expires_at: Some("2026-11-24T12:00:00Z".into()),
        evidence,
        ..ActOutput::default()
    }
}

#[test]
fn what_would_be_left_behind_is_on_the_screen() {
    let root_1 = || ActOutput { authority: "root 1".into(), ..looked(None) };
    let waits = ActOutput { successor: Some("root 2".into()), ..root_1() };
    let step = |step: &str, authority: &str| StepOutput {
        step: step.into(),
        authority: authority.into(),
        record: "example.org/ledger/ca-2026#12".into(),
    };
    let steps = vec![step("prepared", "root 2"), step("prepared", "issuing 5"), step("published", "root 2")];
    let done = ActOutput { record: Some("example.org/ledger/ca-2026#11".into()), steps, ..root_1() };
    let complete = pb::RootEvidence { complete: true, ..evidence(0) };
    let live = |certificates: u64| pb::AuthorityRetired {
        name: "root 1".into(),
        state: "retiring".into(),
        record: "example.org/ledger/ca-2026#15".into(),
        live_certificates: certificates,
        certificates: (0..certificates.min(2))
            .map(|number| pb::Certificate {
                serial: format!("5e0c4015899a25942b1dc6818da0{number:04}"),
                identity: "spiffe://example.org/ns/pay/sa/api".into(),
                not_after: "2026-11-23T22:00:00Z".into(),
                ..pb::Certificate::default()
            })
            .collect(),
        ..pb::AuthorityRetired::default()
    };
    let issuing = pb::AuthorityRetired { name: "issuing 4".into(), state: "prepared".into(), ..live(0) };
    let screens = [
        rotate_plan(&root_1(), NOW),
        rotate_plan(&waits, NOW),
        rotated_screen(&done, Paint::PLAIN),
        activate_plan(&looked(Some(complete)), NOW),
        activate_plan(&looked(Some(evidence(0))), NOW),
        activate_plan(&looked(Some(evidence(12))), NOW),
        question(&looked(Some(evidence(12)))) + "\n",
        activated_screen(&done, Paint::PLAIN),
        retire_plan(&live(0), NOW),
        retire_plan(&live(214), NOW),
        retire_plan(&issuing, NOW),
        retired_screen(&live(3)),
        retired_screen(&issuing),
    ];
    golden::check("ca-roots.txt", &screens.join("\n"));
}

#[test]
fn the_screen_of_authorities_says_what_a_root_waits_for() {
    let root = |evidence| pb::Authority { name: "root 2".into(), evidence, ..pb::Authority::default() };
    let complete = pb::RootEvidence { complete: true, ..evidence(0) };
    let lines = [None, Some(complete), Some(evidence(0)), Some(evidence(1)), Some(evidence(5))];
    let lines: Vec<String> = lines.into_iter().map(|evidence| next(&root(evidence), NOW)).collect();
    golden::check("ca-show-next.txt", &lines.concat());
}
