//! One blob that is to be fetched, whether in one piece or in several.

use std::cell::Cell;
use std::ops::Range;
use std::time::Instant;

use crate::error::{Error, ErrorKind, Phase};
use crate::image::manifest::Descriptor;
use crate::progress::ProgressEvent;
use crate::registry::http::Body;
use crate::registry::range::ContentRange;
use crate::registry::request::{Endpoint, PullSession, Request, Response, Target};
use crate::registry::retry::{self, HostAttempts};
use crate::store::{Begun, Transaction};

/// How much is handed on at a time, bytes: what the connection's own buffer gathers, which stays in the
/// processor's cache until it is hashed and written.
const PART: usize = 128 << 10;

/// One blob that is to be fetched.
#[derive(Clone, Copy)]
pub(super) struct Fetch<'a> {
    pub(super) session: &'a PullSession<'a>,
    pub(super) transaction: &'a Transaction,
    pub(super) blob: &'a Descriptor,
    pub(super) phase: Phase,
}

impl Fetch<'_> {
    pub(super) fn begin(&self) -> Result<Begun, Error> {
        let begun = self.session.service.store.begin(self.session.cx, self.transaction, self.blob);
        begun.map_err(|error| error.with_phase(Phase::Store))
    }

    /// Where hosts have it, below the repository's path.
    pub(super) fn path(&self) -> String {
        format!("blobs/{}", self.blob.digest)
    }

    /// Tries one host after the other. `reached` tells how far the attempts have come, bytes.
    pub(super) fn over_hosts<T>(
        &self,
        reached: &Cell<u64>,
        attempt: impl FnMut(&Endpoint) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let host_attempts = HostAttempts { phase: self.phase, may: |host| host.capabilities.pull, reached };
        retry::over_hosts(self.session, &host_attempts, attempt)
    }

    /// Asks one host, for all of it or for a `range`, like `bytes=0-1`.
    pub(super) fn request(
        &self,
        endpoint: &Endpoint,
        target: Target<'_>,
        range: Option<&str>,
    ) -> Result<Response, Error> {
        self.session.request(endpoint, Request { target, accept: None, range, phase: self.phase })
    }

    /// Whether an answer brings just these bytes.
    pub(super) fn is_brought(&self, bytes: Range<u64>, answer: &Response) -> bool {
        let sent = ContentRange::parse(answer.reply.headers("content-range"));
        answer.reply.status() == 206
            && sent.is_some_and(|sent| {
                sent.first == bytes.start
                    && sent.last == bytes.end - 1
                    && sent.complete.is_none_or(|complete| complete == self.blob.size)
            })
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
            self.session.cx.report(&advanced);
        }
    }

    /// Notes how long a body's bytes took to come.
    pub(super) fn note_pace(&self, endpoint: &Endpoint, bytes: u64, began: Instant) {
        self.session.service.host_limits.note_body(&endpoint.name, bytes, began.elapsed());
    }

    pub(super) fn report_start(&self, host: &str, offset: u64) {
        self.session.cx.report(&ProgressEvent::BlobStarted {
            digest: &self.blob.digest,
            size: self.blob.size,
            offset,
            host,
        });
    }

    pub(super) fn report_restart(&self) {
        self.session.cx.report(&ProgressEvent::BlobRestarted { digest: &self.blob.digest });
    }
}
