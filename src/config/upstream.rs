//! Reads `[upstream.vault]`: who signs the issuing CA, where that is not a root of this server's own.

use std::path::Path;

use super::SettingError;
use super::vault::{self, part};
use crate::toml_reader::Table;
use crate::upstream::vault::VaultSettings;

/// The keys that mean nothing without an address.
const OTHERS: [&str; 4] = ["mount", "issuer", "crl_mounts", "crl_files"];

/// `None` where no address is written.
pub(super) fn vault(upstream: &Table<'_, '_>, base: &Path) -> Option<VaultSettings> {
    let table = upstream.table("vault");
    let connection = vault::connection(&table, base, &OTHERS);
    let mount = vault::text(&table, "mount", "pki");
    let issuer = vault::text(&table, "issuer", "default");
    let crl_mounts = each(&table, "crl_mounts", |text| part(text).ok_or(SettingError::VaultPath));
    let crl_files = each(&table, "crl_files", |text| Ok(base.join(text)));
    table.done();
    upstream.done();
    Some(VaultSettings { connection: connection?, mount, issuer, crl_mounts, crl_files })
}

fn each<T>(table: &Table<'_, '_>, key: &'static str, read: impl Fn(&str) -> Result<T, SettingError>) -> Vec<T> {
    let mut all = Vec::new();
    for (entry, text) in table.texts(key).unwrap_or_default() {
        match read(text) {
            Ok(one) => all.push(one),
            Err(problem) => table.note_entry(key, entry, &problem),
        }
    }
    all
}
