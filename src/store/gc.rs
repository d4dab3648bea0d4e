//! Removing images, and the blobs that no image uses any more.

use std::collections::{HashMap, HashSet};
use std::io;
use std::time::{Duration, SystemTime};

use crate::context::PullContext;
use crate::durable::{DiskFile, Lock, OpenMode, read_limited};
use crate::error::Error;
use crate::image::digest::Digest;
use crate::image::manifest::{MAX_DOCUMENT_BYTES, media_type};
use crate::store::error::refused;
use crate::store::handle::Store;
use crate::store::index::{IndexEntry, StoreIndex};
use crate::store::layout::{self, COLLECT_LOCK, blob_path};
use crate::store::read::{Key, StoredImage};
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
    /// digest or id, all names go. One that is not there is no error.
    ///
    /// # Errors
    /// `Cancelled`, `Timeout`; `Store`, `DiskFull` (an index, too, is written anew before the old one
    /// goes).
    pub fn remove(&self, cx: &PullContext, key: &str) -> Result<Removed, Error> {
        let (index, wanted) = (self.0.group_commit.index()?, Key::of(key));
        let by_name: Vec<_> = index.entries().filter(|entry| wanted.is_name_of(entry)).collect();
        let doomed = match by_name.is_empty() {
            false => by_name,
            true => index.entries().filter(|entry| self.meant_by(&wanted, entry).is_some()).collect(),
        };
        self.remove_entries(cx, &doomed, &mut ReferenceGraph::default())
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
        let is_doomed = |entry: &&IndexEntry| {
            !entry.pinned && self.manifests_listed_by(entry).iter().any(|manifest| digests.contains(manifest))
        };
        let doomed: Vec<_> = index.entries().filter(is_doomed).collect();
        self.remove_entries(cx, &doomed, references)
    }

    /// Keeps the image that `key` stands for from being collected, or no longer: whether it is there.
    ///
    /// # Errors
    /// `Cancelled`, `Timeout`, `Store`, `DiskFull`.
    pub fn pin(&self, cx: &PullContext, key: &str, pinned: bool) -> Result<bool, Error> {
        let (index, wanted) = (self.0.group_commit.index()?, Key::of(key));
        let meant: HashSet<Box<str>> = index
            .entries()
            .filter(|entry| self.meant_by(&wanted, entry).is_some())
            .map(|entry| entry.text().into())
            .collect();
        if meant.is_empty() {
            return Ok(false);
        }
        self.0.group_commit.change_index(cx, Vec::new(), move |index| {
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

    /// Takes the entries out of the index, unless they have changed meanwhile, and then their blobs.
    fn remove_entries(
        &self,
        cx: &PullContext,
        doomed: &[&IndexEntry],
        references: &mut ReferenceGraph,
    ) -> Result<Removed, Error> {
        if doomed.is_empty() {
            return Ok(Removed::default());
        }
        let mut candidates = HashSet::new();
        for entry in doomed {
            references.follow(self, cx, entry, &mut candidates)?;
        }
        // A lock or a lease that is in the way fails the removal now, and not after the names are gone.
        drop(self.lock_collection(cx)?);
        lease::digests_held(cx, &*self.0.disk)?;
        let texts: HashSet<Box<str>> = doomed.iter().map(|entry| entry.text().into()).collect();
        self.0
            .group_commit
            .change_index(cx, Vec::new(), move |index| index.remove(|entry| texts.contains(entry.text())))?;
        let mut removed = self.collect(cx, candidates, references)?;
        removed.names = doomed.iter().filter_map(|entry| called(entry)).collect();
        Ok(removed)
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

    /// The blobs that are older than `age`. Another tool writes an image's blobs before it lists it.
    fn unused_since(&self, age: Duration) -> Result<HashSet<Digest>, Error> {
        let now = SystemTime::now();
        let mut found = HashSet::new();
        for folder in self.blob_folders()? {
            for name in self.names_in(&folder)? {
                let Some(digest) = layout::digest_in(&folder, &name) else { continue };
                let Ok(metadata) = self.0.disk.metadata(&blob_path(&digest)) else { continue };
                if now.duration_since(metadata.dated).unwrap_or_default() >= age {
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

fn called(entry: &IndexEntry) -> Option<String> {
    entry.name.as_deref().map(str::to_owned).or_else(|| entry.digest.as_ref().map(Digest::to_string))
}

/// Which digests a document names, remembered: what has a digest never changes.
#[derive(Debug, Default)]
pub(super) struct ReferenceGraph(HashMap<Digest, Vec<BlobReference>>);

#[derive(Clone, Debug)]
struct BlobReference {
    digest: Digest,
    /// It is a manifest or an index, which names others.
    is_document: bool,
}

impl ReferenceGraph {
    /// All blobs that the index's entries lead to.
    fn used_by(
        &mut self,
        store: &Store,
        cx: &PullContext,
        index: &StoreIndex,
    ) -> Result<HashSet<Digest>, Error> {
        let mut used = HashSet::new();
        for entry in index.entries() {
            self.follow(store, cx, entry, &mut used)?;
        }
        Ok(used)
    }

    /// Adds all that the entry leads to.
    pub(super) fn follow(
        &mut self,
        store: &Store,
        cx: &PullContext,
        entry: &IndexEntry,
        used: &mut HashSet<Digest>,
    ) -> Result<(), Error> {
        used.extend(entry.pulled_index());
        let Some(digest) = &entry.digest else { return Ok(()) };
        // Of the entry alone: that a digest is used does not mean that what it names was followed. The
        // pulled digest may be the manifest's own.
        let mut seen = HashSet::new();
        let mut ahead = vec![BlobReference { digest: digest.clone(), is_document: true }];
        while let Some(reference) = ahead.pop() {
            if seen.insert(reference.digest.clone()) && reference.is_document {
                ahead.extend_from_slice(self.of(store, cx, &reference.digest)?);
            }
        }
        used.extend(seen);
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
                let named = text("mediaType");
                let is_document = media_type::is_manifest(named) || media_type::is_index(named);
                found.push(BlobReference { digest, is_document });
            }
            fields.values().for_each(|field| find_references(field, found));
        }
        _ => {}
    }
}
