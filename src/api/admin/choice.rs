//! Which certificates an operator means: read from the wire, and looked up among the live ones of the index.
//!
//! Everything that names nothing, or more than one thing, is told before anything is recorded. The walk over the index is
//! bounded; what lies beyond is counted and not looked at.

use std::collections::HashSet;

use tonic::Status;

use super::Sources;
use super::certificates::index_status;
use super::hands::wide;
use crate::feed::LiveProxy;
use crate::identity::SpiffeId;
use crate::proto::chancery::admin::v1 as pb;
use crate::revocation::Selection;
use crate::store::{AuthorityRow, CertificateQuery, CertificateRow, Found, LARGEST_PAGE};

/// The most certificates of a choice that are looked at, to the end of the page.
pub(super) const MOST_CHOSEN: u64 = 100_000;

/// The most pages of the index that are read for one choice.
const MOST_PAGES: usize = 1_000;

/// The most certificates that an answer shows; all are counted.
pub(super) const MOST_SHOWN: usize = 1_000;

/// The fewest digits of an issuer's key id that name it.
const SHORTEST_KEY_ID: usize = 6;

/// What an operator chose.
#[derive(Debug, Clone)]
pub(super) enum Choice {
    /// All of one SPIFFE ID.
    Identity(SpiffeId),
    /// All whose SPIFFE ID begins with this.
    Prefix(String),
    /// This one.
    Serial(Box<CertificateRow>),
    /// All of one issuing CA.
    Issuer {
        /// Its name.
        name: String,
        /// Its key id, hex.
        key_id: String,
    },
    /// All.
    All,
}

/// The live certificates of a choice.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// The first of them.
    pub(super) shown: Vec<CertificateRow>,
    /// The serials of all that were looked at.
    pub(super) serials: Vec<String>,
    /// Those that a later one took the place of.
    superseded: HashSet<String>,
    /// How many there are, those beyond [`MOST_CHOSEN`] left out.
    pub(super) count: u64,
    /// Whether all of them were looked at.
    pub(super) complete: bool,
}

impl Chosen {
    /// How many of them a stream holds, and how many nobody here holds although nothing took their place.
    pub(super) fn connection(&self, held: &HashSet<&str>) -> (u64, u64) {
        let connected = self.serials.iter().filter(|serial| held.contains(serial.as_str())).count();
        let away = |serial: &&String| !held.contains(serial.as_str()) && !self.superseded.contains(serial.as_str());
        (wide(connected), wide(self.serials.iter().filter(away).count()))
    }

    fn take(&mut self, row: CertificateRow) {
        self.count += 1;
        self.serials.push(row.serial.clone());
        self.superseded.extend(row.previous_serial.clone());
        if self.shown.len() < MOST_SHOWN {
            self.shown.push(row);
        }
    }
}

impl Choice {
    /// The choice in a record, and for people: a SPIFFE ID, a prefix with `*`, a serial, an issuer, `all`.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Identity(identity) => identity.to_string(),
            Self::Prefix(prefix) => format!("{prefix}*"),
            Self::Serial(row) => format!("serial {}", row.serial),
            Self::Issuer { name, .. } => name.clone(),
            Self::All => "all".to_owned(),
        }
    }

    /// What a revocation of it denies from then on.
    pub(super) fn denies(&self) -> Option<String> {
        match self {
            Self::Identity(_) | Self::Prefix(_) => Some(self.words()),
            Self::Serial(_) | Self::Issuer { .. } | Self::All => None,
        }
    }

    /// As revocation takes it.
    pub(super) fn selection(&self) -> Selection {
        match self {
            Self::Identity(identity) => Selection::Identity(identity.clone()),
            Self::Prefix(prefix) => Selection::Prefix(prefix.clone()),
            Self::Serial(row) => Selection::Serial(row.serial.clone()),
            Self::Issuer { key_id, .. } => Selection::Issuer(key_id.clone()),
            Self::All => Selection::All,
        }
    }

    fn issuer_key_id(&self) -> Option<String> {
        match self {
            Self::Issuer { key_id, .. } => Some(key_id.clone()),
            Self::Identity(_) | Self::Prefix(_) | Self::Serial(_) | Self::All => None,
        }
    }

    fn takes(&self, row: &CertificateRow) -> bool {
        !row.failed
            && row.revoked.is_none()
            && match self {
                Self::Identity(identity) => row.identity == identity.as_str(),
                Self::Prefix(prefix) => row.identity.starts_with(prefix.as_str()),
                Self::Serial(one) => row.serial == one.serial,
                Self::Issuer { key_id, .. } => row.issuer_key_id == *key_id,
                Self::All => true,
            }
    }
}

impl Sources {
    /// Reads a choice; an error says what to write instead.
    pub(super) async fn choose(&self, asked: Option<&pb::Selection>) -> Result<Choice, Status> {
        let asked = asked.cloned().unwrap_or_default();
        let fields = [&asked.identity, &asked.prefix, &asked.serial, &asked.issuer];
        if fields.iter().filter(|field| !field.is_empty()).count() + usize::from(asked.all) != 1 {
            return Err(Status::invalid_argument(
                "say which certificates, in one way: identity, prefix, serial, issuer or all",
            ));
        }
        if !asked.identity.is_empty() {
            let parsed = SpiffeId::parse(&asked.identity);
            let identity =
                parsed.map_err(|error| Status::invalid_argument(format!("identity {:?}: {error}", asked.identity)))?;
            self.ours(identity.as_str())?;
            return Ok(Choice::Identity(identity));
        }
        if !asked.prefix.is_empty() {
            return self.prefix(&asked.prefix);
        }
        if !asked.serial.is_empty() {
            return self.one(&asked.serial).await.map(Box::new).map(Choice::Serial);
        }
        if !asked.issuer.is_empty() {
            return self.issuer(&asked.issuer);
        }
        Ok(Choice::All)
    }

    fn domain(&self) -> String {
        format!("spiffe://{}/", self.backend.facts().trust_domain)
    }

    fn ours(&self, identity: &str) -> Result<(), Status> {
        let domain = self.domain();
        if identity.starts_with(&domain) {
            return Ok(());
        }
        Err(Status::invalid_argument(format!("{identity} is not below {domain}, and all that this server issues is")))
    }

    fn prefix(&self, asked: &str) -> Result<Choice, Status> {
        let prefix = asked.strip_suffix('*').unwrap_or(asked);
        self.ours(prefix)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:".contains(c);
        if !prefix.chars().all(plain) {
            return Err(Status::invalid_argument(format!(
                "{prefix:?} is not the beginning of a SPIFFE ID: write one, a * only at its end"
            )));
        }
        if prefix == self.domain() {
            return Err(Status::invalid_argument(format!("{prefix}* is everything: if you mean that, say all")));
        }
        Ok(Choice::Prefix(prefix.to_owned()))
    }

    fn issuer(&self, asked: &str) -> Result<Choice, Status> {
        let rows = self.index.authorities().map_err(index_status)?;
        let issuing = || rows.iter().filter(|row| row.level != "root");
        let key = asked.to_ascii_lowercase();
        let by_key = |row: &&AuthorityRow| key.len() >= SHORTEST_KEY_ID && row.key_id.starts_with(&key);
        let mut found: Vec<&AuthorityRow> = issuing().filter(|row| row.name == asked).collect();
        if found.is_empty() {
            found = issuing().filter(by_key).collect();
        }
        match found.as_slice() {
            [one] => Ok(Choice::Issuer { name: one.name.clone(), key_id: one.key_id.clone() }),
            [] if rows.iter().any(|row| row.level == "root" && (row.name == asked || by_key(&row))) => {
                Err(Status::invalid_argument(format!(
                    "{asked} is a root, which issues no certificates of proxies: name one of its issuing CAs \
                     (chancery ca show)"
                )))
            }
            [] => Err(Status::not_found(format!("no issuing CA is {asked:?}: chancery ca show --all names them"))),
            several => Err(Status::invalid_argument(format!(
                "{asked:?} names {} issuing CAs: write more of the key id",
                several.len()
            ))),
        }
    }

    /// The live certificates of a choice, from the index once it holds what was recorded before this call.
    pub(super) async fn chosen(&self, choice: &Choice) -> Result<Chosen, Status> {
        self.caught_up().await?;
        let now = self.clock.now().unix_timestamp();
        let mut chosen = Chosen { complete: true, ..Chosen::default() };
        if let Choice::Serial(row) = choice {
            if row.expires > now && choice.takes(row) {
                chosen.take((**row).clone());
            }
            return Ok(chosen);
        }
        let identity_prefix = match choice {
            Choice::Identity(identity) => identity.to_string(),
            Choice::Prefix(prefix) => prefix.clone(),
            Choice::Serial(_) | Choice::Issuer { .. } | Choice::All => String::new(),
        };
        let mut query = CertificateQuery {
            identity_prefix,
            expires_from: Some(now + 1),
            issuer_key_id: choice.issuer_key_id(),
            revoked: Some(false),
            limit: LARGEST_PAGE,
            ..CertificateQuery::default()
        };
        for _ in 0..MOST_PAGES {
            let page = self.index.certificates(&query).map_err(index_status)?;
            page.certificates.into_iter().filter(|row| choice.takes(row)).for_each(|row| chosen.take(row));
            query.after = page.next;
            if query.after.is_none() {
                return Ok(chosen);
            }
            if chosen.count >= MOST_CHOSEN {
                break;
            }
            // A long walk lets others in between.
            tokio::task::yield_now().await;
        }
        chosen.complete = false;
        Ok(chosen)
    }

    /// The serials of `live` that `choice` means.
    pub(super) fn meant(&self, choice: &Choice, live: &[LiveProxy]) -> Result<HashSet<String>, Status> {
        let held = live.iter().filter_map(|proxy| Some((proxy.identity.as_ref()?, proxy.serial.as_ref()?)));
        let mut meant = HashSet::new();
        for (identity, serial) in held {
            let takes = match choice {
                Choice::Identity(wanted) => identity == wanted,
                Choice::Prefix(prefix) => identity.as_str().starts_with(prefix.as_str()),
                Choice::Serial(row) => *serial == row.serial,
                Choice::Issuer { .. } => match self.index.find(serial).map_err(index_status)? {
                    Found::One(row) => choice.takes(&row),
                    Found::Nothing | Found::Several(_) => false,
                },
                Choice::All => true,
            };
            if takes {
                meant.insert(serial.clone());
            }
        }
        Ok(meant)
    }
}
