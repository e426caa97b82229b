//! A street that never was: what the tests of this layer and of the edges put behind the feed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use time::macros::datetime;
use tokio::sync::watch;

use crate::attest::AttestError;
use crate::ca::standing::Standing;
use crate::clock::{Clock, ManualClock};
use crate::entropy::Entropy;
use crate::feed::source::{
    Asker, Certificate, FeedRefusal, Follows, Held, Holding, Nack, SecretSource, SourceError, Wanted,
};
use crate::feed::{Feed, FeedLimits, SdsNames, TrustBundle};
use crate::identity::{SpiffeId, TrustDomain};
use crate::secret::SecretBytes;
use crate::tasks::Tasks;

/// How long the fake's certificates live.
pub(crate) const LIFE: Duration = Duration::from_secs(24 * 3_600);

/// A certificate that holds these bytes.
pub(crate) fn certificate(chain_pem: &[u8], key_pem: &[u8]) -> Certificate {
    let start = datetime!(2026-11-23 12:00 UTC);
    let held = Held {
        identity: SpiffeId::parse("spiffe://example.org/a").unwrap(),
        serial: "01".to_owned(),
        version: "v1".to_owned(),
        not_before: start,
        not_after: start + LIFE,
        renew_at: start + LIFE / 2,
        rule: "all".to_owned(),
    };
    Certificate { chain_pem: chain_pem.to_vec(), key_pem: SecretBytes::new(key_pem.to_vec()), held }
}

/// A bundle of `example.org`.
pub(crate) fn bundle(pem: &str) -> TrustBundle {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, pem.as_bytes());
    let long = || format!("bundle-{}{}", pem.get(..1).unwrap_or_default(), hex::encode(hash));
    let version = if pem.len() < 20 { format!("bundle-{pem}") } else { long() };
    TrustBundle {
        trust_domain: TrustDomain::parse("example.org").unwrap(),
        pem: pem.as_bytes().to_vec(),
        crl_pem: Vec::new(),
        crl_scope: crate::x509::crl::Scope::default(),
        version,
        covers: Arc::default(),
    }
}

/// A certificate that is valid whenever the tests run, and its key, both PEM.
pub(crate) fn self_signed(identity: &str) -> (Vec<u8>, Vec<u8>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::URI(identity.try_into().unwrap())];
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
}

/// The fake source.
pub(crate) struct Fake {
    clock: Clock,
    policy: watch::Sender<u64>,
    standing: Standing,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    issued: u32,
    refuse: Option<SourceError>,
    mismatch: bool,
    without_keys: bool,
    revoked_while_issuing: Option<String>,
    known: HashMap<String, Held>,
    log: Vec<String>,
}

impl Fake {
    fn say(&self, line: String) {
        self.state.lock().unwrap().log.push(line);
    }

    /// What happened so far, and forgets it.
    pub(crate) fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }

    /// What every issue and admission says from now on.
    pub(crate) fn refuse(&self, why: Option<SourceError>) {
        self.state.lock().unwrap().refuse = why;
    }

    /// From now on keys do not match their certificates.
    pub(crate) fn mismatch(&self) {
        self.state.lock().unwrap().mismatch = true;
    }

    /// From now on certificates and keys are empty, which is quick.
    pub(crate) fn without_keys(&self) {
        self.state.lock().unwrap().without_keys = true;
    }

    /// `serial` is revoked while the next certificate is being made.
    pub(crate) fn revoke_while_issuing(&self, serial: &str) {
        self.state.lock().unwrap().revoked_while_issuing = Some(serial.to_owned());
    }

    /// Policy answers anew.
    pub(crate) fn policy_changes(&self) {
        self.policy.send_modify(|version| *version += 1);
    }
}

impl SecretSource for Fake {
    fn admit<'a>(&'a self, asker: &'a Asker) -> BoxFuture<'a, Result<(), SourceError>> {
        Box::pin(async move {
            let refuse = self.state.lock().unwrap().refuse.clone();
            if refuse == Some(SourceError::NoRule) {
                self.say(format!("admit {} NoRule", asker.secret_name));
                return Err(SourceError::NoRule);
            }
            Ok(())
        })
    }

    fn issue<'a>(
        &'a self,
        asker: &'a Asker,
        wanted: &'a Wanted,
        follows: Option<Follows>,
    ) -> BoxFuture<'a, Result<Certificate, SourceError>> {
        Box::pin(async move {
            let refuse = self.state.lock().unwrap().refuse.clone();
            if let Some(why) = refuse {
                self.say(format!("refuse {} {why:?}", asker.secret_name));
                return Err(why);
            }
            let identity = named(wanted);
            if self.standing.denied(&identity).is_some() {
                self.say(format!("refuse {} Denied", asker.secret_name));
                return Err(SourceError::Denied);
            }
            let mut state = self.state.lock().unwrap();
            state.issued += 1;
            let number = state.issued;
            let now = self.clock.now();
            let held = Held {
                identity,
                serial: format!("{number:02}"),
                version: format!("v{number}"),
                not_before: now,
                not_after: now + LIFE,
                renew_at: now + LIFE / 2,
                rule: "all".to_owned(),
            };
            state.known.insert(held.version.clone(), held.clone());
            let after = follows
                .map_or(String::new(), |follows| format!(" after {} ({})", follows.serial, follows.cause.as_str()));
            state.log.push(format!("issue {} {}{after}", asker.secret_name, held.serial));
            if let Some(serial) = state.revoked_while_issuing.take() {
                self.standing.revoke([(serial, held.not_after)]);
            }
            if state.without_keys {
                return Ok(Certificate { chain_pem: Vec::new(), key_pem: SecretBytes::new(Vec::new()), held });
            }
            let (chain_pem, key_pem) = self_signed(held.identity.as_str());
            let key_pem = if state.mismatch { self_signed("spiffe://example.org/other").1 } else { key_pem };
            Ok(Certificate { chain_pem, key_pem: SecretBytes::new(key_pem), held })
        })
    }

    fn held<'a>(&'a self, asker: &'a Asker, _: &'a Wanted, version: &'a str) -> BoxFuture<'a, Holding> {
        Box::pin(async move {
            let held = self.state.lock().unwrap().known.get(version).cloned();
            self.say(format!("held {} {version} {}", asker.secret_name, held.is_some()));
            match held {
                Some(held) if self.standing.is_revoked(&held.serial) => {
                    Holding::Revoked { serial: held.serial, until: held.not_after }
                }
                Some(held) => Holding::Stands(held),
                None => Holding::Unknown,
            }
        })
    }

    fn is_denied(&self, _: &Asker, wanted: &Wanted) -> bool {
        self.standing.denied(&named(wanted)).is_some()
    }

    fn standing(&self) -> &Standing {
        &self.standing
    }

    fn nack<'a>(&'a self, asker: &'a Asker, nack: Nack) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.say(format!("nack {} {} {:?}", asker.secret_name, nack.version, nack.text)) })
    }

    fn refused<'a>(&'a self, asker: &'a Asker, refusal: FeedRefusal) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.say(format!("refused {} {refusal:?}", asker.secret_name)) })
    }

    fn unattested<'a>(&'a self, socket: &'a str, why: &'a AttestError) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.say(format!("unattested {socket} {}", why.reason())) })
    }

    fn policy(&self) -> watch::Receiver<u64> {
        self.policy.subscribe()
    }
}

fn named(wanted: &Wanted) -> SpiffeId {
    match wanted {
        Wanted::Default => SpiffeId::parse("spiffe://example.org/default").unwrap(),
        Wanted::Identity(identity) => identity.clone(),
    }
}

/// A feed with a fake behind it, and the hands of its clock.
pub(crate) fn feed(limits: FeedLimits) -> (Feed, Arc<Fake>, ManualClock) {
    let (clock, hands) = Clock::manual(datetime!(2026-11-23 12:00 UTC));
    let fake = Arc::new(Fake {
        clock: clock.clone(),
        policy: watch::Sender::new(0),
        standing: Standing::default(),
        state: Mutex::default(),
    });
    let feed = another(&fake, limits);
    (feed, fake, hands)
}

/// Another feed on the same source: our restart.
pub(crate) fn another(fake: &Arc<Fake>, limits: FeedLimits) -> Feed {
    let feed = Feed::new(
        Arc::clone(fake) as Arc<dyn SecretSource>,
        TrustDomain::parse("example.org").unwrap(),
        SdsNames::default(),
        limits,
        fake.clock.clone(),
        Entropy::seeded(1),
        Tasks::new(),
    );
    feed.publish_bundle(bundle("roots"));
    feed
}
