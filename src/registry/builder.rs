//! The settings of a [`RegistryImageService`].

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::auth::TokenCache;
use super::client::{Clients, Service};
use super::host_limits::HostLimits;
use super::hosts::Hosts;
use super::http::{MinRate, ProxyChoice, Resolver, SystemResolver};
use super::image_service::{RegistryImageService, bandwidth_rate};
use super::open_files::OpenFiles;
use super::settings::{ChunkPolicy, RegistrySettings, Selection};
use super::verifier::ImageVerifier;
use crate::credentials::{Credential, Credentials, FileKind, Keychain};
use crate::error::{Error, ErrorKind};
use crate::image::platform::Platform;
use crate::store::{Durability, SMALL, Store, StoreBuilder};
use crate::sync::FairShare;

/// Maximum number of connections, downloads or tries.
const MAX_COUNT: usize = 4096;

impl RegistryImageService {
    /// Returns a builder of a service whose images are in `store_dir`, which is created if it does not exist.
    pub fn builder(store_dir: impl Into<PathBuf>) -> RegistryImageServiceBuilder {
        RegistryImageServiceBuilder::new(store_dir.into())
    }
}

/// Builds a [`RegistryImageService`].
#[must_use]
pub struct RegistryImageServiceBuilder {
    store: StoreBuilder,
    settings: RegistrySettings,
    hosts: Hosts,
    credentials: Credentials,
    connections_per_host: usize,
    downloads: usize,
    verifier: Option<Arc<dyn ImageVerifier>>,
    #[cfg(feature = "unpack")]
    layers: Option<crate::unpack::LayerStore>,
    resolver: Arc<dyn Resolver>,
    /// The error of the first setting that is wrong; `build` returns it.
    refused: Option<Error>,
}

impl RegistryImageServiceBuilder {
    fn new(store_dir: PathBuf) -> Self {
        RegistryImageServiceBuilder {
            store: Store::builder(store_dir),
            settings: RegistrySettings::default(),
            hosts: Hosts::default(),
            credentials: Credentials::default(),
            connections_per_host: 16,
            downloads: 32,
            verifier: None,
            #[cfg(feature = "unpack")]
            layers: None,
            resolver: Arc::new(SystemResolver),
            refused: None,
        }
    }

    /// Sets the platform that images are chosen for. An image without an index whose config names another
    /// platform fails with `NoMatchingPlatform`. Default: this machine's platform; such an image is pulled
    /// then, with a warning.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.store = self.store.platform(platform.clone());
        self.settings.platform = platform;
        self.settings.is_platform_explicit = true;
        self.settings.selection = Selection::One;
        self
    }

    /// Pulls the images for several platforms, all or none. The name then stands for the index, of which the
    /// store has these images; [`PulledImage`](crate::PulledImage) describes the image for the first platform, and
    /// its bytes are those of all. A platform that the index lacks fails the pull with `NoMatchingPlatform`.
    /// Default: the image for one [`platform`](Self::platform).
    pub fn platforms(mut self, platforms: impl IntoIterator<Item = Platform>) -> Self {
        let platforms: Vec<_> = platforms.into_iter().collect();
        match platforms.first() {
            Some(first) => self = self.platform(first.clone()),
            None => self.note(Err(Error::new(ErrorKind::InvalidConfig, "platforms: none is given"))),
        }
        self.settings.selection = Selection::Several(platforms);
        self
    }

    /// Pulls all manifests that an index lists, attestations included, and keeps the index as it is. At most 128
    /// manifests; what is neither a manifest nor an index is left out.
    /// [`PulledImage`](crate::PulledImage) describes the image for [`platform`](Self::platform), or else the first.
    /// Default: the image for one platform.
    pub fn all_platforms(mut self) -> Self {
        self.settings.selection = Selection::All;
        self
    }

    /// Changes the store's settings.
    pub fn store(mut self, change: impl FnOnce(StoreBuilder) -> StoreBuilder) -> Self {
        self.store = change(self.store);
        self
    }

    /// Sets what a successful pull survives. Default: the loss of power.
    pub fn durability(self, durability: Durability) -> Self {
        self.store(|store| store.durability(durability))
    }

    // ---- hosts ----

    /// Asks `host` (`HOST` or `HOST:PORT`) without TLS. Default: only loopback hosts.
    pub fn plain_http(mut self, host: impl AsRef<str>) -> Self {
        self.hosts.add_plain_http(host.as_ref());
        self
    }

    /// Asks the loopback host `host` (`HOST` or `HOST:PORT`) with TLS.
    pub fn tls(mut self, host: impl AsRef<str>) -> Self {
        self.hosts.add_tls(host.as_ref());
        self
    }

    /// Accepts any certificate of `host` (`HOST` or `HOST:PORT`), a registry or a mirror: an attacker on the network
    /// can read what it is sent, including credentials. Content that is pulled by a digest is still verified.
    /// Default: none.
    pub fn insecure_skip_verify(mut self, host: impl AsRef<str>) -> Self {
        self.hosts.add_skip_verify(host.as_ref());
        self
    }

    /// Tries the mirror at `url` before the registry itself; several mirrors in the order of the calls.
    pub fn mirror(mut self, registry: impl AsRef<str>, url: impl AsRef<str>) -> Self {
        let added = self.hosts.add_mirror(registry.as_ref(), url.as_ref());
        self.note(added);
        self
    }

    /// Reads containerd's `hosts.toml` files in `dir`, which has a folder for each registry, for each pull. Default:
    /// none.
    pub fn hosts_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.hosts.set_directory(dir);
        self
    }

    /// Trusts these certificates, a PEM file's bytes, besides the usual authorities: the public ones, or
    /// with the feature `platform-verifier` the system's. A certificate may be that of an authority, or a server's
    /// own, for example a self-signed one. One that cannot be used is skipped with a warning in the log, if the
    /// file holds others.
    pub fn ca_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.settings.trust.authorities.push(pem.into());
        self
    }

    /// Shows this certificate with its key, PEM files' bytes, to hosts that ask for one.
    pub fn client_certificate(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.settings.trust.client = Some((certificate.into(), key.into()));
        self
    }

    /// Sends requests to every host through the HTTP proxy at `url`, `[http[s]://][USER:PASSWORD@]HOST[:PORT]`, with
    /// user and password percent-encoded.
    ///
    /// Default: the proxies of the environment, by the rules of Go's programs. `HTTPS_PROXY` is for HTTPS,
    /// `HTTP_PROXY` for plain HTTP, and `ALL_PROXY` for a scheme whose variable is not set; upper case first, then
    /// lower case. `NO_PROXY` lists exceptions, separated by commas: an address, a network (`10.0.0.0/8`),
    /// `example.com` (with its subdomains), `.example.com` or `*.example.com` (only the subdomains), each of these
    /// except a network with an optional `:PORT`, or `*` for all. Loopback addresses and `localhost` are never asked
    /// through these proxies. SOCKS proxies are refused.
    pub fn proxy(self, url: impl Into<String>) -> Self {
        self.proxy_with(url, "")
    }

    /// Sends requests through the HTTP proxy at `url`, except to the hosts in `no_proxy`, which has the syntax of
    /// `NO_PROXY`.
    pub fn proxy_with(mut self, url: impl Into<String>, no_proxy: impl Into<String>) -> Self {
        self.settings.proxy = ProxyChoice::Url { url: url.into(), no_proxy: no_proxy.into() };
        self
    }

    /// Uses no proxy, whatever the environment says.
    pub fn no_proxy(mut self) -> Self {
        self.settings.proxy = ProxyChoice::None;
        self
    }

    /// Resolves names with `resolver`. Default: the system's resolver.
    pub fn resolver(mut self, resolver: impl Resolver) -> Self {
        self.resolver = Arc::new(resolver);
        self
    }

    // ---- credentials ----

    /// Uses `credential` for the images that match `key`: `HOST[:PORT][/PATH]`, where the labels of the host may be
    /// patterns, as in `*.example.com`.
    pub fn credential(mut self, key: impl AsRef<str>, credential: Credential) -> Self {
        let added = self.credentials.add_static(key.as_ref(), credential);
        self.note(added);
        self
    }

    /// Asks `keychain` for credentials, after those given before.
    pub fn keychain(mut self, keychain: impl Keychain + 'static) -> Self {
        self.credentials.add_keychain(Arc::new(keychain));
        self
    }

    /// Reads Docker's `config.json` and podman's `auth.json` at their default paths: `$DOCKER_CONFIG` or `~/.docker`,
    /// `$REGISTRY_AUTH_FILE` or `$XDG_RUNTIME_DIR/containers`. Reads them again when they change, and runs the
    /// credential helpers that they name. Default: not read.
    pub fn default_credential_files(mut self) -> Self {
        self.credentials.add_default_files();
        self
    }

    /// Asks the exec credential providers of a kubelet's
    /// [`CredentialProviderConfig`](https://kubernetes.io/docs/tasks/administer-cluster/kubelet-credential-provider/)
    /// whose programs are in `bin_dir`, for the images that it matches. The file is JSON, or YAML with the feature
    /// `yaml`. It is read now. The plugins are asked after the files, for at most 60 s, and their answers are kept as
    /// long as they say. Default: none.
    pub fn credential_provider_config(mut self, path: impl AsRef<Path>, bin_dir: impl AsRef<Path>) -> Self {
        let added = self.credentials.add_plugins(path.as_ref(), bin_dir.as_ref());
        self.note(added);
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

    /// Restricts the hosts of token servers to these (`HOST` or `HOST:PORT`) and the registry's own; several
    /// calls add up. A pull from a registry that names another host fails with `InvalidConfig`.
    ///
    /// Default: a registry may name a token server on any host, as Docker Hub and GitLab do. Credentials that
    /// were found for the registry are shown to that server, on another host by HTTPS only.
    pub fn token_realm(mut self, host: impl Into<String>) -> Self {
        self.settings.token_realms.get_or_insert_default().push(host.into());
        self
    }

    /// Sets how long a credential helper may take. Default: 30 s.
    pub fn helper_timeout(mut self, timeout: Duration) -> Self {
        self.credentials.set_helper_timeout(timeout);
        self
    }

    /// Looks for credential helpers in `dir` only. Default: `$PATH`.
    pub fn helper_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.credentials.set_helper_directory(dir);
        self
    }

    /// Asks `verifier` whether an image may be pulled, before its blobs are fetched. Default: all may.
    pub fn verifier(mut self, verifier: impl ImageVerifier + 'static) -> Self {
        self.verifier = Some(Arc::new(verifier));
        self
    }

    /// Unpacks each image into `layers` while it is fetched, with the settings of that store. A pull is answered
    /// when the image is both stored and unpacked; [`PulledImage::layers`](crate::PulledImage::layers) has the
    /// folders then. What has no image config is not unpacked. Default: no image is unpacked.
    #[cfg(feature = "unpack")]
    pub fn unpack_into(mut self, layers: crate::unpack::LayerStore) -> Self {
        self.layers = Some(layers);
        self
    }

    /// Fetches layers that no host has from the URLs in their descriptors: anonymously, by HTTPS unless the registry is
    /// asked without TLS, and not from private addresses. Default: such URLs are ignored.
    pub fn allow_foreign_urls(mut self) -> Self {
        self.settings.allow_foreign_urls = true;
        self
    }

    /// Follows redirects to `host` (`HOST` or `HOST:PORT`) wherever it is, and asks a token server there; may be
    /// called again. By default,
    /// a registry may name hosts inside this machine or network only if it is there itself: loopback
    /// addresses if it is at one, private addresses if it is at a private or loopback address, and
    /// link-local ones, where metadata services of clouds are, never. A name may lead to a private address
    /// by HTTPS, with a certificate for that name. Mirrors and hosts of `hosts.toml` are always allowed.
    pub fn allow_redirects_to(mut self, host: impl AsRef<str>) -> Self {
        self.settings.allowed_redirects.push(host.as_ref().to_ascii_lowercase());
        self
    }

    // ---- bounds ----

    /// Sets how many connections to a host all pulls together use at a time; to a host that answers within 2 ms, at most
    /// two for each processor. Default: 16.
    pub fn connections_per_host(mut self, connections: usize) -> Self {
        self.connections_per_host = connections;
        self.settings.limits.idle_connections = connections;
        self
    }

    /// Sets how many blobs, or chunks of blobs, one pull fetches at a time. From a host that answers within 2 ms, at most
    /// two for each processor, and images of up to 128 KiB sequentially. Default: 16.
    pub fn downloads_per_pull(mut self, blobs: usize) -> Self {
        self.settings.downloads_per_pull = blobs;
        self
    }

    /// Fetches blobs of at least `from` bytes in chunks of about `size` bytes, several at a time; blobs of
    /// 16 KiB or less never. Default: from 8 MiB on, in chunks of 4 MiB; `u64::MAX` for never.
    pub fn chunks(mut self, from: u64, size: u64) -> Self {
        self.settings.chunks = ChunkPolicy { from: from.max(SMALL + 1), size };
        self
    }

    /// The name of [`chunks`](Self::chunks) in version 0.1.
    #[doc(hidden)]
    pub fn pieces(self, from: u64, piece: u64) -> Self {
        self.chunks(from, piece)
    }

    /// Sets how many transfers of blobs all pulls run at a time. A host gets a further one only while it has
    /// fewer than are free, of 32 at most 16, so that hosts which hang leave some to the others. Default: 32.
    pub fn downloads(mut self, blobs: usize) -> Self {
        self.downloads = blobs;
        self
    }

    /// Limits what all pulls receive together, bytes per second, as
    /// [`RegistryImageService::bandwidth_limit`] does later. Default: no limit.
    pub fn bandwidth_limit(mut self, bytes_per_second: impl Into<Option<u64>>) -> Self {
        let rate = bandwidth_rate(bytes_per_second.into());
        let checked = rate.map(|rate| self.settings.bandwidth = rate);
        self.note(checked);
        self
    }

    /// Sets the maximum size of an image, bytes: config and layers, each counted once. Default: no limit.
    pub fn max_image_size(mut self, bytes: u64) -> Self {
        self.settings.max_image_size = bytes;
        self
    }

    /// Sets the stack size of each thread that fetches blobs, bytes. Default: 256 KiB.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.settings.stack_size = bytes;
        self
    }

    // ---- time ----

    /// Sets how long the lookup of a host's name may take, and again how long a connection may take, TLS included.
    /// Default: 10 s each.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.limits.connect = timeout;
        self
    }

    /// Sets how long a host may take to answer with the head of its reply; while another host is left, at most the
    /// [`failover_timeout`](Self::failover_timeout). A limit that passes is a failed try. `Duration::MAX` waits as
    /// long as the connection lives, or the pull.
    ///
    /// Default: 5 min for blobs, which a cache may have to fetch first, and 60 s for all else.
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.settings.response.blob = Some(timeout);
        self
    }

    /// Sets the same for requests other than those of blobs, mainly manifests. Default: the
    /// [`response_timeout`](Self::response_timeout) if that is set, else 60 s.
    pub fn manifest_response_timeout(mut self, timeout: Duration) -> Self {
        self.settings.response.other = Some(timeout);
        self
    }

    /// Sets how long a host may take to answer with the head of its reply while another host that may serve the same
    /// was not asked yet. In the last of the [`tries`](Self::tries), each host has its whole
    /// [`response_timeout`](Self::response_timeout). Default: 30 s.
    pub fn failover_timeout(mut self, timeout: Duration) -> Self {
        self.settings.response.failover = timeout;
        self
    }

    /// Sets how long a host may be silent in the middle of a body. Default: 30 s.
    pub fn silence_timeout(mut self, timeout: Duration) -> Self {
        self.settings.limits.silence = timeout;
        self
    }

    /// Sets the minimum rate: the connections of a pull to one host fail when together they receive fewer than `bytes`
    /// in `time`. Default: 60 KiB in 60 s.
    pub fn slowest(mut self, bytes: u64, time: Duration) -> Self {
        self.settings.limits.min_rate = MinRate { bytes, time };
        self
    }

    /// Sets how often the hosts are tried for a manifest or a blob; a try that received 1 MiB of new bytes does not
    /// count. Default: 5.
    pub fn tries(mut self, rounds: u32) -> Self {
        self.settings.retry.tries = rounds;
        self
    }

    /// Sets the delay before the second try, which doubles before each further one up to `cap`; up to half of each delay
    /// is random. Default: 0.5 s, 30 s.
    pub fn retry_delay(mut self, base: Duration, cap: Duration) -> Self {
        self.settings.retry.base = base;
        self.settings.retry.cap = cap;
        self
    }

    /// Sets the longest `Retry-After` of a host that is followed. Default: 120 s.
    pub fn max_retry_after(mut self, limit: Duration) -> Self {
        self.settings.retry.max_retry_after = limit;
        self
    }

    /// Builds the service.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) for a setting that is not possible, with its name;
    /// [`Store`](ErrorKind::Store) and [`DiskFull`](ErrorKind::DiskFull) if the store cannot be opened.
    pub fn build(mut self) -> Result<RegistryImageService, Error> {
        if let Some(error) = self.refused {
            return Err(error);
        }
        let mut settings = self.settings;
        within("connections_per_host", self.connections_per_host)?;
        within("downloads_per_pull", settings.downloads_per_pull)?;
        within("downloads", self.downloads)?;
        within("tries", settings.retry.tries as usize)?;
        if settings.chunks.size == 0 {
            return Err(Error::new(ErrorKind::InvalidConfig, "chunks of 0 bytes are not possible"));
        }
        #[cfg(feature = "unpack")]
        if self.layers.is_some() && !matches!(settings.selection, Selection::One) {
            let message = "unpack_into needs one platform: images for several are not unpacked";
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
        let open_files = OpenFiles::of_process();
        open_files.lower(&mut settings, &mut self.connections_per_host, &mut self.downloads);
        // Certificates, keys and the proxy are read here, so that they fail here.
        let clients = Clients::new(&settings, self.resolver)?;
        let service = Service {
            hosts: self.hosts,
            credentials: self.credentials,
            tokens: TokenCache::default(),
            host_limits: HostLimits::new(self.connections_per_host, settings.side_by_side, self.downloads),
            pulls: FairShare::new(open_files.pulls()),
            store: self.store.build()?,
            #[cfg(feature = "unpack")]
            layers: self.layers,
            clients,
            settings,
        };
        Ok(RegistryImageService::new(service, self.verifier))
    }

    fn note(&mut self, outcome: Result<(), Error>) {
        if let Err(error) = outcome {
            self.refused.get_or_insert(error);
        }
    }
}

fn within(name: &str, count: usize) -> Result<(), Error> {
    if (1..=MAX_COUNT).contains(&count) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidConfig, format!("{name} is {count}; 1 to {MAX_COUNT} are possible")))
}

impl fmt::Debug for RegistryImageServiceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryImageServiceBuilder")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
