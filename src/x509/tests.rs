//! What the unit tests of this and higher layers share: authorities made on the spot, and a tiny DER builder for
//! certificates that rcgen cannot write.

use std::time::Duration;

use futures::FutureExt;
use time::OffsetDateTime;
use time::macros::datetime;

use super::chain::Issuer;
use super::draft::{AuthoritySpec, Draft, Signed};
use super::profile::{LeafProfile, Level, Profiles};
use super::{KeyAlgorithm, Serial, SubjectKey, der};
use crate::entropy::Entropy;
use crate::identity::{Mesh, TrustDomain};
use crate::keys::Signer;
use crate::keys::memory::{self, MemorySigner};
use crate::policy::Grant;

/// The moment at which the tests take place.
pub(crate) const NOW: OffsetDateTime = datetime!(2026-11-23 13:02:11.5 UTC);

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// An authority with its key.
pub(crate) struct Ca {
    pub(crate) issuer: Issuer,
    pub(crate) signer: MemorySigner,
}

impl Ca {
    pub(crate) fn sign(&self, draft: Draft) -> Signed {
        sign(draft, &self.signer)
    }
}

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

pub(crate) fn serial(seed: u64) -> Serial {
    Serial::random(&Entropy::seeded(seed))
}

pub(crate) fn subject_key(algorithm: KeyAlgorithm) -> SubjectKey {
    crate::keys::leaf::generate(algorithm).unwrap().subject_key()
}

/// Signs with a key whose answer is there at once.
pub(crate) fn sign(draft: Draft, signer: &dyn Signer) -> Signed {
    let signature = signer.sign(draft.tbs()).now_or_never().unwrap().unwrap();
    draft.finish(&signature).unwrap()
}

pub(crate) fn spec(level: Level, signer: &MemorySigner, seed: u64) -> AuthoritySpec {
    let profiles = Profiles::builtin();
    let (profile, name) = match level {
        Level::Root => (profiles.root(), "root 1"),
        Level::Intermediate | Level::Issuing => (profiles.issuing(), "issuing 1"),
    };
    AuthoritySpec {
        profile: profile.clone(),
        common_name: name.to_owned(),
        trust_domain: trust_domain(),
        key: SubjectKey::from_spki(signer.spki_der().to_vec()).unwrap(),
        serial: serial(seed),
        lifetime: profile.lifetime().default,
    }
}

pub(crate) fn root(algorithm: KeyAlgorithm) -> Ca {
    let signer = memory::generate(algorithm).unwrap();
    let draft = Draft::authority(spec(Level::Root, &signer, 1), None, NOW).unwrap();
    let der = sign(draft, &signer).into_der();
    Ca { issuer: Issuer::from_der(der, Vec::new()).unwrap(), signer }
}

pub(crate) fn issuing(root: &Ca, algorithm: KeyAlgorithm) -> Ca {
    let signer = memory::generate(algorithm).unwrap();
    let draft = Draft::authority(spec(Level::Issuing, &signer, 2), Some(&root.issuer), NOW).unwrap();
    let der = root.sign(draft).into_der();
    Ca { issuer: Issuer::from_der(der, vec![root.issuer.der().to_vec()]).unwrap(), signer }
}

/// A grant as the mesh's preset would give it, for one hour.
pub(crate) fn grant(mesh: Mesh) -> Grant {
    grant_of(Profiles::builtin().leaf(mesh), &KeyAlgorithm::ALL, HOUR)
}

pub(crate) fn grant_of(profile: &std::sync::Arc<LeafProfile>, keys: &[KeyAlgorithm], lifetime: Duration) -> Grant {
    let (identity, dns): (_, &[&str]) = match profile.mesh() {
        Mesh::Envoy => ("spiffe://example.org/web", &[]),
        Mesh::Istio => ("spiffe://example.org/ns/pay/sa/api", &[]),
        Mesh::Linkerd => {
            ("spiffe://example.org/ns/pay/sa/api", &["api.pay.serviceaccount.identity.linkerd.cluster.local"])
        }
        Mesh::Cilium => ("spiffe://example.org/identity/4711", &[]),
        Mesh::Consul => ("spiffe://example.org/ns/default/dc/dc1/svc/web", &[]),
    };
    crate::policy::testing::grant(identity, profile.mesh(), profile, dns, lifetime, keys)
}

/// One DER element around parts.
pub(crate) fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    der::write(&mut out, tag, &parts.concat());
    out
}

/// An attribute of a name: the OID's content and a text with its string tag.
pub(crate) fn attribute(oid: &[u8], string: u8, text: &str) -> Vec<u8> {
    tlv(der::SEQUENCE, &[&tlv(der::OID, &[oid]), &tlv(string, &[text.as_bytes()])])
}

/// A self-signed root whose subject is `name` (a whole Name in DER), made by replacing the names in one of ours.
pub(crate) fn root_named(name: &[u8]) -> Ca {
    let signer = memory::generate(KeyAlgorithm::P256).unwrap();
    let draft = Draft::authority(spec(Level::Root, &signer, 1), None, NOW).unwrap();
    let mut fields = der::Reader::new(der::only(draft.tbs(), der::SEQUENCE).unwrap().content);
    let mut parts: Vec<&[u8]> = std::iter::from_fn(|| fields.any().ok().map(|field| field.whole)).collect();
    (parts[3], parts[5]) = (name, name);
    let tbs = tlv(der::SEQUENCE, &parts);
    let signature = signer.sign(&tbs).now_or_never().unwrap().unwrap();
    let bits = tlv(der::BIT_STRING, &[&[0], &signature]);
    let der = tlv(der::SEQUENCE, &[&tbs, draft.signature_algorithm().identifier(), &bits]);
    Ca { issuer: Issuer::from_der(der, Vec::new()).unwrap(), signer }
}
