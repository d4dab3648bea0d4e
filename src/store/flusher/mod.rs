//! Group commit: all that is ready at about the same moment is made durable by the same few flushes.
//!
//! Blobs that were verified and changes of the index queue up here. Whoever leads a group takes all
//! that has gathered: flushes the blobs' files, renames them, flushes their folder once, and rewrites
//! `index.json` once for all names that waited. While that goes on the next group gathers, so that
//! the slower the disk, the larger the groups. While changes come thick each also waits, a few
//! milliseconds at most, for the other pulls in flight ([`Queue::due`]); a small blob that nobody
//! waits for stays for its image's change. A large blob is flushed by itself, beside the group: small
//! pulls do not wait for it.
//!
//! What was found in the store is not believed to be durable either: another tool, or a process that
//! was killed, may not have flushed it. It joins the group once, and is remembered.
//!
//! Nobody can interrupt a flush, but who waits for one can leave: the work is done on threads of its
//! own, `flush-N`. Who cannot leave does it himself.

mod known;
mod queue;

use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::context::PullContext;
use crate::durable::{self, Disk, DiskFile, Flush, Metadata, OpenMode};
use crate::error::{Error, ErrorKind};
use crate::image::digest::{Algorithm, Digest};
use crate::store::error::refused;
use crate::store::index::StoreIndex;
use crate::store::layout::{self, BLOBS};
use crate::store::retry_io;
use crate::sync::BlockingPool;
use known::KnownIndex;
pub(super) use queue::Awaited;
use queue::{Change, Due, Group, Patience, Place, Queue, Verified, WAITING_BLOBS};

/// Large blobs of a store that are flushed at the same time.
const LARGE_AT_ONCE: usize = 3;

/// One thread of the process is left for groups, as far as no other store flushes large blobs, too.
static WORKERS: BlockingPool = BlockingPool::new("flush", LARGE_AT_ONCE + 1);

/// Makes blobs and index durable, many at a time.
#[derive(Debug)]
pub(super) struct Flusher {
    disk: Arc<dyn Disk>,
    flush: Flush,
    has_threads: bool,
    patience: Patience,
    /// How many pulls are in flight.
    pulls: Arc<AtomicUsize>,
    queue: Mutex<Queue>,
    /// Wakes who gathers a group.
    came: Condvar,
    index: KnownIndex,
    places: (Sender<()>, Receiver<()>),
}

impl Flusher {
    /// Works on threads of its own; without, on those of its callers, when somebody waits for it.
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        flush: Flush,
        pulls: Arc<AtomicUsize>,
        has_threads: bool,
    ) -> Arc<Self> {
        let places = bounded(WAITING_BLOBS);
        for _ in 0..WAITING_BLOBS {
            let _ = places.0.try_send(());
        }
        Arc::new(Flusher {
            index: KnownIndex::new(disk.clone(), flush),
            disk,
            flush,
            has_threads,
            patience: if has_threads { Patience::with(flush) } else { Patience::NONE },
            pulls,
            queue: Mutex::default(),
            came: Condvar::new(),
            places,
        })
    }

    /// Puts a verified blob under its name: at once if nothing is flushed, and else soon; then what
    /// is returned is what the blob's image must wait for.
    pub(super) fn publish(
        self: &Arc<Self>,
        cx: &PullContext,
        digest: &Digest,
        partial: String,
        file: Box<dyn DiskFile>,
    ) -> Result<Option<Arc<Awaited>>, Error> {
        if self.flush == Flush::Skip {
            self.rename(digest, &partial)?;
            return Ok(None);
        }
        self.enqueue(cx, digest, Some(partial), file).map(Some)
    }

    /// Makes sure that a blob which was found in the store is durable. What is returned is what its
    /// image must wait for.
    pub(super) fn assure(
        self: &Arc<Self>,
        cx: &PullContext,
        digest: &Digest,
        found: &Metadata,
    ) -> Result<Option<Arc<Awaited>>, Error> {
        if self.flush == Flush::Skip || self.queue.lock().is_durable(digest, found.identity) {
            return Ok(None);
        }
        let path = layout::blob_path(digest);
        let file =
            retry_io::for_files(cx, &format!("open {path}"), || self.disk.open(&path, OpenMode::Read))?;
        self.enqueue(cx, digest, None, file).map(Some)
    }

    fn enqueue(
        self: &Arc<Self>,
        cx: &PullContext,
        digest: &Digest,
        partial: Option<String>,
        file: Box<dyn DiskFile>,
    ) -> Result<Arc<Awaited>, Error> {
        let metadata = file.metadata().map_err(|error| refused(&error, format!("look at {digest}")))?;
        cx.wait_for(&self.places.1)?;
        let awaited = Awaited::new(metadata.len);
        let mut queue = self.queue.lock();
        queue.push_blob(Verified {
            digest: digest.clone(),
            partial,
            identity: metadata.identity,
            file,
            awaited: awaited.clone(),
            since: Instant::now(),
            _place: Place(self.places.0.clone()),
        });
        match awaited.is_large() {
            true => self.see_to_large(queue),
            false if self.has_threads || self.due(&queue) == Due::Now => self.see_to_group(queue, false),
            // It can wait: who needs it will see to it.
            false => {}
        }
        Ok(awaited)
    }

    /// The blob's outcome, if it is verified and on its way to its name.
    pub(super) fn unsettled(&self, digest: &Digest) -> Option<Arc<Awaited>> {
        self.queue.lock().unsettled(digest)
    }

    /// Waits until these blobs are under their names, or will not be.
    pub(super) fn settle(self: &Arc<Self>, blobs: &[Arc<Awaited>]) -> Result<(), Error> {
        if blobs.iter().any(|blob| !blob.is_settled()) {
            let mut queue = self.queue.lock();
            queue.is_hurried = true;
            self.see_to_group(queue, false);
        }
        // All are waited for, also when one fails.
        let outcomes: Vec<_> = blobs.iter().map(|blob| blob.wait()).collect();
        outcomes.into_iter().collect()
    }

    /// Changes the index when all of `needs` is durable, and waits until that is durable, too.
    pub(super) fn change(
        self: &Arc<Self>,
        cx: &PullContext,
        needs: Vec<Arc<Awaited>>,
        edit: impl FnOnce(&mut StoreIndex) -> bool + Send + 'static,
    ) -> Result<(), Error> {
        cx.check()?;
        let (answer, answered) = bounded(1);
        let mut queue = self.queue.lock();
        queue.push_change(Change { needs, edit: Box::new(edit), answer, since: Instant::now() });
        let may_leave = cx.cancel_token().is_some() || cx.deadline().is_some();
        self.see_to_group(queue, self.flush == Flush::Skip || !may_leave);
        cx.wait_for(&answered)?.unwrap_or_else(|| {
            Err(Error::new(ErrorKind::Panicked, "the thread that wrote the index panicked"))
        })
    }

    /// The index as it is now; read again only if somebody else wrote it.
    pub(super) fn index(&self) -> Result<StoreIndex, Error> {
        self.index.read()
    }

    /// Finds somebody to flush the large blobs: another thread, or this one.
    fn see_to_large(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue>) {
        if queue.flushing_large == LARGE_AT_ONCE {
            return;
        }
        queue.flushing_large += 1;
        drop(queue);
        if !self.elsewhere(Self::flush_large) {
            self.flush_large();
        }
    }

    /// Flushes large blobs as long as there are any, and no other store waits for the thread.
    fn flush_large(self: &Arc<Self>) {
        while let Some(blob) = self.next_large() {
            self.work_off(Group { blobs: vec![blob], changes: Vec::new() });
            // A change may have waited for it.
            self.see_to_group(self.queue.lock(), false);
            if WORKERS.has_waiting() && self.elsewhere(Self::flush_large) {
                return;
            }
        }
    }

    fn next_large(&self) -> Option<Verified> {
        let mut queue = self.queue.lock();
        let blob = queue.large.pop_front();
        if blob.is_none() {
            queue.flushing_large -= 1;
        }
        blob
    }

    /// Wakes who gathers the next group, or finds somebody for it: another thread, or this one.
    fn see_to_group(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue>, here: bool) {
        let due = self.due(&queue);
        if queue.is_led {
            if queue.looks_at.is_some_and(|at| due.is_before(at)) {
                self.came.notify_one();
            }
            return;
        }
        if due == Due::Never {
            return;
        }
        queue.is_led = true;
        drop(queue);
        if here {
            self.lead(self.patience, true);
        } else if !self.elsewhere(|flusher| flusher.lead(flusher.patience, false)) {
            self.lead(Patience::NONE, true);
        }
    }

    /// Does `work` on another thread, if there is one.
    fn elsewhere(self: &Arc<Self>, work: impl FnOnce(&Arc<Self>) + Send + 'static) -> bool {
        let flusher = self.clone();
        self.has_threads && WORKERS.run(move || work(&flusher)).is_ok()
    }

    /// Sees to groups until nothing gathers any more; to one of them on a caller's own thread, or on one
    /// that another store waits for.
    fn lead(self: &Arc<Self>, patience: Patience, is_callers: bool) {
        while let Some(group) = self.gather(patience) {
            self.work_off(group);
            let goes_on = || self.due(&self.queue.lock()) != Due::Never;
            if (is_callers || WORKERS.has_waiting())
                && goes_on()
                && self.elsewhere(|flusher| flusher.lead(flusher.patience, false))
            {
                return;
            }
        }
    }

    /// Makes a group durable. If that panics all of it has failed, and the next group is none the worse.
    fn work_off(&self, Group { blobs, changes }: Group) {
        let promised: Vec<_> = blobs.iter().map(|blob| (blob.digest.clone(), blob.awaited.clone())).collect();
        let done = catch_unwind(AssertUnwindSafe(|| {
            self.make_durable(blobs);
            self.make(changes);
        }));
        if done.is_err() {
            log::error!("a thread that flushed blobs and index panicked");
            let error = Error::new(ErrorKind::Panicked, "the thread that flushed it panicked");
            self.queue.lock().give_up(promised, &error);
        }
    }

    /// Waits until a group is due; `None` when nobody leads any more, for there is nothing to gather.
    fn gather(&self, patience: Patience) -> Option<Group> {
        let mut queue = self.queue.lock();
        loop {
            match queue.due(self.pulls.load(Ordering::Relaxed), patience) {
                Due::Now => return Some(queue.take_group()),
                Due::At(instant) => {
                    queue.looks_at = Some(instant);
                    self.came.wait_until(&mut queue, instant);
                    queue.looks_at = None;
                }
                Due::Never => {
                    queue.is_led = false;
                    return None;
                }
            }
        }
    }

    fn due(&self, queue: &Queue) -> Due {
        queue.due(self.pulls.load(Ordering::Relaxed), self.patience)
    }

    /// Makes the blobs durable, and puts them under their names.
    fn make_durable(&self, blobs: Vec<Verified>) {
        if blobs.is_empty() {
            return;
        }
        let flushed = self.flush_new_files(&blobs);
        let placed: Vec<_> = blobs
            .iter()
            .map(|blob| match &blob.partial {
                Some(partial) => flushed.clone().and_then(|()| self.rename(&blob.digest, partial)),
                None => self.flush_found(blob),
            })
            .collect();
        let folders = self.flush_folders(&blobs);
        let outcomes = placed.into_iter().map(|placed| placed.and_then(|()| folders.clone()));
        // Closed before the answer: what is removed then gives its room back at once.
        let settled: Vec<_> =
            blobs.into_iter().zip(outcomes).map(|(blob, outcome)| (blob.closed(), outcome)).collect();
        for (blob, outcome) in &settled {
            if let (Err(_), Some(partial)) = (outcome, &blob.partial) {
                drop(self.disk.unlink(partial));
            }
        }
        self.queue.lock().settle(settled);
    }

    /// If this fails nobody knows which of the files it was, nor may one be flushed again: all are
    /// thrown away.
    fn flush_new_files(&self, blobs: &[Verified]) -> Result<(), Error> {
        let files: Vec<_> =
            blobs.iter().filter(|blob| blob.partial.is_some()).map(|blob| &*blob.file).collect();
        self.disk.sync_files(&files).map_err(|error| refused(&error, "flush a blob"))
    }

    /// Flushes a blob that other images may use, too: by itself, so that only the one goes that fails.
    fn flush_found(&self, blob: &Verified) -> Result<(), Error> {
        let flushed = blob.file.sync();
        if flushed.is_err() {
            let _ = self.disk.rename(&layout::blob_path(&blob.digest), &layout::damaged_path(&blob.digest));
        }
        flushed.map_err(|error| refused(&error, format!("flush {}", blob.digest)))
    }

    fn rename(&self, digest: &Digest, partial: &str) -> Result<(), Error> {
        let path = layout::blob_path(digest);
        let outcome = match self.disk.rename(partial, &path) {
            // The first blob by its algorithm.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                durable::create_dirs(&*self.disk, durable::parent(&path), self.flush)
                    .and_then(|()| self.disk.rename(partial, &path))
            }
            outcome => outcome,
        };
        outcome.map_err(|error| refused(&error, format!("put {digest} under its name")))
    }

    fn flush_folders(&self, blobs: &[Verified]) -> Result<(), Error> {
        let paths: Vec<_> = blobs.iter().map(|blob| layout::blob_path(&blob.digest)).collect();
        let mut folders: BTreeSet<_> = paths.iter().map(|path| durable::parent(path)).collect();
        // Only the folder of SHA-256 is made, and flushed, when a store is opened.
        if blobs.iter().any(|blob| blob.digest.algorithm() != Algorithm::Sha256) {
            folders.insert(BLOBS);
        }
        folders
            .into_iter()
            .try_for_each(|folder| self.disk.sync_dir(folder))
            .map_err(|error| refused(&error, "flush the folder of blobs"))
    }

    /// Makes those changes of the index whose blobs have come to stand, by one rewrite.
    fn make(&self, changes: Vec<Change>) {
        let mut edits = Vec::new();
        let mut answers = Vec::new();
        for change in changes {
            match change.failed_need() {
                Some(error) => drop(change.answer.try_send(Err(error))),
                None => {
                    edits.push(change.edit);
                    answers.push(change.answer);
                }
            }
        }
        if edits.is_empty() {
            return;
        }
        let outcome = self.index.edit(edits);
        for answer in answers {
            // Who asked may have left.
            let _ = answer.try_send(outcome.clone());
        }
    }
}
