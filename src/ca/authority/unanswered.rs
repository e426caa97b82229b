//! Issuing CAs that were asked for and have no certificate: what a stop between question and answer leaves behind.
//!
//! The newest that the upstream of today was asked for is asked for again, with its key, because the answer may be on its
//! way (an offline CA takes days). All others are given up on record, and only then their sealed keys are removed: nothing
//! was ever signed by them but a request. A key that no record names is left alone, because an older ledger may have been
//! put back beside it.

use tracing::info;

use super::make::asked_for;
use super::{AuthorityError, Keeper};
use crate::audit::event::Action;
use crate::ca::sign::SigningKey;
use crate::ca::slot::{Level, Name, State};
use crate::store::AuthorityRow;
use crate::x509::SubjectKey;

/// Whether that row is an issuing CA without a certificate that was not given up.
pub(super) fn is_unanswered(name: Name, row: &AuthorityRow) -> bool {
    name.level == Level::Issuing && row.certificate.is_none() && row.state == State::Prepared.as_str()
}

impl Keeper {
    /// Gives up what nobody will answer any more.
    pub(super) async fn clear_unanswered(&mut self) -> Result<(), AuthorityError> {
        let upstream = self.parts.upstream.as_ref().map(|upstream| upstream.name().to_owned());
        let mut all = std::mem::take(&mut self.unanswered);
        all.sort_by_key(|row| row.number);
        // What was asked for before the last one that was answered is overtaken.
        let last = self.authorities().at(Level::Issuing).map(|known| known.name().number).max().unwrap_or(0);
        let number = |row: &AuthorityRow| row.name.parse::<Name>().map_or(0, |name| name.number);
        let kept = all.pop_if(|row| upstream.is_some() && row.upstream == upstream && number(row) > last);
        for row in all {
            let Ok(name) = row.name.parse::<Name>() else { continue };
            self.give_up_request(name, row.key_id, row.upstream).await?;
        }
        self.unanswered.extend(kept);
        Ok(())
    }

    /// The issuing CA that `upstream` was asked for before this run, with its key.
    pub(super) fn resumed(&mut self, upstream: &str) -> Result<Option<(Name, SigningKey)>, AuthorityError> {
        let Some(row) = self.unanswered.pop() else { return Ok(None) };
        let Ok(name) = row.name.parse::<Name>() else { return Ok(None) };
        if row.upstream.as_deref() != Some(upstream) || !self.parts.keys.list()?.contains(&name.key_file()) {
            return Ok(None);
        }
        let key = SigningKey::new(self.parts.keys.load(&name.key_file())?);
        if hex::encode(SubjectKey::from_spki(key.spki_der().to_vec())?.key_id()) != row.key_id {
            return Err(AuthorityError::OtherKey { name: row.name });
        }
        info!(authority = %name, upstream, "asked for again");
        Ok(Some((name, key)))
    }

    /// Nothing that was asked for before is used: its key lay where a stolen one lay.
    pub(super) async fn abandon_requests(&mut self) -> Result<(), AuthorityError> {
        if let Some(pending) = self.pending.take() {
            let upstream = self.parts.upstream.as_ref().map(|upstream| upstream.name().to_owned());
            self.give_up_request(pending.name, pending.key_id, upstream).await?;
        }
        for row in std::mem::take(&mut self.unanswered) {
            let Ok(name) = row.name.parse::<Name>() else { continue };
            self.give_up_request(name, row.key_id, row.upstream).await?;
        }
        Ok(())
    }

    async fn give_up_request(
        &mut self,
        name: Name,
        key_id: String,
        upstream: Option<String>,
    ) -> Result<(), AuthorityError> {
        let mut facts = asked_for(name, key_id, upstream.as_deref());
        State::Gone.as_str().clone_into(&mut facts.state);
        self.parts.ledger.append(self.event(Action::CaRetire, facts, |_| {})).await?;
        if self.parts.keys.list()?.contains(&name.key_file()) {
            self.parts.keys.destroy(&name.key_file())?;
        }
        info!(authority = %name, "was asked for and never got its certificate: given up");
        Ok(())
    }
}
