//! The parts of a record: who, from where, which certificate, authority or policy, and what changed.
//!
//! As in the record itself, fields are declared in the order of the canonical form, and absent ones are left out.

use serde::{Deserialize, Serialize};

/// A value that could identify a person, under a key that can be destroyed without breaking a proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// AES-256-GCM ciphertext and tag, base64.
    pub ct: String,
    /// The nonce, base64 of 12 bytes.
    pub nonce: String,
    /// Which key of the erasure pool.
    pub slot: u32,
}

/// Who did it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// For a client certificate: when the first of its line was issued by fresh attestation, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub attested_at: Option<String>,
    /// How the actor was attested: `unix_peer`, `client_certificate`, or `self` for chancery's own acts.
    pub attested_by: String,
    /// SHA-256 of the evidence, hex.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub evidence_sha256: Option<String>,
    /// The SPIFFE ID, where the actor is a workload that has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub id: Option<String>,
    /// An operator's name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<Sealed>,
    /// The serial of its client certificate.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub serial: Option<String>,
    /// Present and true when no person can be named: root without a login.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unattributed: Option<bool>,
}

/// Where it came from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The network address.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub address: Option<Sealed>,
    /// The group id of the process.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gid: Option<u32>,
    /// The process id.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pid: Option<u32>,
    /// The name of the listening socket.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub socket: Option<String>,
    /// The user id of the process.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub uid: Option<u32>,
}

/// A request for a second operator: all of it in `approval.request`, its id in the records that follow from it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalFacts {
    /// Which act, in the word of the configuration.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub act: Option<String>,
    /// What is to be done, for people.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub description: Option<String>,
    /// SHA-256 over the act, everything it was asked with and the state that it was computed against, hex.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub digest: Option<String>,
    /// Names the request.
    pub id: String,
    /// Until when it may be granted and used, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub until: Option<String>,
}

/// A break-glass: all of it in `breakglass.open`, its id in the record of each act that is done under it, and what was
/// done in `breakglass.close`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakglassFacts {
    /// In the closing record: what was done, each as its record and what it was; the first ones, where they are many.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub acts: Vec<String>,
    /// In the closing record: how many acts there were.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub count: Option<u64>,
    /// Names the credential; absent when a wrong one was tried.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub id: String,
    /// Until when it is open, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub until: Option<String>,
}

/// The certificate that a record is about. All hashes are SHA-256 in lower-case hex.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateFacts {
    /// SHA-256 over the DER of the chain behind the leaf (issuing CA first, no root).
    pub chain_sha256: String,
    /// SHA-256 of the certificate's DER; known only once it is signed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub der_sha256: Option<String>,
    /// The issuer's subject key identifier, hex.
    pub issuer_key_id: String,
    /// RFC 3339, seconds.
    pub not_after: String,
    /// RFC 3339, seconds.
    pub not_before: String,
    /// The serial of the certificate that this one follows.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub previous_serial: Option<String>,
    /// The certificate profile.
    pub profile: String,
    /// SHA-256 of the SubjectPublicKeyInfo.
    pub public_key_sha256: String,
    /// Why it was renewed: `scheduled`, `bundle`, `forced`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub renewal_cause: Option<String>,
    /// Serial number, lower-case hex without leading zeros to strip: as many digits as its bytes have.
    pub serial: String,
    /// SHA-256 of the to-be-signed bytes.
    pub tbs_sha256: String,
}

/// The authority that a record is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityFacts {
    /// The certificate's DER, base64, so that the ledger alone can rebuild the hierarchy.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub certificate: Option<String>,
    /// Subject key identifier, hex.
    pub key_id: String,
    /// `root`, `intermediate` or `issuing`.
    pub level: String,
    /// The common name, such as `issuing 3`.
    pub name: String,
    /// The state after this record: `prepared`, `active`, `retiring`, `gone`, `tainted`.
    pub state: String,
    /// Who signed it, where that was not an authority of this server: such as `vault https://vault:8200 pki`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub upstream: Option<String>,
}

/// The CRL that a record is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrlFacts {
    /// How many certificates are on it.
    pub entries: u64,
    /// The issuer's subject key identifier, hex.
    pub issuer_key_id: String,
    /// RFC 3339, seconds.
    pub next_update: String,
    /// Its number; grows with each CRL of this issuer.
    pub number: u64,
    /// SHA-256 of the to-be-signed bytes, hex.
    pub tbs_sha256: String,
    /// RFC 3339, seconds.
    pub this_update: String,
}

/// The policy that decided.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyFacts {
    /// SHA-256 of the policy file, hex.
    pub hash: String,
    /// For a refusal: the rules that came closest and what each missed.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub nearest: Vec<String>,
    /// The rule that granted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rule: Option<String>,
}

/// Many like it, counted instead of repeated.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coalesced {
    /// How many.
    pub count: u64,
    /// When the first happened, RFC 3339.
    pub first: String,
    /// When the last happened, RFC 3339.
    pub last: String,
}

/// What changed, for configuration, ledger and operator records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// SHA-256 of the state after, hex.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub after: Option<String>,
    /// SHA-256 of the state before, hex.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub before: Option<String>,
    /// How many things, where counting makes sense.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub count: Option<u64>,
    /// What: `policy`, `configuration`, `checkpoint`, `audit.export` …
    pub what: String,
}

/// One item of a `ledger.snapshot` run, or the item that closes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// In the closing record: how many records the run had before it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub count: Option<u64>,
    /// In the closing record: the predecessor's final checkpoint, whole.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub predecessor: Option<String>,
    /// In the closing record: SHA-256 over the leaf hashes of the run, hex.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub run_sha256: Option<String>,
}
