//! The threads that fetch one image's blobs.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::Tally;
use super::blob::Fetch;
use super::pieces::Shared;
use crate::context::CancelToken;
use crate::error::{Error, ErrorKind, Phase};
use crate::image::manifest::Descriptor;
use crate::progress::ProgressEvent;
use crate::registry::ask::Repository;
use crate::registry::governor::Slot;
use crate::store::{Begun, Ingest, Lease};

pub(super) struct Crew<'a, 'r> {
    pub(super) repository: &'a Repository<'r>,
    pub(super) stop: &'a CancelToken,
    lease: &'a Lease,
    config: &'a Descriptor,
    pub(super) floor: Mutex<Floor<'a>>,
    /// The floor has changed in a way that those without work wait for.
    pub(super) changed: Condvar,
    tally: Tally,
}

/// What there is to do.
#[derive(Default)]
pub(super) struct Floor<'a> {
    left: VecDeque<&'a Descriptor>,
    /// Threads at a blob that may yet be shared with those who have nothing else to do.
    pub(super) may_share: usize,
    pub(super) shared: Vec<Arc<Shared<'a>>>,
    failed: Option<Error>,
}

enum Task<'a> {
    Fetch(&'a Descriptor),
    Help(Arc<Shared<'a>>, Slot),
}

impl<'a, 'r> Crew<'a, 'r> {
    pub(super) fn new(
        repository: &'a Repository<'r>,
        stop: &'a CancelToken,
        lease: &'a Lease,
        config: &'a Descriptor,
        blobs: Vec<&'a Descriptor>,
    ) -> Self {
        let floor = Mutex::new(Floor { left: blobs.into(), ..Floor::default() });
        Crew { repository, stop, lease, config, floor, changed: Condvar::new(), tally: Tally::default() }
    }

    /// Fetches one blob after the other, then helps with the large ones, until all is there or
    /// something has failed.
    pub(super) fn work(&self) {
        while let Some(task) = self.next() {
            let done = catch_unwind(AssertUnwindSafe(|| match task {
                Task::Fetch(blob) => self.fetch(blob),
                Task::Help(shared, _leave) => self.help(shared),
            }));
            match done {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return self.fail(error),
                Err(_) => {
                    return self
                        .fail(Error::new(ErrorKind::Panicked, "a thread that fetched a blob panicked"));
                }
            }
        }
    }

    pub(super) fn outcome(self) -> Result<Tally, Error> {
        match self.floor.into_inner().failed {
            Some(error) => Err(error),
            None => Ok(self.tally),
        }
    }

    /// The first failure counts; the others are of its making.
    pub(super) fn fail(&self, error: Error) {
        self.floor.lock().failed.get_or_insert(error);
        self.stop.cancel();
        self.changed.notify_all();
    }

    /// A blob that nobody is at; or one to help with; or `None` if there will be neither.
    fn next(&self) -> Option<Task<'a>> {
        let mut floor = self.floor.lock();
        loop {
            if floor.failed.is_some() {
                return None;
            }
            if let Some(blob) = floor.left.pop_front() {
                floor.may_share += usize::from(self.is_large(blob));
                return Some(Task::Fetch(blob));
            }
            let neediest =
                floor.shared.iter().filter(|shared| shared.wants_help()).max_by_key(|shared| shared.open());
            if let Some(shared) = neediest
                && let Some(leave) = self.repository.service.downloads.try_acquire()
            {
                shared.join();
                return Some(Task::Help(Arc::clone(shared), leave));
            }
            if floor.may_share == 0 {
                return None;
            }
            self.changed.wait(&mut floor);
        }
    }

    pub(super) fn is_large(&self, blob: &Descriptor) -> bool {
        let is_plain = blob.data.is_none() && blob.urls.is_empty();
        is_plain && blob.size >= self.repository.service.settings.sharing.from
    }

    fn fetch(&self, blob: &'a Descriptor) -> Result<(), Error> {
        let fetched = self.fetch_whole(blob);
        if self.is_large(blob) {
            self.floor.lock().may_share -= 1;
            self.changed.notify_all();
        }
        fetched
    }

    fn fetch_whole(&self, blob: &'a Descriptor) -> Result<(), Error> {
        let fetch = self.fetch_of(blob);
        match fetch.begin()? {
            Begun::Present => {
                self.tally.count(0, blob.size);
                self.repository
                    .cx
                    .report(&ProgressEvent::BlobReused { digest: &blob.digest, size: blob.size });
            }
            Begun::Fetch(ingest) => {
                let reused = self.complete(fetch, ingest)?;
                self.tally.count(blob.size.saturating_sub(reused), reused);
                self.repository.cx.report(&ProgressEvent::BlobDone { digest: &blob.digest });
            }
        }
        Ok(())
    }

    /// Brings a blob to its end. Returns how many of its bytes an earlier pull has left.
    fn complete(&self, fetch: Fetch<'a, 'r>, ingest: Ingest) -> Result<u64, Error> {
        if let Some(data) = &fetch.blob.data {
            return commit_inline(ingest, data);
        }
        let downloads = &self.repository.service.downloads;
        let _leave = downloads.acquire(self.repository.cx).map_err(|error| error.with_phase(fetch.phase))?;
        if self.is_large(fetch.blob) {
            return self.complete_in_pieces(fetch, ingest);
        }
        let resumed = ingest.offset();
        fetch.complete(Some(ingest), resumed)
    }

    pub(super) fn fetch_of(&self, blob: &'a Descriptor) -> Fetch<'a, 'r> {
        let phase = if blob.digest == self.config.digest { Phase::Config } else { Phase::Layer };
        Fetch { repository: self.repository, lease: self.lease, blob, phase }
    }
}

/// Bytes that came along in the manifest; their size and hash were compared when it was read.
fn commit_inline(mut ingest: Ingest, data: &[u8]) -> Result<u64, Error> {
    ingest.restart()?;
    ingest.write(data)?;
    ingest.commit()?;
    Ok(0)
}
