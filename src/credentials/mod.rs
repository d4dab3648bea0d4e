//! Which user and password: from the request's pull secrets, from what the service was built with,
//! from the files of Docker and podman, and from their credential helpers.

mod credential;
mod docker_config;
mod glob;
mod helper;
mod keyring;
mod pull_secrets;
mod workers;

use std::fmt;
use std::sync::Arc;

pub use credential::Credential;
#[expect(unused_imports, reason = "for the registry's authentication")]
pub(crate) use credential::{CredentialKind, Secret};

use crate::context::PullContext;
use crate::error::{Error, ErrorKind};
use crate::service::PullSecret;

use keyring::Keyring;

/// Credentials of the caller's own: a vault, a cloud's metadata, a prompt.
pub trait Keychain: Send + Sync {
    /// The credentials to try for an image, the best first; none if it knows none.
    ///
    /// It is asked anew for each pull that a registry asks for credentials, and must return soon
    /// after the context ends.
    ///
    /// # Errors
    /// Any; it fails the pull. It must hold no secret.
    fn credentials(&self, cx: &PullContext, query: &CredentialQuery<'_>) -> Result<Vec<Credential>, Error>;
}

/// What credentials are asked for.
#[derive(Clone, Copy, Debug)]
pub struct CredentialQuery<'a> {
    domain: &'a str,
    repository: &'a str,
    plain_http: bool,
}

impl<'a> CredentialQuery<'a> {
    pub(crate) fn new(domain: &'a str, repository: &'a str) -> Self {
        CredentialQuery { domain, repository, plain_http: false }
    }

    /// Says that the registry is asked without TLS. Default: with TLS.
    pub(crate) fn with_plain_http(mut self, plain_http: bool) -> Self {
        self.plain_http = plain_http;
        self
    }

    /// The registry, or the mirror, that wants them: `HOST[:PORT]`; Docker Hub is `docker.io`.
    pub fn domain(&self) -> &'a str {
        self.domain
    }

    /// The repository within the registry, like `library/alpine`.
    pub fn repository(&self) -> &'a str {
        self.repository
    }

    /// Whether the registry is asked without TLS.
    pub fn is_plain_http(&self) -> bool {
        self.plain_http
    }

    fn is_docker_hub(&self) -> bool {
        matches!(self.domain, "docker.io" | "index.docker.io" | "registry-1.docker.io")
    }
}

/// Where a credential came from; prints without a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SourceKind {
    PullSecret,
    Static,
    Keychain,
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SourceKind::PullSecret => "pull secret",
            SourceKind::Static => "static credentials",
            SourceKind::Keychain => "keychain",
        })
    }
}

/// A credential to try, and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) credential: Credential,
    pub(crate) source: SourceKind,
}

/// Everything that a service looks for credentials in, but for the pull secrets.
#[derive(Default)]
pub(crate) struct Credentials {
    fixed: Keyring,
    keychains: Vec<Arc<dyn Keychain>>,
}

impl Credentials {
    /// Uses `credential` for what matches `key`: `HOST[:PORT][/PATH]`, by the rules for keys of a
    /// pull secret.
    ///
    /// # Errors
    /// `InvalidConfig` for a key without a host.
    pub(crate) fn add_static(&mut self, key: &str, credential: Credential) -> Result<(), Error> {
        if key.is_empty() || key.starts_with('/') {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                format!("credentials for {key:?}: a host is wanted"),
            ));
        }
        self.fixed.add(key, credential);
        Ok(())
    }

    /// Asks `keychain`, after those that were added before.
    pub(crate) fn add_keychain(&mut self, keychain: Arc<dyn Keychain>) {
        self.keychains.push(keychain);
    }

    /// All credentials for `query`, in the order to try; anonymous is the caller's last.
    ///
    /// # Errors
    /// `InvalidConfig` for a pull secret that does not parse, and what a keychain fails with.
    pub(crate) fn lookup(
        &self,
        cx: &PullContext,
        pull_secrets: &[PullSecret],
        query: &CredentialQuery<'_>,
    ) -> Result<Vec<Found>, Error> {
        let mut found = Vec::new();
        let mut add = |credentials: Vec<Credential>, source: SourceKind| {
            found.extend(
                credentials.into_iter().map(|credential| Found { credential, source: source.clone() }),
            );
        };
        add(pull_secrets::keyring(pull_secrets)?.lookup(query), SourceKind::PullSecret);
        add(self.fixed.lookup(query), SourceKind::Static);
        for keychain in &self.keychains {
            add(keychain.credentials(cx, query)?, SourceKind::Keychain);
        }
        Ok(found)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("keychains", &self.keychains.len()).finish_non_exhaustive()
    }
}
