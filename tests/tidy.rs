//! Holds the form of STYLE: every module says what it is for, nothing grows past its bound, nothing secret is in the
//! tree, no second cryptography library comes in, and what a user can set, measure or read in the ledger is documented.

use std::collections::BTreeSet;
use std::path::Path;

use regex::Regex;

use crate::harness::source;

/// Lines of a file, unit tests not counted.
const LONGEST_FILE: usize = 500;

/// Lines of a function.
const LONGEST_FUNCTION: usize = 70;

fn all_rust() -> Vec<std::path::PathBuf> {
    let mut files = source::rust_files("src");
    files.extend(source::rust_files("tests"));
    files.extend(source::files("").into_iter().filter(|path| path == Path::new("build.rs")));
    files
}

fn expect_none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_module_says_what_it_is_for() {
    let undocumented = all_rust().into_iter().filter(|path| {
        let text = source::read(path);
        let words = text.lines().take_while(|line| line.starts_with("//!")).collect::<String>().len();
        words < 20
    });
    expect_none(undocumented.map(|path| format!("{}: does not open with a `//!` text", path.display())).collect());
}

#[test]
fn no_file_outgrows_its_bound() {
    let mut wrong = Vec::new();
    for path in all_rust() {
        let text = source::read(&path);
        let code = source::without_tests(&source::code(&text));
        let tests = source::code(&text)
            .lines()
            .zip(code.lines())
            .filter(|(with, without)| !with.trim().is_empty() && without.trim().is_empty())
            .count();
        let lines = text.lines().count() - tests;
        if lines > LONGEST_FILE {
            wrong.push(format!("{}: {lines} lines, split at {LONGEST_FILE}", path.display()));
        }
    }
    expect_none(wrong);
}

#[test]
fn no_function_outgrows_its_bound() {
    let head = Regex::new(r"\bfn\s+([a-z_0-9]+)").expect("a valid expression");
    let mut wrong = Vec::new();
    for path in all_rust() {
        let code = source::code(&source::read(&path));
        for found in head.captures_iter(&code) {
            let begin = found.get(0).expect("the whole match").start();
            let rest = &code[begin..];
            let (Some(open), end) = (rest.find('{'), rest.find(';').unwrap_or(usize::MAX)) else { continue };
            // `[u8; 32]` in a signature has a semicolon too: a body comes first unless the line ends there.
            if end < open && rest[..end].matches('[').count() == rest[..end].matches(']').count() {
                continue;
            }
            let lines = code[begin..source::closing(&code, begin + open)].lines().count();
            if lines > LONGEST_FUNCTION {
                wrong.push(format!("{}: {} has {lines} lines", path.display(), &found[1]));
            }
        }
    }
    expect_none(wrong);
}

#[test]
fn no_private_key_is_in_the_tree() {
    let pem = Regex::new(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{24,}").expect("a valid expression");
    let mut wrong = Vec::new();
    for path in source::files("") {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if ["key", "p8", "p12", "pfx", "jks"].contains(&extension) {
            wrong.push(format!("{}: looks like a key by its name", path.display()));
        }
        let bytes = std::fs::read(source::root().join(&path)).unwrap_or_default();
        if pem.is_match(&String::from_utf8_lossy(&bytes)) {
            wrong.push(format!("{}: holds a private key", path.display()));
        }
    }
    expect_none(wrong);
}

#[test]
fn one_cryptography_library_and_one_tls_stack() {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--edges", "normal,build,dev", "--prefix", "none"])
        .current_dir(source::root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8_lossy(&output.stdout);
    let names: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    for forbidden in ["ring", "openssl", "openssl-sys", "native-tls", "boring"] {
        assert!(!names.contains(forbidden), "{forbidden} is in the dependency tree: cargo tree -i {forbidden}");
    }
    assert!(names.contains("aws-lc-rs"));
}

/// The names in the first column of the tables of a page, between backticks.
fn first_column(page: &str) -> BTreeSet<String> {
    let row = Regex::new(r"(?m)^\|\s*`([^`]+)`").expect("a valid expression");
    row.captures_iter(&source::read(page)).map(|found| found[1].to_owned()).collect()
}

#[test]
fn every_event_is_documented_and_every_documented_event_exists() {
    let known: BTreeSet<String> =
        chancery::audit::event::Action::ALL.iter().map(|action| action.as_str().to_owned()).collect();
    let documented: BTreeSet<String> =
        first_column("docs/events.md").into_iter().filter(|name| name.contains('.')).collect();
    assert_eq!(documented, known);
}

#[test]
fn every_configuration_key_is_documented_and_every_documented_key_exists() {
    let known: BTreeSet<String> = chancery::config::KEYS.iter().map(chancery::config::Key::path).collect();
    let page = source::read("docs/configuration.md");
    for key in &known {
        assert!(page.contains(key.as_str()), "{key} is not in docs/configuration.md");
    }
    assert_eq!(page, chancery::config::reference::page(), "docs/configuration.md is generated: see its first lines");
}
