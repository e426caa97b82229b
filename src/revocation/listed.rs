//! The CRL of each authority as it is published, and when each is due again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;

use super::lists::BACKDATED;
use super::{CrlState, CrlTimes};
use crate::ca::slot::{Authority, Level, Name};
use crate::clock::rfc3339_seconds;
use crate::x509::crl::{Crl, Scope};

/// How long after an upstream was asked for a newer CRL it is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(600);

/// The CRL of one authority.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The authority.
    pub issuer: Name,
    /// Its subject key identifier, hex.
    pub issuer_key_id: String,
    /// The CRL.
    pub crl: Arc<Crl>,
    /// Its record, by id; empty for one that could not be recorded yet.
    pub record: String,
    /// For an upstream's: when it was last asked for a newer one.
    pub asked: Option<OffsetDateTime>,
    /// Whether it is an upstream's.
    pub imported: bool,
}

impl Listed {
    /// As operators see it.
    #[must_use]
    pub fn state(&self) -> CrlState {
        CrlState {
            issuer: self.issuer.to_string(),
            issuer_key_id: self.issuer_key_id.clone(),
            number: self.crl.number(),
            entries: self.crl.facts().entries,
            this_update: rfc3339_seconds(self.crl.this_update()),
            next_update: rfc3339_seconds(self.crl.next_update()),
            record: self.record.clone(),
        }
    }

    /// When it was made.
    pub(super) fn made(&self) -> OffsetDateTime {
        self.crl.this_update() + BACKDATED
    }

    /// When it is to be made anew; at once when the clock went back behind it.
    pub(super) fn due(&self, times: CrlTimes, now: OffsetDateTime) -> OffsetDateTime {
        let (begin, end) = (self.crl.this_update(), self.crl.next_update());
        let due = match (now < begin, self.imported) {
            (true, _) => now,
            (false, true) => begin + (end - begin) / 2,
            (false, false) => self.made() + times.resign_at,
        };
        self.asked.map_or(due, |asked| due.max(asked + ASK_AGAIN))
    }

    /// Whether less than a quarter of its life is left: making the next one has failed for long.
    #[must_use]
    pub fn is_late(&self, now: OffsetDateTime) -> bool {
        let life = self.crl.next_update() - self.made();
        self.crl.next_update() - now < life / 4
    }
}

/// Every CRL, roots first, as it is published.
#[derive(Debug, Clone, Default)]
pub struct CrlSet {
    /// One for each authority.
    pub lists: Vec<Listed>,
    /// All of them in PEM.
    pub pem: Bytes,
    /// SHA-256 of that, hex.
    pub version: String,
    /// Of which CAs of a chain one is wanted.
    pub scope: Scope,
}

impl CrlSet {
    /// Whether an authority may be published: its CRL is here, or none of it is wanted.
    #[must_use]
    pub fn suffices(&self, authority: &Authority) -> bool {
        let none_wanted = self.scope == Scope::LeafOnly && authority.name().level != Level::Issuing;
        none_wanted || self.of(&hex::encode(authority.issuer().key_id())).is_some()
    }

    /// The CRL of the authority with this key identifier, hex.
    #[must_use]
    pub fn of(&self, issuer_key_id: &str) -> Option<&Listed> {
        self.lists.iter().find(|listed| listed.issuer_key_id == issuer_key_id)
    }
}
