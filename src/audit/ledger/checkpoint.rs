//! Checkpoints: signed notes over a tree head (c2sp.org/tlog-checkpoint, c2sp.org/signed-note, Ed25519). Pure; the
//! parser treats its input as hostile.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::error::LedgerError;
use crate::merkle::{Hash, sha256};
use crate::secret::SecretBytes;

/// The signature type of Ed25519 in a signed note.
const ED25519_TYPE: u8 = 1;
/// The longest checkpoint that is read, in bytes: ours have one signature, witnesses may add theirs.
pub(crate) const LONGEST_CHECKPOINT: usize = 64 * 1024;
/// The most signatures of a note that are looked at; the specification asks for at least 16.
const MOST_SIGNATURES: usize = 64;
/// What a signature line starts with: em dash and space.
const SIGNATURE_START: &str = "\u{2014} ";

/// A tree head as a log states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log: `<trust domain>/ledger/<log>`.
    pub origin: String,
    /// Records in it.
    pub size: u64,
    /// The RFC 6962 root at that size.
    pub root: Hash,
}

/// Why a text is no checkpoint to trust.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Not the form of a signed checkpoint.
    #[error("not a signed checkpoint: {0}")]
    Form(&'static str),
    /// No signature by the key that was asked for.
    #[error("no signature by {0}: was it made with another key?")]
    NotSigned(String),
    /// A signature by that key that is wrong.
    #[error("the signature by {0} is wrong: the checkpoint was changed")]
    BadSignature(String),
    /// The checkpoint of another log.
    #[error("it is about {found}, not {expected}")]
    OtherLog {
        /// The origin in it.
        found: String,
        /// The key's name.
        expected: String,
    },
    /// The text is no verifier key.
    #[error("not a verifier key of the form name+hash+key with Ed25519")]
    Key,
}

impl Checkpoint {
    /// The text that is signed, with its final newline.
    #[must_use]
    pub fn note_text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(self.root))
    }

    fn parse_text(text: &str) -> Result<Self, CheckpointError> {
        let mut lines = text.split_terminator('\n');
        let mut line = || lines.next().filter(|line| !line.is_empty());
        let origin = line().ok_or(CheckpointError::Form("no origin"))?.to_owned();
        let size = parse_decimal(line().unwrap_or_default()).ok_or(CheckpointError::Form("no tree size"))?;
        let root = decode_hash(line().unwrap_or_default()).ok_or(CheckpointError::Form("no root hash"))?;
        if lines.any(str::is_empty) {
            return Err(CheckpointError::Form("an empty extension line"));
        }
        Ok(Self { origin, size, root })
    }
}

/// A decimal without leading zeroes.
pub(crate) fn parse_decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

/// One hash in base64.
pub(crate) fn decode_hash(text: &str) -> Option<Hash> {
    BASE64.decode(text).ok()?.try_into().ok()
}

/// One hash as base64.
pub(crate) fn encode_hash(hash: &Hash) -> String {
    BASE64.encode(hash)
}

/// The public half of a log's key, as `DIR/ledger/<log>/vkey` holds it: `name+hash+base64(0x01 || key)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    public: [u8; 32],
}

impl VerifierKey {
    /// Reads the text form.
    ///
    /// # Errors
    /// [`CheckpointError::Key`].
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(CheckpointError::Key);
        };
        let key = BASE64.decode(key).map_err(|_| CheckpointError::Key)?;
        let (kind, public) = key.split_first().ok_or(CheckpointError::Key)?;
        let public = public.try_into().map_err(|_| CheckpointError::Key)?;
        let key = Self { name: name.to_owned(), public };
        let valid = *kind == ED25519_TYPE && !name.is_empty() && !name.contains(char::is_whitespace);
        (valid && id == hex::encode(key.id())).then_some(key).ok_or(CheckpointError::Key)
    }

    /// The key's name, which is the log's origin.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn id(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = sha256(&[self.name.as_bytes(), b"\n", &[ED25519_TYPE], &self.public]);
        [a, b, c, d]
    }

    /// Checks a signed checkpoint and returns what it says.
    ///
    /// # Errors
    /// Every variant of [`CheckpointError`].
    pub fn verify(&self, note: &str) -> Result<Checkpoint, CheckpointError> {
        if note.len() > LONGEST_CHECKPOINT || note.chars().any(|c| c < ' ' && c != '\n') {
            return Err(CheckpointError::Form("too long, or control characters"));
        }
        let (text, signatures) = note.rsplit_once("\n\n").ok_or(CheckpointError::Form("no signature"))?;
        let text = format!("{text}\n");
        if !signatures.ends_with('\n') {
            return Err(CheckpointError::Form("the last line does not end"));
        }
        let mut signed = false;
        for (count, line) in signatures.split_terminator('\n').enumerate() {
            let (name, signature) = parse_signature(line).ok_or(CheckpointError::Form("a signature line"))?;
            if count >= MOST_SIGNATURES {
                return Err(CheckpointError::Form("too many signatures"));
            }
            // Signatures by keys that we don't know are no concern of ours (signed-note, "Signatures").
            let Some(signature) = signature.strip_prefix(&self.id()).filter(|_| name == self.name) else { continue };
            UnparsedPublicKey::new(&ED25519, &self.public)
                .verify(text.as_bytes(), signature)
                .map_err(|_| CheckpointError::BadSignature(self.name.clone()))?;
            signed = true;
        }
        if !signed {
            return Err(CheckpointError::NotSigned(self.to_string()));
        }
        let checkpoint = Checkpoint::parse_text(&text)?;
        if checkpoint.origin != self.name {
            return Err(CheckpointError::OtherLog { found: checkpoint.origin, expected: self.name.clone() });
        }
        Ok(checkpoint)
    }
}

impl std::fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut key = vec![ED25519_TYPE];
        key.extend(self.public);
        write!(f, "{}+{}+{}", self.name, hex::encode(self.id()), BASE64.encode(key))
    }
}

fn parse_signature(line: &str) -> Option<(&str, Vec<u8>)> {
    let (name, signature) = line.strip_prefix(SIGNATURE_START)?.split_once(' ')?;
    Some((name, BASE64.decode(signature).ok()?)).filter(|(name, _)| !name.is_empty())
}

/// The ledger's own signing key: Ed25519, not an authority's key. It is kept sealed beside those and handed in here.
pub struct CheckpointKey(Ed25519KeyPair);

impl std::fmt::Debug for CheckpointKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CheckpointKey")
    }
}

impl CheckpointKey {
    /// A new key in PKCS#8, to be sealed by the caller and given to [`CheckpointKey::from_pkcs8`].
    ///
    /// # Errors
    /// [`LedgerError::KeyForm`] when the library cannot make one.
    pub fn generate_pkcs8() -> Result<SecretBytes, LedgerError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| LedgerError::KeyForm)?;
        let bytes = pair.to_pkcs8().map_err(|_| LedgerError::KeyForm)?;
        Ok(SecretBytes::new(bytes.as_ref().to_vec()))
    }

    /// Takes the key from its PKCS#8 form.
    ///
    /// # Errors
    /// [`LedgerError::KeyForm`].
    pub fn from_pkcs8(pkcs8: &SecretBytes) -> Result<Self, LedgerError> {
        Ed25519KeyPair::from_pkcs8(pkcs8.expose()).map(Self).map_err(|_| LedgerError::KeyForm)
    }

    /// The verifier key under the name `origin`.
    #[must_use]
    pub fn verifier(&self, origin: &str) -> VerifierKey {
        let mut public = [0; 32];
        public.iter_mut().zip(self.0.public_key().as_ref()).for_each(|(to, from)| *to = *from);
        VerifierKey { name: origin.to_owned(), public }
    }

    /// The signed note for `checkpoint`.
    #[must_use]
    pub fn sign(&self, checkpoint: &Checkpoint) -> String {
        let text = checkpoint.note_text();
        let mut signature = self.verifier(&checkpoint.origin).id().to_vec();
        signature.extend_from_slice(self.0.sign(text.as_bytes()).as_ref());
        format!("{text}\n{SIGNATURE_START}{} {}\n", checkpoint.origin, BASE64.encode(signature))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use signed_note::{Note, StandardVerifier, VerifierList};

    fn signed() -> (CheckpointKey, Checkpoint, String) {
        let key = CheckpointKey::from_pkcs8(&CheckpointKey::generate_pkcs8().unwrap()).unwrap();
        let checkpoint = Checkpoint { origin: "example.org/ledger/ca-2026".into(), size: 20, root: [9; 32] };
        let note = key.sign(&checkpoint);
        (key, checkpoint, note)
    }

    #[test]
    fn an_independent_reader_agrees() {
        let (key, checkpoint, note) = signed();
        let vkey = key.verifier(&checkpoint.origin).to_string();
        let verifiers = VerifierList::new(vec![Box::new(StandardVerifier::new(&vkey).unwrap())]);
        let independent = Note::from_bytes(note.as_bytes()).unwrap();
        assert_eq!(independent.verify(&verifiers).unwrap().0.len(), 1);
        let read = tlog_tiles::Checkpoint::from_bytes(independent.text()).unwrap();
        assert_eq!((read.origin(), read.size(), read.hash().0), ("example.org/ledger/ca-2026", 20, [9; 32]));
        assert_eq!(VerifierKey::parse(&vkey).unwrap().verify(&note).unwrap(), checkpoint);
    }

    #[test]
    fn the_specification_s_example_verifies() {
        let key = VerifierKey::parse("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k").unwrap();
        let note = "This is an example message.\n\n\u{2014} example.com/foo \
                    Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";
        // The signature holds; what it signs is no checkpoint.
        assert_eq!(key.verify(note), Err(CheckpointError::Form("no tree size")));
    }

    #[test]
    fn changes_are_noticed() {
        let (key, checkpoint, note) = signed();
        let verifier = key.verifier(&checkpoint.origin);
        assert!(matches!(verifier.verify(&note.replace("\n20\n", "\n21\n")), Err(CheckpointError::BadSignature(_))));
        let (other, ..) = signed();
        let unsigned = other.verifier(&checkpoint.origin).verify(&note);
        assert!(matches!(unsigned, Err(CheckpointError::NotSigned(_))));
        for cut in 0..note.len() {
            if let Some(text) = note.get(..cut) {
                assert!(verifier.verify(text).is_err());
            }
        }
        for text in ["", "\n\n", "a\n1\nAA==\n\nb\n", "a\n01\nx\n\n\u{2014} a AAAA\n"] {
            assert!(verifier.verify(text).is_err(), "{text:?}");
        }
        for text in ["", "a+b", "a+00000000+AAAA", "+++"] {
            assert_eq!(VerifierKey::parse(text), Err(CheckpointError::Key), "{text:?}");
        }
    }
}
