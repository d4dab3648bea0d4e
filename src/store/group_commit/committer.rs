//! Commits batches: flush, rename, flush the folder, rewrite the index.

use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, bounded};
use parking_lot::Mutex;

use super::batch::{Batch, IndexChange, PendingCommit, Uncommitted, VerifiedBlob};
use super::index_file::IndexFile;
use crate::context::PullContext;
use crate::durable::{self, Disk, DiskFile, Flush, Metadata, OpenMode, max_open_files};
use crate::error::{Error, ErrorKind};
use crate::image::digest::{Algorithm, Digest};
use crate::store::error::refused;
use crate::store::index::StoreIndex;
use crate::store::layout::{self, BLOBS, OWN, PARTIALS};
use crate::store::lease::Lease;
use crate::store::retry_io;
use crate::sync::{BlockingPool, PoolUser, Semaphore};

/// Number of blobs that wait for their commit, each with an open file; fewer where the process may have few
/// open files. More wait for a place.
const WAITING_BLOBS: usize = 64;

/// Commits batches. Two threads, so that a store on a slow disk does not hold up another one.
static LEADERS: BlockingPool = BlockingPool::new("flush", 2);
/// Commits large blobs, and flushes partials.
static LARGE_BLOBS: BlockingPool = BlockingPool::new("flush-large", 3);

/// Keeps the threads that commit, until dropped.
pub(in crate::store) fn use_threads() -> [PoolUser; 2] {
    [LEADERS.enter(), LARGE_BLOBS.enter()]
}

/// Makes blobs and index durable.
#[derive(Debug)]
pub(in crate::store) struct GroupCommit {
    disk: Arc<dyn Disk>,
    flush: Flush,
    has_threads: bool,
    uncommitted: Mutex<Uncommitted>,
    index: IndexFile,
    /// Bounds the open files.
    waiting_blobs: Semaphore,
}

impl GroupCommit {
    /// Without threads, each caller commits what it brings on its own thread.
    pub(in crate::store) fn new(disk: Arc<dyn Disk>, flush: Flush, has_threads: bool) -> Arc<Self> {
        Arc::new(GroupCommit {
            index: IndexFile::new(disk.clone(), flush),
            disk,
            flush,
            has_threads,
            uncommitted: Mutex::default(),
            waiting_blobs: Semaphore::new(WAITING_BLOBS.min(max_open_files() / 8).max(1)),
        })
    }

    /// Gives a verified blob its name: at once if nothing is flushed, otherwise with the next batch. Then it
    /// returns what the image of the blob must wait for.
    ///
    /// # Errors
    /// `Cancelled`, `Timeout`, `Store`, `DiskFull`.
    pub(in crate::store) fn publish(
        self: &Arc<Self>,
        cx: &PullContext,
        digest: &Digest,
        partial: String,
        file: Arc<dyn DiskFile>,
    ) -> Result<Option<Arc<PendingCommit>>, Error> {
        if self.flush == Flush::Skip {
            self.rename(digest, &partial)?;
            return Ok(None);
        }
        self.enqueue(cx, digest, Some(partial), file).map(Some)
    }

    /// Flushes a blob that was found in the store, unless it is known to be durable. Returns what the image
    /// of the blob must wait for.
    ///
    /// # Errors
    /// `Cancelled`, `Timeout`, `Store`, `ResourceExhausted`.
    pub(in crate::store) fn ensure_durable(
        self: &Arc<Self>,
        cx: &PullContext,
        digest: &Digest,
        found: &Metadata,
    ) -> Result<Option<Arc<PendingCommit>>, Error> {
        if self.flush == Flush::Skip || self.uncommitted.lock().is_durable(digest, found.identity) {
            return Ok(None);
        }
        let path = layout::blob_path(digest);
        let file =
            retry_io::for_files(cx, &format!("open {path}"), || self.disk.open(&path, OpenMode::Read))?;
        self.enqueue(cx, digest, None, Arc::from(file)).map(Some)
    }

    fn enqueue(
        self: &Arc<Self>,
        cx: &PullContext,
        digest: &Digest,
        partial: Option<String>,
        file: Arc<dyn DiskFile>,
    ) -> Result<Arc<PendingCommit>, Error> {
        let metadata = file.metadata().map_err(|error| refused(&error, format!("look at {digest}")))?;
        let permit = cx.wait_for(self.waiting_blobs.acquire().granted())?;
        let pending = PendingCommit::new(metadata.len);
        self.uncommitted.lock().push_blob(VerifiedBlob {
            digest: digest.clone(),
            partial,
            identity: metadata.identity,
            file,
            pending: pending.clone(),
            _permit: permit,
        });
        if pending.is_large() {
            self.run_in(&LARGE_BLOBS, |this, _| this.commit_large());
        } else {
            self.ensure_leader(true);
        }
        Ok(pending)
    }

    /// Begins to flush a partial whose bytes still arrive, and its name; the receiver gets the outcome. A
    /// partial that cannot be flushed loses its name, because it must not be used again. Returns `None`
    /// if there is no thread for it.
    pub(in crate::store) fn flush_partial(
        &self,
        path: &str,
        file: &Arc<dyn DiskFile>,
    ) -> Option<Receiver<io::Result<()>>> {
        let (reply, replied) = bounded(1);
        let (disk, path, file) = (self.disk.clone(), path.to_owned(), Arc::clone(file));
        let flush = move || {
            let outcome = file.sync().and_then(|()| {
                // Nothing else makes the folder of partials durable.
                [PARTIALS, OWN].into_iter().try_for_each(|folder| disk.sync_dir(folder))
            });
            if outcome.is_err() {
                drop(disk.unlink(&path));
            }
            drop(file);
            // The download may have ended.
            let _ = reply.send(outcome);
        };
        match self.has_threads {
            true => LARGE_BLOBS.run(flush).ok()?,
            false => flush(),
        }
        Some(replied)
    }

    /// Returns the commit of a blob that is verified and does not have its name yet.
    pub(in crate::store) fn pending(&self, digest: &Digest) -> Option<Arc<PendingCommit>> {
        self.uncommitted.lock().pending(digest)
    }

    /// Changes the index once all of `needs` is durable, and waits until the change is durable, too. `lease`
    /// is kept until then.
    ///
    /// # Errors
    /// `Cancelled`, `Timeout`: the change is not made, unless it has begun. `Store`, `DiskFull`; `Panicked` if
    /// `edit` panics.
    pub(in crate::store) fn change_index(
        self: &Arc<Self>,
        cx: &PullContext,
        needs: Vec<Arc<PendingCommit>>,
        lease: Option<Arc<Lease>>,
        edit: impl FnOnce(&mut StoreIndex) -> bool + Send + 'static,
    ) -> Result<(), Error> {
        cx.check()?;
        // Set by the leader that begins the change, or by the caller that leaves before.
        let is_decided = Arc::new(AtomicBool::new(false));
        let begins = Arc::clone(&is_decided);
        let edit = Box::new(move |index: &mut _| !begins.swap(true, Ordering::AcqRel) && edit(index));
        let (reply, replied) = bounded(1);
        self.uncommitted.lock().push_change(IndexChange { needs, edit, lease, reply });
        // Another process may hold the lock of the index: a caller that can leave must not wait for it.
        self.ensure_leader(cx.cancel_token().is_some() || cx.deadline().is_some());
        let replied = cx.wait_for(&replied).inspect_err(|_| is_decided.store(true, Ordering::Release));
        replied?.unwrap_or_else(|| {
            Err(Error::new(ErrorKind::Panicked, "the thread that wrote the index panicked"))
        })
    }

    /// Returns the index as it is now. Reads the file only if another process wrote it.
    pub(in crate::store) fn index(&self) -> Result<Arc<StoreIndex>, Error> {
        self.index.read()
    }

    /// Appoints a leader if one is needed: a thread of the pool, or this one.
    fn ensure_leader(self: &Arc<Self>, in_pool: bool) {
        let is_needed = self.uncommitted.lock().appoint_leader();
        match (is_needed, in_pool) {
            (false, _) => {}
            (true, true) => self.run_in(&LEADERS, Self::lead),
            (true, false) => self.lead(self.has_threads),
        }
    }

    /// Commits a batch; if more is ready then, commits it here, too, or hands the leadership on to the pool.
    fn lead(self: &Arc<Self>, hands_on: bool) {
        while let Some(batch) = self.take_batch() {
            self.commit_batch(batch);
            if hands_on && self.uncommitted.lock().is_ready() {
                return self.run_in(&LEADERS, Self::lead);
            }
        }
    }

    fn take_batch(&self) -> Option<Batch> {
        self.uncommitted.lock().take_batch()
    }

    /// Commits one of the large blobs, then the changes that waited for it.
    fn commit_large(self: &Arc<Self>) {
        let batch = self.uncommitted.lock().take_large();
        if let Some(batch) = batch {
            self.commit_batch(batch);
            self.ensure_leader(true);
        }
    }

    /// Does the work on a thread of the pool, or on this one without threads.
    fn run_in(self: &Arc<Self>, pool: &'static BlockingPool, work: CommitWork) {
        let job = CommitJob { committer: self.clone(), work: Some(work) };
        if self.has_threads {
            // An error has dropped the job, and so has done its work.
            let _ = pool.run(move || job.run());
        }
    }

    /// Commits a batch. A panic fails all of it that has no outcome yet.
    fn commit_batch(&self, Batch { blobs, changes }: Batch) {
        let pending: Vec<_> = blobs.iter().map(|blob| (blob.digest.clone(), blob.pending.clone())).collect();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            self.commit_blobs(blobs);
            self.make_changes(changes);
        }));
        if outcome.is_err() {
            log::error!("a thread that committed blobs and index changes panicked");
            let error = Error::new(ErrorKind::Panicked, "the thread that committed the blob panicked");
            self.uncommitted.lock().fail(pending, &error);
        }
    }

    /// Makes the blobs durable under their names.
    fn commit_blobs(&self, blobs: Vec<VerifiedBlob>) {
        if blobs.is_empty() {
            return;
        }
        let flushed = self.flush_new_files(&blobs);
        let named: Vec<_> = blobs
            .iter()
            .map(|blob| match &blob.partial {
                Some(partial) => flushed.clone().and_then(|()| self.rename(&blob.digest, partial)),
                None => self.flush_found(blob),
            })
            .collect();
        let folders = self.flush_folders(&blobs);
        let outcomes = named.into_iter().map(|named| named.and_then(|()| folders.clone()));
        // The files are closed before their waiters wake: removing one then frees its space at once.
        let committed: Vec<_> =
            blobs.into_iter().zip(outcomes).map(|(blob, outcome)| (blob.close(), outcome)).collect();
        for (blob, outcome) in &committed {
            if let (Err(_), Some(partial)) = (outcome, &blob.partial) {
                drop(self.disk.unlink(partial));
            }
        }
        self.uncommitted.lock().complete(committed);
    }

    /// Flushes the files that have no names yet. If that fails, none of them is used: the error does not
    /// say which file it concerns, and a second flush of that file would succeed without its data.
    fn flush_new_files(&self, blobs: &[VerifiedBlob]) -> Result<(), Error> {
        let files: Vec<_> =
            blobs.iter().filter(|blob| blob.partial.is_some()).map(|blob| &*blob.file).collect();
        self.disk.sync_files(&files).map_err(|error| refused(&error, "flush a blob"))
    }

    /// Flushes a blob that other images may use, too. It is flushed by itself, so that an error moves only
    /// this one aside.
    fn flush_found(&self, blob: &VerifiedBlob) -> Result<(), Error> {
        let flushed = blob.file.sync();
        if flushed.is_err() {
            let _ = self.disk.rename(&layout::blob_path(&blob.digest), &layout::damaged_path(&blob.digest));
        }
        flushed.map_err(|error| refused(&error, format!("flush {}", blob.digest)))
    }

    fn rename(&self, digest: &Digest, partial: &str) -> Result<(), Error> {
        let path = layout::blob_path(digest);
        let outcome = match self.disk.rename(partial, &path) {
            // The algorithm's first blob: its folder is missing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                durable::create_dirs(&*self.disk, durable::parent(&path), self.flush)
                    .and_then(|()| self.disk.rename(partial, &path))
            }
            outcome => outcome,
        };
        outcome.map_err(|error| refused(&error, format!("put {digest} under its name")))
    }

    fn flush_folders(&self, blobs: &[VerifiedBlob]) -> Result<(), Error> {
        let paths: Vec<_> = blobs.iter().map(|blob| layout::blob_path(&blob.digest)).collect();
        let mut folders: BTreeSet<_> = paths.iter().map(|path| durable::parent(path)).collect();
        // Opening a store creates and flushes the folder of SHA-256 only.
        if blobs.iter().any(|blob| blob.digest.algorithm() != Algorithm::Sha256) {
            folders.insert(BLOBS);
        }
        folders
            .into_iter()
            .try_for_each(|folder| self.disk.sync_dir(folder))
            .map_err(|error| refused(&error, "flush the folder of blobs"))
    }

    /// Makes all changes whose blobs are committed by one rewrite of the index.
    fn make_changes(&self, changes: Vec<IndexChange>) {
        let (mut edits, mut leases, mut replies) = (Vec::new(), Vec::new(), Vec::new());
        for change in changes {
            let failed = change.failed_need();
            let IndexChange { edit, lease, reply, .. } = change;
            match failed {
                Some(error) => {
                    drop(lease);
                    let _ = reply.try_send(Err(error));
                }
                None => {
                    edits.push(edit);
                    leases.push(lease);
                    replies.push(reply);
                }
            }
        }
        if edits.is_empty() {
            return;
        }
        let outcome = self.index.edit(edits);
        // A caller that has its reply may remove the image at once.
        drop(leases);
        for reply in replies {
            // A caller that left has dropped its receiver.
            let _ = reply.try_send(outcome.clone());
        }
    }
}

/// Is told whether it may hand on to the pool what is left to do.
type CommitWork = fn(&Arc<GroupCommit>, bool);

/// Work for a pool. A pool that can start no thread drops its jobs: the thread that drops this one does the
/// work, so that no blob is left without an outcome and no batch without a leader.
struct CommitJob {
    committer: Arc<GroupCommit>,
    work: Option<CommitWork>,
}

impl CommitJob {
    fn run(mut self) {
        if let Some(work) = self.work.take() {
            work(&self.committer, true);
        }
    }
}

impl Drop for CommitJob {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            work(&self.committer, false);
        }
    }
}
