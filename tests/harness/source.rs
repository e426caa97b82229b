//! Reads the repository's own sources for the tests on form: which files there are, and their code without comments,
//! strings and unit tests. It never parses more of Rust than that needs.

use std::path::{Path, PathBuf};

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `directory` (relative to the repository), relative to the repository, sorted; build output and
/// what git ignores is left out.
pub fn files(directory: &str) -> Vec<PathBuf> {
    const IGNORED: [&str; 5] = ["target", ".components", ".git", "chancery-data", "__pycache__"];
    let mut found = Vec::new();
    let mut open = vec![root().join(directory)];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten() {
            let path = entry.expect("a directory entry").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() {
                if !IGNORED.contains(&name) {
                    open.push(path);
                }
            } else {
                found.push(path.strip_prefix(root()).expect("below the repository").to_owned());
            }
        }
    }
    found.sort();
    found
}

/// The Rust files below `directory`.
pub fn rust_files(directory: &str) -> Vec<PathBuf> {
    files(directory).into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// The text of a file of the repository.
pub fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Where a skipped piece of text ends, and whether any of it is kept.
fn skipped(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let before_is_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest.starts_with(b"//") {
        return Some(at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()));
    }
    if rest.starts_with(b"/*") {
        let end = rest.windows(2).position(|pair| pair == b"*/").map_or(rest.len(), |end| end + 2);
        return Some(at + end);
    }
    if !before_is_word && (rest.starts_with(b"r\"") || rest.starts_with(b"r#") || rest.starts_with(b"br")) {
        let hashes =
            rest.iter().skip_while(|byte| matches!(byte, b'b' | b'r')).take_while(|byte| **byte == b'#').count();
        let open = rest.iter().position(|byte| *byte == b'"')?;
        if open <= hashes + 2 && rest[..open].iter().all(|byte| matches!(byte, b'b' | b'r' | b'#')) {
            let close = [b"\"".as_slice(), "#".repeat(hashes).as_bytes()].concat();
            let end = rest[open + 1..].windows(close.len()).position(|window| window == close)?;
            return Some(at + open + 1 + end + close.len());
        }
    }
    if rest[0] == b'"' {
        let mut end = 1;
        while end < rest.len() && rest[end] != b'"' {
            end += if rest[end] == b'\\' { 2 } else { 1 };
        }
        return Some(at + (end + 1).min(rest.len()));
    }
    if rest[0] == b'\'' && rest.len() > 2 {
        // A character, unless it is a lifetime: 'a without a closing quote.
        let end = if rest[1] == b'\\' {
            rest.iter().skip(3).position(|byte| *byte == b'\'').map(|end| end + 4)
        } else {
            rest.iter()
                .skip(1)
                .take(6)
                .position(|byte| *byte == b'\'')
                .filter(|end| *end > 0)
                .map(|end| end + 2)
                .filter(|end| std::str::from_utf8(&rest[1..end - 1]).is_ok_and(|text| text.chars().count() == 1))
        };
        return end.map(|end| at + end);
    }
    None
}

/// The code of a Rust text: comments, strings and characters become spaces, lines stay where they were.
pub fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut kept = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if let Some(end) = skipped(bytes, at) {
            kept.extend(bytes[at..end].iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }));
            at = end;
        } else {
            kept.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(kept).expect("only whole characters were replaced")
}

/// The position after the bracket that closes the one at `open`.
pub fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (offset, byte) in code.as_bytes()[open..].iter().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return open + offset + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// `code` without its `#[cfg(test)] mod … { … }` blocks (lines stay where they were).
pub fn without_tests(code: &str) -> String {
    let mut kept = code.to_owned();
    let mut from = 0;
    while let Some(found) = kept[from..].find("#[cfg(test)]").map(|found| found + from) {
        let rest = &kept[found..];
        let open = rest.find('{').unwrap_or(usize::MAX);
        let end = if rest.find(';').is_some_and(|semicolon| semicolon < open) || open == usize::MAX {
            found + "#[cfg(test)]".len()
        } else {
            closing(&kept, found + open)
        };
        let blank: String = kept[found..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        kept.replace_range(found..end, &blank);
        from = end;
    }
    kept
}

#[test]
fn code_leaves_out_comments_strings_and_tests() {
    let text = "use a; // crate::x\nlet s = \"crate::y {\"; let c = '{'; fn f<'a>() {}\n#[cfg(test)]\nmod tests { crate::z }\n\
                let r = r#\"crate::q\"#; let e = '\\n'; let u = 'é';";
    let code = without_tests(&code(text));
    assert!(!code.contains("crate::"), "{code}");
    assert!(code.contains("fn f<'a>() {}") && code.contains("let u ="), "{code}");
    assert_eq!(code.lines().count(), text.lines().count());
}
