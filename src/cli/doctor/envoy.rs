//! What hurts in an Envoy configuration: choices that Envoy takes without a word and that fail later.
//!
//! Each was measured with a real Envoy; `envoy --mode validate` finds none of them. A configuration is looked at as a tree
//! of YAML or JSON wherever a message may stand, so that bootstraps, listener and cluster resources and secrets all do.
//! Field names are read in both spellings that Envoy takes (`set_node_on_first_message_only`, `setNodeOnFirstMessageOnly`).

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use super::{DoctorOutput, Finding};

/// The largest file that is read, in bytes.
const LARGEST_FILE: u64 = 32 << 20;

/// How deep a configuration may be nested.
const DEEPEST: usize = 100;

/// The most findings of one kind that are named with their place; the rest are counted.
const MOST_PLACES: usize = 3;

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    NodeEachTime,
    NullSubject,
    IgnoredList,
    ResumptionBypass,
    LeafOnly,
    AnyoneMayCome,
    FirstFetch,
}

impl Fault {
    const ALL: [Self; 7] = [
        Self::IgnoredList,
        Self::ResumptionBypass,
        Self::LeafOnly,
        Self::AnyoneMayCome,
        Self::NodeEachTime,
        Self::NullSubject,
        Self::FirstFetch,
    ];

    /// How bad, what and why, and what to do.
    fn words(self) -> (Finding, &'static str, &'static str) {
        match self {
            Self::NodeEachTime => (
                Finding::Note,
                "no set_node_on_first_message_only: each request and acknowledgement carries some 61 KB of node description",
                "add set_node_on_first_message_only: true to the api_config_source",
            ),
            Self::NullSubject => (
                Finding::Wrong,
                "the access log names its peer by %DOWNSTREAM_PEER_SUBJECT%, which is null for SPIFFE certificates",
                "log %DOWNSTREAM_PEER_URI_SAN% and %DOWNSTREAM_PEER_SERIAL% instead",
            ),
            Self::IgnoredList => (
                Finding::Wrong,
                "the SPIFFE validator ignores crl beside it without a word, so a revoked client is let in",
                "put the lists into each domain's trust_bundle, or take the secret from chancery, which does so",
            ),
            Self::ResumptionBypass => (
                Finding::Wrong,
                "the SPIFFE validator with shared session ticket keys lets a revoked client resume its session",
                "drop session_ticket_keys, or set disable_stateless_session_resumption: true",
            ),
            Self::LeafOnly => (
                Finding::Wrong,
                "only_verify_leaf_cert_crl accepts clients below a revoked issuing CA",
                "remove it: chancery sends the list of every authority of the chain",
            ),
            Self::AnyoneMayCome => (
                Finding::Note,
                "a listener checks client certificates, but lets in whoever shows none",
                "add require_client_certificate: true to its DownstreamTlsContext",
            ),
            Self::FirstFetch => (
                Finding::Note,
                "a secret without initial_fetch_timeout: 0s: after 15 s without it Envoy is live and resets every connection",
                "add initial_fetch_timeout: 0s to the sds_config",
            ),
        }
    }
}

/// Looks at one file.
pub(super) fn check(path: &Path, output: &mut DoctorOutput) {
    let check = format!("envoy {}", path.display());
    let tree = match read(path) {
        Ok(tree) => tree,
        Err(why) => return output.add(&check, Finding::Wrong, why),
    };
    let faults = faults(&tree);
    if faults.is_empty() {
        return output.add(&check, Finding::Ok, "nothing that hurts later (envoy --mode validate checks the rest)");
    }
    for fault in Fault::ALL {
        let mut places: Vec<&str> =
            faults.iter().filter(|(found, _)| *found == fault).map(|(_, place)| place.as_str()).collect();
        if places.is_empty() {
            continue;
        }
        let more = places.len().saturating_sub(MOST_PLACES);
        places.truncate(MOST_PLACES);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        let (finding, what, remedy) = fault.words();
        output.add(&check, finding, format!("{what}: {remedy} (at {}{more})", places.join(", ")));
    }
}

fn read(path: &Path) -> Result<Value, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| format!("it can't be read: {error}"))?;
    let read = file.take(LARGEST_FILE + 1).read_to_string(&mut text);
    let length = read.map_err(|error| format!("it can't be read: {error}"))?;
    if u64::try_from(length).is_ok_and(|length| length > LARGEST_FILE) {
        return Err(format!("it is larger than {} MiB: give the configuration of one Envoy", LARGEST_FILE >> 20));
    }
    tree(&text)
}

fn tree(text: &str) -> Result<Value, String> {
    // JSON first: it is YAML as well, but much faster so.
    match serde_json::from_str(text) {
        Ok(tree) => Ok(tree),
        Err(_) => serde_saphyr::from_str(text).map_err(|error| {
            format!("it is neither JSON nor YAML: {}", error.to_string().lines().next().unwrap_or_default())
        }),
    }
}

/// Looks at a text, for `fuzzing`.
pub(super) fn look_at(text: &str) {
    if let Ok(tree) = tree(text) {
        faults(&tree);
    }
}

/// Every fault with its place.
fn faults(tree: &Value) -> Vec<(Fault, String)> {
    let mut found = Vec::new();
    walk(tree, "", 0, &mut found);
    found
}

fn walk(node: &Value, place: &str, depth: usize, found: &mut Vec<(Fault, String)>) {
    if depth > DEEPEST {
        return;
    }
    match node {
        Value::Object(fields) => {
            for fault in of_message(fields) {
                found.push((fault, if place.is_empty() { "the top".to_owned() } else { place.to_owned() }));
            }
            for (name, inner) in fields {
                let name = snake(name);
                let place = if place.is_empty() { name } else { format!("{place}.{name}") };
                walk(inner, &place, depth + 1, found);
            }
        }
        Value::Array(items) => {
            for (at, inner) in items.iter().enumerate() {
                walk(inner, &format!("{place}[{at}]"), depth + 1, found);
            }
        }
        Value::String(text) if text.contains("%DOWNSTREAM_PEER_SUBJECT%") => {
            found.push((Fault::NullSubject, place.to_owned()));
        }
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What is wrong with one message, by its fields.
fn of_message(fields: &Map<String, Value>) -> Vec<Fault> {
    let mut faults = Vec::new();
    let api = get(fields, "api_type").and_then(Value::as_str).unwrap_or_default();
    let streams = matches!(api, "GRPC" | "DELTA_GRPC" | "AGGREGATED_GRPC" | "AGGREGATED_DELTA_GRPC");
    if streams && !is_true(fields, "set_node_on_first_message_only") {
        faults.push(Fault::NodeEachTime);
    }
    if has(fields, "custom_validator_config") && has(fields, "crl") && is_spiffe(fields) {
        faults.push(Fault::IgnoredList);
    }
    let tickets = has(fields, "session_ticket_keys") || has(fields, "session_ticket_keys_sds_secret_config");
    if tickets && any_below(fields, 0, &is_spiffe) && !is_true(fields, "disable_stateless_session_resumption") {
        faults.push(Fault::ResumptionBypass);
    }
    if is_true(fields, "only_verify_leaf_cert_crl") {
        faults.push(Fault::LeafOnly);
    }
    let downstream =
        get(fields, "@type").and_then(Value::as_str).is_some_and(|it| it.ends_with(".DownstreamTlsContext"));
    if downstream && any_below(fields, 0, &checks_peers) && !is_true(fields, "require_client_certificate") {
        faults.push(Fault::AnyoneMayCome);
    }
    if let Some(Value::Object(source)) = get(fields, "sds_config") {
        let never = get(source, "initial_fetch_timeout").and_then(Value::as_str).is_some_and(is_zero);
        let remote = !has(source, "path") && !has(source, "path_config_source");
        if remote && !never {
            faults.push(Fault::FirstFetch);
        }
    }
    faults
}

/// `0s`, `0.0s`
fn is_zero(span: &str) -> bool {
    span.strip_suffix('s').and_then(|number| number.parse::<f64>().ok()) == Some(0.0)
}

fn is_spiffe(fields: &Map<String, Value>) -> bool {
    let Some(Value::Object(custom)) = get(fields, "custom_validator_config") else { return false };
    get(custom, "name").and_then(Value::as_str) == Some("envoy.tls.cert_validator.spiffe")
        || get(custom, "typed_config")
            .and_then(|config| config.get("@type"))
            .and_then(Value::as_str)
            .is_some_and(|it| it.ends_with(".SPIFFECertValidatorConfig"))
}

fn checks_peers(fields: &Map<String, Value>) -> bool {
    ["validation_context", "validation_context_sds_secret_config", "combined_validation_context"]
        .into_iter()
        .any(|name| has(fields, name))
}

/// Whether this message or one inside it is so.
fn any_below(fields: &Map<String, Value>, depth: usize, is: &dyn Fn(&Map<String, Value>) -> bool) -> bool {
    depth <= DEEPEST
        && (is(fields)
            || fields.values().any(|inner| match inner {
                Value::Object(fields) => any_below(fields, depth + 1, is),
                Value::Array(_) | Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => false,
            }))
}

fn get<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields.get(name).or_else(|| fields.iter().find(|(known, _)| snake(known) == name).map(|(_, value)| value))
}

fn has(fields: &Map<String, Value>, name: &str) -> bool {
    get(fields, name).is_some_and(|value| !value.is_null())
}

fn is_true(fields: &Map<String, Value>, name: &str) -> bool {
    get(fields, name).and_then(Value::as_bool).unwrap_or_default()
}

/// The spelling of proto files from that of JSON.
fn snake(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(yaml: &str) -> Vec<(Fault, String)> {
        faults(&serde_saphyr::from_str(yaml).unwrap())
    }

    #[test]
    fn each_fault_is_found_in_both_spellings_and_its_remedy_ends_it() {
        for (yaml, fault, place) in [
            ("a: [{api_type: GRPC}]", Fault::NodeEachTime, "a[0]"),
            ("a: {apiType: DELTA_GRPC, setNodeOnFirstMessageOnly: false}", Fault::NodeEachTime, "a"),
            ("log: {json_format: {who: \"%DOWNSTREAM_PEER_SUBJECT%\"}}", Fault::NullSubject, "log.json_format.who"),
            (
                "v: {crl: {filename: x}, custom_validator_config: {name: envoy.tls.cert_validator.spiffe}}",
                Fault::IgnoredList,
                "v",
            ),
            (
                "t: {sessionTicketKeys: {}, commonTlsContext: {validationContext: {customValidatorConfig: \
                 {typedConfig: {\"@type\": type.googleapis.com/a.SPIFFECertValidatorConfig}}}}}",
                Fault::ResumptionBypass,
                "t",
            ),
            ("v: {only_verify_leaf_cert_crl: true}", Fault::LeafOnly, "v"),
            (
                "t: {\"@type\": type.googleapis.com/e.DownstreamTlsContext, common_tls_context: {validation_context: {}}}",
                Fault::AnyoneMayCome,
                "t",
            ),
            ("s: {sds_config: {api_config_source: {}, initial_fetch_timeout: 0.5s}}", Fault::FirstFetch, "s"),
        ] {
            assert_eq!(found(yaml), [(fault, place.to_owned())], "{yaml}");
        }
        for fine in [
            "a: {api_type: GRPC, set_node_on_first_message_only: true}",
            "a: {api_type: REST}",
            "log: \"%DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_PEER_SUBJECT_X%\"",
            "v: {crl: {filename: x}, trusted_ca: {filename: y}}",
            "t: {session_ticket_keys: {}, common_tls_context: {validation_context: {}}}",
            "t: {\"@type\": type.googleapis.com/e.DownstreamTlsContext, common_tls_context: {}}",
            "s: {sds_config: {api_config_source: {}, initial_fetch_timeout: 0s}}",
            "s: {sds_config: {path_config_source: {path: /x}}}",
        ] {
            assert_eq!(found(fine), [], "{fine}");
        }
    }

    #[test]
    fn files_are_yaml_or_json_and_what_we_write_ourselves_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        let look = |text: &str| {
            let path = dir.path().join("envoy.yaml");
            std::fs::write(&path, text).unwrap();
            let mut output = DoctorOutput::default();
            check(&path, &mut output);
            output.checks
        };
        for own in ["envoy_bootstrap_server.yaml", "envoy_bootstrap_client.yaml"] {
            let text = std::fs::read_to_string(format!("{}/src/cli/golden/{own}", env!("CARGO_MANIFEST_DIR"))).unwrap();
            let checks = look(&text);
            assert!(matches!(checks.as_slice(), [one] if one.finding == Finding::Ok), "{own}: {checks:?}");
        }
        let checks = look(r#"{"a":[{"api_type":"GRPC"},{"api_type":"GRPC"},{"api_type":"GRPC"},{"api_type":"GRPC"}]}"#);
        assert!(checks[0].detail.ends_with("(at a[0], a[1], a[2] and 1 more)"), "{checks:?}");
        for broken in ["a: [", "a: *nowhere", "\0"] {
            assert_eq!(look(broken)[0].finding, Finding::Wrong, "{broken:?}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(look(&deep)[0].finding, Finding::Wrong);
        let laughs = (1..40).fold("a0: &a0 [x, x]\n".to_owned(), |text, n| {
            format!("{text}a{n}: &a{n} [*a{m}, *a{m}, *a{m}]\n", m = n - 1)
        });
        assert_eq!(look(&laughs)[0].finding, Finding::Wrong);
    }
}
