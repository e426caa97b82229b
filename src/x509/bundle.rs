//! The roots of one trust domain, as peers receive them.
//!
//! The order is the one given (`ca::slot` gives the oldest root first) and the spelling is fixed: Istio's agent pushes a
//! bundle again when one byte differs. A [`Bundle`] knows its version, which is a hash of the content alone, so it is
//! the same after a restart. Bundles of different domains are never merged. `feed` and `api` use it; it does no IO.

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Serialize;

use super::algorithm::KeyAlgorithm;
use super::chain::{Issuer, IssuerError};
use super::key::SubjectKey;
use super::pem;
use crate::identity::TrustDomain;

/// The most roots in one bundle: an old and a new one, and room for an emergency.
pub const MOST_ROOTS: usize = 8;

/// Why a bundle could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// More than [`MOST_ROOTS`].
    #[error("{found} roots are more than {MOST_ROOTS}: let old ones retire first (`chancery ca show`)")]
    TooMany {
        /// How many.
        found: usize,
    },
    /// Not a CA certificate.
    #[error("root {number} of the bundle: {fault}")]
    Root {
        /// Its place, from 1.
        number: usize,
        /// What is wrong with it.
        #[source]
        fault: IssuerError,
    },
    /// Not self-signed: Envoy takes no anchor that is an intermediate once a CRL is there.
    #[error("root {number} of the bundle is not self-signed: put the root itself there, not a CA below it")]
    NotARoot {
        /// Its place, from 1.
        number: usize,
    },
    /// The same certificate twice.
    #[error("root {number} of the bundle is there already: leave it out")]
    Twice {
        /// Its place, from 1.
        number: usize,
    },
}

/// The roots of one trust domain.
#[derive(Debug, Clone)]
pub struct Bundle {
    trust_domain: TrustDomain,
    roots: Vec<Root>,
    version: String,
}

#[derive(Debug, Clone)]
struct Root {
    der: Vec<u8>,
    key: SubjectKey,
}

impl Bundle {
    /// From the roots' DER, in the order in which peers shall see them. None at all means that nothing is trusted.
    ///
    /// # Errors
    /// Every variant of [`BundleError`].
    pub fn new(trust_domain: TrustDomain, ders: impl IntoIterator<Item = Vec<u8>>) -> Result<Self, BundleError> {
        let mut roots: Vec<Root> = Vec::new();
        let mut content = digest::Context::new(&digest::SHA256);
        content.update(trust_domain.as_str().as_bytes());
        for (at, der) in ders.into_iter().enumerate() {
            let number = at + 1;
            if number > MOST_ROOTS {
                return Err(BundleError::TooMany { found: number });
            }
            let root = Issuer::from_der(der, Vec::new()).map_err(|fault| BundleError::Root { number, fault })?;
            if !root.is_root() {
                return Err(BundleError::NotARoot { number });
            }
            if roots.iter().any(|known| known.der == root.der()) {
                return Err(BundleError::Twice { number });
            }
            // Each certificate's own hash, so that no two lists give the same bytes.
            content.update(digest::digest(&digest::SHA256, root.der()).as_ref());
            roots.push(Root { der: root.der().to_vec(), key: root.key().clone() });
        }
        Ok(Self { trust_domain, roots, version: hex::encode(content.finish().as_ref()) })
    }

    /// Whose it is.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The content's name: SHA-256 over domain and certificates, hex.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The certificates.
    pub fn ders(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.roots.iter().map(|root| root.der.as_slice())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.roots.len()
    }

    /// Whether nothing is trusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// All of them in PEM.
    #[must_use]
    pub fn pem(&self) -> Vec<u8> {
        pem::certificates(self.ders())
    }

    /// The SPIFFE bundle (SPIFFE Trust Domain and Bundle section 4): a JWK set with one key per root.
    ///
    /// `sequence` grows with every change of content; `refresh_hint_s` tells peers how often to look.
    #[must_use]
    pub fn spiffe_json(&self, sequence: u64, refresh_hint_s: u64) -> Vec<u8> {
        let document = Document {
            keys: self.roots.iter().map(Jwk::of).collect(),
            spiffe_sequence: sequence,
            spiffe_refresh_hint: refresh_hint_s,
        };
        serde_json::to_vec(&document).expect("strings and numbers always serialise")
    }
}

#[derive(Serialize)]
struct Document {
    keys: Vec<Jwk>,
    spiffe_sequence: u64,
    spiffe_refresh_hint: u64,
}

/// A root as a JSON Web Key. X509-SVID section 6.1: `use`, exactly one `x5c`, no `kid`.
#[derive(Clone, Serialize)]
struct Jwk {
    kty: &'static str,
    #[serde(rename = "use")]
    purpose: &'static str,
    x5c: [String; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    alg: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crv: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(rename = "pub", skip_serializing_if = "Option::is_none")]
    public: Option<String>,
}

impl Jwk {
    fn of(root: &Root) -> Self {
        let (text, raw) = (|bytes: &[u8]| Some(URL_SAFE_NO_PAD.encode(bytes)), root.key.raw());
        let empty = Self {
            kty: "EC",
            purpose: "x509-svid",
            // RFC 7517 section 4.7: standard base64 here, unlike everywhere else in a JWK.
            x5c: [STANDARD.encode(&root.der)],
            alg: None,
            crv: None,
            x: None,
            y: None,
            n: None,
            e: None,
            public: None,
        };
        // RFC 7518 section 6.2.1: the coordinates in full length, behind the octet that says "uncompressed".
        let elliptic = |crv, length| {
            let (x, y) = raw.get(1..).and_then(|point| point.split_at_checked(length)).unwrap_or_default();
            Self { crv: Some(crv), x: text(x), y: text(y), ..empty.clone() }
        };
        // "Algorithm Key Pair", the JOSE work's form for ML-DSA.
        let lattice = |alg| Self { kty: "AKP", alg: Some(alg), public: text(raw), ..empty.clone() };
        match root.key.algorithm() {
            KeyAlgorithm::P256 => elliptic("P-256", 32),
            KeyAlgorithm::P384 => elliptic("P-384", 48),
            // RFC 8037 section 2.
            KeyAlgorithm::Ed25519 => Self { kty: "OKP", crv: Some("Ed25519"), x: text(raw), ..empty },
            KeyAlgorithm::Rsa2048 | KeyAlgorithm::Rsa3072 | KeyAlgorithm::Rsa4096 => {
                let (n, e) = root.key.rsa().unwrap_or_default();
                Self { kty: "RSA", n: text(n), e: text(e), ..empty }
            }
            KeyAlgorithm::MlDsa44 => lattice("ML-DSA-44"),
            KeyAlgorithm::MlDsa65 => lattice("ML-DSA-65"),
            KeyAlgorithm::MlDsa87 => lattice("ML-DSA-87"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x509::tests::*;

    fn ders(roots: &[&Ca]) -> Vec<Vec<u8>> {
        roots.iter().map(|root| root.issuer.der().to_vec()).collect()
    }

    fn bundle(roots: &[&Ca]) -> Bundle {
        Bundle::new(trust_domain(), ders(roots)).unwrap()
    }

    #[test]
    fn order_and_content_make_the_version() {
        let (one, two) = (root(KeyAlgorithm::P256), root(KeyAlgorithm::P256));
        assert_eq!(bundle(&[&one, &two]).version(), bundle(&[&one, &two]).version());
        assert_ne!(bundle(&[&one, &two]).version(), bundle(&[&two, &one]).version());
        assert_ne!(bundle(&[&one]).version(), bundle(&[]).version());
        let elsewhere = Bundle::new(TrustDomain::parse("example.net").unwrap(), ders(&[&one])).unwrap();
        assert_ne!(bundle(&[&one]).version(), elsewhere.version());
        let blocks = pem::decode(&bundle(&[&one, &two]).pem()).unwrap();
        assert_eq!(blocks.into_iter().map(|block| block.der).collect::<Vec<_>>(), ders(&[&one, &two]));
    }

    #[test]
    fn only_roots_are_trusted_and_each_once() {
        let one = root(KeyAlgorithm::P256);
        let below = issuing(&one, KeyAlgorithm::P256);
        let check = |ders: Vec<Vec<u8>>| Bundle::new(trust_domain(), ders).unwrap_err();
        assert_eq!(check(ders(&[&one, &below])), BundleError::NotARoot { number: 2 });
        assert_eq!(check(ders(&[&one, &one])), BundleError::Twice { number: 2 });
        assert!(matches!(check(vec![b"x".to_vec()]), BundleError::Root { number: 1, .. }));
        let many: Vec<Ca> = (0..=MOST_ROOTS).map(|_| root(KeyAlgorithm::Ed25519)).collect();
        let many: Vec<&Ca> = many.iter().collect();
        assert_eq!(check(ders(&many)), BundleError::TooMany { found: MOST_ROOTS + 1 });
    }

    #[test]
    fn the_spiffe_form_has_one_key_per_root() {
        for (algorithm, kty, members) in [
            (KeyAlgorithm::P256, "EC", &["crv", "x", "y"][..]),
            (KeyAlgorithm::P384, "EC", &["crv", "x", "y"]),
            (KeyAlgorithm::Ed25519, "OKP", &["crv", "x"]),
            (KeyAlgorithm::Rsa2048, "RSA", &["n", "e"]),
            (KeyAlgorithm::MlDsa44, "AKP", &["alg", "pub"]),
        ] {
            let root = root(algorithm);
            let json: serde_json::Value = serde_json::from_slice(&bundle(&[&root]).spiffe_json(7, 300)).unwrap();
            assert_eq!((&json["spiffe_sequence"], &json["spiffe_refresh_hint"]), (&7.into(), &300.into()));
            let key = json["keys"][0].as_object().unwrap();
            assert_eq!((&key["kty"], &key["use"]), (&kty.into(), &"x509-svid".into()));
            assert_eq!(key["x5c"], serde_json::json!([STANDARD.encode(root.issuer.der())]));
            assert!(!key.contains_key("kid"));
            let mut names: Vec<&str> = ["kty", "use", "x5c"].iter().chain(members).copied().collect();
            names.sort_unstable();
            let mut found: Vec<&str> = key.keys().map(String::as_str).collect();
            found.sort_unstable();
            assert_eq!(found, names, "{algorithm}");
        }
        assert_eq!(bundle(&[]).spiffe_json(1, 2), br#"{"keys":[],"spiffe_sequence":1,"spiffe_refresh_hint":2}"#);
    }
}
