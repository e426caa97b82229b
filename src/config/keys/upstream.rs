//! The keys of `[upstream.vault]`.

use crate::config::key::Presence::{Default, Off};
use crate::config::key::{Key, key};

/// In the order of the file, without what every Vault has.
pub(super) const KEYS: &[Key] = &[
    key(
        "upstream.vault",
        "address",
        "an address with https, or http on this machine",
        Off("\"https://vault.example.org:8200\""),
        "Where Vault is. With it, Vault signs the issuing CA, and its root is the one that proxies trust.",
        "It is asked when an issuing CA is due and for CRLs, not for each certificate: while it is away issuing goes on. A data directory that began with a root of its own is refused.",
    ),
    key(
        "upstream.vault",
        "mount",
        "a mount in Vault",
        Default("\"pki\""),
        "Where its PKI engine is mounted. The token needs `update` on `MOUNT/issuer/ISSUER/sign-intermediate` and `read` on `MOUNT/crl/rotate`.",
        "Wrong: Vault answers 403 or 404, and the first start ends with what it said.",
    ),
    key(
        "upstream.vault",
        "issuer",
        "a name or id in that engine, or default",
        Default("\"default\""),
        "Which of its issuers signs. Its chain must be there whole, up to the root.",
        "When it comes to stand under another root than the one trusted here, nothing is taken from it and the log says so at each attempt.",
    ),
    key(
        "upstream.vault",
        "crl_mounts",
        "a list of mounts",
        Off("[\"pki-root\"]"),
        "Mounts in the same Vault of the CAs above that issuer: Envoy wants a CRL of each CA in a chain, and these have theirs.",
        "No issuing CA is taken into use before every CA above it has a CRL.",
    ),
    key(
        "upstream.vault",
        "crl_files",
        "a list of files, PEM or DER",
        Off("[\"/etc/chancery/root.crl\"]"),
        "CRLs of CAs above that are in no Vault, such as an offline root's. They are read again whenever one is due.",
        "As for `crl_mounts`. When such a CRL ends every handshake fails: `status` says when.",
    ),
];
