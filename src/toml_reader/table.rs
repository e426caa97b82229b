//! One table of a document: typed values out, mistakes noted.

use std::cell::RefCell;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Document, Problem, SpanError, did_you_mean, parse_span};

/// A table whose values are asked for by key. Asking for a key makes it known; [`Table::done`] notes the others.
#[derive(Debug)]
pub struct Table<'d, 't> {
    document: &'d Document<'t>,
    /// How the table is called in mistakes: `sds.listen`, or `rule "payments"`.
    label: RefCell<String>,
    /// Where it stands among the documented keys.
    path: String,
    line: usize,
    values: Option<&'d DeTable<'t>>,
    known: RefCell<Vec<&'static str>>,
}

/// One value, with its place.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'d, 't> {
    value: &'d Spanned<DeValue<'t>>,
}

impl<'d> Entry<'d, '_> {
    /// The text, when it is one.
    #[must_use]
    pub fn text(&self) -> Option<&'d str> {
        self.value.get_ref().as_str()
    }

    /// The whole number, when it is one.
    #[must_use]
    pub fn integer(&self) -> Option<i64> {
        let integer = self.value.get_ref().as_integer()?;
        i64::from_str_radix(integer.as_str(), integer.radix()).ok()
    }

    /// The number, whole or not.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        let value = self.value.get_ref();
        match (value.as_float(), value.as_integer()) {
            (Some(float), _) => float.as_str().parse().ok(),
            (None, Some(integer)) => integer.as_str().parse().ok(),
            (None, None) => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self.value.get_ref() {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        }
    }
}

impl<'d, 't> Table<'d, 't> {
    pub(super) fn new(document: &'d Document<'t>, path: String, line: usize, values: &'d DeTable<'t>) -> Self {
        let label = RefCell::new(path.clone());
        Self { document, label, path, line, values: Some(values), known: RefCell::default() }
    }

    /// The line where it begins; 0 for the top level and for a table that is not there.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }

    /// Whether the file has a value for `key`, of any type. Does not make the key known.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.values.is_some_and(|values| values.contains_key(key))
    }

    /// Whether it has no keys at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_none_or(DeTable::is_empty)
    }

    /// How mistakes in it are called from now on, such as `rule "payments"`.
    pub fn call(&self, label: &str) {
        label.clone_into(&mut self.label.borrow_mut());
    }

    /// The value of `key`, of any type.
    #[must_use]
    pub fn entry(&self, key: &'static str) -> Option<Entry<'d, 't>> {
        let mut known = self.known.borrow_mut();
        if !known.contains(&key) {
            known.push(key);
        }
        self.document.asked.borrow_mut().insert(self.path_of(key));
        self.values?.get(key).map(|value| Entry { value })
    }

    /// A text.
    #[must_use]
    pub fn text(&self, key: &'static str) -> Option<&'d str> {
        let entry = self.entry(key)?;
        let text = entry.text();
        if text.is_none() {
            self.wrong_type(key, entry, "a text in quotes");
        }
        text
    }

    /// A text that must be there; `example` is a line that would do.
    #[must_use]
    pub fn required_text(&self, key: &'static str, example: &str) -> Option<&'d str> {
        self.required(key, example, Ok::<_, Problem>)
    }

    /// A text that must be there and that `read` turns into a value; `example` is a line that would do.
    pub fn required<T, E: Display>(
        &self,
        key: &'static str,
        example: &str,
        read: impl FnOnce(&'d str) -> Result<T, E>,
    ) -> Option<T> {
        let value = self.parsed(key, read);
        if !self.has(key) {
            self.document.note(self.line, self.name_of(key), &Problem::Missing { example: example.to_owned() });
        }
        value
    }

    /// A text that `read` turns into a value.
    pub fn parsed<T, E: Display>(&self, key: &'static str, read: impl FnOnce(&'d str) -> Result<T, E>) -> Option<T> {
        let text = self.text(key)?;
        read(text).map_err(|problem| self.note(key, &problem)).ok()
    }

    /// A span of time with its unit, within `bounds`.
    #[must_use]
    pub fn span(&self, key: &'static str, bounds: RangeInclusive<Duration>) -> Option<Duration> {
        let entry = self.entry(key)?;
        let read = match (entry.text(), entry.integer()) {
            (Some(text), _) => parse_span(text),
            (None, Some(number)) => Err(SpanError::NoUnit { number: number.to_string() }),
            (None, None) => {
                self.wrong_type(key, entry, "a text such as \"24h\"");
                return None;
            }
        };
        let span = read.map_err(|problem| self.note(key, &problem)).ok()?;
        if bounds.contains(&span) {
            return Some(span);
        }
        let quoted = |span: &Duration| format!("\"{}\"", super::render_span(*span));
        self.note(key, &Problem::OutOfRange { least: quoted(bounds.start()), most: quoted(bounds.end()) });
        None
    }

    /// A whole number within `bounds`.
    #[must_use]
    pub fn integer(&self, key: &'static str, bounds: RangeInclusive<u32>) -> Option<u32> {
        let entry = self.entry(key)?;
        let Some(number) = entry.integer() else {
            self.wrong_type(key, entry, "a whole number");
            return None;
        };
        let within = u32::try_from(number).ok().filter(|number| bounds.contains(number));
        if within.is_none() {
            let (least, most) = (bounds.start().to_string(), bounds.end().to_string());
            self.note(key, &Problem::OutOfRange { least, most });
        }
        within
    }

    /// `true` or `false`.
    #[must_use]
    pub fn flag(&self, key: &'static str) -> Option<bool> {
        let entry = self.entry(key)?;
        let flag = entry.value.get_ref().as_bool();
        if flag.is_none() {
            self.wrong_type(key, entry, "true or false without quotes");
        }
        flag
    }

    /// A number within `bounds`.
    #[must_use]
    pub fn number(&self, key: &'static str, bounds: RangeInclusive<f64>) -> Option<f64> {
        let entry = self.entry(key)?;
        let Some(number) = entry.number() else {
            self.wrong_type(key, entry, "a number such as 0.5");
            return None;
        };
        if bounds.contains(&number) {
            return Some(number);
        }
        let (least, most) = (bounds.start().to_string(), bounds.end().to_string());
        self.note(key, &Problem::OutOfRange { least, most });
        None
    }

    /// One of `choices` by its word.
    #[must_use]
    pub fn choice<T: Copy>(&self, key: &'static str, choices: &[(&'static str, T)]) -> Option<T> {
        let text = self.text(key)?;
        self.chosen(text, choices).map_err(|problem| self.note(key, &problem)).ok()
    }

    /// A list of words out of `choices`; one word alone is a list of one.
    #[must_use]
    pub fn choices<T: Copy>(&self, key: &'static str, choices: &[(&'static str, T)]) -> Option<Vec<T>> {
        let entries = self.list(key)?;
        let mut chosen = Vec::new();
        for entry in entries {
            match entry.text().map(|text| self.chosen(text, choices)) {
                Some(Ok(choice)) => chosen.push(choice),
                Some(Err(problem)) => self.note_entry(key, entry, &problem),
                None => self.wrong_type(key, entry, "a text in quotes"),
            }
        }
        Some(chosen)
    }

    fn chosen<T: Copy>(&self, text: &str, choices: &[(&'static str, T)]) -> Result<T, Problem> {
        if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == text) {
            return Ok(*choice);
        }
        let words = choices.iter().map(|(word, _)| *word);
        Err(match did_you_mean(text, words.clone()) {
            Some(suggestion) => Problem::UnknownChoiceLike { suggestion: suggestion.to_owned() },
            None => Problem::UnknownChoice { known: words.collect::<Vec<_>>().join(", ") },
        })
    }

    /// The values of a list; a value alone is a list of one.
    #[must_use]
    pub fn list(&self, key: &'static str) -> Option<Vec<Entry<'d, 't>>> {
        let entry = self.entry(key)?;
        Some(match entry.value.get_ref().as_array() {
            Some(array) => array.iter().map(|value| Entry { value }).collect(),
            None => vec![entry],
        })
    }

    /// A list of texts; a text alone is a list of one.
    #[must_use]
    pub fn texts(&self, key: &'static str) -> Option<Vec<(Entry<'d, 't>, &'d str)>> {
        let mut texts = Vec::new();
        for entry in self.list(key)? {
            match entry.text() {
                Some(text) => texts.push((entry, text)),
                None => self.wrong_type(key, entry, "a text in quotes"),
            }
        }
        Some(texts)
    }

    /// The table below `key`; one without values when it is not there.
    #[must_use]
    pub fn table(&self, key: &'static str) -> Table<'d, 't> {
        let entry = self.entry(key);
        let values = entry.and_then(|entry| entry.value.get_ref().as_table());
        if let (Some(entry), None) = (entry, values) {
            self.wrong_type(key, entry, "a table");
        }
        let line = entry.map_or(0, |entry| self.document.line_at(entry.value.span().start));
        let label = RefCell::new(self.name_of(key));
        Table { document: self.document, label, path: self.path_of(key), line, values, known: RefCell::default() }
    }

    /// The tables of `[[key]]`, in order.
    #[must_use]
    pub fn tables(&self, key: &'static str) -> Vec<Table<'d, 't>> {
        let Some(entry) = self.entry(key) else { return Vec::new() };
        let Some(array) = entry.value.get_ref().as_array() else {
            self.note(key, &Problem::WrongType { wanted: "a list of tables, each under [[…]],", found: entry.kind() });
            return Vec::new();
        };
        let mut tables = Vec::new();
        for value in array {
            match value.get_ref().as_table() {
                Some(values) => {
                    let line = self.document.line_at(value.span().start);
                    let table = Table::new(self.document, self.path_of(key), line, values);
                    table.call(&self.name_of(key));
                    tables.push(table);
                }
                None => self.wrong_type(key, Entry { value }, "a table"),
            }
        }
        tables
    }

    /// Notes a mistake in the value of `key`.
    pub fn note(&self, key: &str, problem: &dyn Display) {
        match self.values.and_then(|values| values.get(key)) {
            Some(value) if value.get_ref().as_table().is_none() => self.note_entry(key, Entry { value }, problem),
            Some(value) => {
                let line = self.document.line_at(value.span().start);
                self.document.note(line, self.name_of(key), problem);
            }
            None => self.document.note(self.line, self.name_of(key), problem),
        }
    }

    /// Notes a mistake in one value of the list at `key`.
    pub fn note_entry(&self, key: &str, entry: Entry<'_, '_>, problem: &dyn Display) {
        let line = self.document.line_at(entry.value.span().start);
        let place = format!("{} {}", self.name_of(key), self.document.written(entry.value));
        self.document.note(line, place, problem);
    }

    /// Notes a mistake about the table as a whole.
    pub fn note_whole(&self, problem: &dyn Display) {
        self.document.note(self.line, self.label.borrow().clone(), problem);
    }

    /// Notes that a value has the wrong type.
    pub fn wrong_type(&self, key: &str, entry: Entry<'_, '_>, wanted: &'static str) {
        self.note_entry(key, entry, &Problem::WrongType { wanted, found: entry.kind() });
    }

    /// Notes every key that was not asked for.
    pub fn done(&self) {
        let known = self.known.borrow();
        for (key, value) in self.values.into_iter().flatten() {
            let word: &str = key.get_ref();
            if known.contains(&word) {
                continue;
            }
            let problem = match did_you_mean(word, known.iter().copied()) {
                Some(suggestion) => Problem::UnknownKeyLike { suggestion: self.name_of(suggestion) },
                None => Problem::UnknownKey { known: known.join(", ") },
            };
            // The key's own place, not its value's: a table's value spans lines that are right.
            let line = self.document.line_at(key.span().start.min(value.span().start));
            self.document.note(line, self.name_of(word), &problem);
        }
    }

    fn name_of(&self, key: &str) -> String {
        let label = self.label.borrow();
        match label.as_str() {
            "" => key.to_owned(),
            // A label in words ("rule 2") is followed by the key; a path by a dot, and so is a key below such a label.
            words if words.rsplit(' ').next().is_some_and(|last| last.parse::<usize>().is_ok()) => {
                format!("{words} {key}")
            }
            path => format!("{path}.{key}"),
        }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}
