//! Remembers the sizes of images.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::image::digest::Digest;

/// Entries that are remembered; a size that was forgotten is read from the manifest.
const REMEMBERED: usize = 1024;

/// Image sizes in bytes, by manifest digest. A digest's content never changes, so an entry stays right.
#[derive(Debug, Default)]
pub(super) struct Sizes(Mutex<HashMap<Digest, u64>>);

impl Sizes {
    pub(super) fn note(&self, manifest: &Digest, size: Option<u64>) {
        let Some(size) = size else { return };
        let mut sizes = self.0.lock();
        if sizes.len() >= REMEMBERED {
            sizes.clear();
        }
        sizes.insert(manifest.clone(), size);
    }

    pub(super) fn of(&self, manifest: &Digest) -> Option<u64> {
        self.0.lock().get(manifest).copied()
    }
}
