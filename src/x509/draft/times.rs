//! From when to when a certificate is valid.
//!
//! Pure arithmetic over `now`, the lifetime, the profile's backdating and the issuer's own validity.

use std::time::Duration;

use rcgen::{CertificateParams, SerialNumber};
use time::{OffsetDateTime, UtcOffset};

use super::{AuthoritySpec, DraftError};
use crate::clock::rfc3339_seconds;
use crate::policy::Grant;
use crate::x509::chain::Issuer;
use crate::x509::serial::Serial;

/// Validity in whole seconds.
pub(super) struct Times {
    /// The first second.
    pub(super) not_before: OffsetDateTime,
    /// The last second.
    pub(super) not_after: OffsetDateTime,
}

impl Times {
    /// A leaf's, as granted.
    pub(super) fn leaf(grant: &Grant, issuer: &Issuer, now: OffsetDateTime) -> Result<Self, DraftError> {
        let (profile, lifetime) = (grant.profile(), grant.lifetime());
        let bounds = profile.lifetime();
        within(profile.name(), lifetime, bounds.shortest, bounds.longest)?;
        Self::under(Some(issuer), now, lifetime, profile.backdate_for(lifetime), bounds.shortest)
    }

    /// An authority's, as specified.
    pub(super) fn authority(
        spec: &AuthoritySpec,
        issuer: Option<&Issuer>,
        now: OffsetDateTime,
    ) -> Result<Self, DraftError> {
        let (profile, bounds) = (&spec.profile, spec.profile.lifetime());
        within(profile.name(), spec.lifetime, bounds.shortest, bounds.longest)?;
        Self::under(issuer, now, spec.lifetime, profile.backdate_for(spec.lifetime), bounds.shortest)
    }

    fn under(
        issuer: Option<&Issuer>,
        now: OffsetDateTime,
        lifetime: Duration,
        backdate: Duration,
        shortest: Duration,
    ) -> Result<Self, DraftError> {
        // X.509 has whole seconds; rounding down keeps both ends on the safe side.
        let now = now.to_offset(UtcOffset::UTC).replace_nanosecond(0).unwrap_or(now);
        let mut times = Self { not_before: now - seconds(backdate), not_after: now + lifetime };
        let Some(issuer) = issuer else { return Ok(times) };
        if now < issuer.not_before() {
            return Err(DraftError::IssuerNotYetValid {
                issuer: issuer.name().to_owned(),
                not_before: rfc3339_seconds(issuer.not_before()),
                now: rfc3339_seconds(now),
            });
        }
        times.not_before = times.not_before.max(issuer.not_before());
        times.not_after = times.not_after.min(issuer.not_after());
        if times.not_after - now < shortest {
            return Err(DraftError::IssuerEnds {
                issuer: issuer.name().to_owned(),
                not_after: rfc3339_seconds(issuer.not_after()),
                now: rfc3339_seconds(now),
                shortest_s: shortest.as_secs(),
            });
        }
        Ok(times)
    }

    /// Puts them and the serial into rcgen's parameters.
    pub(super) fn write(&self, params: &mut CertificateParams, serial: Serial) {
        params.not_before = self.not_before;
        params.not_after = self.not_after;
        params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
    }
}

fn seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}

fn within(profile: &str, found: Duration, shortest: Duration, longest: Duration) -> Result<(), DraftError> {
    if (shortest..=longest).contains(&found) {
        return Ok(());
    }
    Err(DraftError::Lifetime {
        profile: profile.to_owned(),
        found_s: found.as_secs(),
        shortest_s: shortest.as_secs(),
        longest_s: longest.as_secs(),
    })
}
