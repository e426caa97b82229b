//! CRLs against our own reader and rustls-webpki.

use std::time::Duration;

use futures::FutureExt;
use proptest::prelude::*;
use rustls_pki_types::UnixTime;

use super::*;
use crate::keys::Signer;
use crate::x509::chain::Issuer;
use crate::x509::der;
use crate::x509::tests::{self as ca, Ca, HOUR, NOW};
use crate::x509::{KeyAlgorithm, pem};

const WEEK: Duration = Duration::from_secs(7 * 86_400);

pub(crate) fn entry(seed: u64, reason: Reason) -> CrlEntry {
    CrlEntry { serial: ca::serial(seed), revoked_at: NOW - HOUR, reason }
}

fn spec(entries: Vec<CrlEntry>) -> CrlSpec {
    CrlSpec { number: 7, this_update: NOW - Duration::from_secs(300), next_update: NOW + WEEK, entries }
}

fn sign(by: &Ca, draft: CrlDraft) -> Crl {
    let signature = by.signer.sign(draft.tbs()).now_or_never().unwrap().unwrap();
    draft.finish(&signature).unwrap()
}

pub(crate) fn crl(by: &Ca, entries: Vec<CrlEntry>) -> Crl {
    sign(by, CrlDraft::new(&by.issuer, spec(entries), NOW).unwrap())
}

#[test]
fn what_is_written_is_read_and_verifies_by_its_issuer_alone() {
    for algorithm in [KeyAlgorithm::P256, KeyAlgorithm::P384, KeyAlgorithm::Ed25519, KeyAlgorithm::MlDsa65] {
        let (root, other) = (ca::root(algorithm), ca::root(algorithm));
        let mut entries: Vec<CrlEntry> = Reason::ALL.iter().zip(1..).map(|(reason, at)| entry(at, *reason)).collect();
        let draft = CrlDraft::new(&root.issuer, spec(entries.clone()), NOW).unwrap();
        let facts = draft.facts().clone();
        let made = sign(&root, draft);
        let again = Crl::parse(made.der().to_vec()).unwrap();
        assert_eq!(again.facts(), facts);
        again.verify(&root.issuer).unwrap();
        assert!(matches!(again.verify(&other.issuer), Err(CrlFault::NotBy { .. })), "the same name, another key");
        entries.sort_by_key(|entry| entry.serial);
        let whole = |entry: &CrlEntry| (entry.serial, entry.reason);
        assert_eq!(
            again.entries().iter().map(whole).collect::<Vec<_>>(),
            entries.iter().map(whole).collect::<Vec<_>>()
        );
        assert_eq!(again.revokes(&ca::serial(2)).unwrap().reason, Reason::KeyCompromise);
        assert!(again.revokes(&ca::serial(99)).is_none());
        assert_eq!((again.number(), again.next_update()), (7, (NOW + WEEK).replace_nanosecond(0).unwrap()));
    }
}

#[test]
fn pem_holds_several_and_one_changed_bit_is_noticed() {
    let (root, other) = (ca::root(KeyAlgorithm::P256), ca::root(KeyAlgorithm::P256));
    let text = [crl(&root, vec![]).pem(), crl(&other, vec![entry(1, Reason::Superseded)]).pem()].concat();
    let read = Crl::parse_pem(&text).unwrap();
    assert_eq!(read.iter().map(|crl| crl.entries().len()).collect::<Vec<_>>(), [0, 1]);
    let mut der = read[1].der().to_vec();
    let at = der.len() / 2;
    der[at] ^= 1;
    assert!(!Crl::parse(der).is_ok_and(|crl| crl.verify(&other.issuer).is_ok()));
    let mut wrong = Vec::new();
    pem::encode(&mut wrong, pem::CRL, b"nothing");
    assert_eq!(Crl::parse_pem(&wrong).unwrap_err(), CrlFault::Malformed);
}

#[test]
fn a_ca_that_may_not_sign_crls_signs_none() {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let made = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    let issuer = Issuer::from_der(made.der().to_vec(), Vec::new()).unwrap();
    assert_eq!(CrlDraft::new(&issuer, spec(vec![]), NOW).unwrap_err(), CrlError::Rule(CrlRule::Usage));
}

#[test]
fn lint_is_the_last_net() {
    let root = ca::root(KeyAlgorithm::P256);
    let refused = |spec: CrlSpec| CrlDraft::new(&root.issuer, spec, NOW).unwrap_err();
    let twice = vec![entry(1, Reason::Superseded), entry(1, Reason::KeyCompromise)];
    assert_eq!(refused(spec(twice)), CrlError::Rule(CrlRule::Entries));
    assert_eq!(refused(CrlSpec { number: 0, ..spec(vec![]) }), CrlError::Rule(CrlRule::Number));
    let future = CrlSpec { this_update: NOW + HOUR, ..spec(vec![]) };
    assert_eq!(refused(future), CrlError::Rule(CrlRule::Times));
    let over = CrlSpec { next_update: NOW - HOUR / 60, ..spec(vec![]) };
    assert_eq!(refused(over), CrlError::Rule(CrlRule::Times));
    let draft = CrlDraft::new(&root.issuer, spec(vec![]), NOW).unwrap();
    let other = ca::root(KeyAlgorithm::P256);
    let foreign = other.signer.sign(draft.tbs()).now_or_never().unwrap().unwrap();
    assert!(matches!(draft.finish(&foreign), Err(CrlError::Signature { .. })), "another key's signature");
}

#[test]
fn a_name_that_cannot_be_written_again_is_copied() {
    // DC=com, DC=corp: rcgen would keep one of them.
    let domain = |text| {
        ca::tlv(der::SET, &[&ca::attribute(&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], 0x16, text)])
    };
    let root = ca::root_named(&ca::tlv(der::SEQUENCE, &[&domain("com"), &domain("corp")]));
    let made = crl(&root, vec![entry(1, Reason::Unspecified)]);
    assert_eq!(made.issuer_der(), root.issuer.subject_der());
    made.verify(&root.issuer).unwrap();
}

#[test]
fn webpki_refuses_what_is_on_it_and_takes_what_is_not() {
    use webpki::{CertRevocationList, EndEntityCert, KeyUsage, OwnedCertRevocationList, RevocationOptionsBuilder};
    use webpki::{ExpirationPolicy, RevocationCheckDepth, UnknownStatusPolicy, aws_lc_rs as algorithms};

    let root = ca::root(KeyAlgorithm::P256);
    let issuing = ca::issuing(&root, KeyAlgorithm::P384);
    let leaf = |seed| {
        let draft = crate::x509::draft::Draft::leaf(
            ca::grant(crate::identity::Mesh::Envoy),
            ca::subject_key(KeyAlgorithm::P256),
            &issuing.issuer,
            ca::serial(seed),
            NOW,
        );
        issuing.sign(draft.unwrap()).into_der()
    };
    let (revoked, good) = (leaf(1), leaf(2));
    let lists: Vec<CertRevocationList<'_>> = [crl(&root, vec![]), crl(&issuing, vec![entry(1, Reason::KeyCompromise)])]
        .iter()
        .map(|crl| OwnedCertRevocationList::from_der(crl.der()).unwrap().into())
        .collect();
    let lists: Vec<&CertRevocationList<'_>> = lists.iter().collect();
    let anchor = root.issuer.der().into();
    let anchor = webpki::anchor_from_trusted_cert(&anchor).unwrap();
    let check = |leaf: &[u8], at: OffsetDateTime| {
        let options = RevocationOptionsBuilder::new(&lists)
            .unwrap()
            .with_depth(RevocationCheckDepth::Chain)
            .with_status_policy(UnknownStatusPolicy::Deny)
            .with_expiration_policy(ExpirationPolicy::Enforce)
            .build();
        let leaf = leaf.into();
        let end = EndEntityCert::try_from(&leaf).unwrap();
        let chain = [issuing.issuer.der().into()];
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at.unix_timestamp().unsigned_abs()));
        let all = [algorithms::ECDSA_P256_SHA256, algorithms::ECDSA_P384_SHA384];
        end.verify_for_usage(
            &all,
            std::slice::from_ref(&anchor),
            &chain,
            at,
            KeyUsage::client_auth(),
            Some(options),
            None,
        )
        .map(drop)
    };
    check(&good, NOW).unwrap();
    assert_eq!(check(&revoked, NOW), Err(webpki::Error::CertRevoked));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Crl::parse(bytes).is_err());
    }
}
