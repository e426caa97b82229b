//! An authority's own certificate on the CRL of its root: only of a tainted one, once, and finished by a start.

use super::*;
use crate::ca::authority::acts::{Act, MOST_WORDS, Order as Acting};
use crate::ca::slot::Level;
use crate::x509::crl::CrlEntry;

fn name(number: u32) -> Name {
    Name { level: Level::Issuing, number }
}

impl Running {
    /// Taints an authority, and does nothing of what follows.
    async fn taint(&mut self, number: u32) {
        let mut template = self.recorder.event(Action::OperatorAct, Outcome::Success, self.clock.now());
        (template.request_id, template.reason) = (Some("order 7".to_owned()), Some("keyCompromise".to_owned()));
        let (told, _words) = mpsc::channel(MOST_WORDS);
        self.keeper.carry_out(Acting { act: Act::Taint(name(number)), template, told }).await;
        assert_eq!(self.of_issuing().issuer, name(number + 1));
    }

    async fn revoke_authority(&self, number: u32) -> Result<Vec<Step>, RevokeError> {
        self.settled().await;
        let (told, mut steps) = mpsc::channel(STEPS);
        let template = self.recorder.event(Action::OperatorAct, Outcome::Success, self.clock.now());
        let order = AuthorityOrder { name: name(number), reason: Reason::CaCompromise, template };
        self.revoker.revoke_authority(order, told).await?;
        let mut all = Vec::new();
        while let Some(step) = steps.recv().await {
            all.push(step);
        }
        Ok(all)
    }

    /// What the pushed CRL of the root says of an authority's certificate.
    fn on_the_roots_list(&self, serial: Serial) -> Option<CrlEntry> {
        Crl::parse_pem(&self.pushed().2).unwrap()[0].revokes(&serial).copied()
    }

    fn serial_of_active(&self) -> Serial {
        self.street.authorities().borrow().active().unwrap().issuer().serial().unwrap()
    }
}

#[tokio::test]
async fn a_tainted_authority_is_revoked_once_on_the_list_of_its_root() {
    let world = World::new();
    let mut running = world.open().await;
    let serial = running.serial_of_active();
    let trusted = running.revoke_authority(1).await.unwrap_err();
    assert!(matches!(trusted, RevokeError::NotTainted { .. }), "{trusted}");
    running.taint(1).await;
    assert_eq!(running.on_the_roots_list(serial).map(|_| ()), None, "the holders come first");
    running.revoker.bring_up_to_date().await.unwrap();
    assert_eq!(running.on_the_roots_list(serial).map(|_| ()), None, "and nobody goes before them");
    let steps = running.revoke_authority(1).await.unwrap();
    let [Step::Recorded { first, .. }, Step::Signed { crls }, Step::Published { .. }] = steps.as_slice() else {
        panic!("{steps:?}")
    };
    assert_eq!((crls[0].issuer.as_str(), crls[0].entries), ("root 1", 1));
    assert_eq!(running.on_the_roots_list(serial).unwrap().reason, Reason::CaCompromise);
    let again = running.revoke_authority(1).await.unwrap_err();
    assert!(matches!(&again, RevokeError::AlreadyRevoked { record, .. } if *record == first.to_string()), "{again}");
    let (version, numbers) = (running.pushed().0, running.revoker.crls());
    running.close().await;

    let running = world.open().await;
    assert_eq!((running.pushed().0, running.revoker.crls()), (version, numbers), "a rebuilt index says the same");
    assert_eq!(running.records(Action::CertificateRevoke).len(), 1);
    running.close().await;
}

#[tokio::test]
async fn a_start_finishes_a_taint_that_was_cut_short_in_the_name_of_its_operator() {
    let world = World::new();
    let mut running = world.open().await;
    let serial = running.serial_of_active();
    running.taint(1).await;
    running.close().await;

    let running = world.open().await;
    assert_eq!(running.on_the_roots_list(serial).unwrap().reason, Reason::KeyCompromise);
    let revocation = running.records(Action::CertificateRevoke).remove(0).1;
    assert_eq!(
        (revocation.request_id.as_deref(), revocation.reason.as_deref()),
        (Some("order 7"), Some("keyCompromise"))
    );
    assert_eq!((revocation.serial, revocation.subject.as_deref()), (Some(serial.hex()), Some("issuing 1")));
    running.issue().await.unwrap();
    running.close().await;
    let running = world.open().await;
    assert_eq!(running.records(Action::CertificateRevoke).len(), 1, "once");
    running.close().await;
}

#[tokio::test]
async fn an_authority_stays_on_the_list_until_its_certificate_ends() {
    let world = World::new();
    let mut running = world.open().await;
    let serial = running.serial_of_active();
    running.taint(1).await;
    running.revoke_authority(1).await.unwrap();
    for (days, listed) in [(60, true), (29, true), (5, false)] {
        world.hands.advance(DAY * days);
        running.keeper.step().await.unwrap();
        running.revoker.bring_up_to_date().await.unwrap();
        assert_eq!(running.on_the_roots_list(serial).is_some(), listed, "after {days} more days");
    }
    running.close().await;
}
