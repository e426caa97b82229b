//! An existing CA in PEM files as the upstream: a corporate CA, or the directory that Istio calls `cacerts`.
//!
//! Either its key lies here too: then [`Upstream::held`] gives it with its chain, and `ca` drafts, records and signs under it
//! as under a root of our own. Or its key is elsewhere (an offline root): then a request is written into a file, and whoever
//! has the key answers with another. Files are read anew each time, so that whoever keeps them fresh only writes them. What
//! they hold is foreign: `ca::authority` checks it. Nothing here writes into the CA's directory but the request.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use futures::future::BoxFuture;

use super::{CaChain, CaRequest, HeldCa, ListsOfHeld, Upstream, UpstreamError, crls_in, read_bounded};
use crate::keys::file::{FileSigner, KeyFile};
use crate::secret::write_private;
use crate::x509::chain::{self, Issuer};
use crate::x509::crl::Crl;
use crate::x509::{Serial, pem};

/// The names that Istio's `cacerts` has.
pub const CERTIFICATE: &str = "ca-cert.pem";
/// The signing CA's key.
pub const KEY: &str = "ca-key.pem";
/// The signing CA and those above it.
pub const CHAIN: &str = "cert-chain.pem";
/// The root.
pub const ROOT: &str = "root-cert.pem";
/// CRLs of any of them.
pub const CRLS: &str = "ca-crl.pem";
/// What has to be signed elsewhere, and what comes back.
pub const REQUEST: &str = "issuing.csr";
/// The answer to it.
pub const ANSWER: &str = "issuing-cert.pem";

/// Where the CA's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesSettings {
    /// Where they lie; what the upstream is called by.
    pub directory: PathBuf,
    /// Certificates above the issuing CA, in any order.
    pub chain: PemFiles,
    /// CRLs of CAs above.
    pub crls: PemFiles,
    /// Who signs.
    pub signing: Signing,
}

/// Who has the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signing {
    /// It lies here.
    Here {
        /// The certificate of the CA that signs; more of its chain may stand behind it.
        certificate: PathBuf,
        /// Its key.
        key: KeyFile,
    },
    /// Somebody else, by hand.
    Elsewhere {
        /// Where the request is written.
        request: PathBuf,
        /// Where the certificate is expected, its chain behind it.
        answer: PathBuf,
    },
}

/// Files of PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PemFiles {
    /// These, which must be there.
    Named(Vec<PathBuf>),
    /// Those of these that are there.
    IfThere(Vec<PathBuf>),
}

/// The CA in files.
#[derive(Debug)]
pub struct Files {
    name: String,
    settings: FilesSettings,
}

impl Files {
    /// Reads nothing yet.
    #[must_use]
    pub fn new(settings: FilesSettings) -> Self {
        Self { name: format!("files {}", settings.directory.display()), settings }
    }

    fn unusable(&self, why: impl ToString) -> UpstreamError {
        UpstreamError::Files { upstream: self.name.clone(), why: why.to_string() }
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>, UpstreamError> {
        read_bounded(path).map_err(|why| self.unusable(format!("{}: {why}", path.display())))
    }

    /// What is in all of `files`, one after the other.
    fn each(&self, files: &PemFiles) -> Result<Vec<Vec<u8>>, UpstreamError> {
        let (PemFiles::Named(paths) | PemFiles::IfThere(paths)) = files;
        let mut found = Vec::new();
        for path in paths {
            match (read_bounded(path), files) {
                (Ok(text), _) => found.push(text),
                (Err(why), PemFiles::IfThere(_)) if why.kind() == ErrorKind::NotFound => {}
                (Err(why), _) => return Err(self.unusable(format!("{}: {why}", path.display()))),
            }
        }
        Ok(found)
    }

    fn certificates(&self, path: &Path, text: &[u8]) -> Result<Vec<Vec<u8>>, UpstreamError> {
        let blocks = pem::decode(text).map_err(|why| self.unusable(format!("{}: {why}", path.display())))?;
        Ok(blocks.into_iter().filter(|block| block.label == pem::CERTIFICATE).map(|block| block.der).collect())
    }

    /// Every certificate that may stand above.
    fn pool(&self) -> Result<Vec<Vec<u8>>, UpstreamError> {
        let mut pool = Vec::new();
        for text in self.each(&self.settings.chain)? {
            pool.extend(self.certificates(&self.settings.directory, &text)?);
        }
        Ok(pool)
    }

    fn lists(&self) -> Result<Vec<Vec<u8>>, UpstreamError> {
        Ok(self.each(&self.settings.crls)?.into_iter().flat_map(crls_in).collect())
    }

    fn ca(&self, certificate: &Path, key: &KeyFile) -> Result<HeldCa, UpstreamError> {
        let mut found = self.certificates(certificate, &self.read(certificate)?)?.into_iter();
        let none = || self.unusable(format!("{} holds no certificate in PEM", certificate.display()));
        let own = found.next().ok_or_else(none)?;
        let pool: Vec<Vec<u8>> = found.chain(self.pool()?).collect();
        let above = chain::above(&own, &pool);
        let issuer = Issuer::from_der(own.clone(), above.clone());
        let issuer = issuer.map_err(|why| self.unusable(format!("{}: {why}", certificate.display())))?;
        let signer = FileSigner::open(key.clone()).map_err(|why| self.unusable(why))?;
        if signer.spki() != issuer.key().spki_der() {
            let (key, certificate) = (key.path.display(), certificate.display());
            return Err(
                self.unusable(format!("{key} is not the key of {certificate}: put the pair that belongs together"))
            );
        }
        let theirs = self.lists()?.into_iter().filter_map(|der| Crl::parse(der).ok());
        let lists = match theirs.into_iter().find(|crl| crl.verify(&issuer).is_ok()) {
            Some(_) => ListsOfHeld::InFiles,
            None => ListsOfHeld::MadeHere,
        };
        Ok(HeldCa { certificate: own, above, key: signer, lists })
    }

    fn answered(&self, request: CaRequest<'_>, file: &Path, answer: &Path) -> Result<CaChain, UpstreamError> {
        let mut text = Vec::new();
        pem::encode(&mut text, pem::CERTIFICATE_REQUEST, request.csr);
        write_private(file, &text).map_err(|why| self.unusable(why))?;
        let waiting = || UpstreamError::Waiting {
            upstream: self.name.clone(),
            request: file.display().to_string(),
            answer: answer.display().to_string(),
        };
        let text = match read_bounded(answer) {
            Ok(text) => text,
            Err(why) if why.kind() == ErrorKind::NotFound => return Err(waiting()),
            Err(why) => return Err(self.unusable(format!("{}: {why}", answer.display()))),
        };
        let given = self.certificates(answer, &text)?;
        // That of the issuing CA before it may lie there still.
        let is_asked = |der: &&Vec<u8>| {
            Issuer::from_der((*der).clone(), Vec::new())
                .is_ok_and(|ca| hex::encode(ca.key().key_id()) == request.key_id)
        };
        let Some(certificate) = given.iter().find(is_asked).cloned() else { return Err(waiting()) };
        let pool: Vec<Vec<u8>> = given.into_iter().chain(self.pool()?).collect();
        let above = chain::above(&certificate, &pool);
        Ok(CaChain { certificate, above })
    }
}

impl Upstream for Files {
    fn name(&self) -> &str {
        &self.name
    }

    fn held(&self) -> Result<Option<HeldCa>, UpstreamError> {
        match &self.settings.signing {
            Signing::Here { certificate, key } => self.ca(certificate, key).map(Some),
            Signing::Elsewhere { .. } => Ok(None),
        }
    }

    fn sign<'a>(&'a self, request: CaRequest<'a>) -> BoxFuture<'a, Result<CaChain, UpstreamError>> {
        let answer = match &self.settings.signing {
            Signing::Elsewhere { request: file, answer } => self.answered(request, file, answer),
            Signing::Here { .. } => Err(self.unusable("its key is here, so it is not asked: please report this")),
        };
        Box::pin(std::future::ready(answer))
    }

    fn revoke<'a>(&'a self, serial: &'a Serial) -> BoxFuture<'a, Result<(), UpstreamError>> {
        let by_hand = UpstreamError::ByHand { upstream: self.name.clone(), serial: serial.hex() };
        Box::pin(std::future::ready(Err(by_hand)))
    }

    fn crls(&self) -> BoxFuture<'_, Result<Vec<Vec<u8>>, UpstreamError>> {
        Box::pin(std::future::ready(self.lists()))
    }
}
