//! The CRLs of an upstream's own CAs: fetched, checked, recorded and kept like ours, never signed here.

use time::OffsetDateTime;
use tracing::warn;

use super::Revoker;
use super::lists::{Book, MakeError};
use crate::ca::slot::Authority;
use crate::x509::crl::Crl;

impl Revoker {
    /// The newest CRL of an upstream's CA; the one that is held where it has none newer, or does not answer.
    pub(super) async fn imported(
        &self,
        book: &mut Book,
        authority: &Authority,
        issuer_key_id: &str,
        now: OffsetDateTime,
    ) -> Result<(Crl, String), MakeError> {
        self.0.record_unrecorded(book).await?;
        let upstream = self.0.upstream.as_ref().ok_or(MakeError::NoKey)?;
        let held = book.lists.get(issuer_key_id).map(|listed| (Crl::clone(&listed.crl), listed.record.clone()));
        let found = match (upstream.crls().await, held.is_some()) {
            (Ok(found), _) => found,
            (Err(failure), true) => {
                warn!(authority = %authority.name(), error = %failure, "no newer CRL; the one that is held goes on");
                Vec::new()
            }
            (Err(failure), false) => return Err(failure.into()),
        };
        let holds = |crl: &Crl| crl.this_update() <= now && now < crl.next_update();
        let ours = |crl: &Crl| crl.verify(authority.issuer()).is_ok() && holds(crl);
        let newest = found.into_iter().filter_map(|der| Crl::parse(der).ok()).filter(ours).max_by_key(Crl::number);
        match (newest, held) {
            (Some(newest), held) if held.as_ref().is_none_or(|(crl, _)| crl.number() < newest.number()) => {
                let event = self.0.publish_event(newest.facts(), "imported");
                let position = self.0.ledger.append(event).await?;
                Ok((newest, position.to_string()))
            }
            (_, Some(held)) => Ok(held),
            (_, None) => {
                let (upstream, issuer) = (upstream.name().to_owned(), authority.issuer().name().to_owned());
                Err(MakeError::NotGiven { upstream, issuer })
            }
        }
    }
}
