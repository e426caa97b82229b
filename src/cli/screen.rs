//! What people and scripts see: tables, relative times, colour only where it is wanted, JSON.
//!
//! Every screen is a pure function from an answer and the time to text, held by golden files; this module has what they
//! share, and the one way to standard output.

use std::io::{IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use time::OffsetDateTime;

use super::exit::{Exit, Failure};
use crate::clock::{Clock, parse_rfc3339};

/// What a column shows when there is nothing.
pub(crate) const NOTHING: &str = "–";

/// For whom the output is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// People.
    #[default]
    Text,
    /// Scripts; the schemas are in docs/cli-json.md.
    Json,
}

/// Colour, or none of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint(bool);

impl Paint {
    /// Never colour.
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self(false);

    /// Colour on a terminal, unless `NO_COLOR` (<https://no-color.org>) is set and not empty.
    pub(crate) fn of(stream: &impl IsTerminal) -> Self {
        Self(stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
    }

    fn wrap(self, style: Style, text: &str) -> String {
        if self.0 { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    /// As it should be.
    pub(crate) fn good(self, text: &str) -> String {
        self.wrap(AnsiColor::Green.on_default(), text)
    }

    /// Something to look at.
    pub(crate) fn warn(self, text: &str) -> String {
        self.wrap(AnsiColor::Yellow.on_default(), text)
    }

    /// Wrong.
    pub(crate) fn bad(self, text: &str) -> String {
        self.wrap(AnsiColor::Red.on_default().bold(), text)
    }

    /// In the background.
    pub(crate) fn dim(self, text: &str) -> String {
        self.wrap(Style::new().dimmed(), text)
    }
}

/// How a command prints.
#[derive(Debug, Clone)]
pub struct Screen {
    /// For whom.
    pub(crate) format: Format,
    /// Colour of standard output.
    pub(crate) paint: Paint,
    /// For relative times.
    pub(crate) clock: Clock,
}

impl Screen {
    /// The time that relative times count from.
    pub(crate) fn now(&self) -> OffsetDateTime {
        self.clock.now()
    }

    /// Prints an answer: `text` for people, the value itself for scripts.
    pub(crate) fn show<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        match self.format {
            Format::Text => out(&text(value)),
            Format::Json => out(&format!("{}\n", json(value)?)),
        }
    }
}

/// A value as people read JSON.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map_err(|error| Failure::failed(error.to_string()))
}

/// The one way to standard output: a reader that has seen enough (`| head`) ends the command quietly.
pub(crate) fn out(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::said(Exit::Failed)),
        Err(error) => Err(error.into()),
    }
}

/// Columns as wide as their widest cell.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With a heading.
    pub(crate) fn new(heading: &[&str]) -> Self {
        Self { rows: vec![heading.iter().map(|cell| (*cell).to_owned()).collect()] }
    }

    /// Without one.
    pub(crate) fn bare() -> Self {
        Self::default()
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The lines, each indented by `indent`; the last cell of a row is not padded.
    pub(crate) fn render(&self, indent: &str) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| visible(cell)).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = indent.to_owned();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                line.push_str(&" ".repeat(width.saturating_sub(visible(cell)) + 2));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// How many columns a cell takes on a terminal: its characters without the colours.
fn visible(cell: &str) -> usize {
    let parts = cell.split('\u{1b}').enumerate();
    // What follows an escape character belongs to it up to the m.
    let shown = parts.map(|(at, part)| if at == 0 { part } else { part.split_once('m').map_or("", |(_, rest)| rest) });
    shown.map(|part| part.chars().count()).sum()
}

/// `4h`, `2d`, `35s`: to the nearest whole unit, the largest of which there is more than one and a half.
pub(crate) fn span(seconds: i64) -> String {
    const UNITS: [(i64, &str); 4] = [(31_557_600, "y"), (86_400, "d"), (3_600, "h"), (60, "m")];
    let seconds = seconds.abs();
    let fits = |unit: i64| seconds >= if unit == 86_400 { 2 * unit } else { unit + unit / 2 };
    match UNITS.iter().find(|(unit, _)| fits(*unit)) {
        Some((unit, name)) => format!("{}{name}", (seconds + unit / 2) / unit),
        None => format!("{seconds}s"),
    }
}

/// `in 8h` or `4h ago`, from an RFC 3339 text; [`NOTHING`] for what is none.
pub(crate) fn relative(text: &str, now: OffsetDateTime) -> String {
    let Ok(at) = parse_rfc3339(text) else { return NOTHING.to_owned() };
    let seconds = (at - now).whole_seconds();
    if seconds > 0 { format!("in {}", span(seconds)) } else { format!("{} ago", span(seconds)) }
}

/// The date of an RFC 3339 text: `2036-11-21`.
pub(crate) fn date(text: &str) -> &str {
    text.split_once('T').map_or(text, |(date, _)| date)
}

/// `5e0c…91f2`, which every command that takes a serial understands.
pub(crate) fn short(serial: &str) -> String {
    match (serial.get(..4), serial.get(serial.len().saturating_sub(4)..)) {
        (Some(first), Some(last)) if serial.len() > 9 && serial.is_ascii() => format!("{first}…{last}"),
        _ => serial.to_owned(),
    }
}

/// `1,204,551`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 certificate`, `2 certificates`.
pub(crate) fn count(number: u64, one: &str) -> String {
    format!("{} {one}{}", thousands(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
pub(crate) mod golden {
    //! Screens as golden files, below `src/cli/golden`.

    /// Compares `found` with `src/cli/golden/NAME`.
    pub(crate) fn check(name: &str, found: &str) {
        crate::golden::check(&format!("src/cli/golden/{name}"), found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn times_are_relative_for_people() {
        let now = datetime!(2026-11-23 13:00 UTC);
        let check = |text: &str, expected: &str| assert_eq!(relative(text, now), expected, "{text}");
        check("2026-11-23T21:00:00Z", "in 8h");
        check("2026-11-23T09:00:00.000000Z", "4h ago");
        check("2026-11-21T12:00:00Z", "2d ago");
        check("2026-11-23T12:59:25Z", "35s ago");
        check("2026-11-25T12:00:00Z", "in 47h");
        check("2026-11-24T12:59:58Z", "in 24h");
        check("2036-11-20T13:00:00Z", "in 10y");
        check("", "–");
    }

    #[test]
    fn numbers_and_serials_are_easy_to_read() {
        assert_eq!([thousands(0), thousands(999), thousands(1_204_551)], ["0", "999", "1,204,551"]);
        assert_eq!([count(1, "record"), count(2, "record")], ["1 record", "2 records"]);
        assert_eq!(short("5e0cffffffffffff91f2"), "5e0c…91f2");
        assert_eq!(short("5e0c"), "5e0c");
    }

    #[test]
    fn columns_are_as_wide_as_they_need() {
        let mut table = Table::new(&["A", "LONG HEADING", "C"]);
        table.row(["…".to_owned(), "x".to_owned(), "end".to_owned()]);
        assert_eq!(table.render("  "), "  A  LONG HEADING  C\n  …  x             end\n");
        assert_eq!(visible(&Paint(true).bad("wrong")), 5, "colours take no room");
    }

    #[test]
    fn colour_is_only_where_it_is_wanted() {
        assert_eq!(Paint::PLAIN.bad("no"), "no");
        assert_eq!(Paint(true).good("yes"), "\u{1b}[32myes\u{1b}[0m");
    }
}
