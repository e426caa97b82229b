//! What one batch changes again and again, kept in memory until the batch ends.
//!
//! A certificate is authorised by one record and signed by the next, and all certificates of a minute count in the same
//! few rows: written once for each batch and not once for each record, that is a third of the work. A batch that fails
//! takes this with it, as it does its transaction.

use std::collections::{BTreeMap, HashMap};

use crate::store::{Activity, CertificateRow};

/// The changes of one batch that are not in the tables yet.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// Rows as they are to be, by serial.
    pub(super) certificates: BTreeMap<String, CertificateRow>,
    /// Serials by the index of the record that authorised them, for each log.
    by_record: HashMap<String, HashMap<u64, String>>,
    /// Certificates and revocations that are added, by end and issuer.
    pub(super) ends: BTreeMap<(i64, String), (u64, u64)>,
    /// What is added, by minute and name.
    pub(super) activity: BTreeMap<(i64, &'static str), u64>,
    /// The next certificate's number, once it was read.
    pub(super) sequence: Option<u64>,
}

impl Gathered {
    /// A certificate that was authorised.
    pub(super) fn certificate(&mut self, row: CertificateRow) {
        self.by_record.entry(row.log.clone()).or_default().insert(row.index, row.serial.clone());
        self.ends(&row, (1, 0));
        self.certificates.insert(row.serial.clone(), row);
    }

    /// The serial that the record authorised, when it is of this batch.
    pub(super) fn serial(&self, log: &str, index: u64) -> Option<&str> {
        self.by_record.get(log)?.get(&index).map(String::as_str)
    }

    /// So many certificates and revocations more, where `row` ends.
    pub(super) fn ends(&mut self, row: &CertificateRow, (all, revoked): (u64, u64)) {
        let sum = self.ends.entry((row.expires, row.issuer_key_id.clone())).or_default();
        *sum = (sum.0 + all, sum.1 + revoked);
    }

    /// So many acts more in `minute`.
    pub(super) fn count(&mut self, what: Activity, minute: i64, count: u64) {
        *self.activity.entry((minute, what.as_str())).or_default() += count;
    }
}
