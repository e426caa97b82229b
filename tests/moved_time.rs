//! Time that moves in a running server: what has to be done by then is done, without a restart.

use std::path::Path;
use std::time::Duration;

use x509_parser::prelude::{CertificateRevocationList, FromDer, Pem};

use crate::harness::chancery::{Chancery, Options};
use crate::harness::{directory, eventually, http, need};

/// The server looks at its clock at least every 20 s.
const NOTICED: Duration = Duration::from_secs(60);

/// Number and `nextUpdate` (Unix seconds) of each CRL that is served.
fn crls(server: &Chancery) -> Vec<(u128, i64)> {
    let pem = http::get(server.http(), "/crl").text();
    let lists = Pem::iter_from_buffer(pem.as_bytes()).map(|block| {
        let block = block.expect("PEM");
        let (_, list) = CertificateRevocationList::from_der(&block.contents).expect("a CRL");
        let number = list.crl_number().expect("a number").to_string().parse().expect("it fits");
        (number, list.next_update().expect("nextUpdate").timestamp())
    });
    lists.collect()
}

/// A server whose clock is moved by what stands in a file: it reads that whenever it asks for the time.
fn movable(faketime: &Path, jump: &Path) -> Chancery {
    // The library beside the command.
    let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
    assert!(Path::new(library).exists(), "{library}, of the package of {}", faketime.display());
    std::fs::write(jump, "+0\n").unwrap();
    let under = [
        "env".to_owned(),
        format!("LD_PRELOAD={library}"),
        format!("FAKETIME_TIMESTAMP_FILE={}", jump.display()),
        "FAKETIME_NO_CACHE=1".to_owned(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
    ];
    Chancery::with(Options { under: under.into(), ..Options::default() })
}

#[test]
fn crls_are_signed_again_long_before_they_end() {
    let Some(faketime) = need("faketime") else { return };
    let place = directory();
    let jump = place.path().join("jump");
    let server = movable(&faketime, &jump);
    let before = crls(&server);
    assert_eq!(before.len(), 2, "the root's and the issuing CA's: {before:?}");
    // Half of a CRL's life is 3.5 days.
    std::fs::write(&jump, "+4d\n").unwrap();
    let after = eventually("both CRLs are signed again", NOTICED, || {
        let after = crls(&server);
        after.iter().zip(&before).all(|(new, old)| new.0 > old.0 && new.1 > old.1).then_some(after)
    });
    let four_days = 4 * 86_400;
    assert!(after.iter().zip(&before).all(|(new, old)| new.1 >= old.1 + four_days), "{before:?} {after:?}");
    let published = server.records_of("crl.publish", 4);
    assert!(published.iter().skip(2).all(|record| record["reason"] == "scheduled"), "{published:?}");
    let status = server.run(&["status", "--output", "json"]).expect(0).json();
    assert_eq!(status["problems"], serde_json::json!([]), "{status}");
}

#[test]
fn an_hour_back_and_forward_in_a_running_server() {
    let Some(faketime) = need("faketime") else { return };
    let place = directory();
    let jump = place.path().join("jump");
    let mut server = movable(&faketime, &jump);
    let fetch = |server: &Chancery, name: &str| {
        server.run(&["fetch", "--once", "--dir", server.scratch().join(name).to_str().unwrap()])
    };
    fetch(&server, "before").expect(0);
    let first = server.records_of("certificate.issue", 1)[0]["certificate"]["serial"].as_str().unwrap().to_owned();
    let before = crls(&server);
    let ready = || http::get(server.http(), "/readyz").status;

    // Behind its own authority: it issues nothing that would be valid before its issuer, and says what is wrong.
    std::fs::write(&jump, "-1h\n").unwrap();
    fetch(&server, "behind").expect(4);
    assert_eq!(ready(), 503);
    let status = server.run(&["status"]);
    assert!(status.out.contains("the clock is behind"), "{status:?}");
    // Cutting off goes on: the list is newer by its number, whatever the clock says.
    server.run(&["cert", "revoke", "--serial", &first, "--yes", "--wait", "0s"]).expect(0);
    let during = crls(&server);
    assert!(during.iter().zip(&before).any(|(new, old)| new.0 > old.0), "{before:?} {during:?}");

    std::fs::write(&jump, "+1h\n").unwrap();
    fetch(&server, "ahead").expect(0);
    assert_eq!(ready(), 200);
    std::fs::write(&jump, "+0\n").unwrap();
    fetch(&server, "again").expect(0);
    assert_eq!(ready(), 200);
    let after = crls(&server);
    assert!(after.iter().zip(&during).all(|(new, old)| new.0 >= old.0), "numbers only grow: {during:?} {after:?}");
    let issued = server.records_of("certificate.issue", 3);
    assert_eq!(issued.len(), 3, "{issued:?}");
    assert!(server.stop().success());
    server.run(&["audit", "verify"]).expect(0);
}
