//! Vault's PKI engine as the upstream: `sign-intermediate`, and the CRLs of its issuers.
//!
//! Each act logs in, asks, and revokes its token again ([`crate::vault`]): CA certificates and CRLs are asked for a few
//! times a day at most, and so no token lives in memory between them or lapses unnoticed.

use std::path::PathBuf;

use futures::future::BoxFuture;
use tracing::{debug, warn};
use vaultrs::api::pki::requests::SignIntermediateIssuerRequest;

use super::{CaChain, CaRequest, LARGEST_CRL, Upstream, UpstreamError, crls_in, read_bounded};
use crate::vault::{Access, Connection, Session};
use crate::x509::{Serial, pem};

/// The configuration's table of it.
const TABLE: &str = "upstream.vault";

/// Where Vault is and what it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultSettings {
    /// Where it is and how to log in.
    pub connection: Connection,
    /// Where the PKI engine is mounted.
    pub mount: String,
    /// The issuer in it: a name, an id or `default`.
    pub issuer: String,
    /// Mounts of the CAs above that issuer, whose CRLs are needed too.
    pub crl_mounts: Vec<String>,
    /// Files with CRLs of CAs above that are in no Vault, PEM or DER.
    pub crl_files: Vec<PathBuf>,
}

/// Vault, asked anew each time.
#[derive(Debug)]
pub struct Vault {
    access: Access,
    settings: VaultSettings,
}

impl Vault {
    /// Asks nothing yet.
    #[must_use]
    pub fn new(settings: VaultSettings) -> Self {
        Self { access: Access::new(settings.connection.clone(), &settings.mount, TABLE), settings }
    }

    async fn sign_with(&self, session: &Session, request: CaRequest<'_>) -> Result<CaChain, UpstreamError> {
        let mut csr = Vec::new();
        pem::encode(&mut csr, pem::CERTIFICATE_REQUEST, request.csr);
        let csr = String::from_utf8_lossy(&csr).into_owned();
        // The request's own subject and URI name are kept; without `exclude_cn_from_sans` the common name becomes a DNS
        // name, and without `max_path_length` there is no limit below it.
        let mut options = SignIntermediateIssuerRequest::builder();
        options
            .use_csr_values(true)
            .exclude_cn_from_sans(true)
            .max_path_length(0)
            .skid(request.key_id)
            .format("pem")
            .ttl(format!("{}s", request.lifetime.as_secs()));
        let (settings, what) = (&self.settings, "sign the issuing CA");
        let issuer = Some(settings.issuer.as_str());
        let answer = vaultrs::pki::issuer::sign_intermediate(
            session.client(),
            &settings.mount,
            &csr,
            request.common_name,
            issuer,
            Some(&mut options),
        );
        let answer = answer.await.map_err(|why| session.fault(what, why))?;
        let form = || UpstreamError::Failed {
            upstream: self.access.name().to_owned(),
            what,
            why: "its answer holds no certificate in PEM".to_owned(),
        };
        let certificate = certificates(&answer.certificate).pop().ok_or_else(form)?;
        let mut above: Vec<Vec<u8>> = answer.ca_chain.iter().flat_map(|text| certificates(text)).collect();
        // Some versions repeat the new certificate at the head of the chain.
        above.retain(|der| *der != certificate);
        Ok(CaChain { certificate, above })
    }

    async fn crls_with(&self, session: &Session) -> Result<Vec<Vec<u8>>, UpstreamError> {
        let settings = &self.settings;
        // Without the right to it, Vault's own `auto_rebuild` has to keep them fresh.
        if let Err(why) = vaultrs::pki::cert::crl::rotate(session.client(), &settings.mount).await {
            debug!(upstream = self.access.name(), error = %why, "Vault was asked for a fresh CRL and gave none");
        }
        let own = format!("{}/issuer/{}/crl/der", settings.mount, settings.issuer);
        let mut found = vec![self.crl_at(session, &own).await?];
        for mount in &settings.crl_mounts {
            found.push(self.crl_at(session, &format!("{mount}/crl")).await?);
        }
        for file in &settings.crl_files {
            match read_bounded(file) {
                Ok(bytes) => found.extend(crls_in(bytes)),
                Err(error) => warn!(path = %file.display(), %error, "a CRL file cannot be read"),
            }
        }
        Ok(found)
    }

    async fn crl_at(&self, session: &Session, path: &str) -> Result<Vec<u8>, UpstreamError> {
        let what = "give the CRL of an issuer";
        let found = session.public(what, path, LARGEST_CRL).await?;
        if found.is_empty() {
            let (upstream, why) =
                (self.access.name().to_owned(), format!("{path} is empty: does that issuer have its key?"));
            return Err(UpstreamError::Failed { upstream, what, why });
        }
        Ok(found)
    }
}

impl Upstream for Vault {
    fn name(&self) -> &str {
        self.access.name()
    }

    fn sign<'a>(&'a self, request: CaRequest<'a>) -> BoxFuture<'a, Result<CaChain, UpstreamError>> {
        Box::pin(async move {
            let session = self.access.session().await?;
            let signed = self.sign_with(&session, request).await;
            session.end().await;
            signed
        })
    }

    fn revoke<'a>(&'a self, serial: &'a Serial) -> BoxFuture<'a, Result<(), UpstreamError>> {
        Box::pin(async move {
            let session = self.access.session().await?;
            // Vault's spelling: the number's octets, without the one for the sign.
            let octets: Vec<String> = serial.number().iter().map(|octet| format!("{octet:02x}")).collect();
            let done = vaultrs::pki::cert::revoke(session.client(), &self.settings.mount, &octets.join(":")).await;
            session.end().await;
            Ok(done.map(drop).map_err(|why| session.fault("revoke the tainted issuing CA", why))?)
        })
    }

    fn crls(&self) -> BoxFuture<'_, Result<Vec<Vec<u8>>, UpstreamError>> {
        Box::pin(async move {
            let session = self.access.session().await?;
            let found = self.crls_with(&session).await;
            session.end().await;
            found
        })
    }
}

fn certificates(text: &str) -> Vec<Vec<u8>> {
    let blocks = pem::decode(text.as_bytes()).unwrap_or_default();
    blocks.into_iter().filter(|block| block.label == pem::CERTIFICATE).map(|block| block.der).collect()
}
