//! Revocation where it is hardest: after a crash, without an index, without its lists, on a full disk. `pki` holds what
//! OpenSSL and pkilint say of the lists.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{CertificateRevocationList, FromDer, Pem};

use crate::harness::chancery::{Chancery, Options, said};
use crate::harness::policy::{self, Rule};
use crate::harness::{SOON, alone, eventually, http, need_root, sds};

const WEB: &str = "spiffe://example.org/ns/shop/sa/web";
const API: &str = "spiffe://example.org/ns/shop/sa/api";

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
            let ParsedExtension::AuthorityKeyIdentifier(found) = extension.parsed_extension() else { return None };
            found.key_identifier.as_ref()
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

#[test]
fn a_full_disk_does_not_keep_anyone_from_revoking() {
    if !need_root() {
        return;
    }
    let _alone = alone();
    // Several sockets, because one account has no more than `issue_burst_per_caller` at once.
    let sockets = ["many-a", "many-b", "many-c", "many-d"];
    let arguments = sockets.iter().flat_map(|name| ["--sds-socket".to_owned(), format!("{name}={name}.sock")]);
    let rules = sockets.iter().map(|name| Rule::on(name, WEB, "24h")).chain([Rule::own(WEB, "24h")]);
    let policy = Some(policy::text(&rules.collect::<Vec<_>>()));
    let server =
        Chancery::with(Options { arguments: arguments.collect(), policy, disk_mib: Some(110), ..Options::default() });
    let (_, serial) = fetched(&server, "one");
    let filler = server.scratch().join("filler");
    let _ = Command::new("dd")
        .stderr(Stdio::null())
        .args(["if=/dev/zero", "bs=64k", "status=none"])
        .arg(format!("of={}", filler.display()))
        .status();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let received = std::sync::Arc::default();
    let clients: Vec<_> = (0..8)
        .map(|client: usize| {
            let (socket, received) = (server.socket(sockets[client % sockets.len()]), std::sync::Arc::clone(&received));
            runtime.spawn(async move { sds::ask_again_and_again(&socket, &client.to_string(), &received).await })
        })
        .collect();
    clients.into_iter().for_each(|client| runtime.block_on(client).unwrap());
    eventually("it takes no certificates", SOON, || (http::get(server.http(), "/readyz").status == 503).then_some(()));
    let report = revoke(&server, &["--serial", &serial]);
    assert_eq!(report["revoked"], 1, "{report}");
    let denied = revoke(&server, &["--identity", API]);
    assert_eq!(denied["denied"], API, "{denied}");
    assert!(crls(&server).iter().any(|(_, _, serials)| serials.contains(&serial)), "it is served");
    std::fs::remove_file(&filler).unwrap();
    eventually("it is ready again", Duration::from_secs(60), || {
        let files = server.scratch().join("after");
        (server.run(&["fetch", "--once", "--timeout", "3s", "--dir", files.to_str().unwrap()]).code == 0).then_some(())
    });
    server.run(&["audit", "verify"]).expect(0);
}
