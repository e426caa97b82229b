//! Vault's PKI engine as the upstream: `sign-intermediate`, and the CRLs of its issuers.
//!
//! Each act logs in, asks, and revokes its token again: CA certificates and CRLs are asked for a few times a day at most,
//! and so no token lives in memory between them or lapses unnoticed. Files that hold secrets (token, secret id, key) are
//! read each time, because whoever keeps them fresh writes them anew. Redirects are not followed and no proxy of the
//! environment is used: the token goes to the configured address or nowhere.

use std::path::PathBuf;
use std::time::Duration;

use futures::future::BoxFuture;
use reqwest::{Certificate, Identity};
use rustify::clients::reqwest::Client as HttpClient;
use rustify::errors::ClientError as HttpError;
use tracing::{debug, warn};
use vaultrs::api::EndpointMiddleware;
use vaultrs::api::pki::requests::SignIntermediateIssuerRequest;
use vaultrs::client::{Client, VaultClient, VaultClientSettings};
use vaultrs::error::ClientError;
use zeroize::Zeroizing;

use super::{CaChain, CaRequest, LARGEST_CRL, Upstream, UpstreamError, crls_in, read_bounded};
use crate::secret::{self, SecretBytes};
use crate::x509::{Serial, pem};

/// Where Vault is and what it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultSettings {
    /// `https://vault:8200`.
    pub address: String,
    /// Vault's own namespace, an enterprise feature.
    pub namespace: Option<String>,
    /// The CA certificates that its listener's certificate is verified against, PEM; the system's where there are none.
    pub ca_file: Option<PathBuf>,
    /// How long one request may take.
    pub timeout: Duration,
    /// Where the PKI engine is mounted.
    pub mount: String,
    /// The issuer in it: a name, an id or `default`.
    pub issuer: String,
    /// Mounts of the CAs above that issuer, whose CRLs are needed too.
    pub crl_mounts: Vec<String>,
    /// Files with CRLs of CAs above that are in no Vault, PEM or DER.
    pub crl_files: Vec<PathBuf>,
    /// How to log in.
    pub login: Login,
}

/// How to log in, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// A token in a file, which somebody else (Vault Agent) keeps fresh. It is not revoked afterwards.
    Token {
        /// The file.
        file: PathBuf,
    },
    /// AppRole.
    AppRole {
        /// Where it is mounted.
        mount: String,
        /// The role's id.
        role_id: String,
        /// The file with the secret id.
        secret_id_file: PathBuf,
    },
    /// A Kubernetes service account.
    Kubernetes {
        /// Where it is mounted.
        mount: String,
        /// The role.
        role: String,
        /// The file with the account's token.
        token_file: PathBuf,
    },
    /// A client certificate.
    Certificate {
        /// Where it is mounted.
        mount: String,
        /// The role.
        role: String,
        /// The chain, PEM.
        certificate_file: PathBuf,
        /// Its key, PEM.
        key_file: PathBuf,
    },
}

/// Vault, asked anew each time.
#[derive(Debug)]
pub struct Vault {
    name: String,
    settings: VaultSettings,
}

impl Vault {
    /// Asks nothing yet.
    #[must_use]
    pub fn new(settings: VaultSettings) -> Self {
        Self { name: format!("vault {} {}", settings.address, settings.mount), settings }
    }

    fn login_fault(&self, why: impl ToString) -> UpstreamError {
        UpstreamError::Login { upstream: self.name.clone(), why: why.to_string() }
    }

    /// A secret on one line of a file.
    fn secret(&self, file: &std::path::Path) -> Result<Zeroizing<String>, UpstreamError> {
        let bytes: SecretBytes = secret::read_credential(file).map_err(|why| self.login_fault(why))?;
        let text = std::str::from_utf8(bytes.expose()).ok().map(str::trim).filter(|text| !text.is_empty());
        let form = || self.login_fault(format!("{} holds no text", file.display()));
        Ok(Zeroizing::new(text.ok_or_else(form)?.to_owned()))
    }

    /// A client without a token.
    fn client(&self) -> Result<VaultClient, UpstreamError> {
        let settings = &self.settings;
        let unusable = |why: reqwest::Error| self.unreachable(&why);
        let mut http =
            reqwest::Client::builder().timeout(settings.timeout).redirect(reqwest::redirect::Policy::none()).no_proxy();
        if let Some(file) = &settings.ca_file {
            let text = std::fs::read(file).map_err(|why| self.login_fault(format!("{}: {why}", file.display())))?;
            let roots = Certificate::from_pem_bundle(&text).map_err(unusable)?;
            if roots.is_empty() {
                return Err(self.login_fault(format!("{} holds no certificate in PEM", file.display())));
            }
            http = http.tls_certs_only(roots);
        } else if settings.address.starts_with("http://") {
            http = http.tls_certs_only([]);
        }
        if let Login::Certificate { certificate_file, key_file, .. } = &settings.login {
            let chain = std::fs::read(certificate_file)
                .map_err(|why| self.login_fault(format!("{}: {why}", certificate_file.display())))?;
            let key = secret::read_credential(key_file).map_err(|why| self.login_fault(why))?;
            let mut both = Zeroizing::new(Vec::with_capacity(chain.len() + key.expose().len() + 1));
            both.extend_from_slice(&chain);
            both.push(b'\n');
            both.extend_from_slice(key.expose());
            http = http.identity(Identity::from_pem(&both).map_err(unusable)?);
        }
        let http = HttpClient::new(&settings.address, http.build().map_err(unusable)?);
        let address = settings.address.parse().map_err(|why| self.login_fault(format!("address: {why}")))?;
        let inner = VaultClientSettings {
            address,
            ca_certs: Vec::new(),
            identity: None,
            timeout: Some(settings.timeout),
            token: String::new(),
            verify: true,
            version: 1,
            wrapping: false,
            namespace: settings.namespace.clone(),
            proxy: None,
        };
        let middle = EndpointMiddleware {
            token: String::new(),
            version: "v1".to_owned(),
            wrap: None,
            namespace: settings.namespace.clone(),
        };
        Ok(VaultClient { http, middle, settings: inner })
    }

    /// A client with a token.
    async fn session(&self) -> Result<VaultClient, UpstreamError> {
        let mut client = self.client()?;
        let login = match &self.settings.login {
            Login::Token { file } => {
                client.set_token(&self.secret(file)?);
                return Ok(client);
            }
            Login::AppRole { mount, role_id, secret_id_file } => {
                let secret = self.secret(secret_id_file)?;
                vaultrs::auth::approle::login(&client, mount, role_id, &secret).await
            }
            Login::Kubernetes { mount, role, token_file } => {
                let token = self.secret(token_file)?;
                vaultrs::auth::kubernetes::login(&client, mount, role, &token).await
            }
            Login::Certificate { mount, role, .. } => vaultrs::auth::cert::login(&client, mount, role).await,
        };
        let login = login.map_err(|why| self.fault("log in", why))?;
        client.set_token(&Zeroizing::new(login.client_token));
        Ok(client)
    }

    /// Gives the token back.
    async fn end(&self, client: &VaultClient) {
        if matches!(self.settings.login, Login::Token { .. }) {
            return;
        }
        if let Err(why) = vaultrs::token::revoke_self(client).await {
            debug!(upstream = self.name, error = %why, "the token was not given back; it lapses by itself");
        }
    }

    async fn sign_with(&self, client: &VaultClient, request: CaRequest<'_>) -> Result<CaChain, UpstreamError> {
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
            client,
            &settings.mount,
            &csr,
            request.common_name,
            issuer,
            Some(&mut options),
        );
        let answer = answer.await.map_err(|why| self.fault(what, why))?;
        let form = || UpstreamError::Failed {
            upstream: self.name.clone(),
            what,
            why: "its answer holds no certificate in PEM".to_owned(),
        };
        let certificate = certificates(&answer.certificate).pop().ok_or_else(form)?;
        let mut above: Vec<Vec<u8>> = answer.ca_chain.iter().flat_map(|text| certificates(text)).collect();
        // Some versions repeat the new certificate at the head of the chain.
        above.retain(|der| *der != certificate);
        Ok(CaChain { certificate, above })
    }

    async fn crls_with(&self, client: &VaultClient) -> Result<Vec<Vec<u8>>, UpstreamError> {
        let settings = &self.settings;
        // Without the right to it, Vault's own `auto_rebuild` has to keep them fresh.
        if let Err(why) = vaultrs::pki::cert::crl::rotate(client, &settings.mount).await {
            debug!(upstream = self.name, error = %why, "Vault was asked for a fresh CRL and gave none");
        }
        let own = format!("{}/issuer/{}/crl/der", settings.mount, settings.issuer);
        let mut found = vec![self.crl_at(client, &own).await?];
        for mount in &settings.crl_mounts {
            found.push(self.crl_at(client, &format!("{mount}/crl")).await?);
        }
        for file in &settings.crl_files {
            match read_bounded(file) {
                Ok(bytes) => found.extend(crls_in(bytes)),
                Err(error) => warn!(path = %file.display(), %error, "a CRL file cannot be read"),
            }
        }
        Ok(found)
    }

    /// Public data of Vault's, as it is.
    async fn crl_at(&self, client: &VaultClient, path: &str) -> Result<Vec<u8>, UpstreamError> {
        let what = "give the CRL of an issuer";
        let url = format!("{}/v1/{path}", self.settings.address.trim_end_matches('/'));
        let mut request = client.http().http.get(url);
        if let Some(namespace) = &self.settings.namespace {
            request = request.header("X-Vault-Namespace", namespace);
        }
        let mut answer = request.send().await.map_err(|why| self.unreachable(&why))?;
        let failed = |why: String| UpstreamError::Failed { upstream: self.name.clone(), what, why };
        match answer.status().as_u16() {
            200 => {}
            code if is_sealed(code) => {
                return Err(UpstreamError::Sealed { upstream: self.name.clone(), why: answer.status().to_string() });
            }
            _ => return Err(failed(format!("{path}: {}", answer.status()))),
        }
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(|why| self.unreachable(&why))? {
            body.extend_from_slice(&part);
            if body.len() as u64 > LARGEST_CRL {
                return Err(failed(format!("{path} is larger than {LARGEST_CRL} bytes")));
            }
        }
        if body.is_empty() { Err(failed(format!("{path} is empty: does that issuer have its key?"))) } else { Ok(body) }
    }

    fn unreachable(&self, why: &dyn std::error::Error) -> UpstreamError {
        UpstreamError::Unreachable { upstream: self.name.clone(), why: causes(why) }
    }

    /// What a failed request of the library's means to an operator.
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "the library's other errors mean one thing: it did not answer as it should"
    )]
    fn fault(&self, what: &'static str, why: ClientError) -> UpstreamError {
        let upstream = self.name.clone();
        match why {
            ClientError::APIError { code, errors } if is_sealed(code) => {
                UpstreamError::Sealed { upstream, why: errors.join("; ") }
            }
            // A secret id that is used up is a 400 of the login.
            ClientError::APIError { code: code @ (400 | 401 | 403 | 404), errors } => {
                UpstreamError::Refused { upstream, what, why: format!("{code} {}", errors.join("; ")) }
            }
            ClientError::APIError { code, errors } => {
                UpstreamError::Failed { upstream, what, why: format!("{code} {}", errors.join("; ")) }
            }
            ClientError::RestClientError { source: source @ HttpError::RequestError { .. } } => {
                self.unreachable(&source)
            }
            // What is left is an answer of another form, and what the library makes of it.
            ref other => UpstreamError::Failed { upstream, what, why: causes(other) },
        }
    }
}

impl Upstream for Vault {
    fn name(&self) -> &str {
        &self.name
    }

    fn sign<'a>(&'a self, request: CaRequest<'a>) -> BoxFuture<'a, Result<CaChain, UpstreamError>> {
        Box::pin(async move {
            let client = self.session().await?;
            let signed = self.sign_with(&client, request).await;
            self.end(&client).await;
            signed
        })
    }

    fn revoke<'a>(&'a self, serial: &'a Serial) -> BoxFuture<'a, Result<(), UpstreamError>> {
        Box::pin(async move {
            let client = self.session().await?;
            // Vault's spelling: the number's octets, without the one for the sign.
            let octets: Vec<String> = serial.number().iter().map(|octet| format!("{octet:02x}")).collect();
            let done = vaultrs::pki::cert::revoke(&client, &self.settings.mount, &octets.join(":")).await;
            self.end(&client).await;
            done.map(drop).map_err(|why| self.fault("revoke the tainted issuing CA", why))
        })
    }

    fn crls(&self) -> BoxFuture<'_, Result<Vec<Vec<u8>>, UpstreamError>> {
        Box::pin(async move {
            let client = self.session().await?;
            let found = self.crls_with(&client).await;
            self.end(&client).await;
            found
        })
    }
}

/// What Vault answers with while it is sealed, not initialised, or a standby that cannot reach its leader.
fn is_sealed(code: u16) -> bool {
    matches!(code, 501 | 503 | 472 | 473)
}

fn certificates(text: &str) -> Vec<Vec<u8>> {
    let blocks = pem::decode(text.as_bytes()).unwrap_or_default();
    blocks.into_iter().filter(|block| block.label == pem::CERTIFICATE).map(|block| block.der).collect()
}

/// An error with what caused it, in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
