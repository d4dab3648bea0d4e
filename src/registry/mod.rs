//! The image service over HTTP: any OCI or Docker registry, into an OCI image layout on disk.

mod auth;
mod builder;
mod challenge;
mod document;
mod download;
mod error_response;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod host_limits;
mod hosts;
mod http;
mod link;
mod policy;
mod pull;
mod range;
mod referrers;
mod request;
mod resolve;
mod retry;
mod retry_after;
mod verifier;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

pub use builder::RegistryImageServiceBuilder;
pub use http::{Resolver, SystemResolver};
pub use verifier::{Candidate, FetchedManifest, ImageVerifier, Referrers, VerifyError};

use self::auth::TokenCache;
use self::download::ChunkPolicy;
use self::host_limits::{HostLimits, RetryPolicy, Slots};
use self::hosts::{Host, Hosts};
use self::http::{Http, Limits, ProxyChoice, Trust};
use crate::context::PullContext;
use crate::credentials::Credentials;
use crate::error::{Error, ErrorKind};
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::service::{ImageFsInfo, ImageInfo, ImageRef, ImageService, ImageSpec, PullRequest, PulledImage};
use crate::store::{Store, StoredImage};

/// No certificate or key file is longer, bytes.
const MAX_PEM: u64 = 1024 * 1024;

/// Pools of connections that are kept for different TLS settings.
const MAX_CLIENTS: usize = 64;

/// Pulls from registries over HTTP into a [`Store`] on disk.
///
/// Cheap to clone; clones share connections, tokens and store.
///
/// ```no_run
/// use oci_puller::RegistryImageService;
///
/// let service = RegistryImageService::builder("/var/lib/images").build()?;
/// let pulled = service.pull("alpine")?;
/// println!("{} is {}", pulled.repo_digest.unwrap_or_default(), pulled.image_ref);
/// # Ok::<(), oci_puller::Error>(())
/// ```
#[derive(Clone)]
pub struct RegistryImageService(Arc<Service>);

/// What all pulls of a service share.
struct Service {
    settings: Settings,
    hosts: Hosts,
    credentials: Credentials,
    tokens: TokenCache,
    host_limits: HostLimits,
    downloads: Slots,
    store: Store,
    verifier: Option<Arc<dyn ImageVerifier>>,
    resolver: Arc<dyn Resolver>,
    clients: Mutex<Vec<Client>>,
}

/// Connections by what they are made with.
struct Client {
    trust: Trust,
    connect: Duration,
    http: Http,
}

#[derive(Clone, Debug)]
struct Settings {
    platform: Platform,
    limits: Limits,
    retry: RetryPolicy,
    trust: Trust,
    proxy: ProxyChoice,
    downloads_per_pull: usize,
    /// How many downloads keep this machine busy, where no time is lost on the way.
    side_by_side: usize,
    chunks: ChunkPolicy,
    max_image_size: u64,
    allow_foreign_urls: bool,
    stack_size: usize,
}

impl RegistryImageService {
    /// A service whose images are in `store_dir`, which is made if it is not there.
    pub fn builder(store_dir: impl Into<PathBuf>) -> RegistryImageServiceBuilder {
        RegistryImageServiceBuilder::new(store_dir.into())
    }

    /// Pulls one image, with nothing but its name, and waits for it.
    ///
    /// # Errors
    /// As of [`ImageService::pull_image`].
    pub fn pull(&self, image: impl Into<ImageSpec>) -> Result<PulledImage, Error> {
        self.pull_image(&PullContext::new(), &PullRequest::new(0, image))
    }

    /// The store that the images are in.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    fn find(&self, image: &ImageSpec) -> Result<Option<StoredImage>, Error> {
        self.0.store.find(&key_of(&image.image)?)
    }
}

/// What the store knows an image by: an id or a digest as it is, a name as it is pulled.
fn key_of(image: &str) -> Result<String, Error> {
    if image.starts_with("sha256:") || image.starts_with("sha512:") {
        return Ok(image.to_owned());
    }
    Ok(pull::stored_name(&Reference::parse(image)?))
}

impl ImageService for RegistryImageService {
    fn pull_image(&self, cx: &PullContext, request: &PullRequest) -> Result<PulledImage, Error> {
        pull::pull(&self.0, cx, request).map_err(|error| error.with_image(&request.image.image))
    }

    fn image_size(&self, _: &PullContext, image: &ImageSpec) -> Result<u64, Error> {
        let absent = || Error::new(ErrorKind::NotFound, "it is not in the store").with_image(&image.image);
        self.0.store.size_of(&key_of(&image.image)?)?.ok_or_else(absent)
    }

    fn image_ref(&self, _: &PullContext, image: &ImageSpec) -> Result<Option<ImageRef>, Error> {
        Ok(self.find(image)?.map(|found| ImageRef::new(found.id.as_str())))
    }

    fn list_images(&self, _: &PullContext) -> Result<Vec<ImageInfo>, Error> {
        Ok(self.0.store.images()?.into_iter().map(info).collect())
    }

    fn remove_image(&self, cx: &PullContext, image: &ImageSpec) -> Result<(), Error> {
        self.0.store.remove(cx, &key_of(&image.image)?).map(drop)
    }

    fn image_fs_info(&self, _: &PullContext) -> Result<ImageFsInfo, Error> {
        let info = self.0.store.fs_info()?;
        Ok(ImageFsInfo {
            path: info.path,
            used_bytes: info.used_bytes,
            inodes_used: info.inodes_used,
            capacity_bytes: info.capacity_bytes,
            available_bytes: info.available_bytes,
        })
    }
}

fn info(stored: StoredImage) -> ImageInfo {
    let mut info = ImageInfo::new(ImageRef::new(stored.id.as_str()));
    info.names = stored.names.into_iter().chain(stored.repo_digests).collect();
    info.manifest_digest = Some(stored.manifest.digest);
    info.size = stored.size;
    info.pinned = stored.pinned;
    info
}

impl Service {
    /// The connections to a host: those of the service, or of its own where its settings differ.
    fn http_for(&self, host: &Host) -> Result<Http, Error> {
        self.http(host, self.trust_for(host, true)?)
    }

    /// The connections to where a host redirects to. Its authorities may have signed for that too, but
    /// our client certificate is not for others, and what need not be verified is the host alone.
    fn http_beyond(&self, host: &Host) -> Result<Http, Error> {
        self.http(host, self.trust_for(host, false)?)
    }

    fn trust_for(&self, host: &Host, is_at_host: bool) -> Result<Trust, Error> {
        let mut trust = self.settings.trust.clone();
        for path in &host.tls.ca {
            trust.authorities.push(read_pem(path)?);
        }
        if is_at_host {
            trust.skip_verify = host.tls.skip_verify;
            if let Some((certificate, key)) = host.tls.client.first() {
                let chain = read_pem(certificate)?;
                let key = key.as_ref().map_or_else(|| Ok(chain.clone()), |key| read_pem(key))?;
                trust.client = Some((chain, key));
            }
        } else {
            trust.client = None;
        }
        Ok(trust)
    }

    fn http(&self, host: &Host, trust: Trust) -> Result<Http, Error> {
        let connect = host.dial_timeout.unwrap_or(self.settings.limits.connect);
        let mut clients = self.clients.lock();
        if let Some(known) = clients.iter().find(|known| known.trust == trust && known.connect == connect) {
            return Ok(known.http.clone());
        }
        let limits = Limits { connect, ..self.settings.limits.clone() };
        let http = Http::new(&limits, &trust, &self.settings.proxy, Arc::clone(&self.resolver))?;
        if clients.len() >= MAX_CLIENTS {
            clients.remove(0);
        }
        clients.push(Client { trust, connect, http: http.clone() });
        Ok(http)
    }
}

fn read_pem(path: &std::path::Path) -> Result<Vec<u8>, Error> {
    use std::io::Read;
    let invalid = |what: String| Error::new(ErrorKind::InvalidConfig, format!("{}: {what}", path.display()));
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| invalid(error.to_string()))?;
    file.take(MAX_PEM + 1).read_to_end(&mut bytes).map_err(|error| invalid(error.to_string()))?;
    if bytes.len() as u64 > MAX_PEM {
        return Err(invalid(format!("more than {MAX_PEM} bytes")));
    }
    Ok(bytes)
}

impl fmt::Debug for RegistryImageService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryImageService").field("store", &self.0.store.dir()).finish_non_exhaustive()
    }
}
