//! Looks at the keys in Vault, because others may rotate, restrict or delete them there.
//!
//! It changes nothing: what it sees is for who records and alarms it. A rotation is no failure, because signing goes on with
//! the pinned version; a key that is gone or may not sign is one, and it is seen here before the next signature fails.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Reference;
use super::answers::Answers;
use super::api::KeyInfo;
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::vault::kept::Kept;
use crate::vault::{VaultError, Verb};

/// By the key's name here: `issuing-3`.
pub type Standings = BTreeMap<String, Standing>;

/// What was last seen of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its path in Vault.
    pub path: String,
    /// The version that this server uses.
    pub pinned: u64,
    /// What became of it.
    pub state: State,
}

/// What became of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// As it was made.
    Good,
    /// There are newer versions; the pinned one goes on.
    Rotated {
        /// The newest.
        latest: u64,
    },
    /// The pinned version cannot sign any more.
    Unusable {
        /// Why not, and what to do.
        why: &'static str,
    },
}

/// The task.
pub(super) struct Looker {
    pub(super) kept: Kept,
    pub(super) open: Arc<Mutex<BTreeMap<String, Reference>>>,
    pub(super) standings: watch::Sender<Standings>,
    pub(super) answers: Answers,
    pub(super) clock: Clock,
    pub(super) entropy: Entropy,
    pub(super) every: Duration,
}

impl Looker {
    pub(super) async fn run(self, stopping: CancellationToken) {
        // Whether it was a look that found Vault away, so that a look may find it back.
        let mut is_away = false;
        loop {
            // Up to a tenth less, so that servers do not look all at once.
            let less = f64::from(u32::from_be_bytes(self.entropy.bytes())) / f64::from(u32::MAX) / 10.0;
            tokio::select! {
                () = self.clock.sleep(self.every.mul_f64(1.0 - less)) => {}
                () = stopping.cancelled() => return,
            }
            let open: Vec<Reference> =
                self.open.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
            for reference in open {
                let path = reference.path();
                let seen = tokio::select! {
                    seen = self.kept.call("show a key", Verb::Read, &path, None::<&()>) => seen,
                    () = stopping.cancelled() => return,
                };
                match self.take(&reference, seen) {
                    Ok(()) if !is_away => {}
                    Ok(()) => {
                        is_away = false;
                        self.answers.good();
                    }
                    Err(why) => {
                        is_away = true;
                        self.answers.failed(&why);
                    }
                }
            }
        }
    }

    /// What was seen of a key.
    ///
    /// # Errors
    /// Vault is away, or does not let us look: nothing is known of the key.
    fn take(&self, reference: &Reference, seen: Result<KeyInfo, VaultError>) -> Result<(), VaultError> {
        let state = match seen {
            Ok(info) => state(reference, &info),
            Err(why) if why.is_missing() => State::Unusable { why: "it was deleted in Vault" },
            Err(why) => return Err(why),
        };
        let standing = Standing { path: reference.path(), pinned: reference.version(), state };
        self.standings.send_if_modified(|all| {
            let before = all.insert(reference.name().to_owned(), standing.clone());
            before.as_ref() != Some(&standing)
        });
        Ok(())
    }
}

fn state(reference: &Reference, info: &KeyInfo) -> State {
    let version = reference.version();
    match info.spki(version, reference.algorithm()) {
        Err(_) => {
            State::Unusable { why: "Vault has no such version of it any more (trimmed, or replaced by another key)" }
        }
        Ok(spki) if spki != reference.spki() => State::Unusable { why: "in Vault there is another key under its name" },
        Ok(_) if !info.may_sign(version) => {
            State::Unusable { why: "Vault lets only newer versions of it sign: lower its min_encryption_version" }
        }
        Ok(_) if info.latest_version > version => State::Rotated { latest: info.latest_version },
        Ok(_) => State::Good,
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::x509::KeyAlgorithm;

    #[test]
    fn what_others_did_to_a_key_is_told_apart() {
        let info = |latest: u64, least: u64, versions: &[(u64, u8)]| {
            let keys: Vec<String> = versions
                .iter()
                .map(|(version, byte)| format!(r#""{version}":{{"public_key":"{}"}}"#, STANDARD.encode([*byte; 32])))
                .collect();
            let text = format!(
                r#"{{"type":"ed25519","latest_version":{latest},"min_encryption_version":{least},"keys":{{{}}}}}"#,
                keys.join(",")
            );
            serde_json::from_str::<KeyInfo>(&text).unwrap()
        };
        let spki = info(1, 0, &[(1, 7)]).spki(1, KeyAlgorithm::Ed25519).unwrap();
        let reference = Reference::new("issuing-1", "transit", "k", 1, KeyAlgorithm::Ed25519, spki);
        let unusable = |info: &KeyInfo| matches!(state(&reference, info), State::Unusable { .. });
        assert_eq!(state(&reference, &info(1, 0, &[(1, 7)])), State::Good);
        assert_eq!(state(&reference, &info(2, 0, &[(1, 7), (2, 8)])), State::Rotated { latest: 2 });
        assert_eq!(state(&reference, &info(2, 1, &[(1, 7), (2, 8)])), State::Rotated { latest: 2 });
        assert!(unusable(&info(2, 2, &[(1, 7), (2, 8)])), "v1 may not sign");
        assert!(unusable(&info(2, 0, &[(2, 8)])), "trimmed");
        assert!(unusable(&info(1, 0, &[(1, 8)])), "another key");
    }
}
