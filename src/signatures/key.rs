//! Public keys: ECDSA P-256 and P-384, Ed25519, and RSA from 2,048 bits, as `PUBLIC KEY` PEM blocks.
//!
//! The type of the key chooses the algorithms, never the signature.

use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use rustls::pki_types::pem::{self, SectionKind};

use crate::error::{Error, ErrorKind};

/// Bytes of a file of keys.
pub(super) const MAX_PEM: usize = 64 << 10;
/// Keys in one file.
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
    /// Returns the algorithms of a signature by such a key, of which one must verify it.
    ///
    /// cosign signs the SHA-256 of a payload with every ECDSA and RSA key; newer tools use SHA-384 with P-384.
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
    /// `InvalidConfig` that says what the file holds instead; the key itself is not shown.
    pub(super) fn parse_all(text: &[u8]) -> Result<Vec<Self>, Error> {
        if text.len() > MAX_PEM {
            return Err(invalid("a key file longer than 64 KiB"));
        }
        let mut keys = Vec::new();
        let mut rest = text;
        while let Some((kind, der)) =
            pem::from_buf(&mut rest).map_err(|_| invalid("a PEM block that cannot be read"))?
        {
            if keys.len() == MAX_KEYS {
                return Err(invalid("more than 64 keys"));
            }
            keys.push(match kind {
                SectionKind::PublicKey => Self::from_spki(&der)?,
                SectionKind::Certificate => {
                    return Err(invalid("a certificate; extract its public key, and give that"));
                }
                SectionKind::RsaPrivateKey | SectionKind::PrivateKey | SectionKind::EcPrivateKey => {
                    return Err(private_key());
                }
                _ => return Err(invalid("a PEM block that is no PUBLIC KEY")),
            });
        }
        match keys.is_empty() {
            false => Ok(keys),
            true if contains(text, b"PRIVATE KEY-----") => Err(private_key()),
            true => Err(invalid("no PUBLIC KEY block (PEM, SubjectPublicKeyInfo)")),
        }
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
        let kind = match (spki.algorithm, spki.curve) {
            (EC_PUBLIC_KEY, Some(P256)) => KeyKind::P256,
            (EC_PUBLIC_KEY, Some(P384)) => KeyKind::P384,
            (EC_PUBLIC_KEY, Some(P521)) => {
                return Err(invalid("a P-521 key, which is not supported; use P-256, P-384, Ed25519 or RSA"));
            }
            (EC_PUBLIC_KEY, _) => return Err(invalid("a key of an elliptic curve that is not supported")),
            (ED25519, None) => KeyKind::Ed25519,
            (RSA, None) => KeyKind::Rsa,
            _ => return Err(invalid("a key of a type that is not supported")),
        };
        let has_length = match kind {
            KeyKind::P256 => spki.key.len() == 65,
            KeyKind::P384 => spki.key.len() == 97,
            KeyKind::Ed25519 => spki.key.len() == 32,
            KeyKind::Rsa => true,
        };
        // An uncompressed point begins with 4.
        let is_point = !matches!(kind, KeyKind::P256 | KeyKind::P384) || spki.key.first() == Some(&4);
        if !has_length || !is_point {
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

    /// Reports whether `signature` is of `message` by this key.
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

fn private_key() -> Error {
    invalid("a private key; give its public key, and keep this one secret")
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const NULL: u8 = 0x05;
const OBJECT_IDENTIFIER: u8 = 0x06;

/// The parts of a SubjectPublicKeyInfo.
struct Spki<'a> {
    algorithm: &'a [u8],
    /// The parameters, where they are an object identifier.
    curve: Option<&'a [u8]>,
    key: &'a [u8],
}

impl<'a> Spki<'a> {
    fn parse(der: &'a [u8]) -> Option<Self> {
        let mut outer = only(der, SEQUENCE)?;
        let mut identifier = take(&mut outer, SEQUENCE)?;
        let algorithm = take(&mut identifier, OBJECT_IDENTIFIER)?;
        let curve = match identifier.first() {
            None => None,
            Some(&NULL) => {
                take(&mut identifier, NULL)?.is_empty().then_some(())?;
                None
            }
            Some(_) => Some(take(&mut identifier, OBJECT_IDENTIFIER)?),
        };
        let bits = only(outer, BIT_STRING)?;
        // The first byte counts the unused bits of the last.
        let (0, key) = bits.split_first().map(|(unused, key)| (*unused, key))? else { return None };
        identifier.is_empty().then_some(Spki { algorithm, curve, key })
    }
}

/// Returns the bits of the modulus.
fn rsa_bits(key: &[u8]) -> Option<usize> {
    let mut numbers = only(key, SEQUENCE)?;
    let modulus = take(&mut numbers, INTEGER)?;
    only(numbers, INTEGER)?;
    let first = modulus.iter().position(|byte| *byte != 0)?;
    let significant = modulus.get(first..)?;
    Some(significant.len() * 8 - significant.first()?.leading_zeros() as usize)
}

/// Takes a DER element of this tag from the front.
fn take<'a>(der: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (&[found, length], rest) = der.split_first_chunk::<2>()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81 => rest.split_first().map(|(length, rest)| (usize::from(*length), rest))?,
        0x82 => {
            rest.split_first_chunk::<2>().map(|(length, rest)| (u16::from_be_bytes(*length).into(), rest))?
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    *der = rest;
    (found == tag).then_some(content)
}

/// Reads a DER element of this tag that nothing follows.
fn only(mut der: &[u8], tag: u8) -> Option<&[u8]> {
    let content = take(&mut der, tag)?;
    der.is_empty().then_some(content)
}
