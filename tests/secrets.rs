//! A secret that is known to the test is nowhere but with its owner: not in the ledger, the index, the log, the metrics
//! or any other file of the server.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::harness::chancery::{Chancery, Options};
use crate::harness::http::get;

/// Every file below `directory`.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let mut all = Vec::new();
    for entry in entries {
        let kind = entry.file_type().unwrap();
        match (kind.is_dir(), kind.is_file()) {
            (true, _) => all.extend(files(&entry.path())),
            (_, true) => all.push(entry.path()),
            _ => {}
        }
    }
    all
}

/// The private number of a P-256 key in PKCS #8, which no encoding around it can hide.
fn private_number(pem: &str) -> Vec<u8> {
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let der = STANDARD.decode(body).unwrap();
    // RFC 5915: ECPrivateKey ::= SEQUENCE { INTEGER 1, OCTET STRING of 32 bytes …
    let at = der.windows(5).position(|window| window == [0x02, 0x01, 0x01, 0x04, 0x20]).unwrap() + 5;
    der[at..at + 32].to_vec()
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn a_proxys_key_is_nowhere_but_with_the_proxy() {
    let under = vec!["env".to_owned(), "CHANCERY_LOG=debug".to_owned()];
    let mut server = Chancery::with(Options { under, ..Options::default() });
    let id = server.scratch().join("id");
    server.run(&["fetch", "--once", "--dir", id.to_str().unwrap()]).expect(0);
    let pem = std::fs::read_to_string(id.join("key.pem")).unwrap();
    let number = private_number(&pem);
    let metrics = get(server.http(), "/metrics").text();
    let mut output = server.output();
    server.stop();
    output.push_str(&metrics);

    let line = pem.lines().nth(1).unwrap().to_owned();
    let forms = [number.clone(), hex::encode(&number).into_bytes(), STANDARD.encode(&number).into_bytes(), line.into()];
    // The search finds what is there: the key in its owner's file.
    assert!(holds(pem.as_bytes(), &forms[3]));
    let looked_at = files(&server.data());
    assert!(looked_at.len() > 10, "{looked_at:?}");
    for form in &forms {
        for path in &looked_at {
            assert!(!holds(&std::fs::read(path).unwrap(), form), "a private key is in {}", path.display());
        }
        assert!(!holds(output.as_bytes(), form), "a private key is in the log or the metrics");
    }
}
