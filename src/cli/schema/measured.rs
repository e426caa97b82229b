//! The JSON of what `chancery bench` and `chancery probe` found, for docs/cli-json.md.

use super::{BEGIN, END, SERIAL, section};
use crate::cli::bench;
use crate::cli::probe::{CertificateOutput, Entry, ProbeOutput};

pub(super) fn bench(page: &mut String) {
    let machine = bench::MachineOutput {
        cores: 2,
        key_and_sign_us: 35.5,
        verify_and_sign_us: 73.25,
        fdatasync_us: 140.5,
        sha256_mb_s: 1_500.5,
    };
    let row = bench::Row {
        what: "street, key made here: CPU each".into(),
        value: 52.5,
        unit: "µs".into(),
        limit: Some(35.5),
        target: "≤ 1.5 × raw".into(),
    };
    section(page, "bench", &bench::BenchOutput { machine, rows: vec![row] });
}

pub(super) fn probe(page: &mut String) {
    let certificate = |identity: &str| CertificateOutput {
        serial: SERIAL.into(),
        uris: vec![identity.into()],
        subject: String::new(),
        issuer: "CN=example.org issuing 1".into(),
        not_before: BEGIN.into(),
        not_after: END.into(),
    };
    let output = ProbeOutput {
        passed: false,
        address: "192.0.2.7:8443".into(),
        tls: "TLSv1.3".into(),
        cipher: "TLS13_AES_128_GCM_SHA256".into(),
        group: "X25519MLKEM768".into(),
        alpn: Some("h2".into()),
        took_ms: 7,
        chain: vec![certificate("spiffe://example.org/ns/pay/sa/api")],
        verified: Some(true),
        fault: None,
        revocation_lists: 2,
        client_asked: true,
        client: Some(certificate("spiffe://example.org/ns/shop/sa/web")),
        client_result: Entry::Refused,
        silent: false,
        alert: Some("certificate_revoked".into()),
        remedy: Some("our certificate is revoked or its identity denied; …".into()),
        client_fault: Some("it is revoked: …".into()),
    };
    section(page, "probe HOST:PORT", &output);
}
