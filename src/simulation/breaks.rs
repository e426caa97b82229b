//! Worlds that are broken on purpose, one law each, to see that somebody notices.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;

use super::above::{Authority, signed};
use super::world::FIRST_UID;
use crate::attest::AttestError;
use crate::ca::standing::Standing;
use crate::caller::testing;
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::feed::source::{Asker, Certificate, FeedRefusal, Follows, Holding, Nack, SecretSource, SourceError, Wanted};
use crate::feed::street::StreetSource;
use crate::identity::Mesh;
use crate::keys::Signer;
use crate::keys::leaf;
use crate::keys::memory::{self, MemorySigner};
use crate::policy::testing::grant;
use crate::store::{
    Activity, ApprovalRow, AuthorityRow, BreakglassRow, CertificateQuery, CertificateRow, CrlRow, Cursor, DenyRow,
    Entry, Found, LiveCount, Page, RevokedRow, Store, StoreError,
};
use crate::x509::chain::Issuer;
use crate::x509::draft::Draft;
use crate::x509::profile::Profiles;
use crate::x509::{KeyAlgorithm, Serial, SubjectKey, pem};

/// What is wrong with a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Break {
    /// A stream is sent a certificate whose issuer ends first.
    Outlives,
    /// A stream is sent a certificate that no ledger holds.
    Unrecorded,
    /// A stream is sent its neighbour's certificate.
    Ungranted,
    /// Each version of a certificate has the same name.
    VersionsRepeat,
    /// Certificates are due for renewal after their end.
    RenewalsLate,
    /// Nobody gets a certificate by a stream.
    RefusesAnyway,
    /// No sync of the disk does anything.
    DiskLies,
    /// A start finds the disk as it was long before.
    OldCopy,
    /// A byte of a tile is another.
    TileChanged,
    /// Nobody renews CRLs.
    ListsNotKept,
    /// A start knows no CRL number.
    NumbersForgotten,
    /// A start knows no revocation.
    RevocationsForgotten,
    /// A start knows no deny.
    DeniesForgotten,
    /// The index passes over some records.
    IndexSkips,
}

/// An index that is wrong.
#[derive(Debug)]
pub(super) struct Broken {
    store: Arc<dyn Store>,
    broken: Break,
    applied: AtomicU64,
}

impl Broken {
    pub(super) fn new(store: Arc<dyn Store>, broken: Break) -> Self {
        Self { store, broken, applied: AtomicU64::new(0) }
    }
}

impl Store for Broken {
    fn cursor(&self) -> Result<Cursor, StoreError> {
        self.store.cursor()
    }

    fn apply(&self, batch: &[Entry<'_>]) -> Result<(), StoreError> {
        for entry in batch {
            let mut event = entry.event.clone();
            if self.broken == Break::IndexSkips && self.applied.fetch_add(1, Ordering::Relaxed) % 7 == 6 {
                event.certificate = None;
            }
            self.store.apply(&[Entry { log: entry.log, index: entry.index, event: &event }])?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.store.sync()
    }

    fn reset(&self) -> Result<(), StoreError> {
        self.store.reset()
    }

    fn find(&self, serial: &str) -> Result<Found, StoreError> {
        self.store.find(serial)
    }

    fn certificates(&self, query: &CertificateQuery) -> Result<Page, StoreError> {
        self.store.certificates(query)
    }

    fn by_version(&self, version: &str) -> Result<Option<CertificateRow>, StoreError> {
        self.store.by_version(version)
    }

    fn authorities(&self) -> Result<Vec<AuthorityRow>, StoreError> {
        self.store.authorities()
    }

    fn live(&self, now: i64) -> Result<BTreeMap<String, LiveCount>, StoreError> {
        self.store.live(now)
    }

    fn revoked(&self, now: i64) -> Result<Vec<RevokedRow>, StoreError> {
        if self.broken == Break::RevocationsForgotten && now > 0 { Ok(Vec::new()) } else { self.store.revoked(now) }
    }

    fn denies(&self) -> Result<Vec<DenyRow>, StoreError> {
        if self.broken == Break::DeniesForgotten { Ok(Vec::new()) } else { self.store.denies() }
    }

    fn crl(&self, issuer_key_id: &str) -> Result<Option<CrlRow>, StoreError> {
        if self.broken == Break::NumbersForgotten { Ok(None) } else { self.store.crl(issuer_key_id) }
    }

    fn configured(&self, what: &str) -> Result<Option<String>, StoreError> {
        self.store.configured(what)
    }

    fn total(&self) -> Result<u64, StoreError> {
        self.store.total()
    }

    fn approvals(&self) -> Result<Vec<ApprovalRow>, StoreError> {
        self.store.approvals()
    }

    fn breakglass(&self) -> Result<Vec<BreakglassRow>, StoreError> {
        self.store.breakglass()
    }

    fn activity(&self, what: Activity, minutes: Range<i64>) -> Result<u64, StoreError> {
        self.store.activity(what, minutes)
    }
}

/// A source that does not do what the street says.
pub(super) struct Crooked {
    source: StreetSource,
    broken: Break,
    clock: Clock,
    chance: Entropy,
}

impl Crooked {
    pub(super) fn new(source: StreetSource, broken: Break, clock: Clock, chance: Entropy) -> Self {
        Self { source, broken, clock, chance }
    }

    /// A CA that nobody made here, alive for a while, with its key.
    fn forger(&self, lifetime: Duration) -> (Issuer, MemorySigner) {
        let root = Authority::root("Forger", &self.chance, self.clock.now());
        let signer = memory::generate(KeyAlgorithm::Ed25519).unwrap();
        let key = SubjectKey::from_spki(signer.spki_der().to_vec()).unwrap();
        let der = root.certifies("Forger 1", key, (lifetime, self.clock.now()), &self.chance);
        (Issuer::from_der(der, vec![root.issuer.der().to_vec()]).unwrap(), signer)
    }

    /// A certificate of the same identity that no ledger holds.
    fn forged(&self, certificate: Certificate) -> Certificate {
        let (issuer, signer) = self.forger(Duration::from_secs(30 * 86_400));
        let profile = Profiles::builtin().leaf(Mesh::Envoy);
        let day = Duration::from_secs(86_400);
        let identity = certificate.held.identity.as_str();
        let grant = grant(identity, Mesh::Envoy, profile, &[], day, &[KeyAlgorithm::Ed25519]);
        let key = leaf::generate(KeyAlgorithm::Ed25519).unwrap();
        let serial = Serial::random(&self.chance);
        let draft = Draft::leaf(grant, key.subject_key(), &issuer, serial, self.clock.now()).unwrap();
        let der = signed(draft, &signer);
        Certificate { chain_pem: pem::certificates([der.as_slice(), issuer.der()]), ..certificate }
    }

    /// The same leaf under an issuer that ends within hours.
    fn under_a_short_issuer(&self, certificate: Certificate) -> Certificate {
        let (issuer, _) = self.forger(Duration::from_secs(7 * 3_600));
        let leaf = pem::decode(&certificate.chain_pem).unwrap().remove(0).der;
        Certificate { chain_pem: pem::certificates([leaf.as_slice(), issuer.der()]), ..certificate }
    }

    fn twisted(&self, mut certificate: Certificate) -> Certificate {
        match self.broken {
            Break::Outlives => self.under_a_short_issuer(certificate),
            Break::Unrecorded => self.forged(certificate),
            Break::VersionsRepeat => {
                "the one".clone_into(&mut certificate.held.version);
                certificate
            }
            Break::RenewalsLate => {
                certificate.held.renew_at = certificate.held.not_after + Duration::from_secs(86_400);
                certificate
            }
            Break::Ungranted
            | Break::RefusesAnyway
            | Break::DiskLies
            | Break::OldCopy
            | Break::TileChanged
            | Break::ListsNotKept
            | Break::NumbersForgotten
            | Break::RevocationsForgotten
            | Break::DeniesForgotten
            | Break::IndexSkips => certificate,
        }
    }
}

impl SecretSource for Crooked {
    fn admit<'a>(&'a self, asker: &'a Asker) -> BoxFuture<'a, Result<(), SourceError>> {
        self.source.admit(asker)
    }

    fn issue<'a>(
        &'a self,
        asker: &'a Asker,
        wanted: &'a Wanted,
        follows: Option<Follows>,
    ) -> BoxFuture<'a, Result<Certificate, SourceError>> {
        Box::pin(async move {
            if self.broken == Break::RefusesAnyway {
                return Err(SourceError::Unavailable { retry_after: None });
            }
            if self.broken == Break::Ungranted {
                // Whoever it is, the neighbour asks.
                let mine: u32 = asker.caller.account().rsplit('/').next().and_then(|uid| uid.parse().ok()).unwrap_or(0);
                let other = if mine == FIRST_UID { FIRST_UID + 1 } else { FIRST_UID };
                let neighbour = Asker { caller: testing::unix(other, 1000, &[]), ..asker.clone() };
                return self.source.issue(&neighbour, wanted, follows).await;
            }
            self.source.issue(asker, wanted, follows).await.map(|certificate| self.twisted(certificate))
        })
    }

    fn held<'a>(&'a self, asker: &'a Asker, wanted: &'a Wanted, version: &'a str) -> BoxFuture<'a, Holding> {
        self.source.held(asker, wanted, version)
    }

    fn is_denied(&self, asker: &Asker, wanted: &Wanted) -> bool {
        self.source.is_denied(asker, wanted)
    }

    fn standing(&self) -> &Standing {
        self.source.standing()
    }

    fn nack<'a>(&'a self, asker: &'a Asker, nack: Nack) -> BoxFuture<'a, ()> {
        self.source.nack(asker, nack)
    }

    fn refused<'a>(&'a self, asker: &'a Asker, refusal: FeedRefusal) -> BoxFuture<'a, ()> {
        self.source.refused(asker, refusal)
    }

    fn unattested<'a>(&'a self, socket: &'a str, why: &'a AttestError) -> BoxFuture<'a, ()> {
        self.source.unattested(socket, why)
    }

    fn policy(&self) -> watch::Receiver<u64> {
        self.source.policy()
    }
}
