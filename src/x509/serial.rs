//! Serial numbers: ours are 127 random bits in sixteen octets, others' have up to twenty.
//!
//! CA/Browser Forum practice and RFC 5280 section 4.1.2.2 ask for a positive number of at most 20 octets that cannot be
//! guessed (64 random bits or more). Ours have their top bit clear and their first octet not zero, so the DER form is
//! always the sixteen octets themselves and every tool prints the same 32 digits. What an upstream gave has another
//! length; it is kept as its DER INTEGER has it, so that equal numbers are equal texts.

use std::fmt;

use crate::entropy::Entropy;

/// The most content octets of a serial's DER INTEGER: twenty, and one for the sign, which some CAs do not count.
pub const LONGEST_SERIAL: usize = 21;

/// A positive serial number, as the content octets of its DER INTEGER. In the order of the numbers: a longer one is larger.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial {
    length: u8,
    octets: [u8; LONGEST_SERIAL],
}

/// Why a text is no serial number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no serial number: write all its hexadecimal digits, as `cert list` shows them")]
pub struct SerialError {
    text: String,
}

impl Serial {
    /// A fresh one.
    #[must_use]
    pub fn random(entropy: &Entropy) -> Self {
        loop {
            // One draw in 128 begins with a zero octet and is thrown away: 126.99 bits remain.
            let octets = clear_top_bit(entropy.bytes());
            if let (Some(serial), [1..=255, ..]) = (Self::from_bytes(&octets), octets) {
                return serial;
            }
        }
    }

    /// From the content octets of a certificate's serial number: positive and in their shortest form, as DER has them.
    #[must_use]
    pub fn from_bytes(content: &[u8]) -> Option<Self> {
        let mut octets = [0; LONGEST_SERIAL];
        octets.get_mut(..content.len())?.copy_from_slice(content);
        let right = matches!(content, [0x01..=0x7f, ..] | [0, 0x80..=0xff, ..]);
        right.then_some(Self { length: u8::try_from(content.len()).ok()?, octets })
    }

    /// From hexadecimal digits, as [`Self::hex`] writes them; upper case is taken too.
    ///
    /// # Errors
    /// [`SerialError`].
    pub fn from_hex(text: &str) -> Result<Self, SerialError> {
        let read = hex::decode(text).ok().and_then(|octets| Self::from_bytes(&octets));
        read.ok_or_else(|| SerialError { text: text.chars().take(64).collect() })
    }

    /// The content octets of the DER INTEGER.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.octets.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// The octets of the number itself, without one for the sign.
    #[must_use]
    pub fn number(&self) -> &[u8] {
        match self.as_bytes() {
            [0, number @ ..] => number,
            number => number,
        }
    }

    /// Lower-case hexadecimal digits of the content octets, 32 for one of ours.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.as_bytes())
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
        for text in [
            "",
            "0",
            "00",
            "00000000000000000000000000000001",
            "ff000000000000000000000000000001",
            "zz",
            &"11".repeat(22),
        ] {
            let said = Serial::from_hex(text).unwrap_err().to_string();
            assert!(said.contains("hexadecimal digits"), "{said}");
        }
    }

    proptest! {
        #[test]
        fn text_and_bytes_round_trip(seed in any::<u64>()) {
            let serial = Serial::random(&Entropy::seeded(seed));
            prop_assert!((0x01..=0x7f).contains(&serial.as_bytes()[0]));
            prop_assert_eq!(Serial::from_hex(&serial.hex()), Ok(serial));
            prop_assert_eq!(Serial::from_hex(&serial.hex().to_uppercase()), Ok(serial));
            prop_assert_eq!(Serial::from_bytes(serial.as_bytes()), Some(serial));
        }

        #[test]
        fn the_order_is_that_of_the_numbers(one in 1_u64.., other in 1_u64..) {
            let serial = |number: u64| {
                let octets = [&[0][..], &number.to_be_bytes()].concat();
                let shortest = (0..octets.len()).find_map(|from| Serial::from_bytes(&octets[from..]));
                shortest.unwrap()
            };
            prop_assert_eq!(one.cmp(&other), serial(one).cmp(&serial(other)));
        }
    }
}
