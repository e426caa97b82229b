//! `chancery doctor`: looks for what is wrong with an installation, with or without its server.
//!
//! Every check says what it found and, where something is wrong, what to do. It changes nothing.

mod envoy;
mod host;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use clap::Args;
use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::exit::{Done, Exit, Failure};
use super::screen::{Paint, Table, relative};
use super::{Context, client};
use crate::audit::ledger::VerifierKey;
use crate::clock::parse_rfc3339;
use crate::config::LONGEST_SOCKET_PATH;
use crate::config::files::load_policy;
use crate::identity::TrustDomain;
use crate::proto::chancery::admin::v1 as pb;

/// Less free space than this deserves a word, in bytes: twice the ledger's reserve.
const LITTLE_SPACE: u64 = 128 << 20;

/// An authority that ends sooner than this deserves a word.
const SOON: time::Duration = time::Duration::days(7);

/// The most files whose permissions are looked at.
const MOST_FILES: usize = 10_000;

/// `doctor`.
#[derive(Debug, Default, Args)]
pub struct Doctor {
    /// An Envoy configuration (YAML or JSON) to look at as well; repeatable
    #[arg(long, value_name = "FILE")]
    envoy: Vec<PathBuf>,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finding {
    /// As it should be.
    Ok,
    /// Worth a look.
    Note,
    /// Wrong.
    Wrong,
    /// Could not be looked at.
    Skipped,
}

/// The schema of one check in `doctor --output json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckOutput {
    /// What was looked at.
    pub check: String,
    /// How it ended.
    pub finding: Finding,
    /// What was found, and what to do.
    pub detail: String,
}

/// The schema of `doctor --output json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoctorOutput {
    /// Every check, in order.
    pub checks: Vec<CheckOutput>,
}

impl DoctorOutput {
    fn add(&mut self, check: &str, finding: Finding, detail: impl Into<String>) {
        self.checks.push(CheckOutput { check: check.to_owned(), finding, detail: detail.into() });
    }

    fn wrong(&self) -> usize {
        self.checks.iter().filter(|check| check.finding == Finding::Wrong).count()
    }
}

pub(crate) async fn run(args: Doctor, context: &Context) -> Done {
    let mut output = DoctorOutput::default();
    if directory(&context.data_dir, &mut output) {
        files(&context.data_dir, &mut output);
        host::writable(&context.data_dir, &mut output);
        host::clock(&context.data_dir, context.screen.now(), &mut output);
        sockets(&context.data_dir, &mut output);
        space(&context.data_dir, &mut output);
        policy(&context.data_dir, &mut output);
        ledger(&context.data_dir.join("ledger"), &mut output);
    }
    server(context, &mut output).await;
    for file in &args.envoy {
        envoy::check(file, &mut output);
    }
    context.screen.show(&output, |output| doctor_screen(output, context.screen.paint))?;
    if output.wrong() == 0 { Ok(()) } else { Err(Failure::said(Exit::Failed)) }
}

fn directory(data_dir: &Path, output: &mut DoctorOutput) -> bool {
    let shown = data_dir.display();
    let facts = match fs::metadata(data_dir) {
        Ok(facts) => facts,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let remedy = format!("{shown} is not there: chancery up makes it, or name another with --data-dir");
            output.add("data directory", Finding::Wrong, remedy);
            return false;
        }
        Err(error) => {
            output.add(
                "data directory",
                Finding::Wrong,
                format!("{shown}: {error}: run this as the server's own user"),
            );
            return false;
        }
    };
    let (owner, ours, mode) = (facts.uid(), nix::unistd::geteuid().as_raw(), facts.mode() & 0o777);
    if mode & 0o066 != 0 {
        let remedy = format!("{shown} has mode {mode:04o}, so others can look into it: chmod 0700 {shown}");
        output.add("data directory", Finding::Wrong, remedy);
    } else if owner != ours && ours != 0 {
        let remedy = format!("{shown} belongs to uid {owner}, you are uid {ours}: some checks see less");
        output.add("data directory", Finding::Note, remedy);
    } else {
        output.add("data directory", Finding::Ok, format!("{shown}, uid {owner}, mode {mode:04o}"));
    }
    true
}

/// Everything in the data directory is private but sockets, whose modes are chosen.
fn files(data_dir: &Path, output: &mut DoctorOutput) {
    let (mut looked, mut open) = (0_usize, Vec::new());
    let mut waiting = ["keys", "erasure"].map(|name| data_dir.join(name)).to_vec();
    while let Some(path) = waiting.pop() {
        let Ok(facts) = fs::symlink_metadata(&path) else { continue };
        looked += 1;
        if looked > MOST_FILES {
            break;
        }
        if facts.mode() & 0o077 != 0 && !facts.file_type().is_socket() {
            open.push(path.display().to_string());
        }
        if facts.is_dir() {
            waiting.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
    if open.is_empty() {
        output.add("secret files", Finding::Ok, format!("{looked} files and directories, none open to others"));
    } else {
        let remedy = format!("others can reach {}: chmod go= them, and think of their keys as known", open.join(", "));
        output.add("secret files", Finding::Wrong, remedy);
    }
}

fn sockets(data_dir: &Path, output: &mut DoctorOutput) {
    let whole = std::path::absolute(data_dir.join("admin.sock")).unwrap_or_else(|_| data_dir.join("admin.sock"));
    let mut paths = vec![whole];
    if let Some(addresses) = client::addresses(data_dir) {
        paths = addresses.sds.into_iter().map(|sds| sds.path).chain([addresses.admin]).collect();
    }
    let long: Vec<String> = paths
        .iter()
        .filter(|path| path.as_os_str().len() > LONGEST_SOCKET_PATH)
        .map(|path| path.display().to_string())
        .collect();
    if long.is_empty() {
        output.add("socket paths", Finding::Ok, format!("short enough ({LONGEST_SOCKET_PATH} bytes are allowed)"));
    } else {
        let remedy = format!("too long for the kernel: {}: use a shorter --data-dir", long.join(", "));
        output.add("socket paths", Finding::Wrong, remedy);
    }
}

fn space(data_dir: &Path, output: &mut DoctorOutput) {
    match statvfs(data_dir) {
        Ok(facts) => {
            let free = facts.blocks_available().saturating_mul(facts.fragment_size());
            let text = format!("{} MiB free for the ledger", free >> 20);
            if free < LITTLE_SPACE {
                output.add("disk", Finding::Wrong, format!("only {text}: free some, a full ledger issues nothing"));
            } else {
                output.add("disk", Finding::Ok, text);
            }
        }
        Err(error) => output.add("disk", Finding::Skipped, format!("the free space is not known: {error}")),
    }
}

fn policy(data_dir: &Path, output: &mut DoctorOutput) {
    let path = data_dir.join("policy.toml");
    if !path.exists() {
        let why = format!("no {}: a server with a configuration file names its own (config check)", path.display());
        return output.add("policy", Finding::Skipped, why);
    }
    let served = client::addresses(data_dir).map(|addresses| addresses.trust_domain);
    let Some(domain) = served.or_else(|| TrustDomain::parse("example.org").ok()) else {
        return output.add("policy", Finding::Skipped, "the trust domain is not known");
    };
    match load_policy(&path, &domain, None) {
        Ok(policy) => output.add("policy", Finding::Ok, format!("{} rules, no mistakes", policy.rules().len())),
        Err(error) => output.add("policy", Finding::Wrong, error.to_string()),
    }
}

/// The newest checkpoint of each log carries its key's signature; the whole is `audit verify`.
fn ledger(directory: &Path, output: &mut DoctorOutput) {
    let mut logs: Vec<_> = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    logs.retain(|log| log.join("vkey").is_file());
    logs.sort();
    if logs.is_empty() {
        return output.add("ledger", Finding::Skipped, format!("no log in {} yet", directory.display()));
    }
    let mut fine = Vec::new();
    for log in &logs {
        let name = log.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match checkpoint(log) {
            Ok(size) => fine.push(format!("{name} ({size} records)")),
            Err(why) => {
                output.add("ledger", Finding::Wrong, format!("{name}: {why}; look closer: chancery audit verify"))
            }
        }
    }
    if fine.len() == logs.len() {
        let text = format!("checkpoints are signed: {}; every record: chancery audit verify", fine.join(", "));
        output.add("ledger", Finding::Ok, text);
    }
}

fn checkpoint(log: &Path) -> Result<u64, String> {
    let read = |name: &str| fs::read_to_string(log.join(name)).map_err(|error| format!("{name}: {error}"));
    let key = VerifierKey::parse(read("vkey")?.trim()).map_err(|error| error.to_string())?;
    key.verify(&read("checkpoint")?).map(|checkpoint| checkpoint.size).map_err(|error| error.to_string())
}

async fn server(context: &Context, output: &mut DoctorOutput) {
    let mut admin = match context.admin().await {
        Ok(admin) => admin,
        Err(failure) => {
            let stale = client::addresses(&context.data_dir).map(|addresses| addresses.pid);
            let crashed = stale.map_or_else(String::new, |pid| format!(" (addresses.json names process {pid})"));
            return output.add("server", Finding::Note, format!("{}{crashed}", failure.message));
        }
    };
    match admin.get_status(pb::GetStatusRequest {}).await {
        Ok(status) => {
            let status = status.into_inner();
            for problem in &status.problems {
                output.add("server", Finding::Wrong, problem.clone());
            }
            for warning in &status.warnings {
                output.add("server", Finding::Note, warning.clone());
            }
            if status.ready {
                output.add("server", Finding::Ok, format!("ready, trust domain {}", status.trust_domain));
            }
        }
        Err(status) => output.add("server", Finding::Wrong, status.message()),
    }
    match admin.list_authorities(pb::ListAuthoritiesRequest {}).await {
        Ok(list) => {
            let (list, now) = (list.into_inner(), context.screen.now());
            authorities(&list, now, output);
            revocation_lists(&list, now, output);
            bundles(&list, output);
        }
        Err(status) => output.add("authorities", Finding::Skipped, status.message()),
    }
}

fn authorities(list: &pb::AuthorityList, now: OffsetDateTime, output: &mut DoctorOutput) {
    let mut fine = Vec::new();
    for one in list.authorities.iter().filter(|one| one.state == "active") {
        let (from, until) = (parse_rfc3339(&one.not_before), parse_rfc3339(&one.not_after));
        let (Ok(from), Ok(until)) = (from, until) else { continue };
        let ends = relative(&one.not_after, now);
        if now < from {
            let remedy =
                format!("{} is valid from {} only: this machine's clock is behind, set it", one.name, one.not_before);
            output.add("authorities", Finding::Wrong, remedy);
        } else if now >= until {
            output.add("authorities", Finding::Wrong, format!("{} expired {ends}: is the clock right?", one.name));
        } else if until - now < SOON {
            output.add("authorities", Finding::Note, format!("{} expires {ends}: chancery ca show", one.name));
        } else {
            fine.push(format!("{} expires {ends}", one.name));
        }
    }
    if !fine.is_empty() {
        output.add("authorities", Finding::Ok, fine.join(", "));
    }
}

/// A root without a list, or a list that has ended, makes every handshake below it fail.
fn revocation_lists(list: &pb::AuthorityList, now: OffsetDateTime, output: &mut DoctorOutput) {
    const CHECK: &str = "revocation lists";
    let mut fine = Vec::new();
    for one in list.authorities.iter().filter(|one| matches!(one.state.as_str(), "active" | "prepared" | "retiring")) {
        let Some(crl) = &one.crl else {
            let remedy = format!(
                "{} has no CRL: once another authority has one, Envoy refuses everyone below it; restart the server, which \
                 signs one, and look at chancery status",
                one.name
            );
            output.add(CHECK, Finding::Wrong, remedy);
            continue;
        };
        let ends = relative(&crl.next_update, now);
        match crl.state.as_str() {
            "fresh" => fine.push(format!("{} {ends}", one.name)),
            "expired" => {
                let remedy = format!(
                    "the CRL of {} expired {ends}: handshakes with it fail; chancery status says why",
                    one.name
                );
                output.add(CHECK, Finding::Wrong, remedy);
            }
            _ => {
                let remedy = format!(
                    "the CRL of {} ends {ends} and should have been signed again: chancery status says why it was not",
                    one.name
                );
                output.add(CHECK, Finding::Wrong, remedy);
            }
        }
    }
    if !fine.is_empty() {
        output.add(CHECK, Finding::Ok, format!("end: {}", fine.join(", ")));
    }
}

/// A proxy that has not acknowledged a root in force refuses peers below it.
fn bundles(list: &pb::AuthorityList, output: &mut DoctorOutput) {
    const CHECK: &str = "bundle";
    for root in list.authorities.iter().filter(|one| one.level == "root" && one.state == "active") {
        if root.held_by < root.proxies {
            let remedy = format!(
                "{} of {} proxies have acknowledged a bundle with {}: the others refuse peers below it; chancery_sds_* \
                 metrics and Envoy's update_rejected show who refused, a proxy that takes no bundle from here is no fault",
                root.held_by, root.proxies, root.name
            );
            output.add(CHECK, Finding::Note, remedy);
        } else if root.proxies > 0 {
            output.add(CHECK, Finding::Ok, format!("{} is held by all {} proxies", root.name, root.proxies));
        }
    }
}

fn doctor_screen(output: &DoctorOutput, paint: Paint) -> String {
    let mut table = Table::bare();
    for check in &output.checks {
        let finding = match check.finding {
            Finding::Ok => paint.good("ok     "),
            Finding::Note => paint.warn("note   "),
            Finding::Wrong => paint.bad("wrong  "),
            Finding::Skipped => paint.dim("skipped"),
        };
        table.row([finding, check.check.clone(), check.detail.clone()]);
    }
    let end = match output.wrong() {
        0 => "Nothing is wrong. How the server does: chancery status\n".to_owned(),
        1 => "1 thing is wrong; what to do is in its line.\n".to_owned(),
        wrong => format!("{wrong} things are wrong; what to do is in their lines.\n"),
    };
    format!("{}{end}", table.render(""))
}

/// Looks at an Envoy configuration and keeps what it found to itself, for `fuzzing`.
pub(crate) fn look_at_envoy(text: &str) {
    envoy::look_at(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::screen::golden;
    use std::os::unix::fs::PermissionsExt;
    use time::macros::datetime;

    #[test]
    fn each_line_says_what_to_do() {
        let mut output = DoctorOutput::default();
        output.add("data directory", Finding::Ok, "./chancery-data, uid 1000, mode 0700");
        let authority = |name: &str, from: &str, until: &str| pb::Authority {
            name: name.into(),
            state: "active".into(),
            not_before: from.into(),
            not_after: until.into(),
            ..pb::Authority::default()
        };
        let mut list = pb::AuthorityList {
            authorities: vec![
                authority("root 1", "2026-11-24T00:00:00Z", "2036-11-24T00:00:00Z"),
                authority("issuing 1", "2026-11-20T00:00:00Z", "2026-11-25T00:00:00Z"),
                authority("issuing 2", "2026-11-20T00:00:00Z", "2027-02-20T00:00:00Z"),
            ],
        };
        authorities(&list, datetime!(2026-11-23 13:00 UTC), &mut output);
        let crl = |state: &str, next_update: &str| {
            Some(pb::Crl { state: state.into(), next_update: next_update.into(), ..pb::Crl::default() })
        };
        for (one, crl) in list.authorities.iter_mut().zip([
            None,
            crl("expired", "2026-11-23T12:00:00Z"),
            crl("fresh", "2026-11-30T12:00:00Z"),
        ]) {
            one.crl = crl;
        }
        revocation_lists(&list, datetime!(2026-11-23 13:00 UTC), &mut output);
        if let Some(root) = list.authorities.first_mut() {
            (root.level, root.held_by, root.proxies) = ("root".into(), 3, 4);
        }
        bundles(&list, &mut output);
        output.add("server", Finding::Skipped, "no server runs here");
        golden::check("doctor.txt", &doctor_screen(&output, Paint::PLAIN));
    }

    #[test]
    fn files_that_others_can_reach_are_found() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("keys")).unwrap();
        let key = dir.path().join("keys/root-1");
        fs::write(&key, "x").unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        set(&dir.path().join("keys"), 0o700);
        for (mode, expected) in [(0o600, Finding::Ok), (0o640, Finding::Wrong)] {
            set(&key, mode);
            let mut output = DoctorOutput::default();
            files(dir.path(), &mut output);
            assert_eq!(output.checks[0].finding, expected, "{mode:o}");
        }
        set(dir.path(), 0o755);
        let mut output = DoctorOutput::default();
        assert!(directory(dir.path(), &mut output));
        assert!(output.checks[0].detail.contains("chmod 0700"), "{output:?}");
        assert!(!directory(&dir.path().join("absent"), &mut output));
    }
}
