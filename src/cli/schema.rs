//! docs/cli-json.md, written from the very structs that `--output json` prints, so that it cannot be stale.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::doctor::{CheckOutput, DoctorOutput, Finding};
use super::ledger::{RecoverLog, RecoverOutput};
use super::probe::{CertificateOutput, Entry, ProbeOutput};
use super::records::RecordOutput;
use super::verify::{VerifiedLog, VerifyOutput};
use super::{bench, ca, cert, config_file, policy};
use crate::proto::chancery::admin::v1 as pb;

const HEAD: &str = "\
# The JSON of the command line

<!-- Written from the code (src/cli/schema.rs); a test fails when it is stale. UPDATE_GOLDEN=1 cargo test rewrites it. -->

Every command takes `--output json` and prints one JSON value; `audit tail` and `audit export` print one a line. The examples
below show every field.

- A field is never renamed, never changes its type and is not removed within a major version. New ones may come: ignore what
  you do not know.
- Times are RFC 3339 in UTC; serials and hashes are lower-case hex; what does not apply is `null` or an empty text or list.
- An error goes to standard error as `{\"error\":{\"exit_code\":2,\"message\":\"…\"}}`. The message is for people; scripts go by the exit code:
  0 done, 1 failed, 2 wrong usage, input or configuration, 3 refused, 4 no server answers, 5 verification failed.
- `policy explain`, `audit verify`, `doctor` and `probe` print their answer in full and say no by the exit code (3, 5, 1, and 3 or 5).
- The messages of a running server are those of `proto/chancery/admin/v1/admin.proto`, where each field is explained.
";

const SERIAL: &str = "595bda4015899a25942b1dc6818da020";
const HASH: &str = "1c7cb80bb2b954675a9a0e6bf61c9026827b140534fd4c23663010f896d866e6";
const RECORD: &str = "example.org/ledger/ca-2026#11";
const BEGIN: &str = "2026-11-23T13:00:00Z";
const END: &str = "2026-11-24T13:00:00Z";

fn section<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(page: &mut String, command: &str, value: &T) {
    let text = serde_json::to_string_pretty(value).unwrap();
    assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), value, "{command}: what is printed can be read back");
    page.push_str(&format!("\n## `chancery {command}`\n\n```json\n{text}\n```\n"));
}

fn certificate() -> pb::Certificate {
    pb::Certificate {
        serial: SERIAL.into(),
        identity: "spiffe://example.org/ns/pay/sa/api".into(),
        state: "live".into(),
        issued_at: "2026-11-23T13:00:00.058219Z".into(),
        not_before: BEGIN.into(),
        not_after: END.into(),
        renews_at: Some("2026-11-24T01:10:00Z".into()),
        node: Some("envoy-7f".into()),
        caller: Some("unix:sds:uid=1003".into()),
        rule: "payments".into(),
        policy_hash: HASH.into(),
        profile: "leaf-istio".into(),
        mesh: Some("istio".into()),
        secret_name: Some("default".into()),
        issuer_key_id: "7393f2296b0412c1109d7ce8af4a5609d27a4284".into(),
        previous_serial: Some("5e0c4015899a25942b1dc6818da091f2".into()),
        renewal_cause: Some("scheduled".into()),
        record: RECORD.into(),
        certificate_sha256: Some(HASH.into()),
        held: "acked".into(),
        attested_at: "2026-11-23T13:00:00.058219Z".into(),
        revoked_at: None,
        revocation_reason: None,
        revocation_record: None,
    }
}

fn crl() -> pb::Crl {
    pb::Crl {
        issuer: "issuing 1".into(),
        issuer_key_id: "7393f2296b0412c1109d7ce8af4a5609d27a4284".into(),
        number: 1_795_438_800_000,
        entries: 3,
        this_update: "2026-11-23T12:55:00Z".into(),
        next_update: "2026-11-30T13:00:00Z".into(),
        record: RECORD.into(),
        state: "fresh".into(),
    }
}

fn record() -> pb::AuditRecord {
    pb::AuditRecord {
        id: RECORD.into(),
        index: 11,
        json: r#"{"action":"certificate.issue","outcome":"success"}"#.into(),
        operator: Some("kim".into()),
    }
}

fn changes(page: &mut String) {
    let diff = pb::PolicyDiff {
        hash_before: HASH.into(),
        hash_after: "51aa6bdc".repeat(8),
        added: vec!["batch".into()],
        removed: vec!["payments".into()],
        changed: vec!["operators".into()],
        lost: vec![certificate()],
        lost_count: 1,
        compared: 214,
        unknown: 2,
        locks_out_operator: false,
    };
    section(page, "policy diff NEW", &diff);
    let path = "/srv/chancery/policy.toml".to_owned();
    let applied = pb::PolicyApplied { hash: diff.hash_after, record: RECORD.into(), path, revoked: 0 };
    section(page, "policy apply NEW", &applied);
    let reloaded = pb::Reloaded {
        changed: vec!["policy".into()],
        refused: vec!["1 mistake in chancery.toml".into()],
        needs_restart: vec!["http.listen".into()],
    };
    section(page, "reload", &reloaded);
}

fn of_a_server(page: &mut String) {
    let listener =
        pb::Listener { kind: "sds".into(), name: "sds".into(), address: "unix:/srv/chancery/sds.sock".into() };
    let ledger = pb::LedgerStatus {
        origin: "example.org/ledger/ca-2026".into(),
        size: 10_445,
        checkpoint_at: BEGIN.into(),
        health: "ok".into(),
        projection_lag: 0,
    };
    let status = pb::Status {
        version: "0.1.0".into(),
        trust_domain: "example.org".into(),
        ready: true,
        problems: vec![],
        warnings: vec!["authority keys are sealed with a key that lies beside them".into()],
        started_at: BEGIN.into(),
        issued_last_hour: 12,
        renewed_last_hour: 190,
        refused_last_hour: 3,
        renewals_late: 0,
        streams: 428,
        live_certificates: 214,
        ledger: Some(ledger),
        listeners: vec![listener],
        policy_hash: HASH.into(),
        crls: vec![crl()],
    };
    section(page, "status", &status);
    let list = pb::CertificateList {
        certificates: vec![certificate()],
        next_page_token: "1795525200.17".into(),
        live: 214,
        total: 9_120,
    };
    section(page, "cert list", &list);
    let detail = pb::CertificateDetail { certificate: Some(certificate()), record: Some(record()) };
    section(page, "cert show SERIAL", &detail);
    let authority = pb::Authority {
        name: "issuing 1".into(),
        level: "issuing".into(),
        state: "active".into(),
        key_id: "7393f2296b0412c1109d7ce8af4a5609d27a4284".into(),
        issuer_key_id: "0a1bf2296b0412c1109d7ce8af4a5609d27a4284".into(),
        serial: SERIAL.into(),
        not_before: BEGIN.into(),
        not_after: "2027-02-21T13:00:00Z".into(),
        upstream: Some("vault https://vault:8200 pki".into()),
        published_at: None,
        evidence: Some(evidence()),
        next_change_at: Some("2027-01-06T13:00:00Z".into()),
        live_certificates: 214,
        last_expires_at: Some(END.into()),
        certificate_pem: "-----BEGIN CERTIFICATE-----\n…".into(),
        held_by: 0,
        proxies: 214,
        record: RECORD.into(),
        crl: Some(crl()),
    };
    section(page, "ca show", &pb::AuthorityList { authorities: vec![authority] });
    let bundle = pb::Bundle {
        trust_domain: "example.org".into(),
        version: HASH.into(),
        pem: "-----BEGIN CERTIFICATE-----\n…".into(),
        spiffe_json: "{\"keys\":[…]}".into(),
        roots: 1,
    };
    section(page, "bundle show", &bundle);
}

fn of_hands(page: &mut String) {
    let one = pb::RotatedCertificate {
        serial: SERIAL.into(),
        identity: "spiffe://example.org/ns/pay/sa/api".into(),
        node: Some("envoy-7f".into()),
        new_serial: Some("5e0c4015899a25942b1dc6818da091f2".into()),
        state: "acked".into(),
        detail: None,
    };
    let rotated = cert::rotate::RotateOutput {
        dry_run: false,
        record: RECORD.into(),
        chosen: 1,
        acked: 1,
        certificates: vec![one],
        ..Default::default()
    };
    section(page, "cert rotate", &rotated);
    let revoked = cert::revoke::RevokeOutput {
        chosen: 1,
        connected: 1,
        certificates: vec![certificate()],
        denied: Some("spiffe://example.org/ns/pay/sa/api".into()),
        record: Some(RECORD.into()),
        revoked: 1,
        first_record: "example.org/ledger/ca-2026#12".into(),
        last_record: "example.org/ledger/ca-2026#13".into(),
        crls: vec![crl()],
        streams: Some(428),
        acked: 428,
        elapsed_us: 41_000,
        reissued: Some(rotated),
        ..Default::default()
    };
    of_authorities(page, revoked.reissued.clone());
    section(page, "cert revoke", &revoked);
    let pattern = || "spiffe://example.org/ns/pay/sa/api".to_owned();
    section(page, "cert release PATTERN", &pb::Released { record: RECORD.into(), pattern: pattern() });
    let deny =
        pb::Deny { pattern: pattern(), since: BEGIN.into(), reason: "keyCompromise".into(), record: RECORD.into() };
    section(page, "cert list --denied", &pb::DenyList { denies: vec![deny] });
}

fn evidence() -> pb::RootEvidence {
    let behind = pb::LeftBehind {
        serial: Some("595bda4015899a25942b1dc6818da020".into()),
        identity: Some("spiffe://example.org/ns/pay/sa/api".into()),
        node: Some("envoy-7f".into()),
        caller: "unix:sds:uid=1003".into(),
        why: "not connected".into(),
        until: Some(END.into()),
    };
    pb::RootEvidence {
        issuing: "issuing 4".into(),
        holders: 214,
        holding: 213,
        behind: vec![behind],
        silent_until: END.into(),
        complete: false,
        complete_by: Some(END.into()),
    }
}

fn of_authorities(page: &mut String, reissued: Option<cert::rotate::RotateOutput>) {
    let step = |step: &str, authority: &str, record: u32| ca::acts::StepOutput {
        step: step.into(),
        authority: authority.into(),
        record: format!("example.org/ledger/ca-2026#{record}"),
    };
    let tainted = ca::acts::ActOutput {
        authority: "issuing 1".into(),
        state: "active".into(),
        makes_new: true,
        live_certificates: 214,
        last_expires_at: Some(END.into()),
        connected: 213,
        over_tcp: 12,
        not_connected: 1,
        beside: vec!["issuing 2".into()],
        record: Some(RECORD.into()),
        steps: vec![
            step("prepared", "issuing 3", 12),
            step("activated", "issuing 3", 15),
            step("tainted", "issuing 1", 16),
            step("revoked", "issuing 1", 444),
        ],
        reissued,
        crls: vec![crl()],
        streams: Some(428),
        acked: 428,
        elapsed_us: 941_000,
        ..Default::default()
    };
    section(page, "ca taint NAME` and, without `tainted` and `revoked`, `ca rotate issuing", &tainted);
    let activated = ca::acts::ActOutput {
        authority: "root 2".into(),
        state: "prepared".into(),
        successor: Some("issuing 4".into()),
        evidence: Some(evidence()),
        record: Some(RECORD.into()),
        steps: vec![
            step("activated", "root 2", 20),
            step("activated", "issuing 4", 21),
            step("retired", "issuing 3", 22),
            step("retired", "root 1", 23),
        ],
        streams: Some(428),
        acked: 428,
        elapsed_us: 41_000,
        ..Default::default()
    };
    section(page, "ca activate NAME` and, with `prepared` and `published`, `ca rotate root", &activated);
    let retired = pb::AuthorityRetired {
        name: "root 1".into(),
        record: RECORD.into(),
        act: RECORD.into(),
        state: "retiring".into(),
        live_certificates: 1,
        certificates: vec![certificate()],
    };
    section(page, "ca retire NAME", &retired);
}

fn of_policy(page: &mut String) {
    let rule = pb::Rule {
        name: "payments".into(),
        matches: "group 2000".into(),
        identity: "spiffe://{trust_domain}/ns/pay/sa/api".into(),
        mesh: "istio".into(),
        lifetime: "24h".into(),
        keys: vec!["p256".into()],
        number: 1,
    };
    let path = "/srv/chancery/policy.toml";
    let shown = pb::Policy { hash: HASH.into(), path: path.into(), text: "[[rule]]\n…".into(), rules: vec![rule] };
    section(page, "policy show", &shown);
    let checked = policy::CheckOutput {
        path: path.into(),
        hash: HASH.into(),
        rules: 1,
        trust_domain: "example.org".into(),
        in_force: Some(true),
    };
    section(page, "policy check", &checked);
    let verdict = pb::RuleVerdict {
        number: 1,
        rule: "payments".into(),
        grants: None,
        lifetime: None,
        unmet: vec!["needs group 2000; caller has 1003".into()],
    };
    let explanation = pb::Explanation {
        caller: "uid 1003 on socket sds".into(),
        granted: None,
        rule: None,
        verdicts: vec![verdict],
        nearest: vec!["rule 1 \"payments\" needs group 2000; caller has 1003".into()],
        policy_hash: HASH.into(),
        text: "uid 1003 on socket sds would get nothing.\n…".into(),
    };
    section(page, "policy explain --uid 1003", &explanation);
    changes(page);
}

fn of_the_ledger(page: &mut String) {
    section(
        page,
        "audit show RECORD` and each line of `audit tail` and `audit export",
        &RecordOutput::new(&record()).unwrap(),
    );
    let proof = pb::Proof {
        id: RECORD.into(),
        index: 11,
        proof: "c2sp.org/tlog-proof@v1\nindex 11\n…".into(),
        checkpoint_size: 10_445,
        record: Some(record()),
    };
    section(page, "audit prove RECORD", &proof);
    let log = VerifiedLog {
        name: "ca-2026".into(),
        origin: "example.org/ledger/ca-2026".into(),
        size: 10_445,
        root: HASH.into(),
    };
    let verified = VerifyOutput {
        passed: true,
        failure: None,
        records: 10_445,
        certificates: 9_120,
        signed: 9_120,
        unread: 0,
        consistent_with: Some(9_870),
        trusted_keys: true,
        logs: vec![log],
        recorded: Some("example.org/ledger/ca-2026#10445".into()),
    };
    section(page, "audit verify", &verified);
    let recovered = RecoverOutput {
        logs: vec![RecoverLog {
            name: "ca-2026".into(),
            whole: 10_400,
            root: HASH.into(),
            published: Some(10_445),
            lost: 45,
        }],
        successor: Some("ca-2026-2".into()),
        done: true,
        before: Some("/var/lib/chancery/ledger.before-20261123T130000Z".into()),
        record: Some("example.org/ledger/ca-2026-2#0".into()),
    };
    section(page, "ledger recover", &recovered);
}

fn of_files(page: &mut String) {
    let issued = cert::IssueOutput {
        serial: SERIAL.into(),
        identity: "spiffe://example.org/workload/batch".into(),
        not_before: BEGIN.into(),
        not_after: END.into(),
        renew_at: "2026-11-24T01:10:00Z".into(),
        rule: "operator".into(),
        record: RECORD.into(),
        cert: "id/cert.pem".into(),
        key: Some("id/key.pem".into()),
        bundle: "id/bundle.pem".into(),
    };
    section(page, "cert issue", &issued);
    let checked = config_file::CheckOutput {
        path: "chancery.toml".into(),
        trust_domain: "example.org".into(),
        data_dir: "/srv/chancery".into(),
        policy: "/srv/chancery/policy.toml".into(),
        rules: 2,
    };
    section(page, "config check", &checked);
    let check =
        CheckOutput { check: "disk".into(), finding: Finding::Ok, detail: "57553 MiB free for the ledger".into() };
    measured(page);
    probe(page);
    section(page, "doctor", &DoctorOutput { checks: vec![check] });
}

fn measured(page: &mut String) {
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

fn probe(page: &mut String) {
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

#[test]
fn the_page_shows_what_is_printed() {
    let mut page = HEAD.to_owned();
    of_a_server(&mut page);
    of_hands(&mut page);
    of_policy(&mut page);
    of_files(&mut page);
    of_the_ledger(&mut page);
    crate::golden::check("docs/cli-json.md", &page);
}
