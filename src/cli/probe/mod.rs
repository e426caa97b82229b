//! `chancery probe`: a real handshake with a listener, because an acknowledged push proves nothing.
//!
//! It answers what an operator asks after a rotation or a revocation: which certificate does the listener show now, does
//! it lead to our roots, is it revoked by the lists we hold, and does the listener let us in. The exit code says whether
//! that is as expected.

mod handshake;
#[cfg(test)]
mod tests;

use clap::Args;
use rustls::CertificateError;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use self::handshake::{Handshake, Verdict, shake};
use super::Context;
use super::exit::{Done, Exit, Failure};
use super::screen::{Paint, count, relative};
use super::tls::{Facts, HostPort, Identity, SpiffeVerifier, alert_name, alert_remedy, explain};
use crate::clock::rfc3339_seconds;
use crate::identity::SpiffeId;

/// `chancery probe`.
#[derive(Debug, Args)]
pub struct Probe {
    /// The listener
    #[arg(value_name = "HOST:PORT")]
    address: HostPort,
    /// Who must answer
    #[arg(long, value_name = "SPIFFE-ID", requires = "identity_dir")]
    expect: Option<SpiffeId>,
    /// Being turned away is what is wanted: 0 when refused, 5 when let in
    #[arg(long)]
    expect_refused: bool,
    /// The name to ask for (SNI) when it is not HOST
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
}

/// The schema of a certificate in `probe --output json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateOutput {
    /// Hex.
    pub serial: String,
    /// Every URI in it; a SPIFFE certificate has one.
    pub uris: Vec<String>,
    /// As text; empty for SPIFFE certificates.
    pub subject: String,
    /// As text.
    pub issuer: String,
    /// RFC 3339.
    pub not_before: String,
    /// RFC 3339.
    pub not_after: String,
}

/// How the listener took our certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// It let us in.
    Accepted,
    /// It sent an alert.
    Refused,
    /// It hung up without an alert.
    Closed,
}

/// The schema of `probe --output json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeOutput {
    /// Whether all is as expected; else the exit code is not 0.
    pub passed: bool,
    /// The listener.
    pub address: String,
    /// Always `TLSv1.3`: nothing below is spoken.
    pub tls: String,
    /// The cipher suite.
    pub cipher: String,
    /// The group of the key exchange.
    pub group: String,
    /// The protocol chosen for what comes after; null when the listener chose none.
    pub alpn: Option<String>,
    /// From the first packet until our side of the handshake was done, in milliseconds.
    pub took_ms: u64,
    /// What the listener showed, leaf first.
    pub chain: Vec<CertificateOutput>,
    /// Whether the chain leads to a root of `bundle.pem`, is in time, not revoked by a list of `crl.pem`, and of the
    /// expected identity; null when no --identity-dir said whom to trust.
    pub verified: Option<bool>,
    /// Why not.
    pub fault: Option<String>,
    /// How many revocation lists were looked at.
    pub revocation_lists: usize,
    /// Whether the listener asked for a certificate; one that does not lets anyone in.
    pub client_asked: bool,
    /// What we showed; null without --identity-dir.
    pub client: Option<CertificateOutput>,
    /// How the listener took it.
    pub client_result: Entry,
    /// Whether it said nothing at all; a refusal comes at once, so that is taken for a yes.
    pub silent: bool,
    /// The alert that it sent, as RFC 8446 names it.
    pub alert: Option<String>,
    /// What to do about it.
    pub remedy: Option<String>,
    /// What our own lists and clock say about our certificate; null when nothing is wrong with it.
    pub client_fault: Option<String>,
}

impl CertificateOutput {
    fn of(facts: Facts) -> Self {
        Self {
            serial: facts.serial,
            uris: facts.uris,
            subject: facts.subject,
            issuer: facts.issuer,
            not_before: rfc3339_seconds(facts.not_before),
            not_after: rfc3339_seconds(facts.not_after),
        }
    }

    fn name(&self) -> String {
        match self.uris.as_slice() {
            [] if self.subject.is_empty() => "(no name)".to_owned(),
            [] => self.subject.clone(),
            uris => uris.join(" and "),
        }
    }
}

pub(crate) async fn run(args: Probe, context: &Context) -> Done {
    let identity = context.remote.identity_dir.as_deref().map(Identity::load).transpose()?;
    let name = args.sni.clone().map(ServerName::try_from).transpose();
    let name = name.map_err(|_| Failure::usage("--sni takes a DNS name, such as api.example.org"))?;
    let (clock, now) = (&context.screen.clock, context.screen.now());
    let verifier = identity.as_ref().map(|identity| SpiffeVerifier::new(identity.anchors.clone(), args.expect.clone()));
    let shaken = shake(&args.address, name.as_ref(), identity.as_ref(), verifier, clock).await?;
    let output = describe(&args, identity.as_ref(), shaken, now);
    context.screen.show(&output, |output| probe_screen(output, args.expect_refused, now, context.screen.paint))?;
    match judge(&output, args.expect_refused) {
        None => Ok(()),
        Some(exit) => Err(Failure::said(exit)),
    }
}

/// What the exit code is, if it is not 0.
fn judge(output: &ProbeOutput, expect_refused: bool) -> Option<Exit> {
    let refused = output.client_result != Entry::Accepted;
    match (output.verified == Some(false), refused, expect_refused) {
        (true, _, _) | (false, false, true) => Some(Exit::Unverified),
        (false, true, false) => Some(Exit::Refused),
        (false, false, false) | (false, true, true) => None,
    }
}

fn describe(args: &Probe, identity: Option<&Identity>, shaken: Handshake, now: OffsetDateTime) -> ProbeOutput {
    let certificate = |der: &CertificateDer<'_>| Facts::of(der).map(CertificateOutput::of).unwrap_or_default();
    let alert = match shaken.verdict {
        Verdict::Refused(alert) => Some(alert),
        Verdict::Accepted | Verdict::Silent | Verdict::Closed => None,
    };
    let mut output = ProbeOutput {
        passed: false,
        address: args.address.to_string(),
        tls: "TLSv1.3".to_owned(),
        cipher: shaken.cipher,
        group: shaken.group,
        alpn: shaken.alpn,
        took_ms: u64::try_from(shaken.took.as_millis()).unwrap_or(u64::MAX),
        chain: shaken.chain.iter().map(certificate).collect(),
        verified: identity.map(|_| shaken.fault.is_none()),
        fault: shaken.fault.as_ref().map(explain),
        revocation_lists: identity.map_or(0, |identity| identity.anchors.lists()),
        client_asked: shaken.asked,
        client: identity.and_then(|identity| identity.chain.first()).map(certificate),
        client_result: match shaken.verdict {
            Verdict::Accepted | Verdict::Silent => Entry::Accepted,
            Verdict::Refused(_) => Entry::Refused,
            Verdict::Closed => Entry::Closed,
        },
        silent: shaken.verdict == Verdict::Silent,
        alert: alert.map(alert_name),
        remedy: alert.map(|alert| alert_remedy(alert).to_owned()),
        client_fault: identity.and_then(|identity| own_fault(identity, now)),
    };
    output.passed = judge(&output, args.expect_refused).is_none();
    output
}

/// What a peer with our roots and lists would say about our own certificate.
fn own_fault(identity: &Identity, now: OffsetDateTime) -> Option<String> {
    let (leaf, intermediates) = identity.chain.split_first()?;
    let seconds = u64::try_from(now.unix_timestamp()).unwrap_or_default();
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    let fault = identity.anchors.check(leaf, intermediates, now, webpki::KeyUsage::client_auth()).err()?;
    Some(if fault == CertificateError::Revoked { "crl.pem names it as revoked".to_owned() } else { explain(&fault) })
}

fn probe_screen(output: &ProbeOutput, expect_refused: bool, now: OffsetDateTime, paint: Paint) -> String {
    let spoken = output.alpn.as_deref().map_or_else(String::new, |alpn| format!(", {alpn}"));
    let mut text =
        format!("{}  TLS 1.3, {}, {}{spoken}, {} ms\n", output.address, output.group, output.cipher, output.took_ms);
    let one = |certificate: &CertificateOutput| {
        let expires = relative(&certificate.not_after, now);
        format!("{}, serial {}, expires {expires}", certificate.name(), certificate.serial)
    };
    match output.chain.split_first() {
        None => text.push_str("  shows     no certificate\n"),
        Some((leaf, above)) => {
            text.push_str(&format!("  shows     {}\n", one(leaf)));
            above.iter().for_each(|above| text.push_str(&format!("            {}\n", one(above))));
        }
    }
    let trust = match (output.verified, &output.fault) {
        (Some(true), _) => match output.revocation_lists {
            0 => {
                format!("{}: leads to our roots; no crl.pem, so nobody looked for a revocation", paint.good("verified"))
            }
            lists => format!("{}: leads to our roots, not revoked by {}", paint.good("verified"), lists_of(lists)),
        },
        (Some(false), fault) => format!("{}: {}", paint.bad("wrong"), fault.as_deref().unwrap_or_default()),
        (None, _) => "not looked at: --identity-dir DIR says whom to trust and who we are".to_owned(),
    };
    text.push_str(&format!("  that is   {trust}\n"));
    let we = output.client.as_ref().map_or_else(|| "nobody".to_owned(), one);
    text.push_str(&format!("  we are    {we}\n"));
    if let Some(fault) = &output.client_fault {
        text.push_str(&format!("            others should not let us in: {fault}\n"));
    }
    text.push_str(&format!("  it says   {}\n", said(output, expect_refused, paint)));
    text
}

fn lists_of(lists: usize) -> String {
    count(u64::try_from(lists).unwrap_or(u64::MAX), "revocation list")
}

fn said(output: &ProbeOutput, expect_refused: bool, paint: Paint) -> String {
    let wanted = |good: bool, text: &str| if good { paint.good(text) } else { paint.bad(text) };
    match (output.client_result, &output.alert) {
        (Entry::Accepted, _) if !output.client_asked => {
            let text = "come in; it asked for no certificate, so anyone may: is require_client_certificate missing?";
            if expect_refused { paint.bad(text) } else { paint.warn(text) }
        }
        (Entry::Accepted, _) => {
            let shown = if output.client.is_some() { "come in" } else { "come in, without a certificate" };
            let silent = if output.silent { " (it stayed silent, and a refusal comes at once)" } else { "" };
            wanted(!expect_refused, shown) + silent
        }
        (Entry::Refused, alert) => {
            let alert = alert.as_deref().unwrap_or_default();
            let remedy = output.remedy.as_deref().unwrap_or_default();
            format!("{}: {remedy}", wanted(expect_refused, &format!("no, with the alert {alert}")))
        }
        (Entry::Closed, _) => {
            let text = wanted(expect_refused, "nothing, and hung up");
            format!("{text}: does it hold a certificate yet, and does a filter turn us away? Its log may say")
        }
    }
}
