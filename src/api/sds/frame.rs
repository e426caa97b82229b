//! One gRPC message with one secret: a small head for this stream, and the shared content behind it.
//!
//! The head holds the gRPC prefix, everything of `DiscoveryResponse` but the secret's content, and the lengths that
//! lead to it; the content follows as it is, so that no stream copies it. One secret in each response, because a bad
//! one would have the whole response refused.

use bytes::{BufMut, Bytes, BytesMut};

use crate::feed::Update;
use crate::feed::payload::{SECRET_TYPE, field_len, put_header};

/// The compression flag and the length, before every gRPC message.
pub(super) const PREFIX: usize = 5;

// Field numbers of `DiscoveryResponse`, `Any` and `Secret`, as in proto/.
const VERSION_INFO: u32 = 1;
const RESOURCES: u32 = 2;
const TYPE_URL: u32 = 4;
const NONCE: u32 = 5;
const ANY_TYPE_URL: u32 = 1;
const ANY_VALUE: u32 = 2;
const SECRET_NAME: u32 = 1;

/// What must be sent before `update`'s content. `None` when a message would not fit gRPC's 32-bit length.
pub(super) fn head(update: &Update, nonce: &str) -> Option<Bytes> {
    let (name, version) = (update.name.as_bytes(), update.payload.version.as_bytes());
    let secret = field_len(SECRET_NAME, name.len()) + update.payload.secret.len();
    let any = field_len(ANY_TYPE_URL, SECRET_TYPE.len()) + field_len(ANY_VALUE, secret);
    let message = field_len(VERSION_INFO, version.len())
        + field_len(TYPE_URL, SECRET_TYPE.len())
        + field_len(NONCE, nonce.len())
        + field_len(RESOURCES, any);
    let length = u32::try_from(message).ok()?;
    let mut out = BytesMut::with_capacity(PREFIX + message - update.payload.secret.len());
    out.put_u8(0);
    out.put_u32(length);
    put(&mut out, VERSION_INFO, version);
    put(&mut out, TYPE_URL, SECRET_TYPE.as_bytes());
    put(&mut out, NONCE, nonce.as_bytes());
    put_header(&mut out, RESOURCES, any);
    put(&mut out, ANY_TYPE_URL, SECRET_TYPE.as_bytes());
    put_header(&mut out, ANY_VALUE, secret);
    put(&mut out, SECRET_NAME, name);
    Some(out.freeze())
}

fn put(out: &mut BytesMut, field: u32, bytes: &[u8]) {
    put_header(out, field, bytes.len());
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::feed::Payload;
    use crate::proto::envoy::extensions::transport_sockets::tls::v3::Secret;
    use crate::proto::envoy::service::discovery::v3::DiscoveryResponse;

    #[test]
    fn head_and_content_are_one_message() {
        for size in [0, 100, 300, 70_000] {
            let payload = Payload::bundle("v7", &vec![b'x'; size], b"");
            let update = Update { name: "ROOTCA".into(), payload: payload.clone() };
            let head = head(&update, "42").unwrap();
            let whole = [&head[..], &payload.secret[..]].concat();
            assert_eq!((whole[0], u32::from_be_bytes(whole[1..5].try_into().unwrap())), (0, whole.len() as u32 - 5));
            let response = DiscoveryResponse::decode(&whole[PREFIX..]).unwrap();
            assert_eq!((response.version_info.as_str(), response.nonce.as_str()), ("v7", "42"));
            assert_eq!((response.type_url.as_str(), response.resources.len()), (SECRET_TYPE, 1));
            assert_eq!(response.resources[0].type_url, SECRET_TYPE);
            let secret = Secret::decode(response.resources[0].value.as_slice()).unwrap();
            assert_eq!(secret.name, "ROOTCA");
            assert_eq!(secret.r#type, Secret::decode(payload.secret).unwrap().r#type);
        }
    }
}
