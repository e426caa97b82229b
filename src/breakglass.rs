//! The sealed credential that opens the way in when the ordinary one is shut.
//!
//! The secret is made where it is kept, on the operator's side; a server holds a [`Verifier`] of it, in a file of the data
//! directory whose hash is on record, and sees the secret once, when it is used up. Comparing takes the same time whatever
//! is wrong. Whoever tries and fails waits longer each time. Who opened it, and until when, is in the ledger and its index.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use aws_lc_rs::{digest, pbkdf2};
use serde::{Deserialize, Serialize};

use crate::entropy::Entropy;
use crate::secret::SecretBytes;

/// Random bytes of a credential: nobody guesses 160 bits.
const SECRET_BYTES: usize = 20;

/// Rounds of PBKDF2-HMAC-SHA256 (OWASP's figure of 2023), for the day when somebody types a credential of their own.
const ROUNDS: NonZeroU32 = NonZeroU32::new(600_000).expect("not zero");

/// The rounds that a server takes from whoever seals: fewer protect too little, more keep it busy.
const ROUNDS_TAKEN: std::ops::RangeInclusive<u32> = 600_000..=5_000_000;

/// What every credential begins with, so that scanners and people know it when they see one.
const PREFIX: &str = "chancery-breakglass-";

/// The longest text that is looked at.
pub const LONGEST_CREDENTIAL: usize = 256;

/// How long a break-glass lasts at most.
pub const LONGEST_OPEN: Duration = Duration::from_secs(24 * 3_600);

/// How long the first failure of an account holds off its next attempt; each further one twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The longest of these waits, and how long failures are remembered.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// Accounts whose failures are remembered; beyond that, nobody new may try until one is forgotten.
const MOST_ACCOUNTS: usize = 256;

/// A new credential, for its one owner: `chancery-breakglass-` and 160 bits in groups of four.
#[must_use]
pub fn make(entropy: &Entropy) -> SecretBytes {
    let text = hex::encode(entropy.bytes::<SECRET_BYTES>());
    let groups: Vec<&str> = (0..text.len()).step_by(4).filter_map(|at| text.get(at..at + 4)).collect();
    SecretBytes::new(format!("{PREFIX}{}", groups.join("-")).into_bytes())
}

/// What a server keeps of a credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verifier {
    /// Names it in records.
    pub id: String,
    /// Rounds of PBKDF2-HMAC-SHA256.
    pub rounds: u32,
    /// Hex.
    pub salt: String,
    /// Hex.
    pub hash: String,
}

/// Why a verifier is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifierError {
    /// Its parts have another form than ours.
    #[error("not a verifier of a credential: let `chancery breakglass seal` make it")]
    Form,
    /// Too few rounds protect too little, too many keep the server busy.
    #[error("{rounds} rounds of PBKDF2 are not between {first} and {last}", first = ROUNDS_TAKEN.start(), last = ROUNDS_TAKEN.end())]
    Rounds {
        /// As many were asked for.
        rounds: u32,
    },
}

impl Verifier {
    /// Of a new credential.
    #[must_use]
    pub fn of(credential: &SecretBytes, entropy: &Entropy) -> Self {
        let (id, salt) = (hex::encode(entropy.bytes::<6>()), entropy.bytes::<16>());
        let mut hash = [0; digest::SHA256_OUTPUT_LEN];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, &salt, &normal(credential), &mut hash);
        Self { id, rounds: ROUNDS.get(), salt: hex::encode(salt), hash: hex::encode(hash) }
    }

    /// One that came from outside.
    ///
    /// # Errors
    /// [`VerifierError`].
    pub fn checked(self) -> Result<Self, VerifierError> {
        let long = |text: &str, bytes: usize| hex::decode(text).is_ok_and(|read| read.len() == bytes);
        if !long(&self.id, 6) || !long(&self.salt, 16) || !long(&self.hash, digest::SHA256_OUTPUT_LEN) {
            return Err(VerifierError::Form);
        }
        if !ROUNDS_TAKEN.contains(&self.rounds) {
            return Err(VerifierError::Rounds { rounds: self.rounds });
        }
        Ok(self)
    }

    /// The file's text.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// SHA-256 of the file's text, hex: what is on record.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex::encode(digest::digest(&digest::SHA256, self.to_text().as_bytes()))
    }

    /// Whether `credential` is the one; in constant time, and a tenth of a second of a core.
    #[must_use]
    pub fn opens(&self, credential: &SecretBytes) -> bool {
        let (Ok(salt), Ok(hash)) = (hex::decode(&self.salt), hex::decode(&self.hash)) else { return false };
        let rounds = NonZeroU32::new(self.rounds).unwrap_or(ROUNDS);
        pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, &normal(credential), &hash).is_ok()
    }
}

/// Typed from paper: case, spaces and dashes do not count.
fn normal(credential: &SecretBytes) -> zeroize::Zeroizing<Vec<u8>> {
    let kept = credential.expose().iter().filter(|byte| byte.is_ascii_alphanumeric());
    zeroize::Zeroizing::new(kept.map(u8::to_ascii_lowercase).collect())
}

/// Who failed how often, and until when they wait. Of this run: a restart forgets it, and guessing stays hopeless.
#[derive(Debug, Default)]
pub struct Attempts {
    accounts: BTreeMap<String, Failures>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    /// On the monotonic clock.
    wait_until: Duration,
}

impl Attempts {
    /// How long `account` still has to wait at `now`; `None` when it may try.
    #[must_use]
    pub fn wait(&mut self, account: &str, now: Duration) -> Option<Duration> {
        self.accounts.retain(|_, failures| now < failures.wait_until + LONGEST_WAIT);
        match self.accounts.get(account) {
            Some(failures) => failures.wait_until.checked_sub(now).filter(|left| !left.is_zero()),
            None if self.accounts.len() >= MOST_ACCOUNTS => Some(LONGEST_WAIT),
            None => None,
        }
    }

    /// A wrong credential of `account`.
    pub fn failed(&mut self, account: &str, now: Duration) {
        let count = self.accounts.get(account).map_or(0, |failures| failures.count);
        let wait = FIRST_WAIT.saturating_mul(2_u32.saturating_pow(count.min(16))).min(LONGEST_WAIT);
        let failures = Failures { count: count.saturating_add(1), wait_until: now + wait };
        self.accounts.insert(account.to_owned(), failures);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_opens_its_own_verifier_however_it_is_typed() {
        let entropy = Entropy::seeded(1);
        let credential = make(&entropy);
        let text = String::from_utf8(credential.expose().to_vec()).unwrap();
        assert!(text.starts_with(PREFIX) && text.len() < LONGEST_CREDENTIAL, "{text}");
        let verifier = Verifier::of(&credential, &entropy).checked().unwrap();
        assert!(!verifier.to_text().contains(text.get(PREFIX.len()..).unwrap()));
        let typed = |text: &str| verifier.opens(&SecretBytes::new(text.as_bytes().to_vec()));
        assert!(typed(&text) && typed(&format!(" {}\n", text.to_uppercase().replace('-', " "))));
        assert!(!typed(&text[..text.len() - 1]) && !typed("") && !typed(PREFIX));
        let read: Verifier = serde_json::from_str(&verifier.to_text()).unwrap();
        assert_eq!(read.fingerprint(), verifier.fingerprint());
    }

    #[test]
    fn a_verifier_from_outside_has_our_form() {
        let entropy = Entropy::seeded(2);
        let verifier = Verifier::of(&make(&entropy), &entropy);
        let weak = Verifier { rounds: 1, ..verifier.clone() };
        assert_eq!(weak.checked(), Err(VerifierError::Rounds { rounds: 1 }));
        for wrong in [
            Verifier { id: "../../x".into(), ..verifier.clone() },
            Verifier { salt: String::new(), ..verifier.clone() },
            Verifier { hash: "zz".into(), ..verifier },
        ] {
            assert_eq!(wrong.checked(), Err(VerifierError::Form));
        }
    }

    #[test]
    fn who_fails_waits_longer_each_time_and_nobody_else_does() {
        let (mut attempts, at) = (Attempts::default(), Duration::from_secs);
        assert_eq!(attempts.wait("a", at(0)), None);
        attempts.failed("a", at(0));
        assert_eq!((attempts.wait("a", at(0)), attempts.wait("b", at(0))), (Some(FIRST_WAIT), None));
        assert_eq!(attempts.wait("a", at(1)), None);
        attempts.failed("a", at(1));
        assert_eq!(attempts.wait("a", at(1)), Some(FIRST_WAIT * 2));
        (0..20).for_each(|_| attempts.failed("a", at(3)));
        assert_eq!(attempts.wait("a", at(3)), Some(LONGEST_WAIT));
        assert_eq!(attempts.wait("a", at(700)), None, "it is forgotten");
        (0..MOST_ACCOUNTS).for_each(|n| attempts.failed(&n.to_string(), at(700)));
        assert_eq!(attempts.wait("new", at(700)), Some(LONGEST_WAIT), "no room for another");
    }
}
