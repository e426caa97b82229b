//! What a bare client is given over time, and the law of it: by the bundle of each moment every certificate that was given
//! before, and may still be shown, is verified with every CRL checked.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::chancery::{Chancery, said};
use super::{SOON, eventually, sds};

/// What a client held at some moment.
#[derive(Debug, Clone, Default)]
pub struct Held {
    /// Certificate and the CAs above it, PEM.
    pub chain: Vec<u8>,
    /// PEM.
    pub roots: Vec<u8>,
    /// PEM.
    pub crls: Vec<u8>,
}

/// A bare client on the socket `bare` that takes whatever it is sent, and comes back when its streams end.
pub struct Client {
    /// What it held after each update.
    history: Arc<Mutex<Vec<Held>>>,
    _runtime: tokio::runtime::Runtime,
}

impl Client {
    /// Starts it and waits until it holds everything.
    pub fn start(server: &Chancery) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let history = Arc::new(Mutex::new(vec![Held::default()]));
        for name in ["default", "ROOTCA"] {
            runtime.spawn(follow(server.socket("bare"), name, Arc::clone(&history)));
        }
        let client = Self { history, _runtime: runtime };
        eventually("the bare client holds everything", SOON, || client.now().is_whole().then_some(()));
        client
    }

    /// What it holds.
    pub fn now(&self) -> Held {
        self.history.lock().unwrap().last().unwrap().clone()
    }
}

impl Held {
    fn is_whole(&self) -> bool {
        !self.chain.is_empty() && !self.roots.is_empty()
    }
}

async fn follow(socket: PathBuf, name: &'static str, history: Arc<Mutex<Vec<Held>>>) {
    let mut version = String::new();
    loop {
        let opened = async {
            let channel = sds::connect(&socket).await.ok()?;
            sds::Stream::open(channel, "bare", name, &version).await.ok()
        };
        if let Some(mut stream) = opened.await {
            while let Ok(update) = stream.next(Duration::from_secs(3_600)).await {
                {
                    let mut history = history.lock().unwrap();
                    let mut held = history.last().unwrap().clone();
                    match name {
                        "default" => held.chain = update.certificate().0,
                        _ => (held.roots, held.crls) = (update.roots(), update.crls()),
                    }
                    history.push(held);
                }
                version.clone_from(&update.version);
                stream.acknowledge(&update).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// `openssl verify` of a chain against a bundle, every CRL checked.
fn verify(openssl: &Path, directory: &Path, chain: &[u8], bundle: &Held) {
    let file = |what: &str, content: &[u8]| -> PathBuf {
        let path = directory.join(format!("verify.{what}.pem"));
        std::fs::write(&path, content).unwrap();
        path
    };
    let second = std::str::from_utf8(chain).unwrap().match_indices("-----BEGIN").nth(1).unwrap().0;
    let (leaf, above) = (file("leaf", &chain[..second]), file("above", &chain[second..]));
    let (roots, crls) = (file("roots", &bundle.roots), file("crls", &bundle.crls));
    let mut command = Command::new(openssl);
    command.args(["verify", "-x509_strict", "-crl_check_all", "-CAfile"]).arg(roots).arg("-CRLfile").arg(crls);
    said(command.arg("-untrusted").arg(above).arg(leaf)).expect(0);
}

/// Whether the first certificate of a chain has ended, or will have before it is verified.
fn is_over(chain: &[u8]) -> bool {
    let (_, block) = x509_parser::pem::parse_x509_pem(chain).unwrap();
    let left = block.parse_x509().unwrap().validity().time_to_expiration();
    left.is_none_or(|left| left.whole_seconds() < 2)
}

/// Who issued it: `issuing 2`.
pub fn issuer(chain: &[u8]) -> String {
    let (_, block) = x509_parser::pem::parse_x509_pem(chain).unwrap();
    let name = block.parse_x509().unwrap().issuer().to_string();
    name[name.find("issuing ").unwrap()..].to_owned()
}

/// Everything that a client ever held: each certificate is verified by the bundle of that moment, and each bundle must verify
/// every certificate that was given before and may still be shown.
pub struct Steps {
    openssl: PathBuf,
    chains: Vec<Vec<u8>>,
    /// Updates that were looked at.
    pub looked: usize,
    /// Verifications that were made of them.
    pub verified: usize,
}

impl Steps {
    /// Nothing yet.
    pub fn new(openssl: PathBuf) -> Self {
        Self { openssl, chains: Vec::new(), looked: 0, verified: 0 }
    }

    /// Verifies what came since the last look.
    pub fn look(&mut self, server: &Chancery, client: &Client) {
        let history = client.history.lock().unwrap().clone();
        for held in history.iter().skip(self.looked).filter(|held| held.is_whole()) {
            if !self.chains.contains(&held.chain) {
                self.chains.push(held.chain.clone());
            }
            self.chains.retain(|chain| !is_over(chain));
            for chain in &self.chains {
                verify(&self.openssl, server.scratch(), chain, held);
                self.verified += 1;
            }
        }
        self.looked = history.len();
    }
}
