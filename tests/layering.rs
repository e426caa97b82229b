//! Holds the layers of ARCHITECTURE.md: a module names its own layer or lower, never a higher one; a file that is in no
//! layer fails. And two rules that keep the street one-way: who may name the port that signs, and who may open a
//! `Recorded`. Paths are found in the text (`crate::…`, `super::…`), unit tests left out: those may look upwards.

use std::path::Path;

use crate::harness::source;

/// Each module and its layer; the longest matching path wins.
const LAYERS: [(&str, u8); 37] = [
    // 0 ground: the only places that read time, take random bytes, hold secrets, spawn tasks
    ("clock", 0),
    ("golden", 0),
    ("entropy", 0),
    ("secret", 0),
    ("tasks", 0),
    // 1 words
    ("identity", 1),
    ("caller", 1),
    ("merkle", 1),
    ("toml_reader", 1),
    ("audit::event", 1),
    ("proto", 1),
    // 2 rules: no IO, no async, no clock
    ("x509", 2),
    ("policy", 2),
    // 3 ports and their adapters
    ("keys", 3),
    ("upstream", 3),
    ("store", 3),
    ("attest", 3),
    // 4 domain
    ("audit", 4),
    ("ca", 4),
    ("approval", 4),
    ("breakglass", 4),
    // 5 behaviour
    ("revocation", 5),
    ("rotation", 5),
    ("feed", 5),
    ("alert", 5),
    // 6 edges
    ("api", 6),
    ("agent", 6),
    ("kubernetes", 6),
    ("sinks", 6),
    // 7 wiring
    ("config", 7),
    ("telemetry", 7),
    ("app", 7),
    ("cli", 7),
    ("simulation", 7),
    ("fuzzing", 7),
    ("main", 7),
    ("lib", 7),
];

/// Modules outside `keys` and the wiring that may name `keys::Signer`.
const MAY_SIGN: [&str; 2] = ["ca::sign", "audit::ledger"];

/// Modules that may take a `Recorded` apart.
const MAY_OPEN_RECORDED: [&str; 2] = ["audit::ledger", "ca::sign"];

/// `src/audit/event.rs` is `audit::event`, `src/audit/mod.rs` is `audit`.
fn module(path: &Path) -> Vec<String> {
    let relative = path.strip_prefix("src").expect("a source file").with_extension("");
    let mut parts: Vec<String> =
        relative.iter().map(|part| part.to_str().expect("an ASCII file name").to_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

fn is_within(module: &str, ancestor: &str) -> bool {
    module.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn layer(module: &str) -> Option<u8> {
    LAYERS
        .iter()
        .filter(|(name, _)| is_within(module, name))
        .max_by_key(|(name, _)| name.len())
        .map(|(_, layer)| *layer)
}

/// The paths that a use tree or an expression names, from the text after `crate::`.
fn tree(text: &str, prefix: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let bytes = text.as_bytes();
    let mut at = text.len() - text.trim_start().len();
    if bytes.get(at) == Some(&b'{') {
        at += 1;
        while at < bytes.len() && bytes[at] != b'}' {
            if bytes[at].is_ascii_whitespace() || bytes[at] == b',' {
                at += 1;
            } else {
                at += tree(&text[at..], prefix, found).max(1);
            }
        }
        return at + 1;
    }
    let word: String = text[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_' || *c == '*').collect();
    at += word.len();
    if word.is_empty() {
        return at;
    }
    let path: Vec<String> = prefix.iter().cloned().chain([word]).collect();
    if text[at..].starts_with("::") && !text[at..].starts_with("::<") {
        return at + 2 + tree(&text[at + 2..], &path, found);
    }
    found.push(path);
    // `use a as b` names a.
    let rest = text[at..].trim_start();
    if let Some(renamed) = rest.strip_prefix("as ") {
        at = text.len() - renamed.len();
        at += renamed.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').count();
    }
    at
}

/// Every module path that `code`, a part of `module`, names within this crate.
fn named(module: &[String], code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if !code[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$') {
            tree(&code[at + "crate::".len()..], &[], &mut found);
        }
    }
    for (at, _) in code.match_indices("super::") {
        if code[..at].ends_with("super::") || code[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
            continue;
        }
        let mut base = module.to_vec();
        let mut rest = &code[at..];
        while let Some(next) = rest.strip_prefix("super::") {
            base.pop();
            rest = next;
        }
        tree(rest, &base, &mut found);
    }
    found.into_iter().map(|path| path.join("::")).collect()
}

#[test]
fn every_module_names_its_own_layer_or_lower() {
    let mut wrong = Vec::new();
    for path in source::rust_files("src") {
        let parts = module(&path);
        let name = parts.join("::");
        if name.ends_with("tests") {
            continue;
        }
        let Some(own) = layer(&name) else {
            wrong.push(format!("{}: in no layer; add it to LAYERS and to ARCHITECTURE.md", path.display()));
            continue;
        };
        let code = source::without_tests(&source::code(&source::read(&path)));
        for other in named(&parts, &code) {
            if let Some(its) = layer(&other)
                && its > own
            {
                wrong.push(format!("{}: layer {own} names {other}, layer {its}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn only_the_signing_step_names_the_port_that_signs() {
    let mut wrong = Vec::new();
    for path in source::rust_files("src") {
        let parts = module(&path);
        let name = parts.join("::");
        let allowed = is_within(&name, "keys")
            || layer(&name) == Some(7)
            || MAY_SIGN.iter().any(|allowed| is_within(&name, allowed))
            || name.ends_with("tests");
        if allowed {
            continue;
        }
        let code = source::without_tests(&source::code(&source::read(&path)));
        if named(&parts, &code).iter().any(|named| named == "keys::Signer" || named == "keys::*") {
            wrong.push(format!("{}: names keys::Signer", path.display()));
        }
    }
    assert!(wrong.is_empty(), "only {MAY_SIGN:?}, keys and the wiring may:\n{}", wrong.join("\n"));
}

#[test]
fn only_the_signing_step_opens_what_the_ledger_recorded() {
    let mut wrong = Vec::new();
    for path in source::rust_files("src") {
        let name = module(&path).join("::");
        let code = source::without_tests(&source::code(&source::read(&path)));
        let allowed = MAY_OPEN_RECORDED.iter().any(|allowed| is_within(&name, allowed));
        if !allowed && code.contains("Recorded") && code.contains(".into_parts()") {
            wrong.push(format!("{}: takes a Recorded apart", path.display()));
        }
    }
    assert!(wrong.is_empty(), "only {MAY_OPEN_RECORDED:?} may:\n{}", wrong.join("\n"));
}

#[test]
fn the_rules_do_no_io_and_ask_no_time() {
    const FORBIDDEN: [&str; 7] =
        ["std::fs", "std::net", "tokio::", "async fn", "SystemTime", "Instant::now", "crate::clock::SystemClock"];
    let mut wrong = Vec::new();
    for path in source::rust_files("src") {
        if layer(&module(&path).join("::")) != Some(2) || path.ends_with("tests.rs") {
            continue;
        }
        let code = source::without_tests(&source::code(&source::read(&path)));
        for word in FORBIDDEN {
            if code.contains(word) {
                wrong.push(format!("{}: contains {word}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "layer 2 is pure; `now` is an argument:\n{}", wrong.join("\n"));
}

#[test]
fn the_longest_path_wins_and_use_trees_are_read() {
    assert_eq!(layer("audit::event"), Some(1));
    assert_eq!(layer("audit::ledger::writer"), Some(4));
    assert_eq!(layer("auditor"), None);
    let module = ["feed".to_owned(), "stream".to_owned()];
    let code = "use crate::{audit::{event::Event, ledger::*}, ca as authority};\nlet x = crate::api::sds::serve::<T>(1); \
                super::super::cli::run(); use super::entry::Entry;";
    let expected =
        ["audit::event::Event", "audit::ledger::*", "ca", "api::sds::serve", "cli::run", "feed::entry::Entry"];
    assert_eq!(named(&module, code), expected);
}
