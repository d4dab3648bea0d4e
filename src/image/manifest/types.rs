//! Descriptors, manifests and indexes.

use std::collections::{BTreeMap, HashSet};

use super::media_type;
use crate::error::ErrorKind;
use crate::image::digest::Digest;
use crate::image::platform::Platform;

/// Media type, digest and size of some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Descriptor {
    /// The media type.
    pub media_type: String,
    /// The digest.
    pub digest: Digest,
    /// The size, bytes.
    pub size: u64,
    /// Further URLs of the bytes.
    pub urls: Vec<String>,
    /// The bytes themselves, where the document holds them.
    pub data: Option<Vec<u8>>,
    /// The platform that a manifest is for; in an index.
    pub platform: Option<Platform>,
    /// The type of the artifact.
    pub artifact_type: Option<String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// Creates a descriptor without optional fields; `size` in bytes.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Descriptor {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            data: None,
            platform: None,
            artifact_type: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Sets further URLs of the bytes.
    #[must_use]
    pub fn with_urls<T: Into<String>>(mut self, urls: impl IntoIterator<Item = T>) -> Self {
        self.urls = urls.into_iter().map(Into::into).collect();
        self
    }

    /// Embeds the bytes.
    #[must_use]
    pub fn with_data(mut self, data: impl Into<Vec<u8>>) -> Self {
        self.data = Some(data.into());
        self
    }

    /// Sets the platform.
    #[must_use]
    pub fn with_platform(mut self, platform: Platform) -> Self {
        self.platform = Some(platform);
        self
    }

    /// Sets the type of the artifact.
    #[must_use]
    pub fn with_artifact_type(mut self, artifact_type: impl Into<String>) -> Self {
        self.artifact_type = Some(artifact_type.into());
        self
    }

    /// Sets an annotation.
    #[must_use]
    pub fn with_annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }
}

/// The document that a name or a digest in a registry leads to: a manifest or an index.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a pull holds a handful, and matches on them by value")]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Images for several platforms.
    Index(Index),
}

impl Document {
    /// Returns the document's own media type.
    pub fn media_type(&self) -> &str {
        match self {
            Document::Manifest(manifest) => &manifest.media_type,
            Document::Index(index) => &index.media_type,
        }
    }
}

/// An image: its config and layers. An
/// [OCI image manifest](https://github.com/opencontainers/image-spec/blob/v1.1.1/manifest.md) or a
/// [Docker manifest, schema 2](https://distribution.github.io/distribution/spec/manifest-v2-2/).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Manifest {
    /// The manifest's own media type.
    pub media_type: String,
    /// The type of the artifact, if it is not an image.
    pub artifact_type: Option<String>,
    /// The config.
    pub config: Descriptor,
    /// The layers, the base first; one that is repeated stands at each of its places.
    pub layers: Vec<Descriptor>,
    /// The manifest that this one refers to.
    pub subject: Option<Descriptor>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// Creates an OCI image manifest without optional fields.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Manifest {
            media_type: media_type::OCI_MANIFEST.to_owned(),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Sets the manifest's own media type.
    #[must_use]
    pub fn with_media_type(mut self, media_type: impl Into<String>) -> Self {
        self.media_type = media_type.into();
        self
    }

    /// Sets the type of the artifact.
    #[must_use]
    pub fn with_artifact_type(mut self, artifact_type: impl Into<String>) -> Self {
        self.artifact_type = Some(artifact_type.into());
        self
    }

    /// Sets the manifest that this one refers to.
    #[must_use]
    pub fn with_subject(mut self, subject: Descriptor) -> Self {
        self.subject = Some(subject);
        self
    }

    /// Sets an annotation.
    #[must_use]
    pub fn with_annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }

    /// Returns the blobs that a pull needs: the config, then each layer once, in order.
    pub fn blobs(&self) -> Vec<&Descriptor> {
        let mut seen = HashSet::with_capacity(1 + self.layers.len());
        std::iter::once(&self.config).chain(&self.layers).filter(|blob| seen.insert(&blob.digest)).collect()
    }

    /// Returns the size of all [`blobs`](Self::blobs), bytes.
    pub fn total_size(&self) -> u64 {
        self.blobs().iter().fold(0, |total, blob| total.saturating_add(blob.size))
    }

    /// Whether the config is an image config, by its media type. Docker Hub's manifests of 2015 call it
    /// `application/octet-stream`.
    pub fn has_image_config(&self) -> bool {
        let config = &*self.config.media_type;
        media_type::is_image_config(config)
            || (self.media_type == media_type::DOCKER_MANIFEST && config == media_type::OCTET_STREAM)
    }

    /// Returns the image's id, which the CRI calls the image ref: the digest of its config, or, for an
    /// artifact whose config is no image config, `manifest`, the digest of this manifest.
    pub fn image_id<'a>(&'a self, manifest: &'a Digest) -> &'a Digest {
        if self.has_image_config() { &self.config.digest } else { manifest }
    }
}

/// Images for several platforms. An
/// [OCI image index](https://github.com/opencontainers/image-spec/blob/v1.1.1/image-index.md) or a
/// [Docker manifest list](https://distribution.github.io/distribution/spec/manifest-v2-2/#manifest-list).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Index {
    /// The index's own media type.
    pub media_type: String,
    /// The type of the artifact, if it is not an image.
    pub artifact_type: Option<String>,
    /// The images, or further indexes. Entries of the document that cannot be used are not among them.
    pub manifests: Vec<Descriptor>,
    /// The manifest that this index refers to.
    pub subject: Option<Descriptor>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// The entries that cannot be used.
    pub(in crate::image) unusable: Vec<UnusableEntry>,
}

/// An entry of an index that cannot be used: a digest by an unknown algorithm, no size, an odd platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::image) struct UnusableEntry {
    /// The entry's platform, as far as it can be read.
    pub(in crate::image) platform: Option<Platform>,
    /// `InvalidManifest` or `Unsupported`.
    pub(in crate::image) kind: ErrorKind,
    /// What is wrong, with the entry's place.
    pub(in crate::image) why: String,
}

impl Index {
    /// Creates an OCI image index without optional fields.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Index {
            media_type: media_type::OCI_INDEX.to_owned(),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
            unusable: Vec::new(),
        }
    }

    /// Sets the index's own media type.
    #[must_use]
    pub fn with_media_type(mut self, media_type: impl Into<String>) -> Self {
        self.media_type = media_type.into();
        self
    }

    /// Sets the type of the artifact.
    #[must_use]
    pub fn with_artifact_type(mut self, artifact_type: impl Into<String>) -> Self {
        self.artifact_type = Some(artifact_type.into());
        self
    }

    /// Sets the manifest that this index refers to.
    #[must_use]
    pub fn with_subject(mut self, subject: Descriptor) -> Self {
        self.subject = Some(subject);
        self
    }

    /// Sets an annotation.
    #[must_use]
    pub fn with_annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }
}
