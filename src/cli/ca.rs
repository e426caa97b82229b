//! `chancery ca`: roots and issuing CAs, who holds them and what comes next; and the operator's hands on them.

pub mod acts;
pub mod roots;

use clap::{Args, Subcommand};
use time::OffsetDateTime;

use super::Context;
use super::exit::Done;
use super::screen::{Paint, Table, count, date, relative, thousands};
use crate::proto::chancery::admin::v1 as pb;

/// How many CAs may stand below one another on the screen.
const MOST_BELOW: usize = 5;

/// The authorities of this server.
#[derive(Debug, Subcommand)]
pub enum Ca {
    /// Shows roots and issuing CAs with their state
    Show(Show),
    /// Has the next issuing CA sign from now on, or prepares the next root, which takes over once everyone holds it
    Rotate(acts::Rotate),
    /// Ends an issuing CA whose key was stolen: another signs, holders get new certificates, it is revoked
    Taint(acts::Taint),
    /// Has a prepared root take over now; by itself it does so when everyone holds it
    Activate(roots::Activate),
    /// Gives up a prepared authority that shall not be used, or takes an old root out of every bundle
    Retire(roots::Retire),
}

/// `ca show`.
#[derive(Debug, Args)]
pub struct Show {
    /// Those that are gone too
    #[arg(long)]
    all: bool,
}

impl Ca {
    pub(crate) async fn run(self, context: &Context) -> Done {
        match self {
            Self::Show(args) => args.run(context).await,
            Self::Rotate(args) => acts::rotate(args, context).await,
            Self::Taint(args) => acts::taint(args, context).await,
            Self::Activate(args) => roots::activate(args, context).await,
            Self::Retire(args) => roots::retire(args, context).await,
        }
    }
}

impl Show {
    async fn run(self, context: &Context) -> Done {
        let mut answer = context.admin().await?.list_authorities(pb::ListAuthoritiesRequest {}).await?.into_inner();
        if !self.all {
            answer.authorities.retain(|authority| authority.state != "gone");
        }
        let screen = &context.screen;
        screen.show(&answer, |list| show_screen(list, screen.now(), screen.paint))
    }
}

fn show_screen(list: &pb::AuthorityList, now: OffsetDateTime, paint: Paint) -> String {
    let mut table = Table::bare();
    let (roots, others): (Vec<_>, Vec<_>) = list.authorities.iter().partition(|one| one.level == "root");
    for root in &roots {
        table.row([root.name.clone(), state(root, paint), until(root, now), held(root), crl(root, now, paint)]);
        branch(&mut table, &others, root, 0, (now, paint));
    }
    for orphan in others.iter().filter(|one| !list.authorities.iter().any(|other| other.key_id == one.issuer_key_id)) {
        let cells = [orphan.name.clone(), state(orphan, paint), until(orphan, now), under(orphan, now)];
        table.row(cells.into_iter().chain([crl(orphan, now, paint)]));
    }
    format!("{}{}", table.render(""), next(list, now))
}

/// Those below `above`, each with those below it.
fn branch(
    table: &mut Table,
    all: &[&pb::Authority],
    above: &pb::Authority,
    depth: usize,
    (now, paint): (OffsetDateTime, Paint),
) {
    for one in all.iter().filter(|one| one.issuer_key_id == above.key_id && one.key_id != above.key_id) {
        let below = match (&one.upstream, one.level.as_str()) {
            (Some(upstream), "intermediate") => format!("of {upstream}"),
            _ => under(one, now),
        };
        let name = format!("{}└─ {}", "   ".repeat(depth), one.name);
        table.row([name, state(one, paint), until(one, now), below, crl(one, now, paint)]);
        // A chain that was checked is short and has no loops.
        if depth < MOST_BELOW {
            branch(table, all, one, depth + 1, (now, paint));
        }
    }
}

fn state(authority: &pb::Authority, paint: Paint) -> String {
    match authority.state.as_str() {
        "tainted" => paint.bad("tainted"),
        other => other.to_owned(),
    }
}

fn until(authority: &pb::Authority, now: OffsetDateTime) -> String {
    if authority.not_after.is_empty() {
        return String::new();
    }
    format!("until {} ({})", date(&authority.not_after), relative(&authority.not_after, now))
}

fn held(root: &pb::Authority) -> String {
    match root.proxies {
        0 => "no proxy is connected".to_owned(),
        all => format!("held by {} of {}", thousands(root.held_by), count(all, "proxy").replace("proxys", "proxies")),
    }
}

/// Its newest CRL: what is on it, and when it ends; after that moment no handshake under it works.
fn crl(authority: &pb::Authority, now: OffsetDateTime, paint: Paint) -> String {
    let Some(crl) = &authority.crl else {
        return match authority.state.as_str() {
            "gone" => String::new(),
            _ => paint.warn("no CRL"),
        };
    };
    let end = relative(&crl.next_update, now);
    match crl.state.as_str() {
        "fresh" => format!("{} revoked, CRL ends {end}", thousands(crl.entries)),
        state => paint.bad(&format!("{} revoked, CRL is {state}: ends {end}", thousands(crl.entries))),
    }
}

fn under(issuing: &pb::Authority, now: OffsetDateTime) -> String {
    let certificates = count(issuing.live_certificates, "certificate");
    match (issuing.state.as_str(), &issuing.last_expires_at) {
        ("retiring", Some(last)) => format!("{certificates} left, the last expires {}", relative(last, now)),
        ("prepared", _) => "signs nothing yet".to_owned(),
        ("tainted", _) => format!("revoked; {certificates} left, refused everywhere"),
        _ => certificates,
    }
}

fn next(list: &pb::AuthorityList, now: OffsetDateTime) -> String {
    let root = |state: &str| list.authorities.iter().rfind(|one| one.level == "root" && one.state == state);
    if let Some(waits) = root("prepared") {
        let lacking = waits.evidence.as_ref().map(|evidence| roots::behind(evidence, now)).unwrap_or_default();
        let heading = if lacking.is_empty() { String::new() } else { format!("{} is lacking at:\n", waits.name) };
        return format!("{heading}{lacking}{}", roots::next(waits, now));
    }
    if let Some(old) = root("retiring") {
        let name = &old.name;
        return format!("Next: {name} leaves every bundle by itself when the last certificate under it has ended\n");
    }
    let due = list.authorities.iter().filter_map(|one| Some((one.next_change_at.as_ref()?, one)));
    match due.min_by_key(|(at, _)| at.as_str()) {
        Some((at, one)) => {
            format!(
                "Next: {} changes on {} ({}), by itself; proxies see nothing\n",
                one.name,
                date(at),
                relative(at, now)
            )
        }
        None => "The roots as proxies get them: chancery bundle show\n".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::screen::golden;
    use time::macros::datetime;

    fn authority(name: &str, level: &str, state: &str, under: &str) -> pb::Authority {
        pb::Authority {
            name: name.into(),
            level: level.into(),
            state: state.into(),
            key_id: format!("{name} key"),
            issuer_key_id: under.into(),
            not_after: "2027-02-21T12:00:00Z".into(),
            live_certificates: 12,
            last_expires_at: Some("2026-11-23T22:00:00Z".into()),
            held_by: 214,
            proxies: 214,
            ..pb::Authority::default()
        }
    }

    #[test]
    fn the_screen_shows_the_tree_and_what_comes_next() {
        let mut active = authority("issuing 4", "issuing", "active", "root 1 key");
        let crl = |entries, state: &str, next: &str| {
            Some(pb::Crl { entries, state: state.into(), next_update: next.into(), ..pb::Crl::default() })
        };
        let mut root = authority("root 1", "root", "active", "");
        root.crl = crl(0, "fresh", "2026-11-30T13:00:00Z");
        active.crl = crl(12, "late", "2026-11-24T13:00:00Z");
        active.next_change_at = Some("2027-01-06T00:00:00Z".into());
        let list = pb::AuthorityList {
            authorities: vec![
                root,
                authority("issuing 3", "issuing", "retiring", "root 1 key"),
                active,
                authority("issuing 5", "issuing", "prepared", "root 1 key"),
                authority("issuing 2", "issuing", "tainted", "root 1 key"),
            ],
        };
        golden::check("ca-show.txt", &show_screen(&list, datetime!(2026-11-23 13:00 UTC), Paint::PLAIN));
    }
}
