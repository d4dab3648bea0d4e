//! A blob on one connection at a time, from one host after the other.

use std::cell::Cell;
use std::time::Instant;

use super::source::BlobSource;
use crate::error::{Error, ErrorKind};
use crate::registry::encoding::{self, BlobBody};
use crate::registry::error_response;
use crate::registry::request::{ApiResponse, HostTurn, RequestTarget};
use crate::store::Ingest;

/// The part of a body that is inspected to tell what it is, bytes.
const START: usize = 4096;

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
    /// What the last response has in place of the blob.
    instead: Instead,
    /// Whether decoding a body of unknown length has failed: its encoding may be a label.
    keeps_encoded: bool,
}

/// What a response may have brought in place of the blob.
#[derive(Default)]
struct Instead {
    /// The `Content-Encoding`.
    encoding: Option<String>,
    /// The error of an HTML page.
    page: Option<Error>,
}

/// The host and the target of a request for the blob.
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
    let mut download = SequentialDownload {
        source,
        ingest,
        resumed,
        reached: &reached,
        on_bytes,
        instead: Instead::default(),
        keeps_encoded: false,
    };
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

/// Returns whether the layer's own URLs may be tried.
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

    /// Continues at one origin. After a wrong hash it fetches the whole blob once more: the bytes of an earlier pull may
    /// be wrong.
    fn try_origin(&mut self, origin: BlobOrigin<'_>) -> Result<(), Error> {
        self.keeps_encoded = false;
        let outcome = match self.try_once(origin) {
            Err(error) if error.kind() == ErrorKind::DigestMismatch => {
                self.source.session.count_retry(origin.host());
                self.try_once(origin)
            }
            outcome => outcome,
        };
        outcome.map_err(|error| self.instead.explain(error).with_host(origin.name()))
    }

    fn try_once(&mut self, origin: BlobOrigin<'_>) -> Result<(), Error> {
        self.instead = Instead::default();
        self.download(origin).and_then(|()| self.commit())
    }

    fn commit(&mut self) -> Result<(), Error> {
        let committed = self.ingest.commit();
        if committed.as_ref().is_err_and(|error| error.kind() == ErrorKind::DigestMismatch) {
            self.source.report_restart(self.source.blob.size);
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
        let is_whole = response.reply.status() == 200;
        let announced = response.reply.header("content-length").and_then(|length| length.parse().ok());
        let is_redirected = response.is_redirected();
        self.instead.encoding = response.reply.encoding();
        let (body, _permit) = response.into_body();
        let mut body = BlobBody::AsSent(body);
        let is_decoded = is_whole && self.should_decode(announced);
        if is_decoded {
            body = body.into_decoded(self.source.blob.size)?;
        } else if let Err(error) = self.check_length(announced) {
            self.look_at_start(&mut body, is_redirected);
            return Err(error);
        }
        self.source.report_start(origin.name(), self.ingest.offset());
        let (began, offset) = (Instant::now(), self.ingest.offset());
        let streamed = self.stream(&mut body, is_redirected);
        self.source.note_body(&origin.turn, body.waited(), self.ingest.offset() - offset, began);
        if streamed.as_ref().is_err_and(|error| is_too_long(error) || is_decoded) {
            // No byte of it belongs to the blob.
            self.restart()?;
        }
        streamed.map_err(|error| match is_mismatch(&error) && is_decoded && announced.is_none() {
            true => {
                self.keeps_encoded = true;
                Error::new(ErrorKind::DigestMismatch, error.message())
            }
            false => error,
        })
    }

    /// Returns whether a whole body is to be decoded: it has an encoding, and its announced length is not that of
    /// the blob. Without an announced length it is decoded first, and taken as it was sent if that fails.
    fn should_decode(&self, announced: Option<u64>) -> bool {
        let is_encoded = encoding::DECODES && self.instead.encoding.is_some();
        is_encoded && !self.keeps_encoded && announced != Some(self.source.blob.size)
    }

    /// Reads the beginning of a body that is not the blob, to tell what it is.
    fn look_at_start(&mut self, body: &mut BlobBody, is_redirected: bool) {
        let mut start = [0; START];
        let mut length = 0;
        while let Some(rest) = start.get_mut(length..).filter(|rest| !rest.is_empty()) {
            match body.read(rest) {
                Ok(read) if read > 0 => length += read,
                _ => break,
            }
        }
        self.instead.look_at(start.get(..length).unwrap_or_default(), is_redirected);
    }

    /// Requests the missing bytes. If the host does not send exactly these, requests the whole blob, unless the host has
    /// sent it already.
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

    /// Refuses an announced length other than the missing one, which a retry does not change.
    fn check_length(&self, announced: Option<u64>) -> Result<(), Error> {
        let missing = self.missing();
        match announced {
            Some(length) if length != missing => {
                let digest = &self.source.blob.digest;
                let message = format!("{length} bytes of {digest} are announced, and {missing} are missing");
                Err(Error::new(ErrorKind::SizeMismatch, message).with_retryable(false))
            }
            _ => Ok(()),
        }
    }

    /// Reads to the end of the body, so that its connection can be used again.
    fn stream(&mut self, body: &mut BlobBody, is_redirected: bool) -> Result<(), Error> {
        let (missing, ingest, instead) = (self.missing(), &mut self.ingest, &mut self.instead);
        self.source.read(body, missing, self.reached, |bytes| {
            if ingest.offset() == 0 {
                instead.look_at(bytes, is_redirected);
            }
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
            self.source.report_restart(self.ingest.offset());
        }
        self.resumed = 0;
        self.ingest.restart()
    }

    /// Returns how many bytes are missing.
    fn missing(&self) -> u64 {
        self.source.blob.size - self.ingest.offset()
    }
}

impl Instead {
    /// Notes whether a body begins like an HTML page.
    fn look_at(&mut self, start: &[u8], is_redirected: bool) {
        let start = start.get(..START).unwrap_or(start);
        self.page = error_response::html_instead_of("a blob", start, is_redirected);
    }

    /// Replaces the error of bytes that are not the blob by one that says what they are, if that is known.
    fn explain(&mut self, error: Error) -> Error {
        if !is_mismatch(&error) {
            return error;
        }
        let encoded = || self.encoding.as_deref().map(encoding::refused);
        self.page.take().or_else(encoded).unwrap_or(error)
    }
}

impl BlobOrigin<'_> {
    /// Returns the host of the target: `HOST` or `HOST:PORT`.
    fn host(&self) -> &str {
        match self.target {
            RequestTarget::Api(_) | RequestTarget::Link(..) => &self.turn.endpoint.name,
            RequestTarget::Foreign(url) => url
                .split_once("://")
                .and_then(|(_, rest)| rest.split(['/', '?', '#']).next())
                .unwrap_or_default(),
        }
    }

    fn name(&self) -> &str {
        match self.target {
            RequestTarget::Api(_) | RequestTarget::Link(..) => &self.turn.endpoint.name,
            RequestTarget::Foreign(url) => url,
        }
    }
}

fn is_mismatch(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::SizeMismatch | ErrorKind::DigestMismatch)
}

fn is_too_long(error: &Error) -> bool {
    error.kind() == ErrorKind::SizeMismatch && !error.is_retryable()
}
