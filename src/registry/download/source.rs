//! One blob to fetch, and the requests for it.

use std::cell::Cell;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Phase};
use crate::image::manifest::Descriptor;
use crate::progress::ProgressEvent;
use crate::registry::content_range::ContentRange;
use crate::registry::encoding::BlobBody;
use crate::registry::error_response::named_blob;
use crate::registry::request::{ApiRequest, ApiResponse, HostEndpoint, HostTurn, PullSession, RequestTarget};
use crate::registry::retry::{self, HostAttempts};
use crate::store::{BeginIngest, Transaction};

/// The largest read, bytes: the size of the connection's own buffer, which stays in the processor's cache until it is
/// hashed and written.
const READ: usize = 128 << 10;

/// One blob to fetch.
#[derive(Clone, Copy)]
pub(super) struct BlobSource<'a> {
    pub(super) session: &'a PullSession<'a>,
    pub(super) transaction: &'a Transaction,
    pub(super) blob: &'a Descriptor,
    pub(super) phase: Phase,
}

impl BlobSource<'_> {
    /// Begins the blob's ingest into the store.
    pub(super) fn begin(&self) -> Result<BeginIngest, Error> {
        let begun = self.session.service.store.begin(self.session.cx, self.transaction, self.blob);
        begun.map_err(|error| error.with_phase(Phase::Store))
    }

    /// Returns the blob's path at a host, below the API's root and the repository.
    pub(super) fn path(&self) -> String {
        format!("blobs/{}", self.blob.digest)
    }

    /// Tries one host after the other. `reached` holds the furthest offset of the attempts, bytes.
    pub(super) fn over_hosts<T>(
        &self,
        reached: &Cell<u64>,
        attempt: impl FnMut(HostTurn<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let host_attempts = HostAttempts::new(self.phase, |host| host.capabilities.pull).advancing(reached);
        retry::over_hosts(self.session, &host_attempts, attempt)
    }

    /// Requests the blob from one host, or a `range` of it, like `bytes=0-1`.
    pub(super) fn request(
        &self,
        turn: HostTurn<'_>,
        target: RequestTarget<'_>,
        range: Option<&str>,
    ) -> Result<ApiResponse, Error> {
        let response =
            self.session.request(turn, ApiRequest { range, ..ApiRequest::new(target, self.phase) });
        response.map_err(|error| named_blob(error, &self.blob.digest))
    }

    /// Returns whether a response has exactly these bytes.
    pub(super) fn is_exactly(&self, bytes: Range<u64>, response: &ApiResponse) -> bool {
        let sent = ContentRange::parse(response.reply.headers("content-range"));
        response.reply.status() == 206
            && sent.is_some_and(|sent| {
                sent.first == bytes.start
                    && sent.last == bytes.end - 1
                    && sent.complete.is_none_or(|complete| complete == self.blob.size)
            })
    }

    /// Passes a body's bytes to `write`, which returns the offset that they reach; reads up to the end of the body, so
    /// that its connection can be used again.
    pub(super) fn read(
        &self,
        body: &mut BlobBody,
        expected: u64,
        reached: &Cell<u64>,
        mut write: impl FnMut(&[u8]) -> Result<u64, Error>,
    ) -> Result<(), Error> {
        let capacity = usize::try_from(expected).unwrap_or(READ);
        let mut buffer = vec![0; capacity.clamp(1, READ)];
        loop {
            let read = body.read(&mut buffer)?;
            let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
            let now_at = write(bytes).map_err(|error| match error.kind() {
                ErrorKind::SizeMismatch => error.with_retryable(false),
                _ => error,
            })?;
            reached.set(now_at.max(reached.get()));
            let advanced =
                ProgressEvent::BlobAdvanced { digest: self.blob.digest.clone(), bytes: read as u64 };
            self.session.cx.report(&advanced);
        }
    }

    /// Notes how long a body's bytes took to arrive. The time that was `waited` for the bandwidth limit does not
    /// count.
    pub(super) fn note_body(&self, endpoint: &HostEndpoint, waited: Duration, bytes: u64, began: Instant) {
        let time = began.elapsed().saturating_sub(waited);
        self.session.service.host_limits.note_body(&endpoint.name, bytes, time);
    }

    pub(super) fn report_start(&self, host: &str, offset: u64) {
        self.session.cx.report(&ProgressEvent::BlobStarted {
            digest: self.blob.digest.clone(),
            size: self.blob.size,
            offset,
            host: host.to_owned(),
        });
    }

    /// Reports that `bytes` of the blob are thrown away.
    pub(super) fn report_restart(&self, bytes: u64) {
        self.session.cx.report(&ProgressEvent::BlobRestarted { digest: self.blob.digest.clone(), bytes });
    }
}
