//! CSRs as clients of each mesh send them, as attackers would, and as accidents make them.

use proptest::prelude::*;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType};

use super::*;
use crate::identity::Mesh;
use crate::x509::tests::*;

/// A CSR by rcgen for a P-256 key, with an empty subject, changed by `change`.
fn csr(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    csr_of(&KeyPair::generate().unwrap(), change)
}

fn csr_of(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    change(&mut params);
    params.serialize_request(key).unwrap().der().to_vec()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

fn pem_of(label: &str, der: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    pem::encode(&mut out, label, der);
    out
}

#[test]
fn every_kind_of_key_is_read_from_pem_and_der() {
    for (scheme, expected) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, KeyAlgorithm::P256),
        (&rcgen::PKCS_ECDSA_P384_SHA384, KeyAlgorithm::P384),
        (&rcgen::PKCS_ED25519, KeyAlgorithm::Ed25519),
        (&rcgen::PKCS_RSA_SHA256, KeyAlgorithm::Rsa2048),
        (&rcgen::PKCS_ML_DSA_44, KeyAlgorithm::MlDsa44),
        (&rcgen::PKCS_ML_DSA_65, KeyAlgorithm::MlDsa65),
        (&rcgen::PKCS_ML_DSA_87, KeyAlgorithm::MlDsa87),
    ] {
        let key = KeyPair::generate_for(scheme).unwrap();
        let der = csr_of(&key, |params| params.subject_alt_names.push(uri("spiffe://example.org/web")));
        for sent in [der.clone(), pem_of("CERTIFICATE REQUEST", &der), pem_of("NEW CERTIFICATE REQUEST", &der)] {
            let read = parse(&sent).unwrap();
            assert_eq!(read.key_algorithm(), expected);
            assert_eq!(read.spki_der(), rcgen::PublicKeyData::subject_public_key_info(&key));
            assert_eq!(read.uri_names(), ["spiffe://example.org/web"]);
            read.check_against(&grant(Mesh::Envoy)).unwrap();
        }
    }
}

/// What `grant` says of a P-256 CSR.
fn check(mesh: Mesh, change: impl FnOnce(&mut CertificateParams), expected: Result<(), &str>) {
    let said = parse(&csr(change)).and_then(|csr| csr.check_against(&grant(mesh))).map_err(|error| error.to_string());
    match expected {
        Ok(()) => assert_eq!(said, Ok(())),
        Err(expected) => assert!(said.clone().unwrap_err().contains(expected), "{said:?}"),
    }
}

#[test]
fn each_mesh_sends_what_it_sends() {
    let linkerd = "api.pay.serviceaccount.identity.linkerd.cluster.local";
    // ztunnel; istio-agent with O=""; Linkerd with and without common name; a bare request.
    check(Mesh::Istio, |csr| csr.subject_alt_names.push(uri("spiffe://example.org/ns/pay/sa/api")), Ok(()));
    let agent = |csr: &mut CertificateParams| {
        csr.distinguished_name.push(DnType::OrganizationName, "");
        csr.subject_alt_names.push(uri("spiffe://example.org/ns/pay/sa/api"));
    };
    check(Mesh::Istio, agent, Ok(()));
    check(Mesh::Linkerd, |csr| csr.subject_alt_names.push(dns(linkerd)), Ok(()));
    let named = |csr: &mut CertificateParams| {
        csr.distinguished_name.push(DnType::CommonName, linkerd);
        csr.subject_alt_names.push(dns(linkerd));
    };
    check(Mesh::Linkerd, named, Ok(()));
    check(Mesh::Consul, |_| {}, Ok(()));
    let usages = |csr: &mut CertificateParams| {
        csr.is_ca = IsCa::ExplicitNoCa;
        csr.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        csr.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    };
    check(Mesh::Envoy, usages, Ok(()));
}

#[test]
fn names_that_are_not_granted_are_refused() {
    let id = "spiffe://example.org/web";
    check(Mesh::Envoy, |csr| csr.subject_alt_names.push(uri("spiffe://example.org/admin")), Err("policy grants"));
    check(Mesh::Envoy, |csr| csr.subject_alt_names.push(uri("https://example.org/web")), Err("policy grants"));
    check(Mesh::Envoy, |csr| csr.subject_alt_names = vec![uri(id), uri(id)], Err("exactly one"));
    check(
        Mesh::Envoy,
        |csr| csr.subject_alt_names = vec![uri(id), dns("web.example")],
        Err("DNS name \"web.example\""),
    );
    let address = SanType::IpAddress([127, 0, 0, 1].into());
    check(Mesh::Envoy, |csr| csr.subject_alt_names.push(address), Err("neither URI nor DNS"));
    let mail = SanType::Rfc822Name("a@example.org".try_into().unwrap());
    check(Mesh::Envoy, |csr| csr.subject_alt_names.push(mail), Err("neither URI nor DNS"));
    check(Mesh::Envoy, |csr| csr.distinguished_name.push(DnType::CommonName, "root"), Err("CN=root"));
    check(
        Mesh::Istio,
        |csr| csr.distinguished_name.push(DnType::OrganizationName, "system:masters"),
        Err("empty subject"),
    );
    let many = (0..=MOST_NAMES).map(|number| dns(&format!("a{number}.example"))).collect();
    check(Mesh::Envoy, |csr| csr.subject_alt_names = many, Err("more than 64"));
}

#[test]
fn ca_rights_and_odd_extensions_are_refused() {
    let ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    check(Mesh::Envoy, |csr| csr.is_ca = ca, Err("asks for a CA"));
    check(Mesh::Envoy, |csr| csr.key_usages = vec![KeyUsagePurpose::KeyCertSign], Err("asks for a CA"));
    check(Mesh::Envoy, |csr| csr.key_usages = vec![KeyUsagePurpose::CrlSign], Err("asks for a CA"));
    let signs_code = vec![ExtendedKeyUsagePurpose::CodeSigning];
    check(Mesh::Envoy, |csr| csr.extended_key_usages = signs_code, Err("extension 2.5.29.37"));
    let odd = rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![0x05, 0x00]);
    check(Mesh::Envoy, |csr| csr.custom_extensions = vec![odd], Err("extension 1.2.3.4"));
    let names = |uri: &str| {
        let list = tlv(der::SEQUENCE, &[&tlv(0x86, &[uri.as_bytes()])]);
        rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 17], list)
    };
    let twice = vec![names("spiffe://example.org/web"), names("spiffe://example.org/admin")];
    check(Mesh::Envoy, |csr| csr.custom_extensions = twice, Err("extension 2.5.29.17"));
}

#[test]
fn a_key_outside_of_the_grant_is_refused() {
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let linkerd = crate::x509::profile::Profiles::builtin().leaf(Mesh::Linkerd);
    let grant = grant_of(linkerd, linkerd.key_algorithms(), HOUR);
    let said = parse(&csr_of(&key, |_| {})).unwrap().check_against(&grant).unwrap_err().to_string();
    assert!(said.contains("key is ed25519, but policy accepts p256"), "{said}");
}

#[test]
fn accidents_are_named() {
    let good = csr(|_| {});
    let said = |sent: &[u8]| parse(sent).unwrap_err();
    assert_eq!(said(b""), CsrError::Empty);
    assert_eq!(said(&vec![0x30; LARGEST_CSR + 1]), CsrError::TooLarge { length: LARGEST_CSR + 1 });
    assert_eq!(said(b"hello"), CsrError::Malformed);
    assert_eq!(said(&[good.as_slice(), &[0]].concat()), CsrError::Malformed);
    assert_eq!(said(&pem_of("CERTIFICATE REQUEST", &[good.as_slice(), &[0]].concat())), CsrError::Malformed);
    let block = pem_of("CERTIFICATE REQUEST", &good);
    assert_eq!(said(&[block.as_slice(), &block].concat()), CsrError::NotOne { found: 2 });
    assert!(said(&pem_of("PRIVATE KEY", &good)).to_string().contains("compromised"));
    assert!(matches!(said(b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA"), CsrError::Pem(_)));
}

/// A CSR taken apart and put together again, unsigned.
fn forged(info: &[&[u8]], identifier: &[u8], signature: &[u8]) -> Vec<u8> {
    let bits = tlv(der::BIT_STRING, &[&[0], signature]);
    tlv(der::SEQUENCE, &[&tlv(der::SEQUENCE, info), identifier, &bits])
}

fn spki(identifier: &[u8], key: &[u8]) -> Vec<u8> {
    tlv(der::SEQUENCE, &[identifier, &tlv(der::BIT_STRING, &[&[0], key])])
}

fn rsa(bits: usize, exponent: &[u8]) -> Vec<u8> {
    let modulus = [&[0x00, 0x80][..], &vec![1; bits / 8 - 1]].concat();
    let key = tlv(der::SEQUENCE, &[&tlv(der::INTEGER, &[&modulus]), &tlv(der::INTEGER, &[exponent])]);
    spki(KeyAlgorithm::Rsa2048.spki_identifier(), &key)
}

#[test]
fn weak_and_odd_keys_are_refused_before_anything_is_computed() {
    let (version, name, attributes) = ([0x02, 0x01, 0x00], [0x30, 0x00], [0xa0, 0x00]);
    let check = |spki: &[u8], expected: KeyFault| {
        let identifier = KeyAlgorithm::P256.signature().identifier();
        let sent = forged(&[&version, &name, spki, &attributes], identifier, &[1; 64]);
        assert_eq!(parse(&sent).unwrap_err(), CsrError::Key(expected));
    };
    check(&rsa(1024, &[1, 0, 1]), KeyFault::RsaBits { bits: 1024 });
    check(&rsa(8192, &[1, 0, 1]), KeyFault::RsaBits { bits: 8192 });
    check(&rsa(2048, &[3]), KeyFault::RsaExponent);
    check(&rsa(2048, &[1, 0, 2]), KeyFault::RsaExponent);
    check(&rsa(2048, &[1, 0, 0, 0, 1]), KeyFault::RsaExponent);
    check(&rsa(2048, &[0x81]), KeyFault::Malformed);
    let p256 = KeyAlgorithm::P256.spki_identifier();
    check(&spki(p256, &[&[2][..], &[7; 32]].concat()), KeyFault::Point);
    check(&spki(p256, &[4; 64]), KeyFault::Point);
    check(&spki(KeyAlgorithm::Ed25519.spki_identifier(), &[7; 31]), KeyFault::Malformed);
    // P-224, and RSA without its NULL.
    let p224 =
        [0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x21];
    check(&spki(&p224, &[4; 57]), KeyFault::Unknown);
    let bare = [0x30, 0x0b, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    check(&spki(&bare, &[0; 270]), KeyFault::Unknown);
}

#[test]
fn only_a_right_signature_with_a_sound_hash_counts() {
    let good = csr(|_| {});
    let mut outer = Reader::new(der::only(&good, der::SEQUENCE).unwrap().content);
    let (info, identifier) = (outer.any().unwrap(), outer.any().unwrap());
    let signature = der::whole_bits(outer.any().unwrap().content).unwrap();
    let mut fields = Reader::new(info.content);
    let parts: Vec<&[u8]> = std::iter::from_fn(|| fields.any().ok().map(|field| field.whole)).collect();
    assert!(parse(&forged(&parts, identifier.whole, signature)).is_ok());
    // Signed by another key.
    let other = subject_key(KeyAlgorithm::P256);
    let stolen = [parts[0], parts[1], other.spki_der(), parts[3]];
    assert_eq!(parse(&forged(&stolen, identifier.whole, signature)).unwrap_err(), CsrError::Signature);
    // A changed subject, a version that does not exist, no attributes at all.
    let renamed =
        [parts[0], &tlv(der::SEQUENCE, &[&tlv(der::SET, &[&attribute(&[0x55, 4, 3], 0x0c, "x")])]), parts[2], parts[3]];
    assert_eq!(parse(&forged(&renamed, identifier.whole, signature)).unwrap_err(), CsrError::Signature);
    let second = [&[0x02, 0x01, 0x01][..], parts[1], parts[2], parts[3]];
    assert_eq!(parse(&forged(&second, identifier.whole, signature)).unwrap_err(), CsrError::Version);
    assert_eq!(parse(&forged(&parts[..3], identifier.whole, signature)).unwrap_err(), CsrError::Malformed);
    // ecdsa-with-SHA1.
    let sha1 = [0x30, 0x09, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];
    let said = parse(&forged(&parts, &sha1, signature)).unwrap_err();
    assert_eq!(said, CsrError::SignatureAlgorithm { key: KeyAlgorithm::P256 });
}

#[test]
fn other_attributes_mean_nothing_and_harm_nothing() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let password = [0x31, 0x08, 0x0c, 0x06, b's', b'e', b'c', b'r', b'e', b't'].to_vec();
    let attributes = vec![
        rcgen::Attribute { oid: &[1, 2, 840, 113_549, 1, 9, 7], values: password },
        rcgen::Attribute { oid: &[1, 2, 3], values: vec![0x31, 0x00] },
    ];
    let der = params.serialize_request_with_attributes(&key, attributes).unwrap().der().to_vec();
    let read = parse(&der).unwrap();
    read.check_against(&grant(Mesh::Envoy)).unwrap();
    assert!(!format!("{read:?}").contains("secret"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(parse(&bytes).is_err());
    }

    #[test]
    fn a_changed_csr_is_refused_or_says_the_same(at in 0_usize..10_000, flip in 1_u8.., cut in 0_usize..10_000, how in 0_u8..3) {
        let good = GOOD.with(Clone::clone);
        let mut bad = good.clone();
        let at = at % good.len();
        match how {
            0 => bad[at] ^= flip,
            1 => bad.truncate(at),
            _ => { bad.splice(at..at, good[cut % good.len()..].iter().copied().take(usize::from(flip))); }
        }
        if let Ok(csr) = parse(&bad) {
            let right = parse(&good).unwrap();
            prop_assert_eq!((csr.spki_der(), csr.uri_names()), (right.spki_der(), right.uri_names()));
        }
    }

    /// Behind the signature: bytes that are signed whatever they say.
    #[test]
    fn signed_nonsense_is_survived(junk in proptest::collection::vec(any::<u8>(), 0..120), arc in 14_u64..40) {
        let odd = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, arc], junk.clone());
        let sent = csr(|params| params.custom_extensions = vec![odd]);
        drop(parse(&sent).map(|csr| csr.check_against(&grant(Mesh::Envoy))));
    }
}

thread_local! {
    static GOOD: Vec<u8> = csr(|params| {
        params.subject_alt_names.push(uri("spiffe://example.org/web"));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    });
}
