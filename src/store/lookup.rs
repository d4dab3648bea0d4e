//! Finding images: by a name, by a digest, or all of them.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::SystemTime;

use crate::context::PullContext;
use crate::error::{Error, ErrorKind};
use crate::image::digest::Digest;
use crate::image::manifest::Descriptor;
use crate::image::platform::Platform;
use crate::store::blob::missing;
use crate::store::children::{Child, ImageTree};
use crate::store::handle::Store;
use crate::store::index::{IndexEntry, StoreIndex};
use crate::store::layout::blob_path;
use crate::store::names::{self, ImageKey};

/// An image in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredImage {
    /// The image's id: the digest of its config, or of its manifest where the config is no image config.
    pub id: Digest,
    /// Its names, as `index.json` has them. A name of images for several platforms is a name of the image for the
    /// store's platform.
    pub names: Vec<String>,
    /// `repository@digest` of what was pulled: the manifest, or the index it was chosen from.
    pub repo_digests: Vec<String>,
    /// Its manifest, without annotations.
    pub manifest: Descriptor,
    /// Its platform, from the index that lists it; `None` if no index lists it, or the index does not say. Its
    /// [config](Store::config) always has it.
    pub platform: Option<Platform>,
    /// The image index that lists it, if `index.json` has that index and not its manifest.
    pub index: Option<Digest>,
    /// Manifest, config and layers, bytes.
    pub size: u64,
    /// Whether [`prune`](Store::prune) keeps it.
    pub pinned: bool,
    /// When it was last pulled, exported or [used](Store::mark_used).
    pub last_used: SystemTime,
}

/// What a key means of an entry.
#[derive(Debug)]
pub(super) enum Meaning {
    /// All that the entry stands for.
    Entry,
    /// One of the manifests that an index lists.
    Child(Child),
}

impl Store {
    /// Returns the store's images, each once, whatever names it has. For an image index these are the images that are
    /// whole; the one for the store's platform comes first.
    ///
    /// # Errors
    /// [`Store`](ErrorKind::Store) if the index cannot be read. An image whose manifest cannot be read is left out,
    /// and logged.
    pub fn images(&self) -> Result<Vec<StoredImage>, Error> {
        self.images_with(&PullContext::new())
    }

    /// Does as [`images`](Self::images), as long as the context lasts.
    ///
    /// # Errors
    /// As of [`images`](Self::images); `Cancelled`, `Timeout`.
    pub(crate) fn images_with(&self, cx: &PullContext) -> Result<Vec<StoredImage>, Error> {
        let index = self.0.group_commit.index()?;
        let mut tree = ImageTree::new(self, cx);
        let (mut images, mut places) = (Vec::new(), HashMap::new());
        let mut listed = HashSet::new();
        for entry in index.entries() {
            cx.check()?;
            let found = tree.images(entry);
            // Thousands of names may stand for an index of thousands.
            if listed.insert(Rc::as_ptr(&found)) || entry.pinned {
                for child in found.choice.iter().chain(&found.whole) {
                    cx.check()?;
                    if !places.contains_key(&child.digest) {
                        match self.read_image(child, found.is_index.then_some(entry)) {
                            Ok(image) => {
                                places.insert(child.digest.clone(), images.len());
                                images.push(image);
                            }
                            Err(error) => {
                                log::warn!("the image {} in the store cannot be read: {error}", child.digest);
                            }
                        }
                    }
                    if let Some(image) = place_of(&places, &mut images, child) {
                        image.pinned |= entry.pinned;
                    }
                }
            }
            if let Some(choice) = &found.choice
                && let Some(image) = place_of(&places, &mut images, choice)
            {
                image.take_names(&mut tree, entry);
            }
        }
        images.iter_mut().for_each(StoredImage::list_names_once);
        // An image may be missing if the context has ended.
        cx.check()?;
        Ok(images)
    }

    /// Returns the image that `key` stands for: a name, `repository@digest`, the digest of a manifest
    /// or of the index it was pulled by, or an id; `None` if there is none. If a key stands for several, such as the
    /// images of an index, returns the one for the store's [platform](crate::store::StoreBuilder::platform). Compares
    /// a digest with the bytes that the store has, whatever the names say.
    ///
    /// # Errors
    /// [`Store`](ErrorKind::Store), [`InvalidManifest`](ErrorKind::InvalidManifest) if it cannot be read.
    pub fn find(&self, key: &str) -> Result<Option<StoredImage>, Error> {
        self.find_with(&PullContext::new(), key)
    }

    /// Does as [`find`](Self::find), as long as the context lasts.
    ///
    /// # Errors
    /// As of [`find`](Self::find); `Cancelled`, `Timeout`.
    pub(crate) fn find_with(&self, cx: &PullContext, key: &str) -> Result<Option<StoredImage>, Error> {
        let wanted = ImageKey::of(key);
        let mut missing = None;
        loop {
            let index = self.0.group_commit.index()?;
            let mut tree = ImageTree::new(self, cx);
            let meant = meant_in(&mut tree, &wanted, &index);
            cx.check()?;
            let Some(child) = meant else { return Ok(None) };
            let found = self.image_in(&mut tree, &index, &child);
            cx.check()?;
            match found {
                // It may have been removed since the index was read; if it is still listed it is lost.
                Err(error)
                    if error.kind() == ErrorKind::NotFound && missing.as_ref() != Some(&child.digest) =>
                {
                    missing = Some(child.digest);
                }
                outcome => return outcome.map(Some),
            }
        }
    }

    /// Returns the platforms of all images that `key` stands for, the store's own or not.
    ///
    /// # Errors
    /// [`Store`](ErrorKind::Store) if the index cannot be read.
    pub fn platforms_of(&self, key: &str) -> Result<Vec<Platform>, Error> {
        let (index, wanted) = (self.0.group_commit.index()?, ImageKey::of(key));
        let mut tree = ImageTree::new(self, &PullContext::new());
        let mut platforms = Vec::new();
        for entry in index.entries() {
            if meaning(&mut tree, &wanted, entry).is_some() {
                for child in &tree.images(entry).whole {
                    platforms.extend(tree.platform_of(child));
                }
            }
        }
        Ok(platforms)
    }

    /// Returns the size in bytes of the image that `key` stands for; of one that was pulled lately,
    /// without reading its manifest again.
    ///
    /// # Errors
    /// As of [`find`](Self::find).
    pub(crate) fn size_of(&self, cx: &PullContext, key: &str) -> Result<Option<u64>, Error> {
        let index = self.0.group_commit.index()?;
        let known = meant_in(&mut ImageTree::new(self, cx), &ImageKey::of(key), &index)
            .filter(|child| self.is_there(&child.digest))
            .and_then(|child| self.0.sizes.of(&child.digest));
        match known {
            Some(size) => Ok(Some(size)),
            None => Ok(self.find_with(cx, key)?.map(|image| image.size)),
        }
    }

    /// Notes that the image was used now; [`prune`](Self::prune) removes the least recently used first.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), [`Store`](ErrorKind::Store).
    pub fn mark_used(&self, image: &StoredImage) -> Result<(), Error> {
        let path = blob_path(&image.manifest.digest);
        self.0.disk.touch(&path).map_err(|error| missing(&error, &image.manifest.digest))
    }

    /// Returns the image with all that the index says of it.
    fn image_in(
        &self,
        tree: &mut ImageTree<'_>,
        index: &StoreIndex,
        child: &Child,
    ) -> Result<StoredImage, Error> {
        let mut found = None;
        for entry in index.entries() {
            let images = tree.images(entry);
            if !images.present.iter().any(|present| present.digest == child.digest) {
                continue;
            }
            if found.is_none() {
                found = Some(self.read_image(child, images.is_index.then_some(entry))?);
            }
            let Some(image) = &mut found else { continue };
            image.pinned |= entry.pinned;
            if images.choice.as_ref().is_some_and(|choice| choice.digest == child.digest) {
                image.take_names(tree, entry);
            }
        }
        let mut image = found.map_or_else(|| self.read_image(child, None), Ok)?;
        image.list_names_once();
        Ok(image)
    }

    fn read_image(&self, child: &Child, listed_by: Option<&IndexEntry>) -> Result<StoredImage, Error> {
        let digest = &child.digest;
        let manifest = self.manifest(digest)?;
        let found = self.0.disk.metadata(&blob_path(digest)).map_err(|error| missing(&error, digest))?;
        Ok(StoredImage {
            size: found.len.saturating_add(manifest.total_size()),
            id: manifest.image_id(digest).clone(),
            names: Vec::new(),
            repo_digests: Vec::new(),
            manifest: Descriptor::new(manifest.media_type, digest.clone(), found.len),
            platform: child.platform.clone(),
            index: listed_by.and_then(|entry| entry.digest.clone()),
            pinned: false,
            last_used: found.dated,
        })
    }
}

fn place_of<'i>(
    places: &HashMap<Digest, usize>,
    images: &'i mut [StoredImage],
    child: &Child,
) -> Option<&'i mut StoredImage> {
    images.get_mut(*places.get(&child.digest)?)
}

/// Returns the image that the key stands for in the index.
fn meant_in(tree: &mut ImageTree<'_>, key: &ImageKey<'_>, index: &StoreIndex) -> Option<Child> {
    let mut entries = Vec::new();
    for entry in index.entries() {
        match meaning(tree, key, entry) {
            Some(Meaning::Child(child)) => return Some(child),
            Some(Meaning::Entry) => entries.push(entry),
            None => {}
        }
    }
    tree.choose(&entries)
}

/// Returns what the key means of the entry, if anything.
pub(super) fn meaning(tree: &mut ImageTree<'_>, key: &ImageKey<'_>, entry: &IndexEntry) -> Option<Meaning> {
    match key {
        ImageKey::Name(name) => is_called(tree, name, entry).then_some(Meaning::Entry),
        ImageKey::Digest(digest) => meaning_of_digest(tree, digest, entry),
    }
}

/// Returns whether the name is the entry's, or names what the entry was pulled as; and if the name holds a
/// digest, whether the store's bytes lead from that to the entry.
fn is_called(tree: &mut ImageTree<'_>, name: &str, entry: &IndexEntry) -> bool {
    let is_its_name = entry.name.as_deref() == Some(name) || entry.repo_digest.as_deref() == Some(name);
    match names::pinned(name) {
        None => is_its_name,
        Some((repository, digest)) => {
            let is_in = |name: &str| names::repository_of(name) == repository;
            let is_of_its_repository =
                entry.digest.as_ref() == Some(&digest) && entry.name.as_deref().is_some_and(is_in);
            (is_its_name || is_of_its_repository) && leads_to(tree, &digest, entry)
        }
    }
}

/// Returns whether the digest is the entry's, or that of an index that lists the entry.
fn leads_to(tree: &mut ImageTree<'_>, digest: &Digest, entry: &IndexEntry) -> bool {
    entry.digest.as_ref().is_some_and(|own| tree.way(digest, own).is_some())
}

fn meaning_of_digest(tree: &mut ImageTree<'_>, digest: &Digest, entry: &IndexEntry) -> Option<Meaning> {
    let own = entry.digest.as_ref()?;
    if own == digest || (entry.pulled_index().as_ref() == Some(digest) && leads_to(tree, digest, entry)) {
        return Some(Meaning::Entry);
    }
    let images = tree.images(entry);
    if images.is_index {
        let mut children = images.present.iter();
        let child =
            children.find(|it| it.digest == *digest || tree.id_of(&it.digest).as_ref() == Some(digest));
        return child.cloned().map(Meaning::Child);
    }
    // The entry's own statement is not trusted. It only saves reading the manifests of other images.
    if entry.id.as_ref().is_some_and(|id| id != digest) || images.present.is_empty() {
        return None;
    }
    (tree.id_of(own).as_ref() == Some(digest)).then_some(Meaning::Entry)
}

impl StoredImage {
    /// Removes the names that are listed twice. An image may have tens of thousands.
    fn list_names_once(&mut self) {
        for list in [&mut self.names, &mut self.repo_digests] {
            let mut seen = HashSet::new();
            list.retain(|name| seen.insert(name.clone()));
        }
    }

    /// Adds the names that the entry gives it; a name with a digest only if the digest is right.
    fn take_names(&mut self, tree: &mut ImageTree<'_>, entry: &IndexEntry) {
        let mut take = |list: &mut Vec<String>, name: Option<&str>| {
            let Some(name) = name else { return };
            let is_true = match names::pinned(name) {
                Some((_, digest)) => leads_to(tree, &digest, entry),
                None => !names::is_like_a_digest(name),
            };
            if is_true {
                list.push(name.to_owned());
            }
        };
        take(&mut self.names, entry.name.as_deref());
        take(&mut self.repo_digests, entry.repo_digest.as_deref());
    }
}
