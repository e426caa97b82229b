//! Authority keys in Vault's Transit engine: made there, never exported, asked for each signature.
//!
//! A [`Transit`] makes keys and opens those that a [`Reference`] beside the sealed keys names. The reference pins the
//! version whose public half the authority's certificate has: a rotation in Vault makes newer versions, and signing goes on
//! with the pinned one. Opening asks Vault nothing, so a server starts and serves what was issued while Vault is away. Every
//! signature is verified under the public key before anybody gets it. Signatures that are asked for at the same time share
//! a request ([`batch`]); a single one never waits for others. What Vault says of the keys is looked at again and again
//! ([`watch`]). Nothing here is a secret: the token is `crate::vault`'s.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::rand;
use tokio::sync::mpsc;

use super::{KeyError, Signer};
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::tasks::Tasks;
use crate::vault::kept::Kept;
use crate::vault::{Access, Connection, VaultError, Verb};
use crate::x509::KeyAlgorithm;

mod answers;
mod api;
mod batch;
mod reference;
mod signer;
mod watch;
mod wrap;

pub use answers::Answering;
pub use batch::{MOST_AT_ONCE, MOST_IN_BATCH};
pub use reference::{Reference, ReferenceError};
pub use watch::{Standing, Standings, State};
pub use wrap::Wrapped;

use answers::Answers;
use api::{KeyInfo, NewKey};
use batch::{Ask, Batches};
use signer::VaultSigner;

/// The configuration's table of it.
const TABLE: &str = "keys.vault";

/// Where Transit is and what its keys are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransitSettings {
    /// Where Vault is and how to log in.
    pub connection: Connection,
    /// Where the engine is mounted.
    pub mount: String,
    /// What the names of the keys made here begin with.
    pub prefix: String,
    /// How often the keys are looked at.
    pub look_every: Duration,
}

/// Why Vault gave no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransitError {
    /// It did not answer as it should.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// It cannot hold such a key.
    #[error(
        "Vault's Transit engine holds no {algorithm} keys that sign certificates: choose another key for that authority, or keep it sealed"
    )]
    Algorithm {
        /// What was asked for.
        algorithm: KeyAlgorithm,
    },
    /// What it says of the key is no key that can be used.
    #[error("{key} in Vault cannot be used: {why}")]
    Unusable {
        /// Its path in Vault.
        key: String,
        /// Why not.
        why: &'static str,
    },
    /// Other failures of ours.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// The engine as this server uses it; cheap to clone.
#[derive(Debug, Clone)]
pub struct Transit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kept: Kept,
    settings: TransitSettings,
    name: String,
    asks: mpsc::Sender<Ask>,
    answering: tokio::sync::watch::Receiver<Answering>,
    standings: tokio::sync::watch::Receiver<Standings>,
    /// Every key that was opened in this run, for [`watch`].
    open: Arc<Mutex<BTreeMap<String, Reference>>>,
}

impl Transit {
    /// Starts the tasks that keep a session, send signatures and look at the keys. Asks nothing that anybody waits for.
    #[must_use]
    pub fn start(settings: TransitSettings, clock: Clock, entropy: Entropy, tasks: &Tasks) -> Self {
        let access = Access::new(settings.connection.clone(), &settings.mount, TABLE);
        let name = access.name().to_owned();
        let kept = Kept::start(access, clock.clone(), entropy.clone(), tasks);
        let (asks, asked) = mpsc::channel(batch::MOST_WAITING);
        let answers = Answers::new(clock.clone());
        let answering = answers.watch();
        let (standings_sender, standings) = tokio::sync::watch::channel(Standings::default());
        let open = Arc::default();
        let sending = Batches::new(kept.clone(), answers.clone());
        tasks.spawn("keys.vault.sign", sending.run(asked, tasks.stopping()));
        let looking = watch::Looker {
            kept: kept.clone(),
            open: Arc::clone(&open),
            standings: standings_sender,
            answers,
            clock,
            entropy,
            every: settings.look_every,
        };
        tasks.spawn("keys.vault.look", looking.run(tasks.stopping()));
        Self(Arc::new(Inner { kept, settings, name, asks, answering, standings, open }))
    }

    /// What it is called in records and messages: `vault https://vault:8200 transit`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether Vault signs, as far as was seen.
    #[must_use]
    pub fn answering(&self) -> tokio::sync::watch::Receiver<Answering> {
        self.0.answering.clone()
    }

    /// Every key that was opened in this run, by its name here.
    #[must_use]
    pub fn open_keys(&self) -> Vec<Reference> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// What was last seen of each key.
    #[must_use]
    pub fn standings(&self) -> tokio::sync::watch::Receiver<Standings> {
        self.0.standings.clone()
    }

    /// Has Vault make a key for `name` (`issuing-3`) and says where it is. Its name in Vault has a random end, so that two
    /// servers with one mount, or a second try, never mean the same key.
    ///
    /// # Errors
    /// [`TransitError`]. A key may have been made all the same; nothing names it then.
    pub async fn make(&self, name: &str, algorithm: KeyAlgorithm) -> Result<Reference, TransitError> {
        let kind = api::kind(algorithm).ok_or(TransitError::Algorithm { algorithm })?;
        let mut end = [0; 4];
        rand::fill(&mut end).map_err(|_| KeyError::Library { what: "take random bytes" })?;
        let settings = &self.0.settings;
        let key = format!("{}{name}-{}", settings.prefix, hex::encode(end));
        let path = format!("{}/keys/{key}", settings.mount);
        let new = NewKey { kind, exportable: false, allow_plaintext_backup: false };
        self.0.kept.write("make a key", &path, &new).await?;
        let info: KeyInfo = self.0.kept.call("show a key", Verb::Read, &path, None::<&()>).await?;
        let spki = info.spki(info.latest_version, algorithm);
        let unusable = |why| TransitError::Unusable { key: path.clone(), why };
        let spki = spki.map_err(unusable)?;
        if info.exportable || info.allow_plaintext_backup {
            return Err(unusable("it can be exported, although it was asked for as one that cannot"));
        }
        Ok(Reference::new(name, &settings.mount, &key, info.latest_version, algorithm, spki))
    }

    /// The key that `reference` names. Vault is not asked.
    ///
    /// # Errors
    /// [`KeyError`] where its public half is none.
    pub fn open(&self, reference: &Reference) -> Result<Arc<dyn Signer>, KeyError> {
        let signer = VaultSigner::new(reference, self.0.asks.clone())?;
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(reference.name().to_owned(), reference.clone());
        Ok(Arc::new(signer))
    }
}

#[cfg(test)]
mod tests;
