//! The image service that pulls from registries.

use std::fmt;
use std::sync::Arc;

use super::client::Service;
use super::client_metrics::ClientMetrics;
use super::pull;
use super::queries::{self, PullPlan, TagList};
use super::verifier::{self, FetchedManifest, ImageVerifier};
use crate::context::PullContext;
use crate::error::{Error, ErrorKind};
use crate::image::manifest::Descriptor;
use crate::image::reference::Reference;
use crate::service::{ImageFsInfo, ImageInfo, ImageRef, ImageService, ImageSpec, PullRequest, PulledImage};
use crate::store::{Store, StoredImage};
use crate::sync::BlockingPool;

/// Bytes per second.
const LOWEST_BANDWIDTH: u64 = 1024;

/// Pulls from registries over HTTP into a [`Store`] on disk.
///
/// Cheap to clone; clones share connections, tokens and store.
///
/// # Threads
///
/// A pull downloads on threads of its own, which it joins. Calls that cannot be interrupted run on threads
/// that all services and stores of the process share: at most four `dns-N` for name look-ups, four
/// `helper-N` for credential helpers, and those of the [`Store`]. They start when they are needed, and end
/// after 10 s without work, or when the last service is dropped: that drop joins them, for at most 900 ms
/// each kind. [`close`](Self::close) drops the service and tells whether they have ended.
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
pub struct RegistryImageService {
    service: Arc<Service>,
    verifier: Option<Arc<dyn ImageVerifier>>,
}

impl RegistryImageService {
    pub(super) fn new(service: Service, verifier: Option<Arc<dyn ImageVerifier>>) -> Self {
        RegistryImageService { service: Arc::new(service), verifier }
    }

    /// Pulls one image by its name, and waits for it.
    ///
    /// # Errors
    /// As of [`ImageService::pull_image`].
    pub fn pull(&self, image: impl Into<ImageSpec>) -> Result<PulledImage, Error> {
        self.pull_image(&PullContext::new(), &PullRequest::new(0, image))
    }

    /// Returns what a pull of the image would bring: which manifests, and how many bytes. Stores nothing, and asks no
    /// verifier.
    ///
    /// # Errors
    /// As of [`ImageService::pull_image`] up to the manifest.
    pub fn plan(&self, cx: &PullContext, request: &PullRequest) -> Result<PullPlan, Error> {
        let planned = queries::plan(&self.service, cx, request);
        planned.map_err(|error| error.with_image(&request.image.image))
    }

    /// Fetches what a name stands for at its registry now: a manifest, or an index of several platforms. Stores
    /// nothing. A digest that the store has is read from the store.
    ///
    /// # Errors
    /// As of [`ImageService::pull_image`], but for [`NoMatchingPlatform`](ErrorKind::NoMatchingPlatform),
    /// [`Store`](ErrorKind::Store) and [`DiskFull`](ErrorKind::DiskFull).
    pub fn fetch_manifest(&self, cx: &PullContext, request: &PullRequest) -> Result<FetchedManifest, Error> {
        let fetched = queries::manifest(&self.service, cx, request);
        fetched.map_err(|error| error.with_image(&request.image.image))
    }

    /// Fetches a blob of at most 4 MiB, such as a config, from the repository of the request's image, and
    /// verifies it. Stores nothing. A blob that the store has is read from the store.
    ///
    /// # Errors
    /// [`InvalidManifest`](ErrorKind::InvalidManifest) for a larger blob; [`NotFound`](ErrorKind::NotFound),
    /// [`SizeMismatch`](ErrorKind::SizeMismatch), [`DigestMismatch`](ErrorKind::DigestMismatch); and what the
    /// requests fail with.
    pub fn fetch_blob(
        &self,
        cx: &PullContext,
        request: &PullRequest,
        blob: &Descriptor,
    ) -> Result<Vec<u8>, Error> {
        let fetched = queries::blob(&self.service, cx, request, blob);
        fetched.map_err(|error| error.with_image(&request.image.image))
    }

    /// Lists at most `limit` tags of the repository of the request's image, in the order of the registry. Reads
    /// as many pages as that takes, of at most 1,000 tags each.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) for an unknown repository, [`Protocol`](ErrorKind::Protocol) for an answer
    /// that is no list of tags; and what the requests fail with.
    pub fn tags(&self, cx: &PullContext, request: &PullRequest, limit: usize) -> Result<TagList, Error> {
        let listed = queries::tags(&self.service, cx, request, limit);
        listed.map_err(|error| error.with_image(&request.image.image))
    }

    /// Limits what all pulls of this service and its clones receive together, bytes per second; `None` for no
    /// limit. May be changed while pulls run: those that wait for the limit keep to the new one at once.
    ///
    /// The limit counts all bytes read from connections, heads included. Later reads may use, for a tenth of a second,
    /// the bytes that earlier ones did not. A new connection receives up to its socket's buffer ahead, once. The time
    /// that a pull waits for the limit counts for its deadline, but neither as a host's silence nor for the minimum
    /// rate ([`slowest`](crate::registry::RegistryImageServiceBuilder::slowest)).
    /// The option `--limit-rate` of the command sets this limit.
    ///
    /// ```no_run
    /// # let service = oci_puller::RegistryImageService::builder("/var/lib/images").build()?;
    /// service.bandwidth_limit(2_000_000)?;
    /// // At night:
    /// service.bandwidth_limit(None)?;
    /// # Ok::<(), oci_puller::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) for a limit below 1024 bytes per second: servers close connections
    /// that are read so slowly.
    pub fn bandwidth_limit(&self, bytes_per_second: impl Into<Option<u64>>) -> Result<(), Error> {
        self.service.clients.bandwidth.set(bandwidth_rate(bytes_per_second.into())?);
        Ok(())
    }

    /// Returns the counts of requests, retries and bytes by host, of this service and its clones.
    pub fn metrics(&self) -> ClientMetrics {
        self.service.clients.counters.metrics()
    }

    /// Returns the store that the images are in.
    pub fn store(&self) -> &Store {
        &self.service.store
    }

    /// Drops the service, and returns whether this crate has no thread left in the process that belongs to a
    /// service or a store. A program that calls `fork`, `setns` or `unshare` afterwards needs that.
    ///
    /// Returns `false` if a clone of the service (a puller may hold one), another service or store, or
    /// the unpacking of an image still keeps threads, or if a look-up, a helper or a flush takes longer than
    /// 900 ms to end; the log names its thread. Does not end pulls: shut the pullers down and drop
    /// them first.
    #[must_use = "threads may be left"]
    pub fn close(self) -> bool {
        drop(self);
        BlockingPool::alive() == 0
    }

    fn find(&self, cx: &PullContext, image: &ImageSpec) -> Result<Option<StoredImage>, Error> {
        self.service.store.find_with(cx, &key_of(&image.image)?)
    }

    /// Returns why the verifier refuses an image that is in the store.
    fn refusal_of(&self, found: &StoredImage, asked: &ImageSpec) -> Result<Option<Error>, Error> {
        let Some(verifier) = &self.verifier else { return Ok(None) };
        let name = if is_digest(&asked.image) { None } else { Some(Reference::parse(&asked.image)?) };
        verifier::refusal_of_stored(&**verifier, self.store(), found, name.as_ref())
    }
}

/// Returns the rate of a limit, bytes per second; 0 for no limit.
///
/// # Errors
/// `InvalidConfig` for a limit that is too low.
pub(super) fn bandwidth_rate(limit: Option<u64>) -> Result<u64, Error> {
    match limit {
        None => Ok(0),
        Some(rate) if rate >= LOWEST_BANDWIDTH => Ok(rate),
        Some(rate) => {
            let message = format!(
                "a bandwidth limit of {rate} bytes per second is too low; the lowest is {LOWEST_BANDWIDTH}"
            );
            Err(Error::new(ErrorKind::InvalidConfig, message))
        }
    }
}

/// Returns what the store knows an image by: an id or a digest as it is, a name as it is pulled.
fn key_of(image: &str) -> Result<String, Error> {
    if is_digest(image) {
        return Ok(image.to_owned());
    }
    Ok(pull::stored_name(&Reference::parse(image)?))
}

fn is_digest(image: &str) -> bool {
    image.starts_with("sha256:") || image.starts_with("sha512:")
}

impl ImageService for RegistryImageService {
    fn pull_image(&self, cx: &PullContext, request: &PullRequest) -> Result<PulledImage, Error> {
        pull::pull(&self.service, self.verifier.as_deref(), cx, request)
            .map_err(|error| error.with_image(&request.image.image))
    }

    fn image_size(&self, cx: &PullContext, image: &ImageSpec) -> Result<u64, Error> {
        let absent = || Error::new(ErrorKind::NotFound, "it is not in the store").with_image(&image.image);
        self.service.store.size_of(cx, &key_of(&image.image)?)?.ok_or_else(absent)
    }

    fn image_ref(&self, cx: &PullContext, image: &ImageSpec) -> Result<Option<ImageRef>, Error> {
        let Some(found) = self.find(cx, image)? else { return Ok(None) };
        if let Some(refusal) = self.refusal_of(&found, image)? {
            log::warn!("{} is in the store and counts as absent: {refusal}", image.image);
            return Ok(None);
        }
        Ok(Some(ImageRef::new(found.id.as_str())))
    }

    fn image_refusal(&self, cx: &PullContext, image: &ImageSpec) -> Result<Option<Error>, Error> {
        let Some(found) = self.find(cx, image)? else { return Ok(None) };
        Ok(self.refusal_of(&found, image)?.map(|refusal| refusal.with_image(&image.image)))
    }

    fn list_images(&self, cx: &PullContext) -> Result<Vec<ImageInfo>, Error> {
        Ok(self.service.store.images_with(cx)?.into_iter().map(info).collect())
    }

    fn remove_image(&self, cx: &PullContext, image: &ImageSpec) -> Result<(), Error> {
        self.service.store.remove(cx, &key_of(&image.image)?).map(drop)
    }

    fn image_fs_info(&self, _: &PullContext) -> Result<ImageFsInfo, Error> {
        let info = self.service.store.fs_info()?;
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

impl fmt::Debug for RegistryImageService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryImageService")
            .field("store", &self.service.store.dir())
            .finish_non_exhaustive()
    }
}
