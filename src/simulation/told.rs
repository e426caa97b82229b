//! What everyone was told, whatever became of who told it; and the laws of what a proxy is given.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest::{SHA256, digest};
use prost::Message;
use time::OffsetDateTime;

use super::world::{Counts, World};
use crate::feed::Update;
use crate::identity::TrustDomain;
use crate::proto::envoy::config::core::v3::{DataSource, data_source::Specifier};
use crate::proto::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use crate::x509::chain::Issuer;
use crate::x509::pem;
use crate::x509::svid::Svid;

/// The secret that each proxy asks for.
pub(super) const CERTIFICATE: &str = "default";
/// The bundle that each proxy asks for.
pub(super) const BUNDLE: &str = "ROOTCA";

/// A certificate that somebody was given.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) proxy: u32,
    pub(super) issuer: String,
    pub(super) not_after: OffsetDateTime,
    pub(super) revoked: bool,
}

/// Whether a proxy is denied, as far as anyone can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    No,
    Yes,
    /// An order or its release ended without an answer.
    Unknown,
}

/// What a proxy holds, whether its stream lives or not.
#[derive(Debug, Clone, Default)]
pub(super) struct Holds {
    pub(super) certificate: Option<(String, String)>,
    pub(super) bundle: Option<String>,
}

/// What everyone was told.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The proxies that policy grants something.
    pub(super) granted: BTreeSet<u32>,
    /// Whom each policy that ever was recorded grants something, by its hash.
    pub(super) policies: BTreeMap<String, BTreeSet<u32>>,
    pub(super) given: BTreeMap<String, Given>,
    pub(super) denied: BTreeMap<u32, Denied>,
    /// The highest CRL number that was published, by issuer.
    pub(super) numbers: BTreeMap<String, u64>,
    pub(super) holds: BTreeMap<u32, Holds>,
    /// SHA-256 of what each version of a secret was.
    contents: BTreeMap<String, Vec<u8>>,
    /// The version of each bundle that was sent, by that hash.
    versions: BTreeMap<Vec<u8>, String>,
    /// What broke a law while a task ran that nobody waits for.
    pub(super) broken: Vec<String>,
    pub(super) counts: Counts,
}

fn inline(source: Option<DataSource>) -> Vec<u8> {
    match source.and_then(|source| source.specifier) {
        Some(Specifier::InlineBytes(bytes)) => bytes,
        other => panic!("not inline: {other:?}"),
    }
}

/// A bundle's roots and CRLs, PEM.
pub(super) fn bundle(secret: &[u8]) -> (Vec<u8>, Vec<u8>) {
    match Secret::decode(secret).unwrap().r#type {
        Some(secret::Type::ValidationContext(context)) => (inline(context.trusted_ca), inline(context.crl)),
        other => panic!("no bundle: {other:?}"),
    }
}

impl Told {
    /// A proxy took an update.
    pub(super) fn received(&mut self, proxy: u32, update: &Update) {
        let hash = digest(&SHA256, &update.payload.secret).as_ref().to_vec();
        let version = update.payload.version.to_string();
        let before = self.contents.insert(version.clone(), hash.clone());
        if before.is_some_and(|before| before != hash) {
            self.broken.push(format!("{version} names two contents"));
        }
        let holds = self.holds.entry(proxy).or_default();
        if &*update.name == CERTIFICATE {
            self.certificate(proxy, &version, &update.payload.secret);
        } else {
            holds.bundle = Some(version.clone());
            let before = self.versions.insert(hash, version.clone());
            if before.is_some_and(|before| before != version) {
                self.broken.push(format!("{version} is a second version of one bundle"));
            }
        }
    }

    fn certificate(&mut self, proxy: u32, version: &str, secret: &[u8]) {
        let Some(secret::Type::TlsCertificate(sent)) = Secret::decode(secret).unwrap().r#type else {
            return self.broken.push(format!("{version} is no certificate"));
        };
        let chain = pem::decode(&inline(sent.certificate_chain)).unwrap().into_iter().map(|block| block.der);
        let serial = self.gave(proxy, &chain.collect::<Vec<_>>());
        self.counts.count("streamed", 1);
        self.holds.entry(proxy).or_default().certificate = Some((version.to_owned(), serial));
    }

    /// A proxy was given this chain; its serial.
    pub(super) fn gave(&mut self, proxy: u32, chain: &[Vec<u8>]) -> String {
        let leaf = Svid::read(&chain[0], &TrustDomain::parse("example.org").unwrap()).unwrap();
        let issuer = Issuer::from_der(chain[1].clone(), Vec::new()).unwrap();
        let serial = leaf.serial.hex();
        if leaf.not_after > issuer.not_after() {
            self.broken.push(format!("{serial} outlives its issuer"));
        }
        if leaf.identity.as_str() != World::identity(proxy) {
            self.broken.push(format!("{serial} is a certificate of somebody else"));
        }
        if self.denied[&proxy] == Denied::Yes {
            self.broken.push(format!("{proxy} is denied and got {serial}"));
        }
        let issuer = hex::encode(issuer.key_id());
        let given = Given { proxy, issuer, not_after: leaf.not_after, revoked: false };
        if self.given.insert(serial.clone(), given).is_some() {
            self.broken.push(format!("{serial} twice"));
        }
        serial
    }

    /// An order to revoke and deny this proxy was acknowledged.
    pub(super) fn denied(&mut self, proxy: u32, now: OffsetDateTime) {
        self.denied.insert(proxy, Denied::Yes);
        self.counts.count("revoked", 1);
        let his = self.given.values_mut().filter(|given| given.proxy == proxy && given.not_after > now);
        his.for_each(|given| given.revoked = true);
    }
}
