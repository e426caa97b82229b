//! `chancery up`: server and everything it needs in one process, with embedded defaults.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use time::OffsetDateTime;

use super::exit::{Done, Failure};
use super::screen::{Paint, Table, thousands};
use super::{Context, serve};
use crate::config::{LogLevel, Settings, UpOptions};
use crate::identity::TrustDomain;

/// Where HTTP listens when nothing else is said: loopback, a free port.
const HTTP: &str = "127.0.0.1:0";

/// `up`.
#[derive(Debug, Args)]
pub struct Up {
    /// Whose identities are issued; fixed with the first start
    #[arg(long, value_name = "NAME", default_value = "example.org")]
    trust_domain: TrustDomain,
    /// Where HTTP listens, on loopback; port 0 takes a free one, "off" none
    #[arg(long, value_name = "ADDRESS", default_value = HTTP, value_parser = http)]
    http: Http,
    /// One more SDS socket, whose name is a fact for rules; repeatable
    #[arg(long = "sds-socket", value_name = "NAME=PATH", value_parser = socket)]
    sds_sockets: Vec<(String, PathBuf)>,
    /// A TCP port for SDS with mutual TLS, whose name is a fact for rules; port 0 takes a free one; repeatable
    #[arg(long = "sds-tcp", value_name = "NAME=ADDRESS", value_parser = port)]
    sds_ports: Vec<(String, SocketAddr)>,
}

/// An address, or no HTTP at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Http(Option<SocketAddr>);

fn http(text: &str) -> Result<Http, String> {
    if text == "off" {
        return Ok(Http(None));
    }
    text.parse()
        .map(|address| Http(Some(address)))
        .map_err(|_| "write ADDRESS:PORT, such as 127.0.0.1:8080, or off".into())
}

fn socket(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.to_owned(), PathBuf::from(path))),
        Some(_) | None => Err("write NAME=PATH, such as web=/run/chancery/web.sock".to_owned()),
    }
}

fn port(text: &str) -> Result<(String, SocketAddr), String> {
    let read = text.split_once('=').and_then(|(name, address)| Some((name.to_owned(), address.parse().ok()?)));
    read.filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| "write NAME=ADDRESS:PORT, such as mesh=0.0.0.0:8443".to_owned())
}

pub(crate) fn run(args: Up, context: &Context) -> Done {
    let data_dir = std::path::absolute(&context.data_dir)?;
    let sockets = args.sds_sockets.into_iter().map(|(name, path)| Ok((name, std::path::absolute(path)?)));
    let options = UpOptions {
        data_dir,
        trust_domain: args.trust_domain,
        http: args.http.0,
        sockets: sockets.collect::<std::io::Result<_>>()?,
        ports: args.sds_ports,
    };
    let mut settings = Settings::for_up(options).map_err(|mistakes| Failure::usage(mistakes.to_string()))?;
    // The screen says what an operator at a terminal wants to know; CHANCERY_LOG brings the rest.
    settings.log.level = LogLevel::Warn;
    serve::start(settings, None, context)
}

/// What a started server tells its operator: filled by `app`, printed by [`render`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpSummary {
    /// The trust domain's name.
    pub trust_domain: String,
    /// The data directory as the operator wrote it.
    pub data_dir: String,
    /// The root CA.
    pub root: AuthoritySummary,
    /// The issuing CA that signs now.
    pub issuing: AuthoritySummary,
    /// The ledger.
    pub ledger: LedgerSummary,
    /// SDS sockets, in the order of configuration.
    pub sds: Vec<SdsSummary>,
    /// SDS ports with their names.
    pub sds_tcp: Vec<(String, SocketAddr)>,
    /// The HTTP URL with its real port; absent when HTTP is off.
    pub http: Option<String>,
    /// Whether `deploy/demo/run` is there, seen from the working directory.
    pub demo: bool,
    /// Sentences that the operator should read: a recovered tail, a key sealed beside itself.
    pub notes: Vec<String>,
}

/// Whether something was made by this start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// This start made it.
    Made,
    /// It was there.
    Kept,
}

/// One authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthoritySummary {
    /// Made or kept.
    pub origin: Origin,
    /// Its key's algorithm for people: `P-256`.
    pub algorithm: String,
    /// When it ends.
    pub not_after: OffsetDateTime,
    /// When its successor takes over, where that is scheduled.
    pub rolls_over: Option<OffsetDateTime>,
    /// Where its key is, when it is one that we sealed.
    pub key_path: Option<String>,
    /// Who has its key, when it is an upstream's.
    pub upstream: Option<String>,
}

/// The ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerSummary {
    /// Made or kept.
    pub origin: Origin,
    /// The log that is written to: `example.org/ledger/ca-2026`.
    pub name: String,
    /// Its records, before this start's own.
    pub records: u64,
    /// Where its verifier key is.
    pub vkey_path: String,
}

/// One SDS socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SdsSummary {
    /// Its name in configuration.
    pub name: String,
    /// Its path as the operator may type it.
    pub path: String,
    /// Our own uid and what policy gives it on this socket by default, if anything.
    pub own: Option<(u32, Option<String>)>,
}

/// Writes paths below `here` as somebody who is there would.
pub(crate) fn relative_to(summary: &mut UpSummary, here: &Path) {
    let shorten = |path: &mut String| {
        if let Ok(below) = Path::new(path.as_str()).strip_prefix(here) {
            *path = format!("./{}", below.display());
        }
    };
    shorten(&mut summary.data_dir);
    shorten(&mut summary.ledger.vkey_path);
    summary.root.key_path.as_mut().map(shorten);
    summary.issuing.key_path.as_mut().map(shorten);
    summary.sds.iter_mut().for_each(|sds| shorten(&mut sds.path));
}

/// The first screen: what was made or found, where, and what to do next.
#[must_use]
pub fn render(summary: &UpSummary, paint: Paint) -> String {
    let mut table = Table::bare();
    let mut row = |origin: &str, what: &str, detail: String| {
        table.row([origin.to_owned(), what.to_owned(), detail]);
    };
    let root = &summary.root;
    let key = root
        .key_path
        .as_ref()
        .map_or_else(String::new, |path| format!(", key in {path} (sealed by a key beside it: fine for a try)"));
    let above = root.upstream.as_ref().map_or_else(String::new, |upstream| format!(", of {upstream}"));
    row(root.origin.word(), "root CA", format!("{}, until {}{key}{above}", root.algorithm, root.not_after.date()));
    let issuing = &summary.issuing;
    let roll = issuing.rolls_over.map_or_else(String::new, |at| format!(", rolls over from {}", at.date()));
    row(
        issuing.origin.word(),
        "issuing CA",
        format!("{}, until {}{roll}", issuing.algorithm, issuing.not_after.date()),
    );
    let ledger = &summary.ledger;
    let records = match ledger.origin {
        Origin::Made => String::new(),
        Origin::Kept => format!(", {} records", thousands(ledger.records)),
    };
    row(ledger.origin.word(), "ledger", format!("{}{records}, verifier key in {}", ledger.name, ledger.vkey_path));
    for sds in &summary.sds {
        let name = if sds.name == "sds" { "SDS".to_owned() } else { format!("SDS {}", sds.name) };
        let you = match &sds.own {
            Some((uid, Some(identity))) => format!("   you (uid {uid}) → {identity}"),
            Some((uid, None)) => {
                format!("   you (uid {uid}) → nothing: chancery policy explain --uid {uid} --socket {}", sds.name)
            }
            None => String::new(),
        };
        row("ready", &name, format!("unix:{}{you}", sds.path));
    }
    for (name, address) in &summary.sds_tcp {
        row("ready", &format!("SDS {name}"), format!("{address}   mutual TLS; rules with client = say who gets what"));
    }
    if let Some(http) = &summary.http {
        row("ready", "HTTP", format!("{http}   bundle, ledger, health, metrics"));
    }
    let notes: String = summary.notes.iter().map(|note| format!("  {} {note}\n", paint.warn("note:"))).collect();
    format!(
        "chancery {}, trust domain {}\n\n{}{notes}\n{}",
        env!("CARGO_PKG_VERSION"),
        summary.trust_domain,
        table.render("  "),
        next(summary)
    )
}

fn next(summary: &UpSummary) -> String {
    // Only the usual directory is found without being named.
    let usual = ["./chancery-data", "chancery-data"].contains(&summary.data_dir.as_str());
    let dir = if usual { String::new() } else { format!(" --data-dir {}", summary.data_dir) };
    let mut table = Table::bare();
    table.row([format!("chancery fetch --dir id{dir}"), "a certificate in files, kept fresh".to_owned()]);
    table.row(["chancery envoy bootstrap --help".to_owned(), "an Envoy configuration that works as it is".to_owned()]);
    if summary.demo {
        table.row(["deploy/demo/run".to_owned(), "two Envoys: mutual TLS, renewal, the ledger".to_owned()]);
    }
    table.row([format!("chancery audit tail --follow{dir}"), "every act as it is recorded".to_owned()]);
    table.render("  ")
}

impl Origin {
    fn word(self) -> &'static str {
        match self {
            Self::Made => "made",
            Self::Kept => "kept",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::screen::golden;
    use time::macros::datetime;

    fn empty() -> UpSummary {
        let authority = |not_after, rolls_over, key_path| AuthoritySummary {
            origin: Origin::Made,
            algorithm: "P-256".into(),
            not_after,
            rolls_over,
            key_path,
            upstream: None,
        };
        UpSummary {
            trust_domain: "example.org".into(),
            data_dir: "./chancery-data".into(),
            root: authority(datetime!(2036-11-21 12:00 UTC), None, Some("./chancery-data/keys".into())),
            issuing: authority(datetime!(2027-02-21 12:00 UTC), Some(datetime!(2027-01-06 12:00 UTC)), None),
            ledger: LedgerSummary {
                origin: Origin::Made,
                name: "example.org/ledger/ca-2026".into(),
                records: 0,
                vkey_path: "./chancery-data/ledger/ca-2026/vkey".into(),
            },
            sds: vec![],
            sds_tcp: vec![],
            http: None,
            demo: false,
            notes: vec![],
        }
    }

    #[test]
    fn the_first_screen_says_what_was_made_and_what_to_do_next() {
        let first = UpSummary {
            sds: vec![SdsSummary {
                name: "sds".into(),
                path: "./chancery-data/sds.sock".into(),
                own: Some((1000, Some("spiffe://example.org/user/1000".into()))),
            }],
            http: Some("http://127.0.0.1:41873".into()),
            demo: true,
            ..empty()
        };
        let mut again = first.clone();
        again.data_dir = "/srv/ca".into();
        again.root.origin = Origin::Kept;
        again.root.key_path = None;
        again.issuing.origin = Origin::Kept;
        again.ledger.origin = Origin::Kept;
        again.ledger.records = 1_204_551;
        again.sds.push(SdsSummary { name: "web".into(), path: "/srv/ca/web.sock".into(), own: Some((0, None)) });
        again.sds_tcp.push(("mesh".into(), ([10, 0, 0, 7], 8443).into()));
        again.http = None;
        again.demo = false;
        again.notes = vec!["the last stop was unclean: 3 records were recovered".into()];
        let screens = [first, again].map(|summary| render(&summary, Paint::PLAIN));
        golden::check("up.txt", &screens.join("\n"));
    }

    #[test]
    fn paths_are_as_somebody_in_that_directory_writes_them() {
        let shorten = |path: &str| {
            let sds = SdsSummary { name: "sds".into(), path: path.into(), own: None };
            let mut summary = UpSummary { sds: vec![sds], ..empty() };
            relative_to(&mut summary, Path::new("/home/kim"));
            summary.sds.remove(0).path
        };
        assert_eq!(shorten("/home/kim/chancery-data/sds.sock"), "./chancery-data/sds.sock");
        assert_eq!(shorten("/run/sds.sock"), "/run/sds.sock");
    }

    #[test]
    fn addresses_and_sockets_are_read_or_explained() {
        assert_eq!(http("off"), Ok(Http(None)));
        assert!(http("8080").unwrap_err().contains("127.0.0.1:8080"));
        assert_eq!(socket("web=/run/web.sock"), Ok(("web".to_owned(), PathBuf::from("/run/web.sock"))));
        assert_eq!(port("mesh=[::]:8443"), Ok(("mesh".to_owned(), "[::]:8443".parse().unwrap())));
        assert!(port("mesh=8443").is_err() && port("=1.2.3.4:5").unwrap_err().contains("mesh=0.0.0.0:8443"));
        assert!(socket("/run/web.sock").is_err() && socket("=x").is_err());
    }
}
