//! Each thing that an upstream may get wrong.

use super::*;
use crate::x509::KeyAlgorithm;
use crate::x509::tests::{Ca, NOW, issuing, root, trust_domain};

const LEAST: Duration = Duration::from_secs(86_400);

fn chain(own: &Ca, above: &[&Ca]) -> CaChain {
    let der = |ca: &Ca| ca.issuer.der().to_vec();
    CaChain { certificate: der(own), above: above.iter().map(|ca| der(ca)).collect() }
}

fn checked(chain: CaChain, spki: &[u8]) -> Result<Received, ReceivedError> {
    check(chain, spki, &trust_domain(), LEAST, Scope::WholeChain, NOW)
}

#[test]
fn what_was_asked_for_passes_and_is_described() {
    let root = root(KeyAlgorithm::P384);
    let own = issuing(&root, KeyAlgorithm::P256);
    let received = checked(chain(&own, &[&root]), own.issuer.key().spki_der()).unwrap();
    assert_eq!(received.issuer.der(), own.issuer.der());
    assert_eq!(received.above[0].der(), root.issuer.der());
    assert_eq!(received.facts.issuer_key_id, hex::encode(root.issuer.key_id()));
    assert_eq!(received.facts.public_key_sha256, hex::encode(own.issuer.key().sha256()));
    assert_eq!(received.facts.der_sha256.unwrap().len(), 64);
}

#[test]
fn anything_else_is_refused() {
    let (one, two) = (root(KeyAlgorithm::P256), root(KeyAlgorithm::P256));
    let (own, other) = (issuing(&one, KeyAlgorithm::P256), issuing(&one, KeyAlgorithm::P256));
    let spki = own.issuer.key().spki_der();
    assert_eq!(checked(chain(&own, &[]), spki).unwrap_err(), ReceivedError::NoRoot);
    assert_eq!(checked(chain(&other, &[&one]), spki).unwrap_err(), ReceivedError::OtherKey);
    assert!(matches!(checked(chain(&own, &[&two]), spki), Err(ReceivedError::Issuer(IssuerError::Link { .. }))));
    // A CA that may have others below it.
    let itself = one.issuer.key().spki_der();
    assert!(matches!(checked(chain(&one, &[&one]), itself), Err(ReceivedError::PathLength { .. })));
    let cut = CaChain { certificate: own.issuer.der()[1..].to_vec(), above: Vec::new() };
    assert!(matches!(checked(cut, spki), Err(ReceivedError::Issuer(IssuerError::Malformed))));
    let whole = || chain(&own, &[&one]);
    let elsewhere = TrustDomain::parse("other.org").unwrap();
    assert!(matches!(
        check(whole(), spki, &elsewhere, LEAST, Scope::WholeChain, NOW),
        Err(ReceivedError::Names { .. })
    ));
    let long = Duration::from_secs(86_400 * 3_000);
    assert!(matches!(
        check(whole(), spki, &trust_domain(), long, Scope::WholeChain, NOW),
        Err(ReceivedError::TooShort { .. })
    ));
    let before = own.issuer.not_before() - Duration::from_secs(1);
    assert!(matches!(
        check(whole(), spki, &trust_domain(), LEAST, Scope::WholeChain, before),
        Err(ReceivedError::Time { .. })
    ));
}
