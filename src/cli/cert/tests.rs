//! The screens and files of `chancery cert`.

use super::*;
use crate::cli::screen::{golden, json};
use crate::entropy::Entropy;
use time::macros::datetime;

const NOW: OffsetDateTime = datetime!(2026-11-23 13:00 UTC);

fn certificate(serial: &str, identity: &str, node: Option<&str>, hours: [i64; 3], state: &str) -> pb::Certificate {
    let at = |hours: i64| crate::clock::rfc3339_seconds(NOW + time::Duration::hours(hours));
    pb::Certificate {
        serial: serial.into(),
        identity: identity.into(),
        state: state.into(),
        issued_at: at(hours[0]),
        not_before: at(hours[0]),
        not_after: at(hours[2]),
        renews_at: node.map(|_| at(hours[1])),
        node: node.map(str::to_owned),
        caller: Some("unix:sds:uid=1003".into()),
        rule: "payments".into(),
        policy_hash: "9f3c".repeat(16),
        profile: "workload".into(),
        mesh: Some("istio".into()),
        secret_name: Some("default".into()),
        issuer_key_id: "0a1b".repeat(10),
        previous_serial: None,
        renewal_cause: None,
        record: "example.org/ledger/ca-2026#10017".into(),
        certificate_sha256: Some("77".repeat(32)),
        held: if node.is_some() { "acked".into() } else { "none".into() },
        attested_at: at(hours[0]),
        revoked_at: (state == "revoked").then(|| at(0)),
        revocation_reason: (state == "revoked").then(|| "keyCompromise".into()),
        revocation_record: (state == "revoked").then(|| "example.org/ledger/ca-2026#10020".into()),
    }
}

fn list() -> pb::CertificateList {
    let job = "spiffe://example.org/ns/old/sa/job";
    pb::CertificateList {
        certificates: vec![
            certificate(
                "5e0c0000000091f2",
                "spiffe://example.org/ns/pay/sa/api",
                Some("envoy-7f"),
                [-4, 8, 20],
                "live",
            ),
            certificate(
                "77aa0000000003bd",
                "spiffe://example.org/ns/pay/sa/web",
                Some("envoy-2c"),
                [-11, 1, 13],
                "live",
            ),
            certificate("1b9000000000c4e7", job, None, [-60, 0, -36], "expired"),
        ],
        next_page_token: String::new(),
        live: 2,
        total: 3,
    }
}

#[test]
fn a_list_is_a_table_and_says_how_to_go_on() {
    let mut more = list();
    more.next_page_token = "1795000000.17".into();
    let empty = pb::CertificateList::default();
    let screens = [
        list_screen(&list(), "recent", NOW, Paint::PLAIN),
        list_screen(&more, "all", NOW, Paint::PLAIN),
        list_screen(&empty, "recent", NOW, Paint::PLAIN),
    ];
    golden::check("cert-list.txt", &screens.join("\n"));
    golden::check("cert-list.json", &json(&list()).unwrap());
}

#[test]
fn one_certificate_is_shown_with_its_record() {
    let mut certificate = list().certificates.remove(0);
    certificate.previous_serial = Some("77aa0000000003bd".into());
    certificate.renewal_cause = Some("scheduled".into());
    let record = pb::AuditRecord {
        id: certificate.record.clone(),
        index: 10_017,
        json: r#"{"action":"certificate.issue","outcome":"success"}"#.into(),
        operator: None,
    };
    let detail = pb::CertificateDetail { certificate: Some(certificate), record: Some(record) };
    golden::check("cert-show.txt", &show_screen(&detail, NOW));
}

#[test]
fn what_was_issued_is_kept_private_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let issued = pb::IssuedCertificate {
        serial: "5e0c0000000091f2".into(),
        identity: "spiffe://example.org/workload/batch".into(),
        chain_pem: "chain".into(),
        bundle_pem: "bundle".into(),
        not_after: "2026-11-24T13:00:00Z".into(),
        rule: "operator".into(),
        record: "example.org/ledger/ca-2026#7".into(),
        ..pb::IssuedCertificate::default()
    };
    let output = keep(dir.path(), issued.clone(), Some(SecretBytes::new(b"key".to_vec()))).unwrap();
    use std::os::unix::fs::PermissionsExt;
    for (name, text) in [("cert.pem", "chain"), ("key.pem", "key"), ("bundle.pem", "bundle")] {
        let path = dir.path().join(name);
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let shown = issue_screen(&output, NOW).replace(&dir.path().display().to_string(), "id");
    golden::check("cert-issue.txt", &shown);
    let own = tempfile::tempdir().unwrap();
    assert_eq!(keep(own.path(), issued, None).unwrap().key, None);
    assert!(!own.path().join("key.pem").exists());
}

#[test]
fn a_request_proves_its_key_and_asks_for_one_identity() {
    let identity = SpiffeId::parse("spiffe://example.org/workload/batch").unwrap();
    for algorithm in ["p256", "p384", "ed25519"] {
        let (der, key) = make_request(algorithm, Some(&identity)).unwrap();
        let csr = crate::x509::csr::parse(&der).unwrap();
        assert_eq!(csr.uri_names(), [identity.as_str()]);
        assert_eq!(csr.key_algorithm().as_str(), algorithm);
        assert!(key.expose().starts_with(b"-----BEGIN PRIVATE KEY-----"));
    }
    let (der, _) = make_request("p256", None).unwrap();
    assert!(crate::x509::csr::parse(&der).unwrap().uri_names().is_empty());
    let noise: [u8; 64] = Entropy::seeded(1).bytes();
    assert!(crate::x509::csr::parse(&noise).is_err());
}

fn rotated(serial: &str, node: Option<&str>, state: &str, detail: Option<&str>) -> pb::RotatedCertificate {
    pb::RotatedCertificate {
        serial: serial.into(),
        identity: "spiffe://example.org/ns/pay/sa/api".into(),
        node: node.map(str::to_owned),
        new_serial: ["acked", "nacked"].contains(&state).then(|| "90ab000000000042".into()),
        state: state.into(),
        detail: detail.map(str::to_owned),
    }
}

/// What a server told, summed up as the command does it.
fn rotation(told: &[pb::RotatedCertificate]) -> rotate::RotateOutput {
    let mut report = rotate::Report::default();
    told.iter().cloned().for_each(|one| report.take(one));
    let mut output = rotate::RotateOutput {
        record: "example.org/ledger/ca-2026#10442".into(),
        chosen: 4,
        not_connected: 1,
        ..rotate::RotateOutput::default()
    };
    report.sum_up(&mut output);
    output
}

#[test]
fn a_rotation_ends_with_what_became_of_each() {
    let well = rotation(&[
        rotated("5e0c0000000091f2", Some("envoy-7f"), "pushed", None),
        rotated("5e0c0000000091f2", Some("envoy-7f"), "acked", None),
    ]);
    assert_eq!((well.acked, well.gone), (1, 0), "the last word counts");
    let ill = rotation(&[
        rotated("5e0c0000000091f2", Some("envoy-7f"), "acked", None),
        rotated("77aa0000000003bd", Some("envoy-2c"), "nacked", Some("Failed to load certificate chain")),
        rotated("1b900000000c4e70", None, "refused", Some("policy grants nothing")),
        rotated("1b900000000c4e71", None, "pushed", None),
    ]);
    let dry = rotation(&[rotated("5e0c0000000091f2", Some("envoy-7f"), "chosen", None)]);
    let screens = [
        rotate::question(&dry),
        rotate::dry_screen(&dry, Paint::PLAIN),
        rotate::done_screen(&rotate::RotateOutput { chosen: 1, not_connected: 0, ..well }, Paint::PLAIN),
        rotate::done_screen(&ill, Paint::PLAIN),
    ];
    golden::check("cert-rotate.txt", &screens.join("\n"));
}

fn revocation() -> revoke::RevokeOutput {
    let crl = |issuer: &str, number, entries| pb::Crl { issuer: issuer.into(), number, entries, ..Default::default() };
    revoke::RevokeOutput {
        chosen: 3,
        connected: 2,
        not_connected: 1,
        certificates: list().certificates,
        denied: Some("spiffe://example.org/ns/pay/sa/api".into()),
        record: Some("example.org/ledger/ca-2026#10441".into()),
        revoked: 3,
        first_record: "example.org/ledger/ca-2026#10442".into(),
        last_record: "example.org/ledger/ca-2026#10445".into(),
        crls: vec![crl("issuing 3", 1_795_438_800_000, 3)],
        streams: Some(214),
        acked: 214,
        elapsed_us: 41_000,
        ..revoke::RevokeOutput::default()
    }
}

#[test]
fn a_revocation_ends_with_what_is_recorded_signed_and_acknowledged() {
    let whole = revocation();
    let prefix =
        revoke::RevokeOutput { denied: Some("spiffe://example.org/ns/pay/*".into()), connected: 0, ..revocation() };
    let serial = revoke::RevokeOutput { denied: None, chosen: 1, connected: 1, not_connected: 0, ..revocation() };
    let reissued = revoke::RevokeOutput {
        denied: None,
        acked: 210,
        nacked: 1,
        elapsed_us: 1_900,
        reissued: Some(rotation(&[
            rotated("5e0c0000000091f2", Some("envoy-7f"), "acked", None),
            rotated("77aa0000000003bd", Some("envoy-2c"), "gone", None),
        ])),
        ..revocation()
    };
    let screens = [
        revoke::question(&whole, false),
        revoke::question(&prefix, false),
        revoke::question(&serial, false),
        revoke::question(&serial, true),
        revoke::dry_screen(&whole, false, NOW),
        revoke::done_screen(&whole, Paint::PLAIN),
        revoke::done_screen(&reissued, Paint::PLAIN),
    ];
    golden::check("cert-revoke.txt", &screens.join("\n"));
    let wait = std::time::Duration::from_secs(5);
    assert!(revoke::unanswered(&whole, wait).is_ok());
    for (acked, nacked, word) in [(213, 1, "1 streams refused"), (210, 0, "4 streams did not acknowledge")] {
        let failure = revoke::unanswered(&revoke::RevokeOutput { acked, nacked, ..revocation() }, wait).unwrap_err();
        assert!(failure.message.contains(word), "{}", failure.message);
    }
}

#[test]
fn denies_are_a_table_and_a_release_says_what_stays() {
    let deny = |pattern: &str| pb::Deny {
        pattern: pattern.into(),
        since: "2026-11-22T13:00:00Z".into(),
        reason: "keyCompromise".into(),
        record: "example.org/ledger/ca-2026#10442".into(),
    };
    let denies = pb::DenyList {
        denies: vec![deny("spiffe://example.org/ns/pay/sa/api"), deny("spiffe://example.org/ns/old/*")],
    };
    let released = pb::Released {
        record: "example.org/ledger/ca-2026#10450".into(),
        pattern: "spiffe://example.org/ns/pay/sa/api".into(),
    };
    let screens = [
        revoke::denied_screen(&denies, NOW),
        revoke::denied_screen(&pb::DenyList::default(), NOW),
        revoke::release_screen(&released),
    ];
    golden::check("cert-denied.txt", &screens.join("\n"));
}
