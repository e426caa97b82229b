//! Certificate profiles: what a certificate of each kind may be, as data in `certs/*.toml`.
//!
//! A profile holds what a mesh expects of every certificate (usages, backdating, kinds of keys, which names); who may
//! have one and for how long is policy's. What X.509-SVID demands of all certificates is not here: the lint holds that
//! whatever a profile says. Read once by [`Profiles::builtin`]; policy and [`super::draft`] use them.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde::Deserialize;

use super::algorithm::KeyAlgorithm;
use crate::identity::Mesh;

/// The files, with the names that errors give.
const FILES: [(&str, &str); 7] = [
    ("certs/root.toml", include_str!("../../certs/root.toml")),
    ("certs/issuing.toml", include_str!("../../certs/issuing.toml")),
    ("certs/leaf-envoy.toml", include_str!("../../certs/leaf-envoy.toml")),
    ("certs/leaf-istio.toml", include_str!("../../certs/leaf-istio.toml")),
    ("certs/leaf-linkerd.toml", include_str!("../../certs/leaf-linkerd.toml")),
    ("certs/leaf-cilium.toml", include_str!("../../certs/leaf-cilium.toml")),
    ("certs/leaf-consul.toml", include_str!("../../certs/leaf-consul.toml")),
];

/// Why a profile is not usable. The built-in ones are held by a test; this is for those who change them.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Not TOML of this shape.
    #[error("{file}: {source}")]
    Form {
        /// The file.
        file: String,
        /// What is wrong and where.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// The default key is not among the allowed ones.
    #[error("profile {profile}: key {key:?} is not in keys: add it there or choose another default")]
    DefaultKey {
        /// The profile.
        profile: String,
        /// Its default.
        key: KeyAlgorithm,
    },
    /// Shortest, default and longest lifetime out of order.
    #[error("profile {profile}: lifetimes must grow from shortest over default to longest, and none may be zero")]
    Lifetimes {
        /// The profile.
        profile: String,
    },
    /// No profile for a mesh or for an authority's level.
    #[error("there is no profile {name}")]
    Missing {
        /// Which.
        name: String,
    },
}

/// A bit of the key usage extension, as RFC 5280 section 4.2.1.3 names it. What a leaf never has is not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub enum LeafUsage {
    /// Signs handshakes.
    #[serde(rename = "digitalSignature")]
    DigitalSignature,
    /// Key transport of TLS 1.2 with RSA; RFC 8813 forbids it for elliptic curves.
    #[serde(rename = "keyEncipherment")]
    KeyEncipherment,
}

/// Whether a leaf carries DNS names besides its SPIFFE ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DnsNames {
    /// Never.
    None,
    /// Where a rule says so.
    Allowed,
    /// At least one, which comes before the SPIFFE ID.
    Required,
}

/// Lifetimes of one kind of certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lifetimes {
    /// Below this nothing is issued, not even when the issuer ends soon.
    #[serde(deserialize_with = "duration")]
    pub shortest: Duration,
    /// Where policy or configuration says nothing.
    #[serde(deserialize_with = "duration")]
    pub default: Duration,
    /// What policy and configuration may say at most.
    #[serde(deserialize_with = "duration")]
    pub longest: Duration,
}

/// What a workload's certificate may be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeafProfile {
    name: String,
    mesh: Mesh,
    keys: Vec<KeyAlgorithm>,
    key: KeyAlgorithm,
    key_usage: Vec<LeafUsage>,
    key_usage_rsa: Vec<LeafUsage>,
    dns_names: DnsNames,
    #[serde(deserialize_with = "duration")]
    backdate: Duration,
    lifetime: Lifetimes,
}

/// Which place in the hierarchy an authority has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Signs issuing CAs and is in every bundle.
    Root,
    /// Stands between an upstream's root and an issuing CA; never made here.
    Intermediate,
    /// Signs leaves.
    Issuing,
}

/// What an authority's certificate may be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorityProfile {
    name: String,
    level: Level,
    #[serde(default)]
    path_length: Option<u8>,
    key: KeyAlgorithm,
    keys: Vec<KeyAlgorithm>,
    #[serde(deserialize_with = "duration")]
    backdate: Duration,
    lifetime: Lifetimes,
}

/// All profiles.
#[derive(Debug, Clone)]
pub struct Profiles {
    leaves: Vec<Arc<LeafProfile>>,
    root: Arc<AuthorityProfile>,
    issuing: Arc<AuthorityProfile>,
}

impl Profiles {
    /// Those in `certs/`.
    #[must_use]
    pub fn builtin() -> &'static Self {
        static BUILTIN: LazyLock<Profiles> =
            LazyLock::new(|| Profiles::parse(&FILES).expect("a unit test reads the built-in profiles"));
        &BUILTIN
    }

    /// Reads profiles from `(file name, text)` pairs.
    ///
    /// # Errors
    /// Every variant of [`ProfileError`].
    pub fn parse(files: &[(&str, &str)]) -> Result<Self, ProfileError> {
        let (mut leaves, mut authorities) = (Vec::new(), Vec::new());
        for (file, text) in files {
            // An untagged enum would lose the place of a mistake, so the text itself says which kind it is.
            let form = |source| ProfileError::Form { file: (*file).to_owned(), source: Box::new(source) };
            if text.lines().any(|line| line.trim_start().starts_with("mesh")) {
                leaves.push(Arc::new(toml::from_str::<LeafProfile>(text).map_err(form)?.checked()?));
            } else {
                authorities.push(Arc::new(toml::from_str::<AuthorityProfile>(text).map_err(form)?.checked()?));
            }
        }
        let missing = |name: &str| ProfileError::Missing { name: name.to_owned() };
        if let Some(mesh) = Mesh::ALL.into_iter().find(|&mesh| !leaves.iter().any(|leaf| leaf.mesh == mesh)) {
            return Err(missing(mesh.as_str()));
        }
        let at = |level| authorities.iter().find(|authority| authority.level == level).cloned();
        Ok(Self {
            leaves,
            root: at(Level::Root).ok_or_else(|| missing("root"))?,
            issuing: at(Level::Issuing).ok_or_else(|| missing("issuing"))?,
        })
    }

    /// The leaf profile of a mesh.
    #[must_use]
    pub fn leaf(&self, mesh: Mesh) -> &Arc<LeafProfile> {
        self.leaves.iter().find(|leaf| leaf.mesh == mesh).expect("parse() made sure that every mesh has one")
    }

    /// The leaf profile with a name, as in a rule's `profile = "leaf-istio"`.
    #[must_use]
    pub fn leaf_named(&self, name: &str) -> Option<&Arc<LeafProfile>> {
        self.leaves.iter().find(|leaf| leaf.name == name)
    }

    /// All leaf profiles, in the order of documentation.
    pub fn leaves(&self) -> impl Iterator<Item = &Arc<LeafProfile>> {
        self.leaves.iter()
    }

    /// The root's.
    #[must_use]
    pub fn root(&self) -> &Arc<AuthorityProfile> {
        &self.root
    }

    /// The issuing CA's.
    #[must_use]
    pub fn issuing(&self) -> &Arc<AuthorityProfile> {
        &self.issuing
    }
}

impl LeafProfile {
    /// The name in records and in `cert show`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whose expectations it follows.
    #[must_use]
    pub fn mesh(&self) -> Mesh {
        self.mesh
    }

    /// The kinds of keys that may be certified where a rule says nothing; ML-DSA only ever by a rule.
    #[must_use]
    pub fn key_algorithms(&self) -> &[KeyAlgorithm] {
        &self.keys
    }

    /// The kind that this server makes where a rule says nothing.
    #[must_use]
    pub fn key_algorithm(&self) -> KeyAlgorithm {
        self.key
    }

    /// The key usage of a certificate for a key of this kind.
    #[must_use]
    pub fn key_usage(&self, algorithm: KeyAlgorithm) -> &[LeafUsage] {
        if algorithm.is_rsa() { &self.key_usage_rsa } else { &self.key_usage }
    }

    /// Whether there are DNS names.
    #[must_use]
    pub fn dns_names(&self) -> DnsNames {
        self.dns_names
    }

    /// How far `notBefore` lies before now, for peers whose clock is behind; less for short lives, see
    /// [`Self::backdate_for`].
    #[must_use]
    pub fn backdate(&self) -> Duration {
        self.backdate
    }

    /// The backdating for a certificate of this lifetime: never more than a tenth of it, because ztunnel renews at
    /// `notBefore` plus half of the whole span and would otherwise renew at once.
    #[must_use]
    pub fn backdate_for(&self, lifetime: Duration) -> Duration {
        self.backdate.min(lifetime / 10)
    }

    /// The bounds and the default.
    #[must_use]
    pub fn lifetime(&self) -> Lifetimes {
        self.lifetime
    }

    fn checked(self) -> Result<Self, ProfileError> {
        check(&self.name, self.key, &self.keys, self.lifetime)?;
        Ok(self)
    }
}

impl AuthorityProfile {
    /// The name in records: `root` or `issuing`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its place in the hierarchy.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// How many further CAs may stand below it; nothing means any number.
    #[must_use]
    pub fn path_length(&self) -> Option<u8> {
        self.path_length
    }

    /// The kind of key where configuration says nothing.
    #[must_use]
    pub fn key_algorithm(&self) -> KeyAlgorithm {
        self.key
    }

    /// The kinds of keys that configuration may choose.
    #[must_use]
    pub fn key_algorithms(&self) -> &[KeyAlgorithm] {
        &self.keys
    }

    /// How far `notBefore` lies before now.
    #[must_use]
    pub fn backdate_for(&self, lifetime: Duration) -> Duration {
        self.backdate.min(lifetime / 10)
    }

    /// The bounds and the default.
    #[must_use]
    pub fn lifetime(&self) -> Lifetimes {
        self.lifetime
    }

    fn checked(self) -> Result<Self, ProfileError> {
        check(&self.name, self.key, &self.keys, self.lifetime)?;
        Ok(self)
    }
}

fn check(name: &str, key: KeyAlgorithm, keys: &[KeyAlgorithm], lifetime: Lifetimes) -> Result<(), ProfileError> {
    if !keys.contains(&key) {
        return Err(ProfileError::DefaultKey { profile: name.to_owned(), key });
    }
    let Lifetimes { shortest, default, longest } = lifetime;
    // X.509 knows whole seconds only.
    if shortest < Duration::from_secs(1) || default < shortest || longest < default {
        return Err(ProfileError::Lifetimes { profile: name.to_owned() });
    }
    Ok(())
}

/// Reads `90s`, `5m`, `24h` or `30d`.
fn duration<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    let read = || {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return None,
        };
        number.parse::<u64>().ok()?.checked_mul(seconds).map(Duration::from_secs)
    };
    read().ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no duration: write 90s, 5m, 24h or 30d")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mesh_has_a_profile_that_is_safe_by_default() {
        let profiles = Profiles::parse(&FILES).unwrap();
        assert_eq!(profiles.leaves().map(|leaf| leaf.mesh()).collect::<Vec<_>>(), Mesh::ALL);
        for leaf in profiles.leaves() {
            assert_eq!(leaf.name(), format!("leaf-{}", leaf.mesh()));
            assert_eq!(leaf.key_algorithm(), KeyAlgorithm::P256);
            for post_quantum in [KeyAlgorithm::MlDsa44, KeyAlgorithm::MlDsa65, KeyAlgorithm::MlDsa87] {
                assert!(!leaf.key_algorithms().contains(&post_quantum), "{} is off by default", post_quantum);
            }
            assert!(leaf.backdate() * 10 <= leaf.lifetime().default);
            // RFC 8813 section 3.
            assert_eq!(leaf.key_usage(KeyAlgorithm::P256), [LeafUsage::DigitalSignature]);
            assert_eq!(profiles.leaf_named(leaf.name()).unwrap().mesh(), leaf.mesh());
        }
        assert_eq!(profiles.leaf(Mesh::Consul).lifetime().default, Duration::from_secs(72 * 3600));
        assert_eq!(profiles.leaf(Mesh::Linkerd).dns_names(), DnsNames::Required);
        assert_eq!(profiles.issuing().path_length(), Some(0));
        assert_eq!((profiles.root().level(), profiles.issuing().level()), (Level::Root, Level::Issuing));
    }

    #[test]
    fn backdating_shrinks_with_the_lifetime() {
        let istio = Profiles::builtin().leaf(Mesh::Istio);
        assert_eq!(istio.backdate_for(Duration::from_secs(86_400)), Duration::from_secs(120));
        assert_eq!(istio.backdate_for(Duration::from_secs(20)), Duration::from_secs(2));
    }

    #[test]
    fn mistakes_are_named() {
        let (_, istio) = FILES[3];
        let check = |from: &str, to: &str, expected: &str| {
            let text = istio.replace(from, to);
            assert_ne!(text, istio, "{from} is not in the file");
            let said = Profiles::parse(&[("mine.toml", &text)]).unwrap_err().to_string();
            assert!(said.contains(expected), "{said}");
        };
        check("key = \"p256\"", "key = \"mldsa65\"", "not in keys");
        check("\"24h\"", "\"24 hours\"", "write 90s");
        check("\"24h\"", "\"1s\"", "must grow");
        check("backdate", "backdating", "mine.toml");
        check("key = \"p256\"", "key = \"p521\"", "mine.toml");
        assert!(Profiles::parse(&FILES[1..]).unwrap_err().to_string().contains("root"));
        assert!(Profiles::parse(&FILES[..4]).unwrap_err().to_string().contains("linkerd"));
    }
}
