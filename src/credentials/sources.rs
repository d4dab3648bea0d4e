//! A service's sources of credentials, asked in order.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::credential::Credential;
use super::files::{ConfigFile, FileKind};
use super::helper::{Helpers, ProviderPlugins};
use super::keyring::Keyring;
use super::lookup::{Lookup, SourceKind};
use super::pull_secrets;
use super::query::CredentialQuery;
use crate::context::PullContext;
use crate::error::{Error, ErrorKind};
use crate::service::PullSecret;

/// A source of credentials that the caller supplies: a vault, a cloud's metadata service, a prompt.
pub trait Keychain: Send + Sync {
    /// Returns the credentials to try for an image, the best first; an empty list if it has none.
    ///
    /// Called for each pull whose registry asks for credentials. Must return soon after the context ends.
    ///
    /// # Errors
    /// Any kind; the error fails the pull, and must hold no secret.
    fn credentials(&self, cx: &PullContext, query: &CredentialQuery<'_>) -> Result<Vec<Credential>, Error>;
}

impl<K: Keychain + ?Sized> Keychain for Arc<K> {
    fn credentials(&self, cx: &PullContext, query: &CredentialQuery<'_>) -> Result<Vec<Credential>, Error> {
        (**self).credentials(cx, query)
    }
}

/// A service's own sources of credentials. Pull secrets come with each request.
#[derive(Default)]
pub(crate) struct Credentials {
    fixed: Keyring,
    keychains: Vec<Arc<dyn Keychain>>,
    files: Vec<ConfigFile>,
    plugins: Vec<ProviderPlugins>,
    helpers: Helpers,
}

impl Credentials {
    /// Uses `credential` for images that match `key`: `HOST[:PORT][/PATH]`, by the rules for keys of a pull
    /// secret.
    ///
    /// # Errors
    /// `InvalidConfig` for a key without a host.
    pub(crate) fn add_static(&mut self, key: &str, credential: Credential) -> Result<(), Error> {
        if self.fixed.add(key, credential) {
            return Ok(());
        }
        let message = format!("credentials for {key:?}: HOST, HOST:PORT or HOST/PATH is wanted");
        Err(Error::new(ErrorKind::InvalidConfig, message))
    }

    /// Adds a keychain, behind those that were added before.
    pub(crate) fn add_keychain(&mut self, keychain: Arc<dyn Keychain>) {
        self.keychains.push(keychain);
    }

    /// Adds a credentials file of Docker's format, which must exist.
    pub(crate) fn add_file(&mut self, kind: FileKind, path: impl Into<PathBuf>) {
        self.files.push(ConfigFile::required(kind, path));
    }

    /// Adds Docker's and podman's files at this user's default paths: `config.json` in `$DOCKER_CONFIG` or
    /// `~/.docker`, and `$REGISTRY_AUTH_FILE` or `containers/auth.json` in `$XDG_RUNTIME_DIR`. Reads the
    /// environment now.
    pub(crate) fn add_default_files(&mut self) {
        self.files.extend(ConfigFile::defaults());
    }

    /// Asks the plugins of a kubelet's `CredentialProviderConfig`, whose programs are in `bin_dir`.
    ///
    /// # Errors
    /// `InvalidConfig`.
    pub(crate) fn add_plugins(&mut self, config: &Path, bin_dir: &Path) -> Result<(), Error> {
        self.plugins.push(ProviderPlugins::read(config, bin_dir)?);
        Ok(())
    }

    /// Sets how long a credential helper may take. Default: 30 s.
    pub(crate) fn set_helper_timeout(&mut self, timeout: Duration) {
        self.helpers.timeout = timeout;
    }

    /// Sets the folder of the credential helpers. Default: they are found by `$PATH`.
    pub(crate) fn set_helper_directory(&mut self, directory: impl Into<PathBuf>) {
        self.helpers.directory = Some(directory.into());
    }

    /// Checks that the pull secrets parse, before any host is asked.
    ///
    /// # Errors
    /// `InvalidConfig`.
    pub(crate) fn check(&self, pull_secrets: &[PullSecret]) -> Result<(), Error> {
        pull_secrets::keyring(pull_secrets).map(drop)
    }

    /// Returns all credentials for `query`: of the pull secrets, then of the service's own sources.
    ///
    /// A helper that fails is no error, for the image may be public. An entry of a file or a pull secret that
    /// cannot be read is an error only for its own registry, and only if that has no other credentials.
    ///
    /// # Errors
    /// `InvalidConfig` for a pull secret, a file or an entry that does not parse; a keychain's own error;
    /// `Cancelled` or `Timeout`.
    pub(crate) fn lookup(
        &self,
        cx: &PullContext,
        pull_secrets: &[PullSecret],
        query: &CredentialQuery<'_>,
    ) -> Result<Lookup, Error> {
        let mut lookup = Lookup::default();
        let mut broken = Vec::new();
        let secrets = pull_secrets::keyring(pull_secrets)?;
        lookup.add(&SourceKind::PullSecret, secrets.lookup_query(query));
        for why in secrets.broken(query) {
            let message = format!("{why} (the entry for {})", query.domain());
            broken.push((SourceKind::PullSecret, Error::new(ErrorKind::InvalidConfig, message)));
        }
        lookup.add(&SourceKind::Static, self.fixed.lookup_query(query));
        for keychain in &self.keychains {
            lookup.add(&SourceKind::Keychain, keychain.credentials(cx, query)?);
        }
        for file in &self.files {
            self.look_into(file, cx, query, &mut lookup, &mut broken)?;
        }
        for plugins in &self.plugins {
            for (name, answer) in plugins.credentials(cx, &self.helpers, query)? {
                let source = SourceKind::Plugin(name.to_owned());
                match answer {
                    Ok(credentials) => lookup.add(&source, credentials),
                    Err(error) => {
                        log::warn!("{}", error.message());
                        lookup.failed.push((source, error));
                    }
                }
            }
        }
        match broken.first() {
            Some((_, error)) if lookup.found.is_empty() => Err(error.clone()),
            _ => {
                lookup.failed.append(&mut broken);
                Ok(lookup)
            }
        }
    }

    /// Adds a file's credentials: those of the registry's helper, then those in the file.
    fn look_into(
        &self,
        file: &ConfigFile,
        cx: &PullContext,
        query: &CredentialQuery<'_>,
        lookup: &mut Lookup,
        broken: &mut Vec<(SourceKind, Error)>,
    ) -> Result<(), Error> {
        let Some(contents) = file.contents()? else {
            return Ok(());
        };
        match file.helper(&contents, query) {
            Ok(Some((name, server))) => {
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
            Ok(None) => {}
            Err(error) => broken.push((file.source(), error)),
        }
        lookup.add(&file.source(), contents.keyring().lookup_query(query));
        let reasons = contents.keyring().broken(query).into_iter();
        broken.extend(reasons.map(|why| (file.source(), file.broken(query, why))));
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
