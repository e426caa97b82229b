//! Reads where a Vault is and how to log in there, the same under each table that names one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{SettingError, VaultKeys};
use crate::keys::vault::TransitSettings;
use crate::toml_reader::Table;
use crate::vault::{Connection, Login};
use crate::x509::profile::Level;

/// The longest time between two looks at the keys.
const LONGEST_LOOK: Duration = Duration::from_secs(3_600);

/// The longest that one request may be given.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(300);

/// The ways to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Token,
    AppRole,
    Kubernetes,
    Certificate,
}

/// `None` where no address is written; `others` are the table's own keys, which mean nothing without one.
pub(super) fn connection(table: &Table<'_, '_>, base: &Path, others: &[&str]) -> Option<Connection> {
    let address = table.parsed("address", |text| address(text).ok_or(SettingError::VaultAddress));
    let below = table.table("login");
    let without = ["namespace", "ca_file", "timeout"];
    let is_orphan = others.iter().chain(&without).any(|key| table.has(key)) || !below.is_empty();
    if !table.has("address") && is_orphan {
        table.note_whole(&SettingError::NoVaultAddress);
    }
    let login = login(&below, base, table.has("address"));
    let connection = Connection {
        address: address.clone().unwrap_or_default(),
        namespace: table.text("namespace").map(str::to_owned),
        ca_file: table.text("ca_file").map(|path| base.join(path)),
        timeout: table.span("timeout", Duration::from_secs(1)..=LONGEST_TIMEOUT).unwrap_or(Duration::from_secs(10)),
        // Without a method a mistake was noted, and nothing is started.
        login: login.unwrap_or(Login::Token { file: PathBuf::new() }),
    };
    address.map(|_| connection)
}

/// Whose the root is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RootOf {
    /// This server's own.
    ThisServer,
    /// An upstream's.
    Upstream,
}

/// The keys of `[keys.vault]` that mean nothing without an address.
const OF_KEYS: [&str; 5] = ["mount", "prefix", "authorities", "look_every", "sealing"];

/// `[keys.vault]`; `None` where no address is written.
pub(super) fn keys(keys: &Table<'_, '_>, base: &Path, root: RootOf) -> Option<VaultKeys> {
    let table = keys.table("vault");
    let connection = connection(&table, base, &OF_KEYS);
    let mount = text(&table, "mount", "transit");
    let prefix = table.parsed("prefix", |text| part(text).filter(|t| !t.contains('/')).ok_or(SettingError::VaultPath));
    let look_every = table.span("look_every", Duration::from_secs(1)..=LONGEST_LOOK).unwrap_or(LONGEST_LOOK / 60);
    let levels = levels(&table, root);
    let sealing = table.flag("sealing").unwrap_or(false);
    if sealing && keys.has("sealing_key") {
        table.note("sealing", &SettingError::TwoSealings);
    }
    table.done();
    let transit = TransitSettings {
        connection: connection?,
        mount,
        prefix: prefix.unwrap_or_else(|| "chancery-".to_owned()),
        look_every,
    };
    Some(VaultKeys { transit, levels, sealing })
}

/// The levels whose keys are made there.
fn levels(table: &Table<'_, '_>, root: RootOf) -> Vec<Level> {
    let Some(words) = table.texts("authorities") else {
        return match root {
            RootOf::ThisServer => vec![Level::Root],
            RootOf::Upstream => Vec::new(),
        };
    };
    let mut levels = Vec::new();
    for (entry, word) in words {
        match (word, root) {
            ("root", RootOf::ThisServer) => levels.push(Level::Root),
            ("root", RootOf::Upstream) => table.note_entry("authorities", entry, &SettingError::VaultRootAbove),
            ("issuing", _) => levels.push(Level::Issuing),
            _ => table.note_entry("authorities", entry, &SettingError::VaultAuthority),
        }
    }
    levels
}

/// A mount or a name in it, by default `default`.
pub(super) fn text(table: &Table<'_, '_>, key: &'static str, default: &str) -> String {
    let text = table.parsed(key, |text| part(text).ok_or(SettingError::VaultPath));
    text.unwrap_or_else(|| default.to_owned())
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
pub(super) fn part(text: &str) -> Option<String> {
    let segment = |text: &str| {
        !text.is_empty()
            && !text.chars().all(|c| c == '.')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    text.split('/').all(segment).then(|| text.to_owned())
}
