//! The corpora replayed, and a bounded walk around them: each seed cut, flipped, doubled and crossed with another. What the
//! fuzzer of `tests/fuzz` finds becomes a seed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use prost::Message;

use super::*;
use crate::proto::envoy::config::core::v3::Node;
use crate::proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};

/// Changed copies of each seed.
const COPIES: usize = 300;

/// All seeds together stay small, in bytes.
const LARGEST_CORPUS: usize = 200 << 10;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

fn seeds(target: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = corpus(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    files
        .map(|file| file.unwrap().path())
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
        .collect()
}

/// Small reproducible randomness.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit.max(1)
    }

    /// A copy with a few changes; parts of `other` may find their way into it.
    fn changed(&mut self, seed: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(6) {
                0 => bytes.truncate(at),
                1 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                2 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'\n', b'/'][self.below(7)],
                3 => {
                    let from = self.below(other.len());
                    let to = from + self.below(other.len() - from);
                    bytes.splice(at..at, other[from..to].iter().copied());
                }
                4 => {
                    let end = at + self.below(bytes.len() - at);
                    bytes.drain(at..end);
                }
                _ => {
                    let end = at + self.below(bytes.len() - at);
                    let again = bytes[at..end].to_vec();
                    bytes.splice(at..at, again);
                }
            }
        }
        bytes
    }
}

#[test]
fn no_seed_and_nothing_like_one_breaks_its_target() {
    let mut all = 0;
    for (name, target) in TARGETS {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "{name} has no seeds");
        let list: Vec<&Vec<u8>> = seeds.values().collect();
        for (number, seed) in list.iter().enumerate() {
            all += seed.len();
            target(seed);
            let mut dice = Dice(number as u64);
            for _ in 0..COPIES {
                let other = list[dice.below(list.len())];
                target(&dice.changed(seed, other));
            }
        }
    }
    assert!(all <= LARGEST_CORPUS, "{all} bytes of seeds");
}

#[test]
fn every_folder_has_its_target() {
    let folders = std::fs::read_dir(corpus("")).unwrap();
    for folder in folders {
        let name = folder.unwrap().file_name().into_string().unwrap();
        run(&name, b"");
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets").join(format!("{name}.rs"));
        assert!(file.exists(), "{} is missing", file.display());
    }
}

fn write(target: &str, name: &str, bytes: &[u8]) {
    let folder = corpus(target);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name), bytes).unwrap();
}

/// Writes seeds made by this program and by rcgen; nothing private is among them.
#[test]
#[ignore = "writes into the work tree"]
fn seeds_are_made() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    write("csr", "subject", params.serialize_request(&key).unwrap().der());
    params.distinguished_name = rcgen::DistinguishedName::new();
    write("csr", "empty", params.serialize_request(&key).unwrap().der());
    params.subject_alt_names = vec![
        rcgen::SanType::URI("spiffe://example.org/ns/pay/sa/api".try_into().unwrap()),
        rcgen::SanType::DnsName("api.pay".try_into().unwrap()),
    ];
    write("csr", "names", params.serialize_request(&key).unwrap().der());
    write("csr", "pem", params.serialize_request(&key).unwrap().pem().unwrap().as_bytes());
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    let authority = params.self_signed(&key).unwrap();
    write("certificate", "authority", authority.der());
    params.is_ca = rcgen::IsCa::ExplicitNoCa;
    let leaf = params.self_signed(&key).unwrap();
    write("certificate", "leaf", leaf.der());
    write("pem", "chain", format!("{}{}", leaf.pem(), authority.pem()).as_bytes());
    write("pem", "crlf", leaf.pem().replace('\n', "\r\n").as_bytes());
    crls();
    texts();
    messages();
    of_the_ledger();
}

fn crls() {
    let ca = crate::x509::tests::root(crate::x509::KeyAlgorithm::P256);
    let entries = (1..20).map(|seed| crate::x509::crl::tests::entry(seed, crate::x509::crl::Reason::KeyCompromise));
    let crl = crate::x509::crl::tests::crl(&ca, entries.collect());
    write("crl", "der", crl.der());
    write("crl", "pem", &crl.pem());
    write("crl", "empty", crate::x509::crl::tests::crl(&ca, Vec::new()).der());
}

fn texts() {
    for (name, text) in [
        ("trust-domain", "example.org"),
        ("istio", "spiffe://example.org/ns/pay/sa/api"),
        ("dots", "spiffe://example.org/a/../b"),
        ("case", "SPIFFE://Example.org/A"),
        ("percent", "spiffe://example.org/%2e"),
    ] {
        write("identity", name, text.as_bytes());
    }
    for file in ["deploy/policy.toml", "deploy/chancery.toml"] {
        let text = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        let target = if file.ends_with("policy.toml") { "policy" } else { "configuration" };
        write(target, "deploy", &text);
    }
    write("policy", "starter", crate::policy::starter(&domain(), 1_000, &["web"]).as_bytes());
    write(
        "configuration",
        "mistakes",
        b"trust_domian = \"x\"\n[limits]\nmax_connections = -1\n[[sds.listen]]\npath = \"\"\n",
    );
    for role in ["client", "server", "remote"] {
        let file = format!("src/cli/golden/envoy_bootstrap_{role}.yaml");
        write("envoy", role, &std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap());
    }
    write("envoy", "json", br#"{"a": {"@type": "x", "session_ticket_keys": [], "crl": {"inline_string": ""}}}"#);
    write("proc", "stat", b"4242 (a) b (c)) S 1 4242 4242 0 -1 4194304 1 0 0 0 1 2 0 0 20 0 1 0 987654 1 2 3");
    write("proc", "status", b"Name:\tx\nGroups:\t4 24 1000 65534 4\n");
}

fn messages() {
    let node = Some(Node { id: "web".into(), cluster: "shop".into() });
    let first = DiscoveryRequest {
        node: node.clone(),
        resource_names: vec!["default".into(), "ROOTCA".into()],
        type_url: crate::feed::payload::SECRET_TYPE.into(),
        ..DiscoveryRequest::default()
    };
    write("discovery", "state-of-the-world", &[&[0][..], &first.encode_to_vec()].concat());
    let delta = DeltaDiscoveryRequest {
        node,
        resource_names_subscribe: vec!["default".into()],
        resource_names_unsubscribe: vec!["ROOTCA".into()],
        initial_resource_versions: [("default".to_owned(), "v1".to_owned())].into(),
        response_nonce: "7".into(),
        type_url: crate::feed::payload::SECRET_TYPE.into(),
        ..DeltaDiscoveryRequest::default()
    };
    write("discovery", "delta", &[&[1][..], &delta.encode_to_vec()].concat());
    let revoke = admin::RevokeCertificatesRequest {
        reason: "keyCompromise".into(),
        comment: "a sentence".into(),
        ..admin::RevokeCertificatesRequest::default()
    };
    write("admin", "revoke", &revoke.encode_to_vec());
    write("admin", "serial", b"595bda4015899a25942b1dc6818da020");
    write("admin", "position", b"example.org/ledger/ca-2026#11");
}

fn of_the_ledger() {
    use crate::audit::event::{Action, Outcome, Recorder};
    use crate::audit::ledger::{Checkpoint, CheckpointKey};
    let now = time::macros::datetime!(2026-11-23 12:00 UTC);
    let recorder = Recorder::new(crate::entropy::Entropy::system());
    let mut event = recorder.event(Action::CertificateIssue, Outcome::Success, now);
    event.subject = Some("spiffe://example.org/ns/pay/sa/api".into());
    let leaf = event.to_leaf().unwrap();
    write("event", "issue", &leaf);
    let plain = recorder.event(Action::LedgerStart, Outcome::Success, now).to_leaf().unwrap();
    write("event", "start", &plain);
    let mut tile = Vec::new();
    for record in [&leaf, &plain] {
        tile.extend(u16::try_from(record.len()).unwrap().to_be_bytes());
        tile.extend(record.iter());
    }
    write("tiles", "entries", &tile);
    write("tiles", "name", b"tile/entries/x001/234.p/17");
    let key = CheckpointKey::from_pkcs8(&CheckpointKey::generate_pkcs8().unwrap()).unwrap();
    let origin = "example.org/ledger/ca-2026";
    let checkpoint = Checkpoint { origin: origin.into(), size: 2, root: [7; 32] };
    let note = key.sign(&checkpoint);
    write("checkpoint", "signed", format!("{}\n{note}", key.verifier(origin)).as_bytes());
    write("journal", "frames", &frame::tests::two_frames());
}
