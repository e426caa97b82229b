//! The port's contract with a real Vault (`CHANCERY_TEST_VAULT`, which `tests/run` sets), and what happens without one.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use super::*;
use crate::keys::conformance;
use crate::vault::Login;
use crate::x509::SubjectKey;

/// A Vault with a Transit engine.
struct Vault {
    process: Child,
    address: String,
    directory: tempfile::TempDir,
}

impl Drop for Vault {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Vault {
    /// `None`, counted as not run, where there is no program for it.
    async fn start() -> Option<Self> {
        let Some(program) = std::env::var_os("CHANCERY_TEST_VAULT") else {
            not_run();
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        let mut process = Command::new(program)
            .current_dir(directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = lines.find_map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).ok()).unwrap();
        let address = ready["addr"].as_str().unwrap().to_owned();
        crate::secret::write_private(&directory.path().join("token"), ready["root_token"].as_str().unwrap().as_bytes())
            .unwrap();
        let vault = Self { process, address, directory };
        let session = Access::new(vault.connection(), "sys", TABLE).session().await.unwrap();
        session.write("mount", "sys/mounts/transit", &serde_json::json!({"type": "transit"})).await.unwrap();
        Some(vault)
    }

    fn connection(&self) -> Connection {
        Connection {
            address: self.address.clone(),
            namespace: None,
            ca_file: None,
            timeout: Duration::from_secs(20),
            login: Login::Token { file: self.directory.path().join("token") },
        }
    }

    fn transit(&self, tasks: &Tasks) -> Transit {
        let settings = TransitSettings {
            connection: self.connection(),
            mount: "transit".to_owned(),
            prefix: "chancery-".to_owned(),
            look_every: Duration::from_secs(60),
        };
        Transit::start(settings, Clock::system(), Entropy::system(), tasks)
    }
}

/// As the integration tests count it.
fn not_run() {
    if let Some(file) = std::env::var_os("CHANCERY_TEST_NOT_RUN") {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file).unwrap();
        writeln!(file, "keys::vault::tests without vault").unwrap();
    }
    assert!(std::env::var("CHANCERY_REQUIRE_ALL").as_deref() != Ok("1"), "vault is required here");
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_with_every_algorithm_when_made_and_when_opened_again() {
    let Some(vault) = Vault::start().await else { return };
    let tasks = Tasks::new();
    let transit = vault.transit(&tasks);
    for algorithm in KeyAlgorithm::ALL {
        let made = transit.make("issuing-1", algorithm).await;
        if api::kind(algorithm).is_none() {
            assert!(matches!(made, Err(TransitError::Algorithm { .. })), "{made:?}");
            continue;
        }
        let reference = made.unwrap();
        assert_eq!(reference.version(), 1);
        conformance::check(&*transit.open(&reference).unwrap(), algorithm.signature()).await;
        let again = vault.transit(&tasks).open(&reference).unwrap();
        let key = SubjectKey::from_spki(again.spki_der().to_vec()).unwrap();
        assert_eq!(key.algorithm(), algorithm);
        key.verify(again.algorithm(), b"again", &again.sign(b"again").await.unwrap()).unwrap();
    }
    assert_eq!(*transit.answering().borrow(), Answering::Yes);
    assert!(tasks.drain(Duration::from_secs(20)).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_leaves_the_pinned_version_and_another_key_s_signature_is_no_signature() {
    let Some(vault) = Vault::start().await else { return };
    let tasks = Tasks::new();
    let transit = vault.transit(&tasks);
    let reference = transit.make("issuing-1", KeyAlgorithm::P256).await.unwrap();
    let signer = transit.open(&reference).unwrap();
    let session = Access::new(vault.connection(), "transit", TABLE).session().await.unwrap();
    let rotate = format!("{}/rotate", reference.path());
    session.write("rotate", &rotate, &serde_json::json!({})).await.unwrap();
    let key = SubjectKey::from_spki(signer.spki_der().to_vec()).unwrap();
    key.verify(signer.algorithm(), b"pinned", &signer.sign(b"pinned").await.unwrap()).unwrap();

    // As if somebody had edited the reference: it names a key whose signatures are not the certificate's.
    let other = transit.make("issuing-2", KeyAlgorithm::P256).await.unwrap();
    let text = serde_json::to_string(&reference).unwrap();
    let (ours, theirs) = (reference.path(), other.path());
    let end = |path: &str| path.rsplit('/').next().unwrap().to_owned();
    let edited: Reference = serde_json::from_str(&text.replace(&end(&ours), &end(&theirs))).unwrap();
    let refused = transit.open(&edited).unwrap().sign(b"message").await;
    assert!(matches!(refused, Err(KeyError::OtherSignature { .. })), "{refused:?}");

    // Only newer versions may sign.
    let config = format!("{}/config", reference.path());
    session.write("restrict", &config, &serde_json::json!({"min_encryption_version": 2})).await.unwrap();
    let refused = signer.sign(b"message").await;
    assert!(matches!(refused, Err(KeyError::Vault { .. } | KeyError::NotSigned { .. })), "{refused:?}");
    tasks.drain(Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_vault_a_key_opens_and_a_signature_fails_at_once() {
    let tasks = Tasks::new();
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    crate::secret::write_private(&token, b"planted-token").unwrap();
    let connection = Connection {
        address: "http://127.0.0.1:1".to_owned(),
        namespace: None,
        ca_file: None,
        timeout: Duration::from_secs(5),
        login: Login::Token { file: token },
    };
    let settings = TransitSettings {
        connection,
        mount: "transit".to_owned(),
        prefix: "chancery-".to_owned(),
        look_every: Duration::from_secs(60),
    };
    let transit = Transit::start(settings, Clock::system(), Entropy::system(), &tasks);
    let public = crate::keys::memory::generate(KeyAlgorithm::P256).unwrap().spki_der().to_vec();
    let reference = Reference::new("issuing-1", "transit", "k", 1, KeyAlgorithm::P256, public);
    let signer = transit.open(&reference).unwrap();
    let failure = signer.sign(b"message").await.unwrap_err();
    let KeyError::Vault { source, .. } = &failure else { panic!("{failure:?}") };
    assert!(matches!(**source, VaultError::Unreachable { .. }), "{source:?}");
    assert!(!failure.to_string().contains("planted"), "{failure}");
    assert!(matches!(&*transit.answering().borrow(), Answering::No { .. }));
    tasks.drain(Duration::from_secs(20)).await;
    assert!(matches!(signer.sign(b"late").await, Err(KeyError::Stopping)));
}

/// Signatures a second by raw requests of `size`, [`MOST_AT_ONCE`] under way.
async fn raw(vault: &Vault, reference: &Reference, size: usize, rounds: usize) -> f64 {
    let access = Access::new(vault.connection(), "transit", TABLE);
    let clock = Clock::system();
    let session = access.session().await.unwrap();
    let inputs: Vec<String> =
        (0..size).map(|number| api::input(reference.algorithm().signature(), &[number as u8])).collect();
    let begin = clock.monotonic();
    let one = async || {
        for _ in 0..rounds {
            let body = api::SignBody::new(1, reference.algorithm().signature(), inputs.iter().map(String::as_str));
            let answer: api::SignAnswer =
                session.call("sign", Verb::Write, &reference.signing_path(), Some(&body)).await.unwrap();
            assert_eq!(answer.batch_results.len(), size);
        }
    };
    futures::future::join_all((0..MOST_AT_ONCE).map(|_| one())).await;
    (size * rounds * MOST_AT_ONCE) as f64 / (clock.monotonic() - begin).as_secs_f64()
}

/// Signatures a second through the port, verified, with so many asked for at once; and those that wait for one.
async fn through(signer: &dyn Signer, at_once: usize, rounds: usize) -> f64 {
    let clock = Clock::system();
    let begin = clock.monotonic();
    let one = async || {
        for number in 0..rounds {
            signer.sign(&number.to_be_bytes()).await.unwrap();
        }
    };
    futures::future::join_all((0..at_once).map(|_| one())).await;
    (at_once * rounds) as f64 / (clock.monotonic() - begin).as_secs_f64()
}

/// `CHANCERY_TEST_FULL=1 cargo test --release --lib -- keys::vault::tests::throughput --nocapture` is what
/// docs/performance.md quotes.
#[tokio::test(flavor = "multi_thread")]
async fn throughput_beside_vault_s_own() {
    let Some(vault) = Vault::start().await else { return };
    let full = std::env::var("CHANCERY_TEST_FULL").as_deref() == Ok("1");
    let rounds = |one: usize| if full { 4_096 / one.max(1) } else { 2 };
    let tasks = Tasks::new();
    let transit = vault.transit(&tasks);
    for algorithm in [KeyAlgorithm::P256, KeyAlgorithm::Ed25519, KeyAlgorithm::Rsa2048] {
        let reference = transit.make("issuing-1", algorithm).await.unwrap();
        let signer = transit.open(&reference).unwrap();
        for (size, at_once) in [(1, 1), (16, 64), (64, 256)] {
            let (raw, ours) = (
                raw(&vault, &reference, size, rounds(size * MOST_AT_ONCE)).await,
                through(&*signer, at_once, rounds(at_once)).await,
            );
            println!(
                "{algorithm}: raw requests of {size:>2}: {raw:>6.0}/s; through the port, {at_once:>3} at once: {ours:>6.0}/s"
            );
            assert!(raw > 0.0 && ours > 0.0);
        }
    }
    tasks.drain(Duration::from_secs(20)).await;
}
