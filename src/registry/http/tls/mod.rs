//! TLS by rustls: which servers a connection trusts, and what it shows of itself.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WantsClientCert;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ConfigBuilder, StreamOwned};

use super::error;
use super::stream::Stream;
use crate::error::{Error, ErrorKind};

/// What a TLS connection is made with; PEM files, read already.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Trust {
    /// Certificates of authorities, besides those that are trusted anyway.
    pub(crate) authorities: Vec<Vec<u8>>,
    /// Certificate and key that this side shows.
    pub(crate) client: Option<(Vec<u8>, Vec<u8>)>,
    /// Accepts any certificate.
    pub(crate) skip_verify: bool,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trust(…)")
    }
}

type Builder = ConfigBuilder<ClientConfig, WantsClientCert>;

/// What connections are made with. Sessions are resumed, as far as the servers allow.
///
/// # Errors
/// `InvalidConfig` if a certificate or a key cannot be read, or do not belong together.
pub(super) fn config(trust: &Trust) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = match trust.skip_verify {
        true => trusting_anyone(provider)?,
        false => trusting(provider, authorities(trust)?)?,
    };
    let config = match &trust.client {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key)
                .map_err(|error| invalid(format!("a client's key cannot be read: {error}")))?;
            builder
                .with_client_auth_cert(certificates(chain)?, key)
                .map_err(|error| invalid(format!("a client's certificate and key are of no use: {error}")))?
        }
    };
    Ok(Arc::new(config))
}

/// The authorities that were added; the usual ones are trusted too.
fn authorities(trust: &Trust) -> Result<Vec<CertificateDer<'static>>, Error> {
    let mut all = Vec::new();
    for pem in &trust.authorities {
        all.extend(certificates(pem)?);
    }
    Ok(all)
}

#[cfg(not(feature = "platform-verifier"))]
fn trusting(provider: Arc<CryptoProvider>, added: Vec<CertificateDer<'static>>) -> Result<Builder, Error> {
    let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for authority in added {
        roots
            .add(authority)
            .map_err(|error| invalid(format!("an authority's certificate is of no use: {error}")))?;
    }
    Ok(with_versions(provider)?.with_root_certificates(roots))
}

#[cfg(feature = "platform-verifier")]
fn trusting(provider: Arc<CryptoProvider>, added: Vec<CertificateDer<'static>>) -> Result<Builder, Error> {
    let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(added, Arc::clone(&provider))
        .map_err(|error| invalid(format!("whom this system trusts cannot be told: {error}")))?;
    Ok(with_versions(provider)?.dangerous().with_custom_certificate_verifier(Arc::new(verifier)))
}

fn trusting_anyone(provider: Arc<CryptoProvider>) -> Result<Builder, Error> {
    let anyone = Arc::new(anyone::Anyone(Arc::clone(&provider)));
    Ok(with_versions(provider)?.dangerous().with_custom_certificate_verifier(anyone))
}

fn with_versions(
    provider: Arc<CryptoProvider>,
) -> Result<ConfigBuilder<ClientConfig, rustls::WantsVerifier>, Error> {
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(format!("TLS cannot be set up: {error}")))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| invalid(format!("a certificate is not valid PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(invalid("a certificate file holds no PEM certificate".to_owned()));
    }
    Ok(certificates)
}

fn invalid(what: String) -> Error {
    Error::new(ErrorKind::InvalidConfig, what)
}

/// TLS on top of another stream.
pub(super) struct TlsStream(StreamOwned<ClientConnection, Box<dyn Stream>>);

impl TlsStream {
    /// Does the handshake with `host`, within `limit`.
    ///
    /// # Errors
    /// `Tls`, `Timeout`, `ConnectionFailed`, `Cancelled`.
    pub(super) fn connect(
        config: &Arc<ClientConfig>,
        host: &str,
        mut below: Box<dyn Stream>,
        limit: Duration,
    ) -> Result<Self, Error> {
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
            .map_err(|_| Error::new(ErrorKind::Tls, "the host has no name for TLS"))?;
        let mut session = ClientConnection::new(Arc::clone(config), name).map_err(of_rustls)?;
        below.set_limit(Some(limit));
        session.complete_io(&mut below).map_err(|error| error::of_io(ours(error)))?;
        Ok(TlsStream(StreamOwned::new(session, below)))
    }
}

impl Read for TlsStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(ours)
    }
}

impl Write for TlsStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(ours)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(ours)
    }
}

impl Stream for TlsStream {
    fn set_limit(&mut self, limit: Option<Duration>) {
        self.0.sock.set_limit(limit);
    }

    fn is_idle(&mut self) -> bool {
        self.0.sock.is_idle()
    }
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("below", &self.0.sock).finish()
    }
}

/// Translates what rustls hands through as an error of the connection.
fn ours(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => io::Error::other(of_rustls(tls.clone())),
        None => error,
    }
}

/// A certificate that is no good will be no better in a moment; a record that was damaged may be.
fn of_rustls(error: rustls::Error) -> Error {
    let may_pass = error == rustls::Error::DecryptError;
    Error::new(ErrorKind::Tls, error.to_string()).with_retryable(may_pass).with_source(error)
}

/// What `skip_verify` asks for.
mod anyone {
    use std::sync::Arc;

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    /// Believes any certificate, as long as the other side has the key to it.
    #[derive(Debug)]
    pub(super) struct Anyone(pub(super) Arc<CryptoProvider>);

    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
}
