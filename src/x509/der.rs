//! A strict reader and a small writer of DER (X.690), for the few shapes that this crate compares byte by byte.
//!
//! The reader accepts definite, minimal lengths and one-byte tags only, never copies, never panics and never recurses
//! by itself. Foreign certificates and CSRs go through `x509-parser`; this is for our own bytes and for raw slices
//! (a Name, a SubjectPublicKeyInfo) that must be kept exactly as they were.

/// INTEGER.
pub const INTEGER: u8 = 0x02;
/// BIT STRING.
pub const BIT_STRING: u8 = 0x03;
/// OCTET STRING.
pub const OCTET_STRING: u8 = 0x04;
/// OBJECT IDENTIFIER.
pub const OID: u8 = 0x06;
/// ENUMERATED.
pub const ENUMERATED: u8 = 0x0a;
/// UTCTime.
pub const UTC_TIME: u8 = 0x17;
/// GeneralizedTime.
pub const GENERALIZED_TIME: u8 = 0x18;
/// SEQUENCE, constructed.
pub const SEQUENCE: u8 = 0x30;
/// SET, constructed.
pub const SET: u8 = 0x31;

/// Bytes that are not DER of the expected shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not DER of the expected shape")]
pub struct NotDer;

/// One tag, length and value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Element<'a> {
    /// The identifier octet.
    pub tag: u8,
    /// The value.
    pub content: &'a [u8],
    /// Identifier, length and value.
    pub whole: &'a [u8],
}

/// Reads elements one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Over `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next element, whatever its tag.
    ///
    /// # Errors
    /// [`NotDer`] when the bytes end early, or a tag or length is not as DER has it.
    pub fn any(&mut self) -> Result<Element<'a>, NotDer> {
        let (&tag, after) = self.rest.split_first().ok_or(NotDer)?;
        // X.690 8.1.2.4: a tag number of 31 continues in further octets; nothing we read has one.
        if tag & 0x1f == 0x1f {
            return Err(NotDer);
        }
        let (&first, after) = after.split_first().ok_or(NotDer)?;
        let (length, after) = match first {
            0..=0x7f => (usize::from(first), after),
            // X.690 10.1: the fewest octets possible. Four carry 4 GiB, more than any input limit or CRL of ours.
            0x81..=0x84 => {
                let (octets, after) = after.split_at_checked(usize::from(first & 0x7f)).ok_or(NotDer)?;
                let length = octets.iter().fold(0, |sum, &octet| (sum << 8) | usize::from(octet));
                let minimal = octets.first() != Some(&0) && length > 0x7f;
                (if minimal { length } else { return Err(NotDer) }, after)
            }
            0x80 | 0x85..=0xff => return Err(NotDer),
        };
        let (content, rest) = after.split_at_checked(length).ok_or(NotDer)?;
        let (whole, _) = self.rest.split_at_checked(self.rest.len() - rest.len()).ok_or(NotDer)?;
        self.rest = rest;
        Ok(Element { tag, content, whole })
    }

    /// The next element, which must have `tag`.
    ///
    /// # Errors
    /// [`NotDer`].
    pub fn expect(&mut self, tag: u8) -> Result<Element<'a>, NotDer> {
        let element = self.any()?;
        if element.tag == tag { Ok(element) } else { Err(NotDer) }
    }

    /// The next element if it has `tag`.
    ///
    /// # Errors
    /// [`NotDer`] when what follows is no element at all.
    pub fn optional(&mut self, tag: u8) -> Result<Option<Element<'a>>, NotDer> {
        if self.rest.first() == Some(&tag) { self.any().map(Some) } else { Ok(None) }
    }

    /// Whether everything was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// States that everything was read.
    ///
    /// # Errors
    /// [`NotDer`] when bytes are left.
    pub fn end(self) -> Result<(), NotDer> {
        if self.rest.is_empty() { Ok(()) } else { Err(NotDer) }
    }
}

/// The one element with `tag` that `bytes` are, without anything behind it.
///
/// # Errors
/// [`NotDer`].
pub fn only(bytes: &[u8], tag: u8) -> Result<Element<'_>, NotDer> {
    let mut reader = Reader::new(bytes);
    let element = reader.expect(tag)?;
    reader.end()?;
    Ok(element)
}

/// The value of a BIT STRING whose bits fill whole octets.
///
/// # Errors
/// [`NotDer`] when there are unused bits.
pub fn whole_bits(content: &[u8]) -> Result<&[u8], NotDer> {
    match content.split_first() {
        Some((0, bits)) => Ok(bits),
        Some(_) | None => Err(NotDer),
    }
}

/// Appends identifier and length octets.
pub fn write_header(out: &mut Vec<u8>, tag: u8, length: usize) {
    out.push(tag);
    match u8::try_from(length) {
        Ok(short @ 0..=0x7f) => out.push(short),
        Ok(long) => out.extend([0x81, long]),
        Err(_) => {
            let octets = length.to_be_bytes();
            let zeros = octets.iter().take_while(|&&octet| octet == 0).count();
            out.push(0x80 | u8::try_from(octets.len() - zeros).expect("a usize has at most eight octets"));
            out.extend(octets.iter().skip(zeros));
        }
    }
}

/// Appends one element.
pub fn write(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    write_header(out, tag, content.len());
    out.extend_from_slice(content);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_are_minimal_and_definite() {
        for bad in [
            &[0x30, 0x80, 0, 0][..],
            &[0x30, 0x81, 0x01, 0][..],
            &[0x30, 0x82, 0x00, 0x80][..],
            &[0x30, 0x02, 0x00][..],
            &[0x3f, 0x01, 0x00][..],
            &[0x30][..],
            &[][..],
        ] {
            assert_eq!(Reader::new(bad).any(), Err(NotDer), "{bad:02x?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(tag in prop_oneof![Just(SEQUENCE), Just(INTEGER)], length in 0_usize..70_000) {
            let content = vec![7; length];
            let mut out = Vec::new();
            write(&mut out, tag, &content);
            prop_assert_eq!(only(&out, tag).unwrap().content, &content[..]);
            prop_assert_eq!(only(&out, tag).unwrap().whole, &out[..]);
        }

        #[test]
        fn reading_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = Reader::new(&bytes);
            while reader.any().is_ok() {}
        }
    }
}
