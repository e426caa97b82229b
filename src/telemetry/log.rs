//! Log lines for operators, on standard error.
//!
//! Text for people, with colours on a terminal only (and never with `NO_COLOR`); without a time of its own and with a
//! priority prefix where systemd's journal reads (`sd-daemon(3)`), because the journal has both; or one JSON object a line
//! with fields kept as fields. Always true: one event is one line, whatever foreign text is in it, and a
//! [`SecretBytes`](crate::secret::SecretBytes) prints as `[secret]`. Not evidence: that is the ledger.

use std::fmt::{self, Write as _};
use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing::field::Field;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Format, FormatEvent, FormatFields, Full, Writer, debug_fn};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::config::{LogFormat, LogLevel, LogSettings};

/// Overrides the configured level with a filter of `tracing`, such as `chancery::audit=debug,info`.
pub const FILTER_VARIABLE: &str = "CHANCERY_LOG";

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The variable holds no filter.
    #[error("{FILTER_VARIABLE} is no filter: {0}; write a level such as info, or chancery::audit=debug,info")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// There can be only one.
    #[error("logging was set up twice in one process")]
    Twice(#[from] tracing::subscriber::SetGlobalDefaultError),
}

/// What reads the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// A person at a terminal that shows colours.
    Terminal,
    /// A file or a pipe.
    Plain,
    /// systemd's journal.
    Journal,
}

impl Reader {
    fn of_stderr() -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        match (std::io::stderr().is_terminal(), set("NO_COLOR"), set("JOURNAL_STREAM")) {
            (true, false, _) => Self::Terminal,
            (true, true, _) | (false, _, false) => Self::Plain,
            (false, _, true) => Self::Journal,
        }
    }
}

/// Makes everything that is logged from now on go to standard error.
///
/// # Errors
/// [`LogError`].
pub fn init(settings: LogSettings) -> Result<(), LogError> {
    let (filter, fixed) = match std::env::var(FILTER_VARIABLE) {
        Ok(filter) if !filter.trim().is_empty() => (EnvFilter::try_new(filter)?, true),
        Ok(_) | Err(_) => (EnvFilter::try_new(directives(settings.level))?, false),
    };
    let (subscriber, change) = subscriber(settings.format, Reader::of_stderr(), filter, std::io::stderr);
    tracing::subscriber::set_global_default(subscriber)?;
    // Set once, because the subscriber was: a second call failed on the line above.
    if !fixed {
        let _ = CHANGE.set(change);
    }
    Ok(())
}

/// Puts another filter in the place of the one in force.
type Change = Box<dyn Fn(EnvFilter) -> Result<(), tracing_subscriber::reload::Error> + Send + Sync>;

/// How the one subscriber of the process is changed; empty where [`FILTER_VARIABLE`] decides.
static CHANGE: OnceLock<Change> = OnceLock::new();

/// What is logged at this level. Libraries that talk to an upstream say what they send, requests whole; what matters of it we
/// say ourselves.
fn directives(level: LogLevel) -> String {
    format!("{},vaultrs=off,rustify=off", level.as_str())
}

/// Changes what is left out from now on. Nothing changes while [`FILTER_VARIABLE`] decides, or before [`init`].
pub fn set_level(level: LogLevel) {
    let Some(change) = CHANGE.get() else { return };
    if let Err(error) = change(EnvFilter::new(directives(level))) {
        tracing::error!(%error, "the log level could not be changed");
    }
}

fn subscriber<W>(
    format: LogFormat,
    reader: Reader,
    filter: EnvFilter,
    writer: W,
) -> (Box<dyn Subscriber + Send + Sync>, Change)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // A line that cannot be written is lost: the library would say so on standard error, where mostly the same disk is
    // full, and panic over that.
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).log_internal_errors(false);
    match format {
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_current_span(false).with_filter_reloading();
            let handle = builder.reload_handle();
            (Box::new(builder.finish()), Box::new(move |filter| handle.reload(filter)))
        }
        LogFormat::Text => {
            let builder = builder
                .with_ansi(reader == Reader::Terminal)
                .fmt_fields(fields())
                .event_format(Line { reader, format: Format::default().with_target(false) })
                .with_filter_reloading();
            let handle = builder.reload_handle();
            (Box::new(builder.finish()), Box::new(move |filter| handle.reload(filter)))
        }
    }
}

/// A line of text for `reader`.
struct Line {
    reader: Reader,
    format: Format<Full>,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        match self.reader {
            Reader::Terminal | Reader::Plain => self.format.format_event(ctx, writer, event),
            Reader::Journal => {
                write!(writer, "<{}>", priority(*event.metadata().level()))?;
                self.format.clone().without_time().with_level(false).format_event(ctx, writer, event)
            }
        }
    }
}

/// syslog's numbers, RFC 5424 section 6.2.1.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// Fields as `name=value`, the message first and bare, no control character of foreign text getting through: neither a
/// line break, which would forge a line, nor a terminal's escape sequence.
fn fields() -> impl for<'a> FormatFields<'a> + Send + Sync + 'static {
    let fields = debug_fn(|writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug| {
        let mut text = String::new();
        write!(text, "{value:?}")?;
        if field.name() != "message" {
            write!(writer, "{}=", field.name())?;
        }
        for letter in text.chars() {
            if letter.is_control() {
                write!(writer, "{}", letter.escape_default())?
            } else {
                writer.write_char(letter)?
            }
        }
        Ok(())
    });
    fields.delimited(" ")
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::secret::SecretBytes;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What is written while `act` logs.
    fn lines(format: LogFormat, reader: Reader, act: impl FnOnce()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let (subscriber, _) = subscriber(format, reader, EnvFilter::new("info"), move || writer.clone());
        tracing::subscriber::with_default(subscriber, act);
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    const WAYS: [(LogFormat, Reader); 4] = [
        (LogFormat::Text, Reader::Terminal),
        (LogFormat::Text, Reader::Plain),
        (LogFormat::Text, Reader::Journal),
        (LogFormat::Json, Reader::Plain),
    ];

    #[test]
    fn a_secret_never_prints() {
        for (format, reader) in WAYS {
            let said = lines(format, reader, || {
                let secret = SecretBytes::new(b"planted-secret".to_vec());
                let _span = tracing::info_span!("issue", ?secret).entered();
                tracing::info!(key = ?secret, "holding {secret:?}");
            });
            assert!(said.contains("[secret]") && !said.contains("planted"), "{said}");
            assert!(!said.contains(&hex::encode("planted")) && !said.contains("112, 108, 97"), "{said}");
        }
    }

    #[test]
    fn a_level_changes_while_it_logs() {
        for (format, reader) in WAYS {
            let kept = Kept::default();
            let writer = kept.clone();
            let (subscriber, change) = subscriber(format, reader, EnvFilter::new("info"), move || writer.clone());
            tracing::subscriber::with_default(subscriber, || {
                tracing::debug!("before");
                change(EnvFilter::new("debug")).unwrap();
                tracing::debug!("after");
            });
            let said = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
            assert!(said.contains("after") && !said.contains("before"), "{said}");
        }
    }

    #[test]
    fn foreign_text_stays_in_its_line() {
        for (format, reader) in WAYS {
            let said = lines(format, reader, || {
                let node = "a\n<0>forged \u{1b}[2J\u{7}\u{9b}31m";
                let _span = tracing::info_span!("stream", node).entered();
                tracing::warn!(%node, "it said {node}");
            });
            assert_eq!(said.matches('\n').count(), 1, "{said:?}");
            assert!(!said.contains("\u{1b}[2J") && !said.contains('\u{7}'), "{said:?}");
            // JSON keeps what RFC 8259 does not make it escape; a terminal is not its reader.
            assert!(format == LogFormat::Json || !said.contains('\u{9b}'), "{said:?}");
        }
    }

    #[test]
    fn json_keeps_fields_as_fields() {
        let said = lines(LogFormat::Json, Reader::Plain, || {
            let _span = tracing::info_span!("issue", request_id = "ab").entered();
            tracing::info!(serial = "0f", count = 3, "issued");
        });
        let line: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!((&line["message"], &line["serial"], &line["count"]), (&"issued".into(), &"0f".into(), &3.into()));
        assert_eq!((&line["level"], &line["spans"][0]["request_id"]), (&"INFO".into(), &"ab".into()));
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn each_reader_gets_its_form() {
        let said = |reader| lines(LogFormat::Text, reader, || tracing::warn!(rule = "web", "refused"));
        assert_eq!(said(Reader::Journal), "<4>refused rule=\"web\"\n");
        let plain = said(Reader::Plain);
        assert!(plain.contains("Z  WARN refused rule=\"web\"\n") && !plain.contains('\u{1b}'), "{plain:?}");
        assert!(said(Reader::Terminal).contains('\u{1b}'));
    }
}
