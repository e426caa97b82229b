//! Writes what users read about the configuration, from the table of keys: the reference page and the default file.

use std::fmt::Write;

use super::key::{Key, Presence};
use super::keys::{EXAMPLES, KEYS, LISTS, TABLES};
use super::live::LIVE;

/// The columns of the default file's comments.
const WIDTH: usize = 100;

/// docs/configuration.md.
#[must_use]
pub fn page() -> String {
    let mut page = String::from(
        "\
# Configuration

<!-- Written from the code (src/config/keys.rs); a test fails when it is stale. UPDATE_GOLDEN=1 cargo test rewrites it. -->

`chancery server --config chancery.toml` reads one TOML file. `chancery up` needs none: it keeps everything in `--data-dir` and
takes the defaults below for the rest.

```
chancery config default                       prints a file with every key, its meaning and its default
chancery config check --config chancery.toml  all mistakes at once, each with its line and what to write instead
```

- An unknown key is a mistake, and so is a value without its unit: spans of time are texts with `ms`, `s`, `m`, `h`, `d` or `w`, such
  as `\"90s\"`, `\"24h\"` or `\"1h30m\"`.
- Relative paths are meant from the directory of the file.
- With any mistake nothing is started. Exit code 2.
- A running server looks at this file and at the policy every second, and at once after SIGHUP or `chancery reload`. A file with
  mistakes is refused whole and the old one stays. Keys that change without a restart say so; `chancery status` names
  others that were changed.
- This file must not be writable by others than its owner; no key in it is secret.
",
    );
    for (table, about) in TABLES {
        let keys: Vec<&Key> = KEYS.iter().filter(|key| key.table == table).collect();
        if keys.is_empty() {
            continue;
        }
        let _ = write!(
            page,
            "\n## {}\n\n{about}\n",
            if table.is_empty() { "Top level".to_owned() } else { heading(table) }
        );
        for key in keys {
            let _ = write!(page, "\n### `{}`\n\n{}. {}\n\n", key.path(), capital(key.kind), presence(key));
            let live = if is_live(key) { " Changes without a restart." } else { "" };
            let _ = write!(page, "{}{live}\n\nWhen wrong: {}\n", key.text, key.when_wrong);
        }
    }
    page
}

/// A file with every key: the required ones to be changed, the others as comments that show their defaults.
#[must_use]
pub fn default_file() -> String {
    let mut file = String::from(
        "\
# The configuration of a chancery server, with every key. What is commented out shows its default.
# Reference: docs/configuration.md. Check: chancery config check --config FILE
",
    );
    for (table, about) in TABLES {
        let keys: Vec<&Key> = KEYS.iter().filter(|key| key.table == table).collect();
        if keys.is_empty() {
            continue;
        }
        file.push('\n');
        comment(&mut file, about);
        if EXAMPLES.contains(&table) {
            example(&mut file, table, &keys);
            continue;
        }
        if !table.is_empty() {
            let _ = writeln!(file, "{}", heading(table));
        }
        for key in keys {
            file.push('\n');
            comment(&mut file, key.text);
            comment(&mut file, &format!("When wrong: {}", key.when_wrong));
            let line = format!("{} = {}", key.name, key.value());
            let _ = match key.presence {
                Presence::Required(_) => writeln!(file, "{line}"),
                Presence::Default(_) => writeln!(file, "#{line}"),
                Presence::Derived(default, _) => writeln!(file, "# Default: {default}.\n#{line}"),
                Presence::Off(_) => writeln!(file, "# Off when left out.\n#{line}"),
            };
        }
    }
    file
}

/// An entry of a list that is empty by default, as a comment from its heading on.
fn example(file: &mut String, table: &str, keys: &[&Key]) {
    let _ = writeln!(file, "# {}", heading(table));
    for key in keys {
        file.push('\n');
        comment(file, key.text);
        comment(file, &format!("When wrong: {}", key.when_wrong));
        let _ = writeln!(file, "# {} = {}", key.name, key.value());
    }
}

fn is_live(key: &Key) -> bool {
    LIVE.contains(&key.table) || LIVE.contains(&key.path().as_str())
}

fn heading(table: &str) -> String {
    if LISTS.contains(&table) { format!("[[{table}]]") } else { format!("[{table}]") }
}

fn presence(key: &Key) -> String {
    match key.presence {
        Presence::Required(example) => format!("Required, such as `{example}`."),
        Presence::Default(value) => format!("Default `{value}`."),
        Presence::Derived(default, example) => format!("Default {default}; otherwise such as `{example}`."),
        Presence::Off(example) => format!("Off when left out; otherwise such as `{example}`."),
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Writes `text` as comment lines of at most [`WIDTH`].
fn comment(out: &mut String, text: &str) {
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            out.push_str(&line);
            out.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
}
