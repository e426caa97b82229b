//! Takes an authority up again from the index of the ledger.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{AuthorityError, Keeper, record};
use crate::ca::sign::SigningKey;
use crate::ca::slot::{Authority, Level, Name, State};
use crate::clock::parse_rfc3339;
use crate::store::AuthorityRow;
use crate::x509::chain::{Issuer, LONGEST_CHAIN};

impl Keeper {
    /// The authority of `row`, one of `rows`; nothing for one that is gone or never got its certificate. `held` is the key of
    /// an upstream's CA that lies here.
    pub(super) fn load(
        &self,
        name: Name,
        row: &AuthorityRow,
        rows: &[AuthorityRow],
        held: Option<&SigningKey>,
    ) -> Result<Option<Authority>, AuthorityError> {
        let state =
            State::from_name(&row.state).ok_or_else(|| record(&row.name, "its state is unknown to this version"))?;
        let since = parse_rfc3339(&row.since).map_err(|_| record(&row.name, "its time cannot be read"))?;
        if state == State::Gone || row.certificate.is_none() {
            return Ok(None);
        }
        let issuer = Arc::new(Issuer::from_der(certificate(row)?, parents(row, rows)?)?);
        // The keys of an upstream's own CAs never come here, but for one that is held.
        let is_ours = row.upstream.is_none() || name.level == Level::Issuing;
        let key = is_ours.then(|| self.parts.keys.load(&name.key_file())).transpose()?.map(SigningKey::new);
        if key.as_ref().is_some_and(|key| key.spki_der() != issuer.key().spki_der()) {
            return Err(AuthorityError::OtherKey { name: row.name.clone() });
        }
        let key = key.or_else(|| held.filter(|held| held.spki_der() == issuer.key().spki_der()).cloned());
        let published = row.published.as_deref().map(parse_rfc3339).transpose();
        let published = published.map_err(|_| record(&row.name, "its time cannot be read"))?;
        let upstream = row.upstream.clone();
        Ok(Some(Authority { name, state, since, issuer, key, upstream, published, last_before: None }))
    }
}

fn certificate(row: &AuthorityRow) -> Result<Vec<u8>, AuthorityError> {
    let text = row.certificate.as_deref().unwrap_or_default();
    STANDARD.decode(text).map_err(|_| record(&row.name, "its certificate is not base64"))
}

/// The certificates above `row`, nearest first; nothing above a root.
fn parents(row: &AuthorityRow, rows: &[AuthorityRow]) -> Result<Vec<Vec<u8>>, AuthorityError> {
    let mut above: Vec<Vec<u8>> = Vec::new();
    let mut below = Issuer::from_der(certificate(row)?, Vec::new())?;
    while !below.is_root() && above.len() < LONGEST_CHAIN {
        let is_parent = |row: &&AuthorityRow| below.issuer_key_id().map(hex::encode).as_ref() == Some(&row.key_id);
        let Some(parent) = rows.iter().find(is_parent) else { break };
        let der = certificate(parent)?;
        below = Issuer::from_der(der.clone(), Vec::new())?;
        above.push(der);
    }
    Ok(above)
}
