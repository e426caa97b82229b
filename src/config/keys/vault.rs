//! The keys that every Vault has, whatever it is for; and those of `[keys.vault]`.

use crate::config::key::Presence::{Default, Derived, Off};
use crate::config::key::{Key, key};

/// How it is reached, in the order of the file: `address` is before them.
pub(super) const fn connection(table: &'static str) -> [Key; 3] {
    [
        key(
            table,
            "namespace",
            "a namespace",
            Off("\"mesh\""),
            "Vault's own namespace, which its enterprise edition has.",
            "As for `mount`.",
        ),
        key(
            table,
            "ca_file",
            "a file, PEM",
            Off("\"/etc/chancery/vault-ca.pem\""),
            "Who may have signed the certificate of Vault's listener: these alone. Without it, whom the system trusts.",
            "Vault counts as unreachable.",
        ),
        key(
            table,
            "timeout",
            "a span of time",
            Default("\"10s\""),
            "How long one request may take.",
            "Too short: a slow Vault counts as unreachable; it is tried again after a minute.",
        ),
    ]
}

/// How to log in.
pub(super) const fn login(table: &'static str) -> [Key; 8] {
    [
        key(
            table,
            "method",
            "token, approle, kubernetes or certificate",
            Off("\"approle\""),
            "How to log in. Each act logs in anew and gives its token back, but for `token`.",
            "With an address and without a method nothing is started.",
        ),
        key(
            table,
            "mount",
            "a mount of Vault's logins",
            Derived("`approle`, `kubernetes` or `cert`, by the method", "\"approle\""),
            "Where that login is mounted.",
            "Vault refuses the login.",
        ),
        key(
            table,
            "role",
            "a name",
            Off("\"chancery\""),
            "For kubernetes and certificate: the role to log in as.",
            "Vault refuses the login.",
        ),
        key(
            table,
            "role_id",
            "a text",
            Off("\"5f3a0c5e-0f0e-4c5e-9d2b-6a3f1f9b7c11\""),
            "For approle: the role's id. It is a name, not a secret.",
            "Vault refuses the login.",
        ),
        key(
            table,
            "secret_id_file",
            "a file, 0600",
            Off("\"/etc/chancery/secret-id\""),
            "For approle: the file with the secret id, read anew each time.",
            "Read by others: they log in as this server; destroy that secret id in Vault. Used up: Vault refuses, and what was issued goes on.",
        ),
        key(
            table,
            "token_file",
            "a file, 0600",
            Off("\"/run/vault/token\""),
            "For token: the file with a token that somebody else keeps fresh, such as Vault Agent. For kubernetes: the account's token, by default `/var/run/secrets/kubernetes.io/serviceaccount/token`. Read anew each time.",
            "Read by others: they are this server to Vault; revoke that token.",
        ),
        key(
            table,
            "certificate_file",
            "a file, PEM",
            Off("\"/etc/chancery/vault.pem\""),
            "For certificate: the client certificate with its chain.",
            "Vault refuses the login.",
        ),
        key(
            table,
            "key_file",
            "a file, 0600, PEM",
            Off("\"/etc/chancery/vault.key\""),
            "For certificate: its key.",
            "Read by others: they log in as this server; revoke the certificate.",
        ),
    ]
}

/// In the order of the file, without what every Vault has.
pub(super) const KEYS: &[Key] = &[
    key(
        "keys.vault",
        "address",
        "an address with https, or http on this machine",
        Off("\"https://vault.example.org:8200\""),
        "Where Vault is. With it, the keys of the authorities named by `authorities` are made in its Transit engine, from the next authority on; `chancery ca rotate issuing` makes that now. What is there stays where it is.",
        "Taken out while a key is in Vault: the server refuses to start. While Vault is away nothing is signed with those keys: certificates that were issued go on, new ones wait where `issuing` is among them, and a CRL lasts until its `nextUpdate`, which `status` prints.",
    ),
    key(
        "keys.vault",
        "mount",
        "a mount in Vault",
        Default("\"transit\""),
        "Where its Transit engine is mounted. The token needs `create`, `update` and `read` on `MOUNT/keys/PREFIX*` and `update` on `MOUNT/sign/PREFIX*` (docs/keys.md).",
        "Wrong: Vault answers 403 or 404 when the next key is to be made, and what was there before goes on.",
    ),
    key(
        "keys.vault",
        "prefix",
        "a name",
        Default("\"chancery-\""),
        "What the names of keys made in Vault begin with: `chancery-issuing-3-5f2a9c01`. The end is random, so that two servers with one mount never share a key.",
        "As for `mount`.",
    ),
    key(
        "keys.vault",
        "authorities",
        "a list of root and issuing",
        Derived("the root where it is this server's own", "[\"issuing\"]"),
        "Whose keys are made in Vault. A root is asked for a signature when an issuing CA or its own CRL is due; an issuing CA for each certificate, which costs a request to Vault each (docs/performance.md) and stops with Vault. Empty: no new ones.",
        "`root` where [upstream.vault] signs: a mistake, because that root's key is in Vault already.",
    ),
    key(
        "keys.vault",
        "sealing",
        "true or false",
        Default("false"),
        "Whether the key that the keys in `data_dir/keys` are sealed with is encrypted by a key in Vault, and here in memory only. A stolen disk or backup then gives nothing without Vault. The token needs `update` on `MOUNT/encrypt/PREFIX*` and `MOUNT/decrypt/PREFIX*`. For an installation that is there, change this and run `chancery ca reseal` with the server stopped.",
        "The server starts only while Vault answers. The key in Vault deleted: every key sealed under it is lost.",
    ),
    key(
        "keys.vault",
        "look_every",
        "a span of time",
        Default("\"1m\""),
        "How often the keys in Vault are looked at: a rotation, a restriction or a deletion there is recorded, and `status` says it.",
        "Long: it is seen late, or by the first signature that fails.",
    ),
];
