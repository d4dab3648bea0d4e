//! The manifests that an entry of `index.json` leads to, and the one among them for this platform.
//!
//! An entry is a manifest, or an image index that lists the manifests of several platforms. Some of an index's
//! manifests may be missing: an import takes those that are whole, and another tool may have copied one platform only.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use crate::context::PullContext;
use crate::image::digest::Digest;
use crate::image::manifest::{Descriptor, Document, Index, MAX_INDEX_DEPTH, Manifest, media_type};
use crate::image::platform::Platform;
use crate::store::handle::Store;
use crate::store::index::IndexEntry;
use crate::store::layout::{self, blob_path};

/// The most manifests of one entry that are used.
const MAX_CHILDREN: usize = 64 << 10;
/// The most children that are cached; others are read again.
const MAX_REMEMBERED: usize = 256 << 10;

/// The annotations of an attestation: what it is, and the digest of the manifest that it is about.
pub(super) const ATTESTATION: [&str; 2] = ["vnd.docker.reference.type", "vnd.docker.reference.digest"];

/// A manifest that an entry leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Child {
    pub(super) digest: Digest,
    /// Its platform, if the index that lists it gives one.
    pub(super) platform: Option<Platform>,
    /// Whether it is a statement about another manifest, and so not an image.
    pub(super) is_attestation: bool,
    /// The manifest that the statement is about.
    pub(super) about: Option<Digest>,
}

impl Child {
    /// Returns the child that an index describes.
    pub(super) fn listed(descriptor: &Descriptor) -> Self {
        Child {
            digest: descriptor.digest.clone(),
            platform: descriptor.platform.clone(),
            is_attestation: is_attestation(descriptor),
            about: descriptor.annotations.get(ATTESTATION[1]).and_then(|digest| Digest::parse(digest).ok()),
        }
    }
}

/// Returns whether an index lists it as a statement about another manifest, as
/// [buildkit writes it](https://docs.docker.com/build/metadata/attestations/attestation-storage/).
pub(super) fn is_attestation(descriptor: &Descriptor) -> bool {
    let unknown = |platform: &Platform| platform.os == "unknown" && platform.architecture == "unknown";
    descriptor.annotations.contains_key(ATTESTATION[0]) || descriptor.platform.as_ref().is_some_and(unknown)
}

/// What an entry stands for.
#[derive(Debug, Default)]
pub(super) struct EntryImages {
    pub(super) is_index: bool,
    /// The manifests that the store should have and has, whole or not.
    pub(super) present: Vec<Child>,
    /// The images among them; for an index, those that are whole.
    pub(super) whole: Vec<Child>,
    /// The one of them that the entry's name means.
    pub(super) choice: Option<Child>,
}

/// An entry's digest, whether it is an index, and what was taken of it.
type EntryKey = (Digest, bool, Option<Box<[Digest]>>);

/// Answers questions about the images of a store, and reads each document once for all of them.
///
/// When the context ends, it reads no more, and what it was asked for counts as absent: a caller checks the
/// context before it relies on the answers.
#[derive(Debug)]
pub(super) struct ImageTree<'a> {
    store: &'a Store,
    cx: PullContext,
    /// The manifests that an index lists, by the index's digest.
    children: HashMap<Digest, Rc<Vec<Child>>>,
    /// The number of cached children.
    remembered: usize,
    /// Whether a document without a media type is an index.
    untyped: HashMap<Digest, bool>,
    /// The indexes on the way from one digest to another.
    ways: HashMap<(Digest, Digest), Option<Rc<[Digest]>>>,
    nothing: Rc<EntryImages>,
    entries: HashMap<EntryKey, Rc<EntryImages>>,
    ids: HashMap<Digest, Option<Digest>>,
    whole: HashMap<Digest, bool>,
}

impl<'a> ImageTree<'a> {
    pub(super) fn new(store: &'a Store, cx: &PullContext) -> Self {
        ImageTree {
            store,
            cx: cx.clone(),
            children: HashMap::new(),
            remembered: 0,
            untyped: HashMap::new(),
            ways: HashMap::new(),
            nothing: Rc::default(),
            entries: HashMap::new(),
            ids: HashMap::new(),
            whole: HashMap::new(),
        }
    }

    /// Returns whether the entry is an image index. The content decides for an entry without a media type.
    pub(super) fn is_index(&mut self, entry: &IndexEntry) -> bool {
        match &entry.digest {
            Some(digest) if entry.media_type.is_empty() => *self
                .untyped
                .entry(digest.clone())
                .or_insert_with(|| index(self.store, &self.cx, digest).is_some()),
            _ => media_type::is_index(&entry.media_type),
        }
    }

    /// Returns the manifests that the entry lists, itself or through indexes, including those that the store lacks.
    /// An entry that is neither a manifest nor an index lists none.
    pub(super) fn listed(&mut self, entry: &IndexEntry) -> Rc<Vec<Child>> {
        let Some(digest) = &entry.digest else { return Rc::default() };
        if self.is_index(entry) {
            return self.listed_by(digest);
        }
        if !entry.media_type.is_empty() && !media_type::is_manifest(&entry.media_type) {
            return Rc::default();
        }
        let (digest, platform) = (digest.clone(), entry.platform.clone());
        Rc::new(vec![Child { digest, platform, is_attestation: false, about: None }])
    }

    /// Returns what the entry stands for.
    pub(super) fn images(&mut self, entry: &IndexEntry) -> Rc<EntryImages> {
        let is_index = self.is_index(entry);
        let Some(digest) = &entry.digest else { return self.nothing.clone() };
        let key = (digest.clone(), is_index, entry.taken.clone());
        if let Some(known) = self.entries.get(&key) {
            return known.clone();
        }
        let listed = self.listed(entry);
        let taken: Option<HashSet<&Digest>> = entry.taken.as_ref().map(|taken| taken.iter().collect());
        let is_meant = |child: &&Child| {
            let is_taken = taken.as_ref().is_none_or(|taken| taken.contains(&child.digest));
            !is_index || (is_taken && self.store.is_there(&child.digest))
        };
        let present: Vec<Child> = listed.iter().filter(is_meant).cloned().collect();
        let mut whole = present.clone();
        whole.retain(|child| !child.is_attestation && (!is_index || self.is_whole(&child.digest)));
        let choice = match listed.iter().filter(|child| !child.is_attestation).count() {
            0 | 1 => whole.first().cloned(),
            _ => self.best(&whole),
        };
        let images = Rc::new(EntryImages { is_index, present, whole, choice });
        self.entries.insert(key, images.clone());
        images
    }

    /// Chooses the image that these entries stand for together: the only one, for whatever platform, or else the best
    /// one for the store's platform.
    pub(super) fn choose(&mut self, entries: &[&IndexEntry]) -> Option<Child> {
        if let [only] = entries {
            return self.images(only).choice.clone();
        }
        let (mut listed, mut whole) = (HashSet::new(), Vec::new());
        for entry in entries {
            listed.extend(
                self.listed(entry).iter().filter(|it| !it.is_attestation).map(|it| it.digest.clone()),
            );
            whole.extend(self.images(entry).whole.iter().cloned());
        }
        if listed.len() == 1 { whole.into_iter().next() } else { self.best(&whole) }
    }

    /// Returns the best image for the store's platform, the first of equal ones.
    fn best(&mut self, images: &[Child]) -> Option<Child> {
        let wanted = &self.store.0.settings.platform;
        let served = images.iter().filter_map(|child| {
            let preference = wanted.preference(&self.platform_of(child)?)?;
            Some((preference, child))
        });
        served.min_by_key(|(preference, _)| *preference).map(|(_, child)| child.clone())
    }

    /// Returns the image's platform, from its index or else from its config.
    pub(super) fn platform_of(&mut self, child: &Child) -> Option<Platform> {
        if child.platform.is_some() {
            return child.platform.clone();
        }
        let id = self.id_of(&child.digest)?;
        self.cx.check().ok()?;
        self.store.config(&id).ok().map(|config| config.platform)
    }

    /// Returns the id of the image that has this manifest.
    pub(super) fn id_of(&mut self, manifest: &Digest) -> Option<Digest> {
        if let Some(known) = self.ids.get(manifest) {
            return known.clone();
        }
        let id = self.manifest(manifest).map(|document| document.image_id(manifest).clone());
        self.ids.insert(manifest.clone(), id.clone());
        id
    }

    /// Returns whether the store has the manifest, its config and its layers, each in the size that the manifest gives.
    fn is_whole(&mut self, manifest: &Digest) -> bool {
        if let Some(known) = self.whole.get(manifest) {
            return *known;
        }
        let has = |blob: &Descriptor| {
            let found = layout::regular_file(&*self.store.0.disk, &blob_path(&blob.digest));
            matches!(found, Ok(Some(found)) if found.len == blob.size)
        };
        let found = self.manifest(manifest);
        let is_whole = found.is_some_and(|manifest| manifest.blobs().into_iter().all(has));
        self.whole.insert(manifest.clone(), is_whole);
        is_whole
    }

    fn manifest(&self, digest: &Digest) -> Option<Manifest> {
        self.cx.check().and_then(|()| self.store.manifest(digest)).ok()
    }

    /// Returns the way from `root` to a manifest: the digests of the indexes, from the outermost on.
    /// `None` if the store's own bytes do not lead there.
    pub(super) fn way(&mut self, root: &Digest, manifest: &Digest) -> Option<Rc<[Digest]>> {
        if root == manifest {
            return Some(Rc::new([]));
        }
        let ends = (root.clone(), manifest.clone());
        if let Some(known) = self.ways.get(&ends) {
            return known.clone();
        }
        let way: Option<Rc<[Digest]>> = find_way(self.store, &self.cx, root, manifest).map(Into::into);
        self.ways.insert(ends, way.clone());
        way
    }

    /// Returns the manifests that the index lists, itself or through others.
    fn listed_by(&mut self, root: &Digest) -> Rc<Vec<Child>> {
        if let Some(known) = self.children.get(root) {
            return known.clone();
        }
        let (mut children, mut seen) = (Vec::new(), HashSet::from([root.clone()]));
        let mut ahead = vec![(root.clone(), 0)];
        while let Some((digest, depth)) = ahead.pop() {
            let Some(index) = index(self.store, &self.cx, &digest) else { continue };
            let mut nested = Vec::new();
            for listed in &index.manifests {
                let is_index = media_type::is_index(&listed.media_type);
                if !(is_index || media_type::is_manifest(&listed.media_type))
                    || children.len() >= MAX_CHILDREN
                    || !seen.insert(listed.digest.clone())
                {
                    continue;
                }
                match is_index {
                    true if depth < MAX_INDEX_DEPTH => nested.push((listed.digest.clone(), depth + 1)),
                    true => {}
                    false => children.push(Child::listed(listed)),
                }
            }
            ahead.extend(nested.into_iter().rev());
        }
        if self.remembered > MAX_REMEMBERED {
            self.children.clear();
            self.remembered = 0;
        }
        self.remembered += children.len();
        let children = Rc::new(children);
        self.children.insert(root.clone(), children.clone());
        children
    }
}

/// Looks for a manifest in an index and in those that it lists.
fn find_way(store: &Store, cx: &PullContext, root: &Digest, manifest: &Digest) -> Option<Vec<Digest>> {
    let mut seen = HashSet::new();
    let mut ahead = vec![vec![root.clone()]];
    while let Some(way) = ahead.pop() {
        let Some(last) = way.last().filter(|last| seen.insert((*last).clone())) else { continue };
        let Some(index) = index(store, cx, last) else { continue };
        if index.manifests.iter().any(|listed| listed.digest == *manifest) {
            return Some(way);
        }
        if way.len() <= MAX_INDEX_DEPTH {
            let nested = index.manifests.iter().filter(|it| media_type::is_index(&it.media_type));
            ahead.extend(nested.map(|it| [&way[..], std::slice::from_ref(&it.digest)].concat()));
        }
    }
    None
}

/// Returns the image index that has this digest, if the store has it.
fn index(store: &Store, cx: &PullContext, digest: &Digest) -> Option<Index> {
    match cx.check().and_then(|()| store.document(digest)).and_then(|bytes| Document::parse(None, &bytes)) {
        Ok(Document::Index(index)) => Some(index),
        Ok(Document::Manifest(_)) | Err(_) => None,
    }
}

impl Store {
    /// Returns whether the store has a file under the digest's name.
    pub(super) fn is_there(&self, digest: &Digest) -> bool {
        self.0.disk.metadata(&blob_path(digest)).is_ok()
    }
}
