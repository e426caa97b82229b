//! What the records of a ledger say, held against each other: serials, signatures, snapshot runs.
//!
//! Memory: about 80 bytes for each certificate, because a serial or a signature anywhere may contradict one of long ago;
//! serials and hashes are kept as 128 bits of their SHA-256.

use std::collections::{HashMap, HashSet};

use super::super::event::{Action, CertificateFacts, Event, EventError, SCHEMA};
use super::{Place, Position, Report, VerifyError};
use crate::merkle::{Hash, sha256};

/// What a record says that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Claim {
    /// A serial was authorised twice.
    #[error("serial {0} was authorised before: each certificate has one record")]
    SerialTwice(String),
    /// A signature without authorisation.
    #[error("it says that a certificate was signed, but {0} is no record of that certificate")]
    NotAuthorised(String),
    /// Two signatures for one authorisation.
    #[error("it says that a certificate was signed, but the one of {0} was signed before: each is signed once")]
    SignedTwice(String),
    /// The bytes are not the canonical ones.
    #[error("its JSON is not canonical (RFC 8785), or has members that records of its schema don't have")]
    NotCanonical,
    /// A snapshot run that is not whole.
    #[error("the snapshot run before it is not what it says")]
    SnapshotRun,
    /// A predecessor that ended otherwise.
    #[error("the log before ended otherwise than it says")]
    Predecessor,
}

/// A record by itself.
pub(super) enum Read {
    /// One of our schema, in its canonical form.
    Event(Box<Event>),
    /// One of a newer schema.
    Newer,
    /// Not what chancery writes.
    Other(Box<EventError>),
    /// It says something, and not in the canonical form.
    NotCanonical,
}

/// Just the schema number of a record.
#[derive(serde::Deserialize)]
struct Schema {
    schema: u32,
}

/// Reads a record; needs nothing but its bytes, so all cores can do it.
pub(super) fn read(leaf: &[u8]) -> Read {
    match Event::from_leaf(leaf) {
        Ok(event) if event.schema <= SCHEMA => {
            let canonical = event.to_leaf().ok().as_deref() == Some(leaf);
            if canonical { Read::Event(Box::new(event)) } else { Read::NotCanonical }
        }
        Ok(_) => Read::Newer,
        Err(_) if serde_json::from_slice::<Schema>(leaf).is_ok_and(|found| found.schema > SCHEMA) => Read::Newer,
        Err(source) => Read::Other(Box::new(source)),
    }
}

/// 128 bits of a hash.
type Digest = [u8; 16];

fn digest(parts: &[&str]) -> Digest {
    let lengths: Vec<[u8; 8]> = parts.iter().map(|part| (part.len() as u64).to_be_bytes()).collect();
    let pieces: Vec<&[u8]> = lengths.iter().zip(parts).flat_map(|(l, part)| [l.as_slice(), part.as_bytes()]).collect();
    let mut short = [0; 16];
    short.iter_mut().zip(sha256(&pieces)).for_each(|(to, from)| *to = from);
    short
}

/// A record about a certificate: its serial and what was to be signed.
struct About {
    serial: Digest,
    tbs: Digest,
    signed: bool,
}

/// What the records say, over all logs.
#[derive(Default)]
pub(super) struct Claims {
    serials: HashSet<Digest>,
    /// Records about a certificate, by log and index.
    certificates: HashMap<(usize, u64), About>,
    signed: u64,
    unread: u64,
    absent: Vec<String>,
    /// Leaf hashes of the snapshot run at the head of the current log.
    run: Vec<Hash>,
}

impl Claims {
    pub(super) fn sum_up(self, report: &mut Report) {
        report.certificates = self.serials.len() as u64;
        report.signed = self.signed;
        report.unread = self.unread;
        report.absent = self.absent;
    }

    pub(super) fn take(&mut self, place: &Place<'_>, read: Read, hash: Hash) -> Result<(), VerifyError> {
        let origin = place.logs.get(place.number).map(|log| std::sync::Arc::clone(&log.origin));
        let position = || Position { log: origin.unwrap_or_else(|| "".into()), index: place.index };
        if place.index == 0 {
            self.run.clear();
        }
        let verdict = match read {
            Read::Newer => {
                self.unread += 1;
                return Ok(());
            }
            Read::Other(source) => return Err(VerifyError::Record { position: position(), source }),
            Read::NotCanonical => Err(Claim::NotCanonical),
            Read::Event(event) => self.certificate(place, &event).and_then(|()| self.snapshot(place, &event, hash)),
        };
        verdict.map_err(|claim| VerifyError::Claim { position: position(), claim })
    }

    fn certificate(&mut self, place: &Place<'_>, event: &Event) -> Result<(), Claim> {
        if event.action == Action::CertificateSigned {
            return self.signature(place, event);
        }
        let Some(facts) = &event.certificate else { return Ok(()) };
        let serial = digest(&[&facts.serial]);
        let authorises = matches!(event.action, Action::CertificateIssue | Action::CertificateRenew);
        if authorises && !self.serials.insert(serial) {
            return Err(Claim::SerialTwice(facts.serial.clone()));
        }
        let about = About { serial, tbs: digest(&[&facts.tbs_sha256]), signed: false };
        self.certificates.insert((place.number, place.index), about);
        Ok(())
    }

    /// A signature's record names the record that authorised it, and the same certificate. That record may be at the end
    /// of a log that is archived elsewhere, when the signature came just after the turn of the year.
    fn signature(&mut self, place: &Place<'_>, event: &Event) -> Result<(), Claim> {
        let named = event.refers_to.clone().unwrap_or_default();
        let Ok(position) = named.parse::<Position>() else { return Err(Claim::NotAuthorised(named)) };
        let Some(number) = place.logs.iter().position(|log| log.origin == position.log) else {
            let archived = self.absent.iter().any(|origin| *origin == *position.log);
            return if archived { Ok(()) } else { Err(Claim::NotAuthorised(named)) };
        };
        let facts = event.certificate.as_ref();
        let Some(about) = self.certificates.get_mut(&(number, position.index)) else {
            return Err(Claim::NotAuthorised(named));
        };
        let same = |facts: &CertificateFacts| {
            digest(&[&facts.serial]) == about.serial && digest(&[&facts.tbs_sha256]) == about.tbs
        };
        let same_serial = event.serial.as_ref().is_none_or(|serial| digest(&[serial]) == about.serial);
        if !same_serial || !facts.is_none_or(same) {
            return Err(Claim::NotAuthorised(named));
        }
        if about.signed {
            return Err(Claim::SignedTwice(named));
        }
        about.signed = true;
        self.signed += 1;
        Ok(())
    }

    fn snapshot(&mut self, place: &Place<'_>, event: &Event, hash: Hash) -> Result<(), Claim> {
        if event.action != Action::LedgerSnapshot {
            return Ok(());
        }
        let closing = event.snapshot.as_ref().and_then(|closing| Some((closing, closing.count?)));
        let Some((closing, count)) = closing else {
            self.run.push(hash);
            return Ok(());
        };
        let hashes: Vec<&[u8]> = self.run.iter().map(Hash::as_slice).collect();
        if count != hashes.len() as u64 || closing.run_sha256 != Some(hex::encode(sha256(&hashes))) {
            return Err(Claim::SnapshotRun);
        }
        let Some(predecessor) = &closing.predecessor else { return Ok(()) };
        let origin = predecessor.lines().next().unwrap_or_default();
        // A predecessor that is not here was pruned or archived; then its last checkpoint stands in this record.
        let Some(log) = place.logs.iter().find(|log| *log.origin == *origin) else {
            self.absent.push(origin.to_owned());
            return Ok(());
        };
        if log.key.verify(predecessor).as_ref() == Ok(&log.head) { Ok(()) } else { Err(Claim::Predecessor) }
    }
}
