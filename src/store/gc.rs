//! Removes images, and the blobs that no image uses.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use crate::context::PullContext;
use crate::durable::{DiskFile, Lock};
use crate::error::Error;
use crate::image::digest::Digest;
use crate::store::children::{Child, ImageTree};
use crate::store::error::refused;
use crate::store::handle::Store;
use crate::store::index::IndexEntry;
use crate::store::layout::{self, COLLECT_LOCK, blob_path};
use crate::store::leftovers::Ages;
use crate::store::lookup::{Meaning, StoredImage, meaning};
use crate::store::names::ImageKey;
use crate::store::references::{ReferenceGraph, Used};
use crate::store::{lease, retry_io};

/// The result of a removal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removed {
    /// The names that were removed; for an image without a name, its digest.
    pub names: Vec<String>,
    /// Number of blobs that were removed.
    pub blobs: usize,
    /// Space that was freed, bytes.
    pub bytes: u64,
}

/// Sets which images [`Store::prune`] removes, and when. The defaults are those of kubelet's image collection.
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
    /// Sets how long after its last use an image, or a blob without an image, is kept at least. Default: 2 min.
    #[must_use]
    pub fn min_age(mut self, age: Duration) -> Self {
        self.min_age = age;
        self
    }

    /// Sets the time without use after which images are removed, however full the disk is. Default: no limit.
    #[must_use]
    pub fn max_unused(mut self, age: Duration) -> Self {
        self.max_unused = Some(age);
        self
    }

    /// Sets how full the disk may be: from `high` percent on, the least recently used images are removed until it is
    /// less than `low` percent full. Default: 85 and 80; a `low` above `high` counts as `high`.
    #[must_use]
    pub fn thresholds(mut self, high: u8, low: u8) -> Self {
        self.thresholds = (high, low.min(high));
        self
    }
}

impl Store {
    /// Removes the image that `key` stands for, and its blobs, except those that another image uses or that a pull
    /// in progress holds. A name removes itself only, while the image has others; a digest or an id removes all
    /// names. For an image index, a name and the index's own digest remove all its images, and the digest or id of
    /// one image removes that image. An image that does not exist is no error.
    ///
    /// # Errors
    /// [`Cancelled`](crate::ErrorKind::Cancelled), [`Timeout`](crate::ErrorKind::Timeout);
    /// [`Store`](crate::ErrorKind::Store); [`DiskFull`](crate::ErrorKind::DiskFull), because the next index is
    /// written before the old one is removed.
    pub fn remove(&self, cx: &PullContext, key: &str) -> Result<Removed, Error> {
        let (index, wanted) = (self.0.group_commit.index()?, ImageKey::of(key));
        let mut tree = ImageTree::new(self, cx);
        let doomed = index.entries().filter_map(|entry| match meaning(&mut tree, &wanted, entry)? {
            Meaning::Entry => Some(Removal::of(entry)),
            Meaning::Child(child) => Some(Removal::of_children(&mut tree, entry, |it| *it == child.digest)),
        });
        let doomed = doomed.collect();
        cx.check()?;
        self.remove_entries(cx, doomed, &mut ReferenceGraph::default())
    }

    /// Removes images as the policy says, the least recently used first, and no pinned ones. Also removes blobs that
    /// no image uses, and partial downloads that are too old.
    ///
    /// # Errors
    /// [`Cancelled`](crate::ErrorKind::Cancelled), [`Timeout`](crate::ErrorKind::Timeout),
    /// [`Store`](crate::ErrorKind::Store), [`DiskFull`](crate::ErrorKind::DiskFull).
    pub fn prune(&self, cx: &PullContext, policy: &PrunePolicy) -> Result<Removed, Error> {
        let mut references = ReferenceGraph::default();
        self.collect_partials()?;
        let mut removed = self.collect(cx, self.unused_since(policy.min_age)?, &mut references)?;
        let mut candidates = self.candidates(cx, policy)?.into_iter().peekable();
        let (high, low) = policy.thresholds;
        let is_too_full = self.excess(high)? > 0;
        loop {
            // The index is written once for each batch. A batch frees less than its images' sizes if they share blobs
            // with others; then another batch follows.
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

    /// Returns the images that may be removed, the least recently used first, and for each whether its age alone is a
    /// reason.
    fn candidates(&self, cx: &PullContext, policy: &PrunePolicy) -> Result<Vec<(StoredImage, bool)>, Error> {
        let now = SystemTime::now();
        let unused = |image: &StoredImage| now.duration_since(image.last_used).unwrap_or_default();
        let mut images = self.images_with(cx)?;
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

    /// Removes the images with all their names, except entries that are pinned meanwhile.
    fn remove_images(
        &self,
        cx: &PullContext,
        images: &[StoredImage],
        references: &mut ReferenceGraph,
    ) -> Result<Removed, Error> {
        let index = self.0.group_commit.index()?;
        let digests: HashSet<_> = images.iter().map(|image| &image.manifest.digest).collect();
        let mut tree = ImageTree::new(self, cx);
        let is_doomed = |digest: &Digest| digests.contains(digest);
        let mut doomed = Vec::new();
        for entry in index.entries().filter(|entry| !entry.pinned) {
            if tree.images(entry).present.iter().any(|child| is_doomed(&child.digest)) {
                doomed.push(Removal::of_children(&mut tree, entry, is_doomed));
            }
        }
        cx.check()?;
        self.remove_entries(cx, doomed, references)
    }

    /// Protects the image that `key` stands for from [`prune`](Self::prune), or ends that. Returns whether it exists.
    ///
    /// # Errors
    /// [`Cancelled`](crate::ErrorKind::Cancelled), [`Timeout`](crate::ErrorKind::Timeout),
    /// [`Store`](crate::ErrorKind::Store), [`DiskFull`](crate::ErrorKind::DiskFull).
    pub fn pin(&self, cx: &PullContext, key: &str, pinned: bool) -> Result<bool, Error> {
        let (index, wanted) = (self.0.group_commit.index()?, ImageKey::of(key));
        let mut tree = ImageTree::new(self, cx);
        let meant: HashSet<Box<str>> = index
            .entries()
            .filter(|entry| meaning(&mut tree, &wanted, entry).is_some())
            .map(|entry| entry.text().into())
            .collect();
        cx.check()?;
        if meant.is_empty() {
            return Ok(false);
        }
        self.0.group_commit.change_index(cx, Vec::new(), None, move |index| {
            index.pin(pinned, |entry| meant.contains(entry.text()))
        })?;
        Ok(true)
    }

    /// Returns how many bytes the disk is filled above `percent`.
    fn excess(&self, percent: u8) -> Result<u64, Error> {
        let space = self.space()?;
        let used = space.capacity.saturating_sub(space.available);
        let allowed = u128::from(space.capacity) * u128::from(percent) / 100;
        Ok(u64::try_from(u128::from(used).saturating_sub(allowed)).unwrap_or(u64::MAX))
    }

    /// Removes or replaces the entries in the index, unless they have changed meanwhile; then removes their blobs.
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
        // If a lock or a lease prevents the removal, it fails here, before the names are removed.
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

    /// Removes those of `candidates` that no image uses and no pull holds.
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
        // Pulls wait while the lock is held, so the documents are read before.
        references.used_by(self, cx, &*self.0.group_commit.index()?)?;
        let disk = &self.0.disk;
        let lock = self.lock_collection(cx)?;
        // The leases are read before the index: a pull that ends in between is in one of them.
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

    /// Takes the lock that keeps pulls from adding to their leases. Dropping it releases it.
    fn lock_collection(&self, cx: &PullContext) -> Result<Box<dyn DiskFile>, Error> {
        let open = || layout::open_lock(&*self.0.disk, COLLECT_LOCK);
        let lock = retry_io::for_files(cx, "open the lock of collections", open)?;
        retry_io::lock(cx, &*lock, Lock::Exclusive, COLLECT_LOCK)?;
        Ok(lock)
    }

    /// Returns the blobs that are older than `age`; younger ones may belong to an image that another tool is writing and
    /// has not listed yet. Sets the dates of blobs that are dated in the future, also of those of images.
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

/// A planned change of an entry.
#[derive(Debug)]
struct Removal<'a> {
    entry: &'a IndexEntry,
    /// The entry that replaces it.
    instead: Option<IndexEntry>,
    /// The names that are removed.
    names: Vec<String>,
}

impl<'a> Removal<'a> {
    /// Removes the whole entry.
    fn of(entry: &'a IndexEntry) -> Self {
        Removal { entry, instead: None, names: called(entry).into_iter().collect() }
    }

    /// Removes the manifests that `goes` selects, and the attestations about them; the whole entry if no image is left.
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
