//! One gRPC message with one secret: a small head for this stream, and the shared content behind it.
//!
//! The head holds the gRPC prefix, everything of `DiscoveryResponse` but the secret's content, and the lengths that
//! lead to it; the content follows as it is, so that no stream copies it. One secret in each response, because a bad
//! one would have the whole response refused.

use bytes::{BufMut, Bytes, BytesMut};

use crate::feed::Payload;
use crate::feed::payload::{SECRET_TYPE, field_len, put_header};

/// The compression flag and the length, before every gRPC message.
pub(super) const PREFIX: usize = 5;

// Field numbers of `DiscoveryResponse`, `DeltaDiscoveryResponse` (where they are the same), `Resource`, `Any` and
// `Secret`, as in proto/.
const VERSION_INFO: u32 = 1;
const RESOURCES: u32 = 2;
const TYPE_URL: u32 = 4;
const NONCE: u32 = 5;
const RESOURCE_VERSION: u32 = 1;
const RESOURCE_RESOURCE: u32 = 2;
const RESOURCE_NAME: u32 = 3;
const ANY_TYPE_URL: u32 = 1;
const ANY_VALUE: u32 = 2;
const SECRET_NAME: u32 = 1;

/// What must be sent before the content of `payload`, which is the secret called `name`; `version` is what the response
/// says of all that the stream holds. `None` when a message would not fit gRPC's 32-bit length.
pub(super) fn head(name: &str, version: &str, payload: &Payload, nonce: &str) -> Option<Bytes> {
    let inner = Lengths::new(name, payload);
    let message = field_len(VERSION_INFO, version.len()) + about_len(nonce) + field_len(RESOURCES, inner.any);
    let mut out = begin(message, payload)?;
    put(&mut out, VERSION_INFO, version.as_bytes());
    put_about(&mut out, nonce);
    put_header(&mut out, RESOURCES, inner.any);
    inner.put_any(&mut out, name);
    Some(out.freeze())
}

/// The same for delta, where the resource has the version and says its name beside it.
pub(super) fn delta_head(name: &str, payload: &Payload, nonce: &str) -> Option<Bytes> {
    let (inner, version) = (Lengths::new(name, payload), payload.version.as_bytes());
    let resource = field_len(RESOURCE_VERSION, version.len())
        + field_len(RESOURCE_NAME, name.len())
        + field_len(RESOURCE_RESOURCE, inner.any);
    let mut out = begin(about_len(nonce) + field_len(RESOURCES, resource), payload)?;
    put_about(&mut out, nonce);
    put_header(&mut out, RESOURCES, resource);
    put(&mut out, RESOURCE_VERSION, version);
    put(&mut out, RESOURCE_NAME, name.as_bytes());
    put_header(&mut out, RESOURCE_RESOURCE, inner.any);
    inner.put_any(&mut out, name);
    Some(out.freeze())
}

/// How long the parts around the content are.
struct Lengths {
    secret: usize,
    any: usize,
}

impl Lengths {
    fn new(name: &str, payload: &Payload) -> Self {
        let secret = field_len(SECRET_NAME, name.len()) + payload.secret.len();
        Self { secret, any: field_len(ANY_TYPE_URL, SECRET_TYPE.len()) + field_len(ANY_VALUE, secret) }
    }

    /// The `Any` up to the content.
    fn put_any(&self, out: &mut BytesMut, name: &str) {
        put(out, ANY_TYPE_URL, SECRET_TYPE.as_bytes());
        put_header(out, ANY_VALUE, self.secret);
        put(out, SECRET_NAME, name.as_bytes());
    }
}

/// gRPC's prefix of a message of that length, and room for what stands before the content.
fn begin(message: usize, payload: &Payload) -> Option<BytesMut> {
    let length = u32::try_from(message).ok()?;
    let mut out = BytesMut::with_capacity(PREFIX + message - payload.secret.len());
    out.put_u8(0);
    out.put_u32(length);
    Some(out)
}

/// What both responses say in the same fields.
fn about_len(nonce: &str) -> usize {
    field_len(TYPE_URL, SECRET_TYPE.len()) + field_len(NONCE, nonce.len())
}

fn put_about(out: &mut BytesMut, nonce: &str) {
    put(out, TYPE_URL, SECRET_TYPE.as_bytes());
    put(out, NONCE, nonce.as_bytes());
}

fn put(out: &mut BytesMut, field: u32, bytes: &[u8]) {
    put_header(out, field, bytes.len());
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::proto::envoy::extensions::transport_sockets::tls::v3::Secret;
    use crate::proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};

    fn whole(head: &[u8], payload: &Payload) -> Vec<u8> {
        let whole = [head, &payload.secret[..]].concat();
        assert_eq!((whole[0], u32::from_be_bytes(whole[1..5].try_into().unwrap())), (0, whole.len() as u32 - 5));
        whole[PREFIX..].to_vec()
    }

    fn check_secret(any: &prost_types::Any, payload: &Payload) {
        assert_eq!(any.type_url, SECRET_TYPE);
        let secret = Secret::decode(any.value.as_slice()).unwrap();
        assert_eq!(secret.name, "ROOTCA");
        assert_eq!(secret.r#type, Secret::decode(payload.secret.clone()).unwrap().r#type);
    }

    #[test]
    fn head_and_content_are_one_message() {
        for size in [0, 100, 300, 70_000] {
            let payload = Payload::bundle("v7", &vec![b'x'; size], b"", crate::x509::crl::Scope::default());
            let message = whole(&head("ROOTCA", "v7+", &payload, "42").unwrap(), &payload);
            let response = DiscoveryResponse::decode(&message[..]).unwrap();
            assert_eq!((response.version_info.as_str(), response.nonce.as_str()), ("v7+", "42"));
            assert_eq!((response.type_url.as_str(), response.resources.len()), (SECRET_TYPE, 1));
            check_secret(&response.resources[0], &payload);
        }
    }

    #[test]
    fn a_delta_says_name_and_version_beside_the_secret() {
        for size in [0, 100, 300, 70_000] {
            let payload = Payload::bundle("v7", &vec![b'x'; size], b"", crate::x509::crl::Scope::default());
            let message = whole(&delta_head("ROOTCA", &payload, "42").unwrap(), &payload);
            let response = DeltaDiscoveryResponse::decode(&message[..]).unwrap();
            assert_eq!((response.type_url.as_str(), response.nonce.as_str()), (SECRET_TYPE, "42"));
            assert_eq!(response.resources.len(), 1);
            let resource = &response.resources[0];
            assert_eq!((resource.name.as_str(), resource.version.as_str()), ("ROOTCA", "v7"));
            check_secret(resource.resource.as_ref().unwrap(), &payload);
        }
    }
}
