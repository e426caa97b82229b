//! The policy in force, kept beside the ledger where another policy takes a second operator.
//!
//! The ledger has the hash of what is in force and the file may hold something else by the next start: without this copy a
//! restart would put in force what nobody granted. The copy counts only while its hash is the recorded one. Where no act
//! on the policy is guarded nothing is written and the file decides, as ever.

use std::path::{Path, PathBuf};

use tracing::{error, warn};

use crate::approval::Guarded;
use crate::config::Settings;
use crate::config::files::policy_of_text;
use crate::policy::Policy;
use crate::secret::{read_private, write_private};
use crate::store::{Store, StoreError};

/// The copy's place.
fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("policy-in-force.toml")
}

/// Keeps `policy`, before it is recorded: a crash leaves a copy that nothing names, or the one that is in force.
pub(super) fn keep(data_dir: &Path, policy: &Policy) {
    if let Err(failure) = write_private(&path(data_dir), policy.text().as_bytes()) {
        error!(error = %failure, "the policy in force could not be kept: a restart would take the file as it is then");
    }
}

/// The policy that a start begins with: that of the file, or the kept one where the file holds another that was not
/// granted. The watch of the file says no to it, on record.
pub(super) fn at_start(settings: &Settings, store: &dyn Store, file: Policy) -> Result<Policy, StoreError> {
    if !settings.admin.approval.guards(Guarded::Policy) {
        return Ok(file);
    }
    let recorded = store.configured("policy")?;
    let recorded = recorded.filter(|hash| hash != file.hash_hex());
    let kept = recorded.and_then(|hash| kept(settings).filter(|kept| kept.hash_hex() == hash));
    match kept {
        Some(kept) => {
            warn!(kept = kept.hash_hex(), file = file.hash_hex(), "the policy file changed while the server was down");
            Ok(kept)
        }
        None => {
            keep(&settings.data_dir, &file);
            Ok(file)
        }
    }
}

fn kept(settings: &Settings) -> Option<Policy> {
    let path = path(&settings.data_dir);
    let text = String::from_utf8(read_private(&path).ok()?.expose().to_vec()).ok()?;
    policy_of_text(&path, &text, &settings.trust_domain, Some(&settings.socket_names())).ok()
}
