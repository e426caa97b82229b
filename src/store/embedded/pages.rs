//! Lists: which index a query walks along, and which of its rows it takes.
//!
//! A walk is bounded by [`LARGEST_LOOK`] however rare its matches are: then the page is short and goes on with its token.

use redb::{ReadOnlyTable, ReadTransaction, TableDefinition};

use super::{BY_EXPIRY, BY_IDENTITY, BY_ISSUER, CERTIFICATES, NamedKey, REVOKED, db, part};
use crate::store::{CertificateQuery, CertificateRow, LARGEST_PAGE, Page, StoreError};

/// The most entries of an index that one page looks at.
const LARGEST_LOOK: usize = 5_000;

/// The page that `query` asks for.
pub(super) fn page(read: &ReadTransaction, query: &CertificateQuery) -> Result<Page, StoreError> {
    let gather = Gather::new(read, query)?;
    let prefix = query.identity_prefix.as_str();
    match (&query.issuer_key_id, query.revoked) {
        _ if !prefix.is_empty() => by_name(read, gather, BY_IDENTITY, |identity| identity.starts_with(prefix), prefix),
        (_, Some(true)) => revoked(read, gather),
        (Some(issuer), Some(false) | None) => by_name(read, gather, BY_ISSUER, |found| found == issuer, issuer),
        (None, Some(false) | None) => by_expiry(read, gather),
    }
}

fn by_expiry(read: &ReadTransaction, mut gather: Gather<'_>) -> Result<Page, StoreError> {
    let (from, before) = gather.bounds();
    let mut high = (before, 0_u64);
    if let Some((expires, sequence)) = gather.after()? {
        high = high.min((expires, part(Some(sequence))?));
    }
    if (from, 0) < high {
        let table = read.open_table(BY_EXPIRY).map_err(db)?;
        for item in table.range((from, 0)..high).map_err(db)?.rev() {
            let (key, serial) = item.map_err(db)?;
            let (expires, sequence) = key.value();
            if gather.look(serial.value(), expires, || format!("{expires}.{sequence}"))? == Walk::Enough {
                break;
            }
        }
    }
    Ok(gather.page())
}

fn revoked(read: &ReadTransaction, mut gather: Gather<'_>) -> Result<Page, StoreError> {
    let (from, before) = gather.bounds();
    let mut high = (before, "");
    if let Some(after) = gather.after()? {
        high = high.min(after);
    }
    if (from, "") < high {
        let table = read.open_table(REVOKED).map_err(db)?;
        for item in table.range((from, "")..high).map_err(db)?.rev() {
            let (key, _) = item.map_err(db)?;
            let (expires, serial) = key.value();
            if gather.look(serial, expires, || format!("{expires}.{serial}"))? == Walk::Enough {
                break;
            }
        }
    }
    Ok(gather.page())
}

/// Along names that `belongs` says yes to, from `first` on; within one name those that expire last come first.
fn by_name(
    read: &ReadTransaction,
    mut gather: Gather<'_>,
    table: TableDefinition<'static, NamedKey, &'static str>,
    belongs: impl Fn(&str) -> bool,
    first: &str,
) -> Result<Page, StoreError> {
    let (from, before) = gather.bounds();
    let mut start = (first.to_owned(), i64::MIN, 0_u64);
    if let Some((negated, rest)) = gather.after()? {
        let (sequence, name) = rest.split_once('.').ok_or(StoreError::PageToken)?;
        start = (name.to_owned(), negated, part::<u64>(Some(sequence))?.saturating_add(1));
    }
    let table = read.open_table(table).map_err(db)?;
    'names: loop {
        for item in table.range((start.0.as_str(), start.1, start.2)..).map_err(db)? {
            let (key, serial) = item.map_err(db)?;
            let (name, negated, sequence) = key.value();
            if !belongs(name) {
                break 'names;
            }
            let token = || format!("{negated}.{sequence}.{name}");
            let expires = negated.saturating_neg();
            if expires >= before {
                continue;
            }
            if expires < from {
                // So are all further ones of this name: on to the next, which has it as a proper beginning or is greater.
                if gather.pass(token) == Walk::Enough {
                    break 'names;
                }
                start = (format!("{name}\0"), i64::MIN, 0);
                continue 'names;
            }
            if gather.look(serial.value(), expires, token)? == Walk::Enough {
                break 'names;
            }
        }
        break;
    }
    Ok(gather.page())
}

fn split(token: Option<&str>) -> Result<Option<(i64, &str)>, StoreError> {
    let Some(token) = token else { return Ok(None) };
    let (number, rest) = token.split_once('.').ok_or(StoreError::PageToken)?;
    Ok(Some((part(Some(number))?, rest)))
}

/// Whether a walk goes on.
#[derive(Debug, PartialEq, Eq)]
enum Walk {
    On,
    Enough,
}

/// A page in the making.
struct Gather<'q> {
    query: &'q CertificateQuery,
    certificates: ReadOnlyTable<&'static str, &'static [u8]>,
    limit: usize,
    rows: Vec<CertificateRow>,
    looked: usize,
    /// The token of what was looked at last.
    last: Option<String>,
    next: Option<String>,
}

impl<'q> Gather<'q> {
    fn new(read: &ReadTransaction, query: &'q CertificateQuery) -> Result<Self, StoreError> {
        Ok(Self {
            query,
            certificates: read.open_table(CERTIFICATES).map_err(db)?,
            limit: query.limit.clamp(1, LARGEST_PAGE),
            rows: Vec::new(),
            looked: 0,
            last: None,
            next: None,
        })
    }

    /// Expiries: from, and before.
    fn bounds(&self) -> (i64, i64) {
        (self.query.expires_from.unwrap_or(i64::MIN), self.query.expires_before.unwrap_or(i64::MAX))
    }

    /// The token of the page before, in its two parts.
    fn after(&self) -> Result<Option<(i64, &'q str)>, StoreError> {
        split(self.query.after.as_deref())
    }

    /// Looks at one certificate and takes it if it is wanted and there is room.
    fn look(&mut self, serial: &str, expires: i64, token: impl FnOnce() -> String) -> Result<Walk, StoreError> {
        let Some(bytes) = self.certificates.get(serial).map_err(db)? else { return Ok(Walk::On) };
        let row: CertificateRow = serde_json::from_slice(bytes.value())?;
        drop(bytes);
        let (from, before) = self.bounds();
        let wanted = (from..before).contains(&expires)
            && self.query.issuer_key_id.as_ref().is_none_or(|issuer| *issuer == row.issuer_key_id)
            && self.query.revoked.is_none_or(|revoked| revoked == row.revoked.is_some());
        if wanted && self.rows.len() == self.limit {
            self.next = self.last.take();
            return Ok(Walk::Enough);
        }
        if wanted {
            self.rows.push(row);
        }
        Ok(self.pass(token))
    }

    /// Goes past one.
    fn pass(&mut self, token: impl FnOnce() -> String) -> Walk {
        self.looked += 1;
        self.last = Some(token());
        if self.looked < LARGEST_LOOK {
            return Walk::On;
        }
        self.next = self.last.take();
        Walk::Enough
    }

    fn page(self) -> Page {
        Page { certificates: self.rows, next: self.next }
    }
}
