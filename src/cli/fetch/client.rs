//! A client of the secret discovery service: one connection, one stream for each secret, as Envoy does it.
//!
//! An [`Offer`] is acknowledged or refused by whoever used it, never by receiving it. Nothing here knows about files.

use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::cli::tls::{Remote, TlsError};
use crate::feed::payload::SECRET_TYPE;
use crate::proto::envoy::config::core::v3::{DataSource, Node, data_source::Specifier};
use crate::proto::envoy::extensions::transport_sockets::tls::v3::{Secret, secret::Type};
use crate::proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use crate::proto::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use crate::proto::google;
use crate::x509::crl::Scope;

/// The largest response that is read, in bytes: a bundle may carry large CRLs.
const LARGEST_RESPONSE: usize = 64 << 20;

/// Requests that wait to be sent on one stream: an acknowledgement at a time.
const REQUESTS: usize = 4;

/// How often a silent connection is asked whether it lives, and how long it may take to answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

/// Connects to the socket at `path`.
///
/// # Errors
/// What the system said.
pub(crate) async fn connect(path: &Path) -> std::io::Result<Channel> {
    over(UnixStream::connect(path).await?).await
}

/// Connects to a server on another machine, which has taken our certificate when this returns.
///
/// # Errors
/// [`TlsError`].
pub(crate) async fn connect_remote(remote: &Remote) -> Result<Channel, TlsError> {
    let address = remote.address.to_string();
    over(remote.connect().await?).await.map_err(|source| TlsError::Handshake { address, source })
}

async fn over<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> std::io::Result<Channel> {
    let mut first = Some(TokioIo::new(stream));
    // One connection, handed over once: when it breaks, the caller connects anew and names what it holds.
    let connector =
        tower::service_fn(move |_| std::future::ready(first.take().ok_or(std::io::Error::other("disconnected"))));
    Endpoint::from_static("http://sds")
        .http2_keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
        .map_err(std::io::Error::other)
}

/// A stream for one secret.
pub(crate) struct Subscription {
    name: String,
    accepted: String,
    requests: mpsc::Sender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
}

/// One version of a secret, not answered yet.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) version: String,
    nonce: String,
    /// `None` when the response does not hold the one secret that was asked for.
    pub(crate) content: Option<Content>,
}

/// What a secret holds.
pub(crate) enum Content {
    /// PEM chain and PEM key.
    Certificate { chain: Vec<u8>, key: zeroize::Zeroizing<Vec<u8>> },
    /// PEM roots and PEM revocation lists, of which there may be none.
    Bundle { pem: Vec<u8>, crl: Vec<u8>, scope: Scope },
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Certificate { .. } => f.write_str("Certificate([secret])"),
            Self::Bundle { pem, crl, .. } => write!(f, "Bundle({} and {} bytes)", pem.len(), crl.len()),
        }
    }
}

impl Subscription {
    /// Subscribes to `name`, naming the `version` that is held (empty for none).
    ///
    /// # Errors
    /// What the server said.
    pub(crate) async fn open(channel: Channel, node: &str, name: &str, version: &str) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(REQUESTS);
        let first = DiscoveryRequest {
            version_info: version.to_owned(),
            node: Some(Node { id: node.to_owned(), cluster: String::new() }),
            resource_names: vec![name.to_owned()],
            type_url: SECRET_TYPE.to_owned(),
            ..DiscoveryRequest::default()
        };
        // There is room: nothing was sent before.
        let _ = requests.try_send(first);
        let mut client = SecretDiscoveryServiceClient::new(channel).max_decoding_message_size(LARGEST_RESPONSE);
        let responses = client.stream_secrets(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { name: name.to_owned(), accepted: version.to_owned(), requests, responses })
    }

    /// The next version that the server sends. Safe to cancel.
    ///
    /// # Errors
    /// What the server said when it ended the stream.
    pub(crate) async fn next(&mut self) -> Result<Offer, Status> {
        let response =
            self.responses.message().await?.ok_or_else(|| Status::unavailable("the server ended the stream"))?;
        let content = match response.resources.as_slice() {
            [any] if any.type_url == SECRET_TYPE => content(&any.value, &self.name),
            _ => None,
        };
        Ok(Offer { version: response.version_info, nonce: response.nonce, content })
    }

    /// Says that `offer` is in use from now on.
    pub(crate) async fn accept(&mut self, offer: &Offer) {
        self.accepted.clone_from(&offer.version);
        self.answer(offer, None).await;
    }

    /// Says that `offer` can't be used and that what was held stays in use.
    pub(crate) async fn refuse(&mut self, offer: &Offer, why: &str) {
        let error =
            google::rpc::Status { code: tonic::Code::Internal as i32, message: why.to_owned(), details: Vec::new() };
        self.answer(offer, Some(error)).await;
    }

    async fn answer(&self, offer: &Offer, error_detail: Option<google::rpc::Status>) {
        let answer = DiscoveryRequest {
            version_info: self.accepted.clone(),
            resource_names: vec![self.name.clone()],
            type_url: SECRET_TYPE.to_owned(),
            response_nonce: offer.nonce.clone(),
            error_detail,
            ..DiscoveryRequest::default()
        };
        // When the stream is gone, reading it says so.
        let _ = self.requests.send(answer).await;
    }
}

fn content(bytes: &[u8], name: &str) -> Option<Content> {
    let secret = Secret::decode(bytes).ok().filter(|secret| secret.name == name)?;
    match secret.r#type? {
        Type::TlsCertificate(certificate) => Some(Content::Certificate {
            chain: inline(certificate.certificate_chain?)?,
            key: inline(certificate.private_key?)?.into(),
        }),
        Type::ValidationContext(context) => {
            let scope = if context.only_verify_leaf_cert_crl { Scope::LeafOnly } else { Scope::WholeChain };
            let crl = match context.crl {
                Some(crl) => inline(crl)?,
                None => Vec::new(),
            };
            Some(Content::Bundle { pem: inline(context.trusted_ca?)?, crl, scope })
        }
    }
}

fn inline(source: DataSource) -> Option<Vec<u8>> {
    match source.specifier? {
        Specifier::InlineBytes(bytes) => Some(bytes),
        Specifier::InlineString(text) => Some(text.into_bytes()),
        Specifier::Filename(_) => None,
    }
}
