//! What an upstream gave, held against what was asked: it is foreign until every line of this passed.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::audit::event::CertificateFacts;
use crate::ca::slot::{Level, word};
use crate::clock::rfc3339_seconds;
use crate::identity::TrustDomain;
use crate::toml_reader::render_span;
use crate::upstream::CaChain;
use crate::x509::chain::{Issuer, IssuerError, split};
use crate::x509::crl::Scope;

/// Why a certificate from an upstream cannot be used. Nothing is signed under it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceivedError {
    /// It is no chain of CAs.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// Without its root.
    #[error(
        "the chain does not end in a root: give Vault's issuer its whole chain (manual_chain, or import the root), or put every CA up to the root into the files"
    )]
    NoRoot,
    /// For another key.
    #[error("it is for another key than the one that asked")]
    OtherKey,
    /// Under another key identifier.
    #[error(
        "its subject key identifier is {found}, not the {wanted} that was asked for: the upstream must take it from the request (openssl: -copy_extensions copyall)"
    )]
    KeyId {
        /// What it has.
        found: String,
        /// What was asked.
        wanted: String,
    },
    /// It may have CAs below it, or its limit is missing.
    #[error("its path length is {found}, not 0: the upstream must honour max_path_length")]
    PathLength {
        /// What it is.
        found: String,
    },
    /// It may not sign CRLs.
    #[error(
        "{name} may not sign CRLs (keyUsage without cRLSign), so nothing under it could be revoked: have its certificate made again for the same name and key, with cRLSign. For a CA above the issuing one, crl.scope = \"leaf-only\" does without"
    )]
    NoCrlSign {
        /// Which.
        name: String,
    },
    /// Its owner makes its CRLs, and issuing CAs' are made here.
    #[error(
        "{name} has path length 0, so it would be the issuing CA, but a CRL of it lies in the files: two makers would contradict each other. Have a CA made for this server alone"
    )]
    OthersList {
        /// Which.
        name: String,
    },
    /// It has other names.
    #[error("its names are {found}, not the one URI {wanted}: the upstream must take names from the request")]
    Names {
        /// What it has.
        found: String,
        /// The trust domain's ID.
        wanted: String,
    },
    /// Too short for the leaves under it.
    #[error(
        "it ends at {not_after}, which leaves less than {least}: raise max_ttl of the mount (vault secrets tune -max-lease-ttl) or renew the CA above it, whose end cuts it"
    )]
    TooShort {
        /// Its end.
        not_after: String,
        /// The least that is of use.
        least: String,
    },
    /// It is not valid yet, or no more.
    #[error("{name} is valid from {not_before} to {not_after} only: set the clocks right, or renew it")]
    Time {
        /// Which.
        name: String,
        /// Its beginning.
        not_before: String,
        /// Its end.
        not_after: String,
    },
}

/// A chain that passed.
#[derive(Debug)]
pub(super) struct Received {
    /// The new CA with its chain.
    pub(super) issuer: Issuer,
    /// Those above it, nearest first, the root last.
    pub(super) above: Vec<Arc<Issuer>>,
    /// What records say of the new certificate.
    pub(super) facts: CertificateFacts,
}

/// Holds `chain` against the request for `spki`: a CA of `trust_domain` that lives for at least `least` from `now`.
pub(super) fn check(
    chain: CaChain,
    spki: &[u8],
    trust_domain: &TrustDomain,
    least: Duration,
    scope: Scope,
    now: OffsetDateTime,
) -> Result<Received, ReceivedError> {
    let CaChain { certificate, above } = chain;
    let issuer = Issuer::from_der(certificate, above.clone())?;
    let all = check_above(&above, scope, now)?;
    if issuer.key().spki_der() != spki {
        return Err(ReceivedError::OtherKey);
    }
    if issuer.key_id() != issuer.key().key_id() {
        let (found, wanted) = (hex::encode(issuer.key_id()), hex::encode(issuer.key().key_id()));
        return Err(ReceivedError::KeyId { found, wanted });
    }
    if issuer.path_length() != Some(0) {
        let found = issuer.path_length().map_or_else(|| "missing".to_owned(), |length| length.to_string());
        return Err(ReceivedError::PathLength { found });
    }
    check_issuing(&issuer, &all, least, now)?;
    check_names(&issuer, trust_domain)?;
    let facts = facts(&issuer, word(Level::Issuing))?;
    Ok(Received { issuer, above: all, facts })
}

/// That an issuing CA under `above` is valid now and for long enough, and may sign CRLs.
pub(super) fn check_issuing(
    issuer: &Issuer,
    above: &[Arc<Issuer>],
    least: Duration,
    now: OffsetDateTime,
) -> Result<(), ReceivedError> {
    check_one(issuer, Scope::WholeChain, now)?;
    let end = above.iter().map(|ca| ca.not_after()).fold(issuer.not_after(), OffsetDateTime::min);
    if end - now < least {
        return Err(ReceivedError::TooShort { not_after: rfc3339_seconds(end), least: render_span(least) });
    }
    Ok(())
}

/// The CAs above an issuing one, nearest first: each a link up to a root, valid now, and able to sign a CRL where one is
/// needed of it.
pub(super) fn check_above(
    above: &[Vec<u8>],
    scope: Scope,
    now: OffsetDateTime,
) -> Result<Vec<Arc<Issuer>>, ReceivedError> {
    let mut all = Vec::with_capacity(above.len());
    for (place, der) in above.iter().enumerate() {
        let parents = above.get(place + 1..).unwrap_or_default().to_vec();
        let ca = Arc::new(Issuer::from_der(der.clone(), parents)?);
        check_one(&ca, scope, now)?;
        all.push(ca);
    }
    if all.last().is_some_and(|last| last.is_root()) { Ok(all) } else { Err(ReceivedError::NoRoot) }
}

fn check_one(ca: &Issuer, scope: Scope, now: OffsetDateTime) -> Result<(), ReceivedError> {
    if scope == Scope::WholeChain && !ca.signs_crls() {
        return Err(ReceivedError::NoCrlSign { name: ca.name().to_owned() });
    }
    if now < ca.not_before() || ca.not_after() <= now {
        let (not_before, not_after) = (rfc3339_seconds(ca.not_before()), rfc3339_seconds(ca.not_after()));
        return Err(ReceivedError::Time { name: ca.name().to_owned(), not_before, not_after });
    }
    Ok(())
}

/// That its one name is the trust domain's.
fn check_names(issuer: &Issuer, trust_domain: &TrustDomain) -> Result<(), ReceivedError> {
    let (_, certificate) = X509Certificate::from_der(issuer.der()).map_err(|_| IssuerError::Malformed)?;
    let names = certificate.subject_alternative_name().map_err(|_| IssuerError::Malformed)?;
    let wanted = trust_domain.id();
    let names = names.map(|names| names.value.general_names.clone()).unwrap_or_default();
    match names.as_slice() {
        [GeneralName::URI(uri)] if *uri == wanted => Ok(()),
        [] => Err(ReceivedError::Names { found: "none".to_owned(), wanted }),
        other => {
            let found = other.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            Err(ReceivedError::Names { found, wanted })
        }
    }
}

/// What records say of a certificate that was not drafted here.
pub(super) fn facts(ca: &Issuer, profile: &str) -> Result<CertificateFacts, IssuerError> {
    let der = ca.der();
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| IssuerError::Malformed)?;
    let tbs = split(der).map_err(|_| IssuerError::Malformed)?.tbs;
    let above = ca.chain().get(1..).unwrap_or_default().concat();
    Ok(CertificateFacts {
        chain_sha256: hex::encode(digest(&SHA256, &above)),
        der_sha256: Some(hex::encode(digest(&SHA256, der))),
        issuer_key_id: hex::encode(ca.issuer_key_id().unwrap_or_else(|| ca.key_id())),
        not_after: rfc3339_seconds(ca.not_after()),
        not_before: rfc3339_seconds(ca.not_before()),
        profile: profile.to_owned(),
        public_key_sha256: hex::encode(ca.key().sha256()),
        serial: hex::encode(certificate.raw_serial()),
        tbs_sha256: hex::encode(digest(&SHA256, tbs)),
        ..CertificateFacts::default()
    })
}

#[cfg(test)]
mod tests;
