//! The authority above, in a world that has one: it signs, fails, signs and says that it failed, or answers late.

use std::sync::Mutex;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use time::OffsetDateTime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::identity::TrustDomain;
use crate::keys::Signer;
use crate::keys::memory::{self, MemorySigner};
use crate::keys::simulated::Keys;
use crate::upstream::{CaChain, CaRequest, Upstream, UpstreamError};
use crate::vault::VaultError;
use crate::x509::chain::Issuer;
use crate::x509::crl::{CrlDraft, CrlSpec};
use crate::x509::draft::{AuthoritySpec, Draft};
use crate::x509::profile::Profiles;
use crate::x509::{KeyAlgorithm, Serial, SubjectKey};

const NAME: &str = "upstream https://above pki";
/// How late an answer is: later than the keeper's own patience with anything here.
const LATE: Duration = Duration::from_secs(45);
const YEAR: Duration = Duration::from_secs(366 * 86_400);

/// What becomes of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AboveFault {
    /// Nothing happens, and that is said.
    Failed,
    /// It happens, and the answer is an error.
    Happened,
    /// It is answered, late.
    Late,
}

/// A root that nobody here holds.
pub(super) struct Above {
    root: Authority,
    clock: Clock,
    chance: Entropy,
    state: Mutex<(Option<AboveFault>, u64)>,
}

/// A CA with its key.
pub(super) struct Authority {
    pub(super) issuer: Issuer,
    pub(super) signer: MemorySigner,
}

impl Authority {
    /// A root from `now` on.
    pub(super) fn root(name: &str, chance: &Entropy, now: OffsetDateTime) -> Self {
        let signer = memory::generate(KeyAlgorithm::Ed25519).unwrap();
        let key = SubjectKey::from_spki(signer.spki_der().to_vec()).unwrap();
        let draft = Draft::authority(spec(name, key, true, YEAR * 10, chance), None, now).unwrap();
        let der = signed(draft, &signer);
        Self { issuer: Issuer::from_der(der, Vec::new()).unwrap(), signer }
    }

    /// An issuing CA below it; DER.
    pub(super) fn certifies(
        &self,
        name: &str,
        key: SubjectKey,
        (lifetime, now): (Duration, OffsetDateTime),
        chance: &Entropy,
    ) -> Vec<u8> {
        let draft = Draft::authority(spec(name, key, false, lifetime, chance), Some(&self.issuer), now).unwrap();
        signed(draft, &self.signer)
    }
}

fn spec(name: &str, key: SubjectKey, root: bool, lifetime: Duration, chance: &Entropy) -> AuthoritySpec {
    let profiles = Profiles::builtin();
    let profile = if root { profiles.root() } else { profiles.issuing() };
    AuthoritySpec {
        profile: profile.clone(),
        common_name: name.to_owned(),
        trust_domain: TrustDomain::parse("example.org").unwrap(),
        key,
        serial: Serial::random(chance),
        lifetime,
    }
}

/// The certificate of a draft, by a key that answers at once.
pub(super) fn signed(draft: Draft, signer: &MemorySigner) -> Vec<u8> {
    let signature = Keys::undisturbed(|| signer.sign(draft.tbs()).now_or_never().unwrap().unwrap());
    draft.finish(&signature).unwrap().into_der()
}

impl std::fmt::Debug for Above {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(NAME)
    }
}

impl Above {
    pub(super) fn new(clock: Clock, chance: Entropy) -> Self {
        let root = Authority::root("Above", &chance, clock.now());
        Self { root, clock, chance, state: Mutex::default() }
    }

    /// Every question meets this, until [`Above::mend`].
    pub(super) fn fail(&self, fault: AboveFault) {
        self.state.lock().unwrap().0 = Some(fault);
    }

    pub(super) fn mend(&self) {
        self.state.lock().unwrap().0 = None;
    }

    pub(super) fn is_failing(&self) -> bool {
        self.state.lock().unwrap().0.is_some()
    }

    /// Faults that were met.
    pub(super) fn met(&self) -> u64 {
        self.state.lock().unwrap().1
    }

    async fn answers<T>(&self, what: &'static str, answer: impl FnOnce() -> T) -> Result<T, UpstreamError> {
        let fault = {
            let mut state = self.state.lock().unwrap();
            state.1 += u64::from(state.0.is_some());
            state.0
        };
        let (upstream, why) = (NAME.to_owned(), "planned".to_owned());
        match fault {
            None => Ok(answer()),
            Some(AboveFault::Failed) => {
                Err(VaultError::Unreachable { vault: upstream, table: "upstream.vault", why }.into())
            }
            Some(AboveFault::Happened) => {
                drop(answer());
                Err(UpstreamError::Failed { upstream, what, why })
            }
            Some(AboveFault::Late) => {
                self.clock.sleep(LATE).await;
                Ok(answer())
            }
        }
    }
}

impl Upstream for Above {
    fn name(&self) -> &str {
        NAME
    }

    fn sign<'a>(&'a self, request: CaRequest<'a>) -> BoxFuture<'a, Result<CaChain, UpstreamError>> {
        let answer = move || {
            let (_, csr) = X509CertificationRequest::from_der(request.csr).unwrap();
            let key = SubjectKey::from_spki(csr.certification_request_info.subject_pki.raw.to_vec()).unwrap();
            let when = (request.lifetime, self.clock.now());
            let certificate = self.root.certifies(request.common_name, key, when, &self.chance);
            CaChain { certificate, above: vec![self.root.issuer.der().to_vec()] }
        };
        Box::pin(self.answers("sign", answer))
    }

    fn revoke<'a>(&'a self, _: &'a Serial) -> BoxFuture<'a, Result<(), UpstreamError>> {
        Box::pin(self.answers("revoke", || ()))
    }

    fn crls(&self) -> BoxFuture<'_, Result<Vec<Vec<u8>>, UpstreamError>> {
        let answer = move || {
            let now = self.clock.now();
            let spec = CrlSpec {
                number: u64::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap(),
                this_update: now - Duration::from_secs(300),
                next_update: now + Duration::from_secs(7 * 86_400),
                entries: Vec::new(),
            };
            let draft = CrlDraft::new(&self.root.issuer, spec, now).unwrap();
            let signature = Keys::undisturbed(|| self.root.signer.sign(draft.tbs()).now_or_never().unwrap().unwrap());
            vec![draft.finish(&signature).unwrap().der().to_vec()]
        };
        Box::pin(self.answers("list", answer))
    }
}
