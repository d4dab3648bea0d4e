//! The result of a lookup: credentials with their sources.

use std::fmt;
use std::path::PathBuf;

use super::credential::{Credential, ExposedCredential};
use crate::error::Error;
use crate::image::quoted;

/// The source of a credential. Its `Display` holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SourceKind {
    PullSecret,
    Static,
    Keychain,
    /// A configuration file of Docker or podman, with its path.
    File(PathBuf),
    /// A credential helper, with its name.
    Helper(String),
    /// A credential provider plugin, with its name.
    Plugin(String),
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SourceKind::PullSecret => "pull secret",
            SourceKind::Static => "static credentials",
            SourceKind::Keychain => "keychain",
            SourceKind::File(path) => return write!(f, "{}", path.display()),
            SourceKind::Plugin(name) => return write!(f, "credential provider {name}"),
            SourceKind::Helper(name) => return write!(f, "credential helper {name}"),
        })
    }
}

/// A credential to try, with its source.
#[derive(Clone, Debug)]
pub(crate) struct FoundCredential {
    pub(crate) credential: Credential,
    pub(crate) source: SourceKind,
}

impl fmt::Display for FoundCredential {
    /// Names the source and the user, and no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Longer names may be tokens.
        const MAX_USER: usize = 32;
        self.source.fmt(f)?;
        match self.credential.expose() {
            ExposedCredential::Basic { username, .. } if (1..=MAX_USER).contains(&username.len()) => {
                write!(f, ", user {}", quoted(username))
            }
            _ => Ok(()),
        }
    }
}

/// The result of a lookup.
#[derive(Debug, Default)]
pub(crate) struct Lookup {
    /// In the order to try. The caller asks anonymously last.
    pub(crate) found: Vec<FoundCredential>,
    /// Helpers and entries that could not be used: a possible reason why the image is refused.
    pub(crate) failed: Vec<(SourceKind, Error)>,
}

impl Lookup {
    /// Adds credentials of one source, behind those that were found before.
    pub(super) fn add(&mut self, source: &SourceKind, credentials: impl IntoIterator<Item = Credential>) {
        let found =
            credentials.into_iter().map(|credential| FoundCredential { credential, source: source.clone() });
        self.found.extend(found);
    }
}
