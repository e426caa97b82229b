//! The draft: a certificate's exact to-be-signed bytes, linted, on their way to the ledger and then to the signer.
//!
//! A [`Draft`] of a leaf exists only for a [`Grant`] that policy made, and any draft exists only after every lint passed.
//! The bytes that [`Draft::tbs`] shows are those that the ledger hashes, the key signs and `finish` wraps: nothing
//! encodes them a second time. It is not `Clone`; the ledger takes it by value and gives it back as part of its proof.
//!
//! rcgen writes the TBS but signs while it builds, so it gets a key that only keeps the bytes (`encode`). rcgen also
//! keeps one value per attribute of a name, so the issuer's name is spliced in raw, always; the lint compares it with the
//! CA's subject. Rejected: building twice with a replaying signer, which would encode and lint a second time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use rcgen::{BasicConstraints, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use time::OffsetDateTime;

use super::algorithm::SignatureAlgorithm;
use super::chain::{self, Issuer};
use super::key::SubjectKey;
use super::lint::{self, Expected, Purpose};
use super::profile::{AuthorityProfile, DnsNames, Level};
use super::serial::Serial;
use crate::audit::event::CertificateFacts;
use crate::clock::rfc3339_seconds;
use crate::identity::{SpiffeId, TrustDomain};
use crate::policy::Grant;

mod encode;
mod error;
mod request;
mod times;

pub(super) use encode::{KeepTbs, blank_params, replaced};
use encode::{build, ia5, purpose};
pub use error::DraftError;
pub use request::RequestDraft;
use times::Times;

/// The longest common name and organisation; RFC 5280 appendix A.1 (`ub-common-name`).
pub const LONGEST_NAME: usize = 64;

/// The name of a certificate's content: equal content, equal version, also after a restart.
///
/// SHA-256(SHA-256(TBS) ‖ SHA-256(chain DER)), both of which the record holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version([u8; 32]);

impl Version {
    /// From the two hashes, as a record has them.
    #[must_use]
    pub fn of(tbs_sha256: &[u8; 32], chain_sha256: &[u8; 32]) -> Self {
        let mut both = [0; 64];
        let (tbs, chain) = both.split_at_mut(32);
        tbs.copy_from_slice(tbs_sha256);
        chain.copy_from_slice(chain_sha256);
        Self(sha256(&both))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a new authority shall be.
#[derive(Debug, Clone)]
pub struct AuthoritySpec {
    /// Root or issuing.
    pub profile: Arc<AuthorityProfile>,
    /// The common name, such as `issuing 3`; the organisation is the trust domain.
    pub common_name: String,
    /// The domain whose certificates it will stand above; its ID is the URI name.
    pub trust_domain: TrustDomain,
    /// Its public key.
    pub key: SubjectKey,
    /// Its serial.
    pub serial: Serial,
    /// How long from now; cut at the end of its issuer.
    pub lifetime: Duration,
}

/// Linted to-be-signed bytes and what is known of them.
///
/// Only this module makes one:
/// ```compile_fail,E0451
/// fn forge(tbs: Vec<u8>) -> chancery::x509::draft::Draft {
///     chancery::x509::draft::Draft { tbs, ..unimplemented!() }
/// }
/// ```
#[derive(Debug)]
pub struct Draft {
    tbs: Vec<u8>,
    tbs_sha256: [u8; 32],
    facts: CertificateFacts,
    signature: SignatureAlgorithm,
    serial: Serial,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    version: Version,
    chain: Arc<[Vec<u8>]>,
    grant: Option<Grant>,
}

/// A finished certificate: what the draft was, with its signature.
#[derive(Debug)]
pub struct Signed {
    der: Vec<u8>,
    draft: Draft,
}

impl Draft {
    /// A workload's certificate, as `grant` says and `issuer` will sign it.
    ///
    /// Its last moment is `now` plus the granted lifetime, or the issuer's end if that comes first; its first lies a
    /// little before `now` (see the profile), never before the issuer's.
    ///
    /// # Errors
    /// Every variant of [`DraftError`] but those about authorities and signatures.
    pub fn leaf(
        grant: Grant,
        key: SubjectKey,
        issuer: &Issuer,
        serial: Serial,
        now: OffsetDateTime,
    ) -> Result<Self, DraftError> {
        let profile = Arc::clone(grant.profile());
        check_grant(&grant, &key)?;
        let times = Times::leaf(&grant, issuer, now)?;
        let mut params = blank_params(key.key_id().to_vec());
        times.write(&mut params, serial);
        // DNS before URI: Linkerd takes the first name as the identity, nobody else minds.
        for name in grant.dns_names() {
            params.subject_alt_names.push(SanType::DnsName(ia5(name)?));
        }
        params.subject_alt_names.push(SanType::URI(ia5(grant.identity().as_str())?));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = profile.key_usage(key.algorithm()).iter().copied().map(purpose).collect();
        // X509-SVID section 4.4: both or none.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let signature = issuer.signature_algorithm();
        let tbs = build(&params, &key, issuer.rcgen(), issuer.key(), Some(issuer.subject_der()))?;
        lint::check(
            &tbs,
            &Expected {
                serial: &serial,
                signature,
                issuer: Some(issuer.subject_der()),
                not_before: times.not_before,
                not_after: times.not_after,
                key: &key,
                issuer_key_id: issuer.key_id(),
                purpose: Purpose::Leaf {
                    identity: grant.identity(),
                    dns_names: grant.dns_names(),
                    key_usage: profile.key_usage(key.algorithm()),
                },
            },
        )?;
        let place = Place {
            key: &key,
            issuer_key_id: issuer.key_id(),
            chain: issuer.chain(),
            chain_sha256: *issuer.chain_sha256(),
        };
        Ok(Self::linted(tbs, signature, serial, &times, profile.name(), place, Some(grant)))
    }

    /// A CA's certificate; self-signed for a root, which has no `issuer`.
    ///
    /// # Errors
    /// Every variant of [`DraftError`] but those about leaves and signatures.
    pub fn authority(spec: AuthoritySpec, issuer: Option<&Issuer>, now: OffsetDateTime) -> Result<Self, DraftError> {
        let AuthoritySpec { profile, common_name, trust_domain, key, serial, lifetime: _ } = &spec;
        let fits = match (profile.level(), issuer) {
            (Level::Root, None) => true,
            (Level::Intermediate, _) | (Level::Root, Some(_)) | (Level::Issuing, None) => false,
            (Level::Issuing, Some(issuer)) => issuer.path_length().is_none_or(|length| length > 0),
        };
        if !fits {
            return Err(DraftError::Hierarchy { profile: profile.name().to_owned() });
        }
        if common_name.is_empty() || common_name.chars().count() > LONGEST_NAME {
            return Err(DraftError::CommonName { name: common_name.chars().take(LONGEST_NAME).collect() });
        }
        let times = Times::authority(&spec, issuer, now)?;
        let mut params = blank_params(key.key_id().to_vec());
        times.write(&mut params, *serial);
        if trust_domain.as_str().len() <= LONGEST_NAME {
            params.distinguished_name.push(DnType::OrganizationName, trust_domain.as_str());
        }
        params.distinguished_name.push(DnType::CommonName, common_name.as_str());
        params.subject_alt_names.push(SanType::URI(ia5(&trust_domain.id())?));
        params.is_ca = IsCa::Ca(match profile.path_length() {
            Some(length) => BasicConstraints::Constrained(length),
            None => BasicConstraints::Unconstrained,
        });
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let signature = issuer.map_or_else(|| key.algorithm().signature(), Issuer::signature_algorithm);
        let tbs = match issuer {
            Some(issuer) => build(&params, key, issuer.rcgen(), issuer.key(), Some(issuer.subject_der()))?,
            None => build(&params, key, &blank_params(key.key_id().to_vec()), key, None)?,
        };
        let issuer_key_id = issuer.map_or_else(|| key.key_id(), Issuer::key_id);
        lint::check(
            &tbs,
            &Expected {
                serial,
                signature,
                issuer: issuer.map(Issuer::subject_der),
                not_before: times.not_before,
                not_after: times.not_after,
                key,
                issuer_key_id,
                purpose: Purpose::Authority { trust_domain, path_length: profile.path_length() },
            },
        )?;
        let nothing = || (Arc::from([]), sha256(b""));
        let (chain, chain_sha256) =
            issuer.map_or_else(nothing, |issuer| (Arc::clone(issuer.chain()), *issuer.chain_sha256()));
        let place = Place { key, issuer_key_id, chain: &chain, chain_sha256 };
        Ok(Self::linted(tbs, signature, *serial, &times, profile.name(), place, None))
    }

    fn linted(
        tbs: Vec<u8>,
        signature: SignatureAlgorithm,
        serial: Serial,
        times: &Times,
        profile: &str,
        place: Place<'_>,
        grant: Option<Grant>,
    ) -> Self {
        let tbs_sha256 = sha256(&tbs);
        let facts = CertificateFacts {
            chain_sha256: hex::encode(place.chain_sha256),
            der_sha256: None,
            issuer_key_id: hex::encode(place.issuer_key_id),
            not_after: rfc3339_seconds(times.not_after),
            not_before: rfc3339_seconds(times.not_before),
            previous_serial: None,
            profile: profile.to_owned(),
            public_key_sha256: hex::encode(place.key.sha256()),
            renewal_cause: None,
            serial: serial.hex(),
            tbs_sha256: hex::encode(tbs_sha256),
        };
        Self {
            version: Version::of(&tbs_sha256, &place.chain_sha256),
            chain: Arc::clone(place.chain),
            tbs,
            tbs_sha256,
            facts,
            signature,
            serial,
            not_before: times.not_before,
            not_after: times.not_after,
            grant,
        }
    }

    /// Says which certificate this one follows and why (`scheduled`, `bundle`, `forced`), for its record.
    #[must_use]
    pub fn following(mut self, previous: &Serial, cause: &str) -> Self {
        self.facts.previous_serial = Some(previous.hex());
        self.facts.renewal_cause = Some(cause.to_owned());
        self
    }

    /// The bytes to sign.
    #[must_use]
    pub fn tbs(&self) -> &[u8] {
        &self.tbs
    }

    /// SHA-256 of [`Self::tbs`].
    #[must_use]
    pub fn tbs_sha256(&self) -> &[u8; 32] {
        &self.tbs_sha256
    }

    /// What its record says of it.
    #[must_use]
    pub fn facts(&self) -> &CertificateFacts {
        &self.facts
    }

    /// How it must be signed.
    #[must_use]
    pub fn signature_algorithm(&self) -> SignatureAlgorithm {
        self.signature
    }

    /// The workload's identity; nothing for an authority.
    #[must_use]
    pub fn identity(&self) -> Option<&SpiffeId> {
        self.grant.as_ref().map(Grant::identity)
    }

    /// What policy said; nothing for an authority.
    #[must_use]
    pub fn grant(&self) -> Option<&Grant> {
        self.grant.as_ref()
    }

    /// Its serial.
    #[must_use]
    pub fn serial(&self) -> Serial {
        self.serial
    }

    /// The first second of its validity.
    #[must_use]
    pub fn not_before(&self) -> OffsetDateTime {
        self.not_before
    }

    /// The last second of its validity.
    #[must_use]
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// Its version for SDS.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// What follows it in its chain, DER, without any root.
    #[must_use]
    pub fn chain(&self) -> &Arc<[Vec<u8>]> {
        &self.chain
    }

    /// Wraps these very bytes with their signature: for `ca::sign`, which has the proof that they are recorded.
    ///
    /// Does not verify the signature, which would double the cost of an issue; it checks form and frame.
    pub(crate) fn finish(self, signature: &[u8]) -> Result<Signed, DraftError> {
        if !self.signature.has_form(signature) {
            return Err(DraftError::SignatureForm { algorithm: self.signature });
        }
        let der = chain::wrap(&self.tbs, self.signature.identifier(), signature);
        lint::check_finished(&der, &self.tbs)?;
        let mut draft = self;
        draft.facts.der_sha256 = Some(hex::encode(sha256(&der)));
        Ok(Signed { der, draft })
    }
}

impl Signed {
    /// The certificate.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// What its records say of it, with the hash of the whole certificate.
    #[must_use]
    pub fn facts(&self) -> &CertificateFacts {
        &self.draft.facts
    }

    /// What it was drafted as: grant, serial, validity, version, chain.
    #[must_use]
    pub fn draft(&self) -> &Draft {
        &self.draft
    }

    /// The certificate alone.
    #[must_use]
    pub fn into_der(self) -> Vec<u8> {
        self.der
    }
}

/// Where a certificate stands and for which key: what its facts say besides itself.
struct Place<'a> {
    key: &'a SubjectKey,
    issuer_key_id: &'a [u8],
    chain: &'a Arc<[Vec<u8>]>,
    chain_sha256: [u8; 32],
}

fn check_grant(grant: &Grant, key: &SubjectKey) -> Result<(), DraftError> {
    let rule = || grant.rule().to_owned();
    if !grant.accepted_keys().contains(&key.algorithm()) {
        let accepted: Vec<&str> = grant.accepted_keys().iter().map(|algorithm| algorithm.as_str()).collect();
        return Err(DraftError::KeyNotAccepted { rule: rule(), accepted: accepted.join(", "), found: key.algorithm() });
    }
    let found = grant.dns_names().len();
    let wanted = match (grant.profile().dns_names(), found) {
        (DnsNames::None, 1..) => "none",
        (DnsNames::Required, 0) => "at least one",
        (DnsNames::None | DnsNames::Allowed | DnsNames::Required, _) => return Ok(()),
    };
    Err(DraftError::DnsNames { rule: rule(), found, profile: grant.profile().name().to_owned(), wanted })
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

#[cfg(test)]
mod tests;
