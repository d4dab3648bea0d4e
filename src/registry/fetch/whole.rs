//! One blob, from one host after the other, in one piece.

use std::cell::Cell;
use std::time::Instant;

use super::blob::Fetch;
use crate::error::{Error, ErrorKind};
use crate::registry::http::Body;
use crate::registry::request::{Endpoint, Response, Target};
use crate::store::Ingest;

/// A blob on its way.
struct Whole<'a> {
    fetch: Fetch<'a>,
    ingest: Ingest,
    /// Bytes from an earlier pull that are still counted on.
    resumed: u64,
    /// How far it has ever come, bytes.
    reached: &'a Cell<u64>,
}

/// Where a blob is asked for.
#[derive(Clone, Copy)]
struct Source<'a> {
    endpoint: &'a Endpoint,
    target: Target<'a>,
}

impl Fetch<'_> {
    /// Brings the blob to its end, whatever it takes of hosts and tries: from `ingest` on, of which an
    /// earlier pull has left `resumed` bytes. Returns how many of those were of use.
    pub(super) fn complete(&self, ingest: Ingest, resumed: u64) -> Result<u64, Error> {
        let reached = Cell::new(ingest.offset());
        let mut whole = Whole { fetch: *self, ingest, resumed, reached: &reached };
        let path = self.path();
        let fetched = self.over_hosts(&reached, |endpoint| {
            whole.try_source(Source { endpoint, target: Target::Api(&path) })
        });
        match fetched {
            Err(error) if self.may_try_foreign(&error) => whole.try_foreign().map_err(|_| error)?,
            fetched => fetched?,
        }
        Ok(whole.resumed)
    }

    /// Whether the layer is one that registries need not have, and may be had where it says.
    fn may_try_foreign(&self, error: &Error) -> bool {
        self.session.service.settings.allow_foreign_urls
            && error.kind() == ErrorKind::NotFound
            && !self.blob.urls.is_empty()
    }
}

impl Whole<'_> {
    /// Tries the descriptor's own URLs in turn, once each.
    fn try_foreign(&mut self) -> Result<(), Error> {
        let Fetch { session, blob, .. } = self.fetch;
        let absent = Error::new(ErrorKind::NotFound, "no host has it");
        let Some(endpoint) = session.endpoints.last() else { return Err(absent) };
        let mut failed = absent;
        for url in &blob.urls {
            match self.try_source(Source { endpoint, target: Target::Foreign(url) }) {
                Ok(()) => return Ok(()),
                Err(error) => failed = error,
            }
            session.cx.check()?;
        }
        log::debug!("{}: {failed}", session.reference);
        Err(failed)
    }

    /// Goes on at one host. What is on the disk may be what is wrong, so a wrong hash has one clean try.
    fn try_source(&mut self, source: Source<'_>) -> Result<(), Error> {
        match self.try_once(source) {
            Err(error) if error.kind() == ErrorKind::DigestMismatch => {
                self.fetch.report_restart();
                self.try_once(source)
            }
            outcome => outcome,
        }
    }

    fn try_once(&mut self, source: Source<'_>) -> Result<(), Error> {
        let fetched = self.download(source).and_then(|()| self.commit());
        fetched.map_err(|error| error.with_host(source.name()))
    }

    fn commit(&mut self) -> Result<(), Error> {
        let committed = self.ingest.commit();
        if committed.as_ref().is_err_and(|error| error.kind() == ErrorKind::DigestMismatch) {
            self.resumed = 0;
        }
        committed
    }

    /// Fetches what is missing from one host.
    fn download(&mut self, source: Source<'_>) -> Result<(), Error> {
        if self.missing() == 0 {
            return Ok(());
        }
        let answer = self.ask_for_rest(source)?;
        self.check_length(answer.reply.header("content-length"))?;
        self.fetch.report_start(source.name(), self.ingest.offset());
        let (began, offset) = (Instant::now(), self.ingest.offset());
        let (mut body, _leave) = answer.into_body();
        let streamed = self.stream(&mut body);
        self.fetch.note_pace(source.endpoint, self.ingest.offset() - offset, began);
        if streamed.as_ref().is_err_and(is_too_long) {
            // It is not ours from its first byte on.
            self.restart()?;
        }
        streamed
    }

    /// Asks for what is missing. A host that does not give just that is asked for the whole, or has
    /// given it already.
    fn ask_for_rest(&mut self, source: Source<'_>) -> Result<Response, Error> {
        let offset = self.ingest.offset();
        if offset == 0 {
            return self.fetch.request(source.endpoint, source.target, None);
        }
        let range = format!("bytes={offset}-");
        let answer = self.fetch.request(source.endpoint, source.target, Some(&range))?;
        if self.fetch.is_brought(offset..self.fetch.blob.size, &answer) {
            return Ok(answer);
        }
        if answer.reply.status() == 200 {
            self.restart()?;
            return Ok(answer);
        }
        answer.discard();
        self.restart()?;
        self.fetch.request(source.endpoint, source.target, None)
    }

    /// A host that announces another length has another blob, and will have it in a moment, too.
    fn check_length(&self, announced: Option<&str>) -> Result<(), Error> {
        let missing = self.missing();
        match announced.and_then(|length| length.parse::<u64>().ok()) {
            Some(length) if length != missing => {
                let digest = &self.fetch.blob.digest;
                let message = format!("{length} bytes of {digest} are announced, and {missing} are missing");
                Err(Error::new(ErrorKind::SizeMismatch, message).with_retryable(false))
            }
            _ => Ok(()),
        }
    }

    /// Reads to the end of the body, so that its connection can be used again.
    fn stream(&mut self, body: &mut Body) -> Result<(), Error> {
        let (missing, ingest) = (self.missing(), &mut self.ingest);
        self.fetch.read(body, missing, self.reached, |bytes| {
            ingest.write(bytes)?;
            Ok(ingest.offset())
        })?;
        if self.missing() > 0 {
            let (offset, blob) = (self.ingest.offset(), self.fetch.blob);
            let message = format!("{} ended after {offset} of {} bytes", blob.digest, blob.size);
            return Err(Error::new(ErrorKind::SizeMismatch, message));
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<(), Error> {
        if self.ingest.offset() > 0 {
            self.fetch.report_restart();
        }
        self.resumed = 0;
        self.ingest.restart()
    }

    /// How many bytes are still to come.
    fn missing(&self) -> u64 {
        self.fetch.blob.size - self.ingest.offset()
    }
}

impl Source<'_> {
    fn name(&self) -> &str {
        match self.target {
            Target::Api(_) => &self.endpoint.name,
            Target::Foreign(url) => url,
        }
    }
}

fn is_too_long(error: &Error) -> bool {
    error.kind() == ErrorKind::SizeMismatch && !error.is_retryable()
}
