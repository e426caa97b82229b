//! Acts that take two operators: which they are, what a request says, and what becomes of the same act asked again.
//!
//! A request is the SHA-256 over the act, everything it was asked with and the state that it was computed against. Whoever
//! asked asks again once another person has granted it, and then the act is done as ever; when the state is another by
//! then, so is the digest, and the grant does not fit it. Nothing here records or waits: `api::admin` records a request, a
//! grant and the act that uses it before each takes effect, and hands the rows of the index in.
//!
//! A new act takes part by a line in [`Guarded`] and a call of `Sources::leave` where it would be recorded.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_lc_rs::digest;
use time::OffsetDateTime;

use crate::audit::event::Actor;
use crate::clock::parse_rfc3339;
use crate::store::ApprovalRow;

/// Requests of one person that are open at once.
pub const MOST_OPEN_EACH: usize = 8;

/// Requests that are open at once.
pub const MOST_OPEN: usize = 64;

/// How long a request stays open where the configuration does not say.
pub const OPEN_FOR: Duration = Duration::from_secs(3_600);

/// An act that may take a second operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Guarded {
    /// A roll-over of an authority.
    CaRotate,
    /// An authority whose key is not ours alone.
    CaTaint,
    /// A prepared root that takes over.
    CaActivate,
    /// A prepared authority that is given up, or a root that is taken out.
    CaRetire,
    /// A revocation that reaches more than one identity.
    RevokeMany,
    /// Another policy.
    Policy,
    /// Another configuration, where it changes while the server runs.
    Configuration,
    /// A break-glass credential: whoever has it needs no second operator.
    BreakglassSeal,
}

/// How often one grant may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uses {
    /// Once.
    Once,
    /// As long as the state is what it was: the act changes it, so that this only goes on with what was cut short.
    WhileUnchanged,
}

impl Guarded {
    /// All of them, in the order of documentation.
    pub const ALL: [Self; 8] = [
        Self::CaRotate,
        Self::CaTaint,
        Self::CaActivate,
        Self::CaRetire,
        Self::RevokeMany,
        Self::Policy,
        Self::Configuration,
        Self::BreakglassSeal,
    ];

    /// Its word in configuration and records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CaRotate => "ca.rotate",
            Self::CaTaint => "ca.taint",
            Self::CaActivate => "ca.activate",
            Self::CaRetire => "ca.retire",
            Self::RevokeMany => "cert.revoke",
            Self::Policy => "policy",
            Self::Configuration => "configuration",
            Self::BreakglassSeal => "breakglass.seal",
        }
    }

    /// How often one grant of it may be used.
    #[must_use]
    pub fn uses(self) -> Uses {
        match self {
            Self::CaRotate | Self::CaTaint | Self::CaActivate | Self::CaRetire | Self::Policy | Self::Configuration => {
                Uses::WhileUnchanged
            }
            // These leave the state that they were computed against as it is.
            Self::RevokeMany | Self::BreakglassSeal => Uses::Once,
        }
    }
}

/// Which acts take a second operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// These; none by default.
    pub acts: BTreeSet<Guarded>,
    /// How long a request stays open, and a grant may be used.
    pub open_for: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self { acts: BTreeSet::new(), open_for: OPEN_FOR }
    }
}

impl Rules {
    /// Whether `act` takes a second operator. Where any act does, a break-glass credential takes one too: it would
    /// otherwise be the way around.
    #[must_use]
    pub fn guards(&self, act: Guarded) -> bool {
        self.acts.contains(&act) || (act == Guarded::BreakglassSeal && !self.acts.is_empty())
    }
}

/// A person, as far as evidence names one: an account that logged in on this machine, or a client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Person {
    /// The name of an account.
    Login(String),
    /// A SPIFFE ID.
    Client(String),
}

impl Person {
    /// The person of a record; `name` is its sealed name, opened.
    #[must_use]
    pub fn of_record(actor: &Actor, name: Option<String>) -> Option<Self> {
        match &actor.id {
            Some(id) => Some(Self::Client(id.clone())),
            None => name.filter(|_| actor.unattributed != Some(true)).map(Self::Login),
        }
    }

    /// What people call it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Login(name) | Self::Client(name) => name,
        }
    }

    /// Whether both may be one person. A certificate whose SPIFFE ID ends in an account's name is taken for the same:
    /// whoever has two ways in must not be their own second operator.
    #[must_use]
    pub fn may_be(&self, other: &Self) -> bool {
        let last = |id: &str| id.rsplit('/').next().unwrap_or_default().to_lowercase();
        match (self, other) {
            (Self::Login(one), Self::Login(other)) | (Self::Client(one), Self::Client(other)) => one == other,
            (Self::Login(name), Self::Client(id)) | (Self::Client(id), Self::Login(name)) => {
                name.to_lowercase() == last(id)
            }
        }
    }
}

/// What exactly is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Which act.
    pub act: Guarded,
    /// What it is about: `issuing 3`.
    pub subject: String,
    /// For the person who grants it, in a sentence.
    pub description: String,
    /// Everything that it was asked with, as the wire has it.
    pub parameters: Vec<u8>,
    /// The state that it was computed against, one fact a line.
    pub state: Vec<String>,
}

impl Plan {
    /// SHA-256 over act, parameters and state, hex. Every part has its length before it, so that no two plans read alike.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut take = |bytes: &[u8]| {
            context.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
            context.update(bytes);
        };
        take(b"chancery approval 1");
        take(self.act.as_str().as_bytes());
        take(&self.parameters);
        self.state.iter().for_each(|fact| take(fact.as_bytes()));
        hex::encode(context.finish())
    }
}

/// How a request stands at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nobody answered yet.
    Open,
    /// It may be used.
    Granted,
    /// It was used; what was cut short may go on with it until its end.
    Used,
    /// Somebody said no, or whoever asked took it back.
    Refused,
    /// Its time is over.
    Lapsed,
}

impl Standing {
    /// Of a row at `now`.
    #[must_use]
    pub fn of(row: &ApprovalRow, now: OffsetDateTime) -> Self {
        match &row.answer {
            Some(answer) if !answer.granted => Self::Refused,
            Some(_) if row.used.is_some() => Self::Used,
            Some(_) | None if is_over(row, now) => Self::Lapsed,
            Some(_) => Self::Granted,
            None => Self::Open,
        }
    }

    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Granted => "granted",
            Self::Used => "used",
            Self::Refused => "refused",
            Self::Lapsed => "lapsed",
        }
    }
}

/// A time that cannot be read is over.
fn is_over(row: &ApprovalRow, now: OffsetDateTime) -> bool {
    parse_rfc3339(&row.until).map_or(true, |until| until <= now)
}

/// What becomes of an act that takes two, asked for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is done, by this request's grant.
    Go(String),
    /// This request waits for its answer.
    Waits(ApprovalRow),
    /// A request is to be made; with one that was granted for another state, where there is one.
    Ask(Option<ApprovalRow>),
    /// So many are open, of this person or of all.
    TooMany(usize),
}

/// Decides about `plan`, asked for by `person`. `rows` is every request that the index has, with the person who made it
/// where that is known.
#[must_use]
pub fn decide(rows: &[(ApprovalRow, Option<Person>)], person: &Person, plan: &Plan, now: OffsetDateTime) -> Decision {
    let digest = plan.digest();
    let own = || rows.iter().filter(|(_, asked)| asked.as_ref() == Some(person)).map(|(row, _)| row);
    let usable = |row: &&ApprovalRow| match Standing::of(row, now) {
        Standing::Granted => true,
        Standing::Used => plan.act.uses() == Uses::WhileUnchanged && !is_over(row, now),
        Standing::Open | Standing::Refused | Standing::Lapsed => false,
    };
    if let Some(row) = own().filter(usable).find(|row| row.digest == digest) {
        return Decision::Go(row.id.clone());
    }
    let open = |row: &&ApprovalRow| Standing::of(row, now) == Standing::Open;
    if let Some(row) = own().filter(open).find(|row| row.digest == digest) {
        return Decision::Waits(row.clone());
    }
    let all = rows.iter().map(|(row, _)| row).filter(open).count();
    let each = own().filter(open).count();
    if all >= MOST_OPEN || each >= MOST_OPEN_EACH {
        return Decision::TooMany(if each >= MOST_OPEN_EACH { each } else { all });
    }
    let granted = |row: &&ApprovalRow| Standing::of(row, now) == Standing::Granted;
    let same = |row: &&ApprovalRow| row.act == plan.act.as_str() && row.subject == plan.subject;
    Decision::Ask(own().filter(granted).find(same).cloned())
}

#[cfg(test)]
mod tests;
