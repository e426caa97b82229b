//! What is said of one configuration key: its place, its kind, its default, and what happens when it is wrong.

/// Whether a key must be written, and what holds when it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Must be written; an example.
    Required(&'static str),
    /// May be left out; the default, as it would be written.
    Default(&'static str),
    /// May be left out, and then the default is made of other keys; that, in words, and an example.
    Derived(&'static str, &'static str),
    /// May be left out, and then there is no such thing; an example.
    Off(&'static str),
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// The table it is in, without brackets; empty for the top level.
    pub table: &'static str,
    /// Its name in that table.
    pub name: &'static str,
    /// What kind of value it takes, in words.
    pub kind: &'static str,
    /// Whether it must be written.
    pub presence: Presence,
    /// What it does.
    pub text: &'static str,
    /// What happens when it is wrong, lost or known to others.
    pub when_wrong: &'static str,
}

impl Key {
    /// The key with its table: `http.listen`.
    #[must_use]
    pub fn path(&self) -> String {
        if self.table.is_empty() { self.name.to_owned() } else { format!("{}.{}", self.table, self.name) }
    }

    /// The value that is shown in the default file.
    #[must_use]
    pub fn value(&self) -> &'static str {
        match self.presence {
            Presence::Required(value)
            | Presence::Default(value)
            | Presence::Derived(_, value)
            | Presence::Off(value) => value,
        }
    }
}

/// Makes one entry of the table.
pub(super) const fn key(
    table: &'static str,
    name: &'static str,
    kind: &'static str,
    presence: Presence,
    text: &'static str,
    when_wrong: &'static str,
) -> Key {
    Key { table, name, kind, presence, text, when_wrong }
}
