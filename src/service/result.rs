//! Results of image services.

use std::fmt;
use std::path::PathBuf;

use crate::image::digest::Digest;

/// The image's id: the digest of its config, or of its manifest where the config is no image config. Kubelet
/// calls it the image ref.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageRef(String);

impl ImageRef {
    /// Creates an image ref from the id that the service gave.
    pub fn new(id: impl Into<String>) -> Self {
        ImageRef(id.into())
    }

    /// Returns the id, like `sha256:…`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether the service gave no id.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An opaque hash of the credential that worked. Equal credentials have equal fingerprints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CredentialFingerprint(String);

impl CredentialFingerprint {
    /// Creates a fingerprint from its text: a hash, never the credential.
    pub fn new(hash: impl Into<String>) -> Self {
        CredentialFingerprint(hash.into())
    }

    /// Returns the fingerprint's text.
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
    /// The digest that the name resolved to: of the manifest, or of the index that it was chosen from.
    pub manifest_digest: Option<Digest>,
    /// `repository@digest` of the same.
    pub repo_digest: Option<String>,
    /// Bytes that came over the network into the store: manifests, config and layers.
    pub bytes_fetched: u64,
    /// Bytes of the image that were in the store already.
    pub bytes_reused: u64,
    /// The credential that worked; `None` for an anonymous pull.
    pub credential: Option<CredentialFingerprint>,
    /// The folders of the image's layers, top first, if the service unpacks what it pulls. They are not pruned
    /// for the layer store's `min_age`.
    pub layers: Option<Vec<PathBuf>>,
}

impl PulledImage {
    /// Creates an image of which only the id is known.
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

/// An image that is present.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageInfo {
    /// The image's id.
    pub image_ref: ImageRef,
    /// The image's names: `repository:tag`, and `repository@digest`.
    pub names: Vec<String>,
    /// The digest of its manifest.
    pub manifest_digest: Option<Digest>,
    /// The size of manifest, config and layers, bytes.
    pub size: u64,
    /// Whether garbage collections keep the image.
    pub pinned: bool,
}

impl ImageInfo {
    /// Creates an image of which only the id is known.
    pub fn new(image_ref: ImageRef) -> Self {
        ImageInfo { image_ref, names: Vec::new(), manifest_digest: None, size: 0, pinned: false }
    }
}

/// The file system that holds the images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageFsInfo {
    /// The folder of the images.
    pub path: PathBuf,
    /// Bytes that the images take, partial downloads included.
    pub used_bytes: u64,
    /// Files that the images take.
    pub inodes_used: u64,
    /// The file system's size, bytes.
    pub capacity_bytes: u64,
    /// Bytes that an unprivileged user may still write there.
    pub available_bytes: u64,
}
