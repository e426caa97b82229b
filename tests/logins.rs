//! Each way to log in, at a real Vault: a token in a file, a Kubernetes account, a client certificate.
//!
//! For Kubernetes Vault's own login asks an API server whether an account's token is good (TokenReview). What answers here
//! is a stand-in of a few lines; Vault, its login and its policy are the real ones.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use crate::harness::chancery::Chancery;
use crate::harness::openssl::Openssl;
use crate::harness::vault::{POLICY, Vault};
use crate::harness::{directory, need};
use crate::upstream::{active, authorities, options, private, refused};

/// A configuration with Vault above and these lines as its login.
fn configuration(vault: &Vault, more: &str, login: &str) -> String {
    format!(
        r#"
trust_domain = "example.org"
data_dir = "data"

[[sds.listen]]
name = "web"
path = "data/web.sock"

[[sds.listen]]
name = "api"
path = "data/api.sock"

[upstream.vault]
address = "{}"
crl_mounts = ["pki-root"]
{more}
[upstream.vault.login]
{login}
"#,
        vault.url()
    )
}

fn expect_established(configuration: String) -> Chancery {
    let chancery = Chancery::with(options(configuration));
    assert_eq!(authorities(&chancery), active(&["issuing 1", "root 1", "intermediate 1"]));
    chancery
}

#[test]
fn a_token_in_a_file_is_read_anew_each_time() {
    let Some(vault) = need("vault") else { return };
    let files = directory();
    let vault = Vault::with_hierarchy(&vault, files.path());
    vault.policy(POLICY);
    let token = || {
        let made = vault.write("auth/token/create", &json!({"policies": ["chancery"], "ttl": "1h"}));
        made["auth"]["client_token"].as_str().unwrap().to_owned()
    };
    let (file, first) = (files.path().join("token"), token());
    private(&file, &first);
    let login = format!("method = \"token\"\ntoken_file = \"{}\"", file.display());
    let chancery = expect_established(configuration(&vault, "", &login));
    vault.write("auth/token/revoke", &json!({"token": first}));
    chancery.run(&["ca", "rotate", "issuing"]).expect(1).expect_words(&["403"]);
    // Whoever keeps it fresh writes another.
    private(&file, &token());
    chancery.run(&["ca", "rotate", "issuing"]).expect(0);
    assert!(!chancery.output().contains(&first));
}

/// The token of a service account, with a signature that only the API server could judge.
fn account_token(name: &str) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({
        "iss": "https://kubernetes.default.svc", "sub": format!("system:serviceaccount:mesh:{name}"),
        "aud": ["vault"], "iat": now - 10, "nbf": now - 10, "exp": now + 3_600,
        "kubernetes.io": {"namespace": "mesh", "serviceaccount": {"name": name, "uid": "uid-1"}},
    });
    let head = part(json!({"alg": "RS256", "kid": "one"}));
    format!("{head}.{}.{}", part(claims), URL_SAFE_NO_PAD.encode([7; 256]))
}

/// Answers as an API server would for the account `chancery` of the namespace `mesh`, and says no to everybody else.
fn token_review(good: String) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let review = move |body: String| async move {
        let asked: serde_json::Value = serde_json::from_str(&body).unwrap();
        let is_good = asked["spec"]["token"] == good.as_str();
        let user = json!({"username": "system:serviceaccount:mesh:chancery", "uid": "uid-1", "groups": ["system:serviceaccounts"]});
        let status = if is_good {
            json!({"authenticated": true, "user": user, "audiences": ["vault"]})
        } else {
            json!({"authenticated": false})
        };
        let answer = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status});
        (http::StatusCode::CREATED, [("content-type", "application/json")], answer.to_string())
    };
    let app = axum::Router::new().route("/apis/authentication.k8s.io/v1/tokenreviews", post(review));
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            axum::serve(tokio::net::TcpListener::from_std(listener).unwrap(), app).await.unwrap();
        });
    });
    address
}

#[test]
fn a_kubernetes_account_logs_in_and_another_does_not() {
    let Some(vault) = need("vault") else { return };
    let files = directory();
    let vault = Vault::with_hierarchy(&vault, files.path());
    vault.policy(POLICY);
    let good = account_token("chancery");
    let api = token_review(good.clone());
    vault.write("sys/auth/kubernetes", &json!({"type": "kubernetes"}));
    let host = format!("http://{api}");
    vault.write(
        "auth/kubernetes/config",
        &json!({"kubernetes_host": host, "disable_local_ca_jwt": true, "token_reviewer_jwt": account_token("vault")}),
    );
    let role = json!({"bound_service_account_names": "chancery", "bound_service_account_namespaces": "mesh", "audience": "vault", "token_policies": "chancery", "token_ttl": "60s"});
    vault.write("auth/kubernetes/role/chancery", &role);
    let file = files.path().join("account-token");
    private(&file, &good);
    let login = format!("method = \"kubernetes\"\nrole = \"chancery\"\ntoken_file = \"{}\"", file.display());
    let chancery = expect_established(configuration(&vault, "", &login));
    chancery.run(&["ca", "rotate", "issuing"]).expect(0);
    private(&file, &account_token("somebody"));
    chancery.run(&["ca", "rotate", "issuing"]).expect(1).expect_words(&["refuses log in"]);
    assert!(!chancery.output().contains(&good));
}

/// A certificate with its key in `NAME.pem` and `NAME-key.pem`, signed by itself.
fn certificate(openssl: &Openssl, name: &str, usage: &str) {
    let [cert, key] = [format!("{name}.pem"), format!("{name}-key.pem")];
    openssl.key("P-256", &key);
    let usage = format!("extendedKeyUsage = {usage}");
    let words =
        ["req", "-config", "openssl.cnf", "-x509", "-new", "-key", &key, "-days", "30", "-subj", "/CN=chancery"];
    openssl
        .run(&[&words[..], &["-addext", "subjectAltName = IP:127.0.0.1", "-addext", &usage, "-out", &cert]].concat());
}

#[test]
fn a_client_certificate_logs_in_and_another_does_not() {
    let (Some(vault), Some(openssl)) = (need("vault"), need("openssl")) else { return };
    let files = directory();
    let openssl = Openssl::new(&openssl, files.path());
    certificate(&openssl, "vault", "serverAuth");
    certificate(&openssl, "clients", "clientAuth");
    certificate(&openssl, "other", "clientAuth");
    let vault = Arc::new(Vault::with_tls(&vault, files.path()));
    vault.policy(POLICY);
    vault.write("sys/auth/cert", &json!({"type": "cert"}));
    let pem = std::fs::read_to_string(openssl.path("clients.pem")).unwrap();
    vault.write(
        "auth/cert/certs/chancery",
        &json!({"certificate": pem, "token_policies": "chancery", "token_ttl": "60s"}),
    );
    let login = |name: &str| {
        let path = |name: String| openssl.path(&name).display().to_string();
        let (cert, key) = (path(format!("{name}.pem")), path(format!("{name}-key.pem")));
        format!("method = \"certificate\"\nrole = \"chancery\"\ncertificate_file = \"{cert}\"\nkey_file = \"{key}\"")
    };
    let more = format!("ca_file = \"{}\"", Path::new(&openssl.path("vault.pem")).display());
    refused(&configuration(&vault, &more, &login("other")), &["vault https"]);
    let chancery = expect_established(configuration(&vault, &more, &login("clients")));
    chancery.run(&["ca", "rotate", "issuing"]).expect(0);
}
