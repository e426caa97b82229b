//! What the machine does to an installation: its clock, and who may write where.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};

use time::OffsetDateTime;

use super::{DoctorOutput, Finding, MOST_FILES};
use crate::clock::rfc3339_seconds;

/// How far behind its own past a clock may seem before it is wrong: what file systems and leap seconds explain.
const SLACK: time::Duration = time::Duration::seconds(5);

/// The newest thing in the ledger is in the past, and something keeps the clock right.
pub(super) fn clock(data_dir: &Path, now: OffsetDateTime, output: &mut DoctorOutput) {
    let newest = newest(&data_dir.join("ledger"));
    if let Some(newest) = newest.filter(|newest| *newest - now > SLACK) {
        let remedy = format!(
            "the ledger was written at {}, and now it is {}: the clock went back; set it, or new certificates are dated \
             before old ones and peers refuse what is not valid yet",
            rfc3339_seconds(newest),
            rfc3339_seconds(now)
        );
        return output.add("clock", Finding::Wrong, remedy);
    }
    let since =
        newest.map_or_else(String::new, |newest| format!(", {} after the ledger's last word", ago(now - newest)));
    match synchronized() {
        Some(true) => output.add("clock", Finding::Ok, format!("kept right over the network{since}")),
        Some(false) => output.add(
            "clock",
            Finding::Note,
            "not kept right over the network: certificates live by the clock; timedatectl set-ntp true, or run chrony",
        ),
        None => output.add("clock", Finding::Skipped, format!("nothing here says whether it is kept right{since}")),
    }
}

fn ago(span: time::Duration) -> String {
    super::super::screen::span(span.whole_seconds().max(0))
}

/// When the newest file of a log was written.
fn newest(ledger: &Path) -> Option<OffsetDateTime> {
    let logs = fs::read_dir(ledger).ok()?.flatten().map(|entry| entry.path().join("checkpoint"));
    let written = logs.filter_map(|checkpoint| fs::metadata(checkpoint).ok()?.modified().ok());
    written.max().map(OffsetDateTime::from)
}

/// What systemd says; other time daemons report to it through the kernel.
fn synchronized() -> Option<bool> {
    let asked = Command::new("timedatectl")
        .args(["show", "--property=NTPSynchronized", "--value"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    match asked.stdout.trim_ascii() {
        b"yes" => Some(true),
        b"no" => Some(false),
        _ => None,
    }
}

/// Nothing but the server's own account may write into the directory; sockets have modes of their own.
pub(super) fn writable(data_dir: &Path, output: &mut DoctorOutput) {
    let (mut looked, mut open, mut foreign) = (0_usize, Vec::new(), Vec::new());
    let owner = fs::metadata(data_dir).map(|facts| facts.uid()).unwrap_or_default();
    let mut waiting = vec![data_dir.to_owned()];
    while let Some(path) = waiting.pop() {
        let Ok(facts) = fs::symlink_metadata(&path) else { continue };
        looked += 1;
        if looked > MOST_FILES {
            break;
        }
        let kind = facts.file_type();
        if facts.mode() & 0o022 != 0 && !kind.is_socket() && !kind.is_symlink() {
            open.push(path.display().to_string());
        }
        if facts.uid() != owner {
            foreign.push(path.display().to_string());
        }
        if kind.is_dir() {
            waiting.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
    let name = "writable files";
    match (open.first(), foreign.first()) {
        (None, None) => output.add(name, Finding::Ok, format!("{looked} looked at, all the server's own")),
        (Some(_), _) => {
            let remedy = format!("others can change {}: chmod go-w them, then chancery audit verify", few(&open));
            output.add(name, Finding::Wrong, remedy);
        }
        (None, Some(_)) => {
            let remedy = format!(
                "{} belong to another account than {} does, so the server may fail to write: chown them to uid {owner}",
                few(&foreign),
                data_dir.display()
            );
            output.add(name, Finding::Wrong, remedy);
        }
    }
}

/// The first three of a list.
fn few(paths: &[String]) -> String {
    let named: Vec<&str> = paths.iter().take(3).map(String::as_str).collect();
    let more = paths.len() - named.len();
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{}{more}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_clock_behind_the_ledger_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("ledger/ca-2026");
        fs::create_dir_all(&log).unwrap();
        fs::write(log.join("checkpoint"), "x").unwrap();
        let written = newest(&dir.path().join("ledger")).unwrap();
        for (now, wrong) in [(written, false), (written - time::Duration::HOUR, true)] {
            let mut output = DoctorOutput::default();
            clock(dir.path(), now, &mut output);
            assert_eq!(output.checks[0].finding == Finding::Wrong, wrong, "{output:?}");
        }
    }

    #[test]
    fn what_others_can_write_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("index.redb");
        fs::write(&file, "x").unwrap();
        for (mode, expected) in [(0o600, Finding::Ok), (0o620, Finding::Wrong), (0o602, Finding::Wrong)] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let mut output = DoctorOutput::default();
            writable(dir.path(), &mut output);
            assert_eq!(output.checks[0].finding, expected, "{mode:o} {output:?}");
        }
    }
}
