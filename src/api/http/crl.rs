//! The CRLs over HTTP: all of them in PEM, or one authority's in DER as RFC 2585 has it.
//!
//! Like the bundle a CRL is never served from a cache without asking: what is revoked must be revoked for the next
//! reader. Called by the router only.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use http::header::HeaderMap;

use super::bundle::tagged;
use super::{HttpSources, text, unavailable};

/// `/crl`
pub(super) async fn all(State(sources): State<Arc<dyn HttpSources>>, headers: HeaderMap) -> Response {
    match sources.crls() {
        Some(crls) => tagged("application/x-pem-file", crls.pem.clone(), &crls.version, &headers),
        None => unavailable("there is no CRL yet; try again\n"),
    }
}

/// `/crl/<issuer key id>.crl`
pub(super) async fn one(
    State(sources): State<Arc<dyn HttpSources>>,
    Path(file): Path<String>,
    headers: HeaderMap,
) -> Response {
    let Some(crls) = sources.crls() else { return unavailable("there is no CRL yet; try again\n") };
    match file.strip_suffix(".crl").and_then(|key_id| crls.of(key_id)) {
        Some(listed) => {
            let der = Bytes::copy_from_slice(listed.crl.der());
            tagged("application/pkix-crl", der, &hex::encode(listed.crl.tbs_sha256()), &headers)
        }
        None => text(
            StatusCode::NOT_FOUND,
            "no CRL of that authority: /crl/<issuer key id>.crl, the id in lower-case hexadecimal digits; /crl has all\n",
        ),
    }
}
