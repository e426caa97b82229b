//! `chancery policy`: check a file, show what is in force, change it, and say why somebody would or would not get an identity.

mod change;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::exit::{Done, Exit, Failure};
use super::screen::{Paint, Table, count, short};
use super::{Context, client};
use crate::config::files::load_policy;
use crate::identity::{SpiffeId, TrustDomain};
use crate::proto::chancery::admin::v1 as pb;

/// Who may have which certificate.
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Finds all mistakes of a policy file at once; needs no server
    Check(Check),
    /// Shows the rules in force
    Show,
    /// Says what a caller would get, rule by rule, and what it lacks
    Explain(Explain),
    /// Says what a new policy file would change, and which live certificates it would not grant any more
    Diff(change::Diff),
    /// Replaces the server's policy file by a new one and puts that in force
    Apply(change::Apply),
}

/// `policy check`.
#[derive(Debug, Args)]
pub struct Check {
    /// The file; without it, policy.toml of the data directory
    file: Option<PathBuf>,
    /// The trust domain to read it for; without it, that of the server in the data directory, or example.org
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<TrustDomain>,
}

/// `policy explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// The caller's user id
    #[arg(long, required_unless_present = "client")]
    uid: Option<u32>,
    /// Its group id; without it, the same number as its user id
    #[arg(long, requires = "uid")]
    gid: Option<u32>,
    /// A supplementary group; repeatable
    #[arg(long = "group", value_name = "GID", requires = "uid")]
    groups: Vec<u32>,
    /// The identity in its client certificate, for a caller over TLS
    #[arg(long, value_name = "SPIFFE-ID", conflicts_with = "uid")]
    client: Option<SpiffeId>,
    /// The socket it connects to
    #[arg(long, default_value = "sds")]
    socket: String,
    /// An identity it asks for by name
    #[arg(long, value_name = "SPIFFE-ID")]
    identity: Option<SpiffeId>,
}

/// The schema of `policy check --output json`; mistakes are an error with exit code 2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckOutput {
    /// The file.
    pub path: String,
    /// Its SHA-256, as records name it.
    pub hash: String,
    /// How many rules it has.
    pub rules: usize,
    /// The trust domain it was read for.
    pub trust_domain: String,
    /// Whether the server in the data directory uses this very text; null when none answers.
    pub in_force: Option<bool>,
}

impl Policy {
    pub(crate) async fn run(self, context: &Context) -> Done {
        match self {
            Self::Check(args) => check(args, context).await,
            Self::Show => show(context).await,
            Self::Explain(args) => explain(args, context).await,
            Self::Diff(args) => change::diff(args, context).await,
            Self::Apply(args) => change::apply(args, context).await,
        }
    }
}

async fn check(args: Check, context: &Context) -> Done {
    let addresses = client::addresses(&context.data_dir);
    let path = args.file.unwrap_or_else(|| context.data_dir.join("policy.toml"));
    let served = addresses.as_ref().map(|addresses| addresses.trust_domain.clone());
    let usual = || TrustDomain::parse("example.org").map_err(|error| Failure::failed(error.to_string()));
    let trust_domain = args.trust_domain.or(served).map_or_else(usual, Ok)?;
    let policy = load_policy(&path, &trust_domain, None).map_err(|error| Failure::usage(error.to_string()))?;
    let in_force = match &addresses {
        Some(_) => in_force(context, policy.hash_hex()).await,
        None => None,
    };
    let output = CheckOutput {
        path: path.display().to_string(),
        hash: policy.hash_hex().to_owned(),
        rules: policy.rules().len(),
        trust_domain: trust_domain.to_string(),
        in_force,
    };
    context.screen.show(&output, check_screen)
}

async fn in_force(context: &Context, hash: &str) -> Option<bool> {
    let answer = context.admin().await.ok()?.get_policy(pb::GetPolicyRequest {}).await.ok()?;
    Some(answer.get_ref().hash == hash)
}

fn check_screen(output: &CheckOutput) -> String {
    let rules = count(u64::try_from(output.rules).unwrap_or(u64::MAX), "rule");
    let next = match output.in_force {
        Some(true) => "It is in force.",
        Some(false) => "The running server uses another text. What this one would mean: chancery policy diff FILE",
        None => "No server runs here. What a caller would get: chancery policy explain, once one does.",
    };
    format!("{}: {rules}, no mistakes, for trust domain {}\n{next}\n", output.path, output.trust_domain)
}

async fn show(context: &Context) -> Done {
    let answer = context.admin().await?.get_policy(pb::GetPolicyRequest {}).await?.into_inner();
    context.screen.show(&answer, show_screen)
}

fn show_screen(policy: &pb::Policy) -> String {
    let mut table = Table::new(&["", "RULE", "WHO", "GETS", "MESH", "FOR"]);
    for rule in &policy.rules {
        table.row([
            rule.number.to_string(),
            format!("\"{}\"", rule.name),
            rule.matches.clone(),
            rule.identity.clone(),
            rule.mesh.clone(),
            rule.lifetime.clone(),
        ]);
    }
    format!(
        "{}Policy {} from {}. What a caller would get: chancery policy explain --uid N\n",
        table.render(""),
        short(&policy.hash),
        policy.path
    )
}

async fn explain(args: Explain, context: &Context) -> Done {
    let uid = args.uid.unwrap_or_default();
    let ask = pb::ExplainPolicyRequest {
        uid,
        gid: args.gid.unwrap_or(uid),
        groups: args.groups,
        socket: args.socket,
        identity: args.identity.map(|id| id.to_string()).unwrap_or_default(),
        client: args.client.map(|id| id.to_string()).unwrap_or_default(),
    };
    let answer = context.admin().await?.explain_policy(ask).await?.into_inner();
    context.screen.show(&answer, |answer| explain_screen(answer, context.screen.paint))?;
    // A script can ask with the exit code alone.
    if answer.granted.is_none() { Err(Failure::said(Exit::Refused)) } else { Ok(()) }
}

fn explain_screen(answer: &pb::Explanation, paint: Paint) -> String {
    let (first, rest) = answer.text.split_once('\n').unwrap_or((&answer.text, ""));
    let first = if answer.granted.is_some() { paint.good(first) } else { paint.warn(first) };
    format!("{first}\n{rest}{}", if rest.is_empty() || rest.ends_with('\n') { "" } else { "\n" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::screen::golden;

    #[test]
    fn rules_are_a_table() {
        let rule = |number, name: &str, matches: &str, identity: &str| pb::Rule {
            number,
            name: name.into(),
            matches: matches.into(),
            identity: identity.into(),
            mesh: "istio".into(),
            lifetime: "24h".into(),
            keys: vec!["p256".into()],
        };
        let policy = pb::Policy {
            hash: "9f3c".repeat(16),
            path: "./chancery-data/policy.toml".into(),
            text: String::new(),
            rules: vec![
                rule(1, "payments", "group 2000", "spiffe://{trust_domain}/ns/pay/sa/api"),
                rule(2, "operators", "uid 0-999", "spiffe://{trust_domain}/user/{uid}"),
            ],
        };
        golden::check("policy-show.txt", &show_screen(&policy));
    }

    #[test]
    fn a_checked_file_says_whether_it_is_in_force() {
        let output = |in_force| CheckOutput {
            path: "policy.toml".into(),
            hash: "9f3c".into(),
            rules: 2,
            trust_domain: "example.org".into(),
            in_force,
        };
        let screens: Vec<String> = [Some(true), Some(false), None].map(|it| check_screen(&output(it))).into();
        golden::check("policy-check.txt", &screens.join("\n"));
    }
}
