//! Where a record is: the origin of its log and its index; parsed from and shown as `<origin>#<index>`.

use std::sync::Arc;

/// The place of a record: its log's origin and its index. Its text, `<origin>#<index>`, is the record's id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Position {
    /// The log's origin: `<trust domain>/ledger/<log>`.
    pub log: Arc<str>,
    /// Zero-based.
    pub index: u64,
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}#{}", self.log, self.index)
    }
}

/// Why a text is no record id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no record id: it has the form <trust domain>/ledger/<log>#<index>")]
pub struct PositionError {
    text: String,
}

impl std::str::FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let parsed = text.rsplit_once('#').and_then(|(log, index)| {
            let index = super::checkpoint::parse_decimal(index).filter(|_| !log.is_empty())?;
            Some(Self { log: log.into(), index })
        });
        parsed.ok_or_else(|| PositionError { text: text.chars().take(200).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_comes_back_and_nothing_else_passes() {
        let id = "example.org/ledger/ca-2026#1041";
        assert_eq!(id.parse::<Position>().unwrap().to_string(), id);
        for bad in ["", "#1", "a#", "a#01", "a#-1", "a", "a#18446744073709551616"] {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
    }
}
