//! The threads that fetch one image's blobs.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, Scope};

use super::chunked::{ChunkFetcher, ChunkOutcome, ChunkedDownload};
use super::pool::{DownloadPool, Task};
use super::sequential;
use super::source::BlobSource;
use super::stats::TransferStats;
use crate::error::{Error, ErrorKind};
use crate::image::manifest::Descriptor;
use crate::progress::ProgressEvent;
use crate::store::{BeginIngest, Ingest};
use crate::sync::Permit;

/// One of a pool's threads.
#[derive(Clone, Copy)]
struct Worker<'s, 'e, 'a> {
    pool: &'s DownloadPool<'a>,
    /// The scope in which it starts others.
    scope: &'s Scope<'s, 'e>,
}

/// Fetches a pool's blobs, until one fails.
///
/// # Errors
/// The error of the first blob that failed.
pub(super) fn fetch_all(pool: DownloadPool<'_>) -> Result<TransferStats, Error> {
    thread::scope(|scope| Worker { pool: &pool, scope }.run());
    pool.into_outcome()
}

impl<'a> Worker<'_, '_, 'a> {
    /// Takes one task after the other, until there is none or one has failed.
    fn run(self) {
        while let Some(task) = self.pool.next() {
            match catch_unwind(AssertUnwindSafe(|| self.perform(task))) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => self.pool.fail(error),
                Err(_) => {
                    let message = "a thread that fetched a blob panicked";
                    self.pool.fail(Error::new(ErrorKind::Panicked, message));
                }
            }
        }
    }

    fn perform(self, task: Task<'a>) -> Result<(), Error> {
        match task {
            Task::Fetch(blob, wait_permit) => self.fetch(blob, wait_permit),
            Task::Help(download) => self.help(download),
        }
    }

    /// Fetches a blob that the store lacks. If another pull was fetching it and failed, this one
    /// fetches what is left of it.
    fn fetch(self, blob: &'a Descriptor, wait_permit: Option<Permit>) -> Result<(), Error> {
        self.spawn_helper();
        let (cx, stats) = (self.pool.session.cx, &self.pool.stats);
        let source = self.pool.source(blob);
        let begun = source.begin()?;
        // Another thread may wait for another blob now.
        drop(wait_permit);
        match begun {
            BeginIngest::Present => {
                stats.count(0, blob.size);
                cx.report(&ProgressEvent::BlobReused { digest: blob.digest.clone(), size: blob.size });
            }
            BeginIngest::Fetch(ingest) => {
                self.spawn_helper();
                let reused = self.complete(source, ingest).map_err(|error| error.with_phase(source.phase))?;
                stats.count(blob.size.saturating_sub(reused), reused);
                cx.report(&ProgressEvent::BlobDone { digest: blob.digest.clone() });
            }
        }
        Ok(())
    }

    /// Fetches what an ingest lacks, and commits it. Returns how many bytes an earlier pull has left.
    fn complete(self, source: BlobSource<'a>, ingest: Ingest) -> Result<u64, Error> {
        if let Some(data) = &source.blob.data {
            return commit_inline(ingest, data);
        }
        let service = self.pool.session.service;
        let _fetching = self.pool.fetching();
        let is_large = source.blob.size >= service.settings.chunks.from;
        if source.blob.urls.is_empty() && (is_large || ingest.has_gaps()) {
            return self.complete_in_chunks(source, ingest);
        }
        let resumed = ingest.offset();
        sequential::complete(source, ingest, resumed, &|bytes| self.on_bytes(bytes))
    }

    /// Counts bytes that arrived, and starts another thread if they show that one is of use.
    fn on_bytes(self, bytes: usize) {
        if self.pool.count_bytes(bytes) {
            self.spawn_helper();
        }
    }

    /// Starts another thread if it has something to do.
    fn spawn_helper(self) {
        self.pool.spawn_if_useful(|number| {
            let stack = self.pool.session.service.settings.stack_size;
            let thread = thread::Builder::new().name(format!("blob-{number}")).stack_size(stack);
            thread.spawn_scoped(self.scope, move || self.run()).map(drop)
        });
    }

    /// Fetches a large blob, with the help of idle threads. Fetches the whole blob if a host does not serve ranges, or
    /// an unknown chunk is wrong.
    fn complete_in_chunks(self, source: BlobSource<'a>, ingest: Ingest) -> Result<u64, Error> {
        let chunk_size = source.session.service.settings.chunks.size;
        let download = ChunkedDownload::new(source.blob, ingest, chunk_size)?;
        let had = download.had();
        let mut ingest = self.lead(source, download)?.into_ingest()?;
        if ingest.offset() < source.blob.size {
            return sequential::complete(source, ingest, had, &|bytes| self.on_bytes(bytes));
        }
        match ingest.commit() {
            Err(error) if error.kind() == ErrorKind::DigestMismatch => {
                source.report_restart(source.blob.size);
                sequential::complete(source, ingest, 0, &|bytes| self.on_bytes(bytes))
            }
            outcome => outcome.map(|()| had),
        }
    }

    /// Fetches chunks until none is pending, alone or with helpers.
    fn lead(
        self,
        source: BlobSource<'a>,
        download: ChunkedDownload<'a>,
    ) -> Result<ChunkedDownload<'a>, Error> {
        let download = Arc::new(download);
        let led = self.fetch_chunks(source, &download);
        if let Err(error) = &led {
            // Ends the helpers early.
            self.pool.fail(error.clone());
        }
        let download = self.pool.withdraw(download);
        led?;
        download.ok_or_else(|| {
            Error::new(ErrorKind::Panicked, "a thread that helped with a blob has not left it")
        })
    }

    /// Fetches chunks until none is pending, and lets others join when the first bytes have arrived: the host
    /// serves ranges then.
    fn fetch_chunks(self, source: BlobSource<'a>, download: &Arc<ChunkedDownload<'a>>) -> Result<(), Error> {
        let is_offered = Cell::new(false);
        let on_bytes = |bytes| {
            if !is_offered.replace(true) {
                self.pool.offer(download);
                self.spawn_helper();
            }
            self.on_bytes(bytes);
        };
        let fetcher = ChunkFetcher { source, download, is_reported: Cell::new(false), on_bytes: &on_bytes };
        while fetcher.fetch_chunk()? == ChunkOutcome::Chunk {
            // The network may have become slower since.
            self.spawn_helper();
        }
        Ok(())
    }

    /// Fetches chunks of a blob that another thread leads.
    fn help(self, download: Arc<ChunkedDownload<'a>>) -> Result<(), Error> {
        // Must be first: the helper was counted when it chose to help.
        let helper = Helper { pool: self.pool, download: Some(download) };
        self.spawn_helper();
        let Some(download) = &helper.download else { return Ok(()) };
        let _fetching = self.pool.fetching();
        let source = self.pool.source(download.blob());
        let fetcher = ChunkFetcher {
            source,
            download,
            is_reported: Cell::new(true),
            on_bytes: &|bytes| self.on_bytes(bytes),
        };
        let mut last = ChunkOutcome::Chunk;
        while last == ChunkOutcome::Chunk && self.pool.has_use_for_helper() {
            last = fetcher.fetch_chunk()?;
        }
        if last == ChunkOutcome::OnlyWhole {
            download.refuse_help();
        }
        Ok(())
    }
}

/// A helper; leaves when dropped, also by a panic, because the leader waits for that.
struct Helper<'p, 'a> {
    pool: &'p DownloadPool<'a>,
    download: Option<Arc<ChunkedDownload<'a>>>,
}

impl Drop for Helper<'_, '_> {
    fn drop(&mut self) {
        if let Some(download) = self.download.take() {
            self.pool.leave(download);
        }
    }
}

/// Commits bytes that came in the manifest; their size and hash were compared when it was read.
fn commit_inline(mut ingest: Ingest, data: &[u8]) -> Result<u64, Error> {
    ingest.restart()?;
    ingest.write(data)?;
    ingest.commit()?;
    Ok(0)
}
