//! The loopback HTTP port: bundle, ledger head and hash tiles for anyone, entries for nobody, health and metrics.

use crate::harness::chancery::Chancery;
use crate::harness::http::get;
use crate::harness::{SOON, eventually, ledger};

#[test]
fn the_bundle_is_served_as_pem_and_as_spiffe_json() {
    let server = Chancery::up();
    let pem = get(server.http(), "/bundle");
    assert_eq!(pem.status, 200);
    assert!(pem.text().starts_with("-----BEGIN CERTIFICATE-----"), "{}", pem.text());
    let json = get(server.http(), "/bundle.json");
    assert_eq!(json.status, 200);
    let document = json.json();
    let key = &document["keys"][0];
    // SPIFFE Trust Domain and Bundle, section 4.2.2: the use of an X.509-SVID root, and exactly one certificate.
    assert_eq!(key["use"], "x509-svid", "{document}");
    assert_eq!(key["x5c"].as_array().unwrap().len(), 1, "{document}");
    assert!(document["spiffe_sequence"].is_u64() && document["spiffe_refresh_hint"].is_u64(), "{document}");
}

#[test]
fn checkpoint_and_hash_tiles_are_public_and_entries_are_not() {
    let server = Chancery::up();
    let log = ledger::only_log(&server.data());
    let name = log.file_name().unwrap().to_str().unwrap().to_owned();
    // Checkpoints follow the commits: that of the first records may be a moment away.
    let (checkpoint, width) = eventually("a checkpoint over the first records", SOON, || {
        let checkpoint = get(server.http(), &format!("/ledger/{name}/checkpoint"));
        assert_eq!(checkpoint.status, 200);
        let width: u64 = checkpoint.text().lines().nth(1)?.parse().ok()?;
        (width > 0).then_some((checkpoint, width))
    });
    assert!(checkpoint.header("content-type").starts_with("text/plain"), "{checkpoint:?}");
    let tile = get(server.http(), &format!("/ledger/{name}/tile/0/000.p/{width}"));
    assert_eq!((tile.status, tile.body.len() as u64), (200, 32 * width));
    let vkey = get(server.http(), &format!("/ledger/{name}/vkey"));
    assert_eq!(vkey.text().trim(), std::fs::read_to_string(log.join("vkey")).unwrap().trim());

    let entries = get(server.http(), &format!("/ledger/{name}/tile/entries/000.p/{width}"));
    assert!(matches!(entries.status, 403 | 404), "{entries:?}");
    for path in ["tile/0/../entries/000", "tile/0/..%2fentries%2f000", "../../keys/sealing.key", "tile/9999/000"] {
        let answer = get(server.http(), &format!("/ledger/{name}/{path}"));
        assert!(matches!(answer.status, 400 | 403 | 404), "{path}: {answer:?}");
    }
}

#[test]
fn health_and_metrics() {
    let server = Chancery::up();
    assert_eq!(get(server.http(), "/healthz").status, 200);
    assert_eq!(get(server.http(), "/readyz").status, 200);
    let metrics = get(server.http(), "/metrics").text();
    let mut names = std::collections::BTreeSet::new();
    for line in metrics.lines().filter(|line| line.starts_with("# TYPE ")) {
        let name = line.split(' ').nth(2).unwrap();
        assert!(name.starts_with("chancery_"), "{line}");
        assert!(metrics.contains(&format!("# HELP {name} ")), "{name} has no help");
        names.insert(name.to_owned());
    }
    assert!(names.len() > 5, "{metrics}");
    let page = crate::harness::source::read("docs/metrics.md");
    for name in names {
        assert!(page.contains(&name), "{name} is not in docs/metrics.md");
    }
}
