//! PEM (RFC 7468): written in its strict form, read a little more kindly.
//!
//! Writing gives 64 columns, `\n`, nothing around: the same bytes for the same input, ever. Istio's agent compares
//! bundles byte by byte. Reading allows text around the blocks and `\r\n`, as `openssl` and editors write them, and is
//! bounded by its caller. Nothing here knows what is inside a block.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::{Zeroize, Zeroizing};

/// The label of a certificate.
pub const CERTIFICATE: &str = "CERTIFICATE";
/// The label of a private key in PKCS#8.
pub const PRIVATE_KEY: &str = "PRIVATE KEY";
/// The label of a CSR.
pub const CERTIFICATE_REQUEST: &str = "CERTIFICATE REQUEST";
/// A certificate revocation list; RFC 7468 section 6.
pub const CRL: &str = "X509 CRL";

/// Octets in one full line of 64 characters.
const LINE: usize = 48;

/// One block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// What stands behind `BEGIN`.
    pub label: String,
    /// The decoded content.
    pub der: Vec<u8>,
}

/// Why a text is not PEM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// Not text at all.
    #[error("not PEM: there are bytes that are no text; if this is DER, it is damaged")]
    NotText,
    /// `BEGIN` without its `END`.
    #[error("line {line}: -----BEGIN {label}----- has no matching -----END {label}-----: copy the whole block")]
    Unclosed {
        /// Line of the `BEGIN`.
        line: usize,
        /// Its label.
        label: String,
    },
    /// Something else than base64 inside.
    #[error("line {line}: the block that begins here is not base64: copy it again, whole and unchanged")]
    Base64 {
        /// Line of the `BEGIN`.
        line: usize,
    },
}

/// Appends one block to `out`.
///
/// `out` grows at most once, by what [`encoded_length`] says, so that a secret leaves no copy when room was reserved.
pub fn encode(out: &mut Vec<u8>, label: &str, der: &[u8]) {
    out.reserve(encoded_length(label, der.len()));
    out.extend_from_slice(b"-----BEGIN ");
    out.extend_from_slice(label.as_bytes());
    out.extend_from_slice(b"-----\n");
    for chunk in der.chunks(LINE) {
        let mut line = [0; 64];
        let written = STANDARD.encode_slice(chunk, &mut line).expect("48 octets make at most 64 characters");
        out.extend(line.iter().take(written));
        out.push(b'\n');
        line.zeroize();
    }
    out.extend_from_slice(b"-----END ");
    out.extend_from_slice(label.as_bytes());
    out.extend_from_slice(b"-----\n");
}

/// How many bytes [`encode`] appends.
#[must_use]
pub fn encoded_length(label: &str, der_length: usize) -> usize {
    "-----BEGIN -----\n-----END -----\n".len()
        + 2 * label.len()
        + der_length.div_ceil(3) * 4
        + der_length.div_ceil(LINE)
}

/// Certificates one after the other.
pub fn certificates<'a>(ders: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    ders.into_iter().for_each(|der| encode(&mut out, CERTIFICATE, der));
    out
}

/// Whether these bytes look like PEM rather than DER, which begins with a SEQUENCE.
#[must_use]
pub fn looks_like_pem(bytes: &[u8]) -> bool {
    bytes.windows(b"-----BEGIN ".len()).any(|window| window == b"-----BEGIN ")
}

/// All blocks, in order.
///
/// # Errors
/// Every variant of [`PemError`].
pub fn decode(bytes: &[u8]) -> Result<Vec<Block>, PemError> {
    let text = std::str::from_utf8(bytes).map_err(|_| PemError::NotText)?;
    let mut blocks = Vec::new();
    // Reserved whole and cleared at the end, because a private key may pass through it.
    let mut body = Zeroizing::new(String::with_capacity(text.len()));
    let mut lines = text.lines().map(str::trim).enumerate();
    while let Some((at, line)) = lines.next() {
        let Some(label) = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) else {
            continue;
        };
        let end = format!("-----END {label}-----");
        body.clear();
        let closed = lines.by_ref().map(|(_, line)| line).any(|line| {
            let closes = line == end;
            if !closes {
                body.push_str(line);
            }
            closes
        });
        if !closed {
            return Err(PemError::Unclosed { line: at + 1, label: label.chars().take(64).collect() });
        }
        let der = STANDARD.decode(body.as_bytes()).map_err(|_| PemError::Base64 { line: at + 1 })?;
        blocks.push(Block { label: label.to_owned(), der });
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mistakes_name_their_line() {
        let said = |text: &str| decode(text.as_bytes()).unwrap_err().to_string();
        assert!(said("x\n-----BEGIN A-----\nAAAA\n").starts_with("line 2: -----BEGIN A-----"));
        assert!(said("-----BEGIN A-----\n????\n-----END A-----").starts_with("line 1"));
        assert_eq!(decode(&[0xff, 0xfe]), Err(PemError::NotText));
        assert_eq!(decode(b"nothing here"), Ok(vec![]));
    }

    #[test]
    fn text_around_and_windows_lines_are_allowed() {
        let text = b"Subject: x\r\n-----BEGIN A-----\r\nAAAA\r\n-----END A-----\r\nbye";
        assert_eq!(decode(text).unwrap(), [Block { label: "A".into(), der: vec![0, 0, 0] }]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(ders in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..4)) {
            let text = certificates(ders.iter().map(Vec::as_slice));
            let length: usize = ders.iter().map(|der| encoded_length(CERTIFICATE, der.len())).sum();
            prop_assert_eq!(text.len(), length);
            let read: Vec<_> = decode(&text).unwrap().into_iter().map(|block| block.der).collect();
            prop_assert_eq!(read, ders);
        }
    }
}
