//! `chancery ca init`: sets the authorities of a data directory up, each step told, before any server runs.
//!
//! What it does is what the first start of a server does, after everything above was looked at: the table of the
//! configuration, the files or the Vault that it names, and that every CRL of a CA above lasts as long as the issuing CA.
//! With `--dry-run` nothing is written and nothing is made. Run again it goes on from what is there.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::app;
use crate::cli::Context;
use crate::cli::exit::{Done, Failure};
use crate::cli::screen::{Format, Table, date, out, relative};
use crate::clock::rfc3339_seconds;
use crate::config::Settings;
use crate::config::files::{FileError, read_configuration};
use crate::toml_reader::render_span;
use crate::upstream::{Upstream, UpstreamSettings};
use crate::x509::chain::Issuer;
use crate::x509::crl::{Crl, Scope};

/// `ca init`.
#[derive(Debug, Args)]
pub struct Init {
    /// The configuration file, as for `chancery server`
    #[arg(long, value_name = "FILE", default_value = "chancery.toml")]
    config: PathBuf,
    /// What stands above the issuing CA; its table is appended to the configuration. Without it what is written there counts
    #[arg(long, value_enum)]
    upstream: Option<Kind>,
    /// files: where the CA's files lie
    #[arg(long, value_name = "DIR", required_if_eq("upstream", "files"))]
    directory: Option<PathBuf>,
    /// files: the first line of this file opens the CA's key
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// files: the CA's key is elsewhere; the request is written here
    #[arg(long, value_name = "FILE")]
    csr_out: Option<PathBuf>,
    /// files: the answer to that request, the CAs above behind it
    #[arg(long, value_name = "FILE", requires = "csr_out")]
    chain: Option<PathBuf>,
    /// vault: its address
    #[arg(long, value_name = "URL", required_if_eq("upstream", "vault"))]
    address: Option<String>,
    /// vault: where the PKI engine is mounted
    #[arg(long, value_name = "MOUNT", default_value = "pki")]
    mount: String,
    /// vault: mounts of the CAs above it, whose CRLs are needed too
    #[arg(long, value_name = "MOUNT")]
    crl_mount: Vec<String>,
    /// vault: who may have signed its listener's certificate
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// vault: log in by AppRole with this role id
    #[arg(long, value_name = "ID", requires = "secret_id_file", required_if_eq("upstream", "vault"))]
    role_id: Option<String>,
    /// vault: the file with the secret id
    #[arg(long, value_name = "FILE")]
    secret_id_file: Option<PathBuf>,
    /// Have verifiers want a CRL of the issuing CA alone, where a CA above has none that lasts
    #[arg(long)]
    leaf_only: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// What stands above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A root of this server's own
    SelfSigned,
    /// Vault's PKI engine
    Vault,
    /// An existing CA in PEM files
    Files,
}

/// The schema of `ca init --output json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitOutput {
    /// What was appended to the configuration; empty where it had all.
    pub table: String,
    /// Every authority, as the first start would find it.
    pub authorities: Vec<InitAuthority>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitAuthority {
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: String,
    /// When its certificate ends, RFC 3339.
    pub not_after: String,
}

/// A CRL of a CA above.
struct Above {
    number: u64,
    key_id: String,
    ends: OffsetDateTime,
    is_short: bool,
}

impl Init {
    pub(crate) async fn run(self, context: &Context) -> Done {
        let wrong = |error: FileError| Failure::usage(format!("{error}\nNothing was made."));
        let before = read_configuration(&self.config).map_err(wrong)?;
        let table = self.table(&before)?;
        let text = format!("{before}{table}");
        let settings = Settings::of_text(&self.config, &text).map_err(wrong)?;
        let text_only = context.screen.format == Format::Text;
        let tell = |line: String| if text_only { out(&line) } else { Ok(()) };
        if !table.is_empty() {
            let does = if self.dry_run { "would be appended to" } else { "appended to" };
            tell(format!("  table   {does} {}:\n{}", self.config.display(), indented(&table)))?;
        }
        let now = context.screen.now();
        let lists = match settings.upstream.clone().map(UpstreamSettings::build) {
            Some(upstream) => {
                tell(above(&*upstream, now)?)?;
                self.lists(&*upstream, &settings, now).await?
            }
            None => Vec::new(),
        };
        for list in &lists {
            let end = rfc3339_seconds(list.ends);
            tell(format!(
                "  CRL     {} by the key {}, ends {}\n",
                list.number,
                short(&list.key_id),
                relative(&end, now)
            ))?;
        }
        refuse_short(&lists, &settings)?;
        if self.dry_run {
            let nothing = InitOutput { table, authorities: Vec::new() };
            return context
                .screen
                .show(&nothing, |_| "Nothing was done. The same without --dry-run does it.\n".to_owned());
        }
        if !table.is_empty() {
            append(&self.config, &text)?;
        }
        let made = InitOutput { table, authorities: establish(settings).await? };
        context.screen.show(&made, |made| made_screen(made, &self.config, now))
    }

    /// The tables to append to `before`; empty where it has all.
    fn table(&self, before: &str) -> Result<String, Failure> {
        let mut table = String::new();
        let kind = self.upstream.filter(|kind| *kind != Kind::SelfSigned);
        if self.upstream.is_some() && before.lines().any(|line| line.trim_start().starts_with("[upstream.")) {
            return Err(Failure::usage(format!(
                "{} has a table under [upstream] already: leave --upstream out to use it, or take it out",
                self.config.display()
            )));
        }
        match kind {
            Some(Kind::Files) => {
                table.push_str("\n[upstream.files]\n");
                put(&mut table, "directory", self.directory.as_deref());
                put(&mut table, "passphrase_file", self.passphrase_file.as_deref());
                if self.csr_out.is_some() {
                    table.push_str("signing = \"elsewhere\"\n");
                }
                put(&mut table, "request_file", self.csr_out.as_deref());
                put(&mut table, "answer_file", self.chain.as_deref());
            }
            Some(Kind::Vault) => {
                table.push_str("\n[upstream.vault]\n");
                put_text(&mut table, "address", self.address.as_deref());
                put_text(&mut table, "mount", Some(&self.mount));
                put(&mut table, "ca_file", self.ca_file.as_deref());
                if !self.crl_mount.is_empty() {
                    let _ = writeln!(table, "crl_mounts = {:?}", self.crl_mount);
                }
                table.push_str("\n[upstream.vault.login]\nmethod = \"approle\"\n");
                put_text(&mut table, "role_id", self.role_id.as_deref());
                put(&mut table, "secret_id_file", self.secret_id_file.as_deref());
            }
            Some(Kind::SelfSigned) | None => {}
        }
        if self.leaf_only {
            if before.lines().any(|line| line.trim() == "[crl]") {
                return Err(Failure::usage(
                    "write scope = \"leaf-only\" under [crl] by hand: that table is there already",
                ));
            }
            table.push_str("\n[crl]\nscope = \"leaf-only\"\n");
        }
        Ok(table)
    }

    async fn lists(
        &self,
        upstream: &dyn Upstream,
        settings: &Settings,
        now: OffsetDateTime,
    ) -> Result<Vec<Above>, Failure> {
        let given = upstream.crls().await.map_err(|why| Failure::failed(format!("{why}\nNothing was made.")))?;
        let read = given.into_iter().filter_map(|der| Crl::parse(der).ok());
        let needed = now + settings.ca.issuing.lifetime;
        let above = read.map(|crl| Above {
            number: crl.number(),
            key_id: hex::encode(crl.issuer_key_id()),
            ends: crl.next_update(),
            is_short: crl.next_update() < needed && settings.crl.scope == Scope::WholeChain,
        });
        Ok(above.collect())
    }
}

/// Who signs, where its key is here.
fn above(upstream: &dyn Upstream, now: OffsetDateTime) -> Result<String, Failure> {
    let failed = |why: String| Failure::failed(format!("{why}\nNothing was made."));
    let Some(held) = upstream.held().map_err(|why| failed(why.to_string()))? else {
        return Ok(format!("  above   {}\n", upstream.name()));
    };
    let ca = Issuer::from_der(held.certificate, held.above).map_err(|why| failed(why.to_string()))?;
    let role = match ca.path_length() {
        Some(0) => "has path length 0, so it becomes the issuing CA and its key is sealed here",
        Some(_) | None => "signs the issuing CA; its key is here and stays in its file",
    };
    let end = rfc3339_seconds(ca.not_after());
    Ok(format!("  above   {}, until {} ({})\n          {role}\n", ca.name(), date(&end), relative(&end, now)))
}

/// At the end of a CRL above every handshake fails, so each must last as long as what is made now.
fn refuse_short(lists: &[Above], settings: &Settings) -> Done {
    let short_ones: Vec<&Above> = lists.iter().filter(|list| list.is_short).collect();
    let Some(first) = short_ones.first() else { return Ok(()) };
    let life: Duration = settings.ca.issuing.lifetime;
    let hours = life.as_secs() / 3_600;
    let remedy = match &settings.upstream {
        Some(UpstreamSettings::Vault(vault)) => {
            let mounts = std::iter::once(&vault.mount).chain(&vault.crl_mounts);
            let lines = mounts.map(|mount| {
                format!("  vault write {mount}/config/crl expiry={hours}h auto_rebuild=true\n  vault read {mount}/crl/rotate\n")
            });
            lines.collect::<String>()
        }
        Some(UpstreamSettings::Files(_)) | None => {
            format!("  openssl ca -gencrl -crldays {} …, and put it into the files\n", hours.div_ceil(24))
        }
    };
    Err(Failure::failed(format!(
        "{} of the CRLs above end before the issuing CA does ({}): the first at {}, and then every handshake fails. Make them last:\n{remedy}or say --leaf-only (docs/upstream.md says what that loses). Nothing was made.",
        short_ones.len(),
        render_span(life),
        rfc3339_seconds(first.ends),
    )))
}

/// What the first start does.
async fn establish(settings: Settings) -> Result<Vec<InitAuthority>, Failure> {
    let bound = app::build(settings).await.map_err(|error| Failure::failed(error.to_string()))?;
    let authorities = std::sync::Arc::clone(&bound.street().authorities().borrow());
    let made = authorities.iter().map(|one| InitAuthority {
        name: one.name().to_string(),
        state: one.state().as_str().to_owned(),
        not_after: rfc3339_seconds(one.issuer().not_after()),
    });
    let made = made.collect();
    bound.close().await;
    Ok(made)
}

fn made_screen(made: &InitOutput, config: &Path, now: OffsetDateTime) -> String {
    let mut table = Table::bare();
    for InitAuthority { name, state, not_after } in &made.authorities {
        let end = format!("until {} ({})", date(not_after), relative(not_after, now));
        table.row([name.clone(), state.clone(), end]);
    }
    format!("{}To start it: chancery server --config {}\n", table.render("  "), config.display())
}

fn append(path: &Path, text: &str) -> Done {
    std::fs::write(path, text).map_err(|why| Failure::failed(format!("{}: {why}. Nothing was made.", path.display())))
}

/// A path as it is meant here, whole: in the file it would be meant from elsewhere.
fn put(table: &mut String, key: &str, value: Option<&Path>) {
    let whole = value.map(|path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
    put_text(table, key, whole.as_deref().and_then(Path::to_str));
}

fn put_text(table: &mut String, key: &str, value: Option<&str>) {
    if let Some(value) = value {
        let _ = writeln!(table, "{key} = {}", toml::Value::from(value));
    }
}

fn indented(text: &str) -> String {
    text.trim().lines().map(|line| format!("          {line}\n")).collect()
}

fn short(key_id: &str) -> &str {
    key_id.get(..8).unwrap_or(key_id)
}
