//! What the running pulls of this process still have to write, so that pulls that begin together do not count
//! on the same free space.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::image::digest::Digest;
use crate::sync::Semaphore;

/// The bytes that running pulls still have to write.
#[derive(Debug)]
pub(super) struct Reservations {
    blobs: Mutex<HashMap<Digest, Reserved>>,
    /// Held by the one pull that compares its need with the free space.
    pub(super) comparison: Semaphore,
}

/// A blob that pulls fetch. It counts once, however many pulls wait for it.
#[derive(Debug)]
struct Reserved {
    pulls: usize,
    missing: u64,
}

/// The space that one pull has reserved; what is left of it is released when dropped.
#[derive(Debug)]
pub(crate) struct SpaceReservation {
    reservations: Arc<Reservations>,
    digests: Vec<Digest>,
}

impl Default for Reservations {
    fn default() -> Self {
        Reservations { blobs: Mutex::default(), comparison: Semaphore::new(1) }
    }
}

impl Reservations {
    /// Returns the bytes that all pulls still have to write.
    pub(super) fn total(&self) -> u64 {
        self.blobs.lock().values().fold(0, |total, blob| total.saturating_add(blob.missing))
    }

    /// Returns whether a pull fetches the blob.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.blobs.lock().contains_key(digest)
    }

    /// Reserves space for blobs, each with its missing bytes.
    pub(super) fn add(self: &Arc<Self>, blobs: Vec<(Digest, u64)>) -> SpaceReservation {
        let mut reserved = self.blobs.lock();
        let digests = blobs.into_iter().map(|(digest, missing)| {
            let blob = reserved.entry(digest.clone()).or_insert(Reserved { pulls: 0, missing });
            blob.pulls += 1;
            digest
        });
        let digests = digests.collect();
        drop(reserved);
        SpaceReservation { reservations: Arc::clone(self), digests }
    }

    /// Notes how many bytes of a blob are missing now.
    pub(super) fn set_missing(&self, digest: &Digest, missing: u64) {
        if let Some(blob) = self.blobs.lock().get_mut(digest) {
            blob.missing = missing;
        }
    }

    /// Notes that bytes of a blob were written.
    pub(super) fn written(&self, digest: &Digest, bytes: usize) {
        if let Some(blob) = self.blobs.lock().get_mut(digest) {
            blob.missing = blob.missing.saturating_sub(bytes as u64);
        }
    }
}

impl Drop for SpaceReservation {
    fn drop(&mut self) {
        let mut reserved = self.reservations.blobs.lock();
        for digest in &self.digests {
            if let Some(blob) = reserved.get_mut(digest) {
                blob.pulls -= 1;
                if blob.pulls == 0 {
                    reserved.remove(digest);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_counts_once_by_what_is_missing_of_it_until_its_last_pull_ends() {
        let reservations = Arc::new(Reservations::default());
        let [a, b] = ["a", "b"].map(|name| Digest::sha256(name.as_bytes()));
        let first = reservations.add(vec![(a.clone(), 100), (b.clone(), 10)]);
        let second = reservations.add(vec![(a.clone(), 100)]);
        assert_eq!(reservations.total(), 110);
        reservations.written(&a, 30);
        reservations.set_missing(&b, 0);
        assert_eq!(reservations.total(), 70);
        drop(first);
        assert_eq!((reservations.total(), reservations.has(&b)), (70, false));
        drop(second);
        assert_eq!(reservations.total(), 0);
    }
}
