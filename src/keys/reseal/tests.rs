//! Moving between sealing keys beside the keys and in files, cut off anywhere. With Vault: `tests/transit.rs`.

use super::*;
use crate::secret::SecretBytes;
use crate::x509::KeyAlgorithm;

const SECRET: &[u8] = b"planted";

fn installation() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    let store = SealedStore::open(&keys, None).unwrap();
    store.put_secret("ledger-1", &SecretBytes::new(SECRET.to_vec())).unwrap();
    store.generate("root-1", KeyAlgorithm::P256).unwrap();
    store.generate("issuing-1", KeyAlgorithm::P256).unwrap();
    (dir, keys)
}

fn expect_whole(keys: &Path, elsewhere: Option<&Path>) {
    let store = SealedStore::open(keys, elsewhere).unwrap();
    assert_eq!(store.get_secret("ledger-1").unwrap().expose(), SECRET);
    for name in ["root-1", "issuing-1"] {
        store.load(name).unwrap();
    }
    let names: Vec<String> =
        fs::read_dir(keys).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    assert!(!names.iter().any(|name| name.ends_with(".next")), "{names:?}");
}

async fn move_to(keys: &Path, target: Target, from: Option<&Path>) {
    Reseal::begin(keys, target, from, None).await.unwrap().carry_out().unwrap();
}

#[tokio::test]
async fn it_rotates_beside_the_keys_and_moves_to_a_file_and_back() {
    let (dir, keys) = installation();
    let before = fs::read(keys.join(sealed::SEALING_KEY)).unwrap();
    move_to(&keys, Target::Beside, None).await;
    assert_ne!(fs::read(keys.join(sealed::SEALING_KEY)).unwrap(), before, "another key");
    expect_whole(&keys, None);

    let file = dir.path().join("sealing.key");
    sealed::make_sealing_key(&file).unwrap();
    move_to(&keys, Target::File(file.clone()), None).await;
    assert!(!keys.join(sealed::SEALING_KEY).exists());
    expect_whole(&keys, Some(&file));

    let without = Reseal::begin(&keys, Target::Beside, None, None).await;
    assert!(matches!(without, Err(ResealError::Unknown { .. })), "the present key was not named");
    move_to(&keys, Target::Beside, Some(&file)).await;
    expect_whole(&keys, None);
}

/// As a crash leaves it: some files moved, the rest not, old and next sealing key there.
#[tokio::test]
async fn a_try_that_was_cut_off_anywhere_is_refused_by_a_start_and_finished_by_the_next() {
    for moved in 0..=3 {
        let (_dir, keys) = installation();
        let reseal = Reseal::begin(&keys, Target::Beside, None, None).await.unwrap();
        for name in reseal.names.iter().take(moved) {
            reseal.to.take_over(reseal.store_of(name).unwrap(), name).unwrap();
        }
        assert_eq!(reseal.secret("ledger-1").unwrap().expose(), SECRET, "whichever key it is under");
        drop(reseal);
        assert!(matches!(SealedStore::open(&keys, None), Err(SealedError::CutOff { .. })), "{moved} moved");
        let other = keys.join("other.key");
        sealed::make_sealing_key(&other).unwrap();
        let another = Reseal::begin(&keys, Target::File(other), None, None).await;
        assert!(matches!(another, Err(ResealError::Other { .. })), "{moved} moved");
        move_to(&keys, Target::Beside, None).await;
        expect_whole(&keys, None);
    }
}

/// What held the old key is gone and the next one has not its name yet.
#[tokio::test]
async fn a_crash_before_the_last_rename_is_finished_too() {
    let (dir, keys) = installation();
    let file = dir.path().join("sealing.key");
    sealed::make_sealing_key(&file).unwrap();
    let reseal = Reseal::begin(&keys, Target::File(file.clone()), None, None).await.unwrap();
    for name in &reseal.names {
        reseal.to.take_over(reseal.store_of(name).unwrap(), name).unwrap();
    }
    fs::remove_file(keys.join(sealed::SEALING_KEY)).unwrap();
    drop(reseal);
    move_to(&keys, Target::File(file.clone()), None).await;
    expect_whole(&keys, Some(&file));
}

#[tokio::test]
async fn without_a_vault_nothing_is_wrapped_and_nothing_is_touched() {
    let (_dir, keys) = installation();
    assert!(matches!(Reseal::begin(&keys, Target::Vault, None, None).await, Err(ResealError::NoVault)));
    expect_whole(&keys, None);
}
