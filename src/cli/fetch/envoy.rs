//! Two files beside the certificate, so that an Envoy on another machine can use it towards its SDS cluster.
//!
//! Envoy reads certificates of static resources once; a secret that lies in a file is followed instead, by the directory
//! that it names (`watched_directory`): the rename of the link that [`super::files`] swaps is what Envoy sees. So these
//! files never change. `envoy bootstrap --sds-server` names them. Revocation lists are left out on purpose: Envoy could
//! not fetch new ones from a server that it refuses because the old ones have ended.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::json;

use super::FilesError;
use crate::feed::payload::SECRET_TYPE;

/// The file with the certificate's secret, of the name [`CERTIFICATE_SECRET`].
pub(crate) const CERTIFICATE_FILE: &str = "envoy-certificate.json";

/// The file with the roots' secret, of the name [`ROOTS_SECRET`].
pub(crate) const ROOTS_FILE: &str = "envoy-roots.json";

/// The name of the secret in [`CERTIFICATE_FILE`].
pub(crate) const CERTIFICATE_SECRET: &str = "chancery-client";

/// The name of the secret in [`ROOTS_FILE`].
pub(crate) const ROOTS_SECRET: &str = "chancery-roots";

/// Writes both files into `dir`, which is absolute, unless they are there as they must be.
pub(super) fn write_files(dir: &Path) -> Result<(), FilesError> {
    let file = |name: &str| json!({"filename": dir.join(name)});
    let watched = json!({"path": dir});
    let certificate = json!({"tls_certificate": {
        "certificate_chain": file("cert.pem"),
        "private_key": file("key.pem"),
        "watched_directory": watched,
    }});
    let roots = json!({"validation_context": {"trusted_ca": file("bundle.pem"), "watched_directory": watched}});
    for (path, name, mut secret) in
        [(CERTIFICATE_FILE, CERTIFICATE_SECRET, certificate), (ROOTS_FILE, ROOTS_SECRET, roots)]
    {
        let path = dir.join(path);
        if let Some(fields) = secret.as_object_mut() {
            fields.insert("@type".to_owned(), SECRET_TYPE.into());
            fields.insert("name".to_owned(), name.into());
        }
        let text = format!("{:#}\n", json!({"resources": [secret]}));
        if std::fs::read_to_string(&path).is_ok_and(|there| there == text) {
            continue;
        }
        let written = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path);
        written
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|source| FilesError::Io { path: path.clone(), source })?;
    }
    Ok(())
}
