//! The certificates that the system trusts.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

/// Returns the system's certificates as PEM: those of `SSL_CERT_FILE` and `SSL_CERT_DIR`, or else of the
/// platform's own place. What cannot be read is logged; the public authorities are trusted anyway.
pub(crate) fn of_system() -> String {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        log::warn!("the system's certificates: {error}");
    }
    let pem = |certificate: &[u8]| {
        let text = BASE64_STANDARD.encode(certificate);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    };
    found.certs.iter().map(|certificate| pem(certificate)).collect()
}
