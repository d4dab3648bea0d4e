//! Removes the partial downloads, and the damaged blobs, that are not kept any longer.

use crate::error::Error;
use crate::store::error::refused;
use crate::store::handle::Store;
use crate::store::layout::{self, DAMAGED, PARTIALS};
use crate::store::leftovers::{self, Leftover};

impl Store {
    /// Removes what is older than the store's setting, and then the oldest of what takes more than its
    /// share of the disk.
    pub(super) fn collect_partials(&self) -> Result<(), Error> {
        let share = self.space()?.capacity as f64 * self.0.settings.partials_share;
        let leftovers = self.leftovers()?;
        let mut bytes: u64 = leftovers.iter().map(|leftover| leftover.bytes).sum();
        for leftover in &leftovers {
            if leftover.age <= self.0.settings.keep_partials && bytes as f64 <= share {
                break;
            }
            leftover.discard(&*self.0.disk);
            bytes = bytes.saturating_sub(leftover.bytes);
        }
        Ok(())
    }

    /// Removes leftovers that no running pull has reserved space for, the oldest first, until `bytes` can be
    /// written.
    pub(super) fn collect_partials_for(&self, bytes: u64) -> Result<(), Error> {
        let is_reserved = |leftover: &Leftover| {
            let digest = layout::digest_of_partial(&leftover.path);
            digest.is_some_and(|digest| self.0.reservations.has(&digest))
        };
        for leftover in self.leftovers()?.iter().filter(|leftover| !is_reserved(leftover)) {
            if self.free()? >= bytes {
                break;
            }
            leftover.discard(&*self.0.disk);
        }
        Ok(())
    }

    /// Lists partial downloads and damaged blobs, the oldest first.
    pub(super) fn leftovers(&self) -> Result<Vec<Leftover>, Error> {
        leftovers::list(&*self.0.disk, &[DAMAGED, PARTIALS])
            .map_err(|error| refused(&error, "list partial downloads"))
    }
}
