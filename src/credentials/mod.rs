//! Which user and password: from the request's pull secrets, from what the service was built with,
//! from the files of Docker and podman, and from their credential helpers.

mod credential;
mod docker_config;
mod files;
mod glob;
mod helper;
mod keyring;
mod pull_secrets;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use credential::Credential;
pub(crate) use credential::{CredentialKind, Secret};

use crate::context::PullContext;
use crate::error::{Error, ErrorKind};
use crate::service::PullSecret;

pub(crate) use files::FileKind;

use files::ConfigFile;
use helper::Helpers;
use keyring::Keyring;

/// Reads a credentials file, for a fuzz target.
#[cfg(fuzzing)]
pub fn docker_config(json: &[u8]) {
    let _ = docker_config::DockerConfig::parse(json);
    let _ = docker_config::DockerConfig::parse_legacy(json);
}

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
    DockerConfig,
    PodmanAuth,
    /// By the helper's name.
    Helper(String),
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SourceKind::PullSecret => "pull secret",
            SourceKind::Static => "static credentials",
            SourceKind::Keychain => "keychain",
            SourceKind::DockerConfig => "docker config.json",
            SourceKind::PodmanAuth => "podman auth.json",
            SourceKind::Helper(name) => return write!(f, "credential helper {name}"),
        })
    }
}

/// A credential to try, and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) credential: Credential,
    pub(crate) source: SourceKind,
}

/// What a look-up brought.
#[derive(Debug, Default)]
pub(crate) struct Lookup {
    /// In the order to try; anonymous is the caller's last.
    pub(crate) found: Vec<Found>,
    /// Helpers that were to be asked and failed: the reason, perhaps, that the image is refused.
    pub(crate) failed: Vec<(SourceKind, Error)>,
}

impl Lookup {
    fn add(&mut self, source: &SourceKind, credentials: impl IntoIterator<Item = Credential>) {
        let found = credentials.into_iter().map(|credential| Found { credential, source: source.clone() });
        self.found.extend(found);
    }
}

/// Everything that a service looks for credentials in, but for the pull secrets.
#[derive(Default)]
pub(crate) struct Credentials {
    fixed: Keyring,
    keychains: Vec<Arc<dyn Keychain>>,
    files: Vec<ConfigFile>,
    helpers: Helpers,
}

impl Credentials {
    /// Uses `credential` for what matches `key`: `HOST[:PORT][/PATH]`, by the rules for keys of a
    /// pull secret.
    ///
    /// # Errors
    /// `InvalidConfig` for a key without a host.
    pub(crate) fn add_static(&mut self, key: &str, credential: Credential) -> Result<(), Error> {
        if self.fixed.add(key, credential) {
            return Ok(());
        }
        let what = format!("credentials for {key:?}: HOST, HOST:PORT or HOST/PATH is wanted");
        Err(Error::new(ErrorKind::InvalidConfig, what))
    }

    /// Asks `keychain`, after those that were added before.
    pub(crate) fn add_keychain(&mut self, keychain: Arc<dyn Keychain>) {
        self.keychains.push(keychain);
    }

    /// Looks into a credentials file of Docker's shape, which must be there.
    pub(crate) fn add_file(&mut self, kind: FileKind, path: impl Into<PathBuf>) {
        self.files.push(ConfigFile::required(kind, path));
    }

    /// Looks into Docker's and podman's files where this user has them: `config.json` in
    /// `$DOCKER_CONFIG` or `~/.docker`, and `$REGISTRY_AUTH_FILE` or `containers/auth.json` in
    /// `$XDG_RUNTIME_DIR`. The environment is read now.
    pub(crate) fn add_default_files(&mut self) {
        self.files.extend(ConfigFile::defaults());
    }

    /// How long a credential helper may take. Default: 30 s.
    pub(crate) fn set_helper_timeout(&mut self, timeout: Duration) {
        self.helpers.timeout = timeout;
    }

    /// Where credential helpers are looked for. Default: in `$PATH`.
    pub(crate) fn set_helper_directory(&mut self, directory: impl Into<PathBuf>) {
        self.helpers.directory = Some(directory.into());
    }

    /// Makes sure that the pull secrets can be read, before any host is asked.
    ///
    /// # Errors
    /// `InvalidConfig`.
    pub(crate) fn check(&self, pull_secrets: &[PullSecret]) -> Result<(), Error> {
        pull_secrets::keyring(pull_secrets).map(drop)
    }

    /// All credentials for `query`: of the pull secrets, then of what the service was built with.
    ///
    /// A helper that fails is no error, for the image may be anyone's to pull.
    ///
    /// # Errors
    /// `InvalidConfig` for a pull secret or a file that does not parse; what a keychain fails with;
    /// `Cancelled` or `Timeout`.
    pub(crate) fn lookup(
        &self,
        cx: &PullContext,
        pull_secrets: &[PullSecret],
        query: &CredentialQuery<'_>,
    ) -> Result<Lookup, Error> {
        let mut lookup = Lookup::default();
        lookup.add(&SourceKind::PullSecret, pull_secrets::keyring(pull_secrets)?.lookup(query));
        lookup.add(&SourceKind::Static, self.fixed.lookup(query));
        for keychain in &self.keychains {
            lookup.add(&SourceKind::Keychain, keychain.credentials(cx, query)?);
        }
        for file in &self.files {
            self.look_into(file, cx, query, &mut lookup)?;
        }
        Ok(lookup)
    }

    /// The helper that the file names for the registry comes before what stands in the file.
    fn look_into(
        &self,
        file: &ConfigFile,
        cx: &PullContext,
        query: &CredentialQuery<'_>,
        lookup: &mut Lookup,
    ) -> Result<(), Error> {
        let Some(contents) = file.contents()? else {
            return Ok(());
        };
        if let Some((name, server)) = file.helper(&contents, query) {
            let source = SourceKind::Helper(name.to_owned());
            match self.helpers.get(cx, name, &server) {
                Ok(credential) => lookup.add(&source, credential),
                Err(error) => {
                    cx.check()?;
                    log::warn!("{}", error.message());
                    lookup.failed.push((source, error));
                }
            }
        }
        lookup.add(&file.source(), contents.keyring().lookup(query));
        Ok(())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("fixed", &self.fixed)
            .field("keychains", &self.keychains.len())
            .field("files", &self.files)
            .field("helpers", &self.helpers)
            .finish()
    }
}

#[cfg(test)]
mod tests;
