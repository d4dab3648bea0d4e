//! A signer: the keys of which one must have signed, in which formats, and for which image.

use super::identity::Identity;
use super::key::PublicKey;
use crate::error::{Error, ErrorKind};

/// How a signature is attached to an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignatureFormat {
    /// cosign's simple signing, under the tag `sha256-HEX.sig` or as a referrer.
    SimpleSigning,
    /// A sigstore bundle, as a referrer.
    Bundle,
}

/// The keys of which one must have signed an image.
///
/// ```
/// # fn main() -> Result<(), oci_puller::Error> {
/// use oci_puller::signatures::{SignaturePolicy, Signer};
///
/// # let pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----";
/// let policy = SignaturePolicy::builder()
///     .require("registry.example.com/team", Signer::key(pem)?)
///     .accept_unsigned("docker.io")
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Signer {
    keys: Vec<PublicKey>,
    formats: Vec<SignatureFormat>,
    /// `None` is the default, which bundles meet, too.
    identity: Option<Identity>,
}

impl Signer {
    /// Returns a signer with the keys of a PEM file. If the file has several, one of them must have signed.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) for a file without a `PUBLIC KEY` block, with another block such
    /// as a private key, or with a key that is not ECDSA P-256 or P-384, Ed25519, or RSA of 2,048 to 8,192 bits.
    pub fn key(pem: impl AsRef<[u8]>) -> Result<Self, Error> {
        Self::any_of([pem])
    }

    /// Returns a signer with the keys of several PEM files, of which one must have signed: for a rotation.
    ///
    /// # Errors
    /// As of [`key`](Self::key).
    pub fn any_of<P: AsRef<[u8]>>(pems: impl IntoIterator<Item = P>) -> Result<Self, Error> {
        let mut keys = Vec::new();
        for pem in pems {
            keys.append(&mut PublicKey::parse_all(pem.as_ref())?);
        }
        if keys.is_empty() {
            keys.append(&mut PublicKey::parse_all(b"")?);
        }
        let formats = vec![SignatureFormat::SimpleSigning, SignatureFormat::Bundle];
        Ok(Signer { keys, formats, identity: None })
    }

    /// Accepts signatures in these formats only. Default: all. A policy with a signer without a format is refused.
    #[must_use]
    pub fn formats(mut self, formats: impl IntoIterator<Item = SignatureFormat>) -> Self {
        self.formats = formats.into_iter().collect();
        self
    }

    /// Sets which image a signature must name. Default: the same repository, by any tag.
    ///
    /// A bundle names no repository: it holds for its digest in whichever repository that digest is. So a bundle
    /// meets a signer with the default identity, and never one whose identity is set.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    pub(super) fn has_key_of(&self, message: &[u8], signature: &[u8]) -> bool {
        self.keys.iter().any(|key| key.verifies(message, signature))
    }

    pub(super) fn takes(&self, format: SignatureFormat) -> bool {
        self.formats.contains(&format)
    }

    /// Returns the identity, if it is set.
    pub(super) fn explicit_identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Checks that it can accept any signature.
    ///
    /// # Errors
    /// `InvalidConfig`.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.formats.is_empty() {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                "a signer without a signature format accepts nothing",
            ));
        }
        if self.formats == [SignatureFormat::Bundle] && self.identity.is_some() {
            let text =
                "a signer of bundles alone with an identity accepts nothing: a bundle names no repository";
            return Err(Error::new(ErrorKind::InvalidConfig, text));
        }
        self.identity.as_ref().map_or(Ok(()), Identity::check)
    }
}
