//! The threads that fetch one image's blobs.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, Scope};

use parking_lot::{Condvar, Mutex};

use super::Tally;
use super::blob::Fetch;
use super::pieces::Shared;
use crate::context::CancelToken;
use crate::error::{Error, ErrorKind, Phase};
use crate::image::manifest::Descriptor;
use crate::progress::ProgressEvent;
use crate::registry::Settings;
use crate::registry::ask::Repository;
use crate::registry::governor::Slot;
use crate::store::{Begun, Ingest, Lease};

/// Bytes that one thread fetches alone where a host answers soon.
const LITTLE: u64 = 128 << 10;

/// Starts with the pull's own thread; whoever takes something up starts another if there is more. So a
/// pull has a thread for each thing that it does, and one for all that it waits for other pulls to do.
pub(super) struct Crew<'a, 'r> {
    pub(super) repository: &'a Repository<'r>,
    pub(super) stop: &'a CancelToken,
    lease: &'a Lease,
    config: &'a Descriptor,
    /// Bytes that the store had not when this began.
    missing: u64,
    pub(super) floor: Mutex<Floor<'a>>,
    /// A helper has left.
    pub(super) left: Condvar,
    tally: Tally,
}

/// What there is to do.
pub(super) struct Floor<'a> {
    blobs: VecDeque<&'a Descriptor>,
    pub(super) shared: Vec<Arc<Shared<'a>>>,
    threads: usize,
    /// No other could be started.
    is_at_limit: bool,
    /// One of the threads waits for a blob that another pull is at.
    awaits: bool,
    failed: Option<Error>,
}

enum Task<'a> {
    Fetch(&'a Descriptor),
    /// Waits until another pull has fetched it, or has failed to.
    Await(&'a Descriptor),
    Help(Arc<Shared<'a>>, Slot),
}

impl<'a, 'r> Crew<'a, 'r> {
    pub(super) fn new(
        repository: &'a Repository<'r>,
        stop: &'a CancelToken,
        lease: &'a Lease,
        config: &'a Descriptor,
        blobs: Vec<&'a Descriptor>,
        missing: u64,
    ) -> Self {
        let floor = Floor {
            blobs: blobs.into(),
            shared: Vec::new(),
            threads: 1,
            is_at_limit: false,
            awaits: false,
            failed: None,
        };
        Crew {
            repository,
            stop,
            lease,
            config,
            missing,
            floor: Mutex::new(floor),
            left: Condvar::new(),
            tally: Tally::default(),
        }
    }

    /// Fetches all blobs, or until one fails.
    ///
    /// # Errors
    /// The first blob's that failed.
    pub(super) fn fetch_all(self) -> Result<Tally, Error> {
        thread::scope(|scope| self.work(scope));
        match self.floor.into_inner().failed {
            Some(error) => Err(error),
            None => Ok(self.tally),
        }
    }

    /// Does one thing after the other, until there is nothing to do or something has failed.
    fn work<'s>(&'s self, scope: &'s Scope<'s, '_>) {
        while let Some(task) = self.next() {
            let done = catch_unwind(AssertUnwindSafe(|| {
                self.get_help(scope);
                match task {
                    Task::Fetch(blob) => self.fetch(scope, blob),
                    Task::Await(blob) => self.await_other(scope, blob),
                    Task::Help(shared, _leave) => self.help(shared),
                }
            }));
            match done {
                Ok(Ok(())) => {}
                Ok(Err(error)) => self.fail(error),
                Err(_) => self.fail(Error::new(ErrorKind::Panicked, "a thread that fetched a blob panicked")),
            }
        }
    }

    /// The first failure counts; the others are of its making.
    pub(super) fn fail(&self, error: Error) {
        self.floor.lock().failed.get_or_insert(error);
        self.stop.cancel();
    }

    /// What this thread does next; `None` is its end, and then it is counted no more.
    fn next(&self) -> Option<Task<'a>> {
        let mut floor = self.floor.lock();
        let task = self.choose(&mut floor);
        floor.threads -= usize::from(task.is_none());
        task
    }

    /// A blob that nobody is at, or one to help with; and only then one to wait for.
    fn choose(&self, floor: &mut Floor<'a>) -> Option<Task<'a>> {
        if floor.failed.is_some() {
            return None;
        }
        if let Some(place) = self.place_of_free(floor) {
            return floor.blobs.remove(place).map(Task::Fetch);
        }
        if let Some(shared) = neediest(floor)
            && let Some(leave) = self.repository.service.downloads.try_acquire()
        {
            shared.join();
            return Some(Task::Help(Arc::clone(shared), leave));
        }
        if floor.awaits {
            return None;
        }
        let blob = floor.blobs.pop_front()?;
        floor.awaits = true;
        Some(Task::Await(blob))
    }

    /// Where among the blobs that are left the first is that nobody in this process is at.
    fn place_of_free(&self, floor: &Floor<'a>) -> Option<usize> {
        let store = &self.repository.service.store;
        floor.blobs.iter().position(|blob| !store.is_being_fetched(&blob.digest))
    }

    /// Starts another thread if there is something to do for it.
    pub(super) fn get_help<'s>(&'s self, scope: &'s Scope<'s, '_>) {
        let service = self.repository.service;
        let mut floor = self.floor.lock();
        let can_help = || neediest(&floor).is_some() && service.downloads.has_free();
        if floor.is_at_limit
            || floor.threads >= self.useful_threads()
            || (self.place_of_free(&floor).is_none() && !can_help())
        {
            return;
        }
        let name = format!("blob-{}", floor.threads);
        let thread = thread::Builder::new().name(name).stack_size(service.settings.stack_size);
        match thread.spawn_scoped(scope, || self.work(scope)) {
            Ok(_) => floor.threads += 1,
            Err(error) => {
                floor.is_at_limit = true;
                log::warn!("fewer blobs are fetched at a time: no thread could be started: {error}");
            }
        }
    }

    /// How many threads are of use. Where the host answers soon, what bounds the pull is this machine:
    /// more threads than it can run would only take turns; and what is little is there before another
    /// thread has started.
    fn useful_threads(&self) -> usize {
        let service = self.repository.service;
        let Settings { downloads_per_pull, side_by_side, .. } = service.settings;
        let first = self.repository.endpoints.first();
        let is_soon = first.is_some_and(|first| service.governor.answers_soon(&first.name));
        match self.missing {
            0 => 1,
            ..=LITTLE if is_soon => 1,
            _ if is_soon => downloads_per_pull.min(side_by_side),
            _ => downloads_per_pull,
        }
    }

    pub(super) fn is_large(&self, blob: &Descriptor) -> bool {
        let is_plain = blob.data.is_none() && blob.urls.is_empty();
        is_plain && blob.size >= self.repository.service.settings.sharing.from
    }

    fn fetch<'s>(&'s self, scope: &'s Scope<'s, '_>, blob: &'a Descriptor) -> Result<(), Error> {
        let fetch = self.fetch_of(blob);
        let begun = fetch.begin()?;
        self.go_on(scope, fetch, begun)
    }

    /// Waits for a blob that another pull is at. If that fails, what it leaves is for this pull to fetch,
    /// this blob and maybe others.
    fn await_other<'s>(&'s self, scope: &'s Scope<'s, '_>, blob: &'a Descriptor) -> Result<(), Error> {
        let fetch = self.fetch_of(blob);
        let begun = fetch.begin();
        self.floor.lock().awaits = false;
        self.go_on(scope, fetch, begun?)
    }

    fn go_on<'s>(
        &'s self,
        scope: &'s Scope<'s, '_>,
        fetch: Fetch<'a, 'r>,
        begun: Begun,
    ) -> Result<(), Error> {
        let (cx, blob) = (self.repository.cx, fetch.blob);
        match begun {
            Begun::Present => {
                self.tally.count(0, blob.size);
                cx.report(&ProgressEvent::BlobReused { digest: &blob.digest, size: blob.size });
            }
            Begun::Fetch(ingest) => {
                // Whoever was at it has left, and maybe others, too.
                self.get_help(scope);
                let reused = self.complete(scope, fetch, ingest)?;
                self.tally.count(blob.size.saturating_sub(reused), reused);
                cx.report(&ProgressEvent::BlobDone { digest: &blob.digest });
            }
        }
        Ok(())
    }

    /// Brings a blob to its end. Returns how many of its bytes an earlier pull has left.
    fn complete<'s>(
        &'s self,
        scope: &'s Scope<'s, '_>,
        fetch: Fetch<'a, 'r>,
        ingest: Ingest,
    ) -> Result<u64, Error> {
        if let Some(data) = &fetch.blob.data {
            return commit_inline(ingest, data);
        }
        let downloads = &self.repository.service.downloads;
        let _leave = downloads.acquire(self.repository.cx).map_err(|error| error.with_phase(fetch.phase))?;
        if self.is_large(fetch.blob) {
            return self.complete_in_pieces(scope, fetch, ingest);
        }
        let resumed = ingest.offset();
        fetch.complete(ingest, resumed)
    }

    pub(super) fn fetch_of(&self, blob: &'a Descriptor) -> Fetch<'a, 'r> {
        let phase = if blob.digest == self.config.digest { Phase::Config } else { Phase::Layer };
        Fetch { repository: self.repository, lease: self.lease, blob, phase }
    }
}

/// The blob that needs help most.
fn neediest<'f, 'a>(floor: &'f Floor<'a>) -> Option<&'f Arc<Shared<'a>>> {
    floor.shared.iter().filter(|shared| shared.wants_help()).max_by_key(|shared| shared.open())
}

/// Bytes that came along in the manifest; their size and hash were compared when it was read.
fn commit_inline(mut ingest: Ingest, data: &[u8]) -> Result<u64, Error> {
    ingest.restart()?;
    ingest.write(data)?;
    ingest.commit()?;
    Ok(0)
}
