//! One blob, from one host after the other, in one piece.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Phase};
use crate::image::manifest::Descriptor;
use crate::progress::ProgressEvent;
use crate::registry::ask::{Answer, Endpoint, Question, Repository, Whence};
use crate::registry::headers::ContentRange;
use crate::registry::http::Body;
use crate::registry::retry::{self, Trial};
use crate::store::{Begun, Ingest, Lease};

/// How much is handed on at a time, bytes: what the connection's own buffer gathers, which stays in the
/// processor's cache until it is hashed and written.
const PART: usize = 128 << 10;

/// So many bytes a second a connection to a near host brings at least.
const NEAR: f64 = 25e6;

/// One blob that is to be fetched.
#[derive(Clone, Copy)]
pub(super) struct Fetch<'a> {
    pub(super) repository: &'a Repository<'a>,
    pub(super) lease: &'a Lease,
    pub(super) blob: &'a Descriptor,
    pub(super) phase: Phase,
}

/// How far a blob has come.
struct Advance {
    ingest: Ingest,
    /// Bytes from an earlier pull that are still counted on.
    resumed: u64,
}

impl Fetch<'_> {
    pub(super) fn begin(&self) -> Result<Begun, Error> {
        let begun = self.repository.service.store.begin(self.repository.cx, self.lease, self.blob);
        begun.map_err(|error| error.with_phase(Phase::Store))
    }

    /// Brings the blob to its end, whatever it takes of hosts and tries: from `ingest` on, of which an
    /// earlier pull has left `resumed` bytes. Returns how many of those were of use.
    pub(super) fn complete(&self, ingest: Ingest, resumed: u64) -> Result<u64, Error> {
        let reached = Cell::new(ingest.offset());
        let trial = Trial { phase: self.phase, may: |host| host.capabilities.pull, reached: &reached };
        let mut advance = Advance { ingest, resumed };
        let path = format!("blobs/{}", self.blob.digest);
        let fetched = retry::over_hosts(self.repository, &trial, |endpoint| {
            self.try_host(&Source { endpoint, whence: Whence::Api(&path) }, &mut advance, &reached)
        });
        match fetched {
            Err(error) if self.may_try_foreign(&error) => {
                self.try_foreign(&mut advance, &reached).map_err(|_| error)?;
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
    fn try_foreign(&self, advance: &mut Advance, reached: &Cell<u64>) -> Result<(), Error> {
        let absent = Error::new(ErrorKind::NotFound, "no host has it");
        let Some(endpoint) = self.repository.endpoints.last() else { return Err(absent) };
        let mut failed = absent;
        for url in &self.blob.urls {
            match self.try_host(&Source { endpoint, whence: Whence::Foreign(url) }, advance, reached) {
                Ok(()) => return Ok(()),
                Err(error) => failed = error,
            }
            self.repository.cx.check()?;
        }
        log::debug!("{}: {failed}", self.repository.reference);
        Err(failed)
    }

    /// Goes on at one host. What is on the disk may be what is wrong, so a wrong hash has one clean try.
    fn try_host(&self, source: &Source<'_>, advance: &mut Advance, reached: &Cell<u64>) -> Result<(), Error> {
        match self.try_once(source, advance, reached) {
            Err(error) if error.kind() == ErrorKind::DigestMismatch => {
                self.report_restart();
                self.try_once(source, advance, reached)
            }
            outcome => outcome,
        }
    }

    fn try_once(&self, source: &Source<'_>, advance: &mut Advance, reached: &Cell<u64>) -> Result<(), Error> {
        let Advance { ingest, resumed } = advance;
        let fetched = self.download(source, ingest, resumed, reached).and_then(|()| {
            ingest.commit().inspect_err(|error| {
                if error.kind() == ErrorKind::DigestMismatch {
                    *resumed = 0;
                }
            })
        });
        fetched.map_err(|error| error.with_host(source.name()))
    }

    /// Fetches what is missing from one host.
    fn download(
        &self,
        source: &Source<'_>,
        ingest: &mut Ingest,
        resumed: &mut u64,
        reached: &Cell<u64>,
    ) -> Result<(), Error> {
        if ingest.offset() == self.blob.size {
            return Ok(());
        }
        let answer = self.ask_for_rest(source, ingest, resumed)?;
        let missing = self.blob.size - ingest.offset();
        self.check_length(answer.reply.header("content-length"), missing)?;
        self.report_start(source.name(), ingest.offset());
        let (began, offset) = (Instant::now(), ingest.offset());
        let (mut body, _leave) = answer.into_body();
        let streamed = self.stream(&mut body, ingest, reached);
        self.note_pace(source.endpoint, ingest.offset() - offset, began);
        match streamed {
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
    fn stream(&self, body: &mut Body, ingest: &mut Ingest, reached: &Cell<u64>) -> Result<(), Error> {
        self.read(body, self.blob.size - ingest.offset(), reached, |bytes| {
            ingest.write(bytes)?;
            Ok(ingest.offset())
        })?;
        let (offset, size) = (ingest.offset(), self.blob.size);
        if offset < size {
            let message = format!("{} ended after {offset} of {size} bytes", self.blob.digest);
            return Err(Error::new(ErrorKind::SizeMismatch, message));
        }
        Ok(())
    }

    /// Hands all bytes that come to `write`, which tells how far they have come, up to the end of the
    /// body, so that its connection can be used again.
    pub(super) fn read(
        &self,
        body: &mut Body,
        expected: u64,
        reached: &Cell<u64>,
        mut write: impl FnMut(&[u8]) -> Result<u64, Error>,
    ) -> Result<(), Error> {
        let room = usize::try_from(expected).unwrap_or(PART);
        let mut buffer = vec![0; room.clamp(1, PART)];
        loop {
            let read = body.read(&mut buffer)?;
            let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
            let now_at = write(bytes).map_err(|error| match error.kind() {
                ErrorKind::SizeMismatch => error.with_retryable(false),
                _ => error,
            })?;
            reached.set(now_at.max(reached.get()));
            let advanced = ProgressEvent::BlobAdvanced { digest: &self.blob.digest, bytes: read as u64 };
            self.repository.cx.report(&advanced);
        }
    }

    /// Notes a body that came slowly: its host is no near one, however soon it answers.
    pub(super) fn note_pace(&self, endpoint: &Endpoint, bytes: u64, began: Instant) {
        let expected = Duration::from_secs_f64(bytes as f64 / NEAR);
        let late = began.elapsed().saturating_sub(expected);
        self.repository.service.governor.note_delay(&endpoint.name, late);
    }

    fn restart(&self, ingest: &mut Ingest, resumed: &mut u64) -> Result<(), Error> {
        if ingest.offset() > 0 {
            self.report_restart();
        }
        *resumed = 0;
        ingest.restart()
    }

    pub(super) fn report_start(&self, host: &str, offset: u64) {
        self.repository.cx.report(&ProgressEvent::BlobStarted {
            digest: &self.blob.digest,
            size: self.blob.size,
            offset,
            host,
        });
    }

    pub(super) fn report_restart(&self) {
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
