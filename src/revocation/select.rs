//! Which certificates an order means, and that the index knows them all.

use std::time::Duration;

use super::{Inner, RevokeError, Selection};
use crate::ca::standing::Standing;
use crate::store::{CertificateQuery, CertificateRow, Found, LARGEST_PAGE, Store};
use crate::x509::Serial;

/// How long the index may take to reach the ledger's head.
const INDEX_WAIT: Duration = Duration::from_secs(10);

/// The first wait for it, and what that grows to.
const INDEX_PAUSE: (Duration, Duration) = (Duration::from_micros(250), Duration::from_millis(20));

/// A certificate that is to be revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) serial: Serial,
    pub(super) identity: String,
    pub(super) issuer_key_id: String,
    /// Unix seconds.
    pub(super) expires: i64,
    /// The record that authorised it, by id.
    pub(super) record: String,
}

impl Selection {
    /// What it denies besides: a SPIFFE ID, or a prefix with `*`.
    pub(super) fn pattern(&self) -> Option<String> {
        match self {
            Self::Identity(identity) => Some(identity.to_string()),
            Self::Prefix(prefix) => Some(format!("{prefix}*")),
            Self::Serial(_) | Self::Serials(_) | Self::Issuer(_) | Self::All => None,
        }
    }

    fn query(&self, now: i64) -> CertificateQuery {
        let all = CertificateQuery {
            expires_from: Some(now),
            revoked: Some(false),
            limit: LARGEST_PAGE,
            ..CertificateQuery::default()
        };
        match self {
            Self::Identity(identity) => CertificateQuery { identity_prefix: identity.to_string(), ..all },
            Self::Prefix(prefix) => CertificateQuery { identity_prefix: prefix.clone(), ..all },
            Self::Issuer(key_id) => CertificateQuery { issuer_key_id: Some(key_id.clone()), ..all },
            Self::Serial(_) | Self::Serials(_) | Self::All => all,
        }
    }

    fn means(&self, row: &CertificateRow) -> bool {
        match self {
            Self::Identity(identity) => row.identity == identity.as_str(),
            Self::Prefix(prefix) => row.identity.starts_with(prefix),
            Self::Issuer(key_id) => row.issuer_key_id == *key_id,
            Self::Serial(serial) => row.serial == *serial,
            Self::Serials(serials) => serials.contains(&row.serial),
            Self::All => true,
        }
    }
}

/// Every live certificate that `selection` means, those that are recorded and not signed yet among them. Blocks.
pub(super) fn select(
    store: &dyn Store,
    standing: &Standing,
    selection: &Selection,
    now: i64,
) -> Result<Vec<Chosen>, RevokeError> {
    if let Selection::Serial(serial) = selection {
        let Found::One(row) = store.find(serial)? else { return Ok(Vec::new()) };
        // A beginning is not enough here: whoever asks looked it up.
        if row.serial != *serial {
            return Ok(Vec::new());
        }
        if let Some(revoked) = &row.revoked {
            return Err(RevokeError::AlreadyRevoked { serial: row.serial.clone(), record: revoked.record.clone() });
        }
        return Ok(chosen(selection, &row, standing, now).into_iter().collect());
    }
    if let Selection::Serials(serials) = selection {
        let mut found = Vec::new();
        for serial in serials {
            // Each is asked for by its own whole serial, so that it means itself.
            if let Found::One(row) = store.find(serial)? {
                found.extend(chosen(&Selection::Serial(serial.clone()), &row, standing, now));
            }
        }
        return Ok(found);
    }
    let (mut query, mut found) = (selection.query(now), Vec::new());
    loop {
        let page = store.certificates(&query)?;
        found.extend(page.certificates.iter().filter_map(|row| chosen(selection, row, standing, now)));
        query.after = page.next;
        if query.after.is_none() {
            return Ok(found);
        }
    }
}

fn chosen(selection: &Selection, row: &CertificateRow, standing: &Standing, now: i64) -> Option<Chosen> {
    // A certificate whose signature failed does not exist.
    let exists = selection.means(row) && row.expires > now && !row.failed;
    if !exists || row.revoked.is_some() || standing.is_revoked(&row.serial) {
        return None;
    }
    Some(Chosen {
        serial: Serial::from_hex(&row.serial).ok()?,
        identity: row.identity.clone(),
        issuer_key_id: row.issuer_key_id.clone(),
        expires: row.expires,
        record: format!("{}#{}", row.log, row.index),
    })
}

impl Inner {
    /// Waits until the index has every record that is durable now. What is recorded later was decided after the deny.
    pub(super) async fn index_reaches_head(&self) -> Result<(), RevokeError> {
        let heads = self.ledger.reader().logs();
        let until = self.clock.monotonic() + INDEX_WAIT;
        let (mut pause, longest) = INDEX_PAUSE;
        loop {
            let cursor = self.store.cursor()?;
            let reached = |origin: &str| cursor.get(origin).map_or(0, |applied| applied.next);
            if heads.iter().all(|log| reached(&log.origin) >= log.size) {
                return Ok(());
            }
            if self.clock.monotonic() >= until {
                return Err(RevokeError::Behind);
            }
            // Of the machine and not of the clock: who sets the clock by hand does not wait for the index.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }
}
