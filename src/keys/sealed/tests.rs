//! The sealed store: the port's contract, what a file gives away, and each harm told apart.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::keys::conformance;
use crate::x509::SignatureAlgorithm;

fn store(directory: &Path) -> SealedStore {
    SealedStore::open(directory, None).unwrap()
}

fn keys() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    (dir, keys)
}

#[tokio::test]
async fn conforms_when_made_and_when_loaded_again() {
    let (_dir, keys) = keys();
    for algorithm in [
        SignatureAlgorithm::EcdsaP256Sha256,
        SignatureAlgorithm::EcdsaP384Sha384,
        SignatureAlgorithm::Ed25519,
        SignatureAlgorithm::RsaPkcs1Sha256,
        SignatureAlgorithm::MlDsa65,
    ] {
        let name = format!("key-{}", algorithm.as_str());
        let made = store(&keys).generate(&name, algorithm).unwrap();
        conformance::check(made.as_ref(), algorithm).await;
        let loaded = store(&keys).load(&name).unwrap();
        assert_eq!(loaded.spki_der(), made.spki_der());
        conformance::check(loaded.as_ref(), algorithm).await;
    }
    assert_eq!(store(&keys).list().unwrap().len(), 5);
}

#[test]
fn secrets_come_back_and_are_not_keys() {
    let (_dir, keys) = keys();
    store(&keys).put_secret("ledger", &SecretBytes::new(b"planted secret".to_vec())).unwrap();
    assert_eq!(store(&keys).get_secret("ledger").unwrap().expose(), b"planted secret");
    assert!(matches!(store(&keys).load("ledger"), Err(SealedError::Kind { .. })));
    store(&keys).generate("root", KeyAlgorithm::P256).unwrap();
    assert!(matches!(store(&keys).get_secret("root"), Err(SealedError::Kind { .. })));
    let text = fs::read(keys.join("ledger.sealed")).unwrap();
    assert!(!text.windows(7).any(|window| window == b"planted"));
}

#[test]
fn files_are_private_and_keys_are_never_overwritten() {
    let (_dir, keys) = keys();
    store(&keys).generate("root", KeyAlgorithm::P256).unwrap();
    for file in [SEALING_KEY, "root.sealed"] {
        assert_eq!(fs::metadata(keys.join(file)).unwrap().mode() & 0o7777, 0o600, "{file}");
    }
    assert_eq!(fs::metadata(&keys).unwrap().mode() & 0o7777, 0o700);
    assert!(matches!(store(&keys).generate("root", KeyAlgorithm::P256), Err(SealedError::Exists { .. })));
    for name in ["", "../root", "Root", "1", "a/b", "a.b", &"a".repeat(65)] {
        assert!(matches!(store(&keys).generate(name, KeyAlgorithm::P256), Err(SealedError::Name { .. })), "{name}");
    }
}

/// Breaks a healthy directory with `harm`, then loads `root`.
fn check(harm: impl FnOnce(&Path), expected: &str) {
    let (_dir, keys) = keys();
    store(&keys).generate("root", KeyAlgorithm::P256).unwrap();
    store(&keys).generate("other", KeyAlgorithm::P256).unwrap();
    harm(&keys);
    let opened = SealedStore::open(&keys, None);
    let said = opened.and_then(|store| store.load("root")).unwrap_err().to_string();
    assert!(said.contains(expected), "{said:?} does not say {expected:?}");
}

fn edit(file: PathBuf, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let content = change(fs::read(&file).unwrap());
    fs::write(file, content).unwrap();
}

#[test]
fn each_harm_is_told_apart_with_its_remedy() {
    let mode = |file: PathBuf, mode| fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
    check(|keys| mode(keys.join("root.sealed"), 0o644), "chmod 0600");
    check(|keys| mode(keys.join(SEALING_KEY), 0o640), "chmod 0600");
    check(|keys| mode(keys.to_owned(), 0o777), "chmod 0700");
    check(|keys| fs::remove_file(keys.join(SEALING_KEY)).unwrap(), "put it back from a backup");
    check(|keys| fs::remove_file(keys.join("root.sealed")).unwrap(), "no key root");
    check(|keys| edit(keys.join(SEALING_KEY), |_| b"hello".to_vec()), "no sealing key");
    let other = |_| format!("{SEALING_MARK}{}\n", "00".repeat(32)).into_bytes();
    check(|keys| edit(keys.join(SEALING_KEY), other), "another sealing key");
    check(|keys| fs::rename(keys.join("other.sealed"), keys.join("root.sealed")).unwrap(), "holds the key other");
    let newer = |content: Vec<u8>| {
        let text = b"\"chancery_sealed\":1".to_vec();
        let at = content.windows(text.len()).position(|window| window == text).unwrap() + text.len() - 1;
        let mut content = content;
        content[at] = b'9';
        content
    };
    check(|keys| edit(keys.join("root.sealed"), newer), "format 9");
    check(|keys| edit(keys.join("root.sealed"), |content| content[..content.len() - 1].to_vec()), "damaged");
    check(|keys| edit(keys.join("root.sealed"), |_| Vec::new()), "damaged");
    let flip = |mut content: Vec<u8>| {
        *content.last_mut().unwrap() ^= 1;
        content
    };
    check(|keys| edit(keys.join("root.sealed"), flip), "damaged");
    let kind = |content: Vec<u8>| String::from_utf8_lossy(&content).replace("p256", "p384").into_bytes();
    check(|keys| edit(keys.join("root.sealed"), kind), "damaged");
}

#[test]
fn a_sealing_key_elsewhere_is_read_and_never_made() {
    let (dir, keys) = keys();
    let elsewhere = dir.path().join("sealing.key");
    assert!(matches!(SealedStore::open(&keys, Some(&elsewhere)), Err(SealedError::File(_))));
    make_sealing_key(&elsewhere).unwrap();
    assert!(matches!(make_sealing_key(&elsewhere), Err(SealedError::Exists { .. })));
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o400)).unwrap();
    let store = SealedStore::open(&keys, Some(&elsewhere)).unwrap();
    store.put_secret("ledger-1", &SecretBytes::new(b"planted".to_vec())).unwrap();
    assert_eq!(store.get_secret("ledger-1").unwrap().expose(), b"planted");
    assert!(!keys.join(SEALING_KEY).exists());
    // Without it the keys are useless, and that is said.
    assert!(matches!(SealedStore::open(&keys, None), Err(SealedError::NoSealingKey { .. })));
    make_sealing_key(&keys.join(SEALING_KEY)).unwrap();
    assert!(matches!(SealedStore::open(&keys, Some(&elsewhere)), Err(SealedError::TwoSealingKeys { .. })));
    let other = SealedStore::open(&keys, None).unwrap();
    assert!(matches!(other.get_secret("ledger-1"), Err(SealedError::OtherSealingKey { .. })));
}

#[test]
fn a_destroyed_key_is_gone() {
    let (_dir, keys) = keys();
    let store = store(&keys);
    store.put_secret("issuing-2", &SecretBytes::new(b"x".to_vec())).unwrap();
    store.destroy("issuing-2").unwrap();
    assert!(store.list().unwrap().is_empty());
    assert!(store.destroy("issuing-2").is_err());
    assert!(matches!(store.destroy("../x"), Err(SealedError::Name { .. })));
}
