//! The CRLs of an upstream's own CAs: fetched, checked, recorded and kept like ours, never signed here.

use std::sync::Arc;

use tracing::warn;

use super::Revoker;
use super::listed::Listed;
use super::lists::{Book, Cause, MakeError};
use crate::ca::slot::{Authorities, Authority};
use crate::upstream::UpstreamError;
use crate::x509::crl::Crl;

/// What upstreams gave when they were asked.
#[derive(Default)]
pub(super) struct Given {
    pub(super) lists: Vec<Crl>,
    /// The first that gave nothing.
    pub(super) failure: Option<UpstreamError>,
}

impl Given {
    /// Adds what one of them gave; what cannot be read is none.
    pub(super) fn take(&mut self, given: Result<Vec<Vec<u8>>, UpstreamError>) {
        match given {
            Ok(found) => self.lists.extend(found.into_iter().filter_map(|der| Crl::parse(der).ok())),
            Err(failure) => self.failure = self.failure.take().or(Some(failure)),
        }
    }
}

impl Revoker {
    /// Asks every upstream, once for all CAs; nothing where none of their CRLs is due. It may take long, so the book is free
    /// meanwhile: no revocation waits for it.
    pub(super) async fn ask_upstream(&self, authorities: &Authorities) -> Option<Given> {
        let (now, times) = (self.0.clock.now(), self.times());
        let is_due = |book: &Book, authority: &Authority| {
            authority.key().is_none() && book.wanted(&hex::encode(authority.issuer().key_id()), times, now).is_some()
        };
        let book = self.0.book.lock().await;
        if !authorities.iter().any(|authority| is_due(&book, authority)) {
            return None;
        }
        drop(book);
        let mut given = Given::default();
        for upstream in &self.0.upstreams {
            given.take(upstream.crls().await);
        }
        Some(given)
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
        let holds = |crl: &&Crl| crl.this_update() <= now && now < crl.next_update();
        let ours = given.lists.iter().filter(|crl| crl.verify(authority.issuer()).is_ok()).filter(holds);
        match (ours.max_by_key(|crl| crl.number()), held) {
            (Some(newest), held) if held.as_ref().is_none_or(|held| held.crl.number() < newest.number()) => {
                let record = self.0.ledger.append(self.0.publish_event(newest.facts(), "imported")).await?.to_string();
                let (issuer, crl, asked) = (authority.name(), Arc::new(newest.clone()), Some(now));
                self.take(book, Listed { issuer, issuer_key_id, crl, record, asked, imported: true }, cause.word());
                Ok(())
            }
            (found, Some(held)) => {
                if let (None, Some(failure)) = (found, &given.failure) {
                    warn!(authority = %authority.name(), error = %failure, "no newer CRL; the one that is held goes on");
                }
                held.asked = Some(now);
                Ok(())
            }
            (_, None) => match &given.failure {
                Some(failure) => Err(failure.clone().into()),
                None => {
                    let upstream = authority.upstream().unwrap_or("its upstream").to_owned();
                    Err(MakeError::NotGiven { upstream, issuer: authority.issuer().name().to_owned() })
                }
            },
        }
    }
}
