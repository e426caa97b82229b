//! A secret that is known to the test is nowhere but with its owner: not in the ledger, the index, the log, the metrics
//! or any other file of the server.

use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
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

/// The private number of a P-256 or Ed25519 key in PKCS #8, which no encoding around it can hide.
fn private_number(der: &[u8]) -> Vec<u8> {
    // RFC 5915: ECPrivateKey ::= SEQUENCE { INTEGER 1, OCTET STRING of 32 bytes …; RFC 8410: OCTET STRING in one.
    let begins: [&[u8]; 2] = [&[0x02, 0x01, 0x01, 0x04, 0x20], &[0x04, 0x22, 0x04, 0x20]];
    let after = |begin: &[u8]| Some(der.windows(begin.len()).position(|window| window == begin)? + begin.len());
    let at = begins.into_iter().find_map(after).expect("a private key");
    der[at..at + 32].to_vec()
}

/// The PKCS #8 within a PEM file.
fn pkcs8(pem: &str) -> Vec<u8> {
    STANDARD.decode(pem.lines().filter(|line| !line.starts_with('-')).collect::<String>()).unwrap()
}

/// What a file of the sealed store holds: a line of JSON, which is the associated data, then AES-256-GCM.
fn unsealed(file: &Path, key: &[u8]) -> Vec<u8> {
    let bytes = std::fs::read(file).unwrap();
    let line = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let header: serde_json::Value = serde_json::from_slice(&bytes[..line]).unwrap();
    let nonce = hex::decode(header["nonce"].as_str().unwrap()).unwrap();
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap());
    let nonce = Nonce::try_assume_unique_for_key(&nonce).unwrap();
    let mut body = bytes[line..].to_vec();
    key.open_in_place(nonce, Aad::from(&bytes[..line]), &mut body).unwrap().to_vec()
}

/// Each way in which a secret would be written by mistake.
fn forms(secret: &[u8]) -> [Vec<u8>; 4] {
    let hex = hex::encode(secret);
    [secret.to_vec(), hex.to_uppercase().into_bytes(), STANDARD.encode(secret).into_bytes(), hex.into_bytes()]
}

fn expect_nowhere(what: &str, secret: &[u8], data: &Path, owner: Option<&Path>, output: &str) {
    let looked_at = files(data);
    assert!(looked_at.len() > 10, "{looked_at:?}");
    for form in forms(secret) {
        for path in looked_at.iter().filter(|path| Some(path.as_path()) != owner) {
            assert!(!holds(&std::fs::read(path).unwrap(), &form), "{what} is in {}", path.display());
        }
        assert!(!holds(output.as_bytes(), &form), "{what} is in the log, the metrics or an error");
    }
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(haystack, needle).is_some()
}

#[test]
fn a_proxys_key_is_nowhere_but_with_the_proxy() {
    let under = vec!["env".to_owned(), "CHANCERY_LOG=debug".to_owned()];
    let mut server = Chancery::with(Options { under, ..Options::default() });
    let id = server.scratch().join("id");
    server.run(&["fetch", "--once", "--dir", id.to_str().unwrap()]).expect(0);
    let pem = std::fs::read_to_string(id.join("key.pem")).unwrap();
    let number = private_number(&pkcs8(&pem));
    let metrics = get(server.http(), "/metrics").text();
    let mut output = server.output();
    server.stop();
    output.push_str(&metrics);

    // The search finds what is there: the key in its owner's file.
    assert!(holds(&pkcs8(&pem), &number));
    expect_nowhere("a private key", &number, &server.data(), None, &output);
    assert!(!output.contains(pem.lines().nth(1).unwrap()));
}

#[test]
fn the_authoritys_own_keys_are_nowhere_in_the_clear() {
    let under = vec!["env".to_owned(), "CHANCERY_LOG=debug".to_owned()];
    let mut server = Chancery::with(Options { under, ..Options::default() });
    let (data, keys) = (server.data(), server.data().join("keys"));
    server.run(&["fetch", "--once", "--dir", server.scratch().join("id").to_str().unwrap()]).expect(0);
    let id = server.addresses()["pid"].to_string();
    let process = |file: &str| std::fs::read(Path::new("/proc").join(&id).join(file)).unwrap();
    let limits = String::from_utf8(process("limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "no core holds a key");
    let mut output =
        [process("cmdline"), process("environ")].map(|it| String::from_utf8_lossy(&it).into_owned()).concat();
    output.push_str(&server.run(&["status", "--output", "json"]).out);
    output.push_str(&get(server.http(), "/metrics").text());

    let sealing_file = keys.join("sealing.key");
    let sealing = std::fs::read_to_string(&sealing_file).unwrap();
    let sealing = hex::decode(sealing.split_whitespace().last().unwrap()).unwrap();
    let sealed = ["root-1", "issuing-1", "ledger-1"].map(|name| keys.join(name).with_extension("sealed"));
    let numbers = sealed.each_ref().map(|file| private_number(&unsealed(file, &sealing)));
    output.push_str(&server.output());
    server.stop();
    // And what it says of a key that does not open.
    let whole = std::fs::read(&sealed[1]).unwrap();
    let mut broken = whole;
    *broken.last_mut().unwrap() ^= 1;
    std::fs::write(&sealed[1], broken).unwrap();
    let said = server.command(&["up", "--http", "127.0.0.1:0"]).env("CHANCERY_LOG", "debug").output().unwrap();
    assert!(!said.status.success());
    output.push_str(&String::from_utf8_lossy(&[said.stdout, said.stderr].concat()));
    assert!(output.contains("issuing-1"), "{output}");

    expect_nowhere("the sealing key", &sealing, &data, Some(&sealing_file), &output);
    for number in numbers {
        expect_nowhere("an authority's key", &number, &data, None, &output);
    }
}
