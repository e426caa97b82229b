//! The erasure key pool: values that could identify a person, under keys that can be destroyed.
//!
//! A record holds `{slot, nonce, ct}` (AES-256-GCM); the key of the slot is in `DIR/erasure/`, one per subject (an
//! address, an operator's name). Destroying a key erases the value from every record and every copy of the log without
//! breaking a proof, which is why this directory must never be in a backup of the ledger. Keys are made in runs and
//! synced before the first of a run is used, so sealing costs no sync, and some are always made ahead, from the start on:
//! an operator who comes for the first time while the disk is full is on record by name. A slot is never given to a second subject: a
//! crash skips the rest of a run, and a lost mapping only costs a new slot. Subjects are kept as keyed hashes.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use tracing::warn;
use zeroize::Zeroizing;

use super::event::Sealed;
use crate::entropy::Entropy;
use crate::secret::{SecretFileError, read_private, sync_directory, write_private};

/// Keys that are made and synced at once.
const RUN: u32 = 256;
/// Keys that are always made ahead: so many new subjects can be sealed while the disk is full.
const AHEAD: u32 = 16;
/// Bytes of a key.
const KEY: usize = 32;
/// Bytes of a subject's keyed hash.
const TAG: usize = 32;
/// The most subjects that are remembered; a further one begins again with an empty memory, which costs slots only.
const MOST_SUBJECTS: usize = 100_000;

/// Why a value can't be sealed or read.
#[derive(Debug, thiserror::Error)]
pub enum PersonalError {
    /// The pool can't be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file of the pool could be touched by others.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The key was destroyed or is not in this pool.
    #[error("slot {slot} holds no key: the value was erased, or belongs to another data directory")]
    Erased {
        /// Which slot.
        slot: u32,
    },
    /// The ciphertext does not belong to the slot.
    #[error("the sealed value of slot {slot} is damaged")]
    Damaged {
        /// Which slot.
        slot: u32,
    },
    /// Every slot number is used.
    #[error("the erasure pool is used up: 4,294,967,295 subjects were sealed")]
    UsedUp,
}

/// The pool; one per data directory, used behind a reference.
pub struct ErasurePool {
    directory: PathBuf,
    entropy: Entropy,
    tagging: hmac::Key,
    state: Mutex<State>,
}

struct State {
    keys: File,
    subjects: File,
    known: HashMap<[u8; TAG], u32>,
    next: u32,
    /// Slots below it have a synced key.
    ready: u32,
}

impl std::fmt::Debug for ErasurePool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ErasurePool").field("directory", &self.directory).finish_non_exhaustive()
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> PersonalError + '_ {
    move |source| PersonalError::Io { path: path.to_owned(), source }
}

impl ErasurePool {
    /// Opens `DIR/erasure`, or makes it.
    ///
    /// # Errors
    /// [`PersonalError::Io`] and [`PersonalError::File`].
    pub fn open(directory: &Path, entropy: Entropy) -> Result<Self, PersonalError> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(at(directory))?;
        let tag_path = directory.join("subject.key");
        if !tag_path.exists() {
            write_private(&tag_path, &*Zeroizing::new(entropy.bytes::<32>()))?;
        }
        let tagging = hmac::Key::new(hmac::HMAC_SHA256, read_private(&tag_path)?.expose());
        let (keys_path, subjects_path) = (directory.join("keys"), directory.join("subjects"));
        let open = |path: &Path| {
            OpenOptions::new().create(true).truncate(false).read(true).append(false).write(true).mode(0o600).open(path)
        };
        let keys = open(&keys_path).map_err(at(&keys_path))?;
        let mut subjects = open(&subjects_path).map_err(at(&subjects_path))?;
        sync_directory(directory).map_err(at(directory))?;
        let length = keys.metadata().map_err(at(&keys_path))?.len();
        // What a crash cut short is filled up by the next run; a slot of an earlier run is never used again.
        let ready = u32::try_from(length.div_ceil(KEY as u64)).map_err(|_| PersonalError::UsedUp)?;
        let mut text = Vec::new();
        subjects.read_to_end(&mut text).map_err(at(&subjects_path))?;
        // A last line that a crash cut short must not shift those that follow.
        let whole = (text.len() - text.len() % (4 + TAG)) as u64;
        subjects.set_len(whole).and_then(|()| subjects.seek(io::SeekFrom::Start(whole))).map_err(at(&subjects_path))?;
        let known = read_subjects(&text, ready);
        let state = Mutex::new(State { keys, subjects, known, next: ready, ready });
        let pool = Self { directory: directory.to_owned(), entropy, tagging, state };
        // A disk that is full at the start is no reason not to start: revoking works all the same.
        if let Err(error) = pool.extend(&mut pool.lock(), AHEAD) {
            warn!(%error, "no erasure keys could be made ahead: operators who are new are on record without their names");
        }
        Ok(pool)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seals `value` under the key of `subject`.
    ///
    /// # Errors
    /// When the pool can't be extended.
    pub fn seal(&self, subject: &str, value: &str) -> Result<Sealed, PersonalError> {
        let mut tag = [0; TAG];
        let signed = hmac::sign(&self.tagging, subject.as_bytes());
        tag.iter_mut().zip(signed.as_ref()).for_each(|(to, from)| *to = *from);
        let mut slot = self.slot_of(tag)?;
        let mut key = self.key(slot);
        if matches!(key, Err(PersonalError::Erased { .. })) {
            // Remembered from before it was erased: the subject begins anew.
            self.lock().known.remove(&tag);
            slot = self.slot_of(tag)?;
            key = self.key(slot);
        }
        let nonce: [u8; NONCE_LEN] = self.entropy.bytes();
        let mut sealed = value.as_bytes().to_vec();
        key?.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(slot.to_be_bytes()), &mut sealed)
            .map_err(|_| PersonalError::Damaged { slot })?;
        Ok(Sealed { ct: BASE64.encode(sealed), nonce: BASE64.encode(nonce), slot })
    }

    /// Reads a sealed value, for those who may see it.
    ///
    /// # Errors
    /// [`PersonalError::Erased`] and [`PersonalError::Damaged`].
    pub fn open_value(&self, sealed: &Sealed) -> Result<String, PersonalError> {
        let slot = sealed.slot;
        let damaged = || PersonalError::Damaged { slot };
        let nonce = BASE64.decode(&sealed.nonce).ok().and_then(|nonce| Nonce::try_assume_unique_for_key(&nonce).ok());
        let mut bytes = BASE64.decode(&sealed.ct).map_err(|_| damaged())?;
        let key = self.key(slot)?;
        let text = key
            .open_in_place(nonce.ok_or_else(damaged)?, Aad::from(slot.to_be_bytes()), &mut bytes)
            .map_err(|_| damaged())?;
        String::from_utf8(text.to_vec()).map_err(|_| damaged())
    }

    /// Destroys the key of a slot: everything sealed under it is gone, in every copy of the log.
    ///
    /// # Errors
    /// [`PersonalError::Io`]; the key may then still be there.
    pub fn erase(&self, slot: u32) -> Result<(), PersonalError> {
        let mut state = self.lock();
        state.known.retain(|_, known| *known != slot);
        if slot >= state.ready {
            return Err(PersonalError::Erased { slot });
        }
        let path = self.directory.join("keys");
        state.keys.write_all_at(&[0; KEY], u64::from(slot) * KEY as u64).map_err(at(&path))?;
        state.keys.sync_all().map_err(at(&path))
    }

    fn slot_of(&self, tag: [u8; TAG]) -> Result<u32, PersonalError> {
        let mut state = self.lock();
        if let Some(slot) = state.known.get(&tag) {
            return Ok(*slot);
        }
        if state.ready - state.next < AHEAD
            && let Err(error) = self.extend(&mut state, RUN)
            && state.next == state.ready
        {
            return Err(error);
        }
        let slot = state.next;
        state.next += 1;
        if state.known.len() >= MOST_SUBJECTS {
            state.known.clear();
        }
        state.known.insert(tag, slot);
        let mut line = slot.to_be_bytes().to_vec();
        line.extend(tag);
        // Not synced: losing it costs one slot. So does a full disk, but half a line would shift those that follow.
        let subjects = &mut state.subjects;
        let whole = subjects.stream_position();
        if let (Err(error), Ok(whole)) = (subjects.write_all(&line), whole) {
            warn!(%error, "a subject of the erasure pool is remembered until the next start only");
            let path = self.directory.join("subjects");
            let cut = subjects.set_len(whole).and_then(|()| subjects.seek(io::SeekFrom::Start(whole)));
            cut.map_err(at(&path))?;
        }
        Ok(slot)
    }

    /// Makes and syncs the next keys. Only after the sync may one of them seal anything.
    fn extend(&self, state: &mut State, count: u32) -> Result<(), PersonalError> {
        let ready = state.ready.checked_add(count).ok_or(PersonalError::UsedUp)?;
        let mut keys = Zeroizing::new(vec![0; count as usize * KEY]);
        self.entropy.fill(&mut keys);
        let path = self.directory.join("keys");
        state.keys.write_all_at(&keys, u64::from(state.ready) * KEY as u64).map_err(at(&path))?;
        state.keys.sync_all().map_err(at(&path))?;
        state.ready = ready;
        Ok(())
    }

    fn key(&self, slot: u32) -> Result<LessSafeKey, PersonalError> {
        let state = self.lock();
        let mut key = Zeroizing::new([0; KEY]);
        let read = state.keys.read_exact_at(key.as_mut_slice(), u64::from(slot) * KEY as u64);
        // An erased key is all zeroes, and so is what was never written.
        if read.is_err() || key.iter().all(|byte| *byte == 0) {
            return Err(PersonalError::Erased { slot });
        }
        let key = UnboundKey::new(&AES_256_GCM, key.as_slice()).map_err(|_| PersonalError::Damaged { slot })?;
        Ok(LessSafeKey::new(key))
    }
}

/// The remembered subjects; a last line cut short, or of a slot that is not there, is forgotten.
fn read_subjects(text: &[u8], ready: u32) -> HashMap<[u8; TAG], u32> {
    let (lines, _) = text.as_chunks::<{ 4 + TAG }>();
    let parse = |line: &[u8; 4 + TAG]| {
        let (slot, tag) = line.split_first_chunk::<4>()?;
        Some((tag.try_into().ok()?, u32::from_be_bytes(*slot)))
    };
    lines.iter().rev().take(MOST_SUBJECTS).filter_map(parse).filter(|(_, slot)| *slot < ready).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(directory: &Path) -> ErasurePool {
        ErasurePool::open(directory, Entropy::system()).unwrap()
    }

    #[test]
    fn a_value_comes_back_under_its_subject_s_one_slot_until_it_is_erased() {
        let dir = tempfile::tempdir().unwrap();
        let pool = open(dir.path());
        let sealed = pool.seal("10.0.0.7", "10.0.0.7").unwrap();
        let again = pool.seal("10.0.0.7", "10.0.0.7").unwrap();
        assert_eq!(sealed.slot, again.slot);
        assert_ne!(sealed.ct, again.ct);
        assert_ne!(pool.seal("10.0.0.8", "x").unwrap().slot, sealed.slot);
        drop(pool);
        let pool = open(dir.path());
        assert_eq!(pool.open_value(&sealed).unwrap(), "10.0.0.7");
        assert_eq!(pool.seal("10.0.0.7", "later").unwrap().slot, sealed.slot);
        let moved = Sealed { slot: 1, ..sealed.clone() };
        assert!(matches!(pool.open_value(&moved), Err(PersonalError::Damaged { .. })));
        pool.erase(sealed.slot).unwrap();
        assert!(matches!(pool.open_value(&sealed), Err(PersonalError::Erased { .. })));
        drop(pool);
        assert_ne!(open(dir.path()).seal("10.0.0.7", "new").unwrap().slot, sealed.slot);
    }

    #[test]
    fn a_lost_mapping_costs_a_slot_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let sealed = open(dir.path()).seal("operator", "Grace").unwrap();
        std::fs::remove_file(dir.path().join("subjects")).unwrap();
        let pool = open(dir.path());
        let other = pool.seal("somebody else", "Alan").unwrap();
        assert_ne!(other.slot, sealed.slot);
        assert_eq!(pool.open_value(&sealed).unwrap(), "Grace");
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap()).collect();
        for entry in names {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        }
    }

    #[test]
    fn new_subjects_are_sealed_while_nothing_can_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let pool = open(dir.path());
        // Reading goes on, writing fails: as on a full disk.
        pool.lock().keys = File::open(dir.path().join("keys")).unwrap();
        for number in 0..AHEAD {
            let sealed = pool.seal(&format!("operator {number}"), "Grace").unwrap();
            assert_eq!(pool.open_value(&sealed).unwrap(), "Grace");
        }
        assert!(matches!(pool.seal("one more", "Alan"), Err(PersonalError::Io { .. })));
        assert!(pool.seal("operator 3", "Grace").is_ok(), "who is known stays known");
    }

    #[test]
    fn nothing_personal_stands_in_the_pool() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).seal("planted-subject", "planted-value").unwrap();
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            assert!(!bytes.windows(7).any(|window| window == b"planted"));
        }
    }
}
