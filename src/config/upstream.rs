//! Reads `[upstream.vault]` or `[upstream.files]`: who signs the issuing CA, where that is not a root of this server's own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::SettingError;
use crate::keys::file::KeyFile;
use crate::toml_reader::Table;
use crate::upstream::UpstreamSettings;
use crate::upstream::files::{self, FilesSettings, PemFiles, Signing};
use crate::upstream::vault::{Login, VaultSettings};

/// The longest that one request may be given.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(300);

/// The keys that mean nothing without an address.
const OTHERS: [&str; 7] = ["mount", "issuer", "namespace", "ca_file", "timeout", "crl_mounts", "crl_files"];

/// The ways to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Token,
    AppRole,
    Kubernetes,
    Certificate,
}

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
    let address = table.parsed("address", |text| address(text).ok_or(SettingError::VaultAddress));
    let below = table.table("login");
    if !table.has("address") && (OTHERS.iter().any(|key| table.has(key)) || !below.is_empty()) {
        table.note_whole(&SettingError::NoVaultAddress);
    }
    let login = login(&below, base, table.has("address"));
    let text = |key: &'static str, default: &str| {
        let text = table.parsed(key, |text| part(text).ok_or(SettingError::VaultPath));
        text.unwrap_or_else(|| default.to_owned())
    };
    let settings = VaultSettings {
        address: address.clone().unwrap_or_default(),
        namespace: table.text("namespace").map(str::to_owned),
        ca_file: table.text("ca_file").map(|path| base.join(path)),
        timeout: table.span("timeout", Duration::from_secs(1)..=LONGEST_TIMEOUT).unwrap_or(Duration::from_secs(10)),
        mount: text("mount", "pki"),
        issuer: text("issuer", "default"),
        crl_mounts: each(&table, "crl_mounts", |text| part(text).ok_or(SettingError::VaultPath)),
        crl_files: each(&table, "crl_files", |text| Ok(base.join(text))),
        login: login.unwrap_or(Login::Token { file: PathBuf::new() }),
    };
    table.done();
    address.map(|_| settings)
}

fn login(table: &Table<'_, '_>, base: &Path, wanted: bool) -> Option<Login> {
    let methods = [
        ("token", Method::Token),
        ("approle", Method::AppRole),
        ("kubernetes", Method::Kubernetes),
        ("certificate", Method::Certificate),
    ];
    let method = table.choice("method", &methods);
    if method.is_none() && !table.has("method") && wanted {
        table.note_whole(&SettingError::NoVaultLogin);
    }
    let default_mount = match method {
        Some(Method::Certificate) => "cert",
        Some(Method::Kubernetes) => "kubernetes",
        Some(Method::AppRole | Method::Token) | None => "approle",
    };
    let mount = table.parsed("mount", |text| part(text).ok_or(SettingError::VaultPath));
    let mount = mount.unwrap_or_else(|| default_mount.to_owned());
    let need = |key: &'static str, of: Method, example: &str| {
        if method == Some(of) { table.required_text(key, example) } else { table.text(key) }
    };
    let is_kubernetes = method == Some(Method::Kubernetes);
    let token_file = if is_kubernetes {
        Some(table.text("token_file").unwrap_or("/var/run/secrets/kubernetes.io/serviceaccount/token"))
    } else {
        need("token_file", Method::Token, "token_file = \"/run/vault/token\"")
    };
    let role_id = need("role_id", Method::AppRole, "role_id = \"5f3a…\"");
    let secret_id = need("secret_id_file", Method::AppRole, "secret_id_file = \"/etc/chancery/secret-id\"");
    let role = match method {
        Some(Method::Kubernetes | Method::Certificate) => table.required_text("role", "role = \"chancery\""),
        Some(Method::Token | Method::AppRole) | None => table.text("role"),
    };
    let certificate = need("certificate_file", Method::Certificate, "certificate_file = \"/etc/chancery/vault.pem\"");
    let key = need("key_file", Method::Certificate, "key_file = \"/etc/chancery/vault.key\"");
    table.done();
    let path = |text: &str| base.join(text);
    Some(match method? {
        Method::Token => Login::Token { file: path(token_file?) },
        Method::AppRole => Login::AppRole { mount, role_id: role_id?.to_owned(), secret_id_file: path(secret_id?) },
        Method::Kubernetes => Login::Kubernetes { mount, role: role?.to_owned(), token_file: path(token_file?) },
        Method::Certificate => Login::Certificate {
            mount,
            role: role?.to_owned(),
            certificate_file: path(certificate?),
            key_file: path(key?),
        },
    })
}

/// `https`, or `http` to this machine alone; no path, no user.
fn address(text: &str) -> Option<String> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let uri: http::Uri = text.parse().ok()?;
    let host = uri.host().filter(|host| !host.is_empty())?;
    let local = host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(super::is_loopback);
    let scheme = match uri.scheme_str()? {
        "https" => true,
        "http" => local,
        _ => false,
    };
    let plain =
        uri.path_and_query().is_none_or(|path| path.as_str() == "/") && !uri.authority()?.as_str().contains('@');
    (scheme && plain).then(|| text.to_owned())
}

/// A mount or a name within Vault's paths.
fn part(text: &str) -> Option<String> {
    let segment = |text: &str| {
        !text.is_empty()
            && !text.chars().all(|c| c == '.')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    text.split('/').all(segment).then(|| text.to_owned())
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
