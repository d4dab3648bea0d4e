//! Throwing away what broken downloads have left.

use std::time::{Duration, SystemTime};

use crate::durable::{Lock, OpenMode};
use crate::error::Error;
use crate::store::handle::Store;
use crate::store::layout::{DAMAGED, PARTIALS};

/// A file that a broken download, or a damaged blob, has left.
struct Leftover {
    path: String,
    age: Duration,
    bytes: u64,
}

impl Store {
    /// Throws away what is older than it is kept, and then the oldest of what takes more than its
    /// share of the disk.
    pub(super) fn collect_partials(&self) -> Result<(), Error> {
        let share = self.space()?.capacity as f64 * self.0.settings.partials_share;
        let leftovers = self.leftovers()?;
        let mut bytes: u64 = leftovers.iter().map(|leftover| leftover.bytes).sum();
        for leftover in &leftovers {
            if leftover.age <= self.0.settings.keep_partials && bytes as f64 <= share {
                break;
            }
            self.throw_away(leftover);
            bytes = bytes.saturating_sub(leftover.bytes);
        }
        Ok(())
    }

    /// Throws leftovers away, the oldest first, until `bytes` can be written.
    pub(super) fn collect_partials_for(&self, bytes: u64) -> Result<(), Error> {
        for leftover in self.leftovers()? {
            if self.free()? >= bytes {
                break;
            }
            self.throw_away(&leftover);
        }
        Ok(())
    }

    /// The oldest first.
    fn leftovers(&self) -> Result<Vec<Leftover>, Error> {
        let now = SystemTime::now();
        let mut leftovers = Vec::new();
        for folder in [DAMAGED, PARTIALS] {
            for name in self.names_in(folder)? {
                let path = format!("{folder}/{name}");
                let Ok(metadata) = self.0.disk.metadata(&path) else { continue };
                let age = now.duration_since(metadata.modified).unwrap_or_default();
                leftovers.push(Leftover { path, age, bytes: metadata.allocated });
            }
        }
        leftovers.sort_by_key(|leftover| std::cmp::Reverse(leftover.age));
        Ok(leftovers)
    }

    /// Removes the file unless somebody is at it.
    fn throw_away(&self, leftover: &Leftover) {
        let Ok(file) = self.0.disk.open(&leftover.path, OpenMode::Read) else { return };
        if matches!(file.try_lock(Lock::Exclusive), Ok(true)) && self.0.disk.unlink(&leftover.path).is_ok() {
            log::debug!("{} is thrown away, {} bytes", leftover.path, leftover.bytes);
        }
    }
}
