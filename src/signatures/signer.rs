//! A signer: the keys of which one must have signed, in which formats, and for which image.

use super::identity::Identity;
use super::key::PublicKey;
use crate::error::Error;

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
    /// Returns a signer with the keys of a PEM file; where it holds several, one of them must have signed.
    ///
    /// # Errors
    /// `InvalidConfig` for a key that is none, or not of a supported type: ECDSA P-256 and P-384, Ed25519, RSA
    /// from 2,048 bits.
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

    /// Accepts signatures in these formats only. Default: all.
    #[must_use]
    pub fn formats(mut self, formats: impl IntoIterator<Item = SignatureFormat>) -> Self {
        self.formats = formats.into_iter().collect();
        self
    }

    /// Sets which image a signature must name. Default: the same repository, by any tag.
    ///
    /// A bundle names no repository: it holds for its digest wherever that is copied. So a bundle meets a signer
    /// with the default identity, and never one whose identity was set.
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

    /// Returns the identity that was set.
    pub(super) fn explicit_identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Checks that it can accept anything.
    pub(super) fn check(&self) -> Result<(), Error> {
        self.identity.as_ref().map_or(Ok(()), Identity::check)
    }
}
