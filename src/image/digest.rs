//! Digests, and hashing of a stream of bytes.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::Digest as _;
use sha2::{Sha256, Sha512};

use crate::error::{Error, ErrorKind};
use crate::image::quoted::quoted;

/// A hash function that a digest may name; those that the
/// [image spec](https://github.com/opencontainers/image-spec/blob/v1.1.1/descriptor.md#registered-algorithms)
/// registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Algorithm {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// Returns its name in a digest.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Algorithm::Sha256, Algorithm::Sha512].into_iter().find(|known| known.as_str() == name)
    }

    /// Returns how many hexadecimal digits its hashes have.
    fn hex_len(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }
}

/// The hash of some bytes, which names them: `algorithm:hex`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    text: Arc<str>,
}

impl Digest {
    /// Parses `algorithm:hex`, as the image spec writes it: lower case only.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) if it is a digest by another algorithm,
    /// [`InvalidReference`](ErrorKind::InvalidReference) if it is none.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let (name, hex) = text.split_once(':').ok_or_else(|| malformed(text))?;
        if !is_algorithm(name) || !is_encoded(hex) {
            return Err(malformed(text));
        }
        let algorithm = Algorithm::from_name(name).ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                format!("digest algorithm {name:.32}: only sha256 and sha512 are known"),
            )
        })?;
        let is_hex = hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if hex.len() != algorithm.hex_len() || !is_hex {
            return Err(malformed(text));
        }
        Ok(Digest { algorithm, text: text.into() })
    }

    /// Hashes `bytes`.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Hashes `bytes` with SHA-256.
    pub fn sha256(bytes: &[u8]) -> Self {
        Self::of(Algorithm::Sha256, bytes)
    }

    /// Whether `bytes` hash to this digest.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        Self::of(self.algorithm, bytes) == *self
    }

    /// Returns the hash function.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns the hash in lower-case hexadecimal: safe as a file name.
    pub fn hex(&self) -> &str {
        self.text.split_once(':').map_or("", |(_, hex)| hex)
    }

    /// Returns `algorithm:hex`.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

fn malformed(text: &str) -> Error {
    Error::new(
        ErrorKind::InvalidReference,
        format!("{} is no digest; one looks like sha256: and 64 lower-case hexadecimal digits", quoted(text)),
    )
}

/// Checks `algorithm ::= component (separator component)*`, by the image spec's grammar.
fn is_algorithm(name: &str) -> bool {
    let is_component = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    name.split(['+', '.', '_', '-']).all(is_component)
}

/// Checks `encoded ::= [a-zA-Z0-9=_-]+`, by the image spec's grammar.
fn is_encoded(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'=' | b'_' | b'-'))
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Digest::parse(text)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Hashes a stream of bytes.
#[derive(Clone)]
pub struct Hasher(HasherState);

#[derive(Clone)]
enum HasherState {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    /// A hasher of no bytes yet.
    pub fn new(algorithm: Algorithm) -> Self {
        Hasher(match algorithm {
            Algorithm::Sha256 => HasherState::Sha256(Sha256::new()),
            Algorithm::Sha512 => HasherState::Sha512(Sha512::new()),
        })
    }

    /// Hashes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            HasherState::Sha256(state) => state.update(bytes),
            HasherState::Sha512(state) => state.update(bytes),
        }
    }

    /// Returns the digest of all bytes.
    pub fn finish(self) -> Digest {
        match self.0 {
            HasherState::Sha256(state) => named(Algorithm::Sha256, &state.finalize()),
            HasherState::Sha512(state) => named(Algorithm::Sha512, &state.finalize()),
        }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

fn named(algorithm: Algorithm, hash: &[u8]) -> Digest {
    let mut text = String::with_capacity(algorithm.as_str().len() + 1 + algorithm.hex_len());
    text.push_str(algorithm.as_str());
    text.push(':');
    let digits = hash.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    text.extend(digits.filter_map(|digit| char::from_digit(digit.into(), 16)));
    Digest { algorithm, text: text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digests_read_back_as_written() {
        for text in [NOTHING.to_owned(), format!("sha512:{}", "0a".repeat(64))] {
            let digest = Digest::parse(&text).unwrap();
            assert_eq!(digest.to_string(), text);
            assert_eq!(format!("{}:{}", digest.algorithm().as_str(), digest.hex()), text);
        }
    }

    #[test]
    fn what_is_no_digest_is_told_from_what_is_by_an_unknown_algorithm() {
        use ErrorKind::{InvalidReference, Unsupported};
        let upper_case = NOTHING.to_uppercase().replace("SHA256", "sha256");
        let table = [
            ("", InvalidReference),
            (":", InvalidReference),
            ("sha256:", InvalidReference),
            ("sha256:abc", InvalidReference),
            (&upper_case, InvalidReference),
            (&NOTHING.replace(':', "/"), InvalidReference),
            (&NOTHING.replace("sha256", "SHA256"), InvalidReference),
            (&NOTHING.replace("sha256", "sha256."), InvalidReference),
            (&NOTHING.replace("sha256", "sha512"), InvalidReference),
            (&format!("{NOTHING}0"), InvalidReference),
            (&format!(" {NOTHING}"), InvalidReference),
            (&format!("sha256:{}a", "../".repeat(21)), InvalidReference),
            ("md5:d41d8cd98f00b204e9800998ecf8427e", Unsupported),
            ("sha256+b64u:LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564", Unsupported),
        ];
        for (text, kind) in table {
            assert_eq!(Digest::parse(text).unwrap_err().kind(), kind, "{text}");
        }
    }

    #[test]
    fn bytes_hash_the_same_whole_or_in_pieces() {
        let mut hasher = Hasher::new(Algorithm::Sha512);
        hasher.update(b"ab");
        hasher.update(b"");
        hasher.update(b"c");
        assert_eq!(hasher.finish(), Digest::of(Algorithm::Sha512, b"abc"));
        assert_eq!(Digest::sha256(b"").as_str(), NOTHING);
        assert!(!Digest::sha256(b"").matches(b"x"));
    }
}
