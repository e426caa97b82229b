//! The ledger over HTTP, as c2sp.org/tlog-tiles lays it out: checkpoints, verifier keys and hash tiles, never records.
//!
//! A path becomes a [`Target`] or nothing: a log's name in its one spelling, then one of three kinds of file. No text of
//! a client ever becomes part of a file's path: the name is looked up among the open logs, a tile's path is written
//! anew from its numbers. Percent-encoding is no spelling of anything served here, so `%2e%2e` is just unknown.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::{StatusCode, Uri};
use serde::Serialize;

use super::{HttpSources, Route, body_of, cached, text, unavailable, uncached};
use crate::audit::ledger::{LedgerError, LedgerReader, TileKind, TileName};

/// The longest log name that is looked up, in bytes.
const LONGEST_LOG_NAME: usize = 64;

const NO_LOG: &str = "no such log; GET /ledger lists them\n";
const NO_FILE: &str = "a log has checkpoint, vkey, and tile/<L>/<N> or tile/<L>/<N>.p/<W> (c2sp.org/tlog-tiles)\n";
const NO_TILE: &str = "no such tile: the log is not that large, or this partial tile has grown into a wider one\n";
const NO_ENTRIES: &str = "records are not public: read them on the server's admin socket with `chancery audit show` or \
                          `chancery audit export`; hash tiles are enough to check proofs\n";

/// A file of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target<'a> {
    log: &'a str,
    file: LogFile,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LogFile {
    Checkpoint,
    VerifierKey,
    HashTile(TileName),
    /// Refused, whatever follows.
    Entries,
}

impl<'a> Target<'a> {
    /// Reads the path of a request, undecoded.
    pub(super) fn parse(path: &'a str) -> Option<Self> {
        let (log, below) = path.strip_prefix("/ledger/")?.split_once('/')?;
        if log.is_empty() || log.len() > LONGEST_LOG_NAME {
            return None;
        }
        if !log.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')) {
            return None;
        }
        let file = match below {
            "checkpoint" => LogFile::Checkpoint,
            "vkey" => LogFile::VerifierKey,
            tile if tile.starts_with("tile/entries/") => LogFile::Entries,
            tile => {
                let name = TileName::parse(tile)?;
                match name.kind {
                    TileKind::Hashes(_) => LogFile::HashTile(name),
                    TileKind::Entries => LogFile::Entries,
                }
            }
        };
        Some(Self { log, file })
    }

    pub(super) fn route(&self) -> Route {
        match self.file {
            LogFile::Checkpoint => Route::Checkpoint,
            LogFile::VerifierKey => Route::VerifierKey,
            LogFile::HashTile(_) | LogFile::Entries => Route::Tile,
        }
    }
}

/// One log in `/ledger`.
#[derive(Debug, Serialize)]
struct LogLine {
    name: String,
    origin: String,
    /// Records that the published checkpoint covers.
    size: u64,
    checkpoint: String,
    vkey: String,
    tiles: String,
}

#[derive(Debug, Serialize)]
struct Logs {
    schema: u32,
    logs: Vec<LogLine>,
}

/// `/ledger`
pub(super) async fn logs(State(sources): State<Arc<dyn HttpSources>>) -> Response {
    let Some(reader) = sources.ledger() else { return not_open() };
    let line = |log: crate::audit::ledger::LogInfo| LogLine {
        origin: log.origin.to_string(),
        size: log.published,
        checkpoint: format!("/ledger/{}/checkpoint", log.name),
        vkey: format!("/ledger/{}/vkey", log.name),
        tiles: format!("/ledger/{}/tile/", log.name),
        name: log.name,
    };
    let logs = Logs { schema: 1, logs: reader.logs().into_iter().map(line).collect() };
    match serde_json::to_vec(&logs) {
        Ok(body) => uncached(body_of(StatusCode::OK, "application/json", body)),
        Err(error) => failed(&error),
    }
}

/// `/ledger/<log>/…`
pub(super) async fn file(State(sources): State<Arc<dyn HttpSources>>, uri: Uri) -> Response {
    let Some(target) = Target::parse(uri.path()) else { return text(StatusCode::NOT_FOUND, NO_FILE) };
    if target.file == LogFile::Entries {
        return text(StatusCode::FORBIDDEN, NO_ENTRIES);
    }
    let Some(reader) = sources.ledger() else { return not_open() };
    let (log, file) = (target.log.to_owned(), target.file);
    // A thread made for blocking, awaited here: a disk that hangs costs this request its time limit, and the runtime
    // nothing. The bound on connections bounds these too.
    match tokio::task::spawn_blocking(move || read(&reader, &log, file)).await {
        Ok(Ok(response)) => response,
        Ok(Err(LedgerError::NoLog { .. })) => text(StatusCode::NOT_FOUND, NO_LOG),
        Ok(Err(error)) => failed(&error),
        Err(error) => failed(&error),
    }
}

fn read(reader: &LedgerReader, log: &str, file: LogFile) -> Result<Response, LedgerError> {
    Ok(match file {
        LogFile::Checkpoint => match reader.checkpoint(log)? {
            // tlog-tiles: a checkpoint is text and must not be cached beyond its moment.
            Some(checkpoint) => uncached(text(StatusCode::OK, checkpoint)),
            None => unavailable("this log has no checkpoint yet; try again\n"),
        },
        LogFile::VerifierKey => match reader.verifier_key(log)? {
            Some(key) => uncached(text(StatusCode::OK, key)),
            None => unavailable("this log has no verifier key yet; try again\n"),
        },
        LogFile::HashTile(name) => match reader.tile(log, name)? {
            // Partial ones too: of one width there is only ever one content.
            Some(tile) => {
                cached(body_of(StatusCode::OK, "application/octet-stream", tile), "public, max-age=31536000, immutable")
            }
            None => uncached(text(StatusCode::NOT_FOUND, NO_TILE)),
        },
        LogFile::Entries => text(StatusCode::FORBIDDEN, NO_ENTRIES),
    })
}

fn not_open() -> Response {
    unavailable("the ledger is not open yet; try again\n")
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Response {
    tracing::error!(error, "a file of the ledger could not be served");
    unavailable("the ledger cannot be read at this moment; the server's log says why\n")
}
