//! Images made to measure, the same ones for the same seed.
//!
//! ```
//! use oci_puller::testing::images::ImageBuilder;
//!
//! let image = ImageBuilder::new("library/app")
//!     .layer(1_000_000)
//!     .layer_shared(7, 50_000) // any image that asks for (7, 50_000) has this very layer
//!     .platforms(["linux/amd64", "linux/arm/v7"])
//!     .build();
//!
//! assert_eq!(image.media_type(), "application/vnd.oci.image.index.v1+json");
//! assert_eq!(image.variants().len(), 2);
//! assert_eq!(image.variants()[0].layers[1], image.variants()[1].layers[1]);
//! ```

mod tar;

use std::fmt;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::image::digest::{Algorithm, Digest};

/// Describes an image; [`build`](Self::build) makes it.
///
/// Each layer is an uncompressed tar archive with one file of pseudo-random bytes, so that any tool
/// can read it. Without [`platforms`](Self::platforms) the image is a single manifest for Linux on
/// this machine's architecture.
#[must_use = "nothing is made before `build`"]
pub struct ImageBuilder {
    repository: String,
    seed: u64,
    layers: Vec<LayerWish>,
    platforms: Vec<String>,
    nested: usize,
    format: Format,
    algorithm: Algorithm,
    rewrite_config: Rewrite,
    rewrite_manifest: Rewrite,
    rewrite_index: Rewrite,
}

type Rewrite = Box<dyn Fn(Vec<u8>) -> Vec<u8> + Send + Sync>;

enum LayerWish {
    Own { size: usize },
    Shared { seed: u64, size: usize },
    Made { media_type: String, data: Arc<[u8]>, diff_id: Digest },
}

impl ImageBuilder {
    /// Creates an image for `repository`, like `library/app`, without layers.
    pub fn new(repository: impl Into<String>) -> Self {
        ImageBuilder {
            repository: repository.into(),
            seed: 0,
            layers: Vec::new(),
            platforms: Vec::new(),
            nested: 0,
            format: Format::Oci,
            algorithm: Algorithm::Sha256,
            rewrite_config: Box::new(|bytes| bytes),
            rewrite_manifest: Box::new(|bytes| bytes),
            rewrite_index: Box::new(|bytes| bytes),
        }
    }

    /// Sets the seed of the image's own layers, used together with the repository. Default: 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Adds a layer that no other image has, a different one for each platform. Its file has `size` bytes, less
    /// than 8 GiB. The blob is up to 2,047 bytes longer: the archive's header and padding.
    pub fn layer(mut self, size: usize) -> Self {
        self.layers.push(LayerWish::Own { size });
        self
    }

    /// Adds a layer whose file has `size` bytes, and which depends on `seed` and `size` alone: to share it
    /// among images, or to repeat it within one.
    pub fn layer_shared(mut self, seed: u64, size: usize) -> Self {
        self.layers.push(LayerWish::Shared { seed, size });
        self
    }

    /// Adds a ready layer: its media type, the blob, and the digest of the archive
    /// within.
    pub fn layer_made(
        mut self,
        media_type: impl Into<String>,
        data: impl Into<Arc<[u8]>>,
        diff_id: Digest,
    ) -> Self {
        self.layers.push(LayerWish::Made { media_type: media_type.into(), data: data.into(), diff_id });
        self
    }

    /// Adds an index with a manifest for each platform, `os/architecture[/variant]`, in this order.
    /// Default: none, and no index.
    pub fn platforms<T: Into<String>>(mut self, platforms: impl IntoIterator<Item = T>) -> Self {
        self.platforms = platforms.into_iter().map(Into::into).collect();
        self
    }

    /// Wraps the index in `levels` more of them. Default: 0.
    pub fn nested(mut self, levels: usize) -> Self {
        self.nested = levels;
        self
    }

    /// Uses the media types of Docker's image manifest version 2, schema 2. Default: those of OCI.
    pub fn docker(mut self) -> Self {
        self.format = Format::Docker;
        self
    }

    /// Sets the algorithm of the digests. Default: SHA-256.
    pub fn algorithm(mut self, algorithm: Algorithm) -> Self {
        self.algorithm = algorithm;
        self
    }

    /// Replaces each config's JSON before its digest is taken.
    pub fn rewrite_config(mut self, rewrite: impl Fn(Vec<u8>) -> Vec<u8> + Send + Sync + 'static) -> Self {
        self.rewrite_config = Box::new(rewrite);
        self
    }

    /// Replaces each manifest's JSON before its digest is taken: for documents that are wrong.
    pub fn rewrite_manifest(mut self, rewrite: impl Fn(Vec<u8>) -> Vec<u8> + Send + Sync + 'static) -> Self {
        self.rewrite_manifest = Box::new(rewrite);
        self
    }

    /// Replaces the JSON of the index that lists the platforms before its digest is taken.
    pub fn rewrite_index(mut self, rewrite: impl Fn(Vec<u8>) -> Vec<u8> + Send + Sync + 'static) -> Self {
        self.rewrite_index = Box::new(rewrite);
        self
    }

    /// Makes the image.
    pub fn build(self) -> Image {
        if self.platforms.is_empty() && self.nested == 0 {
            let variant = self.variant(&host_platform());
            let root = variant.manifest.clone();
            return Image { repository: self.repository, root, indexes: Vec::new(), variants: vec![variant] };
        }
        let variants: Vec<_> = self.wanted_platforms().iter().map(|name| self.variant(name)).collect();
        let mut root = self.index_of(&variants);
        let mut indexes = vec![root.clone()];
        for _ in 0..self.nested {
            root = self.index(json!([root.descriptor()]), &|bytes| bytes);
            indexes.push(root.clone());
        }
        Image { repository: self.repository, root, indexes, variants }
    }

    fn wanted_platforms(&self) -> Vec<String> {
        if self.platforms.is_empty() { vec![host_platform()] } else { self.platforms.clone() }
    }

    fn variant(&self, platform: &str) -> Variant {
        let (layers, diff_ids): (Vec<_>, Vec<_>) =
            self.layers.iter().enumerate().map(|(at, wish)| self.layer_part(platform, at, wish)).unzip();
        let config = self.config(platform, &diff_ids);
        let manifest = self.manifest(&config, &layers);
        Variant { platform: platform.to_owned(), manifest, config, layers }
    }

    fn layer_part(&self, platform: &str, position: usize, wish: &LayerWish) -> (Part, Digest) {
        let (seed, size) = match wish {
            LayerWish::Made { media_type, data, diff_id } => {
                return (self.part(media_type, data.clone()), diff_id.clone());
            }
            LayerWish::Shared { seed, size } => (*seed, *size),
            LayerWish::Own { size } => (self.own_seed(platform, position), *size),
        };
        let part = self.part(self.format.layer(), tar::one_file(seed, size).into());
        let diff_id = part.digest.clone();
        (part, diff_id)
    }

    /// A seed that no other layer of this or another image has.
    fn own_seed(&self, platform: &str, position: usize) -> u64 {
        let text = format!("{}\n{platform}\n{position}\n{}", self.repository, self.seed);
        u64::from_str_radix(&Digest::sha256(text.as_bytes()).hex()[..16], 16).unwrap_or(self.seed)
    }

    fn config(&self, platform: &str, diff_ids: &[Digest]) -> Part {
        let mut config = platform_json(platform);
        let diff_ids: Vec<_> = diff_ids.iter().map(Digest::as_str).collect();
        config["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
        config["config"] = json!({
            "Labels": { "repository": self.repository, "seed": self.seed.to_string() }
        });
        self.document(self.format.config(), &config, &self.rewrite_config)
    }

    fn manifest(&self, config: &Part, layers: &[Part]) -> Part {
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": self.format.manifest(),
            "config": config.descriptor(),
            "layers": layers.iter().map(Part::descriptor).collect::<Vec<_>>(),
        });
        self.document(self.format.manifest(), &manifest, &self.rewrite_manifest)
    }

    fn index_of(&self, variants: &[Variant]) -> Part {
        let manifests = variants.iter().map(|variant| {
            let mut descriptor = variant.manifest.descriptor();
            descriptor["platform"] = platform_json(&variant.platform);
            descriptor
        });
        self.index(manifests.collect(), &self.rewrite_index)
    }

    fn index(&self, manifests: Value, rewrite: &dyn Fn(Vec<u8>) -> Vec<u8>) -> Part {
        let index = json!({ "schemaVersion": 2, "mediaType": self.format.index(), "manifests": manifests });
        self.document(self.format.index(), &index, rewrite)
    }

    fn document(&self, media_type: &str, json: &Value, rewrite: &dyn Fn(Vec<u8>) -> Vec<u8>) -> Part {
        self.part(media_type, rewrite(json.to_string().into_bytes()).into())
    }

    fn part(&self, media_type: &str, data: Arc<[u8]>) -> Part {
        Part { media_type: media_type.to_owned(), digest: Digest::of(self.algorithm, &data), data }
    }
}

impl fmt::Debug for ImageBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageBuilder").field("repository", &self.repository).finish_non_exhaustive()
    }
}

/// An image, made and ready to be [pushed](super::Registry::push).
#[derive(Clone, Debug)]
pub struct Image {
    repository: String,
    root: Part,
    indexes: Vec<Part>,
    variants: Vec<Variant>,
}

impl Image {
    /// Returns the repository.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Returns the document that the tag names: the index, or the manifest if there is no index.
    pub fn root(&self) -> &Part {
        &self.root
    }

    /// Returns the media type of the document that the tag names.
    pub fn media_type(&self) -> &str {
        &self.root.media_type
    }

    /// Returns the digest of the document that the tag names.
    pub fn digest(&self) -> &Digest {
        &self.root.digest
    }

    /// Returns the bytes of the document that the tag names.
    pub fn manifest_bytes(&self) -> &[u8] {
        &self.root.data
    }

    /// Returns the indexes, the innermost first; none for a single manifest.
    pub fn indexes(&self) -> &[Part] {
        &self.indexes
    }

    /// Returns one image for each platform; at least one.
    pub fn variants(&self) -> &[Variant] {
        &self.variants
    }

    /// Returns the image for a platform, named as in [`ImageBuilder::platforms`].
    pub fn variant(&self, platform: &str) -> Option<&Variant> {
        self.variants.iter().find(|variant| variant.platform == platform)
    }

    /// Returns the image id of the first variant, which is the only one unless platforms were given.
    pub fn config_digest(&self) -> &Digest {
        &self.variants[0].config.digest
    }

    /// Returns the layers of the first variant, the lowest first.
    pub fn layers(&self) -> &[Part] {
        &self.variants[0].layers
    }

    /// Returns all manifests and indexes.
    pub fn documents(&self) -> impl Iterator<Item = &Part> {
        self.variants.iter().map(|variant| &variant.manifest).chain(&self.indexes)
    }

    /// Returns all configs and layers, a repeated one each time.
    pub fn blobs(&self) -> impl Iterator<Item = &Part> {
        self.variants.iter().flat_map(|variant| std::iter::once(&variant.config).chain(&variant.layers))
    }
}

/// An image for one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Variant {
    /// `os/architecture[/variant]`.
    pub platform: String,
    /// Its manifest.
    pub manifest: Part,
    /// Its config; the digest of it is the image id.
    pub config: Part,
    /// Its layers, the lowest first.
    pub layers: Vec<Part>,
}

impl Variant {
    /// Returns the size of manifest, config and layers, bytes; a repeated layer counts once.
    pub fn size(&self) -> u64 {
        let mut parts: Vec<_> = self.layers.iter().chain([&self.manifest, &self.config]).collect();
        parts.sort_by_key(|part| &part.digest);
        parts.dedup_by_key(|part| &part.digest);
        parts.into_iter().map(Part::size).sum()
    }
}

/// A manifest, an index, a config or a layer.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Part {
    /// The media type.
    pub media_type: String,
    /// The digest.
    pub digest: Digest,
    /// The bytes.
    pub data: Arc<[u8]>,
}

impl Part {
    /// Returns the size, bytes.
    pub fn size(&self) -> u64 {
        self.data.len() as u64
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest.as_str(), "size": self.size() })
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part")
            .field("media_type", &self.media_type)
            .field("digest", &self.digest)
            .field("size", &self.size())
            .finish()
    }
}

#[derive(Clone, Copy)]
enum Format {
    Oci,
    Docker,
}

impl Format {
    fn layer(self) -> &'static str {
        match self {
            Format::Oci => "application/vnd.oci.image.layer.v1.tar",
            Format::Docker => "application/vnd.docker.image.rootfs.diff.tar",
        }
    }

    fn config(self) -> &'static str {
        match self {
            Format::Oci => "application/vnd.oci.image.config.v1+json",
            Format::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    fn manifest(self) -> &'static str {
        match self {
            Format::Oci => "application/vnd.oci.image.manifest.v1+json",
            Format::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    fn index(self) -> &'static str {
        match self {
            Format::Oci => "application/vnd.oci.image.index.v1+json",
            Format::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }
}

/// Linux on this machine's architecture, as Go names it.
fn host_platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    };
    format!("linux/{architecture}")
}

fn platform_json(platform: &str) -> Value {
    let mut words = platform.splitn(3, '/');
    let os = words.next().unwrap_or_default();
    let architecture = words.next().unwrap_or_default();
    match words.next() {
        Some(variant) => json!({ "os": os, "architecture": architecture, "variant": variant }),
        None => json!({ "os": os, "architecture": architecture }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_wishes_make_the_same_image() {
        let make = |seed| ImageBuilder::new("a").seed(seed).layer(1000).layer_shared(1, 10).build();
        assert_eq!(make(3).digest(), make(3).digest());
        assert_ne!(make(3).layers()[0], make(4).layers()[0]);
        assert_eq!(make(3).layers()[1], make(4).layers()[1]);
    }

    #[test]
    fn each_part_is_named_by_its_own_bytes_and_stands_in_its_manifest() {
        for builder in [
            ImageBuilder::new("a").layer(5),
            ImageBuilder::new("a").layer(5).docker().platforms(["linux/amd64", "linux/arm/v7"]).nested(2),
            ImageBuilder::new("a").layer(5).algorithm(Algorithm::Sha512).nested(1),
        ] {
            let image = builder.build();
            for part in image.documents().chain(image.blobs()) {
                assert!(part.digest.matches(&part.data), "{part:?}");
            }
            for variant in image.variants() {
                let manifest: Value = serde_json::from_slice(&variant.manifest.data).unwrap();
                assert_eq!(manifest["config"], variant.config.descriptor());
                assert_eq!(manifest["layers"][0], variant.layers[0].descriptor());
                let config: Value = serde_json::from_slice(&variant.config.data).unwrap();
                assert_eq!(config["rootfs"]["diff_ids"][0], variant.layers[0].digest.as_str());
            }
        }
    }

    #[test]
    fn nested_indexes_end_at_the_manifests() {
        let image = ImageBuilder::new("a").platforms(["linux/amd64"]).nested(3).build();
        assert_eq!(image.indexes().len(), 4);
        assert_eq!(image.indexes().last(), Some(image.root()));
        for pair in image.indexes().windows(2) {
            let outer: Value = serde_json::from_slice(&pair[1].data).unwrap();
            assert_eq!(outer["manifests"], json!([pair[0].descriptor()]));
        }
    }

    #[test]
    fn a_document_can_be_made_by_hand() {
        let image = ImageBuilder::new("a").rewrite_manifest(|_| b"{}".to_vec()).build();
        assert_eq!(image.manifest_bytes(), b"{}");
        assert_eq!(image.digest(), &Digest::sha256(b"{}"));
    }
}
