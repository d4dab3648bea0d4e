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
use crate::registry::host_limits::{Slot, Slots};
use crate::registry::request::PullSession;
use crate::store::{Begun, Ingest, Transaction};

/// Bytes that one thread fetches alone where a host answers soon.
const LITTLE: u64 = 128 << 10;

/// What the threads share that fetch one image's blobs. The pull's own thread begins; whoever takes
/// something up starts another if there is more. So a pull has a thread for each thing that it does, and
/// one for all that it waits for other pulls to do.
pub(super) struct Crew<'a> {
    pub(super) session: &'a PullSession<'a>,
    stop: &'a CancelToken,
    transaction: &'a Transaction,
    config: &'a Descriptor,
    /// Bytes that the store had not when this began.
    missing: u64,
    pub(super) floor: Mutex<Floor<'a>>,
    /// A helper has left.
    pub(super) left: Condvar,
    /// The one leave to wait for a blob that another pull is at.
    may_wait: Slots,
    tally: Tally,
}

/// What there is to do.
pub(super) struct Floor<'a> {
    blobs: VecDeque<&'a Descriptor>,
    pub(super) shared: Vec<Arc<Shared<'a>>>,
    threads: usize,
    /// No other could be started.
    is_at_limit: bool,
    failed: Option<Error>,
}

enum Task<'a> {
    /// A blob to fetch; or, with the leave to, to wait for until another pull has fetched it, or has
    /// failed to.
    Fetch(&'a Descriptor, Option<Slot>),
    /// A blob that another thread fetches.
    Help(Arc<Shared<'a>>, Slot),
}

/// One of a crew's threads.
#[derive(Clone, Copy)]
pub(super) struct Worker<'s, 'e, 'a> {
    pub(super) crew: &'s Crew<'a>,
    /// Where it starts others.
    scope: &'s Scope<'s, 'e>,
}

impl<'a> Crew<'a> {
    pub(super) fn new(
        session: &'a PullSession<'a>,
        stop: &'a CancelToken,
        transaction: &'a Transaction,
        config: &'a Descriptor,
        blobs: Vec<&'a Descriptor>,
        missing: u64,
    ) -> Self {
        let floor =
            Floor { blobs: blobs.into(), shared: Vec::new(), threads: 1, is_at_limit: false, failed: None };
        Crew {
            session,
            stop,
            transaction,
            config,
            missing,
            floor: Mutex::new(floor),
            left: Condvar::new(),
            may_wait: Slots::new(1),
            tally: Tally::default(),
        }
    }

    /// Fetches all blobs, or until one fails.
    ///
    /// # Errors
    /// The first blob's that failed.
    pub(super) fn fetch_all(self) -> Result<Tally, Error> {
        thread::scope(|scope| Worker { crew: &self, scope }.work());
        match self.floor.into_inner().failed {
            Some(error) => Err(error),
            None => Ok(self.tally),
        }
    }
}

impl<'a> Worker<'_, '_, 'a> {
    /// Does one thing after the other, until there is nothing to do or something has failed.
    fn work(self) {
        while let Some(task) = self.crew.next() {
            match catch_unwind(AssertUnwindSafe(|| self.take_up(task))) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => self.crew.fail(error),
                Err(_) => {
                    let message = "a thread that fetched a blob panicked";
                    self.crew.fail(Error::new(ErrorKind::Panicked, message));
                }
            }
        }
    }

    fn take_up(self, task: Task<'a>) -> Result<(), Error> {
        match task {
            Task::Fetch(blob, waits) => self.fetch(blob, waits),
            Task::Help(shared, _leave) => self.help(shared),
        }
    }

    /// Fetches a blob that the store has not. If another pull was at it and failed, what that leaves is
    /// for this one to fetch, this blob and maybe others.
    fn fetch(self, blob: &'a Descriptor, waits: Option<Slot>) -> Result<(), Error> {
        self.get_help();
        let (cx, tally) = (self.crew.session.cx, &self.crew.tally);
        let fetch = self.crew.fetch_of(blob);
        let begun = fetch.begin()?;
        // Another thread may wait for another blob now.
        drop(waits);
        match begun {
            Begun::Present => {
                tally.count(0, blob.size);
                cx.report(&ProgressEvent::BlobReused { digest: &blob.digest, size: blob.size });
            }
            Begun::Fetch(ingest) => {
                self.get_help();
                let reused = self.complete(fetch, ingest).map_err(|error| error.with_phase(fetch.phase))?;
                tally.count(blob.size.saturating_sub(reused), reused);
                cx.report(&ProgressEvent::BlobDone { digest: &blob.digest });
            }
        }
        Ok(())
    }

    /// Brings a blob to its end. Returns how many of its bytes an earlier pull has left.
    fn complete(self, fetch: Fetch<'a>, ingest: Ingest) -> Result<u64, Error> {
        if let Some(data) = &fetch.blob.data {
            return commit_inline(ingest, data);
        }
        let service = self.crew.session.service;
        let _leave = service.downloads.acquire(self.crew.session.cx)?;
        if fetch.blob.urls.is_empty() && fetch.blob.size >= service.settings.sharing.from {
            return self.complete_in_pieces(fetch, ingest);
        }
        let resumed = ingest.offset();
        fetch.complete(ingest, resumed)
    }

    /// Starts another thread if there is something to do for it.
    pub(super) fn get_help(self) {
        let mut floor = self.crew.floor.lock();
        if !self.crew.wants_thread(&floor) {
            return;
        }
        let name = format!("blob-{}", floor.threads);
        let stack = self.crew.session.service.settings.stack_size;
        let thread = thread::Builder::new().name(name).stack_size(stack);
        match thread.spawn_scoped(self.scope, move || self.work()) {
            Ok(_) => floor.threads += 1,
            Err(error) => {
                floor.is_at_limit = true;
                log::warn!("fewer blobs are fetched at a time: no thread could be started: {error}");
            }
        }
    }
}

impl<'a> Crew<'a> {
    /// What a thread does next; `None` is its end, and then it is counted no more.
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
            return floor.blobs.remove(place).map(|blob| Task::Fetch(blob, None));
        }
        if let Some(shared) = neediest(floor)
            && let Some(leave) = self.session.service.downloads.try_acquire()
        {
            shared.join();
            return Some(Task::Help(Arc::clone(shared), leave));
        }
        let waits = self.may_wait.try_acquire()?;
        floor.blobs.pop_front().map(|blob| Task::Fetch(blob, Some(waits)))
    }

    /// Where among the blobs that are left the first is that nobody in this process is at.
    fn place_of_free(&self, floor: &Floor<'a>) -> Option<usize> {
        let store = &self.session.service.store;
        floor.blobs.iter().position(|blob| !store.is_being_fetched(&blob.digest))
    }

    /// Whether one thread more would be of use, and find something to do.
    fn wants_thread(&self, floor: &Floor<'a>) -> bool {
        let can_help = || neediest(floor).is_some() && self.session.service.downloads.has_free();
        !floor.is_at_limit
            && floor.threads < self.useful_threads()
            && (self.place_of_free(floor).is_some() || can_help())
    }

    /// How many threads are of use. Where the host answers soon, what bounds the pull is this machine:
    /// more threads than it can run would only take turns; and what is little is there before another
    /// thread has started.
    fn useful_threads(&self) -> usize {
        let service = self.session.service;
        let Settings { downloads_per_pull, side_by_side, .. } = service.settings;
        let first = self.session.endpoints.first();
        let is_soon = first.is_some_and(|first| service.host_limits.is_near(&first.name));
        match self.missing {
            0 => 1,
            ..=LITTLE if is_soon => 1,
            _ if is_soon => downloads_per_pull.min(side_by_side),
            _ => downloads_per_pull,
        }
    }

    pub(super) fn fetch_of(&self, blob: &'a Descriptor) -> Fetch<'a> {
        let phase = if blob.digest == self.config.digest { Phase::Config } else { Phase::Layer };
        Fetch { session: self.session, transaction: self.transaction, blob, phase }
    }

    /// Ends the others, too. The first failure counts; theirs are of its making.
    pub(super) fn fail(&self, error: Error) {
        self.floor.lock().failed.get_or_insert(error);
        self.stop.cancel();
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
