//! The one table of configuration keys: docs/configuration.md and the default file are written from it, and a test holds
//! it against the keys that are really read.

use std::sync::LazyLock;

use super::key::Presence::{Default, Derived, Off, Required};
use super::key::{Key, key};

mod bounds;
mod upstream;

/// A table that is a list: `[[sds.listen]]`.
pub(super) const LISTS: [&str; 2] = ["sds.listen", "admin.operator"];

/// Lists that are empty by default.
pub(super) const EXAMPLES: [&str; 1] = ["admin.operator"];

/// What a table is for, in the order of the file.
pub(super) const TABLES: [(&str, &str); 16] = [
    ("", "The server as a whole."),
    ("keys", "The authorities' own keys, in `data_dir/keys`, each sealed."),
    (
        "sds.listen",
        "Where proxies get certificates: a Unix socket, a TCP port with mutual TLS, or both under one name; at least one.",
    ),
    ("sds.names", "What clients call the secrets. A SPIFFE ID and the trust domain's name are understood besides."),
    ("http", "Bundle, ledger checkpoints and hash tiles, health, metrics. All of it is public; none of it is secret."),
    ("admin", "The operator's API: `chancery cert`, `ca`, `policy`, `audit`, `status` ask there (docs/admin.md)."),
    (
        "admin.operator",
        "Who may use the operator's API, and as what. Root and the server's own user are admins always; without any of these, nobody else is let in. Of several that fit, the highest role counts.",
    ),
    ("ca.root", "The root authority, where one has to be made. Existing authorities keep what they are."),
    ("ca.issuing", "The issuing authority under it. It rolls over by itself, unseen by proxies."),
    (
        "upstream.vault",
        "A Vault whose PKI engine signs the issuing CA, so that the root's key never comes here (docs/upstream.md). Without it the root is this server's own.",
    ),
    ("upstream.vault.login", "How this server logs in to that Vault. No secret is written here: files hold them."),
    (
        "upstream.files",
        "An existing CA in PEM files, a corporate one or Istio's `cacerts`, above the issuing CA (docs/upstream.md). Every other path of this table is meant from `directory`.",
    ),
    ("crl", "The lists of revoked certificates, one of each authority: pushed with the roots, and on `/crl`."),
    ("ledger", "The audit ledger. Nothing is issued that is not in it."),
    ("limits", "Every queue, wait and message has a bound; these are the ones that an installation may need to move."),
    ("log", "The log for operators. What auditors read is the ledger; this is not it."),
];

/// Every key, in the order of the file.
pub static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| [PLACES, upstream::KEYS, bounds::KEYS].concat());

/// Where things are, who gets in, and what authorities are like.
const PLACES: &[Key] = &[
    key(
        "",
        "trust_domain",
        "a name",
        Required("\"example.org\""),
        "The trust domain whose identities this server issues: the first part of every SPIFFE ID, and of the ledger's name.",
        "It is fixed by the first start: a data directory of another trust domain is refused, and nothing is changed.",
    ),
    key(
        "",
        "data_dir",
        "a directory",
        Required("\"/var/lib/chancery\""),
        "Holds the sealed keys, the ledger, the index and the sockets that have no path of their own. Only the server's user may be able to enter it. A relative path is meant from this file's directory, here and everywhere.",
        "Lost: the authority and its history are gone, every proxy needs a new root. Read by others: the sealing key lies beside the sealed keys, so they can issue certificates; start a new root.",
    ),
    key(
        "",
        "policy",
        "a file",
        Derived("`policy.toml` in `data_dir`", "\"/etc/chancery/policy.toml\""),
        "Who may have which certificate (docs/policy.md).",
        "A file with mistakes, or one that others than its owner can write, is refused: the server does not start, a running one keeps the policy it has.",
    ),
    key(
        "keys",
        "sealing_key",
        "a file, or credential:NAME",
        Off("\"credential:sealing.key\""),
        "The key that the others are sealed with, kept away from them; `chancery config sealing-key FILE` makes one. `credential:NAME` is what systemd hands over by `LoadCredential=NAME:FILE` or `LoadCredentialEncrypted=`. Without this key it lies beside them, in `data_dir/keys/sealing.key`.",
        "Lost: the authority's keys are lost with it, so keep a copy apart from those of the data directory. Beside the keys as well: the server refuses to start until there is one only.",
    ),
    key(
        "sds.listen",
        "name",
        "a name",
        Required("\"sds\""),
        "What rules call this socket (`match = { socket = \"sds\" }`). Letters, digits, dots, dashes, underscores; `admin` is taken.",
        "A rule that names a socket which is not open is a mistake in the policy.",
    ),
    key(
        "sds.listen",
        "path",
        "a path of at most 107 bytes",
        Required("\"/run/chancery/sds.sock\""),
        "Where the Unix socket is. Its directory must exist and belong to the server. Left out, there is only `address`.",
        "A socket that another server has open is refused; one that is left over from a crash is replaced.",
    ),
    key(
        "sds.listen",
        "mode",
        "permission bits, octal",
        Default("\"0660\""),
        "Who may connect. The policy decides who gets something; \"0666\" lets everybody ask.",
        "Too narrow: proxies of other users cannot connect. Too wide: strangers can connect, are refused, and fill the ledger with counted refusals.",
    ),
    key(
        "sds.listen",
        "address",
        "an address and port",
        Off("\"0.0.0.0:8443\""),
        "Where proxies on other machines connect: TLS 1.3, and every client shows a certificate of this server's own (the first comes from `chancery cert issue`). Port 0 takes a free one, which `addresses.json` in `data_dir` names. The server shows `spiffe://TRUST-DOMAIN/chancery/server`, which it issues to itself.",
        "A port in use is told at the start and nothing is started. Without a rule for `client` nobody gets anything here.",
    ),
    key(
        "sds.names",
        "default",
        "a name",
        Default("\"default\""),
        "The caller's own certificate: what the first matching rule grants.",
        "Envoy waits for ever for a secret that nobody serves: its `initial_fetch_timeout` decides how long.",
    ),
    key(
        "sds.names",
        "bundle",
        "a name",
        Default("\"ROOTCA\""),
        "The roots of this trust domain, as Istio and SPIRE users expect it.",
        "As for `default`.",
    ),
    key(
        "sds.names",
        "all_bundles",
        "a name",
        Default("\"ALL\""),
        "Envoy's SPIFFE validator with every bundle that the server knows.",
        "As for `default`.",
    ),
    key(
        "http",
        "listen",
        "an address and port",
        Off("\"127.0.0.1:8080\""),
        "Where HTTP is served; port 0 takes a free one, which `addresses.json` in `data_dir` names. Off when left out.",
        "A port in use is told at the start and nothing is started.",
    ),
    key(
        "http",
        "beyond_loopback",
        "true or false",
        Default("false"),
        "Allows an address that other machines reach.",
        "Nothing secret is served, but there is no TLS here: whoever is on the way can hand out another bundle, and so another root. Put a TLS proxy in front instead.",
    ),
    key(
        "admin",
        "path",
        "a path of at most 107 bytes",
        Derived("`admin.sock` in `data_dir`", "\"/run/chancery/admin.sock\""),
        "The admin socket. The kernel says who connects; those without a role are refused.",
        "Whoever runs as the server's user can act as operator, as it could by reading `data_dir`; each act is in the ledger.",
    ),
    key(
        "admin",
        "mode",
        "permission bits, octal",
        Default("\"0600\""),
        "Who may connect to the admin socket. Operators of other users need \"0660\" (the server's group) or \"0666\", and a path whose directories they may enter.",
        "Too narrow: they cannot connect. Too wide: strangers can, are told no, and fill the ledger with counted refusals.",
    ),
    key(
        "admin",
        "listen",
        "an address and port",
        Off("\"0.0.0.0:8444\""),
        "The operator's API over TCP: mutual TLS with certificates of this trust domain, never without. `--server` and `--identity-dir` of the command line use it.",
        "Reached by strangers: they are refused at the handshake; those with a certificate and without a role are told no, and each is in the ledger.",
    ),
    key(
        "admin.operator",
        "role",
        "reader, operator or admin",
        Required("\"operator\""),
        "What they may do: a reader looks; an operator also issues, rotates, revokes and releases single identities, and reads who did what; an admin also revokes many, changes the policy and reloads.",
        "Too high: more people than needed can revoke or change who gets what. Each act is in the ledger.",
    ),
    key(
        "admin.operator",
        "uid",
        "a number or a list of numbers",
        Off("[1001, 1002]"),
        "Users of this machine, on the admin socket.",
        "A number that another user gets later has the role too: name groups, or certificates.",
    ),
    key(
        "admin.operator",
        "gid",
        "a number or a list of numbers",
        Off("2000"),
        "Groups of this machine, on the admin socket: as a user's own or as a supplementary group.",
        "As `uid`.",
    ),
    key(
        "admin.operator",
        "client",
        "a SPIFFE ID, a prefix that ends in `/*`, or a list of them",
        Off("\"spiffe://{trust_domain}/operators/*\""),
        "Holders of client certificates, on `admin.listen`. An operator's certificate comes from `chancery cert issue`, by a rule of the policy like every other.",
        "Whoever the policy grants such an identity to has the role: keep these identities for people.",
    ),
    key(
        "ca.root",
        "key",
        "p256, p384, ed25519, rsa2048, rsa3072, rsa4096, mldsa44, mldsa65 or mldsa87",
        Default("\"p256\""),
        "The algorithm of a new root's key.",
        "A root that a client cannot verify fails every handshake of that client: ML-DSA and Ed25519 need clients that know them.",
    ),
    key(
        "ca.root",
        "lifetime",
        "a span of time",
        Default("\"3650d\""),
        "How long a new root lives.",
        "Too short: roots must be replaced in every client sooner. Too long: a stolen key is worth more.",
    ),
    key(
        "ca.root",
        "silent_wait",
        "a span of time",
        Derived("the longest lifetime in the policy and 5 minutes", "\"24h5m\""),
        "How long a new root is in every bundle before it may take over, for the sake of whoever takes bundles and acknowledges nothing: over HTTP, by federation, in files. Those that acknowledge are waited for besides.",
        "Too short: whoever looks less often refuses certificates under the new root until it looks again.",
    ),
    key(
        "ca.issuing",
        "key",
        "as `ca.root.key`",
        Default("\"p256\""),
        "The algorithm of a new issuing authority's key.",
        "As for `ca.root.key`; it holds from the next roll-over.",
    ),
    key(
        "ca.issuing",
        "lifetime",
        "a span of time",
        Default("\"90d\""),
        "How long a new issuing authority lives. Its successor is prepared at half of it and takes over soon after, in any case while it outlives every certificate under it.",
        "Must be at least twice the longest lifetime in the policy and at most half of the root's; otherwise nothing is started.",
    ),
];
