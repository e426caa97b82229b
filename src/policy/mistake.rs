//! What can be wrong with a policy, each with its remedy. For `parse` alone, where it is found.

use super::own::OWN_PATH;
use super::parse::{LARGEST_POLICY, LATEST_RENEWAL, LONGEST_NAME, MOST_RULES};
use super::rules::{NO_ID, OVERFLOW_ID};
use super::template::{NotDns, TemplateError};
use crate::identity::{IdentityError, Mesh};

/// What can be wrong with a rule. Each says what to write instead.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum PolicyError {
    /// The file is larger than [`LARGEST_POLICY`].
    #[error(
        "{length} bytes, but a policy has at most {LARGEST_POLICY}: write ranges and templates instead of many rules"
    )]
    TooLarge { length: usize },
    /// No `[[rule]]` at all.
    #[error("there is no rule, so nobody would get a certificate: write one under [[rule]] (examples: docs/policy.md)")]
    NoRules,
    /// More than [`MOST_RULES`].
    #[error("{count} rules, but a policy has at most {MOST_RULES}: write ranges and templates instead")]
    TooManyRules { count: usize },
    /// A name that records could not carry.
    #[error("a rule's name has 1 to {LONGEST_NAME} letters, digits, spaces, dots, dashes and underscores")]
    Name,
    /// Two rules of one name.
    #[error("rule {first} has this name already: records name rules, so each needs its own")]
    DuplicateName { first: usize },
    /// A rule for everybody, perhaps by oversight.
    #[error(
        "no condition, so it would match everybody: write match = {{ uid = 1000 }}, or {{ uid = \"any\" }} if you mean it"
    )]
    NoCondition,
    /// Neither number nor range.
    #[error("not an id: write a number (1000), a range (\"1000-1999\") or \"any\"")]
    IdForm,
    /// A range that ends before it begins.
    #[error("an empty range: write the lower id first, \"{last}-{first}\"")]
    EmptyRange { first: u32, last: u32 },
    /// A list without values.
    #[error("an empty list matches nobody: leave the condition out or name one")]
    EmptyList,
    /// An id that never belongs to anybody.
    #[error(
        "matches nobody: {OVERFLOW_ID} and {NO_ID} stand for unmapped users, who are nobody in particular; name a real id"
    )]
    NobodysId,
    /// A socket that is not open, and is like one that is.
    #[error("no such socket, so it matches nobody; did you mean \"{suggestion}\"?")]
    SocketLike { suggestion: String },
    /// A socket that is not open.
    #[error(
        "no such socket, so it matches nobody: open one under [[sds.listen]] (--sds-socket with up), or choose from {known}"
    )]
    Socket { known: String },
    /// Conditions that no caller meets together.
    #[error("a client certificate shows no uid, gid or group, so it matches nobody: leave client out, or the others")]
    ClientAndProcess,
    /// A pattern that is no identity.
    #[error("{problem}: write a SPIFFE ID, or a prefix as in spiffe://{{trust_domain}}/workload/*")]
    Client { problem: IdentityError },
    /// A pattern of another trust domain.
    #[error("no client of another trust domain gets in, so it matches nobody: write spiffe://{{trust_domain}}/…")]
    ClientOfOthers,
    /// A template whose text is wrong.
    #[error("{0}")]
    Template(TemplateError),
    /// A template that gives something that is no SPIFFE ID.
    #[error("gives {example}: {problem}")]
    Identity { example: String, problem: IdentityError },
    /// A template of another trust domain.
    #[error("names another trust domain than this server's: write spiffe://{{trust_domain}}/…")]
    OtherTrustDomain,
    /// The server's own identity.
    #[error("gives spiffe://{{trust_domain}}{OWN_PATH}, which is kept for the server itself: choose another path")]
    Own,
    /// A template that is not of the mesh's form.
    #[error("is not of {mesh}'s form: write spiffe://{{trust_domain}}{forms}, or choose another mesh")]
    Form { mesh: Mesh, forms: String },
    /// A template that gives something that is no DNS name.
    #[error("gives {example}: {NotDns}")]
    Dns { example: String },
    /// DNS names where the profile has none.
    #[error("a certificate of {mesh} has no DNS names: leave dns out, or choose mesh = \"envoy\"")]
    NoDnsHere { mesh: Mesh },
    /// No DNS name where the profile needs one.
    #[error("a certificate of {mesh} needs a DNS name: leave dns out for the mesh's own, or write at least one")]
    DnsNeeded { mesh: Mesh },
    /// A key algorithm that the mesh cannot use.
    #[error("not for {mesh}: choose from {allowed}")]
    Key { mesh: Mesh, allowed: String },
    /// A renewal too near to the end.
    #[error("renews as late as at {percent} % of its life: keep renew_at + jitter at or below {LATEST_RENEWAL}")]
    LateRenewal { percent: f64 },
    /// A limit on the age of an attestation that is made anew for each request.
    #[error(
        "a process is attested with each request: leave it out, or make the rule one for clients with match.client"
    )]
    AttestedEachTime,
    /// A rule that never decides.
    #[error(
        "grants nothing that rule {number} \"{name}\" does not grant to the same callers: remove it, or move it up"
    )]
    Shadowed { number: usize, name: String },
}
