//! What must hold whatever failed.

use std::sync::Arc;

use prost::Message;

use super::life::Server;
use super::world::{Denied, World};
use crate::app::projection::Projection;
use crate::audit::event::Event;
use crate::audit::ledger::VerifierKey;
use crate::audit::ledger::disk::Disk;
use crate::audit::verify::{VerifyOptions, verify_on};
use crate::feed::SecretRef;
use crate::identity::TrustDomain;
use crate::proto::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use crate::store::embedded::Embedded;
use crate::store::{CertificateQuery, LARGEST_PAGE, Store};
use crate::x509::Serial;
use crate::x509::chain::Issuer;
use crate::x509::crl::Crl;
use crate::x509::pem;

impl World {
    /// What a server tells anyone is never less than what was told before. True at any time.
    pub(super) fn never_less(&mut self, server: &Server) {
        let now = self.clock.now();
        for listed in &server.revoker.published().lists {
            let number = self.numbers.entry(listed.issuer_key_id.clone()).or_default();
            assert!(listed.crl.number() >= *number, "the CRL number of {} went back", listed.issuer);
            *number = listed.crl.number();
        }
        for (serial, given) in self.given.iter().filter(|(_, given)| given.revoked && given.not_after > now) {
            assert!(server.street.standing().is_revoked(serial), "{serial} is not revoked any more");
            if let Some(listed) = server.revoker.published().of(&given.issuer) {
                let on_list = listed.crl.revokes(&Serial::from_hex(serial).unwrap());
                assert!(on_list.is_some(), "{serial} is on no CRL");
            }
        }
        self.bundle_has_crls(server);
    }

    /// No root in the bundle without its CRL.
    fn bundle_has_crls(&self, server: &Server) {
        use crate::proto::envoy::config::core::v3::data_source::Specifier;
        let bundles = Arc::clone(&server.feed.bundles().borrow());
        let Some(payload) = bundles.payload(&SecretRef::Bundle(TrustDomain::parse("example.org").unwrap())) else {
            return;
        };
        let secret = Secret::decode(payload.secret.clone()).unwrap();
        let Some(secret::Type::ValidationContext(context)) = secret.r#type else { panic!("{secret:?}") };
        let inline = |source: crate::proto::envoy::config::core::v3::DataSource| {
            let Some(Specifier::InlineBytes(bytes)) = source.specifier else { panic!("not inline") };
            bytes
        };
        let crls = Crl::parse_pem(&inline(context.crl.unwrap())).unwrap();
        for root in pem::decode(&inline(context.trusted_ca.unwrap())).unwrap() {
            let root = Issuer::from_der(root.der, Vec::new()).unwrap();
            assert!(crls.iter().any(|crl| crl.issuer_key_id() == root.key_id()), "a root without CRL");
        }
    }

    /// Every record that was acknowledged is there.
    pub(super) fn all_there(&self, server: &Server) {
        let reader = server.ledger.reader();
        for (serial, given) in &self.given {
            let leaf = reader.record(&given.position).unwrap_or_else(|error| panic!("{serial}: {error}"));
            let event = Event::from_leaf(&leaf).unwrap();
            assert_eq!(event.certificate.map(|facts| facts.serial).as_ref(), Some(serial), "another record");
            assert!(event.policy.is_some_and(|policy| policy.rule.is_some()), "{serial} without a grant");
        }
        let denies = server.street.standing().denies();
        for (proxy, denied) in &self.denied {
            let found = denies.iter().any(|(pattern, _)| *pattern == Self::identity(*proxy));
            assert!(*denied == Denied::Unknown || found == (*denied == Denied::Yes), "deny of {proxy}: {found}");
        }
    }

    /// What only a server that nothing hinders can hold.
    pub(super) fn fresh(&self, server: &Server) {
        let now = self.clock.now();
        let authorities = Arc::clone(&server.street.authorities().borrow());
        let published = server.revoker.published();
        for authority in authorities.iter().filter(|authority| authority.is_active()) {
            let listed = published.of(&hex::encode(authority.issuer().key_id())).expect("a CRL of each authority");
            assert!(listed.crl.next_update() > now, "a stale CRL of {}", listed.issuer);
        }
    }

    /// The index is what a replay from the first record gives.
    pub(super) fn replays(server: &Server) {
        let fresh: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
        while fresh.cursor().unwrap() != server.store.cursor().unwrap() {
            for store in [&fresh, &server.store] {
                Projection::open(server.ledger.reader(), Arc::clone(store)).unwrap().catch_up().unwrap();
            }
        }
        let query = CertificateQuery { limit: LARGEST_PAGE, ..CertificateQuery::default() };
        assert_eq!(fresh.certificates(&query).unwrap(), server.store.certificates(&query).unwrap());
        assert_eq!(fresh.authorities().unwrap(), server.store.authorities().unwrap());
        assert_eq!(fresh.denies().unwrap(), server.store.denies().unwrap());
        assert_eq!(fresh.total().unwrap(), server.store.total().unwrap());
        assert_eq!(fresh.revoked(0).unwrap(), server.store.revoked(0).unwrap());
    }

    /// Looks at the published checkpoints, as anyone may at any time.
    pub(super) fn look(&mut self) {
        let ledger = self.directory.path().join("ledger");
        for name in self.disk.list(&ledger).unwrap_or_default() {
            let read = |file: &str| self.disk.read(&ledger.join(&name).join(file)).ok().flatten();
            let (Some(note), Some(key)) = (read("checkpoint"), read("vkey")) else { continue };
            // After a loss of power a file may be torn until it is written anew.
            let (note, key) = (String::from_utf8_lossy(&note), VerifierKey::parse(&String::from_utf8_lossy(&key)));
            if key.is_ok_and(|key| key.verify(&note).is_ok()) {
                self.seen.insert(name, note.into_owned());
            }
        }
    }

    /// What `chancery audit verify` does, after a clean end; every head that was seen is a prefix.
    pub(super) fn verifies(&self) {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let ledger = self.directory.path().join("ledger");
        for note in self.seen.values() {
            let options = VerifyOptions { older: Some(note.clone()), ..VerifyOptions::default() };
            let report = verify_on(&disk, &ledger, &options, &mut |_, _| {}).unwrap_or_else(|e| panic!("{e}"));
            assert!(report.certificates >= self.given.len() as u64);
        }
    }
}
