//! Drafts of leaves and authorities: accepted by an independent verifier, exact in their names, bounded in time.

use std::sync::Arc;

use rustls_pki_types::{CertificateDer, UnixTime};
use time::macros::datetime;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::*;
use crate::identity::Mesh;
use crate::x509::profile::Profiles;
use crate::x509::tests::*;
use crate::x509::{KeyAlgorithm, der};

/// An independent verifier accepts the chain, as a server's and as a client's certificate.
fn verify(leaf: &Signed, root: &[u8], at: OffsetDateTime) {
    let anchor = CertificateDer::from(root);
    let anchors = [anchor_from_trusted_cert(&anchor).unwrap()];
    let chain: Vec<CertificateDer<'_>> = leaf.draft().chain().iter().map(|der| der.as_slice().into()).collect();
    let der = CertificateDer::from(leaf.der());
    let leaf = EndEntityCert::try_from(&der).unwrap();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(at.unix_timestamp().try_into().unwrap()));
    for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
        leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, &chain, at, usage, None, None).unwrap();
    }
}

#[test]
fn webpki_accepts_every_mesh_and_every_key_for_both_usages() {
    let root = root(KeyAlgorithm::P256);
    let ca = issuing(&root, KeyAlgorithm::P256);
    for mesh in Mesh::ALL {
        for algorithm in [KeyAlgorithm::P256, KeyAlgorithm::P384, KeyAlgorithm::Ed25519, KeyAlgorithm::Rsa2048] {
            let draft = Draft::leaf(grant(mesh), subject_key(algorithm), &ca.issuer, serial(3), NOW).unwrap();
            let leaf = ca.sign(draft);
            for at in [leaf.draft().not_before(), NOW, leaf.draft().not_after()] {
                verify(&leaf, root.issuer.der(), at);
            }
        }
    }
}

#[test]
fn any_kind_of_authority_signs() {
    for algorithm in [KeyAlgorithm::P384, KeyAlgorithm::Ed25519, KeyAlgorithm::Rsa2048, KeyAlgorithm::MlDsa65] {
        let root = root(algorithm);
        let ca = issuing(&root, algorithm);
        let draft = Draft::leaf(grant(Mesh::Envoy), subject_key(KeyAlgorithm::P256), &ca.issuer, serial(3), NOW);
        let leaf = ca.sign(draft.unwrap());
        verify(&leaf, root.issuer.der(), NOW);
    }
}

#[test]
fn a_post_quantum_leaf_needs_a_rule_that_accepts_it() {
    let ca = issuing(&root(KeyAlgorithm::P256), KeyAlgorithm::P256);
    let draft = |keys: &[KeyAlgorithm]| {
        let grant = grant_of(Profiles::builtin().leaf(Mesh::Envoy), keys, HOUR);
        Draft::leaf(grant, subject_key(KeyAlgorithm::MlDsa44), &ca.issuer, serial(3), NOW)
    };
    draft(&[KeyAlgorithm::P256, KeyAlgorithm::MlDsa44]).unwrap();
    let said = draft(&[KeyAlgorithm::P256]).unwrap_err().to_string();
    assert!(said.contains("rule test accepts keys of kind p256, not mldsa44"), "{said}");
}

/// rcgen's own certificate with the same parameters and a signer that replays our signature.
struct Replay<'a>(&'a SubjectKey, &'a [u8]);

impl rcgen::PublicKeyData for Replay<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.raw()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        rcgen::PublicKeyData::algorithm(self.0)
    }
}

impl rcgen::SigningKey for Replay<'_> {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.1.to_vec())
    }
}

#[test]
fn our_own_wrapping_is_what_rcgen_would_write() {
    let root = root(KeyAlgorithm::P256);
    let ca = issuing(&root, KeyAlgorithm::P256);
    let key = subject_key(KeyAlgorithm::P256);
    let draft = Draft::leaf(grant(Mesh::Linkerd), key.clone(), &ca.issuer, serial(3), NOW).unwrap();
    let leaf = ca.sign(draft);

    let mut params = blank_params(key.key_id().to_vec());
    params.not_before = leaf.draft().not_before();
    params.not_after = leaf.draft().not_after();
    params.serial_number = Some(rcgen::SerialNumber::from_slice(leaf.draft().serial().as_bytes()));
    let grant = grant(Mesh::Linkerd);
    params.subject_alt_names = vec![
        SanType::DnsName(grant.dns_names()[0].as_str().try_into().unwrap()),
        SanType::URI(grant.identity().as_str().try_into().unwrap()),
    ];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    // This issuer's name is simple enough for rcgen to write it itself.
    let mut issuer = blank_params(ca.issuer.key_id().to_vec());
    issuer.distinguished_name.push(DnType::OrganizationName, "example.org");
    issuer.distinguished_name.push(DnType::CommonName, "issuing 1");
    let signature = chain::split(leaf.der()).unwrap().signature;
    let issuer = rcgen::Issuer::from_params(&issuer, Replay(ca.issuer.key(), signature));
    assert_eq!(params.signed_by(&key, &issuer).unwrap().der().as_ref(), leaf.der());
}

const DC: &[u8] = &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x19];
const OU: &[u8] = &[0x55, 0x04, 0x0b];
const CN: &[u8] = &[0x55, 0x04, 0x03];
const EMAIL: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01];
const UTF8: u8 = 0x0c;
const PRINTABLE: u8 = 0x13;
const IA5: u8 = 0x16;

#[test]
fn issuer_names_that_rcgen_would_lose_stay_byte_for_byte() {
    let one = |attribute: &[u8]| tlv(der::SET, &[attribute]);
    let names = [
        tlv(der::SEQUENCE, &[&one(&attribute(DC, IA5, "com")), &one(&attribute(DC, IA5, "corp"))]),
        tlv(
            der::SEQUENCE,
            &[&one(&attribute(OU, UTF8, "a")), &one(&attribute(OU, PRINTABLE, "b")), &one(&attribute(CN, UTF8, "ca"))],
        ),
        tlv(
            der::SEQUENCE,
            &[
                &one(&attribute(EMAIL, IA5, "ca@example.org")),
                &tlv(der::SET, &[&attribute(CN, UTF8, "both"), &attribute(OU, UTF8, "at once")]),
            ],
        ),
    ];
    for name in names {
        let root = root_named(&name);
        assert_eq!(root.issuer.subject_der(), name);
        let ca = issuing(&root, KeyAlgorithm::P256);
        let draft = Draft::leaf(grant(Mesh::Envoy), subject_key(KeyAlgorithm::P256), &ca.issuer, serial(3), NOW);
        verify(&ca.sign(draft.unwrap()), root.issuer.der(), NOW);
        // And directly under it.
        let draft = Draft::leaf(grant(Mesh::Envoy), subject_key(KeyAlgorithm::P256), &root.issuer, serial(3), NOW);
        let leaf = root.sign(draft.unwrap());
        assert!(leaf.draft().chain().is_empty());
        verify(&leaf, root.issuer.der(), NOW);
    }
}

#[test]
fn facts_name_the_very_bytes() {
    let root = root(KeyAlgorithm::P256);
    let ca = issuing(&root, KeyAlgorithm::P256);
    let key = subject_key(KeyAlgorithm::P256);
    let draft = Draft::leaf(grant(Mesh::Istio), key.clone(), &ca.issuer, serial(3), NOW).unwrap();
    let draft = draft.following(&serial(2), "scheduled");
    let (version, facts) = (draft.version(), draft.facts().clone());
    assert_eq!(facts.tbs_sha256, hex::encode(sha256(draft.tbs())));
    assert_eq!(facts.chain_sha256, hex::encode(sha256(ca.issuer.der())));
    assert_eq!(facts.public_key_sha256, hex::encode(sha256(key.spki_der())));
    assert_eq!(facts.issuer_key_id, hex::encode(ca.issuer.key_id()));
    assert_eq!((facts.not_before.as_str(), facts.not_after.as_str()), ("2026-11-23T13:00:11Z", "2026-11-23T14:02:11Z"));
    assert_eq!((facts.profile.as_str(), facts.serial.as_str()), ("leaf-istio", serial(3).hex().as_str()));
    assert_eq!(facts.previous_serial, Some(serial(2).hex()));
    assert_eq!(facts.der_sha256, None);
    let both = [sha256(draft.tbs()), sha256(ca.issuer.der())].concat();
    assert_eq!(version.to_string(), hex::encode(sha256(&both)));

    let signed = ca.sign(draft);
    assert_eq!(signed.facts().der_sha256, Some(hex::encode(sha256(signed.der()))));
    assert_eq!(CertificateFacts { der_sha256: None, ..signed.facts().clone() }, facts);
}

/// The validity of a leaf drafted at `now` with `lifetime_s`, in seconds around `now`.
fn times(ca: &Ca, now: OffsetDateTime, mesh: Mesh, lifetime_s: u64) -> Result<(i64, i64), DraftError> {
    let grant = grant_of(Profiles::builtin().leaf(mesh), &[KeyAlgorithm::P256], Duration::from_secs(lifetime_s));
    let draft = Draft::leaf(grant, subject_key(KeyAlgorithm::P256), &ca.issuer, serial(3), now)?;
    let now = now.replace_nanosecond(0).unwrap();
    Ok(((draft.not_before() - now).whole_seconds(), (draft.not_after() - now).whole_seconds()))
}

#[test]
fn validity_is_backdated_little_and_never_leaves_the_issuers() {
    let ca = issuing(&root(KeyAlgorithm::P256), KeyAlgorithm::P256);
    assert_eq!(times(&ca, NOW, Mesh::Istio, 86_400), Ok((-120, 86_400)));
    assert_eq!(times(&ca, NOW, Mesh::Linkerd, 86_400), Ok((-10, 86_400)));
    assert_eq!(times(&ca, NOW, Mesh::Istio, 20), Ok((-2, 20)));
    assert_eq!(times(&ca, NOW, Mesh::Istio, 5), Ok((0, 5)));
    // The issuing CA began five minutes before NOW.
    let (begin, end) = (ca.issuer.not_before(), ca.issuer.not_after());
    assert_eq!(times(&ca, begin, Mesh::Istio, 3600), Ok((0, 3600)));
    assert_eq!(times(&ca, end - HOUR, Mesh::Istio, 86_400), Ok((-120, 3600)));
    assert!(matches!(times(&ca, end - Duration::from_secs(4), Mesh::Istio, 3600), Err(DraftError::IssuerEnds { .. })));
    assert!(matches!(times(&ca, end + HOUR, Mesh::Istio, 3600), Err(DraftError::IssuerEnds { .. })));
    let said = times(&ca, begin - HOUR, Mesh::Istio, 3600).unwrap_err().to_string();
    assert!(said.contains("clock") && said.contains("2026-11-23T12:57:11Z"), "{said}");
    assert!(matches!(times(&ca, NOW, Mesh::Istio, 91 * 86_400), Err(DraftError::Lifetime { .. })));
    assert!(matches!(times(&ca, NOW, Mesh::Istio, 1), Err(DraftError::Lifetime { .. })));
}

#[test]
fn far_ends_are_written_as_generalized_time() {
    let root = root(KeyAlgorithm::P256);
    let spec = AuthoritySpec { lifetime: Duration::from_secs(9125 * 86_400), ..spec(Level::Root, &root.signer, 9) };
    let draft = Draft::authority(spec, None, datetime!(2035-01-01 0:00 UTC)).unwrap();
    assert!(draft.not_after().year() > 2050);
    let der = sign(draft, &root.signer).into_der();
    assert_eq!(Issuer::from_der(der, Vec::new()).unwrap().not_after().year(), 2059);
}

#[test]
fn names_follow_the_profile() {
    let ca = issuing(&root(KeyAlgorithm::P256), KeyAlgorithm::P256);
    let draft = |mesh, dns: &[&str]| {
        let grant = crate::policy::testing::grant(
            "spiffe://example.org/a",
            mesh,
            Profiles::builtin().leaf(mesh),
            dns,
            HOUR,
            &[KeyAlgorithm::P256],
        );
        Draft::leaf(grant, subject_key(KeyAlgorithm::P256), &ca.issuer, serial(3), NOW).map(|_| ())
    };
    assert!(matches!(draft(Mesh::Linkerd, &[]), Err(DraftError::DnsNames { found: 0, .. })));
    assert!(matches!(draft(Mesh::Cilium, &["a.example"]), Err(DraftError::DnsNames { found: 1, .. })));
    assert_eq!(draft(Mesh::Envoy, &["a.example", "b.example"]), Ok(()));
    for bad in ["*.example", "a..b", "-a.example", "ä.example", "a b", &"a".repeat(64)] {
        assert!(draft(Mesh::Envoy, &[bad]).is_err(), "{bad}");
    }
}

#[test]
fn authorities_stand_only_where_they_may() {
    let root = root(KeyAlgorithm::P256);
    let ca = issuing(&root, KeyAlgorithm::P256);
    let check = |level, issuer: Option<&Issuer>| {
        Draft::authority(spec(level, &root.signer, 9), issuer, NOW).unwrap_err().to_string()
    };
    assert!(check(Level::Root, Some(&root.issuer)).contains("cannot stand there"));
    assert!(check(Level::Issuing, None).contains("cannot stand there"));
    assert!(check(Level::Issuing, Some(&ca.issuer)).contains("cannot stand there"));
    for name in [String::new(), "a".repeat(65)] {
        let spec = AuthoritySpec { common_name: name, ..spec(Level::Root, &root.signer, 9) };
        assert!(matches!(Draft::authority(spec, None, NOW), Err(DraftError::CommonName { .. })));
    }
    assert_eq!((root.issuer.path_length(), ca.issuer.path_length()), (Some(1), Some(0)));
    assert!(root.issuer.is_root() && !ca.issuer.is_root());
}

#[test]
fn a_signature_of_another_form_is_not_wrapped() {
    let ca = issuing(&root(KeyAlgorithm::P256), KeyAlgorithm::P256);
    for signature in [&[7; 64][..], b"", &[0x30, 0x00]] {
        let draft = Draft::leaf(grant(Mesh::Envoy), subject_key(KeyAlgorithm::P256), &ca.issuer, serial(3), NOW);
        let said = draft.unwrap().finish(signature).unwrap_err().to_string();
        assert!(said.contains("no ecdsa-p256-sha256 signature"), "{said}");
    }
}

#[test]
fn equal_content_has_an_equal_version() {
    let root = root(KeyAlgorithm::P256);
    let ca = issuing(&root, KeyAlgorithm::P256);
    let key = subject_key(KeyAlgorithm::P256);
    let draft = |seed| Draft::leaf(grant(Mesh::Envoy), key.clone(), &ca.issuer, serial(seed), NOW).unwrap();
    assert_eq!(draft(3).version(), draft(3).version());
    assert_ne!(draft(3).version(), draft(4).version());
    assert!(Arc::ptr_eq(draft(3).chain(), ca.issuer.chain()));
}
