//! The bytes that a pull transferred.

use std::sync::atomic::{AtomicU64, Ordering};

/// Where the bytes of an image came from.
#[derive(Debug, Default)]
pub(in crate::registry) struct TransferStats {
    fetched: AtomicU64,
    reused: AtomicU64,
}

impl TransferStats {
    /// Returns the bytes that came from a host.
    pub(in crate::registry) fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// Returns the bytes that were in the store.
    pub(in crate::registry) fn reused(&self) -> u64 {
        self.reused.load(Ordering::Relaxed)
    }

    pub(super) fn count(&self, fetched: u64, reused: u64) {
        self.fetched.fetch_add(fetched, Ordering::Relaxed);
        self.reused.fetch_add(reused, Ordering::Relaxed);
    }
}
