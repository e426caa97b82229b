//! How an Envoy reaches chancery, and how it asks for a secret there.

use std::path::Path;

use super::config::{TYPE, cluster, discovery, host_port, type_url};
use super::tree::{Node, list, map};
use super::{Api, Target};
use crate::cli::fetch::envoy::{CERTIFICATE_FILE, CERTIFICATE_SECRET, ROOTS_FILE, ROOTS_SECRET};
use crate::identity::SpiffeId;

const SDS_CLUSTER: &str = "chancery_sds";

/// Where chancery is.
pub(super) enum Source {
    /// On this machine.
    Socket(String),
    /// Elsewhere.
    Server {
        /// Its address.
        target: Target,
        /// Who it must be.
        id: SpiffeId,
        /// The directory that `chancery fetch` fills.
        directory: String,
    },
}

impl Source {
    /// Above every YAML file.
    pub(super) fn preface(&self) -> &'static str {
        match self {
            Self::Socket(_) => {
                "\
# Written by `chancery envoy bootstrap`. Start it with: envoy -c FILE
# Certificates, keys and roots come from chancery over a Unix socket and never touch this file or the disk.

"
            }
            Self::Server { .. } => {
                "\
# Written by `chancery envoy bootstrap`. Start it with: envoy -c FILE
# Certificates, keys and roots come from chancery over mutual TLS and never touch this file or the disk. The certificate
# that Envoy shows chancery lies in the identity directory; `chancery fetch --server` keeps it fresh.

"
            }
        }
    }

    /// How chancery knows who the proxy is.
    pub(super) fn who(&self) -> &'static str {
        match self {
            Self::Socket(_) => "A label only: who this proxy is, chancery asks the kernel.",
            Self::Server { .. } => "A label only: who this proxy is, its certificate says.",
        }
    }
}

/// The cluster that is chancery.
pub(super) fn cluster_of(source: &Source) -> Node {
    match source {
        Source::Socket(path) => {
            cluster(SDS_CLUSTER, "STATIC", map([("pipe", map([("path", path.as_str().into())]))]), "1s")
        }
        Source::Server { target, id, directory } => {
            cluster(SDS_CLUSTER, discovery(&target.host), host_port(&target.host, target.port), "5s")
                .with("transport_socket", mutual_tls(target, id, directory))
        }
    }
    .with(
        "typed_extension_protocol_options",
        map([("envoy.extensions.upstreams.http.v3.HttpProtocolOptions", http2())]),
    )
}

fn http2() -> Node {
    let keepalive = map([("interval", "30s".into()), ("timeout", "5s".into())]);
    map([
        (TYPE, type_url("envoy.extensions.upstreams.http.v3.HttpProtocolOptions")),
        ("explicit_http_config", map([("http2_protocol_options", map([("connection_keepalive", keepalive)]))])),
    ])
}

fn mutual_tls(target: &Target, id: &SpiffeId, directory: &str) -> Node {
    let matcher = map([("san_type", "URI".into()), ("matcher", map([("exact", id.as_str().into())]))]);
    let validation = map([
        ("default_validation_context", map([("match_typed_subject_alt_names", list([matcher]))])),
        ("validation_context_sds_secret_config", file_secret(ROOTS_SECRET, directory, ROOTS_FILE)),
    ]);
    let common = map([
        (
            "tls_params",
            map([
                ("tls_minimum_protocol_version", "TLSv1_3".into()),
                ("tls_maximum_protocol_version", "TLSv1_3".into()),
            ]),
        ),
        ("tls_certificate_sds_secret_configs", list([file_secret(CERTIFICATE_SECRET, directory, CERTIFICATE_FILE)])),
        ("combined_validation_context", validation),
    ])
    .because(
        "tls_certificate_sds_secret_configs",
        "Secrets in files are followed as they change; certificates that are named here directly would be read once.",
    );
    let config = map([
        (TYPE, type_url("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext")),
        ("common_tls_context", common),
    ]);
    // RFC 6066: a name, never an address.
    let config = match discovery(&target.host) {
        "STATIC" => config,
        _ => config.with("sni", target.host.as_str().into()),
    };
    map([("name", "envoy.transport_sockets.tls".into()), ("typed_config", config)])
}

fn file_secret(name: &str, directory: &str, file: &str) -> Node {
    let path = Path::new(directory).join(file).display().to_string();
    let config = map([("resource_api_version", "V3".into()), ("path_config_source", map([("path", path.into())]))]);
    map([("name", name.into()), ("sds_config", config)])
}

/// One secret, asked for at chancery.
pub(super) fn secret(name: &str, api: Api) -> Node {
    let back_off = map([("base_interval", "0.2s".into()), ("max_interval", "5s".into())]);
    let service = map([("cluster_name", SDS_CLUSTER.into()), ("retry_policy", map([("retry_back_off", back_off)]))])
        .because(
            "retry_policy",
            "Back within seconds after a restart of chancery; by itself Envoy waits for up to 30 s.",
        );
    let source = map([
        ("api_type", api.config_word().into()),
        ("transport_api_version", "V3".into()),
        ("set_node_on_first_message_only", true.into()),
        ("grpc_services", list([map([("envoy_grpc", service)])])),
    ])
    .because(
        "set_node_on_first_message_only",
        "Else each request and acknowledgement carries some 61 KB of node description.",
    );
    let config = map([
        ("resource_api_version", "V3".into()),
        ("initial_fetch_timeout", "0s".into()),
        ("api_config_source", source),
    ])
    .because(
        "initial_fetch_timeout",
        "0 waits for the secret as long as it takes. With the default of 15 s Envoy would call itself live without it\n\
         and reset every connection.",
    );
    map([("name", name.into()), ("sds_config", config)])
}
