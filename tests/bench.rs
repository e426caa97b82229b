//! `chancery bench` at its smallest: that it runs and says everything it should. No figure is looked at.

use crate::harness::alone;
use crate::harness::chancery::run;

#[test]
fn every_figure_is_printed_beside_what_the_machine_does_by_itself() {
    let _alone = alone();
    let below = tempfile::tempdir().unwrap();
    let place = below.path().display().to_string();
    let said = run(["bench", "--size", "small", "--below", &place, "--output", "json"]).expect(0).json();
    for limit in ["key_and_sign_us", "verify_and_sign_us", "fdatasync_us", "sha256_mb_s"] {
        assert!(said["machine"][limit].as_f64().unwrap() > 0.0, "{said:#}");
    }
    let rows = said["rows"].as_array().unwrap();
    for what in [
        "street, key",
        "street, CSR",
        "SDS, 16",
        "ledger, 64",
        "idle streams",
        "new bundle to",
        "CRL of",
        "start with",
        "audit verify",
    ] {
        assert!(
            rows.iter()
                .any(|row| row["what"].as_str().unwrap().starts_with(what)
                    || row["what"].as_str().unwrap().contains(what)),
            "{what}: {said:#}"
        );
    }
    for row in rows {
        assert!(row["value"].as_f64().unwrap().is_finite(), "{row}");
    }
    assert_eq!(std::fs::read_dir(below.path()).unwrap().count(), 0, "nothing is left behind");
    run(["bench", "all", "--size", "small", "--below", "/nowhere"]).expect(1).expect_words(&["--below"]);
}
