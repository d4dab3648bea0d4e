//! A layer's bytes: decompressed on a thread of their own, hashed and counted where they are read.

use std::io::{self, BufRead, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Scope};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::context::PullContext;
use crate::decoders;
use crate::error::{Error, ErrorKind};
use crate::image::digest::{Algorithm, Digest, Hasher};
use crate::unpack::fault::UnpackFault;

/// Bytes that go from one thread to the other at once.
const CHUNK: usize = 128 << 10;
/// Chunks that are ready at most.
const READY: usize = 3;

/// What all layers of an image share: what they may take, and whether one has failed.
pub(super) struct Budget {
    bytes: AtomicU64,
    max_bytes: u64,
    entries: AtomicU64,
    max_entries: u64,
    has_failed: AtomicBool,
    cx: PullContext,
}

impl Budget {
    pub(super) fn new(cx: &PullContext, max_bytes: u64, max_entries: u64) -> Self {
        Budget {
            bytes: AtomicU64::new(0),
            max_bytes,
            entries: AtomicU64::new(0),
            max_entries,
            has_failed: AtomicBool::new(false),
            cx: cx.clone(),
        }
    }

    /// Ends the work on all layers.
    pub(super) fn fail(&self) {
        self.has_failed.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    /// Whether to go on.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.has_failed() {
            return Err(Error::new(ErrorKind::Cancelled, "another layer of the image failed"));
        }
        self.cx.check()
    }

    /// Counts an entry.
    pub(super) fn count_entry(&self) -> Result<(), UnpackFault> {
        if self.entries.fetch_add(1, Ordering::Relaxed) < self.max_entries {
            return Ok(());
        }
        Err(UnpackFault::new(
            ErrorKind::Denied,
            format!("the image has more than the {} entries allowed", self.max_entries),
        ))
    }

    /// Counts bytes of a layer, or of a hole in a file.
    pub(super) fn count_bytes(&self, bytes: u64) -> Result<(), Error> {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) <= self.max_bytes {
            return Ok(());
        }
        let text = format!("the image unpacks to more than the {} bytes allowed", self.max_bytes);
        Err(Error::new(ErrorKind::Denied, text))
    }
}

/// The decompressed bytes of a layer.
pub(super) struct Stream<'a> {
    chunks: Receiver<io::Result<Vec<u8>>>,
    /// Takes back what was read.
    empty: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
    has_ended: bool,
    hasher: Hasher,
    budget: &'a Budget,
}

impl<'a> Stream<'a> {
    /// Begins to decompress `source` on a thread of this name.
    ///
    /// # Errors
    /// `ResourceExhausted` if there is no thread.
    pub(super) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        name: String,
        source: impl BufRead + Send + 'scope,
        zstd_window: u64,
        algorithm: Algorithm,
        budget: &'a Budget,
    ) -> Result<Self, UnpackFault> {
        let (sender, chunks) = bounded(READY);
        let (empty, emptied) = bounded(READY + 2);
        let body = move || {
            if let Err(error) = decompress(source, zstd_window, &sender, &emptied) {
                let _ = sender.send(Err(error));
            }
        };
        thread::Builder::new().name(name).spawn_scoped(scope, body).map_err(|error| {
            UnpackFault::new(ErrorKind::ResourceExhausted, format!("no thread to be had: {error}"))
        })?;
        let hasher = Hasher::new(algorithm);
        Ok(Stream { chunks, empty, chunk: Vec::new(), at: 0, has_ended: false, hasher, budget })
    }

    /// Reads to the end, and returns the digest of all bytes.
    pub(super) fn finish(mut self) -> io::Result<Digest> {
        while !self.fill_buf()?.is_empty() {
            self.at = self.chunk.len();
        }
        Ok(self.hasher.finish())
    }

    /// Waits for the next chunk; an empty one is the end.
    fn next_chunk(&mut self) -> io::Result<()> {
        let used = std::mem::take(&mut self.chunk);
        if used.capacity() > 0 {
            let _ = self.empty.try_send(used);
        }
        self.at = 0;
        self.budget.check().map_err(io::Error::other)?;
        let chunk = self.budget.cx.wait_for(&self.chunks).map_err(io::Error::other)?;
        // The thread sends an end before it leaves, unless it panics.
        let lost =
            || io::Error::other(Error::new(ErrorKind::Panicked, "the decompression of the layer panicked"));
        self.chunk = chunk.ok_or_else(lost)??;
        self.has_ended = self.chunk.is_empty();
        self.budget.count_bytes(self.chunk.len() as u64).map_err(io::Error::other)?;
        self.hasher.update(&self.chunk);
        Ok(())
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Stream<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.chunk.len() && !self.has_ended {
            self.next_chunk()?;
        }
        Ok(self.chunk.get(self.at..).unwrap_or_default())
    }

    fn consume(&mut self, read: usize) {
        self.at = (self.at + read).min(self.chunk.len());
    }
}

/// Sends chunk after chunk, and an empty one at the end; ends when nobody reads any more.
fn decompress(
    source: impl BufRead + Send,
    zstd_window: u64,
    chunks: &Sender<io::Result<Vec<u8>>>,
    empty: &Receiver<Vec<u8>>,
) -> io::Result<()> {
    let mut decoder = decoders::decoder(source, zstd_window)?;
    loop {
        let mut chunk = empty.try_recv().unwrap_or_default();
        chunk.resize(CHUNK, 0);
        let mut filled = 0;
        while let Some(rest) = chunk.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match decoder.read(rest) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // What came before the error is read first: it may be what is wrong.
                    chunk.truncate(filled);
                    if filled > 0 {
                        let _ = chunks.send(Ok(chunk));
                    }
                    return Err(error);
                }
            }
        }
        chunk.truncate(filled);
        if chunks.send(Ok(chunk)).is_err() || filled == 0 {
            return Ok(());
        }
    }
}
