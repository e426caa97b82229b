//! Real handshakes with a server of the same library, and every way in which they must fail.

use std::fs;
use std::io::ErrorKind;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateRevocationListDer, PrivateKeyDer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// An authority of this test's own.
pub(in crate::cli) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(in crate::cli) fn new() -> Self {
        Self::named("test root")
    }

    pub(in crate::cli) fn named(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(in crate::cli) fn pem(&self) -> String {
        self.0.pem()
    }

    fn leaf(&self, uris: &[&str], serial: u64, until: OffsetDateTime) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = until;
        params.use_authority_key_identifier_extension = true;
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    /// A list that names these serials, of long ago.
    pub(in crate::cli) fn list(&self, serials: &[u64]) -> String {
        let at = time::macros::datetime!(2020-01-01 0:00 UTC);
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: at,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: at,
            next_update: at + time::Duration::DAY,
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

pub(in crate::cli) const SERVER: &str = "spiffe://example.org/chancery/server";
pub(in crate::cli) const WEB: &str = "spiffe://example.org/web";
pub(in crate::cli) const LATER: OffsetDateTime = time::macros::datetime!(2200-01-01 0:00 UTC);

pub(in crate::cli) fn config(authority: &Authority, uris: &[&str], revoked_clients: &[u64]) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.0.der().clone()).unwrap();
    let list = CertificateRevocationListDer::from_pem_slice(authority.list(revoked_clients).as_bytes()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let (chain, key) = authority.leaf(uris, 7, LATER);
    let chain = rustls_pki_types::CertificateDer::pem_slice_iter(chain.as_bytes()).map(Result::unwrap).collect();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier.with_crls([list]).build().unwrap())
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
        .unwrap();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config
}

/// A server that says one word to whom it lets in.
pub(in crate::cli) async fn serve(config: ServerConfig) -> HostPort {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string().parse().unwrap();
    crate::tasks::Tasks::new().spawn("test server", async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            stream.write_all(b"hello").await.unwrap();
            let _ = stream.shutdown().await;
        }
    });
    address
}

pub(in crate::cli) struct Client {
    pub(in crate::cli) dir: tempfile::TempDir,
    remote: Remote,
}

pub(in crate::cli) fn client(authority: &Authority, address: HostPort, until: OffsetDateTime) -> Client {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = authority.leaf(&[WEB], 3, until);
    for (name, text) in [("cert.pem", cert), ("key.pem", key), ("bundle.pem", authority.pem())] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let remote = Remote { address, identity_dir: dir.path().to_owned(), server: None, clock: Clock::system() };
    Client { dir, remote }
}

/// What connecting says, and its exit code.
async fn refused(client: &Client) -> (u8, String) {
    let error = client.remote.connect().await.unwrap_err();
    (error.exit_code(), error.to_string())
}

#[tokio::test]
async fn the_expected_server_is_let_in_and_lets_us_in() {
    let authority = Authority::new();
    let client = client(&authority, serve(config(&authority, &[SERVER], &[99])).await, LATER);
    let connection = client.remote.connect().await.unwrap();
    assert_eq!(connection.buffer(), b"hello");
    let (_, tls) = connection.get_ref().get_ref();
    let group = tls.negotiated_key_exchange_group().unwrap().name();
    assert_eq!((tls.alpn_protocol(), group), (Some(ALPN), rustls::NamedGroup::X25519MLKEM768));

    // The files are read anew for each connection, and an old list without our server in it keeps nobody out.
    fs::write(client.dir.path().join("crl.pem"), authority.list(&[3])).unwrap();
    client.remote.connect().await.unwrap();
    fs::write(client.dir.path().join("crl.pem"), authority.list(&[7])).unwrap();
    let (code, said) = refused(&client).await;
    assert!(code == 5 && said.contains("revoked"), "{said}");
}

#[tokio::test]
async fn a_server_that_is_not_the_one_is_refused() {
    let authority = Authority::new();
    for uris in [&["spiffe://example.org/web"][..], &["spiffe://example.com/chancery/server"], &[], &[SERVER, WEB]] {
        let client = client(&authority, serve(config(&authority, uris, &[99])).await, LATER);
        let (code, said) = refused(&client).await;
        assert!(code == 5 && said.contains("expected spiffe://example.org/chancery/server"), "{said}");
    }
    // Also when the other root bears the same name.
    for other in [Authority::new(), Authority::named("another")] {
        let client = client(&authority, serve(config(&other, &[SERVER], &[99])).await, LATER);
        let (code, said) = refused(&client).await;
        assert!(code == 5 && said.contains("bundle.pem"), "{said}");
    }
}

#[tokio::test]
async fn a_server_that_refuses_us_is_heard() {
    let (authority, other) = (Authority::new(), Authority::named("another"));
    let address = serve(config(&authority, &[SERVER], &[3])).await;
    let (code, said) = refused(&client(&authority, address.clone(), LATER)).await;
    assert!(code == 3 && said.contains("certificate_revoked"), "{said}");

    // Ours comes from elsewhere, theirs is trusted.
    let stranger = client(&other, address, LATER);
    fs::write(stranger.dir.path().join("bundle.pem"), authority.pem()).unwrap();
    let (code, said) = refused(&stranger).await;
    assert!(code == 3 && said.contains("unknown_ca"), "{said}");
}

#[tokio::test]
async fn a_broken_identity_is_said_before_anything_is_sent() {
    let authority = Authority::new();
    // Nobody listens there: it is never asked.
    let address: HostPort = "127.0.0.1:1".parse().unwrap();
    let expired = client(&authority, address.clone(), time::macros::datetime!(2020-01-01 0:00 UTC));
    let (code, said) = refused(&expired).await;
    assert!(code == 2 && said.contains("expired at 2020-01-01"), "{said}");

    let broken = client(&authority, address, LATER);
    let (code, said) = refused(&broken).await;
    assert!(code == 4 && said.contains("127.0.0.1:1"), "{said}");
    let foreign = authority.leaf(&[WEB], 4, LATER).1;
    for (file, text, expected) in [
        ("key.pem", Some(foreign.as_str()), "cert.pem"),
        ("key.pem", Some("x"), "no private key"),
        ("bundle.pem", Some(""), "no root"),
        ("cert.pem", Some(""), "no certificate"),
        ("cert.pem", None, "chancery cert issue"),
    ] {
        match text {
            Some(text) => fs::write(broken.dir.path().join(file), text).unwrap(),
            None => fs::remove_file(broken.dir.path().join(file)).unwrap(),
        }
        let (code, said) = refused(&broken).await;
        assert!(code == 2 && said.contains(expected), "{said}");
        fs::write(broken.dir.path().join("bundle.pem"), authority.pem()).unwrap();
        if file == "key.pem" && text == Some("x") {
            let (cert, key) = authority.leaf(&[WEB], 5, LATER);
            fs::write(broken.dir.path().join("cert.pem"), cert).unwrap();
            fs::write(broken.dir.path().join("key.pem"), key).unwrap();
        }
    }
}

#[tokio::test]
async fn plain_text_is_no_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: HostPort = listener.local_addr().unwrap().to_string().parse().unwrap();
    crate::tasks::Tasks::new().spawn("test server", async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    });
    let (code, said) = refused(&client(&Authority::new(), address, LATER)).await;
    assert!(code == 4 && said.contains("TLS 1.3"), "{said}");
}

#[test]
fn a_directory_that_is_swapped_is_read_as_one_set() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(identity::set_of(dir.path()), dir.path());
    std::os::unix::fs::symlink("..set-4", dir.path().join("..data")).unwrap();
    assert_eq!(identity::set_of(dir.path()), dir.path().join("..set-4"));
    let missing = Identity::load(dir.path()).unwrap_err();
    assert!(matches!(missing, TlsError::File { source, .. } if source.kind() == ErrorKind::NotFound));
}

#[test]
fn addresses_are_read_and_written() {
    for good in ["ca.example.org:8443", "192.0.2.7:1", "[2001:db8::7]:65535", "localhost:8443"] {
        assert_eq!(good.parse::<HostPort>().unwrap().to_string(), good);
    }
    for bad in ["", "host", "host:", ":1", "host:0", "host:65536", "2001:db8::7:1", "[host]:1", "http://a:1", "a b:1"] {
        assert!(bad.parse::<HostPort>().unwrap_err().contains("HOST:PORT"), "{bad}");
    }
}

#[test]
fn alerts_have_the_names_of_the_standard() {
    for (alert, name) in [
        (AlertDescription::CertificateRevoked, "certificate_revoked"),
        (AlertDescription::UnknownCA, "unknown_ca"),
        (AlertDescription::HandshakeFailure, "handshake_failure"),
    ] {
        assert_eq!(alert_name(alert), name);
    }
}
