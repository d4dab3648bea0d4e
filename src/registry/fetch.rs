//! Blobs: from the hosts into the store, side by side, going on where they broke.

use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::ask::{Endpoint, Question, Repository};
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
        let phase = if blob.digest == self.config.digest { Phase::Config } else { Phase::Layer };
        let fetch = Fetch { repository: self.repository, lease: self.lease, blob, phase };
        let (fetched, counter) = match fetch.begin()? {
            Begun::Present => {
                self.repository
                    .cx
                    .report(&ProgressEvent::BlobReused { digest: &blob.digest, size: blob.size });
                (blob.size, &self.tally.reused)
            }
            Begun::Fetch(ingest) => {
                let resumed_at = ingest.offset();
                self.tally.reused.fetch_add(resumed_at, Ordering::Relaxed);
                fetch.complete(ingest)?;
                self.repository.cx.report(&ProgressEvent::BlobDone { digest: &blob.digest });
                (blob.size - resumed_at, &self.tally.fetched)
            }
        };
        counter.fetch_add(fetched, Ordering::Relaxed);
        Ok(())
    }
}

/// One blob that is being fetched.
struct Fetch<'a, 'r> {
    repository: &'a Repository<'r>,
    lease: &'a Lease,
    blob: &'a Descriptor,
    phase: Phase,
}

impl Fetch<'_, '_> {
    fn begin(&self) -> Result<Begun, Error> {
        let begun = self.repository.service.store.begin(self.repository.cx, self.lease, self.blob);
        begun.map_err(|error| error.with_phase(Phase::Store))
    }

    /// Brings the blob to its end, whatever it takes of hosts and tries.
    fn complete(&self, ingest: Ingest) -> Result<(), Error> {
        if let Some(data) = &self.blob.data {
            return commit_inline(ingest, data);
        }
        let service = self.repository.service;
        let _leave =
            service.downloads.acquire(self.repository.cx).map_err(|error| error.with_phase(self.phase))?;
        let gained = Cell::new(0);
        let trial = Trial { phase: self.phase, may: |host| host.capabilities.pull, gained: &gained };
        let mut ingest = Some(ingest);
        retry::over_hosts(self.repository, &trial, |endpoint| {
            // What is on the disk may be what is wrong, so a wrong hash has one clean try.
            match self.try_host(endpoint, &mut ingest, &gained) {
                Err(error) if error.kind() == ErrorKind::DigestMismatch => {
                    self.report_restart();
                    self.try_host(endpoint, &mut ingest, &gained)
                }
                outcome => outcome,
            }
        })
    }

    /// Goes on with what is there. An ingest whose bytes were wrong is gone, and begun anew.
    fn try_host(
        &self,
        endpoint: &Endpoint,
        held: &mut Option<Ingest>,
        gained: &Cell<u64>,
    ) -> Result<(), Error> {
        let ingest = match held {
            Some(ingest) => ingest,
            None => match self.begin()? {
                Begun::Present => return Ok(()),
                Begun::Fetch(ingest) => held.insert(ingest),
            },
        };
        self.download(endpoint, ingest, gained)?;
        match held.take() {
            Some(ingest) => ingest.commit().map_err(|error| error.with_host(&endpoint.name)),
            None => Ok(()),
        }
    }

    /// Fetches what is missing from one host.
    fn download(&self, endpoint: &Endpoint, ingest: &mut Ingest, gained: &Cell<u64>) -> Result<(), Error> {
        let named = |error: Error| error.with_host(&endpoint.name);
        if ingest.offset() == self.blob.size {
            return Ok(());
        }
        let answer = self.ask_from(endpoint, ingest.offset())?;
        let serves_rest = match answer.reply.status() {
            206 => self.is_rest(ingest.offset(), ContentRange::parse(answer.reply.headers("content-range"))),
            416 => false,
            _ => ingest.offset() == 0,
        };
        let answer = if serves_rest {
            answer
        } else {
            let is_whole = answer.reply.status() == 200;
            self.restart(ingest)?;
            if is_whole { answer } else { self.ask_from(endpoint, 0)? }
        };
        if !matches!(answer.reply.status(), 200 | 206)
            || (answer.reply.status() == 206 && ingest.offset() == 0)
        {
            let message = format!("status {} is no answer to this question", answer.reply.status());
            return Err(named(Error::new(ErrorKind::Protocol, message)));
        }
        let missing = self.blob.size - ingest.offset();
        self.check_length(answer.reply.header("content-length"), missing).map_err(named)?;
        self.repository.cx.report(&ProgressEvent::BlobStarted {
            digest: &self.blob.digest,
            size: self.blob.size,
            offset: ingest.offset(),
            host: &endpoint.name,
        });
        let (mut body, _slot) = answer.into_body();
        self.stream(&mut body, ingest, gained).map_err(named)
    }

    fn ask_from(&self, endpoint: &Endpoint, offset: u64) -> Result<super::ask::Answer, Error> {
        let path = format!("blobs/{}", self.blob.digest);
        let range = (offset > 0).then(|| format!("bytes={offset}-"));
        let question = Question { path: &path, accept: None, range: range.as_deref(), phase: self.phase };
        self.repository.ask(endpoint, question)
    }

    /// Whether a 206 brings just what is missing.
    fn is_rest(&self, offset: u64, range: Option<ContentRange>) -> bool {
        range.is_some_and(|range| {
            offset > 0
                && range.first == offset
                && range.last == self.blob.size - 1
                && range.complete.is_none_or(|complete| complete == self.blob.size)
        })
    }

    fn check_length(&self, announced: Option<&str>, missing: u64) -> Result<(), Error> {
        match announced.and_then(|length| length.parse::<u64>().ok()) {
            Some(length) if length != missing => Err(Error::new(
                ErrorKind::SizeMismatch,
                format!("{length} bytes of {} are announced, and {missing} are missing", self.blob.digest),
            )),
            _ => Ok(()),
        }
    }

    /// Reads to the end of the body, so that its connection can be used again.
    fn stream(&self, body: &mut Body, ingest: &mut Ingest, gained: &Cell<u64>) -> Result<(), Error> {
        let room = usize::try_from(self.blob.size - ingest.offset()).unwrap_or(READ_SIZE);
        let mut buffer = vec![0; room.clamp(1, READ_SIZE)];
        let mut pace = Pace::new(self.repository.service.settings.slowest);
        loop {
            let read = body.read(&mut buffer)?;
            let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
            ingest.write(bytes)?;
            gained.set(gained.get() + read as u64);
            self.repository
                .cx
                .report(&ProgressEvent::BlobAdvanced { digest: &self.blob.digest, bytes: read as u64 });
            pace.note(read as u64)?;
        }
        let (offset, size) = (ingest.offset(), self.blob.size);
        if offset < size {
            let message = format!("{} ended after {offset} of {size} bytes", self.blob.digest);
            return Err(Error::new(ErrorKind::SizeMismatch, message));
        }
        Ok(())
    }

    fn restart(&self, ingest: &mut Ingest) -> Result<(), Error> {
        if ingest.offset() > 0 {
            self.report_restart();
        }
        ingest.restart()
    }

    fn report_restart(&self) {
        self.repository.cx.report(&ProgressEvent::BlobRestarted { digest: &self.blob.digest });
    }
}

/// Bytes that came along in the manifest; their size and hash were compared when it was read.
fn commit_inline(mut ingest: Ingest, data: &[u8]) -> Result<(), Error> {
    ingest.restart()?;
    ingest.write(data)?;
    ingest.commit()
}

/// A connection may not be slower than so many bytes in so long a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slowest {
    pub(super) bytes: u64,
    pub(super) time: Duration,
}

/// How fast bytes came lately.
struct Pace {
    slowest: Slowest,
    since: Instant,
    bytes: u64,
}

impl Pace {
    fn new(slowest: Slowest) -> Self {
        Pace { slowest, since: Instant::now(), bytes: 0 }
    }

    /// # Errors
    /// `Timeout` if the connection drips.
    fn note(&mut self, bytes: u64) -> Result<(), Error> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes >= self.slowest.bytes {
            *self = Pace::new(self.slowest);
        } else if self.since.elapsed() >= self.slowest.time {
            let message = format!("{} bytes came in {} s", self.bytes, self.slowest.time.as_secs());
            return Err(Error::new(ErrorKind::Timeout, message));
        }
        Ok(())
    }
}
