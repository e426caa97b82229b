//! The one table of configuration keys: docs/configuration.md and the default file are written from it, and a test holds
//! it against the keys that are really read.

/// Whether a key must be written, and what holds when it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Must be written; an example.
    Required(&'static str),
    /// May be left out; the default, as it would be written.
    Default(&'static str),
    /// May be left out, and then the default is made of other keys; that, in words, and an example.
    Derived(&'static str, &'static str),
    /// May be left out, and then there is no such thing; an example.
    Off(&'static str),
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// The table it is in, without brackets; empty for the top level.
    pub table: &'static str,
    /// Its name in that table.
    pub name: &'static str,
    /// What kind of value it takes, in words.
    pub kind: &'static str,
    /// Whether it must be written.
    pub presence: Presence,
    /// What it does.
    pub text: &'static str,
    /// What happens when it is wrong, lost or known to others.
    pub when_wrong: &'static str,
}

impl Key {
    /// The key with its table: `http.listen`.
    #[must_use]
    pub fn path(&self) -> String {
        if self.table.is_empty() { self.name.to_owned() } else { format!("{}.{}", self.table, self.name) }
    }

    /// The value that is shown in the default file.
    #[must_use]
    pub fn value(&self) -> &'static str {
        match self.presence {
            Required(value) | Default(value) | Derived(_, value) | Off(value) => value,
        }
    }
}

/// Makes one entry of the table.
const fn key(
    table: &'static str,
    name: &'static str,
    kind: &'static str,
    presence: Presence,
    text: &'static str,
    when_wrong: &'static str,
) -> Key {
    Key { table, name, kind, presence, text, when_wrong }
}

use Presence::{Default, Derived, Off, Required};

/// A table that is a list: `[[sds.listen]]`.
pub(super) const LISTS: [&str; 2] = ["sds.listen", "admin.operator"];

/// Lists that are empty by default.
pub(super) const EXAMPLES: [&str; 1] = ["admin.operator"];

/// What a table is for, in the order of the file.
pub(super) const TABLES: [(&str, &str); 12] = [
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
    ("ledger", "The audit ledger. Nothing is issued that is not in it."),
    ("limits", "Every queue, wait and message has a bound; these are the ones that an installation may need to move."),
    ("log", "The log for operators. What auditors read is the ledger; this is not it."),
];

/// Every key, in the order of the file.
pub const KEYS: &[Key] = &[
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
    key(
        "ledger",
        "reserve_mib",
        "a whole number of MiB",
        Default("64"),
        "Kept aside on disk so that a full disk still takes revocations and operators' acts. Issuing stops before it is touched.",
        "Too small: with a full disk even a revocation may wait until somebody makes room.",
    ),
    key(
        "limits",
        "max_certificates_per_caller",
        "a whole number",
        Default("4096"),
        "Live certificates of one account (socket and user), all its processes together.",
        "Too small: further proxies of that account are refused, with a record. Too large: one user can take the server's memory.",
    ),
    key(
        "limits",
        "max_issues_at_once",
        "a whole number",
        Default("256"),
        "Certificates being issued at the same moment; further ones wait their turn.",
        "Too small: a restart with thousands of proxies takes longer. Too large: it takes more memory.",
    ),
    key(
        "limits",
        "max_forced_rotations_at_once",
        "a whole number",
        Default("32"),
        "Certificates that `cert rotate` has issued at the same moment. No more than half of max_issues_at_once is used, so that new requests find room.",
        "Too small: rotating all takes longer. Too large: it takes more memory and processor time from other requests.",
    ),
    key(
        "limits",
        "forced_rotation_timeout",
        "a span of time",
        Default("\"30s\""),
        "How long a forced rotation waits for a proxy to take its new certificate before it reports the proxy as gone.",
        "Too short: slow proxies are reported as gone although they take it later. Too long: a rotation reports late.",
    ),
    key(
        "limits",
        "issue_rate_per_caller",
        "a whole number each second",
        Default("20"),
        "New certificates of one account are allowed again at this rate, once it has had `issue_burst_per_caller`. Renewals, and certificates that a proxy keeps over a reconnect, are not counted.",
        "Too small: proxies that restart again and again wait longer. Too large: a client that asks again and again fills the ledger.",
    ),
    key(
        "limits",
        "issue_burst_per_caller",
        "a whole number",
        Default("4096"),
        "New certificates that one account may have at once: those of all its proxies, so that a node can restart with all of them. Further ones are refused with `RESOURCE_EXHAUSTED` and a record; proxies try again.",
        "Too small: after a node's restart some of its proxies wait. Too large: as for `issue_rate_per_caller`.",
    ),
    key(
        "limits",
        "max_connections",
        "a whole number",
        Default("8192"),
        "Connections on one SDS socket; further ones wait in the system's queue.",
        "Too small: proxies wait for a certificate. Too large: the server runs out of descriptors (see `ulimit -n`).",
    ),
    key(
        "limits",
        "max_connections_per_caller",
        "a whole number",
        Default("6144"),
        "Connections of one account on one socket, so that no user can take them all; further ones are closed at once.",
        "Too small: further proxies of that account try again and again.",
    ),
    key(
        "limits",
        "max_streams_per_connection",
        "a whole number",
        Default("2048"),
        "Streams on one connection. Envoy opens one for each secret.",
        "Too small: further streams wait in the proxy.",
    ),
    key(
        "limits",
        "max_streams_per_caller",
        "a whole number",
        Default("16384"),
        "Streams of one account on one socket, all its connections together; further ones are refused with `RESOURCE_EXHAUSTED` and a record.",
        "Too small: further proxies of that account get no certificate. Too large: one user can take the server's memory, some 10 KB for each stream.",
    ),
    key(
        "limits",
        "max_request_bytes",
        "a whole number of bytes, 65536 or more",
        Default("524288"),
        "The largest message from a client. Envoy's first one holds its whole node and extension list, about 61 KB.",
        "Too small: proxies are refused with a message that says so. Too large: a client can take that much memory for each stream.",
    ),
    key(
        "limits",
        "max_request_bytes_per_caller",
        "a whole number of bytes, `max_request_bytes` or more",
        Default("67108864"),
        "What the requests of one account on one socket may hold that have not arrived whole yet; further ones wait for room, and are refused after `request_timeout`.",
        "Too small: a node that restarts with thousands of proxies is served more slowly. Too large: one user can take that much memory.",
    ),
    key(
        "limits",
        "max_header_bytes",
        "a whole number of bytes, 4096 or more",
        Default("16384"),
        "The headers of one request.",
        "Too small: a client that sends long metadata is refused.",
    ),
    key(
        "limits",
        "max_names_per_stream",
        "a whole number",
        Default("1024"),
        "Secrets that one stream subscribes to.",
        "Too small: a stream that asks for more is refused with a message that says so.",
    ),
    key(
        "limits",
        "request_timeout",
        "a span of time",
        Default("\"30s\""),
        "A message that was begun must be whole by then, and a new stream must have its first.",
        "Too short: slow clients are cut off and try again.",
    ),
    key(
        "limits",
        "keepalive_interval",
        "a span of time",
        Default("\"30s\""),
        "How often a silent connection is asked whether it lives.",
        "Too long: a client that vanished counts as live for longer.",
    ),
    key(
        "limits",
        "keepalive_timeout",
        "a span of time",
        Default("\"20s\""),
        "How long a connection may take to answer that.",
        "Too short: a proxy that was paused for a moment has to connect again; it keeps its certificate.",
    ),
    key(
        "limits",
        "idle_timeout",
        "a span of time",
        Default("\"300s\""),
        "A connection without a stream is closed after this.",
        "Too long: idle connections count against `max_connections`.",
    ),
    key(
        "limits",
        "handshake_timeout",
        "a span of time",
        Default("\"10s\""),
        "From a TCP connection to a client that is known; slower ones are cut off.",
        "Too short: clients far away never get in. Too long: clients that never finish hold `max_handshakes` for longer.",
    ),
    key(
        "limits",
        "max_handshakes",
        "a whole number, 2 or more",
        Default("512"),
        "TLS handshakes under way on one port; further connections wait in the system's queue. One address has half of them at most.",
        "Too small: a restart with thousands of proxies takes longer. Too large: strangers who never finish take more memory.",
    ),
    key(
        "limits",
        "renewal_retry_first",
        "a span of time",
        Default("\"2s\""),
        "The wait after a failed renewal; it doubles each time, with jitter.",
        "Too short: a broken ledger or disk is asked more often. The proxy keeps its certificate meanwhile.",
    ),
    key(
        "limits",
        "renewal_retry_longest",
        "a span of time",
        Default("\"60s\""),
        "What that wait grows to.",
        "Too long: after a repair, renewals go on later. Keep it well below the shortest lifetime.",
    ),
    key(
        "limits",
        "overdue_spread",
        "a span of time",
        Default("\"10s\""),
        "Renewals that fell due while the server was away are spread over this time.",
        "Too short: a burst after a restart. Too long: certificates near their end wait.",
    ),
    key(
        "limits",
        "drain",
        "a span of time",
        Default("\"10s\""),
        "How long a stopping server waits for what is under way before it closes the streams and the ledger.",
        "Nothing is lost when it is too short: what was recorded and not delivered is a record without `certificate.signed`.",
    ),
    key(
        "log",
        "format",
        "text or json",
        Default("\"text\""),
        "One line for people, or one JSON object a line.",
        "No secret is in either.",
    ),
    key(
        "log",
        "level",
        "error, warn, info, debug or trace",
        Default("\"info\""),
        "The least severity that is logged.",
        "`debug` and `trace` name identities and sockets at every step; they are large, not secret.",
    ),
];
