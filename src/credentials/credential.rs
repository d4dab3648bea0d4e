//! One credential, its fingerprint, and secret text that is never printed.

use std::fmt;

use serde::{Deserialize, Deserializer};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::service::CredentialFingerprint;

/// A user and a password, or a token, for a registry or its token server.
///
/// Its memory is wiped when it is dropped. Its `Debug` output holds no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential(CredentialKind);

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum CredentialKind {
    /// For Basic authentication, and for a token server's GET requests.
    Basic { username: Secret, password: Secret },
    /// An OAuth2 refresh token, which a token server exchanges for access tokens.
    IdentityToken(Secret),
    /// A bearer token, sent to the registry unchanged.
    RegistryToken(Secret),
}

/// The secrets of a [`Credential`]: not for logs, and without `Debug`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_debug_implementations, reason = "it holds secrets in plain text")]
pub enum ExposedCredential<'a> {
    /// A user name and a password.
    Basic {
        /// The user name.
        username: &'a str,
        /// The password.
        password: &'a str,
    },
    /// A refresh token for the registry's token server: Docker's `identitytoken`.
    IdentityToken(&'a str),
    /// A bearer token for the registry itself: Docker's `registrytoken`.
    RegistryToken(&'a str),
}

impl Credential {
    /// Creates a credential of a user name and a password.
    pub fn basic(username: impl Into<String>, password: impl Into<String>) -> Self {
        Credential(CredentialKind::Basic {
            username: Secret::from(username.into()),
            password: Secret::from(password.into()),
        })
    }

    /// Creates a credential of a token that the registry's token server exchanges for access tokens: Docker's
    /// `identitytoken`.
    pub fn identity_token(token: impl Into<String>) -> Self {
        Credential(CredentialKind::IdentityToken(Secret::from(token.into())))
    }

    /// Creates a credential of a bearer token for the registry itself: Docker's `registrytoken`.
    pub fn registry_token(token: impl Into<String>) -> Self {
        Credential(CredentialKind::RegistryToken(Secret::from(token.into())))
    }

    /// Returns a fingerprint that is equal for equal credentials, to remember which one worked.
    ///
    /// It is a SHA-256 without salt, so that it is the same in every process. Keep it secret where passwords
    /// can be guessed: it confirms a guess.
    pub fn fingerprint(&self) -> CredentialFingerprint {
        let (tag, parts): (&str, [&str; 2]) = match &self.0 {
            CredentialKind::Basic { username, password } => ("basic", [username.expose(), password.expose()]),
            CredentialKind::IdentityToken(token) => ("identity-token", [token.expose(), ""]),
            CredentialKind::RegistryToken(token) => ("registry-token", [token.expose(), ""]),
        };
        let mut hash = Sha256::new();
        for part in ["oci-puller credential 1", tag].into_iter().chain(parts) {
            // With the length in front, two different lists never hash the same bytes.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        // Leaves the hash in its place, which is wiped as it is dropped: it holds a part of the secret.
        let hex: String = hash.finalize_reset().iter().map(|byte| format!("{byte:02x}")).collect();
        CredentialFingerprint::new(format!("sha256:{hex}"))
    }

    /// Returns whether it is a user and a password.
    pub(crate) fn is_basic(&self) -> bool {
        matches!(self.0, CredentialKind::Basic { .. })
    }

    /// Returns what the credential holds, to send it to the registry or runtime that it is meant for.
    pub fn expose(&self) -> ExposedCredential<'_> {
        match &self.0 {
            CredentialKind::Basic { username, password } => {
                ExposedCredential::Basic { username: username.expose(), password: password.expose() }
            }
            CredentialKind::IdentityToken(token) => ExposedCredential::IdentityToken(token.expose()),
            CredentialKind::RegistryToken(token) => ExposedCredential::RegistryToken(token.expose()),
        }
    }

    pub(crate) fn kind(&self) -> &CredentialKind {
        &self.0
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.0 {
            CredentialKind::Basic { .. } => "Basic",
            CredentialKind::IdentityToken(_) => "IdentityToken",
            CredentialKind::RegistryToken(_) => "RegistryToken",
        };
        write!(f, "Credential::{kind}(…)")
    }
}

/// Text that is wiped when it is dropped. Its `Debug` output is `…`.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Secret(Zeroizing<String>);

impl Secret {
    /// Returns the text.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Secret(Zeroizing::new(text))
    }
}

impl<'de> Deserialize<'de> for Secret {
    /// Reads a string; `null` is the empty string, as in Go.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Secret::from(Option::<String>::deserialize(deserializer)?.unwrap_or_default()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_equal_for_equal_credentials_only() {
        let all = [
            Credential::basic("user", "password"),
            Credential::basic("userp", "assword"),
            Credential::basic("user", ""),
            Credential::identity_token("user"),
            Credential::registry_token("user"),
        ];
        for (i, one) in all.iter().enumerate() {
            for (j, other) in all.iter().enumerate() {
                assert_eq!(one.fingerprint() == other.fingerprint(), i == j, "{i} and {j}");
            }
        }
    }

    #[test]
    fn debug_shows_the_kind_and_nothing_more() {
        assert_eq!(format!("{:?}", Credential::basic("marker", "marker")), "Credential::Basic(…)");
        assert_eq!(format!("{:?}", Credential::identity_token("marker")), "Credential::IdentityToken(…)");
        assert_eq!(format!("{:?}", Secret::from("marker".to_owned())), "…");
    }
}
