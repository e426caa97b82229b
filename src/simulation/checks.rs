//! What must hold whatever failed, and what must hold where nothing does.

use std::sync::Arc;

use super::faults::{Excuses, Met};
use super::server::Server;
use super::told::{Denied, bundle};
use super::witness;
use super::world::World;
use crate::app::projection::Projection;
use crate::audit::ledger::disk::Disk;
use crate::feed::SecretRef;
use crate::identity::TrustDomain;
use crate::store::embedded::Embedded;
use crate::store::{CertificateQuery, LARGEST_PAGE, Store};
use crate::x509::Serial;
use crate::x509::chain::Issuer;
use crate::x509::crl::Crl;
use crate::x509::pem;

impl World {
    /// Everything, after an act or a start; `before` is from before it.
    pub(super) fn check(&mut self, server: &Server, before: Met) {
        self.disk.look_at(true);
        self.holds(server, before);
        self.disk.look_at(false);
    }

    fn holds(&mut self, server: &Server, before: Met) {
        let excuses = self.excuses(server, before);
        let read = self.witness.read(&server.ledger.reader());
        assert!(read.is_ok() || excuses.disk || excuses.ledger, "records cannot be read: {read:?}");
        self.never_less(server, excuses);
        if read.is_ok() {
            let told = self.share_told();
            self.witness.knows(&told.lock().unwrap());
        }
        if excuses.none() {
            self.fresh(server);
            self.streams_are_served(server);
        }
        server.arrived.lock().unwrap().clear();
        let (disk, ledger): (Arc<dyn Disk>, _) = (Arc::new(self.disk.clone()), self.ledger());
        self.witness.look(&*disk, &ledger);
        let broken = self.told().broken.first().cloned();
        assert_eq!(broken, None, "a law is broken");
    }

    /// What a server tells anyone is never less than what was told before.
    fn never_less(&self, server: &Server, excuses: Excuses) {
        let (now, published) = (self.clock.now(), server.revoker.published());
        let mut told = self.told();
        for listed in &published.lists {
            let number = told.numbers.entry(listed.issuer_key_id.clone()).or_default();
            assert!(listed.crl.number() >= *number, "the CRL number of {} went back", listed.issuer);
            *number = listed.crl.number();
        }
        for (serial, given) in told.given.iter().filter(|(_, given)| given.revoked && given.not_after > now) {
            assert!(server.street.standing().is_revoked(serial), "{serial} is not revoked any more");
            let listed = published.of(&given.issuer).filter(|_| excuses.none());
            if let Some(listed) = listed {
                let on_list = listed.crl.revokes(&Serial::from_hex(serial).unwrap());
                assert!(on_list.is_some(), "{serial} is on no CRL");
            }
        }
        drop(told);
        bundle_has_crls(server);
    }

    /// No CRL of an authority that signs, or signed what lives, is stale.
    fn fresh(&self, server: &Server) {
        let now = self.clock.now();
        let authorities = Arc::clone(&server.street.authorities().borrow());
        let published = server.revoker.published();
        for authority in authorities.iter().filter(|authority| authority.is_active()) {
            let listed = published.of(&hex::encode(authority.issuer().key_id())).expect("a CRL of each authority");
            assert!(listed.crl.next_update() > now, "a stale CRL of {}", listed.issuer);
        }
        if let Some((_, crls)) = sent_bundle(server) {
            let crls = Crl::parse_pem(&crls).unwrap();
            let stale = crls.iter().find(|crl| crl.next_update() <= now);
            assert!(stale.is_none(), "a stale CRL in the bundle: {}", stale.unwrap().number());
        }
    }

    /// What the server believes that streams hold is alive and theirs; who just came and may have something has it.
    fn streams_are_served(&self, server: &Server) {
        let (now, told) = (self.clock.now(), self.told());
        let live = server.feed.live();
        for held in live.iter().filter(|live| live.is_certificate) {
            let (Some(serial), Some(identity)) = (&held.serial, &held.identity) else { continue };
            assert!(held.not_after.is_some_and(|end| end > now), "{identity} holds an expired certificate");
            let given = told.given.get(serial);
            assert!(given.is_none_or(|given| !given.revoked), "{identity} holds {serial}, which is revoked");
            let named = given.is_none_or(|given| World::identity(given.proxy) == identity.as_str());
            assert!(named, "{identity} holds a certificate of somebody else");
        }
        for proxy in server.arrived.lock().unwrap().iter() {
            let may = told.granted.contains(proxy) && told.denied[proxy] == Denied::No;
            let served = live.iter().any(|live| {
                live.serial.is_some() && live.identity.as_ref().is_some_and(|id| id.as_str() == World::identity(*proxy))
            });
            assert!(served || !may, "{proxy} came and was refused without a reason");
        }
    }

    /// At a start and at an end: every record that was ever read is there, and denies are as they were told.
    pub(super) fn all_there(&self, server: &Server) {
        self.disk.look_at(true);
        self.witness.compares(&server.ledger.reader());
        self.disk.look_at(false);
        let denies: Vec<String> = server.street.standing().denies().into_iter().map(|(pattern, _)| pattern).collect();
        witness::denies(&self.told(), &denies);
    }

    /// The index is what a replay from the first record gives.
    pub(super) fn replays(&self, server: &Server) {
        self.disk.look_at(true);
        let fresh: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
        while fresh.cursor().unwrap() != server.store.cursor().unwrap() {
            for store in [&fresh, &server.store] {
                Projection::open(server.ledger.reader(), Arc::clone(store)).unwrap().catch_up().unwrap();
            }
        }
        let query = CertificateQuery { limit: LARGEST_PAGE, ..CertificateQuery::default() };
        let same = fresh.certificates(&query).unwrap() == server.store.certificates(&query).unwrap()
            && fresh.authorities().unwrap() == server.store.authorities().unwrap()
            && fresh.denies().unwrap() == server.store.denies().unwrap()
            && fresh.total().unwrap() == server.store.total().unwrap()
            && fresh.revoked(0).unwrap() == server.store.revoked(0).unwrap();
        assert!(same, "the index is not what a replay gives");
        self.disk.look_at(false);
    }

    /// What `chancery audit verify` does, after a clean end.
    pub(super) fn verifies(&self) {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        self.witness.verifies(&disk, &self.ledger(), &self.told());
    }
}

/// Roots and CRLs as streams are sent them.
fn sent_bundle(server: &Server) -> Option<(Vec<u8>, Vec<u8>)> {
    let bundles = Arc::clone(&server.feed.bundles().borrow());
    let wanted = SecretRef::Bundle(TrustDomain::parse("example.org").unwrap());
    bundles.payload(&wanted).map(|payload| bundle(&payload.secret))
}

/// No root in the bundle without its CRL.
fn bundle_has_crls(server: &Server) {
    let Some((roots, crls)) = sent_bundle(server) else { return };
    let crls = Crl::parse_pem(&crls).unwrap();
    for root in pem::decode(&roots).unwrap() {
        let root = Issuer::from_der(root.der, Vec::new()).unwrap();
        assert!(crls.iter().any(|crl| crl.issuer_key_id() == root.key_id()), "a root without CRL");
    }
}
