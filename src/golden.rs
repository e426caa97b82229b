//! Golden files for unit tests: screens, pages and dumps that people see, held word for word.
//!
//! A test calls [`check`] with what the code makes; `UPDATE_GOLDEN=1 cargo test --lib` writes it instead, and `git diff`
//! shows what a reader will notice. Not part of the program.

/// Compares `found` with a file of the repository, named from its root, or writes it when `UPDATE_GOLDEN` is set.
pub(crate) fn check(path: &str, found: &str) {
    let whole = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&whole, found).unwrap();
    }
    let expected = std::fs::read_to_string(&whole).unwrap_or_default();
    assert_eq!(found, expected, "{path} differs: look at it, then run with UPDATE_GOLDEN=1");
}
