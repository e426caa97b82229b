//! Reads `[admin]`: where the admin API listens, and `[[admin.operator]]`: who has which role there.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::listen::parse_mode;
use super::{ADMIN_MODE, AdminSettings, MOST_OPERATORS, SettingError, SocketPath};
use crate::api::admin::roles::{Grant, Operators, Role, Who};
use crate::approval::{Guarded, OPEN_FOR, Rules};
use crate::identity::TrustDomain;
use crate::policy::{ADMIN_SOCKET, ClientPattern};
use crate::toml_reader::Table;

/// How long a request for a second operator may stay open: long enough to reach one, and no standing permission.
const SHORTEST_REQUEST: Duration = Duration::from_secs(60);

/// See [`SHORTEST_REQUEST`].
const LONGEST_REQUEST: Duration = Duration::from_secs(7 * 86_400);

/// Bits that let somebody else than the owner connect (which needs the right to write; unix(7)).
const OTHERS: u32 = 0o022;

/// `[admin]`; `None` when its socket has no place.
pub(super) fn admin(
    table: &Table<'_, '_>,
    base: &Path,
    dir: &Path,
    trust_domain: Option<&TrustDomain>,
) -> Option<AdminSettings> {
    let path = table.text("path").map_or_else(|| dir.join("admin.sock"), |path| base.join(path));
    let mode = table.parsed("mode", parse_mode);
    let listen = table.parsed("listen", |text| text.parse::<SocketAddr>().map_err(|_| SettingError::Address));
    let grants = operators(table, trust_domain);
    let remote = |grant: &Grant| matches!(grant.who, Who::Client(_));
    let reads = !table.has("mode") || mode.is_some();
    if reads && mode.unwrap_or(ADMIN_MODE) & OTHERS == 0 && grants.iter().any(|grant| !remote(grant)) {
        table.note("mode", &SettingError::OperatorsLockedOut);
    }
    let approval = approval(&table.table("approval"));
    if listen.is_some() && !table.has("operator") {
        table.note("listen", &SettingError::NoRemoteOperator);
    }
    table.done();
    let path = SocketPath::new(&path, ADMIN_SOCKET).map_err(|problem| table.note("path", &problem)).ok()?;
    Some(AdminSettings { path, mode: mode.unwrap_or(ADMIN_MODE), listen, operators: Operators::new(grants), approval })
}

/// `[admin.approval]`.
fn approval(table: &Table<'_, '_>) -> Rules {
    let acts = table.choices("acts", &Guarded::ALL.map(|act| (act.as_str(), act))).unwrap_or_default();
    let open_for = table.span("open_for", SHORTEST_REQUEST..=LONGEST_REQUEST).unwrap_or(OPEN_FOR);
    table.done();
    Rules { acts: acts.into_iter().collect(), open_for }
}

fn operators(table: &Table<'_, '_>, trust_domain: Option<&TrustDomain>) -> Vec<Grant> {
    let mut grants = Vec::new();
    for entry in table.tables("operator") {
        let roles = Role::ALL.map(|role| (role.as_str(), role));
        let role = if entry.has("role") {
            entry.choice("role", &roles)
        } else {
            let _ = entry.required_text("role", "role = \"reader\"");
            None
        };
        let mut who = ids(&entry, "uid", Who::Uid);
        who.extend(ids(&entry, "gid", Who::Gid));
        who.extend(clients(&entry, trust_domain));
        if !["uid", "gid", "client"].iter().any(|key| entry.has(key)) {
            entry.note_whole(&SettingError::NoOperator);
        }
        entry.done();
        if let Some(role) = role {
            grants.extend(who.into_iter().map(|who| Grant { role, who }));
        }
    }
    if grants.len() > MOST_OPERATORS {
        table.note("operator", &SettingError::TooManyOperators { count: grants.len() });
    }
    grants
}

/// `uid = 1001` or `uid = [1001, 1002]`.
fn ids(table: &Table<'_, '_>, key: &'static str, who: fn(u32) -> Who) -> Vec<Who> {
    let mut found = Vec::new();
    for entry in table.list(key).unwrap_or_default() {
        // u32::MAX is "no user" in every system call that takes one.
        match entry.integer().and_then(|id| u32::try_from(id).ok()).filter(|id| *id != u32::MAX) {
            Some(id) => found.push(who(id)),
            None => table.note_entry(key, entry, &SettingError::Id),
        }
    }
    found
}

fn clients(table: &Table<'_, '_>, trust_domain: Option<&TrustDomain>) -> Vec<Who> {
    let mut found = Vec::new();
    // Without a trust domain that is the mistake to tell; nothing more can be said about these.
    let (Some(texts), Some(trust_domain)) = (table.texts("client"), trust_domain) else { return found };
    for (entry, text) in texts {
        match ClientPattern::parse(text, trust_domain) {
            Ok(pattern) if pattern.example().member_of(trust_domain) => found.push(Who::Client(pattern)),
            Ok(_) => table.note_entry("client", entry, &SettingError::OperatorOfOthers),
            Err(problem) => table.note_entry("client", entry, &SettingError::OperatorClient { problem }),
        }
    }
    found
}
