//! TLS for the test registry, by a certificate authority of its own.

// Each test file uses some of it, and only tests do.
#![allow(dead_code, clippy::unwrap_used)]

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use oci_puller::testing::{Acceptor, Connection};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, HandshakeKind, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

/// What a server shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerCertificate {
    /// By the authority, for 127.0.0.1 and localhost, valid now.
    Good,
    /// The same, but its time has passed.
    Expired,
    /// For the right names, but signed by itself.
    SelfSigned,
    /// By the authority, for a name that is not ours.
    WrongName,
}

/// A certificate authority that is trusted only where it is configured.
pub(crate) struct PrivateCa {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

/// A certificate and its key, as PEM.
pub(crate) struct Identity {
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
}

impl PrivateCa {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "a private test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        PrivateCa { issuer: Issuer::new(params, key), certificate }
    }

    /// The authority's own certificate, for clients that are to trust it.
    pub(crate) fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// Serves with a certificate of this authority.
    pub(crate) fn acceptor(&self, kind: ServerCertificate) -> TlsAcceptor {
        let (chain, key) = self.server_certificate(kind);
        let config = server_config().with_no_client_auth().with_single_cert(chain, key).unwrap();
        TlsAcceptor::new(config)
    }

    /// Serves with a good certificate, and only clients that show one of this authority.
    pub(crate) fn acceptor_for_known_clients(&self) -> TlsAcceptor {
        let (chain, key) = self.server_certificate(ServerCertificate::Good);
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()), Arc::new(default_provider()))
                .build()
                .unwrap();
        let config =
            server_config().with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap();
        TlsAcceptor::new(config)
    }

    /// What a client shows to a server that wants to know it.
    pub(crate) fn client_identity(&self) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() }
    }

    /// Issues a certificate for 127.0.0.1 that is marked as an authority, and is as `change` makes it.
    pub(crate) fn issue_marked(
        &self,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// A client that trusts this authority alone.
    pub(crate) fn client_config(&self) -> Arc<ClientConfig> {
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots())
            .with_no_client_auth();
        Arc::new(config)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        roots
    }

    /// What a server that is another program shows.
    pub(crate) fn server_identity(&self, kind: ServerCertificate) -> Identity {
        let (certificate, key) = self.issue(kind);
        Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() }
    }

    fn server_certificate(
        &self,
        kind: ServerCertificate,
    ) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let (certificate, key) = self.issue(kind);
        (vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
    }

    fn issue(&self, kind: ServerCertificate) -> (rcgen::Certificate, KeyPair) {
        let names = match kind {
            ServerCertificate::WrongName => vec!["elsewhere.example".to_owned()],
            _ => vec!["127.0.0.1".to_owned(), "localhost".to_owned()],
        };
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if kind == ServerCertificate::Expired {
            params.not_before = date_time_ymd(2019, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = match kind {
            ServerCertificate::SelfSigned => params.self_signed(&key),
            _ => params.signed_by(&key, &self.issuer),
        };
        (certificate.unwrap(), key)
    }
}

fn server_config() -> rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier> {
    ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
}

/// Does the handshake for a [`oci_puller::testing::Registry`].
#[derive(Clone, Debug)]
pub(crate) struct TlsAcceptor {
    config: Arc<ServerConfig>,
    resumed: Arc<AtomicUsize>,
}

impl TlsAcceptor {
    /// Serves with a certificate, and its key, that were made elsewhere.
    pub(crate) fn of(certificate: &rcgen::Certificate, key: &KeyPair) -> Self {
        TlsAcceptor::of_der(certificate.der().to_vec(), key)
    }

    /// Serves with a certificate in DER, and its key.
    pub(crate) fn of_der(certificate: Vec<u8>, key: &KeyPair) -> Self {
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let chain = vec![CertificateDer::from(certificate)];
        TlsAcceptor::new(server_config().with_no_client_auth().with_single_cert(chain, key).unwrap())
    }

    fn new(config: ServerConfig) -> Self {
        TlsAcceptor { config: Arc::new(config), resumed: Arc::default() }
    }

    /// How many connections went on with the session of an earlier one.
    pub(crate) fn resumed(&self) -> Arc<AtomicUsize> {
        self.resumed.clone()
    }
}

impl Acceptor for TlsAcceptor {
    fn accept(&self, mut stream: TcpStream) -> io::Result<Box<dyn Connection>> {
        let mut session = ServerConnection::new(self.config.clone()).map_err(io::Error::other)?;
        session.complete_io(&mut stream)?;
        if session.handshake_kind() == Some(HandshakeKind::Resumed) {
            self.resumed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Box::new(StreamOwned::new(session, stream)))
    }

    fn scheme(&self) -> &'static str {
        "https"
    }
}
