//! Every rule of the lint is broken once, in bytes that are right otherwise.

use super::*;
use crate::identity::Mesh;
use crate::policy::Grant;
use crate::x509::KeyAlgorithm;
use crate::x509::draft::Draft;
use crate::x509::profile::Level;
use crate::x509::tests::*;

/// A right TBS taken apart: its fields, and its extensions one by one.
struct Apart {
    fields: Vec<Vec<u8>>,
    extensions: Vec<Vec<u8>>,
}

impl Apart {
    fn of(tbs: &[u8]) -> Self {
        let mut fields = elements(der::only(tbs, der::SEQUENCE).unwrap().content);
        let last = fields.pop().unwrap();
        let list = der::only(&last, 0xa3).unwrap().content;
        Self { fields, extensions: elements(der::only(list, der::SEQUENCE).unwrap().content) }
    }

    fn together(&self) -> Vec<u8> {
        let list = tlv(der::SEQUENCE, &self.extensions.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let list = tlv(0xa3, &[&list]);
        let fields: Vec<&[u8]> = self.fields.iter().map(Vec::as_slice).chain([list.as_slice()]).collect();
        tlv(der::SEQUENCE, &fields)
    }

    fn at(&mut self, arc: u8) -> &mut Vec<u8> {
        let oid = [0x06, 0x03, 0x55, 0x1d, arc];
        self.extensions.iter_mut().find(|extension| extension.windows(5).any(|window| window == oid)).unwrap()
    }
}

fn elements(content: &[u8]) -> Vec<Vec<u8>> {
    let mut reader = Reader::new(content);
    std::iter::from_fn(|| reader.any().ok().map(|element| element.whole.to_vec())).collect()
}

fn extension(arc: u8, critical: bool, value: &[u8]) -> Vec<u8> {
    let flag: &[u8] = if critical { &[0x01, 0x01, 0xff] } else { &[] };
    tlv(der::SEQUENCE, &[&[0x06, 0x03, 0x55, 0x1d, arc], flag, &tlv(der::OCTET_STRING, &[value])])
}

fn names(list: &[(u8, &str)]) -> Vec<u8> {
    let list: Vec<Vec<u8>> = list.iter().map(|(tag, name)| tlv(*tag, &[name.as_bytes()])).collect();
    extension(17, true, &tlv(der::SEQUENCE, &list.iter().map(Vec::as_slice).collect::<Vec<_>>()))
}

/// Drafts a leaf of Linkerd's, changes it, and says which rule that broke.
fn leaf(change: impl FnOnce(&mut Apart)) -> Option<Rule> {
    let ca = issuing(&root(KeyAlgorithm::P256), KeyAlgorithm::P256);
    let (key, grant): (_, Grant) = (subject_key(KeyAlgorithm::P256), grant(Mesh::Linkerd));
    let again = crate::x509::tests::grant(Mesh::Linkerd);
    let draft = Draft::leaf(grant, key.clone(), &ca.issuer, serial(3), NOW).unwrap();
    let mut apart = Apart::of(draft.tbs());
    assert_eq!(apart.together(), draft.tbs());
    change(&mut apart);
    let expected = Expected {
        serial: &serial(3),
        signature: ca.issuer.signature_algorithm(),
        issuer: Some(ca.issuer.subject_der()),
        not_before: draft.not_before(),
        not_after: draft.not_after(),
        key: &key,
        issuer_key_id: ca.issuer.key_id(),
        purpose: Purpose::Leaf {
            identity: again.identity(),
            dns_names: again.dns_names(),
            key_usage: again.profile().key_usage(KeyAlgorithm::P256),
        },
    };
    check(&apart.together(), &expected).err().map(|error| error.rule)
}

const ID: &str = "spiffe://example.org/ns/pay/sa/api";
const DNS: &str = "api.pay.serviceaccount.identity.linkerd.cluster.local";

#[test]
fn each_field_is_held() {
    assert_eq!(leaf(|_| {}), None);
    assert_eq!(leaf(|tbs| tbs.fields[0] = vec![0xa0, 0x03, 0x02, 0x01, 0x01]), Some(Rule::Version));
    assert_eq!(leaf(|tbs| *tbs.fields[1].last_mut().unwrap() ^= 1), Some(Rule::Serial));
    let other = SignatureAlgorithm::Ed25519.identifier();
    assert_eq!(leaf(|tbs| tbs.fields[2] = other.to_vec()), Some(Rule::SignatureAlgorithm));
    assert_eq!(leaf(|tbs| *tbs.fields[3].last_mut().unwrap() ^= 1), Some(Rule::Issuer));
    assert_eq!(leaf(|tbs| tbs.fields[3] = EMPTY_NAME.to_vec()), Some(Rule::Issuer));
    assert_eq!(leaf(|tbs| tbs.fields[4][5] ^= 1), Some(Rule::Validity));
    assert_eq!(leaf(|tbs| tbs.fields[5] = tbs.fields[3].clone()), Some(Rule::Subject));
    assert_eq!(leaf(|tbs| *tbs.fields[6].last_mut().unwrap() ^= 1), Some(Rule::PublicKey));
    // issuerUniqueID.
    assert_eq!(leaf(|tbs| tbs.fields.push(vec![0x81, 0x01, 0x00])), Some(Rule::Shape));
    assert_eq!(leaf(|tbs| tbs.fields.push(vec![0x05, 0x00])), Some(Rule::Shape));
}

#[test]
fn exactly_the_expected_extensions_are_there() {
    for arc in [14, 15, 17, 19, 35] {
        let dropped = leaf(|tbs| {
            let gone = tbs.at(arc).clone();
            tbs.extensions.retain(|extension| *extension != gone);
        });
        assert_eq!(dropped, Some(Rule::MissingExtension), "{arc}");
        let doubled = leaf(|tbs| {
            let again = tbs.at(arc).clone();
            tbs.extensions.push(again);
        });
        assert_eq!(doubled, Some(Rule::UnknownExtension), "{arc}");
    }
    // Name constraints, and something of a private arc.
    assert_eq!(leaf(|tbs| tbs.extensions.push(extension(30, false, &[0x30, 0x00]))), Some(Rule::UnknownExtension));
    let private = tlv(der::SEQUENCE, &[&[0x06, 0x03, 0x2b, 0x06, 0x01], &tlv(der::OCTET_STRING, &[&[0x05, 0x00]])]);
    assert_eq!(leaf(|tbs| tbs.extensions.push(private)), Some(Rule::UnknownExtension));
}

#[test]
fn names_are_the_granted_ones_and_in_order() {
    let check = |list: &[(u8, &str)], expected| {
        assert_eq!(leaf(|tbs| *tbs.at(17) = names(list)), expected, "{list:?}");
    };
    check(&[(DNS_NAME, DNS), (URI_NAME, ID)], None);
    check(&[(URI_NAME, ID), (DNS_NAME, DNS)], Some(Rule::DnsNames));
    check(&[(URI_NAME, ID)], Some(Rule::DnsNames));
    check(&[(DNS_NAME, DNS)], Some(Rule::UriName));
    check(&[(DNS_NAME, DNS), (URI_NAME, ID), (URI_NAME, ID)], Some(Rule::UriName));
    check(&[(DNS_NAME, DNS), (URI_NAME, "spiffe://example.org/other")], Some(Rule::UriName));
    check(&[(DNS_NAME, DNS), (DNS_NAME, DNS), (URI_NAME, ID)], Some(Rule::UriName));
    check(&[(DNS_NAME, DNS), (URI_NAME, ID), (0x87, "abcd")], Some(Rule::UriName));
}

#[test]
fn usages_constraints_and_identifiers_are_held() {
    let check = |arc, critical, value: &[u8], expected| {
        assert_eq!(leaf(|tbs| *tbs.at(arc) = extension(arc, critical, value)), Some(expected), "{arc} {value:02x?}");
    };
    // keyCertSign, cRLSign, keyEncipherment without digitalSignature, nothing.
    check(15, true, &[0x03, 0x02, 0x02, 0x84], Rule::KeyUsage);
    check(15, true, &[0x03, 0x02, 0x01, 0x82], Rule::KeyUsage);
    check(15, true, &[0x03, 0x02, 0x05, 0x20], Rule::KeyUsage);
    check(15, true, &[0x03, 0x01, 0x00], Rule::KeyUsage);
    check(15, false, &[0x03, 0x02, 0x07, 0x80], Rule::Critical);
    let server = [0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
    check(37, false, &tlv(der::SEQUENCE, &[&server]), Rule::Shape);
    check(37, false, &tlv(der::SEQUENCE, &[&server, &server]), Rule::ExtendedKeyUsage);
    check(19, true, &[0x30, 0x03, 0x01, 0x01, 0xff], Rule::BasicConstraints);
    check(19, true, &[0x30, 0x03, 0x02, 0x01, 0x00], Rule::BasicConstraints);
    check(19, false, &[0x30, 0x00], Rule::Critical);
    check(14, false, &tlv(der::OCTET_STRING, &[&[7; 20]]), Rule::KeyIdentifier);
    check(35, false, &tlv(der::SEQUENCE, &[&tlv(0x80, &[&[7; 20]])]), Rule::KeyIdentifier);
    let dropped = leaf(|tbs| {
        let gone = tbs.at(37).clone();
        tbs.extensions.retain(|extension| *extension != gone);
    });
    assert_eq!(dropped, Some(Rule::ExtendedKeyUsage));
}

#[test]
fn an_authority_is_held_to_its_own_rules() {
    let root = root(KeyAlgorithm::P256);
    let key = root.issuer.key();
    let draft = Draft::authority(spec(Level::Root, &root.signer, 1), None, NOW).unwrap();
    let domain = trust_domain();
    let broken = |change: &dyn Fn(&mut Apart)| {
        let mut apart = Apart::of(draft.tbs());
        change(&mut apart);
        let expected = Expected {
            serial: &serial(1),
            signature: SignatureAlgorithm::EcdsaP256Sha256,
            issuer: None,
            not_before: draft.not_before(),
            not_after: draft.not_after(),
            key,
            issuer_key_id: key.key_id(),
            purpose: Purpose::Authority { trust_domain: &domain, path_length: Some(1) },
        };
        check(&apart.together(), &expected).err().map(|error| error.rule)
    };
    assert_eq!(broken(&|_| {}), None);
    assert_eq!(broken(&|tbs| *tbs.at(19) = extension(19, true, &[0x30, 0x00])), Some(Rule::BasicConstraints));
    let longer = [0x30, 0x06, 0x01, 0x01, 0xff, 0x02, 0x01, 0x02];
    assert_eq!(broken(&|tbs| *tbs.at(19) = extension(19, true, &longer)), Some(Rule::BasicConstraints));
    let no_crl = [0x03, 0x02, 0x02, 0x04];
    assert_eq!(broken(&|tbs| *tbs.at(15) = extension(15, true, &no_crl)), Some(Rule::KeyUsage));
    assert_eq!(broken(&|tbs| tbs.fields[3] = EMPTY_NAME.to_vec()), Some(Rule::Issuer));
    let empty = |tbs: &mut Apart| (tbs.fields[3], tbs.fields[5]) = (EMPTY_NAME.to_vec(), EMPTY_NAME.to_vec());
    assert_eq!(broken(&empty), Some(Rule::Subject));
    assert_eq!(broken(&|tbs| *tbs.at(17) = names(&[(URI_NAME, "spiffe://example.org")])), Some(Rule::Critical));
}

#[test]
fn a_finished_certificate_must_wrap_the_recorded_bytes() {
    let ca = issuing(&root(KeyAlgorithm::P256), KeyAlgorithm::P256);
    let parts = chain::split(ca.issuer.der()).unwrap();
    assert_eq!(check_finished(ca.issuer.der(), parts.tbs), Ok(()));
    let other = [parts.tbs, &[0]].concat();
    assert_eq!(check_finished(ca.issuer.der(), &other).unwrap_err().rule, Rule::Finished);
    assert_eq!(check_finished(parts.tbs, parts.tbs).unwrap_err().rule, Rule::Finished);
    let bits = tlv(der::BIT_STRING, &[&[0], parts.signature]);
    let mixed = tlv(der::SEQUENCE, &[parts.tbs, SignatureAlgorithm::Ed25519.identifier(), &bits]);
    assert_eq!(check_finished(&mixed, parts.tbs).unwrap_err().rule, Rule::SignatureAlgorithm);
}
