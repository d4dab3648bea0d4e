//! The blobs that running pulls hold against garbage collection.
//!
//! A collection must not remove a blob that a pull has found in the store or has just stored, and that no image uses
//! yet. A pull adds the digest to its lease *before* it looks for the blob. A collection reads all leases, and
//! then the index, *before* it removes anything. Pulls hold `collect.lock` shared for the first step, collections hold
//! it exclusively for the second. So either the collection sees the digest, or the pull sees that the blob is gone.
//!
//! Within a process a lease is a count in memory. Other processes see one lease file for each open store, with one
//! digest a line. The process that owns the file keeps it locked.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::context::PullContext;
use crate::durable::{Disk, DiskFile, FileType, Lock, OpenMode};
use crate::error::Error;
use crate::image::digest::Digest;
use crate::store::error::refused;
use crate::store::layout::{self, COLLECT_LOCK, LEASES};
use crate::store::retry_io;

/// Length in bytes from which a lease file is written anew if most of its digests are no longer held.
const LONG_FILE: u64 = 4 << 10;
/// The longest lease file that is read, bytes: more than 200,000 digests.
const MAX_FILE: u64 = 16 << 20;

/// The leases of one open store.
#[derive(Debug)]
pub(super) struct Leases {
    disk: Arc<dyn Disk>,
    held: Arc<Mutex<HeldDigests>>,
}

/// The digests that the pulls of one open store hold, each with the number of leases that hold it.
#[derive(Debug, Default)]
struct HeldDigests {
    digests: HashMap<Digest, usize>,
    file: Option<LeaseFile>,
}

/// The file that lists the digests for other processes.
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
    digests: Mutex<Vec<Digest>>,
}

impl Leases {
    pub(super) fn new(disk: Arc<dyn Disk>) -> Self {
        Leases { disk, held: Arc::default() }
    }

    /// Returns a lease that holds nothing yet.
    pub(super) fn lease(&self) -> Lease {
        Lease { held: self.held.clone(), digests: Mutex::default() }
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
        // The mutex is not held during the wait: other pulls can be cancelled, and leases can end.
        while !self.try_hold(cx, &new)? {
            pauses.wait_for_lock(cx, COLLECT_LOCK, || retry_io::holder_at(&*self.disk, COLLECT_LOCK))?;
        }
        lease.digests.lock().extend(new.into_iter().cloned());
        Ok(())
    }

    /// Adds `digests`, unless a collection is running.
    fn try_hold(&self, cx: &PullContext, digests: &[&Digest]) -> Result<bool, Error> {
        // Created without the mutex: a wait for a file descriptor must not keep other leases from ending.
        if self.held.lock().file.is_none() {
            let made = LeaseFile::create(cx, self.disk.clone())?;
            self.held.lock().file.get_or_insert(made);
        }
        let mut held = self.held.lock();
        let is_new = |digest: &&&Digest| !held.digests.contains_key(**digest);
        let unwritten: Vec<_> = digests.iter().filter(is_new).copied().collect();
        if !unwritten.is_empty()
            && !held.try_append(&unwritten).map_err(|error| refused(&error, "write a lease"))?
        {
            return Ok(false);
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

    /// Empties the file when nothing is held. After a failure it lists too many digests, which is safe.
    fn empty_if_unused(&mut self) {
        if self.digests.is_empty()
            && let Some(file) = &mut self.file
            && file.file.set_len(0).is_ok()
        {
            file.len = 0;
        }
    }
}

/// Returns the digests that pulls of all processes hold. Removes the lease files of processes that have
/// ended.
///
/// # Errors
/// `Store` if a lease cannot be read or is longer than 16 MiB: the collection must remove nothing then. `Cancelled`,
/// `Timeout`.
pub(super) fn digests_held(cx: &PullContext, disk: &dyn Disk) -> Result<HashSet<Digest>, Error> {
    let mut held = HashSet::new();
    let names = match disk.read_dir(LEASES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(held),
        outcome => outcome.map_err(|error| refused(&error, format!("list {LEASES}")))?,
    };
    for name in names {
        cx.check()?;
        let path = format!("{LEASES}/{name}");
        let doing = format!("read the lease {path}");
        if disk.metadata(&path).is_ok_and(|metadata| metadata.kind != FileType::File) {
            log::warn!("{path} is ignored: it is not a regular file, and so not a lease");
            continue;
        }
        let opened = retry_io::for_files(cx, &doing, || match disk.open(&path, OpenMode::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            outcome => outcome.map(Some),
        })?;
        let Some(file) = opened else { continue };
        let failed = |error: io::Error| refused(&error, &doing);
        if file.try_lock(Lock::Exclusive).map_err(failed)? {
            let _ = disk.unlink(&path);
        } else {
            let lines = read_shrinking(&*file, MAX_FILE).map_err(failed)?;
            held.extend(String::from_utf8_lossy(&lines).lines().filter_map(|line| Digest::parse(line).ok()));
        }
    }
    Ok(held)
}

/// Returns the process whose lease holds `digest`, if it is one other than this process.
pub(super) fn holder_of(disk: &dyn Disk, digest: &Digest) -> Option<String> {
    disk.read_dir(LEASES).ok()?.into_iter().find_map(|name| {
        let pid: u32 = name.split_once('-')?.0.parse().ok()?;
        let file = disk.open(&format!("{LEASES}/{name}"), OpenMode::Read).ok()?;
        let lines = read_shrinking(&*file, MAX_FILE).ok()?;
        let holds = String::from_utf8_lossy(&lines).lines().any(|line| line == digest.as_str());
        (holds && pid != std::process::id()).then(|| format!("process {pid}"))
    })
}

/// Reads a file that may become shorter meanwhile: a lease that ends empties it. The index names its blobs then.
fn read_shrinking(file: &dyn DiskFile, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut part = vec![0; 8 << 10];
    loop {
        let read = file.read_at(&mut part, bytes.len() as u64)?;
        match part.get(..read) {
            None | Some([]) => return Ok(bytes),
            Some(part) => bytes.extend_from_slice(part),
        }
        if bytes.len() as u64 > limit {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it is longer than {limit} bytes"),
            ));
        }
    }
}

fn lines<'a>(digests: impl Iterator<Item = &'a Digest>) -> String {
    digests.map(|digest| format!("{digest}\n")).collect()
}

impl LeaseFile {
    /// Creates and locks a file with a name that no other has.
    fn create(cx: &PullContext, disk: Arc<dyn Disk>) -> Result<Self, Error> {
        loop {
            let path = format!("{LEASES}/{}-{:016x}", std::process::id(), fastrand::u64(..));
            let file = retry_io::for_files(cx, "make a lease file", || disk.open(&path, OpenMode::Create))?;
            let collect_lock = retry_io::for_files(cx, "open the lock of collections", || {
                layout::open_lock(&*disk, COLLECT_LOCK)
            })?;
            let failed = |error: io::Error| refused(&error, format!("lock {path}"));
            // Another process may have removed it between the two steps, because it was not locked yet.
            let is_locked = file.try_lock(Lock::Exclusive).map_err(failed)?;
            if is_locked && file.metadata().map_err(failed)?.is_ours {
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
