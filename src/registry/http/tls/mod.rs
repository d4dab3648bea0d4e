//! TLS by rustls: the servers that a connection trusts, and its client certificate.

#[cfg(feature = "ecdsa")]
mod ecdsa;
mod end_entity;
mod trust;
mod verifier;
mod x509;

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, InvalidMessage, StreamOwned};

pub(crate) use self::trust::Trust;
use self::trust::{invalid, unusable_client};
use self::verifier::AnyServer;
use super::error;
use super::stream::ByteStream;
use crate::error::{Error, ErrorKind};

/// Returns the configuration of connections. Sessions are resumed if the server allows it.
///
/// # Errors
/// `InvalidConfig` if a certificate or a key cannot be read, or do not belong together.
pub(super) fn config(trust: &Trust) -> Result<Arc<ClientConfig>, Error> {
    let provider = provider();
    let verifier: Arc<dyn ServerCertVerifier> = match trust.skip_verify {
        true => Arc::new(AnyServer(Arc::clone(&provider))),
        false => Arc::new(trust.verifier(Arc::clone(&provider))?),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(format!("TLS cannot be set up: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let config = match trust.client()? {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            builder.with_client_auth_cert(chain, key).map_err(|error| unusable_client(&error))?
        }
    };
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    #[cfg(not(feature = "ecdsa"))]
    let algorithms = || ring::default_provider().signature_verification_algorithms;
    #[cfg(feature = "ecdsa")]
    let algorithms = ecdsa::algorithms;
    let signature_verification_algorithms = end_entity::algorithms(algorithms);
    Arc::new(CryptoProvider { signature_verification_algorithms, ..ring::default_provider() })
}

/// TLS on top of another stream.
pub(super) struct TlsStream(StreamOwned<ClientConnection, Box<dyn ByteStream>>);

impl TlsStream {
    /// Does the handshake with `host`, within `limit`.
    ///
    /// # Errors
    /// `Tls`, `Timeout`, `ConnectionFailed`, `Cancelled`.
    pub(super) fn connect(
        config: &Arc<ClientConfig>,
        host: &str,
        mut below: Box<dyn ByteStream>,
        limit: Duration,
    ) -> Result<Self, Error> {
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
            .map_err(|_| Error::new(ErrorKind::Tls, "the name of the host is not valid for TLS"))?;
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

impl ByteStream for TlsStream {
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

/// Translates a TLS error that rustls wraps in an I/O error.
fn ours(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => io::Error::other(of_rustls(tls.clone())),
        None => error,
    }
}

/// Translates an error of rustls. Only a damaged record is retryable.
fn of_rustls(error: rustls::Error) -> Error {
    let may_pass = error == rustls::Error::DecryptError;
    let message = match &error {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the server does not speak TLS, perhaps plain HTTP: it was asked by HTTPS".to_owned()
        }
        error => error.to_string(),
    };
    Error::new(ErrorKind::Tls, message).with_retryable(may_pass).with_source(error)
}
