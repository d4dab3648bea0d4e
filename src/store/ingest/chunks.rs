//! A large blob that several threads write at a time, each a chunk in its place.
//!
//! The hash goes in order: a thread that writes where the hash has come to hashes from memory, and bytes
//! that were written ahead are read back when the hash reaches them.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::block_map::{BLOCK, BlockMap};
use super::hash::READ;
use super::progress::{Chunk, PartialProgress};
use super::verify;
use super::write::Ingest;
use crate::error::{Error, ErrorKind};
use crate::image::digest::Hasher;
use crate::store::error::refused;

/// An [`Ingest`] that the writers of its chunks share.
#[derive(Debug)]
pub(crate) struct ChunkedIngest {
    ingest: Ingest,
    chunk_size: u64,
    hash: Mutex<InOrder>,
    written: AtomicU64,
}

/// How far the hash has come.
#[derive(Debug)]
struct InOrder {
    hasher: Hasher,
    hashed: u64,
    buffer: Vec<u8>,
}

impl Ingest {
    /// Shares the ingest among writers of chunks of about `chunk_size` bytes.
    ///
    /// # Errors
    /// `Store`, `DiskFull`.
    pub(crate) fn in_chunks(mut self, chunk_size: u64) -> Result<ChunkedIngest, Error> {
        let (size, offset) = (self.size(), self.offset());
        let (cx, is_new) = (self.cx().clone(), self.missing() == size);
        let blob = self.blob_mut()?;
        if blob.progress.is_none() || is_new {
            // Chunks consist of whole blocks.
            let mut map = BlockMap::prefix_of(size, BLOCK.min(chunk_size), offset);
            verify::add_checksums(&cx, &*blob.partial.file, &mut map)?;
            blob.progress = Some(PartialProgress::new(map));
        }
        blob.rest = None;
        // Without a note a file with a gap would be taken for a prefix.
        self.with_room(|| {
            let (Some(progress), file) = (self.progress(), self.file()?) else { return Ok(()) };
            progress.try_note(file).map_err(|error| refused(&error, "note the progress of a partial"))
        })?;
        let hasher = self.take_hasher();
        let hash = Mutex::new(InOrder { hasher, hashed: offset, buffer: Vec::new() });
        Ok(ChunkedIngest { ingest: self, chunk_size, hash, written: AtomicU64::new(0) })
    }
}

impl ChunkedIngest {
    /// Takes the first run of missing bytes that no writer holds. A writer returns it with
    /// [`give_back`](Self::give_back).
    pub(crate) fn take(&self) -> Option<Chunk> {
        self.ingest.progress()?.take(self.chunk_size)
    }

    /// Returns how many missing bytes no writer holds.
    pub(crate) fn open(&self) -> u64 {
        self.ingest.progress().map_or(0, PartialProgress::open)
    }

    /// Returns the bytes that were written since the ingest is shared.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Writes the next bytes of a chunk.
    ///
    /// # Errors
    /// `SizeMismatch` if the chunk has no room for them; `DiskFull`, `Store`.
    pub(crate) fn write(&self, chunk: &mut Chunk, bytes: &[u8]) -> Result<(), Error> {
        let (start, end) = (chunk.next, chunk.next.saturating_add(bytes.len() as u64));
        if end > chunk.end {
            let text = format!("the host sent more than the bytes up to {} that were requested", chunk.end);
            return Err(Error::new(ErrorKind::SizeMismatch, text));
        }
        self.ingest.write_to_file(start, bytes, Some(chunk))?;
        self.ingest.note_written(bytes.len());
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if let Some(mut hash) = self.hash.try_lock()
            && hash.hashed == start
        {
            hash.hasher.update(bytes);
            hash.hashed = end;
        }
        Ok(())
    }

    /// Gives a chunk back, written to its end or not, and notes how far it came. Then hashes what can be
    /// hashed, unless another thread does.
    ///
    /// # Errors
    /// `Store`, `Cancelled`, `Timeout`.
    pub(crate) fn give_back(&self, chunk: &Chunk) -> Result<(), Error> {
        if let Some(progress) = self.ingest.progress() {
            progress.give_back(self.ingest.file()?, chunk);
        }
        match self.hash.try_lock() {
            Some(mut hash) => self.hash_on(&mut hash),
            None => Ok(()),
        }
    }

    /// Returns the ingest, hashed up to the first gap.
    ///
    /// # Errors
    /// `Store`, `Cancelled`, `Timeout`.
    pub(crate) fn into_ingest(self) -> Result<Ingest, Error> {
        self.hash_on(&mut self.hash.lock())?;
        let InOrder { hasher, hashed, .. } = self.hash.into_inner();
        let mut ingest = self.ingest;
        ingest.put_hasher(hasher, hashed);
        Ok(ingest)
    }

    /// Reads back and hashes up to the first gap.
    fn hash_on(&self, hash: &mut InOrder) -> Result<(), Error> {
        let file = self.ingest.file()?;
        loop {
            let ready = self.gapless_from(hash.hashed).saturating_sub(hash.hashed);
            if ready == 0 {
                return Ok(());
            }
            self.ingest.cx().check()?;
            hash.buffer.resize(READ, 0);
            let wanted = usize::try_from(ready).unwrap_or(READ).min(READ);
            let space = hash.buffer.get_mut(..wanted).unwrap_or_default();
            let read =
                file.read_at(space, hash.hashed).map_err(|error| refused(&error, "read a blob back"))?;
            match space.get(..read) {
                None | Some([]) => {
                    let text = "a partial download is shorter than was written";
                    return Err(Error::new(ErrorKind::Store, text));
                }
                Some(bytes) => hash.hasher.update(bytes),
            }
            hash.hashed += read as u64;
        }
    }

    fn gapless_from(&self, offset: u64) -> u64 {
        self.ingest.progress().map_or(offset, |progress| progress.gapless_from(offset))
    }
}
