//! The one version of a state-of-the-world response, where a stream has several secrets.
//!
//! That protocol has one version for all that a stream carries, and a client that reconnects says it back: the only word
//! about what it still holds. A stream of one secret says that secret's version as it is. One of several says the
//! version of each, marked with the start of the hash of its name (`4f1d0e22=VERSION+…`), so that after a restart of ours
//! each secret is known again and no certificate is issued anew. Beyond [`MOST`] secrets it would be repeated in too many
//! bytes with each acknowledgement; the newest secret's version alone is said then, and the others are sent again after a
//! reconnect. Delta needs none of this.

use std::fmt::Write;

use aws_lc_rs::digest;

/// The longest version that can be one of ours, in bytes.
const LONGEST: usize = 256;

/// Secrets whose versions are said in one.
const MOST: usize = 32;

/// Bytes of a name's hash that mark its version.
const MARK: usize = 4;

/// Whether a client could have it from us: a longer one is another control plane's, as good as none.
pub(super) fn is_ours(version: &str) -> bool {
    (1..=LONGEST).contains(&version.len())
}

/// The version to say for `newest`, of a stream that holds `held` (name and version, `newest` among them).
pub(super) fn join<'a>(newest: &'a str, held: impl ExactSizeIterator<Item = (&'a str, &'a str)>) -> String {
    if !(2..=MOST).contains(&held.len()) {
        return newest.to_owned();
    }
    let mut out = String::new();
    for (name, version) in held {
        let separator = if out.is_empty() { "" } else { "+" };
        // Writing to a String cannot fail.
        let _ = write!(out, "{separator}{}={version}", mark(name));
    }
    out
}

/// What `said` says about `name`.
pub(super) fn of<'a>(said: &'a str, name: &str) -> Option<&'a str> {
    if said.len() > MOST * (LONGEST + 2 * MARK + 2) {
        return None;
    }
    if !said.contains('=') {
        return Some(said).filter(|version| is_ours(version));
    }
    let mark = mark(name);
    let marked = said.split('+').filter_map(|part| part.split_once('='));
    marked.filter(|(of, version)| *of == mark && is_ours(version)).map(|(_, version)| version).next()
}

fn mark(name: &str) -> String {
    let hash = digest::digest(&digest::SHA256, name.as_bytes());
    hex::encode(hash.as_ref().get(..MARK).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_joined_version_is_read_back_for_each_name() {
        let held = [("default", "aa"), ("ROOTCA", "bb")];
        let joined = join("bb", held.into_iter());
        assert_eq!(joined, "37a8eec1=aa+9e0f1a89=bb");
        for (name, version) in held {
            assert_eq!(of(&joined, name), Some(version));
        }
        assert_eq!(of(&joined, "ALL"), None);
    }

    #[test]
    fn one_secret_and_very_many_are_said_as_they_are() {
        assert_eq!(join("aa", [("default", "aa")].into_iter()), "aa");
        let names: Vec<String> = (0..=MOST).map(|number| number.to_string()).collect();
        assert_eq!(join("aa", names.iter().map(|name| (name.as_str(), "aa")).collect::<Vec<_>>().into_iter()), "aa");
        assert_eq!(of("aa", "any"), Some("aa"));
    }

    #[test]
    fn what_is_not_ours_says_nothing() {
        for foreign in ["", &"v".repeat(LONGEST + 1), "=", "+=+", &format!("{}=", mark("default"))] {
            assert_eq!(of(foreign, "default"), None, "{foreign}");
        }
        assert_eq!(of(&"37a8eec1=a+".repeat(10_000), "default"), None);
    }

    use std::collections::BTreeMap;

    use proptest::prelude::*;

    /// What a stream may hold: versions are hashes in hex, names whatever a client may ask for.
    fn held() -> impl Strategy<Value = BTreeMap<String, String>> {
        proptest::collection::btree_map("[ -~]{1,40}", "[0-9a-f]{64}", 1..MOST)
    }

    fn said(held: &BTreeMap<String, String>) -> String {
        let newest = held.values().next_back().unwrap();
        join(newest, held.iter().map(|(name, version)| (name.as_str(), version.as_str())))
    }

    proptest! {
        #[test]
        fn whatever_is_held_is_known_again_and_nothing_else(held in held(), other in "[ -~]{1,40}") {
            let said = said(&held);
            for (name, version) in &held {
                prop_assert_eq!(of(&said, name), Some(version.as_str()));
            }
            prop_assume!(held.len() > 1 && !held.contains_key(&other));
            prop_assert_eq!(of(&said, &other), None);
        }

        #[test]
        fn equal_contents_and_only_those_have_equal_versions(one in held(), two in held(), name in any::<prop::sample::Index>()) {
            let mut changed = one.clone();
            let name = one.keys().nth(name.index(one.len())).unwrap();
            changed.insert(name.clone(), "00".repeat(32));
            prop_assert_eq!(said(&one), said(&one.clone()));
            for other in [two, changed] {
                // A stream of one secret says that secret's version, whatever its name.
                let same = one == other || one.len() == 1 && one.values().eq(other.values());
                prop_assert_eq!(said(&one) == said(&other), same);
            }
        }

        #[test]
        fn foreign_words_are_no_version_of_two_names(said in "[ -~]{0,600}") {
            let (one, two) = (of(&said, "default"), of(&said, "ROOTCA"));
            prop_assert!(one.is_none_or(is_ours) && two.is_none_or(is_ours));
            prop_assert!(!said.contains('=') || one.is_none() || two.is_none() || said.contains('+'));
        }
    }
}
