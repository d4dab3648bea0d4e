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
    let mut leftovers = Vec::new();
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
            let age = age(disk, &path, &metadata).unwrap_or_default();
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

/// Returns how long ago the file last changed; `None` if it is dated in the future, by a clock that was
/// wrong. Such a file is dated anew, so that its age counts from now on.
pub(super) fn age(disk: &dyn Disk, path: &str, metadata: &Metadata) -> Option<Duration> {
    let age = SystemTime::now().duration_since(metadata.dated).ok();
    if age.is_none() {
        // A store that may only be read keeps its dates.
        let _ = disk.touch(path);
    }
    age
}
