//! Blobs: from the hosts into the store, side by side, going on where they broke.

use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use parking_lot::Mutex;

use super::ask::{Answer, Endpoint, Question, Repository, Whence};
use super::headers::ContentRange;
use super::http::{Body, READ_SIZE};
use super::retry::{self, Trial};
use crate::context::CancelToken;
use crate::error::{Error, ErrorKind, Phase};
use crate::image::manifest::{Descriptor, Manifest};
use crate::progress::ProgressEvent;
use crate::store::{Begun, Ingest, Lease};

/// Where the bytes of an image came from.
#[derive(Debug, Default)]
pub(super) struct Tally {
    fetched: AtomicU64,
    reused: AtomicU64,
}

impl Tally {
    pub(super) fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    pub(super) fn reused(&self) -> u64 {
        self.reused.load(Ordering::Relaxed)
    }
}

/// Fetches what the store has not of an image's config and layers. `stop` cancels the repository's
/// context: the first blob that fails ends the others.
///
/// # Errors
/// The first blob's that failed.
pub(super) fn blobs(
    repository: &Repository<'_>,
    stop: &CancelToken,
    lease: &Lease,
    manifest: &Manifest,
) -> Result<Tally, Error> {
    let mut blobs = manifest.blobs();
    require_space(repository, &blobs)?;
    // The largest first: the pull lasts as long as its last blob.
    blobs.sort_by_key(|blob| std::cmp::Reverse(blob.size));
    let settings = &repository.service.settings;
    let threads = blobs.len().min(settings.downloads_per_pull);
    let crew = Crew {
        repository,
        stop,
        lease,
        config: &manifest.config,
        left: Mutex::new(blobs.into()),
        tally: Tally::default(),
        failed: Mutex::default(),
    };
    thread::scope(|scope| {
        // The pull's own thread is one of them.
        for number in 1..threads {
            let thread =
                thread::Builder::new().name(format!("blob-{number}")).stack_size(settings.stack_size);
            if let Err(error) = thread.spawn_scoped(scope, || crew.work()) {
                log::warn!("fewer blobs are fetched at a time: no thread could be started: {error}");
                break;
            }
        }
        crew.work();
    });
    match crew.failed.into_inner() {
        Some(error) => Err(error),
        None => Ok(crew.tally),
    }
}

fn require_space(repository: &Repository<'_>, blobs: &[&Descriptor]) -> Result<(), Error> {
    let store = &repository.service.store;
    let mut missing = 0_u64;
    for blob in blobs {
        let found = store.has(repository.cx, blob).map_err(|error| error.with_phase(Phase::Store))?;
        if found.is_none() {
            missing = missing.saturating_add(blob.size);
        }
    }
    store.require_space(missing).map_err(|error| error.with_phase(Phase::Store))
}

/// The threads that fetch one image's blobs, and what they share.
struct Crew<'a, 'r> {
    repository: &'a Repository<'r>,
    stop: &'a CancelToken,
    lease: &'a Lease,
    config: &'a Descriptor,
    left: Mutex<VecDeque<&'a Descriptor>>,
    tally: Tally,
    failed: Mutex<Option<Error>>,
}

impl Crew<'_, '_> {
    /// Fetches one blob after the other, until none is left or one has failed.
    fn work(&self) {
        while let Some(blob) = self.next() {
            let fetched = catch_unwind(AssertUnwindSafe(|| self.fetch(blob))).unwrap_or_else(|_| {
                Err(Error::new(
                    ErrorKind::Panicked,
                    format!("a thread that fetched {} panicked", blob.digest),
                ))
            });
            if let Err(error) = fetched {
                self.failed.lock().get_or_insert(error);
                self.stop.cancel();
                return;
            }
        }
    }

    fn next(&self) -> Option<&Descriptor> {
        self.left.lock().pop_front()
    }

    fn fetch(&self, blob: &Descriptor) -> Result<(), Error> {
        let cx = self.repository.cx;
        let phase = if blob.digest == self.config.digest { Phase::Config } else { Phase::Layer };
        let fetch = Fetch { repository: self.repository, lease: self.lease, blob, phase };
        let reused = match fetch.begin()? {
            Begun::Present => {
                cx.report(&ProgressEvent::BlobReused { digest: &blob.digest, size: blob.size });
                blob.size
            }
            Begun::Fetch(ingest) => {
                let resumed = fetch.complete(ingest)?;
                cx.report(&ProgressEvent::BlobDone { digest: &blob.digest });
                resumed
            }
        };
        self.tally.reused.fetch_add(reused, Ordering::Relaxed);
        self.tally.fetched.fetch_add(blob.size - reused, Ordering::Relaxed);
        Ok(())
    }
}

/// One blob that is to be fetched.
struct Fetch<'a, 'r> {
    repository: &'a Repository<'r>,
    lease: &'a Lease,
    blob: &'a Descriptor,
    phase: Phase,
}

/// How far a blob has come.
struct Advance {
    /// `None` when its bytes were wrong, and are gone.
    ingest: Option<Ingest>,
    /// Bytes from an earlier pull that are still counted on.
    resumed: u64,
}

impl Fetch<'_, '_> {
    fn begin(&self) -> Result<Begun, Error> {
        let begun = self.repository.service.store.begin(self.repository.cx, self.lease, self.blob);
        begun.map_err(|error| error.with_phase(Phase::Store))
    }

    /// Brings the blob to its end, whatever it takes of hosts and tries. Returns how many of its bytes
    /// were there already.
    fn complete(&self, ingest: Ingest) -> Result<u64, Error> {
        if let Some(data) = &self.blob.data {
            commit_inline(ingest, data)?;
            return Ok(0);
        }
        let downloads = &self.repository.service.downloads;
        let _leave = downloads.acquire(self.repository.cx).map_err(|error| error.with_phase(self.phase))?;
        let gained = Cell::new(0);
        let trial = Trial { phase: self.phase, may: |host| host.capabilities.pull, gained: &gained };
        let mut advance = Advance { resumed: ingest.offset(), ingest: Some(ingest) };
        let path = format!("blobs/{}", self.blob.digest);
        let fetched = retry::over_hosts(self.repository, &trial, |endpoint| {
            self.try_host(&Source { endpoint, whence: Whence::Api(&path) }, &mut advance, &gained)
        });
        match fetched {
            Err(error) if self.may_try_foreign(&error) => {
                self.try_foreign(&mut advance, &gained).map_err(|_| error)?;
            }
            fetched => fetched?,
        }
        Ok(advance.resumed)
    }

    /// Whether the layer is one that registries need not have, and may be had where it says.
    fn may_try_foreign(&self, error: &Error) -> bool {
        self.repository.service.settings.allow_foreign_urls
            && error.kind() == ErrorKind::NotFound
            && !self.blob.urls.is_empty()
    }

    /// Tries the descriptor's own URLs in turn, once each.
    fn try_foreign(&self, advance: &mut Advance, gained: &Cell<u64>) -> Result<(), Error> {
        let absent = Error::new(ErrorKind::NotFound, "no host has it");
        let Some(endpoint) = self.repository.endpoints.last() else { return Err(absent) };
        let mut failed = absent;
        for url in &self.blob.urls {
            match self.try_host(&Source { endpoint, whence: Whence::Foreign(url) }, advance, gained) {
                Ok(()) => return Ok(()),
                Err(error) => failed = error,
            }
            self.repository.cx.check()?;
        }
        log::debug!("{}: {failed}", self.repository.reference);
        Err(failed)
    }

    /// Goes on at one host. What is on the disk may be what is wrong, so a wrong hash has one clean try.
    fn try_host(&self, source: &Source<'_>, advance: &mut Advance, gained: &Cell<u64>) -> Result<(), Error> {
        match self.try_once(source, advance, gained) {
            Err(error) if error.kind() == ErrorKind::DigestMismatch => {
                self.report_restart();
                self.try_once(source, advance, gained)
            }
            outcome => outcome,
        }
    }

    fn try_once(&self, source: &Source<'_>, advance: &mut Advance, gained: &Cell<u64>) -> Result<(), Error> {
        if advance.ingest.is_none() {
            advance.resumed = 0;
            match self.begin()? {
                Begun::Present => return Ok(()),
                Begun::Fetch(ingest) => advance.ingest = Some(ingest),
            }
        }
        if let Some(ingest) = &mut advance.ingest {
            self.download(source, ingest, &mut advance.resumed, gained)
                .map_err(|error| error.with_host(source.name()))?;
        }
        match advance.ingest.take() {
            Some(ingest) => ingest.commit().map_err(|error| error.with_host(source.name())),
            None => Ok(()),
        }
    }

    /// Fetches what is missing from one host.
    fn download(
        &self,
        source: &Source<'_>,
        ingest: &mut Ingest,
        resumed: &mut u64,
        gained: &Cell<u64>,
    ) -> Result<(), Error> {
        if ingest.offset() == self.blob.size {
            return Ok(());
        }
        let answer = self.ask_for_rest(source, ingest, resumed)?;
        let missing = self.blob.size - ingest.offset();
        self.check_length(answer.reply.header("content-length"), missing)?;
        self.repository.cx.report(&ProgressEvent::BlobStarted {
            digest: &self.blob.digest,
            size: self.blob.size,
            offset: ingest.offset(),
            host: source.name(),
        });
        let (mut body, _slot) = answer.into_body();
        match self.stream(&mut body, ingest, gained) {
            // What is too long is not ours from its first byte on.
            Err(error) if is_too_long(&error) => {
                self.restart(ingest, resumed)?;
                Err(error)
            }
            outcome => outcome,
        }
    }

    /// Asks for what is missing. A host that does not give just that is asked for the whole, or has
    /// given it already.
    fn ask_for_rest(
        &self,
        source: &Source<'_>,
        ingest: &mut Ingest,
        resumed: &mut u64,
    ) -> Result<Answer, Error> {
        let offset = ingest.offset();
        if offset == 0 {
            return self.ask(source, None);
        }
        let answer = self.ask(source, Some(&format!("bytes={offset}-")))?;
        let range = ContentRange::parse(answer.reply.headers("content-range"));
        match answer.reply.status() {
            206 if range.is_some_and(|range| self.is_rest(offset, range)) => Ok(answer),
            200 => {
                self.restart(ingest, resumed)?;
                Ok(answer)
            }
            _ => {
                answer.discard();
                self.restart(ingest, resumed)?;
                self.ask(source, None)
            }
        }
    }

    fn ask(&self, source: &Source<'_>, range: Option<&str>) -> Result<Answer, Error> {
        let question = Question { whence: source.whence, accept: None, range, phase: self.phase };
        self.repository.ask(source.endpoint, question)
    }

    /// Whether a 206 brings just what is missing.
    fn is_rest(&self, offset: u64, range: ContentRange) -> bool {
        range.first == offset
            && range.last == self.blob.size - 1
            && range.complete.is_none_or(|complete| complete == self.blob.size)
    }

    /// A host that announces another length has another blob, and will have it in a moment, too.
    fn check_length(&self, announced: Option<&str>, missing: u64) -> Result<(), Error> {
        match announced.and_then(|length| length.parse::<u64>().ok()) {
            Some(length) if length != missing => {
                let digest = &self.blob.digest;
                let message = format!("{length} bytes of {digest} are announced, and {missing} are missing");
                Err(Error::new(ErrorKind::SizeMismatch, message).with_retryable(false))
            }
            _ => Ok(()),
        }
    }

    /// Reads to the end of the body, so that its connection can be used again.
    fn stream(&self, body: &mut Body, ingest: &mut Ingest, gained: &Cell<u64>) -> Result<(), Error> {
        let room = usize::try_from(self.blob.size - ingest.offset()).unwrap_or(READ_SIZE);
        let mut buffer = vec![0; room.clamp(1, READ_SIZE)];
        loop {
            let read = body.read(&mut buffer)?;
            let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
            ingest.write(bytes).map_err(|error| match error.kind() {
                ErrorKind::SizeMismatch => error.with_retryable(false),
                _ => error,
            })?;
            gained.set(gained.get() + read as u64);
            let advanced = ProgressEvent::BlobAdvanced { digest: &self.blob.digest, bytes: read as u64 };
            self.repository.cx.report(&advanced);
        }
        let (offset, size) = (ingest.offset(), self.blob.size);
        if offset < size {
            let message = format!("{} ended after {offset} of {size} bytes", self.blob.digest);
            return Err(Error::new(ErrorKind::SizeMismatch, message));
        }
        Ok(())
    }

    fn restart(&self, ingest: &mut Ingest, resumed: &mut u64) -> Result<(), Error> {
        if ingest.offset() > 0 {
            self.report_restart();
        }
        *resumed = 0;
        ingest.restart()
    }

    fn report_restart(&self) {
        self.repository.cx.report(&ProgressEvent::BlobRestarted { digest: &self.blob.digest });
    }
}

/// Where a blob is asked for.
struct Source<'a> {
    endpoint: &'a Endpoint,
    whence: Whence<'a>,
}

impl Source<'_> {
    fn name(&self) -> &str {
        match self.whence {
            Whence::Api(_) => &self.endpoint.name,
            Whence::Foreign(url) => url,
        }
    }
}

fn is_too_long(error: &Error) -> bool {
    error.kind() == ErrorKind::SizeMismatch && !error.is_retryable()
}

/// Bytes that came along in the manifest; their size and hash were compared when it was read.
fn commit_inline(mut ingest: Ingest, data: &[u8]) -> Result<(), Error> {
    ingest.restart()?;
    ingest.write(data)?;
    ingest.commit()
}
