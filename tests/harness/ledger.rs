//! Reads ledgers from their files as any outsider could: checkpoints and entry tiles (c2sp.org/tlog-tiles).

use std::path::{Path, PathBuf};

use serde_json::Value;

/// The log directories of a data directory, oldest first.
pub fn logs(data: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(data.join("ledger"))
        .into_iter()
        .flatten()
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| path.join("checkpoint").exists())
        .collect();
    found.sort();
    found
}

/// The only log of a data directory.
pub fn only_log(data: &Path) -> PathBuf {
    let mut logs = logs(data);
    assert_eq!(logs.len(), 1, "{logs:?}");
    logs.remove(0)
}

/// How many records a checkpoint covers.
pub fn size(log: &Path) -> u64 {
    let text = std::fs::read_to_string(log.join("checkpoint")).expect("a checkpoint");
    text.lines().nth(1).and_then(|line| line.parse().ok()).expect("a size on the second line")
}

/// `1234` is `x001/234`.
fn number(mut n: u64) -> String {
    let mut text = format!("{:03}", n % 1000);
    while n >= 1000 {
        n /= 1000;
        text = format!("x{:03}/{text}", n % 1000);
    }
    text
}

/// The records below the checkpoint of `log`, or nothing when its files changed meanwhile.
fn try_leaves(log: &Path) -> Option<Vec<Vec<u8>>> {
    let size = size(log);
    let mut leaves = Vec::new();
    for tile in 0..size.div_ceil(256) {
        let whole = log.join("tile/entries").join(number(tile));
        let width = (size - tile * 256).min(256);
        let partial = PathBuf::from(format!("{}.p/{width}", whole.display()));
        let bytes = std::fs::read(&partial).or_else(|_| std::fs::read(&whole)).ok()?;
        let mut rest = bytes.as_slice();
        for _ in 0..width {
            let (length, after) = rest.split_first_chunk::<2>()?;
            let (leaf, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
            leaves.push(leaf.to_vec());
            rest = after;
        }
    }
    Some(leaves)
}

/// The records below the checkpoint of `log`. A partial tile may go between a look at the checkpoint and a look at the
/// tile, because the server writes on: then both are looked at again.
pub fn leaves(log: &Path) -> Vec<Vec<u8>> {
    super::eventually(&format!("{} can be read", log.display()), super::SOON, || try_leaves(log))
}

/// Every record of every log of a data directory.
pub fn records(data: &Path) -> Vec<Value> {
    let parse = |leaf: Vec<u8>| serde_json::from_slice(&leaf).expect("a record is JSON");
    logs(data).iter().flat_map(|log| leaves(log)).map(parse).collect()
}
