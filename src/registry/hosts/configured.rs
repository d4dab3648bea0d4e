//! The hosts that the builder and the files of a folder configure.

use std::io;
use std::path::{Path, PathBuf};

use super::file::{self, HostsFile};
use super::host::{Host, TlsSettings};
use super::location::{self, Location, Scheme};
use crate::credentials::config_file;
use crate::error::{Error, ErrorKind};

/// Maximum size of a `hosts.toml`, bytes.
pub(super) const MAX_FILE_LEN: u64 = 1024 * 1024;
const DOCKER_HUB: &str = "docker.io";
/// The host that serves Docker Hub's images; `docker.io` itself is a web site.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// The builder's settings for hosts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hosts {
    /// A folder like containerd's `certs.d`.
    directory: Option<PathBuf>,
    /// Registry and mirror, in the order to try.
    mirrors: Vec<(String, Host)>,
    /// `HOST` or `HOST:PORT` that are asked without TLS.
    plain_http: Vec<String>,
    /// `HOST` or `HOST:PORT` that are asked with TLS, though they are on this machine.
    tls: Vec<String>,
    /// `HOST` or `HOST:PORT` whose certificates are not verified.
    skip_verify: Vec<String>,
}

impl Hosts {
    /// Sets the folder of `hosts.toml` files, which has a folder for each registry.
    pub(crate) fn set_directory(&mut self, directory: impl Into<PathBuf>) {
        self.directory = Some(directory.into());
    }

    /// Adds the mirror at `url` for the images of `registry`; it is tried before the hosts of its `hosts.toml`.
    ///
    /// # Errors
    /// `InvalidConfig` if `url` is not a URL of a host.
    pub(crate) fn add_mirror(&mut self, registry: &str, url: &str) -> Result<(), Error> {
        let location = Location::parse(url, false, |host| self.default_scheme(host)).map_err(|why| {
            Error::new(ErrorKind::InvalidConfig, format!("mirror {url:?} for {registry}: {why}"))
        })?;
        self.mirrors.push((registry.to_owned(), Host::new(location)));
        Ok(())
    }

    /// Has `host`, `HOST` or `HOST:PORT`, asked without TLS.
    pub(crate) fn add_plain_http(&mut self, host: &str) {
        self.plain_http.push(host.to_owned());
    }

    /// Has `host`, `HOST` or `HOST:PORT`, asked with TLS, which is the default for hosts that are not loopback.
    pub(crate) fn add_tls(&mut self, host: &str) {
        self.tls.push(host.to_owned());
    }

    /// Accepts any certificate of `host`, `HOST` or `HOST:PORT`.
    pub(crate) fn add_skip_verify(&mut self, host: &str) {
        self.skip_verify.push(host.to_owned());
    }

    /// Returns the hosts for the images of `domain`, in the order to try. The files are read each time.
    ///
    /// # Errors
    /// `InvalidConfig` for a `hosts.toml` that cannot be read or is wrong, with its path and line.
    pub(crate) fn for_registry(&self, domain: &str) -> Result<Vec<Host>, Error> {
        let mirrors = self.mirrors.iter().filter(|(registry, _)| registry == domain);
        let mut hosts: Vec<Host> = mirrors.map(|(_, host)| host.clone()).collect();
        let configured = self.configured(domain)?.unwrap_or_default();
        hosts.extend(configured.mirrors);
        hosts.push(self.last_host(domain, configured.server, configured.root));
        for host in &mut hosts {
            host.is_registry_itself = self.is_registry_itself(host, domain);
            host.tls.skip_verify |= is_listed(&self.skip_verify, host.location.authority())
                || (host.is_registry_itself && is_listed(&self.skip_verify, domain));
        }
        Ok(hosts)
    }

    /// Returns the `server` of the file, or else the registry by its own name, with the settings of the file's top
    /// level.
    fn last_host(&self, domain: &str, server: Option<Location>, root: file::HostSettings) -> Host {
        let location = server.unwrap_or_else(|| Location::of_registry(self.default_scheme(domain), domain));
        root.applied_to(location.with_authority_instead_of(DOCKER_HUB, DOCKER_HUB_HOST))
    }

    fn is_registry_itself(&self, host: &Host, domain: &str) -> bool {
        let name = if domain == DOCKER_HUB { DOCKER_HUB_HOST } else { domain };
        let own = Location::of_registry(self.default_scheme(domain), name);
        host.location.is_same_server(&own)
    }

    /// Returns the scheme of a host that is written without one: plain HTTP for hosts that the builder lists and for
    /// loopback hosts, whose traffic leaves no machine.
    pub(super) fn default_scheme(&self, host: &str) -> Scheme {
        let (name, port) = location::split_port(host);
        let by_default = location::is_loopback(name) && port != Some("443");
        if is_listed(&self.plain_http, host) || (by_default && !is_listed(&self.tls, host)) {
            Scheme::Http
        } else {
            Scheme::Https
        }
    }

    fn configured(&self, domain: &str) -> Result<Option<HostsFile>, Error> {
        let Some(folder) = self.folder(domain)? else {
            return Ok(None);
        };
        let path = folder.join("hosts.toml");
        match read(&path)? {
            Some(text) => {
                let scheme = |host: &str| self.default_scheme(host);
                file::parse(&text, &folder, &scheme)
                    .map(Some)
                    .map_err(|fault| invalid(&path, &fault.to_string()).with_source(fault))
            }
            None => Ok(Some(HostsFile::with_tls(docker_certificates(&folder)?))),
        }
    }

    /// Returns the first folder that exists of `HOST_PORT_`, `HOST:PORT` and `_default`.
    fn folder(&self, domain: &str) -> Result<Option<PathBuf>, Error> {
        let Some(directory) = &self.directory else {
            return Ok(None);
        };
        let is_file_name = !domain.contains('/') && domain != "." && domain != "..";
        let own = [folder_name(domain), domain.to_owned()].into_iter().filter(|_| is_file_name);
        for name in own.chain(["_default".to_owned()]) {
            let folder = directory.join(name);
            match folder.metadata() {
                Ok(metadata) if metadata.is_dir() => return Ok(Some(folder)),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(invalid(&folder, &e.to_string())),
            }
        }
        Ok(None)
    }
}

/// Returns whether the list has `host` (`HOST` or `HOST:PORT`), with or without its port.
fn is_listed(list: &[String], host: &str) -> bool {
    let (name, _) = location::split_port(host);
    list.iter().any(|entry| entry == host || entry == name)
}

/// Returns `HOST_PORT_` for `HOST:PORT`: not every file system allows colons in names.
fn folder_name(domain: &str) -> String {
    match location::split_port(domain) {
        (host, Some(port)) => format!("{host}_{port}_"),
        (host, None) => host.to_owned(),
    }
}

/// Reads a file; `None` if it does not exist.
fn read(path: &Path) -> Result<Option<String>, Error> {
    let unreadable = |e: io::Error| invalid(path, &e.to_string());
    match config_file::read(path, MAX_FILE_LEN) {
        Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| invalid(path, "it is not UTF-8")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(unreadable(e)),
    }
}

/// Reads the certificates in a folder without a `hosts.toml`, as Docker does: `*.crt` are authorities, and
/// `*.cert` is a client's certificate whose key is in `*.key`.
fn docker_certificates(folder: &Path) -> Result<TlsSettings, Error> {
    let unreadable = |e: io::Error| invalid(folder, &e.to_string());
    let entries = folder.read_dir().map_err(unreadable)?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(unreadable)?;
    paths.sort();
    let mut tls = TlsSettings::default();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => tls.ca.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                if !key.exists() {
                    return Err(invalid(&path, &format!("its key {} is missing", key.display())));
                }
                tls.client.push((path, Some(key)));
            }
            _ => {}
        }
    }
    Ok(tls)
}

fn invalid(path: &Path, reason: &str) -> Error {
    Error::new(ErrorKind::InvalidConfig, format!("{}: {reason}", path.display()))
}
