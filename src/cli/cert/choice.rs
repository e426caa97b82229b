//! Which certificates a command means, and the question whether it should.

use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;

use clap::Args;

use crate::cli::exit::{Exit, Failure};
use crate::cli::screen::{Format, Screen};
use crate::identity::SpiffeId;
use crate::proto::chancery::admin::v1 as pb;
use crate::toml_reader::parse_span;

/// Which certificates; exactly one of these.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Choice {
    /// All of one SPIFFE ID
    #[arg(long, value_name = "SPIFFE-ID")]
    identity: Option<SpiffeId>,
    /// All whose SPIFFE ID begins with this
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// One: its serial, the beginning of it, or the form of tables: 5e0c…91f2
    #[arg(long)]
    serial: Option<String>,
    /// All of one issuing CA: its name ("issuing 3") or key id
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// All that are live
    #[arg(long)]
    all: bool,
}

impl Choice {
    pub(super) fn wire(&self) -> pb::Selection {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        pb::Selection {
            identity: self.identity.as_ref().map(ToString::to_string).unwrap_or_default(),
            prefix: text(&self.prefix),
            serial: text(&self.serial),
            issuer: text(&self.issuer),
            all: self.all,
        }
    }
}

/// Asks on the terminal whether to go on; without one, `--yes` must have said so.
pub(in crate::cli) fn confirm(screen: &Screen, what: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stderr());
    if !input.is_terminal() || screen.format == Format::Json {
        return Err(Failure::usage(format!("{what} Nobody is asked here: say --yes if that is meant")));
    }
    write!(output, "{what} Go on? [y/N] ")?;
    output.flush()?;
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::new(Exit::Failed, "nothing was done")),
    }
}

/// A line on the terminal that the next one replaces; nothing where nobody watches.
pub(in crate::cli) struct Ticker(bool);

impl Ticker {
    pub(in crate::cli) fn new(screen: &Screen) -> Self {
        Self(screen.format == Format::Text && std::io::stderr().is_terminal())
    }

    pub(in crate::cli) fn show(&self, line: &str) {
        if self.0 {
            eprint!("\r\u{1b}[K{line}");
        }
    }

    pub(in crate::cli) fn clear(&self) {
        self.show("");
    }
}

/// A span of time, as `5s`.
pub(in crate::cli) fn span(text: &str) -> Result<Duration, String> {
    parse_span(text).map_err(|error| error.to_string())
}
