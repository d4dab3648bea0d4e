//! The blobs that running pulls hold against garbage collection.
//!
//! A collection must not remove a blob that a pull has found in the store, or has just put there, and
//! that no image uses yet. A pull adds the digest to its lease *before* it looks for the blob; a
//! collection reads all leases, and then the index, *before* it removes anything; and `collect.lock`,
//! shared by the first and exclusive for the second, keeps the two apart. So either the collection
//! sees the digest, or the pull sees that the blob is gone.
//!
//! Within a process a lease is a count in memory. Other processes see one lease file for each open
//! store, with one digest a line; the file is locked as long as its owner lives.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::context::PullContext;
use crate::durable::{Disk, DiskFile, Lock, OpenMode};
use crate::error::Error;
use crate::image::digest::Digest;
use crate::store::error::refused;
use crate::store::layout::{self, COLLECT_LOCK, LEASES};
use crate::store::retry_io;

/// Length in bytes from which a lease file is written anew if most of its digests are no longer held.
const LONG_FILE: u64 = 4 << 10;

/// The leases of one open store.
#[derive(Debug)]
pub(super) struct Leases {
    disk: Arc<dyn Disk>,
    held: Arc<Mutex<HeldDigests>>,
    in_flight: Arc<AtomicUsize>,
}

/// The digests that the pulls of one open store hold, each with the number of its holders.
#[derive(Debug, Default)]
struct HeldDigests {
    digests: HashMap<Digest, usize>,
    file: Option<LeaseFile>,
}

/// The file in which other processes see them.
#[derive(Debug)]
struct LeaseFile {
    disk: Arc<dyn Disk>,
    path: String,
    file: Box<dyn DiskFile>,
    /// Bytes written.
    len: u64,
    collect_lock: Box<dyn DiskFile>,
}

/// The digests that one pull holds, until it is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    held: Arc<Mutex<HeldDigests>>,
    _in_flight: Option<InFlight>,
    digests: Mutex<Vec<Digest>>,
}

/// Counts a running pull.
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

    /// Returns the counter of the pulls that have a lease.
    pub(super) fn in_flight(&self) -> Arc<AtomicUsize> {
        self.in_flight.clone()
    }

    /// Returns a lease for a pull.
    pub(super) fn lease(&self) -> Lease {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.lease_with(Some(InFlight(self.in_flight.clone())))
    }

    /// Returns a lease that does not count as a running pull: no pull waits to share flushes with its
    /// holder.
    pub(super) fn lease_untracked(&self) -> Lease {
        self.lease_with(None)
    }

    fn lease_with(&self, in_flight: Option<InFlight>) -> Lease {
        Lease { held: self.held.clone(), _in_flight: in_flight, digests: Mutex::default() }
    }

    /// Adds `digests` to `lease` by one write. Waits while a collection runs.
    pub(super) fn hold(&self, cx: &PullContext, lease: &Lease, digests: &[&Digest]) -> Result<(), Error> {
        let known = lease.digests.lock();
        let new: Vec<_> = digests.iter().filter(|digest| !known.contains(digest)).copied().collect();
        drop(known);
        if new.is_empty() {
            return Ok(());
        }
        let mut pauses = retry_io::Pauses::new();
        // The mutex is free meanwhile: other pulls can be cancelled while this waits, and leases can end.
        while !self.try_hold(cx, &new)? {
            pauses.wait(cx)?;
        }
        lease.digests.lock().extend(new.into_iter().cloned());
        Ok(())
    }

    /// Adds `digests`, unless a collection is running.
    fn try_hold(&self, cx: &PullContext, digests: &[&Digest]) -> Result<bool, Error> {
        let mut held = self.held.lock();
        let is_new = |digest: &&&Digest| !held.digests.contains_key(**digest);
        let unwritten: Vec<_> = digests.iter().filter(is_new).copied().collect();
        if !unwritten.is_empty() {
            if held.file.is_none() {
                held.file = Some(LeaseFile::create(cx, self.disk.clone())?);
            }
            if !held.try_append(&unwritten).map_err(|error| refused(&error, "write a lease"))? {
                return Ok(false);
            }
        }
        for digest in digests {
            *held.digests.entry((*digest).clone()).or_default() += 1;
        }
        Ok(true)
    }
}

impl HeldDigests {
    /// Writes the digests to the lease file, unless a collection is running.
    fn try_append(&mut self, digests: &[&Digest]) -> io::Result<bool> {
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

    /// Releases one hold of the digest.
    fn release(&mut self, digest: &Digest) {
        if let Some(count) = self.digests.get_mut(digest) {
            *count -= 1;
            if *count == 0 {
                self.digests.remove(digest);
            }
        }
    }

    /// Empties the file when nothing is held. After a failure it lists too much, which is safe.
    fn empty_if_unused(&mut self) {
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
    /// Makes and locks a file with a name of its own.
    fn create(cx: &PullContext, disk: Arc<dyn Disk>) -> Result<Self, Error> {
        loop {
            let path = format!("{LEASES}/{}-{:016x}", std::process::id(), fastrand::u64(..));
            let file = retry_io::for_files(cx, "make a lease file", || disk.open(&path, OpenMode::Create))?;
            let collect_lock = retry_io::for_files(cx, "open the lock of collections", || {
                layout::open_lock(&*disk, COLLECT_LOCK)
            })?;
            let failed = |error: io::Error| refused(&error, format!("lock {path}"));
            // Between the two steps another process may have removed it as left behind.
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

impl Drop for Lease {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        for digest in self.digests.get_mut().drain(..) {
            held.release(&digest);
        }
        held.empty_if_unused();
    }
}
