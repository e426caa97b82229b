//! CRLs before judges that we did not write, and revocation where it is hardest: after a crash and without an index.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use x509_parser::prelude::{CertificateRevocationList, FromDer, Pem};

use crate::harness::chancery::{Chancery, said};
use crate::harness::policy::{self, Rule};
use crate::harness::{SOON, http, need, sds};

const WEB: &str = "spiffe://example.org/ns/shop/sa/web";

fn policy() -> String {
    policy::text(&[Rule::own(WEB, "24h")])
}

/// What `/crl` serves: issuer's key id, number and serials of each list, hex.
fn crls(server: &Chancery) -> Vec<(String, u128, Vec<String>)> {
    let pem = http::get(server.http(), "/crl").text();
    let lists = Pem::iter_from_buffer(pem.as_bytes()).map(|block| {
        let block = block.expect("PEM");
        assert_eq!(block.label, "X509 CRL");
        let (_, list) = CertificateRevocationList::from_der(&block.contents).expect("a CRL");
        let number = list.crl_number().expect("a number").to_string().parse().expect("it fits");
        let key_id = list.extensions().iter().find_map(|extension| {
            if let x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(found) =
                extension.parsed_extension()
            {
                return found.key_identifier.as_ref();
            }
            None
        });
        let serials = list.iter_revoked_certificates().map(|one| hex::encode(one.raw_serial())).collect();
        (hex::encode(key_id.expect("an issuer's key id").0), number, serials)
    });
    lists.collect()
}

/// The certificate in `directory`, fetched now, and its serial.
fn fetched(server: &Chancery, directory: &str) -> (PathBuf, String) {
    let files = server.scratch().join(directory);
    server.run(&["fetch", "--once", "--dir", files.to_str().unwrap()]).expect(0);
    let serial = serial(&files);
    (files, serial)
}

fn serial(files: &Path) -> String {
    let chain = std::fs::read(files.join("cert.pem")).unwrap();
    let leaf = Pem::iter_from_buffer(&chain).next().unwrap().unwrap();
    hex::encode(leaf.parse_x509().unwrap().raw_serial())
}

fn revoke(server: &Chancery, choice: &[&str]) -> Value {
    let words = [&["cert", "revoke", "--yes", "--reason", "key-compromise", "--output", "json"], choice].concat();
    server.run(&words).expect(0).json()
}

/// Each block of a PEM file in a file of its own.
fn split(file: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string(file).unwrap();
    let blocks = text
        .split_inclusive("-----END CERTIFICATE-----\n")
        .flat_map(|it| it.split_inclusive("-----END X509 CRL-----\n"));
    let write = |(at, block): (usize, &str)| {
        let path = file.with_extension(format!("{at}.pem"));
        std::fs::write(&path, block).unwrap();
        path
    };
    blocks.enumerate().map(write).collect()
}

#[test]
fn openssl_checks_the_whole_chain_against_our_crls() {
    let Some(openssl) = need("openssl") else { return };
    let server = Chancery::with_policy(&policy());
    let (one, revoked) = fetched(&server, "one");
    let (other, kept) = fetched(&server, "other");
    assert_ne!(revoked, kept);
    revoke(&server, &["--serial", &revoked]);
    let crl = server.scratch().join("crl.pem");
    std::fs::write(&crl, http::get(server.http(), "/crl").text()).unwrap();
    let verify = |files: &Path| {
        let chain = files.join("cert.pem");
        let mut command = Command::new(&openssl);
        command.args(["verify", "-x509_strict", "-crl_check_all", "-CRLfile"]).arg(&crl);
        said(command.arg("-CAfile").arg(files.join("bundle.pem")).arg("-untrusted").arg(&chain).arg(&chain))
    };
    verify(&other).expect(0);
    verify(&one).expect(2).expect_words(&["certificate revoked"]);
    let roots = other.join("bundle.pem");
    let lists = split(&crl);
    assert_eq!(lists.len(), 2, "root and issuing CA");
    let mut command = Command::new(&openssl);
    said(command.args(["crl", "-noout", "-verify", "-CAfile"]).arg(&roots).arg("-in").arg(&lists[0])).expect(0);
}

#[test]
fn pkilint_finds_nothing_on_a_crl() {
    let Some(pkilint) = need("pkilint") else { return };
    let server = Chancery::with_policy(&policy());
    fetched(&server, "one");
    fetched(&server, "two");
    revoke(&server, &["--identity", WEB]);
    let crl = server.scratch().join("crl.pem");
    std::fs::write(&crl, http::get(server.http(), "/crl").text()).unwrap();
    for list in split(&crl) {
        let mut command = Command::new(pkilint.with_file_name("lint_crl"));
        command.args(["lint", "-t", "CRL", "-p", "PKIX", "-s", "WARNING", "-f", "JSON"]);
        let report = said(command.arg(&list)).json();
        let findings: Vec<&Value> = report["results"]
            .as_array()
            .unwrap_or_else(|| panic!("{report}"))
            .iter()
            .flat_map(|result| result["finding_descriptions"].as_array().into_iter().flatten())
            .collect();
        assert!(findings.is_empty(), "{}: {findings:#?}", list.display());
    }
}

#[test]
fn a_revocation_is_pushed_served_and_outlives_crash_and_index() {
    let mut server = Chancery::with_policy(&policy());
    let (_, serial) = fetched(&server, "one");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let pushed = runtime.block_on(async {
        let channel = sds::connect(&server.socket("sds")).await.unwrap();
        let mut stream = sds::Stream::open(channel, "a", "ROOTCA", "").await.unwrap();
        let first = stream.next(SOON).await.unwrap();
        stream.acknowledge(&first).await;
        let words = ["cert", "revoke", "--yes", "--identity", WEB, "--output", "json"];
        let mut command = server.command(&words);
        let revoking = tokio::task::spawn_blocking(move || said(&mut command));
        let next = stream.next(SOON).await.unwrap();
        stream.acknowledge(&next).await;
        let report = revoking.await.unwrap().expect(0).json();
        assert_eq!((&report["revoked"], &report["denied"]), (&1.into(), &WEB.into()), "{report}");
        assert_eq!((&report["streams"], &report["acked"]), (&1.into(), &1.into()), "{report}");
        assert_eq!(next.roots(), first.roots(), "only the lists changed");
        next.version
    });
    let before = crls(&server);
    let issuing = before.iter().find(|(_, _, serials)| serials.contains(&serial)).expect("it is on a list").clone();
    let one = http::get(server.http(), &format!("/crl/{}.crl", issuing.0));
    assert_eq!((one.status, one.header("content-type")), (200, "application/pkix-crl"));
    let files = server.scratch().join("refused");
    let refused = server.run(&["fetch", "--once", "--timeout", "2s", "--dir", files.to_str().unwrap()]);
    assert_ne!(refused.code, 0, "{refused:?}");

    server.kill();
    std::fs::remove_file(server.data().join("index.redb")).unwrap();
    server.start();
    assert_eq!(crls(&server), before, "the same lists, from the ledger and the kept files");
    let again = runtime.block_on(async {
        let channel = sds::connect(&server.socket("sds")).await.unwrap();
        let mut stream = sds::Stream::open(channel, "a", "ROOTCA", "").await.unwrap();
        stream.next(SOON).await.unwrap().version
    });
    assert_eq!(again, pushed, "no proxy is sent anything for a restart");

    server.kill();
    std::fs::remove_dir_all(server.data().join("crl")).unwrap();
    server.start();
    let made_anew = crls(&server);
    assert!(made_anew.iter().any(|(_, _, serials)| serials.contains(&serial)), "{made_anew:?}");
    assert!(made_anew.iter().zip(&before).all(|(new, old)| new.1 > old.1), "numbers only grow");
    assert_ne!(server.run(&["fetch", "--once", "--timeout", "2s", "--dir", files.to_str().unwrap()]).code, 0);
    server.run(&["cert", "release", WEB]).expect(0);
    fetched(&server, "again");
    server.run(&["audit", "verify"]).expect(0);
}
