//! What is said to Transit and what it answers, read as foreign bytes.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::x509::{KeyAlgorithm, SignatureAlgorithm, SubjectKey, der, pem};

/// What Transit calls a kind of key; nothing for one that it has not, or not in a form that X.509 takes.
pub(super) fn kind(algorithm: KeyAlgorithm) -> Option<&'static str> {
    match algorithm {
        KeyAlgorithm::P256 => Some("ecdsa-p256"),
        KeyAlgorithm::P384 => Some("ecdsa-p384"),
        KeyAlgorithm::Ed25519 => Some("ed25519"),
        KeyAlgorithm::Rsa2048 => Some("rsa-2048"),
        KeyAlgorithm::Rsa3072 => Some("rsa-3072"),
        KeyAlgorithm::Rsa4096 => Some("rsa-4096"),
        KeyAlgorithm::MlDsa44 | KeyAlgorithm::MlDsa65 | KeyAlgorithm::MlDsa87 => None,
    }
}

/// `POST MOUNT/keys/NAME`.
#[derive(Debug, Serialize)]
pub(super) struct NewKey {
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) exportable: bool,
    pub(super) allow_plaintext_backup: bool,
}

/// `GET MOUNT/keys/NAME`.
#[derive(Debug, Deserialize)]
pub(super) struct KeyInfo {
    #[serde(rename = "type")]
    kind: String,
    pub(super) latest_version: u64,
    #[serde(default)]
    pub(super) exportable: bool,
    #[serde(default)]
    pub(super) allow_plaintext_backup: bool,
    /// The least version that may sign; 0 is the newest alone or all, as Vault has it.
    #[serde(default)]
    min_encryption_version: u64,
    keys: BTreeMap<String, KeyVersion>,
}

#[derive(Debug, Deserialize)]
struct KeyVersion {
    #[serde(default)]
    public_key: String,
}

impl KeyInfo {
    /// The SubjectPublicKeyInfo of a version, which must be of `algorithm`.
    pub(super) fn spki(&self, version: u64, algorithm: KeyAlgorithm) -> Result<Vec<u8>, &'static str> {
        if kind(algorithm) != Some(self.kind.as_str()) {
            return Err("it is of another type");
        }
        let found = self.keys.get(&version.to_string()).ok_or("it has no such version")?;
        let spki =
            if algorithm == KeyAlgorithm::Ed25519 { ed25519(&found.public_key) } else { from_pem(&found.public_key) };
        let spki = spki.ok_or("its public key cannot be read")?;
        match SubjectKey::from_spki(spki) {
            Ok(key) if key.algorithm() == algorithm => Ok(key.spki_der().to_vec()),
            Ok(_) => Err("its public key is of another kind"),
            Err(_) => Err("its public key cannot be certified"),
        }
    }

    /// Whether a version may still sign.
    pub(super) fn may_sign(&self, version: u64) -> bool {
        version >= self.min_encryption_version
    }
}

/// The public half of an Ed25519 key is bare base64 in Vault; those of all others are PEM.
fn ed25519(text: &str) -> Option<Vec<u8>> {
    let raw = STANDARD.decode(text).ok().filter(|raw| raw.len() == 32)?;
    let identifier = KeyAlgorithm::Ed25519.spki_identifier();
    let mut spki = Vec::with_capacity(44);
    der::write_header(&mut spki, der::SEQUENCE, identifier.len() + raw.len() + 3);
    spki.extend_from_slice(identifier);
    der::write_header(&mut spki, der::BIT_STRING, raw.len() + 1);
    spki.push(0);
    spki.extend_from_slice(&raw);
    Some(spki)
}

fn from_pem(text: &str) -> Option<Vec<u8>> {
    let blocks = pem::decode(text.as_bytes()).ok()?;
    match blocks.as_slice() {
        // Some versions call an RSA key's SubjectPublicKeyInfo "RSA PUBLIC KEY"; what is in it is looked at anyway.
        [block] if block.label.ends_with("PUBLIC KEY") => Some(block.der.clone()),
        _ => None,
    }
}

/// `POST MOUNT/sign/NAME`.
#[derive(Debug, Serialize)]
pub(super) struct SignBody<'a> {
    key_version: u64,
    #[serde(flatten)]
    how: How,
    batch_input: Vec<Input<'a>>,
}

#[derive(Debug, Serialize)]
struct Input<'a> {
    input: &'a str,
}

/// How a kind of key signs what [`input`] makes.
#[derive(Debug, Default, Serialize)]
struct How {
    #[serde(skip_serializing_if = "Option::is_none")]
    hash_algorithm: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prehashed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    marshaling_algorithm: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signature_algorithm: Option<&'static str>,
}

impl<'a> SignBody<'a> {
    pub(super) fn new(version: u64, algorithm: SignatureAlgorithm, inputs: impl Iterator<Item = &'a str>) -> Self {
        let hashed = |name| How { hash_algorithm: Some(name), prehashed: Some(true), ..How::default() };
        let how = match algorithm {
            SignatureAlgorithm::EcdsaP256Sha256 => How { marshaling_algorithm: Some("asn1"), ..hashed("sha2-256") },
            SignatureAlgorithm::EcdsaP384Sha384 => How { marshaling_algorithm: Some("asn1"), ..hashed("sha2-384") },
            SignatureAlgorithm::RsaPkcs1Sha256 => How { signature_algorithm: Some("pkcs1v15"), ..hashed("sha2-256") },
            SignatureAlgorithm::Ed25519
            | SignatureAlgorithm::MlDsa44
            | SignatureAlgorithm::MlDsa65
            | SignatureAlgorithm::MlDsa87 => How::default(),
        };
        Self { key_version: version, how, batch_input: inputs.map(|input| Input { input }).collect() }
    }
}

/// What Vault is given for `message`: its hash, so that a CRL of megabytes costs what a leaf costs; the whole message for
/// Ed25519, which hashes by itself (RFC 8032 section 5.1.6).
pub(super) fn input(algorithm: SignatureAlgorithm, message: &[u8]) -> String {
    match algorithm {
        SignatureAlgorithm::EcdsaP256Sha256 | SignatureAlgorithm::RsaPkcs1Sha256 => {
            STANDARD.encode(digest::digest(&digest::SHA256, message))
        }
        SignatureAlgorithm::EcdsaP384Sha384 => STANDARD.encode(digest::digest(&digest::SHA384, message)),
        SignatureAlgorithm::Ed25519
        | SignatureAlgorithm::MlDsa44
        | SignatureAlgorithm::MlDsa65
        | SignatureAlgorithm::MlDsa87 => STANDARD.encode(message),
    }
}

/// Its answer, one result for each input in their order.
#[derive(Debug, Deserialize)]
pub(super) struct SignAnswer {
    pub(super) batch_results: Vec<SignResult>,
}

/// A signature, or why there is none.
#[derive(Debug, Deserialize)]
pub(super) struct SignResult {
    #[serde(default)]
    signature: String,
    #[serde(default)]
    error: String,
}

impl SignResult {
    /// The signature by `version`: `vault:v3:` and base64.
    pub(super) fn signature(&self, version: u64) -> Result<Vec<u8>, String> {
        if !self.error.is_empty() {
            return Err(self.error.chars().take(200).collect());
        }
        let text = self.signature.strip_prefix(&format!("vault:v{version}:"));
        let bytes = text.and_then(|text| STANDARD.decode(text).ok());
        bytes.ok_or_else(|| format!("no signature by version {version}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(json: &str) -> KeyInfo {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_public_key_of_ed25519_is_bare_and_others_are_pem() {
        let raw = STANDARD.encode([7; 32]);
        let found =
            info(&format!(r#"{{"type":"ed25519","latest_version":2,"keys":{{"2":{{"public_key":"{raw}"}}}}}}"#));
        let key = SubjectKey::from_spki(found.spki(2, KeyAlgorithm::Ed25519).unwrap()).unwrap();
        assert_eq!((key.algorithm(), key.raw()), (KeyAlgorithm::Ed25519, &[7; 32][..]));
        assert!(found.spki(1, KeyAlgorithm::Ed25519).is_err(), "no such version");
        assert!(found.spki(2, KeyAlgorithm::P256).is_err(), "another type");
        for wrong in ["", "AAAA", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "\u{fffd}"] {
            let key = serde_json::to_string(wrong).unwrap();
            for kind in ["ed25519", "ecdsa-p256"] {
                let found =
                    info(&format!(r#"{{"type":"{kind}","latest_version":1,"keys":{{"1":{{"public_key":{key}}}}}}}"#));
                assert!(found.spki(1, KeyAlgorithm::Ed25519).is_err() && found.spki(1, KeyAlgorithm::P256).is_err());
            }
        }
    }

    #[test]
    fn only_a_signature_by_the_pinned_version_counts() {
        let result = |json: &str| serde_json::from_str::<SignResult>(json).unwrap();
        assert_eq!(result(r#"{"signature":"vault:v3:AQI="}"#).signature(3), Ok(vec![1, 2]));
        for wrong in [
            r#"{"signature":"vault:v4:AQI="}"#,
            r#"{"signature":"vault:v3:*"}"#,
            r#"{"signature":"AQI="}"#,
            r#"{"signature":"vault:v3:AQI=","error":"denied"}"#,
            "{}",
        ] {
            assert!(result(wrong).signature(3).is_err(), "{wrong}");
        }
    }
}
