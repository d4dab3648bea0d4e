//! The settings of a [`CriImageService`].

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::endpoint::CriEndpoint;
use super::service::{CriImageService, CriSettings};
use crate::credentials::{Credential, Credentials, FileKind, Keychain};
use crate::error::{Error, ErrorKind};

/// The largest `max_message`: longer messages do not fit in HTTP/2's windows.
const MOST_MESSAGE: usize = 1 << 30;

/// Builds a [`CriImageService`].
#[must_use]
pub struct CriImageServiceBuilder {
    endpoint: String,
    connect_timeout: Duration,
    call_timeout: Duration,
    max_message: usize,
    credentials: Credentials,
    /// The first setting that was wrong; `build` returns it.
    refused: Option<Error>,
}

impl CriImageService {
    /// Returns a builder for the runtime at `endpoint`: `unix:///run/containerd/containerd.sock`, an absolute
    /// path, or `auto` for the first that answers of containerd's, CRI-O's and cri-dockerd's usual sockets.
    pub fn builder(endpoint: impl AsRef<str>) -> CriImageServiceBuilder {
        CriImageServiceBuilder::new(endpoint.as_ref().to_owned())
    }
}

impl CriImageServiceBuilder {
    fn new(endpoint: String) -> Self {
        CriImageServiceBuilder {
            endpoint,
            connect_timeout: Duration::from_secs(3),
            call_timeout: Duration::from_secs(120),
            max_message: 16 << 20,
            credentials: Credentials::default(),
            refused: None,
        }
    }

    /// CallLimits the time until the runtime accepts a connection. Default: 3 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// CallLimits each call but `PullImage`, which only the context's deadline ends, as in kubelet. Default: 2 min.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// CallLimits an answer of the runtime, bytes, from 1 to 1 GiB. Default: 16 MiB, as kubelet has it.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.max_message = bytes;
        self
    }

    /// Uses `credential` for the images that `key` fits: `HOST[:PORT][/PATH]`, where the host's parts may be
    /// patterns, as in `*.example.com`.
    pub fn credential(mut self, key: impl AsRef<str>, credential: Credential) -> Self {
        let added = self.credentials.add_static(key.as_ref(), credential);
        self.refused = self.refused.or(added.err());
        self
    }

    /// Asks `keychain` for credentials, after those given before.
    pub fn keychain(mut self, keychain: Arc<dyn Keychain>) -> Self {
        self.credentials.add_keychain(keychain);
        self
    }

    /// Reads this `config.json` of Docker, which must exist.
    pub fn docker_config(mut self, path: impl Into<PathBuf>) -> Self {
        self.credentials.add_file(FileKind::Docker, path);
        self
    }

    /// Reads this `auth.json` of podman, which must exist.
    pub fn podman_auth(mut self, path: impl Into<PathBuf>) -> Self {
        self.credentials.add_file(FileKind::Podman, path);
        self
    }

    /// Reads Docker's `config.json` and podman's `auth.json` where those programs have them: `$DOCKER_CONFIG` or
    /// `~/.docker`, `$REGISTRY_AUTH_FILE` or `$XDG_RUNTIME_DIR/containers`. They are read again when they change; the
    /// credential helpers that they name are run. Default: not read.
    pub fn default_credential_files(mut self) -> Self {
        self.credentials.add_default_files();
        self
    }

    /// Asks the exec credential providers of this kubelet
    /// [`CredentialProviderConfig`](https://kubernetes.io/docs/tasks/administer-cluster/kubelet-credential-provider/)
    /// whose programs are in `bin_dir`, for the images that it matches. The file is JSON, or YAML with the feature
    /// `yaml`. It is read now. The plugins are asked after the files, for at most 60 s, and their answers are kept as
    /// long as they say. Default: none.
    pub fn credential_provider_config(mut self, path: impl AsRef<Path>, bin_dir: impl AsRef<Path>) -> Self {
        let added = self.credentials.add_plugins(path.as_ref(), bin_dir.as_ref());
        self.refused = self.refused.or(added.err());
        self
    }

    /// Limits the time that a credential helper may take. Default: 30 s.
    pub fn helper_timeout(mut self, timeout: Duration) -> Self {
        self.credentials.set_helper_timeout(timeout);
        self
    }

    /// Looks for credential helpers in `dir` only. Default: `$PATH`.
    pub fn helper_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.credentials.set_helper_directory(dir);
        self
    }

    /// Builds the service. Does not connect.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) for an endpoint that is no absolute path, a timeout of zero, a
    /// `max_message` out of range, a credential key without a host, or a credential provider configuration that is
    /// not valid.
    pub fn build(self) -> Result<CriImageService, Error> {
        let invalid = |text: &str| Err(Error::new(ErrorKind::InvalidConfig, text));
        if let Some(error) = self.refused {
            return Err(error);
        }
        if self.connect_timeout.is_zero() || self.call_timeout.is_zero() {
            return invalid("a timeout of zero: no call could succeed");
        }
        if self.max_message == 0 || self.max_message > MOST_MESSAGE {
            return invalid("max_message must be from 1 byte to 1 GiB");
        }
        Ok(CriImageService::new(CriSettings {
            endpoint: CriEndpoint::parse(&self.endpoint)?,
            connect_timeout: self.connect_timeout,
            call_timeout: self.call_timeout,
            max_message: self.max_message,
            credentials: self.credentials,
        }))
    }
}

impl fmt::Debug for CriImageServiceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CriImageServiceBuilder").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}
