//! An existing CA in files above: corporate ones made by OpenSSL, Istio's `cacerts`, a root that is offline.

use std::path::Path;
use std::process::Command;

use http_body_util::Full;
use serde_json::Value;

use crate::harness::chancery::{Chancery, program, said};
use crate::harness::http::send;
use crate::harness::openssl::Openssl;
use crate::harness::pair::{Pair, Setup, WEB};
use crate::harness::{SOON, directory, eventually, need};
use crate::upstream::{active, authorities, expect_verified, fetched, options, private, refused};

/// A configuration with the CA in `files` above; `more` stands in its table.
fn configuration(files: &Path, more: &str) -> String {
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

[http]
listen = "127.0.0.1:0"

[upstream.files]
directory = "{}"
{more}
"#,
        files.display()
    )
}

fn under(files: &Path, more: &str) -> Chancery {
    Chancery::with(options(configuration(files, more)))
}

/// A root with its CRL, and the CA that signs under it.
fn corporate(openssl: &Path, at: &Path, subject: &str, extensions: &str) -> Openssl {
    let ca = Openssl::new(openssl, at);
    ca.root("/DC=com/DC=corp/OU=Security/OU=Trust/CN=Corporate Root", "root");
    ca.key("P-256", "ca-key.pem");
    ca.below(subject, extensions, "3000");
    ca.root_list("400");
    ca
}

/// That rustls-webpki takes what `fetch` wrote.
fn expect_webpki(files: &[std::path::PathBuf; 4]) {
    let ders = |path: &Path| -> Vec<Vec<u8>> {
        let text = std::fs::read(path).unwrap();
        x509_parser::pem::Pem::iter_from_buffer(&text).map(|block| block.unwrap().contents).collect()
    };
    let [leaf, above, roots, _] = files;
    let (leaf, roots) = (ders(leaf).remove(0).into(), ders(roots));
    let above: Vec<rustls_pki_types::CertificateDer<'_>> = ders(above).into_iter().map(Into::into).collect();
    let anchors: Vec<rustls_pki_types::CertificateDer<'_>> = roots.into_iter().map(Into::into).collect();
    let anchors: Vec<_> = anchors.iter().map(|der| webpki::anchor_from_trusted_cert(der).unwrap()).collect();
    let now = rustls_pki_types::UnixTime::now();
    let end = webpki::EndEntityCert::try_from(&leaf).unwrap();
    end.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        &above,
        now,
        webpki::KeyUsage::client_auth(),
        None,
        None,
    )
    .unwrap();
}

#[test]
fn corporate_names_that_are_easily_lost_and_keys_of_every_form_make_chains_that_verify() {
    let Some(openssl) = need("openssl") else { return };
    let cases: [(&str, &[&[&str]], &str); 4] = [
        ("/DC=com/DC=corp/CN=Mesh CA", &[], ""),
        (
            "/O=Corp/OU=Platform/OU=Mesh/CN=Mesh CA",
            &[&["ec", "-in", "ca-key.pem", "-out", "sec1-key.pem"]],
            "key_file = \"sec1-key.pem\"",
        ),
        (
            "/O=Corp/CN=Mesh CA/emailAddress=ca@corp.example",
            &[
                &["genrsa", "-out", "ca-key.pem", "2048"],
                &["rsa", "-traditional", "-in", "ca-key.pem", "-out", "pkcs1-key.pem"],
            ],
            "key_file = \"pkcs1-key.pem\"",
        ),
        (
            "/DC=com/DC=corp/CN=Mesh CA+OU=Mesh+emailAddress=ca@corp.example",
            &[&["pkcs8", "-topk8", "-in", "ca-key.pem", "-out", "sealed-key.pem", "-passout", "file:pass-key"]],
            "key_file = \"sealed-key.pem\"\npassphrase_file = \"pass-key\"",
        ),
    ];
    for (subject, keys, more) in cases {
        let files = directory();
        let ca = Openssl::new(&openssl, files.path());
        private(&ca.path("pass-key"), "correct horse\n");
        ca.root("/DC=com/DC=corp/OU=Security/OU=Trust/CN=Corporate Root", "root");
        ca.key("P-256", "ca-key.pem");
        for words in keys {
            ca.run(words);
        }
        ca.below(subject, "wide", "3000");
        ca.root_list("400");
        let chancery = under(files.path(), more);
        assert_eq!(authorities(&chancery), active(&["root 1", "intermediate 1", "issuing 1"]), "{subject}");
        let files = fetched(&chancery);
        expect_verified(&openssl, &files);
        expect_webpki(&files);
        chancery.run(&["ca", "rotate", "issuing"]).expect(0);
        expect_verified(&openssl, &fetched(&chancery));
        chancery.run(&["audit", "verify"]).expect(0);
        assert!(!chancery.output().contains("correct horse"));
        // The owner's key stays where it is.
        let keys = std::fs::read_dir(chancery.data().join("keys")).unwrap();
        assert!(!keys.flatten().any(|file| file.file_name().to_string_lossy().starts_with("intermediate")));
    }
}

#[test]
fn a_taint_under_a_ca_in_files_is_on_the_list_that_this_server_makes_of_it() {
    let Some(openssl) = need("openssl") else { return };
    let files = directory();
    let ca = corporate(&openssl, files.path(), "/DC=com/DC=corp/CN=Mesh CA", "wide");
    let mut chancery = under(files.path(), "");
    let before = fetched(&chancery);
    let [old, old_above] = ["old.pem", "old-above.pem"].map(|name| chancery.scratch().join(name));
    std::fs::copy(&before[0], &old).unwrap();
    std::fs::copy(&before[1], &old_above).unwrap();
    chancery.run(&["ca", "taint", "issuing 1", "--yes"]).expect(0);
    let shown = chancery.run(&["ca", "show", "--output", "json"]).expect(0).json();
    let entries = |name: &str| {
        let all = shown["authorities"].as_array().unwrap();
        all.iter().find(|one| one["name"] == name).unwrap()["crl"]["entries"].clone()
    };
    assert_eq!((entries("intermediate 1"), entries("root 1")), (Value::from(1), Value::from(0)));
    std::fs::remove_dir_all(chancery.scratch().join("id")).unwrap();
    let now = fetched(&chancery);
    expect_verified(&openssl, &now);
    let mut verify = Command::new(&openssl);
    verify.args(["verify", "-x509_strict", "-crl_check_all", "-CAfile"]).arg(&now[2]).arg("-CRLfile").arg(&now[3]);
    let refused = said(verify.arg("-untrusted").arg(&old_above).arg(&old)).expect(2);
    assert!(refused.err.contains("certificate revoked"), "{refused:#?}");
    // It lives without the CA's key until a new issuing CA is due, over a restart too.
    std::fs::rename(ca.path("ca-key.pem"), ca.path("away-key.pem")).unwrap();
    chancery.kill();
    chancery.start();
    expect_verified(&openssl, &fetched(&chancery));
    chancery.run(&["ca", "rotate", "issuing"]).expect(1).expect_words(&["ca-key.pem", "No such file"]);
    std::fs::rename(ca.path("away-key.pem"), ca.path("ca-key.pem")).unwrap();
    chancery.run(&["ca", "rotate", "issuing"]).expect(0);
    chancery.run(&["audit", "verify"]).expect(0);
}

#[test]
fn a_ca_without_room_below_it_becomes_the_issuing_ca_until_the_next_is_put_there() {
    let Some(openssl) = need("openssl") else { return };
    let files = directory();
    let ca = corporate(&openssl, files.path(), "/O=Corp/CN=Mesh CA one", "narrow");
    let mut chancery = under(files.path(), "");
    assert_eq!(authorities(&chancery), active(&["root 1", "issuing 1"]));
    expect_verified(&openssl, &fetched(&chancery));
    let refused = chancery.run(&["ca", "rotate", "issuing"]).expect(1);
    assert!(refused.err.contains("holds issuing 1 still"), "{refused:#?}");
    // Its key is sealed here: without the file it signs all the same.
    std::fs::remove_file(ca.path("ca-key.pem")).unwrap();
    chancery.stop();
    chancery.start();
    expect_verified(&openssl, &fetched(&chancery));
    ca.key("P-256", "ca-key.pem");
    ca.below("/O=Corp/CN=Mesh CA two", "narrow", "2000");
    chancery.run(&["ca", "rotate", "issuing"]).expect(0);
    std::fs::remove_dir_all(chancery.scratch().join("id")).unwrap();
    let fresh = fetched(&chancery);
    expect_verified(&openssl, &fresh);
    let names = said(Command::new(&openssl).args(["x509", "-noout", "-issuer", "-in"]).arg(&fresh[0])).expect(0);
    assert!(names.out.contains("Mesh CA two"), "{names:#?}");
}

#[test]
fn an_offline_root_signs_by_hand_and_the_request_outlives_restarts() {
    let Some(openssl) = need("openssl") else { return };
    let files = directory();
    let ca = Openssl::new(&openssl, files.path());
    ca.root("/DC=com/DC=corp/OU=Security/OU=Trust/CN=Offline Root", "root");
    ca.root_list("400");
    let mut chancery = Chancery::prepared(options(configuration(files.path(), "signing = \"elsewhere\"")));
    let file = chancery.scratch().join("chancery.toml");
    let start = || said(Command::new(program()).args(["server", "--config"]).arg(&file));
    start().expect(1).expect_words(&["not signed yet", "issuing.csr", "issuing-cert.pem"]);
    let request = chancery.data().join("issuing.csr");
    std::fs::copy(&request, ca.path("issuing.csr")).unwrap();
    // Another start asks with the same key, so an answer to the first request is one to the second.
    start().expect(1);
    let words = ["x509", "-req", "-in", "issuing.csr", "-CA", "root-cert.pem", "-CAkey", "root-key.pem"];
    ca.run(&[&words[..], &["-copy_extensions", "copyall", "-days", "90", "-out", "issuing-cert.pem"]].concat());
    chancery.start();
    assert_eq!(authorities(&chancery), active(&["issuing 1", "root 1"]));
    expect_verified(&openssl, &fetched(&chancery));
    chancery.run(&["ca", "rotate", "issuing"]).expect(1).expect_words(&["not signed yet"]);
    chancery.run(&["audit", "verify"]).expect(0);
    chancery.stop();
}

#[test]
fn what_cannot_stand_above_is_refused_with_the_remedy() {
    let Some(openssl) = need("openssl") else { return };
    let files = directory();
    let ca = corporate(&openssl, files.path(), "/O=Corp/CN=Mesh CA", "wide");
    let good = configuration(files.path(), "");
    let open = |mode: u32| {
        let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(mode);
        std::fs::set_permissions(ca.path("ca-key.pem"), mode).unwrap();
    };
    open(0o644);
    refused(&good, &["ca-key.pem", "0644", "chmod 0600"]);
    open(0o600);
    refused(&good.replace("[upstream.files]", "[upstream.files]\nkey_file = \"root-key.pem\""), &["is not the key of"]);
    refused(&good.replace("[upstream.files]", "[upstream.files]\nchain_files = []"), &["does not end in a root"]);
    refused(&good.replace("[upstream.files]", "[upstream.files]\ncrl_files = []"), &["gives no CRL of", "crl_files"]);
    ca.below("/O=Corp/CN=Mesh CA", "wide", "1");
    refused(&good, &["leaves less than", "renew the CA above"]);
    // As Istio's own Makefile makes them: nothing under them could be revoked.
    ca.below("/O=Istio/CN=Intermediate CA", "istio", "3000");
    refused(&good, &["may not sign CRLs", "cRLSign"]);
}

#[test]
fn envoys_take_a_chain_whose_root_has_no_list_when_told_to_want_the_leafs_alone() {
    let (Some(envoy), Some(openssl)) = (need("envoy"), need("openssl")) else { return };
    let files = directory();
    let ca = Openssl::new(&openssl, files.path());
    ca.root("/O=Istio/CN=Root CA", "istio");
    ca.key("P-256", "ca-key.pem");
    ca.below("/O=Corp/CN=Mesh CA", "wide", "3000");
    let text = configuration(files.path(), "");
    refused(&text, &["Root CA", "may not sign CRLs", "leaf-only"]);
    let chancery = Chancery::with(options(format!("{text}[crl]\nscope = \"leaf-only\"\n")));
    let pair = Pair::of(&envoy, chancery, Setup::default());
    pair.wait_until_it_works();
    pair.chancery.run(&["cert", "revoke", "--identity", WEB, "--yes"]).expect(0);
    eventually("the revoked client is refused", SOON, || {
        let answer = send(pair.client.listener(), http::Request::get("/").body(Full::default()).unwrap());
        (answer.status == 503).then_some(())
    });
}
