//! The tree of an Envoy configuration. Each choice that a reader could wonder about says why.

use std::net::{IpAddr, SocketAddr};

use super::sds::{self, Source, secret};
use super::tree::{Node, list, map};
use super::{EnvoyBootstrapArgs, Peer, Role, Target};

const UPSTREAM: &str = "upstream";
pub(super) const TYPE: &str = "@type";

pub(super) fn type_url(name: &str) -> Node {
    format!("type.googleapis.com/{name}").into()
}

/// The whole configuration.
pub(super) fn tree(args: &EnvoyBootstrapArgs, source: &Source, log: &str) -> Node {
    let name = match args.role {
        Role::Server => "envoy-server",
        Role::Client => "envoy-client",
    };
    let node = args.node.as_deref().unwrap_or(name);
    map([
        ("node", map([("id", node.into()), ("cluster", node.into())])),
        ("admin", map([("address", socket_address(args.admin))])),
        (
            "static_resources",
            map([
                ("listeners", list([listener(args, log)])),
                ("clusters", list([upstream(args), sds::cluster_of(source)])),
            ]),
        ),
    ])
    .because("node", source.who())
    .because("admin", "No authentication here: loopback only. envoy --admin-address-path FILE tells a free port.")
}

fn socket_address(address: SocketAddr) -> Node {
    host_port(&address.ip().to_string(), address.port())
}

pub(super) fn host_port(host: &str, port: u16) -> Node {
    map([("socket_address", map([("address", host.into()), ("port_value", port.into())]))])
}

fn listener(args: &EnvoyBootstrapArgs, log: &str) -> Node {
    let chain = map([("filters", list([connection_manager(args.role, log)]))]);
    let chain = match args.role {
        Role::Server => chain.with("transport_socket", downstream_tls(args)),
        Role::Client => chain,
    };
    map([
        ("name", "listener".into()),
        ("address", socket_address(args.listen)),
        ("access_log", list([file_log(log, connection_fields(args.role))])),
        ("filter_chains", list([chain])),
    ])
    .because("access_log", "One line for each connection: a refused handshake has no request and is seen only here.")
}

fn connection_manager(role: Role, log: &str) -> Node {
    let to_upstream = map([("match", map([("prefix", "/".into())])), ("route", map([("cluster", UPSTREAM.into())]))]);
    let host = map([("name", "all".into()), ("domains", list(["*".into()])), ("routes", list([to_upstream]))]);
    let router = map([
        ("name", "envoy.filters.http.router".into()),
        ("typed_config", map([(TYPE, type_url("envoy.extensions.filters.http.router.v3.Router"))])),
    ]);
    let config = map([
        (TYPE, type_url("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager")),
        ("stat_prefix", "ingress".into()),
        ("access_log", list([file_log(log, request_fields(role))])),
    ]);
    let config = match role {
        Role::Server => config
            .with("forward_client_cert_details", "SANITIZE_SET".into())
            .with("set_current_client_cert_details", map([("uri", true.into())]))
            .because(
                "forward_client_cert_details",
                "The service reads its caller's identity from x-forwarded-client-cert; what a caller wrote there is removed.",
            ),
        Role::Client => config
            .with("forward_client_cert_details", "SANITIZE".into()),
    };
    let config =
        config.with("route_config", map([("virtual_hosts", list([host]))])).with("http_filters", list([router]));
    map([("name", "envoy.filters.network.http_connection_manager".into()), ("typed_config", config)])
}

fn upstream(args: &EnvoyBootstrapArgs) -> Node {
    let Target { host, port } = &args.upstream;
    let cluster = cluster(UPSTREAM, discovery(host), host_port(host, *port), "5s");
    match args.role {
        Role::Server => cluster,
        Role::Client => cluster.with("transport_socket", upstream_tls(args)),
    }
}

/// How Envoy finds a host: an address needs no finding.
pub(super) fn discovery(host: &str) -> &'static str {
    if host.parse::<IpAddr>().is_ok() { "STATIC" } else { "STRICT_DNS" }
}

pub(super) fn cluster(name: &str, kind: &str, address: Node, connect_timeout: &str) -> Node {
    let endpoints = list([map([("endpoint", map([("address", address)]))])]);
    map([
        ("name", name.into()),
        ("type", kind.into()),
        ("connect_timeout", connect_timeout.into()),
        (
            "load_assignment",
            map([("cluster_name", name.into()), ("endpoints", list([map([("lb_endpoints", endpoints)])]))]),
        ),
    ])
}

/// What both directions share: our certificate, the roots, and who the peer must be.
fn common_tls(args: &EnvoyBootstrapArgs) -> Node {
    let matchers = args.peers.iter().map(|peer| {
        let matcher = match peer {
            Peer::Identity(id) => map([("exact", id.as_str().into())]),
            Peer::Domain(domain) => map([("prefix", format!("{}/", domain.id()).into())]),
        };
        map([("san_type", "URI".into()), ("matcher", matcher)])
    });
    let context = map([("match_typed_subject_alt_names", Node::List(matchers.collect()))])
        .because("match_typed_subject_alt_names", "Without this every workload that the CA knows would be let in.");
    let validation = map([
        ("default_validation_context", context),
        ("validation_context_sds_secret_config", secret(&args.bundle_name, args.api)),
    ]);
    map([
        (
            "tls_params",
            map([
                ("tls_minimum_protocol_version", "TLSv1_2".into()),
                ("tls_maximum_protocol_version", "TLSv1_3".into()),
            ]),
        ),
        ("tls_certificate_sds_secret_configs", list([secret(&args.name, args.api)])),
        ("combined_validation_context", validation),
    ])
    .because("tls_params", "Envoy's own maximum towards an upstream is 1.2, where a P-384 certificate fails.")
}

fn downstream_tls(args: &EnvoyBootstrapArgs) -> Node {
    let config = map([
        (TYPE, type_url("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext")),
        ("require_client_certificate", true.into()),
        ("common_tls_context", common_tls(args)),
    ]);
    map([("name", "envoy.transport_sockets.tls".into()), ("typed_config", config)])
}

fn upstream_tls(args: &EnvoyBootstrapArgs) -> Node {
    let config = map([
        (TYPE, type_url("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext")),
        ("common_tls_context", common_tls(args)),
    ]);
    map([("name", "envoy.transport_sockets.tls".into()), ("typed_config", config)])
}

fn file_log(path: &str, fields: Node) -> Node {
    let config = map([
        (TYPE, type_url("envoy.extensions.access_loggers.file.v3.FileAccessLog")),
        ("path", path.into()),
        ("log_format", map([("json_format", fields)])),
    ]);
    map([("name", "envoy.access_loggers.file".into()), ("typed_config", config)])
}

/// The peer's certificate, by the URI SAN: the subject of a SPIFFE certificate is empty. Serial and fingerprint lead to
/// the certificate's record in the ledger.
fn identity_fields(role: Role) -> Node {
    match role {
        Role::Server => map([
            ("source_identity", "%DOWNSTREAM_PEER_URI_SAN%".into()),
            ("source_serial", "%DOWNSTREAM_PEER_SERIAL%".into()),
            ("source_issuer", "%DOWNSTREAM_PEER_ISSUER%".into()),
            ("source_fingerprint", "%DOWNSTREAM_PEER_FINGERPRINT_256%".into()),
            ("source_certificate_end", "%DOWNSTREAM_PEER_CERT_V_END%".into()),
            ("own_identity", "%DOWNSTREAM_LOCAL_URI_SAN%".into()),
            ("tls_version", "%DOWNSTREAM_TLS_VERSION%".into()),
            ("tls_cipher", "%DOWNSTREAM_TLS_CIPHER%".into()),
        ]),
        Role::Client => map([]),
    }
}

fn connection_fields(role: Role) -> Node {
    identity_fields(role)
        .with("log", "connection".into())
        .with("time", "%START_TIME%".into())
        .with("source_address", "%DOWNSTREAM_REMOTE_ADDRESS%".into())
        .with("refused_because", "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%".into())
        .with("flags", "%RESPONSE_FLAGS%".into())
        .with("duration_ms", "%DURATION%".into())
}

fn request_fields(role: Role) -> Node {
    let fields = identity_fields(role)
        .with("log", "request".into())
        .with("time", "%START_TIME%".into())
        .with("source_address", "%DOWNSTREAM_REMOTE_ADDRESS%".into())
        .with("method", "%REQ(:METHOD)%".into())
        .with("path", "%PATH(NQ)%".into())
        .with("authority", "%REQ(:AUTHORITY)%".into())
        .with("status", "%RESPONSE_CODE%".into())
        .with("flags", "%RESPONSE_FLAGS%".into())
        .with("details", "%RESPONSE_CODE_DETAILS%".into())
        .with("duration_ms", "%DURATION%".into())
        .with("request_id", "%REQ(X-REQUEST-ID)%".into())
        .with("upstream_address", "%UPSTREAM_HOST%".into())
        .because("path", "Without its query, which may hold what no log should.");
    match role {
        Role::Server => fields,
        Role::Client => fields
            .with("upstream_identity", "%UPSTREAM_PEER_URI_SAN%".into())
            .with("upstream_issuer", "%UPSTREAM_PEER_ISSUER%".into())
            .with("upstream_certificate_end", "%UPSTREAM_PEER_CERT_V_END%".into())
            .with("own_identity", "%UPSTREAM_LOCAL_URI_SAN%".into())
            .with("tls_version", "%UPSTREAM_TLS_VERSION%".into())
            .with("tls_cipher", "%UPSTREAM_TLS_CIPHER%".into())
            .with("refused_because", "%UPSTREAM_TRANSPORT_FAILURE_REASON%".into()),
    }
}
