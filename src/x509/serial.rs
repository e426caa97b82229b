//! Serial numbers: 127 random bits, always sixteen octets.
//!
//! CA/Browser Forum practice and RFC 5280 section 4.1.2.2 ask for a positive number of at most 20 octets that cannot be
//! guessed (64 random bits or more). Ours have their top bit clear and their first octet not zero, so the DER form is
//! always the sixteen octets themselves and every tool prints the same 32 digits.

use std::fmt;

use crate::entropy::Entropy;

/// A serial number that this program gave.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial([u8; 16]);

/// Why a text is no serial number of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no serial number: write its 32 hexadecimal digits, as `cert list` shows them")]
pub struct SerialError {
    text: String,
}

impl Serial {
    /// A fresh one.
    #[must_use]
    pub fn random(entropy: &Entropy) -> Self {
        loop {
            // One draw in 128 begins with a zero octet and is thrown away: 126.99 bits remain.
            if let Some(serial) = Self::from_bytes(clear_top_bit(entropy.bytes())) {
                return serial;
            }
        }
    }

    /// From the content octets of a certificate's serial number; nothing when it is not one of ours.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        matches!(bytes, [0x01..=0x7f, ..]).then_some(Self(bytes))
    }

    /// From 32 hexadecimal digits.
    ///
    /// # Errors
    /// [`SerialError`].
    pub fn from_hex(text: &str) -> Result<Self, SerialError> {
        let mut bytes = [0; 16];
        let read = hex::decode_to_slice(text, &mut bytes).ok().and_then(|()| Self::from_bytes(bytes));
        read.ok_or_else(|| SerialError { text: text.chars().take(64).collect() })
    }

    /// The content octets of the DER INTEGER.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// 32 lower-case hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

fn clear_top_bit(bytes: [u8; 16]) -> [u8; 16] {
    (u128::from_be_bytes(bytes) & (u128::MAX >> 1)).to_be_bytes()
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn foreign_texts_are_refused_with_the_remedy() {
        for text in ["", "0", "00000000000000000000000000000001", "ff000000000000000000000000000001", "zz"] {
            let said = Serial::from_hex(text).unwrap_err().to_string();
            assert!(said.contains("32 hexadecimal digits"), "{said}");
        }
    }

    proptest! {
        #[test]
        fn text_and_bytes_round_trip(seed in any::<u64>()) {
            let serial = Serial::random(&Entropy::seeded(seed));
            prop_assert!((0x01..=0x7f).contains(&serial.as_bytes()[0]));
            prop_assert_eq!(Serial::from_hex(&serial.hex()), Ok(serial));
            prop_assert_eq!(Serial::from_hex(&serial.hex().to_uppercase()), Ok(serial));
            prop_assert_eq!(Serial::from_bytes(*serial.as_bytes()), Some(serial));
        }
    }
}
