//! The screens of the hands on authorities, as golden files.

use time::macros::datetime;

use super::*;
use crate::cli::screen::golden;

const NOW: OffsetDateTime = datetime!(2026-11-23 13:00 UTC);

fn message(step: &str, authority: &str, record: u32) -> pb::AuthorityProgress {
    pb::AuthorityProgress {
        step: step.into(),
        authority: authority.into(),
        record: Some(format!("example.org/ledger/ca-2026#{record}")),
        ..pb::AuthorityProgress::default()
    }
}

fn planned() -> pb::AuthorityProgress {
    pb::AuthorityProgress {
        state: "active".into(),
        makes_new: true,
        live_certificates: 1_214,
        last_expires_at: Some("2026-11-23T22:00:00Z".into()),
        connected: 1_200,
        ..message("planned", "issuing 3", 10)
    }
}

fn told(messages: impl IntoIterator<Item = pb::AuthorityProgress>) -> ActOutput {
    let mut output = ActOutput::default();
    messages.into_iter().for_each(|message| take(&mut output, message));
    output
}

fn crl(issuer: &str, entries: u64) -> Vec<pb::Crl> {
    vec![pb::Crl { issuer: issuer.into(), number: 1_795_438_800_000, entries, ..pb::Crl::default() }]
}

#[test]
fn a_roll_over_says_each_step_and_what_it_means() {
    let prepared = pb::AuthorityProgress { successor: Some("issuing 4".into()), makes_new: false, ..planned() };
    let few = pb::AuthorityProgress { live_certificates: 1, ..planned() };
    let done = told([
        planned(),
        message("prepared", "issuing 4", 11),
        pb::AuthorityProgress { crls: crl("issuing 4", 0), ..message("listed", "issuing 4", 0) },
        message("activated", "issuing 4", 14),
        message("retired", "issuing 3", 15),
        pb::AuthorityProgress { streams: 428, acked: 428, ..message("done", "", 0) },
    ]);
    let screens =
        [rotate_plan(&told([prepared]), NOW), rotate_plan(&told([few]), NOW), rotated_screen(&done, NOW, Paint::PLAIN)];
    golden::check("ca-rotate.txt", &screens.join("\n"));
    assert!(unanswered(&done, Duration::from_secs(5)).is_ok());
}

#[test]
fn a_taint_says_who_is_helped_and_who_is_cut_off() {
    let away = pb::AuthorityProgress { over_tcp: 3, not_connected: 14, beside: vec!["issuing 4".into()], ..planned() };
    let retiring = pb::AuthorityProgress { state: "retiring".into(), makes_new: false, ..planned() };
    let mut done = told([
        away.clone(),
        message("prepared", "issuing 5", 11),
        message("activated", "issuing 5", 14),
        message("tainted", "issuing 3", 15),
        message("revoked", "issuing 3", 2_415),
        pb::AuthorityProgress { crls: crl("root 1", 1), ..message("signed", "", 0) },
        pb::AuthorityProgress { streams: 428, acked: 426, nacked: 1, ..message("pushed", "", 0) },
    ]);
    done.reissued = Some(RotateOutput { chosen: 1_200, acked: 1_199, gone: 1, ..RotateOutput::default() });
    let screens = [
        taint_plan(&told([away.clone()]), NOW),
        taint_plan(&told([retiring]), NOW),
        question(&told([away])),
        tainted_screen(&done, Paint::PLAIN),
    ];
    golden::check("ca-taint.txt", &screens.join("\n"));
    assert!(unanswered(&done, Duration::from_secs(5)).is_err());
    done.reissued = None;
    assert!(unanswered(&done, Duration::from_secs(5)).is_err(), "one refused");
    done.nacked = 0;
    assert!(unanswered(&done, Duration::from_secs(5)).is_err(), "two are silent");
}
