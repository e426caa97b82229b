//! The client's side of mutual TLS with the server: identities issued by the operator's command, handshakes with what a
//! careful client checks, and with what a hostile one shows.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use super::chancery::Chancery;

/// What a client shows and whom it trusts.
#[derive(Clone)]
pub struct Identity {
    directory: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    key: Option<Arc<PrivateKeyDer<'static>>>,
}

impl Identity {
    /// Issues `identity` with the operator's command into a directory of its own.
    pub fn issue(server: &Chancery, identity: &str, directory: &str) -> Self {
        let directory = server.scratch().join(directory);
        std::fs::create_dir_all(&directory).expect("a directory");
        let path = directory.display().to_string();
        server.run(&["cert", "issue", "--identity", identity, "--dir", &path]).expect(0);
        let chain = CertificateDer::pem_file_iter(directory.join("cert.pem")).expect("a chain");
        let chain = chain.map(|certificate| certificate.expect("a certificate")).collect();
        let key = PrivateKeyDer::from_pem_file(directory.join("key.pem")).expect("a key");
        Self { directory, chain, key: Some(Arc::new(key)) }
    }

    /// The same trust, showing nothing.
    pub fn nobody(&self) -> Self {
        Self { chain: Vec::new(), key: None, ..self.clone() }
    }

    /// The same trust, showing a stranger's certificate.
    pub fn showing(&self, chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Self {
        Self { chain, key: Some(Arc::new(key)), ..self.clone() }
    }

    /// The same, without what stands above its leaf.
    pub fn leaf_alone(&self) -> Self {
        Self { chain: self.chain.iter().take(1).cloned().collect(), ..self.clone() }
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its serial, as records spell it.
    pub fn serial(&self) -> String {
        super::sds::serial(&std::fs::read(self.directory.join("cert.pem")).expect("a certificate"))
    }

    fn config(&self) -> ClientConfig {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(self.directory.join("bundle.pem")).expect("a bundle") {
            roots.add(root.expect("a root")).expect("a root");
        }
        let verifier = Arc::new(Server { roots, provider: Arc::clone(&provider) });
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &self.key {
            Some(key) => builder.with_client_auth_cert(self.chain.clone(), key.clone_key()).expect("a pair"),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    /// The handshake as the client sees it. In TLS 1.3 it is over before the server has judged: see [`refusal`].
    pub async fn handshake(&self, to: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        self.handshake_on(TcpStream::connect(to).await?).await
    }

    /// The same, from another address of this machine.
    pub async fn handshake_from(&self, from: [u8; 4], to: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        self.handshake_on(socket.connect(to).await?).await
    }

    async fn handshake_on(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("chancery.invalid").expect("a name");
        TlsConnector::from(Arc::new(self.config())).connect(name, stream).await
    }

    /// A connection for gRPC.
    pub async fn connect(&self, to: SocketAddr) -> Result<Channel, tonic::transport::Error> {
        let identity = self.clone();
        let connector = tower::service_fn(move |_| {
            let identity = identity.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(identity.handshake(to).await?)) }
        });
        Endpoint::from_static("http://sds.invalid").connect_with_connector(connector).await
    }

    /// Why the server refuses, in the words of the alert; what it said otherwise.
    pub async fn refusal(&self, to: SocketAddr) -> String {
        let mut stream = match self.handshake(to).await {
            Ok(stream) => stream,
            Err(error) => return error.to_string(),
        };
        let reading = tokio::time::timeout(std::time::Duration::from_secs(5), async {
            // The HTTP/2 settings of a server that accepts come at once.
            stream.read(&mut [0; 64]).await
        });
        match reading.await {
            Ok(Ok(0)) => "closed".to_owned(),
            Ok(Ok(_)) => "accepted".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "silent".to_owned(),
        }
    }
}

/// Checks what a SPIFFE client checks of a server: a chain to the bundle. The name is for whoever looks at the URI.
#[derive(Debug)]
struct Server {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Server {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let leaf = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, &self.roots, chain, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, leaf, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
