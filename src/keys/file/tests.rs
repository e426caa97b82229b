//! Key files: every form that OpenSSL writes, and each harm told apart with its remedy.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::*;
use crate::keys::conformance;
use crate::secret::write_private;
use crate::x509::SignatureAlgorithm::{self, EcdsaP256Sha256, EcdsaP384Sha384, Ed25519, RsaPkcs1Sha256};

/// Runs `openssl` in `at`; whether there is one that does this.
fn openssl(at: &Path, line: &str) -> bool {
    let done = Command::new("openssl").args(line.split(' ')).current_dir(at).output();
    for file in fs::read_dir(at).unwrap().flatten() {
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o600)).unwrap();
    }
    done.is_ok_and(|done| done.status.success())
}

fn file(at: &Path, name: &str) -> KeyFile {
    KeyFile { path: at.join(name), passphrase: None }
}

/// Whatever of these OpenSSL can make is read, and is the same key.
async fn check(make: &str, forms: &[&str], expected: SignatureAlgorithm) {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    write_private(&at.join("pass"), b"correct horse\nsecond line\n").unwrap();
    if !openssl(at, make) {
        return;
    }
    let plain = FileSigner::open(file(at, "key.pem")).unwrap();
    conformance::check(&plain, expected).await;
    for form in forms {
        if !openssl(at, form) {
            continue;
        }
        let signer = FileSigner::open(KeyFile { passphrase: Some(at.join("pass")), ..file(at, "other.pem") });
        let signer = signer.unwrap_or_else(|why| panic!("{form}: {why}"));
        assert_eq!(signer.spki_der(), plain.spki_der(), "{form}");
        conformance::check(&signer, expected).await;
    }
}

const FORMS: [&str; 4] = [
    "pkcs8 -topk8 -in key.pem -out other.pem -passout file:pass",
    "pkcs8 -topk8 -v2 aes-128-cbc -v2prf hmacWithSHA1 -in key.pem -out other.pem -passout file:pass",
    "pkcs8 -topk8 -v2 aes-192-cbc -v2prf hmacWithSHA384 -in key.pem -out other.pem -passout file:pass",
    "pkcs8 -topk8 -v2 aes-256-cbc -v2prf hmacWithSHA512 -iter 4096 -in key.pem -out other.pem -passout file:pass",
];

#[tokio::test]
async fn every_form_that_openssl_writes_is_read() {
    check("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem", &FORMS, EcdsaP256Sha256).await;
    check("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out key.pem", &FORMS, RsaPkcs1Sha256).await;
    check("genpkey -algorithm ed25519 -out key.pem", &FORMS, Ed25519).await;
    // SEC 1, with a block of parameters before it, and PKCS #1.
    let old = ["ec -in key.pem -out other.pem", "rsa -traditional -in key.pem -out other.pem"];
    check("ecparam -name secp384r1 -genkey -out key.pem", &old[..1], EcdsaP384Sha384).await;
    check("genrsa -traditional -out key.pem 3072", &old[1..], RsaPkcs1Sha256).await;
}

#[test]
fn each_harm_is_told_apart() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let said = |file: KeyFile| FileSigner::open(file).unwrap_err().to_string();
    let expect = |file: KeyFile, words: &[&str]| {
        let text = said(file);
        assert!(words.iter().all(|word| text.contains(word)), "{text:?} does not say {words:?}");
    };
    expect(file(at, "key.pem"), &["key.pem", "No such file"]);
    write_private(&at.join("key.pem"), b"nothing").unwrap();
    expect(file(at, "key.pem"), &["holds 0 private keys"]);
    fs::set_permissions(at.join("key.pem"), fs::Permissions::from_mode(0o640)).unwrap();
    expect(file(at, "key.pem"), &["0640", "chmod 0600"]);
    if !openssl(at, "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem") {
        return;
    }
    write_private(&at.join("pass"), b"correct horse\n").unwrap();
    write_private(&at.join("wrong"), b"battery staple\n").unwrap();
    assert!(openssl(at, FORMS[0]));
    let with = |name: &str| KeyFile { passphrase: Some(at.join(name)), ..file(at, "other.pem") };
    expect(file(at, "other.pem"), &["is encrypted", "passphrase_file"]);
    expect(with("wrong"), &["does not open", "wrong"]);
    expect(with("nowhere"), &["nowhere", "No such file"]);
    for (line, what) in [
        ("pkcs8 -topk8 -v2 des3 -in key.pem -out other.pem -passout file:pass", "another cipher"),
        ("pkcs8 -topk8 -scrypt -in key.pem -out other.pem -passout file:pass", "scrypt"),
        ("ec -aes256 -in key.pem -out other.pem -passout file:pass", "older form"),
    ] {
        assert!(openssl(at, line), "{line}");
        expect(with("pass"), &[what, "openssl pkcs8 -topk8"]);
    }
    assert!(openssl(at, "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521 -out other.pem"));
    expect(file(at, "other.pem"), &["no key that signs here"]);
    let twice = [fs::read(at.join("key.pem")).unwrap(), fs::read(at.join("key.pem")).unwrap()].concat();
    write_private(&at.join("other.pem"), &twice).unwrap();
    expect(file(at, "other.pem"), &["holds 2 private keys"]);
}

#[tokio::test]
async fn another_key_in_its_place_signs_nothing() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let make = "genpkey -algorithm ed25519 -out key.pem";
    if !openssl(at, make) {
        return;
    }
    let signer = FileSigner::open(file(at, "key.pem")).unwrap();
    assert!(openssl(at, make));
    let why = signer.sign(b"x").await.unwrap_err().to_string();
    assert!(why.contains("another key"), "{why}");
}
