//! Which settings change while the server runs, and which of a new file wait for its next start.

use std::collections::BTreeMap;

use super::Settings;

/// Keys whose new value comes into force at once; docs/configuration.md marks them. All others wait for a restart.
/// A list of tables is one key.
pub const LIVE: &[&str] = &[
    "admin.operator",
    "limits.max_certificates_per_caller",
    "limits.max_issues_at_once",
    "limits.renewal_retry_first",
    "limits.renewal_retry_longest",
    "limits.overdue_spread",
    "log.level",
];

impl Settings {
    /// These settings with what may change at once taken from `new`.
    #[must_use]
    pub fn with_live_of(&self, new: &Self) -> Self {
        let mut settings = self.clone();
        settings.admin.operators = new.admin.operators.clone();
        settings.limits.feed = new.limits.feed.clone();
        settings.log.level = new.log.level;
        settings
    }
}

/// The keys that differ between two files and need a restart, sorted. Both must be files that read without mistakes.
#[must_use]
pub fn needs_restart(before: &str, after: &str) -> Vec<String> {
    let (before, after) = (values(before), values(after));
    let mut keys: Vec<String> =
        before.keys().chain(after.keys()).filter(|key| before.get(*key) != after.get(*key)).cloned().collect();
    keys.retain(|key| !LIVE.contains(&key.as_str()));
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Every key with its table, and its value as text. A list of tables is one value.
fn values(text: &str) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    // What does not parse was told before anybody asks what it changes.
    if let Ok(table) = text.parse::<toml::Table>() {
        flatten("", &table, &mut values);
    }
    values
}

fn flatten(prefix: &str, table: &toml::Table, values: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value.as_table() {
            Some(below) => flatten(&path, below, values),
            None => drop(values.insert(path, value.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::KEYS;

    const FILE: &str =
        "trust_domain = \"example.org\"\ndata_dir = \"/d\"\n[[sds.listen]]\nname = \"sds\"\npath = \"/s\"\n";

    fn settings(more: &str) -> Settings {
        Settings::parse(&format!("{FILE}{more}"), "chancery.toml", Path::new("/")).unwrap()
    }

    #[test]
    fn what_is_live_changes_and_the_rest_is_named() {
        let check = |more: &str, at_once: bool, expected: &[&str]| {
            let (old, new) = (settings(""), settings(more));
            assert_eq!(old.with_live_of(&new) == new, at_once, "{more}");
            assert_eq!(needs_restart(FILE, &format!("{FILE}{more}")), expected, "{more}");
        };
        check("# a comment\n", true, &[]);
        check("[log]\nlevel = \"debug\"\n", true, &[]);
        check("[limits]\nmax_certificates_per_caller = 7\n", true, &[]);
        check("[limits]\nmax_connections = 7\n[log]\nlevel = \"debug\"\n", false, &["limits.max_connections"]);
        check("[[sds.listen]]\nname = \"web\"\npath = \"/w\"\n", false, &["sds.listen"]);
    }

    #[test]
    fn live_keys_are_keys() {
        for key in LIVE {
            assert!(KEYS.iter().any(|known| known.path() == *key || known.table == *key), "{key}");
        }
    }
}
