//! Where one Vault is, and a session there.

use std::path::Path;

use reqwest::{Certificate, Identity};
use rustify::clients::reqwest::Client as HttpClient;
use rustify::errors::ClientError as HttpError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::debug;
use vaultrs::api::{AuthInfo, EndpointMiddleware};
use vaultrs::client::{Client, VaultClient, VaultClientSettings};
use vaultrs::error::ClientError;
use zeroize::Zeroizing;

use super::call::Call;
use super::{Connection, Login, VaultError, Verb};
use crate::secret::{self, SecretBytes};

/// One Vault as this server may use it. It asks nothing by itself.
#[derive(Debug, Clone)]
pub struct Access {
    /// What it is called in messages: `vault https://vault:8200 pki`.
    name: String,
    table: &'static str,
    connection: Connection,
}

/// Requests with a token, until that lapses. Never printed.
pub struct Session {
    client: VaultClient,
    access: Access,
    lease: Lease,
}

/// How long a token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lease {
    /// Somebody else keeps it, in a file.
    Theirs,
    /// This many seconds from when it was given; 0 is for ever.
    Ours {
        /// The seconds.
        seconds: u64,
        /// Whether it can be prolonged.
        renewable: bool,
    },
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({})", self.access.name)
    }
}

impl Access {
    /// To `mount` of the Vault that `table` of the configuration names.
    #[must_use]
    pub fn new(connection: Connection, mount: &str, table: &'static str) -> Self {
        Self { name: format!("vault {} {mount}", connection.address), table, connection }
    }

    /// What it is called in records and messages: `vault https://vault:8200 pki`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Logs in.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn session(&self) -> Result<Session, VaultError> {
        let mut client = self.client()?;
        let login = match &self.connection.login {
            Login::Token { file } => {
                client.set_token(&self.secret(file)?);
                return Ok(Session { client, access: self.clone(), lease: Lease::Theirs });
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
        let lease = lease(&login);
        client.set_token(&Zeroizing::new(login.client_token));
        Ok(Session { client, access: self.clone(), lease })
    }

    fn login_fault(&self, why: impl ToString) -> VaultError {
        VaultError::Login { vault: self.name.clone(), why: why.to_string() }
    }

    /// A secret on one line of a file.
    fn secret(&self, file: &Path) -> Result<Zeroizing<String>, VaultError> {
        let bytes: SecretBytes = secret::read_credential(file).map_err(|why| self.login_fault(why))?;
        let text = std::str::from_utf8(bytes.expose()).ok().map(str::trim).filter(|text| !text.is_empty());
        let form = || self.login_fault(format!("{} holds no text", file.display()));
        Ok(Zeroizing::new(text.ok_or_else(form)?.to_owned()))
    }

    /// A client without a token.
    fn client(&self) -> Result<VaultClient, VaultError> {
        let connection = &self.connection;
        let http = HttpClient::new(&connection.address, self.http()?);
        let address = connection.address.parse().map_err(|why| self.login_fault(format!("address: {why}")))?;
        let settings = VaultClientSettings {
            address,
            ca_certs: Vec::new(),
            identity: None,
            timeout: Some(connection.timeout),
            token: String::new(),
            verify: true,
            version: 1,
            wrapping: false,
            namespace: connection.namespace.clone(),
            proxy: None,
        };
        let middle = EndpointMiddleware {
            token: String::new(),
            version: "v1".to_owned(),
            wrap: None,
            namespace: connection.namespace.clone(),
        };
        Ok(VaultClient { http, middle, settings })
    }

    fn http(&self) -> Result<reqwest::Client, VaultError> {
        let connection = &self.connection;
        let unusable = |why: reqwest::Error| self.unreachable(&why);
        let mut http = reqwest::Client::builder()
            .timeout(connection.timeout)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .tcp_nodelay(true);
        if let Some(file) = &connection.ca_file {
            let text = std::fs::read(file).map_err(|why| self.login_fault(format!("{}: {why}", file.display())))?;
            let roots = Certificate::from_pem_bundle(&text).map_err(unusable)?;
            if roots.is_empty() {
                return Err(self.login_fault(format!("{} holds no certificate in PEM", file.display())));
            }
            http = http.tls_certs_only(roots);
        } else if connection.address.starts_with("http://") {
            http = http.tls_certs_only([]);
        }
        if let Login::Certificate { certificate_file, key_file, .. } = &connection.login {
            let chain = std::fs::read(certificate_file)
                .map_err(|why| self.login_fault(format!("{}: {why}", certificate_file.display())))?;
            let key = secret::read_credential(key_file).map_err(|why| self.login_fault(why))?;
            let mut both = Zeroizing::new(Vec::with_capacity(chain.len() + key.expose().len() + 1));
            both.extend_from_slice(&chain);
            both.push(b'\n');
            both.extend_from_slice(key.expose());
            http = http.identity(Identity::from_pem(&both).map_err(unusable)?);
        }
        http.build().map_err(unusable)
    }

    fn unreachable(&self, why: &dyn std::error::Error) -> VaultError {
        VaultError::Unreachable { vault: self.name.clone(), table: self.table, why: causes(why) }
    }

    /// What a failed request of the library's means to an operator.
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "the library's other errors mean one thing: it did not answer as it should"
    )]
    fn fault(&self, what: &'static str, why: ClientError) -> VaultError {
        match why {
            ClientError::APIError { code, errors } => self.answered(what, code, &errors.join("; ")),
            ClientError::RestClientError { source: source @ HttpError::RequestError { .. } } => {
                self.unreachable(&source)
            }
            // What is left is an answer of another form, and what the library makes of it.
            ref other => VaultError::Failed { vault: self.name.clone(), what, why: causes(other) },
        }
    }

    /// What a status other than 200 means.
    fn answered(&self, what: &'static str, code: u16, said: &str) -> VaultError {
        let vault = self.name.clone();
        match code {
            code if is_sealed(code) => VaultError::Sealed { vault, why: said.to_owned() },
            // A secret id that is used up is a 400 of the login.
            400 | 401 | 403 | 404 => {
                VaultError::Refused { vault, table: self.table, what, code, why: format!("{code} {said}") }
            }
            _ => VaultError::Failed { vault, what, why: format!("{code} {said}") },
        }
    }
}

impl Session {
    /// The library's client, for its own endpoints; their errors go through [`Self::fault`].
    pub fn client(&self) -> &impl Client {
        &self.client
    }

    /// What a failed request of the library's means. `what` was asked: "sign the issuing CA".
    #[must_use]
    pub fn fault(&self, what: &'static str, why: ClientError) -> VaultError {
        self.access.fault(what, why)
    }

    /// Asks `path` for what its `data` holds.
    ///
    /// # Errors
    /// [`VaultError`], with `what` was asked.
    pub async fn call<B, R>(
        &self,
        what: &'static str,
        verb: Verb,
        path: &str,
        body: Option<&B>,
    ) -> Result<R, VaultError>
    where
        B: Serialize + Sync,
        R: DeserializeOwned + Send + Sync,
    {
        let call = Call::<B, R>::new(verb, path, body);
        vaultrs::api::exec_with_result(&self.client, call).await.map_err(|why| self.fault(what, why))
    }

    /// Writes to `path` and takes no notice of what it answers.
    ///
    /// # Errors
    /// [`VaultError`], with `what` was asked.
    pub async fn write<B: Serialize + Sync>(&self, what: &'static str, path: &str, body: &B) -> Result<(), VaultError> {
        let call = Call::<B, serde_json::Value>::new(Verb::Write, path, Some(body));
        vaultrs::api::exec_with_empty(&self.client, call).await.map_err(|why| self.fault(what, why))
    }

    /// Public data of Vault's, as it is, up to `most` bytes: asked without the token.
    ///
    /// # Errors
    /// [`VaultError`], with `what` was asked.
    pub async fn public(&self, what: &'static str, path: &str, most: u64) -> Result<Vec<u8>, VaultError> {
        let (access, connection) = (&self.access, &self.access.connection);
        let url = format!("{}/v1/{path}", connection.address.trim_end_matches('/'));
        let mut request = self.client.http().http.get(url);
        if let Some(namespace) = &connection.namespace {
            request = request.header("X-Vault-Namespace", namespace);
        }
        let mut answer = request.send().await.map_err(|why| access.unreachable(&why))?;
        let failed = |why: String| VaultError::Failed { vault: access.name.clone(), what, why };
        let status = answer.status();
        if is_sealed(status.as_u16()) {
            return Err(VaultError::Sealed { vault: access.name.clone(), why: status.to_string() });
        }
        if status.as_u16() != 200 {
            return Err(failed(format!("{path}: {status}")));
        }
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(|why| access.unreachable(&why))? {
            body.extend_from_slice(&part);
            if body.len() as u64 > most {
                return Err(failed(format!("{path} is larger than {most} bytes")));
            }
        }
        Ok(body)
    }

    /// How long its token was good for when it was given.
    pub(super) fn lease(&self) -> Lease {
        self.lease
    }

    /// Prolongs its token.
    pub(super) async fn renew(&self) -> Result<Lease, VaultError> {
        let renewed = vaultrs::token::renew_self(&self.client, None).await;
        Ok(lease(&renewed.map_err(|why| self.fault("renew the token", why))?))
    }

    /// Gives the token back.
    pub async fn end(&self) {
        if self.lease == Lease::Theirs {
            return;
        }
        if let Err(why) = vaultrs::token::revoke_self(&self.client).await {
            debug!(vault = self.access.name, error = %why, "the token was not given back; it lapses by itself");
        }
    }
}

/// What Vault answers with while it is sealed, not initialised, or a standby that cannot reach its leader.
fn is_sealed(code: u16) -> bool {
    matches!(code, 501 | 503 | 472 | 473)
}

fn lease(login: &AuthInfo) -> Lease {
    Lease::Ours { seconds: login.lease_duration, renewable: login.renewable }
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
