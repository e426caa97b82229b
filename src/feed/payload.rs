//! What is sent for one secret, encoded once: the body of Envoy's `Secret` message without its name.
//!
//! The name is left out because the same bundle is known by several names; whoever frames a message puts the name in
//! front (protobuf fields may come in any order), so that 10,000 streams share one allocation. A private key is written
//! straight into a buffer that zeroises itself when the last stream has let go of it.

use std::sync::Arc;

use bytes::{BufMut, Bytes};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use zeroize::Zeroizing;

use crate::feed::source::Certificate;
use crate::identity::TrustDomain;
use crate::proto::envoy::config::core::v3::{DataSource, TypedExtensionConfig, data_source::Specifier};
use crate::proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig, secret::Type, spiffe_cert_validator_config,
};
use crate::x509::crl::Scope;

/// The type URL of the resource that SDS serves.
pub const SECRET_TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// The type URL of the SPIFFE validator's configuration.
const SPIFFE_VALIDATOR_TYPE: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";

/// The SPIFFE validator's name among Envoy's extensions.
const SPIFFE_VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";

// Field numbers of the messages below, as in proto/envoy.
const SECRET_TLS_CERTIFICATE: u32 = 2;
const TLS_CERTIFICATE_CHAIN: u32 = 1;
const TLS_PRIVATE_KEY: u32 = 2;
const DATA_SOURCE_INLINE_BYTES: u32 = 2;

/// One version of one secret's content; cheap to clone.
#[derive(Clone)]
pub struct Payload {
    /// Derived from the content, equal after a restart.
    pub version: Arc<str>,
    /// A `Secret` message without its name.
    pub secret: Bytes,
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Payload({}, {} bytes)", self.version, self.secret.len())
    }
}

impl Payload {
    /// A certificate and its key. The key's own buffer is zeroised when `certificate` is dropped.
    #[must_use]
    pub fn certificate(certificate: &Certificate) -> Self {
        let (chain, key) = (certificate.chain_pem.as_slice(), certificate.key_pem.expose());
        let inner = data_source_len(TLS_CERTIFICATE_CHAIN, chain) + data_source_len(TLS_PRIVATE_KEY, key);
        // Reserved whole: a buffer that grows leaves copies of the key behind.
        let size = key_len(SECRET_TLS_CERTIFICATE) + encoded_len_varint(inner as u64) + inner;
        let mut out = Zeroizing::new(Vec::with_capacity(size));
        put_header(&mut *out, SECRET_TLS_CERTIFICATE, inner);
        put_data_source(&mut *out, TLS_CERTIFICATE_CHAIN, chain);
        put_data_source(&mut *out, TLS_PRIVATE_KEY, key);
        Self { version: certificate.held.version.as_str().into(), secret: Bytes::from_owner(out) }
    }

    /// The roots of one trust domain and their CRLs, for Envoy's default validator.
    #[must_use]
    pub fn bundle(version: &str, pem: &[u8], crl_pem: &[u8], scope: Scope) -> Self {
        let context = CertificateValidationContext {
            trusted_ca: Some(inline(pem.to_vec())),
            crl: (!crl_pem.is_empty()).then(|| inline(crl_pem.to_vec())),
            only_verify_leaf_cert_crl: scope == Scope::LeafOnly,
            ..CertificateValidationContext::default()
        };
        Self::validation(version, context)
    }

    /// The roots of several trust domains, each vouching for its own, for the SPIFFE validator. That one ignores the
    /// context's `crl` field without a word: CRLs belong into each domain's PEM.
    #[must_use]
    pub fn spiffe_validator<'a>(version: &str, domains: impl IntoIterator<Item = (&'a TrustDomain, Vec<u8>)>) -> Self {
        let trust_domains = domains.into_iter().map(|(domain, pem)| spiffe_cert_validator_config::TrustDomain {
            name: domain.as_str().to_owned(),
            trust_bundle: Some(inline(pem)),
        });
        let config = SpiffeCertValidatorConfig { trust_domains: trust_domains.collect() };
        let any = prost_types::Any { type_url: SPIFFE_VALIDATOR_TYPE.to_owned(), value: config.encode_to_vec() };
        let extension = TypedExtensionConfig { name: SPIFFE_VALIDATOR.to_owned(), typed_config: Some(any) };
        let context = CertificateValidationContext {
            custom_validator_config: Some(extension),
            ..CertificateValidationContext::default()
        };
        Self::validation(version, context)
    }

    fn validation(version: &str, context: CertificateValidationContext) -> Self {
        let secret = Secret { name: String::new(), r#type: Some(Type::ValidationContext(context)) };
        Self { version: version.into(), secret: secret.encode_to_vec().into() }
    }
}

fn inline(bytes: Vec<u8>) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineBytes(bytes)) }
}

/// The key and length that precede a field of `len` bytes.
pub fn put_header(out: &mut impl BufMut, field: u32, len: usize) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
}

/// How many bytes a length-delimited field of `len` bytes takes with its header.
#[must_use]
pub fn field_len(field: u32, len: usize) -> usize {
    key_len(field) + encoded_len_varint(len as u64) + len
}

fn data_source_len(field: u32, bytes: &[u8]) -> usize {
    field_len(field, field_len(DATA_SOURCE_INLINE_BYTES, bytes.len()))
}

fn put_data_source(out: &mut impl BufMut, field: u32, bytes: &[u8]) {
    put_header(out, field, field_len(DATA_SOURCE_INLINE_BYTES, bytes.len()));
    put_header(out, DATA_SOURCE_INLINE_BYTES, bytes.len());
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::testing;
    use crate::proto::envoy::extensions::transport_sockets::tls::v3::TlsCertificate;

    #[test]
    fn a_certificate_is_encoded_as_the_generated_code_would() {
        for size in [0, 1, 127, 128, 20_000] {
            let certificate = testing::certificate("a".repeat(size).as_bytes(), b"planted key");
            let payload = Payload::certificate(&certificate);
            let expected = Secret {
                name: String::new(),
                r#type: Some(Type::TlsCertificate(TlsCertificate {
                    certificate_chain: Some(inline(certificate.chain_pem.clone())),
                    private_key: Some(inline(b"planted key".to_vec())),
                })),
            };
            assert_eq!(payload.secret, expected.encode_to_vec());
            assert!(!format!("{payload:?}").contains("planted"));
        }
    }

    #[test]
    fn the_spiffe_validator_names_each_domain_without_scheme() {
        let domain = TrustDomain::parse("spiffe://example.org").unwrap();
        let payload = Payload::spiffe_validator("v", [(&domain, b"pem".to_vec())]);
        let secret = Secret::decode(payload.secret).unwrap();
        let Some(Type::ValidationContext(context)) = secret.r#type else { panic!("{secret:?}") };
        let any = context.custom_validator_config.unwrap().typed_config.unwrap();
        assert_eq!(any.type_url, SPIFFE_VALIDATOR_TYPE);
        let config = SpiffeCertValidatorConfig::decode(any.value.as_slice()).unwrap();
        assert_eq!(config.trust_domains[0].name, "example.org");
        assert_eq!(config.trust_domains[0].trust_bundle, Some(inline(b"pem".to_vec())));
    }
}
