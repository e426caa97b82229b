//! The trust bundle over HTTP: PEM for most, the SPIFFE document for those who ask for JSON.
//!
//! A bundle is never served from a cache without asking (`no-cache`): a root that is gone must be gone for the next
//! reader. Asking is cheap, because the entity tag is the version. Called by the router only; never makes a bundle.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{StatusCode, Uri};

use super::{BundleDocument, HttpSources, body_of, cached, text, unavailable};

/// Which spelling of the bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Pem,
    Json,
}

/// `/bundle`: by `?format=`, else by `Accept`, else PEM.
pub(super) async fn by_accept(State(sources): State<Arc<dyn HttpSources>>, uri: Uri, headers: HeaderMap) -> Response {
    let asked = uri.query().and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("format=")));
    let form = match asked {
        Some("pem") => Form::Pem,
        Some("json" | "spiffe") => Form::Json,
        Some(_) => return text(StatusCode::BAD_REQUEST, "format is pem or json\n"),
        None => accepted(&headers),
    };
    let mut response = answer(sources.bundle(), form, &headers);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

/// `/bundle.json`
pub(super) async fn json(State(sources): State<Arc<dyn HttpSources>>, headers: HeaderMap) -> Response {
    answer(sources.bundle(), Form::Json, &headers)
}

fn answer(bundle: Option<BundleDocument>, form: Form, headers: &HeaderMap) -> Response {
    let Some(bundle) = bundle else { return unavailable("there is no authority yet; try again\n") };
    let (content_type, body, word) = match form {
        // The type of step-ca and of browsers' certificate downloads; RFC 8555's is for a chain, which this is not.
        Form::Pem => ("application/x-pem-file", bundle.pem, "pem"),
        Form::Json => ("application/json", bundle.json, "json"),
    };
    tagged(content_type, body, &format!("{}-{word}", bundle.version), headers)
}

/// `body`, or nothing for who has it already by its tag.
pub(super) fn tagged(content_type: &'static str, body: Bytes, tag: &str, headers: &HeaderMap) -> Response {
    let tag = format!("\"{tag}\"");
    let known = headers.get_all(header::IF_NONE_MATCH).iter().any(|value| matches_tag(value, &tag));
    let mut response =
        if known { not_modified() } else { cached(body_of(StatusCode::OK, content_type, body), "no-cache") };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

fn not_modified() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    cached(response, "no-cache")
}

/// RFC 9110, section 13.1.2: a list of tags or `*`, compared weakly.
fn matches_tag(value: &HeaderValue, tag: &str) -> bool {
    let Ok(value) = value.to_str() else { return false };
    value.split(',').map(str::trim).any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

/// JSON when it is asked for by name and not less than PEM (RFC 9110, section 12.5.1); `*/*` alone means PEM.
fn accepted(headers: &HeaderMap) -> Form {
    let (mut json, mut pem) = (0, 0);
    for value in headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()) {
        for range in value.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(1000, thousandths);
            match kind.as_str() {
                "application/json" => json = json.max(weight),
                "application/x-pem-file" | "application/pem-certificate-chain" | "text/plain" => pem = pem.max(weight),
                _ => {}
            }
        }
    }
    if json > 0 && json >= pem { Form::Json } else { Form::Pem }
}

/// `0.5` as 500; what is no weight counts as none.
fn thousandths(text: &str) -> u16 {
    match text.trim().parse::<f32>() {
        Ok(weight) if (0.0..=1.0).contains(&weight) => (weight * 1000.0) as u16,
        Ok(_) | Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_for_those_who_name_it() {
        let check = |accept: &'static str, form: Form| {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(accepted(&headers), form, "{accept}");
        };
        check("application/json", Form::Json);
        check("application/json, */*;q=0.1", Form::Json);
        check("Application/JSON; charset=utf-8", Form::Json);
        check("text/plain;q=0.2, application/json;q=0.7", Form::Json);
        check("text/plain, application/json;q=0.7", Form::Pem);
        check("application/json;q=0", Form::Pem);
        check("application/json;q=nan", Form::Pem);
        check("*/*", Form::Pem);
        check("text/html,application/xhtml+xml,*/*;q=0.8", Form::Pem);
        assert_eq!(accepted(&HeaderMap::new()), Form::Pem);
    }

    #[test]
    fn a_known_tag_is_known_in_each_of_its_spellings() {
        let check = |value: &'static str| matches_tag(&HeaderValue::from_static(value), "\"v-pem\"");
        for known in ["\"v-pem\"", "W/\"v-pem\"", "\"a\", \"v-pem\"", "*"] {
            assert!(check(known), "{known}");
        }
        for other in ["\"v-json\"", "v-pem", "", "\"v-pem"] {
            assert!(!check(other), "{other}");
        }
    }
}
