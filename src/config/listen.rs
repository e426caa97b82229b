//! Where SDS is served: Unix sockets, TCP ports, and what clients call the secrets.
//!
//! An entry of `[[sds.listen]]` has a name and a path, an address, or both: then a socket and a port share the name, which
//! is all that rules see of either.

use std::net::SocketAddr;
use std::path::Path;

use super::{LONGEST_SOCKET_NAME, MOST_SOCKETS, SettingError, SocketPath};
use crate::feed::SdsNames;
use crate::identity::LONGEST_ID;
use crate::policy::ADMIN_SOCKET;
use crate::toml_reader::Table;

/// SDS sockets and names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SdsSettings {
    /// The Unix sockets; at least one, or a port.
    pub listen: Vec<SdsSocket>,
    /// The TCP ports, where clients show a certificate.
    pub tcp: Vec<SdsPort>,
    /// What clients call the secrets.
    pub names: SdsNames,
}

/// One SDS socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SdsSocket {
    /// Its name: a fact for rules. Letters, digits, dots, dashes and underscores, so that it fits a SPIFFE ID.
    pub name: String,
    /// Where it is.
    pub path: SocketPath,
    /// Its permission bits.
    pub mode: u32,
}

/// One TCP port for SDS with mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SdsPort {
    /// Its name: a fact for rules, as an [`SdsSocket`]'s; a socket and a port may share one.
    pub name: String,
    /// Where it is; port 0 takes a free one.
    pub address: SocketAddr,
}

/// Reads `[sds]`.
pub(super) fn sds(table: &Table<'_, '_>, base: &Path, admin: Option<&SocketPath>) -> SdsSettings {
    let tables = table.tables("listen");
    if tables.is_empty() && !table.has("listen") {
        table.note("listen", &SettingError::NoSocket);
    }
    let (mut sockets, mut ports) = (Vec::new(), Vec::new());
    for entry in &tables {
        let name = entry.required_text("name", "name = \"sds\"");
        let path = entry.parsed("path", |path| {
            // An address is told before it is taken for a path below the base.
            let name = name.unwrap_or("sds");
            SocketPath::new(Path::new(path), name).and_then(|_| SocketPath::new(&base.join(path), name))
        });
        let mode = entry.parsed("mode", parse_mode);
        let address = entry.parsed("address", |text| text.parse().map_err(|_| SettingError::Address));
        match (entry.has("path"), entry.has("address")) {
            (false, false) => entry.note("path", &SettingError::NoPlace),
            (false, true) if entry.has("mode") => entry.note("mode", &SettingError::ModeWithoutPath),
            (false, true) | (true, _) => {}
        }
        entry.done();
        let Some(name) = name.map(str::to_owned) else { continue };
        if let Some(path) = path {
            sockets.push((entry, SdsSocket { name: name.clone(), path, mode: mode.unwrap_or(DEFAULT_MODE) }));
        }
        if let Some(address) = address {
            ports.push((entry, SdsPort { name, address }));
        }
    }
    let (read, listen): (Vec<_>, Vec<_>) = sockets.into_iter().unzip();
    for (index, problem) in socket_problems(&listen, admin) {
        let key = if matches!(problem, SettingError::DuplicatePath) { "path" } else { "name" };
        if let Some(entry) = read.get(index) {
            entry.note(key, &problem);
        }
    }
    let (read, tcp): (Vec<_>, Vec<_>) = ports.into_iter().unzip();
    for (index, problem) in port_problems(&tcp) {
        let key = if matches!(problem, SettingError::DuplicateAddress) { "address" } else { "name" };
        // What is wrong with the name of both was told of the socket.
        if let Some(entry) = read.get(index).filter(|entry| key == "address" || !entry.has("path")) {
            entry.note(key, &problem);
        }
    }
    let names = names(&table.table("names"));
    table.done();
    SdsSettings { listen, tcp, names }
}

/// Octal permission bits that let somebody connect (which needs the right to write; unix(7)).
pub(super) fn parse_mode(text: &str) -> Result<u32, SettingError> {
    let mode = u32::from_str_radix(text, 8).map_err(|_| SettingError::Mode)?;
    if mode <= 0o777 && mode & 0o600 == 0o600 { Ok(mode) } else { Err(SettingError::Mode) }
}

fn names(table: &Table<'_, '_>) -> SdsNames {
    let mut taken: Vec<String> = Vec::new();
    let mut name = |key, default: String| {
        let read = |text: &str| match text.len() {
            1..=LONGEST_ID => Ok(text.to_owned()),
            _ => Err(SettingError::SecretName),
        };
        let name = table.parsed(key, read).unwrap_or(default);
        if taken.contains(&name) {
            table.note(key, &SettingError::DuplicateSecret);
        }
        taken.push(name.clone());
        name
    };
    let defaults = SdsNames::default();
    let names = SdsNames {
        default: name("default", defaults.default),
        bundle: name("bundle", defaults.bundle),
        all_bundles: name("all_bundles", defaults.all_bundles),
    };
    table.done();
    names
}

/// The permission bits of a socket where nothing else is said.
pub(super) const DEFAULT_MODE: u32 = 0o660;

/// What is wrong with the sockets, each with its place in the list.
pub(super) fn socket_problems(listen: &[SdsSocket], admin: Option<&SocketPath>) -> Vec<(usize, SettingError)> {
    let mut problems = Vec::new();
    for (index, socket) in listen.iter().enumerate() {
        let earlier = || listen.iter().take(index);
        let name = &socket.name;
        if !is_socket_name(name) {
            problems.push((index, SettingError::SocketName));
        } else if name == ADMIN_SOCKET {
            problems.push((index, SettingError::ReservedName));
        } else if earlier().any(|other| other.name == *name) {
            problems.push((index, SettingError::DuplicateName));
        }
        if admin == Some(&socket.path) || earlier().any(|other| other.path == socket.path) {
            problems.push((index, SettingError::DuplicatePath));
        }
    }
    if listen.len() > MOST_SOCKETS {
        problems.push((MOST_SOCKETS, SettingError::TooManySockets { count: listen.len() }));
    }
    problems
}

/// What is wrong with the ports, each with its place in the list.
pub(super) fn port_problems(ports: &[SdsPort]) -> Vec<(usize, SettingError)> {
    let mut problems = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let earlier = || ports.iter().take(index);
        if !is_socket_name(&port.name) {
            problems.push((index, SettingError::SocketName));
        } else if port.name == ADMIN_SOCKET {
            problems.push((index, SettingError::ReservedName));
        } else if earlier().any(|other| other.name == port.name) {
            problems.push((index, SettingError::DuplicateName));
        }
        if port.address.port() != 0 && earlier().any(|other| other.address == port.address) {
            problems.push((index, SettingError::DuplicateAddress));
        }
    }
    if ports.len() > MOST_SOCKETS {
        problems.push((MOST_SOCKETS, SettingError::TooManySockets { count: ports.len() }));
    }
    problems
}

/// Whether a name can be a segment of an identity's path; SPIFFE-ID section 2.2.
pub(super) fn is_socket_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    name.len() <= LONGEST_SOCKET_NAME && name.chars().all(fits) && !name.chars().all(|c| c == '.')
}
