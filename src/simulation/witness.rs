//! Somebody who reads along: every record that could ever be read stays where it was and as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::told::{Denied, Told};
use super::world::World;
use crate::audit::event::{Action, Event};
use crate::audit::ledger::disk::Disk;
use crate::audit::ledger::{LedgerError, LedgerReader, MOST_READ, VerifierKey};
use crate::audit::verify::{VerifyOptions, verify_on};
use crate::merkle::{Hash, leaf_hash};

/// What a record says of a certificate.
#[derive(Debug)]
struct Issue {
    subject: Option<String>,
    policy: Option<String>,
    rule: Option<String>,
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Witness {
    leaves: BTreeMap<String, Vec<Hash>>,
    issues: BTreeMap<String, Issue>,
    /// Serials that were looked up already.
    found: BTreeSet<String>,
    /// The newest checkpoint of each log that anyone may have seen.
    seen: BTreeMap<String, String>,
}

impl Witness {
    /// Reads what is new. Says why when that cannot be read.
    pub(super) fn read(&mut self, reader: &LedgerReader) -> Result<(), LedgerError> {
        for log in reader.logs() {
            let leaves = self.leaves.entry(log.origin.to_string()).or_default();
            assert!(
                leaves.len() as u64 <= log.size,
                "a record of {} is lost: {} of {}",
                log.name,
                log.size,
                leaves.len()
            );
            while (leaves.len() as u64) < log.size {
                let at = leaves.len() as u64;
                for (_, leaf) in reader.read(&log.origin, at..at + MOST_READ)? {
                    leaves.push(leaf_hash(&leaf));
                    let event = Event::from_leaf(&leaf).unwrap();
                    if matches!(event.action, Action::CertificateIssue | Action::CertificateRenew) {
                        let (policy, rule) = event.policy.map(|policy| (policy.hash, policy.rule)).unzip();
                        let issue = Issue { subject: event.subject, policy, rule: rule.flatten() };
                        self.issues.insert(event.certificate.unwrap().serial, issue);
                    }
                }
            }
        }
        Ok(())
    }

    /// After a start: all that was read before is there, and the same.
    pub(super) fn compares(&self, reader: &LedgerReader) {
        let logs = reader.logs();
        for (origin, leaves) in &self.leaves {
            let log = logs.iter().find(|log| *log.origin == **origin);
            let size = log.map_or(0, |log| log.size);
            assert!(leaves.len() as u64 <= size, "a record of {origin} is lost: {size} of {}", leaves.len());
            let mut at = 0;
            while at < leaves.len() {
                for (_, leaf) in
                    reader.read(origin, at as u64..(at as u64 + MOST_READ).min(leaves.len() as u64)).unwrap()
                {
                    assert_eq!(leaf_hash(&leaf), leaves[at], "record {at} of {origin} is lost: it is another one");
                    at += 1;
                }
            }
        }
    }

    /// Every certificate that was given has its record, and the policy in it grants it.
    pub(super) fn knows(&mut self, told: &Told) {
        for (serial, given) in &told.given {
            if self.found.contains(serial) {
                continue;
            }
            let issue = self.issues.get(serial).unwrap_or_else(|| panic!("{serial} is without a record"));
            assert_eq!(issue.subject, Some(World::identity(given.proxy)), "{serial} has a record of somebody else");
            assert!(issue.rule.is_some(), "{serial} without a rule");
            let granted = issue.policy.as_ref().and_then(|hash| told.policies.get(hash));
            assert!(granted.is_some_and(|granted| granted.contains(&given.proxy)), "{serial} without a grant");
            self.found.insert(serial.clone());
        }
    }

    /// Looks at the published checkpoints, as anyone may at any time.
    pub(super) fn look(&mut self, disk: &dyn Disk, ledger: &Path) {
        for name in disk.list(ledger).unwrap_or_default() {
            let read = |file: &str| disk.read(&ledger.join(&name).join(file)).ok().flatten();
            let (Some(note), Some(key)) = (read("checkpoint"), read("vkey")) else { continue };
            // After a loss of power a file may be torn until it is written anew.
            let (note, key) = (String::from_utf8_lossy(&note), VerifierKey::parse(&String::from_utf8_lossy(&key)));
            if key.is_ok_and(|key| key.verify(&note).is_ok()) {
                self.seen.insert(name, note.into_owned());
            }
        }
    }

    /// What `chancery audit verify` does, after a clean end; every head that was seen is a prefix.
    pub(super) fn verifies(&self, disk: &Arc<dyn Disk>, ledger: &Path, told: &Told) {
        for note in self.seen.values() {
            let options = VerifyOptions { older: Some(note.clone()), ..VerifyOptions::default() };
            let report = verify_on(disk, ledger, &options, &mut |_, _| {});
            let report = report.unwrap_or_else(|why| panic!("the ledger does not verify: {why}"));
            assert!(report.certificates >= told.given.len() as u64, "{report:?} does not hold what was given");
        }
    }

    /// How many logs there are.
    pub(super) fn logs(&self) -> usize {
        self.leaves.len()
    }

    /// How many records there are.
    pub(super) fn records(&self) -> usize {
        self.leaves.values().map(Vec::len).sum()
    }
}

/// What is denied is what was told.
pub(super) fn denies(told: &Told, found: &[String]) {
    for (proxy, denied) in &told.denied {
        let found = found.contains(&World::identity(*proxy));
        assert!(*denied == Denied::Unknown || found == (*denied == Denied::Yes), "deny of {proxy}: {found}");
    }
}
