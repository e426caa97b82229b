//! `chancery status`: ready or not, what is wrong, and the numbers that matter.

use time::OffsetDateTime;

use super::Context;
use super::exit::Done;
use super::screen::{Paint, count, relative, thousands};
use crate::proto::chancery::admin::v1 as pb;

pub(crate) async fn run(context: &Context) -> Done {
    let answer = context.admin().await?.get_status(pb::GetStatusRequest {}).await?.into_inner();
    let screen = &context.screen;
    screen.show(&answer, |status| status_screen(status, screen.now(), screen.paint))
}

fn status_screen(status: &pb::Status, now: OffsetDateTime, paint: Paint) -> String {
    let mut text = status.breakglass.as_ref().map_or_else(String::new, |open| glass_line(open, now, paint));
    text.push_str(&match (status.ready, status.problems.is_empty()) {
        (true, true) => paint.good("ready"),
        (true, false) => format!("{}, degraded", paint.warn("ready")),
        (false, _) => paint.bad("not ready"),
    });
    text.push_str(&format!(
        ": chancery {}, trust domain {}, started {}\n",
        status.version,
        status.trust_domain,
        relative(&status.started_at, now)
    ));
    for problem in &status.problems {
        text.push_str(&format!("  {} {problem}\n", paint.bad("wrong:")));
    }
    for warning in &status.warnings {
        text.push_str(&format!("  {}  {warning}\n", paint.warn("note:")));
    }
    if status.approvals_open > 0 {
        let open = count(status.approvals_open, "act");
        text.push_str(&format!("  {} {open} for a second operator: chancery approval list\n", paint.warn("waiting:")));
    }
    text.push_str(&format!(
        "  issued {}/h   renewed {}/h   refused {}/h   renewals late {}   live {}   streams {}\n",
        thousands(status.issued_last_hour),
        thousands(status.renewed_last_hour),
        thousands(status.refused_last_hour),
        thousands(status.renewals_late),
        thousands(status.live_certificates),
        thousands(status.streams),
    ));
    if let Some(ledger) = &status.ledger {
        let health = if ledger.health == "ok" { String::new() } else { format!(", {}", paint.bad(&ledger.health)) };
        let lag = match ledger.projection_lag {
            0 => String::new(),
            lag => format!(", index {} behind", thousands(lag)),
        };
        text.push_str(&format!(
            "  ledger {}, {} records, checkpoint {}{health}{lag}\n",
            ledger.origin,
            thousands(ledger.size),
            relative(&ledger.checkpoint_at, now)
        ));
    }
    text.push_str(&crl_line(&status.crls, now, paint));
    for listener in &status.listeners {
        let name = if listener.name == listener.kind { String::new() } else { format!(" {}", listener.name) };
        text.push_str(&format!("  {:<6}{}{name}\n", listener.kind, listener.address));
    }
    text.push_str(if status.problems.is_empty() {
        "Every act as it is recorded: chancery audit tail --follow\n"
    } else {
        "What to look at first: chancery doctor\n"
    });
    text
}

/// The first line, before everything else, while it is open.
fn glass_line(open: &pb::Breakglass, now: OffsetDateTime, paint: Paint) -> String {
    let who = open.opened_by.as_ref().map_or_else(String::new, |name| format!(" by {name}"));
    let (when, until) = (relative(&open.opened_at, now), relative(&open.until, now));
    format!(
        "{} opened {when}{who}, until {until}, {}: {}\n",
        paint.bad("BREAK-GLASS IS OPEN:"),
        count(open.acts, "act"),
        open.reason
    )
}

/// One line for all CRLs: how many are revoked, and which ends first.
fn crl_line(crls: &[pb::Crl], now: OffsetDateTime, paint: Paint) -> String {
    let Some(first) = crls.iter().min_by_key(|crl| crl.next_update.as_str()) else { return String::new() };
    let revoked = crls.iter().map(|crl| crl.entries).sum();
    let state = match first.state.as_str() {
        "fresh" => first.state.clone(),
        other => paint.bad(other),
    };
    let (issuer, end) = (&first.issuer, relative(&first.next_update, now));
    let number = u64::try_from(crls.len()).unwrap_or(u64::MAX);
    format!(
        "  {}, {} revoked; that of {issuer} ends first, {end} ({state})\n",
        count(number, "CRL"),
        thousands(revoked)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::screen::golden;
    use time::macros::datetime;

    #[test]
    fn the_screen_says_first_what_is_wrong() {
        let listener = |kind: &str, name: &str, address: &str| pb::Listener {
            kind: kind.into(),
            name: name.into(),
            address: address.into(),
        };
        let well = pb::Status {
            version: "0.1.0".into(),
            trust_domain: "example.org".into(),
            ready: true,
            warnings: vec![
                "the CA's keys are sealed with a key beside them, which protects nothing from whoever reads the data directory".into(),
            ],
            started_at: "2026-11-23T12:00:00Z".into(),
            issued_last_hour: 1204,
            refused_last_hour: 3,
            live_certificates: 420,
            streams: 214,
            ledger: Some(pb::LedgerStatus {
                origin: "example.org/ledger/ca-2026".into(),
                size: 1_204_551,
                checkpoint_at: "2026-11-23T12:59:59Z".into(),
                health: "ok".into(),
                projection_lag: 0,
            }),
            listeners: vec![
                listener("sds", "sds", "unix:./chancery-data/sds.sock"),
                listener("sds", "web", "unix:./chancery-data/web.sock"),
                listener("http", "http", "http://127.0.0.1:41873"),
            ],
            ..pb::Status::default()
        };
        let crl = |issuer: &str, entries, state: &str, next: &str| pb::Crl {
            issuer: issuer.into(),
            entries,
            state: state.into(),
            next_update: next.into(),
            ..pb::Crl::default()
        };
        let mut well = well;
        well.crls = vec![
            crl("root 1", 0, "fresh", "2026-11-30T13:00:00Z"),
            crl("issuing 3", 3, "fresh", "2026-11-29T13:00:00Z"),
        ];
        let mut ill = well.clone();
        ill.crls = vec![crl("issuing 3", 3, "expired", "2026-11-23T12:00:00Z")];
        ill.ready = false;
        ill.approvals_open = 1;
        ill.breakglass = Some(pb::Breakglass {
            opened_at: "2026-11-23T12:55:00Z".into(),
            until: "2026-11-23T13:10:00Z".into(),
            opened_by: Some("kim".into()),
            reason: "INC-7: nobody else is awake".into(),
            acts: 2,
            ..pb::Breakglass::default()
        });
        ill.problems = vec!["the disk of the ledger is full: free space on ./chancery-data".into()];
        if let Some(ledger) = ill.ledger.as_mut() {
            ledger.health = "full".into();
            ledger.projection_lag = 7;
        }
        let now = datetime!(2026-11-23 13:00 UTC);
        let screens = [well, ill].map(|status| status_screen(&status, now, Paint::PLAIN));
        golden::check("status.txt", &screens.join("\n"));
    }
}
