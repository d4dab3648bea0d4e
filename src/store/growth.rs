//! How far a blob has come that another thread reads while it is fetched.

use std::sync::Arc;

use crate::durable::DiskFile;
use crate::sync::Watched;

/// How much of a blob is there. A clone is the same blob.
#[derive(Clone, Debug, Default)]
pub(crate) struct Growth(Arc<Watched<GrowthState>>);

#[derive(Debug, Default)]
pub(super) struct GrowthState {
    /// The file that the bytes go to. Absent before the fetch and after it, and for a blob that the store
    /// had or that stays in memory.
    pub(super) file: Option<Arc<dyn DiskFile>>,
    /// Bytes from the first one to the first gap.
    pub(super) there: u64,
    /// How often the fetch has started again at the first byte.
    pub(super) restarts: u32,
    pub(super) is_committed: bool,
}

impl Growth {
    /// Announces the file that the bytes go to, and how many are there.
    pub(super) fn begin(&self, file: &Arc<dyn DiskFile>, there: u64) {
        self.0.change(|state| (state.file, state.there) = (Some(file.clone()), there));
    }

    /// Announces bytes: `gapless_from` returns how far they reach without a gap.
    pub(super) fn reach(&self, gapless_from: impl FnOnce(u64) -> u64) {
        let before = self.0.look_or_wait(|state| Some(state.there)).unwrap_or(0);
        let after = gapless_from(before);
        if after > before {
            // Another writer may have come further meanwhile.
            self.0.change(|state| state.there = state.there.max(after));
        }
    }

    /// Announces that the bytes were wrong, and are fetched again.
    pub(super) fn restart(&self) {
        self.0.change(|state| (state.there, state.restarts) = (0, state.restarts + 1));
    }

    /// Announces that the blob is in the store, or will be when its commit is durable.
    pub(super) fn commit(&self) {
        self.0.change(|state| (state.file, state.is_committed) = (None, true));
    }

    /// Returns what `look` finds, or a receiver that gets a message at the next change.
    #[cfg(feature = "unpack")]
    pub(super) fn look_or_wait<R>(
        &self,
        look: impl FnOnce(&GrowthState) -> Option<R>,
    ) -> Result<R, crossbeam_channel::Receiver<()>> {
        self.0.look_or_wait(look)
    }
}
