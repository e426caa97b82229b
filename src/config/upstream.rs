//! Reads `[upstream.vault]` or `[upstream.files]`: who signs the issuing CA, where that is not a root of this server's own.

use std::path::Path;

use super::SettingError;
use super::vault::{self as of_vault, part};
use crate::keys::file::KeyFile;
use crate::toml_reader::Table;
use crate::upstream::UpstreamSettings;
use crate::upstream::files::{self, FilesSettings, PemFiles, Signing};
use crate::upstream::vault::VaultSettings;

/// The keys that mean nothing without an address.
const OTHERS: [&str; 4] = ["mount", "issuer", "crl_mounts", "crl_files"];

/// `None` where neither is written.
pub(super) fn upstream(table: &Table<'_, '_>, base: &Path, data_dir: &Path) -> Option<UpstreamSettings> {
    let (vault, files) = (vault(table, base), files(table, base, data_dir));
    if vault.is_some() && files.is_some() {
        table.note("files", &SettingError::TwoUpstreams);
    }
    table.done();
    vault.map(UpstreamSettings::Vault).or(files.map(UpstreamSettings::Files))
}

/// The ways to have a signature by a CA in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Here,
    Elsewhere,
}

/// `None` where no directory is written.
fn files(upstream: &Table<'_, '_>, base: &Path, data_dir: &Path) -> Option<FilesSettings> {
    let table = upstream.table("files");
    let directory = table.text("directory").map(|path| base.join(path));
    if directory.is_none() && !table.is_empty() {
        table.note_whole(&SettingError::NoFilesDirectory);
    }
    let at = directory.clone().unwrap_or_default();
    let who = table.choice("signing", &[("here", Who::Here), ("elsewhere", Who::Elsewhere)]).unwrap_or(Who::Here);
    let one = |key: &'static str, usual: &str| at.join(table.text(key).unwrap_or(usual));
    let several = |key: &'static str, usual: &[&str]| match table.texts(key) {
        Some(named) => PemFiles::Named(named.into_iter().map(|(_, name)| at.join(name)).collect()),
        None => PemFiles::IfThere(usual.iter().map(|name| at.join(name)).collect()),
    };
    let (certificate, key) = (one("certificate_file", files::CERTIFICATE), one("key_file", files::KEY));
    let passphrase = table.text("passphrase_file").map(|path| at.join(path));
    let request = table.text("request_file").map_or_else(|| data_dir.join(files::REQUEST), |path| at.join(path));
    let answer = one("answer_file", files::ANSWER);
    let chain = several("chain_files", &[files::CHAIN, files::CERTIFICATE, files::ROOT]);
    let crls = several("crl_files", &[files::CRLS]);
    let foreign: &[&str] = match who {
        Who::Here => &["request_file", "answer_file"],
        Who::Elsewhere => &["certificate_file", "key_file", "passphrase_file"],
    };
    for key in foreign.iter().filter(|key| table.has(key)) {
        table.note(key, &SettingError::OtherSigning);
    }
    table.done();
    let signing = match who {
        Who::Here => Signing::Here { certificate, key: KeyFile { path: key, passphrase } },
        Who::Elsewhere => Signing::Elsewhere { request, answer },
    };
    directory.map(|directory| FilesSettings { directory, chain, crls, signing })
}

/// `None` where no address is written.
fn vault(upstream: &Table<'_, '_>, base: &Path) -> Option<VaultSettings> {
    let table = upstream.table("vault");
    let connection = of_vault::connection(&table, base, &OTHERS);
    let mount = of_vault::text(&table, "mount", "pki");
    let issuer = of_vault::text(&table, "issuer", "default");
    let crl_mounts = each(&table, "crl_mounts", |text| part(text).ok_or(SettingError::VaultPath));
    let crl_files = each(&table, "crl_files", |text| Ok(base.join(text)));
    table.done();
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
