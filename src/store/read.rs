//! Reading images back. A reader needs no lock: what it finds is whole, and stays what it is.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};
use std::time::SystemTime;

use crate::context::PullContext;
use crate::durable::{DiskFile, OpenMode, read_limited};
use crate::error::{Error, ErrorKind};
use crate::image::config::ImageConfig;
use crate::image::digest::Digest;
use crate::image::manifest::{Descriptor, Document, MAX_DOCUMENT_BYTES, Manifest, media_type};
use crate::store::error::refused;
use crate::store::handle::Store;
use crate::store::index::{IndexEntry, StoreIndex};
use crate::store::layout::blob_path;
use crate::store::retry_io;

/// An image in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredImage {
    /// The image's id: the digest of its config, or of its manifest where the config is no image config.
    pub id: Digest,
    /// The names it goes by, as `index.json` has them.
    pub names: Vec<String>,
    /// `repository@digest` of what was pulled: the manifest, or the index it was chosen from.
    pub repo_digests: Vec<String>,
    /// Its manifest, without annotations.
    pub manifest: Descriptor,
    /// Manifest, config and layers, bytes.
    pub size: u64,
    /// Never collected.
    pub pinned: bool,
    /// When it was last pulled, exported or [used](Store::mark_used).
    pub last_used: SystemTime,
}

impl Store {
    /// The images that are there, each once, whatever names it has. Of an index that another tool
    /// listed, each image of which the manifest is there.
    ///
    /// # Errors
    /// `Store` if the index cannot be read. An image whose manifest cannot is left out, and logged.
    pub fn images(&self) -> Result<Vec<StoredImage>, Error> {
        let index = self.0.group_commit.index()?;
        let mut images = BTreeMap::new();
        for entry in index.entries() {
            self.gather(entry, &mut images);
        }
        Ok(images.into_values().collect())
    }

    /// The image that `key` stands for: a name, `repository@digest`, the digest of a manifest or of
    /// the index it was pulled by, or an id; `None` if there is none.
    ///
    /// # Errors
    /// `Store`, `InvalidManifest` if it cannot be read.
    pub fn find(&self, key: &str) -> Result<Option<StoredImage>, Error> {
        let wanted = Key::of(key);
        let mut missing = None;
        loop {
            let index = self.0.group_commit.index()?;
            let Some(manifest) = index.entries().find_map(|entry| self.meant_by(&wanted, entry)) else {
                return Ok(None);
            };
            match self.image_in(&index, &manifest) {
                // It may have been removed since the index was read; if it is still listed it is lost.
                Err(error) if error.kind() == ErrorKind::NotFound && missing.as_ref() != Some(&manifest) => {
                    missing = Some(manifest);
                }
                outcome => return outcome.map(Some),
            }
        }
    }

    /// The size in bytes of the image that `key` stands for; of one that was pulled lately, without
    /// reading its manifest again.
    ///
    /// # Errors
    /// As of [`find`](Self::find).
    pub(crate) fn size_of(&self, key: &str) -> Result<Option<u64>, Error> {
        let (index, wanted) = (self.0.group_commit.index()?, Key::of(key));
        let known = index
            .entries()
            .find_map(|entry| self.meant_by(&wanted, entry))
            .filter(|manifest| self.0.disk.metadata(&blob_path(manifest)).is_ok())
            .and_then(|manifest| self.0.sizes.of(&manifest));
        match known {
            Some(size) => Ok(Some(size)),
            None => Ok(self.find(key)?.map(|image| image.size)),
        }
    }

    /// The image with all that the index says of it.
    fn image_in(&self, index: &StoreIndex, manifest: &Digest) -> Result<StoredImage, Error> {
        let mut image = self.read_image(manifest)?;
        for entry in index.entries().filter(|entry| self.is_listed_by(manifest, entry)) {
            image.take_from(entry);
        }
        Ok(image)
    }

    /// The manifest that has this digest.
    ///
    /// # Errors
    /// `NotFound`; `InvalidManifest`, `Unsupported` if it is none; `DigestMismatch`; `Store`.
    pub fn manifest(&self, digest: &Digest) -> Result<Manifest, Error> {
        match Document::parse(None, &self.document(digest)?)? {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(_) => {
                Err(Error::new(ErrorKind::InvalidManifest, format!("{digest} is an index of manifests")))
            }
        }
    }

    /// The config that has this digest, which is an image's id.
    ///
    /// # Errors
    /// `NotFound`; `InvalidManifest` if it is none; `DigestMismatch`; `Store`.
    pub fn config(&self, id: &Digest) -> Result<ImageConfig, Error> {
        ImageConfig::parse(&self.document(id)?)
    }

    /// The bytes of a manifest, an index or a config: at most 4 MiB, and hashed anew.
    ///
    /// # Errors
    /// `NotFound`, `DigestMismatch`, `Store`.
    pub fn document(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let file = self.open_file(&PullContext::new(), digest)?;
        let bytes = read_limited(&*file, MAX_DOCUMENT_BYTES as u64)
            .map_err(|error| refused(&error, format!("read {digest}")))?;
        if digest.matches(&bytes) {
            return Ok(bytes);
        }
        Err(Error::new(ErrorKind::DigestMismatch, format!("{digest} is damaged in the store; run `verify`")))
    }

    /// A blob, to read from. It is not hashed again: [`verify`](Self::verify) does that.
    ///
    /// # Errors
    /// `NotFound`; `Store` if it is no regular file.
    pub fn open_blob(&self, digest: &Digest) -> Result<Blob, Error> {
        let file = self.open_file(&PullContext::new(), digest)?;
        let len = file.metadata().map_err(|error| refused(&error, format!("open {digest}")))?.len;
        Ok(Blob::new(file, len))
    }

    /// Notes that the image was used now; [`prune`](Self::prune) removes the least recently used first.
    ///
    /// # Errors
    /// `NotFound`, `Store`.
    pub fn mark_used(&self, image: &StoredImage) -> Result<(), Error> {
        let path = blob_path(&image.manifest.digest);
        self.0.disk.touch(&path).map_err(|error| missing(&error, &image.manifest.digest))
    }

    pub(super) fn open_file(&self, cx: &PullContext, digest: &Digest) -> Result<Box<dyn DiskFile>, Error> {
        let path = blob_path(digest);
        retry_io::for_files(cx, &format!("open {digest}"), || {
            match self.0.disk.open(&path, OpenMode::Read) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Err(missing(&error, digest))),
                outcome => outcome.map(Ok),
            }
        })?
    }

    /// Adds the images that the entry stands for.
    fn gather(&self, entry: &IndexEntry, images: &mut BTreeMap<Digest, StoredImage>) {
        let Some(digest) = &entry.digest else { return };
        for manifest in self.manifests_of(digest, &entry.media_type) {
            if !images.contains_key(&manifest) {
                match self.read_image(&manifest) {
                    Ok(image) => drop(images.insert(manifest.clone(), image)),
                    Err(error) => {
                        log::warn!("the image {manifest} in the store cannot be read: {error}");
                        continue;
                    }
                }
            }
            if let Some(image) = images.get_mut(&manifest) {
                image.take_from(entry);
            }
        }
    }

    fn is_listed_by(&self, manifest: &Digest, entry: &IndexEntry) -> bool {
        entry.digest.as_ref() == Some(manifest)
            || (media_type::is_index(&entry.media_type) && self.manifests_listed_by(entry).contains(manifest))
    }

    /// The manifests that the entry lists, itself or through an index.
    pub(super) fn manifests_listed_by(&self, entry: &IndexEntry) -> Vec<Digest> {
        entry.digest.as_ref().map_or_else(Vec::new, |digest| self.manifests_of(digest, &entry.media_type))
    }

    /// The manifest itself, or those of an index that are there.
    fn manifests_of(&self, digest: &Digest, media_type: &str) -> Vec<Digest> {
        if !media_type::is_index(media_type) {
            return vec![digest.clone()];
        }
        let Ok(Document::Index(index)) =
            self.document(digest).and_then(|bytes| Document::parse(None, &bytes))
        else {
            return Vec::new();
        };
        let listed = index.manifests.into_iter().filter(|listed| media_type::is_manifest(&listed.media_type));
        let digests = listed.map(|listed| listed.digest);
        digests.filter(|digest| self.0.disk.metadata(&blob_path(digest)).is_ok()).collect()
    }

    fn read_image(&self, digest: &Digest) -> Result<StoredImage, Error> {
        let manifest = self.manifest(digest)?;
        let found = self.0.disk.metadata(&blob_path(digest)).map_err(|error| missing(&error, digest))?;
        Ok(StoredImage {
            size: found.len.saturating_add(manifest.total_size()),
            id: manifest.image_id(digest).clone(),
            names: Vec::new(),
            repo_digests: Vec::new(),
            manifest: Descriptor::new(manifest.media_type, digest.clone(), found.len),
            pinned: false,
            last_used: found.modified,
        })
    }

    /// The digest of the manifest that `wanted` means, if the entry leads to it.
    pub(super) fn meant_by(&self, wanted: &Key<'_>, entry: &IndexEntry) -> Option<Digest> {
        let listed = entry.digest.as_ref()?;
        if wanted.is_name_of(entry) || wanted.is_digest_of(entry) {
            return self.manifests_of(listed, &entry.media_type).into_iter().next();
        }
        let digest = wanted.digest.as_ref()?;
        self.manifests_of(listed, &entry.media_type)
            .into_iter()
            .find(|manifest| manifest == digest || self.id_of(manifest, entry).as_ref() == Some(digest))
    }

    /// Returns the image's id, from the entry if that has it. An earlier version recorded the config's digest
    /// for artifacts too, which many share whose config is empty.
    fn id_of(&self, manifest: &Digest, entry: &IndexEntry) -> Option<Digest> {
        let is_of_manifest = entry.digest.as_ref() == Some(manifest);
        if let Some(id) = entry.id.as_ref().filter(|id| is_of_manifest && !id.matches(b"{}")) {
            return Some(id.clone());
        }
        self.manifest(manifest).ok().map(|document| document.image_id(manifest).clone())
    }
}

impl StoredImage {
    fn take_from(&mut self, entry: &IndexEntry) {
        add(&mut self.names, entry.name.as_deref());
        add(&mut self.repo_digests, entry.repo_digest.as_deref());
        self.pinned |= entry.pinned;
    }
}

/// What a user may call an image by.
#[derive(Debug)]
pub(super) struct Key<'a> {
    text: &'a str,
    /// The digest that it is.
    digest: Option<Digest>,
    /// The repository and the digest that it names.
    parts: Option<(&'a str, &'a str)>,
}

impl<'a> Key<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        Key { text, digest: Digest::parse(text).ok(), parts: text.split_once('@') }
    }

    /// Whether it is the entry's name, or names what the entry was pulled as.
    pub(super) fn is_name_of(&self, entry: &IndexEntry) -> bool {
        if entry.name.as_deref() == Some(self.text) || entry.repo_digest.as_deref() == Some(self.text) {
            return true;
        }
        let Some((repository, digest)) = self.parts else { return false };
        let is_in = |name: &str| repository_of(name) == repository;
        entry.digest.as_ref().is_some_and(|own| own.as_str() == digest)
            && entry.name.as_deref().is_some_and(is_in)
    }

    /// Whether it is the digest of what the entry lists, or of the index that was pulled.
    pub(super) fn is_digest_of(&self, entry: &IndexEntry) -> bool {
        let Some(digest) = &self.digest else { return false };
        entry.digest.as_ref() == Some(digest) || entry.pulled_index().as_ref() == Some(digest)
    }
}

/// A name without its tag and digest.
fn repository_of(name: &str) -> &str {
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

fn add(list: &mut Vec<String>, text: Option<&str>) {
    if let Some(text) = text
        && !list.iter().any(|listed| listed == text)
    {
        list.push(text.to_owned());
    }
}

pub(super) fn missing(error: &io::Error, digest: &Digest) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::new(ErrorKind::NotFound, format!("{digest} is not in the store")),
        _ => refused(error, format!("open {digest}")),
    }
}

/// A blob of a store, to read from.
pub struct Blob {
    file: Box<dyn DiskFile>,
    len: u64,
    place: u64,
}

impl Blob {
    pub(super) fn new(file: Box<dyn DiskFile>, len: u64) -> Self {
        Blob { file, len, place: 0 }
    }

    /// Its size, bytes.
    pub fn size(&self) -> u64 {
        self.len
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob").field("size", &self.len).field("place", &self.place).finish_non_exhaustive()
    }
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.place)?;
        self.place += read as u64;
        Ok(read)
    }
}

impl Seek for Blob {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(place) => Some(place),
            SeekFrom::Current(by) => self.place.checked_add_signed(by),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
        };
        self.place = place.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.place)
    }
}
