//! The CRLs of an upstream's own CAs: fetched, checked, recorded and kept like ours, never signed here.

use std::sync::Arc;

use tracing::warn;

use super::Revoker;
use super::elsewhere::parsed;
use super::listed::Listed;
use super::lists::{Book, Cause, MakeError};
use crate::ca::slot::{Authorities, Authority};
use crate::upstream::UpstreamError;
use crate::x509::crl::Crl;

/// What an upstream gave when it was asked.
pub(super) struct Given {
    pub(super) upstream: String,
    pub(super) lists: Result<Vec<Crl>, UpstreamError>,
}

impl Revoker {
    /// Asks the upstream, once for all of its CAs; nothing where none of their CRLs is due. It may take long, so the book
    /// is free meanwhile: no revocation waits for it.
    pub(super) async fn ask_upstream(&self, authorities: &Authorities) -> Option<Given> {
        let upstream = self.0.upstream.as_ref()?;
        let (now, times) = (self.0.clock.now(), self.times());
        let is_due = |book: &Book, authority: &Authority| {
            authority.key().is_none() && book.wanted(&hex::encode(authority.issuer().key_id()), times, now).is_some()
        };
        let book = self.0.book.lock().await;
        if !authorities.iter().any(|authority| is_due(&book, authority)) {
            return None;
        }
        drop(book);
        let lists = parsed(upstream.crls().await);
        Some(Given { upstream: upstream.name().to_owned(), lists })
    }

    /// Takes the newest CRL of an upstream's CA; the one that is held goes on where there is none newer.
    pub(super) async fn import(
        &self,
        book: &mut Book,
        authority: &Authority,
        given: &Given,
        cause: &Cause,
    ) -> Result<(), MakeError> {
        self.0.record_unrecorded(book).await?;
        let now = self.0.clock.now();
        let issuer_key_id = hex::encode(authority.issuer().key_id());
        let held = book.lists.get_mut(&issuer_key_id);
        let found = match (&given.lists, held.is_some()) {
            (Ok(found), _) => found.as_slice(),
            (Err(failure), true) => {
                warn!(authority = %authority.name(), error = %failure, "no newer CRL; the one that is held goes on");
                &[]
            }
            (Err(failure), false) => return Err(failure.clone().into()),
        };
        let holds = |crl: &&Crl| crl.this_update() <= now && now < crl.next_update();
        let ours = found.iter().filter(|crl| crl.verify(authority.issuer()).is_ok()).filter(holds);
        match (ours.max_by_key(|crl| crl.number()), held) {
            (Some(newest), held) if held.as_ref().is_none_or(|held| held.crl.number() < newest.number()) => {
                let record = self.0.ledger.append(self.0.publish_event(newest.facts(), "imported")).await?.to_string();
                let (issuer, crl, asked) = (authority.name(), Arc::new(newest.clone()), Some(now));
                self.take(book, Listed { issuer, issuer_key_id, crl, record, asked, imported: true }, cause.word());
                Ok(())
            }
            (_, Some(held)) => {
                held.asked = Some(now);
                Ok(())
            }
            (_, None) => {
                let (upstream, issuer) = (given.upstream.clone(), authority.issuer().name().to_owned());
                Err(MakeError::NotGiven { upstream, issuer })
            }
        }
    }
}
