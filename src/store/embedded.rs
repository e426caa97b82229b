//! The projection in one file: redb at `DATA/index.redb`.
//!
//! Batches are committed without waiting for the disk ([`redb::Durability::None`]): the ledger holds every record
//! already, and a `fsync` here would compete with the one that certificates wait for. [`Store::sync`] is the only durable
//! commit; after a crash the file is as it was at the last one, cursor included, and the rest is replayed. A file that
//! is damaged, of another schema or of another redb is replaced by an empty one: that costs a replay and nothing else.
//! While the disk is full it goes on in memory (`spill`).

mod gathered;
mod pages;
mod spill;
mod writer;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{
    Database, DatabaseError, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    TableDefinition, WriteTransaction,
};

use super::{
    Activity, ApprovalRow, AuthorityRow, BreakglassRow, CertificateQuery, CertificateRow, CrlRow, Cursor, DenyRow,
    Entry, Found, LARGEST_AMBIGUITY, LiveCount, Page, REVOKED_KEPT_SECONDS, RevokedRow, Store, StoreError,
};
use spill::Spilling;
use writer::Writer;

/// Changed whenever a table or a row changes its form; a file of another number is rebuilt.
const SCHEMA: u64 = 3;

/// Page cache in bytes: enough for the indexes' inner nodes at a million certificates.
const CACHE_BYTES: usize = 16 << 20;

/// How many serials with the same beginning are looked at for one ending: four digits of a million leave 15.
const LARGEST_WALK: usize = 10_000;

/// An expiry and a sequence number: sorts by expiry, unique by sequence.
type ExpiryKey = (i64, u64);

/// A name, an expiry negated (so that the ascending order within one name is latest first) and a sequence number.
type NamedKey = (&'static str, i64, u64);

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const CURSOR: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("cursor");
const CERTIFICATES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("certificates");
const BY_EXPIRY: TableDefinition<'_, ExpiryKey, &str> = TableDefinition::new("by_expiry");
const BY_IDENTITY: TableDefinition<'_, NamedKey, &str> = TableDefinition::new("by_identity");
/// By the issuer's key id.
const BY_ISSUER: TableDefinition<'_, NamedKey, &str> = TableDefinition::new("by_issuer");
const BY_VERSION: TableDefinition<'_, &str, &str> = TableDefinition::new("by_version");
const BY_RECORD: TableDefinition<'_, (&str, u64), &str> = TableDefinition::new("by_record");
const AUTHORITIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("authorities");
/// Minute of expiry and issuer: how many, and how many of them are revoked, so that counting the living walks over no
/// certificate and over nothing that has ended.
const EXPIRING: TableDefinition<'_, (i64, &str), (u64, u64)> = TableDefinition::new("expiring");
/// The same by second, for the minute that runs.
const EXPIRING_SECONDS: TableDefinition<'_, (i64, &str), (u64, u64)> = TableDefinition::new("expiring_seconds");
/// Revoked certificates by expiry and serial.
const REVOKED: TableDefinition<'_, (i64, &str), &[u8]> = TableDefinition::new("revoked");
/// Denied identities by pattern.
const DENIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("denies");
/// The newest CRL of each issuer, by its key id.
const CRLS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("crls");
/// What was configured last, by what it is: the hash after the last `config.change`.
const CONFIGURED: TableDefinition<'_, &str, &str> = TableDefinition::new("configured");
/// Requests for a second operator, by id.
const APPROVALS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("approvals");
/// Break-glasses that were opened, by the credential's id.
const BREAKGLASS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("breakglass");
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
        let file = fs::OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path);
        let file = FileBackend::new(file.map_err(disk)?).map_err(db)?;
        let backend = Spilling::new(file, path.parent().unwrap_or(path).to_owned());
        match Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend) {
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
        write.delete_table(BY_ISSUER).map_err(db)?;
        write.delete_table(BY_VERSION).map_err(db)?;
        write.delete_table(BY_RECORD).map_err(db)?;
        write.delete_table(AUTHORITIES).map_err(db)?;
        write.delete_table(EXPIRING).map_err(db)?;
        write.delete_table(EXPIRING_SECONDS).map_err(db)?;
        write.delete_table(REVOKED).map_err(db)?;
        write.delete_table(DENIES).map_err(db)?;
        write.delete_table(CRLS).map_err(db)?;
        write.delete_table(ACTIVITY).map_err(db)?;
        write.delete_table(CONFIGURED).map_err(db)?;
        write.delete_table(APPROVALS).map_err(db)?;
        write.delete_table(BREAKGLASS).map_err(db)?;
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
        pages::page(&self.database.begin_read().map_err(db)?, query)
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
        let read = self.database.begin_read().map_err(db)?;
        let minute = now.div_euclid(60);
        let mut live: BTreeMap<String, LiveCount> = BTreeMap::new();
        let mut add = |issuer: &str, minute, (all, revoked): (u64, u64)| {
            let known = live.get_mut(issuer);
            let entry = match known {
                Some(entry) => entry,
                None => live.entry(issuer.to_owned()).or_default(),
            };
            entry.live += all.saturating_sub(revoked);
            entry.revoked += revoked;
            entry.last_minute = entry.last_minute.max(Some(minute));
        };
        for item in read.open_table(EXPIRING).map_err(db)?.range((minute + 1, "")..).map_err(db)? {
            let (key, counts) = item.map_err(db)?;
            let (minute, issuer) = key.value();
            add(issuer, minute, counts.value());
        }
        // The buckets know whole minutes; the running one is counted by second, so that short lives are told right.
        let seconds = read.open_table(EXPIRING_SECONDS).map_err(db)?;
        for item in seconds.range((now + 1, "")..((minute + 1) * 60, "")).map_err(db)? {
            let (key, counts) = item.map_err(db)?;
            add(key.value().1, minute, counts.value());
        }
        Ok(live)
    }

    fn revoked(&self, now: i64) -> Result<Vec<RevokedRow>, StoreError> {
        let table = self.read(REVOKED)?;
        let items = table.range((now.saturating_sub(REVOKED_KEPT_SECONDS), "")..).map_err(db)?;
        items.map(|item| Ok(serde_json::from_slice(item.map_err(db)?.1.value())?)).collect()
    }

    fn denies(&self) -> Result<Vec<DenyRow>, StoreError> {
        let table = self.read(DENIES)?;
        table.iter().map_err(db)?.map(|item| Ok(serde_json::from_slice(item.map_err(db)?.1.value())?)).collect()
    }

    fn crl(&self, issuer_key_id: &str) -> Result<Option<CrlRow>, StoreError> {
        let table = self.read(CRLS)?;
        let found = table.get(issuer_key_id).map_err(db)?;
        found.map(|bytes| Ok(serde_json::from_slice(bytes.value())?)).transpose()
    }

    fn configured(&self, what: &str) -> Result<Option<String>, StoreError> {
        Ok(self.read(CONFIGURED)?.get(what).map_err(db)?.map(|hash| hash.value().to_owned()))
    }

    fn approvals(&self) -> Result<Vec<ApprovalRow>, StoreError> {
        let table = self.read(APPROVALS)?;
        let items = table.iter().map_err(db)?.map(|item| Ok(serde_json::from_slice(item.map_err(db)?.1.value())?));
        let mut rows = items.collect::<Result<Vec<ApprovalRow>, StoreError>>()?;
        rows.sort_by(|one, other| (&one.asked_at, &one.id).cmp(&(&other.asked_at, &other.id)));
        Ok(rows)
    }

    fn breakglass(&self) -> Result<Vec<BreakglassRow>, StoreError> {
        let table = self.read(BREAKGLASS)?;
        let items = table.iter().map_err(db)?.map(|item| Ok(serde_json::from_slice(item.map_err(db)?.1.value())?));
        let mut rows = items.collect::<Result<Vec<BreakglassRow>, StoreError>>()?;
        rows.sort_by(|one, other| (&one.opened_at, &one.id).cmp(&(&other.opened_at, &other.id)));
        Ok(rows)
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
