//! `addresses.json`: where a running server really listens.
//!
//! Written whole once everything is bound, removed on a clean stop. A file that a killed server left behind names a
//! process that is gone; readers find that out when they connect.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::identity::TrustDomain;
use crate::secret::{SecretFileError, write_private};

/// The number of the file's form.
pub const SCHEMA: u32 = 1;

/// The file's name in the data directory.
pub const FILE: &str = "addresses.json";

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The server's process id.
    pub pid: u32,
    /// Whose identities it issues.
    pub trust_domain: TrustDomain,
    /// The HTTP address; absent when HTTP is off.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub http: Option<SocketAddr>,
    /// The admin socket.
    pub admin: PathBuf,
    /// The admin port; absent when there is none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub admin_tcp: Option<SocketAddr>,
    /// The SDS sockets, in the order of configuration.
    pub sds: Vec<SdsAddress>,
    /// The SDS ports with their real addresses, in the order of configuration.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub sds_tcp: Vec<SdsTcpAddress>,
}

/// One SDS socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SdsAddress {
    /// Its name: a fact for rules.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

/// One SDS port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SdsTcpAddress {
    /// Its name: a fact for rules.
    pub name: String,
    /// Where it is.
    pub address: SocketAddr,
}

/// Why the file of a data directory says nothing.
#[derive(Debug, thiserror::Error)]
pub enum AddressesError {
    /// It is not there: no server runs there, or it is still starting.
    #[error("no server runs in {directory}: start one with chancery up --data-dir {directory}", directory = directory.display())]
    NoServer {
        /// The data directory.
        directory: PathBuf,
    },
    /// It cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is not what we write.
    #[error("{path} is not what chancery writes: {source}. Stop the server, remove the file, start again", path = path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

impl Addresses {
    /// Reads the file of a data directory.
    ///
    /// # Errors
    /// [`AddressesError`].
    pub fn read(directory: &Path) -> Result<Self, AddressesError> {
        let path = directory.join(FILE);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|source| AddressesError::Form { path, source }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(AddressesError::NoServer { directory: directory.to_owned() })
            }
            Err(source) => Err(AddressesError::Io { path, source }),
        }
    }
}

/// The file while the server runs; dropping it removes it.
#[derive(Debug)]
pub(super) struct AddressesFile(PathBuf);

impl AddressesFile {
    pub(super) fn write(directory: &Path, addresses: &Addresses) -> Result<Self, SecretFileError> {
        let path = directory.join(FILE);
        let text = serde_json::to_vec_pretty(addresses)
            .map_err(|error| SecretFileError::Io { path: path.clone(), source: error.into() })?;
        write_private(&path, &text)?;
        Ok(Self(path))
    }
}

impl Drop for AddressesFile {
    fn drop(&mut self) {
        // A file that stays is harmless: it names a process that is gone.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_where_and_is_gone_afterwards() {
        let directory = tempfile::tempdir().unwrap();
        let addresses = Addresses {
            schema: SCHEMA,
            pid: 1,
            trust_domain: TrustDomain::parse("example.org").unwrap(),
            http: Some(([127, 0, 0, 1], 80).into()),
            admin: "/a".into(),
            admin_tcp: Some(([127, 0, 0, 1], 82).into()),
            sds: vec![SdsAddress { name: "sds".into(), path: "/b".into() }],
            sds_tcp: vec![SdsTcpAddress { name: "mesh".into(), address: ([127, 0, 0, 1], 81).into() }],
        };
        let file = AddressesFile::write(directory.path(), &addresses).unwrap();
        assert_eq!(Addresses::read(directory.path()).unwrap(), addresses);
        drop(file);
        assert!(matches!(Addresses::read(directory.path()), Err(AddressesError::NoServer { .. })));
    }
}
