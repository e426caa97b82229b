//! Which certificates may issue, and which chains are chains.

use super::*;
use crate::x509::KeyAlgorithm;
use crate::x509::draft::Draft;
use crate::x509::profile::Level;
use crate::x509::tests::*;

fn refused(der: Vec<u8>, parents: Vec<Vec<u8>>) -> IssuerError {
    Issuer::from_der(der, parents).unwrap_err()
}

#[test]
fn a_chain_is_the_issuing_ca_without_the_root() {
    let root = root(KeyAlgorithm::P384);
    let ca = issuing(&root, KeyAlgorithm::P256);
    assert_eq!(ca.issuer.chain().to_vec(), [ca.issuer.der().to_vec()]);
    assert!(root.issuer.chain().is_empty());
    assert_eq!(ca.issuer.name(), "O=example.org, CN=issuing 1");
    let alone = Issuer::from_der(ca.issuer.der().to_vec(), Vec::new()).unwrap();
    assert_eq!(alone.chain_sha256(), ca.issuer.chain_sha256());
}

#[test]
fn links_are_verified_by_name_key_and_signature() {
    let (one, two) = (root(KeyAlgorithm::P256), root(KeyAlgorithm::P256));
    let ca = issuing(&one, KeyAlgorithm::P256);
    let der = || ca.issuer.der().to_vec();
    // Equal name, another key.
    assert!(matches!(refused(der(), vec![two.issuer.der().to_vec()]), IssuerError::Link { .. }));
    assert!(matches!(refused(one.issuer.der().to_vec(), vec![der()]), IssuerError::PathLength { .. }));
    let many = vec![one.issuer.der().to_vec(); LONGEST_CHAIN];
    assert_eq!(refused(der(), many), IssuerError::TooLong { found: LONGEST_CHAIN + 1 });
    let mut forged = one.issuer.der().to_vec();
    *forged.last_mut().unwrap() ^= 1;
    assert!(matches!(refused(forged, Vec::new()), IssuerError::Link { .. }));
}

#[test]
fn only_a_ca_issues() {
    let root = root(KeyAlgorithm::P256);
    let ca = issuing(&root, KeyAlgorithm::P256);
    let draft =
        Draft::leaf(grant(crate::identity::Mesh::Envoy), subject_key(KeyAlgorithm::P256), &ca.issuer, serial(3), NOW);
    let leaf = ca.sign(draft.unwrap()).into_der();
    assert_eq!(refused(leaf.clone(), Vec::new()), IssuerError::NoName);
    for bytes in [&b""[..], b"x", &[0x30, 0x00], &[leaf.as_slice(), &[0]].concat()] {
        assert_eq!(refused(bytes.to_vec(), Vec::new()), IssuerError::Malformed);
    }
}

/// A self-signed certificate by rcgen, changed by `change`.
fn foreign(change: impl FnOnce(&mut rcgen::CertificateParams)) -> Vec<u8> {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    change(&mut params);
    params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

#[test]
fn what_an_operator_brings_is_told_what_it_lacks() {
    let check = |change: fn(&mut rcgen::CertificateParams), expected: &str| {
        let said = refused(foreign(change), Vec::new()).to_string();
        assert!(said.contains(expected), "{said}");
    };
    assert!(Issuer::from_der(foreign(|_| {}), Vec::new()).is_ok());
    check(|params| params.is_ca = rcgen::IsCa::NoCa, "CA:TRUE");
    check(|params| params.is_ca = rcgen::IsCa::ExplicitNoCa, "CA:TRUE");
    check(|params| params.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign], "keyCertSign");
    check(|params| params.key_usages.clear(), "keyCertSign");
    check(|params| params.distinguished_name = rcgen::DistinguishedName::new(), "empty subject");
    check(|params| std::mem::swap(&mut params.not_before, &mut params.not_after), "never valid");
    let nistp521 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let der = params.self_signed(&nistp521).unwrap().der().to_vec();
    assert!(matches!(refused(der, Vec::new()), IssuerError::Key { .. }));
}

#[test]
fn the_path_length_counts_cas_above_the_leaf() {
    let root = root(KeyAlgorithm::P256);
    let ca = issuing(&root, KeyAlgorithm::P256);
    // The root permits one CA below it; the same issuing CA under an issuing CA would be two.
    let again = Draft::authority(spec(Level::Issuing, &ca.signer, 5), Some(&ca.issuer), NOW);
    assert!(again.is_err());
    assert_eq!(ca.issuer.path_length(), Some(0));
    let parents = vec![ca.issuer.der().to_vec(), root.issuer.der().to_vec()];
    assert!(matches!(refused(ca.issuer.der().to_vec(), parents), IssuerError::PathLength { allowed: 0, found: 1, .. }));
}
