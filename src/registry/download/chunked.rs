//! A large blob in chunks, which several threads fetch at a time.
//!
//! A chunk is requested as a closed range, so that no byte is sent twice. The first connection shows the rate of the
//! host: if it is lower than that of the hash, each idle connection makes the pull faster; else one helper is
//! enough, to hash beside the writing.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use super::ramp::FAST;
use super::source::BlobSource;
use crate::error::{Error, ErrorKind};
use crate::image::manifest::Descriptor;
use crate::registry::encoding::BlobBody;
use crate::registry::request::{HostTurn, RequestTarget};
use crate::store::{Chunk, ChunkedIngest, Ingest};

/// A blob whose chunks several threads fetch.
pub(super) struct ChunkedDownload<'a> {
    blob: &'a Descriptor,
    chunks: ChunkedIngest,
    /// Bytes that an earlier pull has left.
    had: u64,
    since: Instant,
    /// Changed under the pool's lock.
    helpers: AtomicUsize,
    /// Whether a helper was sent the whole blob: another one would be, too.
    is_sent_whole: AtomicBool,
}

impl<'a> ChunkedDownload<'a> {
    pub(super) fn new(blob: &'a Descriptor, ingest: Ingest, chunk_size: u64) -> Result<Self, Error> {
        let had = blob.size.saturating_sub(ingest.missing());
        Ok(ChunkedDownload {
            blob,
            chunks: ingest.in_chunks(chunk_size)?,
            had,
            since: Instant::now(),
            helpers: AtomicUsize::new(0),
            is_sent_whole: AtomicBool::new(false),
        })
    }

    pub(super) fn blob(&self) -> &'a Descriptor {
        self.blob
    }

    /// Returns the bytes that an earlier pull has left.
    pub(super) fn had(&self) -> u64 {
        self.had
    }

    /// Returns the bytes that this download has written.
    pub(super) fn written(&self) -> u64 {
        self.chunks.written()
    }

    /// Returns how many missing bytes no thread fetches yet.
    pub(super) fn pending(&self) -> u64 {
        self.chunks.open()
    }

    pub(super) fn wants_help(&self) -> bool {
        let helpers = self.helpers.load(Ordering::Relaxed);
        let per_connection = self.since.elapsed().as_secs_f64().max(1e-6) * (helpers + 1) as f64;
        let is_fast = self.chunks.written() as f64 / per_connection > FAST;
        self.pending() > 0 && (!is_fast || helpers == 0) && !self.is_sent_whole.load(Ordering::Relaxed)
    }

    pub(super) fn refuse_help(&self) {
        self.is_sent_whole.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_helpers(&self) -> bool {
        self.helpers.load(Ordering::Relaxed) > 0
    }

    pub(super) fn join(&self) {
        self.helpers.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        self.helpers.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn into_ingest(self) -> Result<Ingest, Error> {
        self.chunks.into_ingest()
    }
}

/// The result of a request for a chunk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ChunkOutcome {
    Chunk,
    /// No chunk was pending.
    Nothing,
    /// The host sends the whole blob for any range.
    OnlyWhole,
}

/// A thread that fetches chunks: the leader or a helper.
pub(super) struct ChunkFetcher<'f, 'a> {
    pub(super) source: BlobSource<'a>,
    pub(super) download: &'f ChunkedDownload<'a>,
    /// Whether the start of the blob was reported; after a failure it is reported again.
    pub(super) is_reported: Cell<bool>,
    /// Called when bytes have arrived.
    pub(super) on_bytes: &'f dyn Fn(usize),
}

impl ChunkFetcher<'_, '_> {
    /// Fetches one chunk, from one host after the other.
    pub(super) fn fetch_chunk(&self) -> Result<ChunkOutcome, Error> {
        let chunks = &self.download.chunks;
        let Some(mut chunk) = chunks.take() else { return Ok(ChunkOutcome::Nothing) };
        let reached = Cell::new(chunk.next);
        let fetched = self.source.over_hosts(&reached, |turn| {
            self.fetch_from(turn, &mut chunk, &reached).inspect_err(|_| self.is_reported.set(false))
        });
        let given_back = chunks.give_back(&chunk);
        let fetched = fetched?;
        given_back.map(|()| fetched)
    }

    /// Fetches what a chunk lacks from one host.
    fn fetch_from(
        &self,
        turn: HostTurn<'_>,
        chunk: &mut Chunk,
        reached: &Cell<u64>,
    ) -> Result<ChunkOutcome, Error> {
        let (source, from) = (&self.source, chunk.next);
        let range = format!("bytes={from}-{}", chunk.end - 1);
        let response = source.request(turn, RequestTarget::Api(&source.path()), Some(&range))?;
        if !source.is_exactly(from..chunk.end, &response) {
            log::debug!("{}: the host does not keep to the range {range}", turn.name);
            return Ok(ChunkOutcome::OnlyWhole);
        }
        if !self.is_reported.replace(true) {
            source.report_start(&turn.name, self.download.had + self.download.written());
        }
        let began = Instant::now();
        let (body, _permit) = response.into_body();
        let mut body = BlobBody::AsSent(body);
        let named = |error: Error| error.with_host(&turn.name);
        self.write(&mut body, chunk, reached).map_err(named)?;
        source.note_body(&turn, body.waited(), chunk.next - from, began);
        if chunk.next < chunk.end {
            let message = format!("{} bytes of the range {range} are missing", chunk.end - chunk.next);
            return Err(named(Error::new(ErrorKind::SizeMismatch, message)));
        }
        Ok(ChunkOutcome::Chunk)
    }

    fn write(&self, body: &mut BlobBody, chunk: &mut Chunk, reached: &Cell<u64>) -> Result<(), Error> {
        self.source.read(body, chunk.end - chunk.next, reached, |bytes| {
            self.download.chunks.write(chunk, bytes)?;
            (self.on_bytes)(bytes.len());
            Ok(chunk.next)
        })
    }
}
