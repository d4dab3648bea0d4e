//! The seam: what a puller asks of an image service, and what it is answered.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::context::PullContext;
use crate::error::{Error, ErrorKind};
use crate::image::digest::Digest;

/// Pulls images, and knows which images are there: a registry and a store, a node's container runtime, or
/// a test's double.
///
/// An implementor writes [`pull_image`](Self::pull_image) and [`image_size`](Self::image_size), which the
/// pullers need. The rest answers `Unsupported` by default.
///
/// A call must return soon after its context ends, with `Cancelled` or `Timeout`. It may panic: the pullers
/// answer for it.
pub trait ImageService: Send + Sync {
    /// Pulls the image, unless it is there already and unchanged.
    ///
    /// # Errors
    /// Of every kind that [`ErrorKind`] has; nothing of a failed pull can be seen.
    fn pull_image(&self, cx: &PullContext, request: &PullRequest) -> Result<PulledImage, Error>;

    /// Returns the image's size in bytes.
    ///
    /// # Errors
    /// `NotFound` if it is not there; `Unsupported` if the service cannot tell.
    fn image_size(&self, cx: &PullContext, image: &ImageSpec) -> Result<u64, Error>;

    /// Returns the image's id, or `None` if it is not there. Asks no network.
    ///
    /// # Errors
    /// `InvalidReference`, `Store`; `Unsupported` by default: an image manager then takes the image for
    /// absent.
    fn image_ref(&self, cx: &PullContext, image: &ImageSpec) -> Result<Option<ImageRef>, Error> {
        let _ = cx;
        Err(unsupported("which images it has").with_image(&image.image))
    }

    /// Returns why an image that is there counts as absent in [`image_ref`](Self::image_ref), such as the denial
    /// of a signature policy; `None` if it does not, or is not there. Asks no network.
    ///
    /// # Errors
    /// As of [`image_ref`](Self::image_ref). Default: `None`.
    fn image_refusal(&self, cx: &PullContext, image: &ImageSpec) -> Result<Option<Error>, Error> {
        let _ = (cx, image);
        Ok(None)
    }

    /// Returns the images that are there.
    ///
    /// # Errors
    /// `Store`; `Unsupported` by default.
    fn list_images(&self, cx: &PullContext) -> Result<Vec<ImageInfo>, Error> {
        let _ = cx;
        Err(unsupported("which images it has"))
    }

    /// Removes an image; one that is not there is no error.
    ///
    /// # Errors
    /// `InvalidReference`, `Store`; `Unsupported` by default.
    fn remove_image(&self, cx: &PullContext, image: &ImageSpec) -> Result<(), Error> {
        let _ = cx;
        let text = "the image service cannot remove images";
        Err(Error::new(ErrorKind::Unsupported, text).with_image(&image.image))
    }

    /// Returns the file system that holds the images.
    ///
    /// # Errors
    /// `Store`; `Unsupported` by default.
    fn image_fs_info(&self, cx: &PullContext) -> Result<ImageFsInfo, Error> {
        let _ = cx;
        Err(unsupported("where its images are"))
    }
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("the image service does not tell {what}"))
}

macro_rules! forward_image_service {
    ($pointer:ty) => {
        impl<S: ImageService + ?Sized> ImageService for $pointer {
            fn pull_image(&self, cx: &PullContext, request: &PullRequest) -> Result<PulledImage, Error> {
                (**self).pull_image(cx, request)
            }
            fn image_size(&self, cx: &PullContext, image: &ImageSpec) -> Result<u64, Error> {
                (**self).image_size(cx, image)
            }
            fn image_ref(&self, cx: &PullContext, image: &ImageSpec) -> Result<Option<ImageRef>, Error> {
                (**self).image_ref(cx, image)
            }
            fn image_refusal(&self, cx: &PullContext, image: &ImageSpec) -> Result<Option<Error>, Error> {
                (**self).image_refusal(cx, image)
            }
            fn list_images(&self, cx: &PullContext) -> Result<Vec<ImageInfo>, Error> {
                (**self).list_images(cx)
            }
            fn remove_image(&self, cx: &PullContext, image: &ImageSpec) -> Result<(), Error> {
                (**self).remove_image(cx, image)
            }
            fn image_fs_info(&self, cx: &PullContext) -> Result<ImageFsInfo, Error> {
                (**self).image_fs_info(cx)
            }
        }
    };
}

forward_image_service!(&S);
forward_image_service!(Arc<S>);
forward_image_service!(Box<S>);

/// Which image: what CRI calls the image spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ImageSpec {
    /// The image as the user typed it, like `alpine` or `registry.example.com/app@sha256:…`.
    pub image: String,
    /// Which runtime handler it is for; passed on to services that know such.
    pub runtime_handler: Option<String>,
    /// Passed on to the service.
    pub annotations: BTreeMap<String, String>,
}

impl<T: Into<String>> From<T> for ImageSpec {
    fn from(image: T) -> Self {
        ImageSpec { image: image.into(), ..ImageSpec::default() }
    }
}

/// A request to pull one image.
#[derive(Clone, Debug, Default)]
pub struct PullRequest {
    /// The caller's own; it comes back in the result.
    pub id: u64,
    /// Which image.
    pub image: ImageSpec,
    /// Credentials for this pull, before all others.
    pub pull_secrets: Vec<PullSecret>,
    /// The pod sandbox that the image is for; passed on to services that know such.
    pub pod_sandbox_config: Option<PodSandboxConfig>,
    /// The type of the artifact to choose from an index of artifacts. `None` pulls an image for the
    /// platform, or the index's only entry.
    pub artifact_type: Option<String>,
}

impl PullRequest {
    /// A request for `image`, without secrets.
    pub fn new(id: u64, image: impl Into<ImageSpec>) -> Self {
        PullRequest { id, image: image.into(), ..PullRequest::default() }
    }

    /// Chooses the artifact of this type from an index, instead of the image for the platform. Default:
    /// none.
    #[must_use]
    pub fn with_artifact_type(mut self, artifact_type: impl Into<String>) -> Self {
        self.artifact_type = Some(artifact_type.into());
        self
    }
}

/// A Kubernetes secret that holds registry credentials, as it stands in the API.
///
/// Its data is wiped when it is dropped, and prints as `…`.
#[derive(Clone, Default)]
pub struct PullSecret {
    /// The secret's `type`, like `kubernetes.io/dockerconfigjson`.
    pub kind: String,
    /// The secret's `data` by key, decoded from the API's base64.
    pub data: BTreeMap<String, Zeroed>,
    /// The secret's namespace, name and uid, if it came from an API server; for records of who
    /// pulled what.
    pub namespace: String,
    /// See `namespace`.
    pub name: String,
    /// See `namespace`.
    pub uid: String,
}

impl PullSecret {
    /// A secret of type `kubernetes.io/dockerconfigjson`: the bytes of a Docker `config.json`.
    pub fn docker_config_json(config: impl Into<Vec<u8>>) -> Self {
        Self::of("kubernetes.io/dockerconfigjson", ".dockerconfigjson", config.into())
    }

    /// A secret of the older type `kubernetes.io/dockercfg`: the bytes of a `.dockercfg`.
    pub fn docker_cfg(config: impl Into<Vec<u8>>) -> Self {
        Self::of("kubernetes.io/dockercfg", ".dockercfg", config.into())
    }

    fn of(kind: &str, key: &str, data: Vec<u8>) -> Self {
        PullSecret {
            kind: kind.to_owned(),
            data: BTreeMap::from([(key.to_owned(), Zeroed::from(data))]),
            ..PullSecret::default()
        }
    }
}

impl fmt::Debug for PullSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullSecret").field("kind", &self.kind).field("data", &"…").finish_non_exhaustive()
    }
}

/// Bytes that are wiped when they are dropped, and print as `…`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Zeroed(Zeroizing<Vec<u8>>);

impl Zeroed {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Zeroed {
    fn from(bytes: Vec<u8>) -> Self {
        Zeroed(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for Zeroed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// The pod sandbox that an image is for, as CRI has it; this crate only passes it on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSandboxConfig {
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// The pod's namespace.
    pub namespace: String,
    /// How often the sandbox was tried.
    pub attempt: u32,
    /// The pod's labels.
    pub labels: BTreeMap<String, String>,
    /// The pod's annotations.
    pub annotations: BTreeMap<String, String>,
}

/// What kubelet calls the image ref: the image's id, which is the digest of its config.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageRef(String);

impl ImageRef {
    /// An image ref as the service gave it.
    pub fn new(id: impl Into<String>) -> Self {
        ImageRef(id.into())
    }

    /// The id, like `sha256:…`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the service gave none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An opaque mark of the credential that worked: equal for equal credentials, and no way back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CredentialFingerprint(String);

impl CredentialFingerprint {
    /// A mark from its text; a hash, never the credential.
    pub fn new(mark: impl Into<String>) -> Self {
        CredentialFingerprint(mark.into())
    }

    /// The mark's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An image that was pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PulledImage {
    /// The image's id.
    pub image_ref: ImageRef,
    /// The digest of the manifest, or of the index it was chosen from, that the name stood for.
    pub manifest_digest: Option<Digest>,
    /// `repository@digest` of the same.
    pub repo_digest: Option<String>,
    /// Bytes that came over the network into the store: manifests, config and layers.
    pub bytes_fetched: u64,
    /// Bytes of the image that were in the store already.
    pub bytes_reused: u64,
    /// Which credential worked; `None` for an anonymous pull.
    pub credential: Option<CredentialFingerprint>,
    /// The folders of the image's layers, top first, if the service unpacks what it pulls. They are not pruned
    /// for the layer store's `min_age`.
    pub layers: Option<Vec<PathBuf>>,
}

impl PulledImage {
    /// An image of which only the id is known.
    pub fn new(image_ref: ImageRef) -> Self {
        PulledImage {
            image_ref,
            manifest_digest: None,
            repo_digest: None,
            bytes_fetched: 0,
            bytes_reused: 0,
            credential: None,
            layers: None,
        }
    }
}

/// An image that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageInfo {
    /// The image's id.
    pub image_ref: ImageRef,
    /// The names it goes by: `repository:tag`, and `repository@digest`.
    pub names: Vec<String>,
    /// The digest of its manifest.
    pub manifest_digest: Option<Digest>,
    /// Manifest, config and layers, bytes.
    pub size: u64,
    /// Never removed by a garbage collection.
    pub pinned: bool,
}

impl ImageInfo {
    /// An image of which only the id is known.
    pub fn new(image_ref: ImageRef) -> Self {
        ImageInfo { image_ref, names: Vec::new(), manifest_digest: None, size: 0, pinned: false }
    }
}

/// The file system that holds the images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageFsInfo {
    /// Where the images are.
    pub path: PathBuf,
    /// Bytes that the images take, partial downloads included.
    pub used_bytes: u64,
    /// Files that the images take.
    pub inodes_used: u64,
    /// The file system's size, bytes.
    pub capacity_bytes: u64,
    /// What an unprivileged user may still write there, bytes.
    pub available_bytes: u64,
}
