//! The handle of an open store, and the state that its clones share.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::durable::Disk;
use crate::store::group_commit::{GroupCommit, use_threads};
use crate::store::in_progress::InProgress;
use crate::store::lease::Leases;
use crate::store::reservations::Reservations;
use crate::store::settings::StoreSettings;
use crate::store::sizes::Sizes;
use crate::sync::PoolUser;

/// Images on disk, in an OCI image layout. Cheap to clone; clones, other openings and other
/// processes may use the same folder at the same time.
///
/// # Other users
///
/// `.oci-puller`, with the locks, is closed to the group and to other users, unless they may write to the
/// store's folder: the right to read a lock's file is the right to hold the lock. A user that may only
/// read the store can list, export and verify. Each open of a store by the owner of these files closes
/// them if an older version has left them open.
///
/// # Threads
///
/// Flushes run on at most five threads, `flush-N` and `flush-large-N`, which all stores of the process
/// share. They start when they are needed, and end after 10 s without work, or when the last store is
/// dropped: that drop joins them, for at most 900 ms each kind. A thread whose flush takes longer is named
/// in the log, and ends by itself after it.
///
/// # Forks
///
/// The locks are those of [`flock(2)`](https://man7.org/linux/man-pages/man2/flock.2.html), on descriptors
/// that are closed on `exec`. A child process that is forked and does not call `exec` shares them: it must
/// not use or drop the store, or any image service over it, because that would release the parent's
/// locks; it should leave by `_exit`. Locks that the parent releases are free, also while such a child
/// runs; if the parent is killed while it holds one, the lock stays until the child ends.
#[derive(Clone, Debug)]
pub struct Store(pub(super) Arc<StoreInner>);

#[derive(Debug)]
pub(super) struct StoreInner {
    pub(super) dir: PathBuf,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) settings: StoreSettings,
    pub(super) in_progress: Arc<InProgress>,
    pub(super) leases: Leases,
    pub(super) group_commit: Arc<GroupCommit>,
    pub(super) sizes: Sizes,
    pub(super) reservations: Arc<Reservations>,
    /// Dropped after all that gives these threads work. `None` for a store without threads.
    _threads: Option<[PoolUser; 2]>,
}

impl Store {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: PathBuf, settings: StoreSettings) -> Store {
        let leases = Leases::new(disk.clone());
        Store(Arc::new(StoreInner {
            in_progress: Arc::default(),
            sizes: Sizes::default(),
            reservations: Arc::default(),
            group_commit: GroupCommit::new(disk.clone(), settings.flush(), settings.has_threads),
            _threads: settings.has_threads.then(use_threads),
            leases,
            dir,
            disk,
            settings,
        }))
    }

    /// Returns the store's folder.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// Returns what an answered pull outlives.
    #[cfg(feature = "unpack")]
    pub(crate) fn durability(&self) -> crate::store::settings::Durability {
        self.0.settings.durability
    }
}
