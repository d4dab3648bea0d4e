//! A blob on one connection at a time, from one host after the other.

use std::cell::Cell;
use std::time::Instant;

use super::source::BlobSource;
use crate::error::{Error, ErrorKind};
use crate::registry::http::HttpBody;
use crate::registry::request::{ApiResponse, HostTurn, RequestTarget};
use crate::store::Ingest;

/// A blob that is fetched from its first missing byte to its end.
struct SequentialDownload<'a> {
    source: BlobSource<'a>,
    ingest: Ingest,
    /// Bytes of an earlier pull that are still in use.
    resumed: u64,
    /// The furthest offset so far, bytes.
    reached: &'a Cell<u64>,
    /// Called when bytes have arrived.
    on_bytes: &'a dyn Fn(usize),
}

/// Where a blob is asked for.
#[derive(Clone, Copy)]
struct BlobOrigin<'a> {
    turn: HostTurn<'a>,
    target: RequestTarget<'a>,
}

/// Fetches what an ingest lacks, from one host after the other, and commits it; an earlier pull has left
/// `resumed` of its bytes. Returns how many of those were of use.
pub(super) fn complete(
    source: BlobSource<'_>,
    ingest: Ingest,
    resumed: u64,
    on_bytes: &dyn Fn(usize),
) -> Result<u64, Error> {
    let reached = Cell::new(ingest.offset());
    let mut download = SequentialDownload { source, ingest, resumed, reached: &reached, on_bytes };
    let path = source.path();
    let fetched = source.over_hosts(&reached, |turn| {
        download.try_origin(BlobOrigin { turn, target: RequestTarget::Api(&path) })
    });
    match fetched {
        Err(error) if may_try_foreign(&source, &error) => download.try_foreign().map_err(|_| error)?,
        fetched => fetched?,
    }
    Ok(download.resumed)
}

/// Whether the layer's own URLs may be tried: it is one that registries need not have.
fn may_try_foreign(source: &BlobSource<'_>, error: &Error) -> bool {
    source.session.service.settings.allow_foreign_urls
        && error.kind() == ErrorKind::NotFound
        && !source.blob.urls.is_empty()
}

impl SequentialDownload<'_> {
    /// Tries the descriptor's own URLs in turn, once each.
    fn try_foreign(&mut self) -> Result<(), Error> {
        let BlobSource { session, blob, .. } = self.source;
        let absent = Error::new(ErrorKind::NotFound, "no host has it");
        let Some(endpoint) = session.endpoints.last() else { return Err(absent) };
        let mut failed = absent;
        for url in &blob.urls {
            let turn = HostTurn { endpoint, others_left: false };
            match self.try_origin(BlobOrigin { turn, target: RequestTarget::Foreign(url) }) {
                Ok(()) => return Ok(()),
                Err(error) => failed = error,
            }
            session.cx.check()?;
        }
        log::debug!("{}: {failed}", session.reference);
        Err(failed)
    }

    /// Continues at one origin. The bytes on the disk may be the wrong ones, so a wrong hash has one clean
    /// try.
    fn try_origin(&mut self, origin: BlobOrigin<'_>) -> Result<(), Error> {
        match self.try_once(origin) {
            Err(error) if error.kind() == ErrorKind::DigestMismatch => {
                self.source.report_restart();
                self.try_once(origin)
            }
            outcome => outcome,
        }
    }

    fn try_once(&mut self, origin: BlobOrigin<'_>) -> Result<(), Error> {
        let fetched = self.download(origin).and_then(|()| self.commit());
        fetched.map_err(|error| error.with_host(origin.name()))
    }

    fn commit(&mut self) -> Result<(), Error> {
        let committed = self.ingest.commit();
        if committed.as_ref().is_err_and(|error| error.kind() == ErrorKind::DigestMismatch) {
            self.resumed = 0;
        }
        committed
    }

    /// Fetches what is missing from one host.
    fn download(&mut self, origin: BlobOrigin<'_>) -> Result<(), Error> {
        if self.missing() == 0 {
            return Ok(());
        }
        let response = self.request_rest(origin)?;
        self.check_length(response.reply.header("content-length"))?;
        self.source.report_start(origin.name(), self.ingest.offset());
        let (began, offset) = (Instant::now(), self.ingest.offset());
        let (mut body, _permit) = response.into_body();
        let streamed = self.stream(&mut body);
        self.source.note_body(&origin.turn, self.ingest.offset() - offset, began);
        if streamed.as_ref().is_err_and(is_too_long) {
            // From its first byte on it is not the blob that was asked for.
            self.restart()?;
        }
        streamed
    }

    /// Asks for what is missing. A host that does not send exactly that is asked for the whole blob, or
    /// has sent it already.
    fn request_rest(&mut self, origin: BlobOrigin<'_>) -> Result<ApiResponse, Error> {
        let offset = self.ingest.offset();
        if offset == 0 {
            return self.source.request(origin.turn, origin.target, None);
        }
        let range = format!("bytes={offset}-");
        let response = self.source.request(origin.turn, origin.target, Some(&range))?;
        if self.source.is_exactly(offset..self.source.blob.size, &response) {
            return Ok(response);
        }
        if response.reply.status() == 200 {
            self.restart()?;
            return Ok(response);
        }
        response.discard();
        self.restart()?;
        self.source.request(origin.turn, origin.target, None)
    }

    /// Refuses an announced length other than the missing one: a retry would bring the same.
    fn check_length(&self, announced: Option<&str>) -> Result<(), Error> {
        let missing = self.missing();
        match announced.and_then(|length| length.parse::<u64>().ok()) {
            Some(length) if length != missing => {
                let digest = &self.source.blob.digest;
                let message = format!("{length} bytes of {digest} are announced, and {missing} are missing");
                Err(Error::new(ErrorKind::SizeMismatch, message).with_retryable(false))
            }
            _ => Ok(()),
        }
    }

    /// Reads to the end of the body, so that its connection can be used again.
    fn stream(&mut self, body: &mut HttpBody) -> Result<(), Error> {
        let (missing, ingest) = (self.missing(), &mut self.ingest);
        self.source.read(body, missing, self.reached, |bytes| {
            ingest.write(bytes)?;
            (self.on_bytes)(bytes.len());
            Ok(ingest.offset())
        })?;
        if self.missing() > 0 {
            let (offset, blob) = (self.ingest.offset(), self.source.blob);
            let message = format!("{} ended after {offset} of {} bytes", blob.digest, blob.size);
            return Err(Error::new(ErrorKind::SizeMismatch, message));
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<(), Error> {
        if self.ingest.offset() > 0 {
            self.source.report_restart();
        }
        self.resumed = 0;
        self.ingest.restart()
    }

    /// Returns how many bytes are missing.
    fn missing(&self) -> u64 {
        self.source.blob.size - self.ingest.offset()
    }
}

impl BlobOrigin<'_> {
    fn name(&self) -> &str {
        match self.target {
            RequestTarget::Api(_) | RequestTarget::Link(..) => &self.turn.endpoint.name,
            RequestTarget::Foreign(url) => url,
        }
    }
}

fn is_too_long(error: &Error) -> bool {
    error.kind() == ErrorKind::SizeMismatch && !error.is_retryable()
}
