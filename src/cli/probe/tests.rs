//! Probing a server of the same library, and the screens of every answer.

use clap::Parser;
use time::macros::datetime;

use super::*;
use crate::cli::screen::golden;
use crate::cli::tls::tests::{LATER, SERVER, WEB, client, config, serve};
use crate::cli::tls::{RemoteArgs, tests::Authority};
use crate::clock::Clock;

#[derive(Debug, Parser)]
struct Command {
    #[command(flatten)]
    probe: Probe,
    #[command(flatten)]
    remote: RemoteArgs,
}

async fn probe(arguments: &[&str]) -> Result<ProbeOutput, Failure> {
    let args = Command::parse_from([&["probe"], arguments].concat());
    let identity = args.remote.identity_dir.as_deref().map(Identity::load).transpose()?;
    let clock = Clock::system();
    let verifier = identity.as_ref().map(|one| SpiffeVerifier::new(one.anchors.clone(), args.probe.expect.clone()));
    let shaken = shake(&args.probe.address, None, identity.as_ref(), verifier, &clock).await?;
    Ok(describe(&args.probe, identity.as_ref(), shaken, clock.now()))
}

#[tokio::test]
async fn a_listener_is_described_whatever_it_shows_and_says() {
    let authority = Authority::new();
    // Our serial is 3, the server's 7.
    let address = serve(config(&authority, &[SERVER], &[99])).await;
    let (strict, at) = (serve(config(&authority, &[SERVER], &[3])).await.to_string(), address.to_string());
    let files = client(&authority, address, LATER);
    let dir = files.dir.path().to_str().unwrap();

    let nobody = probe(&[&at]).await.unwrap();
    assert_eq!((nobody.verified, nobody.alert.as_deref()), (None, Some("certificate_required")));
    assert_eq!((nobody.client_asked, judge(&nobody, false)), (true, Some(Exit::Refused)));

    let known = probe(&[&at, "--identity-dir", dir, "--expect", SERVER]).await.unwrap();
    assert_eq!((known.verified, known.client_result, known.passed), (Some(true), Entry::Accepted, true), "{known:?}");
    assert_eq!((known.chain[0].uris[0].as_str(), known.group.as_str()), (SERVER, "X25519MLKEM768"));
    assert_eq!(known.client.as_ref().map(|client| client.uris[0].as_str()), Some(WEB));

    let other = probe(&[&at, "--identity-dir", dir, "--expect", WEB]).await.unwrap();
    assert!(other.fault.as_ref().is_some_and(|fault| fault.contains(SERVER)), "{other:?}");
    assert_eq!(judge(&other, false), Some(Exit::Unverified));

    let refused = probe(&[&strict, "--identity-dir", dir]).await.unwrap();
    assert_eq!(refused.alert.as_deref(), Some("certificate_revoked"));
    assert_eq!((judge(&refused, false), judge(&refused, true)), (Some(Exit::Refused), None));
    assert_eq!(judge(&known, true), Some(Exit::Unverified));

    std::fs::write(files.dir.path().join("crl.pem"), authority.list(&[3, 7])).unwrap();
    let listed = probe(&[&at, "--identity-dir", dir]).await.unwrap();
    assert_eq!(
        (listed.revocation_lists, listed.verified, judge(&listed, true)),
        (1, Some(false), Some(Exit::Unverified))
    );
    assert!(listed.fault.is_some_and(|fault| fault.contains("revoked")));
    assert!(listed.client_fault.is_some_and(|fault| fault.contains("revoked")));

    let failure = probe(&["127.0.0.1:1"]).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Unreachable);
}

#[test]
fn each_answer_has_its_screen() {
    let certificate = |serial: &str, uri: &str| CertificateOutput {
        serial: serial.into(),
        uris: vec![uri.into()],
        not_before: "2026-11-23T12:00:00Z".into(),
        not_after: "2026-11-24T13:00:00Z".into(),
        ..CertificateOutput::default()
    };
    let base = ProbeOutput {
        passed: true,
        address: "192.0.2.7:8443".into(),
        tls: "TLSv1.3".into(),
        cipher: "TLS13_AES_128_GCM_SHA256".into(),
        group: "X25519MLKEM768".into(),
        alpn: Some("h2".into()),
        took_ms: 7,
        chain: vec![certificate("595bda40", "spiffe://example.org/ns/pay/sa/api")],
        verified: Some(true),
        fault: None,
        revocation_lists: 2,
        client_asked: true,
        client: Some(certificate("77aa4015", "spiffe://example.org/ns/shop/sa/web")),
        client_result: Entry::Accepted,
        silent: false,
        alert: None,
        remedy: None,
        client_fault: None,
    };
    let alert = rustls::AlertDescription::CertificateRevoked;
    let refused = ProbeOutput {
        client_result: Entry::Refused,
        alert: Some(alert_name(alert)),
        remedy: Some(alert_remedy(alert).to_owned()),
        client_fault: Some("crl.pem names it as revoked".into()),
        ..base.clone()
    };
    let stranger = ProbeOutput {
        alpn: None,
        client: None,
        verified: None,
        client_asked: false,
        chain: vec![CertificateOutput { uris: vec![], subject: "CN=old".into(), ..base.chain[0].clone() }],
        ..base.clone()
    };
    let wrong = ProbeOutput {
        verified: Some(false),
        fault: Some(explain(&CertificateError::Expired)),
        client_result: Entry::Closed,
        ..base.clone()
    };
    let silent = ProbeOutput { alpn: None, silent: true, ..base.clone() };
    let screen = |output: &ProbeOutput| probe_screen(output, false, datetime!(2026-11-23 13:00 UTC), Paint::PLAIN);
    golden::check(
        "probe.txt",
        &[base, silent, refused, stranger, wrong].iter().map(screen).collect::<Vec<_>>().join("\n"),
    );
}
