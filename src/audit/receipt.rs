//! Receipts: proofs that a record is in a log, checkable offline (c2sp.org/tlog-proof@v1). Pure; the parser treats its
//! input as hostile.
//!
//! A receipt does not hold the record. Who checks it needs the record's bytes and the log's verifier key from a source
//! that the prover does not control.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::ledger::checkpoint::{
    Checkpoint, CheckpointError, LONGEST_CHECKPOINT, VerifierKey, decode_hash, encode_hash, parse_decimal,
};
use crate::merkle::{Hash, leaf_hash, verify_inclusion};

/// The first line.
const HEADER: &str = "c2sp.org/tlog-proof@v1";
/// The most hashes in a proof: a tree of 2^64 leaves needs no more.
const MOST_HASHES: usize = 64;
/// The longest receipt that is read, in bytes.
pub const LONGEST_RECEIPT: usize = LONGEST_CHECKPOINT + 128 * 1024;

/// A proof of inclusion with the checkpoint that it leads to. Its text form is [`std::fmt::Display`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Opaque and not authenticated; ours have none.
    pub extra: Option<Vec<u8>>,
    /// The record's index.
    pub index: u64,
    /// Sibling hashes, from the leaf up.
    pub proof: Vec<Hash>,
    /// The signed checkpoint, verbatim.
    pub checkpoint: String,
}

/// Why a receipt proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// Not the form of c2sp.org/tlog-proof@v1.
    #[error("not a {HEADER} file: {0}")]
    Form(&'static str),
    /// The checkpoint in it is not to be trusted.
    #[error("the checkpoint in the receipt: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The hashes don't lead from this record to the checkpoint's root.
    #[error("the receipt is not about this record: the proof does not lead to the checkpoint's root")]
    NotIncluded,
}

impl std::fmt::Display for Receipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{HEADER}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", BASE64.encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        for hash in &self.proof {
            writeln!(f, "{}", encode_hash(hash))?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

impl std::str::FromStr for Receipt {
    type Err = ReceiptError;

    fn from_str(text: &str) -> Result<Self, ReceiptError> {
        if text.len() > LONGEST_RECEIPT {
            return Err(ReceiptError::Form("too long"));
        }
        let (proof, checkpoint) = text.split_once("\n\n").ok_or(ReceiptError::Form("no checkpoint"))?;
        let mut lines = proof.split('\n').peekable();
        if lines.next() != Some(HEADER) {
            return Err(ReceiptError::Form("another first line"));
        }
        let extra = lines.next_if(|line| line.starts_with("extra "));
        let extra = extra.and_then(|line| line.strip_prefix("extra ")).map(|text| BASE64.decode(text)).transpose();
        let extra = extra.map_err(|_| ReceiptError::Form("the extra line is not base64"))?;
        let index = lines.next().and_then(|line| line.strip_prefix("index ")).and_then(parse_decimal);
        let index = index.ok_or(ReceiptError::Form("no index"))?;
        let hashes: Option<Vec<Hash>> = lines.take(MOST_HASHES + 1).map(decode_hash).collect();
        let proof = hashes.filter(|hashes| hashes.len() <= MOST_HASHES).ok_or(ReceiptError::Form("a proof line"))?;
        Ok(Self { extra, index, proof, checkpoint: checkpoint.to_owned() })
    }
}

/// Checks that `record` is in the log of `key` as `receipt` says, and returns the checkpoint that covers it.
///
/// # Errors
/// Every variant of [`ReceiptError`].
pub fn verify_receipt(receipt: &Receipt, record: &[u8], key: &VerifierKey) -> Result<Checkpoint, ReceiptError> {
    let checkpoint = key.verify(&receipt.checkpoint)?;
    let leaf = leaf_hash(record);
    if verify_inclusion(&leaf, receipt.index, checkpoint.size, &receipt.proof, &checkpoint.root) {
        Ok(checkpoint)
    } else {
        Err(ReceiptError::NotIncluded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::ledger::CheckpointKey;
    use crate::merkle::node_hash;

    #[test]
    fn a_receipt_proves_its_record_and_no_other() {
        let key = CheckpointKey::from_pkcs8(&CheckpointKey::generate_pkcs8().unwrap()).unwrap();
        let (left, right) = (leaf_hash(b"left"), leaf_hash(b"right"));
        let origin = "example.org/ledger/ca-2026";
        let checkpoint = Checkpoint { origin: origin.into(), size: 2, root: node_hash(&left, &right) };
        let receipt = Receipt { extra: None, index: 1, proof: vec![left], checkpoint: key.sign(&checkpoint) };
        let text = receipt.to_string();
        assert!(text.starts_with("c2sp.org/tlog-proof@v1\nindex 1\n"), "{text}");
        let read: Receipt = text.parse().unwrap();
        assert_eq!(read, receipt);
        let vkey = key.verifier(origin);
        assert_eq!(verify_receipt(&read, b"right", &vkey).unwrap(), checkpoint);
        assert_eq!(verify_receipt(&read, b"left", &vkey), Err(ReceiptError::NotIncluded));
        let with_extra = Receipt { extra: Some(b"x".to_vec()), ..receipt };
        assert_eq!(with_extra.to_string().parse::<Receipt>().unwrap(), with_extra);
        for cut in 0..text.len() {
            let Some(cut) = text.get(..cut) else { continue };
            let verdict = cut.parse::<Receipt>().and_then(|receipt| verify_receipt(&receipt, b"right", &vkey));
            assert!(verdict.is_err());
        }
    }
}
