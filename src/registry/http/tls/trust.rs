//! Certificates and keys from PEM files: the trusted ones, and those of the client.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::verifier::ServerVerifier;
use super::x509::Certificate;
use crate::error::{Error, ErrorKind};

/// The trust and the client certificate of a TLS connection, as the contents of PEM files.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Trust {
    /// Certificates that are trusted besides the usual ones.
    pub(crate) authorities: Vec<Vec<u8>>,
    /// Certificate and key of the client.
    pub(crate) client: Option<(Vec<u8>, Vec<u8>)>,
    /// Accepts any certificate.
    pub(crate) skip_verify: bool,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trust(…)")
    }
}

impl Trust {
    /// Returns the verifier for this trust.
    ///
    /// # Errors
    /// `InvalidConfig` for a file without a usable certificate.
    pub(super) fn verifier(&self, provider: Arc<CryptoProvider>) -> Result<ServerVerifier, Error> {
        let (mut authorities, mut given) = (Vec::new(), Vec::new());
        for pem in &self.authorities {
            for (certificate, is_authority) in usable(pem)? {
                // A certificate that is not an authority must not become a trust anchor for others.
                if is_authority {
                    authorities.push(certificate.clone());
                }
                given.push(certificate);
            }
        }
        Ok(ServerVerifier { authorities: verifier_of(authorities, provider)?, given })
    }

    /// Returns the chain and the key of the client.
    ///
    /// # Errors
    /// `InvalidConfig` with the reason if they cannot be read.
    pub(super) fn client(&self) -> Result<Option<ClientIdentity>, Error> {
        let Some((chain, key)) = &self.client else { return Ok(None) };
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| invalid(format!("a client's certificate is not valid PEM: {error}")))?;
        if chain.is_empty() {
            return Err(invalid("a client's certificate file holds no PEM certificate".to_owned()));
        }
        let parsed = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
            let is_encrypted = contains(key, b"BEGIN ENCRYPTED PRIVATE KEY") || contains(key, b",ENCRYPTED");
            invalid(match is_encrypted {
                true => {
                    "a client's key is encrypted with a passphrase; decrypt it with `openssl pkey`".to_owned()
                }
                false => format!("a client's key cannot be read: {error}"),
            })
        })?;
        Ok(Some((chain, parsed)))
    }
}

/// A certificate with its chain, and its key.
type ClientIdentity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Returns the error of a client certificate and key that rustls cannot use.
pub(super) fn unusable_client(error: &rustls::Error) -> Error {
    let why = match error {
        rustls::Error::InconsistentKeys(_) => "the key is not that of the certificate".to_owned(),
        error => format!(
            "{error}; keys are usable if they are RSA of 2048 to 8192 bits, ECDSA P-256 or P-384, or Ed25519"
        ),
    };
    invalid(format!("a client's certificate and key cannot be used: {why}"))
}

/// Returns the certificates of a PEM file, and whether each is an authority. Skips one that cannot be used, unless
/// there is no other.
fn usable(pem: &[u8]) -> Result<Vec<(CertificateDer<'static>, bool)>, Error> {
    let (mut usable, mut reason) = (Vec::new(), None);
    for certificate in CertificateDer::pem_slice_iter(pem) {
        match certificate {
            Ok(der) => match Certificate::read(&der) {
                Some(facts) if is_anchor(&der) => usable.push((der, facts.is_authority)),
                _ => reason = Some("it is malformed".to_owned()),
            },
            Err(error) => reason = Some(error.to_string()),
        }
    }
    match reason {
        Some(reason) if usable.is_empty() => {
            Err(invalid(format!("a certificate to be trusted cannot be used: {reason}")))
        }
        None if usable.is_empty() => {
            Err(invalid("a file of certificates to be trusted holds no PEM certificate".to_owned()))
        }
        Some(reason) => {
            log::warn!("a certificate to be trusted is skipped: {reason}");
            Ok(usable)
        }
        None => Ok(usable),
    }
}

fn is_anchor(certificate: &CertificateDer<'static>) -> bool {
    rustls::RootCertStore::empty().add(certificate.clone()).is_ok()
}

#[cfg(not(feature = "platform-verifier"))]
fn verifier_of(
    added: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    roots.add_parsable_certificates(added);
    let verifier =
        rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    Ok(verifier.map_err(|error| invalid(format!("TLS cannot be set up: {error}")))?)
}

#[cfg(feature = "platform-verifier")]
fn verifier_of(
    added: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(added, provider);
    let verifier = verifier.map_err(|error| {
        invalid(format!("the certificates that this system trusts cannot be read: {error}"))
    })?;
    Ok(Arc::new(verifier))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

pub(super) fn invalid(what: String) -> Error {
    Error::new(ErrorKind::InvalidConfig, what)
}
