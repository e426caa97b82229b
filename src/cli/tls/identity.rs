//! An identity directory: a certificate of ours, its key, the roots and the revocation lists that came with them.
//!
//! `chancery fetch` swaps the files as one set behind a link; [`Identity::load`] follows that link once, so that it never
//! sees half of a change. Flat files, as `cert issue` writes them, do as well. Read for each connection anew.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use zeroize::Zeroizing;

use super::{Anchors, SERVER_PATH, TlsError};
use crate::identity::SpiffeId;
use crate::x509::pem;

/// The link of a directory whose files are swapped whole: ours, and that of Kubernetes' volumes.
const CURRENT: &str = "..data";

/// The file with leaf and issuing CA.
pub(crate) const CERTIFICATE: &str = "cert.pem";
/// The file with the key.
pub(crate) const KEY: &str = "key.pem";
/// The file with the roots.
pub(crate) const BUNDLE: &str = "bundle.pem";
/// The file with the revocation lists; need not be there.
pub(crate) const CRL: &str = "crl.pem";

/// The label of a revocation list.
const CRL_LABEL: &str = "X509 CRL";

/// The largest file that is read, in bytes: revocation lists can be long.
const LARGEST_FILE: u64 = 64 << 20;

/// What a certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Lower-case hex.
    pub(crate) serial: String,
    /// Every URI SAN.
    pub(crate) uris: Vec<String>,
    /// The subject, as text.
    pub(crate) subject: String,
    /// The issuer, as text.
    pub(crate) issuer: String,
    pub(crate) not_before: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
}

impl Facts {
    /// Reads one certificate.
    pub(crate) fn of(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let names = certificate.subject_alternative_name().ok()?;
        let uris = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None });
        Some(Self {
            serial: hex::encode(certificate.raw_serial()),
            uris: uris.collect(),
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            not_before: certificate.validity().not_before.to_datetime(),
            not_after: certificate.validity().not_after.to_datetime(),
        })
    }

    /// The one SPIFFE ID; X509-SVID section 2 allows no second URI.
    pub(crate) fn spiffe_id(&self) -> Option<SpiffeId> {
        match self.uris.as_slice() {
            [one] => SpiffeId::parse(one).ok(),
            _ => None,
        }
    }
}

/// What an identity directory holds.
#[derive(Debug)]
pub(crate) struct Identity {
    /// Where the certificate is, for messages.
    pub(crate) certificate_path: PathBuf,
    /// Leaf first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    /// The leaf.
    pub(crate) facts: Facts,
    /// Whom we trust.
    pub(crate) anchors: Anchors,
}

impl Identity {
    /// Reads the set that `dir` holds now.
    ///
    /// # Errors
    /// [`TlsError::File`], [`TlsError::Content`].
    pub(crate) fn load(dir: &Path) -> Result<Self, TlsError> {
        let set = set_of(dir);
        let certificate_path = set.join(CERTIFICATE);
        let wrong = |why: &str| TlsError::Content { path: certificate_path.clone(), why: why.to_owned() };
        let chain: Vec<CertificateDer<'static>> =
            blocks(&certificate_path, pem::CERTIFICATE)?.into_iter().map(CertificateDer::from).collect();
        let leaf = chain.first().ok_or_else(|| wrong("no certificate in it"))?;
        let facts = Facts::of(leaf).ok_or_else(|| wrong("no X.509 certificate"))?;
        let key_path = set.join(KEY);
        let key = PrivateKeyDer::from_pem_slice(&read(&key_path)?)
            .map_err(|_| TlsError::Content { path: key_path, why: "no private key in PEM".to_owned() })?;
        Ok(Self { chain, key, facts, anchors: anchors(&set)?, certificate_path })
    }

    /// The server of our trust domain.
    pub(crate) fn server(&self) -> Result<SpiffeId, TlsError> {
        let ours = self.facts.spiffe_id();
        ours.and_then(|ours| SpiffeId::parse(&format!("{}{SERVER_PATH}", ours.trust_domain().id())).ok()).ok_or_else(
            || {
                let why = "not exactly one SPIFFE ID in it, so the server's can't be told".to_owned();
                TlsError::Content { path: self.certificate_path.clone(), why }
            },
        )
    }
}

/// The directory that the files are in at this moment.
pub(crate) fn set_of(dir: &Path) -> PathBuf {
    // A later swap leaves the target of the link in place for those who are about to read it.
    std::fs::read_link(dir.join(CURRENT)).map_or_else(|_| dir.to_owned(), |set| dir.join(set))
}

fn anchors(set: &Path) -> Result<Anchors, TlsError> {
    let (bundle, crl) = (set.join(BUNDLE), set.join(CRL));
    let roots = blocks(&bundle, pem::CERTIFICATE)?;
    let lists = match blocks(&crl, CRL_LABEL) {
        Ok(lists) => lists,
        Err(TlsError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    Anchors::new(roots, &lists)
        .map_err(|(of_list, why)| TlsError::Content { path: if of_list { crl } else { bundle }, why })
}

fn blocks(path: &Path, label: &str) -> Result<Vec<Vec<u8>>, TlsError> {
    let blocks = pem::decode(&read(path)?)
        .map_err(|error| TlsError::Content { path: path.to_owned(), why: error.to_string() })?;
    Ok(blocks.into_iter().filter(|block| block.label == label).map(|block| block.der).collect())
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let failed = |source| TlsError::File { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    if length > LARGEST_FILE {
        return Err(failed(std::io::ErrorKind::FileTooLarge.into()));
    }
    // Room for all of it at once: a buffer that grows would leave copies of a key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or_default() + 1));
    file.take(LARGEST_FILE).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
