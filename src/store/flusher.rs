//! Group commit: all that is ready at the same moment is made durable by the same few flushes.
//!
//! Blobs that were verified and changes of the index queue up here. Whoever works takes all that has
//! gathered: flushes the blobs' files, renames them, flushes their folder once, and rewrites
//! `index.json` once for all names that waited. While that goes on the next group gathers, so that
//! the slower the disk, the larger the groups. A large blob is flushed by itself, beside the group:
//! small pulls do not wait for it.
//!
//! What was found in the store is not believed to be durable either: another tool, or a process that
//! was killed, may not have flushed it. It joins the group once, and is remembered.
//!
//! Nobody can interrupt a flush, but who waits for one can leave: the work is done on threads of its
//! own, `flush-N`, that live as long as there is any. Who cannot leave does it himself.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use crate::context::PullContext;
use crate::durable::{self, Access, Disk, DiskFile, Flush, Lock, Metadata};
use crate::error::{Error, ErrorKind};
use crate::image::digest::{Algorithm, Digest};
use crate::store::index::Index;
use crate::store::layout::{self, BLOBS, INDEX, INDEX_LOCK};
use crate::store::{refused, wait};

/// A blob of this many bytes or more is flushed by itself.
const LARGE: u64 = 1 << 20;
/// Threads of one store.
const THREADS: usize = 4;
/// Blobs that wait for their flush, each with an open file; who brings more waits.
const WAITING_BLOBS: usize = 64;
/// Blobs that are remembered to be durable; what is forgotten is flushed once more.
const REMEMBERED: usize = 50_000;
const STACK: usize = 512 << 10;

/// Makes blobs and index durable, many at a time.
#[derive(Debug)]
pub(super) struct Flusher {
    disk: Arc<dyn Disk>,
    flush: Flush,
    threads: usize,
    queue: Mutex<Queue>,
    index: Mutex<Option<KnownIndex>>,
    index_lock: Mutex<Option<Box<dyn DiskFile>>>,
    places: (Sender<()>, Receiver<()>),
}

#[derive(Debug, Default)]
struct Queue {
    large: VecDeque<Verified>,
    small: Vec<Verified>,
    changes: Vec<Change>,
    /// Blobs that are verified, and not yet under their names.
    unsettled: HashMap<Digest, Arc<Awaited>>,
    /// Blobs that are known to be durable, each by its file's identity.
    durable: HashMap<Digest, (u64, u64)>,
    /// Somebody is at work on a group.
    is_grouping: bool,
    working: usize,
}

/// The index as it was read or written last.
#[derive(Debug)]
struct KnownIndex {
    file: Metadata,
    index: Index,
    is_durable: bool,
}

/// A blob whose bytes are known to be right, in a file that is not yet durable.
#[derive(Debug)]
struct Verified {
    digest: Digest,
    /// Where it is, if it is not under its name yet.
    partial: Option<String>,
    file: Box<dyn DiskFile>,
    identity: (u64, u64),
    awaited: Arc<Awaited>,
    _place: Place,
}

/// A blob whose file was closed.
struct Settled {
    digest: Digest,
    partial: Option<String>,
    identity: (u64, u64),
    awaited: Arc<Awaited>,
}

impl Verified {
    fn closed(self) -> Settled {
        let Verified { digest, partial, identity, awaited, .. } = self;
        Settled { digest, partial, identity, awaited }
    }
}

/// One of the places for blobs that wait; given back when dropped.
#[derive(Debug)]
struct Place(Sender<()>);

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.0.try_send(());
    }
}

/// A blob that will be durable, or an error.
#[derive(Debug)]
pub(super) struct Awaited {
    size: u64,
    outcome: OnceLock<Result<(), Error>>,
}

/// A change of the index that waits for its blobs, and who waits for it.
struct Change {
    needs: Vec<Arc<Awaited>>,
    edit: Edit,
    answer: Sender<Result<(), Error>>,
}

/// Changes the index, and says whether it did.
type Edit = Box<dyn FnOnce(&mut Index) -> bool + Send>;

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Change").field("needs", &self.needs).finish_non_exhaustive()
    }
}

enum Job {
    Large(Verified),
    Group(Vec<Verified>, Vec<Change>),
}

impl Flusher {
    /// Works on up to four threads; with none, on those of its callers.
    pub(super) fn new(disk: Arc<dyn Disk>, flush: Flush, has_threads: bool) -> Arc<Self> {
        let places = bounded(WAITING_BLOBS);
        for _ in 0..WAITING_BLOBS {
            let _ = places.0.try_send(());
        }
        let threads = if has_threads { THREADS } else { 0 };
        Arc::new(Flusher {
            disk,
            flush,
            threads,
            queue: Mutex::default(),
            index: Mutex::default(),
            index_lock: Mutex::default(),
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
        if self.flush == Flush::Skip || self.queue.lock().durable.get(digest) == Some(&found.identity) {
            return Ok(None);
        }
        let path = layout::blob_path(digest);
        let file = wait::for_files(cx, &format!("open {path}"), || self.disk.open(&path, Access::Read))?;
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
        let awaited = Arc::new(Awaited { size: metadata.len, outcome: OnceLock::new() });
        let blob = Verified {
            digest: digest.clone(),
            partial,
            identity: metadata.identity,
            file,
            awaited: awaited.clone(),
            _place: Place(self.places.0.clone()),
        };
        let mut queue = self.queue.lock();
        queue.unsettled.insert(digest.clone(), awaited.clone());
        match awaited.is_large() {
            true => queue.large.push_back(blob),
            false => queue.small.push(blob),
        }
        drop(queue);
        self.set_to_work(true);
        Ok(awaited)
    }

    /// The blob's outcome, if it is verified and on its way to its name.
    pub(super) fn unsettled(&self, digest: &Digest) -> Option<Arc<Awaited>> {
        self.queue.lock().unsettled.get(digest).cloned()
    }

    /// Changes the index when all of `needs` is durable, and waits until that is durable, too.
    pub(super) fn change(
        self: &Arc<Self>,
        cx: &PullContext,
        needs: Vec<Arc<Awaited>>,
        edit: impl FnOnce(&mut Index) -> bool + Send + 'static,
    ) -> Result<(), Error> {
        cx.check()?;
        let (answer, answered) = bounded(1);
        self.queue.lock().changes.push(Change { needs, edit: Box::new(edit), answer });
        let may_leave = cx.cancel_token().is_some() || cx.deadline().is_some();
        self.set_to_work(may_leave && self.flush == Flush::Wait);
        cx.wait_for(&answered)?.unwrap_or_else(|| {
            Err(Error::new(ErrorKind::Panicked, "the thread that wrote the index panicked"))
        })
    }

    /// The index as it is now; read again only if somebody else wrote it.
    pub(super) fn index(&self) -> Result<Index, Error> {
        let mut cached = self.index.lock();
        if let Some(known) = &*cached
            && self.disk.metadata(INDEX).is_ok_and(|now| now == known.file)
        {
            return Ok(known.index.clone());
        }
        let (index, file) = layout::read_index(&*self.disk)?;
        *cached = file.map(|file| KnownIndex { file, index: index.clone(), is_durable: false });
        Ok(index)
    }

    /// Finds somebody for the work that has gathered: another thread, or this one.
    fn set_to_work(self: &Arc<Self>, elsewhere: bool) {
        {
            let mut queue = self.queue.lock();
            if !queue.has_job() || queue.working >= self.threads.max(1) {
                return;
            }
            queue.working += 1;
            if elsewhere && self.start_thread(queue.working) {
                return;
            }
        }
        self.work(true);
    }

    /// Starts a thread to work, unless none is to be had.
    fn start_thread(self: &Arc<Self>, number: usize) -> bool {
        let flusher = self.clone();
        let thread = std::thread::Builder::new().name(format!("flush-{number}")).stack_size(STACK);
        self.threads > 0 && thread.spawn(move || flusher.work(false)).is_ok()
    }

    /// Works until there is nothing to do; a caller's own thread hands on after the first job.
    fn work(self: &Arc<Self>, is_callers: bool) {
        while let Some(job) = self.next_job() {
            self.get_help();
            match job {
                Job::Large(blob) => self.settle(vec![blob]),
                Job::Group(blobs, changes) => {
                    self.settle(blobs);
                    self.make(changes);
                    self.queue.lock().is_grouping = false;
                }
            }
            if is_callers && self.queue.lock().has_job() && self.start_thread(1) {
                return;
            }
        }
    }

    /// A large blob beside a group: another thread can have one of them.
    fn get_help(self: &Arc<Self>) {
        let mut queue = self.queue.lock();
        if queue.has_job() && queue.working < self.threads && self.start_thread(queue.working + 1) {
            queue.working += 1;
        }
    }

    fn next_job(&self) -> Option<Job> {
        let mut queue = self.queue.lock();
        if queue.has_group() {
            queue.is_grouping = true;
            let changes = std::mem::take(&mut queue.changes);
            let (ready, waiting) = changes.into_iter().partition(Change::is_ready);
            queue.changes = waiting;
            return Some(Job::Group(std::mem::take(&mut queue.small), ready));
        }
        let large = queue.large.pop_front().map(Job::Large);
        if large.is_none() {
            queue.working -= 1;
        }
        large
    }

    /// Makes the blobs durable, and puts them under their names.
    fn settle(&self, blobs: Vec<Verified>) {
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
        let mut queue = self.queue.lock();
        if queue.durable.len() > REMEMBERED {
            queue.durable.clear();
        }
        for (blob, outcome) in settled {
            queue.unsettled.remove(&blob.digest);
            if outcome.is_ok() {
                queue.durable.insert(blob.digest, blob.identity);
            }
            let _ = blob.awaited.outcome.set(outcome);
        }
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
        let outcome = self.edit_index(edits);
        for answer in answers {
            // Who asked may have left.
            let _ = answer.try_send(outcome.clone());
        }
    }

    fn edit_index(&self, edits: Vec<Edit>) -> Result<(), Error> {
        // Whoever waits for this can leave; the lock itself is held briefly by whoever holds it.
        let cx = PullContext::new();
        let mut lock = self.index_lock.lock();
        if lock.is_none() {
            let open = || layout::open_lock(&*self.disk, INDEX_LOCK);
            *lock = Some(wait::for_files(&cx, "open the lock of the index", open)?);
        }
        let Some(file) = &*lock else { return Ok(()) };
        wait::lock(&cx, &**file, Lock::Exclusive, INDEX_LOCK)?;
        let outcome = self.edit_locked(&cx, edits);
        if file.unlock().is_err() {
            // Closing it does, too.
            *lock = None;
        }
        outcome
    }

    fn edit_locked(&self, cx: &PullContext, edits: Vec<Edit>) -> Result<(), Error> {
        let mut index = wait_for_index(cx, self)?;
        let mut changed = false;
        for edit in edits {
            changed |= edit(&mut index);
        }
        if !changed && self.is_index_durable() {
            return Ok(());
        }
        wait::for_files(cx, &format!("write {INDEX}"), || self.write_index(&index))
    }

    /// Whether the index as it was read needs no flush: one of our own, or one that nobody waits for.
    fn is_index_durable(&self) -> bool {
        self.flush == Flush::Skip || self.index.lock().as_ref().is_some_and(|known| known.is_durable)
    }

    fn write_index(&self, index: &Index) -> io::Result<()> {
        let mut cached = self.index.lock();
        *cached = None;
        let file = layout::write_index(&*self.disk, &index.print(), self.flush)?;
        *cached = Some(KnownIndex { file, index: index.clone(), is_durable: true });
        Ok(())
    }
}

/// The index, once there is a file descriptor for it.
fn wait_for_index(cx: &PullContext, flusher: &Flusher) -> Result<Index, Error> {
    let mut pauses = wait::Pauses::new();
    loop {
        match flusher.index() {
            Err(error) if error.kind() == ErrorKind::ResourceExhausted && pauses.may_go_on() => {
                pauses.wait(cx)?
            }
            outcome => return outcome,
        }
    }
}

impl Queue {
    fn has_group(&self) -> bool {
        !self.is_grouping && (!self.small.is_empty() || self.changes.iter().any(Change::is_ready))
    }

    fn has_job(&self) -> bool {
        self.has_group() || !self.large.is_empty()
    }
}

impl Change {
    /// Whether its blobs have settled, or will with the group that takes it along: that takes all
    /// small ones.
    fn is_ready(&self) -> bool {
        self.needs.iter().all(|need| !need.is_large() || need.outcome.get().is_some())
    }

    fn failed_need(&self) -> Option<Error> {
        self.needs.iter().find_map(|need| need.outcome.get()?.as_ref().err().cloned())
    }
}

impl Awaited {
    /// The blob's size, bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    fn is_large(&self) -> bool {
        self.size >= LARGE
    }

    /// Waits until the blob is durable, or will not be.
    pub(super) fn wait(&self) -> Result<(), Error> {
        self.outcome.wait().clone()
    }
}
