//! The policy that `up` writes on its first start, for its user to read and change.

use crate::identity::TrustDomain;

use super::ADMIN_SOCKET;

/// The text of a first `policy.toml`: the user `uid` gets an identity on the socket `sds` and one on each of
/// `more_sockets`, and may issue by name below `/workload`.
///
/// It reads without mistakes for a server of `trust_domain` with these sockets.
#[must_use]
pub fn starter(trust_domain: &TrustDomain, uid: u32, more_sockets: &[&str]) -> String {
    let mut text = format!(
        "\
# Who may have which certificate on this server, trust domain {trust_domain}.
#
# Rules are tried in order. Every matching rule grants; the first is what a proxy gets that asks for \"default\".
# chancery policy check      finds mistakes, all at once
# chancery policy explain    says what a caller would get, and why
# All keys, with examples: docs/policy.md

# Whoever started chancery, on the socket sds.
[[rule]]
name = \"you\"
match = {{ uid = {uid}, socket = \"sds\" }}
identity = \"spiffe://{{trust_domain}}/user/{{uid}}\"

# The same user as operator: `chancery cert issue` asks on the admin socket, for any identity below /workload, by name.
[[rule]]
name = \"operator\"
match = {{ uid = {uid}, socket = \"{ADMIN_SOCKET}\" }}
identity = \"spiffe://{{trust_domain}}/workload/*\"
"
    );
    if !more_sockets.is_empty() {
        let names = more_sockets.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        text.push_str(&format!(
            "
# One identity for each further socket: a socket is a fact that the kernel attests, like a user id.
[[rule]]
name = \"sockets\"
match = {{ uid = {uid}, socket = [{names}] }}
identity = \"spiffe://{{trust_domain}}/workload/{{socket}}\"
"
        ));
    }
    text.push_str(
        "
# An Istio workload that runs as a user of its own:
#
# [[rule]]
# name = \"payments api\"
# match = { uid = 1003, group = 2000 }
# mesh = \"istio\"
# identity = \"spiffe://{trust_domain}/ns/pay/sa/api\"
# lifetime = \"12h\"
#
# Whoever comes over mutual TLS with a certificate for an identity below /workload renews it, and gets no other:
#
# [[rule]]
# name = \"renew your own\"
# match = { client = \"spiffe://{trust_domain}/workload/*\" }
# identity = \"{client}\"
",
    );
    text
}
