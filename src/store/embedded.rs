//! The projection in one file: redb at `DATA/index.redb`.
//!
//! Batches are committed without waiting for the disk ([`redb::Durability::None`]): the ledger holds every record
//! already, and a `fsync` here would compete with the one that certificates wait for. [`Store::sync`] is the only durable
//! commit; after a crash the file is as it was at the last one, cursor included, and the rest is replayed. A file that
//! is damaged, of another schema or of another redb is replaced by an empty one: that costs a replay and nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use redb::backends::InMemoryBackend;
use redb::{
    Database, DatabaseError, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table,
    TableDefinition, WriteTransaction,
};

use super::row::{self, Effect};
use super::{
    ACTIVITY_KEPT_MINUTES, Activity, AuthorityRow, CertificateQuery, CertificateRow, Cursor, Entry, Found,
    LARGEST_AMBIGUITY, LARGEST_PAGE, LiveCount, LogCursor, Page, Store, StoreError,
};

/// Changed whenever a table or a row changes its form; a file of another number is rebuilt.
const SCHEMA: u64 = 1;

/// Page cache in bytes: enough for the indexes' inner nodes at a million certificates.
const CACHE_BYTES: usize = 16 << 20;

/// How many serials with the same beginning are looked at for one ending: four digits of a million leave 15.
const LARGEST_WALK: usize = 10_000;

/// An expiry and a sequence number: sorts by expiry, unique by sequence.
type ExpiryKey = (i64, u64);

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const CURSOR: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("cursor");
const CERTIFICATES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("certificates");
const BY_EXPIRY: TableDefinition<'_, ExpiryKey, &str> = TableDefinition::new("by_expiry");
/// Expiry negated, so that the ascending order of one identity is latest first.
const BY_IDENTITY: TableDefinition<'_, (&str, i64, u64), &str> = TableDefinition::new("by_identity");
const BY_VERSION: TableDefinition<'_, &str, &str> = TableDefinition::new("by_version");
const BY_RECORD: TableDefinition<'_, (&str, u64), &str> = TableDefinition::new("by_record");
const AUTHORITIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("authorities");
/// Issuer and minute of expiry: how many, so that counting the living needs no walk over them.
const EXPIRING: TableDefinition<'_, (&str, i64), u64> = TableDefinition::new("expiring");
/// What was configured last, by what it is: the hash after the last `config.change`.
const CONFIGURED: TableDefinition<'_, &str, &str> = TableDefinition::new("configured");
const ACTIVITY: TableDefinition<'_, (i64, &str), u64> = TableDefinition::new("activity");

/// How a store was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// There was none.
    Fresh,
    /// It was there and whole.
    Kept,
    /// It was there and could not be used, for this reason; an empty one took its place.
    Replaced(String),
}

/// The adapter.
#[derive(Debug)]
pub struct Embedded {
    database: Database,
}

impl Embedded {
    /// Opens or makes the file, 0600.
    ///
    /// # Errors
    /// [`StoreError::InUse`], or [`StoreError::Database`] when the disk refuses.
    pub fn open(path: &Path) -> Result<(Self, Opened), StoreError> {
        let found = path.exists();
        let first = match Self::try_open(path) {
            Ok(store) => return Ok((store, if found { Opened::Kept } else { Opened::Fresh })),
            Err(StoreError::InUse { path }) => return Err(StoreError::InUse { path }),
            Err(error) => error,
        };
        if !found {
            return Err(first);
        }
        fs::remove_file(path).map_err(disk)?;
        Ok((Self::try_open(path)?, Opened::Replaced(first.to_string())))
    }

    /// One that lives in memory, for tests.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn in_memory() -> Result<Self, StoreError> {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).map_err(db)?;
        Self::prepare(database)
    }

    fn try_open(path: &Path) -> Result<Self, StoreError> {
        // Identities and accounts are nobody else's business: 0600 from the first byte.
        drop(
            fs::OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .mode(0o600)
                .open(path)
                .map_err(disk)?,
        );
        match Database::builder().set_cache_size(CACHE_BYTES).create(path) {
            Ok(database) => Self::prepare(database),
            Err(DatabaseError::DatabaseAlreadyOpen) => Err(StoreError::InUse { path: path.to_owned() }),
            Err(error) => Err(db(error)),
        }
    }

    /// Makes all tables, so that reading never meets a missing one.
    fn prepare(database: Database) -> Result<Self, StoreError> {
        let store = Self { database };
        let write = store.database.begin_write().map_err(db)?;
        {
            let mut meta = write.open_table(META).map_err(db)?;
            let schema = meta.get("schema").map_err(db)?.map(|value| value.value());
            if schema.is_some_and(|found| found != SCHEMA) {
                return Err(disk(io::Error::other("made by another version of chancery")));
            }
            meta.insert("schema", SCHEMA).map_err(db)?;
        }
        open_all(&write)?;
        write.commit().map_err(db)?;
        Ok(store)
    }

    fn read<K: redb::Key + 'static, V: redb::Value + 'static>(
        &self,
        table: TableDefinition<'_, K, V>,
    ) -> Result<ReadOnlyTable<K, V>, StoreError> {
        self.database.begin_read().map_err(db)?.open_table(table).map_err(db)
    }

    fn row(&self, serial: &str) -> Result<Option<CertificateRow>, StoreError> {
        let table = self.read(CERTIFICATES)?;
        let found = table.get(serial).map_err(db)?;
        found.map(|bytes| Ok(serde_json::from_slice(bytes.value())?)).transpose()
    }

    fn rows(&self, serials: Vec<String>) -> Result<Vec<CertificateRow>, StoreError> {
        serials.iter().filter_map(|serial| self.row(serial).transpose()).collect()
    }

    fn page_by_expiry(&self, query: &CertificateQuery, limit: usize) -> Result<Page, StoreError> {
        let low: ExpiryKey = (query.expires_from.unwrap_or(i64::MIN), 0);
        let mut high: ExpiryKey = (query.expires_before.unwrap_or(i64::MAX), 0);
        if let Some(token) = &query.after {
            let mut parts = token.split('.');
            high = high.min((part(parts.next())?, part(parts.next())?));
        }
        let table = self.read(BY_EXPIRY)?;
        let (mut serials, mut next) = (Vec::new(), None);
        if low < high {
            for item in table.range(low..high).map_err(db)?.rev() {
                if serials.len() == limit {
                    next = Some(format!("{}.{}", high.0, high.1));
                    break;
                }
                let (key, serial) = item.map_err(db)?;
                high = key.value();
                serials.push(serial.value().to_owned());
            }
        }
        Ok(Page { certificates: self.rows(serials)?, next })
    }

    fn page_by_identity(&self, query: &CertificateQuery, limit: usize) -> Result<Page, StoreError> {
        let prefix = query.identity_prefix.as_str();
        let mut start = (prefix.to_owned(), i64::MIN, 0_u64);
        if let Some(token) = &query.after {
            let mut parts = token.splitn(3, '.');
            let (expiry, sequence): (i64, u64) = (part(parts.next())?, part(parts.next())?);
            start = (parts.next().ok_or(StoreError::PageToken)?.to_owned(), expiry, sequence + 1);
        }
        let table = self.read(BY_IDENTITY)?;
        let (mut serials, mut last, mut next) = (Vec::new(), None, None);
        for item in table.range((start.0.as_str(), start.1, start.2)..).map_err(db)? {
            let (key, serial) = item.map_err(db)?;
            let (identity, negated, sequence) = key.value();
            if !identity.starts_with(prefix) {
                break;
            }
            let expires = negated.saturating_neg();
            if query.expires_from.is_some_and(|from| expires < from)
                || query.expires_before.is_some_and(|before| expires >= before)
            {
                continue;
            }
            if serials.len() == limit {
                next = last;
                break;
            }
            serials.push(serial.value().to_owned());
            last = Some(format!("{negated}.{sequence}.{identity}"));
        }
        Ok(Page { certificates: self.rows(serials)?, next })
    }
}

impl Store for Embedded {
    fn cursor(&self) -> Result<Cursor, StoreError> {
        let table = self.read(CURSOR)?;
        let mut cursor = Cursor::new();
        for item in table.iter().map_err(db)? {
            let (log, at) = item.map_err(db)?;
            cursor.insert(log.value().to_owned(), serde_json::from_slice(at.value())?);
        }
        Ok(cursor)
    }

    fn apply(&self, batch: &[Entry<'_>]) -> Result<(), StoreError> {
        let mut write = self.database.begin_write().map_err(db)?;
        write.set_durability(Durability::None).map_err(|error| db(redb::Error::from(error)))?;
        Writer::new(&write)?.take(batch)?;
        write.commit().map_err(db)
    }

    fn sync(&self) -> Result<(), StoreError> {
        let mut write = self.database.begin_write().map_err(db)?;
        // Saves what redb would otherwise find out by walking the whole file after a crash.
        write.set_quick_repair(true);
        write.commit().map_err(db)
    }

    fn reset(&self) -> Result<(), StoreError> {
        let write = self.database.begin_write().map_err(db)?;
        write.delete_table(CURSOR).map_err(db)?;
        write.delete_table(CERTIFICATES).map_err(db)?;
        write.delete_table(BY_EXPIRY).map_err(db)?;
        write.delete_table(BY_IDENTITY).map_err(db)?;
        write.delete_table(BY_VERSION).map_err(db)?;
        write.delete_table(BY_RECORD).map_err(db)?;
        write.delete_table(AUTHORITIES).map_err(db)?;
        write.delete_table(EXPIRING).map_err(db)?;
        write.delete_table(ACTIVITY).map_err(db)?;
        write.delete_table(CONFIGURED).map_err(db)?;
        open_all(&write)?;
        write.commit().map_err(db)
    }

    fn find(&self, serial: &str) -> Result<Found, StoreError> {
        let wanted = serial.to_ascii_lowercase();
        let (prefix, suffix) = wanted.split_once('…').unwrap_or((&wanted, ""));
        if let Some(row) = self.row(prefix)? {
            return Ok(Found::One(Box::new(row)));
        }
        let table = self.read(CERTIFICATES)?;
        let mut serials = Vec::new();
        for item in table.range(prefix..).map_err(db)?.take(LARGEST_WALK) {
            let (found, _) = item.map_err(db)?;
            if !found.value().starts_with(prefix) || serials.len() == LARGEST_AMBIGUITY {
                break;
            }
            if found.value().ends_with(suffix) {
                serials.push(found.value().to_owned());
            }
        }
        match serials.as_slice() {
            [] => Ok(Found::Nothing),
            [one] => Ok(self.row(one)?.map_or(Found::Nothing, |row| Found::One(Box::new(row)))),
            [..] => Ok(Found::Several(serials)),
        }
    }

    fn certificates(&self, query: &CertificateQuery) -> Result<Page, StoreError> {
        let limit = query.limit.clamp(1, LARGEST_PAGE);
        if query.identity_prefix.is_empty() {
            self.page_by_expiry(query, limit)
        } else {
            self.page_by_identity(query, limit)
        }
    }

    fn by_version(&self, version: &str) -> Result<Option<CertificateRow>, StoreError> {
        let table = self.read(BY_VERSION)?;
        let serial = table.get(version).map_err(db)?.map(|serial| serial.value().to_owned());
        serial.map_or(Ok(None), |serial| self.row(&serial))
    }

    fn authorities(&self) -> Result<Vec<AuthorityRow>, StoreError> {
        let table = self.read(AUTHORITIES)?;
        let mut rows = Vec::new();
        for item in table.iter().map_err(db)? {
            rows.push(serde_json::from_slice::<AuthorityRow>(item.map_err(db)?.1.value())?);
        }
        rows.sort_by_key(|row| row.number);
        Ok(rows)
    }

    fn live(&self, now: i64) -> Result<BTreeMap<String, LiveCount>, StoreError> {
        let table = self.read(EXPIRING)?;
        let mut live: BTreeMap<String, LiveCount> = BTreeMap::new();
        for item in table.iter().map_err(db)? {
            let (key, count) = item.map_err(db)?;
            let (issuer, minute) = key.value();
            if minute > now.div_euclid(60) {
                let entry = live.entry(issuer.to_owned()).or_default();
                entry.live += count.value();
                entry.last_minute = entry.last_minute.max(Some(minute));
            }
        }
        // The buckets know whole minutes; the running one is counted, so that short lives are told right.
        let minute = now.div_euclid(60);
        let by_expiry = self.read(BY_EXPIRY)?;
        for item in by_expiry.range((now + 1, 0)..((minute + 1) * 60, 0)).map_err(db)? {
            let Some(row) = self.row(item.map_err(db)?.1.value())? else { continue };
            let entry = live.entry(row.issuer_key_id).or_default();
            entry.live += 1;
            entry.last_minute = entry.last_minute.max(Some(minute));
        }
        Ok(live)
    }

    fn configured(&self, what: &str) -> Result<Option<String>, StoreError> {
        Ok(self.read(CONFIGURED)?.get(what).map_err(db)?.map(|hash| hash.value().to_owned()))
    }

    fn total(&self) -> Result<u64, StoreError> {
        self.read(CERTIFICATES)?.len().map_err(db)
    }

    fn activity(&self, what: Activity, minutes: Range<i64>) -> Result<u64, StoreError> {
        let table = self.read(ACTIVITY)?;
        let mut sum = 0;
        for item in table.range((minutes.start, "")..(minutes.end, "")).map_err(db)? {
            let (key, count) = item.map_err(db)?;
            if key.value().1 == what.as_str() {
                sum += count.value();
            }
        }
        Ok(sum)
    }
}

/// The tables of one batch.
struct Writer<'t> {
    meta: Table<'t, &'static str, u64>,
    cursor: Table<'t, &'static str, &'static [u8]>,
    certificates: Table<'t, &'static str, &'static [u8]>,
    by_expiry: Table<'t, ExpiryKey, &'static str>,
    by_identity: Table<'t, (&'static str, i64, u64), &'static str>,
    by_version: Table<'t, &'static str, &'static str>,
    by_record: Table<'t, (&'static str, u64), &'static str>,
    authorities: Table<'t, &'static str, &'static [u8]>,
    expiring: Table<'t, (&'static str, i64), u64>,
    activity: Table<'t, (i64, &'static str), u64>,
    configured: Table<'t, &'static str, &'static str>,
}

impl<'t> Writer<'t> {
    fn new(write: &'t WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            meta: write.open_table(META).map_err(db)?,
            cursor: write.open_table(CURSOR).map_err(db)?,
            certificates: write.open_table(CERTIFICATES).map_err(db)?,
            by_expiry: write.open_table(BY_EXPIRY).map_err(db)?,
            by_identity: write.open_table(BY_IDENTITY).map_err(db)?,
            by_version: write.open_table(BY_VERSION).map_err(db)?,
            by_record: write.open_table(BY_RECORD).map_err(db)?,
            authorities: write.open_table(AUTHORITIES).map_err(db)?,
            expiring: write.open_table(EXPIRING).map_err(db)?,
            activity: write.open_table(ACTIVITY).map_err(db)?,
            configured: write.open_table(CONFIGURED).map_err(db)?,
        })
    }

    fn take(mut self, batch: &[Entry<'_>]) -> Result<(), StoreError> {
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
            self.count(what, minute, count)?;
        }
        match row::effect(entry) {
            None => Ok(()),
            Some(Effect::Certificate(row)) => self.certificate(&row),
            Some(Effect::Authority(row)) => self.authority(*row),
            Some(Effect::Configured { what, after }) => {
                self.configured.insert(what.as_str(), after.as_str()).map_err(db)?;
                Ok(())
            }
            Some(Effect::Signed { log, index, der_sha256 }) => {
                self.amend(&log, index, |row| row.der_sha256 = der_sha256)
            }
            Some(Effect::SignatureFailed { log, index }) => self.amend(&log, index, |row| row.failed = true),
        }
    }

    fn certificate(&mut self, row: &CertificateRow) -> Result<(), StoreError> {
        let sequence = self.meta.get("sequence").map_err(db)?.map_or(0, |value| value.value());
        self.meta.insert("sequence", sequence + 1).map_err(db)?;
        let serial = row.serial.as_str();
        self.certificates.insert(serial, serde_json::to_vec(row)?.as_slice()).map_err(db)?;
        self.by_expiry.insert((row.expires, sequence), serial).map_err(db)?;
        let identity = (row.identity.as_str(), row.expires.saturating_neg(), sequence);
        self.by_identity.insert(identity, serial).map_err(db)?;
        self.by_version.insert(row.version.as_str(), serial).map_err(db)?;
        self.by_record.insert((row.log.as_str(), row.index), serial).map_err(db)?;
        let bucket = (row.issuer_key_id.as_str(), row.expires.div_euclid(60));
        let count = self.expiring.get(bucket).map_err(db)?.map_or(0, |value| value.value());
        self.expiring.insert(bucket, count + 1).map_err(db)?;
        Ok(())
    }

    fn amend(&mut self, log: &str, index: u64, change: impl FnOnce(&mut CertificateRow)) -> Result<(), StoreError> {
        let Some(serial) = self.by_record.get((log, index)).map_err(db)?.map(|serial| serial.value().to_owned()) else {
            return Ok(());
        };
        let row = self.certificates.get(serial.as_str()).map_err(db)?.map(|bytes| bytes.value().to_vec());
        let Some(row) = row else { return Ok(()) };
        let mut row: CertificateRow = serde_json::from_slice(&row)?;
        change(&mut row);
        self.certificates.insert(serial.as_str(), serde_json::to_vec(&row)?.as_slice()).map_err(db)?;
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
            }
            None => row.number = self.authorities.len().map_err(db)?,
        }
        self.authorities.insert(row.key_id.as_str(), serde_json::to_vec(&row)?.as_slice()).map_err(db)?;
        Ok(())
    }

    fn count(&mut self, what: Activity, minute: i64, count: u64) -> Result<(), StoreError> {
        let key = (minute, what.as_str());
        let before = self.activity.get(key).map_err(db)?.map_or(0, |value| value.value());
        self.activity.insert(key, before + count).map_err(db)?;
        if before == 0 {
            let oldest = minute.saturating_sub(ACTIVITY_KEPT_MINUTES);
            self.activity.retain_in::<(i64, &str), _>(..(oldest, ""), |_, _| false).map_err(db)?;
        }
        Ok(())
    }
}

fn open_all(write: &WriteTransaction) -> Result<(), StoreError> {
    drop(Writer::new(write)?);
    Ok(())
}

fn part<T: std::str::FromStr>(text: Option<&str>) -> Result<T, StoreError> {
    text.and_then(|text| text.parse().ok()).ok_or(StoreError::PageToken)
}

fn db(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Database { source: Box::new(error.into()) }
}

fn disk(error: io::Error) -> StoreError {
    db(redb::Error::Io(error))
}
