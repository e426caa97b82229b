//! One batch of records on its way into the tables.

use std::collections::BTreeMap;
use std::mem::take;

use redb::{ReadableTable, ReadableTableMetadata, Table, WriteTransaction};

use super::gathered::Gathered;
use super::{
    ACTIVITY, APPROVALS, AUTHORITIES, BREAKGLASS, BY_EXPIRY, BY_IDENTITY, BY_ISSUER, BY_RECORD, BY_VERSION,
    CERTIFICATES, CONFIGURED, CRLS, CURSOR, DENIES, EXPIRING, EXPIRING_SECONDS, ExpiryKey, META, NamedKey, REVOKED, db,
};
use crate::store::row::{self, Effect, MOST_ACTS_KEPT, Marks};
use crate::store::{
    ACTIVITY_KEPT_MINUTES, APPROVALS_KEPT, ApprovalAnswer, ApprovalRow, AuthorityRow, BREAKGLASS_KEPT, BreakglassRow,
    CertificateRow, CrlRow, DenyRow, Entry, LogCursor, Revoked, RevokedRow, StoreError,
};

/// How many certificates end then, and how many of them are revoked.
type Expiring<'t> = Table<'t, (i64, &'static str), (u64, u64)>;

/// The tables of one batch.
pub(super) struct Writer<'t> {
    meta: Table<'t, &'static str, u64>,
    cursor: Table<'t, &'static str, &'static [u8]>,
    certificates: Table<'t, &'static str, &'static [u8]>,
    by_expiry: Table<'t, ExpiryKey, &'static str>,
    by_identity: Table<'t, NamedKey, &'static str>,
    by_issuer: Table<'t, NamedKey, &'static str>,
    by_version: Table<'t, &'static str, &'static str>,
    by_record: Table<'t, (&'static str, u64), &'static str>,
    authorities: Table<'t, &'static str, &'static [u8]>,
    expiring: Expiring<'t>,
    expiring_seconds: Expiring<'t>,
    revoked: Table<'t, (i64, &'static str), &'static [u8]>,
    denies: Table<'t, &'static str, &'static [u8]>,
    crls: Table<'t, &'static str, &'static [u8]>,
    activity: Table<'t, (i64, &'static str), u64>,
    configured: Table<'t, &'static str, &'static str>,
    approvals: Table<'t, &'static str, &'static [u8]>,
    breakglass: Table<'t, &'static str, &'static [u8]>,
    gathered: Gathered,
}

impl<'t> Writer<'t> {
    pub(super) fn new(write: &'t WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            meta: write.open_table(META).map_err(db)?,
            cursor: write.open_table(CURSOR).map_err(db)?,
            certificates: write.open_table(CERTIFICATES).map_err(db)?,
            by_expiry: write.open_table(BY_EXPIRY).map_err(db)?,
            by_identity: write.open_table(BY_IDENTITY).map_err(db)?,
            by_issuer: write.open_table(BY_ISSUER).map_err(db)?,
            by_version: write.open_table(BY_VERSION).map_err(db)?,
            by_record: write.open_table(BY_RECORD).map_err(db)?,
            authorities: write.open_table(AUTHORITIES).map_err(db)?,
            expiring: write.open_table(EXPIRING).map_err(db)?,
            expiring_seconds: write.open_table(EXPIRING_SECONDS).map_err(db)?,
            revoked: write.open_table(REVOKED).map_err(db)?,
            denies: write.open_table(DENIES).map_err(db)?,
            crls: write.open_table(CRLS).map_err(db)?,
            activity: write.open_table(ACTIVITY).map_err(db)?,
            configured: write.open_table(CONFIGURED).map_err(db)?,
            approvals: write.open_table(APPROVALS).map_err(db)?,
            breakglass: write.open_table(BREAKGLASS).map_err(db)?,
            gathered: Gathered::default(),
        })
    }

    pub(super) fn take(mut self, batch: &[Entry<'_>]) -> Result<(), StoreError> {
        let mut touched: BTreeMap<&str, LogCursor> = BTreeMap::new();
        for entry in batch {
            let next = match touched.get(entry.log) {
                Some(cursor) => cursor.next,
                None => self.next(entry.log)?,
            };
            if entry.index < next {
                continue;
            }
            if entry.index > next {
                return Err(StoreError::Gap { log: entry.log.to_owned(), expected: next, found: entry.index });
            }
            self.one(entry)?;
            touched.insert(entry.log, LogCursor { next: entry.index + 1, last_salt: entry.event.salt.clone() });
        }
        self.write_gathered()?;
        for (log, cursor) in touched {
            self.cursor.insert(log, serde_json::to_vec(&cursor)?.as_slice()).map_err(db)?;
        }
        Ok(())
    }

    fn next(&self, log: &str) -> Result<u64, StoreError> {
        let at = self.cursor.get(log).map_err(db)?;
        at.map_or(Ok(0), |at| Ok(serde_json::from_slice::<LogCursor>(at.value())?.next))
    }

    fn one(&mut self, entry: &Entry<'_>) -> Result<(), StoreError> {
        if let Some((what, minute, count)) = row::activity(entry.event) {
            self.gathered.count(what, minute, count);
        }
        if let Some(marks) = row::marks(entry) {
            self.mark(&marks)?;
        }
        match row::effect(entry) {
            None => Ok(()),
            Some(Effect::Certificate(row)) => self.certificate(*row),
            Some(Effect::Authority(row)) => self.authority(*row),
            Some(Effect::Configured { what, after }) => {
                self.configured.insert(what.as_str(), after.as_str()).map_err(db)?;
                Ok(())
            }
            Some(Effect::Signed { log, index, der_sha256 }) => {
                self.amend(&log, index, |row| row.der_sha256 = der_sha256)
            }
            Some(Effect::SignatureFailed { log, index }) => self.amend(&log, index, |row| row.failed = true),
            Some(Effect::Revoked { serial, revoked }) => self.revoke(&serial, &revoked),
            Some(Effect::AuthorityRevoked(row)) => self.revoke_authority(&row),
            Some(Effect::Denied(row)) => self.deny(&row),
            Some(Effect::Released { pattern }) => {
                self.denies.remove(pattern.as_str()).map_err(db)?;
                Ok(())
            }
            Some(Effect::Crl { issuer_key_id, row }) => self.crl(&issuer_key_id, &row),
            Some(Effect::ApprovalAsked(row)) => self.asked(&row),
            Some(Effect::ApprovalAnswered { id, answer }) => self.answered(&id, *answer),
            Some(Effect::BreakglassOpened(row)) => self.opened(&row),
            Some(Effect::BreakglassClosed { id, record }) => {
                amend::<BreakglassRow>(&mut self.breakglass, &id, |row| row.closed = Some(record))
            }
        }
    }

    fn certificate(&mut self, row: CertificateRow) -> Result<(), StoreError> {
        let sequence = match self.gathered.sequence {
            Some(next) => next,
            None => self.meta.get("sequence").map_err(db)?.map_or(0, |value| value.value()),
        };
        self.gathered.sequence = Some(sequence + 1);
        let serial = row.serial.as_str();
        self.by_expiry.insert((row.expires, sequence), serial).map_err(db)?;
        let identity = (row.identity.as_str(), row.expires.saturating_neg(), sequence);
        self.by_identity.insert(identity, serial).map_err(db)?;
        self.by_version.insert(row.version.as_str(), serial).map_err(db)?;
        self.by_record.insert((row.log.as_str(), row.index), serial).map_err(db)?;
        let issuer = row.issuer_key_id.as_str();
        self.by_issuer.insert((issuer, row.expires.saturating_neg(), sequence), serial).map_err(db)?;
        self.gathered.certificate(row);
        Ok(())
    }

    /// The row of a certificate as this batch has left it.
    fn row(&self, serial: &str) -> Result<Option<CertificateRow>, StoreError> {
        if let Some(row) = self.gathered.certificates.get(serial) {
            return Ok(Some(row.clone()));
        }
        let bytes = self.certificates.get(serial).map_err(db)?;
        bytes.map(|bytes| Ok(serde_json::from_slice(bytes.value())?)).transpose()
    }

    /// Writes what the batch gathered.
    fn write_gathered(&mut self) -> Result<(), StoreError> {
        let Gathered { certificates, ends, activity, sequence, .. } = take(&mut self.gathered);
        if let Some(sequence) = sequence {
            self.meta.insert("sequence", sequence).map_err(db)?;
        }
        for (serial, row) in &certificates {
            self.certificates.insert(serial.as_str(), serde_json::to_vec(row)?.as_slice()).map_err(db)?;
        }
        for ((expires, issuer), (all, revoked)) in &ends {
            let minutes = (&mut self.expiring, expires.div_euclid(60));
            for (table, at) in [minutes, (&mut self.expiring_seconds, *expires)] {
                let key = (at, issuer.as_str());
                let before = table.get(key).map_err(db)?.map_or((0, 0), |value| value.value());
                table.insert(key, (before.0 + all, before.1 + revoked)).map_err(db)?;
            }
        }
        activity.into_iter().try_for_each(|(key, count)| self.count(key, count))
    }

    /// The first revocation of a certificate counts; one of a certificate that the ledger does not name changes nothing.
    fn revoke(&mut self, serial: &str, revoked: &Revoked) -> Result<(), StoreError> {
        let Some(mut row) = self.row(serial)? else { return Ok(()) };
        if row.revoked.is_some() {
            return Ok(());
        }
        row.revoked = Some(Revoked { with_identity: self.is_denied(&row.identity)?, ..revoked.clone() });
        let entry = RevokedRow {
            serial: row.serial.clone(),
            issuer_key_id: row.issuer_key_id.clone(),
            expires: row.expires,
            revoked_at: revoked.at.clone(),
            reason: revoked.reason.clone(),
            record: revoked.record.clone(),
        };
        self.revoked.insert((row.expires, serial), serde_json::to_vec(&entry)?.as_slice()).map_err(db)?;
        self.gathered.ends(&row, (0, 1));
        self.gathered.certificates.insert(row.serial.clone(), row);
        Ok(())
    }

    /// The first revocation counts here too. An authority is in no list of certificates.
    fn revoke_authority(&mut self, row: &RevokedRow) -> Result<(), StoreError> {
        let key = (row.expires, row.serial.as_str());
        if self.revoked.get(key).map_err(db)?.is_none() {
            self.revoked.insert(key, serde_json::to_vec(row)?.as_slice()).map_err(db)?;
        }
        Ok(())
    }

    fn is_denied(&self, identity: &str) -> Result<bool, StoreError> {
        for item in self.denies.iter().map_err(db)? {
            let (pattern, _) = item.map_err(db)?;
            let pattern = pattern.value();
            if pattern == identity || pattern.strip_suffix('*').is_some_and(|prefix| identity.starts_with(prefix)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The first deny of a pattern stands until its release: a snapshot or a repetition does not make it younger.
    fn deny(&mut self, row: &DenyRow) -> Result<(), StoreError> {
        let pattern = row.pattern.as_str();
        if self.denies.get(pattern).map_err(db)?.is_none() {
            self.denies.insert(pattern, serde_json::to_vec(row)?.as_slice()).map_err(db)?;
        }
        Ok(())
    }

    /// The highest number is the newest.
    fn crl(&mut self, issuer_key_id: &str, row: &CrlRow) -> Result<(), StoreError> {
        let before = self.crls.get(issuer_key_id).map_err(db)?.map(|bytes| bytes.value().to_vec());
        let before = before.map(|bytes| serde_json::from_slice::<CrlRow>(&bytes)).transpose()?;
        if before.is_none_or(|before| before.number <= row.number) {
            self.crls.insert(issuer_key_id, serde_json::to_vec(row)?.as_slice()).map_err(db)?;
        }
        Ok(())
    }

    fn amend(&mut self, log: &str, index: u64, change: impl FnOnce(&mut CertificateRow)) -> Result<(), StoreError> {
        let serial = match self.gathered.serial(log, index) {
            Some(serial) => Some(serial.to_owned()),
            None => self.by_record.get((log, index)).map_err(db)?.map(|serial| serial.value().to_owned()),
        };
        let Some(serial) = serial else { return Ok(()) };
        let Some(mut row) = self.row(&serial)? else { return Ok(()) };
        change(&mut row);
        self.gathered.certificates.insert(serial, row);
        Ok(())
    }

    /// The newest record decides the state; certificate and facts stay from the record that had them.
    fn authority(&mut self, mut row: AuthorityRow) -> Result<(), StoreError> {
        let before = self.authorities.get(row.key_id.as_str()).map_err(db)?.map(|bytes| bytes.value().to_vec());
        match before {
            Some(bytes) => {
                let old: AuthorityRow = serde_json::from_slice(&bytes)?;
                row.number = old.number;
                row.certificate = row.certificate.or(old.certificate);
                row.facts = row.facts.or(old.facts);
                row.upstream = row.upstream.or(old.upstream);
                // To be published is no state of its own.
                if row.published.is_some() {
                    row.since = old.since;
                }
                row.published = row.published.or(old.published);
            }
            None => row.number = self.authorities.len().map_err(db)?,
        }
        self.authorities.insert(row.key_id.as_str(), serde_json::to_vec(&row)?.as_slice()).map_err(db)?;
        Ok(())
    }

    fn asked(&mut self, row: &ApprovalRow) -> Result<(), StoreError> {
        self.approvals.insert(row.id.as_str(), serde_json::to_vec(row)?.as_slice()).map_err(db)?;
        make_room::<ApprovalRow>(&mut self.approvals, APPROVALS_KEPT, |row| row.asked_at)
    }

    /// The first answer counts.
    fn answered(&mut self, id: &str, answer: ApprovalAnswer) -> Result<(), StoreError> {
        amend::<ApprovalRow>(&mut self.approvals, id, |row| {
            row.answer.get_or_insert(answer);
        })
    }

    fn opened(&mut self, row: &BreakglassRow) -> Result<(), StoreError> {
        self.breakglass.insert(row.id.as_str(), serde_json::to_vec(row)?.as_slice()).map_err(db)?;
        make_room::<BreakglassRow>(&mut self.breakglass, BREAKGLASS_KEPT, |row| row.opened_at)
    }

    fn mark(&mut self, marks: &Marks) -> Result<(), StoreError> {
        if let Some(id) = &marks.approval {
            amend::<ApprovalRow>(&mut self.approvals, id, |row| {
                row.used.get_or_insert_with(|| marks.record.clone());
            })?;
        }
        let Some(id) = &marks.breakglass else { return Ok(()) };
        amend::<BreakglassRow>(&mut self.breakglass, id, |row| {
            row.count += 1;
            if row.acts.len() < MOST_ACTS_KEPT {
                row.acts.push(format!("{} {}", marks.record, marks.what));
            }
        })
    }

    fn count(&mut self, key: (i64, &str), count: u64) -> Result<(), StoreError> {
        let minute = key.0;
        let before = self.activity.get(key).map_err(db)?.map_or(0, |value| value.value());
        self.activity.insert(key, before + count).map_err(db)?;
        if before == 0 {
            let oldest = minute.saturating_sub(ACTIVITY_KEPT_MINUTES);
            self.activity.retain_in::<(i64, &str), _>(..(oldest, ""), |_, _| false).map_err(db)?;
        }
        Ok(())
    }
}

/// Changes the row of that key, where there is one.
fn amend<R: serde::Serialize + serde::de::DeserializeOwned>(
    table: &mut Table<'_, &'static str, &'static [u8]>,
    key: &str,
    change: impl FnOnce(&mut R),
) -> Result<(), StoreError> {
    let Some(bytes) = table.get(key).map_err(db)?.map(|bytes| bytes.value().to_vec()) else { return Ok(()) };
    let mut row: R = serde_json::from_slice(&bytes)?;
    change(&mut row);
    table.insert(key, serde_json::to_vec(&row)?.as_slice()).map_err(db)?;
    Ok(())
}

/// Forgets the oldest row beyond `kept`.
fn make_room<R: serde::de::DeserializeOwned>(
    table: &mut Table<'_, &'static str, &'static [u8]>,
    kept: usize,
    age: impl Fn(R) -> String,
) -> Result<(), StoreError> {
    if table.len().map_err(db)? <= u64::try_from(kept).unwrap_or(u64::MAX) {
        return Ok(());
    }
    let mut oldest: Option<(String, String)> = None;
    for item in table.iter().map_err(db)? {
        let (key, bytes) = item.map_err(db)?;
        let candidate = (age(serde_json::from_slice(bytes.value())?), key.value().to_owned());
        oldest = Some(oldest.map_or(candidate.clone(), |oldest| oldest.min(candidate)));
    }
    if let Some((_, key)) = oldest {
        table.remove(key.as_str()).map_err(db)?;
    }
    Ok(())
}
