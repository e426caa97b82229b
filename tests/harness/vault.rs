//! A real Vault with its storage in memory: started on a free port, unsealed, and told what a test needs.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use http_body_util::Full;
use serde_json::{Value, json};

use super::http::{Answer, send};
use super::process::Process;
use super::{SOON, eventually};

/// What chancery needs and nothing else.
pub const POLICY: &str = r#"
    path "pki/issuer/default/sign-intermediate" { capabilities = ["create", "update"] }
    path "pki/crl/rotate" { capabilities = ["read"] }
    path "pki/revoke" { capabilities = ["update"] }
"#;

/// A running Vault.
pub struct Vault {
    _process: Process,
    ready: Value,
}

impl Vault {
    /// Starts one, unsealed; its log is in `directory`.
    pub fn start(program: &Path, directory: &Path) -> Self {
        Self::of(Command::new(program), directory)
    }

    fn of(command: Command, directory: &Path) -> Self {
        let mut process = Process::start("vault", command, directory);
        let ready = eventually("Vault is ready", SOON, || {
            if let Some(status) = process.ended() {
                panic!("Vault ended with {status}: {}", process.output());
            }
            let output = process.output();
            output
                .lines()
                .find_map(|line| serde_json::from_str::<Value>(line).ok().filter(|line| line["addr"].is_string()))
        });
        Self { _process: process, ready }
    }

    /// With a root in the mount `pki-root`, and in the mount `pki` an intermediate under it.
    pub fn with_hierarchy(program: &Path, directory: &Path) -> Self {
        Self::start(program, directory).hierarchy()
    }

    /// The same, behind TLS with the certificate and key `vault.pem` and `vault-key.pem` of the directory, for clients that
    /// show certificates by `clients.pem`.
    pub fn with_tls(program: &Path, directory: &Path) -> Self {
        let mut command = Command::new(program);
        for (option, file) in [("-tls-cert", "vault.pem"), ("-tls-key", "vault-key.pem"), ("-client-ca", "clients.pem")]
        {
            command.arg(option).arg(directory.join(file));
        }
        Self::of(command, directory).hierarchy()
    }

    fn hierarchy(self) -> Self {
        let vault = self;
        for mount in ["pki-root", "pki"] {
            let tune = json!({"type": "pki", "config": {"max_lease_ttl": "87600h"}});
            vault.write(&format!("sys/mounts/{mount}"), &tune);
        }
        let root = json!({"common_name": "Corporate Root", "organization": "Example", "ttl": "80000h", "key_type": "ec", "key_bits": 384});
        vault.write("pki-root/root/generate/internal", &root);
        vault.make_intermediate("pki", "Mesh Intermediate", "70000h");
        vault
    }

    /// Puts an intermediate under the root into `mount`, and makes it the default there.
    pub fn make_intermediate(&self, mount: &str, name: &str, ttl: &str) {
        let ask = json!({"common_name": name, "key_type": "ec", "key_bits": 256});
        let request = self.write(&format!("{mount}/intermediate/generate/internal"), &ask);
        let ask = json!({"csr": request["data"]["csr"], "common_name": name, "ttl": ttl, "format": "pem_bundle"});
        let signed = self.write("pki-root/root/sign-intermediate", &ask);
        let set = self
            .write(&format!("{mount}/intermediate/set-signed"), &json!({"certificate": signed["data"]["certificate"]}));
        let issuers = set["data"]["mapping"].as_object().expect("a mapping");
        let own = issuers.iter().find(|(_, key)| key.as_str().is_some_and(|key| !key.is_empty())).expect("ours").0;
        self.write(&format!("{mount}/config/issuers"), &json!({"default": own}));
    }

    /// An AppRole that may do what chancery needs and nothing else: role id and secret id. `uses` of 0 never end.
    pub fn app_role(&self, uses: u32) -> (String, String) {
        self.policy(POLICY);
        let mounted = self.ask("POST", "sys/auth/approle", Some(&json!({"type": "approle"})));
        assert!([204, 400].contains(&mounted.status), "{mounted:?}");
        let role = json!({"token_policies": ["chancery"], "token_ttl": "60s", "secret_id_num_uses": uses});
        self.write("auth/approle/role/chancery", &role);
        let role_id = self.ask("GET", "auth/approle/role/chancery/role-id", None).json();
        let secret_id = self.write("auth/approle/role/chancery/secret-id", &json!({}));
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        (text(&role_id["data"]["role_id"]), text(&secret_id["data"]["secret_id"]))
    }

    /// What the role `chancery` may do from now on.
    pub fn policy(&self, text: &str) {
        self.write("sys/policies/acl/chancery", &json!({"policy": text}));
    }

    /// Where it listens, as a configuration has it.
    pub fn url(&self) -> &str {
        self.ready["addr"].as_str().expect("an address")
    }

    /// A token that may do everything.
    pub fn root_token(&self) -> &str {
        self.ready["root_token"].as_str().expect("a token")
    }

    /// Writes to a path, which must go well.
    pub fn write(&self, path: &str, data: &Value) -> Value {
        let answer = self.ask("POST", path, Some(data));
        assert!((200..300).contains(&answer.status), "{path}: {} {}", answer.status, answer.text());
        if answer.body.is_empty() { Value::Null } else { answer.json() }
    }

    /// Any request.
    pub fn ask(&self, method: &str, path: &str, data: Option<&Value>) -> Answer {
        let body = data.map(|data| Bytes::from(data.to_string())).unwrap_or_default();
        let request = http::Request::builder()
            .method(method)
            .uri(format!("/v1/{path}"))
            .header("X-Vault-Token", self.root_token())
            .header("content-type", "application/json")
            .body(Full::new(body));
        let request = request.expect("a request");
        if self.url().starts_with("https://") { self.over_tls(request) } else { send(self.address(), request) }
    }

    /// Whoever listens there: this is the test's own Vault.
    fn over_tls(&self, request: http::Request<Full<Bytes>>) -> Answer {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let client = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).no_proxy().build().unwrap();
            let (parts, body) = request.into_parts();
            let body = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
            let url = format!("{}{}", self.url(), parts.uri);
            let answer = client.request(parts.method, url).headers(parts.headers).body(body).send().await.unwrap();
            Answer {
                status: answer.status().as_u16(),
                headers: answer.headers().clone(),
                body: answer.bytes().await.unwrap().to_vec(),
            }
        })
    }

    /// Seals it: it answers 503 to everything.
    pub fn seal(&self) {
        assert_eq!(self.ask("PUT", "sys/seal", None).status, 204);
    }

    /// And back.
    pub fn unseal(&self) {
        let answer = self.ask("PUT", "sys/unseal", Some(&json!({"key": self.ready["unseal_key"]})));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// The same, for a proxy.
    pub fn address(&self) -> SocketAddr {
        self.url().strip_prefix("http://").expect("plain HTTP").parse().expect("an address")
    }
}
