//! `chancery cert`: what was issued, one of them whole, a certificate for the operator's own key; and the operator's hands:
//! rotate, revoke, release.

pub(super) mod choice;
pub(super) mod follow;
pub mod revoke;
pub mod rotate;

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use rcgen::{CertificateParams, DistinguishedName, SanType};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::exit::{Done, Failure};
use super::screen::{NOTHING, Paint, Table, count, relative, short, thousands};
use super::{Context, records};
use crate::identity::SpiffeId;
use crate::keys::leaf;
use crate::proto::chancery::admin::v1 as pb;
use crate::secret::{SecretBytes, write_private};
use crate::x509::KeyAlgorithm;

/// The largest CSR file that is read, in bytes.
const LARGEST_CSR: u64 = 64 * 1024;

/// Certificates of this server.
#[derive(Debug, Subcommand)]
pub enum Cert {
    /// Lists certificates, those that expire last first
    List(List),
    /// Shows one certificate with its record in the ledger
    Show(Show),
    /// Issues a certificate for a key that is made here and stays here
    Issue(Issue),
    /// Has certificates issued anew and pushed at once, and says what became of each
    Rotate(rotate::Rotate),
    /// Ends certificates before their time; an identity or a prefix stays denied
    Revoke(revoke::Revoke),
    /// Lets a denied identity have certificates again
    Release(revoke::Release),
}

/// `cert list`.
#[derive(Debug, Args)]
pub struct List {
    /// Only SPIFFE IDs that begin with this
    #[arg(long, value_name = "PREFIX")]
    identity: Option<String>,
    /// Which: live, tainted (unexpired, under an issuing CA that is trusted no more), expired, revoked, recent
    /// (unexpired, or expired within two days) or all
    #[arg(long, default_value = "recent", value_parser = ["recent", "live", "tainted", "expired", "revoked", "all"])]
    state: String,
    /// Every certificate that was ever recorded: --state all
    #[arg(long, conflicts_with = "state")]
    all: bool,
    /// Denied identities instead of certificates
    #[arg(long, conflicts_with_all = ["identity", "state", "all", "page"])]
    denied: bool,
    /// At most this many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Go on where a page before ended (next_page_token)
    #[arg(long, value_name = "TOKEN")]
    page: Option<String>,
}

/// `cert show`.
#[derive(Debug, Args)]
pub struct Show {
    /// The serial, its beginning, or the form of tables: 5e0c…91f2
    serial: String,
}

/// `cert issue`.
#[derive(Debug, Args)]
pub struct Issue {
    /// The SPIFFE ID; without it, the first that policy grants you on the socket "admin"
    #[arg(long, value_name = "SPIFFE-ID")]
    identity: Option<SpiffeId>,
    /// A PKCS #10 request (PEM or DER) for a key that you hold; without it a key is made
    #[arg(long, value_name = "FILE")]
    csr: Option<PathBuf>,
    /// The key to make
    #[arg(long, default_value = "p256", conflicts_with = "csr", value_parser = ["p256", "p384", "ed25519", "rsa2048", "rsa3072", "rsa4096"])]
    key: String,
    /// Where cert.pem, key.pem and bundle.pem go, each 0600
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

/// The schema of `cert issue --output json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssueOutput {
    /// Hex.
    pub serial: String,
    /// The SPIFFE ID.
    pub identity: String,
    /// RFC 3339.
    pub not_before: String,
    /// RFC 3339.
    pub not_after: String,
    /// RFC 3339: when to ask for the next.
    pub renew_at: String,
    /// The rule that granted.
    pub rule: String,
    /// The record's id.
    pub record: String,
    /// The file with leaf and issuing CA.
    pub cert: String,
    /// The file with the key; null when the key was yours.
    pub key: Option<String>,
    /// The file with the roots.
    pub bundle: String,
}

impl Cert {
    pub(crate) async fn run(self, context: &Context) -> Done {
        match self {
            Self::List(args) => list(args, context).await,
            Self::Show(args) => show(args, context).await,
            Self::Issue(args) => issue(args, context).await,
            Self::Rotate(args) => rotate::rotate(args, context).await,
            Self::Revoke(args) => revoke::revoke(args, context).await,
            Self::Release(args) => revoke::release(args, context).await,
        }
    }
}

async fn list(args: List, context: &Context) -> Done {
    let screen = &context.screen;
    if args.denied {
        let answer = context.admin().await?.list_denies(pb::ListDeniesRequest {}).await?.into_inner();
        return screen.show(&answer, |list| revoke::denied_screen(list, screen.now()));
    }
    let state = if args.all { "all".to_owned() } else { args.state };
    let ask = pb::ListCertificatesRequest {
        identity_prefix: args.identity.unwrap_or_default(),
        state: state.clone(),
        page_size: args.limit,
        page_token: args.page.unwrap_or_default(),
    };
    let answer = context.admin().await?.list_certificates(ask).await?.into_inner();
    screen.show(&answer, |list| list_screen(list, &state, screen.now(), screen.paint))
}

fn list_screen(list: &pb::CertificateList, state: &str, now: OffsetDateTime, paint: Paint) -> String {
    let mut table = Table::new(&["SERIAL", "IDENTITY", "PROXY", "ISSUED", "RENEWS", "EXPIRES", "STATE"]);
    for one in &list.certificates {
        table.row([
            short(&one.serial),
            one.identity.clone(),
            one.node.clone().unwrap_or_else(|| NOTHING.to_owned()),
            relative(&one.issued_at, now),
            one.renews_at.as_ref().map_or_else(|| NOTHING.to_owned(), |at| relative(at, now)),
            relative(&one.not_after, now),
            match one.state.as_str() {
                "failed" => paint.bad("failed"),
                "revoked" => paint.bad("revoked"),
                "tainted" => paint.bad("tainted"),
                "live" if one.held == "nacked" => paint.warn("live, refused by its proxy"),
                other => other.to_owned(),
            },
        ]);
    }
    let mut text = if list.certificates.is_empty() { String::new() } else { table.render("") };
    let ended = list.total.saturating_sub(list.live);
    text.push_str(&format!("{} live, {} no more", thousands(list.live), thousands(ended)));
    if !list.next_page_token.is_empty() {
        text.push_str(&format!(". More: chancery cert list --state {state} --page {}\n", list.next_page_token));
    } else if list.total == 0 {
        text.push_str(". The first one: chancery fetch --dir id, or chancery cert issue --dir id\n");
    } else if state == "all" {
        text.push_str(". One of them: chancery cert show SERIAL\n");
    } else {
        text.push_str(". Older: chancery cert list --all\n");
    }
    text
}

async fn show(args: Show, context: &Context) -> Done {
    let ask = pb::GetCertificateRequest { serial: args.serial };
    let answer = context.admin().await?.get_certificate(ask).await?.into_inner();
    let screen = &context.screen;
    screen.show(&answer, |detail| show_screen(detail, screen.now()))
}

fn show_screen(detail: &pb::CertificateDetail, now: OffsetDateTime) -> String {
    let certificate = detail.certificate.clone().unwrap_or_default();
    let or_nothing = |value: &Option<String>| value.clone().unwrap_or_else(|| NOTHING.to_owned());
    let when = |text: &str| format!("{text}  ({})", relative(text, now));
    let mut table = Table::bare();
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("serial", certificate.serial.clone());
    row("identity", certificate.identity);
    row("state", certificate.state);
    if let Some(at) = &certificate.revoked_at {
        let why = or_nothing(&certificate.revocation_reason);
        row("revoked", format!("{} ({why}), by {}", when(at), or_nothing(&certificate.revocation_record)));
    }
    row("valid from", when(&certificate.not_before));
    row("valid until", when(&certificate.not_after));
    if let Some(renews) = &certificate.renews_at {
        row("renews", when(renews));
    }
    row(
        "held by",
        match (certificate.held.as_str(), &certificate.node) {
            ("none", _) => "no stream at this moment".to_owned(),
            (how, Some(node)) => format!("{node} ({how})"),
            (how, None) => how.to_owned(),
        },
    );
    row("asked by", format!("{}, for {}", or_nothing(&certificate.caller), or_nothing(&certificate.secret_name)));
    row("rule", format!("\"{}\" of policy {}", certificate.rule, short(&certificate.policy_hash)));
    row("profile", certificate.profile);
    row("issuer key", certificate.issuer_key_id);
    if let Some(previous) = &certificate.previous_serial {
        row("follows", format!("{previous} ({})", or_nothing(&certificate.renewal_cause)));
    }
    row("SHA-256", or_nothing(&certificate.certificate_sha256));
    row("record", certificate.record);
    let mut text = table.render("");
    if let Some(record) = &detail.record {
        text.push_str(&format!("\n{}\n", records::pretty(record)));
    }
    text.push_str(&format!(
        "\nA receipt that anyone can check: chancery audit prove {} > receipt.tlog-proof\n",
        short(&certificate.serial)
    ));
    text
}

async fn issue(args: Issue, context: &Context) -> Done {
    // Before the certificate is on record, know that it can be kept.
    fs::create_dir_all(&args.dir).map_err(|error| Failure::usage(format!("{}: {error}", args.dir.display())))?;
    let (csr, key) = match &args.csr {
        Some(path) => (read_csr(path)?, None),
        None => {
            let (csr, key) = make_request(&args.key, args.identity.as_ref())?;
            (csr, Some(key))
        }
    };
    let identity = args.identity.map(|id| id.to_string()).unwrap_or_default();
    let ask = pb::IssueCertificateRequest { csr, identity };
    let issued = context.admin().await?.issue_certificate(ask).await?.into_inner();
    let output = keep(&args.dir, issued, key)?;
    let screen = &context.screen;
    screen.show(&output, |output| issue_screen(output, screen.now()))
}

fn read_csr(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error: std::io::Error| Failure::usage(format!("{}: {error}", path.display()));
    let length = fs::metadata(path).map_err(failed)?.len();
    if length > LARGEST_CSR {
        return Err(Failure::usage(format!(
            "{} has {length} bytes, more than the {LARGEST_CSR} of any certificate request: name a PKCS #10 file",
            path.display()
        )));
    }
    fs::read(path).map_err(failed)
}

/// A key, and a request that proves its possession and says nothing but the wanted identity.
fn make_request(algorithm: &str, identity: Option<&SpiffeId>) -> Result<(Vec<u8>, SecretBytes), Failure> {
    let named = serde_json::from_value::<KeyAlgorithm>(serde_json::Value::String(algorithm.to_owned()));
    let algorithm = named.map_err(|_| Failure::usage(format!("--key {algorithm} is no key that can be made")))?;
    let key = leaf::generate(algorithm).map_err(|error| Failure::failed(error.to_string()))?;
    let made = |error: rcgen::Error| Failure::failed(format!("the certificate request could not be made: {error}"));
    let pkcs8 = rustls_pki_types::PrivatePkcs8KeyDer::from(key.pkcs8().expose());
    let pair = match rcgen_algorithm(algorithm) {
        Some(algorithm) => rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, algorithm).map_err(made)?,
        None => return Err(Failure::usage("a key of this kind needs --csr")),
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(identity) = identity {
        params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into().map_err(made)?)];
    }
    let request = params.serialize_request(&pair).map_err(made)?;
    Ok((request.der().to_vec(), key.pkcs8_pem()))
}

fn rcgen_algorithm(algorithm: KeyAlgorithm) -> Option<&'static rcgen::SignatureAlgorithm> {
    match algorithm {
        KeyAlgorithm::P256 => Some(&rcgen::PKCS_ECDSA_P256_SHA256),
        KeyAlgorithm::P384 => Some(&rcgen::PKCS_ECDSA_P384_SHA384),
        KeyAlgorithm::Ed25519 => Some(&rcgen::PKCS_ED25519),
        KeyAlgorithm::Rsa2048 | KeyAlgorithm::Rsa3072 | KeyAlgorithm::Rsa4096 => Some(&rcgen::PKCS_RSA_SHA256),
        KeyAlgorithm::MlDsa44 | KeyAlgorithm::MlDsa65 | KeyAlgorithm::MlDsa87 => None,
    }
}

fn keep(dir: &Path, issued: pb::IssuedCertificate, key: Option<SecretBytes>) -> Result<IssueOutput, Failure> {
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        let kept = write_private(&path, bytes);
        let record = &issued.record;
        kept.map_err(|error| Failure::failed(format!("{error}; the certificate stands in the ledger as {record}")))?;
        Ok::<_, Failure>(path.display().to_string())
    };
    // The key first: a certificate without its key is of no use, a key without certificate does no harm.
    let key = key.map(|key| write("key.pem", key.expose())).transpose()?;
    let cert = write("cert.pem", issued.chain_pem.as_bytes())?;
    let bundle = write("bundle.pem", issued.bundle_pem.as_bytes())?;
    Ok(IssueOutput {
        serial: issued.serial,
        identity: issued.identity,
        not_before: issued.not_before,
        not_after: issued.not_after,
        renew_at: issued.renew_at,
        rule: issued.rule,
        record: issued.record,
        cert,
        key,
        bundle,
    })
}

fn issue_screen(output: &IssueOutput, now: OffsetDateTime) -> String {
    let mut table = Table::bare();
    let files = output.key.as_ref().map_or(2, |_| 3);
    table.row(["issued".into(), format!("{}  (serial {})", output.identity, short(&output.serial))]);
    table.row(["by rule".into(), format!("\"{}\"", output.rule)]);
    table.row(["valid".into(), format!("until {} ({})", output.not_after, relative(&output.not_after, now))]);
    table.row(["recorded".into(), output.record.clone()]);
    let names = [Some(&output.cert), output.key.as_ref(), Some(&output.bundle)];
    let names: Vec<&str> = names.into_iter().flatten().map(String::as_str).collect();
    table.row(["wrote".into(), format!("{} ({}, 0600)", names.join(", "), count(files, "file"))]);
    format!(
        "{}It is not renewed by itself; chancery fetch keeps one fresh. Its record: chancery cert show {}\n",
        table.render(""),
        short(&output.serial)
    )
}

#[cfg(test)]
mod tests;
