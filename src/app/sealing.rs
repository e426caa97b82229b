//! Opens the sealed keys with their sealing key, wherever that is, and moves them to another (`chancery ca reseal`, with the
//! server stopped).

use std::path::Path;

use super::AppError;
use super::directory::DataDirectory;
use super::state::LEDGER_KEY;
use crate::audit::event::{Action, Change, Event, Outcome, Recorder, Source};
use crate::audit::ledger::{CheckpointKey, Ledger, LedgerOptions, Position};
use crate::clock::Clock;
use crate::config::{SealingKey, Settings};
use crate::entropy::Entropy;
use crate::keys::authority::{AuthorityKeys, InVault};
use crate::keys::reseal::{Reseal, Target, open_in_vault};
use crate::keys::sealed::SealedStore;
use crate::keys::vault::Transit;
use crate::tasks::Tasks;

/// How long the ledger's threads and Vault's session have to end.
const LAST: std::time::Duration = std::time::Duration::from_secs(30);

/// The Vault that holds keys, where the configuration names one; its tasks go on until `tasks` stops.
pub(super) fn transit(settings: &Settings, (clock, entropy): (&Clock, &Entropy), tasks: &Tasks) -> Option<Transit> {
    let vault = settings.key_vault.as_ref()?;
    Some(Transit::start(vault.transit.clone(), clock.clone(), entropy.clone(), tasks))
}

/// The sealed keys.
pub(super) async fn open(
    settings: &Settings,
    directory: &DataDirectory,
    transit: Option<&Transit>,
) -> Result<SealedStore, AppError> {
    let keys = directory.path().join("keys");
    if let Some(transit) = transit.filter(|_| settings.key_vault.as_ref().is_some_and(|vault| vault.sealing)) {
        return Ok(open_in_vault(&keys, transit).await?);
    }
    let elsewhere = settings.sealing_key.as_ref().map(SealingKey::path).transpose()?;
    Ok(SealedStore::open(&keys, elsewhere.as_deref())?)
}

/// With those in Vault.
pub(super) fn authority_keys(settings: &Settings, sealed: SealedStore, transit: Option<Transit>) -> AuthorityKeys {
    let levels = settings.key_vault.as_ref().map(|vault| vault.levels.clone()).unwrap_or_default();
    AuthorityKeys::new(sealed, transit.map(|transit| InVault { transit, levels }))
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resealed {
    /// Where the sealing key is now, in words.
    pub place: String,
    /// Its identifier.
    pub sealing_key: String,
    /// How many keys are sealed under it.
    pub keys: usize,
    /// The record of it.
    pub record: Position,
}

/// Seals all keys under a sealing key where `settings` want it; `from` is the file of the present one, where that is neither
/// beside the keys nor in Vault's hands. A try that was cut off goes on.
///
/// # Errors
/// When a server runs there, a sealing key is missing, Vault does not help, or the disk refuses.
pub async fn reseal(settings: &Settings, from: Option<&Path>, clock: Clock) -> Result<Resealed, AppError> {
    let (directory, trust_domain) = DataDirectory::existing(&settings.data_dir)?;
    let (tasks, entropy) = (Tasks::new(), Entropy::system());
    let transit = transit(settings, (&clock, &entropy), &tasks);
    let (target, place) = match (&settings.sealing_key, &settings.key_vault) {
        (Some(file), _) => (Target::File(file.path()?), format!("{}", file.path()?.display())),
        (None, Some(vault)) if vault.sealing => {
            let name = transit.as_ref().map(|transit| transit.name().to_owned()).unwrap_or_default();
            (Target::Vault, format!("wrapped by {name}"))
        }
        (None, _) => (Target::Beside, "beside the keys".to_owned()),
    };
    let reseal = Reseal::begin(&directory.path().join("keys"), target, from, transit.as_ref()).await?;
    let key = CheckpointKey::from_pkcs8(&reseal.secret(LEDGER_KEY)?)?;
    let path = directory.path().join("ledger");
    let options = LedgerOptions { lifecycle_records: false, ..LedgerOptions::new(path, trust_domain.as_str(), key) };
    let recorder = Recorder::new(entropy);
    let (ledger, _) = Ledger::open(options, clock.clone(), &recorder, &tasks).await?;
    let record = ledger.append(event(&recorder, &clock, &reseal, &place)).await?;
    ledger.close().await?;
    drop(ledger);
    let (keys, sealing_key) = (reseal.count(), reseal.ids().1);
    reseal.carry_out()?;
    tasks.drain(LAST).await;
    Ok(Resealed { place, sealing_key, keys, record })
}

fn event(recorder: &Recorder, clock: &Clock, reseal: &Reseal, place: &str) -> Event {
    let mut event = recorder.event(Action::KeyChange, Outcome::Success, clock.now());
    event.reason = Some("reseal".to_owned());
    event.source = Some(Source { uid: Some(nix::unistd::getuid().as_raw()), ..Source::default() });
    let (before, after) = reseal.ids();
    let count = u64::try_from(reseal.count()).ok();
    event.change = Some(Change {
        what: format!("sealing key, {place}"),
        before: (!before.is_empty()).then(|| before.join(" ")),
        after: Some(after),
        count,
    });
    event
}
