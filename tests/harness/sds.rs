//! A bare SDS client over a Unix socket: one stream for one secret name, acknowledged or refused by hand.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use chancery::proto::envoy::config::core::v3::data_source::Specifier;
use chancery::proto::envoy::config::core::v3::{DataSource, Node};
use chancery::proto::envoy::extensions::transport_sockets::tls::v3::Secret;
use chancery::proto::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use chancery::proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use chancery::proto::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use chancery::proto::google::rpc::Status as Detail;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// The type URL of a secret.
const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// Requests in flight to the server on one stream.
const REQUESTS: usize = 8;

/// One connection.
pub async fn connect(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(socket).await?)) }
    });
    Endpoint::from_static("http://sds.invalid").connect_with_connector(connector).await
}

/// One stream for one name.
pub struct Stream {
    name: String,
    requests: mpsc::Sender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
}

/// What the server sent.
#[derive(Debug, Clone)]
pub struct Update {
    /// The version, derived from the content.
    pub version: String,
    nonce: String,
    /// The secret.
    pub secret: Secret,
}

impl Stream {
    /// Subscribes to `name`, naming the version held from before (empty for none).
    pub async fn open(channel: Channel, node: &str, name: &str, version: &str) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(REQUESTS);
        let first = DiscoveryRequest {
            version_info: version.to_owned(),
            node: Some(Node { id: node.to_owned(), ..Node::default() }),
            resource_names: vec![name.to_owned()],
            type_url: SECRET.to_owned(),
            ..DiscoveryRequest::default()
        };
        requests.send(first).await.map_err(|_| Status::internal("the request queue is closed"))?;
        let mut client = SecretDiscoveryServiceClient::new(channel);
        let receiver = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let responses = client.stream_secrets(receiver).await?.into_inner();
        Ok(Self { name: name.to_owned(), requests, responses })
    }

    /// The next update, or why there is none in `limit`.
    pub async fn next(&mut self, limit: Duration) -> Result<Update, Status> {
        let response = tokio::time::timeout(limit, self.responses.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no update in time"))??
            .ok_or_else(|| Status::unavailable("the stream ended"))?;
        let resource = response.resources.first().ok_or_else(|| Status::internal("an update without a secret"))?;
        let secret = Secret::decode(resource.value.as_slice()).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Update { version: response.version_info, nonce: response.nonce, secret })
    }

    /// Acknowledges an update.
    pub async fn acknowledge(&self, update: &Update) {
        self.answer(update, &update.version, None).await;
    }

    /// Refuses an update, going on with the version held before.
    pub async fn refuse(&self, update: &Update, held: &str, why: &str) {
        let detail = Detail { code: 13, message: why.to_owned(), ..Detail::default() };
        self.answer(update, held, Some(detail)).await;
    }

    async fn answer(&self, update: &Update, version: &str, error_detail: Option<Detail>) {
        let request = DiscoveryRequest {
            version_info: version.to_owned(),
            resource_names: vec![self.name.clone()],
            type_url: SECRET.to_owned(),
            response_nonce: update.nonce.clone(),
            error_detail,
            ..DiscoveryRequest::default()
        };
        // A stream that has ended says so on the next read.
        let _ = self.requests.send(request).await;
    }
}

impl Update {
    /// Certificate chain and key, PEM.
    pub fn certificate(&self) -> (Vec<u8>, Vec<u8>) {
        let Some(Type::TlsCertificate(certificate)) = &self.secret.r#type else { panic!("no certificate: {self:?}") };
        (bytes(certificate.certificate_chain.as_ref()), bytes(certificate.private_key.as_ref()))
    }

    /// The roots, PEM.
    pub fn roots(&self) -> Vec<u8> {
        let Some(Type::ValidationContext(context)) = &self.secret.r#type else { panic!("no roots: {self:?}") };
        bytes(context.trusted_ca.as_ref())
    }

    /// The CRLs, PEM.
    pub fn crls(&self) -> Vec<u8> {
        let Some(Type::ValidationContext(context)) = &self.secret.r#type else { panic!("no roots: {self:?}") };
        bytes(context.crl.as_ref())
    }
}

/// The serial of a chain's first certificate, as records spell it.
pub fn serial(chain: &[u8]) -> String {
    let (_, pem) = x509_parser::pem::parse_x509_pem(chain).expect("PEM");
    let leaf = pem.parse_x509().expect("a certificate");
    leaf.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Asks for one certificate after another, each on a connection of its own, until there are no more; notes the serials.
pub async fn ask_again_and_again(socket: &Path, node: &str, received: &Mutex<Vec<String>>) {
    loop {
        let Ok(channel) = connect(socket).await else { return };
        let Ok(mut stream) = Stream::open(channel, node, "default", "").await else { return };
        let Ok(update) = stream.next(Duration::from_secs(5)).await else { return };
        received.lock().expect("no holder panics").push(serial(&update.certificate().0));
        stream.acknowledge(&update).await;
    }
}

fn bytes(source: Option<&DataSource>) -> Vec<u8> {
    match source.and_then(|source| source.specifier.clone()) {
        Some(Specifier::InlineBytes(bytes)) => bytes,
        Some(Specifier::InlineString(text)) => text.into_bytes(),
        other => panic!("not inline: {other:?}"),
    }
}
