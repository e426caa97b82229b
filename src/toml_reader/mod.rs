//! Reads a TOML file of ours and finds all its mistakes at once, each with its line and what to write instead.
//!
//! The policy file and the server's configuration are both read through this: a [`Table`] hands out typed values and
//! notes what is wrong with them, [`Table::done`] notes the keys that nobody asked for, and [`Document::finish`] is the
//! verdict. A mistake never stops the reading. Nothing here opens files or knows what a key means.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

mod span;
mod table;

pub use span::{SpanError, parse_span, render_span};
pub use table::{Entry, Table};

/// How much of a value is shown in a mistake.
const LONGEST_QUOTE: usize = 44;

/// How alike two words must be (Jaro-Winkler, 0 to 1) before one is offered for the other.
const LIKENESS: f64 = 0.8;

/// One mistake: where it is and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Mistake {
    /// The line, from 1; 0 when it is about the file as a whole.
    pub line: usize,
    /// The key and its value as written, such as `http.listen "0.0.0.0"`.
    pub place: String,
    /// What is wrong and what to do.
    pub remedy: String,
}

/// All the mistakes of one file, by line.
///
/// Its `Display` is the screen that users see, without the word `error:` before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes {
    file: String,
    list: Vec<Mistake>,
}

impl Mistakes {
    /// The mistakes of `file`, sorted by line.
    #[must_use]
    pub fn new(file: &str, mut list: Vec<Mistake>) -> Self {
        list.sort_by_key(|mistake| mistake.line);
        Self { file: file.to_owned(), list }
    }

    /// The file as the user named it.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Each mistake, by line.
    #[must_use]
    pub fn list(&self) -> &[Mistake] {
        &self.list
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.list.len() == 1 { "" } else { "s" };
        write!(f, "{} mistake{plural} in {}", self.list.len(), self.file)?;
        let has_lines = self.list.iter().any(|m| m.line > 0);
        let where_to = |m: &Mistake| match m.line {
            0 if has_lines => "file".to_owned(),
            0 => String::new(),
            line => format!("line {line}"),
        };
        let widest = |column: &dyn Fn(&Mistake) -> usize| self.list.iter().map(column).max().unwrap_or_default();
        let (first, second) = (widest(&|m| where_to(m).len()), widest(&|m| m.place.chars().count()));
        for mistake in &self.list {
            let (line, place, remedy) = (where_to(mistake), &mistake.place, &mistake.remedy);
            let gap = if has_lines { "  " } else { "" };
            write!(f, "\n  {line:first$}{gap}{place:second$}  {remedy}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// What can be wrong with a TOML file before anybody asks what its values mean.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Problem {
    /// The text is no TOML.
    #[error("{message}")]
    Syntax {
        /// What the parser says.
        message: String,
    },
    /// A value with a unit but without quotes.
    #[error("a value with a unit is a text: write it in quotes, \"{written}\"")]
    Unquoted {
        /// The value as written.
        written: String,
    },
    /// A key that nobody asks for, and that is like one that somebody does.
    #[error("unknown key; did you mean {suggestion}?")]
    UnknownKeyLike {
        /// The known key.
        suggestion: String,
    },
    /// A key that nobody asks for.
    #[error("unknown key; known here: {known}")]
    UnknownKey {
        /// What may be written here.
        known: String,
    },
    /// A key that must be there.
    #[error("missing: write {example}")]
    Missing {
        /// A line that would do.
        example: String,
    },
    /// A value of another type.
    #[error("this is {found}, but {wanted} is needed")]
    WrongType {
        /// What is needed, with article.
        wanted: &'static str,
        /// What is there, with article.
        found: &'static str,
    },
    /// A word that is none of those known, and like one of them.
    #[error("unknown value; did you mean \"{suggestion}\"?")]
    UnknownChoiceLike {
        /// The known word.
        suggestion: String,
    },
    /// A word that is none of those known.
    #[error("unknown value; choose one of {known}")]
    UnknownChoice {
        /// The known words.
        known: String,
    },
    /// A number outside its bounds.
    #[error("out of range: write {least} to {most}")]
    OutOfRange {
        /// The least allowed.
        least: String,
        /// The most allowed.
        most: String,
    },
}

/// A parsed file and what is wrong with it so far.
#[derive(Debug)]
pub struct Document<'t> {
    text: &'t str,
    root: Spanned<DeTable<'t>>,
    mistakes: RefCell<Vec<Mistake>>,
    asked: RefCell<BTreeSet<String>>,
    /// Whether the text was not TOML at all: then what the tree holds is guesswork, and only that is reported.
    broken: bool,
}

impl<'t> Document<'t> {
    /// Parses `text`; what is no TOML is noted, not returned.
    #[must_use]
    pub fn parse(text: &'t str) -> Self {
        let (root, errors) = DeTable::parse_recoverable(text);
        let broken = !errors.is_empty();
        let document = Self { text, root, mistakes: RefCell::default(), asked: RefCell::default(), broken };
        let mut last_line = 0;
        for error in errors {
            let at = error.span().map_or(text.len(), |span| span.start);
            let line = document.line_at(at);
            // One slip makes several errors on its line; the first says it best.
            if line != last_line {
                document.push(line, document.line_text(line), &document.syntax_problem(line, error.message()));
                last_line = line;
            }
        }
        document
    }

    /// The top level.
    #[must_use]
    pub fn root(&self) -> Table<'_, 't> {
        Table::new(self, String::new(), 0, self.root.get_ref())
    }

    /// Every key that was asked for, with the path of its tables: what the reference must document.
    #[must_use]
    pub fn asked(&self) -> BTreeSet<String> {
        self.asked.borrow().clone()
    }

    /// Notes a mistake about the file as a whole.
    pub fn note_file(&self, place: &str, problem: &dyn fmt::Display) {
        self.note(0, place.to_owned(), problem);
    }

    /// The verdict: nothing, or all mistakes.
    ///
    /// # Errors
    /// When anything was noted.
    pub fn finish(self, file: &str) -> Result<(), Mistakes> {
        let list = self.mistakes.into_inner();
        if list.is_empty() { Ok(()) } else { Err(Mistakes::new(file, list)) }
    }

    fn note(&self, line: usize, place: String, problem: &dyn fmt::Display) {
        if !self.broken {
            self.push(line, place, problem);
        }
    }

    fn push(&self, line: usize, place: String, problem: &dyn fmt::Display) {
        self.mistakes.borrow_mut().push(Mistake { line, place, remedy: problem.to_string() });
    }

    fn line_at(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
    }

    fn line_text(&self, line: usize) -> String {
        quote(self.text.lines().nth(line.saturating_sub(1)).unwrap_or_default().trim())
    }

    fn syntax_problem(&self, line: usize, message: &str) -> Problem {
        let written = self.text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
        let value = written.split_once('=').map(|(_, value)| value.split('#').next().unwrap_or_default().trim());
        match value {
            Some(value) if value.starts_with(|c: char| c.is_ascii_digit()) && parse_span(value).is_ok() => {
                Problem::Unquoted { written: value.to_owned() }
            }
            Some(_) | None => Problem::Syntax { message: message.to_owned() },
        }
    }

    /// The text of a value as written, on one line and not too long.
    fn written(&self, value: &Spanned<DeValue<'_>>) -> String {
        quote(self.text.get(value.span()).unwrap_or_default())
    }
}

fn quote(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= LONGEST_QUOTE {
        return line;
    }
    line.chars().take(LONGEST_QUOTE - 1).chain(['…']).collect()
}

/// The one of `known` that `word` was probably meant to be.
#[must_use]
pub fn did_you_mean<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= LIKENESS)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests;
