//! Removing images, and the blobs that no image uses any more.

use std::collections::{HashMap, HashSet};
use std::io;
use std::time::{Duration, SystemTime};

use crate::context::PullContext;
use crate::durable::{DiskFile, Lock, OpenMode, read_limited};
use crate::error::Error;
use crate::image::digest::Digest;
use crate::image::manifest::{MAX_DOCUMENT_BYTES, media_type};
use crate::store::children::{Child, ImageTree};
use crate::store::error::refused;
use crate::store::handle::Store;
use crate::store::index::{IndexEntry, StoreIndex};
use crate::store::layout::{self, COLLECT_LOCK, blob_path};
use crate::store::leftovers::Ages;
use crate::store::lookup::{Meaning, StoredImage, meaning};
use crate::store::names::ImageKey;
use crate::store::{lease, retry_io};

/// What a removal took away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removed {
    /// The names that stand for nothing now; of an image without a name, its digest.
    pub names: Vec<String>,
    /// Blobs removed.
    pub blobs: usize,
    /// Bytes that they took.
    pub bytes: u64,
}

/// When images are collected, and which; the defaults are those of kubelet's image collection.
#[derive(Clone, Debug)]
pub struct PrunePolicy {
    min_age: Duration,
    max_unused: Option<Duration>,
    thresholds: (u8, u8),
}

impl Default for PrunePolicy {
    fn default() -> Self {
        PrunePolicy { min_age: Duration::from_secs(120), max_unused: None, thresholds: (85, 80) }
    }
}

impl PrunePolicy {
    /// An image, or a blob that nobody uses, stays at least this long after its last use.
    /// Default: 2 min.
    #[must_use]
    pub fn min_age(mut self, age: Duration) -> Self {
        self.min_age = age;
        self
    }

    /// Images that were not used for this long go, however full the disk is. Default: none do.
    #[must_use]
    pub fn max_unused(mut self, age: Duration) -> Self {
        self.max_unused = Some(age);
        self
    }

    /// When the disk is `high` percent full or more, the least recently used images go until it is
    /// less than `low` percent full. Default: 85 and 80; a `low` above `high` counts as `high`.
    #[must_use]
    pub fn thresholds(mut self, high: u8, low: u8) -> Self {
        self.thresholds = (high, low.min(high));
        self
    }
}

impl Store {
    /// Removes the image that `key` stands for, and those of its blobs that no other image uses and
    /// no pull in progress counts on. By a name, only this name goes while the image has others; by
    /// digest or id, all names go. Of an image index, a name and the index's own digest take all images,
    /// and one image's digest or id takes that one only. One that is not there is no error.
    ///
    /// # Errors
    /// `Cancelled`, `Timeout`; `Store`, `DiskFull` (an index, too, is written anew before the old one
    /// goes).
    pub fn remove(&self, cx: &PullContext, key: &str) -> Result<Removed, Error> {
        let (index, wanted) = (self.0.group_commit.index()?, ImageKey::of(key));
        let mut tree = ImageTree::new(self);
        let doomed = index.entries().filter_map(|entry| match meaning(&mut tree, &wanted, entry)? {
            Meaning::Entry => Some(Removal::of(entry)),
            Meaning::Child(child) => Some(Removal::of_children(&mut tree, entry, |it| *it == child.digest)),
        });
        self.remove_entries(cx, doomed.collect(), &mut ReferenceGraph::default())
    }

    /// Collects images as the policy says, the least recently used first and pinned ones never; and
    /// with them all blobs that nobody uses, and what broken downloads have left for too long.
    ///
    /// # Errors
    /// `Cancelled`, `Timeout`, `Store`, `DiskFull`.
    pub fn prune(&self, cx: &PullContext, policy: &PrunePolicy) -> Result<Removed, Error> {
        let mut references = ReferenceGraph::default();
        self.collect_partials()?;
        let mut removed = self.collect(cx, self.unused_since(policy.min_age)?, &mut references)?;
        let mut candidates = self.candidates(policy)?.into_iter().peekable();
        let (high, low) = policy.thresholds;
        let is_too_full = self.excess(high)? > 0;
        loop {
            // As many at once as may suffice, for the index is written anew for each batch. They free
            // less than their sizes where they share blobs with others: then there is a next batch.
            let mut excess = if is_too_full { self.excess(low)? } else { 0 };
            let mut batch = Vec::new();
            while let Some((image, _)) = candidates.next_if(|(_, is_forgotten)| *is_forgotten || excess > 0) {
                excess = excess.saturating_sub(image.size);
                batch.push(image);
            }
            if batch.is_empty() {
                return Ok(removed);
            }
            removed.add(self.remove_images(cx, &batch, &mut references)?);
        }
    }

    /// The images that may be collected, the least recently used first, and whether it has been so
    /// long that they go in any case.
    fn candidates(&self, policy: &PrunePolicy) -> Result<Vec<(StoredImage, bool)>, Error> {
        let now = SystemTime::now();
        let unused = |image: &StoredImage| now.duration_since(image.last_used).unwrap_or_default();
        let mut images = self.images()?;
        images.retain(|image| !image.pinned && unused(image) >= policy.min_age);
        images.sort_by_key(|image| image.last_used);
        let is_forgotten =
            |image: &StoredImage| policy.max_unused.is_some_and(|longest| unused(image) > longest);
        Ok(images
            .into_iter()
            .map(|image| {
                let goes_anyway = is_forgotten(&image);
                (image, goes_anyway)
            })
            .collect())
    }

    /// Removes the images with all their names, but for what is pinned by now.
    fn remove_images(
        &self,
        cx: &PullContext,
        images: &[StoredImage],
        references: &mut ReferenceGraph,
    ) -> Result<Removed, Error> {
        let index = self.0.group_commit.index()?;
        let digests: HashSet<_> = images.iter().map(|image| &image.manifest.digest).collect();
        let mut tree = ImageTree::new(self);
        let is_doomed = |digest: &Digest| digests.contains(digest);
        let mut doomed = Vec::new();
        for entry in index.entries().filter(|entry| !entry.pinned) {
            if tree.images(entry).present.iter().any(|child| is_doomed(&child.digest)) {
                doomed.push(Removal::of_children(&mut tree, entry, is_doomed));
            }
        }
        self.remove_entries(cx, doomed, references)
    }

    /// Keeps the image that `key` stands for from being collected, or no longer: whether it is there.
    ///
    /// # Errors
    /// `Cancelled`, `Timeout`, `Store`, `DiskFull`.
    pub fn pin(&self, cx: &PullContext, key: &str, pinned: bool) -> Result<bool, Error> {
        let (index, wanted) = (self.0.group_commit.index()?, ImageKey::of(key));
        let mut tree = ImageTree::new(self);
        let meant: HashSet<Box<str>> = index
            .entries()
            .filter(|entry| meaning(&mut tree, &wanted, entry).is_some())
            .map(|entry| entry.text().into())
            .collect();
        if meant.is_empty() {
            return Ok(false);
        }
        self.0.group_commit.change_index(cx, Vec::new(), None, move |index| {
            index.pin(pinned, |entry| meant.contains(entry.text()))
        })?;
        Ok(true)
    }

    /// How many bytes the disk is filled above `percent`.
    fn excess(&self, percent: u8) -> Result<u64, Error> {
        let space = self.space()?;
        let used = space.capacity.saturating_sub(space.available);
        let allowed = u128::from(space.capacity) * u128::from(percent) / 100;
        Ok(u64::try_from(u128::from(used).saturating_sub(allowed)).unwrap_or(u64::MAX))
    }

    /// Takes the entries out of the index, or puts others in their places, unless they have changed
    /// meanwhile; and then removes their blobs.
    fn remove_entries(
        &self,
        cx: &PullContext,
        doomed: Vec<Removal<'_>>,
        references: &mut ReferenceGraph,
    ) -> Result<Removed, Error> {
        if doomed.is_empty() {
            return Ok(Removed::default());
        }
        let mut candidates = Used::default();
        for removal in &doomed {
            references.follow(self, cx, removal.entry, &mut candidates)?;
        }
        // A lock or a lease that is in the way fails the removal now, and not after the names are gone.
        drop(self.lock_collection(cx)?);
        lease::digests_held(cx, &*self.0.disk)?;
        let (mut names, mut gone, mut changed) = (Vec::new(), HashSet::new(), HashMap::new());
        for Removal { entry, instead, names: its_names } in doomed {
            let text: Box<str> = entry.text().into();
            match instead {
                None => drop(gone.insert(text)),
                Some(instead) => drop(changed.insert(text, instead)),
            }
            names.extend(its_names);
        }
        self.0.group_commit.change_index(cx, Vec::new(), None, move |index| {
            index.remove(|entry| gone.contains(entry.text())) | index.replace(changed)
        })?;
        let removed = self.collect(cx, candidates.blobs, references)?;
        Ok(Removed { names, ..removed })
    }

    /// Removes those of `candidates` that no image uses and no pull counts on.
    pub(super) fn collect(
        &self,
        cx: &PullContext,
        candidates: HashSet<Digest>,
        references: &mut ReferenceGraph,
    ) -> Result<Removed, Error> {
        let mut removed = Removed::default();
        if candidates.is_empty() {
            return Ok(removed);
        }
        // Pulls wait while the lock is held: the documents are read before, and are remembered.
        references.used_by(self, cx, &*self.0.group_commit.index()?)?;
        let disk = &self.0.disk;
        let lock = self.lock_collection(cx)?;
        // The leases before the index: a pull that ends in between is then seen by the one or by the
        // other.
        let leased = lease::digests_held(cx, &**disk)?;
        let used = references.used_by(self, cx, &*self.0.group_commit.index()?)?;
        for digest in candidates.iter().filter(|digest| !leased.contains(*digest) && !used.contains(*digest))
        {
            let path = blob_path(digest);
            let Ok(metadata) = disk.metadata(&path) else { continue };
            disk.unlink(&path).map_err(|error| refused(&error, format!("remove {path}")))?;
            removed.blobs += 1;
            removed.bytes += metadata.allocated;
        }
        drop(lock);
        self.renew_reserve();
        Ok(removed)
    }

    /// Takes the lock that keeps pulls from adding to their leases. Dropping it gives it back.
    fn lock_collection(&self, cx: &PullContext) -> Result<Box<dyn DiskFile>, Error> {
        let open = || layout::open_lock(&*self.0.disk, COLLECT_LOCK);
        let lock = retry_io::for_files(cx, "open the lock of collections", open)?;
        retry_io::lock(cx, &*lock, Lock::Exclusive, COLLECT_LOCK)?;
        Ok(lock)
    }

    /// Returns the blobs that are older than `age`. Another tool writes an image's blobs before it lists the
    /// image. Dates the blobs anew that are dated in the future, also those of images.
    fn unused_since(&self, age: Duration) -> Result<HashSet<Digest>, Error> {
        let (mut found, mut ages) = (HashSet::new(), Ages::new(&*self.0.disk));
        for folder in self.blob_folders()? {
            for name in self.names_in(&folder)? {
                let Some(digest) = layout::digest_in(&folder, &name) else { continue };
                let path = blob_path(&digest);
                let Ok(metadata) = self.0.disk.metadata(&path) else { continue };
                if ages.of(&path, &metadata) >= age {
                    found.insert(digest);
                }
            }
        }
        Ok(found)
    }
}

impl Removed {
    fn add(&mut self, other: Removed) {
        self.names.extend(other.names);
        self.blobs += other.blobs;
        self.bytes += other.bytes;
    }
}

/// What is to go of an entry.
#[derive(Debug)]
struct Removal<'a> {
    entry: &'a IndexEntry,
    /// The entry that stays in its place.
    instead: Option<IndexEntry>,
    /// What stands for nothing then.
    names: Vec<String>,
}

impl<'a> Removal<'a> {
    /// The whole entry.
    fn of(entry: &'a IndexEntry) -> Self {
        Removal { entry, instead: None, names: called(entry).into_iter().collect() }
    }

    /// Those of its manifests that `go`, and what is said about them alone; all of it if no image is left.
    fn of_children(tree: &mut ImageTree<'_>, entry: &'a IndexEntry, goes: impl Fn(&Digest) -> bool) -> Self {
        let images = tree.images(entry);
        let stays = |child: &&Child| !goes(&child.digest) && !child.about.as_ref().is_some_and(&goes);
        let (left, gone): (Vec<&Child>, Vec<&Child>) = images.present.iter().partition(stays);
        if left.iter().all(|child| child.is_attestation) {
            return Removal::of(entry);
        }
        let left: Vec<_> = left.into_iter().map(|child| child.digest.clone()).collect();
        let gone = gone.into_iter().filter(|child| !child.is_attestation);
        let names = gone.map(|child| child.digest.to_string()).collect();
        Removal { entry, instead: Some(entry.taking(&left)), names }
    }
}

fn called(entry: &IndexEntry) -> Option<String> {
    entry.name.as_deref().map(str::to_owned).or_else(|| entry.digest.as_ref().map(Digest::to_string))
}

/// Which digests a document names, remembered: what has a digest never changes.
#[derive(Debug, Default)]
pub(super) struct ReferenceGraph(HashMap<Digest, Vec<BlobReference>>);

#[derive(Clone, Debug)]
struct BlobReference {
    digest: Digest,
    kind: Kind,
}

/// What a digest is named as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Index,
    Manifest,
    /// Anything that names no others.
    Blob,
}

/// Blobs that entries lead to.
#[derive(Debug, Default)]
pub(super) struct Used {
    pub(super) blobs: HashSet<Digest>,
    /// Those of which all that they name was followed.
    followed: HashSet<Digest>,
}

impl ReferenceGraph {
    /// All blobs that the index's entries lead to.
    fn used_by(
        &mut self,
        store: &Store,
        cx: &PullContext,
        index: &StoreIndex,
    ) -> Result<HashSet<Digest>, Error> {
        let mut used = Used::default();
        for entry in index.entries() {
            self.follow(store, cx, entry, &mut used)?;
        }
        Ok(used.blobs)
    }

    /// Adds all that the entry leads to, but for the manifests of an index that were not taken.
    pub(super) fn follow(
        &mut self,
        store: &Store,
        cx: &PullContext,
        entry: &IndexEntry,
        used: &mut Used,
    ) -> Result<(), Error> {
        used.blobs.extend(entry.pulled_index());
        used.blobs.extend(entry.signatures.clone());
        let Some(digest) = &entry.digest else { return Ok(()) };
        let taken: Option<HashSet<&Digest>> = entry.taken.as_ref().map(|taken| taken.iter().collect());
        // Where some are left out, only what this entry takes was followed.
        let mut own = HashSet::new();
        // A document whatever it is listed as: rather too many blobs are kept than one too few.
        let mut ahead = vec![BlobReference { digest: digest.clone(), kind: Kind::Index }];
        while let Some(BlobReference { digest, kind }) = ahead.pop() {
            if kind == Kind::Manifest && taken.as_ref().is_some_and(|taken| !taken.contains(&digest)) {
                continue;
            }
            used.blobs.insert(digest.clone());
            let followed = if taken.is_some() { &mut own } else { &mut used.followed };
            if kind != Kind::Blob && followed.insert(digest.clone()) {
                ahead.extend_from_slice(self.of(store, cx, &digest)?);
            }
        }
        Ok(())
    }

    fn of(&mut self, store: &Store, cx: &PullContext, digest: &Digest) -> Result<&[BlobReference], Error> {
        if !self.0.contains_key(digest) {
            cx.check()?;
            self.0.insert(digest.clone(), named_in(&read_document(store, cx, digest)?));
        }
        Ok(self.0.get(digest).map_or(&[], Vec::as_slice))
    }
}

/// The document's bytes, right or wrong; none if it is not there, or too long to be one.
fn read_document(store: &Store, cx: &PullContext, digest: &Digest) -> Result<Vec<u8>, Error> {
    retry_io::for_files(cx, &format!("read {digest}"), || {
        let file = match store.0.disk.open(&blob_path(digest), OpenMode::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            outcome => outcome?,
        };
        match read_limited(&*file, MAX_DOCUMENT_BYTES as u64) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Vec::new()),
            outcome => outcome,
        }
    })
}

/// Every digest of a descriptor, wherever it stands: rather too many than one too few, also of
/// documents that a pull would refuse.
fn named_in(document: &[u8]) -> Vec<BlobReference> {
    let mut found = Vec::new();
    if let Ok(value) = serde_json::from_slice(document) {
        find_references(&value, &mut found);
    }
    found
}

fn find_references(value: &serde_json::Value, found: &mut Vec<BlobReference>) {
    use serde_json::Value;
    match value {
        Value::Array(items) => items.iter().for_each(|item| find_references(item, found)),
        Value::Object(fields) => {
            let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
            if let Ok(digest) = Digest::parse(text("digest")) {
                let kind = match text("mediaType") {
                    named if media_type::is_index(named) => Kind::Index,
                    named if media_type::is_manifest(named) => Kind::Manifest,
                    _ => Kind::Blob,
                };
                found.push(BlobReference { digest, kind });
            }
            fields.values().for_each(|field| find_references(field, found));
        }
        _ => {}
    }
}
