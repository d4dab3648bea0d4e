//! Entry points for the fuzz targets in `tests/fuzz`; compiled only for fuzzing.

use super::bundle::Bundle;
use super::key::PublicKey;
use super::policy_json;
use super::simple_signing::SimpleSignature;

/// Parses a bundle and its statement.
pub fn bundle(bytes: &[u8]) {
    if let Some(Bundle::Statement(envelope)) = Bundle::parse(bytes) {
        let _ = envelope.signed_bytes();
        let _ = envelope.claim();
    }
}

/// Parses a payload of simple signing.
pub fn simple_signing(bytes: &[u8]) {
    let _ = SimpleSignature { payload: bytes.to_vec(), signature: Vec::new() }.claim();
}

/// Parses a policy, and reads the key files that it names.
pub fn policy_json(bytes: &[u8]) {
    let _ = policy_json::parse(bytes);
}

/// Parses a file of keys or one SubjectPublicKeyInfo, and verifies with each key.
pub fn spki(bytes: &[u8]) {
    let keys = PublicKey::parse_all(bytes).or_else(|_| PublicKey::from_spki(bytes).map(|key| vec![key]));
    for key in keys.unwrap_or_default() {
        assert!(!key.verifies(b"message", b"signature"));
    }
}
