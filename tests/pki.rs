//! Certificates before judges that we did not write: `openssl verify`, pkilint and webpki.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustls_pki_types::{CertificateDer, UnixTime};
use serde_json::Value;

use crate::harness::chancery::{Chancery, said};
use crate::harness::policy::{self, Rule};
use crate::harness::{need, sds};

const WEB: &str = "spiffe://example.org/ns/shop/sa/web";

/// The one finding of pkilint that is allowed: it takes the `://` of a SPIFFE ID for a mistake.
const ALLOWED: &str = "pkix.invalid_uri_syntax";

fn blocks(pem: &[u8]) -> Vec<Vec<u8>> {
    x509_parser::pem::Pem::iter_from_buffer(pem).map(|block| block.unwrap().contents).collect()
}

/// A server and, in files, a leaf (with its chain) and the roots: one PEM file for each certificate.
fn certificates() -> (Chancery, [PathBuf; 3]) {
    let server = Chancery::with_policy(&policy::text(&[Rule::own(WEB, "24h")]));
    let files = server.scratch().join("id");
    server.run(&["fetch", "--once", "--dir", files.to_str().unwrap()]).expect(0);
    let chain = std::fs::read_to_string(files.join("cert.pem")).unwrap();
    let second = chain.match_indices("-----BEGIN").nth(1).unwrap().0;
    let [leaf, issuing] = ["leaf.pem", "issuing.pem"].map(|name| server.scratch().join(name));
    std::fs::write(&leaf, &chain[..second]).unwrap();
    std::fs::write(&issuing, &chain[second..]).unwrap();
    (server, [leaf, issuing, files.join("bundle.pem")])
}

#[test]
fn openssl_accepts_the_chain_for_both_ends_of_a_connection() {
    let Some(openssl) = need("openssl") else { return };
    let (_server, [leaf, issuing, root]) = certificates();
    for purpose in ["sslclient", "sslserver"] {
        let mut command = Command::new(&openssl);
        command.args(["verify", "-x509_strict", "-purpose", purpose, "-CAfile"]).arg(&root);
        said(command.arg("-untrusted").arg(&issuing).arg(&leaf)).expect(0);
    }
    let mut command = Command::new(&openssl);
    said(command.args(["verify", "-x509_strict", "-CAfile"]).arg(&root).arg(&issuing)).expect(0);
}

fn lint(pkilint: &Path, certificate: &Path) {
    let said = said(Command::new(pkilint).args(["lint", "-s", "WARNING", "-f", "JSON"]).arg(certificate));
    let report = said.json();
    let mut findings = Vec::new();
    for result in report["results"].as_array().unwrap_or_else(|| panic!("{said:?}")) {
        for finding in result["finding_descriptions"].as_array().into_iter().flatten() {
            if finding["code"] != ALLOWED {
                findings.push(finding.clone());
            }
        }
    }
    assert!(findings.is_empty(), "{}: {findings:#?}", certificate.display());
}

#[test]
fn pkilint_finds_nothing_but_the_spiffe_uri() {
    let Some(pkilint) = need("pkilint") else { return };
    let (_server, certificates) = certificates();
    for certificate in certificates {
        lint(&pkilint, &certificate);
    }
}

#[test]
fn webpki_accepts_the_chain_for_both_ends_of_a_connection() {
    let (_server, [leaf, issuing, root]) = certificates();
    let [leaf, issuing, root] = [leaf, issuing, root].map(|file| blocks(&std::fs::read(file).unwrap()).remove(0));
    let root = CertificateDer::from(root);
    let anchors = [webpki::anchor_from_trusted_cert(&root).unwrap()];
    let intermediates = [CertificateDer::from(issuing)];
    let leaf = CertificateDer::from(leaf);
    let leaf = webpki::EndEntityCert::try_from(&leaf).unwrap();
    for usage in [webpki::KeyUsage::client_auth(), webpki::KeyUsage::server_auth()] {
        let now = UnixTime::now();
        leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, &intermediates, now, usage, None, None).unwrap();
    }
}

#[test]
fn the_key_belongs_to_the_certificate_and_the_roots_are_the_bundle() {
    let (server, [_, _, root]) = certificates();
    let bundle = server.run(&["bundle", "show"]).expect(0).out;
    assert_eq!(blocks(bundle.as_bytes()), blocks(&std::fs::read(root).unwrap()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let channel = sds::connect(&server.socket("sds")).await.unwrap();
        let mut stream = sds::Stream::open(channel.clone(), "a", "default", "").await.unwrap();
        let update = stream.next(crate::harness::SOON).await.unwrap();
        let (chain, key) = update.certificate();
        let key = rcgen::KeyPair::from_pem(std::str::from_utf8(&key).unwrap()).unwrap();
        let (_, leaf) = x509_parser::parse_x509_certificate(&blocks(&chain)[0])
            .map(|(rest, leaf)| (rest, leaf.public_key().raw.to_vec()))
            .unwrap();
        assert_eq!(rcgen::PublicKeyData::subject_public_key_info(&key), leaf);
        let mut stream = sds::Stream::open(channel, "a", "ROOTCA", "").await.unwrap();
        let update = stream.next(crate::harness::SOON).await.unwrap();
        assert_eq!(blocks(&update.roots()), blocks(bundle.as_bytes()));
    });
}

#[test]
fn facts_in_the_ledger_are_those_of_the_certificate() {
    let (server, [leaf, _, _]) = certificates();
    let der = blocks(&std::fs::read(leaf).unwrap()).remove(0);
    let (_, leaf) = x509_parser::parse_x509_certificate(&der).unwrap();
    let digest = |bytes: &[u8]| hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    let record: Value = server.records_of("certificate.issue", 1).remove(0);
    let facts = &record["certificate"];
    assert_eq!(facts["tbs_sha256"], digest(leaf.tbs_certificate.as_ref()).as_str());
    assert_eq!(facts["public_key_sha256"], digest(leaf.public_key().raw).as_str());
    let signed = server.wait_for_record("the signature", |record| {
        record["action"] == "certificate.signed" && record["certificate"]["serial"] == facts["serial"]
    });
    assert_eq!(signed["certificate"]["der_sha256"], digest(&der).as_str(), "{signed}");
    assert!(signed["refers_to"].as_str().unwrap().contains("/ledger/"), "{signed}");
}
