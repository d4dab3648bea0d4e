//! One blob, from one host after the other, in one piece.

use std::cell::Cell;

use super::pace::Pace;
use crate::error::{Error, ErrorKind, Phase};
use crate::image::manifest::Descriptor;
use crate::progress::ProgressEvent;
use crate::registry::ask::{Answer, Endpoint, Question, Repository};
use crate::registry::headers::ContentRange;
use crate::registry::http::Body;
use crate::registry::retry::{self, Trial};
use crate::store::{Begun, Ingest, Lease};

/// How much is handed on at a time, bytes. The connection's own buffer is larger and gathers what has
/// come; of that, this much stays in the processor's cache until it is hashed and written.
const PART: usize = 64 << 10;

/// One blob that is being fetched.
#[derive(Clone, Copy)]
pub(super) struct Fetch<'a, 'r> {
    pub(super) repository: &'a Repository<'r>,
    pub(super) lease: &'a Lease,
    pub(super) blob: &'a Descriptor,
    pub(super) phase: Phase,
}

impl Fetch<'_, '_> {
    pub(super) fn begin(&self) -> Result<Begun, Error> {
        let begun = self.repository.service.store.begin(self.repository.cx, self.lease, self.blob);
        begun.map_err(|error| error.with_phase(Phase::Store))
    }

    /// Brings the blob to its end, whatever it takes of hosts and tries.
    pub(super) fn complete(&self, mut ingest: Option<Ingest>) -> Result<(), Error> {
        let reached = Cell::new(ingest.as_ref().map_or(0, Ingest::offset));
        let trial = Trial { phase: self.phase, may: |host| host.capabilities.pull, reached: &reached };
        retry::over_hosts(self.repository, &trial, |endpoint| {
            // What is on the disk may be what is wrong, so a wrong hash has one clean try.
            match self.try_host(endpoint, &mut ingest, &reached) {
                Err(error) if error.kind() == ErrorKind::DigestMismatch => {
                    self.report_restart();
                    self.try_host(endpoint, &mut ingest, &reached)
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
        reached: &Cell<u64>,
    ) -> Result<(), Error> {
        let ingest = match held {
            Some(ingest) => ingest,
            None => match self.begin()? {
                Begun::Present => return Ok(()),
                Begun::Fetch(ingest) => held.insert(ingest),
            },
        };
        self.download(endpoint, ingest, reached)?;
        match held.take() {
            Some(ingest) => ingest.commit().map_err(|error| error.with_host(&endpoint.name)),
            None => Ok(()),
        }
    }

    /// Fetches what is missing from one host.
    fn download(&self, endpoint: &Endpoint, ingest: &mut Ingest, reached: &Cell<u64>) -> Result<(), Error> {
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
        self.report_start(endpoint, ingest.offset());
        let (mut body, _slot) = answer.into_body();
        self.stream(&mut body, ingest, reached).map_err(named)
    }

    fn ask_from(&self, endpoint: &Endpoint, offset: u64) -> Result<Answer, Error> {
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

    /// Reads to the end of the body.
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
        let mut pace = Pace::new(self.repository.service.settings.slowest);
        loop {
            let read = body.read(&mut buffer)?;
            let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
            reached.set(write(bytes)?.max(reached.get()));
            let read = read as u64;
            self.repository
                .cx
                .report(&ProgressEvent::BlobAdvanced { digest: &self.blob.digest, bytes: read });
            pace.note(read)?;
        }
    }

    fn restart(&self, ingest: &mut Ingest) -> Result<(), Error> {
        if ingest.offset() > 0 {
            self.report_restart();
        }
        ingest.restart()
    }

    pub(super) fn report_start(&self, endpoint: &Endpoint, offset: u64) {
        self.repository.cx.report(&ProgressEvent::BlobStarted {
            digest: &self.blob.digest,
            size: self.blob.size,
            offset,
            host: &endpoint.name,
        });
    }

    pub(super) fn report_restart(&self) {
        self.repository.cx.report(&ProgressEvent::BlobRestarted { digest: &self.blob.digest });
    }
}
