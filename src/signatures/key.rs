//! Public keys in `PUBLIC KEY` PEM blocks: ECDSA P-256 and P-384, Ed25519, and RSA of 2,048 to 8,192 bits.
//!
//! The key's type chooses the algorithms, never the signature.

use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use rustls::pki_types::pem;

use crate::error::{Error, ErrorKind};

/// Maximum size of a file with keys, bytes.
pub(super) const MAX_PEM: usize = 64 << 10;
/// Maximum number of keys in one file.
const MAX_KEYS: usize = 64;
const MIN_RSA_BITS: usize = 2048;
const MAX_RSA_BITS: usize = 8192;

/// A public key.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct PublicKey {
    kind: KeyKind,
    /// The point of an elliptic curve, or an `RSAPublicKey`.
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyKind {
    P256,
    P384,
    Ed25519,
    Rsa,
}

impl KeyKind {
    /// Returns the algorithms of which one must verify a signature by such a key.
    ///
    /// cosign signs the SHA-256 of a payload with every ECDSA and RSA key; newer tools use SHA-384 with P-384. The
    /// salt of PSS is as long as the hash.
    fn algorithms(self) -> &'static [&'static dyn VerificationAlgorithm] {
        static P256: [&dyn VerificationAlgorithm; 1] = [&signature::ECDSA_P256_SHA256_ASN1];
        static P384: [&dyn VerificationAlgorithm; 2] =
            [&signature::ECDSA_P384_SHA256_ASN1, &signature::ECDSA_P384_SHA384_ASN1];
        static ED25519: [&dyn VerificationAlgorithm; 1] = [&signature::ED25519];
        static RSA: [&dyn VerificationAlgorithm; 2] =
            [&signature::RSA_PKCS1_2048_8192_SHA256, &signature::RSA_PSS_2048_8192_SHA256];
        match self {
            KeyKind::P256 => &P256,
            KeyKind::P384 => &P384,
            KeyKind::Ed25519 => &ED25519,
            KeyKind::Rsa => &RSA,
        }
    }
}

impl PublicKey {
    /// Reads the keys of a PEM file, at least one.
    ///
    /// # Errors
    /// `InvalidConfig`, which says what the file has instead and does not show the key.
    pub(super) fn parse_all(text: &[u8]) -> Result<Vec<Self>, Error> {
        if text.len() > MAX_PEM {
            return Err(invalid("a key file longer than 64 KiB"));
        }
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        // The parser passes over blocks that it does not know.
        labels(text).try_for_each(check_label)?;
        let mut keys = Vec::new();
        let mut rest = text;
        while let Some((_, der)) =
            pem::from_buf(&mut rest).map_err(|_| invalid("a PEM block that cannot be read"))?
        {
            if keys.len() == MAX_KEYS {
                return Err(invalid("more than 64 keys"));
            }
            keys.push(Self::from_spki(&der)?);
        }
        if keys.is_empty() {
            return Err(invalid("no PUBLIC KEY block (PEM, SubjectPublicKeyInfo)"));
        }
        Ok(keys)
    }

    /// Reads a [SubjectPublicKeyInfo](https://datatracker.ietf.org/doc/html/rfc5280#section-4.1.2.7).
    pub(super) fn from_spki(der: &[u8]) -> Result<Self, Error> {
        const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
        const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
        const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
        const P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
        const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
        const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

        let broken = || invalid("a public key whose encoding is broken");
        let spki = Spki::parse(der).ok_or_else(broken)?;
        let kind = match (spki.algorithm, spki.parameters) {
            (EC_PUBLIC_KEY, parameters) => match parameters.and_then(|der| only(der, OBJECT_IDENTIFIER)) {
                Some(P256) => KeyKind::P256,
                Some(P384) => KeyKind::P384,
                Some(P521) => {
                    return Err(invalid(
                        "a P-521 key, which is not supported; use P-256, P-384, Ed25519 or RSA",
                    ));
                }
                _ => return Err(invalid("a key of an elliptic curve that is not supported")),
            },
            (ED25519, None) => KeyKind::Ed25519,
            (RSA, Some([NULL, 0])) => KeyKind::Rsa,
            (ED25519 | RSA, _) => return Err(broken()),
            _ => return Err(invalid("a key of a type that is not supported")),
        };
        if matches!(kind, KeyKind::P256 | KeyKind::P384) && matches!(spki.key, [2 | 3, ..]) {
            return Err(invalid("a key in compressed form; write its point uncompressed"));
        }
        let is_whole = match kind {
            KeyKind::P256 => spki.key.len() == 65 && spki.key.starts_with(&[UNCOMPRESSED]),
            KeyKind::P384 => spki.key.len() == 97 && spki.key.starts_with(&[UNCOMPRESSED]),
            KeyKind::Ed25519 => spki.key.len() == 32,
            KeyKind::Rsa => true,
        };
        if !is_whole {
            return Err(broken());
        }
        if kind == KeyKind::Rsa {
            let bits = rsa_bits(spki.key).ok_or_else(broken)?;
            if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
                return Err(invalid(&format!(
                    "an RSA key of {bits} bits; from 2,048 to 8,192 are supported"
                )));
            }
        }
        Ok(PublicKey { kind, bytes: spki.key.to_vec() })
    }

    /// Returns whether `signature` is a signature of `message` by this key.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let by =
            |algorithm| UnparsedPublicKey::new(algorithm, &self.bytes).verify(message, signature).is_ok();
        self.kind.algorithms().iter().any(|algorithm| by(*algorithm))
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PublicKey::{:?}(…)", self.kind)
    }
}

fn invalid(what: &str) -> Error {
    Error::new(ErrorKind::InvalidConfig, format!("the key is unusable: it is {what}"))
}

/// Returns the labels of the PEM blocks in a text.
fn labels(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = text.split(|byte| matches!(byte, b'\n' | b'\r'));
    let begun = lines.filter_map(|line| line.trim_ascii().strip_prefix(b"-----BEGIN "));
    begun.map(|label| label.strip_suffix(b"-----").unwrap_or(label))
}

fn check_label(label: &[u8]) -> Result<(), Error> {
    match label {
        b"PUBLIC KEY" => Ok(()),
        b"RSA PUBLIC KEY" => {
            Err(invalid("an RSA PUBLIC KEY block (PKCS#1); convert it: openssl rsa -RSAPublicKey_in -pubout"))
        }
        _ if label.ends_with(b"PRIVATE KEY") => {
            Err(invalid("a private key; give its public key, and keep this one secret"))
        }
        _ if label.ends_with(b"CERTIFICATE") => {
            Err(invalid("a certificate; extract its public key: openssl x509 -pubkey -noout"))
        }
        _ => Err(invalid("a PEM block that is no PUBLIC KEY")),
    }
}

/// The first byte of an uncompressed point.
const UNCOMPRESSED: u8 = 4;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const NULL: u8 = 0x05;
const OBJECT_IDENTIFIER: u8 = 0x06;

/// The parts of a SubjectPublicKeyInfo.
struct Spki<'a> {
    algorithm: &'a [u8],
    /// The DER of the algorithm's parameters.
    parameters: Option<&'a [u8]>,
    key: &'a [u8],
}

impl<'a> Spki<'a> {
    fn parse(der: &'a [u8]) -> Option<Self> {
        let mut outer = only(der, SEQUENCE)?;
        let mut identifier = take(&mut outer, SEQUENCE)?;
        let algorithm = take(&mut identifier, OBJECT_IDENTIFIER)?;
        // The first byte counts the unused bits of the last.
        let [0, key @ ..] = only(outer, BIT_STRING)? else { return None };
        Some(Spki { algorithm, parameters: (!identifier.is_empty()).then_some(identifier), key })
    }
}

/// Returns the number of bits of the modulus.
fn rsa_bits(key: &[u8]) -> Option<usize> {
    let mut numbers = only(key, SEQUENCE)?;
    let modulus = take(&mut numbers, INTEGER)?;
    only(numbers, INTEGER)?;
    // A leading zero keeps the number positive.
    let significant = match modulus {
        [0, rest @ ..] => rest,
        [first, ..] if first & 0x80 != 0 => return None,
        _ => modulus,
    };
    Some(significant.len() * 8 - significant.first()?.leading_zeros() as usize)
}

/// Takes a DER element of this tag from the front. Lengths have their shortest form.
fn take<'a>(der: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (&[found, length], rest) = der.split_first_chunk::<2>()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81 => {
            let (length, rest) = rest.split_first()?;
            (usize::from(*length), rest)
        }
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (u16::from_be_bytes(*length).into(), rest)
        }
        _ => return None,
    };
    let shortest = match der.get(1)? {
        0x81 => 0x80,
        0x82 => 0x100,
        _ => 0,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    *der = rest;
    (found == tag && length >= shortest).then_some(content)
}

/// Reads a DER element of this tag that nothing follows.
fn only(mut der: &[u8], tag: u8) -> Option<&[u8]> {
    let content = take(&mut der, tag)?;
    der.is_empty().then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = if hex == "-" { "" } else { hex };
        let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        (0..digits.len()).step_by(2).map(byte).collect()
    }

    /// Vectors of project Wycheproof; `README.md` beside them tells their form and their origin.
    #[test]
    fn signatures_are_verified_as_wycheproof_expects() {
        macro_rules! vectors {
            ($($name:literal),*) => {
                [$(($name, include_str!(concat!("../../tests/signatures/wycheproof/", $name, ".txt")))),*]
            };
        }
        for (file, text) in vectors![
            "ecdsa_secp256r1_sha256",
            "ecdsa_secp384r1_sha256",
            "ecdsa_secp384r1_sha384",
            "ed25519",
            "rsa_signature_2048_sha256",
            "rsa_signature_3072_sha256",
            "rsa_pss_2048_sha256_mgf1_32",
            "rsa_pss_3072_sha256_mgf1_32"
        ] {
            let mut key = None;
            let (mut valid, mut invalid) = (0, 0);
            for line in text.lines() {
                match line.split(' ').collect::<Vec<_>>()[..] {
                    ["key", der] => key = Some(PublicKey::from_spki(&bytes(der)).unwrap()),
                    [result, number, message, signature] => {
                        let is_valid = result == "valid";
                        let verifies = key.as_ref().unwrap().verifies(&bytes(message), &bytes(signature));
                        assert_eq!(verifies, is_valid, "{file}: vector {number}");
                        if is_valid { valid += 1 } else { invalid += 1 }
                    }
                    _ => panic!("{file}: {line}"),
                }
            }
            assert!(valid > 0 && invalid > 0, "{file}");
        }
    }
}
