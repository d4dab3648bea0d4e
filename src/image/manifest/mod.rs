//! Descriptors, manifests and indexes: strict and capped parsing.
//!
//! Any two programs must see the same image in the same bytes. So what the specs leave to the reader's
//! taste, such as a key that stands twice, is refused here.

mod config;
mod fields;
pub mod media_type;
mod strict;
mod write;

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::error::{Error, ErrorKind};
use crate::image::digest::Digest;
use crate::image::platform::Platform;
use crate::image::quoted::quoted;

pub use config::ImageConfig;

use fields::{DocumentFields, MediaType};

/// How many bytes a manifest, an index or a config may have: 4 MiB.
pub const MAX_DOCUMENT_BYTES: usize = 4 << 20;
/// How many layers a manifest, or manifests an index, may list.
pub const MAX_DESCRIPTORS: usize = 4096;

/// What some bytes are, how many, and their digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The bytes' media type.
    pub media_type: String,
    /// The bytes' digest.
    pub digest: Digest,
    /// How many bytes.
    pub size: u64,
    /// Where else they are to be had.
    pub urls: Vec<String>,
    /// The bytes themselves, where they came along.
    pub data: Option<Vec<u8>>,
    /// What the image is for, in an index.
    pub platform: Option<Platform>,
    /// What kind of artifact it is.
    pub artifact_type: Option<String>,
    /// Anything else that was said of them.
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// A descriptor without the optional parts.
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
}

/// What a name or a digest in a registry leads to: the image itself, or a choice of images.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a pull holds a handful, and matches on them by value")]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Images for several platforms.
    Index(Index),
}

/// An image: its config and layers. An
/// [OCI image manifest](https://github.com/opencontainers/image-spec/blob/v1.1.1/manifest.md) or a
/// [Docker manifest, schema 2](https://distribution.github.io/distribution/spec/manifest-v2-2/).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its own media type.
    pub media_type: String,
    /// What kind of artifact it is, if it is not an image.
    pub artifact_type: Option<String>,
    /// Its config; the digest of that is the image's id.
    pub config: Descriptor,
    /// Its layers, the base first; one that is repeated stands at each of its places.
    pub layers: Vec<Descriptor>,
    /// The manifest that this one says something about.
    pub subject: Option<Descriptor>,
    /// Anything else that was said of it.
    pub annotations: BTreeMap<String, String>,
}

/// Images for several platforms. An
/// [OCI image index](https://github.com/opencontainers/image-spec/blob/v1.1.1/image-index.md) or a
/// [Docker manifest list](https://distribution.github.io/distribution/spec/manifest-v2-2/#manifest-list).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Its own media type.
    pub media_type: String,
    /// What kind of artifact it is, if it is not an image.
    pub artifact_type: Option<String>,
    /// The images, or further indexes.
    pub manifests: Vec<Descriptor>,
    /// The manifest that this index says something about.
    pub subject: Option<Descriptor>,
    /// Anything else that was said of it.
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// The config, then each layer once, in order: all that is to be fetched.
    pub fn blobs(&self) -> Vec<&Descriptor> {
        let mut seen = HashSet::with_capacity(1 + self.layers.len());
        std::iter::once(&self.config).chain(&self.layers).filter(|blob| seen.insert(&blob.digest)).collect()
    }

    /// How many bytes [`blobs`](Self::blobs) are together.
    pub fn total_size(&self) -> u64 {
        self.blobs().iter().fold(0, |total, blob| total.saturating_add(blob.size))
    }
}

impl Document {
    /// Reads a manifest or an index that came with the header `Content-Type: content_type`.
    ///
    /// Unknown fields are passed over, as the spec wants it. A header that says nothing
    /// (`application/json`, `application/octet-stream`, `text/plain`) counts as none.
    ///
    /// # Errors
    /// `Unsupported` for schema 1 manifests, other media types, and digests by an unknown algorithm.
    /// `InvalidManifest` for all else that is wrong: no JSON, more than [`MAX_DOCUMENT_BYTES`] or
    /// [`MAX_DESCRIPTORS`], a key twice or in another case, a field that is missing, null or not
    /// what it should be, and media types that disagree.
    pub fn parse(content_type: Option<&str>, bytes: &[u8]) -> Result<Self, Error> {
        read(None, content_type, bytes)
    }

    /// Reads, as [`parse`](Self::parse) does, the document that `descriptor` points to: its media type
    /// must be the one that was announced.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_described(
        descriptor: &Descriptor,
        content_type: Option<&str>,
        bytes: &[u8],
    ) -> Result<Self, Error> {
        read(Some(&descriptor.media_type), content_type, bytes)
    }

    /// Its own media type.
    pub fn media_type(&self) -> &str {
        match self {
            Document::Manifest(manifest) => &manifest.media_type,
            Document::Index(index) => &index.media_type,
        }
    }
}

fn read(announced: Option<&str>, content_type: Option<&str>, bytes: &[u8]) -> Result<Document, Error> {
    let header = content_type.and_then(media_type::of_header);
    if [announced, header.as_deref()].into_iter().flatten().any(media_type::is_schema_1) {
        return Err(schema_1());
    }
    let fields: DocumentFields = strict::parse(bytes)?;
    match fields.schema_version.as_ref().map(|version| version.0) {
        Some(2) => {}
        Some(1) => return Err(schema_1()),
        Some(version) => return Err(invalid(format!("schemaVersion: is {version}, not 2"))),
        None => return Err(invalid("schemaVersion: is missing")),
    }
    let claims = [
        ("the descriptor", announced),
        ("Content-Type", header.as_deref()),
        ("mediaType", fields.media_type.as_deref()),
    ];
    let media_type = match agreed(&claims)? {
        Some(claimed) => claimed.to_owned(),
        None if fields.manifests.is_some() => media_type::OCI_INDEX.to_owned(),
        None => media_type::OCI_MANIFEST.to_owned(),
    };
    if media_type::is_index(&media_type) {
        index(media_type, fields).map(Document::Index)
    } else if media_type::is_manifest(&media_type) {
        manifest(media_type, fields).map(Document::Manifest)
    } else if media_type::is_schema_1(&media_type) {
        Err(schema_1())
    } else {
        let message = format!("{} is neither an image manifest nor an index", quoted(&media_type));
        Err(Error::new(ErrorKind::Unsupported, message))
    }
}

/// The media type that all who claim one agree on.
fn agreed<'a>(claims: &[(&str, Option<&'a str>)]) -> Result<Option<&'a str>, Error> {
    let mut made = claims.iter().filter_map(|(by, media_type)| media_type.map(|it| (by, it)));
    let Some((first_by, first)) = made.next() else { return Ok(None) };
    match made.find(|(_, media_type)| *media_type != first) {
        None => Ok(Some(first)),
        Some((by, other)) => {
            Err(invalid(format!("{first_by} says {}, but {by} says {}", quoted(first), quoted(other))))
        }
    }
}

fn manifest(media_type: String, fields: DocumentFields) -> Result<Manifest, Error> {
    if fields.manifests.is_some() {
        return Err(invalid("manifests: only an index has them, and this is a manifest"));
    }
    let manifest = Manifest {
        media_type,
        artifact_type: fields.artifact_type.map(|MediaType(it)| it),
        config: fields.config.ok_or_else(|| invalid("config: is missing"))?,
        layers: fields.layers.ok_or_else(|| invalid("layers: is missing"))?,
        subject: fields.subject,
        annotations: fields.annotations,
    };
    check_sizes(&manifest)?;
    Ok(manifest)
}

fn index(media_type: String, fields: DocumentFields) -> Result<Index, Error> {
    if fields.config.is_some() || fields.layers.is_some() {
        let field = if fields.config.is_some() { "config" } else { "layers" };
        return Err(invalid(format!("{field}: only a manifest has it, and this is an index")));
    }
    Ok(Index {
        media_type,
        artifact_type: fields.artifact_type.map(|MediaType(it)| it),
        manifests: fields.manifests.ok_or_else(|| invalid("manifests: is missing"))?,
        subject: fields.subject,
        annotations: fields.annotations,
    })
}

/// What is repeated must be repeated with one size, and the sum must be one that can be held.
fn check_sizes(manifest: &Manifest) -> Result<(), Error> {
    let mut sizes = HashMap::with_capacity(1 + manifest.layers.len());
    sizes.insert(&manifest.config.digest, manifest.config.size);
    let mut total = manifest.config.size;
    for (index, layer) in manifest.layers.iter().enumerate() {
        match sizes.insert(&layer.digest, layer.size) {
            None => total = total.saturating_add(layer.size),
            Some(size) if size == layer.size => {}
            Some(size) => {
                let message =
                    format!("layers[{index}].size: is {}, but was {size} for the same digest", layer.size);
                return Err(invalid(message));
            }
        }
    }
    if total > i64::MAX.unsigned_abs() {
        return Err(invalid("layers: all sizes together are more than any image can have"));
    }
    Ok(())
}

fn schema_1() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "it is a Docker manifest of schema 1, which was given up in 2019 because its layers cannot be \
         verified; push the image again with a current tool, or ask whoever built it to",
    )
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidManifest, message)
}
