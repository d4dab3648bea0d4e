//! TLS by rustls: whom a connection trusts, and who we are to the other side.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ConfigBuilder, StreamOwned};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, NextTimeout, Transport, TransportAdapter, time,
};

use super::Trust;
use super::room::Room;
use crate::error::{Error, ErrorKind};

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

/// Puts TLS on connections for `https`.
#[derive(Debug)]
pub(super) struct TlsWire(pub(super) Arc<ClientConfig>);

impl<In: Transport> Connector<In> for TlsWire {
    type Out = Either<In, Encrypted<In>>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else { return Ok(None) };
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let name =
            ServerName::try_from(host).map_err(|_| ureq::Error::Tls("the host has no name for TLS"))?;
        let mut session = ClientConnection::new(Arc::clone(&self.0), name).map_err(refused)?;
        let mut below = TransportAdapter::new(transport, details.current_time.clone());
        below.set_timeout(left_of(details));
        session.complete_io(&mut below).map_err(told)?;
        let buffers = Room::of(details.config.input_buffer_size());
        Ok(Some(Either::B(Encrypted { stream: StreamOwned::new(session, below), buffers })))
    }
}

/// What making the connection has left of its time.
fn left_of(details: &ConnectionDetails<'_>) -> NextTimeout {
    let mut timeout = details.timeout;
    if let (time::Duration::Exact(limit), time::Instant::Exact(begun)) = (timeout.after, details.now) {
        timeout.after = limit.saturating_sub(begun.elapsed()).into();
    }
    timeout
}

/// A connection with TLS on top.
pub(super) struct Encrypted<In: Transport> {
    stream: StreamOwned<ClientConnection, TransportAdapter<In>>,
    buffers: Room,
}

impl<In: Transport> Transport for Encrypted<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        self.stream.write_all(output).map_err(told)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let input = self.buffers.input_append_buf();
        let read = self.stream.read(input).map_err(told)?;
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

impl<In: Transport> fmt::Debug for Encrypted<In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encrypted").field("below", self.stream.sock.get_ref()).finish()
    }
}

/// rustls hands its own errors through as those of a connection.
fn told(error: io::Error) -> ureq::Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(ours) => refused(ours.clone()),
        None => error.into(),
    }
}

/// A certificate that is no good will be no better in a moment; a record that was damaged may be.
fn refused(error: rustls::Error) -> ureq::Error {
    let may_pass = error == rustls::Error::DecryptError;
    let error = Error::new(ErrorKind::Tls, error.to_string()).with_retryable(may_pass).with_source(error);
    ureq::Error::Io(io::Error::other(error))
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
