//! Attests a client by a certificate of ours that it proved to hold at a TLS handshake.
//!
//! The handshake says that an authority of ours signed the certificate, that it has not ended, and that the client has
//! its key; the index says that we recorded exactly these bytes, and when its holder was last attested by anything but
//! another such certificate. Both are needed: a certificate that the ledger does not hold was signed by a stolen key.
//! Called by `api::tls`.

use std::net::SocketAddr;

use crate::caller::{Caller, ClientCertificate, Evidence};
use crate::clock::parse_rfc3339;
use crate::store::CertificateRow;
use crate::x509::svid::Svid;

/// Why a certificate that verified is refused all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unrecorded {
    /// No record has the serial.
    #[error(
        "the certificate is not in the ledger: an authority's key signs elsewhere, or the index is incomplete; chancery audit verify"
    )]
    Unknown,
    /// The record of that serial is about other bytes.
    #[error(
        "the certificate is not the one that the ledger holds under its serial: an authority's key signs elsewhere; chancery audit verify"
    )]
    Another,
}

/// Attests the holder of `svid`, connected to the listener called `socket` from `address`; `row` is what the index has
/// under the serial.
///
/// # Errors
/// Every variant of [`Unrecorded`].
pub fn attest(
    svid: &Svid,
    row: Option<&CertificateRow>,
    socket: &str,
    address: SocketAddr,
) -> Result<Caller, Unrecorded> {
    let row = row.ok_or(Unrecorded::Unknown)?;
    let recorded = row.serial == svid.serial.hex() && row.tbs_sha256 == svid.tbs_sha256 && !row.failed;
    let attested_at =
        parse_rfc3339(&row.attested_at).ok().filter(|_| recorded && row.identity == svid.identity.as_str());
    Ok(Caller::attested(Evidence::Client(ClientCertificate {
        socket: socket.to_owned(),
        identity: svid.identity.clone(),
        serial: svid.serial.hex(),
        issuer_key_id: svid.issuer_key_id.clone(),
        not_after: svid.not_after,
        attested_at: attested_at.ok_or(Unrecorded::Another)?,
        address,
    })))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::identity::SpiffeId;
    use crate::x509::tests::serial;

    fn presented() -> (Svid, CertificateRow) {
        let svid = Svid {
            identity: SpiffeId::parse("spiffe://example.org/web").unwrap(),
            serial: serial(1),
            issuer_key_id: "aa".to_owned(),
            not_before: datetime!(2026-11-23 13:00 UTC),
            not_after: datetime!(2026-11-24 13:00 UTC),
            tbs_sha256: "bb".to_owned(),
        };
        let row = CertificateRow {
            serial: serial(1).hex(),
            identity: svid.identity.to_string(),
            attested_at: "2026-11-20T13:00:00.000000Z".to_owned(),
            tbs_sha256: svid.tbs_sha256.clone(),
            ..CertificateRow::default()
        };
        (svid, row)
    }

    fn ask(svid: &Svid, row: Option<&CertificateRow>) -> Result<Caller, Unrecorded> {
        attest(svid, row, "mesh", ([127, 0, 0, 1], 4711).into())
    }

    #[test]
    fn conforms() {
        let (svid, row) = presented();
        crate::attest::conformance::check(&(), |()| ask(&svid, Some(&row)), "client_certificate");
        let caller = ask(&svid, Some(&row)).unwrap();
        assert_eq!(caller.account(), "tls:mesh:spiffe://example.org/web");
    }

    #[test]
    fn only_what_the_ledger_holds_is_somebody() {
        let (svid, row) = presented();
        assert_eq!(ask(&svid, None), Err(Unrecorded::Unknown));
        for wrong in [
            CertificateRow { tbs_sha256: "cc".to_owned(), ..row.clone() },
            CertificateRow { identity: "spiffe://example.org/db".to_owned(), ..row.clone() },
            CertificateRow { failed: true, ..row.clone() },
            CertificateRow { serial: serial(2).hex(), ..row },
        ] {
            assert_eq!(ask(&svid, Some(&wrong)), Err(Unrecorded::Another));
        }
    }
}
