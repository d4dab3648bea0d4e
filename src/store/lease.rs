//! Which blobs running pulls count on.
//!
//! Whoever removes blobs must not take one that a pull has found in the store, or has just put
//! there, and that no image uses yet. Each pull writes down a digest *before* it looks for the blob;
//! a collection reads what is written down, and then the index, *before* it removes anything; and
//! the two exclude each other by a lock that the writing shares. So either the collection sees the
//! digest, or the pull sees that the blob is gone.
//!
//! Within a process this is a count in memory; for other processes it is one file a store, locked as
//! long as its owner lives, with the digests as lines.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::context::PullContext;
use crate::durable::{Access, Disk, DiskFile, Lock};
use crate::error::Error;
use crate::image::digest::Digest;
use crate::store::flusher::Awaited;
use crate::store::layout::{self, COLLECT_LOCK, LEASES};
use crate::store::{refused, wait};

/// A file of lines that is longer than this, and mostly of digests that nobody counts on any more,
/// is written anew, bytes.
const LONG_FILE: u64 = 4 << 10;

/// The leases of one open store.
#[derive(Debug)]
pub(super) struct Leases {
    disk: Arc<dyn Disk>,
    held: Arc<Mutex<Held>>,
    in_flight: Arc<AtomicUsize>,
}

/// What the pulls of this store count on.
#[derive(Debug, Default)]
struct Held {
    digests: HashMap<Digest, usize>,
    file: Option<LeaseFile>,
}

/// Where other processes see it.
#[derive(Debug)]
struct LeaseFile {
    disk: Arc<dyn Disk>,
    path: String,
    file: Box<dyn DiskFile>,
    /// Bytes written.
    len: u64,
    collect_lock: Box<dyn DiskFile>,
}

/// What one pull counts on. Dropped, it counts on nothing any more.
#[derive(Debug)]
pub(crate) struct Lease(Arc<LeaseState>);

/// Shared by the lease and the ingests that were begun under it.
#[derive(Debug)]
pub(super) struct LeaseState {
    held: Arc<Mutex<Held>>,
    _in_flight: Option<InFlight>,
    digests: Mutex<Vec<Digest>>,
    awaited: Mutex<Vec<Arc<Awaited>>>,
}

/// Counts a pull as long as it lives.
#[derive(Debug)]
struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Leases {
    pub(super) fn new(disk: Arc<dyn Disk>) -> Self {
        Leases { disk, held: Arc::default(), in_flight: Arc::default() }
    }

    /// How many pulls have a lease, now and from now on.
    pub(super) fn in_flight(&self) -> Arc<AtomicUsize> {
        self.in_flight.clone()
    }

    /// A lease for a pull.
    pub(super) fn lease(&self) -> Lease {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.lease_with(Some(InFlight(self.in_flight.clone())))
    }

    /// A lease for what is no pull, and changes the index at a time of its own if at all: no pull
    /// waits to share its flushes.
    pub(super) fn lease_aside(&self) -> Lease {
        self.lease_with(None)
    }

    fn lease_with(&self, in_flight: Option<InFlight>) -> Lease {
        Lease(Arc::new(LeaseState {
            held: self.held.clone(),
            _in_flight: in_flight,
            digests: Mutex::default(),
            awaited: Mutex::default(),
        }))
    }

    /// Writes down that `lease` counts on `digests`, by one write. While a collection runs it waits.
    pub(super) fn count_on(&self, cx: &PullContext, lease: &Lease, digests: &[&Digest]) -> Result<(), Error> {
        let state = &*lease.0;
        let known = state.digests.lock();
        let new: Vec<_> = digests.iter().filter(|digest| !known.contains(digest)).copied().collect();
        drop(known);
        if new.is_empty() {
            return Ok(());
        }
        let mut pauses = wait::Pauses::new();
        // Not with the mutex held: others can leave while this waits, and leases can end.
        while !self.try_count_on(cx, &new)? {
            pauses.wait(cx)?;
        }
        state.digests.lock().extend(new.into_iter().cloned());
        Ok(())
    }

    /// Counts on `digests`, unless a collection runs just now.
    fn try_count_on(&self, cx: &PullContext, digests: &[&Digest]) -> Result<bool, Error> {
        let mut held = self.held.lock();
        let is_new = |digest: &&&Digest| !held.digests.contains_key(**digest);
        let unwritten: Vec<_> = digests.iter().filter(is_new).copied().collect();
        if !unwritten.is_empty() {
            if held.file.is_none() {
                held.file = Some(LeaseFile::create(cx, self.disk.clone())?);
            }
            if !held.try_write_down(&unwritten).map_err(|error| refused(&error, "write a lease"))? {
                return Ok(false);
            }
        }
        for digest in digests {
            *held.digests.entry((*digest).clone()).or_default() += 1;
        }
        Ok(true)
    }
}

impl Held {
    fn try_write_down(&mut self, digests: &[&Digest]) -> io::Result<bool> {
        let live = self.digests.len() as u64 * 160;
        let Some(file) = &mut self.file else { return Ok(false) };
        if !file.collect_lock.try_lock(Lock::Shared)? {
            return Ok(false);
        }
        let written = if file.len > LONG_FILE && file.len > 2 * live {
            file.rewrite(&lines(self.digests.keys().chain(digests.iter().copied())))
        } else {
            file.append(&lines(digests.iter().copied()))
        };
        let unlocked = file.collect_lock.unlock();
        written.and(unlocked).map(|()| true)
    }

    fn forget(&mut self, digest: &Digest) {
        if let Some(count) = self.digests.get_mut(digest) {
            *count -= 1;
            if *count == 0 {
                self.digests.remove(digest);
            }
        }
    }

    /// Leaves no lines when nobody counts on anything. A failure leaves too many, which is safe.
    fn tidy(&mut self) {
        if self.digests.is_empty()
            && let Some(file) = &mut self.file
            && file.file.set_len(0).is_ok()
        {
            file.len = 0;
        }
    }
}

fn lines<'a>(digests: impl Iterator<Item = &'a Digest>) -> String {
    digests.map(|digest| format!("{digest}\n")).collect()
}

impl LeaseFile {
    /// Makes a file of a name that nobody has, and locks it.
    fn create(cx: &PullContext, disk: Arc<dyn Disk>) -> Result<Self, Error> {
        loop {
            let path = format!("{LEASES}/{}-{:016x}", std::process::id(), fastrand::u64(..));
            let file = wait::for_files(cx, "make a lease file", || disk.open(&path, Access::Create))?;
            let collect_lock = wait::for_files(cx, "open the lock of collections", || {
                layout::open_lock(&*disk, COLLECT_LOCK)
            })?;
            let failed = |error: io::Error| refused(&error, format!("lock {path}"));
            // Another process may have taken it for one that was left behind, between the two steps.
            let is_locked = file.try_lock(Lock::Exclusive).map_err(failed)?;
            if is_locked && disk.metadata(&path).is_ok() {
                return Ok(LeaseFile { disk, path, file, len: 0, collect_lock });
            }
        }
    }

    fn append(&mut self, lines: &str) -> io::Result<()> {
        self.file.write_at(lines.as_bytes(), self.len)?;
        self.len += lines.len() as u64;
        Ok(())
    }

    fn rewrite(&mut self, lines: &str) -> io::Result<()> {
        self.file.set_len(0)?;
        self.len = 0;
        self.append(lines)
    }
}

impl Drop for LeaseFile {
    fn drop(&mut self) {
        let _ = self.disk.unlink(&self.path);
    }
}

impl Lease {
    /// What must be durable before this pull's image may be named.
    pub(super) fn awaited(&self) -> Vec<Arc<Awaited>> {
        self.0.awaited.lock().clone()
    }

    pub(super) fn state(&self) -> Arc<LeaseState> {
        self.0.clone()
    }
}

impl LeaseState {
    pub(super) fn awaits(&self, blob: Arc<Awaited>) {
        self.awaited.lock().push(blob);
    }
}

impl Drop for LeaseState {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        for digest in self.digests.get_mut().drain(..) {
            held.forget(&digest);
        }
        held.tidy();
    }
}
