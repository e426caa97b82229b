//! Each kind of file in a data directory, damaged in each way while the server is stopped: the start either mends it,
//! keeps every record and verifies, or is refused with the file's name. Nothing is damaged silently. The table in
//! `docs/operations.md` is this one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::chancery::{Chancery, program, run};
use crate::harness::{SOON, alone, eventually, ledger};

/// What becomes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Then {
    /// It starts, every record is there, and the ledger verifies.
    Mended,
    /// It does not start and names the file.
    Refused,
    /// Not tried: it makes no sense for this file.
    Not,
}

use Then::{Mended, Not, Refused};

/// Ways to damage, the columns of the table.
const WAYS: [&str; 4] = ["deleted", "cut", "flipped", "older copy"];

/// File (`LOG` is the log's name, `*` the first that fits) and what becomes of it, in the order of [`WAYS`].
const TABLE: [(&str, [Then; 4]); 14] = [
    ("chancery.json", [Refused, Refused, Refused, Not]),
    ("policy.toml", [Refused, Not, Not, Not]),
    ("keys/sealing.key", [Refused, Refused, Refused, Not]),
    ("keys/root-1.sealed", [Refused, Refused, Refused, Not]),
    ("keys/issuing-1.sealed", [Refused, Refused, Refused, Not]),
    ("keys/ledger-1.sealed", [Refused, Refused, Refused, Not]),
    ("crl/*", [Mended, Mended, Mended, Mended]),
    ("index.redb", [Mended, Mended, Mended, Mended]),
    ("ledger/LOG/vkey", [Mended, Refused, Refused, Not]),
    ("ledger/LOG/checkpoint", [Mended, Refused, Refused, Mended]),
    ("ledger/LOG/tile/0/000.p/*", [Mended, Mended, Mended, Not]),
    ("ledger/LOG/tile/entries/000.p/*", [Mended, Mended, Mended, Not]),
    ("ledger/journal/0000000000000001.seg", [Refused, Refused, Refused, Refused]),
    ("ledger/journal/0000000000000002.seg", [Mended, Mended, Mended, Not]),
];

/// The byte that is flipped: in the fourth frame of a journal, in the middle of everything else.
fn middle(file: &Path, length: usize) -> usize {
    if file.to_string_lossy().contains("journal") { 3 * 4096 + 100 } else { length / 2 }
}

fn damage(file: &Path, way: &str, older: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    match way {
        "deleted" => return std::fs::remove_file(file).unwrap(),
        "cut" => bytes.truncate(middle(file, bytes.len())),
        "flipped" => {
            let at = middle(file, bytes.len());
            bytes[at] ^= 1;
        }
        _ => bytes = std::fs::read(older).unwrap(),
    }
    std::fs::write(file, bytes).unwrap();
}

/// The path below a data directory that a line of the table means.
fn find(data: &Path, pattern: &str) -> PathBuf {
    let log = ledger::only_log(data).file_name().unwrap().to_str().unwrap().to_owned();
    let pattern = pattern.replace("LOG", &log);
    let Some(directory) = pattern.strip_suffix("/*") else { return pattern.into() };
    let mut names: Vec<PathBuf> = std::fs::read_dir(data.join(directory)).unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    names.last().unwrap().strip_prefix(data).unwrap().to_owned()
}

fn copy(from: &Path, to: &Path) {
    // What an earlier case left; nothing at first.
    let _ = std::fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// Starts in `data`; what it said when it refused, or nothing after it was up and has stopped again.
fn start(data: &Path) -> Option<String> {
    let mut command = Command::new(program());
    command.args(["up", "--http", "127.0.0.1:0", "--data-dir"]).arg(data);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let id = child.id();
    let up = eventually("it is up or refuses", SOON, || {
        if child.try_wait().unwrap().is_some() {
            return Some(false);
        }
        let addresses: serde_json::Value =
            serde_json::from_slice(&std::fs::read(data.join("addresses.json")).ok()?).ok()?;
        (addresses["pid"] == u64::from(id)).then_some(true)
    });
    if up {
        let files = data.with_extension("id");
        let words = ["fetch", "--once", "--data-dir", data.to_str().unwrap(), "--dir", files.to_str().unwrap()];
        run(words).expect(0);
        kill(Pid::from_raw(i32::try_from(id).unwrap()), Signal::SIGTERM).unwrap();
    }
    let said = child.wait_with_output().unwrap();
    assert_eq!(said.status.success(), up, "{said:?}");
    (!up).then(|| String::from_utf8_lossy(&said.stderr).into_owned())
}

#[test]
fn every_file_in_every_way_is_mended_or_named() {
    let _alone = alone();
    let mut server = Chancery::up();
    assert!(server.stop().success());
    let older = server.scratch().join("older");
    copy(&server.data(), &older);
    server.start();
    let id = server.scratch().join("id");
    server.run(&["fetch", "--once", "--dir", id.to_str().unwrap()]).expect(0);
    server.run(&["cert", "revoke", "--all", "--yes", "--wait", "0s"]);
    server.run(&["cert", "release", "--all", "--yes"]);
    assert!(server.stop().success());
    std::thread::sleep(Duration::from_millis(10));
    let before = ledger::leaves(&ledger::only_log(&server.data()));
    let data = server.scratch().join("copy");
    let mut wrong = Vec::new();
    for (pattern, outcomes) in TABLE {
        for (way, expected) in WAYS.iter().zip(outcomes).filter(|(_, then)| *then != Not) {
            copy(&server.data(), &data);
            let file = find(&data, pattern);
            damage(&data.join(&file), way, &older.join(&file));
            let said = start(&data);
            let name = file.file_name().unwrap().to_str().unwrap();
            let found = match &said {
                None => {
                    let after = ledger::leaves(&ledger::only_log(&data));
                    assert!(after.starts_with(&before), "{pattern} {way}: records are lost");
                    run(["audit", "verify", "--data-dir", data.to_str().unwrap()]).expect(0);
                    Mended
                }
                Some(text) => {
                    let directory = file.parent().unwrap().file_name().and_then(|name| name.to_str()).unwrap_or(name);
                    assert!(text.contains(name) || text.contains(directory), "{pattern} {way}: {text}");
                    Refused
                }
            };
            if found != expected {
                wrong.push(format!("{pattern} {way}: {found:?}, not {expected:?}: {said:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_table_is_documented() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap();
    for (pattern, outcomes) in TABLE {
        let cells = outcomes.map(|then| match then {
            Mended => "mended",
            Refused => "refused",
            Not => "–",
        });
        let line = format!("| `{pattern}` | {} |", cells.join(" | "));
        assert!(page.contains(&line), "docs/operations.md lacks: {line}");
    }
}

#[test]
fn a_ledger_that_vanishes_or_is_replaced_under_a_running_server_stops_it() {
    let _alone = alone();
    for replaced in [false, true] {
        let mut server = Chancery::up();
        let (path, away) = (server.data().join("ledger"), server.scratch().join("away"));
        std::fs::rename(&path, &away).unwrap();
        if replaced {
            copy(&away, &path);
        }
        let files = server.scratch().join("id");
        server.run(&["fetch", "--once", "--dir", files.to_str().unwrap()]).expect(4);
        let ready = crate::harness::http::get(server.http(), "/readyz");
        assert_eq!(ready.status, 503);
        assert!(ready.text().contains("the ledger stopped after a failure"), "{}", ready.text());
        assert_eq!(path.exists(), replaced, "it is not made anew");
        server.kill();
        if !replaced {
            // A new ledger under the old name would be a second history.
            let said = server.run(&["up"]).expect(1);
            assert!(said.err.contains("is empty or gone"), "{said:?}");
            std::fs::rename(&away, &path).unwrap();
        }
        server.start();
        server.run(&["fetch", "--once", "--dir", files.to_str().unwrap()]).expect(0);
        assert!(server.stop().success());
        server.run(&["audit", "verify"]).expect(0);
    }
}

#[test]
fn without_ledger_and_backup_a_new_log_begins_by_hand() {
    let mut server = Chancery::up();
    assert!(server.stop().success());
    std::fs::remove_dir_all(server.data().join("ledger")).unwrap();
    server.run(&["up"]).expect(1).expect_words(&["is empty or gone", "chancery ledger recover"]);
    let plan = server.run(&["ledger", "recover"]).expect(0);
    assert!(plan.out.contains("nobody can say how much"), "{plan:?}");
    server.run(&["ledger", "recover", "--yes"]).expect(0);
    server.start();
    let files = server.scratch().join("id");
    server.run(&["fetch", "--once", "--dir", files.to_str().unwrap()]).expect(0);
    assert!(server.stop().success());
    let log = ledger::only_log(&server.data());
    assert!(log.file_name().unwrap().to_str().unwrap().ends_with("-2"), "{}", log.display());
    server.run(&["audit", "verify"]).expect(0);
}
