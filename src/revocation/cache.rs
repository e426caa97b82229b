//! CRLs in files, `DIR/crl/<issuer key id>.crl`, so that a restart sends every proxy what it has already.
//!
//! A view: whatever is wrong with a file, the CRL is made anew. Taken back is only what the issuer signed, what is not
//! older than the ledger's newest, and what has every certificate on it that must be.

use std::path::{Path, PathBuf};

use tracing::warn;

use crate::store::CrlRow;
use crate::x509::chain::Issuer;
use crate::x509::crl::Crl;

/// What a file's CRL is to the ledger.
pub(super) enum Kept {
    /// The newest that was recorded.
    Recorded(Crl),
    /// Newer than that: made while the ledger took no records.
    Unrecorded(Crl),
}

fn path(directory: &Path, key_id: &str) -> PathBuf {
    directory.join(format!("{key_id}.crl"))
}

/// The file's CRL, if it can be trusted against what the ledger says.
pub(super) fn read(directory: &Path, issuer: &Issuer, row: Option<&CrlRow>) -> Option<Kept> {
    let der = std::fs::read(path(directory, &hex::encode(issuer.key_id()))).ok()?;
    let crl = Crl::parse(der).ok().filter(|crl| crl.verify(issuer).is_ok())?;
    let (number, hash) = row.map(|row| (row.number, row.tbs_sha256.as_str())).unwrap_or_default();
    if crl.number() > number {
        return Some(Kept::Unrecorded(crl));
    }
    (crl.number() == number && hex::encode(crl.tbs_sha256()) == hash).then_some(Kept::Recorded(crl))
}

/// Keeps `crl`; a failure costs one push to everyone at the next start.
pub(super) fn write(directory: &Path, key_id: &str, crl: &Crl) {
    let file = path(directory, key_id);
    let new = directory.join(format!("{key_id}.new"));
    let written = std::fs::create_dir_all(directory)
        .and_then(|()| std::fs::write(&new, crl.der()))
        .and_then(|()| std::fs::rename(&new, &file));
    if let Err(error) = written {
        warn!(path = %file.display(), %error, "a CRL could not be kept; the next start makes it anew");
        drop(std::fs::remove_file(&new));
    }
}

/// Forgets the CRL of an authority that is gone.
pub(super) fn remove(directory: &Path, key_id: &str) {
    drop(std::fs::remove_file(path(directory, key_id)));
}
