//! Files that unfinished downloads and damaged blobs have left.

use std::cmp::Reverse;
use std::io;
use std::time::{Duration, SystemTime};

use crate::durable::{Disk, Lock, Metadata, OpenMode};

/// A file that is of use to a later download at most.
pub(super) struct Leftover {
    pub(super) path: String,
    pub(super) age: Duration,
    /// Space that it takes, bytes.
    pub(super) bytes: u64,
}

/// Lists the files in `folders`, the oldest first; none where this user may not look.
pub(super) fn list(disk: &dyn Disk, folders: &[&str]) -> io::Result<Vec<Leftover>> {
    let (mut leftovers, mut ages) = (Vec::new(), Ages::new(disk));
    for folder in folders {
        let names = match disk.read_dir(folder) {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) =>
            {
                continue;
            }
            outcome => outcome?,
        };
        for name in names {
            let path = format!("{folder}/{name}");
            let Ok(metadata) = disk.metadata(&path) else { continue };
            let age = ages.of(&path, &metadata);
            leftovers.push(Leftover { path, age, bytes: metadata.allocated });
        }
    }
    leftovers.sort_by_key(|leftover| Reverse(leftover.age));
    Ok(leftovers)
}

impl Leftover {
    /// Removes the file, unless a download holds it.
    pub(super) fn discard(&self, disk: &dyn Disk) {
        let Ok(file) = disk.open(&self.path, OpenMode::Read) else { return };
        if matches!(file.try_lock(Lock::Exclusive), Ok(true)) && disk.unlink(&self.path).is_ok() {
            log::debug!("{} was removed, {} bytes", self.path, self.bytes);
        }
    }
}

/// Returns the ages of files. The age of a file that is dated in the future, by a clock that was wrong,
/// counts from the first time that it is asked for: the file is dated anew then.
pub(super) struct Ages<'a> {
    disk: &'a dyn Disk,
    now: SystemTime,
    dated_anew: usize,
}

impl<'a> Ages<'a> {
    pub(super) fn new(disk: &'a dyn Disk) -> Self {
        Ages { disk, now: SystemTime::now(), dated_anew: 0 }
    }

    /// Returns how long ago the file at `path` last changed.
    pub(super) fn of(&mut self, path: &str, metadata: &Metadata) -> Duration {
        let age = self.now.duration_since(metadata.dated).ok();
        // A file that another process has just written may be some milliseconds newer than `now`.
        if age.is_none() && metadata.dated > SystemTime::now() {
            self.dated_anew += 1;
            // Fails in a store that may only be read.
            let _ = self.disk.touch(path);
        }
        age.unwrap_or_default()
    }
}

impl Drop for Ages<'_> {
    fn drop(&mut self) {
        if self.dated_anew > 0 {
            log::warn!(
                "{} files of the store are dated in the future: their age counts from now on",
                self.dated_anew
            );
        }
    }
}
