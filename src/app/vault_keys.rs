//! What an operator is told of authorities' keys in Vault, and the record of what others did to them there.
//!
//! `keys::vault` sees; this follows, records (`key.change`) and puts into words until when everything lasts. Nothing here
//! signs or asks Vault.

use std::collections::BTreeMap;
use std::sync::Arc;

use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::audit::event::{Action, Change, Event, Outcome, Recorder};
use crate::audit::ledger::Ledger;
use crate::ca::slot::{Authorities, Authority, Level};
use crate::clock::{Clock, rfc3339_seconds};
use crate::keys::vault::{Answering, Standing, State, Transit};
use crate::revocation::CrlSet;

/// Records each change that is seen, until `stopping`.
pub(super) struct Follower {
    pub(super) transit: Transit,
    pub(super) ledger: Ledger,
    pub(super) recorder: Recorder,
    pub(super) authorities: tokio::sync::watch::Receiver<Arc<Authorities>>,
    pub(super) clock: Clock,
}

impl Follower {
    pub(super) async fn run(self, stopping: CancellationToken) {
        let mut standings = self.transit.standings();
        let mut known: BTreeMap<String, Standing> = BTreeMap::new();
        loop {
            tokio::select! {
                changed = standings.changed() => if changed.is_err() { return },
                () = stopping.cancelled() => return,
            }
            let seen = standings.borrow_and_update().clone();
            for (name, standing) in seen {
                let before = known.get(&name).map_or(&State::Good, |known| &known.state);
                if *before == standing.state {
                    continue;
                }
                let event = self.event(&name, before, &standing);
                match self.ledger.append(event).await {
                    Ok(position) => {
                        warn!(key = standing.path, state = words(&standing), %position, "a key in Vault was changed there")
                    }
                    Err(failure) => {
                        // It stays unknown, so that the next look records it.
                        error!(key = standing.path, error = %failure, "what became of a key in Vault could not be recorded");
                        continue;
                    }
                }
                known.insert(name, standing);
            }
        }
    }

    fn event(&self, name: &str, before: &State, now: &Standing) -> Event {
        let outcome = if matches!(now.state, State::Unusable { .. }) { Outcome::Failure } else { Outcome::Success };
        let mut event = self.recorder.event(Action::KeyChange, outcome, self.clock.now());
        let authorities = self.authorities.borrow();
        let authority = authorities.iter().find(|authority| authority.name().key_file() == name);
        event.authority = authority.map(|authority| authority.facts(authority.state()));
        event.reason = Some("seen-in-vault".to_owned());
        let word = |state: &State| match state {
            State::Good => format!("version {}", now.pinned),
            State::Rotated { latest } => format!("version {} of {latest}", now.pinned),
            State::Unusable { why } => (*why).to_owned(),
        };
        let what = format!("{} {}", self.transit.name(), now.path);
        event.change = Some(Change { what, before: Some(word(before)), after: Some(word(&now.state)), count: None });
        event
    }
}

fn words(standing: &Standing) -> String {
    match &standing.state {
        State::Good => "usable again".to_owned(),
        State::Rotated { latest } => format!("rotated to version {latest}, signing goes on with {}", standing.pinned),
        State::Unusable { why } => format!("cannot sign any more: {why}"),
    }
}

/// What is wrong with the keys in Vault, each a sentence with its remedy and until when it lasts.
pub(super) fn problems(transit: &Transit, authorities: &Authorities, crls: &CrlSet) -> Vec<String> {
    let mut said = Vec::new();
    let holds = |authority: &&Arc<Authority>| {
        let file = authority.name().key_file();
        transit.open_keys().iter().any(|key| key.name() == file)
    };
    let held: Vec<&Arc<Authority>> = authorities.iter().filter(holds).collect();
    if let Answering::No { since, why } = &*transit.answering().borrow()
        && !held.is_empty()
    {
        let issuing = held.iter().any(|authority| authority.name().level == Level::Issuing && authority.is_active());
        let certificates =
            if issuing { "no certificate is issued meanwhile, and those that were go on" } else { "issuing goes on" };
        let lasts = lasts(held.iter().copied(), crls);
        said.push(format!("Vault does not sign since {} ({why}): {certificates}{lasts}", rfc3339_seconds(*since)));
    }
    for (name, standing) in &*transit.standings().borrow() {
        let authority = authorities.iter().find(|authority| authority.name().key_file() == *name);
        let Some(authority) = authority else { continue };
        let lasts = lasts(std::iter::once(authority), crls);
        let name = authority.name();
        match &standing.state {
            State::Good => {}
            State::Rotated { latest } => said.push(format!(
                "the key of {name} was rotated in Vault: {} has version {latest}, signing goes on with {}. If nobody \
                 meant that, look for an intruder",
                standing.path, standing.pinned
            )),
            State::Unusable { why } => said.push(format!(
                "the key of {name} in Vault ({}) cannot sign any more: {why}; put it back, or make the next one: chancery ca \
                 rotate {}{lasts}",
                standing.path,
                crate::ca::slot::word(name.level)
            )),
        }
    }
    said
}

/// `; the CRL of issuing 1 ends at …, when every handshake fails`.
fn lasts<'a>(held: impl Iterator<Item = &'a Arc<Authority>>, crls: &CrlSet) -> String {
    let ends = held.filter_map(|authority| {
        let list = crls.of(&hex::encode(authority.issuer().key_id()))?;
        Some((list.crl.next_update(), authority.name()))
    });
    let first: Option<(OffsetDateTime, _)> = ends.min_by_key(|(end, _)| *end);
    first.map_or_else(String::new, |(end, name)| {
        format!("; the CRL of {name} ends at {}, when every handshake fails", rfc3339_seconds(end))
    })
}
