//! What a started server tells its operator.

use std::path::Path;
use std::sync::Arc;

use super::addresses::Addresses;
use super::state::State;
use crate::ca::slot::{Authority, Level};
use crate::caller::UnixPeer;
use crate::cli::up::{AuthoritySummary, LedgerSummary, Origin, SdsSummary, UpSummary};
use crate::config::Settings;
use crate::policy::Wanted;
use crate::policy::schedule::AuthorityTimes;
use crate::x509::KeyAlgorithm;

/// Puts it together; `None` while there is no active authority, which a started server always has.
pub(super) fn summary(state: &State, settings: &Settings, addresses: &Addresses) -> Option<UpSummary> {
    let authorities = state.street.authorities();
    let authorities = authorities.borrow();
    let data = &settings.data_dir;
    Some(UpSummary {
        trust_domain: settings.trust_domain.to_string(),
        data_dir: data.display().to_string(),
        root: authority(state, settings, &authorities.active_root()?),
        issuing: authority(state, settings, &authorities.active()?),
        ledger: LedgerSummary {
            origin: if state.opened.created { Origin::Made } else { Origin::Kept },
            name: state.opened.origin.clone(),
            records: state.opened.size,
            vkey_path: data.join("ledger").join(&state.opened.log).join("vkey").display().to_string(),
        },
        sds: settings.sds.listen.iter().map(|s| socket(state, &s.name, s.path.as_path())).collect(),
        sds_tcp: addresses.sds_tcp.iter().map(|port| (port.name.clone(), port.address)).collect(),
        http: addresses.http.map(|address| format!("http://{address}")),
        demo: Path::new("deploy/demo/run").exists(),
        notes: state.notes.clone(),
    })
}

fn authority(state: &State, settings: &Settings, authority: &Arc<Authority>) -> AuthoritySummary {
    let longest_leaf = state.street.policy().longest_lifetime();
    let times = AuthorityTimes::new(settings.ca.issuing.lifetime, longest_leaf).ok();
    let issuing = authority.name().level == Level::Issuing;
    let keys = settings.data_dir.join("keys");
    AuthoritySummary {
        origin: if state.made.contains(&authority.name()) { Origin::Made } else { Origin::Kept },
        algorithm: people_call(authority.issuer().key().algorithm()).to_owned(),
        not_after: authority.issuer().not_after(),
        rolls_over: times.filter(|_| issuing).map(|times| times.prepare_at(&authority.slot(longest_leaf))),
        key_path: (!issuing && authority.upstream().is_none()).then(|| keys.display().to_string()),
        upstream: authority.upstream().map(str::to_owned),
    }
}

/// What our own uid gets on this socket, so that the first command to try is the right one.
fn socket(state: &State, name: &str, path: &Path) -> SdsSummary {
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let peer =
        UnixPeer { socket: name.to_owned(), uid, gid, groups: Vec::new(), pid: std::process::id(), started: None };
    let evidence = crate::caller::Evidence::UnixPeer(peer);
    let explained = state.street.policy().explain(&evidence, &Wanted::Default);
    SdsSummary { name: name.to_owned(), path: path.display().to_string(), own: Some((uid, explained.granted)) }
}

/// The name of a key's algorithm on screens.
fn people_call(algorithm: KeyAlgorithm) -> &'static str {
    match algorithm {
        KeyAlgorithm::P256 => "P-256",
        KeyAlgorithm::P384 => "P-384",
        KeyAlgorithm::Ed25519 => "Ed25519",
        KeyAlgorithm::Rsa2048 => "RSA 2048",
        KeyAlgorithm::Rsa3072 => "RSA 3072",
        KeyAlgorithm::Rsa4096 => "RSA 4096",
        KeyAlgorithm::MlDsa44 => "ML-DSA-44",
        KeyAlgorithm::MlDsa65 => "ML-DSA-65",
        KeyAlgorithm::MlDsa87 => "ML-DSA-87",
    }
}
