//! Writes one image as an archive.

use std::collections::HashSet;
use std::io::{self, Read, Write};

use serde::Serialize;

use crate::context::PullContext;
use crate::error::{Error, ErrorKind};
use crate::image::digest::Hasher;
use crate::image::manifest::{Descriptor, Document, Manifest};
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::store::blob::Blob;
use crate::store::children::ImageTree;
use crate::store::handle::Store;
use crate::store::index::IndexEntry;
use crate::store::layout::{BLOBS, DOCKER_MANIFEST, INDEX, LAYOUT, LAYOUT_TEXT, blob_path};
use crate::store::lookup::StoredImage;
use crate::store::names;
use crate::store::tar;

/// How many platforms an error lists.
const MAX_LISTED: usize = 16;

/// The format of an exported archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArchiveFormat {
    /// An OCI image layout in a tar file.
    #[default]
    Oci,
    /// The same with the `manifest.json` of `docker save`, which `docker load` of Docker before 25 needs.
    Docker,
}

impl Store {
    /// Writes the image that `key` stands for as an OCI archive: a tar file of an image layout with
    /// this image alone. The same image by the same name makes the same bytes, wherever and whenever.
    /// Every byte is hashed on its way. What was written before an error is no archive.
    ///
    /// An image that was pulled by the digest of an image index comes with that index, so that the
    /// archive proves its name; the index's other images are not in it.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound); [`NoMatchingPlatform`](ErrorKind::NoMatchingPlatform) if `key` stands for
    /// images of other platforms only; [`DigestMismatch`](ErrorKind::DigestMismatch),
    /// [`SizeMismatch`](ErrorKind::SizeMismatch) if a blob is damaged; [`Cancelled`](ErrorKind::Cancelled),
    /// [`Timeout`](ErrorKind::Timeout); [`Store`](ErrorKind::Store), also for what `archive` fails with.
    pub fn export(&self, cx: &PullContext, key: &str, archive: impl Write) -> Result<(), Error> {
        self.export_as(cx, key, ArchiveFormat::Oci, archive)
    }

    /// Does as [`export`](Self::export), in the given format.
    ///
    /// # Errors
    /// As of [`export`](Self::export); [`Unsupported`](ErrorKind::Unsupported) if the format is `Docker` and the
    /// image is an artifact.
    pub fn export_as(
        &self,
        cx: &PullContext,
        key: &str,
        format: ArchiveFormat,
        archive: impl Write,
    ) -> Result<(), Error> {
        let image = self.find_with(cx, key)?.map_or_else(|| Err(self.nothing_for(key)), Ok)?;
        let manifest = self.manifest(&image.manifest.digest)?;
        let root = self.root_of(cx, &image, key)?;
        let transaction = self.transaction();
        let mut writer = tar::Writer::new(archive);
        let text = root.index_json();
        let mut head = vec![(LAYOUT, LAYOUT_TEXT.as_bytes()), (INDEX, &text[..])];
        let docker = match format {
            ArchiveFormat::Oci => None,
            ArchiveFormat::Docker => Some(docker_manifest(&image, &manifest)?),
        };
        head.extend(docker.iter().map(|text| (DOCKER_MANIFEST, &text[..])));
        let signatures = root.signatures.as_ref().map(|(descriptor, _)| descriptor);
        let failed = |error: io::Error| not_written(cx, error);
        for (path, content) in head {
            writer.file(path, content.len() as u64, content).map_err(failed)?;
        }
        let indexes = root.indexes.iter();
        let blobs: Vec<_> = indexes.chain([&image.manifest]).chain(manifest.blobs()).collect();
        write_folders(&mut writer, blobs.iter().copied().chain(signatures)).map_err(failed)?;
        if let Some((descriptor, bytes)) = &root.signatures {
            writer.file(&blob_path(&descriptor.digest), descriptor.size, &bytes[..]).map_err(failed)?;
        }
        for blob in blobs {
            // Where nothing may be written nothing is removed by us either.
            let _ = self.hold(cx, &transaction, &[&blob.digest]);
            self.export_blob(cx, blob, &mut writer)?;
        }
        writer.finish().map_err(failed)?;
        self.touch(&image.manifest.digest);
        Ok(())
    }

    /// Returns why there is no image to export.
    fn nothing_for(&self, key: &str) -> Error {
        let others = self.platforms_of(key).unwrap_or_default();
        let error = match &others[..] {
            [] => Error::new(ErrorKind::NotFound, format!("it is not in {}", self.dir().display())),
            others => {
                let listed: Vec<_> = others.iter().take(MAX_LISTED).map(Platform::to_string).collect();
                let (wanted, listed) = (&self.0.settings.platform, listed.join(", "));
                Error::new(
                    ErrorKind::NoMatchingPlatform,
                    format!("the store has nothing for {wanted}, but for {listed}"),
                )
            }
        };
        error.with_image(key)
    }

    /// Returns what the archive's index lists: the image by the name that was asked for, or else by its
    /// first. A name with the digest of an index stands for that index.
    fn root_of(&self, cx: &PullContext, image: &StoredImage, key: &str) -> Result<Root, Error> {
        let asked = image.names.iter().find(|name| *name == key);
        let name = asked.or_else(|| image.names.iter().min()).cloned();
        let manifest = &image.manifest.digest;
        let pinned = name.as_deref().and_then(names::pinned).map(|(_, digest)| digest);
        let way = pinned.and_then(|digest| ImageTree::new(self, cx).way(&digest, manifest));
        let mut indexes = Vec::new();
        for digest in way.iter().flat_map(|way| way.iter()) {
            let bytes = self.document(digest)?;
            let document = Document::parse(None, &bytes)?;
            indexes.push(Descriptor::new(document.media_type(), digest.clone(), bytes.len() as u64));
        }
        let target = indexes.first().unwrap_or(&image.manifest).clone();
        let signatures = self.signatures_of_image(image)?.to_manifest();
        Ok(Root { name, target, indexes, signatures })
    }

    fn export_blob(
        &self,
        cx: &PullContext,
        blob: &Descriptor,
        writer: &mut tar::Writer<impl Write>,
    ) -> Result<(), Error> {
        let content = self.open_blob(&blob.digest)?;
        if content.size() != blob.size {
            let text =
                format!("{} is damaged in the store: {} bytes; run `verify`", blob.digest, content.size());
            return Err(Error::new(ErrorKind::SizeMismatch, text));
        }
        let mut hashed = Hashed { content, hasher: Hasher::new(blob.digest.algorithm()), cx };
        writer
            .file(&blob_path(&blob.digest), blob.size, &mut hashed)
            .map_err(|error| not_written(cx, error))?;
        if hashed.hasher.finish() == blob.digest {
            return Ok(());
        }
        let text = format!("{} is damaged in the store; run `verify`", blob.digest);
        Err(Error::new(ErrorKind::DigestMismatch, text))
    }
}

/// Returns the `manifest.json` of a Docker archive, which names the blobs where the image layout has them.
/// [Image spec v1.2](https://github.com/moby/docker-image-spec/blob/v1.2.0/v1.2.md#combined-image-json--filesystem-changeset-format).
fn docker_manifest(image: &StoredImage, manifest: &Manifest) -> Result<Vec<u8>, Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Entry<'a> {
        config: String,
        repo_tags: Vec<&'a str>,
        layers: Vec<String>,
    }
    if !manifest.has_image_config() {
        let text = "an artifact has no form in Docker's archives; export it as an OCI archive";
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    // Docker takes references with a tag only.
    let is_tag = |name: &&str| Reference::parse(name).is_ok_and(|name| name.digest().is_none());
    let entry = Entry {
        config: blob_path(&manifest.config.digest),
        repo_tags: image.names.iter().map(String::as_str).filter(is_tag).collect(),
        layers: manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect(),
    };
    serde_json::to_vec(&[entry]).map_err(|error| Error::new(ErrorKind::Store, error.to_string()))
}

/// What an archive's index lists.
struct Root {
    name: Option<String>,
    target: Descriptor,
    /// The indexes on the way to the manifest.
    indexes: Vec<Descriptor>,
    /// The manifest that holds the signatures.
    signatures: Option<(Descriptor, Vec<u8>)>,
}

impl Root {
    fn index_json(&self) -> Vec<u8> {
        let signatures = self.signatures.as_ref().map(|(descriptor, _)| &descriptor.digest);
        let entry =
            IndexEntry::new(self.name.as_deref(), &self.target, None, None).with_signatures(signatures);
        format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entry.text()).into_bytes()
    }
}

fn write_folders<'a>(
    writer: &mut tar::Writer<impl Write>,
    blobs: impl Iterator<Item = &'a Descriptor>,
) -> io::Result<()> {
    writer.folder(BLOBS)?;
    let mut written = HashSet::new();
    for algorithm in blobs.map(|blob| blob.digest.algorithm()) {
        if written.insert(algorithm) {
            writer.folder(&format!("{BLOBS}/{}", algorithm.as_str()))?;
        }
    }
    Ok(())
}

/// Returns the error of a write; if the context has ended, the error of that.
fn not_written(cx: &PullContext, error: io::Error) -> Error {
    if let Err(ended) = cx.check() {
        return ended;
    }
    Error::new(ErrorKind::Store, format!("cannot write the archive: {error}")).with_source(error)
}

/// A blob that is hashed as it is read, for as long as the context lasts.
struct Hashed<'a> {
    content: Blob,
    hasher: Hasher,
    cx: &'a PullContext,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.cx.check().map_err(io::Error::other)?;
        let read = self.content.read(buffer)?;
        self.hasher.update(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}
