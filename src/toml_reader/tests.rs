//! Each kind of mistake, and that one file's mistakes come all at once.

use std::time::Duration;

use super::*;

/// Reads a small made-up file and gives the screen of its mistakes.
fn screen(text: &str) -> String {
    let document = Document::parse(text);
    let root = document.root();
    let _ = root.required_text("name", "name = \"a\"");
    let vault = root.table("vault");
    let _ = vault.text("address");
    let _ = vault.span("timeout", Duration::from_secs(1)..=Duration::from_secs(60));
    let _ = vault.integer("retries", 0..=9);
    let _ = vault.choice("mode", &[("transit", 1), ("pki", 2)]);
    vault.done();
    for rule in root.tables("rule") {
        rule.call("rule 1");
        let _ = rule.number("part", 0.0..=1.0);
        let _ = rule.choices("key", &[("p256", 1), ("p384", 2)]);
        rule.done();
    }
    root.done();
    document.finish("some.toml").map_or_else(|mistakes| mistakes.to_string(), |()| "fine".to_owned())
}

fn check(text: &str, expected: &str) {
    assert_eq!(screen(text), expected, "{text}");
}

#[test]
fn a_right_file_has_none() {
    check("name = \"a\"\n[vault]\naddress = \"b\"\ntimeout = \"5s\"\n[[rule]]\npart = 1\nkey = \"p256\"", "fine");
}

#[test]
fn all_mistakes_come_at_once_with_line_and_remedy() {
    let text = "\
[vault]
adress = \"https://vault\"
timeout = \"90\"
retries = 10
mode = \"transitt\"

[[rule]]
part = 1.5
key = [\"p256\", \"p-384\", 7]
colour = \"blue\"
";
    check(
        text,
        "\
9 mistakes in some.toml
  file     name                   missing: write name = \"a\"
  line 2   vault.adress           unknown key; did you mean vault.address?
  line 3   vault.timeout \"90\"     no unit: write \"90s\" for seconds (ms, s, m, h, d and w are known)
  line 4   vault.retries 10       out of range: write 0 to 9
  line 5   vault.mode \"transitt\"  unknown value; did you mean \"transit\"?
  line 8   rule 1 part 1.5        out of range: write 0 to 1
  line 9   rule 1 key \"p-384\"     unknown value; did you mean \"p384\"?
  line 9   rule 1 key 7           this is a whole number, but a text in quotes is needed
  line 10  rule 1 colour          unknown key; known here: part, key",
    );
}

#[test]
fn types_and_bounds_are_told() {
    check(
        "name = 3\nvault = 4\nrule = 5",
        "3 mistakes in some.toml
  line 1  name 3   this is a whole number, but a text in quotes is needed
  line 2  vault 4  this is a whole number, but a table is needed
  line 3  rule 5   this is a whole number, but a list of tables, each under [[…]], is needed",
    );
    check(
        "name = \"a\"\nvault.timeout = 5",
        "1 mistake in some.toml
  line 2  vault.timeout 5  no unit: write \"5s\" for seconds (ms, s, m, h, d and w are known)",
    );
    check(
        "name = \"a\"\nvault.timeout = \"2m\"",
        "1 mistake in some.toml
  line 2  vault.timeout \"2m\"  out of range: write \"1s\" to \"1m\"",
    );
}

#[test]
fn what_is_no_toml_is_told_alone() {
    check(
        "nam = \"a\"\n[vault]\ntimeout = 24h # a day\naddress = \"b\n",
        "2 mistakes in some.toml
  line 3  timeout = 24h # a day  a value with a unit is a text: write it in quotes, \"24h\"
  line 4  address = \"b           invalid basic string, expected `\"`",
    );
}

#[test]
fn words_are_offered_only_when_they_are_like() {
    assert_eq!(did_you_mean("adress", ["address", "mode"]), Some("address"));
    assert_eq!(did_you_mean("zzz", ["address", "mode"]), None);
}
